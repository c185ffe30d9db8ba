//! `docker search`: the search of the first registry API, which only Docker Hub and few others have (stock:
//! `registry/search*.go`). Filters are the caller's.

use std::sync::Arc;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Deserialize;

use crate::Registry;
use crate::auth::Credentials;
use crate::client::{Client, Payload, Request};
use crate::config::Checked;
use crate::endpoint::{self, Endpoint, HUB, HUB_INDEX};
use crate::error::{RegistryError, TransportError};
use crate::session::Session;
use crate::url::Url;

/// Results when nobody says how many.
const USUAL_LIMIT: i64 = 25;
/// Most results.
const MOST_RESULTS: usize = 100;
/// Largest answer, in bytes.
const LARGEST_ANSWER: usize = 4 << 20;

/// A repository that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct SearchResult {
    /// How many people like it.
    #[serde(default)]
    pub star_count: i64,
    /// Whether Docker keeps it.
    #[serde(default)]
    pub is_official: bool,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// No longer of meaning; what the registry says is not believed.
    #[serde(default)]
    pub is_automated: bool,
    /// Words of its owner.
    #[serde(default)]
    pub description: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    results: Option<Vec<SearchResult>>,
}

impl Registry {
    /// Searches `term`, at the registry it begins with or Docker Hub. `limit`: zero is the usual number.
    ///
    /// # Errors
    ///
    /// When term or limit make no sense, and what can go wrong on the way.
    pub async fn search(
        &self,
        term: &str,
        limit: i64,
        credentials: Option<Credentials>,
    ) -> Result<Vec<SearchResult>, RegistryError> {
        if term.contains("://") {
            let text = format!("invalid repository name: repository name ({term}) should not have a scheme");
            return Err(RegistryError::InvalidArgument(text));
        }
        let limit = if limit == 0 { USUAL_LIMIT } else { limit };
        let (index, name) = split(term);
        let config = self.config.load_full();
        let endpoint = index_endpoint(&config, index).await?;
        // Checked after the index, as stock does.
        if !(1..=MOST_RESULTS as i64).contains(&limit) {
            let text = format!("limit {limit} is outside the range of [1, 100]");
            return Err(RegistryError::InvalidArgument(text));
        }
        let name = if index == HUB { name.strip_prefix("library/").unwrap_or(name) } else { name };
        let question = endpoint.url.below("v1/search").with_query(&[("q", name), ("n", &limit.to_string())]);
        let session = Session::new(&config, endpoint, &credentials.clone().unwrap_or_default(), false);
        let response = ask(&session, question, credentials.as_ref()).await?;
        let mut response = response;
        if response.status != StatusCode::OK {
            return Err(RegistryError::SearchStatus(response.status.as_u16()));
        }
        let read = response.body.beginning(LARGEST_ANSWER, session.limits().pace()).await;
        let (body, _) = read.map_err(RegistryError::Transfer)?;
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|error| RegistryError::Malformed { what: "search result", why: error.to_string() })?;
        let mut results = answer.results.unwrap_or_default();
        results.truncate(MOST_RESULTS);
        results.iter_mut().for_each(|result| result.is_automated = false);
        Ok(results)
    }
}

/// Asks with what the user has: an identity token is traded for an access token, a password goes along where it is the index's
/// own (by TLS).
async fn ask(
    session: &Session,
    url: Url,
    credentials: Option<&Credentials>,
) -> Result<crate::client::Response, RegistryError> {
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static("x-docker-token"), HeaderValue::from_static("true"));
    let by_token = credentials.is_some_and(|known| !known.identity_token.is_empty() && !known.username.is_empty());
    if by_token {
        let scopes = ["registry:catalog:search".to_owned()];
        return session.send(Method::GET, url, headers, Payload::Empty, &scopes).await;
    }
    if url.tls
        && let Some(Ok(basic)) = session.auth.basic()
    {
        headers.insert(header::AUTHORIZATION, basic);
    }
    let shown = url.to_string();
    let request =
        Request { method: Method::GET, url, headers, payload: Payload::Empty, limit: session.limits().answer };
    let failed = |cause| RegistryError::Request { method: "Get", url: shown, cause };
    session.client.follow(request).await.map_err(failed)
}

/// Index and name of a term.
fn split(term: &str) -> (&str, &str) {
    match term.split_once('/') {
        Some((index, name)) if index.contains(['.', ':']) || index == "localhost" => {
            (if index == HUB_INDEX { HUB } else { index }, name)
        }
        _ => (HUB, term),
    }
}

/// Where the index is: Docker Hub's is known, another must answer a ping, without TLS only where it is insecure.
async fn index_endpoint(config: &Arc<Checked>, index: &str) -> Result<Endpoint, RegistryError> {
    let invalid = |text: String| RegistryError::InvalidArgument(text);
    if index == HUB {
        let url = Url::root(true, HUB_INDEX).map_err(|error| invalid(error.to_string()))?;
        let tls = endpoint::tls_for(config, HUB, false).await?;
        return Ok(Endpoint { url, mirror: false, insecure: false, tls });
    }
    let mut endpoints = endpoint::lookup(config, index, false).await?.into_iter();
    let none = || RegistryError::NoEndpoint(index.to_owned());
    let secure = endpoints.next().ok_or_else(none)?;
    let Err(first) = ping(config, &secure).await else { return Ok(secure) };
    let Some(plain) = endpoints.next() else {
        let shown = secure.url.below("v1/");
        return Err(invalid(format!(
            "invalid registry endpoint {shown}: {first}. If this private registry supports only HTTP or HTTPS with an unknown \
             CA certificate, please add `--insecure-registry {index}` to the daemon's arguments. In the case of HTTPS, if you \
             have access to the registry's CA certificate, no need for the flag; simply place the CA certificate at \
             /etc/docker/certs.d/{index}/ca.crt"
        )));
    };
    match ping(config, &plain).await {
        Ok(()) => Ok(plain),
        Err(second) => Err(invalid(format!(
            "invalid registry endpoint {:?}. HTTPS attempt: {first}. HTTP attempt: {second}",
            plain.url.below("v1/").to_string()
        ))),
    }
}

async fn ping(config: &Arc<Checked>, endpoint: &Endpoint) -> Result<(), RegistryError> {
    let client = Client::new(Arc::clone(config), Arc::clone(&endpoint.tls), endpoint.insecure);
    let url = endpoint.url.below("v1/_ping");
    let shown = url.to_string();
    let limit = config.written.limits.ping;
    let request = Request { method: Method::GET, url, headers: HeaderMap::new(), payload: Payload::Empty, limit };
    let failed = |cause: TransportError| RegistryError::Request { method: "Get", url: shown, cause };
    client.follow(request).await.map(|_| ()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RegistryConfig;

    #[test]
    fn terms_are_split() {
        for (term, expected) in [
            ("busybox", ("docker.io", "busybox")),
            ("user/app", ("docker.io", "user/app")),
            ("localhost/app", ("localhost", "app")),
            ("r.example/a/b", ("r.example", "a/b")),
            ("index.docker.io/a", ("docker.io", "a")),
        ] {
            assert_eq!(split(term), expected);
        }
    }

    #[tokio::test]
    async fn nonsense_is_refused_before_anything_is_asked() {
        let registry = Registry::new(RegistryConfig::new("test")).unwrap();
        let text = registry.search("https://x/y", 0, None).await.unwrap_err().to_string();
        assert_eq!(text, "invalid repository name: repository name (https://x/y) should not have a scheme");
        let text = registry.search("x", 101, None).await.unwrap_err().to_string();
        assert_eq!(text, "limit 101 is outside the range of [1, 100]");
    }
}
