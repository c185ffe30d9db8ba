//! EROFS indexes of layer tars. A layer's plain tar stays whole; beside it lies a small EROFS image of *metadata only*, whose
//! inodes point into the tar by 512-byte blocks. The tar is given at mount time as an extra device (the kernel's
//! Documentation/filesystems/erofs.rst, option `device=`), so nothing is ever extracted. The *merged* index of a whole image
//! is one such file with one device for each of its layers and all whiteouts applied.
//!
//! ```text
//! tar --scan--> Tree --write--> index of one layer --read--> Tree --merge (bottom up)--> Tree --write--> merged index
//! ```
//!
//! Pure, but for [`probe`](probe()): works on bytes and readers; mounting is `dockerd_sys::mount::erofs`. Knows nothing of images, digests and drivers.

mod layout;
mod lookup;
mod merge;
mod probe;
mod read;
mod scan;
mod sparse;
mod tree;
mod write;
mod xattr;

pub use merge::Merge;
pub use probe::{ProbeError, probe};
pub use read::read;
pub(crate) use scan::Scanner;
pub use scan::{Scanned, scan};
pub(crate) use tree::{Content, device_parts};
pub use tree::{Device, Inode, InodeId, Kind, Place, ROOT, Segment, Tree};
#[cfg(any(test, fuzzing))]
pub(crate) use write::reseal;
pub use write::write;
pub use xattr::Attribute;

/// No name in the table of devices, where their order says which is which.
pub(crate) const NO_TAG: [u8; 64] = [0; 64];

#[cfg(test)]
pub(crate) mod tests;

/// Why a tree cannot be had, or cannot be an index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// More of something than an index takes.
    #[error("too many or too large for an index: {0}")]
    TooLarge(&'static str),
    /// An attribute that no file system takes; its name.
    #[error("invalid extended attribute {0:?}")]
    Attribute(String),
    /// An image that is not one of ours, or was changed.
    #[error("broken index: {0}")]
    Broken(&'static str),
}
