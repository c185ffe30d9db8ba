//! Tear-down that no reply waits for: a bounded number of background tasks, waited for at shutdown.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Jobs at work at a time; more would take the processors from starts under way.
const AT_ONCE: usize = 8;

/// Runs tear-down jobs.
#[derive(Debug, Clone)]
pub(crate) struct Reaper {
    slots: Arc<Semaphore>,
    /// Counts a job from the moment it was handed over, before it has begun.
    jobs: TaskTracker,
}

impl Reaper {
    pub(crate) fn new() -> Self {
        Self { slots: Arc::new(Semaphore::new(AT_ONCE)), jobs: TaskTracker::new() }
    }

    /// Runs `job` soon; the handle is only for those who must have it done.
    pub(crate) fn run(&self, job: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let slots = self.slots.clone();
        self.jobs.spawn(async move {
            let _slot = slots.acquire().await;
            job.await;
        })
    }

    /// Jobs that have not ended.
    pub(crate) fn at_work(&self) -> usize {
        self.jobs.len()
    }

    /// Waits until no job is left.
    pub(crate) async fn drain(&self) {
        self.jobs.close();
        self.jobs.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn jobs_that_have_not_begun_are_waited_for_too() {
        let (reaper, done) = (Reaper::new(), Arc::new(AtomicUsize::new(0)));
        for _ in 0..3 * AT_ONCE {
            let done = done.clone();
            drop(reaper.run(async move {
                tokio::task::yield_now().await;
                done.fetch_add(1, Ordering::Relaxed);
            }));
        }
        reaper.drain().await;
        assert_eq!((done.load(Ordering::Relaxed), reaper.at_work()), (3 * AT_ONCE, 0));
    }
}
