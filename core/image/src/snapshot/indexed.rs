//! Layers kept as their plain tar with an index of it ([`crate::erofs`]): what the drivers that extract nothing have in common.
//!
//! ```text
//! <driver>/layers/<chain>/tar      the layer's plain tar: another name of the file in the content store
//! <driver>/layers/<chain>/index    index of this layer alone
//! ```

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use dockerd_types::Digest;

use super::LayerTar;
use super::directory::LayerDirectory;
use crate::erofs::{self, Merge, NO_TAG, Tree};
use crate::error::ImageError;

pub(super) const TAR: &str = "tar";
pub(super) const INDEX: &str = "index";

/// Keeps the layer `tar` in the empty directory `to`; bytes of its files.
pub(super) fn write(tar: &mut LayerTar<'_>, to: &Path) -> Result<u64, ImageError> {
    fs::hard_link(tar.file, to.join(TAR)).map_err(ImageError::io("keep layer"))?;
    let scanned = erofs::scan(&mut *tar.reader, NO_TAG)?;
    let index = erofs::write(&scanned.tree)?;
    fs::write(to.join(INDEX), index).map_err(ImageError::io("write index of layer"))?;
    Ok(scanned.unpacked.bytes)
}

/// Bytes of the files of the layer in the directory `layer`.
pub(super) fn measure(layer: &Path) -> Option<u64> {
    let index = fs::read(layer.join(INDEX)).ok()?;
    erofs::read(&index).ok().map(|tree| tree.size())
}

/// The tars of the layers `lineage`, topmost first, as the devices of their merged tree: lowest first.
pub(super) fn tars(layers: &LayerDirectory, lineage: &[Digest]) -> io::Result<Vec<File>> {
    lineage.iter().rev().map(|chain| File::open(layers.layer(chain).join(TAR))).collect()
}

/// The layers `lineage`, topmost first, as one tree that may still grow.
pub(super) fn merge(layers: &LayerDirectory, lineage: &[Digest]) -> io::Result<Merge> {
    let mut merged = Merge::new();
    // The same layer may be in it more than once.
    let mut read: HashMap<&Digest, Tree> = HashMap::new();
    for chain in lineage.iter().rev() {
        let tree = match read.get(chain) {
            Some(tree) => tree,
            None => {
                let bytes = fs::read(layers.layer(chain).join(INDEX))?;
                read.entry(chain).or_insert(erofs::read(&bytes).map_err(io::Error::other)?)
            }
        };
        merged.add(tree).map_err(io::Error::other)?;
    }
    Ok(merged)
}
