//! One repository of a registry: manifests, tags, existence of blobs (distribution-spec, "Pull" and "Content Discovery").
//!
//! The endpoints of the registry are asked in order; the one that answered stays. Which failures make the next one be asked is
//! the stock daemon's rule (`RegistryError::may_ask_next`).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use dockerd_types::{Digest, Reference};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Deserialize;

use crate::api_error::{ApiCode, ApiError, ApiErrors};
use crate::client::{Payload, Response};
use crate::download::{Download, DownloadRequest};
use crate::error::RegistryError;
use crate::link;
use crate::manifest::{self, DOCKER_LIST, DOCKER_MANIFEST, LARGEST_MANIFEST, Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::session::Session;
use crate::url::Url;

/// Most tags of a repository that are listed.
const MOST_TAGS: usize = 100_000;
/// Most pages of a list.
const MOST_PAGES: usize = 1_000;
/// Largest page of a list, in bytes.
const LARGEST_PAGE: usize = 8 << 20;

/// What is to be done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading; from mirrors too.
    Pull,
    /// Reading and writing.
    Push,
}

/// A manifest of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// By its name.
    Tag(&'a str),
    /// By its content.
    Digest(&'a Digest),
}

impl Target<'_> {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Target::Tag(tag) => tag,
            Target::Digest(digest) => digest.as_str(),
        }
    }
}

/// What a registry says of a manifest without sending it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// Its kind.
    pub media_type: String,
    /// Its digest, when the registry tells it.
    pub digest: Option<Digest>,
    /// Its length in bytes, when the registry tells it.
    pub size: Option<u64>,
}

/// One repository. Cheap to clone; its connections and tokens end with the last clone.
#[derive(Debug, Clone)]
pub struct Repository {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    reference: Reference,
    /// Path in the registry.
    pub(crate) path: String,
    /// `repository:<path>:pull` ...
    pub(crate) scopes: Vec<String>,
    sessions: Vec<Session>,
    /// Index of the session that answered last.
    current: AtomicUsize,
}

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Repository {
    pub(crate) fn new(reference: &Reference, access: Access, sessions: Vec<Session>) -> Result<Self, RegistryError> {
        if reference.familiar_name() == "scratch" {
            return Err(RegistryError::ReservedName("scratch".to_owned()));
        }
        let path = reference.path().to_owned();
        let actions = if access == Access::Push { "push,pull" } else { "pull" };
        let scopes = vec![format!("repository:{path}:{actions}")];
        let inner = Inner { reference: reference.clone(), path, scopes, sessions, current: AtomicUsize::new(0) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The manifest, its digest verified.
    ///
    /// # Errors
    ///
    /// [`RegistryError::ManifestUnknown`] and its like when it is not there, [`RegistryError::Schema1`] for the format that is
    /// no longer supported, and what else can go wrong on the way.
    pub async fn manifest(&self, target: Target<'_>) -> Result<Manifest, RegistryError> {
        let shown = self.shown(target);
        let full = self.full(target);
        let result = self.inner.over_endpoints(|session| self.inner.fetch_manifest(session, target, &full));
        result.await.map_err(|error| self.inner.translated(error, &shown))
    }

    /// What the registry says of the manifest.
    ///
    /// # Errors
    ///
    /// As [`Repository::manifest`].
    pub async fn head_manifest(&self, target: Target<'_>) -> Result<ManifestHead, RegistryError> {
        let shown = self.shown(target);
        let result = self.inner.over_endpoints(|session| self.inner.fetch_head(session, target)).await;
        result.map_err(|error| self.inner.translated(error, &shown))
    }

    /// All tags, as the registry sorts them.
    ///
    /// # Errors
    ///
    /// As [`Repository::manifest`]; also when there are more than anybody can use.
    pub async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let result = self.inner.over_endpoints(|session| self.inner.fetch_tags(session)).await;
        result.map_err(|error| self.inner.translated(error, &self.inner.reference.familiar_name()))
    }

    /// The length of a blob, or none when the repository does not have it.
    ///
    /// # Errors
    ///
    /// What can go wrong on the way.
    pub async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, RegistryError> {
        self.inner.over_endpoints(|session| self.inner.head_blob(session, digest)).await
    }

    /// How often what breaks off is tried, by the daemon's settings; at least once.
    pub fn attempts(&self) -> u32 {
        self.inner.nth(0).map_or(1, Session::attempts)
    }

    /// Fetches a blob; begins at once, on a task that ends with the returned value.
    ///
    /// Must be called on a tokio runtime.
    pub fn download(&self, request: DownloadRequest) -> Download {
        Download::start(Arc::clone(&self.inner), request)
    }

    /// What refers to the manifest `digest` (distribution-spec, "Listing Referrers"), as an index; none when the registry
    /// does not know the question.
    ///
    /// # Errors
    ///
    /// What can go wrong on the way.
    pub async fn referrers(
        &self,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<Manifest>, RegistryError> {
        self.inner.over_endpoints(|session| self.inner.fetch_referrers(session, digest, artifact_type)).await
    }

    /// Sends a manifest; the digest under which it can be got.
    ///
    /// # Errors
    ///
    /// What the registry says against it; [`RegistryError::ManifestDigest`] when the registry has something else now.
    pub async fn put_manifest(
        &self,
        target: Target<'_>,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest, RegistryError> {
        let send = |session| self.inner.send_manifest(session, target, media_type, bytes.clone());
        self.inner.over_endpoints(send).await
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    fn with(&self, target: Target<'_>) -> Option<Reference> {
        match target {
            Target::Tag(tag) => self.inner.reference.with_tag(tag).ok(),
            Target::Digest(digest) => Some(self.inner.reference.with_digest(digest.clone())),
        }
    }

    fn shown(&self, target: Target<'_>) -> String {
        self.with(target).map_or_else(|| self.inner.reference.familiar_name(), |reference| reference.familiar())
    }

    fn full(&self, target: Target<'_>) -> String {
        self.with(target).map_or_else(|| self.inner.reference.to_string(), |reference| reference.to_string())
    }
}

impl Inner {
    /// What a refusal means for the image that was asked for (stock: `translatePullError`).
    pub(crate) fn translated(&self, error: RegistryError, shown: &str) -> RegistryError {
        let RegistryError::Api(errors) = &error else { return error };
        let Some(cause) = errors.first().cloned() else { return error };
        let name = || self.reference.familiar_name();
        match cause.code {
            // A bare code is passed on as it is.
            _ if cause.message.is_none() => error,
            ApiCode::Denied => RegistryError::AccessDenied { name: name(), cause },
            ApiCode::ManifestUnknown => RegistryError::ManifestUnknown { reference: shown.to_owned(), cause },
            ApiCode::NameUnknown => RegistryError::NameUnknown { name: name(), cause },
            _ => error,
        }
    }

    /// Does `work` with the endpoint that answered last, and with those after it where the rules allow.
    pub(crate) async fn over_endpoints<'a, T, F, W>(&'a self, mut work: W) -> Result<T, RegistryError>
    where
        W: FnMut(&'a Session) -> F,
        F: Future<Output = Result<T, RegistryError>>,
    {
        let mut at = self.current.load(Ordering::Relaxed);
        let mut failed = None;
        while let Some(session) = self.sessions.get(at) {
            match work(session).await {
                Ok(value) => {
                    self.current.store(at, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(error) if error.may_ask_next(session.endpoint.mirror) => {
                    tracing::info!("attempting next endpoint after error: {error}");
                    at = self.after(at, &error);
                    failed = Some(error);
                }
                Err(error) => {
                    if error.answered() {
                        self.current.store(at, Ordering::Relaxed);
                    }
                    return Err(error);
                }
            }
        }
        Err(failed.unwrap_or_else(|| self.no_endpoint()))
    }

    /// Where to go on after a failure: not without TLS where TLS worked.
    pub(crate) fn after(&self, at: usize, error: &RegistryError) -> usize {
        let session = &self.sessions[at];
        let same = |next: &Session| {
            !next.endpoint.url.tls && next.endpoint.url.authority() == session.endpoint.url.authority()
        };
        let confirmed = session.endpoint.url.tls && error.answered();
        let skip = confirmed && self.sessions.get(at + 1).is_some_and(same);
        if skip { at + 2 } else { at + 1 }
    }

    /// The endpoint to begin with.
    pub(crate) fn begin(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// The endpoint of this index answered.
    pub(crate) fn stay(&self, index: usize) {
        self.current.store(index, Ordering::Relaxed);
    }

    /// The session with the endpoint of this index.
    pub(crate) fn nth(&self, index: usize) -> Option<&Session> {
        self.sessions.get(index)
    }

    pub(crate) fn no_endpoint(&self) -> RegistryError {
        RegistryError::NoEndpoint(self.reference.familiar())
    }

    /// The session that answered last.
    pub(crate) fn session(&self) -> Option<&Session> {
        self.sessions.get(self.current.load(Ordering::Relaxed))
    }

    pub(crate) fn url(&self, session: &Session, rest: &str) -> Url {
        session.url(&format!("{}/{rest}", self.path))
    }

    async fn fetch_manifest(
        &self,
        session: &Session,
        target: Target<'_>,
        full: &str,
    ) -> Result<Manifest, RegistryError> {
        // As stock: a tag is resolved first, then its manifest is asked for by digest. Registries count only the latter.
        if let Target::Tag(_) = target
            && let ManifestHead { digest: Some(digest), .. } = self.fetch_head(session, target).await?
        {
            return self.read_manifest(session, Target::Digest(&digest), full).await;
        }
        self.read_manifest(session, target, full).await
    }

    async fn read_manifest(
        &self,
        session: &Session,
        target: Target<'_>,
        full: &str,
    ) -> Result<Manifest, RegistryError> {
        let url = self.url(session, &format!("manifests/{}", target.as_str()));
        let mut response = session.ask(Method::GET, url, accepted(), &self.scopes).await?;
        if response.status != StatusCode::OK {
            return Err(session.refusal(response).await);
        }
        let too_large =
            || RegistryError::Malformed { what: "manifest", why: format!("more than {LARGEST_MANIFEST} bytes") };
        if content_length(&response).is_some_and(|length| length > LARGEST_MANIFEST as u64) {
            return Err(too_large());
        }
        let read = response.body.beginning(LARGEST_MANIFEST, session.limits().pace()).await;
        let (bytes, whole) = read.map_err(RegistryError::Transfer)?;
        if !whole {
            return Err(too_large());
        }
        // A digest that was asked for binds; one the registry tells must at least be true.
        let told = told_digest(&response)?;
        let expected = match target {
            Target::Digest(digest) => Some(digest.clone()),
            Target::Tag(_) => told,
        };
        let digest = manifest::digest_like(expected.as_ref(), &bytes);
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(RegistryError::ManifestDigest(expected.to_string()));
        }
        let media_type = manifest::media_type(response.header(header::CONTENT_TYPE), &bytes, full)?;
        Ok(Manifest { bytes, media_type, digest })
    }

    async fn fetch_head(&self, session: &Session, target: Target<'_>) -> Result<ManifestHead, RegistryError> {
        let url = self.url(session, &format!("manifests/{}", target.as_str()));
        let mut response = session.ask(Method::HEAD, url.clone(), accepted(), &self.scopes).await?;
        if response.status != StatusCode::OK {
            // Why, only a body tells; and some registries do not know HEAD.
            response = session.ask(Method::GET, url, accepted(), &self.scopes).await?;
        }
        if response.status != StatusCode::OK {
            return Err(session.refusal(response).await);
        }
        let media_type = response.header(header::CONTENT_TYPE).and_then(|text| text.split(';').next());
        let media_type = media_type.unwrap_or_default().trim().to_owned();
        Ok(ManifestHead { media_type, digest: told_digest(&response)?, size: content_length(&response) })
    }

    async fn fetch_tags(&self, session: &Session) -> Result<Vec<String>, RegistryError> {
        let too_many = || RegistryError::Malformed { what: "tag list", why: format!("more than {MOST_TAGS} tags") };
        let mut url = self.url(session, "tags/list");
        let mut all = Vec::new();
        for _ in 0..MOST_PAGES {
            let mut response = session.ask(Method::GET, url, HeaderMap::new(), &self.scopes).await?;
            if response.status != StatusCode::OK {
                return Err(session.refusal(response).await);
            }
            let read = response.body.beginning(LARGEST_PAGE, session.limits().pace()).await;
            let (bytes, whole) = read.map_err(RegistryError::Transfer)?;
            if !whole {
                return Err(too_many());
            }
            let page: Tags = serde_json::from_slice(&bytes)
                .map_err(|error| RegistryError::Malformed { what: "tag list", why: error.to_string() })?;
            let tags = page.tags.unwrap_or_default();
            let empty = tags.is_empty();
            all.extend(tags);
            if all.len() > MOST_TAGS {
                return Err(too_many());
            }
            let links = response.headers.get_all(header::LINK).iter().filter_map(|value| value.to_str().ok());
            let Some(next) = link::next(links).filter(|_| !empty) else { return Ok(all) };
            let next = response.url.join(next).ok().filter(|next| next.same_origin(&session.endpoint.url));
            let elsewhere =
                || RegistryError::Malformed { what: "tag list", why: "its next page is elsewhere".to_owned() };
            url = next.ok_or_else(elsewhere)?;
        }
        Err(too_many())
    }

    async fn head_blob(&self, session: &Session, digest: &Digest) -> Result<Option<u64>, RegistryError> {
        let url = self.url(session, &format!("blobs/{digest}"));
        let response = session.ask(Method::HEAD, url, HeaderMap::new(), &self.scopes).await?;
        match response.status {
            StatusCode::OK => content_length(&response)
                .map(Some)
                .ok_or_else(|| RegistryError::Malformed { what: "blob", why: format!("no length of {digest}") }),
            // A mirror that does not have it is no proof that nobody has it.
            StatusCode::NOT_FOUND if session.endpoint.mirror => Err(RegistryError::BlobUnknown),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(head_refusal(session, response).await),
        }
    }

    async fn fetch_referrers(
        &self,
        session: &Session,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<Manifest>, RegistryError> {
        let mut url = self.url(session, &format!("referrers/{digest}"));
        if let Some(kind) = artifact_type {
            url = url.with_query(&[("artifactType", kind)]);
        }
        let mut response = session.ask(Method::GET, url, accepted(), &self.scopes).await?;
        match response.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(session.refusal(response).await),
        }
        let read = response.body.beginning(LARGEST_MANIFEST, session.limits().pace()).await;
        let (bytes, whole) = read.map_err(RegistryError::Transfer)?;
        if !whole {
            let why = format!("more than {LARGEST_MANIFEST} bytes");
            return Err(RegistryError::Malformed { what: "list of referrers", why });
        }
        let digest = manifest::digest_like(None, &bytes);
        Ok(Some(Manifest { bytes, media_type: OCI_INDEX.to_owned(), digest }))
    }

    async fn send_manifest(
        &self,
        session: &Session,
        target: Target<'_>,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest, RegistryError> {
        let url = self.url(session, &format!("manifests/{}", target.as_str()));
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::from_str(media_type);
        let kind = kind.map_err(|_| RegistryError::UnsupportedMediaType(media_type.to_owned()))?;
        headers.insert(header::CONTENT_TYPE, kind);
        let send =
            || session.send(Method::PUT, url.clone(), headers.clone(), Payload::Full(bytes.clone()), &self.scopes);
        let mut response = send().await?;
        if let Some(challenges) = session.asked(&response) {
            session.renew(challenges, &self.scopes).await;
            response = send().await?;
        }
        if !response.status.is_success() {
            return Err(session.refusal(response).await);
        }
        let like = match target {
            Target::Digest(digest) => Some(digest.clone()),
            Target::Tag(_) => None,
        };
        let told = told_digest(&response)?;
        let digest = manifest::digest_like(like.as_ref().or(told.as_ref()), &bytes);
        if let Some(told) = told.filter(|told| told.algorithm() == digest.algorithm() && *told != digest) {
            return Err(RegistryError::ManifestDigest(told.to_string()));
        }
        Ok(digest)
    }
}

/// The kinds of manifests we know.
fn accepted() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for kind in [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX] {
        headers.append(header::ACCEPT, HeaderValue::from_static(kind));
    }
    headers
}

pub(crate) fn content_length(response: &Response) -> Option<u64> {
    response.header(header::CONTENT_LENGTH).and_then(|text| text.parse().ok())
}

fn told_digest(response: &Response) -> Result<Option<Digest>, RegistryError> {
    let told = response.header("docker-content-digest").filter(|text| !text.is_empty());
    told.map(Digest::parse)
        .transpose()
        .map_err(|error| RegistryError::Malformed { what: "manifest", why: error.to_string() })
}

/// The error of an answer without a body: its status says what its body would.
async fn head_refusal(session: &Session, response: Response) -> RegistryError {
    let code = match response.status {
        StatusCode::FORBIDDEN => ApiCode::Denied,
        StatusCode::TOO_MANY_REQUESTS => ApiCode::TooManyRequests,
        _ => return session.refusal(response).await,
    };
    RegistryError::Api(ApiErrors::one(ApiError::of(code)))
}
