//! Attach and logs.

use bytes::Bytes;
use dockerd_core::container::attach::AttachOptions;
use dockerd_core::streams::{LogEntry, LogQuery};
use dockerd_types::Timestamp;
use tokio::sync::mpsc;

use crate::context::Context;
use crate::error::ApiError;
use crate::reply::{self, Reply};
use crate::stream::frame;
use crate::stream::hijack::{self, Client, Wish};

type Result = std::result::Result<Reply, ApiError>;

pub(crate) async fn attach(mut context: Context) -> Result {
    let query = &context.query;
    let options = AttachOptions {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        stream: query.flag("stream"),
        logs: query.flag("logs"),
        detach_keys: query.text("detachKeys").to_owned(),
    };
    // What a client sends as a body is no input.
    context.bytes().await?;
    let wish = Wish::of(&mut context)?;
    // Refusals have the same bare head as the streams.
    let reply = match context.engine.containers.attach(context.name(), options).await.map_err(ApiError::from) {
        Err(error) => wish.into_hijack().take(move |taken| hijack::say(taken, hijack::refusal(&error))).await,
        Ok(session) => {
            let head = wish.head(session.tty, "");
            let framed = !session.tty;
            let serve = move |taken| async move {
                if let Ok(client) = Client::greet(taken, head, framed).await {
                    client.serve(session, "").await;
                }
            };
            wish.into_hijack().take(serve).await
        }
    };
    Ok(reply)
}

/// A moment of the query, `seconds[.fraction]`; `0` and nothing are none. What is no number the stock daemon takes for
/// its own failure.
fn moment(context: &Context, name: &str) -> std::result::Result<Option<Timestamp>, ApiError> {
    if context.query.text(name) == "0" { Ok(None) } else { context.query.moment(name) }
}

pub(crate) async fn logs(context: Context) -> Result {
    let query = &context.query;
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(ApiError::bad_request("Bad parameters: you must choose at least one stream"));
    }
    // Anything that is no number means all, as in Docker.
    let tail = query.text("tail").parse::<usize>().ok();
    let (since, until) = (moment(&context, "since")?, moment(&context, "until")?);
    let timestamps = query.flag("timestamps");
    let asked = LogQuery { follow: query.flag("follow"), stdout, stderr, since, until, tail };
    let session = context.engine.containers.logs(context.name(), asked).await?;
    let (tty, mut entries) = (session.tty, session.entries);
    let (sender, body) = mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let entry = tokio::select! {
                entry = entries.recv() => entry,
                () = sender.closed() => return,
            };
            let Some(entry) = entry else { return };
            if sender.send(entry.map(|entry| line(&entry, tty, timestamps))).await.is_err() {
                return;
            }
        }
    });
    Ok(reply::stream(hijack::media_type(tty, context.version), body))
}

fn line(entry: &LogEntry, tty: bool, timestamps: bool) -> Bytes {
    let bytes = if timestamps {
        let mut text = entry.time.rfc3339_fixed().into_bytes();
        text.push(b' ');
        text.extend_from_slice(&entry.line);
        Bytes::from(text)
    } else {
        entry.line.clone()
    };
    if tty { bytes } else { frame::encode(entry.stream, &bytes) }
}
