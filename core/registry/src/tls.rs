//! What TLS trusts at a registry: the system's roots with those of `certs.d/<host>/*.crt`, and which certificate of
//! `certs.d/<host>/*.cert` (with its `.key`) the daemon shows (docker documentation, "Verify repository client with certificates").

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::{RegistryError, go_text};

/// Largest file of `certs.d` that is read, in bytes.
const LARGEST_FILE: u64 = 4 << 20;
/// Most files of one directory of `certs.d`.
const MOST_FILES: usize = 256;

/// The system's roots, read once.
fn system_roots() -> &'static [CertificateDer<'static>] {
    static ROOTS: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!("a root certificate of the system cannot be read: {error}");
        }
        found.certs
    })
}

/// TLS without any check, for registries that are configured as insecure.
pub(crate) fn unchecked() -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Unchecked(Arc::clone(&provider)));
    let config = builder(provider).dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    Arc::new(config)
}

/// TLS as `certs.d` wants it for `host`, a host with or without port. Reads files: not for async workers.
pub(crate) fn checked(certs_dirs: &[impl AsRef<Path>], host: &str) -> Result<Arc<ClientConfig>, RegistryError> {
    let mut files = Files::default();
    // A name with a slash would leave the directory.
    if !host.contains(['/', '\\']) && !matches!(host, "." | "..") {
        certs_dirs.iter().try_for_each(|dir| files.read(&dir.as_ref().join(host)))?;
    }
    let mut roots = RootCertStore::empty();
    let (_, unusable) = roots.add_parsable_certificates(system_roots().iter().cloned());
    if unusable > 0 {
        tracing::debug!("{unusable} root certificates of the system are of no use");
    }
    roots.add_parsable_certificates(files.roots.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pinned = files.roots;
    let verifier = match WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build() {
        Ok(inner) => Arc::new(Pinned { inner, pinned }) as Arc<dyn ServerCertVerifier>,
        // No root at all: every handshake fails as with an unknown authority.
        Err(_) => Arc::new(Nobody(Arc::clone(&provider))),
    };
    let builder = builder(Arc::clone(&provider)).dangerous().with_custom_certificate_verifier(verifier);
    let Some((chain, key)) = files.pairs.into_iter().next() else {
        return Ok(Arc::new(builder.with_no_client_auth()));
    };
    let config = builder.with_client_auth_cert(chain, key);
    config.map(Arc::new).map_err(|error| RegistryError::Certificates(format!("tls: {error}")))
}

fn builder(provider: Arc<CryptoProvider>) -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows the default protocol versions")
}

/// What a directory of `certs.d` holds.
#[derive(Default)]
struct Files {
    roots: Vec<CertificateDer<'static>>,
    pairs: Vec<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Files {
    fn read(&mut self, dir: &Path) -> Result<(), RegistryError> {
        let shown = |path: &Path, error: &io::Error| {
            RegistryError::Certificates(format!("open {}: {}", path.display(), go_text(error)))
        };
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(shown(dir, &error)),
        };
        let names = entries.take(MOST_FILES).flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        for name in &names {
            let path = dir.join(name);
            let has = |other: &str| names.iter().any(|name| name == other);
            if name.ends_with(".crt") {
                let text = read(&path).map_err(|error| shown(&path, &error))?;
                // As Go does: what is no certificate in the file is passed over.
                self.roots.extend(CertificateDer::pem_slice_iter(&text).flatten());
            } else if let Some(stem) = name.strip_suffix(".cert") {
                let key = format!("{stem}.key");
                if !has(&key) {
                    return Err(RegistryError::Certificates(format!(
                        "missing key {key} for client certificate {name}. CA certificates must use the extension .crt"
                    )));
                }
                self.pairs.push(pair(&path, &dir.join(key)).map_err(|(path, error)| match error {
                    PairError::Read(error) => shown(path, &error),
                    PairError::Pem(text) => RegistryError::Certificates(format!("tls: {text} in {}", path.display())),
                })?);
            } else if let Some(stem) = name.strip_suffix(".key") {
                let certificate = format!("{stem}.cert");
                if !has(&certificate) {
                    let text = format!("missing client certificate {certificate} for key {name}");
                    return Err(RegistryError::Certificates(text));
                }
            }
        }
        Ok(())
    }
}

enum PairError {
    Read(io::Error),
    Pem(String),
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn pair<'a>(certificate: &'a Path, key: &'a Path) -> Result<Pair, (&'a Path, PairError)> {
    let text = read(certificate).map_err(|error| (certificate, PairError::Read(error)))?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| (certificate, PairError::Pem(error.to_string())))?;
    if chain.is_empty() {
        return Err((certificate, PairError::Pem("failed to find any PEM data".to_owned())));
    }
    let text = read(key).map_err(|error| (key, PairError::Read(error)))?;
    let key_der = PrivateKeyDer::from_pem_slice(&text).map_err(|error| (key, PairError::Pem(error.to_string())))?;
    Ok((chain, key_der))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LARGEST_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The usual check, and beside it what Go takes too and `openssl req -x509` makes: a certificate that is an authority's and
/// the server's in one, when `certs.d` has that very certificate.
#[derive(Debug)]
struct Pinned {
    inner: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // Its validity was looked at before.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
                if self.pinned.iter().any(|pinned| pinned == end_entity)
                    && matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity)) =>
            {
                let parsed = ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&parsed, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Takes any certificate (the signatures of the handshake are checked all the same).
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

/// Takes no certificate.
#[derive(Debug)]
struct Nobody(Arc<CryptoProvider>);

macro_rules! verifier {
    ($name:ty, $answer:expr) => {
        impl ServerCertVerifier for $name {
            fn verify_server_cert(
                &self,
                _: &CertificateDer<'_>,
                _: &[CertificateDer<'_>],
                _: &ServerName<'_>,
                _: &[u8],
                _: UnixTime,
            ) -> Result<ServerCertVerified, rustls::Error> {
                $answer
            }

            fn verify_tls12_signature(
                &self,
                message: &[u8],
                cert: &CertificateDer<'_>,
                dss: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, rustls::Error> {
                rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
            }

            fn verify_tls13_signature(
                &self,
                message: &[u8],
                cert: &CertificateDer<'_>,
                dss: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, rustls::Error> {
                rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
            }

            fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
                self.0.signature_verification_algorithms.supported_schemes()
            }
        }
    };
}

verifier!(Unchecked, Ok(ServerCertVerified::assertion()));
verifier!(Nobody, Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)));

/// What went wrong in a handshake, in Go's words where it has short ones.
pub(crate) fn handshake_text(error: &rustls::Error, host: &str) -> String {
    let failed = |why: String| format!("failed to verify certificate: x509: {why}");
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            failed("certificate signed by unknown authority".to_owned())
        }
        rustls::Error::InvalidCertificate(CertificateError::NotValidForName) => {
            failed(format!("certificate is not valid for any names, but wanted to match {host}"))
        }
        rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. })
            if !presented.is_empty() =>
        {
            let bare = |name: &String| {
                name.split_once("(\"").map_or(name.as_str(), |(_, rest)| rest.trim_end_matches("\")")).to_owned()
            };
            let names: Vec<String> = presented.iter().take(16).map(bare).collect();
            failed(format!("certificate is valid for {}, not {host}", names.join(", ")))
        }
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            failed("certificate has expired or is not yet valid: current time is after its end".to_owned())
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => failed("certificate has expired or is not yet valid: current time is before its begin".to_owned()),
        rustls::Error::InvalidCertificate(other) => failed(other.to_string()),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn error_with(files: &[(&str, &str)]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("r.example:5000");
        fs::create_dir(&host).unwrap();
        for (name, text) in files {
            fs::write(host.join(name), text).unwrap();
        }
        checked(&[dir.path()], "r.example:5000").map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn halves_of_pairs_are_told_as_the_stock_daemon_does() {
        assert_eq!(
            error_with(&[("client.cert", "")]),
            "missing key client.key for client certificate client.cert. CA certificates must use the extension .crt"
        );
        assert_eq!(error_with(&[("client.key", "")]), "missing client certificate client.cert for key client.key");
        assert!(error_with(&[("c.cert", "x"), ("c.key", "x")]).starts_with("tls: failed to find any PEM data"));
    }

    #[test]
    fn no_directory_is_no_error_and_names_do_not_leave_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x.cert"), "").unwrap();
        let inner = dir.path().join("inner");
        assert!(checked(&[&inner], "r.example").is_ok());
        fs::create_dir(&inner).unwrap();
        assert!(checked(&[&inner], "..").is_ok());
    }

    #[test]
    fn a_pair_and_a_root_are_used() {
        let signed = rcgen::generate_simple_self_signed(vec!["r.example".to_owned()]).unwrap();
        let (cert, key) = (signed.cert.pem(), signed.key_pair.serialize_pem());
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("r.example");
        fs::create_dir(&host).unwrap();
        for (name, text) in [("ca.crt", &cert), ("me.cert", &cert), ("me.key", &key)] {
            fs::write(host.join(name), text).unwrap();
        }
        let config = checked(&[dir.path()], "r.example").unwrap();
        assert!(config.client_auth_cert_resolver.has_certs());
        assert!(!checked(&[dir.path()], "other.example").unwrap().client_auth_cert_resolver.has_certs());
    }
}
