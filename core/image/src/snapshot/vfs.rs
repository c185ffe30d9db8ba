//! Containers as plain directories: for file systems on which overlayfs cannot stand. Needs neither overlays nor whiteouts, only
//! files, links and bind mounts.
//!
//! ```text
//! vfs/layers/<chain>/{tar,index}        as the erofs driver keeps them ([`super::indexed`])
//! vfs/layers/<chain>/tree/{root,boot}   the layer with all below it as files, made when first looked into; trusted until
//!                                       the kernel that `boot` names goes down
//! vfs/snapshots/<key>/root/             all files of the image, and what became of them
//! vfs/snapshots/<key>/initial           tar of the mount points the image lacked
//! vfs/snapshots/<key>/chain             the layer it was copied from
//! ```
//! Docker's vfs holds every layer as a copy of the one below it. Here the tars, which are kept anyway, say all that, so that an
//! image takes its space once, and a container that of its files.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use dockerd_sys::mount;
use dockerd_types::Digest;

use super::difference::{Difference, differences};
use super::directory::LayerDirectory;
use super::extract::extract_to;
use super::indexed;
use super::{
    Change, ChangeKind, LayerTar, SnapshotDriver, Staged, Unnamed, boot_id, initial, make_dir, open_dir, sweep,
};
use crate::diff;
use crate::erofs::{self, Merge, NO_TAG, Tree};
use crate::error::ImageError;
use crate::trash::{Trash, is_temporary};
use crate::untar::TarFile;

const TREE: &str = "tree";
const ROOT: &str = "root";
const INITIAL: &str = "initial";
/// Longest tar of mount points; what is made has a few blocks.
const MOST_INITIAL: u64 = 1 << 20;

/// The driver.
#[derive(Debug)]
pub(super) struct Vfs {
    layers: LayerDirectory,
    snapshots: PathBuf,
    trash: Trash,
    /// Held while a tree is made: each is made once.
    extracting: Mutex<()>,
}

impl Vfs {
    /// Opens or makes the driver's directory `dir`; what is to be deleted is moved to `trash` first.
    pub(super) fn open(dir: &Path, trash: &Trash) -> Result<Self, ImageError> {
        let opened = (|| {
            let layers = LayerDirectory::open(dir, trash.clone())?;
            let snapshots = dir.join("snapshots");
            DirBuilder::new().recursive(true).mode(0o710).create(&snapshots)?;
            sweep(&snapshots, trash);
            Ok(Self { layers, snapshots, trash: trash.clone(), extracting: Mutex::default() })
        })();
        let driver = opened.map_err(ImageError::io("open vfs"))?;
        driver.drop_old_trees()?;
        Ok(driver)
    }

    /// Trees were never flushed: those of another run of the kernel may be torn.
    fn drop_old_trees(&self) -> Result<(), ImageError> {
        let boot = boot_id();
        for chain in self.layers.list() {
            let tree = self.layers.layer(&chain).join(TREE);
            if fs::read_to_string(tree.join("boot")).ok().as_deref() != Some(boot.as_str()) {
                self.trash.discard(&tree)?;
            }
        }
        Ok(())
    }

    fn snapshot(&self, key: &str) -> PathBuf {
        self.snapshots.join(key)
    }

    /// A new snapshot above `chain`.
    fn make(&self, chain: Option<&Digest>) -> io::Result<Unnamed> {
        let lineage = chain.map_or_else(|| Ok(Vec::new()), |chain| self.layers.lineage(chain))?;
        let made = Unnamed::make(&self.snapshots, 0o710, &self.trash)?;
        let path = |name: &str| made.path().join(name);
        fs::write(path("chain"), chain.map_or("", Digest::as_str))?;
        // The tree is compacted when it is finished, so that it is merged again with what it was found to lack.
        let image = indexed::merge(&self.layers, &lineage)?.finish();
        make_dir(&path("lacking"), 0o755)?;
        initial::fill(Some(&image), &path("lacking"))?;
        let mut tar = Vec::new();
        diff::write_layer(open_dir(&path("lacking"))?.as_fd(), &mut tar)?;
        fs::write(path(INITIAL), tar)?;
        fs::remove_dir_all(path("lacking"))?;
        let mut devices = indexed::tars(&self.layers, &lineage)?;
        devices.push(File::open(path(INITIAL))?);
        let tree = with_initial(image, made.path())?;
        extract_to(&tree, &devices, &path(ROOT))?;
        Ok(made)
    }

    /// What the snapshot was when it was made.
    fn base(&self, directory: &Path) -> io::Result<Tree> {
        let lineage = read_chain(directory)?.map_or_else(|| Ok(Vec::new()), |chain| self.layers.lineage(&chain))?;
        with_initial(indexed::merge(&self.layers, &lineage)?.finish(), directory)
    }

    /// Makes the snapshot anew with the upper directory as one more layer.
    fn adopt(&self, key: &str, upper: BorrowedFd<'_>) -> io::Result<()> {
        let directory = self.snapshot(key);
        let lineage = read_chain(&directory)?.map_or_else(|| Ok(Vec::new()), |chain| self.layers.lineage(&chain))?;
        let place = Unnamed::make(&self.snapshots, 0o710, &self.trash)?;
        let tar = place.path().join("adopted");
        diff::write_foreign_layer(upper, &mut io::BufWriter::new(File::create(&tar)?))?;
        let adopted = File::open(tar)?;
        let scanned = erofs::scan(TarFile::new(&adopted)?, NO_TAG).map_err(io::Error::other)?;
        let mut merged = Merge::new();
        for tree in [&self.base(&directory)?, &scanned.tree] {
            merged.add(tree).map_err(io::Error::other)?;
        }
        let mut devices = indexed::tars(&self.layers, &lineage)?;
        devices.extend([File::open(directory.join(INITIAL))?, adopted]);
        extract_to(&merged.finish(), &devices, &place.path().join(ROOT))?;
        // The old one goes with the place of the new one.
        fs::rename(directory.join(ROOT), place.path().join("before"))?;
        fs::rename(place.path().join(ROOT), directory.join(ROOT))
    }

    fn differences(&self, key: &str) -> io::Result<(OwnedFd, Vec<Difference>)> {
        let directory = self.snapshot(key);
        let root = open_dir(&directory.join(ROOT))?;
        let found = differences(&root, &self.base(&directory)?)?;
        Ok((root, found))
    }

    /// The files of a layer and all below it.
    fn tree(&self, chain: &Digest) -> io::Result<PathBuf> {
        let path = self.layers.layer(chain).join(TREE);
        let _alone = self.extracting.lock().unwrap_or_else(PoisonError::into_inner);
        if !path.exists() {
            let lineage = self.layers.lineage(chain)?;
            let tree = indexed::merge(&self.layers, &lineage)?.finish();
            let mut made = self.layers.unnamed()?;
            extract_to(&tree, &indexed::tars(&self.layers, &lineage)?, &made.path().join(ROOT))?;
            fs::write(made.path().join("boot"), boot_id())?;
            made.name(&path)?;
        }
        Ok(path.join(ROOT))
    }
}

/// The tree `image` with the mount points of the snapshot in `directory`.
fn with_initial(image: Tree, directory: &Path) -> io::Result<Tree> {
    let tar = File::open(directory.join(INITIAL))?;
    let mut tar = io::Read::take(tar, MOST_INITIAL);
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut tar, &mut bytes)?;
    let scanned = erofs::scan(&bytes[..], NO_TAG).map_err(io::Error::other)?;
    let mut merged = Merge::new();
    for tree in [&image, &scanned.tree] {
        merged.add(tree).map_err(io::Error::other)?;
    }
    Ok(merged.finish())
}

fn read_chain(directory: &Path) -> io::Result<Option<Digest>> {
    let text = fs::read_to_string(directory.join("chain"))?;
    if text.is_empty() { Ok(None) } else { Digest::parse(&text).map(Some).map_err(io::Error::other) }
}

/// A detached mount of a directory, which takes nothing over from the mount it lies on but its file system.
fn bind(directory: &Path, read_only: bool) -> io::Result<OwnedFd> {
    let tree = mount::bind_fd(open_dir(directory)?, false)?;
    let (set, clear) = if read_only { (mount::READ_ONLY, 0) } else { (0, mount::READ_ONLY) };
    let clear = clear | mount::NO_SUID | mount::NO_DEV | mount::NO_EXEC;
    mount::set_attributes(&tree, mount::Attributes { set, clear }, Some(mount::Propagation::Private), false)?;
    Ok(tree)
}

impl SnapshotDriver for Vfs {
    fn name(&self) -> &'static str {
        "vfs"
    }

    fn reads_tars(&self) -> bool {
        true
    }

    fn has_layer(&self, chain: &Digest) -> bool {
        self.layers.has(chain)
    }

    fn layer_size(&self, chain: &Digest) -> Option<u64> {
        self.layers.size(chain).or_else(|| indexed::measure(&self.layers.layer(chain)))
    }

    fn stage(&self, tar: &mut LayerTar<'_>) -> Result<Staged, ImageError> {
        let mut staged = self.layers.stage().map_err(ImageError::io("keep layer"))?;
        staged.size = indexed::write(tar, staged.path())?;
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

    /// Nothing: what a container needs is its own.
    fn warm(&self, _chain: &Digest) {}

    fn remove_layer(&self, chain: &Digest) -> Result<(), ImageError> {
        self.layers.remove(chain)
    }

    fn has_snapshot(&self, key: &str) -> bool {
        self.snapshot(key).exists()
    }

    fn prepare(&self, key: &str, chain: Option<&Digest>) -> Result<Option<OwnedFd>, ImageError> {
        let made = self.make(chain).and_then(|mut made| made.name(&self.snapshot(key)));
        made.map_err(ImageError::io(format!("prepare snapshot {key}")))?;
        Ok(None)
    }

    /// Nothing, where the layer is there: a copy nobody may need would cost as much as a container.
    fn stock(&self, chain: &Digest) -> Result<(), ImageError> {
        self.layers.lineage(chain).map(drop).map_err(ImageError::io("make a snapshot ahead"))
    }

    fn mount(&self, key: &str) -> Result<OwnedFd, ImageError> {
        bind(&self.snapshot(key).join(ROOT), false).map_err(ImageError::io(format!("mount snapshot {key}")))
    }

    fn view(&self, chain: &Digest) -> Result<OwnedFd, ImageError> {
        let mounted = self.tree(chain).and_then(|tree| bind(&tree, true));
        mounted.map_err(ImageError::io(format!("mount layer {chain}")))
    }

    fn remove(&self, key: &str) -> Result<(), ImageError> {
        self.trash.discard(&self.snapshot(key))
    }

    fn snapshot_chain(&self, key: &str) -> Option<Digest> {
        read_chain(&self.snapshot(key)).ok().flatten()
    }

    fn write_layer(&self, key: &str, out: &mut dyn Write) -> Result<(), ImageError> {
        let written = self.differences(key).and_then(|(root, found)| {
            let paths = found.iter().map(|found| (&*found.path, found.kind == ChangeKind::Deleted));
            diff::write_paths(root.as_fd(), paths, out)
        });
        written.map_err(ImageError::io(format!("write the changes of snapshot {key}")))
    }

    fn adopt_upper(&self, key: &str, upper: BorrowedFd<'_>) -> Result<(), ImageError> {
        self.adopt(key, upper).map_err(ImageError::io(format!("copy writable layer to snapshot {key}")))
    }

    /// Nothing, as under Docker.
    fn describe(&self, _chain: &Digest) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn keys(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.snapshots) else { return Vec::new() };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| !is_temporary(name)).collect()
    }

    /// Bytes of files that differ, as Docker counts them for drivers that copy.
    fn usage(&self, key: &str) -> Result<u64, ImageError> {
        let found = self.differences(key).map_err(ImageError::io(format!("measure snapshot {key}")))?.1;
        Ok(found.iter().fold(0, |sum, found| sum.saturating_add(found.size)))
    }

    fn changes(&self, key: &str) -> Result<Vec<Change>, ImageError> {
        let found = self.differences(key).map_err(ImageError::io(format!("compare snapshot {key}")))?.1;
        let change = |found: Difference| Change { path: format!("/{}", found.path.display()), kind: found.kind };
        Ok(found.into_iter().map(change).collect())
    }
}
