//! Layers as directories of files, `<driver>/layers/<chain>/diff`: for every file system overlayfs can stand on.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use dockerd_sys::mount::{self, OverlayLayers};
use dockerd_types::Digest;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::directory::LayerDirectory;
use super::overlay::LayerFormat;
use super::writable::{self, LowerTree};
use super::{LayerTar, make_dir, open_dir};
use crate::error::ImageError;
use crate::layer::{self, UnpackOptions};

/// The format.
#[derive(Debug)]
pub(super) struct Directories;

impl Directories {
    /// Whether this kernel mounts overlays on the file system of directory `dir` that do all that layers need.
    pub(super) fn probe(dir: &Path) -> Result<(), String> {
        super::probe(dir, |place| try_all(place).map_err(|error| error.to_string()))
    }
}

/// Mounts an overlay of two layers and a writable one in directory `place`: marks of both kinds must hide, and what lies below
/// must be changeable and removable.
fn try_all(place: &Path) -> io::Result<()> {
    let directory = |name: &str| make_dir(&place.join(name), 0o755).and_then(|()| open_dir(&place.join(name)));
    let (below, above) = (directory("below")?, directory("above")?);
    let (upper, work) = (directory("upper")?, directory("work")?);
    directory("below/dir")?;
    for name in ["below/hidden", "below/kept", "below/dir/hidden"] {
        fs::write(place.join(name), "x")?;
    }
    rustix::fs::mknodat(&above, "hidden", FileType::CharacterDevice, Mode::empty(), 0)?;
    crate::tree::set_opaque(directory("above/dir")?)?;
    let layers = OverlayLayers {
        lower: vec![above.as_fd(), below.as_fd()],
        data: Vec::new(),
        upper: Some((upper.as_fd(), work.as_fd())),
        options: &writable::OPTIONS,
    };
    let root = mount::overlay(&layers, 0)?;
    let found = |name: &str| rustix::fs::statat(&root, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
    if found("hidden") || found("dir/hidden") || !found("kept") {
        return Err(io::Error::other("an overlay does not hide what it should"));
    }
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    fs::File::from(rustix::fs::openat(&root, "kept", flags, Mode::empty())?).write_all(b"y")?;
    rustix::fs::unlinkat(&root, "kept", AtFlags::empty())?;
    if found("kept") {
        return Err(io::Error::other("a file of a lower layer cannot be removed"));
    }
    Ok(())
}

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
        let open = |chain: &Digest| LowerTree::directory(&layers.layer(chain).join("diff"));
        layers.lineage(chain)?.iter().map(open).collect()
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
