//! The HTTP server: one task per connection, one table of routes, the headers every answer has.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dockerd_core::Services;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::connection::{self, Socket};
use crate::context::Context;
use crate::error::ApiError;
use crate::extract::Query;
use crate::reply::{self, Reply};
use crate::router;
use crate::routes::{self, Found};
use crate::tls::TlsSocket;
use crate::version::{self, Refused};

/// Whether the daemon has experimental features on.
const EXPERIMENTAL: &str = "docker-experimental";

/// How long a client may take to agree on TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What the server needs to know besides the engine.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Version told in the `Server` header.
    pub version: String,
    /// `Docker-Experimental`.
    pub experimental: bool,
}

/// A socket that listens already.
pub enum Listener {
    /// A Unix socket.
    Unix(UnixListener),
    /// A TCP socket.
    Tcp(TcpListener),
    /// A TCP socket of which only TLS is spoken.
    Tls(TcpListener, TlsAcceptor),
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(listener) => listener.fmt(f),
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.fmt(f),
        }
    }
}

/// Shared by all connections.
#[derive(Debug)]
struct Server {
    engine: Arc<Services>,
    headers: HeaderMap,
    /// The same as text, for answers that are not hyper's.
    head: Arc<str>,
}

/// Serves `listeners` until `stop` turns true; connections that are open then are left to their tasks.
pub async fn serve(
    listeners: Vec<Listener>,
    engine: Arc<Services>,
    config: ServerConfig,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let headers = common_headers(&config)?;
    let head = headers.iter().map(|(name, value)| head_line(name.as_str(), value)).collect::<String>().into();
    let server = Arc::new(Server { engine, headers, head });
    let mut tasks = tokio::task::JoinSet::new();
    for listener in listeners {
        tasks.spawn(accept_all(listener, Arc::clone(&server)));
    }
    // A closed channel is a stop too.
    let _ = stop.wait_for(|stop| *stop).await;
    tasks.shutdown().await;
    Ok(())
}

fn common_headers(config: &ServerConfig) -> io::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let value = |text: String| HeaderValue::from_str(&text).map_err(io::Error::other);
    headers.insert("Api-Version", value(version::NEWEST.to_string())?);
    headers.insert(EXPERIMENTAL, value(config.experimental.to_string())?);
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    headers.insert("Server", value(format!("Docker/{} (linux)", config.version))?);
    Ok(headers)
}

/// A header as Go writes it: every word of its name with a capital.
fn head_line(name: &str, value: &HeaderValue) -> String {
    let word = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    let name: Vec<String> = name.split('-').map(word).collect();
    format!("{}: {}\r\n", name.join("-"), value.to_str().unwrap_or_default())
}

async fn accept_all(listener: Listener, server: Arc<Server>) {
    loop {
        let accepted = match &listener {
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| spawn(stream, &server)),
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                let _ = stream.set_nodelay(true);
                spawn(stream, &server);
            }),
            Listener::Tls(listener, acceptor) => listener.accept().await.map(|(stream, peer)| {
                let _ = stream.set_nodelay(true);
                let (server, acceptor) = (Arc::clone(&server), acceptor.clone());
                tokio::spawn(async move {
                    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => spawn(TlsSocket(stream), &server),
                        Ok(Err(error)) => tracing::info!(%peer, %error, "TLS handshake error"),
                        Err(_) => tracing::info!(%peer, "TLS handshake took too long"),
                    }
                });
            }),
        };
        if let Err(error) = accepted {
            // Out of descriptors, for instance: the next connection may be luckier.
            tracing::warn!(%error, "connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn spawn(stream: impl Socket, server: &Arc<Server>) {
    let server = Arc::clone(server);
    tokio::spawn(async move {
        connection::serve(stream, |request| {
            let server = Arc::clone(&server);
            async move { server.answer(request).await }
        })
        .await;
    });
}

impl Server {
    /// Answers, and notes at debug level what was answered.
    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let begun = Instant::now();
        let noted = tracing::enabled!(tracing::Level::DEBUG).then(|| (request.method().clone(), request.uri().clone()));
        let response = self.dispatch(request).await;
        if let Some((method, uri)) = noted {
            let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            let (url, status) = (uri.to_string(), response.status().as_u16());
            tracing::debug!(%method, url, status, micros, "handled {method} request");
        }
        response
    }

    async fn dispatch(&self, request: Request<Incoming>) -> Reply {
        let decoded = percent_encoding::percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned();
        if let Some(cleaned) = router::cleaned(&decoded) {
            return reply::moved(&cleaned, request.uri().query());
        }
        if request.method() == Method::OPTIONS {
            return self.with_headers(reply::empty(StatusCode::OK));
        }
        let asked = version::split(&decoded);
        let found = routes::find(request.method(), asked.path);
        if matches!(found, Found::Nothing) {
            // No route, so none of the headers that routes add.
            return Reply::from(ApiError::new(StatusCode::NOT_FOUND, "page not found"));
        }
        match version::check(&asked) {
            Ok(()) => {}
            Err(refused) => {
                let answer = match refused {
                    Refused::TooOld(text) => reply::old_error(&text),
                    Refused::TooNew(text) => Reply::from(ApiError::bad_request(text)),
                };
                let mut answer = self.with_headers(answer);
                // Refused before the stock daemon adds this one.
                answer.headers_mut().remove(EXPERIMENTAL);
                return answer;
            }
        }
        let answer = match found {
            Found::Handler(handler, names) => {
                let query = Query::parse(request.uri().query());
                handler(Context {
                    engine: Arc::clone(&self.engine),
                    version: asked.version,
                    query,
                    names,
                    request,
                    head: Arc::clone(&self.head),
                })
                .await
            }
            Found::NotBuilt(what) => Err(ApiError::not_built(what)),
            Found::NoSwarm => Err(ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
            )),
            Found::NotInSwarm => {
                Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "This node is not part of a swarm"))
            }
            Found::Nothing => Err(ApiError::new(StatusCode::NOT_FOUND, "page not found")),
        };
        self.with_headers(answer.unwrap_or_else(Reply::from))
    }

    fn with_headers(&self, mut response: Reply) -> Reply {
        let headers = response.headers_mut();
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
        response
    }
}
