//! A proxy on the daemon's network (RFC 9110, section 7.6 and `CONNECT`) that writes down what it is asked for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use rustix::net::Shutdown as Direction;

use crate::LIMIT;
use crate::network::Network;
use crate::server::locked;

/// What it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Method and target: `CONNECT host:port`, `GET http://host:port/v2/`.
    pub line: String,
    /// `Proxy-Authorization`, empty without one.
    pub authorization: String,
}

/// A running proxy; ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    listener: Arc<TcpListener>,
    state: Arc<State>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    network: Network,
    /// What it answers instead of doing what it is asked.
    refusal: Option<&'static str>,
    asked: Mutex<Vec<Asked>>,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// One at `address` that lets everything through, or with `refusal`, a status with its words, nothing.
    pub fn start(network: &Network, address: &str, refusal: Option<&'static str>) -> Result<Self> {
        let listener = Arc::new(network.listen(address)?);
        let (asked, streams) = Default::default();
        let state = Arc::new(State { network: network.clone(), refusal, asked, streams });
        let (accepting, shared) = (listener.clone(), state.clone());
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let shared = shared.clone();
                // Ends with its connection; what breaks it ends it.
                std::thread::spawn(move || drop(shared.serve(&stream)));
            }
        });
        Ok(Self { listener, state, thread: Some(thread) })
    }

    /// Everything it was asked for so far; forgets it.
    pub fn taken(&self) -> Vec<Asked> {
        std::mem::take(&mut *locked(&self.state.asked))
    }
}

impl State {
    fn keep(&self, stream: &TcpStream) -> Result<TcpStream> {
        locked(&self.streams).push(stream.try_clone()?);
        Ok(stream.try_clone()?)
    }

    fn serve(&self, client: &TcpStream) -> Result<()> {
        client.set_write_timeout(Some(LIMIT))?;
        let mut reader = BufReader::new(self.keep(client)?);
        let mut first = String::new();
        reader.read_line(&mut first)?;
        let (mut headers, mut authorization) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "proxy-authorization" => value.trim().clone_into(&mut authorization),
                "connection" | "proxy-connection" => {}
                _ => headers.push_str(&line),
            }
        }
        let (line, version) = first.trim_end().rsplit_once(' ').context("no request line")?;
        locked(&self.asked).push(Asked { line: line.to_owned(), authorization });
        if let Some(refusal) = self.refusal {
            (&mut &*client).write_all(format!("HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
            return Ok(client.shutdown(Shutdown::Both)?);
        }
        let (method, target) = line.split_once(' ').context("no target")?;
        let upstream = if method == "CONNECT" {
            let upstream = self.network.connect(target)?;
            (&mut &*client).write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
            upstream
        } else {
            let Some(rest) = target.strip_prefix("http://") else { bail!("no absolute target") };
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let upstream = self.network.connect(host)?;
            // One request for each connection: what follows it is only its body.
            let head = format!("{method} /{path} {version}\r\n{headers}Connection: close\r\n\r\n");
            (&mut &upstream).write_all(head.as_bytes())?;
            upstream
        };
        upstream.set_read_timeout(None)?;
        let (up, down) = (self.keep(&upstream)?, self.keep(client)?);
        let sending = std::thread::spawn(move || pass(reader, up));
        pass(upstream, down);
        let _ = sending.join();
        Ok(())
    }
}

/// Passes bytes on to the end; then neither side has more to say.
fn pass(mut from: impl Read, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

impl Drop for Proxy {
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
