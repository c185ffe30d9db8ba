//! What is to go is renamed here at once and deleted in the background; what a killed daemon leaves, boot deletes.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use dockerd_sys::chores;

use crate::archive;
use crate::error::ImageError;

/// The trash directory, on the file system of everything that is thrown into it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Trash {
    directory: PathBuf,
    /// Deletes what lies in it, in pauses between containers.
    chores: Sender<Rubbish>,
}

/// Pieces that could not be deleted and are remembered; boot deletes all others.
const MOST_LEFT: usize = 1024;

/// What lies in the trash, and a mount of it that is to go after it: what was deleted need not be flushed.
#[derive(Debug)]
struct Rubbish {
    path: PathBuf,
    mount: Option<OwnedFd>,
}

impl Trash {
    /// Starts the thread that deletes.
    pub(crate) fn new(directory: &Path) -> Result<Self, ImageError> {
        let mut left = Vec::new();
        let chores = chores::start("trash", move |rubbish: Vec<Rubbish>| {
            // What could not be deleted is tried again with what comes next.
            let again = std::mem::take(&mut left);
            left = rubbish.into_iter().chain(again).filter_map(delete).take(MOST_LEFT).collect();
        });
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
            // Nobody takes what has a temporary name, or what is a file, for whole afterwards: both can go where they are.
            Err(_) if path.file_name().is_some_and(|name| is_temporary(&name.to_string_lossy())) => {
                let _ = self.chores.send(Rubbish { path: path.to_owned(), mount });
                Ok(())
            }
            Err(source) => match fs::remove_file(path) {
                Ok(()) => Ok(()),
                Err(_) => Err(ImageError::Io { action: format!("remove {}", path.display()), source }),
            },
        }
    }
}

/// Deletes; what could not be deleted.
fn delete(rubbish: Rubbish) -> Option<Rubbish> {
    match archive::remove_all(&rubbish.path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %rubbish.path.display(), %error, "trash could not be emptied");
            Some(rubbish)
        }
        _ => {
            drop(rubbish.mount);
            None
        }
    }
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
