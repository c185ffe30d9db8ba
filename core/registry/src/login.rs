//! `docker login`: whether credentials are good (Docker API, `POST /auth`).

use hyper::header::HeaderMap;
use hyper::{Method, StatusCode};

use crate::Registry;
use crate::api_error::{ApiCode, status_text};
use crate::auth::Credentials;
use crate::client::Payload;
use crate::endpoint::{self, HUB_INDEX};
use crate::error::{RegistryError, TransportError};
use crate::session::Session;

/// Good credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct LoginOutcome {
    /// What the user reads.
    pub status: &'static str,
    /// A token that may be kept instead of the password; empty when the registry gives none.
    pub identity_token: String,
}

impl std::fmt::Debug for LoginOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginOutcome").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Registry {
    /// Tries credentials at `server_address`, a host or URL; Docker Hub when it is empty.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Unauthorized`] when the token server refuses them, [`RegistryError::Login`] when the registry does,
    /// and what else can go wrong.
    pub async fn login(&self, server_address: &str, credentials: &Credentials) -> Result<LoginOutcome, RegistryError> {
        let host = host_of(server_address)?;
        let config = self.config.load_full();
        let endpoints = endpoint::lookup(&config, &host, false).await?;
        let mut failed = None;
        for endpoint in endpoints {
            let session = Session::new(&config, endpoint, credentials, true);
            match attempt(&session).await {
                Ok(()) => {
                    let kept = session.auth.refresh_token().unwrap_or_else(|| credentials.identity_token.clone());
                    return Ok(LoginOutcome { status: "Login Succeeded", identity_token: kept });
                }
                Err(error @ RegistryError::Unauthorized(_)) => return Err(error),
                Err(error) => {
                    tracing::info!("error logging in to endpoint, trying next endpoint: {error}");
                    failed = Some(error);
                }
            }
        }
        Err(failed.unwrap_or(RegistryError::NoEndpoint(host)))
    }
}

async fn attempt(session: &Session) -> Result<(), RegistryError> {
    let url = session.url("");
    let response = session.send(Method::GET, url.clone(), HeaderMap::new(), Payload::Empty, &[]).await;
    let response = response.map_err(|error| match &error {
        RegistryError::Request { cause: TransportError::Auth(cause), .. }
            if cause
                .api_errors()
                .and_then(|errors| errors.first())
                .is_some_and(|first| first.code == ApiCode::Unauthorized) =>
        {
            RegistryError::Unauthorized(Box::new(error))
        }
        _ => error,
    })?;
    if response.status != StatusCode::OK {
        return Err(RegistryError::Login { url: url.to_string(), status: status_text(response.status) });
    }
    Ok(())
}

fn host_of(address: &str) -> Result<String, RegistryError> {
    let (scheme, rest) = address.split_once("://").unwrap_or(("https", address));
    if !matches!(scheme, "http" | "https") {
        return Err(RegistryError::InvalidArgument(format!(
            "invalid server address {address:?}: unsupported URL scheme {scheme:?}: must be \"http\" or \"https\""
        )));
    }
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    Ok(if host.is_empty() { HUB_INDEX } else { host }.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hosts_or_urls() {
        for (address, host) in [
            ("", "index.docker.io"),
            ("https://index.docker.io/v1/", "index.docker.io"),
            ("r.example:5000", "r.example:5000"),
            ("http://r.example/v2", "r.example"),
        ] {
            assert_eq!(host_of(address).unwrap(), host);
        }
        assert_eq!(
            host_of("ftp://x").unwrap_err().to_string(),
            r#"invalid server address "ftp://x": unsupported URL scheme "ftp": must be "http" or "https""#
        );
    }
}
