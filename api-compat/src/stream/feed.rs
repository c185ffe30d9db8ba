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
    lines: VecDeque<(Option<Digest>, Value)>,
    told: HashMap<Digest, Instant>,
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
        let mut queue = self.queue();
        let now = Instant::now();
        let due = queue.told.get(layer).is_none_or(|told| now - *told >= PAUSE);
        if !due && current < total {
            return;
        }
        queue.told.insert(layer.clone(), now);
        let line = progress::layer(status, layer, current, total);
        let unsent =
            queue.lines.iter_mut().rev().find(|(key, line)| key.as_ref() == Some(layer) && line["status"] == status);
        match unsent {
            Some((_, old)) => *old = line,
            None => queue.lines.push_back((Some(layer.clone()), line)),
        }
        drop(queue);
        self.0.ready.notify_one();
    }

    fn take(&self) -> VecDeque<(Option<Digest>, Value)> {
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
