//! A running container's root file system, held by the daemon as well as by the container.
//!
//! When the last one who uses an overlay lets go of it, the kernel flushes the whole file system below and waits for the
//! disk; if that is the container's process, its exit is told only afterwards. So the daemon keeps a descriptor, and
//! the janitor lets go of it in a pause, for many containers at a time: what one has flushed the next need not.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The descriptor of one container's root, while there is one. Letting go of it blocks, and whoever wants to mount the
/// same file system meanwhile waits.
#[derive(Debug, Default)]
pub(crate) struct HeldRoot(Mutex<Held>);

#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    /// The container runs.
    Running(OwnedFd),
    /// It has ended.
    Ended(OwnedFd),
}

impl HeldRoot {
    /// Keeps the root of a container that is being started. Nothing may be held.
    pub(super) fn keep(&self, root: OwnedFd) {
        *self.lock() = Held::Running(root);
    }

    /// Keeps the root of a process that outlived an earlier daemon. Without it the exit waits for the disk, no more.
    pub(crate) fn keep_of(&self, pid: i32) {
        let path = std::path::Path::new("/proc").join(pid.to_string()).join("root");
        match std::fs::File::open(&path) {
            Ok(root) => self.keep(root.into()),
            Err(error) => tracing::debug!(pid, %error, "a container's root is not held"),
        }
    }

    /// Lets go at once. Blocking.
    pub(super) fn release(&self) {
        *self.lock() = Held::Nothing;
    }

    /// The container has ended. Whether there is something to let go of now. Never waits for the disk.
    pub(crate) fn end(&self) -> bool {
        let mut held = self.lock();
        *held = match std::mem::take(&mut *held) {
            Held::Running(root) | Held::Ended(root) => Held::Ended(root),
            Held::Nothing => Held::Nothing,
        };
        matches!(*held, Held::Ended(_))
    }

    /// Lets go of it if the container has ended. Blocking.
    pub(crate) fn release_ended(&self) {
        let mut held = self.lock();
        if matches!(*held, Held::Ended(_)) {
            *held = Held::Nothing;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_again_is_kept() {
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let root = HeldRoot::default();
        assert!(!root.end(), "there is nothing");
        root.keep(writer.into());
        root.release_ended();
        assert!(matches!(*root.lock(), Held::Running(_)), "it runs");
        assert!(root.end());
        root.release_ended();
        assert_eq!(std::io::Read::read(&mut reader, &mut [0]).expect("read"), 0, "it is closed");
    }
}
