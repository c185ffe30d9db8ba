//! What is to go is renamed here at once and deleted in the background; what a killed daemon leaves, boot deletes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::ImageError;

/// Deleting waits until nothing was thrown away for so long: while containers come and go it would be in their way,
const QUIET: Duration = Duration::from_millis(20);
/// but not longer than until so much lies there.
const MOST: usize = 64;

/// The trash directory, on the file system of everything that is thrown into it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Trash {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<PathBuf>,
    /// When the last one came.
    newest: Option<Instant>,
    /// Whether a thread deletes.
    working: bool,
}

impl Trash {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { inner: Arc::new(Inner { directory: directory.to_owned(), queue: Mutex::default() }) }
    }

    /// Takes `path` away; one that is not there is fine.
    pub(crate) fn discard(&self, path: &Path) -> Result<(), ImageError> {
        let target = self.inner.directory.join(temporary_name());
        match fs::rename(path, &target) {
            Ok(()) => {
                self.delete_soon(target);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(ImageError::Io { action: format!("remove {}", path.display()), source }),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delete_soon(&self, path: PathBuf) {
        let mut queue = self.queue();
        queue.waiting.push(path);
        queue.newest = Some(Instant::now());
        if queue.working {
            return;
        }
        let trash = self.clone();
        let started = std::thread::Builder::new().name("trash".to_owned()).spawn(move || trash.work());
        match started {
            Ok(_) => queue.working = true,
            Err(error) => tracing::warn!(%error, "trash is left for the next start"),
        }
    }

    fn work(&self) {
        dockerd_sys::process::give_way();
        loop {
            let paths = {
                let mut queue = self.queue();
                if queue.waiting.is_empty() {
                    queue.working = false;
                    return;
                }
                let quiet = queue.newest.map_or(QUIET, |at| at.elapsed());
                if quiet < QUIET && queue.waiting.len() < MOST {
                    drop(queue);
                    std::thread::sleep(QUIET - quiet);
                    continue;
                }
                std::mem::take(&mut queue.waiting)
            };
            paths.iter().for_each(|path| delete(path));
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
