//! HTTP on a Unix socket or any other stream, nothing hidden: what goes out is what the caller wrote, what comes back is every header and byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::LIMIT;

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers in their order; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, without chunk framing.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header, empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON ({}): {}", self.status, self.text()))
    }

    /// `message` of an error body; the whole body if it is none.
    pub fn message(&self) -> String {
        let message = self.json().ok().and_then(|body| Some(body.get("message")?.as_str()?.to_owned()));
        message.unwrap_or_else(|| self.text())
    }
}

/// A connection whose answer's head has been read: for streams and upgraded connections.
#[derive(Debug)]
pub struct Open<S = UnixStream> {
    /// Status and headers; the body is empty.
    pub head: Response,
    /// What follows the head, as it comes.
    pub reader: BufReader<S>,
}

/// Sends one request and reads its whole answer.
pub fn request(socket: &Path, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Response> {
    complete(open(socket, method, path, headers, body)?, method)
}

/// Sends one request on a connection of any kind and reads its whole answer.
pub fn exchange<S: Read + Write>(
    stream: S,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    complete(send(stream, method, path, headers, body)?, method)
}

fn complete<S: Read>(open: Open<S>, method: &str) -> Result<Response> {
    let Open { mut head, mut reader } = open;
    if method == "HEAD" || head.status == 204 || head.status == 304 {
        return Ok(head);
    }
    head.body = if head.header("transfer-encoding") == "chunked" {
        read_chunks(&mut reader)?
    } else if let Ok(length) = head.header("content-length").parse::<usize>() {
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        body
    } else {
        let mut body = Vec::new();
        reader.read_to_end(&mut body)?;
        body
    };
    Ok(head)
}

/// Sends one request and reads the head of its answer.
pub fn open(socket: &Path, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Open> {
    let stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(LIMIT))?;
    send(stream, method, path, headers, body)
}

fn send<S: Read + Write>(
    mut stream: S,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Open<S>> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: docker\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection")) {
        head.push_str("Connection: close\r\n");
    }
    if !body.is_empty() || method == "POST" || method == "PUT" {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    // One write: a request head split over packets is no business of these tests.
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut reader = BufReader::new(stream);
    let head = read_head(&mut reader).with_context(|| format!("the answer to {method} {path}"))?;
    Ok(Open { head, reader })
}

fn read_head(reader: &mut impl BufRead) -> Result<Response> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("no status line: {line:?}"))?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(Response { status, headers, body: Vec::new() })
}

pub(crate) fn read_chunks(reader: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16).with_context(|| format!("no chunk length: {line:?}"))?;
        let mut chunk = vec![0; length + 2];
        reader.read_exact(&mut chunk)?;
        chunk.truncate(length);
        if length == 0 {
            return Ok(body);
        }
        body.append(&mut chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_heads_and_chunks() {
        let mut answer = &b"HTTP/1.1 201 Created\r\nApi-Version: 1.51\r\n\r\n3\r\nabc\r\n0\r\n\r\n"[..];
        let head = read_head(&mut answer).unwrap();
        assert_eq!((head.status, head.header("api-version")), (201, "1.51"));
        assert_eq!(read_chunks(&mut answer).unwrap(), b"abc");
        assert!(read_head(&mut &b"nonsense\r\n"[..]).is_err());
    }
}
