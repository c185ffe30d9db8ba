//! Layers as directories of files, `<driver>/layers/<chain>/diff`: for every file system overlayfs can stand on.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use dockerd_types::Digest;

use super::directory::LayerDirectory;
use super::overlay::LayerFormat;
use super::writable::LowerTree;
use super::{LayerTar, make_dir, open_dir};
use crate::error::ImageError;
use crate::layer::{self, UnpackOptions};

/// The format.
#[derive(Debug)]
pub(super) struct Directories;

impl LayerFormat for Directories {
    fn name(&self) -> &'static str {
        "overlay2"
    }

    fn reads_tars(&self) -> bool {
        false
    }

    fn write(&self, tar: &mut LayerTar<'_>, to: &Path) -> Result<u64, ImageError> {
        let diff = to.join("diff");
        let root = make_dir(&diff, 0o755).and_then(|()| open_dir(&diff)).map_err(ImageError::io("unpack layer"))?;
        let options = UnpackOptions { whiteouts: true, ..UnpackOptions::default() };
        Ok(layer::unpack(&mut *tar.reader, root.as_fd(), options)?.bytes)
    }

    fn measure(&self, layer: &Path) -> Option<u64> {
        open_dir(&layer.join("diff")).and_then(|diff| crate::tree::size_of(diff.as_fd())).ok()
    }

    fn stack(&self, layers: &LayerDirectory, chain: &Digest) -> io::Result<Vec<LowerTree>> {
        let (mut out, mut next) = (Vec::new(), Some(chain.clone()));
        while let Some(chain) = next {
            out.push(LowerTree::seen(open_dir(&layers.layer(&chain).join("diff"))?));
            next = layers.parent(&chain)?;
        }
        Ok(out)
    }

    fn warm(&self, _layers: &LayerDirectory, _chain: &Digest) -> io::Result<()> {
        Ok(())
    }

    fn forget(&self, _chain: &Digest) {}

    fn describe(&self, layers: &LayerDirectory, chain: &Digest) -> Vec<(&'static str, String)> {
        let place = |chain: &Digest, part: &str| layers.layer(chain).join(part).display().to_string();
        let lower: Vec<String> = layers.ancestry(chain)[1..].iter().map(|chain| place(chain, "diff")).collect();
        let mut out = Vec::new();
        if !lower.is_empty() {
            out.push(("LowerDir", lower.join(":")));
        }
        for (name, part) in [("MergedDir", "merged"), ("UpperDir", "diff"), ("WorkDir", "work")] {
            out.push((name, place(chain, part)));
        }
        out
    }
}
