//! Chores that wait for a pause between containers (ADR 0014): letting go of root file systems, which flushes a disk, and
//! deleting what was thrown away, making roots ahead. One thread, many chores at a time.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use dockerd_sys::chores;
use dockerd_types::Digest;

use crate::container::Container;
use crate::ports::{Images, RuntimeSet};

#[derive(Debug)]
enum Chore {
    /// Its root may be idle.
    Root(Arc<Container>),
    /// There was a container above this layer, and there may soon be another.
    Stock(Digest),
    Directory(PathBuf),
}

/// Does chores on a thread of its own.
#[derive(Debug)]
pub(crate) struct Janitor(Sender<Chore>);

impl Janitor {
    /// Starts the thread; it ends with this, when all is done.
    pub(crate) fn start(runtimes: Arc<dyn RuntimeSet>, images: Arc<dyn Images>) -> io::Result<Self> {
        Ok(Self(chores::start("janitor", move |chores| work(&*runtimes, &*images, chores))?))
    }

    /// A container has ended: its root is let go soon. Never waits.
    pub(crate) fn ended(&self, container: &Arc<Container>) {
        if container.root().end() {
            self.add(Chore::Root(container.clone()));
        }
    }

    /// A container was created above layer `chain`: a root is made ahead for the next one, and that of this one is let go if it
    /// is not started soon. Never waits.
    pub(crate) fn created(&self, container: &Arc<Container>, chain: Option<Digest>) {
        if container.root().is_ready() {
            self.add(Chore::Root(container.clone()));
        }
        if let Some(chain) = chain {
            self.add(Chore::Stock(chain));
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

fn work(runtimes: &dyn RuntimeSet, images: &dyn Images, chores: Vec<Chore>) {
    let (mut roots, mut chains, mut directories) = (Vec::new(), HashSet::new(), Vec::new());
    for chore in chores {
        match chore {
            Chore::Root(container) => roots.push(container),
            Chore::Stock(chain) => _ = chains.insert(chain),
            Chore::Directory(path) => directories.push(path),
        }
    }
    // First: the next container may come any moment.
    for chain in chains {
        if let Err(error) = images.stock(&chain) {
            tracing::debug!(layer = %chain, %error, "no root made ahead");
        }
    }
    // As long as a directory is there, the next daemon knows of the container's cgroup.
    if !directories.is_empty() {
        runtimes.settle();
    }
    for path in directories {
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "directory of a removed container is left");
            }
            _ => {}
        }
    }
    // Last: what was deleted need not be flushed.
    roots.iter().for_each(|container| container.root().release_idle());
}
