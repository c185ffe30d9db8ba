//! A file that one thread fills and others read while it grows: a temporary one, or one that a later daemon goes on with.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use dockerd_types::Digest;
use sha2::{Digest as _, Sha256, Sha512};

use crate::error::ImageError;
use crate::untar::Skip;

/// Bytes read at a time of what was there before.
const CHUNK: usize = 256 * 1024;

/// How far the writer is.
#[derive(Debug, Default)]
struct Progress {
    written: u64,
    end: Option<End>,
}

#[derive(Debug, Clone)]
enum End {
    Whole,
    Broken(Arc<str>),
}

#[derive(Debug, Default)]
struct Shared {
    progress: Mutex<Progress>,
    grown: Condvar,
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: End) {
        self.progress().end.get_or_insert(end);
        self.grown.notify_all();
    }
}

/// Where the file is.
#[derive(Debug)]
enum Place {
    /// Goes away with the last of its readers.
    Temporary(tempfile::TempPath),
    /// Is somebody else's to remove.
    Kept(PathBuf),
}

/// The file, for readers. No descriptor is held open while nobody reads.
#[derive(Debug, Clone)]
pub(crate) struct Spool {
    place: Arc<Place>,
    shared: Arc<Shared>,
}

/// The end that fills it, and hashes what passes. Dropped before [`Writer::finish`], it tells readers that the rest is
/// missing.
pub(crate) struct Writer {
    file: File,
    spool: Spool,
    /// `None` where somebody who reads behind it hashes.
    hasher: Option<Sha256>,
    /// Where the content has a name by this algorithm.
    other: Option<Sha512>,
    written: u64,
}

impl Spool {
    /// A new file in `directory`.
    pub(crate) fn create(directory: &Path) -> Result<(Writer, Self), ImageError> {
        let file = tempfile::NamedTempFile::new_in(directory).map_err(ImageError::io("receive content"))?;
        let (file, path) = file.into_parts();
        Ok(Writer::new(file, Place::Temporary(path)))
    }

    /// The file `path`, made if it is not there. What it has counts as written once [`Writer::catch_up`] has read it.
    pub(crate) fn keep(path: &Path) -> Result<(Writer, Self), ImageError> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
        Ok(Writer::new(file.map_err(ImageError::io("receive content"))?, Place::Kept(path.to_owned())))
    }

    /// The file `path`, which is whole.
    pub(crate) fn whole(path: &Path) -> Result<Self, ImageError> {
        let written = std::fs::metadata(path).map_err(ImageError::io("read received content"))?.len();
        let progress = Mutex::new(Progress { written, end: Some(End::Whole) });
        let shared = Arc::new(Shared { progress, ..Shared::default() });
        Ok(Self { place: Arc::new(Place::Kept(path.to_owned())), shared })
    }

    /// Reads from the start, waiting where the writer is not that far.
    pub(crate) fn reader(&self) -> Result<SpoolReader, ImageError> {
        let file = File::open(self.path()).map_err(ImageError::io("read received content"))?;
        Ok(SpoolReader { file, spool: self.clone(), position: 0 })
    }

    /// Ends it for its readers as if the writer had failed.
    pub(crate) fn abort(&self, why: &str) {
        self.shared.end(End::Broken(why.into()));
    }

    /// How much has been written.
    pub(crate) fn len(&self) -> u64 {
        self.shared.progress().written
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        match &*self.place {
            Place::Temporary(path) => path,
            Place::Kept(path) => path,
        }
    }
}

impl Writer {
    fn new(file: File, place: Place) -> (Self, Spool) {
        let spool = Spool { place: Arc::new(place), shared: Arc::default() };
        (Self { file, spool: spool.clone(), hasher: Some(Sha256::new()), other: None, written: 0 }, spool)
    }

    /// Takes what the file has already as written, but no more than `most` bytes; how many. Blocking.
    pub(crate) fn catch_up(&mut self, most: u64) -> io::Result<u64> {
        let mut buffer = vec![0; CHUNK];
        while self.written < most {
            let wanted = usize::try_from(most - self.written).map_or(CHUNK, |left| left.min(CHUNK));
            match self.file.read_at(&mut buffer[..wanted], self.written)? {
                0 => break,
                length => self.passed(&buffer[..length]),
            }
        }
        self.file.set_len(self.written)?;
        self.file.seek(SeekFrom::Start(self.written))?;
        Ok(self.written)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.passed(bytes);
        Ok(())
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        self.spool.shared.progress().written = self.written;
        self.spool.shared.grown.notify_all();
        // Readers go on meanwhile.
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        if let Some(hasher) = &mut self.other {
            hasher.update(bytes);
        }
    }

    /// Hashes by the algorithm of `name` too. Nothing has been written yet.
    pub(crate) fn verifying(mut self, name: &Digest) -> Self {
        self.other = (name.algorithm() == "sha512").then(Sha512::new);
        self
    }

    /// All is written; its digest, and the one by the algorithm it was to be verified by.
    pub(crate) fn finish_verified(mut self) -> (Digest, Digest) {
        let other = self.other.take().map(|hasher| Digest::sha512(&hasher.finalize().into()));
        let digest = self.finish();
        (digest.clone(), other.unwrap_or(digest))
    }

    /// All is written; its digest.
    pub(crate) fn finish(self) -> Digest {
        self.spool.shared.end(End::Whole);
        self.finish_if_hashed().expect("a writer whose digest is wanted hashes")
    }

    /// Leaves the hashing to others.
    pub(crate) fn unhashed(mut self) -> Self {
        self.hasher = None;
        self
    }

    /// All is written; its digest, unless that is left to others.
    pub(crate) fn finish_if_hashed(self) -> Option<Digest> {
        self.spool.shared.end(End::Whole);
        self.hasher.clone().map(|hasher| Digest::sha256(&hasher.finalize().into()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Without effect after `finish`: the first end counts.
        self.spool.abort("unexpected EOF");
    }
}

/// Reads a [`Spool`].
#[derive(Debug)]
pub(crate) struct SpoolReader {
    file: File,
    spool: Spool,
    position: u64,
}

impl Read for SpoolReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = {
            let mut progress = self.spool.shared.progress();
            loop {
                if let Some(End::Broken(why)) = &progress.end {
                    return Err(io::Error::other(why.to_string()));
                }
                if progress.written > self.position {
                    break progress.written - self.position;
                }
                if progress.end.is_some() {
                    return Ok(0);
                }
                progress = self.spool.shared.grown.wait(progress).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let length = usize::try_from(available).map_or(buffer.len(), |available| available.min(buffer.len()));
        let length = self.file.read_at(&mut buffer[..length], self.position)?;
        self.position += length as u64;
        Ok(length)
    }
}

impl Skip for SpoolReader {
    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let target = self.position.saturating_add(bytes);
        let mut progress = self.spool.shared.progress();
        while progress.written < target && progress.end.is_none() {
            progress = self.spool.shared.grown.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(End::Broken(why)) = &progress.end {
            return Err(io::Error::other(why.to_string()));
        }
        let passed = bytes.min(progress.written.saturating_sub(self.position));
        self.position += passed;
        Ok(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_follow_the_writer_and_hear_of_its_end() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut writer, spool) = Spool::create(dir.path()).expect("made");
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let mut reader = spool.reader().expect("opened");
                std::thread::spawn(move || {
                    let mut out = Vec::new();
                    reader.read_to_end(&mut out).map(|_| out)
                })
            })
            .collect();
        for _ in 0..100 {
            writer.write(&[7; 999]).expect("written");
        }
        let digest = writer.finish();
        assert_eq!(digest, Digest::sha256(&Sha256::digest([7; 99_900]).into()));
        for reader in readers {
            assert_eq!(reader.join().expect("joined").expect("read"), [7; 99_900]);
        }
    }

    #[test]
    fn a_later_writer_goes_on() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("kept");
        for (most, expected) in [(0, 0), (100, 100), (150, 150)] {
            let (mut writer, spool) = Spool::keep(&path).expect("opened");
            let mut reader = spool.reader().expect("opened");
            assert_eq!(writer.catch_up(most).expect("read"), expected);
            writer.write(&[7; 100]).expect("written");
            let length = usize::try_from(expected).expect("small") + 100;
            assert_eq!(writer.finish(), Digest::sha256(&Sha256::digest(vec![7; length]).into()));
            let mut out = Vec::new();
            reader.read_to_end(&mut out).expect("read");
            assert_eq!(out, vec![7; length]);
        }
        assert_eq!(std::fs::metadata(path).expect("kept").len(), 250);
    }

    #[test]
    fn a_writer_that_goes_away_is_an_error() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (writer, spool) = Spool::create(dir.path()).expect("made");
        let mut reader = spool.reader().expect("opened");
        drop(writer);
        assert_eq!(reader.read_to_end(&mut Vec::new()).expect_err("broken").to_string(), "unexpected EOF");
        drop((reader, spool));
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
    }
}
