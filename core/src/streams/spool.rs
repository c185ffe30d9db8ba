//! The way of a container's output from its pipe to its log that a `kill -9` of the daemon cannot cut (ADR 0012).
//!
//! ```text
//! pipe --splice(2)--> memory file --read--> encode --append--> log
//!                     (the supervisor holds it too)             |
//!                     mark: "log has N bytes, taken up to X" <--+
//! ```
//!
//! splice(2) takes bytes out of the pipe only as it puts them into the memory file, and the mark is one short write after
//! the log's, so at every instant each byte is in the pipe, or behind the mark in the memory file, or in the log before
//! the mark. What the log has beyond the mark is taken back and written anew by the next daemon.
//!
//! Knows descriptors and offsets; nothing of lines, records or who attends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use dockerd_types::stream::StdStream;
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

/// Output begins behind the page of the mark.
const DATA: u64 = 4096;
/// Pages are given back in steps of this.
const GIVE_BACK: u64 = 64 * 1024;
const PAGE: u64 = 4096;
/// Tells a mark from the zeros of a new file.
const MAGIC: u64 = 0x6472_736d_6172_6b31;
const MARK_BYTES: usize = 32;

/// How far the log is: everything before these places is in it, and nothing else is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Length of the log's current file.
    pub(super) log_size: u64,
    /// Place in each stream's memory file: standard output's, standard error's.
    pub(super) taken: [u64; 2],
}

impl Mark {
    /// Nothing taken yet, into a log of this length.
    pub(super) fn start(log_size: u64) -> Self {
        Self { log_size, taken: [DATA; 2] }
    }

    fn to_bytes(self) -> [u8; MARK_BYTES] {
        let mut out = [0; MARK_BYTES];
        let words = [MAGIC, self.log_size, self.taken[0], self.taken[1]];
        for (slot, word) in out.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    fn from_bytes(bytes: &[u8; MARK_BYTES]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at * 8..at * 8 + 8)?.try_into().ok()?));
        (word(0)? == MAGIC).then_some(())?;
        Some(Self { log_size: word(1)?, taken: [word(2)?.max(DATA), word(3)?.max(DATA)] })
    }
}

/// Which memory file is a stream's.
pub(super) fn slot(stream: StdStream) -> usize {
    usize::from(stream == StdStream::Stderr)
}

/// Memory files of one run of a container.
#[derive(Debug)]
pub(super) struct Spool {
    files: [File; 2],
    /// Terminals cannot be spliced into a file; their output takes a pipe between: read end, write end.
    relay: Option<(OwnedFd, OwnedFd)>,
    /// Pages before these places were given back.
    given_back: [AtomicU64; 2],
}

impl Spool {
    /// New and empty; the mark is written, so that it can be handed to the supervisor.
    pub(super) fn create(terminal: bool, mark: Mark) -> io::Result<Self> {
        let file = |name: &str| Ok::<_, io::Error>(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?));
        let files = [file("output")?, file("errors")?];
        files[1].set_len(DATA)?;
        files[0].set_len(DATA)?;
        let relay = if terminal { Some(pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?) } else { None };
        let spool = Self { files, relay, given_back: [AtomicU64::new(DATA), AtomicU64::new(DATA)] };
        spool.commit(mark)?;
        Ok(spool)
    }

    /// One that an earlier daemon made, out of the descriptors of [`Spool::descriptors`], and its mark.
    pub(super) fn take_over(descriptors: Vec<OwnedFd>) -> io::Result<(Self, Mark)> {
        let mut descriptors = descriptors.into_iter();
        let (Some(out), Some(err)) = (descriptors.next(), descriptors.next()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let relay = descriptors.next().zip(descriptors.next());
        let files = [File::from(out), File::from(err)];
        let mut bytes = [0; MARK_BYTES];
        files[0].read_exact_at(&mut bytes, 0)?;
        let mark = Mark::from_bytes(&bytes).ok_or(io::ErrorKind::InvalidData)?;
        let given_back = mark.taken.map(|taken| AtomicU64::new(taken - taken % PAGE));
        Ok((Self { files, relay, given_back }, mark))
    }

    /// What the supervisor is to hold.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let relay = self.relay.iter().flat_map(|(read, write)| [read.as_fd(), write.as_fd()]);
        self.files.iter().map(AsFd::as_fd).chain(relay).collect()
    }

    /// Where a stream's next bytes go.
    pub(super) fn end(&self, stream: StdStream) -> io::Result<u64> {
        Ok(self.files[slot(stream)].metadata()?.len().max(DATA))
    }

    /// Moves what `source` has, at most `limit` bytes, to `end` of the stream's memory file: how many it were. 0 is the end
    /// of the source, `WouldBlock` that there is nothing now.
    pub(super) fn stage(&self, stream: StdStream, source: BorrowedFd<'_>, end: u64, limit: usize) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let Some((_, relay)) = &self.relay else { return self.put(stream, source, end, limit) };
        match splice(source, None, relay, None, limit, flags)? {
            0 => Ok(0),
            _ => self.staged(stream, end, limit),
        }
    }

    /// Moves what a dead daemon has left between terminal and memory file.
    pub(super) fn staged(&self, stream: StdStream, end: u64, limit: usize) -> io::Result<usize> {
        match &self.relay {
            Some((relay, _)) => self.put(stream, relay.as_fd(), end, limit),
            None => Ok(0),
        }
    }

    fn put(&self, stream: StdStream, from: BorrowedFd<'_>, mut end: u64, limit: usize) -> io::Result<usize> {
        let file = &self.files[slot(stream)];
        Ok(splice(from, None, file, Some(&mut end), limit, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
    }

    /// Bytes of a stream's memory file.
    pub(super) fn read(&self, stream: StdStream, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.files[slot(stream)].read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    /// Puts the mark on record.
    pub(super) fn commit(&self, mark: Mark) -> io::Result<()> {
        self.files[0].write_all_at(&mark.to_bytes(), 0)
    }

    /// Gives back pages before `taken`: a lot at a time while output flows, all of them when it rests.
    pub(super) fn give_back(&self, stream: StdStream, taken: u64, rests: bool) {
        let given = &self.given_back[slot(stream)];
        let (from, to) = (given.load(Ordering::Relaxed), taken - taken % PAGE);
        if to.saturating_sub(from) < if rests { PAGE } else { GIVE_BACK } {
            return;
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(&self.files[slot(stream)], flags, from, to - from).is_ok() {
            given.store(to, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_finds_what_was_not_taken() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("pipe");
        let spool = Spool::create(false, Mark::start(7)).expect("spool");
        rustix::io::write(&writer, b"one two").expect("written");
        let end = spool.end(StdStream::Stdout).expect("end");
        assert_eq!(spool.stage(StdStream::Stdout, reader.as_fd(), end, 100).expect("staged"), 7);
        let nothing = spool.stage(StdStream::Stdout, reader.as_fd(), end + 7, 100).expect_err("nothing there");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        spool.commit(Mark { log_size: 50, taken: [end + 4, DATA] }).expect("marked");

        let copies = spool.descriptors().iter().map(|fd| fd.try_clone_to_owned().expect("copied")).collect();
        drop(spool);
        let (heir, mark) = Spool::take_over(copies).expect("taken over");
        assert_eq!(mark.log_size, 50);
        let left = heir.end(StdStream::Stdout).expect("end") - mark.taken[0];
        assert_eq!(heir.read(StdStream::Stdout, mark.taken[0], left as usize).expect("read"), b"two");
        assert_eq!(heir.end(StdStream::Stderr).expect("end"), mark.taken[1]);
        drop(writer);
        assert_eq!(heir.stage(StdStream::Stdout, reader.as_fd(), end + 7, 100).expect("the end"), 0);
    }

    #[test]
    fn pages_of_what_was_taken_are_given_back_and_the_rest_is_kept() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("pipe");
        let spool = Spool::create(false, Mark::start(0)).expect("spool");
        let mut end = DATA;
        for round in 0..64_u8 {
            rustix::io::write(&writer, &[round; 4096]).expect("written");
            end += spool.stage(StdStream::Stdout, reader.as_fd(), end, 4096).expect("staged") as u64;
            spool.give_back(StdStream::Stdout, end - 10, false);
        }
        spool.give_back(StdStream::Stdout, end - 10, true);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&spool.files[0].metadata().expect("metadata"));
        assert!(blocks * 512 <= 2 * PAGE, "{blocks} blocks are kept");
        assert_eq!(spool.read(StdStream::Stdout, end - 10, 10).expect("read"), [63; 10]);
        assert_eq!(Mark::from_bytes(&Mark::start(0).to_bytes()), Some(Mark::start(0)), "the mark's page is kept");
    }

    #[test]
    fn a_terminal_takes_the_pipe_between() {
        let pty = nix_pty();
        let spool = Spool::create(true, Mark::start(0)).expect("spool");
        rustix::io::write(&pty.1, b"hello").expect("written");
        assert_eq!(spool.stage(StdStream::Stdout, pty.0.as_fd(), DATA, 100).expect("staged"), 5);
        assert_eq!(spool.read(StdStream::Stdout, DATA, 5).expect("read"), b"hello");
        // What is between when the daemon dies is found by the next one.
        let relay = spool.relay.as_ref().expect("a pipe between");
        rustix::io::write(&relay.1, b"more").expect("written");
        let copies = spool.descriptors().iter().map(|fd| fd.try_clone_to_owned().expect("copied")).collect();
        let (heir, _) = Spool::take_over(copies).expect("taken over");
        assert_eq!(heir.staged(StdStream::Stdout, DATA + 5, 100).expect("staged"), 4);
    }

    /// A terminal in raw mode: master, other side.
    fn nix_pty() -> (OwnedFd, OwnedFd) {
        use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("unlocked");
        let other = ioctl_tiocgptpeer(&master, flags).expect("the other side");
        rustix::io::ioctl_fionbio(&master, true).expect("non-blocking");
        (master, other)
    }
}
