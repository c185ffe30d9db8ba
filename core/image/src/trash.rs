//! What is to go is renamed here at once and deleted in the background; what a killed daemon leaves, boot deletes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use dockerd_sys::chores;

use crate::error::ImageError;

/// The trash directory, on the file system of everything that is thrown into it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Trash {
    directory: PathBuf,
    /// Deletes what lies in it, in pauses between containers.
    chores: Sender<PathBuf>,
}

impl Trash {
    /// Starts the thread that deletes.
    pub(crate) fn new(directory: &Path) -> Result<Self, ImageError> {
        let chores = chores::start("trash", |paths: Vec<PathBuf>| paths.iter().for_each(|path| delete(path)));
        Ok(Self { directory: directory.to_owned(), chores: chores.map_err(ImageError::io("start a thread"))? })
    }

    /// Takes `path` away; one that is not there is fine.
    pub(crate) fn discard(&self, path: &Path) -> Result<(), ImageError> {
        let target = self.directory.join(temporary_name());
        match fs::rename(path, &target) {
            Ok(()) => {
                // The thread lives as long as this.
                let _ = self.chores.send(target);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(ImageError::Io { action: format!("remove {}", path.display()), source }),
        }
    }
}

fn delete(path: &Path) {
    let directory = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    let removed = if directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "trash could not be emptied");
    }
}

/// A name nothing else of this data root has; boot knows it as temporary.
pub(crate) fn temporary_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    format!(".tmp-{}-{now:x}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
