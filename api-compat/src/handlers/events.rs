//! The stream of events.

use bytes::Bytes;
use dockerd_core::event_bus::FILTERS;
use dockerd_core::ports::EventNote;
use dockerd_types::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::error::ApiError;
use crate::reply::{self, Reply};

pub(crate) async fn events(context: Context) -> Result<Reply, ApiError> {
    let moment = |name: &str| match context.query.text(name) {
        "" => Ok(None),
        text => Timestamp::parse_unix_or_rfc3339(text).map(Some).map_err(|e| ApiError::bad_request(e.to_string())),
    };
    let filters = context.query.filters(&FILTERS)?;
    let mut reader = context.engine.events.subscribe(moment("since")?, moment("until")?, filters);
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
