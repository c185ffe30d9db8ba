//! Writable snapshots: an overlay of an upper directory, the shared init layer, and what a format has for the layers.
//!
//! ```text
//! <driver>/init/<chain>/            mount points the image lacks; shared by all containers of the image
//! <driver>/snapshots/<key>/{upper,work,chain}
//! ```
//! Both are made under temporary names and renamed, so they are whole or not there.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dockerd_sys::mount::{self, OverlayLayers};
use dockerd_types::Digest;

use super::ground::Ground;
use super::initial::{self, ImageTree};
use super::spares::{Spare, Spares};
use super::{Change, Unnamed, compare, make_dir, open_dir, sweep};
use crate::archive;
use crate::diff;
use crate::error::ImageError;
use crate::trash::{Trash, is_temporary};

/// The upper directory must say by itself what was changed.
pub(super) const OPTIONS: [&str; 3] = ["index=off", "redirect_dir=off", "metacopy=off"];

/// What lies below a snapshot.
pub(super) trait Lower {
    /// Trees of layer `chain` and what is below it, topmost first.
    fn stack(&self, chain: &Digest) -> io::Result<Vec<LowerTree>>;
    /// As [`LayerDirectory::ground`](super::directory::LayerDirectory::ground).
    fn ground(&self, root: OwnedFd) -> io::Result<Arc<Ground>>;
    /// What overlays over these trees are to be mounted with, beside what every overlay is.
    fn options(&self) -> &[&'static str] {
        &[]
    }
}

/// One tree of an overlay.
#[derive(Debug)]
pub(super) struct LowerTree {
    /// Its root.
    pub(super) root: Arc<Ground>,
    /// Whether only files of others are looked for in it (overlayfs' data-only layers).
    pub(super) data_only: bool,
}

impl LowerTree {
    /// One that is seen.
    pub(super) fn seen(root: Arc<Ground>) -> Self {
        Self { root, data_only: false }
    }

    /// A directory that is seen.
    pub(super) fn directory(path: &Path) -> io::Result<Self> {
        Ok(Self::seen(Arc::new(Ground::there(open_dir(path)?))))
    }
}

/// All writable snapshots of one driver.
#[derive(Debug)]
pub(super) struct Writable {
    init: PathBuf,
    snapshots: PathBuf,
    spares: Spares,
    trash: Trash,
}

impl Writable {
    /// Opens or makes what it has in the driver's directory `dir`.
    pub(super) fn open(dir: &Path, trash: Trash) -> io::Result<Self> {
        let (init, snapshots) = (dir.join("init"), dir.join("snapshots"));
        for path in [&init, &snapshots] {
            DirBuilder::new().recursive(true).mode(0o710).create(path)?;
            sweep(path, &trash);
        }
        Ok(Self { init, snapshots, spares: Spares::default(), trash })
    }

    /// As [`SnapshotDriver::prepare`](super::SnapshotDriver::prepare).
    pub(super) fn prepare(
        &self,
        below: &dyn Lower,
        key: &str,
        chain: Option<&Digest>,
    ) -> Result<Option<OwnedFd>, ImageError> {
        let path = self.snapshots.join(key);
        if let Some(spare) = chain.and_then(|chain| self.spares.take(chain)) {
            match fs::rename(&spare.directory, &path) {
                Ok(()) => return Ok(Some(spare.root)),
                Err(error) => tracing::debug!(%error, "a snapshot made ahead cannot be used"),
            }
            self.discard_spare(spare)?;
        }
        let made = self.make(below, chain).and_then(|mut made| made.name(&path));
        made.map_err(ImageError::io(format!("prepare snapshot {key}")))?;
        Ok(None)
    }

    /// As [`SnapshotDriver::stock`](super::SnapshotDriver::stock).
    pub(super) fn stock(&self, below: &dyn Lower, chain: &Digest) -> Result<(), ImageError> {
        let make = || {
            let made = self.make(below, Some(chain))?;
            let root = self.mount_at(below, made.path())?;
            Ok(Spare { chain: chain.clone(), directory: made.keep(), root })
        };
        let replaced = self.spares.add(chain, make).map_err(ImageError::io("make a snapshot ahead"))?;
        replaced.map_or(Ok(()), |spare| self.discard_spare(spare))
    }

    /// Forgets what was made for a layer that has gone. Nothing is above it.
    pub(super) fn forget(&self, chain: &Digest) -> Result<(), ImageError> {
        self.trash.discard(&self.init.join(chain.hex()))?;
        // Whoever makes one afterwards misses the layer. Nothing is above it, so no other spare lies upon it.
        self.spares.wait_and_take(chain).map_or(Ok(()), |spare| self.discard_spare(spare))
    }

    /// Discards what was made ahead above layers that `above` tells.
    pub(super) fn discard_spares(&self, above: impl Fn(&Digest) -> bool) -> Result<(), ImageError> {
        self.spares.take_above(above).into_iter().try_for_each(|spare| self.discard_spare(spare))
    }

    /// As [`SnapshotDriver::mount`](super::SnapshotDriver::mount).
    pub(super) fn mount(&self, below: &dyn Lower, key: &str) -> Result<OwnedFd, ImageError> {
        let mounted = self.mount_at(below, &self.snapshots.join(key));
        mounted.map_err(ImageError::io(format!("mount snapshot {key}")))
    }

    /// As [`SnapshotDriver::remove`](super::SnapshotDriver::remove).
    pub(super) fn remove(&self, key: &str) -> Result<(), ImageError> {
        self.trash.discard(&self.snapshots.join(key))
    }

    /// The layer a snapshot lies upon.
    pub(super) fn chain(&self, key: &str) -> Option<Digest> {
        let text = fs::read_to_string(self.snapshots.join(key).join("chain")).ok()?;
        Digest::parse(&text).ok()
    }

    /// Whether there is such a snapshot.
    pub(super) fn has(&self, key: &str) -> bool {
        self.snapshots.join(key).exists()
    }

    /// As [`SnapshotDriver::write_layer`](super::SnapshotDriver::write_layer).
    pub(super) fn write_layer(&self, key: &str, out: &mut dyn Write) -> Result<(), ImageError> {
        let upper = open_dir(&self.snapshots.join(key).join("upper"));
        let written = upper.and_then(|upper| diff::write_layer(upper.as_fd(), out));
        written.map_err(ImageError::io(format!("write the changes of snapshot {key}")))
    }

    /// Keys of all snapshots.
    pub(super) fn keys(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.snapshots) else { return Vec::new() };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| !is_temporary(name)).collect()
    }

    /// As [`SnapshotDriver::adopt_upper`](super::SnapshotDriver::adopt_upper).
    pub(super) fn adopt_upper(&self, key: &str, upper: BorrowedFd<'_>) -> Result<(), ImageError> {
        let own = open_dir(&self.snapshots.join(key).join("upper"));
        archive::copy_upper(upper, own.map_err(ImageError::io(format!("open snapshot {key}")))?.as_fd())
    }

    /// Bytes written.
    pub(super) fn usage(&self, key: &str) -> Result<u64, ImageError> {
        let upper = self.snapshots.join(key).join("upper");
        super::with_deep_stack(|| tree_size(&upper)).map_err(ImageError::io(format!("measure snapshot {key}")))
    }

    /// Paths the snapshot changed.
    pub(super) fn changes(&self, below: &dyn Lower, key: &str) -> Result<Vec<Change>, ImageError> {
        let compared = (|| {
            let dir = self.snapshots.join(key);
            let chain = read_chain(&dir)?;
            let mut trees = vec![open_dir(&self.init_layer(below, chain.as_ref())?)?];
            if let Some(chain) = &chain {
                trees.push(view(below, chain)?);
            }
            compare::changes(&dir.join("upper"), &trees)
        })();
        compared.map_err(ImageError::io(format!("compare snapshot {key}")))
    }

    /// A new snapshot above `chain`.
    fn make(&self, below: &dyn Lower, chain: Option<&Digest>) -> io::Result<Unnamed> {
        self.init_layer(below, chain)?;
        let made = Unnamed::make(&self.snapshots, 0o710, &self.trash)?;
        make_dir(&made.path().join("upper"), 0o755)?;
        make_dir(&made.path().join("work"), 0o700)?;
        fs::write(made.path().join("chain"), chain.map_or("", Digest::as_str))?;
        Ok(made)
    }

    fn mount_at(&self, below: &dyn Lower, directory: &Path) -> io::Result<OwnedFd> {
        let chain = read_chain(directory)?;
        let init = LowerTree::directory(&self.init_layer(below, chain.as_ref())?)?;
        let stack = chain.as_ref().map_or_else(|| Ok(Vec::new()), |chain| below.stack(chain))?;
        let (upper, work) = (open_dir(&directory.join("upper"))?, open_dir(&directory.join("work"))?);
        let trees: Vec<&LowerTree> = std::iter::once(&init).chain(&stack).collect();
        overlay(&trees, Some((&upper, &work)), &[&OPTIONS, below.options()].concat())
    }

    fn discard_spare(&self, spare: Spare) -> Result<(), ImageError> {
        self.trash.discard_mounted(&spare.directory, Some(spare.root))
    }

    /// The shared init layer of `chain`, made on first use.
    fn init_layer(&self, below: &dyn Lower, chain: Option<&Digest>) -> io::Result<PathBuf> {
        let path = self.init.join(chain.map_or("scratch", Digest::hex));
        if path.exists() {
            return Ok(path);
        }
        let image = chain.map(|chain| view(below, chain)).transpose()?;
        let mut made = Unnamed::make(&self.init, 0o755, &self.trash)?;
        initial::fill(image.as_ref().map(|image| image as &dyn ImageTree), made.path())?;
        match made.name(&path) {
            // Somebody else was first with an equal one.
            Err(_) if path.exists() => Ok(path),
            named => named.map(|()| path),
        }
    }
}

/// A read-only view of layer `chain`, detached.
pub(super) fn view(below: &dyn Lower, chain: &Digest) -> io::Result<OwnedFd> {
    let mut stack = below.stack(chain)?;
    if stack.len() == 1 {
        // Overlayfs wants two without an upper; and marks that hide nothing are not to be seen either.
        stack.push(LowerTree::seen(below.ground(mount::file_system("tmpfs", &[], mount::READ_ONLY)?)?));
    }
    overlay(&stack.iter().collect::<Vec<_>>(), None, below.options())
}

fn overlay(trees: &[&LowerTree], upper: Option<(&OwnedFd, &OwnedFd)>, options: &[&str]) -> io::Result<OwnedFd> {
    let part = |data_only: bool| {
        let trees = trees.iter().filter(move |tree| tree.data_only == data_only);
        trees.map(|tree| tree.root.as_fd()).collect()
    };
    let upper = upper.map(|(upper, work)| (upper.as_fd(), work.as_fd()));
    mount::overlay(&OverlayLayers { lower: part(false), data: part(true), upper, options }, 0)
}

fn read_chain(directory: &Path) -> io::Result<Option<Digest>> {
    let text = fs::read_to_string(directory.join("chain"))?;
    if text.is_empty() { Ok(None) } else { Digest::parse(&text).map(Some).map_err(io::Error::other) }
}

/// Depth is bounded by the length of paths.
fn tree_size(path: &Path) -> io::Result<u64> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    fs::read_dir(path)?.map(|entry| tree_size(&entry?.path())).sum()
}
