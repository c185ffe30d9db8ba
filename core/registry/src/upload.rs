//! Sending blobs (distribution-spec, "Pushing blobs"): mounting from another repository, in one piece or in chunks, going on
//! after a failure from where the registry says it is.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use dockerd_types::Digest;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use tokio::io::{AsyncRead, ReadBuf};

use crate::client::{Payload, Response};
use crate::connect::RequestBody;
use crate::error::{RegistryError, TransportError};
use crate::repository::{Inner, Repository};
use crate::session::{Session, go_method};
use crate::url::Url;

/// How often a blob is tried, as on the stock daemon.
const MOST_ATTEMPTS: u64 = 5;
/// Bytes that are read from the source at a time.
const PIECE: usize = 64 * 1024;
/// Blobs up to this length are sent with the request that ends their upload: one way less.
const SMALL: u64 = 1 << 20;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(100);
/// Largest chunk a registry may insist on, in bytes.
const LARGEST_MINIMUM: u64 = 8 << 30;

/// Bytes of a blob from some offset on.
pub type BlobReader = Pin<Box<dyn AsyncRead + Send>>;

/// What came of mounting a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounting {
    /// It is in the repository now.
    Mounted,
    /// The other repository does not have it, or the registry mounts nothing.
    Absent,
    /// The registry does not allow it to this user.
    Refused,
}

/// A blob that can be read more than once.
pub trait BlobSource: Send + Sync {
    /// A reader whose first byte is the one at `offset`.
    fn open(&self, offset: u64) -> Pin<Box<dyn Future<Output = io::Result<BlobReader>> + Send + '_>>;
}

/// A blob to send.
#[expect(missing_debug_implementations, reason = "the source is whatever the caller has")]
pub struct UploadRequest<'a> {
    /// Its digest.
    pub digest: &'a Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Its bytes.
    pub source: &'a dyn BlobSource,
}

/// What happens during an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadEvent {
    /// So many bytes have been given to the network; fewer than before when it went on further back.
    Sent(u64),
    /// It broke off and is tried again in so many seconds.
    Retrying {
        /// Counts down.
        seconds: u64,
    },
}

/// Whom progress is told.
type Events<'a> = &'a mut (dyn FnMut(UploadEvent) + Send);

/// An upload the registry knows.
struct Upload {
    location: Url,
    /// Least length of a chunk that is not the last.
    least: u64,
    /// Bytes the registry has.
    at: u64,
}

/// An upload that is cancelled when nobody goes on with it: a client that leaves ends a push at any point.
struct Unfinished {
    inner: Arc<Inner>,
    upload: Option<Upload>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Without a runtime, as when the daemon ends, the registry forgets it in time.
        if let (Some(upload), Ok(runtime)) = (self.upload.take(), tokio::runtime::Handle::try_current()) {
            let inner = Arc::clone(&self.inner);
            runtime.spawn(async move {
                if let Some(session) = inner.session() {
                    inner.cancel(session, &upload).await;
                }
            });
        }
    }
}

impl Repository {
    /// Makes a blob of another repository of the same registry appear in this one. `from`: the other's
    /// path.
    ///
    /// # Errors
    ///
    /// What can go wrong on the way. That the registry cannot, or may not, is no error.
    pub async fn mount(&self, digest: &Digest, from: &str) -> Result<Mounting, RegistryError> {
        let inner = self.inner();
        let mut scopes = inner.scopes.clone();
        scopes.push(format!("repository:{from}:pull"));
        let scopes = &scopes;
        let query = [("from", from), ("mount", digest.as_str())];
        inner
            .over_endpoints(|session| async move {
                let url = inner.url(session, "blobs/uploads/").with_query(&query);
                let response = session.ask(Method::POST, url, HeaderMap::new(), scopes).await?;
                match response.status {
                    StatusCode::CREATED => Ok(Mounting::Mounted),
                    StatusCode::ACCEPTED => {
                        // An upload was begun instead, which nobody wants.
                        let upload = begun(session, &response)?;
                        inner.cancel(session, &upload).await;
                        Ok(Mounting::Absent)
                    }
                    status if status.is_client_error() => Ok(Mounting::Refused),
                    _ => Err(session.refusal(response).await),
                }
            })
            .await
    }

    /// Sends a blob. Dropping the future ends it, and tells the registry so.
    ///
    /// # Errors
    ///
    /// When the registry refuses, the source cannot be read, or it breaks off too often; the upload is cancelled then.
    pub async fn upload(&self, request: UploadRequest<'_>, events: Events<'_>) -> Result<(), RegistryError> {
        let inner = self.inner();
        // Whom cannot be talked to at all is not asked again and again; that is for what breaks off.
        inner.over_endpoints(|session| session.ping()).await?;
        let mut unfinished = Unfinished { inner: Arc::clone(inner), upload: None };
        let mut attempt = 1;
        loop {
            let error = match inner.try_upload(&request, &mut unfinished.upload, events).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if !error.may_retry() || attempt >= MOST_ATTEMPTS {
                tracing::error!("upload of {} failed after {attempt} attempts: {error}", request.digest);
                if let (Some(upload), Some(session)) = (unfinished.upload.take(), inner.session()) {
                    inner.cancel(session, &upload).await;
                }
                return Err(error);
            }
            tracing::info!("upload failed, retrying ({attempt}/{MOST_ATTEMPTS}): {error}");
            let second = inner.session().map_or(Duration::from_secs(1), |session| session.limits().retry_second);
            for seconds in (1..=attempt * 5).rev() {
                events(UploadEvent::Retrying { seconds });
                tokio::time::sleep(second).await;
            }
            attempt += 1;
        }
    }
}

impl Inner {
    /// Begins an upload, or goes on with the one that broke off, and brings it to its end.
    async fn try_upload(
        &self,
        request: &UploadRequest<'_>,
        known: &mut Option<Upload>,
        events: Events<'_>,
    ) -> Result<(), RegistryError> {
        if let Some(upload) = known.take() {
            *known = self.status(upload, request.size).await?;
        }
        let upload = match known {
            Some(upload) => upload,
            None => known.insert(self.over_endpoints(|session| self.start(session)).await?),
        };
        let session = self.session().ok_or_else(|| self.no_endpoint())?;
        if upload.at == 0 && request.size <= SMALL {
            let url = upload.location.with_query(&[("digest", request.digest.as_str())]);
            let whole = Chunk { method: Method::PUT, url, headers: octets(), at: 0, length: request.size };
            let response = self.send_chunk(session, request, whole, events).await?;
            if !response.status.is_success() {
                return Err(session.refusal(response).await);
            }
            *known = None;
            return Ok(());
        }
        let chunk = session.limits().chunk.max(upload.least).max(1);
        while upload.at < request.size {
            let length = chunk.min(request.size - upload.at);
            let whole = upload.at == 0 && length == request.size;
            let mut headers = octets();
            if !whole {
                let range = format!("{}-{}", upload.at, upload.at + length - 1);
                headers.insert(header::CONTENT_RANGE, HeaderValue::try_from(range).map_err(|_| unusable("range"))?);
            }
            let location = upload.location.clone();
            let part = Chunk { method: Method::PATCH, url: location, headers, at: upload.at, length };
            let response = self.send_chunk(session, request, part, events).await?;
            if !matches!(response.status, StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED) {
                return Err(session.refusal(response).await);
            }
            if let Some(location) = response.header(header::LOCATION) {
                upload.location = place(session, &response, location)?;
            }
            upload.at += length;
        }
        self.finish(session, request, upload).await?;
        *known = None;
        Ok(())
    }

    async fn start(&self, session: &Session) -> Result<Upload, RegistryError> {
        let url = self.url(session, "blobs/uploads/");
        let response = session.ask(Method::POST, url, HeaderMap::new(), &self.scopes).await?;
        if response.status != StatusCode::ACCEPTED {
            return Err(session.refusal(response).await);
        }
        begun(session, &response)
    }

    /// Where an upload stands that broke off; none when the registry has forgotten it.
    async fn status(&self, upload: Upload, size: u64) -> Result<Option<Upload>, RegistryError> {
        let session = self.session().ok_or_else(|| self.no_endpoint())?;
        let response = session.ask(Method::GET, upload.location.clone(), HeaderMap::new(), &self.scopes).await?;
        if !response.status.is_success() {
            return Ok(None);
        }
        let location = match response.header(header::LOCATION) {
            Some(location) => place(session, &response, location)?,
            None => upload.location,
        };
        let last = response.header(header::RANGE).and_then(|text| text.trim_start_matches("bytes=").split_once('-'));
        // `0-0` is what registries say of nothing as well as of one byte.
        let at = match last.and_then(|(_, last)| last.parse::<u64>().ok()) {
            Some(0) | None => 0,
            Some(last) => last.saturating_add(1),
        };
        Ok((at <= size).then_some(Upload { location, at, ..upload }))
    }

    async fn finish(
        &self,
        session: &Session,
        request: &UploadRequest<'_>,
        upload: &Upload,
    ) -> Result<(), RegistryError> {
        let url = upload.location.with_query(&[("digest", request.digest.as_str())]);
        let response = session.ask(Method::PUT, url, octets(), &self.scopes).await?;
        if response.status.is_success() { Ok(()) } else { Err(session.refusal(response).await) }
    }

    /// Tells the registry that an upload will not go on; whether it listens does not matter.
    async fn cancel(&self, session: &Session, upload: &Upload) {
        let url = upload.location.clone();
        let ask = session.ask(Method::DELETE, url, HeaderMap::new(), &self.scopes);
        if !matches!(tokio::time::timeout(session.limits().ping, ask).await, Ok(Ok(_))) {
            tracing::debug!("an upload could not be cancelled");
        }
    }

    /// Sends bytes of the source; tells progress meanwhile.
    async fn send_chunk(
        &self,
        session: &Session,
        request: &UploadRequest<'_>,
        chunk: Chunk,
        events: Events<'_>,
    ) -> Result<Response, RegistryError> {
        let response = self.send_once(session, request, &chunk, events).await?;
        let Some(challenges) = session.asked(&response) else { return Ok(response) };
        drop(response);
        session.renew(challenges, &self.scopes).await;
        // A token ran out; the registry has taken nothing.
        self.send_once(session, request, &chunk, events).await
    }

    async fn send_once(
        &self,
        session: &Session,
        request: &UploadRequest<'_>,
        chunk: &Chunk,
        events: Events<'_>,
    ) -> Result<Response, RegistryError> {
        let source = |error: io::Error| RegistryError::Source(crate::error::go_text(&error));
        let reader = request.source.open(chunk.at).await.map_err(source)?;
        let sent = Arc::new(AtomicU64::new(0));
        let failed = Arc::new(std::sync::Mutex::new(None));
        let body = ReaderBody { reader, left: chunk.length, sent: Arc::clone(&sent), failed: Arc::clone(&failed) };
        let body: RequestBody = body.boxed_unsync();
        let payload = Payload::Stream { body, length: chunk.length, sent: Arc::clone(&sent) };
        let sending =
            session.send(chunk.method.clone(), chunk.url.clone(), chunk.headers.clone(), payload, &self.scopes);
        tokio::pin!(sending);
        let mut told = 0;
        let mut tell = |events: Events<'_>| {
            let now = sent.load(Ordering::Relaxed);
            if now != told {
                told = now;
                events(UploadEvent::Sent(chunk.at + now));
            }
        };
        let result = loop {
            match tokio::time::timeout(PROGRESS, &mut sending).await {
                Ok(result) => break result,
                Err(_) => tell(events),
            }
        };
        tell(events);
        let unread = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        // What the network says when the source failed is of no interest.
        match unread {
            Some(error) => Err(source(error)),
            None => result,
        }
    }
}

/// Bytes to send.
struct Chunk {
    method: Method,
    url: Url,
    headers: HeaderMap,
    at: u64,
    length: u64,
}

/// The upload an answer says was begun.
fn begun(session: &Session, response: &Response) -> Result<Upload, RegistryError> {
    let location = response.header(header::LOCATION).ok_or_else(|| unusable("Location"))?;
    let least = response.header("oci-chunk-min-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    if least > LARGEST_MINIMUM {
        return Err(unusable("OCI-Chunk-Min-Length"));
    }
    Ok(Upload { location: place(session, response, location)?, least, at: 0 })
}

/// Where an upload goes on. Not from TLS to a place without.
fn place(session: &Session, response: &Response, location: &str) -> Result<Url, RegistryError> {
    let failed =
        |cause| RegistryError::Request { method: go_method(&Method::POST), url: response.url.to_string(), cause };
    let url = response.url.join(location).map_err(failed)?;
    if response.url.tls && !url.tls && !session.endpoint.insecure {
        let text = format!("refusing to send to {url:?}, which is without TLS");
        return Err(failed(TransportError::RedirectRefused(text)));
    }
    Ok(url)
}

fn unusable(what: &str) -> RegistryError {
    RegistryError::Malformed { what: "answer to an upload", why: format!("no usable {what}") }
}

fn octets() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers
}

/// Exactly so many bytes of a reader.
struct ReaderBody {
    reader: BlobReader,
    left: u64,
    sent: Arc<AtomicU64>,
    failed: Arc<std::sync::Mutex<Option<io::Error>>>,
}

impl ReaderBody {
    fn fail(&self, error: io::Error) -> io::Error {
        let shown = io::Error::new(error.kind(), "the source cannot be read");
        *self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
        shown
    }
}

impl Body for ReaderBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let room = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
        let mut space = vec![0; room];
        let mut buffer = ReadBuf::new(&mut space);
        if let Err(error) = ready!(self.reader.as_mut().poll_read(cx, &mut buffer)) {
            return Poll::Ready(Some(Err(self.fail(error))));
        }
        let got = buffer.filled().len();
        if got == 0 {
            let error = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Poll::Ready(Some(Err(self.fail(error))));
        }
        space.truncate(got);
        self.left -= got as u64;
        self.sent.fetch_add(got as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(space)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
