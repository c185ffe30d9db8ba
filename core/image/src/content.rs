//! Content by digest: nothing is visible until its digest is verified, and what is visible never changes.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use dockerd_types::Digest;
use sha2::{Digest as _, Sha256};

use crate::error::ImageError;

/// Bytes moved at a time.
const CHUNK: usize = 256 * 1024;

/// The store's directory; blobs lie at `sha256/<hex>`.
#[derive(Debug, Clone)]
pub struct ContentStore {
    blobs: PathBuf,
    temporary: PathBuf,
}

/// Content that was received but has no name yet; goes away unless it is kept.
#[derive(Debug)]
pub struct Ingest {
    file: tempfile::NamedTempFile,
    /// What it hashes to.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
}

impl Ingest {
    /// Opens it for reading from its start.
    pub fn open(&self) -> io::Result<File> {
        self.file.reopen()
    }
}

impl ContentStore {
    /// The store below `dir`; temporary files go to `temporary`, on the same file system.
    pub fn open(dir: &Path, temporary: &Path) -> Result<Self, ImageError> {
        let blobs = dir.join("sha256");
        fs::create_dir_all(&blobs).map_err(ImageError::io("make the content store"))?;
        Ok(Self { blobs, temporary: temporary.to_owned() })
    }

    /// Receives everything `reader` has.
    pub fn receive(&self, mut reader: impl Read) -> Result<Ingest, ImageError> {
        let fail = || ImageError::io("receive content");
        let mut file = tempfile::NamedTempFile::new_in(&self.temporary).map_err(fail())?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        let mut size = 0;
        loop {
            let length = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(fail()(error)),
            };
            hasher.update(&buffer[..length]);
            file.write_all(&buffer[..length]).map_err(fail())?;
            size += length as u64;
        }
        Ok(Ingest { file, digest: Digest::sha256(&hasher.finalize().into()), size })
    }

    /// Makes received content visible under its digest.
    pub fn keep(&self, ingest: Ingest) -> Result<(Digest, u64), ImageError> {
        let Ingest { file, digest, size } = ingest;
        let path = self.path(&digest);
        if !path.exists() {
            file.as_file().sync_data().map_err(ImageError::io("flush content"))?;
            file.persist(&path)
                .map_err(|error| ImageError::Io { action: "keep content".into(), source: error.error })?;
        }
        Ok((digest, size))
    }

    /// Stores small content.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
        self.receive(bytes).and_then(|ingest| self.keep(ingest)).map(|(digest, _)| digest)
    }

    /// Opens a blob.
    pub fn get(&self, digest: &Digest) -> Result<File, ImageError> {
        File::open(self.path(digest)).map_err(ImageError::io(format!("open content {digest}")))
    }

    /// Whether it is there.
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Removes a blob nobody refers to; a missing one is fine.
    pub fn remove(&self, digest: &Digest) {
        if let Err(error) = fs::remove_file(self.path(digest))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%digest, %error, "content could not be removed");
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }
}

/// Reads through to `inner` and hashes what passes.
#[derive(Debug)]
pub struct HashingReader<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> HashingReader<R> {
    /// Around `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    /// Reads what is left, and tells the digest of everything.
    pub fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(Digest::sha256(&self.hasher.finalize().into()))
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}
