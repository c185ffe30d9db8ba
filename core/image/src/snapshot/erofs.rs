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
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dockerd_sys::mount::{self, OverlayLayers};
use dockerd_types::Digest;

use super::ahead::ReadAhead;
use super::directory::LayerDirectory;
use super::indexed::{self, INDEX, NO_TAG, TAR};
use super::overlay::LayerFormat;
use super::writable::LowerTree;
use super::{LayerTar, make_dir, open_dir};
use crate::erofs;
use crate::error::ImageError;

const MERGED: &str = "merged";
/// How soon after the last time the files of an image are wished for again.
const WISH_AGAIN: Duration = Duration::from_secs(5);
/// Trees kept mounted for the next container; each holds its layers' files open.
const MOST_MOUNTED: usize = 32;

/// A tree kept mounted.
#[derive(Debug)]
struct Mounted {
    chain: Digest,
    root: OwnedFd,
    /// When its files were last wished for.
    wished: Instant,
}

/// The format.
#[derive(Debug, Default)]
pub(super) struct Erofs {
    mounted: Mutex<Vec<Mounted>>,
    /// Held while a merged index is made: each is made once.
    merging: Mutex<()>,
    ahead: ReadAhead,
}

impl Erofs {
    /// Whether this kernel mounts images from files on the file system of directory `dir`, and overlays on them.
    pub(super) fn probe(dir: &Path) -> Result<(), String> {
        super::probe(dir, try_all)
    }

    fn mounted(&self) -> MutexGuard<'_, Vec<Mounted>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mounted = mount::erofs(index.as_fd(), &devices, 0).map_err(io::Error::other)?;
        self.wish(tars);
        Ok(mounted)
    }

    /// Has the tars, lowest first, read ahead.
    fn wish(&self, tars: Vec<File>) {
        // What is on top is what the image is about.
        self.ahead.wish(tars.into_iter().rev().collect());
    }

    /// The mounted tree of `chain`, if it is kept. Its files may have left the page cache since, so they are wished for again.
    fn kept(&self, layers: &LayerDirectory, chain: &Digest) -> io::Result<Option<OwnedFd>> {
        let mut mounted = self.mounted();
        let Some(kept) = mounted.iter_mut().find(|kept| kept.chain == *chain) else { return Ok(None) };
        let root = kept.root.try_clone()?;
        let due = kept.wished.elapsed() > WISH_AGAIN;
        if due {
            kept.wished = Instant::now();
        }
        drop(mounted);
        if due {
            self.wish(indexed::tars(layers, &layers.lineage(chain)?)?);
        }
        Ok(Some(root))
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
        if let Some(root) = self.kept(layers, chain)? {
            return Ok(vec![LowerTree::seen(root)]);
        }
        let root = self.mount(layers, chain)?;
        let kept = root.try_clone()?;
        let mut mounted = self.mounted();
        if !layers.has(chain) {
            // It went meanwhile, and has been forgotten.
            return Err(io::ErrorKind::NotFound.into());
        }
        let oldest = (mounted.len() >= MOST_MOUNTED).then(|| mounted.remove(0));
        mounted.push(Mounted { chain: chain.clone(), root: kept, wished: Instant::now() });
        drop(mounted);
        // Unmounting may take a while.
        drop(oldest);
        Ok(vec![LowerTree::seen(root)])
    }

    fn warm(&self, layers: &LayerDirectory, chain: &Digest) -> io::Result<()> {
        self.open(layers, chain).map(drop)
    }

    fn forget(&self, chain: &Digest) {
        let mut mounted = self.mounted();
        let found = mounted.iter().position(|kept| kept.chain == *chain).map(|at| mounted.remove(at));
        drop(mounted);
        drop(found);
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
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    tar.append_data(&mut header, "a", &b"x"[..]).map_err(words)?;
    let tar = tar.into_inner().map_err(words)?;
    let scanned = erofs::scan(&tar[..], NO_TAG).map_err(|error| error.to_string())?;
    let index = erofs::write(&scanned.tree).map_err(|error| error.to_string())?;
    let file = |name: &str, bytes: &[u8]| {
        fs::write(place.join(name), bytes)?;
        File::open(place.join(name))
    };
    let (tar, index) = (file(TAR, &tar).map_err(words)?, file(INDEX, &index).map_err(words)?);
    let read = mount::try_erofs(index.as_fd(), tar.as_fd(), "a").map_err(|error| error.to_string())?;
    if read != b"x" {
        return Err("a file of an image read wrong".to_owned());
    }
    let directory = |name: &str| make_dir(&place.join(name), 0o700).and_then(|()| open_dir(&place.join(name)));
    let (upper, work) = (directory("upper").map_err(words)?, directory("work").map_err(words)?);
    let lower = mount::erofs(index.as_fd(), &[tar.as_fd()], 0).map_err(|error| error.to_string())?;
    let layers = OverlayLayers {
        lower: vec![lower.as_fd()],
        data: Vec::new(),
        upper: Some((upper.as_fd(), work.as_fd())),
        options: &[],
    };
    mount::overlay(&layers, 0).map(drop).map_err(words)
}
