//! The stream of events.

use bytes::Bytes;
use dockerd_core::ports::EventNote;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::error::ApiError;
use crate::reply::{self, Reply};

pub(crate) async fn events(context: Context) -> Result<Reply, ApiError> {
    let query = &context.query;
    let (since, until) = (query.moment("since")?, query.moment("until")?.filter(|until| until.unix_nanos() != 0));
    if let (Some(since_time), Some(until_time)) = (since, until)
        && since_time > until_time
    {
        let (since, until) = (query.text("since"), query.text("until"));
        return Err(ApiError::bad_request(format!("`since` time ({since}) cannot be after `until` time ({until})")));
    }
    // Keys nobody knows are passed over.
    let mut reader = context.engine.events.subscribe(since, until, query.any_filters()?);
    let (sender, body) = mpsc::channel(64);
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                event = reader.next() => event,
                () = sender.closed() => return,
            };
            let Some(event) = event else { return };
            if sender.send(Ok(Bytes::from(format!("{}\n", describe(&event))))).await.is_err() {
                return;
            }
        }
    });
    Ok(reply::stream("application/json", body))
}

fn describe(event: &EventNote) -> Value {
    let mut out = json!({
        "Type": event.kind,
        "Action": event.action,
        "Actor": {"ID": event.actor, "Attributes": event.attributes},
        "scope": "local",
        "time": event.time.unix_seconds(),
        "timeNano": event.time.unix_nanos(),
    });
    // The old members, which clients below API 1.52 still read.
    if matches!(event.kind, "container" | "image") {
        out["status"] = json!(event.action);
        out["id"] = json!(event.actor);
    }
    if event.kind == "container" {
        out["from"] = json!(event.attributes.get("image"));
    }
    out
}
