//! Which driver is used: one for everything new, and those that still have containers made before the choice changed.
//! An image belongs to no driver; its layers are made anew from their content where the chosen driver lacks them.

use std::fs;
use std::sync::Arc;

use dockerd_store::Layout;

use super::SnapshotDriver;
use super::composefs::{Composefs, Means, Verity};
use super::erofs::Erofs;
use super::overlay::OverlayDriver;
use super::overlay2::Directories;
use crate::error::ImageError;
use crate::trash::Trash;

/// The drivers there are, by the names of their directories.
const KNOWN: [Kind; 3] = [Kind::Erofs, Kind::Composefs, Kind::Overlay2];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Erofs,
    Composefs,
    Overlay2,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Erofs => "erofs",
            Self::Composefs => "composefs",
            Self::Overlay2 => "overlay2",
        }
    }

    /// By the name a client or configuration gives it.
    fn parse(name: &str) -> Option<Self> {
        match name {
            // containerd's name of it.
            "overlayfs" => Some(Self::Overlay2),
            name => KNOWN.into_iter().find(|kind| kind.name() == name),
        }
    }

    /// Whether it can be used here as the one for everything new; an error says why not.
    fn probe(self, layout: &Layout, options: StorageOptions) -> Result<(), String> {
        match self {
            Self::Erofs => Erofs::probe(&layout.tmp_dir()),
            Self::Composefs => Composefs::probe(&layout.tmp_dir(), options.verity.unwrap_or_default()).map(drop),
            Self::Overlay2 => Ok(()),
        }
    }

    fn open(
        self,
        layout: &Layout,
        trash: &Trash,
        options: StorageOptions,
    ) -> Result<Arc<dyn SnapshotDriver>, ImageError> {
        let dir = &layout.driver_dir(self.name());
        Ok(match self {
            Self::Erofs => Arc::new(OverlayDriver::open(Erofs::default(), dir, trash)?),
            Self::Composefs => {
                // Where it is not the chosen one it may be that nothing of it can be mounted; what there is stays.
                let means = Composefs::probe(&layout.tmp_dir(), options.verity.unwrap_or_default());
                let means = means.unwrap_or(Means { nested: true, verity: false });
                Arc::new(OverlayDriver::open(Composefs::open(dir, means)?, dir, trash)?)
            }
            Self::Overlay2 => Arc::new(OverlayDriver::open(Directories, dir, trash)?),
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

/// The best driver that works here.
fn best(layout: &Layout) -> Kind {
    match Erofs::probe(&layout.tmp_dir()) {
        Ok(()) => Kind::Erofs,
        Err(why) => {
            tracing::info!(why, "layers are unpacked, because EROFS images cannot be mounted from files here");
            Kind::Overlay2
        }
    }
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
    ) -> Result<Self, ImageError> {
        let kind = match name {
            Some(name) => Kind::parse(name)
                .ok_or_else(|| ImageError::InvalidArgument(format!("storage driver {name:?} is not supported")))?,
            None => best(layout),
        };
        let driver = kind.name();
        if name.is_some()
            && let Err(why) = kind.probe(layout, options)
        {
            return Err(ImageError::InvalidArgument(format!("storage driver {driver:?} cannot be used here: {why}")));
        }
        if options.verity.is_some() && kind != Kind::Composefs {
            let text = format!("storage option composefs.verity is not one of storage driver {driver:?}");
            return Err(ImageError::InvalidArgument(text));
        }
        let chosen = kind.open(layout, trash, options)?;
        let mut former = Vec::new();
        for other in KNOWN.into_iter().filter(|other| *other != kind) {
            if fs::exists(layout.driver_dir(other.name())).unwrap_or(false) {
                let driver = other.open(layout, trash, StorageOptions::default())?;
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

    /// Drivers that only still have containers.
    pub(crate) fn former(&self) -> impl Iterator<Item = &Arc<dyn SnapshotDriver>> {
        self.former.iter()
    }
}
