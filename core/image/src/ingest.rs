//! Blobs on their way from a registry, by digest: files a daemon that comes after a killed one goes on with.
//!
//! ```text
//! image/ingest/<digest>             what has arrived, up to the first hole; it may be longer, because room is made ahead
//! ```
//! A pull that ends, well or not, takes its files away. What a killed daemon left is checked by its digest when the same
//! blob is wanted again, and is deleted after a day.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dockerd_types::Digest;

use crate::error::ImageError;
use crate::trash::Trash;

/// How long a killed daemon's files are kept.
const KEPT: Duration = Duration::from_hours(24);

/// The directory of such files.
#[derive(Debug)]
pub(crate) struct Ingests {
    directory: PathBuf,
    trash: Trash,
}

impl Ingests {
    /// Opens or makes the directory `directory`, and deletes what is old.
    pub(crate) fn open(directory: &Path, trash: Trash) -> Result<Self, ImageError> {
        fs::create_dir_all(directory).map_err(ImageError::io("make the ingest directory"))?;
        let ingests = Self { directory: directory.to_owned(), trash };
        ingests.sweep(KEPT)?;
        Ok(ingests)
    }

    /// Where a blob arrives.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.hex())
    }

    /// Takes a blob's file away; a missing one is fine.
    pub(crate) fn remove(&self, digest: &Digest) {
        if let Err(error) = self.trash.discard(&self.path(digest)) {
            tracing::warn!(%digest, %error, "a received file could not be removed");
        }
    }

    /// Deletes what was not written to for `age`.
    fn sweep(&self, age: Duration) -> Result<(), ImageError> {
        let entries = fs::read_dir(&self.directory).map_err(ImageError::io("list received files"))?;
        for entry in entries.flatten() {
            let modified = entry.metadata().and_then(|meta| meta.modified());
            if modified.is_ok_and(|time| time.elapsed().is_ok_and(|since| since < age)) {
                continue;
            }
            self.trash.discard(&entry.path())?;
        }
        Ok(())
    }
}
