//! Removes cgroups behind the caller's back. One thread, started by the first removal and ended when the driver goes;
//! a removal that fails because something in there does not die is tried again, less and less often, then given up
//! with a warning (a later `create` of the same path, or boot, finds what is left).

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::CgroupError;

type Removal = Box<dyn Fn(&str) -> Result<(), CgroupError> + Send>;

/// Removals wait until none came for so long: while containers come and go they would be in the way of their starts,
const QUIET: Duration = Duration::from_millis(20);
/// but not longer than until so many wait.
const MOST: usize = 32;

/// Waits between tries; after the last one the reaper gives up.
const PAUSES: [Duration; 6] = [
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
    Duration::from_secs(40),
];

#[derive(Default)]
pub(super) struct Reaper {
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// When the last one came.
    newest: Option<Instant>,
    active: Option<String>,
    running: bool,
    /// How many wait until all is done or tried.
    hurried: usize,
    closed: bool,
}

struct Job {
    path: String,
    not_before: Instant,
    tries: usize,
    removal: Removal,
}

impl State {
    /// When the next removal may begin.
    fn rested_at(&self, now: Instant) -> Instant {
        let wait = !self.closed && self.hurried == 0 && self.jobs.len() < MOST;
        self.newest.filter(|_| wait).map_or(now, |newest| newest + QUIET)
    }
}

impl Reaper {
    /// Queues a removal.
    pub(super) fn submit(&self, path: &str, removal: impl Fn(&str) -> Result<(), CgroupError> + Send + 'static) {
        let job = Job { path: path.to_owned(), not_before: Instant::now(), tries: 0, removal: Box::new(removal) };
        let mut state = self.queue.lock();
        if state.jobs.iter().any(|known| known.path == path) {
            return;
        }
        state.jobs.push_back(job);
        state.newest = Some(Instant::now());
        if !state.running {
            let queue = Arc::clone(&self.queue);
            // Without a thread the cgroup stays until its path is used again; nothing else depends on it.
            match thread::Builder::new().name("cgroup-reaper".to_owned()).spawn(move || queue.run()) {
                Ok(_) => state.running = true,
                Err(error) => tracing::warn!(%error, "cannot start the cgroup reaper"),
            }
        }
        self.queue.changed.notify_all();
    }

    /// Takes a waiting removal back, and waits for one that is being done.
    pub(super) fn forget(&self, path: &str) {
        let mut state = self.queue.lock();
        state.jobs.retain(|job| job.path != path);
        while state.active.as_deref() == Some(path) {
            state = self.queue.wait(state);
            state.jobs.retain(|job| job.path != path);
        }
    }

    /// Waits until nothing is left to do.
    pub(super) fn drain(&self) {
        self.hurry(|_| true);
    }

    /// Has all that wait tried now, and waits until each was tried.
    pub(super) fn settle(&self) {
        self.hurry(|job| job.tries == 0);
    }

    /// Without further pauses, waits until none of `awaited` is left.
    fn hurry(&self, awaited: impl Fn(&Job) -> bool) {
        let mut state = self.queue.lock();
        state.hurried += 1;
        self.queue.changed.notify_all();
        while state.running && (state.active.is_some() || state.jobs.iter().any(&awaited)) {
            state = self.queue.wait(state);
        }
        state.hurried -= 1;
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
    }
}

impl fmt::Debug for Reaper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.queue.lock();
        f.debug_struct("Reaper").field("waiting", &state.jobs.len()).field("active", &state.active).finish()
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        dockerd_sys::process::give_way();
        while let Some(mut job) = self.next() {
            let result = (job.removal)(&job.path);
            let mut state = self.lock();
            state.active = None;
            if let Err(error) = result {
                match PAUSES.get(job.tries) {
                    Some(pause) => {
                        job.not_before = Instant::now() + *pause;
                        job.tries += 1;
                        state.jobs.push_back(job);
                    }
                    None => tracing::warn!(%error, cgroup = job.path, "cgroup left behind"),
                }
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The next job that is due; `None` once the driver is gone and nothing is due.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let rested = state.rested_at(now);
            if let Some(at) = state.jobs.iter().position(|job| job.not_before.max(rested) <= now) {
                let job = state.jobs.remove(at)?;
                state.active = Some(job.path.clone());
                return Some(job);
            }
            if state.closed {
                state.running = false;
                return None;
            }
            let pause = state.jobs.iter().map(|job| job.not_before.max(rested) - now).min();
            state = match pause {
                Some(pause) => self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0,
                None => self.wait(state),
            };
        }
    }
}
