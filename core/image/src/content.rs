//! Content by digest: nothing is visible until its digest is verified, and what is visible never changes.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use dockerd_types::Digest;
use sha2::{Digest as _, Sha256};

use crate::error::ImageError;
use crate::intake::spool::Spool;
use crate::trash::Trash;

/// Bytes moved at a time.
const CHUNK: usize = 256 * 1024;

/// The store's directory; blobs lie at `sha256/<hex>`.
#[derive(Debug, Clone)]
pub struct ContentStore {
    blobs: PathBuf,
    temporary: PathBuf,
    trash: Trash,
}

impl ContentStore {
    /// The store below `dir`; temporary files go to `temporary`, on the same file system.
    pub(crate) fn open(dir: &Path, temporary: &Path, trash: Trash) -> Result<Self, ImageError> {
        let blobs = dir.join("sha256");
        fs::create_dir_all(&blobs).map_err(ImageError::io("make the content store"))?;
        Ok(Self { blobs, temporary: temporary.to_owned(), trash })
    }

    /// Where content is received.
    pub(crate) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Stores small content, flushed to disk.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
        let fail = || ImageError::io("write content");
        let digest = Digest::sha256(&Sha256::digest(bytes).into());
        let path = self.path(&digest);
        if path.exists() {
            return Ok(digest);
        }
        let mut file = tempfile::NamedTempFile::new_in(&self.temporary).map_err(fail())?;
        file.write_all(bytes).and_then(|()| file.as_file().sync_data()).map_err(fail())?;
        file.persist(path).map_err(|error| fail()(error.error))?;
        Ok(digest)
    }

    /// Makes the received file `spool`, whose digest was verified to be `digest`, visible. Its temporary name goes by
    /// itself. Not flushed: the store's owner does that for all of a load at once (`settle.rs`).
    pub(crate) fn adopt(&self, spool: &Spool, digest: &Digest) -> Result<(), ImageError> {
        match fs::hard_link(spool.path(), self.path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(ImageError::io("keep content")(error)),
            _ => Ok(()),
        }
    }

    /// Opens a blob.
    pub fn get(&self, digest: &Digest) -> Result<File, ImageError> {
        File::open(self.path(digest)).map_err(ImageError::io(format!("open content {digest}")))
    }

    /// Reads a small blob.
    pub(crate) fn read(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        fs::read(self.path(digest)).map_err(ImageError::io(format!("read content {digest}")))
    }

    /// Whether it is there.
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Removes a blob nobody refers to; a missing one is fine.
    pub fn remove(&self, digest: &Digest) {
        if let Err(error) = self.trash.discard(&self.path(digest)) {
            tracing::warn!(%digest, %error, "content could not be removed");
        }
    }

    /// Removes every blob that is not `wanted`.
    pub(crate) fn retain(&self, wanted: &HashSet<Digest>) {
        let Ok(entries) = fs::read_dir(&self.blobs) else { return };
        for entry in entries.flatten() {
            let digest = Digest::parse(&format!("sha256:{}", entry.file_name().to_string_lossy()));
            if digest.is_ok_and(|digest| wanted.contains(&digest)) {
                continue;
            }
            if let Err(error) = self.trash.discard(&entry.path()) {
                tracing::warn!(%error, "leftover content could not be removed");
            }
        }
    }

    /// Where a blob lies.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }
}

/// The digest of everything `reader` has.
pub(crate) fn digest_of(mut reader: impl Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(Digest::sha256(&hasher.finalize().into())),
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
