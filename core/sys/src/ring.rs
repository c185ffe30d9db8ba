//! Writing blocks of memory to a file through io_uring(7): the blocks are registered, so that the kernel pins and maps them
//! once and not for each write, and so is the file. A block is shared with whoever wants to read what is in it; it can be
//! filled again when nobody holds it, neither a reader nor a write under way.
//!
//! The ring is restricted to the one operation it is for (io_uring_register(2), `IORING_REGISTER_RESTRICTIONS`). It may be
//! switched off altogether (`kernel.io_uring_disabled`, seccomp): [`available`] tells.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, squeue, types};

/// Bytes of a block: large enough that the disk is busy with one for longer than it takes to ask for it, small enough for
/// the processor's second cache.
pub const BLOCK: usize = 256 * 1024;
/// What addresses, offsets and lengths of writes past the page cache (`O_DIRECT`) are multiples of; no disk wants more.
pub const ALIGNMENT: usize = 4096;

/// Memory of some blocks, mapped together.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: an owned range of anonymous memory, bound to no thread. Who may touch which part is up to `Block`.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing is changed through a shared mapping.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `blocks`, and no block, which are all that point into it, is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// [`BLOCK`] bytes of memory at a page boundary. Filled by whoever has it alone (`Arc::get_mut`).
#[derive(Debug)]
pub struct Block {
    mapping: Arc<Mapping>,
    number: usize,
}

impl Block {
    /// What is in it.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the block's own part of the mapping, which lives as long; initialized (anonymous memory is zeros), and
        // changed only through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start().as_ptr(), BLOCK) }
    }

    /// The same, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; the block is borrowed alone, its number is no other block's, and a write under way holds it too.
        unsafe { std::slice::from_raw_parts_mut(self.start().as_ptr(), BLOCK) }
    }

    fn start(&self) -> NonNull<u8> {
        // SAFETY: within the mapping by the number, which `blocks` gave.
        unsafe { self.mapping.start.add(self.number * BLOCK) }
    }
}

/// Makes `count` blocks. Memory is taken when they are first filled or registered.
pub fn blocks(count: usize) -> io::Result<Vec<Arc<Block>>> {
    let length = count.checked_mul(BLOCK).filter(|length| *length > 0).ok_or(io::ErrorKind::InvalidInput)?;
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new anonymous mapping at no given place.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let start: NonNull<u8> = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
    // One fault instead of hundreds where the kernel has large pages; as well without.
    // SAFETY: advice about the range just mapped.
    unsafe { libc::madvise(start.as_ptr().cast(), length, libc::MADV_HUGEPAGE) };
    let mapping = Arc::new(Mapping { start, length });
    Ok((0..count).map(|number| Arc::new(Block { mapping: mapping.clone(), number })).collect())
}

/// Whether this kernel, as it is set up, gives us a ring that can do what is wanted of it.
pub fn available() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let probed = IoUring::new(1).and_then(|ring| {
            let mut probe = io_uring::Probe::new();
            ring.submitter().register_probe(&mut probe)?;
            Ok(probe.is_supported(opcode::WriteFixed::CODE))
        });
        probed.unwrap_or(false)
    })
}

/// A write that is under way.
#[derive(Debug)]
struct Pending {
    block: Arc<Block>,
    length: usize,
    offset: u64,
}

/// How a write ended.
#[derive(Debug)]
pub struct Written {
    /// What was to be written.
    pub block: Arc<Block>,
    /// How many bytes of it.
    pub length: usize,
    /// Where to in the file.
    pub offset: u64,
    /// Bytes that were written, which may be fewer.
    pub result: io::Result<usize>,
}

/// A file that blocks are written to. Dropped, it waits for what is under way.
pub struct RingWriter {
    ring: IoUring,
    /// By number of the block.
    pending: Vec<Option<Pending>>,
    under_way: usize,
}

impl std::fmt::Debug for RingWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RingWriter").field("under_way", &self.under_way).finish_non_exhaustive()
    }
}

impl RingWriter {
    /// For `file`, which may be closed afterwards, and `blocks`, all of one call of [`blocks`] and in its order. They count
    /// as locked memory.
    pub fn new(file: impl AsFd, blocks: &[Arc<Block>]) -> io::Result<Self> {
        let entries = u32::try_from(blocks.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let ring: IoUring = IoUring::builder().setup_r_disabled().build(entries.next_power_of_two())?;
        let parts: Vec<libc::iovec> = blocks
            .iter()
            .map(|block| libc::iovec { iov_base: block.start().as_ptr().cast(), iov_len: BLOCK })
            .collect();
        let submitter = ring.submitter();
        // SAFETY: the ranges are mapped. The kernel pins their pages, so even those of a block that is gone stay valid; that
        // they are not filled while they are written is up to `pending`.
        unsafe { submitter.register_buffers(&parts)? };
        submitter.register_files(&[file.as_fd().as_raw_fd()])?;
        submitter.register_restrictions(&mut [
            Restriction::sqe_op(opcode::WriteFixed::CODE),
            Restriction::sqe_flags_allowed(squeue::Flags::FIXED_FILE.bits()),
        ])?;
        submitter.register_enable_rings()?;
        let pending = blocks.iter().map(|_| None).collect();
        Ok(Self { ring, pending, under_way: 0 })
    }

    /// Begins to write the first `length` bytes of `block` to `offset`. The block must be one of this writer's, and is held
    /// until [`next`](Self::next) has told of it.
    pub fn begin(&mut self, block: &Arc<Block>, length: usize, offset: u64) -> io::Result<()> {
        let free = self.pending.get(block.number).is_some_and(Option::is_none);
        let (Some(bytes), true) = (block.bytes().get(..length), free) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let (Ok(number), Ok(size)) = (u16::try_from(block.number), u32::try_from(length)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let entry = opcode::WriteFixed::new(types::Fixed(0), bytes.as_ptr(), size, number).offset(offset).build();
        // SAFETY: the range is of a registered buffer that nobody changes while `pending` holds the block. There is room: the
        // ring has an entry for each block.
        unsafe { self.ring.submission().push(&entry.user_data(u64::from(number))) }
            .map_err(|_| io::Error::from(io::ErrorKind::WouldBlock))?;
        self.pending[block.number] = Some(Pending { block: block.clone(), length, offset });
        self.under_way += 1;
        loop {
            match self.ring.submit() {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// How many writes are under way.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// A write that has ended; `None` when none has, or with `wait` when none is under way. Blocks only with `wait`.
    pub fn next(&mut self, wait: bool) -> io::Result<Option<Written>> {
        loop {
            let entry = self.ring.completion().next();
            if let Some(entry) = entry {
                let number = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
                let Some(Pending { block, length, offset }) = self.pending.get_mut(number).and_then(Option::take)
                else {
                    continue;
                };
                self.under_way -= 1;
                let result = usize::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
                return Ok(Some(Written { block, length, offset, result }));
            }
            if !wait || self.under_way == 0 {
                return Ok(None);
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for RingWriter {
    fn drop(&mut self) {
        // Nothing is to appear in the file behind the back of whoever has it next.
        while matches!(self.next(true), Ok(Some(_))) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn blocks_are_written_where_they_belong() {
        if !available() {
            return;
        }
        let mut file = tempfile::tempfile().expect("a temporary file");
        let mut blocks = blocks(4).expect("made");
        let mut writer = RingWriter::new(&file, &blocks).expect("a ring");
        let mut expected = vec![0; 3 * BLOCK + 7];
        for (number, length) in [BLOCK, BLOCK, BLOCK, 7].into_iter().enumerate() {
            let value = b'a' + number as u8;
            Arc::get_mut(&mut blocks[number]).expect("nobody has it").bytes_mut()[..length].fill(value);
            expected[number * BLOCK..number * BLOCK + length].fill(value);
        }
        for (number, length) in [(3, 7), (1, BLOCK), (0, BLOCK), (2, BLOCK)] {
            writer.begin(&blocks[number], length, (number * BLOCK) as u64).expect("begun");
            assert!(Arc::get_mut(&mut blocks[number]).is_none(), "held while it is written");
        }
        let mut told = Vec::new();
        while let Some(written) = writer.next(true).expect("waited") {
            assert_eq!(written.result.expect("written"), written.length);
            told.push(written.offset / BLOCK as u64);
        }
        told.sort_unstable();
        assert_eq!(told, [0, 1, 2, 3]);
        assert!(blocks.iter_mut().all(|block| Arc::get_mut(block).is_some()), "all are free again");
        let mut found = Vec::new();
        file.read_to_end(&mut found).expect("read");
        assert!(found == expected);
    }

    #[test]
    fn what_is_under_way_ends_before_the_writer_does() {
        if !available() {
            return;
        }
        let file = tempfile::tempfile().expect("a temporary file");
        let blocks = blocks(2).expect("made");
        let mut writer = RingWriter::new(&file, &blocks).expect("a ring");
        writer.begin(&blocks[1], BLOCK, 0).expect("begun");
        assert!(writer.begin(&blocks[1], BLOCK, 0).is_err(), "not twice at once");
        assert!(writer.begin(&blocks[0], BLOCK + 1, 0).is_err(), "no more than a block");
        drop(writer);
        assert_eq!(file.metadata().expect("there").len(), BLOCK as u64);
    }

    #[test]
    fn an_error_is_told_with_the_write() {
        if !available() {
            return;
        }
        let place = tempfile::NamedTempFile::new().expect("a temporary file");
        let readable = std::fs::File::open(place.path()).expect("opened");
        let blocks = blocks(1).expect("made");
        let mut writer = RingWriter::new(&readable, &blocks).expect("a ring");
        writer.begin(&blocks[0], BLOCK, 0).expect("begun");
        let written = writer.next(true).expect("waited").expect("one");
        assert_eq!(written.result.expect_err("not writable").raw_os_error(), Some(libc::EBADF));
    }
}
