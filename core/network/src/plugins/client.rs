//! Calls of a plugin: one HTTP request each, on a connection of its own.

use std::cell::OnceCell;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;

use super::answer::Answer;
use super::attempts::Patience;
use super::{PluginError, tls};
use crate::error::errno_text;

/// What plugins answer to.
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";
/// Whose socket it is, in URLs, where there is no host.
const SOCKET_HOST: &str = "plugin.moby.localhost";
/// Largest answer, in bytes.
const LARGEST: usize = 1 << 20;

/// Where a plugin is.
#[derive(Debug, Clone)]
pub(crate) enum PluginAddress {
    /// On a socket.
    Unix(PathBuf),
    /// At `host:port`.
    Tcp {
        /// Both.
        authority: String,
        /// `None`: in the open.
        tls: Option<Arc<ClientConfig>>,
    },
}

/// A plugin that can be called.
#[derive(Debug)]
pub(crate) struct PluginClient {
    address: PluginAddress,
    runtime: Handle,
}

/// Why one attempt failed.
enum Failure {
    /// Nobody was there, or he broke off before he answered.
    Again(String),
    /// Another attempt would be no better.
    Final(String),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl PluginClient {
    pub(super) fn new(address: PluginAddress, runtime: Handle) -> Self {
        Self { address, runtime }
    }

    /// Calls `method`; the answer is read into what is named `target`. Blocking.
    pub(crate) fn call(
        &self,
        method: &'static str,
        request: Option<&Value>,
        target: &str,
        patience: Patience,
    ) -> Result<Answer, PluginError> {
        let body = request.map(|value| Bytes::from(value.to_string())).unwrap_or_default();
        let (status, body) = self.exchange(method, &body, patience)?;
        if status == StatusCode::OK {
            return Answer::parse(&body, target);
        }
        let told = Answer::parse(&body, target).and_then(|answer| answer.text("Err")).unwrap_or_default();
        let text = if told.is_empty() { String::from_utf8_lossy(&body).into_owned() } else { told };
        Err(PluginError::Status { method, status: status.as_u16(), text })
    }

    fn exchange(
        &self,
        method: &'static str,
        body: &Bytes,
        patience: Patience,
    ) -> Result<(StatusCode, Bytes), PluginError> {
        let mut attempts = patience.attempts();
        loop {
            let attempt = async { tokio::time::timeout(patience.limit(), self.attempt(method, body.clone())).await };
            let (why, pause) = match self.runtime.block_on(attempt) {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(Failure::Again(why))) => (why, attempts.pause()),
                Ok(Err(Failure::Final(why))) => (why, None),
                Err(_) => {
                    ("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned(), None)
                }
            };
            let error = PluginError::Transport { url: self.url(method), why };
            let Some(pause) = pause else { return Err(error) };
            tracing::warn!(%error, "a plugin is not reached, and tried again in {} s", pause.as_secs());
            std::thread::sleep(pause);
        }
    }

    fn url(&self, method: &str) -> String {
        match &self.address {
            PluginAddress::Unix(_) => format!("http://{SOCKET_HOST}/{method}"),
            PluginAddress::Tcp { authority, tls } => {
                format!("http{}://{authority}/{method}", if tls.is_some() { "s" } else { "" })
            }
        }
    }

    async fn attempt(&self, method: &str, body: Bytes) -> Result<(StatusCode, Bytes), Failure> {
        let stream = self.connect().await.map_err(Failure::Again)?;
        let broken = |error: &hyper::Error| Failure::Again(hyper_text(error));
        let handshake = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| broken(&error))?;
        let host = match &self.address {
            PluginAddress::Unix(_) => SOCKET_HOST,
            PluginAddress::Tcp { authority, .. } => authority,
        };
        let request = Request::builder().method(Method::POST).uri(format!("/{method}")).header(HOST, host);
        let request = request.header(ACCEPT, MEDIA_TYPE).header(CONTENT_TYPE, MEDIA_TYPE).body(Full::new(body));
        let request = request.map_err(|error| Failure::Final(error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST).collect().await;
            let body = body.map_err(|error| match error.downcast_ref::<hyper::Error>() {
                Some(error) => Failure::Final(hyper_text(error)),
                None => Failure::Final(format!("the answer has more than {LARGEST} bytes")),
            })?;
            Ok((status, body.to_bytes()))
        };
        // The connection's end is news of the exchange, which does not always hear why.
        let ended = OnceCell::new();
        let connection = async {
            if let Err(error) = connection.await {
                let _ = ended.set(hyper_text(&error));
            }
            std::future::pending::<std::convert::Infallible>().await
        };
        let outcome = tokio::select! {
            outcome = exchange => outcome,
            never = connection => match never {},
        };
        outcome.map_err(|failure| match (failure, ended.into_inner()) {
            (Failure::Again(_), Some(end)) => Failure::Again(end),
            (failure, _) => failure,
        })
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, String> {
        match &self.address {
            PluginAddress::Unix(path) => {
                let failed =
                    |error: io::Error| format!("dial unix {}: connect: {}", path.display(), errno_text(&error));
                Ok(Box::new(UnixStream::connect(path).await.map_err(failed)?))
            }
            PluginAddress::Tcp { authority, tls } => {
                let failed = |error: io::Error| format!("dial tcp {authority}: connect: {}", errno_text(&error));
                let stream = TcpStream::connect(authority.as_str()).await.map_err(failed)?;
                match tls {
                    None => Ok(Box::new(stream)),
                    Some(config) => Ok(Box::new(tls::handshake(stream, authority, config.clone()).await?)),
                }
            }
        }
    }
}

/// What hyper complains about, in Go's words where they are known.
fn hyper_text(error: &hyper::Error) -> String {
    use std::error::Error;
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(inner) = inner.downcast_ref::<io::Error>() {
            return tls::text(inner).unwrap_or_else(|| errno_text(inner));
        }
        source = inner.source();
    }
    let ended = error.is_incomplete_message() || error.is_canceled() || error.is_closed();
    if ended { "EOF".to_owned() } else { error.to_string() }
}
