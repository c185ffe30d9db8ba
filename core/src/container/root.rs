//! A running container's root file system, held by the daemon as well as by the container.
//!
//! When the last one who uses an overlay lets go of it, the kernel flushes the whole file system below and waits for the
//! disk; if that is the container's process, its exit is told only afterwards. So the daemon keeps a descriptor, and
//! the janitor lets go of it in a pause, for many containers at a time: what one has flushed the next need not.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::EngineError;

/// The descriptor of one container's root, while there is one. Letting go of it blocks, and whoever wants to mount the
/// same file system meanwhile waits.
#[derive(Debug, Default)]
pub(crate) struct HeldRoot(Mutex<Held>);

#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    /// Mounted for a start that has not come yet.
    Ready(OwnedFd),
    /// The container runs.
    Running(OwnedFd),
    /// It has ended.
    Ended(OwnedFd),
}

impl HeldRoot {
    /// Keeps the root of a container that has just been created for its start.
    pub(super) fn ready(root: OwnedFd) -> Self {
        Self(Mutex::new(Held::Ready(root)))
    }

    /// Whether it waits for a start.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(*self.lock(), Held::Ready(_))
    }

    /// What was made ready, or, once the root of the run before is let go of, what `mount` makes; kept from here on, so that
    /// whatever fails afterwards, no async worker is the last to let go. Blocking.
    pub(super) fn start(&self, mount: impl FnOnce() -> Result<OwnedFd, EngineError>) -> Result<OwnedFd, EngineError> {
        let mut held = self.lock();
        let root = match std::mem::take(&mut *held) {
            Held::Ready(root) => root,
            before => {
                drop(before);
                mount()?
            }
        };
        let copy = root.try_clone();
        *held = Held::Running(root);
        copy.map_err(|error| EngineError::io("hold the root file system", error))
    }

    /// Keeps the root of a process that outlived an earlier daemon. Without it the exit waits for the disk, no more.
    pub(crate) fn keep_of(&self, pid: i32) {
        let path = std::path::Path::new("/proc").join(pid.to_string()).join("root");
        match std::fs::File::open(&path) {
            Ok(root) => *self.lock() = Held::Running(root.into()),
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
            rest @ (Held::Nothing | Held::Ready(_)) => rest,
        };
        matches!(*held, Held::Ended(_))
    }

    /// Lets go of it if the container does not run. Blocking.
    pub(crate) fn release_idle(&self) {
        let mut held = self.lock();
        if matches!(*held, Held::Ready(_) | Held::Ended(_)) {
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
        drop(root.start(|| Ok(writer.into())).expect("started"));
        root.release_idle();
        assert!(matches!(*root.lock(), Held::Running(_)), "it runs");
        assert!(root.end());
        root.release_idle();
        assert_eq!(std::io::Read::read(&mut reader, &mut [0]).expect("read"), 0, "it is closed");
    }

    #[test]
    fn what_was_made_ready_is_used_once() {
        let mount = || Ok(std::fs::File::open("/dev/null").expect("opened").into());
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let root = HeldRoot::ready(writer.into());
        drop(root.start(|| panic!("it is there")).expect("started"));
        drop(root.start(mount).expect("started again"));
        assert_eq!(std::io::Read::read(&mut reader, &mut [0]).expect("read"), 0, "the first is closed");
    }

    #[test]
    fn what_was_made_ready_goes_when_nobody_starts_it() {
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let root = HeldRoot::ready(writer.into());
        root.release_idle();
        assert_eq!(std::io::Read::read(&mut reader, &mut [0]).expect("read"), 0, "it is closed");
    }
}
