//! A small HTTP server whose every byte is decided by a test: it records what it is asked, and can answer with bodies that
//! are too short, endless, or held back until the test lets them go.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::net::Shutdown as Direction;

use crate::{LIMIT, PAUSE};

/// Longest request body that is taken.
const MAX_BODY: usize = 64 << 20;

/// What was asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// Method.
    pub method: String,
    /// Path, without query.
    pub path: String,
    /// What follows `?`, as it came.
    pub query: String,
    /// Headers; names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Body.
    pub body: Vec<u8>,
}

impl Request {
    /// A header, empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The first value of a parameter of the query, percent-decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        parameters(&self.query).into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Method, path and query in one line.
    pub fn line(&self) -> String {
        let question = if self.query.is_empty() { "" } else { "?" };
        format!("{} {}{question}{}", self.method, self.path, self.query)
    }
}

/// All parameters of a query or form, percent-decoded.
pub fn parameters(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decoded(k), decoded(v))).collect()
}

fn decoded(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match (byte, code.and_then(|code| u8::from_str_radix(code, 16).ok())) {
            (b'%', Some(code)) => {
                out.push(code);
                rest = &after[2..];
                continue;
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(byte),
        }
        rest = after;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// How the body of an answer comes.
#[derive(Debug, Clone)]
pub enum Body {
    /// As it should.
    Whole(Vec<u8>),
    /// Cut off after `sent`, though `length` bytes were announced.
    Truncated {
        /// What is sent before the connection is closed.
        sent: Vec<u8>,
        /// What `Content-Length` says.
        length: usize,
    },
    /// The same bytes again and again until the client has enough, which the gate counts; no length is announced.
    Endless {
        /// What is sent, at most a hundred times a second.
        bytes: Vec<u8>,
        /// Counts it as waiting while it is sent.
        gate: Gate,
    },
    /// Piece by piece, with a pause before each.
    Slow {
        /// The whole body.
        bytes: Vec<u8>,
        /// Length of a piece.
        piece: usize,
        /// The pause.
        pause: Duration,
    },
    /// The first `before` bytes at once, the rest when the gate is opened.
    Held {
        /// The whole body.
        bytes: Vec<u8>,
        /// How many bytes are sent before the gate.
        before: usize,
        /// What the rest waits for.
        gate: Gate,
    },
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers beside `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Body,
}

impl Answer {
    /// Status and body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: Body::Whole(body.into()) }
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With another body.
    #[must_use]
    pub fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}

/// Holds bodies back until a test opens it; knows how many wait at it.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Debug, Default)]
struct GateState {
    is_open: bool,
    waiting: usize,
    most: usize,
    given_up: usize,
}

impl Gate {
    /// Lets everything through, now and later.
    pub fn open(&self) {
        locked(&self.0.0).is_open = true;
        self.0.1.notify_all();
    }

    /// Waits until `count` bodies are held back.
    pub fn wait_for(&self, count: usize) -> Result<()> {
        self.until(&format!("{count} held downloads"), |state| state.waiting >= count)
    }

    /// Waits until `count` clients have closed their connections instead of waiting on.
    pub fn wait_for_given_up(&self, count: usize) -> Result<()> {
        self.until(&format!("{count} ended downloads"), |state| state.given_up >= count)
    }

    /// The most bodies that were held back at once.
    pub fn most(&self) -> usize {
        locked(&self.0.0).most
    }

    fn until(&self, what: &str, condition: impl Fn(&GateState) -> bool) -> Result<()> {
        let begun = Instant::now();
        let mut state = locked(&self.0.0);
        while !condition(&state) {
            ensure!(begun.elapsed() < LIMIT, "{what} did not come about: {state:?}");
            state = self.0.1.wait_timeout(state, LIMIT).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Waits for the gate, looking every now and then whether the client is there; false if it is not.
    fn pass(&self, stream: &TcpStream, is_there_still: impl Fn(&TcpStream) -> bool) -> bool {
        let mut state = locked(&self.0.0);
        state.waiting += 1;
        state.most = state.most.max(state.waiting);
        self.0.1.notify_all();
        let mut is_there = true;
        while !state.is_open && is_there {
            drop(self.0.1.wait_timeout(state, PAUSE).unwrap_or_else(PoisonError::into_inner));
            is_there = is_there_still(stream);
            state = locked(&self.0.0);
        }
        state.waiting -= 1;
        state.given_up += usize::from(!is_there);
        self.0.1.notify_all();
        is_there
    }
}

/// Whether the client still has its connection.
fn is_open(stream: &TcpStream) -> bool {
    let _ = stream.set_nonblocking(true);
    let seen = stream.peek(&mut [0; 1]);
    let _ = stream.set_nonblocking(false);
    match seen {
        Ok(count) => count > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// What decides the answers.
pub type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// A running server; ends when dropped.
pub struct Server {
    listener: Arc<TcpListener>,
    state: Arc<State>,
    address: String,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct State {
    handler: Box<Handler>,
    requests: Mutex<Vec<Request>>,
    streams: Mutex<Vec<TcpStream>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Answers on `listener` as `handler` says.
    pub fn start(listener: TcpListener, handler: Box<Handler>) -> Result<Self> {
        let address = listener.local_addr()?.to_string();
        let listener = Arc::new(listener);
        let state = Arc::new(State { handler, requests: Mutex::default(), streams: Mutex::default() });
        let (accepting, shared) = (listener.clone(), state.clone());
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                if let Ok(copy) = stream.try_clone() {
                    locked(&shared.streams).push(copy);
                }
                let shared = shared.clone();
                // Ends with its connection.
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Ok(Self { listener, state, address, thread: Some(thread) })
    }

    /// `ADDRESS:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Everything that was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        locked(&self.state.requests).clone()
    }

    /// Everything that was asked so far, as lines, and forgets it.
    pub fn taken_lines(&self) -> Vec<String> {
        std::mem::take(&mut *locked(&self.state.requests)).iter().map(Request::line).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes the thread that accepts.
        let _ = rustix::net::shutdown(&*self.listener, Direction::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for stream in locked(&self.state.streams).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Serves one connection to its end; what breaks it ends it.
fn serve(stream: TcpStream, state: &State) {
    let _ = stream.set_write_timeout(Some(LIMIT));
    let _ = stream.set_nodelay(true);
    let Ok(reading) = stream.try_clone() else { return };
    let mut reader = BufReader::new(reading);
    while let Ok(Some(request)) = read_request(&mut reader, &stream) {
        locked(&state.requests).push(request.clone());
        let answer = (state.handler)(&request);
        if !matches!(write_answer(&stream, &request, answer), Ok(true)) {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn read_request(reader: &mut impl BufRead, mut stream: &TcpStream) -> Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = words.next().zip(words.next()).context("no request line")?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (method, path, query) = (method.to_owned(), path.to_owned(), query.to_owned());
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        // The same name again continues the list.
        let known: &mut String = headers.entry(name.to_ascii_lowercase()).or_default();
        known.push_str(if known.is_empty() { "" } else { ", " });
        known.push_str(value.trim());
    }
    if headers.get("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let chunked = headers.get("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    let body = if chunked {
        let body = crate::http::read_chunks(reader)?;
        ensure!(body.len() <= MAX_BODY, "the body is too long");
        body
    } else {
        let length = headers.get("content-length").map_or(Ok(0), |length| length.parse::<usize>())?;
        ensure!(length <= MAX_BODY, "the body is too long");
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        body
    };
    Ok(Some(Request { method, path, query, headers, body }))
}

/// Writes an answer; whether the connection can be used again.
fn write_answer(mut stream: &TcpStream, request: &Request, answer: Answer) -> Result<bool> {
    let mut head = format!("HTTP/1.1 {} Status\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let length = match &answer.body {
        Body::Whole(bytes) | Body::Held { bytes, .. } | Body::Slow { bytes, .. } => Some(bytes.len()),
        Body::Truncated { length, .. } => Some(*length),
        Body::Endless { .. } => None,
    };
    let has_length = answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    match length {
        Some(length) if !has_length => head.push_str(&format!("Content-Length: {length}\r\n")),
        Some(_) => {}
        None => head.push_str("Connection: close\r\n"),
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return Ok(true);
    }
    match answer.body {
        Body::Whole(bytes) => stream.write_all(&bytes)?,
        Body::Truncated { sent, .. } => {
            stream.write_all(&sent)?;
            return Ok(false);
        }
        Body::Endless { bytes, gate } => {
            gate.pass(stream, |mut stream| stream.write_all(&bytes).is_ok() && is_open(stream));
            return Ok(false);
        }
        Body::Slow { bytes, piece, pause } => {
            for piece in bytes.chunks(piece.max(1)) {
                std::thread::sleep(pause);
                stream.write_all(piece)?;
            }
        }
        Body::Held { bytes, before, gate } => {
            let (first, rest) = bytes.split_at(before.min(bytes.len()));
            stream.write_all(first)?;
            if !gate.pass(stream, is_open) {
                return Ok(false);
            }
            stream.write_all(rest)?;
        }
    }
    Ok(true)
}

/// A lock whose holder cannot leave anything half done.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn queries_are_decoded() {
        let all = parameters("scope=repository%3Aa%2Fb%3Apull&x=1+2&y");
        let all: Vec<(&str, &str)> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(all, [("scope", "repository:a/b:pull"), ("x", "1 2"), ("y", "")]);
    }

    #[test]
    fn answers_as_it_is_told_and_remembers_what_it_was_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server::start(
            listener,
            Box::new(|request| match request.path.as_str() {
                "/cut" => Answer::new(200, "").body(Body::Truncated { sent: b"abc".to_vec(), length: 9 }),
                _ => Answer::new(201, "done").header("X-Test", "1"),
            }),
        )
        .unwrap();
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(b"POST /a?b=c HTTP/1.1\r\nContent-Length: 2\r\n\r\nhiGET /cut HTTP/1.1\r\n\r\n").unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        assert!(all.starts_with("HTTP/1.1 201 Status\r\nX-Test: 1\r\nContent-Length: 4\r\n\r\ndoneHTTP/1.1 200"));
        assert!(all.ends_with("Content-Length: 9\r\n\r\nabc"));
        assert_eq!(server.requests()[0].body, b"hi");
        assert_eq!(server.taken_lines(), ["POST /a?b=c", "GET /cut"]);
    }
}
