//! Sandboxes made ahead. A network namespace and a pair of links cost more than everything else a start does with the
//! network, so one background thread keeps a few of each kind on a shelf and fills up behind the starts: when a start is
//! over and a shelf is nearly empty, else when starts rest. Making one is most of a millisecond in the kernel, which
//! would otherwise keep the start it follows from its processor. A shelf grows when it was found empty and shrinks when
//! nobody comes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{self, SendError, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dockerd_sys::process;

use crate::error::NetworkError;
use crate::sandbox::{Blueprint, Sandbox, Workshop};

/// Sandboxes on a shelf when nothing happens.
const LEAST: usize = 4;
/// The same for a network nobody comes to.
const LEAST_IDLE: usize = 1;
/// Sandboxes on a shelf at most: what the fastest clients use up in the time it takes to make them.
const MOST: usize = 32;
/// A shelf nobody came to for so long gets smaller.
const PATIENCE: Duration = Duration::from_secs(20);
/// Starts rest when none came for so long.
const QUIET: Duration = Duration::from_millis(20);

/// A kind of sandbox that is kept ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShelfId(usize);

type Made = Result<Sandbox, NetworkError>;

#[derive(Debug)]
struct Shelf {
    blueprint: Blueprint,
    ready: VecDeque<Sandbox>,
    waiting: VecDeque<SyncSender<Made>>,
    /// How many should be ready.
    target: usize,
    /// How many should be ready when nobody comes.
    least: usize,
    /// Starts are not waited for: it was found nearly empty and is not full again.
    hurry: bool,
    last_taken: Instant,
}

impl Shelf {
    fn is_short(&self) -> bool {
        self.ready.len() < self.target
    }

    /// What cannot be made is not tried again before somebody comes for it, who is told why.
    fn give_up(&mut self) {
        self.target = 0;
        self.hurry = false;
    }

    fn is_nearly_empty(&self) -> bool {
        self.ready.len() * 4 <= self.target
    }

    /// When the next one is to be made; `None` while the shelf is full.
    fn due(&self) -> Option<Instant> {
        let due = if self.hurry { self.last_taken } else { self.last_taken + QUIET };
        self.is_short().then_some(due)
    }
}

#[derive(Debug, Default)]
struct State {
    shelves: BTreeMap<usize, Shelf>,
    /// The next shelf's number.
    next: usize,
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
        self.add(blueprint, LEAST, LEAST)
    }

    /// A new shelf for what may never be used: it fills once somebody came.
    pub fn add_idle_shelf(&self, blueprint: Blueprint) -> ShelfId {
        self.add(blueprint, 0, LEAST_IDLE)
    }

    fn add(&self, blueprint: Blueprint, target: usize, least: usize) -> ShelfId {
        let mut state = self.shared.lock();
        let id = state.next;
        state.next += 1;
        let shelf = Shelf {
            blueprint,
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            target,
            least,
            hurry: true,
            last_taken: Instant::now(),
        };
        state.shelves.insert(id, shelf);
        drop(state);
        self.shared.changed.notify_one();
        ShelfId(id)
    }

    /// Takes a shelf away with all that lies on it.
    pub fn remove_shelf(&self, id: ShelfId) {
        let shelf = self.shared.lock().shelves.remove(&id.0);
        // Not under the lock: the kernel takes the namespaces down.
        drop(shelf);
    }

    /// Takes one; waits only when the shelf is empty. Blocking.
    pub fn take(&self, id: ShelfId) -> Result<Sandbox, NetworkError> {
        let receiver = {
            let mut state = self.shared.lock();
            if state.stopped {
                return Err(NetworkError::PoolClosed("the pool has stopped".to_owned()));
            }
            let Some(shelf) = state.shelves.get_mut(&id.0) else {
                return Err(NetworkError::PoolClosed("the network was removed".to_owned()));
            };
            shelf.last_taken = Instant::now();
            let found = shelf.ready.pop_front();
            if found.is_none() {
                shelf.target = (shelf.target * 2).clamp(LEAST, MOST);
                shelf.hurry = true;
            }
            if let Some(sandbox) = found {
                return Ok(sandbox);
            }
            let (sender, receiver) = mpsc::sync_channel(1);
            shelf.waiting.push_back(sender);
            receiver
        };
        self.shared.changed.notify_one();
        receiver.recv().unwrap_or_else(|_| Err(NetworkError::PoolClosed("its thread has ended".to_owned())))
    }

    /// A start is over: what it took is made again, now or soon.
    pub fn refill(&self) {
        let mut state = self.shared.lock();
        let mut wanting = false;
        for shelf in state.shelves.values_mut() {
            shelf.hurry |= shelf.is_nearly_empty();
            wanting |= shelf.is_short();
        }
        drop(state);
        if wanting {
            self.shared.changed.notify_one();
        }
    }

    /// How many lie ready on a shelf.
    pub fn ready(&self, id: ShelfId) -> usize {
        self.shared.lock().shelves.get(&id.0).map_or(0, |shelf| shelf.ready.len())
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
        for shelf in state.shelves.values_mut() {
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
            let first = |wanted: &dyn Fn(&Shelf) -> bool| state.shelves.iter().find(|(_, shelf)| wanted(shelf));
            let wanted = first(&|shelf| !shelf.waiting.is_empty())
                .or_else(|| first(&|shelf| shelf.due().is_some_and(|at| at <= now)));
            if let Some((index, shelf)) = wanted {
                return Some((*index, shelf.blueprint.clone()));
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
        let Some(shelf) = state.shelves.get_mut(&index) else {
            // Its network was removed meanwhile; not under the lock.
            drop(state);
            drop(made);
            return;
        };
        let mut made = made;
        if made.is_err() {
            shelf.give_up();
        }
        while let Some(waiting) = shelf.waiting.pop_front() {
            match waiting.send(made) {
                Ok(()) => return,
                // Its start was given up meanwhile.
                Err(SendError(back)) => made = back,
            }
        }
        match made {
            Ok(sandbox) => {
                shelf.ready.push_back(sandbox);
                shelf.hurry &= shelf.is_short();
            }
            Err(error) => tracing::warn!(%error, "a network sandbox could not be made ahead"),
        }
    }
}

/// Takes what is too much from shelves nobody came to.
fn shrink(state: &mut State, now: Instant) -> Vec<Sandbox> {
    let mut surplus = Vec::new();
    for shelf in state.shelves.values_mut() {
        if shelf.target > shelf.least && now.duration_since(shelf.last_taken) >= PATIENCE {
            shelf.target = (shelf.target / 2).max(shelf.least);
            shelf.last_taken = now;
            surplus.extend(shelf.ready.drain(shelf.target.min(shelf.ready.len())..));
        }
    }
    surplus
}

/// How long nothing will be to do unless somebody comes.
fn rest(state: &State, now: Instant) -> Option<Duration> {
    let due = state.shelves.values().flat_map(|shelf| {
        let shrink = (shelf.target > shelf.least).then(|| shelf.last_taken + PATIENCE);
        shelf.due().into_iter().chain(shrink)
    });
    due.min().map(|at| at.saturating_duration_since(now).max(Duration::from_millis(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_made_waits_for_somebody() {
        let mut shelf = Shelf {
            blueprint: Blueprint::Plain,
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            target: LEAST,
            least: LEAST,
            hurry: true,
            last_taken: Instant::now(),
        };
        assert!(shelf.due().is_some());
        shelf.give_up();
        assert_eq!(shelf.due(), None);
        let id = 7;
        let mut state = State { shelves: BTreeMap::from([(id, shelf)]), next: id + 1, stopped: false };
        let later = Instant::now() + PATIENCE * 2;
        assert!(shrink(&mut state, later).is_empty());
        assert_eq!(rest(&state, later), None, "the thread sleeps");
    }
}
