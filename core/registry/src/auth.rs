//! Proving who asks: basic authentication and tokens of the registry's token server, as the stock daemon's client does it
//! (distribution, "Token Authentication Specification" and "OAuth2"). One authenticator belongs to one session with one
//! registry and keeps its tokens; secrets are in no log and no error.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use bytes::Bytes;
use dockerd_types::Timestamp;
use hyper::Method;
use hyper::header::{self, HeaderMap, HeaderValue};
use serde::Deserialize;

use crate::api_error;
use crate::challenge::{Challenge, Scheme};
use crate::client::{Client, Payload, Request, Response};
use crate::config::Limits;
use crate::error::{RegistryError, TransportError};
use crate::session::go_method;
use crate::url::Url;

/// What the stock daemon calls itself at token servers.
const CLIENT_ID: &str = "docker";
/// Tokens are good for at least this long; older servers do not say how long, and mean this.
const SHORTEST_LIFE: u64 = 60;
/// Longest life that is believed.
const LONGEST_LIFE: u64 = 24 * 3600;
/// A token is not used in the last moments of its life.
const MARGIN: Duration = Duration::from_secs(5);
/// Largest answer of a token server, in bytes.
const LARGEST_ANSWER: usize = 1 << 20;
/// Most tokens of one session.
const MOST_TOKENS: usize = 64;

/// Credentials as `X-Registry-Auth` has them (Docker API, "AuthConfig"). What is not known is empty.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The user's password.
    pub password: String,
    /// A refresh token of an earlier login.
    pub identity_token: String,
    /// A token that is sent to the registry as it is.
    pub registry_token: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// A token with its end.
struct Token {
    scopes: Vec<String>,
    realm: String,
    service: String,
    value: HeaderValue,
    until: Instant,
}

/// Answers the challenges of one registry.
pub(crate) struct Authenticator {
    credentials: Credentials,
    /// Passwords may go where there is no TLS, because the registry has none.
    may_leave_tls: bool,
    /// A refresh token is wanted, at `docker login`.
    wants_refresh: bool,
    challenges: Mutex<Vec<Challenge>>,
    /// Held while a token is fetched, so that it is fetched once.
    tokens: tokio::sync::Mutex<Vec<Token>>,
    refresh: Mutex<Option<String>>,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    expires_in: Option<i64>,
    #[serde(default)]
    issued_at: Option<String>,
}

impl Authenticator {
    pub(crate) fn new(credentials: Credentials, may_leave_tls: bool, wants_refresh: bool) -> Self {
        Self {
            credentials,
            may_leave_tls,
            wants_refresh,
            challenges: Mutex::default(),
            tokens: tokio::sync::Mutex::default(),
            refresh: Mutex::default(),
        }
    }

    /// The registry asks for this; an empty list: for nothing.
    pub(crate) fn set_challenges(&self, challenges: Vec<Challenge>) {
        *self.challenges.lock().unwrap_or_else(PoisonError::into_inner) = challenges;
    }

    /// A refresh token the token server gave.
    pub(crate) fn refresh_token(&self) -> Option<String> {
        self.refresh.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `Authorization` for a request that needs `scopes`; none when the registry asks for nothing that is known here.
    pub(crate) async fn authorization(
        &self,
        client: &Client,
        limits: &Limits,
        scopes: &[String],
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let find = |scheme| {
            let challenges = self.challenges.lock().unwrap_or_else(PoisonError::into_inner);
            challenges.iter().find(|challenge| challenge.scheme == scheme).cloned()
        };
        if let Some(challenge) = find(Scheme::Bearer) {
            if !self.credentials.registry_token.is_empty() {
                return secret(format!("Bearer {}", self.credentials.registry_token)).map(Some);
            }
            return self.token(client, limits, &challenge, scopes).await.map(Some);
        }
        match find(Scheme::Basic) {
            Some(_) => self.basic().ok_or(RegistryError::NoBasicCredentials)?.map(Some),
            None => Ok(None),
        }
    }

    /// Forgets the tokens of `scopes`: they were refused.
    pub(crate) async fn forget(&self, scopes: &[String]) {
        self.tokens.lock().await.retain(|token| token.scopes != scopes);
    }

    /// Name and password, when both are known.
    pub(crate) fn basic(&self) -> Option<Result<HeaderValue, RegistryError>> {
        let Credentials { username, password, .. } = &self.credentials;
        if username.is_empty() || password.is_empty() {
            return None;
        }
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
        Some(secret(format!("Basic {encoded}")))
    }

    async fn token(
        &self,
        client: &Client,
        limits: &Limits,
        challenge: &Challenge,
        scopes: &[String],
    ) -> Result<HeaderValue, RegistryError> {
        let no_realm = || RegistryError::Challenge("no realm specified for token auth challenge".to_owned());
        let realm = challenge.parameter("realm").ok_or_else(no_realm)?;
        let service = challenge.parameter("service").unwrap_or_default();
        let mut tokens = self.tokens.lock().await;
        let now = Instant::now();
        tokens.retain(|token| token.until > now);
        let known = |token: &&Token| token.scopes == scopes && token.realm == realm && token.service == service;
        if let Some(token) = tokens.iter().find(known) {
            return Ok(token.value.clone());
        }
        let url = Url::parse(realm)
            .map_err(|error| RegistryError::Challenge(format!("invalid token auth challenge realm: {error}")))?;
        if !url.tls && !self.may_leave_tls {
            let text = format!("invalid token auth challenge realm: {url:?} is without TLS");
            return Err(RegistryError::Challenge(text));
        }
        let (value, life) = self.fetch(client, limits, &url, service, scopes).await?;
        if tokens.len() >= MOST_TOKENS {
            tokens.remove(0);
        }
        let (realm, service) = (realm.to_owned(), service.to_owned());
        let until = now + life.saturating_sub(MARGIN);
        tokens.push(Token { scopes: scopes.to_vec(), realm, service, value: value.clone(), until });
        Ok(value)
    }

    /// Asks the token server; the header to send, and for how long it is good.
    async fn fetch(
        &self,
        client: &Client,
        limits: &Limits,
        realm: &Url,
        service: &str,
        scopes: &[String],
    ) -> Result<(HeaderValue, Duration), RegistryError> {
        let identity = self.refresh_token().unwrap_or_else(|| self.credentials.identity_token.clone());
        let (method, url, response) = if identity.is_empty() {
            let url = self.question(realm, service, scopes);
            (Method::GET, url.clone(), self.ask(client, limits, url).await)
        } else {
            (Method::POST, realm.clone(), self.exchange(client, limits, realm, service, scopes, &identity).await)
        };
        let failed = |cause| RegistryError::Request { method: go_method(&method), url: url.to_string(), cause };
        let mut response = response.map_err(failed)?;
        let (body, whole) =
            response.body.beginning(LARGEST_ANSWER, limits.pace()).await.map_err(RegistryError::Transfer)?;
        if !(response.status.is_success() || response.status.is_redirection()) {
            let challenges = crate::session::challenges_of(&response.headers);
            let content_type = response.header(header::CONTENT_TYPE);
            return Err(api_error::of_answer(response.status, content_type, &challenges, &body));
        }
        let undecodable = |why: String| RegistryError::Challenge(format!("unable to decode token response: {why}"));
        if !whole {
            return Err(undecodable("it is too large".to_owned()));
        }
        let answer: TokenAnswer =
            serde_json::from_slice(&body).map_err(|error| undecodable(api_error::go_json_error(&body, &error)))?;
        self.take(answer, &identity)
    }

    fn take(&self, answer: TokenAnswer, identity: &str) -> Result<(HeaderValue, Duration), RegistryError> {
        let TokenAnswer { token, access_token, refresh_token, expires_in, issued_at } = answer;
        if let Some(refresh) = refresh_token.filter(|text| !text.is_empty() && text != identity) {
            *self.refresh.lock().unwrap_or_else(PoisonError::into_inner) = Some(refresh);
        }
        let present = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let token = present(&access_token).or_else(|| present(&token)).ok_or(RegistryError::NoToken)?;
        let life = u64::try_from(expires_in.unwrap_or(0)).unwrap_or(0).clamp(SHORTEST_LIFE, LONGEST_LIFE);
        // The part of its life that is over; a clock that is ahead of ours does not lengthen it.
        let issued = issued_at.and_then(|text| Timestamp::parse_rfc3339(&text).ok());
        let age = issued.map_or(Duration::ZERO, |issued| Timestamp::now().since(issued));
        Ok((secret(format!("Bearer {token}"))?, Duration::from_secs(life).saturating_sub(age)))
    }

    fn question(&self, realm: &Url, service: &str, scopes: &[String]) -> Url {
        let mut query = Vec::new();
        let has_password = self.basic().is_some();
        if has_password {
            query.push(("account", self.credentials.username.as_str()));
        }
        if self.wants_refresh {
            query.extend([("client_id", CLIENT_ID), ("offline_token", "true")]);
        }
        query.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
        query.push(("service", service));
        realm.with_query(&query)
    }

    async fn ask(&self, client: &Client, limits: &Limits, url: Url) -> Result<Response, TransportError> {
        let mut headers = HeaderMap::new();
        if let Some(Ok(basic)) = self.basic() {
            headers.insert(header::AUTHORIZATION, basic);
        }
        client.follow(Request { method: Method::GET, url, headers, payload: Payload::Empty, limit: limits.ping }).await
    }

    /// Trades the identity token for one of access (OAuth2, `grant_type=refresh_token`).
    async fn exchange(
        &self,
        client: &Client,
        limits: &Limits,
        realm: &Url,
        service: &str,
        scopes: &[String],
        identity: &str,
    ) -> Result<Response, TransportError> {
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, kind);
        let payload = Payload::Full(Bytes::from(form(service, scopes, identity)));
        client.send(Request { method: Method::POST, url: realm.clone(), headers, payload, limit: limits.ping }).await
    }
}

/// The form that trades an identity token.
fn form(service: &str, scopes: &[String], identity: &str) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("client_id", CLIENT_ID).append_pair("grant_type", "refresh_token");
    form.append_pair("refresh_token", identity).append_pair("scope", &scopes.join(" "));
    form.append_pair("service", service).finish()
}

/// A header that is not shown.
fn secret(text: String) -> Result<HeaderValue, RegistryError> {
    let value = HeaderValue::try_from(text);
    let mut value = value.map_err(|_| RegistryError::Challenge("invalid characters in credentials".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        let text = |text: &str| text.to_owned();
        Credentials {
            username: text("me"),
            password: text("secret1"),
            identity_token: text("secret2"),
            registry_token: text("secret3"),
        }
    }

    #[test]
    fn nothing_shows_a_secret() {
        let authenticator = Authenticator::new(credentials(), false, false);
        assert!(!format!("{:?} {authenticator:?}", credentials()).contains("secret"));
        assert!(!format!("{:?}", authenticator.basic()).contains("c2VjcmV0"));
    }

    #[test]
    fn the_question_is_as_stock_asks_it() {
        let realm = Url::parse("https://auth.example/token?x=y").unwrap();
        let scopes = ["repository:a/b:pull,push".to_owned(), "repository:c:pull".to_owned()];
        let anonymous = Authenticator::new(Credentials::default(), false, false);
        assert_eq!(
            anonymous.question(&realm, "r.example", &scopes).to_string(),
            "https://auth.example/token?x=y&scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Ac%3Apull&service=r.example"
        );
        let login = Authenticator::new(credentials(), false, true);
        assert_eq!(
            login.question(&realm, "s", &[]).path(),
            "/token?x=y&account=me&client_id=docker&offline_token=true&service=s"
        );
    }

    #[test]
    fn answers_of_token_servers() {
        let authenticator = Authenticator::new(Credentials::default(), false, false);
        let take = |text: &str| authenticator.take(serde_json::from_str(text).unwrap(), "");
        let (value, life) = take(r#"{"token":"a","access_token":"b","expires_in":300}"#).unwrap();
        assert_eq!((value.to_str().unwrap(), life), ("Bearer b", Duration::from_secs(300)));
        assert_eq!(take(r#"{"token":"a","expires_in":-5}"#).unwrap().1, Duration::from_secs(60));
        assert!(take(r#"{"token":"a","issued_at":"2001-01-01T00:00:00Z"}"#).unwrap().1.is_zero());
        let far = take(r#"{"token":"a","expires_in":9223372036854775807,"issued_at":"2999-01-01T00:00:00Z"}"#);
        assert_eq!(far.unwrap().1, Duration::from_secs(LONGEST_LIFE));
        assert!(matches!(take(r#"{"token":""}"#), Err(RegistryError::NoToken)));
        assert!(take("{\"token\":\"a\\nb\"}").is_err());
        take(r#"{"token":"a","refresh_token":"r"}"#).unwrap();
        assert_eq!(authenticator.refresh_token().as_deref(), Some("r"));
    }
}
