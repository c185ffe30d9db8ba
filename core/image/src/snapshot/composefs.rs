//! Layers in composefs: content-addressed objects that all layers share, and one EROFS image with everything else per chain
//! of layers, by the `composefs` crate. `docs/adr/0017-composefs.md` says why it is as it is.
//!
//! ```text
//! composefs/objects/<xx>/<yyyy...>  see [`objects`]
//! composefs/layers/<chain>/...      see [`intake`]
//! composefs/layers/<chain>/image    composefs image of this layer and all below it, made when it is first needed
//! ```
//! The kernel mounts the image from its file, and overlayfs finds the files' content in the objects, which are a data-only
//! layer of the container's own overlay where the kernel takes that (6.16 and newer), or else of a read-only overlay below it.

mod image;
mod intake;
mod list;
mod objects;
#[cfg(test)]
mod tests;
mod verity;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use composefs::erofs::format::FormatVersion;
use composefs::erofs::writer::{ValidatedFileSystem, mkfs_erofs_versioned};
use composefs::fsverity::{FsVerityHashValue, compute_verity};
use composefs::tree::{FileSystem, Inode, LeafContent, RegularFile, Stat};
use dockerd_sys::mount::{self, OverlayLayers};
use dockerd_types::Digest;
use rustix::fs::{Mode, OFlags};

use self::objects::{LIST, ObjectId, Objects};
pub use self::verity::Verity;
use super::directory::LayerDirectory;
use super::ground::{Ground, Grounds};
use super::mounted::Mounted;
use super::overlay::LayerFormat;
use super::writable::{self, LowerTree};
use super::{LayerTar, Sharing, make_dir, open_dir};
use crate::erofs;
use crate::error::ImageError;

const IMAGE: &str = "image";
/// Every object is to be as its digest says (the kernel's overlayfs.rst, "fs-verity support").
const VERIFIED: [&str; 1] = ["verity=require"];
/// Of an overlay that looks for content in a data-only layer, on kernels before 6.16.
const FOLLOWS: [&str; 2] = ["metacopy=on", "redirect_dir=on"];

/// What this kernel and file system can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Means {
    /// The container's overlay does not follow to objects itself: an overlay below it does.
    pub(super) nested: bool,
    /// Objects are protected by fs-verity, and mounts insist on it.
    pub(super) verity: bool,
}

/// The format.
#[derive(Debug)]
pub(super) struct Composefs {
    means: Means,
    objects: Objects,
    mounted: Mounted,
    /// Held while an image is made: each is made once.
    making: Mutex<()>,
}

impl Composefs {
    /// Finds out what the kernel can do on the file system of directory `dir`; an error says what is missing.
    pub(super) fn probe(dir: &Path, wanted: Verity) -> Result<Means, String> {
        let mut means = None;
        super::probe(dir, |place| try_all(place, wanted).map(|found| means = Some(found)))?;
        means.ok_or_else(|| "nothing was tried out".to_owned())
    }

    /// Opens or makes what it has in the driver's directory `dir`.
    pub(super) fn open(dir: &Path, means: Means) -> Result<Self, ImageError> {
        tracing::info!(fs_verity = means.verity, own_overlay = means.nested, "layers are kept as composefs");
        let objects = Objects::open(dir, means.verity).map_err(ImageError::io("open composefs"))?;
        Ok(Self { means, objects, mounted: Mounted::default(), making: Mutex::default() })
    }

    /// The image that shows `chain`, made now if need be.
    fn image(&self, layers: &LayerDirectory, chain: &Digest) -> io::Result<File> {
        let mut lineage = layers.lineage(chain)?;
        let path = layers.layer(chain).join(IMAGE);
        if !path.exists() {
            let _alone = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            if !path.exists() {
                lineage.reverse();
                self.write_image(layers, &image::compose(layers, &lineage)?, &path)?;
            }
        }
        File::open(path)
    }

    /// Writes an image; it is on disk afterwards.
    fn write_image(&self, layers: &LayerDirectory, bytes: &[u8], path: &Path) -> io::Result<()> {
        let place = layers.unnamed()?;
        let temporary = place.path().join(IMAGE);
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        drop(file);
        if self.means.verity {
            verity::protect(&temporary, None)?;
        }
        fs::rename(temporary, path)
    }

    fn mount(&self, layers: &LayerDirectory, chain: &Digest) -> io::Result<OwnedFd> {
        let image = self.image(layers, chain)?;
        let root = mount::erofs(image.as_fd(), &[], 0).map_err(io::Error::other)?;
        if !self.means.nested {
            return Ok(root);
        }
        nested(&*layers.ground(root)?, &open_dir(&self.objects.directory())?, self.means.verity)
    }
}

/// The options that `verity` makes necessary.
fn verified(verity: bool) -> &'static [&'static str] {
    if verity { &VERIFIED } else { &[] }
}

/// A read-only overlay of an image and its objects.
fn nested(image: &Ground, objects: &OwnedFd, verity: bool) -> io::Result<OwnedFd> {
    let options = [&FOLLOWS, verified(verity)].concat();
    let layers =
        OverlayLayers { lower: vec![image.as_fd()], data: vec![objects.as_fd()], upper: None, options: &options };
    mount::overlay(&layers, 0)
}

impl LayerFormat for Composefs {
    fn name(&self) -> &'static str {
        "composefs"
    }

    fn reads_tars(&self) -> bool {
        false
    }

    fn write(&self, tar: &mut LayerTar<'_>, to: &Path) -> Result<u64, ImageError> {
        intake::take_in(&self.objects, tar, to)
    }

    fn measure(&self, layer: &Path) -> Option<u64> {
        let index = fs::read(layer.join(intake::INDEX)).ok()?;
        erofs::read(&index).ok().map(|tree| tree.size())
    }

    fn stack(&self, layers: &LayerDirectory, chain: &Digest) -> io::Result<Vec<LowerTree>> {
        let mut out = vec![LowerTree::seen(self.mounted.get(layers, chain, || self.mount(layers, chain))?)];
        if !self.means.nested {
            out.push(LowerTree { data_only: true, ..LowerTree::directory(&self.objects.directory())? });
        }
        Ok(out)
    }

    fn overlay_options(&self) -> &[&'static str] {
        verified(self.means.verity && !self.means.nested)
    }

    fn warm(&self, layers: &LayerDirectory, chain: &Digest) -> io::Result<()> {
        self.image(layers, chain).map(drop)
    }

    fn removing(&self, chain: &Digest) {
        if let Err(error) = self.objects.forget(chain) {
            tracing::warn!(%chain, %error, "objects of a layer stay until the next start");
        }
    }

    fn forget(&self, chain: &Digest) {
        self.mounted.forget(chain);
        self.objects.removed();
    }

    fn sharing(&self, layers: &LayerDirectory, images: &[Vec<Digest>]) -> Sharing {
        sharing(layers, images)
    }

    fn describe(&self, layers: &LayerDirectory, chain: &Digest) -> Vec<(&'static str, String)> {
        let image = layers.layer(chain).join(IMAGE);
        vec![("Image", image.display().to_string()), ("Objects", self.objects.directory().display().to_string())]
    }
}

/// As [`SnapshotDriver::sharing`](super::SnapshotDriver::sharing).
fn sharing(layers: &LayerDirectory, images: &[Vec<Digest>]) -> Sharing {
    // Of each layer the images that have it.
    let mut users: HashMap<&Digest, Vec<usize>> = HashMap::new();
    for (image, chain) in images.iter().enumerate().flat_map(|(at, chains)| chains.iter().map(move |chain| (at, chain)))
    {
        let users = users.entry(chain).or_default();
        if users.last() != Some(&image) {
            users.push(image);
        }
    }
    let records = |chain: &Digest| list::read(&layers.layer(chain).join(LIST)).unwrap_or_default();
    // Of each object the only image that has it, if there is only one.
    let mut owners: HashMap<ObjectId, Option<usize>> = HashMap::new();
    let mut saved = 0u64;
    for (chain, users) in &users {
        let only = if let [only] = users[..] { Some(only) } else { None };
        for record in records(chain) {
            let mut copies = u64::from(record.uses);
            owners
                .entry(record.id)
                .and_modify(|owner| *owner = owner.filter(|owner| Some(*owner) == only))
                .or_insert_with(|| {
                    // One copy is on disk.
                    copies = copies.saturating_sub(1);
                    only
                });
            saved = saved.saturating_add(record.size.saturating_mul(copies));
        }
    }
    let mut shared = vec![0u64; images.len()];
    for (chain, users) in &users {
        let [only] = users[..] else { continue };
        for record in records(chain).iter().filter(|record| owners.get(&record.id) == Some(&None)) {
            shared[only] = shared[only].saturating_add(record.size.saturating_mul(record.uses.into()));
        }
    }
    Sharing { saved, shared }
}

/// Mounts an image of one file in directory `place`, with the file's content in an object, in the ways there are.
fn try_all(place: &Path, wanted: Verity) -> Result<Means, String> {
    let words = |error: io::Error| error.to_string();
    let verity = wanted != Verity::Off && verity::is_supported(place).map_err(words)?;
    if wanted == Verity::Require && !verity {
        return Err("this kernel or the file system has no fs-verity".to_owned());
    }
    let content = [b'x'; 1000];
    let objects = place.join("objects");
    let id: ObjectId = compute_verity(&content);
    let path = objects.join(id.to_object_pathname());
    fs::create_dir_all(path.parent().unwrap_or(place)).and_then(|()| fs::write(&path, content)).map_err(words)?;
    if verity {
        verity::protect(&path, Some(&id)).map_err(words)?;
    }
    let image = place.join(IMAGE);
    fs::write(&image, image_of_one(id, content.len())?).map_err(words)?;
    let image = File::open(image).map_err(words)?;
    let image = mount::erofs(image.as_fd(), &[], 0).map_err(|error| error.to_string())?;
    let grounds = Grounds::open(place);
    let image = grounds.take(image).map_err(words)?;
    let objects = open_dir(&objects).map_err(words)?;
    let flat = over(place, "flat", &image, Some(&objects), verified(verity)).and_then(|root| reads(&root, &content));
    let Err(why) = flat else { return Ok(Means { nested: false, verity }) };
    tracing::debug!(error = %why, "a container's overlay does not find objects by itself");
    let below = nested(&image, &objects, verity).and_then(|below| grounds.take(below));
    let tried =
        below.and_then(|below| over(place, "nested", &below, None, &[])).and_then(|root| reads(&root, &content));
    tried.map_err(|error| format!("overlayfs shows no files of data-only layers (Linux 6.5 and newer): {error}"))?;
    Ok(Means { nested: true, verity })
}

fn image_of_one(id: ObjectId, size: usize) -> Result<Box<[u8]>, String> {
    let stat = |mode| Stat { st_mode: mode, ..Stat::default() };
    let mut files = FileSystem::new(stat(0o755));
    let leaf = files.push_leaf(stat(0o644), LeafContent::Regular(RegularFile::External(id, size as u64)));
    files.root.insert("a".as_ref(), Inode::leaf(leaf));
    let valid = ValidatedFileSystem::new(files).map_err(|error| error.to_string())?;
    Ok(mkfs_erofs_versioned(&valid, FormatVersion::V1))
}

/// A container's overlay over `lower`, with its own directories named by `name` in `place`.
fn over(place: &Path, name: &str, lower: &Ground, data: Option<&OwnedFd>, options: &[&str]) -> io::Result<OwnedFd> {
    let directory = |part: &str| {
        let path = place.join(format!("{name}-{part}"));
        make_dir(&path, 0o700).and_then(|()| open_dir(&path))
    };
    let (upper, work) = (directory("upper")?, directory("work")?);
    let options = [&writable::OPTIONS, options].concat();
    let layers = OverlayLayers {
        lower: vec![lower.as_fd()],
        data: data.iter().map(AsFd::as_fd).collect(),
        upper: Some((upper.as_fd(), work.as_fd())),
        options: &options,
    };
    mount::overlay(&layers, 0)
}

/// Whether the file has `content`.
fn reads(root: &OwnedFd, content: &[u8]) -> io::Result<()> {
    let file = rustix::fs::openat(root, "a", OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mut found = Vec::new();
    File::from(file).read_to_end(&mut found)?;
    if found == content { Ok(()) } else { Err(io::Error::other("an object reads wrong")) }
}
