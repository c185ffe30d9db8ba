//! Attach and exec: the connection becomes the process's streams. With `Upgrade: tcp` the answer is 101 and raw bytes
//! follow in both directions; without it the output is the body of a 200 and there is no input.

use bytes::Bytes;
use dockerd_core::container::attach::AttachSession;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf};
use tokio::sync::mpsc;

use super::frame;
use crate::reply::{self, Reply};
use crate::version::ApiVersion;

/// Version from which the media type tells that the stream has frames.
const MULTIPLEXED_SINCE: ApiVersion = ApiVersion(1, 42);
/// Bytes of input taken at once.
const INPUT: usize = 16 * 1024;

/// The media type of a session's stream.
pub(crate) fn media_type(tty: bool, version: ApiVersion) -> &'static str {
    if tty || version < MULTIPLEXED_SINCE {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
    }
}

/// Takes the right to the connection out of the request, where the client asks for that.
pub(crate) fn wanted(request: &mut Request<Incoming>) -> Option<OnUpgrade> {
    request.headers().contains_key(UPGRADE).then(|| hyper::upgrade::on(request))
}

/// The answer that makes the connection `session`'s streams.
pub(crate) fn answer(upgrade: Option<OnUpgrade>, session: AttachSession, version: ApiVersion) -> Reply {
    let kind = media_type(session.tty, version);
    let Some(upgrade) = upgrade else { return plain(session) };
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => serve(connection, session).await,
            Err(error) => tracing::debug!(%error, "connection was not handed over"),
        }
    });
    let mut response = reply::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    response
}

fn plain(session: AttachSession) -> Reply {
    let AttachSession { tty, mut output, input: _ } = session;
    let (sender, body) = mpsc::channel(4);
    tokio::spawn(async move {
        while let Some(chunk) = output.recv().await {
            let bytes = if tty { chunk.bytes } else { frame::encode(chunk.stream, &chunk.bytes) };
            if sender.send(Ok(bytes)).await.is_err() {
                return;
            }
        }
    });
    reply::stream("application/vnd.docker.raw-stream", body)
}

/// Until the output has ended. The end of the client's input is only that; a client that is gone ends the session.
async fn serve(connection: Upgraded, session: AttachSession) {
    let AttachSession { tty, mut output, input } = session;
    let (reader, mut writer) = tokio::io::split(TokioIo::new(connection));
    let reading = tokio::spawn(read_input(reader, input));
    while let Some(chunk) = output.recv().await {
        let bytes = if tty { chunk.bytes } else { frame::encode(chunk.stream, &chunk.bytes) };
        if writer.write_all(&bytes).await.is_err() {
            break;
        }
    }
    let _ = writer.shutdown().await;
    reading.abort();
}

async fn read_input(mut reader: ReadHalf<TokioIo<Upgraded>>, input: Option<mpsc::Sender<Bytes>>) {
    let Some(input) = input else { return };
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
