//! Tear-down that no reply waits for: a bounded number of background tasks, waited for at shutdown.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Jobs at work at a time; more would take the processors from starts under way.
const AT_ONCE: usize = 8;

/// Runs tear-down jobs.
#[derive(Debug, Clone)]
pub(crate) struct Reaper {
    slots: Arc<Semaphore>,
}

impl Reaper {
    pub(crate) fn new() -> Self {
        Self { slots: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Runs `job` soon; the handle is only for those who must have it done.
    pub(crate) fn run(&self, job: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let slots = self.slots.clone();
        tokio::spawn(async move {
            let _slot = slots.acquire().await;
            job.await;
        })
    }

    /// Jobs that have begun and not ended.
    pub(crate) fn at_work(&self) -> usize {
        AT_ONCE - self.slots.available_permits()
    }

    /// Waits until no job is left.
    pub(crate) async fn drain(&self) {
        let _all = self.slots.acquire_many(u32::try_from(AT_ONCE).unwrap_or(1)).await;
    }
}
