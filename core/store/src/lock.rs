//! One daemon per data root and per exec root: an flock(2) on a file in it, released by the kernel when the daemon dies however it dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

/// Why the data root could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error("{} is in use by another daemon (lock file {})", .0.parent().unwrap_or(.0).display(), .0.display())]
    Held(PathBuf),
    /// The lock file cannot be made or locked.
    #[error("cannot lock {}: {source}", .path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// The held lock; dropping it gives the data root free, and the other places it was widened to.
#[derive(Debug)]
pub struct RootLock {
    files: Vec<File>,
}

impl RootLock {
    /// Takes the lock at `path` at once or fails with [`LockError::Held`].
    pub fn take(path: &Path) -> Result<Self, LockError> {
        Self { files: Vec::new() }.and(path)
    }

    /// Takes the lock at `path` too.
    pub fn and(mut self, path: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: path.to_owned(), source };
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {
                self.files.push(file);
                Ok(self)
            }
            Err(TryLockError::WouldBlock) => Err(LockError::Held(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_taker_is_refused_until_the_first_leaves() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("lock");
        let first = RootLock::take(&path).expect("free");
        assert!(matches!(RootLock::take(&path), Err(LockError::Held(_))));
        drop(first);
        let both = RootLock::take(&path).and_then(|lock| lock.and(&dir.path().join("other"))).expect("free");
        assert!(RootLock::take(&dir.path().join("other")).is_err());
        drop(both);
        assert!(RootLock::take(&path).is_ok());
    }
}
