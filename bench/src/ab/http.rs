//! HTTP/1.1 over a Unix socket, as little of it as a benchmark needs: one connection that is kept, one request at a time,
//! plain blocking calls, so that the client costs the same few microseconds with every daemon.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Longer than anything a healthy daemon does here.
const LIMIT: Duration = Duration::from_secs(300);
/// Bytes of a file sent at a time.
const PIECE: usize = 256 << 10;
/// What the daemons are told about credentials at registries, `{}` in base64: none, but stock wants it said.
const NO_CREDENTIALS: &str = "X-Registry-Auth: e30=\r\n";

/// What is sent with a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Body<'a> {
    /// Nothing.
    None,
    /// A JSON document.
    Json(&'a Value),
    /// A tar archive.
    Tar(&'a [u8]),
    /// A tar archive in a file.
    File(&'a Path),
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Status code.
    pub(crate) status: u16,
    /// The whole body.
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The body as a JSON document.
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    /// The body as text, for messages.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }
}

/// A client with one kept connection.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    connection: Option<BufReader<UnixStream>>,
}

impl Client {
    /// A client of the daemon at `socket`; connects with the first request.
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), connection: None }
    }

    /// Sends a request and reads the whole reply, whatever its status.
    pub(crate) fn send(&mut self, method: &str, path: &str, body: Body<'_>) -> Result<Reply> {
        let request = encode(method, path, body)?;
        let file = if let Body::File(path) = body { Some(path) } else { None };
        let kept = self.connection.is_some();
        match self.exchange(&request, file) {
            // A kept connection may have been closed by the daemon meanwhile; a new one is worth one more try.
            Err(error) if kept && is_closed(&error) => self.exchange(&request, file),
            other => other,
        }
        .with_context(|| format!("{method} {path}"))
    }

    fn exchange(&mut self, request: &[u8], file: Option<&Path>) -> Result<Reply> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.socket)?,
        };
        connection.get_mut().write_all(request)?;
        if let Some(path) = file {
            send_file(connection.get_mut(), path)?;
        }
        let (reply, keep) = read_reply(&mut connection)?;
        self.connection = keep.then_some(connection);
        Ok(reply)
    }
}

fn connect(socket: &Path) -> Result<BufReader<UnixStream>> {
    let stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(BufReader::with_capacity(64 << 10, stream))
}

fn send_file(stream: &mut UnixStream, path: &Path) -> Result<()> {
    let (mut file, mut buffer) = (File::open(path)?, vec![0; PIECE]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

fn is_closed(error: &anyhow::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
}

/// The request as one piece, so that it is one system call; without the content of a file.
fn encode(method: &str, path: &str, body: Body<'_>) -> Result<Vec<u8>> {
    let tar = "Content-Type: application/x-tar\r\n";
    let (kind, bytes) = match body {
        Body::None => (NO_CREDENTIALS, Vec::new()),
        Body::Json(document) => ("Content-Type: application/json\r\n", serde_json::to_vec(document)?),
        Body::Tar(bytes) => (tar, bytes.to_vec()),
        Body::File(_) => (tar, Vec::new()),
    };
    let length = match body {
        Body::File(path) => path.metadata()?.len(),
        _ => bytes.len() as u64,
    };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: docker\r\n{kind}Content-Length: {length}\r\n\r\n");
    let mut request = head.into_bytes();
    request.extend_from_slice(&bytes);
    Ok(request)
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy)]
enum Framing {
    Length(u64),
    Chunked,
    UntilClosed,
}

fn read_reply(connection: &mut impl BufRead) -> Result<(Reply, bool)> {
    let status_line = read_line(connection)?;
    let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status: u16 = status.with_context(|| format!("no status line: {status_line:?}"))?;
    let mut framing = Framing::UntilClosed;
    let mut keep = true;
    loop {
        let line = read_line(connection)?;
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else { bail!("no header: {line:?}") };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => framing = Framing::Length(value.parse()?),
            "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => framing = Framing::Chunked,
            "connection" if value.eq_ignore_ascii_case("close") => keep = false,
            _ => {}
        }
    }
    if matches!(status, 204 | 304) {
        framing = Framing::Length(0);
    }
    let mut body = Vec::new();
    match framing {
        Framing::Length(length) => {
            ensure!(connection.take(length).read_to_end(&mut body)? as u64 == length, "the body is cut off");
        }
        Framing::Chunked => read_chunks(connection, &mut body)?,
        Framing::UntilClosed => {
            connection.read_to_end(&mut body)?;
            keep = false;
        }
    }
    Ok((Reply { status, body }, keep))
}

fn read_chunks(connection: &mut impl BufRead, body: &mut Vec<u8>) -> Result<()> {
    loop {
        let line = read_line(connection)?;
        let size = line.split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(size.trim(), 16).with_context(|| format!("no chunk size: {line:?}"))?;
        if size == 0 {
            // Trailers end with an empty line.
            while !read_line(connection)?.is_empty() {}
            return Ok(());
        }
        ensure!(connection.by_ref().take(size).read_to_end(body)? as u64 == size, "a chunk is cut off");
        ensure!(read_line(connection)?.is_empty(), "no line end after a chunk");
    }
}

fn read_line(connection: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    if connection.read_line(&mut line)? == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Reply, bool) {
        read_reply(&mut text.as_bytes()).unwrap()
    }

    #[test]
    fn a_body_of_known_length_keeps_the_connection() {
        let (reply, keep) = read("HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}rest");
        assert_eq!((reply.status, reply.body.as_slice(), keep), (201, b"{}".as_slice(), true));
    }

    #[test]
    fn chunks_are_put_together() {
        let (reply, keep) = read(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\n\r\n",
        );
        assert_eq!((reply.text().as_str(), keep), ("abc0123456789abcdef", true));
    }

    #[test]
    fn a_body_without_length_ends_with_the_connection() {
        let (reply, keep) = read("HTTP/1.1 200 OK\r\n\r\nuntil the end");
        assert_eq!((reply.text().as_str(), keep), ("until the end", false));
    }

    #[test]
    fn no_content_has_no_body() {
        let (reply, keep) = read("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!((reply.body.len(), keep), (0, true));
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        ] {
            assert!(read_reply(&mut text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
