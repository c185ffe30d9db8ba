//! Attach and exec: the connection becomes the process's streams, in both directions at once. With `Upgrade` the answer
//! begins with 101, without it (the old way) with 200; either way raw bytes follow, and errors are told in them.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use dockerd_core::container::attach::{AttachSession, Input, SessionEnd};
use dockerd_core::peer;
use dockerd_core::streams::OutputChunk;
use dockerd_types::stream::StdStream;
use hyper::header::UPGRADE;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::frame;
use crate::connection::{Hijack, Socket, Taken, hung_up};
use crate::context::Context;
use crate::error::ApiError;
use crate::version::ApiVersion;

/// Version from which the media type tells that the stream has frames.
const MULTIPLEXED_SINCE: ApiVersion = ApiVersion(1, 42);
const RAW: &str = "application/vnd.docker.raw-stream";
const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
/// Bytes of input taken at once.
const INPUT: usize = 16 * 1024;
/// How long what follows the head waits for the client to have read it. docker-py takes head and stream by different readers,
/// and loses of the stream what came along with the head.
const HEAD_LIMIT: Duration = Duration::from_millis(50);
/// What an exec's client is told when it pressed the keys to detach; the stock daemon's words.
pub(crate) const EXEC_DETACHED: &str = "exec attach failed: error on attach stdin: read escape sequence\r\n";

/// The media type of a session's stream.
pub(crate) fn media_type(tty: bool, version: ApiVersion) -> &'static str {
    if tty || version < MULTIPLEXED_SINCE { RAW } else { MULTIPLEXED }
}

/// How a client asked for its connection.
#[derive(Debug)]
pub(crate) struct Wish {
    hijack: Hijack,
    upgrade: bool,
    version: ApiVersion,
}

impl Wish {
    /// Reads it off the request; its body must have been read.
    pub(crate) fn of(context: &mut Context) -> Result<Self, ApiError> {
        let upgrade = context.request.headers().contains_key(UPGRADE);
        let hijack = context.request.extensions_mut().remove::<Hijack>();
        // Every connection of ours puts it there.
        let hijack =
            hijack.ok_or_else(|| ApiError::bad_request("error attaching to container, hijack connection missing"))?;
        Ok(Self { hijack, upgrade, version: context.version })
    }

    /// The head of the answer, with `more` headers at its end.
    pub(crate) fn head(&self, tty: bool, more: &str) -> String {
        if self.upgrade {
            let kind = media_type(tty, self.version);
            format!(
                "HTTP/1.1 101 UPGRADED\r\nContent-Type: {kind}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n{more}\r\n"
            )
        } else {
            format!("HTTP/1.1 200 OK\r\nContent-Type: {RAW}\r\n{more}\r\n")
        }
    }

    /// The right to the connection.
    pub(crate) fn into_hijack(self) -> Hijack {
        self.hijack
    }
}

/// The whole answer that refuses an attach.
pub(crate) fn refusal(error: &ApiError) -> String {
    let reason = error.status.canonical_reason().unwrap_or_default();
    let status = error.status.as_u16();
    format!("HTTP/1.1 {status} {reason}\r\nContent-Type: {RAW}\r\n\r\n{}\r\n", error.message)
}

/// Sends `text` and closes.
pub(crate) async fn say(taken: Taken, text: String) {
    let mut socket = taken.socket;
    // A client that has gone need not be told.
    let _ = socket.write_all(text.as_bytes()).await;
    let _ = socket.shutdown().await;
}

/// A client's side of the connection.
pub(crate) struct Client {
    writer: WriteHalf<Box<dyn Socket>>,
    reader: ReadHalf<Box<dyn Socket>>,
    read: Bytes,
    watched: io::Result<OwnedFd>,
    /// Whether output goes in frames.
    framed: bool,
}

impl Client {
    /// Over a taken connection; sends `head`.
    pub(crate) async fn greet(taken: Taken, head: String, framed: bool) -> io::Result<Self> {
        let Taken { mut socket, read } = taken;
        let watched = socket.as_fd().try_clone_to_owned();
        socket.write_all(head.as_bytes()).await?;
        socket.flush().await?;
        let (reader, writer) = tokio::io::split(socket);
        Ok(Self { writer, reader, read, watched, framed })
    }

    /// Tells an error where output goes, and closes.
    pub(crate) async fn fail(self, error: &ApiError) {
        let Self { mut writer, framed, watched, .. } = self;
        head_read(&watched).await;
        let text = Bytes::from(format!("{}\r\n", error.message));
        // A client that has gone need not be told.
        let _ = write(&mut writer, framed, OutputChunk { stream: StdStream::Stdout, bytes: text }).await;
        let _ = writer.shutdown().await;
    }

    /// Carries the session until its output has ended, the client has gone, or has detached itself; `detached` is what
    /// it is told then.
    pub(crate) async fn serve(self, session: AttachSession, detached: &'static str) {
        let Self { mut writer, reader, read, watched, framed } = self;
        let AttachSession { tty: _, mut output, input } = session;
        let (input, over) = input.map(|Input { bytes, over }| (bytes, over)).unzip();
        let reading = input.map(|input| tokio::spawn(read_input(reader, read, input)));
        let copy = watched.as_ref().map_err(|error| io::Error::from(error.kind())).and_then(OwnedFd::try_clone);
        let mut head = Some(copy);
        let (over, gone) = (session_end(over), gone(watched));
        tokio::pin!(over, gone);
        let end = loop {
            tokio::select! {
                biased;
                end = &mut over => break Some(end),
                () = &mut gone => break None,
                chunk = output.recv() => {
                    let Some(chunk) = chunk else { break None };
                    if let Some(head) = head.take() {
                        head_read(&head).await;
                    }
                    if write(&mut writer, framed, chunk).await.is_err() {
                        break None;
                    }
                }
            }
        };
        let mut left = Vec::new();
        match end {
            Some(SessionEnd::Detached) if !detached.is_empty() => {
                left.push(OutputChunk { stream: StdStream::Stdout, bytes: Bytes::from_static(detached.as_bytes()) });
            }
            Some(SessionEnd::InputEnded) => left.extend(std::iter::from_fn(|| output.try_recv().ok())),
            _ => {}
        }
        if let Some(head) = head.filter(|_| !left.is_empty()) {
            head_read(&head).await;
        }
        for chunk in left {
            if write(&mut writer, framed, chunk).await.is_err() {
                break;
            }
        }
        let _ = writer.shutdown().await;
        if let Some(reading) = reading {
            reading.abort();
        }
    }
}

/// Gives the client the time to take the head of the answer for itself.
async fn head_read(watched: &io::Result<OwnedFd>) {
    if let Ok(socket) = watched {
        peer::has_read(socket, HEAD_LIMIT).await;
    }
}

async fn write(writer: &mut WriteHalf<Box<dyn Socket>>, framed: bool, chunk: OutputChunk) -> io::Result<()> {
    let bytes = if framed { frame::encode(chunk.stream, &chunk.bytes) } else { chunk.bytes };
    writer.write_all(&bytes).await?;
    // TLS may keep the end of it back.
    writer.flush().await
}

/// Why the session is over; waits for ever where its input never says so.
async fn session_end(over: Option<oneshot::Receiver<SessionEnd>>) -> SessionEnd {
    match over {
        Some(over) => match over.await {
            Ok(end) => end,
            Err(_) => pending().await,
        },
        None => pending().await,
    }
}

/// Until the client is known to have gone.
async fn gone(watched: io::Result<OwnedFd>) {
    let known = match watched {
        Ok(fd) => hung_up(fd).await.is_ok(),
        Err(_) => false,
    };
    if !known {
        pending::<()>().await;
    }
}

/// Takes what the client sends to the process. The end of its input is only that.
async fn read_input(mut reader: ReadHalf<Box<dyn Socket>>, read: Bytes, input: mpsc::Sender<Bytes>) {
    if !read.is_empty() && input.send(read).await.is_err() {
        return;
    }
    loop {
        let mut piece = vec![0; INPUT];
        match reader.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                piece.truncate(length);
                if input.send(Bytes::from(piece)).await.is_err() {
                    return;
                }
            }
        }
    }
}
