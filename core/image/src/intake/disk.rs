//! How blocks of a growing file get to the disk, and the twins that do it: by io_uring from registered blocks, several at a
//! time, while the thread that fills them goes on; or by plain calls, one after the other. Which of them is taken for what
//! was measured (docs/performance.md, "Writing blobs"):
//!
//! - What is read back soon goes to the page cache by plain calls.
//! - What is only kept goes to the disk past the page cache ([`Keep::OnDisk`]) by io_uring: no memory is filled with it, nothing
//!   is copied, and the kernel has no pages to write back. As much as the disk takes at once, that is: a slow one holds
//!   nobody up ([`super::spool`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use dockerd_sys::ring::{self, ALIGNMENT, Block, RingWriter};
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

/// Room is made on the disk so many bytes at a time.
const ROOM: u64 = 64 << 20;

/// What is to become of what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Somebody reads it soon.
    InCache,
    /// Nobody will, but for who reads behind the writer; it is about so many bytes.
    OnDisk(u64),
}

/// The twins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// Plain calls.
    Plain,
    /// io_uring.
    Ring,
}

impl Keep {
    /// How many blocks a writer has, and so how many writes are under way at most: the disk is kept busy by eight, and who
    /// reads from the page cache only needs a few to be near.
    pub(super) fn blocks(self) -> usize {
        match self {
            Self::OnDisk(_) => 8,
            Self::InCache => 4,
        }
    }
}

impl Engine {
    /// The one to be taken here.
    pub(crate) fn best(keep: Keep) -> Self {
        match keep {
            Keep::OnDisk(_) if ring::available() => Self::Ring,
            Keep::InCache | Keep::OnDisk(_) => Self::Plain,
        }
    }
}

/// Writes blocks to a file.
pub(super) trait BlockWriter: Send {
    /// Begins to write the first `length` bytes of `block` to `offset`, and may be done with it. Both are multiples of
    /// [`alignment`](Self::alignment).
    fn begin(&mut self, block: &Arc<Block>, length: usize, offset: u64) -> io::Result<()>;

    /// The offset of a write that is in the file now. Waits, if `wait`, as long as there are others.
    fn next(&mut self, wait: bool) -> io::Result<Option<u64>>;

    /// Blocks whose writes are under way.
    fn under_way(&self) -> usize;

    /// In bytes.
    fn alignment(&self) -> u64;
}

/// The writer of `engine` for `file`, at `path`, and `blocks`.
pub(super) fn writer(
    engine: Engine,
    keep: Keep,
    file: &File,
    path: &Path,
    blocks: &[Arc<Block>],
) -> io::Result<Box<dyn BlockWriter>> {
    let own = file.try_clone()?;
    if engine == Engine::Plain {
        return Ok(Box::new(Plain { file: own, done: None }));
    }
    let mut room = None;
    let (target, alignment) = match keep {
        Keep::InCache => (file.try_clone()?, 1),
        Keep::OnDisk(size) => {
            let flags = OFlags::DIRECT.bits().cast_signed();
            let target = File::options().write(true).custom_flags(flags).open(path)?;
            room = Some(Room { made: 0, size });
            (target, ALIGNMENT as u64)
        }
    };
    let ring = RingWriter::new(&target, blocks)?;
    Ok(Box::new(Ring { ring, file: own, alignment, room }))
}

struct Plain {
    file: File,
    done: Option<u64>,
}

impl BlockWriter for Plain {
    fn begin(&mut self, block: &Arc<Block>, length: usize, offset: u64) -> io::Result<()> {
        self.file.write_all_at(&block.bytes()[..length], offset)?;
        self.done = Some(offset);
        Ok(())
    }

    fn next(&mut self, _wait: bool) -> io::Result<Option<u64>> {
        Ok(self.done.take())
    }

    fn under_way(&self) -> usize {
        0
    }

    fn alignment(&self) -> u64 {
        1
    }
}

struct Ring {
    ring: RingWriter,
    /// The file, for what the ring cannot do.
    file: File,
    alignment: u64,
    room: Option<Room>,
}

/// How much of a file has been given room on the disk: within the file's length writes past the page cache need not wait for
/// each other. What was not written yet is a hole for whoever asks (lseek(2), `SEEK_HOLE`).
struct Room {
    made: u64,
    /// How long the file is said to get, by somebody who need not be believed.
    size: u64,
}

impl Room {
    fn make(&mut self, file: &File, offset: u64, length: usize) {
        let end = offset + length as u64;
        if end > self.made && end <= self.size {
            let from = self.made.max(offset);
            let length = ROOM.min(self.size - from).max(length as u64);
            // Not every file system can, and none need.
            if let Err(error) = rustix::fs::fallocate(file, FallocateFlags::empty(), from, length) {
                tracing::debug!(%error, "no room is made ahead");
                self.size = 0;
            }
            self.made = from + length;
        }
    }
}

impl BlockWriter for Ring {
    fn begin(&mut self, block: &Arc<Block>, length: usize, offset: u64) -> io::Result<()> {
        if let Some(room) = &mut self.room {
            room.make(&self.file, offset, length);
        }
        self.ring.begin(block, length, offset)
    }

    fn next(&mut self, wait: bool) -> io::Result<Option<u64>> {
        let Some(written) = self.ring.next(wait)? else { return Ok(None) };
        let begun = match written.result {
            Ok(length) => length,
            // A file system that does not write past the page cache, or not so.
            Err(error) if refused(&error) => 0,
            Err(error) => return Err(error),
        };
        // What is missing succeeds by a plain call, or that says why not.
        let rest = &written.block.bytes()[begun..written.length];
        self.file.write_all_at(rest, written.offset + begun as u64)?;
        Ok(Some(written.offset))
    }

    fn under_way(&self) -> usize {
        self.ring.under_way()
    }

    fn alignment(&self) -> u64 {
        self.alignment
    }
}

fn refused(error: &io::Error) -> bool {
    let refusals = [Errno::INVAL, Errno::OPNOTSUPP, Errno::AGAIN, Errno::INTR];
    Errno::from_io_error(error).is_some_and(|errno| refusals.contains(&errno))
}
