//! Reading tars: ustar, PAX, GNU and old ones, as they come out of image archives. Pure: takes any reader, touches no file
//! system, trusts nothing, and keeps no more in memory than one header's extensions (each at most [`MAX_EXTENSION`]).
//!
//! ```text
//! TarReader::next -> Entry (every extension merged in)   then   TarReader::data -> pieces of its content   and again
//! ```

mod header;
mod pax;
mod reader;
mod skip;
mod sparse;

pub use reader::TarReader;
pub use skip::{Skip, TarFile};

/// Longest PAX header or GNU long name; the bound Go's reader has too. Names have at most 4 KiB, attributes 64 KiB.
pub const MAX_EXTENSION: u64 = 1 << 20;
/// Most segments of one sparse file.
pub const MAX_SEGMENTS: usize = 1 << 20;

/// Whether a stream that begins with `head` is a tar with an entry: its first block is a header.
pub fn begins_tar(head: &[u8]) -> bool {
    head.first_chunk().is_some_and(|block| header::Header::check(Box::new(*block)).is_ok())
}

/// What is wrong with a tar.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream ends in the middle.
    #[error("unexpected EOF")]
    Truncated,
    /// A header that is none.
    #[error("archive/tar: invalid tar header ({0})")]
    Header(&'static str),
    /// More than any honest archive has.
    #[error("archive/tar: header field too long ({0})")]
    TooLong(&'static str),
    /// The stream could not be read; a broken compression is one of these.
    #[error("{0}")]
    Read(#[from] std::io::Error),
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A file with content.
    File,
    /// Another name of an entry before.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// Something else; the type flag.
    Other(u8),
}

/// A point in time, as file systems have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TarTime {
    /// Seconds since the epoch.
    pub seconds: i64,
    /// Nanoseconds of that second.
    pub nanos: u32,
}

/// A part of a sparse file that has content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where in the file.
    pub offset: u64,
    /// How much.
    pub length: u64,
}

/// One entry, with what PAX and GNU extensions say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// Its name, as written.
    pub path: Vec<u8>,
    /// What a link leads to, as written.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length of the file, holes included.
    pub size: u64,
    /// When it was changed.
    pub mtime: TarTime,
    /// When it was read, where the archive says so.
    pub atime: Option<TarTime>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the content of a sparse file lies; `None` for one without holes.
    pub segments: Option<Vec<Segment>>,
}
