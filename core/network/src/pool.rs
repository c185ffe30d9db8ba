//! Sandboxes made ahead. A network namespace and a pair of links cost more than everything else a start does with the
//! network, so one background thread keeps a few of each kind on a shelf and fills up behind the starts. A shelf grows
//! when it was found empty and shrinks when nobody comes.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dockerd_sys::process;
use tokio::sync::oneshot;

use crate::error::NetworkError;
use crate::sandbox::{Blueprint, Sandbox, Workshop};

/// Sandboxes on a shelf when nothing happens.
const LEAST: usize = 4;
/// Sandboxes on a shelf at most: what the fastest clients use up in the time it takes to make them.
const MOST: usize = 32;
/// A shelf nobody came to for so long gets smaller.
const PATIENCE: Duration = Duration::from_secs(20);
/// After a failure with nobody waiting, the next attempt comes so much later.
const PAUSE: Duration = Duration::from_secs(1);

/// A kind of sandbox that is kept ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShelfId(usize);

type Made = Result<Sandbox, NetworkError>;

#[derive(Debug)]
struct Shelf {
    blueprint: Blueprint,
    ready: VecDeque<Sandbox>,
    waiting: VecDeque<oneshot::Sender<Made>>,
    /// How many should be ready.
    target: usize,
    /// Filling is on: it starts when half are gone and ends when all are back.
    filling: bool,
    last_taken: Instant,
    not_before: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    shelves: Vec<Shelf>,
    stopped: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The shelves and the thread that fills them.
#[derive(Debug)]
pub struct SandboxPool {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl SandboxPool {
    /// Starts the thread, in the calling thread's network namespace.
    pub fn start() -> Result<Self, NetworkError> {
        let shared = Arc::new(Shared::default());
        let workshop = Workshop::open().map_err(NetworkError::io("open the host's network namespace"))?;
        let worker = Worker { shared: shared.clone(), workshop };
        let thread = std::thread::Builder::new().name("sandbox-pool".to_owned()).spawn(move || worker.run());
        let thread = thread.map_err(NetworkError::io("start the sandbox pool"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A new shelf; it begins to fill.
    pub fn add_shelf(&self, blueprint: Blueprint) -> ShelfId {
        let mut state = self.shared.lock();
        state.shelves.push(Shelf {
            blueprint,
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            target: LEAST,
            filling: true,
            last_taken: Instant::now(),
            not_before: None,
        });
        let id = ShelfId(state.shelves.len() - 1);
        drop(state);
        self.shared.changed.notify_one();
        id
    }

    /// Takes one; waits only when the shelf is empty.
    pub async fn take(&self, id: ShelfId) -> Result<Sandbox, NetworkError> {
        let receiver = {
            let mut state = self.shared.lock();
            if state.stopped {
                return Err(NetworkError::PoolClosed("the pool has stopped".to_owned()));
            }
            let shelf = &mut state.shelves[id.0];
            shelf.last_taken = Instant::now();
            let found = shelf.ready.pop_front();
            if found.is_none() {
                shelf.target = (shelf.target * 2).min(MOST);
            }
            let wake = !shelf.filling && shelf.ready.len() * 2 <= shelf.target;
            shelf.filling |= wake;
            if let Some(sandbox) = found {
                drop(state);
                if wake {
                    self.shared.changed.notify_one();
                }
                return Ok(sandbox);
            }
            let (sender, receiver) = oneshot::channel();
            shelf.waiting.push_back(sender);
            receiver
        };
        self.shared.changed.notify_one();
        receiver.await.unwrap_or_else(|_| Err(NetworkError::PoolClosed("its thread has ended".to_owned())))
    }

    /// How many lie ready on a shelf.
    pub fn ready(&self, id: ShelfId) -> usize {
        self.shared.lock().shelves[id.0].ready.len()
    }
}

impl Drop for SandboxPool {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic was printed by its hook; there is nothing left to do about it.
            let _ = thread.join();
        }
    }
}

/// The thread's side.
#[derive(Debug)]
struct Worker {
    shared: Arc<Shared>,
    workshop: Workshop,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Also when it ends by a panic: nobody shall wait for it.
        let mut state = self.shared.lock();
        state.stopped = true;
        for shelf in &mut state.shelves {
            shelf.waiting.clear();
        }
    }
}

impl Worker {
    fn run(self) {
        process::give_way();
        while let Some((index, blueprint)) = self.next() {
            let made = self.workshop.make(&blueprint);
            if made.is_err() && !self.workshop.is_home() {
                tracing::error!("the sandbox pool's thread is lost in another network namespace and ends");
                return;
            }
            self.deliver(index, made);
        }
    }

    /// Waits for something to make.
    fn next(&self) -> Option<(usize, Blueprint)> {
        let mut state = self.shared.lock();
        loop {
            if state.stopped {
                return None;
            }
            let now = Instant::now();
            // Those who wait come first.
            let wanted = state.shelves.iter().position(|shelf| !shelf.waiting.is_empty());
            let wanted = wanted.or_else(|| {
                let open = |shelf: &Shelf| shelf.filling && shelf.not_before.is_none_or(|at| at <= now);
                state.shelves.iter().position(open)
            });
            if let Some(index) = wanted {
                return Some((index, state.shelves[index].blueprint.clone()));
            }
            let surplus = shrink(&mut state, now);
            if !surplus.is_empty() {
                drop(state);
                drop(surplus);
                state = self.shared.lock();
                continue;
            }
            let rest = rest(&state, now);
            state = match rest {
                None => self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(rest) => self.shared.changed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    fn deliver(&self, index: usize, made: Made) {
        let mut state = self.shared.lock();
        let shelf = &mut state.shelves[index];
        let mut made = made;
        while let Some(waiting) = shelf.waiting.pop_front() {
            match waiting.send(made) {
                Ok(()) => return,
                // Its start was given up meanwhile.
                Err(back) => made = back,
            }
        }
        match made {
            Ok(sandbox) => {
                shelf.ready.push_back(sandbox);
                shelf.filling = shelf.ready.len() < shelf.target;
                shelf.not_before = None;
            }
            Err(error) => {
                shelf.not_before = Some(Instant::now() + PAUSE);
                tracing::warn!(%error, "a network sandbox could not be made ahead");
            }
        }
    }
}

/// Takes what is too much from shelves nobody came to.
fn shrink(state: &mut State, now: Instant) -> Vec<Sandbox> {
    let mut surplus = Vec::new();
    for shelf in &mut state.shelves {
        if shelf.target > LEAST && now.duration_since(shelf.last_taken) >= PATIENCE {
            shelf.target = (shelf.target / 2).max(LEAST);
            shelf.last_taken = now;
            surplus.extend(shelf.ready.drain(shelf.target.min(shelf.ready.len())..));
        }
    }
    surplus
}

/// How long nothing will be to do unless somebody comes.
fn rest(state: &State, now: Instant) -> Option<Duration> {
    let due = state.shelves.iter().flat_map(|shelf| {
        let retry = shelf.not_before.filter(|_| shelf.filling);
        let shrink = (shelf.target > LEAST).then(|| shelf.last_taken + PATIENCE);
        retry.into_iter().chain(shrink)
    });
    due.min().map(|at| at.saturating_duration_since(now).max(Duration::from_millis(1)))
}
