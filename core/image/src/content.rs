//! Content by digest: nothing is visible until its digest is verified, and what is visible never changes.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use dockerd_types::Digest;
use sha2::{Digest as _, Sha256, Sha512};

use crate::error::ImageError;
use crate::intake::spool::Spool;
use crate::trash::Trash;

/// Bytes moved at a time.
const CHUNK: usize = 256 * 1024;

/// The algorithms content is named by; the store has a directory for each.
const ALGORITHMS: [&str; 2] = ["sha256", "sha512"];

/// The store's directory; blobs lie at `<algorithm>/<hex>`.
#[derive(Debug, Clone)]
pub struct ContentStore {
    directory: PathBuf,
    temporary: PathBuf,
    trash: Trash,
}

impl ContentStore {
    /// The store below `dir`; temporary files go to `temporary`, on the same file system.
    pub(crate) fn open(dir: &Path, temporary: &Path, trash: Trash) -> Result<Self, ImageError> {
        for algorithm in ALGORITHMS {
            fs::create_dir_all(dir.join(algorithm)).map_err(ImageError::io("make the content store"))?;
        }
        Ok(Self { directory: dir.to_owned(), temporary: temporary.to_owned(), trash })
    }

    /// Where content is received.
    pub(crate) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// The digest by which [`put`](Self::put) stores `bytes`.
    pub(crate) fn name(bytes: &[u8]) -> Digest {
        Digest::sha256(&Sha256::digest(bytes).into())
    }

    /// Stores small content, flushed to disk.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
        let fail = || ImageError::io("write content");
        let digest = Self::name(bytes);
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
        for algorithm in ALGORITHMS {
            let Ok(entries) = fs::read_dir(self.directory.join(algorithm)) else { continue };
            for entry in entries.flatten() {
                let digest = Digest::parse(&format!("{algorithm}:{}", entry.file_name().to_string_lossy()));
                if digest.is_ok_and(|digest| wanted.contains(&digest)) {
                    continue;
                }
                if let Err(error) = self.trash.discard(&entry.path()) {
                    tracing::warn!(%error, "leftover content could not be removed");
                }
            }
        }
    }

    /// Where a blob lies.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.algorithm()).join(digest.hex())
    }
}

/// The digest of everything `reader` has, by the algorithm of `like`.
pub(crate) fn digest_of(reader: impl Read, like: &Digest) -> io::Result<Digest> {
    match like.algorithm() {
        "sha512" => Ok(Digest::sha512(&hashed(Sha512::new(), reader)?.finalize().into())),
        _ => Ok(Digest::sha256(&hashed(Sha256::new(), reader)?.finalize().into())),
    }
}

fn hashed<H: sha2::Digest>(mut hasher: H, mut reader: impl Read) -> io::Result<H> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher),
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
