//! One blob as a stream of pieces in their order: goes on where it broke off, by `Range` (distribution-spec, "Pulling blobs"),
//! with the stock daemon's pauses between attempts, and never yields more than the descriptor announces.
//!
//! ```text
//! attempt --- all there ---> end
//!    | broke off, attempts left, retrying may help
//!    v
//! pause (5 s, 10 s ...; one event per second) ---> attempt from the byte after the last
//!    | no attempts left, or no use
//!    v
//! next endpoint, where the rules allow ---> error
//! ```

use std::sync::Arc;

use bytes::Bytes;
use dockerd_types::Digest;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::{Client, Payload, Request, Response};
use crate::endpoint;
use crate::error::{RegistryError, TransportError};
use crate::parts::{self, Part};
use crate::repository::{Inner, content_length};
use crate::session::{LARGEST_REFUSAL, Session, challenges_of, go_method};
use crate::url::Url;

/// Events that may wait for the caller. A piece has at most some 400 KiB.
const WAITING: usize = 8;

/// What is to be fetched.
#[derive(Debug, Clone)]
pub struct DownloadRequest {
    /// The blob. The caller verifies it.
    pub digest: Digest,
    /// Its length by its descriptor, in bytes.
    pub size: u64,
    /// Where to begin; what comes before is there already.
    pub offset: u64,
    /// Where it is beside the registry, asked when the registry does not have it.
    pub urls: Vec<String>,
}

/// What happens during a download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownloadEvent {
    /// The next bytes.
    Data(Bytes),
    /// The server cannot go on in the middle: all bytes of before are to be forgotten, the next begin at zero.
    Restarted,
    /// It broke off and is tried again in so many seconds.
    Retrying {
        /// Counts down.
        seconds: u64,
    },
}

/// A running download. Ends when it is dropped.
#[derive(Debug)]
pub struct Download {
    events: mpsc::Receiver<Result<DownloadEvent, RegistryError>>,
    /// The one task that fetches; aborted with the set.
    _task: JoinSet<()>,
}

impl Download {
    pub(crate) fn start(inner: Arc<Inner>, request: DownloadRequest) -> Self {
        let (out, events) = mpsc::channel(WAITING);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let (asked, shown) = (Arc::clone(&inner), request.digest.to_string());
            let mut transfer = Transfer { at: request.offset, inner, request, out: out.clone() };
            if let Err(Stop::Failed(error)) = transfer.run().await {
                // Nobody there: nobody to tell.
                let _ = out.send(Err(asked.translated(error, &shown))).await;
            }
        });
        Self { events, _task: task }
    }

    /// The next event; none when all bytes have come. After an error nothing comes.
    pub async fn next(&mut self) -> Option<Result<DownloadEvent, RegistryError>> {
        self.events.recv().await
    }
}

/// Why a transfer does not go on.
pub(crate) enum Stop {
    /// The caller has gone.
    Gone,
    Failed(RegistryError),
}

impl From<RegistryError> for Stop {
    fn from(error: RegistryError) -> Self {
        Self::Failed(error)
    }
}

struct Transfer {
    inner: Arc<Inner>,
    request: DownloadRequest,
    /// The next byte the caller needs.
    at: u64,
    out: mpsc::Sender<Result<DownloadEvent, RegistryError>>,
}

/// Where a blob is.
enum Source {
    /// In the repository, at the endpoint of this index.
    Registry(usize),
    /// At a URL of its descriptor.
    Foreign(Box<Client>, Url),
}

impl Transfer {
    async fn run(&mut self) -> Result<(), Stop> {
        let inner = Arc::clone(&self.inner);
        let mut index = inner.begin();
        loop {
            let Some(session) = inner.nth(index) else {
                return Err(Stop::Failed(inner.no_endpoint()));
            };
            // Whom cannot be talked to at all is not asked again and again; that is for what breaks off.
            let result = match session.ping().await {
                Ok(()) => self.retried(session, Source::Registry(index)).await,
                Err(error) => Err(Stop::Failed(error)),
            };
            let error = match result {
                Ok(()) => {
                    inner.stay(index);
                    return Ok(());
                }
                Err(Stop::Gone) => return Err(Stop::Gone),
                Err(Stop::Failed(error)) => error,
            };
            let next = inner.after(index, &error);
            if error.may_ask_next(session.endpoint.mirror) && inner.nth(next).is_some() {
                tracing::info!("attempting next endpoint after error: {error}");
                index = next;
            } else if matches!(error, RegistryError::BlobUnknown) && !self.request.urls.is_empty() {
                return self.foreign(session).await;
            } else {
                return Err(Stop::Failed(error));
            }
        }
    }

    /// Asks the descriptor's URLs, one after the other; the last failure counts.
    async fn foreign(&mut self, session: &Session) -> Result<(), Stop> {
        let mut failed = RegistryError::BlobUnknown;
        for text in self.request.urls.clone() {
            let url = match Url::parse(&text) {
                Ok(url) => url,
                Err(cause) => {
                    failed = RegistryError::Transfer(cause);
                    continue;
                }
            };
            let config = session.config();
            let insecure = endpoint::is_insecure(config, &url.authority()).await;
            let tls = endpoint::tls_for(config, &url.authority(), insecure).await?;
            let client = Client::new(Arc::clone(config), tls, insecure || !url.tls);
            match self.retried(session, Source::Foreign(Box::new(client), url)).await {
                Err(Stop::Failed(error)) => failed = error,
                other => return other,
            }
        }
        Err(Stop::Failed(failed))
    }

    /// Attempts with pauses between them.
    async fn retried(&mut self, session: &Session, source: Source) -> Result<(), Stop> {
        let mut attempt = 1;
        loop {
            let error = match self.attempt(session, &source).await {
                Err(Stop::Failed(error)) => error,
                other => return other,
            };
            if !error.may_retry() || attempt >= session.attempts() {
                tracing::error!("download of {} failed after {attempt} attempts: {error}", self.request.digest);
                return Err(Stop::Failed(error));
            }
            tracing::info!("download failed, retrying ({attempt}/{}): {error}", session.attempts());
            let mut seconds = u64::from(attempt) * 5;
            while seconds > 0 {
                self.tell(DownloadEvent::Retrying { seconds }).await?;
                tokio::time::sleep(session.limits().retry_second).await;
                seconds -= 1;
            }
            attempt += 1;
        }
    }

    async fn attempt(&mut self, session: &Session, source: &Source) -> Result<(), Stop> {
        let DownloadRequest { size, .. } = self.request;
        if self.at > size {
            return Err(Stop::Failed(self.wrong_size(self.at)));
        }
        if self.at == size {
            return Ok(());
        }
        let limits = session.limits();
        let part = limits.part.max(1);
        let large = size - self.at > limits.parallel_above.max(part) && limits.parts_at_once > 1;
        let in_parts = large && matches!(source, Source::Registry(_));
        let last = if in_parts { self.at + part - 1 } else { size - 1 };
        // The whole blob is asked for without a range: that every server can do.
        let range = (self.at > 0 || in_parts).then_some((self.at, last));
        let response = self.get(session, source, range).await?;
        match (response.status, range) {
            (StatusCode::PARTIAL_CONTENT, Some((first, last))) => {
                check_range(&response, first, last, size)?;
                match source {
                    Source::Registry(index) if in_parts => self.parts(session, *index, response, part).await,
                    _ => self.stream(session, response, last - first + 1).await,
                }
            }
            (StatusCode::OK, _) => {
                if self.at > 0 {
                    self.at = 0;
                    self.tell(DownloadEvent::Restarted).await?;
                }
                if let Some(length) = content_length(&response).filter(|length| *length != size) {
                    return Err(Stop::Failed(self.wrong_size(length)));
                }
                self.stream(session, response, size).await
            }
            _ => Err(Stop::Failed(refused(session, response).await)),
        }
    }

    async fn get(
        &self,
        session: &Session,
        source: &Source,
        range: Option<(u64, u64)>,
    ) -> Result<Response, RegistryError> {
        match source {
            Source::Registry(_) => self.inner.get_blob(session, &self.request.digest, range).await,
            Source::Foreign(client, url) => {
                let (method, headers) = (Method::GET, range_headers(range));
                let limit = session.limits().answer;
                let request = Request { method, url: url.clone(), headers, payload: Payload::Empty, limit };
                let failed = |cause| RegistryError::Request { method: "Get", url: url.to_string(), cause };
                client.follow(request).await.map_err(failed)
            }
        }
    }

    /// Passes on `expected` bytes of a body, and takes no more.
    async fn stream(&mut self, session: &Session, response: Response, expected: u64) -> Result<(), Stop> {
        let end = self.at + expected;
        let mut body = response.body;
        let mut pace = session.limits().pace();
        while let Some(piece) = body.piece(&mut pace).await {
            let piece = piece.map_err(RegistryError::Transfer)?;
            let after = self.at + piece.len() as u64;
            if after > end {
                return Err(Stop::Failed(self.wrong_size(after)));
            }
            self.tell(DownloadEvent::Data(piece)).await?;
            self.at = after;
        }
        if self.at < end { Err(Stop::Failed(self.wrong_size(self.at))) } else { Ok(()) }
    }

    /// Fetches the rest by several ranges at once; `first` is the answer of the first.
    async fn parts(&mut self, session: &Session, index: usize, first: Response, part: u64) -> Result<(), Stop> {
        let limits = session.limits();
        let mut parts = parts::Parts::new(&self.inner, index, &self.request, self.at, part, limits.parts_at_once);
        parts.begin(Some(first));
        while let Some(mut running) = parts.next() {
            let Part { end, pieces } = &mut running;
            while let Some(piece) = pieces.recv().await {
                let piece = piece?;
                let after = self.at + piece.len() as u64;
                self.tell(DownloadEvent::Data(piece)).await?;
                self.at = after;
            }
            if self.at != *end {
                return Err(Stop::Failed(RegistryError::Transfer(TransportError::ClosedEarly)));
            }
            parts.begin(None);
        }
        Ok(())
    }

    async fn tell(&self, event: DownloadEvent) -> Result<(), Stop> {
        self.out.send(Ok(event)).await.map_err(|_| Stop::Gone)
    }

    fn wrong_size(&self, got: u64) -> RegistryError {
        RegistryError::BlobSize { digest: self.request.digest.to_string(), expected: self.request.size, got }
    }
}

impl Inner {
    /// Asks for a blob, or the bytes from the first to the last of `range`.
    pub(crate) async fn get_blob(
        &self,
        session: &Session,
        digest: &Digest,
        range: Option<(u64, u64)>,
    ) -> Result<Response, RegistryError> {
        let url = self.url(session, &format!("blobs/{digest}"));
        session.ask(Method::GET, url, range_headers(range), &self.scopes).await
    }
}

/// Headers of a request for a range.
fn range_headers(range: Option<(u64, u64)>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some((first, last)) = range
        && let Ok(value) = HeaderValue::from_str(&format!("bytes={first}-{last}"))
    {
        headers.insert(header::RANGE, value);
    }
    headers
}

/// Whether a partial answer is the part that was asked for (RFC 9110, section 14.4).
pub(crate) fn check_range(response: &Response, first: u64, last: u64, size: u64) -> Result<(), RegistryError> {
    let text = response.header(header::CONTENT_RANGE).unwrap_or_default();
    let wrong = || RegistryError::Malformed { what: "Content-Range", why: format!("{text:?} is not {first}-{last}") };
    let (range, total) = text.strip_prefix("bytes ").and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
    let (begin, end) = range.split_once('-').ok_or_else(wrong)?;
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let fits = number(begin) == Some(first) && number(end) == Some(last);
    if !fits || number(total).is_some_and(|total| total != size) {
        return Err(wrong());
    }
    Ok(())
}

/// The error of a blob that was not given.
pub(crate) async fn refused(session: &Session, mut response: Response) -> RegistryError {
    match response.status {
        StatusCode::NOT_FOUND => RegistryError::BlobUnknown,
        _ if response.url.same_origin(&session.endpoint.url) => session.refusal(response).await,
        status => {
            // A store behind the registry, which does not answer as registries do.
            let body = response.body.beginning(LARGEST_REFUSAL, session.limits().short_pace()).await;
            let body = body.map(|(body, _)| body).unwrap_or_default();
            let challenges = challenges_of(&response.headers);
            tracing::debug!("{} {:?} answered {status}", go_method(&Method::GET), response.url);
            crate::api_error::of_answer(status, response.header(header::CONTENT_TYPE), &challenges, &body)
        }
    }
}
