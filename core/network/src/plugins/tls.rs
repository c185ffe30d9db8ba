//! TLS towards plugins that say they want it: which authority is trusted, and which certificate the daemon shows.

use std::fs;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::PluginError;

/// What a plugin's file says of TLS; empty texts are what it does not say.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) authority: String,
    pub(super) certificate: String,
    pub(super) key: String,
    pub(super) unchecked: bool,
}

/// Without an authority nothing is checked, as with the stock daemon; with one it alone is trusted.
pub(super) fn config(files: Files) -> Result<ClientConfig, PluginError> {
    let Files { authority, certificate, key, unchecked } = files;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| PluginError::Spec(error.to_string()))?;
    let builder = if unchecked || authority.is_empty() {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
    } else {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&read(&authority)?).flatten() {
            roots.add(certificate).map_err(|error| PluginError::Spec(format!("{authority}: {error}")))?;
        }
        builder.with_root_certificates(roots)
    };
    if certificate.is_empty() && key.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    let wrong = |file: &str, why: &dyn std::fmt::Display| PluginError::Spec(format!("tls: {why} in {file}"));
    let chain = CertificateDer::pem_slice_iter(&read(&certificate)?).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| wrong(&certificate, &error))?;
    let key_der = PrivateKeyDer::from_pem_slice(&read(&key)?).map_err(|error| wrong(&key, &error))?;
    builder.with_client_auth_cert(chain, key_der).map_err(|error| wrong(&certificate, &error))
}

fn read(path: &str) -> Result<Vec<u8>, PluginError> {
    fs::read(path).map_err(|error| PluginError::Spec(format!("open {path}: {}", crate::error::errno_text(&error))))
}

/// TLS on a connection to `host:port`.
pub(super) async fn handshake(
    stream: TcpStream,
    authority: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, String> {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|error| error.to_string())?;
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| format!("tls: {error}"))
}

/// Takes every certificate.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
