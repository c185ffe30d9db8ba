//! One endpoint of a registry with its connections and tokens: sends a request with what the endpoint asks for, and makes an
//! error of an answer that is none.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{self, HeaderMap};
use hyper::{Method, StatusCode};
use tokio::sync::OnceCell;

use crate::api_error;
use crate::auth::{Authenticator, Credentials};
use crate::challenge::{self, Challenge};
use crate::client::{Client, Payload, Request, Response};
use crate::config::{Checked, Limits};
use crate::endpoint::Endpoint;
use crate::error::{RegistryError, TransportError};
use crate::url::Url;

/// Largest body of a refusal that is read, in bytes.
pub(crate) const LARGEST_REFUSAL: usize = 64 * 1024;

/// A registry that is being talked to.
#[derive(Debug)]
pub(crate) struct Session {
    /// Whom.
    pub(crate) endpoint: Endpoint,
    pub(crate) client: Client,
    pub(crate) auth: Authenticator,
    config: Arc<Checked>,
    pinged: OnceCell<()>,
}

impl Session {
    /// Nothing is sent before the first request. `wants_refresh`: this is a login.
    pub(crate) fn new(
        config: &Arc<Checked>,
        endpoint: Endpoint,
        credentials: &Credentials,
        wants_refresh: bool,
    ) -> Self {
        // What the user's registry may know, a mirror of another may not.
        let credentials = if endpoint.mirror { Credentials::default() } else { credentials.clone() };
        let lax = endpoint.insecure || !endpoint.url.tls;
        let client = Client::new(Arc::clone(config), Arc::clone(&endpoint.tls), lax);
        let auth = Authenticator::new(credentials, lax, wants_refresh);
        Self { endpoint, client, auth, config: Arc::clone(config), pinged: OnceCell::new() }
    }

    pub(crate) fn config(&self) -> &Arc<Checked> {
        &self.config
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.config.written.limits
    }

    /// How often a transfer is tried.
    pub(crate) fn attempts(&self) -> u32 {
        self.config.written.max_download_attempts.max(1)
    }

    /// The URL of `path` below `/v2/`.
    pub(crate) fn url(&self, path: &str) -> Url {
        self.endpoint.url.below(&format!("v2/{path}"))
    }

    /// Asks `/v2/` once what is wanted, as the stock daemon does before anything else. Any answer will do.
    pub(crate) async fn ping(&self) -> Result<(), RegistryError> {
        let ping = || async {
            let request = self.request(Method::GET, self.url(""), Payload::Empty, self.limits().ping);
            let url = request.url.to_string();
            let response = self.client.follow(request).await;
            let response =
                response.map_err(|cause| RegistryError::Request { method: go_method(&Method::GET), url, cause })?;
            if response.status == StatusCode::UNAUTHORIZED {
                self.auth.set_challenges(challenges_of(&response.headers));
            }
            let mut body = response.body;
            // The connection is of use when its answer is at its end.
            let _ = body.beginning(LARGEST_REFUSAL, self.limits().short_pace()).await;
            Ok(())
        };
        self.pinged.get_or_try_init(ping).await?;
        Ok(())
    }

    fn request(&self, method: Method, url: Url, payload: Payload, limit: Duration) -> Request {
        Request { method, url, headers: HeaderMap::new(), payload, limit }
    }

    /// Sends a request without a body, with what the endpoint wants for `scopes`. A refusal is tried again once, with new
    /// tokens. The answer may have any status.
    pub(crate) async fn ask(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        scopes: &[String],
    ) -> Result<Response, RegistryError> {
        let response = self.send(method.clone(), url.clone(), headers.clone(), Payload::Empty, scopes).await?;
        let Some(challenges) = self.asked(&response) else { return Ok(response) };
        drop(response);
        self.renew(challenges, scopes).await;
        self.send(method, url, headers, Payload::Empty, scopes).await
    }

    /// What a refusal asks for; none when trying again makes no sense.
    pub(crate) fn asked(&self, response: &Response) -> Option<Vec<Challenge>> {
        let challenges = challenges_of(&response.headers);
        // Credentials are for the registry; whom it sent us to has no claim to them.
        let here = response.url.same_origin(&self.endpoint.url);
        let denied = challenges.iter().any(|challenge| challenge.parameter("error") == Some("insufficient_scope"));
        let again = response.status == StatusCode::UNAUTHORIZED && here && !challenges.is_empty() && !denied;
        again.then_some(challenges)
    }

    /// Does as a refusal asks from now on, with new tokens.
    pub(crate) async fn renew(&self, challenges: Vec<Challenge>, scopes: &[String]) {
        self.auth.set_challenges(challenges);
        self.auth.forget(scopes).await;
    }

    /// Sends a request once.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        payload: Payload,
        scopes: &[String],
    ) -> Result<Response, RegistryError> {
        self.ping().await?;
        let shown = url.to_string();
        let failed = |cause| RegistryError::Request { method: go_method(&method), url: shown.clone(), cause };
        let limits = self.limits();
        let mut request = self.request(method.clone(), url, payload, limits.answer);
        request.headers = headers;
        if request.url.same_origin(&self.endpoint.url) {
            let authorization = self.auth.authorization(&self.client, limits, scopes).await;
            if let Some(value) = authorization.map_err(|error| failed(TransportError::Auth(Box::new(error))))? {
                request.headers.insert(header::AUTHORIZATION, value);
            }
        }
        let follows = matches!(method, Method::GET | Method::HEAD);
        let answer = if follows { self.client.follow(request).await } else { self.client.send(request).await };
        answer.map_err(failed)
    }

    /// The error an answer stands for. Its body is read.
    pub(crate) async fn refusal(&self, mut response: Response) -> RegistryError {
        let challenges = challenges_of(&response.headers);
        let body = response.body.beginning(LARGEST_REFUSAL, self.limits().short_pace()).await;
        let body = body.map(|(body, _)| body).unwrap_or_default();
        api_error::of_answer(response.status, response.header(header::CONTENT_TYPE), &challenges, &body)
    }
}

/// What an answer asks for.
pub(crate) fn challenges_of(headers: &HeaderMap) -> Vec<Challenge> {
    challenge::parse(headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()))
}

/// A method as Go's errors have it.
pub(crate) fn go_method(method: &Method) -> &'static str {
    match *method {
        Method::HEAD => "Head",
        Method::POST => "Post",
        Method::PUT => "Put",
        Method::PATCH => "Patch",
        Method::DELETE => "Delete",
        _ => "Get",
    }
}
