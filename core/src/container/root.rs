//! A running container's root file system, held by the daemon as well as by the container.
//!
//! When the last one who uses an overlay lets go of it, the kernel flushes the whole file system below and waits for the
//! disk; if that is the container's process, its exit is told only afterwards. So the daemon keeps a descriptor and lets
//! go when starts and exits rest, for many containers at a time: what one has flushed the next need not.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Exits rest when none came for so long.
const QUIET: Duration = Duration::from_millis(20);
/// So many are let go even when exits do not rest,
const MOST: usize = 64;
/// and none waits longer than about this.
const LONGEST: Duration = Duration::from_secs(2);

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

    fn end(&self) -> bool {
        let mut held = self.lock();
        *held = match std::mem::take(&mut *held) {
            Held::Running(root) | Held::Ended(root) => Held::Ended(root),
            Held::Nothing => Held::Nothing,
        };
        matches!(*held, Held::Ended(_))
    }

    fn release_ended(&self) {
        let mut held = self.lock();
        if matches!(*held, Held::Ended(_)) {
            *held = Held::Nothing;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets go of the roots of containers that have ended, on a thread of its own.
#[derive(Debug)]
pub(crate) struct RootCloser(Sender<Arc<HeldRoot>>);

impl RootCloser {
    /// Starts the thread; it ends with this.
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, queue) = mpsc::channel();
        std::thread::Builder::new().name("root-closer".to_owned()).spawn(move || {
            dockerd_sys::process::give_way();
            while let Some(roots) = gather(&queue, QUIET, LONGEST) {
                roots.iter().for_each(|root| root.release_ended());
            }
        })?;
        Ok(Self(sender))
    }

    /// The container has ended: its root is let go soon. Never waits for the disk.
    pub(super) fn retire(&self, root: &Arc<HeldRoot>) {
        if root.end() {
            // The thread lives as long as this.
            let _ = self.0.send(root.clone());
        }
    }
}

/// Those that came until a pause of `quiet`; `None` when no more will come.
fn gather(queue: &Receiver<Arc<HeldRoot>>, quiet: Duration, longest: Duration) -> Option<Vec<Arc<HeldRoot>>> {
    let mut roots = vec![queue.recv().ok()?];
    let end = Instant::now() + longest;
    while roots.len() < MOST && Instant::now() < end {
        match queue.recv_timeout(quiet) {
            Ok(root) => roots.push(root),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    Some(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        let (reader, writer) = io::pipe().expect("pipe");
        (reader.into(), writer.into())
    }

    /// Waits until the other end of the pipe is gone.
    fn is_closed(reader: OwnedFd) -> bool {
        io::Read::read(&mut std::fs::File::from(reader), &mut [0]).expect("read") == 0
    }

    #[test]
    fn what_has_ended_is_let_go_and_what_runs_again_is_not() {
        let closer = RootCloser::start().expect("thread");
        let (first, second) = (Arc::new(HeldRoot::default()), Arc::new(HeldRoot::default()));
        let ((reader, writer), (other_reader, other_writer)) = (pipe(), pipe());
        second.keep(other_writer);
        first.keep(writer);
        closer.retire(&first);
        assert!(is_closed(reader));
        second.release_ended();
        assert!(matches!(*second.lock(), Held::Running(_)), "only what has ended");
        second.release();
        assert!(is_closed(other_reader));
        closer.retire(&second);
        assert!(matches!(*second.lock(), Held::Nothing));
    }

    #[test]
    fn a_pause_ends_a_batch() {
        let (sender, queue) = mpsc::channel();
        (0..MOST + 3).for_each(|_| sender.send(Arc::default()).expect("sent"));
        let count = |roots: Option<Vec<_>>| roots.map(|roots| roots.len());
        let (moment, long) = (Duration::from_millis(1), Duration::from_secs(3600));
        assert_eq!(count(gather(&queue, moment, long)), Some(MOST));
        assert_eq!(count(gather(&queue, moment, long)), Some(3));
        drop(sender);
        assert_eq!(count(gather(&queue, moment, moment)), None);
    }
}
