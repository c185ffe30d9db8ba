//! The driver of all formats whose layers the kernel can stack: an overlay above trees that a [`LayerFormat`] gives.

use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use dockerd_types::Digest;

use super::directory::LayerDirectory;
use super::ground::Ground;
use super::writable::{self, Lower, LowerTree, Writable};
use super::{Change, LayerTar, LazyLayers, Sharing, SnapshotDriver, Staged};
use crate::erofs::Tree;
use crate::error::ImageError;
use crate::trash::Trash;

/// How one driver keeps layers.
pub(super) trait LayerFormat: Send + Sync + std::fmt::Debug {
    /// The driver's name, as `docker info` shows it.
    fn name(&self) -> &'static str;
    /// As [`SnapshotDriver::reads_tars`].
    fn reads_tars(&self) -> bool;
    /// Writes what the layer `tar` becomes into the empty directory `to`; bytes of its files. Everything is read.
    fn write(&self, tar: &mut LayerTar<'_>, to: &Path) -> Result<u64, ImageError>;
    /// Bytes of the files of a layer in the directory `layer`, counted.
    fn measure(&self, layer: &Path) -> Option<u64>;
    /// Trees of layer `chain` and what is below it, topmost first.
    fn stack(&self, layers: &LayerDirectory, chain: &Digest) -> io::Result<Vec<LowerTree>>;
    /// Further options of overlays over those trees.
    fn overlay_options(&self) -> &[&'static str] {
        &[]
    }
    /// Makes what the first container above `chain` needs.
    fn warm(&self, layers: &LayerDirectory, chain: &Digest) -> io::Result<()>;
    /// Hears that a layer is about to be removed.
    fn removing(&self, _chain: &Digest) {}
    /// Lets go of what was kept open of a layer, which is gone.
    fn forget(&self, chain: &Digest);
    /// How it keeps layers whose bytes come later, where it can.
    fn lazy(&self) -> Option<&dyn LazyFormat> {
        None
    }
    /// As [`SnapshotDriver::sharing`].
    fn sharing(&self, _layers: &LayerDirectory, _images: &[Vec<Digest>]) -> Sharing {
        Sharing::default()
    }
    /// As [`SnapshotDriver::describe`].
    fn describe(&self, layers: &LayerDirectory, chain: &Digest) -> Vec<(&'static str, String)>;
}

/// How a driver keeps layers whose bytes come later.
pub(super) trait LazyFormat {
    /// Writes the layer of `blob` with the files `tree` into the empty directory `to`.
    fn write(&self, blob: &Digest, tree: &Tree, to: &Path) -> Result<(), ImageError>;
    /// As [`LazyLayers::blob_of`].
    fn blob_of(&self, layers: &LayerDirectory, chain: &Digest) -> Option<Digest>;
    /// Has `staged` take the place of layer `chain` while nothing is being mounted.
    fn fill(&self, layers: &LayerDirectory, staged: &Staged, chain: &Digest) -> io::Result<()>;
}

/// The driver over format `F`. Its directory is its own.
#[derive(Debug)]
pub(super) struct OverlayDriver<F> {
    format: F,
    layers: LayerDirectory,
    writable: Writable,
}

impl<F: LayerFormat> OverlayDriver<F> {
    /// Opens or makes the driver's directory `dir`; what is to be deleted is moved to `trash` first.
    pub(super) fn open(format: F, dir: &Path, trash: &Trash) -> Result<Self, ImageError> {
        let opened = LayerDirectory::open(dir, trash.clone())
            .and_then(|layers| Ok((layers, Writable::open(dir, trash.clone())?)));
        let (layers, writable) = opened.map_err(ImageError::io(format!("open {}", format.name())))?;
        Ok(Self { format, layers, writable })
    }

    /// The format, for its tests.
    #[cfg(test)]
    pub(super) fn format(&self) -> &F {
        &self.format
    }

    /// The same, to be changed.
    #[cfg(test)]
    pub(super) fn format_mut(&mut self) -> &mut F {
        &mut self.format
    }

    /// Where layers are, for tests of formats.
    #[cfg(test)]
    pub(super) fn directory(&self) -> &LayerDirectory {
        &self.layers
    }
}

impl<F: LayerFormat> Lower for OverlayDriver<F> {
    fn stack(&self, chain: &Digest) -> io::Result<Vec<LowerTree>> {
        self.format.stack(&self.layers, chain)
    }

    fn ground(&self, root: OwnedFd) -> io::Result<Arc<Ground>> {
        self.layers.ground(root)
    }

    fn options(&self) -> &[&'static str] {
        self.format.overlay_options()
    }
}

impl<F: LayerFormat> LazyLayers for OverlayDriver<F> {
    fn stage(&self, blob: &Digest, tree: &Tree, size: u64) -> Result<Staged, ImageError> {
        let mut staged = self.layers.stage().map_err(ImageError::io("stage layer"))?;
        self.format.lazy().ok_or_else(unsupported)?.write(blob, tree, staged.path())?;
        staged.size = size;
        Ok(staged)
    }

    fn blob_of(&self, chain: &Digest) -> Option<Digest> {
        self.format.lazy()?.blob_of(&self.layers, chain)
    }

    fn fill(&self, staged: Staged, chain: &Digest) -> Result<(), ImageError> {
        let filled = self.format.lazy().ok_or_else(unsupported)?.fill(&self.layers, &staged, chain);
        filled.map_err(ImageError::io(format!("fill layer {chain}")))?;
        // The next container is to lie upon the ordinary layer.
        self.writable.discard_spares(|top| self.layers.ancestry(top).contains(chain))
    }
}

fn unsupported() -> ImageError {
    ImageError::InvalidArgument("the storage driver has no layers whose bytes come later".to_owned())
}

impl<F: LayerFormat> SnapshotDriver for OverlayDriver<F> {
    fn name(&self) -> &'static str {
        self.format.name()
    }

    fn reads_tars(&self) -> bool {
        self.format.reads_tars()
    }

    fn has_layer(&self, chain: &Digest) -> bool {
        self.layers.has(chain)
    }

    fn layer_size(&self, chain: &Digest) -> Option<u64> {
        self.layers.size(chain).or_else(|| self.format.measure(&self.layers.layer(chain)))
    }

    fn stage(&self, tar: &mut LayerTar<'_>) -> Result<Staged, ImageError> {
        let mut staged = self.layers.stage().map_err(ImageError::io("unpack layer"))?;
        staged.size = self.format.write(tar, staged.path())?;
        Ok(staged)
    }

    fn commit(&self, staged: Staged, chain: &Digest, parent: Option<&Digest>) -> Result<(), ImageError> {
        self.layers.commit(staged, chain, parent)
    }

    fn ancestry(&self, chain: &Digest) -> Vec<Digest> {
        self.layers.ancestry(chain)
    }

    fn layers(&self) -> Vec<Digest> {
        self.layers.list()
    }

    fn unsettled(&self) -> Vec<(Digest, bool)> {
        self.layers.unsettled()
    }

    fn settle(&self, chain: &Digest) {
        self.layers.settle(chain);
    }

    fn warm(&self, chain: &Digest) {
        if let Err(error) = self.format.warm(&self.layers, chain) {
            tracing::warn!(%chain, %error, "layers could not be got ready");
        }
    }

    fn remove_layer(&self, chain: &Digest) -> Result<(), ImageError> {
        self.format.removing(chain);
        self.layers.remove(chain)?;
        self.format.forget(chain);
        self.writable.forget(chain)
    }

    fn has_snapshot(&self, key: &str) -> bool {
        self.writable.has(key)
    }

    fn prepare(&self, key: &str, chain: Option<&Digest>) -> Result<Option<OwnedFd>, ImageError> {
        self.writable.prepare(self, key, chain)
    }

    fn stock(&self, chain: &Digest) -> Result<(), ImageError> {
        self.writable.stock(self, chain)
    }

    fn mount(&self, key: &str) -> Result<OwnedFd, ImageError> {
        self.writable.mount(self, key)
    }

    fn view(&self, chain: &Digest) -> Result<OwnedFd, ImageError> {
        writable::view(self, chain).map_err(ImageError::io(format!("mount layer {chain}")))
    }

    fn remove(&self, key: &str) -> Result<(), ImageError> {
        self.writable.remove(key)
    }

    fn snapshot_chain(&self, key: &str) -> Option<Digest> {
        self.writable.chain(key)
    }

    fn write_layer(&self, key: &str, out: &mut dyn Write) -> Result<(), ImageError> {
        self.writable.write_layer(key, out)
    }

    fn adopt_upper(&self, key: &str, upper: BorrowedFd<'_>) -> Result<(), ImageError> {
        self.writable.adopt_upper(key, upper)
    }

    fn describe(&self, chain: &Digest) -> Vec<(&'static str, String)> {
        self.format.describe(&self.layers, chain)
    }

    fn sharing(&self, images: &[Vec<Digest>]) -> Sharing {
        self.format.sharing(&self.layers, images)
    }

    fn lazy(&self) -> Option<&dyn LazyLayers> {
        self.format.lazy().map(|_| self as &dyn LazyLayers)
    }

    fn keys(&self) -> Vec<String> {
        self.writable.keys()
    }

    fn usage(&self, key: &str) -> Result<u64, ImageError> {
        self.writable.usage(key)
    }

    fn changes(&self, key: &str) -> Result<Vec<Change>, ImageError> {
        self.writable.changes(self, key)
    }
}
