//! Layers and writable snapshots behind one trait, so that other formats than directories can follow.

mod overlay2;

use std::io::Read;
use std::os::fd::OwnedFd;

use dockerd_types::Digest;
pub use overlay2::Overlay2;

use crate::error::ImageError;

/// A backend for layers (by chainID) and writable snapshots (by a key, a container's id).
pub trait SnapshotDriver: Send + Sync + std::fmt::Debug {
    /// Its name, as `docker info` shows it.
    fn name(&self) -> &'static str;
    /// Whether the layer is there.
    fn has_layer(&self, chain: &Digest) -> bool;
    /// Unpacks the plain tar `reader` as layer `chain` above `parent`; the layer appears as a whole or not at all.
    /// Returns the bytes of its files.
    fn apply(&self, chain: &Digest, parent: Option<&Digest>, reader: &mut dyn Read) -> Result<u64, ImageError>;
    /// Takes a layer away that nothing is above. Idempotent.
    fn remove_layer(&self, chain: &Digest) -> Result<(), ImageError>;
    /// Makes a writable snapshot above layer `chain` (above nothing for `None`).
    fn prepare(&self, key: &str, chain: Option<&Digest>) -> Result<(), ImageError>;
    /// Mounts a snapshot, detached.
    fn mount(&self, key: &str) -> Result<OwnedFd, ImageError>;
    /// Mounts a layer read-only, detached.
    fn view(&self, chain: &Digest) -> Result<OwnedFd, ImageError>;
    /// Takes a snapshot away; its space is given back in the background. Idempotent.
    fn remove(&self, key: &str) -> Result<(), ImageError>;
    /// Keys of all snapshots.
    fn keys(&self) -> Vec<String>;
    /// Bytes in the writable part of a snapshot.
    fn usage(&self, key: &str) -> Result<u64, ImageError>;
    /// Paths the snapshot changed, in order.
    fn changes(&self, key: &str) -> Result<Vec<Change>, ImageError>;
}

/// One changed path of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute path.
    pub path: String,
    /// What happened.
    pub kind: ChangeKind,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Changed.
    Modified,
    /// New.
    Added,
    /// Gone.
    Deleted,
}
