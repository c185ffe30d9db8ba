//! Layers as directories, stacked by overlayfs.
//!
//! ```text
//! overlay2/layers/<chain>/diff      a layer's files
//! overlay2/layers/<chain>/parent    chainID below it, if any
//! overlay2/layers/<chain>/size      bytes of its files
//! overlay2/layers/<chain>/unsettled boot id of the kernel, until the layer is known to be on disk
//! overlay2/init/<chain>/            mount points the image lacks; shared by all containers of the image
//! overlay2/snapshots/<key>/{upper,work,chain}
//! ```
//! A layer or snapshot is made under a temporary name and renamed, so it is whole or not there.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use dockerd_sys::mount::{self, OverlayLayers};
use dockerd_types::Digest;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::spares::{Spare, Spares};
use super::{Change, ChangeKind, SnapshotDriver, Staged};
use crate::error::ImageError;
use crate::layer::{self, UnpackOptions};
use crate::trash::{Trash, is_temporary, temporary_name};

/// What every container finds, made where its image lacks it (Docker's init layer).
const INIT_DIRECTORIES: [&str; 6] = ["dev", "dev/pts", "dev/shm", "proc", "sys", "etc"];
const INIT_FILES: [&str; 5] = [".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf", "dev/console"];

/// Files of a layer's directory beside its tree.
const PARENT: &str = "parent";
const SIZE: &str = "size";
const UNSETTLED: &str = "unsettled";

/// The driver. Its directories are its own.
#[derive(Debug)]
pub struct Overlay2 {
    layers: PathBuf,
    init: PathBuf,
    snapshots: PathBuf,
    spares: Spares,
    trash: Trash,
}

impl Overlay2 {
    /// Opens or makes the driver's directory `dir`; what is to be deleted is moved to `trash` first.
    pub(crate) fn open(dir: &Path, trash: Trash) -> Result<Self, ImageError> {
        let (layers, init, snapshots) = (dir.join("layers"), dir.join("init"), dir.join("snapshots"));
        for path in [&layers, &init, &snapshots] {
            DirBuilder::new().recursive(true).mode(0o710).create(path).map_err(ImageError::io("make overlay2"))?;
            sweep(path, &trash);
        }
        Ok(Self { layers, init, snapshots, spares: Spares::default(), trash })
    }

    fn layer(&self, chain: &Digest) -> PathBuf {
        self.layers.join(chain.hex())
    }

    /// Directories of `chain` and everything below it, topmost first.
    fn stack(&self, chain: Option<&Digest>) -> io::Result<Vec<OwnedFd>> {
        let mut out = Vec::new();
        let mut next = chain.cloned();
        while let Some(chain) = next {
            let layer = self.layer(&chain);
            out.push(open_dir(&layer.join("diff"))?);
            next = match fs::read_to_string(layer.join(PARENT)) {
                Ok(text) => Some(Digest::parse(&text).map_err(io::Error::other)?),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        Ok(out)
    }

    fn mount_read_only(&self, chain: Option<&Digest>) -> io::Result<OwnedFd> {
        let mut stack = self.stack(chain)?;
        if stack.len() == 1 {
            // A single layer needs no overlay, and overlayfs wants two without an upper.
            let tree = mount::bind_fd(stack.remove(0), false)?;
            let attributes = mount::Attributes { set: mount::READ_ONLY, clear: 0 };
            mount::set_attributes(&tree, attributes, Some(mount::Propagation::Private), false)?;
            return Ok(tree);
        }
        let lower = stack.iter().map(AsFd::as_fd).collect();
        mount::overlay(&OverlayLayers { lower, data: Vec::new(), upper: None, options: &[] }, 0)
    }

    /// A new snapshot above `chain` in a directory of a temporary name.
    fn make_snapshot(&self, chain: Option<&Digest>) -> io::Result<PathBuf> {
        self.init_layer(chain)?;
        let temporary = self.snapshots.join(temporary_name());
        make_dir(&temporary, 0o710)?;
        make_dir(&temporary.join("upper"), 0o755)?;
        make_dir(&temporary.join("work"), 0o700)?;
        fs::write(temporary.join("chain"), chain.map_or("", Digest::as_str))?;
        Ok(temporary)
    }

    fn mount_snapshot(&self, directory: &Path) -> io::Result<OwnedFd> {
        let chain = fs::read_to_string(directory.join("chain"))?;
        let chain = if chain.is_empty() { None } else { Some(Digest::parse(&chain).map_err(io::Error::other)?) };
        let init = open_dir(&self.init_layer(chain.as_ref())?)?;
        let stack = self.stack(chain.as_ref())?;
        let (upper, work) = (open_dir(&directory.join("upper"))?, open_dir(&directory.join("work"))?);
        let lower = std::iter::once(&init).chain(&stack).map(AsFd::as_fd).collect();
        let layers = OverlayLayers {
            lower,
            data: Vec::new(),
            upper: Some((upper.as_fd(), work.as_fd())),
            // The upper directory must say by itself what was changed.
            options: &["index=off", "redirect_dir=off", "metacopy=off"],
        };
        mount::overlay(&layers, 0)
    }

    fn discard_spare(&self, spare: Spare) -> Result<(), ImageError> {
        self.trash.discard_mounted(&spare.directory, Some(spare.root))
    }

    /// The shared init layer of `chain`, made on first use.
    fn init_layer(&self, chain: Option<&Digest>) -> io::Result<PathBuf> {
        let path = self.init.join(chain.map_or("scratch", Digest::hex));
        if path.exists() {
            return Ok(path);
        }
        let image = chain.map(|chain| self.mount_read_only(Some(chain))).transpose()?;
        let lacks = |name: &str| {
            image.as_ref().is_none_or(|image| {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat2(image, name, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_err()
            })
        };
        let temporary = self.init.join(temporary_name());
        make_dir(&temporary, 0o755)?;
        for name in INIT_DIRECTORIES.into_iter().filter(|name| lacks(name)) {
            make_dir(&temporary.join(name), 0o755)?;
        }
        for name in INIT_FILES.into_iter().filter(|name| lacks(name)) {
            copy_parents(image.as_ref(), &temporary, Path::new(name).parent())?;
            let file = File::create(temporary.join(name))?;
            // As Docker's have it; the umask has no say.
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        if lacks("etc/mtab") {
            copy_parents(image.as_ref(), &temporary, Some(Path::new("etc")))?;
            std::os::unix::fs::symlink("/proc/mounts", temporary.join("etc/mtab"))?;
        }
        publish(&temporary, &path)?;
        Ok(path)
    }
}

impl SnapshotDriver for Overlay2 {
    fn name(&self) -> &'static str {
        "overlay2"
    }

    fn has_layer(&self, chain: &Digest) -> bool {
        self.layer(chain).exists()
    }

    fn layer_size(&self, chain: &Digest) -> Option<u64> {
        let layer = self.layer(chain);
        if let Some(size) = fs::read_to_string(layer.join(SIZE)).ok().and_then(|text| text.parse().ok()) {
            return Some(size);
        }
        open_dir(&layer.join("diff")).and_then(|diff| crate::tree::size_of(diff.as_fd())).ok()
    }

    fn stage(&self, reader: &mut dyn Read) -> Result<Staged, ImageError> {
        let fail = || ImageError::io("unpack layer");
        let mut staged = Staged::new(self.layers.join(temporary_name()), self.trash.clone());
        make_dir(staged.path(), 0o710).map_err(fail())?;
        make_dir(&staged.path().join("diff"), 0o755).map_err(fail())?;
        let root = open_dir(&staged.path().join("diff")).map_err(fail())?;
        let options = UnpackOptions { whiteouts: true, ..UnpackOptions::default() };
        staged.size = layer::unpack(reader, root.as_fd(), options)?.bytes;
        Ok(staged)
    }

    fn commit(&self, mut staged: Staged, chain: &Digest, parent: Option<&Digest>) -> Result<(), ImageError> {
        let named = (|| {
            if let Some(parent) = parent {
                fs::write(staged.path().join(PARENT), parent.as_str())?;
            }
            fs::write(staged.path().join(SIZE), staged.size.to_string())?;
            fs::write(staged.path().join(UNSETTLED), boot_id())?;
            match fs::rename(staged.path(), self.layer(chain)) {
                // Somebody else was first with an equal one.
                Err(_) if self.has_layer(chain) => Ok(false),
                renamed => renamed.map(|()| true),
            }
        })();
        staged.committed = named.map_err(ImageError::io(format!("commit layer {chain}")))?;
        Ok(())
    }

    fn ancestry(&self, chain: &Digest) -> Vec<Digest> {
        let (mut out, mut next) = (Vec::new(), Some(chain.clone()));
        while let Some(chain) = next {
            next = fs::read_to_string(self.layer(&chain).join(PARENT)).ok().and_then(|t| Digest::parse(&t).ok());
            out.push(chain);
        }
        out
    }

    fn layers(&self) -> Vec<Digest> {
        let Ok(entries) = fs::read_dir(&self.layers) else { return Vec::new() };
        let names = entries.flatten().map(|entry| format!("sha256:{}", entry.file_name().to_string_lossy()));
        names.filter_map(|name| Digest::parse(&name).ok()).collect()
    }

    fn unsettled(&self) -> Vec<(Digest, bool)> {
        let boot = boot_id();
        let layers = self.layers().into_iter();
        let marked = layers.filter_map(|chain| {
            let mark = fs::read_to_string(self.layer(&chain).join(UNSETTLED)).ok()?;
            Some((chain, mark == boot))
        });
        marked.collect()
    }

    fn settle(&self, chain: &Digest) {
        if let Err(error) = fs::remove_file(self.layer(chain).join(UNSETTLED))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%chain, %error, "layer cannot be marked as settled");
        }
    }

    fn remove_layer(&self, chain: &Digest) -> Result<(), ImageError> {
        self.trash.discard(&self.init.join(chain.hex()))?;
        self.trash.discard(&self.layer(chain))?;
        // Whoever makes one afterwards misses the layer. Nothing is above it, so no other spare lies upon it.
        self.spares.wait_and_take(chain).map_or(Ok(()), |spare| self.discard_spare(spare))
    }

    fn prepare(&self, key: &str, chain: Option<&Digest>) -> Result<Option<OwnedFd>, ImageError> {
        let path = self.snapshots.join(key);
        if let Some(spare) = chain.and_then(|chain| self.spares.take(chain)) {
            match fs::rename(&spare.directory, &path) {
                Ok(()) => return Ok(Some(spare.root)),
                Err(error) => tracing::debug!(%error, "a snapshot made ahead cannot be used"),
            }
            self.discard_spare(spare)?;
        }
        let made = self.make_snapshot(chain).and_then(|temporary| fs::rename(temporary, path));
        made.map_err(ImageError::io(format!("prepare snapshot {key}")))?;
        Ok(None)
    }

    fn stock(&self, chain: &Digest) -> Result<(), ImageError> {
        let make = || {
            let directory = self.make_snapshot(Some(chain))?;
            match self.mount_snapshot(&directory) {
                Ok(root) => Ok(Spare { chain: chain.clone(), directory, root }),
                Err(error) => {
                    fs::remove_dir_all(directory)?;
                    Err(error)
                }
            }
        };
        let replaced = self.spares.add(chain, make).map_err(ImageError::io("make a snapshot ahead"))?;
        replaced.map_or(Ok(()), |spare| self.discard_spare(spare))
    }

    fn mount(&self, key: &str) -> Result<OwnedFd, ImageError> {
        let mounted = self.mount_snapshot(&self.snapshots.join(key));
        mounted.map_err(ImageError::io(format!("mount snapshot {key}")))
    }

    fn view(&self, chain: &Digest) -> Result<OwnedFd, ImageError> {
        self.mount_read_only(Some(chain)).map_err(ImageError::io(format!("mount layer {chain}")))
    }

    fn remove(&self, key: &str) -> Result<(), ImageError> {
        self.trash.discard(&self.snapshots.join(key))
    }

    fn snapshot_chain(&self, key: &str) -> Option<Digest> {
        let text = fs::read_to_string(self.snapshots.join(key).join("chain")).ok()?;
        Digest::parse(&text).ok()
    }

    fn upper(&self, key: &str) -> Result<OwnedFd, ImageError> {
        open_dir(&self.snapshots.join(key).join("upper")).map_err(ImageError::io(format!("open snapshot {key}")))
    }

    fn describe(&self, chain: &Digest) -> Vec<(&'static str, String)> {
        let top = self.layer(chain);
        let lower: Vec<String> = self.ancestry(chain)[1..]
            .iter()
            .map(|chain| self.layer(chain).join("diff").display().to_string())
            .collect();
        let mut out = Vec::new();
        if !lower.is_empty() {
            out.push(("LowerDir", lower.join(":")));
        }
        for (name, part) in [("MergedDir", "merged"), ("UpperDir", "diff"), ("WorkDir", "work")] {
            out.push((name, top.join(part).display().to_string()));
        }
        out
    }

    fn keys(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.snapshots) else { return Vec::new() };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| !is_temporary(name)).collect()
    }

    fn usage(&self, key: &str) -> Result<u64, ImageError> {
        tree_size(&self.snapshots.join(key).join("upper")).map_err(ImageError::io(format!("measure snapshot {key}")))
    }

    fn changes(&self, key: &str) -> Result<Vec<Change>, ImageError> {
        let fail = || ImageError::io(format!("compare snapshot {key}"));
        let dir = self.snapshots.join(key);
        let chain = fs::read_to_string(dir.join("chain")).map_err(fail())?;
        let mut below = Vec::new();
        if !chain.is_empty() {
            let chain = Digest::parse(&chain).map_err(|e| ImageError::Archive(e.to_string()))?;
            below.push(self.init_layer(Some(&chain)).and_then(|path| open_dir(&path)).map_err(fail())?);
            below.push(self.mount_read_only(Some(&chain)).map_err(fail())?);
        } else {
            below.push(self.init_layer(None).and_then(|path| open_dir(&path)).map_err(fail())?);
        }
        let mut out = Vec::new();
        walk_changes(&dir.join("upper"), Path::new(""), &below, &mut out).map_err(fail())?;
        Ok(out)
    }
}

fn walk_changes(upper: &Path, at: &Path, below: &[OwnedFd], out: &mut Vec<Change>) -> io::Result<()> {
    let dir = upper.join(at);
    let mut entries = fs::read_dir(&dir)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let change = |path: &Path, kind| Change { path: format!("/{}", path.display()), kind };
    if is_opaque(&dir) {
        // It took the place of another, of which nothing is seen any more.
        let kept: HashSet<OsString> = entries.iter().map(fs::DirEntry::file_name).collect();
        let gone = names_below(at, below)?.into_iter().filter(|name| !kept.contains(name));
        out.extend(gone.map(|name| change(&at.join(name), ChangeKind::Deleted)));
    }
    for entry in entries {
        let path = at.join(entry.file_name());
        let meta = entry.metadata()?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let before = below.iter().find_map(|dir| {
            let found = rustix::fs::openat2(dir, &path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
            rustix::fs::fstat(&found).ok()
        });
        let gone = meta.file_type().is_char_device() && meta.rdev() == 0;
        let place = out.len();
        if meta.is_dir() {
            walk_changes(upper, &path, below, out)?;
        }
        let kind = match before {
            Some(_) if gone => ChangeKind::Deleted,
            // Made and deleted again in this snapshot, over nothing.
            None if gone => continue,
            None => ChangeKind::Added,
            // Brought up only because something below it was to be changed, or was opened for it.
            Some(before) if out.len() == place && is_same(&meta, &before) => continue,
            Some(_) => ChangeKind::Modified,
        };
        out.insert(place, change(&path, kind));
    }
    Ok(())
}

/// Whether nothing of it was changed; of directories the times and sizes do not count, as under Docker.
fn is_same(now: &fs::Metadata, before: &rustix::fs::Stat) -> bool {
    let owned = (now.mode(), now.uid(), now.gid(), now.rdev())
        == (before.st_mode, before.st_uid, before.st_gid, before.st_rdev);
    let content = (now.size(), now.mtime(), now.mtime_nsec())
        == (before.st_size.cast_unsigned(), before.st_mtime, before.st_mtime_nsec.cast_signed());
    owned && (now.is_dir() || content)
}

fn is_opaque(dir: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::lgetxattr(dir, "trusted.overlay.opaque", &mut value) == Ok(1) && value == *b"y"
}

fn names_below(at: &Path, below: &[OwnedFd]) -> io::Result<BTreeSet<OsString>> {
    let mut out = BTreeSet::new();
    for dir in below {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(dir) = rustix::fs::openat2(dir, at, flags, Mode::empty(), ResolveFlags::IN_ROOT) else { continue };
        for entry in rustix::fs::Dir::new(dir)? {
            let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
            if name != "." && name != ".." {
                out.insert(name);
            }
        }
    }
    Ok(out)
}

/// Directories of a file the init layer adds: with the image's mode and owner, because the topmost layer's count.
fn copy_parents(image: Option<&OwnedFd>, to: &Path, directory: Option<&Path>) -> io::Result<()> {
    let Some(directory) = directory.filter(|d| !d.as_os_str().is_empty()) else { return Ok(()) };
    let target = to.join(directory);
    if target.exists() {
        return Ok(());
    }
    copy_parents(image, to, directory.parent())?;
    make_dir(&target, 0o755)?;
    if let Some(image) = image {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        if let Ok(fd) = rustix::fs::openat2(image, directory, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            let stat = rustix::fs::fstat(&fd)?;
            std::os::unix::fs::lchown(&target, Some(stat.st_uid), Some(stat.st_gid))?;
            fs::set_permissions(&target, std::os::unix::fs::PermissionsExt::from_mode(stat.st_mode & 0o7777))?;
        }
    }
    Ok(())
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    // The umask of the daemon must not decide.
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

/// Names one run of the kernel.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Renames into place; losing a race to an equal one is success.
fn publish(temporary: &Path, path: &Path) -> io::Result<()> {
    match fs::rename(temporary, path) {
        Err(_) if path.exists() => fs::remove_dir_all(temporary),
        other => other,
    }
}

/// Removes what an interrupted daemon left under temporary names.
fn sweep(dir: &Path, trash: &Trash) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| is_temporary(&entry.file_name().to_string_lossy())) {
        if let Err(error) = trash.discard(&entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "leftover could not be removed");
        }
    }
}

fn tree_size(path: &Path) -> io::Result<u64> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    fs::read_dir(path)?.map(|entry| tree_size(&entry?.path())).sum()
}
