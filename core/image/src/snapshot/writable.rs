//! Writable snapshots: an overlay of an upper directory, the shared init layer, and what a format has for the layers.
//!
//! ```text
//! <driver>/init/<chain>/            mount points the image lacks; shared by all containers of the image
//! <driver>/snapshots/<key>/{upper,work,chain}
//! ```
//! Both are made under temporary names and renamed, so they are whole or not there.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use dockerd_sys::mount::{self, OverlayLayers};
use dockerd_types::Digest;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::spares::{Spare, Spares};
use super::{Change, compare, make_dir, open_dir, sweep};
use crate::error::ImageError;
use crate::trash::{Trash, is_temporary, temporary_name};

/// What every container finds, made where its image lacks it (Docker's init layer).
const INIT_DIRECTORIES: [&str; 6] = ["dev", "dev/pts", "dev/shm", "proc", "sys", "etc"];
const INIT_FILES: [&str; 5] = [".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf", "dev/console"];

/// What lies below a snapshot.
pub(super) trait Lower {
    /// Trees of layer `chain` and what is below it, topmost first.
    fn stack(&self, chain: &Digest) -> io::Result<Vec<LowerTree>>;
    /// What overlays over these trees are to be mounted with, beside what every overlay is.
    fn options(&self) -> &[&'static str] {
        &[]
    }
}

/// One tree of an overlay.
#[derive(Debug)]
pub(super) struct LowerTree {
    /// Its root.
    pub(super) root: OwnedFd,
    /// Whether only files of others are looked for in it (overlayfs' data-only layers).
    pub(super) data_only: bool,
}

impl LowerTree {
    /// One that is seen.
    pub(super) fn seen(root: OwnedFd) -> Self {
        Self { root, data_only: false }
    }
}

/// All writable snapshots of one driver.
#[derive(Debug)]
pub(super) struct Writable {
    init: PathBuf,
    snapshots: PathBuf,
    spares: Spares,
    trash: Trash,
}

impl Writable {
    /// Opens or makes what it has in the driver's directory `dir`.
    pub(super) fn open(dir: &Path, trash: Trash) -> io::Result<Self> {
        let (init, snapshots) = (dir.join("init"), dir.join("snapshots"));
        for path in [&init, &snapshots] {
            DirBuilder::new().recursive(true).mode(0o710).create(path)?;
            sweep(path, &trash);
        }
        Ok(Self { init, snapshots, spares: Spares::default(), trash })
    }

    /// As [`SnapshotDriver::prepare`](super::SnapshotDriver::prepare).
    pub(super) fn prepare(
        &self,
        below: &dyn Lower,
        key: &str,
        chain: Option<&Digest>,
    ) -> Result<Option<OwnedFd>, ImageError> {
        let path = self.snapshots.join(key);
        if let Some(spare) = chain.and_then(|chain| self.spares.take(chain)) {
            match fs::rename(&spare.directory, &path) {
                Ok(()) => return Ok(Some(spare.root)),
                Err(error) => tracing::debug!(%error, "a snapshot made ahead cannot be used"),
            }
            self.discard_spare(spare)?;
        }
        let made = self.make(below, chain).and_then(|temporary| fs::rename(temporary, path));
        made.map_err(ImageError::io(format!("prepare snapshot {key}")))?;
        Ok(None)
    }

    /// As [`SnapshotDriver::stock`](super::SnapshotDriver::stock).
    pub(super) fn stock(&self, below: &dyn Lower, chain: &Digest) -> Result<(), ImageError> {
        let make = || {
            let directory = self.make(below, Some(chain))?;
            match self.mount_at(below, &directory) {
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

    /// Forgets what was made for a layer that has gone. Nothing is above it.
    pub(super) fn forget(&self, chain: &Digest) -> Result<(), ImageError> {
        self.trash.discard(&self.init.join(chain.hex()))?;
        // Whoever makes one afterwards misses the layer. Nothing is above it, so no other spare lies upon it.
        self.spares.wait_and_take(chain).map_or(Ok(()), |spare| self.discard_spare(spare))
    }

    /// As [`SnapshotDriver::mount`](super::SnapshotDriver::mount).
    pub(super) fn mount(&self, below: &dyn Lower, key: &str) -> Result<OwnedFd, ImageError> {
        let mounted = self.mount_at(below, &self.snapshots.join(key));
        mounted.map_err(ImageError::io(format!("mount snapshot {key}")))
    }

    /// As [`SnapshotDriver::remove`](super::SnapshotDriver::remove).
    pub(super) fn remove(&self, key: &str) -> Result<(), ImageError> {
        self.trash.discard(&self.snapshots.join(key))
    }

    /// The layer a snapshot lies upon.
    pub(super) fn chain(&self, key: &str) -> Option<Digest> {
        let text = fs::read_to_string(self.snapshots.join(key).join("chain")).ok()?;
        Digest::parse(&text).ok()
    }

    /// Whether there is such a snapshot.
    pub(super) fn has(&self, key: &str) -> bool {
        self.snapshots.join(key).exists()
    }

    /// The upper directory of a snapshot.
    pub(super) fn upper(&self, key: &str) -> Result<OwnedFd, ImageError> {
        open_dir(&self.snapshots.join(key).join("upper")).map_err(ImageError::io(format!("open snapshot {key}")))
    }

    /// Keys of all snapshots.
    pub(super) fn keys(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.snapshots) else { return Vec::new() };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| !is_temporary(name)).collect()
    }

    /// Bytes written.
    pub(super) fn usage(&self, key: &str) -> Result<u64, ImageError> {
        tree_size(&self.snapshots.join(key).join("upper")).map_err(ImageError::io(format!("measure snapshot {key}")))
    }

    /// Paths the snapshot changed.
    pub(super) fn changes(&self, below: &dyn Lower, key: &str) -> Result<Vec<Change>, ImageError> {
        let compared = (|| {
            let dir = self.snapshots.join(key);
            let chain = read_chain(&dir)?;
            let mut trees = vec![open_dir(&self.init_layer(below, chain.as_ref())?)?];
            if let Some(chain) = &chain {
                trees.push(view(below, chain)?);
            }
            compare::changes(&dir.join("upper"), &trees)
        })();
        compared.map_err(ImageError::io(format!("compare snapshot {key}")))
    }

    /// A new snapshot above `chain` in a directory of a temporary name.
    fn make(&self, below: &dyn Lower, chain: Option<&Digest>) -> io::Result<PathBuf> {
        self.init_layer(below, chain)?;
        let temporary = self.snapshots.join(temporary_name());
        make_dir(&temporary, 0o710)?;
        make_dir(&temporary.join("upper"), 0o755)?;
        make_dir(&temporary.join("work"), 0o700)?;
        fs::write(temporary.join("chain"), chain.map_or("", Digest::as_str))?;
        Ok(temporary)
    }

    fn mount_at(&self, below: &dyn Lower, directory: &Path) -> io::Result<OwnedFd> {
        let chain = read_chain(directory)?;
        let init = LowerTree::seen(open_dir(&self.init_layer(below, chain.as_ref())?)?);
        let stack = chain.as_ref().map_or_else(|| Ok(Vec::new()), |chain| below.stack(chain))?;
        let (upper, work) = (open_dir(&directory.join("upper"))?, open_dir(&directory.join("work"))?);
        // The upper directory must say by itself what was changed.
        let options = [&["index=off", "redirect_dir=off", "metacopy=off"], below.options()].concat();
        let trees: Vec<&LowerTree> = std::iter::once(&init).chain(&stack).collect();
        overlay(&trees, Some((&upper, &work)), &options)
    }

    fn discard_spare(&self, spare: Spare) -> Result<(), ImageError> {
        self.trash.discard_mounted(&spare.directory, Some(spare.root))
    }

    /// The shared init layer of `chain`, made on first use.
    fn init_layer(&self, below: &dyn Lower, chain: Option<&Digest>) -> io::Result<PathBuf> {
        let path = self.init.join(chain.map_or("scratch", Digest::hex));
        if path.exists() {
            return Ok(path);
        }
        let image = chain.map(|chain| view(below, chain)).transpose()?;
        let temporary = self.init.join(temporary_name());
        make_dir(&temporary, 0o755)?;
        fill_init(image.as_ref(), &temporary)?;
        publish(&temporary, &path)?;
        Ok(path)
    }
}

/// A read-only view of layer `chain`, detached.
pub(super) fn view(below: &dyn Lower, chain: &Digest) -> io::Result<OwnedFd> {
    let mut stack = below.stack(chain)?;
    if stack.len() == 1 {
        // A single layer needs no overlay, and overlayfs wants two without an upper.
        let tree = mount::bind_fd(stack.remove(0).root, false)?;
        let attributes = mount::Attributes { set: mount::READ_ONLY, clear: 0 };
        mount::set_attributes(&tree, attributes, Some(mount::Propagation::Private), false)?;
        return Ok(tree);
    }
    overlay(&stack.iter().collect::<Vec<_>>(), None, below.options())
}

fn overlay(trees: &[&LowerTree], upper: Option<(&OwnedFd, &OwnedFd)>, options: &[&str]) -> io::Result<OwnedFd> {
    let part = |data_only: bool| {
        let trees = trees.iter().filter(move |tree| tree.data_only == data_only);
        trees.map(|tree| tree.root.as_fd()).collect()
    };
    let upper = upper.map(|(upper, work)| (upper.as_fd(), work.as_fd()));
    mount::overlay(&OverlayLayers { lower: part(false), data: part(true), upper, options }, 0)
}

fn read_chain(directory: &Path) -> io::Result<Option<Digest>> {
    let text = fs::read_to_string(directory.join("chain"))?;
    if text.is_empty() { Ok(None) } else { Digest::parse(&text).map(Some).map_err(io::Error::other) }
}

/// Makes below `to` what the tree `image` lacks.
fn fill_init(image: Option<&OwnedFd>, to: &Path) -> io::Result<()> {
    let lacks = |name: &str| {
        image.is_none_or(|image| {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat2(image, name, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_err()
        })
    };
    for name in INIT_DIRECTORIES.into_iter().filter(|name| lacks(name)) {
        make_dir(&to.join(name), 0o755)?;
    }
    for name in INIT_FILES.into_iter().filter(|name| lacks(name)) {
        copy_parents(image, to, Path::new(name).parent())?;
        let file = File::create(to.join(name))?;
        // As Docker's have it; the umask has no say.
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    if lacks("etc/mtab") {
        copy_parents(image, to, Some(Path::new("etc")))?;
        std::os::unix::fs::symlink("/proc/mounts", to.join("etc/mtab"))?;
    }
    Ok(())
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

/// Renames into place; losing a race to an equal one is success.
fn publish(temporary: &Path, path: &Path) -> io::Result<()> {
    match fs::rename(temporary, path) {
        Err(_) if path.exists() => fs::remove_dir_all(temporary),
        other => other,
    }
}

pub(super) fn tree_size(path: &Path) -> io::Result<u64> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    fs::read_dir(path)?.map(|entry| tree_size(&entry?.path())).sum()
}
