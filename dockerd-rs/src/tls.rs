//! TLS for TCP sockets: which files, and what rustls makes of them. Error texts are the stock daemon's as far as they are
//! about files; what is wrong inside a certificate is told in rustls' words.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::Value;
use tokio_rustls::TlsAcceptor;

use crate::config::{ConfigError, Settings};
use crate::values::go_error;

/// Files of a daemon that serves TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// Whom clients' certificates must come from; empty: not looked at.
    ca: String,
    cert: String,
    key: String,
    /// Clients must show a certificate.
    verify: bool,
}

/// Where a file is looked for that no flag names: `$DOCKER_CERT_PATH`, `$DOCKER_CONFIG`, `~/.docker`.
pub(crate) fn default_path(name: &str) -> String {
    let set = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").unwrap_or_else(|| "/root".into()).join(".docker");
    let dir = set("DOCKER_CERT_PATH").or_else(|| set("DOCKER_CONFIG")).unwrap_or_else(home);
    dir.join(name).to_string_lossy().into_owned()
}

impl TlsFiles {
    /// What the settings ask for; `tlsverify`, true or false, means TLS.
    pub(crate) fn of(settings: &Settings) -> Option<Self> {
        let flag = |key: &str| settings.get(key).and_then(Value::as_bool);
        if flag("tls") != Some(true) && flag("tlsverify").is_none() {
            return None;
        }
        let file = |key: &str, name: &str| {
            let set = settings.get(key).and_then(Value::as_str).filter(|path| !path.is_empty());
            // One that is only the usual place counts when it is there.
            let usual = || Some(default_path(name)).filter(|path| Path::new(path).exists());
            set.map(str::to_owned).or_else(usual).unwrap_or_default()
        };
        Some(Self {
            ca: file("tlscacert", "ca.pem"),
            cert: file("tlscert", "cert.pem"),
            key: file("tlskey", "key.pem"),
            verify: flag("tlsverify") == Some(true),
        })
    }

    /// Reads the files.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, ConfigError> {
        let config =
            self.server_config().map_err(|why| ConfigError::Value(format!("invalid TLS configuration: {why}")))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    fn server_config(&self) -> Result<ServerConfig, String> {
        let Self { ca, cert, key, verify } = self;
        let pair = format!("(cert: {cert:?}, key: {key:?})");
        let unreadable = |path: &str, error: &io::Error| {
            format!("Could not load X509 key pair {pair}: open {path}: {}", go_error(error))
        };
        let malformed = |why: &dyn std::fmt::Display| {
            format!("Error reading X509 key pair - make sure the key is not encrypted {pair}: {why}")
        };
        let cert_text = std::fs::read(cert).map_err(|error| unreadable(cert, &error))?;
        let key_text = std::fs::read(key).map_err(|error| unreadable(key, &error))?;
        let chain = CertificateDer::pem_slice_iter(&cert_text).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| malformed(&error))?;
        let private = PrivateKeyDer::from_pem_slice(&key_text).map_err(|error| malformed(&error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        let builder = if *verify {
            let roots = Arc::new(roots(ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| error.to_string())?)
        } else {
            builder.with_no_client_auth()
        };
        builder.with_single_cert(chain, private).map_err(|error| malformed(&error))
    }
}

fn roots(path: &str) -> Result<RootCertStore, String> {
    let text = std::fs::read(path)
        .map_err(|error| format!("could not read CA certificate {path:?}: open {path}: {}", go_error(&error)))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate =
            certificate.map_err(|error| format!("failed to append certificates from PEM file {path:?}: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("failed to append certificates from PEM file {path:?}: {error}"))?;
    }
    if roots.is_empty() { Err(format!("failed to append certificates from PEM file: {path:?}")) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn files(value: Value) -> Option<TlsFiles> {
        TlsFiles::of(&serde_json::from_value(value).expect("settings"))
    }

    #[test]
    fn tls_is_on_when_it_or_verification_is_spoken_of() {
        assert_eq!(files(json!({"tls": false})), None);
        assert!(files(json!({"tls": true})).is_some_and(|files| !files.verify));
        assert!(files(json!({"tlsverify": false})).is_some_and(|files| !files.verify));
        assert!(
            files(json!({"tlsverify": true, "tlscert": "/c"})).is_some_and(|files| files.verify && files.cert == "/c")
        );
    }

    #[test]
    fn files_that_cannot_be_used_are_told_by_name() {
        let missing = TlsFiles { ca: String::new(), cert: "/no/c".into(), key: "/no/k".into(), verify: false };
        let text = missing.acceptor().map(|_| ()).expect_err("no file").to_string();
        assert_eq!(
            text,
            r#"invalid TLS configuration: Could not load X509 key pair (cert: "/no/c", key: "/no/k"): open /no/c: no such file or directory"#
        );
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("c").to_string_lossy().into_owned();
        std::fs::write(&path, "nothing of a key").expect("written");
        let broken = TlsFiles { ca: String::new(), cert: path.clone(), key: path, verify: false };
        let text = broken.acceptor().map(|_| ()).expect_err("no key").to_string();
        assert!(text.starts_with("invalid TLS configuration: Error reading X509 key pair - make sure"), "{text}");
    }
}
