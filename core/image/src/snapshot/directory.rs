//! Where the layers of one driver lie, and what all formats have in common: names, parents, sizes.
//!
//! ```text
//! <driver>/layers/<chain>/...       what the format keeps of a layer
//! <driver>/layers/<chain>/parent    chainID below it, if any
//! <driver>/layers/<chain>/size      bytes of its files
//! <driver>/layers/<chain>/unsettled boot id of the kernel, until the layer is known to be on disk
//! <driver>/mounts/...               trees attached for a moment (`ground.rs`)
//! ```
//! A layer is made under a temporary name and renamed, so it is whole or not there.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dockerd_types::Digest;
use rustix::fs::RenameFlags;

use super::ground::{Ground, Grounds};
use super::{Staged, Unnamed, boot_id, sweep};
use crate::error::ImageError;
use crate::trash::Trash;

/// Files of a layer's directory beside what its format keeps.
const PARENT: &str = "parent";
const SIZE: &str = "size";
const UNSETTLED: &str = "unsettled";
/// Layers above each other: more than any format can stack, so that a torn file cannot lead in circles.
const MOST: usize = 4096;

/// The directory of layers.
#[derive(Debug, Clone)]
pub(super) struct LayerDirectory {
    path: PathBuf,
    grounds: Grounds,
    trash: Trash,
}

impl LayerDirectory {
    /// Its name in the driver's directory.
    pub(super) const NAME: &str = "layers";

    /// Opens or makes it in the driver's directory `dir`.
    pub(super) fn open(dir: &Path, trash: Trash) -> io::Result<Self> {
        let path = dir.join(Self::NAME);
        DirBuilder::new().recursive(true).mode(0o710).create(&path)?;
        sweep(&path, &trash);
        Ok(Self { path, grounds: Grounds::open(dir), trash })
    }

    /// What overlays may lie upon: the root of a detached mount.
    pub(super) fn ground(&self, root: OwnedFd) -> io::Result<Arc<Ground>> {
        self.grounds.take(root).map(Arc::new)
    }

    /// Where a layer is.
    pub(super) fn layer(&self, chain: &Digest) -> PathBuf {
        self.path.join(chain.hex())
    }

    pub(super) fn has(&self, chain: &Digest) -> bool {
        self.layer(chain).exists()
    }

    /// Bytes of a layer's files, as noted when it was committed.
    pub(super) fn size(&self, chain: &Digest) -> Option<u64> {
        fs::read_to_string(self.layer(chain).join(SIZE)).ok()?.parse().ok()
    }

    /// An empty directory for a new layer.
    pub(super) fn stage(&self) -> io::Result<Staged> {
        Ok(Staged { place: self.unnamed()?, size: 0 })
    }

    /// An empty directory for what becomes a part of a layer.
    pub(super) fn unnamed(&self) -> io::Result<Unnamed> {
        Unnamed::make(&self.path, 0o710, &self.trash)
    }

    /// As [`SnapshotDriver::commit`](super::SnapshotDriver::commit).
    pub(super) fn commit(&self, mut staged: Staged, chain: &Digest, parent: Option<&Digest>) -> Result<(), ImageError> {
        let named = (|| {
            describe(&staged, parent)?;
            loop {
                match staged.place.name(&self.layer(chain)) {
                    // Somebody else was first with an equal one, or had been, and it was just taken away.
                    Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
                        if self.has(chain) {
                            return Ok(());
                        }
                    }
                    named => return named,
                }
            }
        })();
        named.map_err(ImageError::io(format!("commit layer {chain}")))
    }

    /// Has `staged` take the place of layer `chain`, at once; what was there goes.
    pub(super) fn replace(&self, staged: &Staged, chain: &Digest) -> io::Result<()> {
        describe(staged, self.parent(chain)?.as_ref())?;
        let here = rustix::fs::CWD;
        // Under its temporary name it goes with `staged`.
        Ok(rustix::fs::renameat_with(here, staged.path(), here, self.layer(chain), RenameFlags::EXCHANGE)?)
    }

    /// What `chain` lies upon; `None` for a lowest layer.
    pub(super) fn parent(&self, chain: &Digest) -> io::Result<Option<Digest>> {
        match fs::read_to_string(self.layer(chain).join(PARENT)) {
            Ok(text) => Ok(Some(Digest::parse(&text).map_err(io::Error::other)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The layer and what is below it, topmost first, as far as it is known.
    pub(super) fn ancestry(&self, chain: &Digest) -> Vec<Digest> {
        let (mut out, mut next) = (Vec::new(), Some(chain.clone()));
        while let Some(chain) = next.filter(|_| out.len() < MOST) {
            next = self.parent(&chain).ok().flatten();
            out.push(chain);
        }
        out
    }

    /// As [`ancestry`](Self::ancestry), where all of it must be there.
    pub(super) fn lineage(&self, chain: &Digest) -> io::Result<Vec<Digest>> {
        let (mut out, mut next) = (Vec::new(), Some(chain.clone()));
        while let Some(chain) = next {
            if !self.has(&chain) {
                return Err(io::Error::new(io::ErrorKind::NotFound, format!("layer {chain} is missing")));
            }
            if out.len() >= MOST {
                return Err(io::Error::other("too many layers above each other"));
            }
            next = self.parent(&chain)?;
            out.push(chain);
        }
        Ok(out)
    }

    /// All layers.
    pub(super) fn list(&self) -> Vec<Digest> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        let names = entries.flatten().map(|entry| format!("sha256:{}", entry.file_name().to_string_lossy()));
        names.filter_map(|name| Digest::parse(&name).ok()).collect()
    }

    /// As [`SnapshotDriver::unsettled`](super::SnapshotDriver::unsettled).
    pub(super) fn unsettled(&self) -> Vec<(Digest, bool)> {
        let layers = self.list().into_iter();
        layers.filter_map(|chain| is_unsettled(&self.layer(&chain)).map(|this_boot| (chain, this_boot))).collect()
    }

    /// Notes that a layer is on disk.
    pub(super) fn settle(&self, chain: &Digest) {
        if let Err(error) = fs::remove_file(self.layer(chain).join(UNSETTLED))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%chain, %error, "layer cannot be marked as settled");
        }
    }

    /// Takes a layer away.
    pub(super) fn remove(&self, chain: &Digest) -> Result<(), ImageError> {
        self.trash.discard(&self.layer(chain))
    }
}

/// Writes what all layers have into the directory of a new one.
fn describe(staged: &Staged, parent: Option<&Digest>) -> io::Result<()> {
    if let Some(parent) = parent {
        fs::write(staged.path().join(PARENT), parent.as_str())?;
    }
    fs::write(staged.path().join(SIZE), staged.size.to_string())?;
    fs::write(staged.path().join(UNSETTLED), boot_id())
}

/// Of a layer in directory `layer` that may not be on disk yet: whether it was committed since the kernel started.
pub(super) fn is_unsettled(layer: &Path) -> Option<bool> {
    let mark = fs::read_to_string(layer.join(UNSETTLED)).ok()?;
    Some(mark == boot_id())
}
