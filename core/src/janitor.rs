//! Chores that wait for a pause between containers (ADR 0014): letting go of root file systems, which flushes a disk, and
//! deleting what was thrown away. One thread, many chores at a time.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::container::root::HeldRoot;
use crate::ports::RuntimeSet;

/// Chores begin when none came for so long,
const QUIET: Duration = Duration::from_millis(20);
/// or when there are so many,
const MOST: usize = 64;
/// and none waits longer than about this.
const LONGEST: Duration = Duration::from_secs(2);

#[derive(Debug)]
enum Chore {
    Root(Arc<HeldRoot>),
    Directory(PathBuf),
}

/// Does chores on a thread of its own.
#[derive(Debug)]
pub(crate) struct Janitor(Sender<Chore>);

impl Janitor {
    /// Starts the thread; it ends with this, when all is done.
    pub(crate) fn start(runtimes: Arc<dyn RuntimeSet>) -> io::Result<Self> {
        let (sender, queue) = mpsc::channel();
        std::thread::Builder::new().name("janitor".to_owned()).spawn(move || {
            dockerd_sys::process::give_way();
            while let Some(chores) = gather(&queue, QUIET, LONGEST) {
                work(&*runtimes, chores);
            }
        })?;
        Ok(Self(sender))
    }

    /// A container has ended: its root is let go soon. Never waits.
    pub(crate) fn release(&self, root: &Arc<HeldRoot>) {
        if root.end() {
            self.add(Chore::Root(root.clone()));
        }
    }

    /// Deletes a removed container's directory soon, after all cgroups that are to go by now. Never waits.
    pub(crate) fn delete(&self, directory: PathBuf) {
        self.add(Chore::Directory(directory));
    }

    fn add(&self, chore: Chore) {
        // The thread lives as long as this.
        let _ = self.0.send(chore);
    }
}

/// Those that came until a pause of `quiet`; `None` when no more will come.
fn gather(queue: &Receiver<Chore>, quiet: Duration, longest: Duration) -> Option<Vec<Chore>> {
    let mut chores = vec![queue.recv().ok()?];
    let end = Instant::now() + longest;
    while chores.len() < MOST && Instant::now() < end {
        match queue.recv_timeout(quiet) {
            Ok(chore) => chores.push(chore),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    Some(chores)
}

fn work(runtimes: &dyn RuntimeSet, chores: Vec<Chore>) {
    // As long as a directory is there, the next daemon knows of the container's cgroup.
    if chores.iter().any(|chore| matches!(chore, Chore::Directory(_))) {
        runtimes.settle();
    }
    let mut roots = Vec::new();
    for chore in chores {
        match chore {
            Chore::Root(root) => roots.push(root),
            Chore::Directory(path) => match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "directory of a removed container is left");
                }
                _ => {}
            },
        }
    }
    // Last: what was deleted need not be flushed.
    roots.iter().for_each(|root| root.release_ended());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_a_batch() {
        let (sender, queue) = mpsc::channel();
        (0..MOST + 3).for_each(|_| sender.send(Chore::Root(Arc::default())).expect("sent"));
        let count = |chores: Option<Vec<_>>| chores.map(|chores| chores.len());
        let (moment, long) = (Duration::from_millis(1), Duration::from_secs(3600));
        assert_eq!(count(gather(&queue, moment, long)), Some(MOST));
        assert_eq!(count(gather(&queue, moment, long)), Some(3));
        drop(sender);
        assert_eq!(count(gather(&queue, moment, moment)), None);
    }
}
