//! Tear-down that no reply waits for: a bounded number of background tasks, waited for at shutdown, and by those who need what
//! a removed container still has.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dockerd_types::ContainerId;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Jobs at work at a time; more would take the processors from starts under way.
const AT_ONCE: usize = 8;

/// Runs tear-down jobs.
#[derive(Debug, Clone)]
pub(crate) struct Reaper {
    slots: Arc<Semaphore>,
    /// Counts a job from the moment it was handed over, before it has begun.
    jobs: TaskTracker,
    removed: Removed,
}

/// Containers that are gone for clients while something of theirs is still there.
#[derive(Debug, Clone, Default)]
struct Removed(Arc<Mutex<HashMap<ContainerId, CancellationToken>>>);

impl Removed {
    fn add(&self, id: ContainerId) -> Leaving {
        let gone = CancellationToken::new();
        self.lock().insert(id.clone(), gone.clone());
        Leaving { id, removed: self.clone(), _gone: gone.drop_guard() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ContainerId, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of them; those who wait go on when this goes, by a panic too.
#[derive(Debug)]
struct Leaving {
    id: ContainerId,
    removed: Removed,
    _gone: DropGuard,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.removed.lock().remove(&self.id);
    }
}

impl Reaper {
    pub(crate) fn new() -> Self {
        Self { slots: Arc::new(Semaphore::new(AT_ONCE)), jobs: TaskTracker::new(), removed: Removed::default() }
    }

    /// Runs the `job` that takes away what container `id` leaves; from now on it can be waited for.
    pub(crate) fn clean_up(&self, id: ContainerId, job: impl Future<Output = ()> + Send + 'static) {
        let leaving = self.removed.add(id);
        drop(self.run(async move {
            job.await;
            drop(leaving);
        }));
    }

    /// Waits until nothing is left of container `id`, if it has been removed.
    pub(crate) async fn cleaned_up(&self, id: &ContainerId) {
        let left = self.removed.lock().get(id).cloned();
        if let Some(left) = left {
            left.cancelled().await;
        }
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

    #[tokio::test]
    async fn what_a_container_leaves_is_waited_for() {
        let (reaper, id) = (Reaper::new(), ContainerId::from_random([0xab; 32]).expect("an id"));
        reaper.cleaned_up(&id).await;
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        reaper.clean_up(id.clone(), async { finished.await.expect("told") });
        let waiting = tokio::spawn({
            let (reaper, id) = (reaper.clone(), id.clone());
            async move { reaper.cleaned_up(&id).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        finish.send(()).expect("somebody listens");
        waiting.await.expect("it goes on");
        reaper.clean_up(id.clone(), async { panic!("as a bug would have it") });
        reaper.cleaned_up(&id).await;
        assert!(reaper.removed.lock().is_empty());
    }
}
