//! Layers that are never extracted: the plain tar stays as it is, and an EROFS index beside it says where in the tar each file
//! lies ([`crate::erofs`]). The kernel mounts the index with the tars of all layers as its devices.
//!
//! ```text
//! erofs/layers/<chain>/tar      the layer's plain tar: another name of the file in the content store
//! erofs/layers/<chain>/index    index of this layer alone
//! erofs/layers/<chain>/merged   index of this layer and all below it, made when it is first needed
//! ```
//! So a container's overlay has one tree below it, whatever the number of layers.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use dockerd_sys::mount::{self, OverlayLayers};
use dockerd_types::Digest;

use super::ahead::ReadAhead;
use super::directory::LayerDirectory;
use super::indexed::{self, INDEX, TAR};
use super::mounted::Mounted;
use super::overlay::LayerFormat;
use super::writable::LowerTree;
use super::{LayerTar, make_dir, open_dir};
use crate::erofs;
use crate::error::ImageError;

const MERGED: &str = "merged";

/// The format.
#[derive(Debug, Default)]
pub(super) struct Erofs {
    mounted: Mounted,
    /// Held while a merged index is made: each is made once.
    merging: Mutex<()>,
    ahead: ReadAhead,
}

impl Erofs {
    /// Whether this kernel mounts images from files on the file system of directory `dir`, and overlays on them.
    pub(super) fn probe(dir: &Path) -> Result<(), String> {
        super::probe(dir, try_all)
    }

    /// The index that shows `chain`, made now if need be, and its devices: the tars, lowest first.
    fn open(&self, layers: &LayerDirectory, chain: &Digest) -> io::Result<(File, Vec<File>)> {
        let lineage = layers.lineage(chain)?;
        let tars = indexed::tars(layers, &lineage)?;
        let top = layers.layer(chain);
        if lineage.len() == 1 {
            return Ok((File::open(top.join(INDEX))?, tars));
        }
        let path = top.join(MERGED);
        if !path.exists() {
            let _alone = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
            if !path.exists() {
                merge(layers, &lineage, &path)?;
            }
        }
        Ok((File::open(path)?, tars))
    }

    fn mount(&self, layers: &LayerDirectory, chain: &Digest) -> io::Result<OwnedFd> {
        let (index, tars) = self.open(layers, chain)?;
        let devices: Vec<_> = tars.iter().map(AsFd::as_fd).collect();
        mount::erofs(index.as_fd(), &devices, 0).map_err(io::Error::other)
    }
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
        let root = self.mounted.get(layers, chain, || self.mount(layers, chain))?;
        // What is on top is what the image is about.
        let (layers, top) = (layers.clone(), chain.clone());
        self.ahead.wish(chain, move || {
            let tars = indexed::tars(&layers, &layers.lineage(&top)?)?;
            Ok(tars.into_iter().rev().collect())
        });
        Ok(vec![LowerTree::seen(root)])
    }

    fn warm(&self, layers: &LayerDirectory, chain: &Digest) -> io::Result<()> {
        self.open(layers, chain).map(drop)
    }

    fn forget(&self, chain: &Digest) {
        self.mounted.forget(chain);
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

/// Mounts a tar of one file in directory `place`, and an overlay on that.
fn try_all(place: &Path) -> Result<(), String> {
    let words = |error: io::Error| error.to_string();
    let lower = erofs::probe(place).map_err(|error| error.to_string())?;
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
