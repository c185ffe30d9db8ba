//! Attach and logs.

use std::collections::BTreeMap;

use bytes::Bytes;
use dockerd_core::container::attach::AttachOptions;
use dockerd_core::container::stats::StatsMode;
use dockerd_core::streams::{LogEntry, LogQuery};
use dockerd_types::Timestamp;
use tokio::sync::mpsc;

use crate::context::Context;
use crate::convert::stats as convert_stats;
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
    let shape = Shape { timestamps: query.flag("timestamps"), details: query.flag("details") };
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
            if sender.send(entry.map(|entry| line(&entry, tty, shape))).await.is_err() {
                return;
            }
        }
    });
    Ok(reply::stream(hijack::media_type(tty, context.version), body))
}

pub(crate) async fn stats(context: Context) -> Result {
    let query = &context.query;
    // Streaming is what is done where nothing is said.
    let stream = query.text("stream").is_empty() || query.flag("stream");
    let mode = match (stream, query.flag("one-shot")) {
        (true, true) => return Err(ApiError::bad_request("cannot have stream=true and one-shot=true")),
        (true, false) => StatsMode::Stream,
        (false, false) => StatsMode::Once,
        (false, true) => StatsMode::OneShot,
    };
    let mut readings = context.engine.containers.stats(context.name(), mode)?;
    let (sender, body) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let reading = tokio::select! {
                reading = readings.recv() => reading,
                () = sender.closed() => return,
            };
            let Some(reading) = reading else { return };
            let text = format!("{}\n", convert_stats::stats(&reading, mode != StatsMode::OneShot));
            if sender.send(Ok(Bytes::from(text))).await.is_err() {
                return;
            }
        }
    });
    Ok(reply::stream("application/json", body))
}

/// What comes before a line.
#[derive(Debug, Clone, Copy)]
struct Shape {
    timestamps: bool,
    details: bool,
}

fn line(entry: &LogEntry, tty: bool, shape: Shape) -> Bytes {
    let bytes = if shape.timestamps || shape.details {
        let mut text = Vec::with_capacity(entry.line.len() + 64);
        if shape.timestamps {
            text.extend_from_slice(entry.time.rfc3339_fixed().as_bytes());
            text.push(b' ');
        }
        if shape.details {
            text.extend_from_slice(details(&entry.attributes).as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(&entry.line);
        Bytes::from(text)
    } else {
        entry.line.clone()
    };
    if tty { bytes } else { frame::encode(entry.stream, &bytes) }
}

/// Attributes as the query string of an URL would have them, but for the commas.
fn details(attributes: &BTreeMap<String, String>) -> String {
    let escaped = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pairs: Vec<String> = attributes.iter().map(|(k, v)| format!("{}={}", escaped(k), escaped(v))).collect();
    pairs.join(",")
}
