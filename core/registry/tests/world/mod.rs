//! A pretend registry in this process, whose every answer a test decides, and the real one of Debian.

#![allow(dead_code, reason = "each test file uses its part")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dockerd_registry::{
    Access, Credentials, DownloadEvent, DownloadRequest, Registry, RegistryConfig, RegistryError, Repository,
};
use dockerd_types::{Digest, Reference};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use sha2::Digest as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

/// A body that may fail in the middle.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// A request as a test sees it.
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: Bytes,
    /// How many requests came before.
    pub(crate) count: usize,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// First and last byte of the range that is asked for.
    pub(crate) fn range(&self) -> Option<(u64, u64)> {
        let (first, last) = self.header("range").strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().unwrap(), last.parse().unwrap()))
    }
}

/// A server that ends with it.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Lines of method and path, in the order they came.
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
    _task: JoinSet<()>,
}

impl Server {
    /// Answers everything by `answer`.
    pub(crate) async fn start(answer: impl Fn(Asked) -> Answering + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (answer, lines) = (Arc::new(answer), Arc::clone(&seen));
        let count = Arc::new(AtomicUsize::new(0));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answer, lines, count) = (Arc::clone(&answer), Arc::clone(&lines), Arc::clone(&count));
                connections.spawn(serve(stream, answer, lines, count));
            }
        });
        Self { address, seen, _task: task }
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn requests(&self, beginning: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|line| line.starts_with(beginning)).count()
    }
}

async fn serve<A: Fn(Asked) -> Answering + Send + Sync + 'static>(
    stream: TcpStream,
    answer: Arc<A>,
    lines: Arc<Mutex<Vec<String>>>,
    count: Arc<AtomicUsize>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (answer, lines, count) = (Arc::clone(&answer), Arc::clone(&lines), Arc::clone(&count));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|all| all.to_bytes()).unwrap_or_default();
            let (method, path) = (head.method.to_string(), head.uri.path().to_owned());
            lines.lock().unwrap().push(format!("{method} {path}"));
            let count = count.fetch_add(1, Ordering::SeqCst);
            let query = head.uri.query().unwrap_or_default().to_owned();
            Ok::<_, Infallible>(answer(Asked { method, path, query, headers: head.headers, body, count }).await)
        }
    });
    // Clients that leave are part of the tests.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// An answer with a whole body.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Body> {
    respond(status, headers, Full::new(body.into()).map_err(|never| match never {}).boxed_unsync())
}

pub(crate) fn respond(status: u16, headers: &[(&str, &str)], body: Body) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body).unwrap()
}

/// A body of pieces, and what comes after them: an error, nothing for ever, or the end.
pub(crate) fn body_of(pieces: Vec<Bytes>, after: After) -> Body {
    let pieces = pieces.into_iter().map(|piece| Ok(Frame::data(piece)));
    let (send, receive) = tokio::sync::mpsc::channel(64);
    let stream = futures(receive);
    tokio::spawn(async move {
        for piece in pieces {
            if send.send(piece).await.is_err() {
                return;
            }
        }
        match after {
            After::End => {}
            After::Cut => drop(send.send(Err(std::io::Error::other("cut"))).await),
            After::Silence => send.closed().await,
            After::More(piece) => while send.send(Ok(Frame::data(piece.clone()))).await.is_ok() {},
            After::Trickle(piece, pause) => {
                while send.send(Ok(Frame::data(piece.clone()))).await.is_ok() {
                    tokio::time::sleep(pause).await;
                }
            }
        }
    });
    StreamBody::new(stream).boxed_unsync()
}

pub(crate) enum After {
    End,
    Cut,
    Silence,
    More(Bytes),
    /// The same again and again, with a pause after each.
    Trickle(Bytes, Duration),
}

fn futures<T: Send + 'static>(
    mut receive: tokio::sync::mpsc::Receiver<T>,
) -> impl futures_util::Stream<Item = T> + Send {
    futures_util::stream::poll_fn(move |cx| receive.poll_recv(cx))
}

/// A configuration for tests: no waiting between attempts, nothing of the machine's.
pub(crate) fn config() -> RegistryConfig {
    let mut config = RegistryConfig::new("test/1");
    config.certs_dirs.clear();
    config.limits.retry_second = Duration::from_millis(1);
    config.limits.idle = Duration::from_secs(30);
    config.limits.answer = Duration::from_secs(30);
    config
}

pub(crate) async fn repository(config: RegistryConfig, name: &str, access: Access) -> Repository {
    repository_as(config, name, access, None).await
}

pub(crate) async fn repository_as(
    config: RegistryConfig,
    name: &str,
    access: Access,
    credentials: Option<Credentials>,
) -> Repository {
    let reference = Reference::parse(name).unwrap();
    Registry::new(config).unwrap().repository(&reference, access, credentials).await.unwrap()
}

pub(crate) fn user(name: &str, password: &str) -> Credentials {
    Credentials { username: name.into(), password: password.into(), ..Credentials::default() }
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::sha256(&sha2::Sha256::digest(bytes).into())
}

/// Bytes that do not repeat.
pub(crate) fn blob(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_u32;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(next).collect()
}

/// What a download yielded.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) retries: Vec<u64>,
    pub(crate) restarts: usize,
    pub(crate) error: Option<RegistryError>,
}

/// Takes all of a download, whose `offset` first bytes are there.
pub(crate) async fn fetch(repository: &Repository, request: DownloadRequest, there: &[u8]) -> Fetched {
    let mut fetched = Fetched { bytes: there.to_vec(), ..Fetched::default() };
    let mut download = repository.download(request);
    while let Some(event) = download.next().await {
        match event {
            Ok(DownloadEvent::Data(bytes)) => fetched.bytes.extend_from_slice(&bytes),
            Ok(DownloadEvent::Restarted) => {
                fetched.bytes.clear();
                fetched.restarts += 1;
            }
            Ok(DownloadEvent::Retrying { seconds }) => fetched.retries.push(seconds),
            Err(error) => fetched.error = Some(error),
        }
    }
    fetched
}

pub(crate) fn request(bytes: &[u8], offset: u64) -> DownloadRequest {
    DownloadRequest { digest: digest(bytes), size: bytes.len() as u64, offset, urls: Vec::new() }
}

/// Debian's registry, on loopback.
pub(crate) struct Real {
    pub(crate) host: String,
    pub(crate) dir: tempfile::TempDir,
    _child: Child,
}

impl Real {
    /// Starts it; `more` is added to its configuration. None when it is not installed.
    pub(crate) async fn start(more: impl Fn(&Path) -> String) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let base = dir.path().display();
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {base}/data}}\n  delete: {{enabled: true}}\n{}http:\n  addr: 127.0.0.1:{port}\n{}",
            more(dir.path()).split("---\n").next().unwrap(),
            more(dir.path()).split("---\n").nth(1).unwrap_or_default(),
        );
        let file = dir.path().join("config.yml");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(registry_program());
        command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                assert!(std::env::var_os("CI").is_none(), "docker-registry is not installed");
                return None;
            }
            Err(error) => panic!("docker-registry: {error}"),
        };
        let host = format!("127.0.0.1:{port}");
        let up = async {
            while TcpStream::connect(&host).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), up).await.expect("the registry listens");
        Some(Self { host, dir, _child: child })
    }
}

/// A blob in memory that can be sent.
pub(crate) struct Memory(pub(crate) Bytes);

impl dockerd_registry::BlobSource for Memory {
    fn open(
        &self,
        offset: u64,
    ) -> Pin<Box<dyn Future<Output = std::io::Result<dockerd_registry::BlobReader>> + Send + '_>> {
        let rest = self.0.slice(usize::try_from(offset).unwrap()..);
        Box::pin(async move { Ok(Box::pin(std::io::Cursor::new(rest)) as dockerd_registry::BlobReader) })
    }
}

/// Sends a request on to `target`.
pub(crate) async fn forward(target: &str, asked: Asked) -> Response<Body> {
    let stream = TcpStream::connect(target).await.unwrap();
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(driver);
    let mut request = Request::new(Full::new(asked.body));
    *request.method_mut() = asked.method.parse().unwrap();
    let query = if asked.query.is_empty() { String::new() } else { format!("?{}", asked.query) };
    *request.uri_mut() = format!("{}{query}", asked.path).parse().unwrap();
    *request.headers_mut() = asked.headers;
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    Response::from_parts(head, body.map_err(std::io::Error::other).boxed_unsync())
}

/// A proxy whose every tunnel ends at `target`.
pub(crate) async fn tunnel(target: String) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let lines = Arc::clone(&seen);
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (target, lines) = (target.clone(), Arc::clone(&lines));
            connections.spawn(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let line = String::from_utf8_lossy(&head).lines().next().unwrap().to_owned();
                lines.lock().unwrap().push(line);
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mut end = TcpStream::connect(&target).await.unwrap();
                // Clients that leave are part of the tests.
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut end).await;
            });
        }
    });
    Server { address, seen, _task: task }
}

/// An authority nobody else knows.
pub(crate) struct Authority {
    pub(crate) pem: String,
    cert: rcgen::Certificate,
    key: rcgen::KeyPair,
}

pub(crate) fn authority() -> Authority {
    authority_for(&[])
}

/// An authority that is the server of `names` too, as `openssl req -x509` makes it.
pub(crate) fn authority_for(names: &[&str]) -> Authority {
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "authority of a test");
    let cert = params.self_signed(&key).unwrap();
    Authority { pem: cert.pem(), cert, key }
}

impl Authority {
    pub(crate) fn key(&self) -> String {
        self.key.serialize_pem()
    }

    /// Certificate and key for `name` and `registry.example`.
    pub(crate) fn issue(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec![name.to_owned(), "registry.example".to_owned()];
        let cert = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &self.cert, &self.key).unwrap();
        (cert.pem(), key.serialize_pem())
    }
}

/// Debian's registry: installed, or unpacked into the cache (`cargo xtask test` does that).
fn registry_program() -> std::path::PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(std::path::PathBuf::from);
    let cache = cache.or_else(|| Some(std::path::PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let unpacked = cache.map(|cache| cache.join("dockerd-rs/packages/docker-registry/usr/bin/docker-registry"));
    unpacked.filter(|path| path.exists()).unwrap_or_else(|| "docker-registry".into())
}
