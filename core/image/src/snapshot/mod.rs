//! Layers and writable snapshots behind one trait. [`drivers`] says which driver is used for what.

mod ahead;
mod compare;
mod composefs;
mod difference;
mod directory;
mod drivers;
mod erofs;
mod extract;
mod ground;
mod indexed;
mod initial;
mod mounted;
mod overlay;
mod overlay2;
mod spares;
#[cfg(test)]
mod testsuite;
mod vfs;
mod writable;

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use dockerd_types::Digest;
use rustix::fs::{Mode, OFlags};

use crate::erofs::Tree;
use crate::error::ImageError;
use crate::trash::{Trash, is_temporary, temporary_name};
use crate::untar::Skip;

pub use composefs::Verity;
pub use drivers::{Drivers, StorageOptions};

/// Bytes of stack for a walk: 16 KiB a level. Only what is used takes memory.
const DEEP_STACK: usize = 32 << 20;

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
    place: Unnamed,
    /// Bytes of its files.
    pub size: u64,
}

impl Staged {
    fn path(&self) -> &Path {
        &self.place.path
    }
}

/// A directory under a temporary name; goes away unless it is given another one.
#[derive(Debug)]
struct Unnamed {
    path: PathBuf,
    trash: Trash,
    named: bool,
}

impl Unnamed {
    /// Makes one in directory `parent`.
    fn make(parent: &Path, mode: u32, trash: &Trash) -> io::Result<Self> {
        let path = parent.join(temporary_name());
        let made = Self { path, trash: trash.clone(), named: false };
        make_dir(&made.path, mode)?;
        Ok(made)
    }

    fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it under its temporary name: where it is.
    fn keep(mut self) -> PathBuf {
        self.named = true;
        std::mem::take(&mut self.path)
    }

    /// Gives it its name, where nothing is yet.
    fn name(&mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.named = true;
        Ok(())
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if !self.named
            && let Err(error) = self.trash.discard(&self.path)
        {
            tracing::warn!(%error, "what was given up could not be removed");
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
    /// Makes a snapshot above `chain` ahead of the next [`prepare`](Self::prepare), unless there is one, or one would cost as
    /// much as a container.
    fn stock(&self, chain: &Digest) -> Result<(), ImageError>;
    /// Mounts a snapshot, detached.
    fn mount(&self, key: &str) -> Result<OwnedFd, ImageError>;
    /// Mounts a layer read-only, detached.
    fn view(&self, chain: &Digest) -> Result<OwnedFd, ImageError>;
    /// Takes a snapshot away; its space is given back in the background. Idempotent.
    fn remove(&self, key: &str) -> Result<(), ImageError>;
    /// The layer a snapshot lies upon.
    fn snapshot_chain(&self, key: &str) -> Option<Digest>;
    /// Writes what the snapshot changed as the tar of a layer, with `.wh.` names for what is gone (OCI image-spec
    /// "layer.md"). Equal changes give equal bytes.
    fn write_layer(&self, key: &str, out: &mut dyn Write) -> Result<(), ImageError>;
    /// Fills a new snapshot with what the upper directory `upper` of somebody's overlay holds
    /// ([`copy_upper`](crate::archive::copy_upper)).
    fn adopt_upper(&self, key: &str, upper: BorrowedFd<'_>) -> Result<(), ImageError>;
    /// Paths of a layer's parts, named as Docker's inspect names those of its driver.
    fn describe(&self, chain: &Digest) -> Vec<(&'static str, String)>;
    /// What images, each given by its layers, share beyond whole layers. Reads lists of objects; blocking.
    fn sharing(&self, _images: &[Vec<Digest>]) -> Sharing {
        Sharing::default()
    }
    /// Keys of all snapshots.
    fn keys(&self) -> Vec<String>;
    /// Layers whose bytes come later, where the driver can do that.
    fn lazy(&self) -> Option<&dyn LazyLayers> {
        None
    }
    /// Bytes in the writable part of a snapshot.
    fn usage(&self, key: &str) -> Result<u64, ImageError>;
    /// Paths the snapshot changed, in order.
    fn changes(&self, key: &str) -> Result<Vec<Change>, ImageError>;
}

/// Layers that are there before their bytes are (see `lazy/`).
pub trait LazyLayers {
    /// Takes in a layer of the files `tree`, together `size` bytes, whose content is in the payload of the compressed layer `blob`.
    fn stage(&self, blob: &Digest, tree: &Tree, size: u64) -> Result<Staged, ImageError>;
    /// The compressed layer that `chain` waits for; `None` for one that is all there.
    fn blob_of(&self, chain: &Digest) -> Option<Digest>;
    /// Has the staged ordinary layer take the place of the one that waits. What is mounted stays as it is.
    fn fill(&self, staged: Staged, chain: &Digest) -> Result<(), ImageError>;
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

/// Names one run of the kernel.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    // The umask of the daemon must not decide.
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

/// Runs a walk through a tree on a stack that is deep enough for every path there can be (PATH_MAX), which a container may make.
fn with_deep_stack<T: Send>(walk: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let walker = std::thread::Builder::new().name("walk".to_owned()).stack_size(DEEP_STACK);
        let walker = walker.spawn_scoped(scope, walk)?;
        walker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Has something tried out in a directory of its own in `dir`.
fn probe(dir: &Path, attempt: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), String> {
    let place = dir.join(temporary_name());
    let tried = make_dir(&place, 0o700).map_err(|error| error.to_string()).and_then(|()| attempt(&place));
    if let Err(error) = fs::remove_dir_all(&place) {
        tracing::warn!(%error, "what was tried out could not be removed");
    }
    tried
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
