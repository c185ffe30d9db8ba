//! A file that one thread fills and others read while it grows: a temporary one, or one that a later daemon goes on with.
//!
//! What a writer that hands on ([`Writer::handing`]) takes in is gathered in blocks. A full block is there for readers at once,
//! in memory, while it goes to the file; it is filled again when it is in the file and all readers have passed it. When none is
//! free, because the readers are far behind or the disk is slow, the next bytes go straight to the page cache, where readers
//! find them: nobody waits, and memory stays at those few blocks. (A writer that is told to be patient waits for its readers.)
//!
//! ```text
//! write -> block -> readers near by            every byte that readers may see is in a block of `recent`,
//!            `----> file (disk.rs)             or in the file: there are no holes before `written`
//!     `-> file (no block free) -> readers far behind
//! ```

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dockerd_sys::ring::{self, BLOCK, Block};
use dockerd_types::Digest;
use sha2::{Digest as _, Sha256, Sha512};

use super::disk::{self, BlockWriter, Engine, Keep};
use crate::error::ImageError;
use crate::untar::Skip;

/// Bytes read at a time of what was there before, and by readers that are far behind.
const CHUNK: usize = 256 * 1024;
/// How long a patient writer waits for its readers to move before it is patient no more.
const PATIENCE: Duration = Duration::from_secs(1);

/// How far writer and readers are.
#[derive(Debug, Default)]
struct Progress {
    written: u64,
    end: Option<End>,
    /// By offset.
    recent: VecDeque<Recent>,
    /// Where each reader is.
    readers: Vec<(u64, u64)>,
    next_reader: u64,
}

/// A block that readers find in memory.
#[derive(Debug)]
struct Recent {
    offset: u64,
    length: usize,
    block: Arc<Block>,
    /// Whether it is in the file too.
    in_file: bool,
}

impl Recent {
    fn end(&self) -> u64 {
        self.offset + self.length as u64
    }
}

#[derive(Debug, Clone)]
enum End {
    Whole,
    Broken(Arc<str>),
}

impl Progress {
    /// Lets go of blocks that are in the file and that no reader comes to any more; whether there were any. Until the first
    /// reader is there, it is waited for.
    fn retire(&mut self) -> bool {
        let expected = if self.next_reader == 0 && self.end.is_none() { 0 } else { u64::MAX };
        let last = self.readers.iter().map(|(_, position)| *position).min().unwrap_or(expected);
        let before = self.recent.len();
        self.recent.retain(|recent| !recent.in_file || recent.end() > last);
        self.recent.len() < before
    }
}

#[derive(Debug, Default)]
struct Shared {
    progress: Mutex<Progress>,
    /// There is more, or the end.
    grown: Condvar,
    /// A reader has passed a block.
    passed: Condvar,
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: End) {
        let mut progress = self.progress();
        if matches!(progress.end.get_or_insert(end), End::Broken(_)) {
            // Nobody gets to read them.
            progress.recent.clear();
        }
        progress.retire();
        drop(progress);
        self.grown.notify_all();
        self.passed.notify_all();
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
    /// What readers may see.
    written: u64,
    hand: Option<Hand>,
    /// Filled instead of a block when none is free.
    spare: Vec<u8>,
}

/// What is handed on.
struct Hand {
    disk: Box<dyn BlockWriter>,
    blocks: Vec<Arc<Block>>,
    /// The block that is being filled, and how far; readers do not see it yet.
    current: Option<(usize, usize)>,
    patient: bool,
    /// Whether waiting was of no use the last time.
    given_up: bool,
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
        let progress = Mutex::new(Progress { written, end: Some(End::Whole), ..Progress::default() });
        let shared = Arc::new(Shared { progress, ..Shared::default() });
        Ok(Self { place: Arc::new(Place::Kept(path.to_owned())), shared })
    }

    /// Reads from the start, waiting where the writer is not that far.
    pub(crate) fn reader(&self) -> Result<SpoolReader, ImageError> {
        let file = File::open(self.path()).map_err(ImageError::io("read received content"))?;
        let mut progress = self.shared.progress();
        let number = progress.next_reader;
        progress.next_reader += 1;
        progress.readers.push((number, 0));
        drop(progress);
        let (near, buffer) = (None, Vec::new());
        Ok(SpoolReader { file, spool: self.clone(), number, position: 0, near, buffer, buffered: 0..0 })
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
        let (hand, spare) = (None, Vec::new());
        let hasher = Some(Sha256::new());
        (Self { file, spool: spool.clone(), hasher, other: None, written: 0, hand, spare }, spool)
    }

    /// Takes what the file has already as written, up to its first hole and no more than `most` bytes; how many. Blocking.
    pub(crate) fn catch_up(&mut self, most: u64) -> io::Result<u64> {
        let mut buffer = vec![0; CHUNK];
        let hole = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(0)).unwrap_or(most);
        let most = most.min(hole);
        while self.written < most {
            let wanted = usize::try_from(most - self.written).map_or(CHUNK, |left| left.min(CHUNK));
            match self.file.read_at(&mut buffer[..wanted], self.written)? {
                0 => break,
                length => self.passed(&buffer[..length]),
            }
        }
        self.file.set_len(self.written)?;
        Ok(self.written)
    }

    /// Hands on what follows in memory, to be kept as `keep` says by `engine`. Where that is not to be had, all stays as it is.
    pub(crate) fn handing(mut self, keep: Keep, engine: Engine) -> Self {
        let path = self.spool.path();
        let made = ring::blocks(keep.blocks()).and_then(|blocks| {
            let plain = |error| {
                tracing::debug!(%error, "a file is written without io_uring");
                disk::writer(Engine::Plain, keep, &self.file, path, &blocks)
            };
            let disk = disk::writer(engine, keep, &self.file, path, &blocks).or_else(plain)?;
            Ok(Hand { disk, blocks, current: None, patient: false, given_up: false })
        });
        self.hand = made.inspect_err(|error| tracing::debug!(%error, "nothing is handed on in memory")).ok();
        self
    }

    /// Whether it is to wait for readers that are far behind, from now on.
    pub(crate) fn set_patient(&mut self, patient: bool) {
        if let Some(hand) = &mut self.hand {
            hand.patient = patient;
        }
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = match self.room()? {
                Some(room) => {
                    let length = room.len().min(bytes.len());
                    room[..length].copy_from_slice(&bytes[..length]);
                    self.filled(length)?;
                    length
                }
                None => {
                    let length = bytes.len().min(self.before_aligned());
                    self.straight(&bytes[..length])?;
                    length
                }
            };
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Room for what comes next, never empty, of which [`advance`](Self::advance) then takes the beginning.
    pub(crate) fn space(&mut self) -> io::Result<&mut [u8]> {
        // Asked twice, because what is lent for the answer could not be lent again.
        if self.room()?.is_some() {
            return self.room()?.ok_or_else(|| io::ErrorKind::Other.into());
        }
        let most = self.before_aligned().min(CHUNK);
        self.spare.resize(CHUNK, 0);
        Ok(&mut self.spare[..most])
    }

    /// Takes the first `length` bytes of the [`space`](Self::space) that was asked for last.
    pub(crate) fn advance(&mut self, length: usize) -> io::Result<()> {
        if self.hand.as_ref().is_some_and(|hand| hand.current.is_some()) {
            return self.filled(length);
        }
        let spare = std::mem::take(&mut self.spare);
        self.straight(&spare[..length])?;
        self.spare = spare;
        Ok(())
    }

    /// What is left of the block that is being filled, or all of a free one.
    fn room(&mut self) -> io::Result<Option<&mut [u8]>> {
        let Some(hand) = &mut self.hand else { return Ok(None) };
        if hand.current.is_none() && self.written.is_multiple_of(hand.disk.alignment()) {
            hand.current = hand.free(&self.spool.shared)?.map(|number| (number, 0));
        }
        let Some((number, filled)) = hand.current else { return Ok(None) };
        Ok(Arc::get_mut(&mut hand.blocks[number]).map(|block| &mut block.bytes_mut()[filled..]))
    }

    /// More of the block is filled.
    fn filled(&mut self, length: usize) -> io::Result<()> {
        let Some(hand) = &mut self.hand else { return Ok(()) };
        let Some((_, filled)) = &mut hand.current else { return Ok(()) };
        *filled += length;
        if *filled == BLOCK { self.hand_on() } else { Ok(()) }
    }

    /// Shows the block to readers and has it written.
    fn hand_on(&mut self) -> io::Result<()> {
        let Some(hand) = &mut self.hand else { return Ok(()) };
        let Some((number, length)) = hand.current.take() else { return Ok(()) };
        let (block, offset) = (hand.blocks[number].clone(), self.written);
        self.written += length as u64;
        {
            let mut progress = self.spool.shared.progress();
            progress.recent.push_back(Recent { offset, length, block: block.clone(), in_file: false });
            progress.written = self.written;
        }
        self.spool.shared.grown.notify_all();
        if (length as u64).is_multiple_of(hand.disk.alignment()) {
            hand.disk.begin(&block, length, offset)?;
            hand.settle(&self.spool.shared, false)?;
        } else {
            // The last one.
            self.file.write_all_at(&block.bytes()[..length], offset)?;
            in_file(&mut self.spool.shared.progress(), offset);
        }
        self.hash(&block.bytes()[..length]);
        Ok(())
    }

    /// Bytes to where blocks may begin again, or at least some.
    fn before_aligned(&self) -> usize {
        let alignment = self.hand.as_ref().map_or(1, |hand| hand.disk.alignment());
        match (self.written.next_multiple_of(alignment) - self.written) as usize {
            0 => CHUNK,
            gap => gap,
        }
    }

    /// Writes to the file by a plain call.
    fn straight(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.written)?;
        self.passed(bytes);
        Ok(())
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        self.spool.shared.progress().written = self.written;
        self.spool.shared.grown.notify_all();
        // Readers go on meanwhile.
        self.hash(bytes);
    }

    fn hash(&mut self, bytes: &[u8]) {
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
    pub(crate) fn finish_verified(mut self) -> io::Result<(Digest, Digest)> {
        self.hand_on()?;
        let other = self.other.take().map(|hasher| Digest::sha512(&hasher.finalize().into()));
        let digest = self.finish()?;
        Ok((digest.clone(), other.unwrap_or(digest)))
    }

    /// All is written; its digest.
    pub(crate) fn finish(self) -> io::Result<Digest> {
        Ok(self.finish_if_hashed()?.expect("a writer whose digest is wanted hashes"))
    }

    /// Leaves the hashing to others.
    pub(crate) fn unhashed(mut self) -> Self {
        self.hasher = None;
        self
    }

    /// All is written, and in the file when this returns; its digest, unless that is left to others.
    pub(crate) fn finish_if_hashed(mut self) -> io::Result<Option<Digest>> {
        self.hand_on()?;
        if let Some(mut hand) = self.hand.take() {
            hand.settle(&self.spool.shared, true)?;
            // Room was made for as much as was announced.
            self.file.set_len(self.written)?;
        }
        self.spool.shared.end(End::Whole);
        Ok(self.hasher.clone().map(|hasher| Digest::sha256(&hasher.finalize().into())))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Without effect after `finish`: the first end counts.
        self.spool.abort("unexpected EOF");
    }
}

impl Hand {
    /// A block that nobody has.
    fn free(&mut self, shared: &Shared) -> io::Result<Option<usize>> {
        loop {
            self.settle(shared, false)?;
            if let Some(number) = self.blocks.iter_mut().position(|block| Arc::get_mut(block).is_some()) {
                self.given_up = false;
                return Ok(Some(number));
            }
            // Waiting is for readers, not for the disk.
            if !self.patient || self.given_up || self.disk.under_way() == self.blocks.len() {
                return Ok(None);
            }
            let mut progress = shared.progress();
            progress.retire();
            // Once more, now that no reader can come between.
            if self.blocks.iter_mut().any(|block| Arc::get_mut(block).is_some()) {
                continue;
            }
            if progress.end.is_none() {
                let waited = shared.passed.wait_timeout(progress, PATIENCE).unwrap_or_else(PoisonError::into_inner);
                self.given_up = waited.1.timed_out();
            } else {
                self.given_up = true;
            }
        }
    }

    /// Takes note of writes that have ended; with `all`, of all there are.
    fn settle(&mut self, shared: &Shared, all: bool) -> io::Result<()> {
        while let Some(offset) = self.disk.next(all)? {
            in_file(&mut shared.progress(), offset);
        }
        Ok(())
    }
}

/// What begins at `offset` has been written.
fn in_file(progress: &mut Progress, offset: u64) {
    if let Some(recent) = progress.recent.iter_mut().find(|recent| recent.offset == offset) {
        recent.in_file = true;
    }
    progress.retire();
}

/// Reads a [`Spool`].
#[derive(Debug)]
pub(crate) struct SpoolReader {
    file: File,
    spool: Spool,
    number: u64,
    position: u64,
    /// The block that is being read, its first byte, and its length.
    near: Option<(Arc<Block>, u64, usize)>,
    /// What was read from the file ahead of `position`.
    buffer: Vec<u8>,
    buffered: std::ops::Range<usize>,
}

/// Where a reader finds its next byte.
enum Next {
    /// In the block that is near.
    Near,
    /// In the file, together with as many that follow.
    File(u64),
    End,
}

impl SpoolReader {
    /// Waits for the next byte.
    fn next(&mut self) -> io::Result<Next> {
        if self.in_near().is_some() {
            return Ok(Next::Near);
        }
        self.near = None;
        let mut progress = self.moved(self.position);
        loop {
            if let Some(End::Broken(why)) = &progress.end {
                return Err(io::Error::other(why.to_string()));
            }
            if progress.written > self.position {
                break;
            }
            if progress.end.is_some() {
                return Ok(Next::End);
            }
            progress = self.spool.shared.grown.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        let behind = progress.recent.iter().find(|recent| recent.end() > self.position);
        let limit = match behind {
            Some(recent) if recent.offset <= self.position => {
                let near = Some((recent.block.clone(), recent.offset, recent.length));
                drop(progress);
                self.near = near;
                return Ok(Next::Near);
            }
            Some(recent) => recent.offset,
            None => progress.written,
        };
        Ok(Next::File(limit - self.position))
    }

    /// Says that it is at `to`.
    fn moved(&self, to: u64) -> MutexGuard<'_, Progress> {
        let mut progress = self.spool.shared.progress();
        if let Some((_, position)) = progress.readers.iter_mut().find(|(number, _)| *number == self.number) {
            *position = to;
        }
        if progress.retire() {
            self.spool.shared.passed.notify_all();
        }
        progress
    }

    fn in_near(&self) -> Option<&[u8]> {
        let (block, offset, length) = self.near.as_ref()?;
        let at = usize::try_from(self.position.checked_sub(*offset)?).ok()?;
        block.bytes()[..*length].get(at..).filter(|rest| !rest.is_empty())
    }

    fn pass(&mut self, bytes: u64) {
        self.position += bytes;
        let left = self.buffered.len() as u64;
        self.buffered.start = if bytes < left { self.buffered.start + bytes as usize } else { self.buffered.end };
    }
}

impl Drop for SpoolReader {
    fn drop(&mut self) {
        self.near = None;
        let mut progress = self.spool.shared.progress();
        progress.readers.retain(|(number, _)| *number != self.number);
        progress.retire();
        drop(progress);
        self.spool.shared.passed.notify_all();
    }
}

impl Read for SpoolReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let ahead = &self.buffer[self.buffered.clone()];
        let length = if ahead.is_empty() {
            match self.next()? {
                Next::End => 0,
                Next::Near => self.in_near().map_or(0, |rest| copy(rest, buffer)),
                Next::File(limit) => {
                    let length = usize::try_from(limit).map_or(buffer.len(), |limit| limit.min(buffer.len()));
                    self.file.read_at(&mut buffer[..length], self.position)?
                }
            }
        } else {
            copy(ahead, buffer)
        };
        self.pass(length as u64);
        Ok(length)
    }
}

impl BufRead for SpoolReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.buffered.is_empty() {
            match self.next()? {
                Next::End => return Ok(&[]),
                Next::Near => return Ok(self.in_near().unwrap_or_default()),
                Next::File(limit) => {
                    self.buffer.resize(CHUNK, 0);
                    let length = usize::try_from(limit).map_or(CHUNK, |limit| limit.min(CHUNK));
                    let length = self.file.read_at(&mut self.buffer[..length], self.position)?;
                    self.buffered = 0..length;
                }
            }
        }
        Ok(&self.buffer[self.buffered.clone()])
    }

    fn consume(&mut self, amount: usize) {
        self.pass(amount as u64);
    }
}

fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let length = from.len().min(to.len());
    to[..length].copy_from_slice(&from[..length]);
    length
}

impl Skip for SpoolReader {
    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let target = self.position.saturating_add(bytes);
        if self.near.as_ref().is_some_and(|(_, offset, length)| target >= offset + *length as u64) {
            self.near = None;
        }
        let mut progress = self.moved(target);
        while progress.written < target && progress.end.is_none() {
            progress = self.spool.shared.grown.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(End::Broken(why)) = &progress.end {
            return Err(io::Error::other(why.to_string()));
        }
        let passed = bytes.min(progress.written.saturating_sub(self.position));
        drop(progress);
        self.pass(passed);
        Ok(passed)
    }
}

#[cfg(test)]
mod tests;
