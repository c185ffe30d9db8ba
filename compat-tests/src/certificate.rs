//! Certificates for registries, their clients and their tokens: an authority and what it signs, made anew by each test.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};

/// A certificate authority.
pub struct Authority {
    certificate: Certificate,
    key: KeyPair,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// Files of a certificate and its key.
#[derive(Debug, Clone)]
pub struct Files {
    /// Certificate, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Ok(Self { certificate: params.self_signed(&key)?, key })
    }

    /// Its own certificate, PEM.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A server's certificate for those names and addresses.
    pub fn server(&self, dir: &Path, name: &str, names: &[&str]) -> Result<Files> {
        self.signed(dir, name, names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's certificate.
    pub fn client(&self, dir: &Path, name: &str) -> Result<Files> {
        self.signed(dir, name, &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn signed(&self, dir: &Path, name: &str, names: &[&str], usage: ExtendedKeyUsagePurpose) -> Result<Files> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.certificate, &self.key)?;
        let files = Files { certificate: dir.join(format!("{name}.cert")), key: dir.join(format!("{name}.key")) };
        fs::write(&files.certificate, certificate.pem())?;
        fs::write(&files.key, key.serialize_pem())?;
        Ok(files)
    }
}
