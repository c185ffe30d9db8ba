//! Layers and writable snapshots behind one trait. [`drivers`] says which driver is used for what.

mod compare;
mod composefs;
mod directory;
mod drivers;
mod erofs;
mod mounted;
mod overlay;
mod overlay2;
mod spares;
mod writable;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use dockerd_types::Digest;
use rustix::fs::{Mode, OFlags};

use crate::error::ImageError;
use crate::trash::{Trash, is_temporary};
use crate::untar::Skip;

pub use composefs::Verity;
pub use drivers::{Drivers, StorageOptions};

/// The plain tar of a layer on its way in.
pub struct LayerTar<'a> {
    /// Its bytes, from the beginning.
    pub reader: &'a mut dyn Skip,
    /// The file they come from, which is on the drivers' file system, may still grow, and ends up as content.
    pub file: &'a Path,
}

impl std::fmt::Debug for LayerTar<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerTar").field("file", &self.file).finish_non_exhaustive()
    }
}

/// A layer that is unpacked but has no name yet; goes away unless it is committed.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    /// Bytes of its files.
    pub size: u64,
    trash: Trash,
    committed: bool,
}

impl Staged {
    fn new(path: PathBuf, trash: Trash) -> Self {
        Self { path, size: 0, trash, committed: false }
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = self.trash.discard(&self.path)
        {
            tracing::warn!(%error, "a layer that was given up could not be removed");
        }
    }
}

/// A backend for layers (by chainID) and writable snapshots (by a key, a container's id).
pub trait SnapshotDriver: Send + Sync + std::fmt::Debug {
    /// Its name, as `docker info` shows it.
    fn name(&self) -> &'static str;
    /// Whether it reads the plain tars of layers as long as they are there, so that these must be kept.
    fn reads_tars(&self) -> bool;
    /// Whether the layer is there.
    fn has_layer(&self, chain: &Digest) -> bool;
    /// Bytes of a layer's files; `None` when it is not known.
    fn layer_size(&self, chain: &Digest) -> Option<u64>;
    /// Takes in the plain tar of a layer, before it is known what it lies upon. Everything is read.
    fn stage(&self, tar: &mut LayerTar<'_>) -> Result<Staged, ImageError>;
    /// Gives a staged layer its name and its place above `parent`; it appears as a whole or not at all.
    fn commit(&self, staged: Staged, chain: &Digest, parent: Option<&Digest>) -> Result<(), ImageError>;
    /// The layer and what is below it, topmost first.
    fn ancestry(&self, chain: &Digest) -> Vec<Digest>;
    /// All layers.
    fn layers(&self) -> Vec<Digest>;
    /// Layers that may not be on disk yet, each with whether it was committed since the kernel started.
    fn unsettled(&self) -> Vec<(Digest, bool)>;
    /// Notes that a layer is on disk.
    fn settle(&self, chain: &Digest);
    /// Makes what the first container above layer `chain` needs. Blocking.
    fn warm(&self, chain: &Digest);
    /// Takes a layer away that nothing is above. Idempotent.
    fn remove_layer(&self, chain: &Digest) -> Result<(), ImageError>;
    /// Whether there is a snapshot of that key.
    fn has_snapshot(&self, key: &str) -> bool;
    /// Makes a writable snapshot above layer `chain` (above nothing for `None`); with its mount, as
    /// [`mount`](Self::mount) makes it, where one had been made ahead.
    fn prepare(&self, key: &str, chain: Option<&Digest>) -> Result<Option<OwnedFd>, ImageError>;
    /// Makes a snapshot above `chain` ahead of the next [`prepare`](Self::prepare), unless there is one.
    fn stock(&self, chain: &Digest) -> Result<(), ImageError>;
    /// Mounts a snapshot, detached.
    fn mount(&self, key: &str) -> Result<OwnedFd, ImageError>;
    /// Mounts a layer read-only, detached.
    fn view(&self, chain: &Digest) -> Result<OwnedFd, ImageError>;
    /// Takes a snapshot away; its space is given back in the background. Idempotent.
    fn remove(&self, key: &str) -> Result<(), ImageError>;
    /// The layer a snapshot lies upon.
    fn snapshot_chain(&self, key: &str) -> Option<Digest>;
    /// What is written to the snapshot, for a tar of it: its upper directory.
    fn upper(&self, key: &str) -> Result<OwnedFd, ImageError>;
    /// Paths of a layer's parts, named as Docker's inspect names those of its driver.
    fn describe(&self, chain: &Digest) -> Vec<(&'static str, String)>;
    /// What images, each given by its layers, share beyond whole layers. Reads lists of objects; blocking.
    fn sharing(&self, _images: &[Vec<Digest>]) -> Sharing {
        Sharing::default()
    }
    /// Keys of all snapshots.
    fn keys(&self) -> Vec<String>;
    /// Bytes in the writable part of a snapshot.
    fn usage(&self, key: &str) -> Result<u64, ImageError>;
    /// Paths the snapshot changed, in order.
    fn changes(&self, key: &str) -> Result<Vec<Change>, ImageError>;
}

/// Bytes that lie on disk once although several files have them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sharing {
    /// How much less all layers together take on disk than their files have.
    pub saved: u64,
    /// Of each image in turn, in layers that no other of them has: bytes of files that others have too. Empty where nothing
    /// but whole layers is shared.
    pub shared: Vec<u64>,
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

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    // The umask of the daemon must not decide.
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

/// Removes what an interrupted daemon left under temporary names.
fn sweep(dir: &Path, trash: &Trash) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| is_temporary(&entry.file_name().to_string_lossy())) {
        if let Err(error) = trash.discard(&entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "leftover could not be removed");
        }
    }
}
