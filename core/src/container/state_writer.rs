//! Writes a container's `state.json`, in order, off the async workers: a later state is never overwritten by an earlier
//! one, whatever thread gets there first.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dockerd_store::{Durability, document};
use tokio::task::JoinHandle;

use super::spec::State;

/// File name below the container's directory.
pub(crate) const STATE_FILE: &str = "state.json";

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct StateWriter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    next: AtomicU64,
    written: Mutex<u64>,
}

impl StateWriter {
    pub(crate) fn new(dir: PathBuf) -> Self {
        let inner = Inner { path: dir.join(STATE_FILE), next: AtomicU64::new(1), written: Mutex::new(0) };
        Self { inner: Arc::new(inner) }
    }

    /// Writes `state` soon; done when the handle is.
    pub(crate) fn write(&self, state: State) -> JoinHandle<()> {
        let ticket = self.ticket();
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.write_now(ticket, &state))
    }

    /// A place in the order; take it before the state it stands for can become old.
    pub(crate) fn ticket(&self) -> u64 {
        self.inner.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes `state` now, unless a later one was written already. Blocking.
    pub(crate) fn write_now(&self, ticket: u64, state: &State) {
        let mut written = self.inner.written.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *written > ticket {
            return;
        }
        *written = ticket;
        if let Err(error) = document::write(&self.inner.path, state, Durability::Process)
            && !error.is_not_found()
        {
            tracing::warn!(%error, "container state could not be stored");
        }
    }

    /// The container's directory is going away: later writes do nothing.
    pub(crate) fn close(&self) {
        *self.inner.written.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = u64::MAX;
    }
}
