//! Events: a ring of the newest, and readers that follow it by number. A reader that falls behind the ring is told so by
//! the end of its stream, never by a silent gap.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dockerd_types::{Filters, Timestamp};
use tokio::sync::watch;

use crate::ports::{EventNote, Events};

/// Filter keys of `docker events`.
pub const FILTERS: [&str; 16] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "status",
    "type",
    "volume",
    "id",
];

/// Events kept for replay and for readers that lag.
const KEPT: usize = 4096;

/// The bus. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EventBus {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    ring: Mutex<Ring>,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<EventNote>>,
    /// Number of the first event in the ring.
    first: u64,
}

impl Default for EventBus {
    fn default() -> Self {
        Self { inner: Arc::new(Inner { ring: Mutex::default(), newest: watch::Sender::new(0) }) }
    }
}

impl Events for EventBus {
    fn publish(&self, note: EventNote) {
        let mut ring = self.ring();
        if ring.events.len() == KEPT {
            ring.events.pop_front();
            ring.first += 1;
        }
        ring.events.push_back(Arc::new(note));
        let next = ring.first + ring.events.len() as u64;
        drop(ring);
        self.inner.newest.send_replace(next);
    }
}

impl EventBus {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.inner.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How full it is and how many read, for people.
    pub(crate) fn state(&self) -> String {
        let ring = self.ring();
        let (first, kept, readers) = (ring.first, ring.events.len(), self.readers());
        format!("{kept} kept from number {first} on, {readers} readers")
    }

    /// How many follow.
    pub fn readers(&self) -> usize {
        self.inner.newest.receiver_count()
    }

    /// Follows events that pass `filters`: from `since` where given, else from now; until `until` where given.
    pub fn subscribe(&self, since: Option<Timestamp>, until: Option<Timestamp>, filters: Filters) -> EventReader {
        let ring = self.ring();
        let end = ring.first + ring.events.len() as u64;
        let next = match since {
            None => end,
            Some(since) => {
                let skipped = ring.events.iter().take_while(|event| event.time < since).count();
                ring.first + skipped as u64
            }
        };
        drop(ring);
        EventReader { bus: self.clone(), newest: self.inner.newest.subscribe(), next, until, filters }
    }
}

/// One reader's place in the stream.
#[derive(Debug)]
pub struct EventReader {
    bus: EventBus,
    newest: watch::Receiver<u64>,
    next: u64,
    until: Option<Timestamp>,
    filters: Filters,
}

impl EventReader {
    /// The next event; `None` when the time is over or this reader has fallen behind.
    pub async fn next(&mut self) -> Option<Arc<EventNote>> {
        loop {
            self.newest.borrow_and_update();
            while let Some(event) = self.take()? {
                if self.until.is_some_and(|until| event.time > until) {
                    return None;
                }
                if passes(&event, &self.filters) {
                    return Some(event);
                }
            }
            let Some(until) = self.until else {
                self.newest.changed().await.ok()?;
                continue;
            };
            let left = until.since(Timestamp::now());
            if left.is_zero() || tokio::time::timeout(left, self.newest.changed()).await.is_err() {
                return None;
            }
        }
    }

    /// The event at this place, or that there is none yet; `None` when the ring has moved on.
    #[allow(clippy::option_option, reason = "behind, nothing yet, and an event are three things")]
    fn take(&mut self) -> Option<Option<Arc<EventNote>>> {
        let ring = self.bus.ring();
        if self.next < ring.first {
            return None;
        }
        let index = usize::try_from(self.next - ring.first).unwrap_or(usize::MAX);
        let event = ring.events.get(index).cloned();
        self.next += u64::from(event.is_some());
        Some(event)
    }
}

fn passes(event: &EventNote, filters: &Filters) -> bool {
    let attribute = |name: &str| event.attributes.get(name).map_or("", String::as_str);
    let of_kind = |key: &str| {
        !filters.has(key)
            || (event.kind == key
                && filters.any(key, |value| event.actor.starts_with(value) || attribute("name") == value))
            || (key == "container"
                && filters.any(key, |value| !value.is_empty() && attribute("container").starts_with(value)))
    };
    // Of images and of whatever runs one, with the tag or without.
    let of_image = || {
        let name = attribute(if event.kind == "image" { "name" } else { "image" });
        let bare = |text: &str| text.rsplit_once(':').map_or(text, |(bare, _)| bare).to_owned();
        filters.any("image", |value| {
            value == event.actor || value == name || value == bare(&event.actor) || value == bare(name)
        })
    };
    let action = |value: &str| {
        let prefix = ["exec_create", "exec_start", "health_status"].contains(&value);
        event.action == value || (prefix && event.action.starts_with(&format!("{value}:")))
    };
    filters.any("type", |value| event.kind == value)
        && filters.any("event", action)
        && filters.any("scope", |value| value == "local")
        && filters.labels_match(&event.attributes)
        && of_image()
        && ["container", "volume", "network", "daemon", "plugin", "node", "service", "secret", "config"]
            .into_iter()
            .all(of_kind)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn note(action: &str, time: i64) -> EventNote {
        let attributes = BTreeMap::from([("name".to_owned(), "box".to_owned())]);
        let time = Timestamp::from_unix_nanos(time);
        EventNote { kind: "container", action: action.to_owned(), actor: "abc".to_owned(), attributes, time }
    }

    #[tokio::test]
    async fn replays_then_ends_at_until() {
        let bus = EventBus::default();
        (1..=5).for_each(|n| bus.publish(note(&n.to_string(), n)));
        let filters = Filters::parse(r#"{"container":["box"]}"#, &FILTERS).expect("filters");
        let (since, until) = (Some(Timestamp::from_unix_nanos(2)), Some(Timestamp::from_unix_nanos(4)));
        let mut reader = bus.subscribe(since, until, filters);
        let mut seen = Vec::new();
        while let Some(event) = reader.next().await {
            seen.push(event.action.clone());
        }
        assert_eq!(seen, ["2", "3", "4"]);
    }

    #[tokio::test]
    async fn a_reader_left_behind_is_ended_not_cut() {
        let bus = EventBus::default();
        let mut reader = bus.subscribe(None, None, Filters::default());
        (0..=KEPT as i64).for_each(|n| bus.publish(note("x", n)));
        assert!(reader.next().await.is_none());
    }
}
