//! The format on disk, as far as indexes need it (the kernel's fs/erofs/erofs_fs.h; numbers are little endian).
//!
//! ```text
//! 0      nothing
//! 1024   superblock, 128 bytes
//! 1152   device slots, 128 bytes each
//!        inodes at multiples of 32 bytes (the number of an inode is its offset / 32), each followed by its attributes, then
//!        its chunk indexes, or the last part of a directory or a link
//!        blocks of directories and long links
//!        attributes that several inodes have
//!        spilled blocks of files
//! ```

/// Size of a block, that of tar.
pub(super) const BLOCK: u64 = 512;
pub(super) const BLOCK_BITS: u8 = 9;
/// Where the superblock is.
pub(super) const SUPERBLOCK: usize = 1024;
pub(super) const SUPERBLOCK_SIZE: usize = 128;
pub(super) const MAGIC: u32 = 0xe0f5_e1e2;
/// Size of a device slot, and the unit in which the place of the first is given.
pub(super) const DEVICE_SLOT: usize = 128;
/// Inodes start at multiples of this.
pub(super) const INODE_SLOT: usize = 32;
pub(super) const COMPACT: usize = 32;
pub(super) const EXTENDED: usize = 64;
/// Size of a chunk index.
pub(super) const INDEX_SIZE: u64 = 8;
/// A chunk has at most 2^31 blocks.
pub(super) const MAX_CHUNK_BITS: u32 = 31;
/// Most chunks of one file: 32 MiB of indexes.
pub(super) const MAX_CHUNKS: u64 = 4 << 20;
/// Largest index; much more than any real layer needs.
pub(super) const MAX_IMAGE: u64 = 1 << 30;
/// Most devices; the kernel's option parser and the 16-bit number of the root allow more.
pub(super) const MAX_DEVICES: usize = 4096;
/// Size of a directory entry without its name.
pub(super) const DIRENT: usize = 12;
/// Size of the header of an inode's attributes, and of that of one attribute.
pub(super) const XATTR_HEADER: usize = 12;
pub(super) const XATTR_ENTRY: usize = 4;
/// Most shared attributes of an inode.
pub(super) const MAX_SHARED: usize = 128;

/// Superblock has a checksum; times are those of last change.
pub(super) const COMPAT_CHECKSUM: u32 = 1;
pub(super) const COMPAT_MTIME: u32 = 2;
/// There are files in chunks; there is a table of devices.
pub(super) const INCOMPAT_CHUNKED: u32 = 4;
pub(super) const INCOMPAT_DEVICES: u32 = 8;

/// How an inode's content is found: in one run of blocks; the same with the last part behind the inode; by chunks.
pub(super) const FLAT_PLAIN: u16 = 0;
pub(super) const FLAT_INLINE: u16 = 2;
pub(super) const CHUNKED: u16 = 4;
/// Chunk indexes instead of bare block numbers.
pub(super) const CHUNK_INDEXES: u16 = 0x20;
/// The block number of a hole.
pub(super) const HOLE: u32 = u32::MAX;

/// File types in modes (inode(7)) and in directory entries.
pub(super) const TYPE_MASK: u16 = 0o170_000;
pub(super) const FIFO: u16 = 0o010_000;
pub(super) const CHAR_DEVICE: u16 = 0o020_000;
pub(super) const DIRECTORY: u16 = 0o040_000;
pub(super) const BLOCK_DEVICE: u16 = 0o060_000;
pub(super) const FILE: u16 = 0o100_000;
pub(super) const SYMLINK: u16 = 0o120_000;

/// The type in a directory entry of what has `mode`.
pub(super) fn entry_type(mode: u16) -> u8 {
    match mode & TYPE_MASK {
        FILE => 1,
        DIRECTORY => 2,
        CHAR_DEVICE => 3,
        BLOCK_DEVICE => 4,
        FIFO => 5,
        SYMLINK => 7,
        _ => 0,
    }
}

/// The checksum of a superblock whose checksum field is zero, with the rest of its block behind it (crc32c, not inverted at
/// the end).
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn checksums() {
        // The check value of CRC-32C, which is inverted at the end.
        assert_eq!(!super::checksum(b"123456789"), 0xe306_9283);
    }
}
