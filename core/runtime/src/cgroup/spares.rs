//! Version 1 cgroups made ahead. A container has one in each of about ten hierarchies, and making them costs more than
//! anything else a start waits for; version 1 lets a directory be renamed, so the next container takes what lies ready. (In
//! version 2 there is one directory to make, and it could not be renamed.)

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dockerd_sys::chores;

use super::devices::DeviceList;
use super::{CgroupError, Shared, files};

/// How many lie ready, all for the last container's kind.
const READY: usize = 2;

/// In their names, before the maker's process id.
const PREFIX: &str = "dockerd-rs-spare";

/// What a container's cgroup is like before its limits are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kind {
    /// The cgroup it is in.
    pub(super) parent: String,
    /// What devices it allows.
    pub(super) devices: DeviceList,
}

/// A cgroup nobody has yet.
#[derive(Debug)]
pub(super) struct Spare {
    kind: Kind,
    pub(super) path: String,
    /// Its `tasks` files, which stay the same under another name.
    pub(super) tasks: Vec<OwnedFd>,
}

/// Those there are, and the thread that makes more in pauses between containers.
#[derive(Debug)]
pub(super) struct Spares {
    shelf: Arc<Mutex<Shelf>>,
    orders: Sender<Kind>,
}

#[derive(Debug, Default)]
struct Shelf {
    ready: Vec<Spare>,
    made: u64,
    closed: bool,
}

impl Spares {
    /// Starts the thread; it ends with this.
    pub(super) fn start(shared: Arc<Shared>) -> std::io::Result<Self> {
        let shelf = Arc::<Mutex<Shelf>>::default();
        let maker = Maker { shared, shelf: shelf.clone() };
        let orders = chores::start("cgroup-spares", move |mut kinds: Vec<Kind>| {
            if let Some(kind) = kinds.pop()
                && let Err(error) = maker.fill(&kind)
            {
                tracing::debug!(%error, "no cgroup made ahead");
            }
        })?;
        Ok(Self { shelf, orders })
    }

    /// One of that kind, if there is one, and has more of them made. Does not wait for one that is being made.
    pub(super) fn take(&self, kind: &Kind) -> Option<Spare> {
        // The thread lives as long as this.
        let _ = self.orders.send(kind.clone());
        let mut shelf = self.shelf.try_lock().ok()?;
        let found = shelf.ready.iter().position(|spare| spare.kind == *kind)?;
        Some(shelf.ready.swap_remove(found))
    }

    /// How many there are; waits for one that is being made.
    #[cfg(test)]
    pub(super) fn ready(&self) -> usize {
        lock(&self.shelf).ready.len()
    }

    /// The end: all of them, to be removed, and no more are made.
    pub(super) fn close(&self) -> Vec<String> {
        let mut shelf = lock(&self.shelf);
        shelf.closed = true;
        shelf.ready.drain(..).map(|spare| spare.path).collect()
    }
}

fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's side.
#[derive(Debug)]
struct Maker {
    shared: Arc<Shared>,
    shelf: Arc<Mutex<Shelf>>,
}

impl Maker {
    fn fill(&self, kind: &Kind) -> Result<(), CgroupError> {
        let mut shelf = lock(&self.shelf);
        let others: Vec<Spare> = shelf.ready.extract_if(.., |spare| spare.kind != *kind).collect();
        others.iter().try_for_each(|other| self.shared.remove(&other.path))?;
        while shelf.ready.len() < READY && !shelf.closed {
            shelf.made += 1;
            let path = format!("{}/{PREFIX}-{}-{}", kind.parent, std::process::id(), shelf.made);
            match self.shared.make_spare(&path, &kind.devices) {
                Ok(tasks) => shelf.ready.push(Spare { kind: kind.clone(), path, tasks }),
                Err(error) => {
                    self.shared.remove(&path)?;
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        for spare in lock(&self.shelf).ready.drain(..) {
            if let Err(error) = self.shared.remove(&spare.path) {
                tracing::debug!(%error, "a cgroup made ahead is left");
            }
        }
    }
}

/// Names of spares below a parent's directory whose makers are gone.
pub(super) fn left_behind(parent: &Path) -> Vec<String> {
    let name = |path: PathBuf| Some(path.file_name()?.to_str()?.to_owned());
    // One that has ended but was not collected has no program any more.
    let lives = |pid: &str| Path::new("/proc").join(pid).join("exe").read_link().is_ok();
    let gone = |name: &String| maker(name).is_some_and(|pid| !lives(pid));
    files::children(parent).into_iter().filter_map(name).filter(gone).collect()
}

fn maker(name: &str) -> Option<&str> {
    let (pid, number) = name.strip_prefix(PREFIX)?.strip_prefix('-')?.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(pid) && digits(number)).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_maker() {
        assert_eq!(maker("dockerd-rs-spare-12-3"), Some("12"));
        for other in ["dockerd-rs-spare-12", "dockerd-rs-spare-x-3", "dockerd-rs-spare--3", "other-12-3"] {
            assert_eq!(maker(other), None, "{other}");
        }
    }
}
