//! Layers on their way in. What arrives is written to a growing temporary file ([`spool::Spool`]), and while it still
//! grows, another thread reads behind the writer, decompresses, hashes and unpacks ([`stage::Job`]). So receiving,
//! decompression, hashing and unpacking overlap, several layers are at work at once, the sender never waits for the
//! unpacking, and memory stays at a few buffers whatever the size.
//!
//! ```text
//! socket -> spool (raw, hashed) -> decompress, hash -> spool (plain) -> unpack into a temporary directory
//!                                  (only if compressed)
//! ```
//! Who is near behind a writer gets the bytes in memory, and the files are written meanwhile ([`disk`]).
//! Nothing of this is visible: a load publishes staged layers when their digests are verified.

pub(crate) mod disk;
pub(crate) mod hashing;
pub(crate) mod pool;
pub(crate) mod spool;
pub(crate) mod stage;
