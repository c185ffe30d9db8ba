//! Lines of a long answer from many tasks to one client. Who tells never waits: a line that only says how far something is
//! replaces the one before it that is still unsent, so a slow client makes nothing slow and nothing large.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dockerd_core::EngineError;
use dockerd_types::Digest;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::progress;
use crate::error::ApiError;
use crate::reply::{self, Reply};

/// How often one thing tells how far it is, at most.
const PAUSE: Duration = Duration::from_millis(100);

/// Where lines are put. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Feed(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<(Option<String>, Value)>,
    told: HashMap<String, Instant>,
}

impl Feed {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line that must be told.
    pub(crate) fn line(&self, line: Value) {
        self.queue().lines.push_back((None, line));
        self.0.ready.notify_one();
    }

    /// How far `layer` is, told now and then, and when it is at its end.
    pub(crate) fn bar(&self, status: &str, layer: &Digest, current: u64, total: u64) {
        let line = || progress::layer(status, layer, current, total);
        self.now_and_then(layer.as_str(), status, current >= total, line);
    }

    /// The same where nothing else is under way, and nobody may know the total.
    pub(crate) fn bar_alone(&self, status: &str, current: u64, total: Option<u64>) {
        let line = || progress::alone(status, current, total);
        self.now_and_then("", status, total.is_some_and(|total| current >= total), line);
    }

    fn now_and_then(&self, key: &str, status: &str, is_end: bool, line: impl FnOnce() -> Value) {
        let mut queue = self.queue();
        let now = Instant::now();
        let due = queue.told.get(key).is_none_or(|told| now - *told >= PAUSE);
        if !due && !is_end {
            return;
        }
        queue.told.insert(key.to_owned(), now);
        let line = line();
        let mut unsent = queue.lines.iter_mut().rev();
        let unsent = unsent.find(|(known, line)| known.as_deref() == Some(key) && line["status"] == status);
        match unsent {
            Some((_, old)) => *old = line,
            None => queue.lines.push_back((Some(key.to_owned()), line)),
        }
        drop(queue);
        self.0.ready.notify_one();
    }

    fn take(&self) -> VecDeque<(Option<String>, Value)> {
        std::mem::take(&mut self.queue().lines)
    }
}

/// Ends a task with its owner.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Answers with the lines `work` puts into its feed. Until the first line an error has a status of its own; afterwards it is
/// the last line. `work` is dropped when the client goes.
pub(crate) async fn answer<F>(work: impl FnOnce(Feed) -> F) -> Result<Reply, ApiError>
where
    F: Future<Output = Result<(), EngineError>> + Send + 'static,
{
    let feed = Feed::default();
    let mut task = AbortOnDrop(tokio::spawn(work(feed.clone())));
    let (sender, body) = mpsc::channel(16);
    let (first, begun) = oneshot::channel();
    tokio::spawn(async move {
        let mut first = Some(first);
        loop {
            let ended = tokio::select! {
                biased;
                () = sender.closed() => return,
                () = feed.0.ready.notified() => None,
                ended = &mut task.0 => Some(ended),
            };
            for (_, line) in feed.take() {
                if let Some(first) = first.take() {
                    let _ = first.send(Ok(()));
                }
                if sender.send(progress::line(&line)).await.is_err() {
                    return;
                }
            }
            let error = match ended {
                None => continue,
                Some(Ok(Ok(()))) => return,
                Some(Ok(Err(error))) => error,
                Some(Err(panic)) => EngineError::io("background work", std::io::Error::other(panic)),
            };
            match first.take() {
                Some(first) => _ = first.send(Err(error)),
                None => _ = sender.send(progress::line(&progress::failure(&error))).await,
            }
            return;
        }
    });
    match begun.await {
        Ok(Err(error)) => Err(error.into()),
        // Without a line the answer is empty.
        Ok(Ok(())) | Err(_) => Ok(reply::stream("application/json", body)),
    }
}
