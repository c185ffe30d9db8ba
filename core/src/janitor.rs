//! Chores that wait for a pause between containers (ADR 0014): letting go of root file systems, which flushes a disk, and
//! deleting what was thrown away. One thread, many chores at a time.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use dockerd_sys::chores;

use crate::container::root::HeldRoot;
use crate::ports::RuntimeSet;

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
        Ok(Self(chores::start("janitor", move |chores| work(&*runtimes, chores))?))
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
