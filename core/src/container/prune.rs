//! `docker container prune`: removes what does not run. One prune at a time.

use std::sync::atomic::{AtomicBool, Ordering};

use dockerd_types::filters::InvalidFilter;
use dockerd_types::{Filters, Timestamp};

use super::error::ContainerError;
use super::list::{PruneReport, prunable, sizes};
use super::{ContainerService, RemoveOptions};
use crate::error::EngineError;
use crate::ports::EventNote;

/// Held while a prune is on.
static RUNNING: AtomicBool = AtomicBool::new(false);

struct Turn;

impl Turn {
    fn take() -> Result<Self, ContainerError> {
        if RUNNING.swap(true, Ordering::Acquire) { Err(ContainerError::PruneRunning) } else { Ok(Self) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        RUNNING.store(false, Ordering::Release);
    }
}

impl ContainerService {
    /// Removes all containers at rest that the filters take.
    pub async fn prune(&self, filters: Filters) -> Result<PruneReport, EngineError> {
        let _turn = Turn::take()?;
        let until = until(&filters, Timestamp::now())?;
        let mut report = PruneReport::default();
        for container in self.core.containers.all() {
            let snapshot = container.snapshot();
            if !prunable(&snapshot, &filters, until) {
                continue;
            }
            let core = self.core.clone();
            let size = tokio::task::spawn_blocking(move || sizes(&core, &snapshot)).await.unwrap_or_default();
            let options = RemoveOptions { force: false, volumes: false, link: false };
            match self.remove(container.id().as_str(), options).await {
                Ok(()) => {
                    report.deleted.push(container.id().clone());
                    report.space_reclaimed += size.map_or(0, |s| s.rw);
                }
                Err(error) => tracing::warn!(container = %container.id(), %error, "could not be pruned"),
            }
        }
        self.core.events.publish(EventNote {
            kind: "container",
            action: "prune".to_owned(),
            actor: String::new(),
            attributes: [("reclaimed".to_owned(), report.space_reclaimed.to_string())].into(),
            time: Timestamp::now(),
        });
        Ok(report)
    }
}

/// `until` as a point in time: a duration before now, seconds since the epoch, or a date.
pub(crate) fn until(filters: &Filters, now: Timestamp) -> Result<Option<Timestamp>, InvalidFilter> {
    let Some(text) = filters.values("until").next() else { return Ok(None) };
    let bad = || InvalidFilter::Value { key: "until".to_owned(), value: text.to_owned() };
    if let Some(ago) = go_duration(text) {
        let nanos = i64::try_from(ago.as_nanos()).map_err(|_| bad())?;
        // Whole seconds, as the stock daemon has it: a duration of nothing does not reach those of this very second.
        let at = now.unix_nanos().saturating_sub(nanos);
        return Ok(Some(Timestamp::from_unix_nanos(at - at.rem_euclid(1_000_000_000))));
    }
    let date = |text: &str| Timestamp::parse_rfc3339(text).ok();
    let parsed = Timestamp::parse_unix_or_rfc3339(text)
        .ok()
        .or_else(|| date(&format!("{text}Z")))
        .or_else(|| date(&format!("{text}T00:00:00Z")));
    parsed.map(Some).ok_or_else(bad)
}

/// Go's duration text: `24h`, `1h30m`, `500ms`; `None` for what is none.
pub(crate) fn go_duration(text: &str) -> Option<std::time::Duration> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let mut seconds = 0.0;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &tail[..end])?;
        seconds += number * unit;
        rest = &tail[end..];
    }
    std::time::Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn durations() {
        assert_eq!(go_duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(go_duration("500ms"), Some(Duration::from_millis(500)));
        for bad in ["", "5", "h", "5x", "-5s"] {
            assert_eq!(go_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn until_forms() {
        let now = Timestamp::from_unix_nanos(100_000_000_000);
        let run = |text: &str| {
            let mut filters = Filters::default();
            filters.insert("until", text);
            until(&filters, now).map(|t| t.map(Timestamp::unix_seconds))
        };
        assert_eq!(run("10s"), Ok(Some(90)));
        assert_eq!(run("50"), Ok(Some(50)));
        assert_eq!(run("1970-01-02"), Ok(Some(86400)));
        assert!(run("soon").is_err());
    }
}
