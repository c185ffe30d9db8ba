//! Where everything goes. Inodes follow each other in the tree's order. What stands behind an inode as the last part of its
//! content must be in one block; where that leaves a gap, the next inodes that fit are put into it.

use super::directory::Names;
use super::{Attributes, Shared, chunk_bits, chunks};
use crate::erofs::IndexError;
use crate::erofs::layout::*;
use crate::erofs::tree::{InodeId, Kind, Place, Tree};
use crate::untar::TarTime;

/// Where an inode is, and in which form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot {
    pub(super) offset: u64,
    pub(super) compact: bool,
    /// Whether the last part of its content is behind it.
    pub(super) inline: bool,
    /// The first of its blocks.
    pub(super) blocks: u32,
}

/// The whole plan.
pub(super) struct Placed {
    pub(super) spots: Vec<Spot>,
    pub(super) shared_block: u32,
    pub(super) spill_block: u32,
    /// Length of the index.
    pub(super) blocks: u32,
}

impl Placed {
    /// The number of an inode in the format.
    pub(super) fn number(&self, id: InodeId) -> u64 {
        self.spots[id.at()].offset / INODE_SLOT as u64
    }
}

/// Lengths of an inode's parts.
struct Parts {
    compact: bool,
    /// Inode and attributes, and the chunk indexes.
    head: u64,
    /// Content in the index, of directories and links.
    content: u64,
    /// Blocks of spilled content.
    spill: u64,
}

/// Plans an index whose inodes start at `first`, the root's before all others.
pub(super) fn place(tree: &Tree, epoch: TarTime, shared: &Shared, first: u64) -> Result<Placed, IndexError> {
    let mut space = Space { at: first, gap: 0..0 };
    let mut spots = Vec::with_capacity(tree.len());
    // Blocks of content so far, and of spilled bytes.
    let (mut blocks, mut spill) = (0, 0);
    for at in 0..tree.len() {
        let id = InodeId(at as u32);
        let parts = parts(tree, id, epoch, shared)?;
        let tail = parts.content % BLOCK;
        let inline = tail > 0 && parts.head + tail <= BLOCK;
        let offset = if inline { space.take_with(parts.head, tail) } else { space.take(parts.head) };
        let own = if inline { parts.content / BLOCK } else { parts.content.div_ceil(BLOCK) };
        let start = u32::try_from(blocks).map_err(|_| IndexError::TooLarge("files"))?;
        spots.push(Spot { offset, compact: parts.compact, inline, blocks: start });
        blocks += own;
        spill += parts.spill;
        if space.at + (blocks + spill) * BLOCK > MAX_IMAGE {
            return Err(IndexError::TooLarge("files"));
        }
    }
    let base = space.at.div_ceil(BLOCK);
    let shared_block = base + blocks;
    let spill_block = shared_block + (shared.bytes.len() as u64).div_ceil(BLOCK);
    let total = spill_block + spill;
    let block = |block: u64| u32::try_from(block).map_err(|_| IndexError::TooLarge("files"));
    if total * BLOCK > MAX_IMAGE {
        return Err(IndexError::TooLarge("files"));
    }
    for spot in &mut spots {
        spot.blocks = block(base + u64::from(spot.blocks))?;
    }
    // The superblock's checksum is of a whole block, which there must be.
    let total = total.max((SUPERBLOCK as u64 + BLOCK) / BLOCK);
    Ok(Placed { spots, shared_block: block(shared_block)?, spill_block: block(spill_block)?, blocks: block(total)? })
}

fn parts(tree: &Tree, id: InodeId, epoch: TarTime, shared: &Shared) -> Result<Parts, IndexError> {
    let inode = tree.inode(id);
    let mut parts = Parts { compact: false, head: 0, content: 0, spill: 0 };
    let (mut indexes, mut size) = (0, 0);
    match inode.kind {
        Kind::Directory { .. } => parts.content = Names::of(tree, id).size(),
        Kind::Symlink(span) => parts.content = tree.target(span).len() as u64,
        Kind::File { size: length, content } if length > 0 => {
            let segments = tree.segments(content);
            indexes = chunks(length, chunk_bits(length, segments));
            if indexes > MAX_CHUNKS {
                return Err(IndexError::TooLarge("a sparse file"));
            }
            size = length;
            let spilled = segments.iter().filter(|segment| matches!(segment.place, Place::Spill(_)));
            parts.spill = spilled.map(|segment| segment.length.div_ceil(BLOCK)).sum();
        }
        _ => {}
    }
    let small = |number: u32| u16::try_from(number).is_ok();
    parts.compact = inode.mtime == epoch
        && small(inode.uid)
        && small(inode.gid)
        && small(inode.links)
        && u32::try_from(size.max(parts.content)).is_ok();
    parts.head = if parts.compact { COMPACT } else { EXTENDED } as u64 + xattr_size(tree, shared, id)?;
    if indexes > 0 {
        parts.head = parts.head.next_multiple_of(INDEX_SIZE) + indexes * INDEX_SIZE;
    }
    Ok(parts)
}

fn xattr_size(tree: &Tree, shared: &Shared, id: InodeId) -> Result<u64, IndexError> {
    let size = Attributes::of(tree, shared, id).size();
    // The field counts words, and one for the header.
    if size / 4 >= usize::from(u16::MAX) {
        return Err(IndexError::TooLarge("attributes of a file"));
    }
    Ok(size as u64)
}

/// Free space for inodes.
struct Space {
    at: u64,
    gap: std::ops::Range<u64>,
}

impl Space {
    /// Takes `length` bytes.
    fn take(&mut self, length: u64) -> u64 {
        let length = length.next_multiple_of(INODE_SLOT as u64);
        let from = if self.gap.end - self.gap.start >= length { &mut self.gap.start } else { &mut self.at };
        let start = *from;
        *from += length;
        start
    }

    /// Takes `head` and `tail` bytes, the tail in one block.
    fn take_with(&mut self, head: u64, tail: u64) -> u64 {
        let total = (head + tail).next_multiple_of(INODE_SLOT as u64);
        let fits = |start: u64| (start + head) % BLOCK + tail <= BLOCK;
        if self.gap.end - self.gap.start >= total && fits(self.gap.start) {
            return self.take(total);
        }
        if !fits(self.at) {
            let next = self.at.next_multiple_of(BLOCK);
            if next - self.at > self.gap.end - self.gap.start {
                self.gap = self.at..next;
            }
            self.at = next;
        }
        let start = self.at;
        self.at += total;
        start
    }
}
