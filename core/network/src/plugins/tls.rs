//! TLS towards plugins that say they want it: which authority is trusted, and which certificate the daemon shows.

use std::fs;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
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
    let connected = TlsConnector::from(config).connect(name, stream).await;
    connected.map_err(|error| text(&error).unwrap_or_else(|| crate::error::errno_text(&error)))
}

/// What went wrong with TLS, in Go's words where they are known; `None`: it was something else.
pub(super) fn text(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::AlertReceived(alert) => format!("remote error: tls: {}", alert_text(*alert)),
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "tls: failed to verify certificate: x509: certificate signed by unknown authority".to_owned()
        }
        other => format!("tls: {other}"),
    })
}

/// Go's name of an alert (RFC 8446, section 6.2).
fn alert_text(alert: AlertDescription) -> String {
    let known = match alert {
        AlertDescription::BadCertificate => "bad certificate",
        AlertDescription::CertificateExpired => "expired certificate",
        AlertDescription::CertificateRequired => "certificate required",
        AlertDescription::CertificateRevoked => "revoked certificate",
        AlertDescription::CertificateUnknown => "unknown certificate",
        AlertDescription::HandshakeFailure => "handshake failure",
        AlertDescription::ProtocolVersion => "protocol version not supported",
        AlertDescription::UnknownCA => "unknown certificate authority",
        other => return format!("{other:?}"),
    };
    known.to_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_is_told_in_gos_words() {
        let told = |error| text(&io::Error::new(io::ErrorKind::InvalidData, error));
        let alert = |alert| told(rustls::Error::AlertReceived(alert)).expect("of TLS");
        assert_eq!(alert(AlertDescription::CertificateRequired), "remote error: tls: certificate required");
        assert_eq!(alert(AlertDescription::NoRenegotiation), "remote error: tls: NoRenegotiation");
        let unknown = told(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)).expect("of TLS");
        assert!(unknown.ends_with("x509: certificate signed by unknown authority"), "{unknown}");
        assert_eq!(text(&io::Error::from_raw_os_error(libc::ECONNRESET)), None);
    }
}
