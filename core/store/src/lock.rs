//! One daemon per data root: an flock(2) on a file in it, released by the kernel when the daemon dies however it dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

/// Why the data root could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error("data root is in use by another daemon (lock file {})", .0.display())]
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

/// The held lock; dropping it gives the data root free.
#[derive(Debug)]
pub struct RootLock {
    _file: File,
}

impl RootLock {
    /// Takes the lock at `path` at once or fails with [`LockError::Held`].
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: path.to_owned(), source };
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
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
        assert!(RootLock::take(&path).is_ok());
    }
}
