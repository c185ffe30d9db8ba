//! Which driver is used: one for everything new, and those that still have containers made before the choice changed.
//! An image belongs to no driver; its layers are made anew from their content where the chosen driver lacks them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use dockerd_store::Layout;

use super::SnapshotDriver;
use super::erofs::Erofs;
use super::overlay::OverlayDriver;
use super::overlay2::Directories;
use crate::error::ImageError;
use crate::trash::Trash;

/// The drivers there are, by the names of their directories; the best first.
const KNOWN: [Kind; 2] = [Kind::Erofs, Kind::Overlay2];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Erofs,
    Overlay2,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Erofs => "erofs",
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

    fn open(self, dir: &Path, trash: &Trash) -> Result<Arc<dyn SnapshotDriver>, ImageError> {
        Ok(match self {
            Self::Erofs => Arc::new(OverlayDriver::open(Erofs::default(), dir, trash)?),
            Self::Overlay2 => Arc::new(OverlayDriver::open(Directories, dir, trash)?),
        })
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
    pub(crate) fn open(layout: &Layout, trash: &Trash, name: Option<&str>) -> Result<Self, ImageError> {
        let kind = match name {
            Some(name) => Kind::parse(name)
                .ok_or_else(|| ImageError::InvalidArgument(format!("storage driver {name:?} is not supported")))?,
            None => best(layout),
        };
        if kind == Kind::Erofs
            && let Err(why) = Erofs::probe(&layout.tmp_dir())
        {
            return Err(ImageError::InvalidArgument(format!("storage driver \"erofs\" cannot be used here: {why}")));
        }
        let chosen = kind.open(&layout.driver_dir(kind.name()), trash)?;
        let mut former = Vec::new();
        for other in KNOWN.into_iter().filter(|other| *other != kind) {
            let dir = layout.driver_dir(other.name());
            if fs::exists(&dir).unwrap_or(false) {
                let driver = other.open(&dir, trash)?;
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
