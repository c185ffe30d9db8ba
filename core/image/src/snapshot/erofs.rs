//! Layers that are never extracted: the plain tar stays as it is, and an EROFS index beside it says where in the tar each file
//! lies ([`crate::erofs`]). The kernel mounts the index with the tars of all layers as its devices.
//!
//! ```text
//! erofs/layers/<chain>/tar      the layer's plain tar: another name of the file in the content store
//! erofs/layers/<chain>/index    index of this layer alone
//! erofs/layers/<chain>/merged   index of this layer and all below it, made when it is first needed
//! erofs/layers/<chain>/lazy     instead of the tar, of a layer whose bytes come later: the compressed form it waits for
//! ```
//! So a container's overlay has one tree below it, whatever the number of layers. Where a layer waits for its bytes, its device is
//! a file that this daemon serves (`lazy/`), and the merged index lives as long as its mount: it will not fit the tar.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use dockerd_sys::mount::{self, OverlayLayers};
use dockerd_types::Digest;

use super::ahead::ReadAhead;
use super::directory::LayerDirectory;
use super::ground::Grounds;
use super::indexed::{self, INDEX, TAR};
use super::mounted::Mounted;
use super::overlay::{LayerFormat, LazyFormat};
use super::writable::LowerTree;
use super::{LayerTar, Staged, make_dir, open_dir};
use crate::erofs::{self, Tree};
use crate::error::ImageError;
use crate::lazy::Lazies;

const MERGED: &str = "merged";
const LAZY: &str = "lazy";

/// The format.
#[derive(Debug)]
pub(super) struct Erofs {
    mounted: Mounted,
    /// Held while a merged index is made: each is made once.
    merging: Mutex<()>,
    /// Held, to read, while something is mounted and, to write, while a layer gets its bytes: index and device belong together.
    filling: RwLock<()>,
    ahead: ReadAhead,
    lazies: Arc<Lazies>,
}

/// What of a lineage a mount needs.
struct Parts {
    index: File,
    /// Lowest first.
    devices: Vec<File>,
    /// Whether all bytes are here.
    is_whole: bool,
}

impl Erofs {
    /// Whether this kernel mounts images from files on the file system of directory `dir`, and overlays on them.
    pub(super) fn probe(dir: &Path) -> Result<(), String> {
        super::probe(dir, try_all)
    }

    /// `lazies` gives the devices of layers whose bytes come later.
    pub(super) fn new(lazies: Arc<Lazies>) -> Self {
        let (mounted, merging, filling, ahead) = Default::default();
        Self { mounted, merging, filling, ahead, lazies }
    }

    /// The index that shows `chain`, made now if need be, and its devices. Nothing must be filled meanwhile.
    fn open(&self, layers: &LayerDirectory, chain: &Digest) -> io::Result<Parts> {
        let lineage = layers.lineage(chain)?;
        let lazy: Vec<Option<Digest>> = lineage.iter().map(|chain| blob_of(layers, chain)).collect();
        let is_whole = lazy.iter().all(Option::is_none);
        let devices = lineage.iter().zip(&lazy).rev().map(|(chain, blob)| match blob {
            Some(blob) => self.lazies.device(blob),
            None => File::open(layers.layer(chain).join(TAR)),
        });
        let devices = devices.collect::<io::Result<_>>()?;
        let top = layers.layer(chain);
        if lineage.len() == 1 {
            return Ok(Parts { index: File::open(top.join(INDEX))?, devices, is_whole });
        }
        if !is_whole {
            let place = layers.unnamed()?;
            let index = place.path().join(MERGED);
            merge(layers, &lineage, &index)?;
            return Ok(Parts { index: File::open(index)?, devices, is_whole });
        }
        let path = top.join(MERGED);
        if !path.exists() {
            let _alone = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
            if !path.exists() {
                merge(layers, &lineage, &path)?;
            }
        }
        Ok(Parts { index: File::open(path)?, devices, is_whole })
    }

    fn steady(&self) -> RwLockReadGuard<'_, ()> {
        self.filling.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The compressed form that a layer waits for.
fn blob_of(layers: &LayerDirectory, chain: &Digest) -> Option<Digest> {
    Digest::parse(&fs::read_to_string(layers.layer(chain).join(LAZY)).ok()?).ok()
}

/// Writes the merged index of the layers `lineage`, topmost first, to `path`; it is on disk afterwards.
fn merge(layers: &LayerDirectory, lineage: &[Digest], path: &Path) -> io::Result<()> {
    let merged = indexed::merge(layers, lineage)?.finish();
    let bytes = erofs::write(&merged).map_err(io::Error::other)?;
    let place = layers.unnamed()?;
    let temporary = place.path().join(MERGED);
    let mut file = File::create(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_data()?;
    fs::rename(temporary, path)
}

impl LayerFormat for Erofs {
    fn name(&self) -> &'static str {
        "erofs"
    }

    fn reads_tars(&self) -> bool {
        true
    }

    fn write(&self, tar: &mut LayerTar<'_>, to: &Path) -> Result<u64, ImageError> {
        indexed::write(tar, to)
    }

    fn measure(&self, layer: &Path) -> Option<u64> {
        indexed::measure(layer)
    }

    fn stack(&self, layers: &LayerDirectory, chain: &Digest) -> io::Result<Vec<LowerTree>> {
        let mut is_whole = true;
        let steady = self.steady();
        let root = self.mounted.get(layers, chain, || {
            let parts = self.open(layers, chain)?;
            is_whole = parts.is_whole;
            let devices: Vec<_> = parts.devices.iter().map(AsFd::as_fd).collect();
            mount::erofs(parts.index.as_fd(), &devices, 0).map_err(io::Error::other)
        })?;
        drop(steady);
        if !is_whole {
            return Ok(vec![LowerTree::seen(root)]);
        }
        // What is on top is what the image is about.
        let (layers, top) = (layers.clone(), chain.clone());
        self.ahead.wish(chain, move || {
            let tars = indexed::tars(&layers, &layers.lineage(&top)?)?;
            Ok(tars.into_iter().rev().collect())
        });
        Ok(vec![LowerTree::seen(root)])
    }

    fn warm(&self, layers: &LayerDirectory, chain: &Digest) -> io::Result<()> {
        let _steady = self.steady();
        if layers.lineage(chain)?.iter().any(|chain| blob_of(layers, chain).is_some()) {
            // It would not last.
            return Ok(());
        }
        self.open(layers, chain).map(drop)
    }

    fn forget(&self, chain: &Digest) {
        self.mounted.forget(chain);
        self.lazies.chain_gone(chain);
    }

    fn lazy(&self) -> Option<&dyn LazyFormat> {
        Some(self)
    }

    fn describe(&self, layers: &LayerDirectory, chain: &Digest) -> Vec<(&'static str, String)> {
        let mut ancestry = layers.ancestry(chain);
        let top = layers.layer(chain);
        let index = top.join(if ancestry.len() == 1 { INDEX } else { MERGED });
        ancestry.reverse();
        let tars: Vec<String> = ancestry.iter().map(|c| layers.layer(c).join(TAR).display().to_string()).collect();
        vec![("Devices", tars.join(":")), ("Index", index.display().to_string())]
    }
}

impl LazyFormat for Erofs {
    fn write(&self, blob: &Digest, tree: &Tree, to: &Path) -> Result<(), ImageError> {
        let bytes = erofs::write(tree)?;
        let written = (|| {
            for (name, bytes) in [(INDEX, &bytes[..]), (LAZY, blob.as_str().as_bytes())] {
                let mut file = File::create(to.join(name))?;
                file.write_all(bytes)?;
                file.sync_data()?;
            }
            Ok(())
        })();
        written.map_err(ImageError::io("write index of layer"))
    }

    fn blob_of(&self, layers: &LayerDirectory, chain: &Digest) -> Option<Digest> {
        blob_of(layers, chain)
    }

    fn fill(&self, layers: &LayerDirectory, staged: &Staged, chain: &Digest) -> io::Result<()> {
        {
            let _nobody_mounts = self.filling.write().unwrap_or_else(PoisonError::into_inner);
            layers.replace(staged, chain)?;
        }
        self.mounted.forget_above(layers, chain);
        self.lazies.chain_gone(chain);
        Ok(())
    }
}

/// Mounts a tar of one file in directory `place`, and an overlay on that.
fn try_all(place: &Path) -> Result<(), String> {
    let words = |error: io::Error| error.to_string();
    let lower = erofs::probe(place).map_err(|error| error.to_string())?;
    let lower = Grounds::open(place).take(lower).map_err(words)?;
    let directory = |name: &str| make_dir(&place.join(name), 0o700).and_then(|()| open_dir(&place.join(name)));
    let (upper, work) = (directory("upper").map_err(words)?, directory("work").map_err(words)?);
    let layers = OverlayLayers {
        lower: vec![lower.as_fd()],
        data: Vec::new(),
        upper: Some((upper.as_fd(), work.as_fd())),
        options: &[],
    };
    mount::overlay(&layers, 0).map(drop).map_err(words)
}
