//! Requests and answers: a few kept connections, time limits, bodies that are read piece by piece, redirects. Knows nothing
//! of registries; who asks puts credentials into the headers, and they go to the origin they are for and nowhere else.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use rustls::ClientConfig;

use crate::config::Checked;
use crate::connect::{self, Connection, RequestBody};
use crate::error::TransportError;
use crate::pace::Pace;
use crate::proxy;
use crate::url::Url;

/// Most redirects that are followed, as in Go.
const MOST_REDIRECTS: usize = 10;
/// Most connections without work that are kept.
const MOST_KEPT: usize = 8;
/// How long one is kept (stock: 30 s).
const KEPT: Duration = Duration::from_secs(30);

/// What a request carries.
pub(crate) enum Payload {
    /// Nothing.
    Empty,
    /// Something short, which can be sent twice.
    Full(Bytes),
    /// Exactly so many bytes, once. The counter moves while they are sent.
    Stream { body: RequestBody, length: u64, sent: Arc<AtomicU64> },
}

/// A request.
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    /// `Authorization` among them, for the origin of `url`.
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload,
    /// For the head of the answer.
    pub(crate) limit: Duration,
}

/// The head of an answer, with the body still to come.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The words beside the status, where they are not the usual ones.
    reason: Option<hyper::ext::ReasonPhrase>,
    /// Who answered, after redirects.
    pub(crate) url: Url,
    pub(crate) body: Body,
}

impl Response {
    /// A header as text, when it is one.
    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Number and words of the status, as they came.
    pub(crate) fn status_text(&self) -> String {
        match &self.reason {
            Some(reason) => {
                let words = String::from_utf8_lossy(reason.as_bytes());
                format!("{} {}", self.status.as_u16(), crate::api_error::bounded(&words))
            }
            None => crate::api_error::status_text(self.status),
        }
    }
}

/// Sends requests with one TLS configuration.
pub(crate) struct Client {
    config: Arc<Checked>,
    tls: Arc<ClientConfig>,
    /// An answer by TLS may send us to a place without.
    may_leave_tls: bool,
    kept: Arc<Kept>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("may_leave_tls", &self.may_leave_tls).finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn new(config: Arc<Checked>, tls: Arc<ClientConfig>, may_leave_tls: bool) -> Self {
        Self { config, tls, may_leave_tls, kept: Arc::default() }
    }

    /// Sends a request; redirects are answers like others.
    pub(crate) async fn send(&self, mut request: Request) -> Result<Response, TransportError> {
        let agent = HeaderValue::from_str(&self.config.written.user_agent);
        if let Ok(agent) = agent {
            request.headers.insert(header::USER_AGENT, agent);
        }
        let proxy = proxy::of(&self.config.written.proxies, &request.url)?;
        let again = match &request.payload {
            // What might have been done already must not be done twice.
            _ if request.method == Method::POST => None,
            Payload::Empty => Some(Payload::Empty),
            Payload::Full(bytes) => Some(Payload::Full(bytes.clone())),
            Payload::Stream { .. } => None,
        };
        // A kept connection may have been closed by its peer meanwhile; then the request was not looked at.
        if let Some(payload) = again
            && let Some(connection) = self.kept.take(&request.url)
        {
            let first = Request {
                payload,
                headers: request.headers.clone(),
                url: request.url.clone(),
                method: request.method.clone(),
                ..request
            };
            match self.exchange(connection, first, proxy.as_ref()).await {
                Err(TransportError::Closed | TransportError::Io(_)) => {}
                other => return other,
            }
        }
        let connection = connect::open(&request.url, proxy.as_ref(), &self.tls, &self.config.written.limits).await?;
        self.exchange(connection, request, proxy.as_ref()).await
    }

    /// Sends a `GET` or `HEAD` and follows redirects. Credentials stay with their origin.
    pub(crate) async fn follow(&self, request: Request) -> Result<Response, TransportError> {
        let Request { method, mut url, mut headers, limit, .. } = request;
        let mut seen = Vec::new();
        loop {
            let again = Request {
                method: method.clone(),
                url: url.clone(),
                headers: headers.clone(),
                payload: Payload::Empty,
                limit,
            };
            let response = self.send(again).await?;
            if !is_redirect(response.status) {
                return Ok(response);
            }
            let Some(location) = response.header(header::LOCATION) else { return Ok(response) };
            let next = url.join(location)?;
            seen.push(url.to_string());
            if seen.len() >= MOST_REDIRECTS || seen.contains(&next.to_string()) {
                return Err(TransportError::Redirects);
            }
            if url.tls && !next.tls && !self.may_leave_tls {
                return Err(TransportError::RedirectRefused(format!(
                    "refusing to follow a redirect to {next:?}, which is without TLS"
                )));
            }
            if !url.same_origin(&next) {
                headers.remove(header::AUTHORIZATION);
            }
            url = next;
        }
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        request: Request,
        proxy: Option<&proxy::Proxy>,
    ) -> Result<Response, TransportError> {
        let Request { method, url, mut headers, payload, limit } = request;
        let invalid = || TransportError::InvalidUrl(url.to_string());
        let target = match proxy.filter(|_| !url.tls) {
            Some(proxy) => {
                if let Some(value) = &proxy.authorization {
                    let value = HeaderValue::from_str(value).map_err(|_| invalid())?;
                    headers.insert(header::PROXY_AUTHORIZATION, value);
                }
                url.to_string()
            }
            None => url.path().to_owned(),
        };
        headers.insert(header::HOST, HeaderValue::from_str(&url.authority()).map_err(|_| invalid())?);
        let (body, sent) = match payload {
            Payload::Empty => {
                if method != Method::GET && method != Method::HEAD {
                    headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
                }
                (Empty::new().map_err(|never| match never {}).boxed_unsync(), None)
            }
            Payload::Full(bytes) => (Full::new(bytes).map_err(|never| match never {}).boxed_unsync(), None),
            Payload::Stream { body, length, sent } => {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
                (body, Some(sent))
            }
        };
        let mut outgoing = hyper::Request::new(body);
        *outgoing.method_mut() = method;
        *outgoing.uri_mut() = target.parse::<Uri>().map_err(|_| invalid())?;
        *outgoing.headers_mut() = headers;
        let mut answer = Box::pin(connection.sender.send_request(outgoing));
        let mut moved = 0;
        let answer = loop {
            let polled = std::future::poll_fn(|cx| {
                connection.drive(cx);
                answer.as_mut().poll(cx)
            });
            match tokio::time::timeout(limit, polled).await {
                Ok(result) => break result.map_err(connect::of_hyper)?,
                Err(_) => {
                    // As long as something is sent, nothing is late.
                    let now = sent.as_ref().map_or(0, |sent| sent.load(Ordering::Relaxed));
                    if now == moved {
                        return Err(TransportError::AnswerTimeout);
                    }
                    moved = now;
                }
            }
        };
        drop(sent);
        let (mut head, incoming) = answer.into_parts();
        let link = Some(Link { connection, key: key(&url), kept: Arc::downgrade(&self.kept) });
        let reason = head.extensions.remove();
        Ok(Response { status: head.status, headers: head.headers, reason, url, body: Body { incoming, link } })
    }
}

/// The statuses Go follows.
fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn key(url: &Url) -> String {
    format!("{}://{}", url.scheme(), url.dial_address())
}

/// Connections without work, the latest last.
#[derive(Default)]
struct Kept(Mutex<Vec<(String, Instant, Connection)>>);

impl Kept {
    fn take(&self, url: &Url) -> Option<Connection> {
        let key = key(url);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One look tells most of those that the peer has closed.
        let mut cx = Context::from_waker(Waker::noop());
        kept.retain_mut(|(_, since, connection)| {
            connection.drive(&mut cx);
            since.elapsed() < KEPT && connection.is_usable()
        });
        let at = kept.iter().rposition(|(known, _, _)| *known == key)?;
        Some(kept.remove(at).2)
    }

    fn put(&self, key: String, connection: Connection) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST_KEPT {
            kept.remove(0);
        }
        kept.push((key, Instant::now(), connection));
    }
}

/// A connection whose answer is being read.
struct Link {
    connection: Connection,
    key: String,
    kept: Weak<Kept>,
}

/// A body that is still coming. Dropping it closes the connection.
pub(crate) struct Body {
    incoming: Incoming,
    link: Option<Link>,
}

impl Body {
    /// The next piece; an error when none comes in time.
    pub(crate) async fn piece(&mut self, pace: &mut Pace) -> Option<Result<Bytes, TransportError>> {
        let length = |piece: &Option<Result<Bytes, _>>| piece.iter().flatten().map(Bytes::len).sum();
        pace.wait(std::future::poll_fn(|cx| self.poll_piece(cx)), length).await.unwrap_or_else(|slow| Some(Err(slow)))
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, TransportError>>> {
        loop {
            if let Some(link) = &mut self.link {
                link.connection.drive(cx);
            }
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                None => {
                    self.give_back(cx);
                    return Poll::Ready(None);
                }
                Some(Err(error)) => {
                    self.link = None;
                    let error = match connect::of_hyper(error) {
                        TransportError::Closed => TransportError::ClosedEarly,
                        other => other,
                    };
                    return Poll::Ready(Some(Err(error)));
                }
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data()
                        && !bytes.is_empty()
                    {
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
            }
        }
    }

    fn give_back(&mut self, cx: &mut Context<'_>) {
        let Some(mut link) = self.link.take() else { return };
        link.connection.drive(cx);
        if link.connection.is_usable()
            && let Some(kept) = link.kept.upgrade()
        {
            kept.put(link.key, link.connection);
        }
    }

    /// The whole body, or as much of it as `most` bytes and whether that was all.
    pub(crate) async fn beginning(&mut self, most: usize, mut pace: Pace) -> Result<(Bytes, bool), TransportError> {
        let mut all = BytesMut::new();
        while let Some(piece) = self.piece(&mut pace).await {
            let piece = piece?;
            let room = most - all.len();
            if piece.len() > room {
                all.extend_from_slice(&piece[..room]);
                return Ok((all.freeze(), false));
            }
            all.extend_from_slice(&piece);
        }
        Ok((all.freeze(), true))
    }
}
