//! From a URL to a connection that speaks HTTP/1.1: name, socket, proxy, TLS. Nothing is spawned: a connection works while
//! somebody waits for it and ends when it is dropped.
//!
//! HTTP/1.1 only, as the stock daemon; ranges that are fetched at once then have a socket each.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::Limits;
use crate::error::TransportError;
use crate::proxy::Proxy;
use crate::tls;
use crate::url::Url;

/// Body of a request.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, io::Error>;
/// Longest answer of a proxy to `CONNECT`, in bytes.
const LONGEST_CONNECT: usize = 16 * 1024;

/// Most addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;

/// Anything bytes go through.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type AnyStream = Box<dyn Stream>;
type Driver = Pin<Box<http1::Connection<TokioIo<AnyStream>, RequestBody>>>;

/// A connection. [`Connection::drive`] must be polled for anything to move.
pub(crate) struct Connection {
    pub(crate) sender: http1::SendRequest<RequestBody>,
    driver: Option<Driver>,
}

impl Connection {
    /// Lets the connection work; the end of the connection is no news.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && driver.as_mut().poll(cx).is_ready()
        {
            self.driver = None;
        }
    }

    /// Whether another request may be sent.
    pub(crate) fn is_usable(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }
}

/// Opens a connection to `url`, through `proxy` when there is one.
pub(crate) async fn open(
    url: &Url,
    proxy: Option<&Proxy>,
    tls: &Arc<ClientConfig>,
    limits: &Limits,
) -> Result<Connection, TransportError> {
    let stream = match proxy {
        None => dial(url, limits.connect).await?,
        Some(proxy) => through(url, proxy, limits).await.map_err(|error| match error {
            refused @ TransportError::ProxyRefused(_) => refused,
            other => TransportError::Proxy(Box::new(other)),
        })?,
    };
    let stream = if url.tls { handshake(stream, url, tls, limits.handshake).await? } else { stream };
    let (sender, driver) = http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(of_hyper)?;
    Ok(Connection { sender, driver: Some(Box::pin(driver)) })
}

async fn dial(url: &Url, limit: Duration) -> Result<AnyStream, TransportError> {
    let timed_out = |_| TransportError::ConnectTimeout(url.dial_address());
    let lookup = || TransportError::Lookup(url.host.clone());
    let found = tokio::time::timeout(limit, tokio::net::lookup_host((url.host.as_str(), url.port())));
    let addresses: Vec<_> = found.await.map_err(timed_out)?.map_err(|_| lookup())?.take(MOST_ADDRESSES).collect();
    // Each address has its share of the time, so that one that swallows everything does not hide the next.
    let share = limit.checked_div(u32::try_from(addresses.len()).unwrap_or(1)).unwrap_or(limit);
    // Go tells of the first address that failed.
    let mut failed = None;
    for address in addresses {
        let error = match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Requests are small and wait for their answer.
                let _ = stream.set_nodelay(true);
                return Ok(Box::new(stream));
            }
            Ok(Err(cause)) => TransportError::Connect { address: address.to_string(), cause },
            Err(_) => TransportError::ConnectTimeout(address.to_string()),
        };
        failed.get_or_insert(error);
    }
    Err(failed.unwrap_or_else(lookup))
}

/// A stream to the proxy, on which `https` URLs have a tunnel already.
async fn through(url: &Url, proxy: &Proxy, limits: &Limits) -> Result<AnyStream, TransportError> {
    let mut stream = dial(&proxy.url, limits.connect).await?;
    if proxy.url.tls {
        let tls = tls::checked(&[""; 0], &proxy.url.host).map_err(|error| TransportError::Tls(error.to_string()))?;
        stream = handshake(stream, &proxy.url, &tls, limits.handshake).await?;
    }
    if !url.tls {
        return Ok(stream);
    }
    let authorization = proxy.authorization.as_ref().map(|value| format!("Proxy-Authorization: {value}\r\n"));
    let target = url.dial_address();
    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n", authorization.unwrap_or_default());
    match tokio::time::timeout(limits.connect, tunnel(&mut stream, head.as_bytes())).await {
        Ok(result) => result.map(|()| stream),
        Err(_) => Err(TransportError::ConnectTimeout(proxy.url.dial_address())),
    }
}

async fn tunnel(stream: &mut AnyStream, head: &[u8]) -> Result<(), TransportError> {
    stream.write_all(head).await.map_err(TransportError::Io)?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the head belongs to TLS.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= LONGEST_CONNECT {
            return Err(TransportError::Http("malformed HTTP response".to_owned()));
        }
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(TransportError::ClosedEarly),
            Err(error) => return Err(TransportError::Io(error)),
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let line = text.lines().next().unwrap_or_default();
    match line.strip_prefix("HTTP/1.").and_then(|rest| rest.split_once(' ')) {
        Some((_, status)) if status.starts_with("200") => Ok(()),
        Some((_, status)) => {
            let words = status.split_once(' ').map_or(status, |(_, words)| words);
            Err(TransportError::ProxyRefused(crate::api_error::bounded(words).to_owned()))
        }
        None => Err(TransportError::Http("malformed HTTP response".to_owned())),
    }
}

async fn handshake(
    stream: AnyStream,
    url: &Url,
    tls: &Arc<ClientConfig>,
    limit: Duration,
) -> Result<AnyStream, TransportError> {
    let name = ServerName::try_from(url.host.clone());
    let name = name.map_err(|_| TransportError::InvalidUrl(url.host.clone()))?;
    let seen = Arc::new(Mutex::new(Vec::with_capacity(BEGINNING)));
    let first = Beginning { inner: stream, seen: Arc::clone(&seen), done: false };
    let connecting = TlsConnector::from(Arc::clone(tls)).connect(name, first);
    let error = match tokio::time::timeout(limit, connecting).await {
        Ok(Ok(stream)) => return Ok(Box::new(stream)),
        Ok(Err(error)) => error,
        Err(_) => return Err(TransportError::HandshakeTimeout),
    };
    if *seen.lock().unwrap_or_else(PoisonError::into_inner) == b"HTTP/" {
        return Err(TransportError::PlainAnswer);
    }
    Err(match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(inner) => TransportError::Tls(tls::handshake_text(inner, &url.host)),
        None if error.kind() == io::ErrorKind::UnexpectedEof => TransportError::Closed,
        None => TransportError::Io(error),
    })
}

/// Bytes that are enough to tell HTTP from TLS.
const BEGINNING: usize = 5;

/// A stream that remembers what it began with.
struct Beginning {
    inner: AnyStream,
    seen: Arc<Mutex<Vec<u8>>>,
    done: bool,
}

impl AsyncRead for Beginning {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if !self.done {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let missing = BEGINNING - seen.len();
            seen.extend(buf.filled()[before..].iter().take(missing));
            let done = seen.len() == BEGINNING;
            drop(seen);
            self.done = done;
        }
        polled
    }
}

impl AsyncWrite for Beginning {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// What hyper complains about, in our terms.
pub(crate) fn of_hyper(error: hyper::Error) -> TransportError {
    use std::error::Error;
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(inner) = inner.downcast_ref::<io::Error>() {
            return TransportError::Io(io::Error::new(inner.kind(), inner.to_string()));
        }
        source = inner.source();
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return TransportError::Closed;
    }
    TransportError::Http(error.to_string())
}
