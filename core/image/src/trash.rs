//! What is to go is renamed here at once and deleted in the background; what a killed daemon leaves, boot deletes.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use dockerd_sys::chores;

use crate::error::ImageError;
use crate::tree;

/// The trash directory, on the file system of everything that is thrown into it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Trash {
    directory: PathBuf,
    /// Deletes what lies in it, in pauses between containers.
    chores: Sender<Rubbish>,
}

/// What lies in the trash, and a mount of it that is to go after it: what was deleted need not be flushed.
#[derive(Debug)]
struct Rubbish {
    path: PathBuf,
    mount: Option<OwnedFd>,
}

impl Trash {
    /// Starts the thread that deletes.
    pub(crate) fn new(directory: &Path) -> Result<Self, ImageError> {
        let chores = chores::start("trash", |rubbish: Vec<Rubbish>| rubbish.into_iter().for_each(delete));
        Ok(Self { directory: directory.to_owned(), chores: chores.map_err(ImageError::io("start a thread"))? })
    }

    /// Takes `path` away; one that is not there is fine.
    pub(crate) fn discard(&self, path: &Path) -> Result<(), ImageError> {
        self.discard_mounted(path, None)
    }

    /// As [`discard`](Self::discard), and lets go of a mount of it afterwards.
    pub(crate) fn discard_mounted(&self, path: &Path, mount: Option<OwnedFd>) -> Result<(), ImageError> {
        let target = self.directory.join(temporary_name());
        match fs::rename(path, &target) {
            Ok(()) => {
                // The thread lives as long as this.
                let _ = self.chores.send(Rubbish { path: target, mount });
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(ImageError::Io { action: format!("remove {}", path.display()), source }),
        }
    }
}

fn delete(Rubbish { path, mount }: Rubbish) {
    let directory = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
    let removed = if directory { delete_tree(&path) } else { fs::remove_file(&path) };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "trash could not be emptied");
    }
    drop(mount);
}

/// As `remove_dir_all` of the standard library, which costs stack and a descriptor for every level a container has made.
fn delete_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    tree::remove_tree(fs::File::open(parent)?.as_fd(), name, true)
}

/// Whether it is a name by [`temporary_name`].
pub(crate) fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY)
}

/// How temporary names begin.
const TEMPORARY: &str = ".tmp-";

/// A name nothing else of this data root has; boot knows it as temporary.
pub(crate) fn temporary_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    format!("{TEMPORARY}{}-{now:x}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
