//! Which driver is used: one for everything new, and those that still have containers made before the choice changed.
//! An image belongs to no driver; its layers are made anew from their content where the chosen driver lacks them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use dockerd_store::Layout;

use super::SnapshotDriver;
use super::composefs::{Composefs, Means, Verity};
use super::erofs::Erofs;
use super::overlay::OverlayDriver;
use super::overlay2::Directories;
use super::vfs::Vfs;
use crate::error::ImageError;
use crate::lazy::Lazies;
use crate::trash::Trash;

/// The drivers there are, by the names of their directories.
const KNOWN: [Kind; 4] = [Kind::Erofs, Kind::Composefs, Kind::Overlay2, Kind::Vfs];
/// Those that are used without having been asked for; the best first.
const UNASKED: [Kind; 3] = [Kind::Erofs, Kind::Overlay2, Kind::Vfs];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Erofs,
    Composefs,
    Overlay2,
    Vfs,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Erofs => "erofs",
            Self::Composefs => "composefs",
            Self::Overlay2 => "overlay2",
            Self::Vfs => "vfs",
        }
    }

    /// By the name a client or configuration gives it.
    fn parse(name: &str) -> Option<Self> {
        match name {
            // containerd's names of them.
            "overlayfs" => Some(Self::Overlay2),
            "native" => Some(Self::Vfs),
            name => KNOWN.into_iter().find(|kind| kind.name() == name),
        }
    }

    /// Whether it works on this kernel and on the file system of directory `dir`, and else why not.
    fn probe(self, dir: &Path, options: StorageOptions) -> Result<(), String> {
        match self {
            Self::Erofs => Erofs::probe(dir),
            Self::Composefs => Composefs::probe(dir, options.verity.unwrap_or_default()).map(drop),
            Self::Overlay2 => Directories::probe(dir),
            Self::Vfs => Ok(()),
        }
    }

    /// Opens it in its directory `dir`; `temporary` is a place to try things out, on the same file system.
    fn open(
        self,
        dir: &Path,
        temporary: &Path,
        trash: &Trash,
        options: StorageOptions,
        lazies: &Arc<Lazies>,
    ) -> Result<Arc<dyn SnapshotDriver>, ImageError> {
        Ok(match self {
            Self::Erofs => Arc::new(OverlayDriver::open(Erofs::new(lazies.clone()), dir, trash)?),
            Self::Composefs => {
                // Where it is not the chosen one it may be that nothing of it can be mounted; what there is stays.
                let means = Composefs::probe(temporary, options.verity.unwrap_or_default());
                let means = means.unwrap_or(Means { nested: true, verity: false });
                Arc::new(OverlayDriver::open(Composefs::open(dir, means)?, dir, trash)?)
            }
            Self::Overlay2 => Arc::new(OverlayDriver::open(Directories, dir, trash)?),
            Self::Vfs => Arc::new(Vfs::open(dir, trash)?),
        })
    }
}

/// Options of drivers (`--storage-opt`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StorageOptions {
    /// `composefs.verity`; `None` where it is not given.
    pub verity: Option<Verity>,
}

impl StorageOptions {
    /// From options as the command line and the configuration have them, `key=value`. Errors: one that no driver has.
    pub fn parse<S: AsRef<str>>(list: &[S]) -> Result<Self, ImageError> {
        let mut out = Self::default();
        for option in list.iter().map(AsRef::as_ref) {
            let unknown = || ImageError::InvalidArgument(format!("storage option {option:?} is not supported"));
            let (key, value) = option.split_once('=').ok_or_else(unknown)?;
            match key.trim().to_ascii_lowercase().as_str() {
                "composefs.verity" => out.verity = Some(Verity::parse(value.trim()).ok_or_else(unknown)?),
                _ => return Err(unknown()),
            }
        }
        Ok(out)
    }
}

/// The driver called `name`, or else the best one that works here.
fn choose(dir: &Path, name: Option<&str>, options: StorageOptions) -> Result<Kind, ImageError> {
    if let Some(name) = name {
        // The stock daemon's words.
        let unsupported = |why: String| {
            ImageError::InvalidArgument(format!("error initializing graphdriver: driver not supported: {name}{why}"))
        };
        let kind = Kind::parse(name).ok_or_else(|| unsupported(String::new()))?;
        return kind.probe(dir, options).map(|()| kind).map_err(|why| unsupported(format!(": {why}")));
    }
    for kind in UNASKED {
        match kind.probe(dir, options) {
            Ok(()) => return Ok(kind),
            Err(why) => tracing::info!(driver = kind.name(), why, "a storage driver does not work here"),
        }
    }
    Ok(Kind::Vfs)
}

/// The drivers in use.
#[derive(Debug, Clone)]
pub struct Drivers {
    chosen: Arc<dyn SnapshotDriver>,
    former: Vec<Arc<dyn SnapshotDriver>>,
}

impl Drivers {
    /// Opens the driver called `name`, or else the best one this kernel and file system can do.
    pub(crate) fn open(
        layout: &Layout,
        trash: &Trash,
        name: Option<&str>,
        options: StorageOptions,
        lazies: &Arc<Lazies>,
    ) -> Result<Self, ImageError> {
        let temporary = &layout.tmp_dir();
        let kind = choose(temporary, name, options)?;
        if options.verity.is_some() && kind != Kind::Composefs {
            let text = format!("storage option composefs.verity is not one of storage driver {:?}", kind.name());
            return Err(ImageError::InvalidArgument(text));
        }
        let chosen = kind.open(&layout.driver_dir(kind.name()), temporary, trash, options, lazies)?;
        let mut former = Vec::new();
        for other in KNOWN.into_iter().filter(|other| *other != kind) {
            let dir = layout.driver_dir(other.name());
            if fs::exists(&dir).unwrap_or(false) {
                let driver = other.open(&dir, temporary, trash, StorageOptions::default(), lazies)?;
                let containers = driver.keys().len();
                tracing::info!(driver = other.name(), containers, "containers made by another driver are kept with it");
                former.push(driver);
            }
        }
        Ok(Self { chosen, former })
    }

    /// The driver of everything new.
    pub fn chosen(&self) -> &Arc<dyn SnapshotDriver> {
        &self.chosen
    }

    /// The driver that has the snapshot `key`; the chosen one where none has.
    pub fn of(&self, key: &str) -> &Arc<dyn SnapshotDriver> {
        self.former.iter().find(|driver| driver.has_snapshot(key)).unwrap_or(&self.chosen)
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<dyn SnapshotDriver>> {
        self.former.iter().chain([&self.chosen])
    }

    /// Drivers that only still have containers.
    pub(crate) fn former(&self) -> impl Iterator<Item = &Arc<dyn SnapshotDriver>> {
        self.former.iter()
    }
}

/// As the daemon opens the driver `name`, without a probe.
#[cfg(test)]
pub(super) fn open_named(name: &str, dir: &Path, trash: &Trash) -> Result<Arc<dyn SnapshotDriver>, ImageError> {
    fs::create_dir_all(dir).map_err(ImageError::io("make directory"))?;
    let lazies = Lazies::open(&dir.join("lazy"), trash.clone())?;
    Kind::parse(name).expect("a driver").open(dir, dir, trash, StorageOptions::default(), &lazies)
}

/// Whether the driver `name` works in `dir`.
#[cfg(test)]
pub(super) fn probe_named(name: &str, dir: &Path) -> Result<(), String> {
    Kind::parse(name).expect("a driver").probe(dir, StorageOptions::default())
}
