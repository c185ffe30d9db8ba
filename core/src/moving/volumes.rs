//! Volumes of an old root: `volumes/<name>/_data`, with labels and options in `volumes/metadata.db` (bucket `volumes`, one
//! JSON document each). A volume is copied under a temporary name, brought to disk, and renamed into place.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use dockerd_image::archive;
use dockerd_image::moving::{MovingError, OldRoot};
use dockerd_store::bolt::Item;
use dockerd_store::{Bolt, Durability, document};
use dockerd_types::Timestamp;
use dockerd_types::container::Labels;
use serde::Deserialize;

use super::{Outcome, Report, Target};
use crate::volumes::{self, Volume};

const DATABASE: &str = "volumes/metadata.db";
const VOLUMES: &str = "volumes";

/// What the database says of a volume.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Entry {
    driver: String,
    labels: Option<Labels>,
    options: Option<BTreeMap<String, String>>,
}

/// The volumes of an old root.
#[derive(Debug)]
pub(super) struct Volumes<'a> {
    root: &'a OldRoot,
    database: Option<Bolt>,
}

impl<'a> Volumes<'a> {
    /// Opens the database, which a running daemon has locked.
    pub(super) fn open(root: &'a OldRoot) -> Result<Self, MovingError> {
        let database = match root.file(DATABASE) {
            Ok(file) => Some(Bolt::open(file).map_err(MovingError::bolt(DATABASE))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(MovingError::Read { what: DATABASE.to_owned(), source }),
        };
        Ok(Self { root, database })
    }

    pub(super) fn import(&self, target: &Target<'_>, report: &mut Report<'_>) {
        let mut entries = self.entries().unwrap_or_else(|error| {
            report.line("volume", "labels and options", Outcome::Refused(error.to_string()));
            BTreeMap::new()
        });
        let names = match self.root.names(VOLUMES) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                report.line("volume", "list", Outcome::Refused(error.to_string()));
                Vec::new()
            }
        };
        for name in names.iter().filter(|name| self.root.directory(&format!("{VOLUMES}/{name}/_data")).is_ok()) {
            let entry = entries.remove(name).unwrap_or_default();
            report.result("volume", name, self.take(name, entry, target));
        }
        for (name, entry) in entries {
            let why = match entry.driver.as_str() {
                "" | "local" => "its directory is not there".to_owned(),
                driver => format!("volume driver {driver:?} is not supported"),
            };
            report.line("volume", &name, Outcome::Refused(why));
        }
    }

    fn entries(&self) -> Result<BTreeMap<String, Entry>, MovingError> {
        let Some(bolt) = &self.database else { return Ok(BTreeMap::new()) };
        let fail = || MovingError::bolt(DATABASE);
        let Some(bucket) = bolt.bucket(&[VOLUMES]).map_err(fail())? else { return Ok(BTreeMap::new()) };
        let mut entries = BTreeMap::new();
        for (name, item) in bolt.items(&bucket).map_err(fail())? {
            let Item::Value(value) = item else { continue };
            let entry = serde_json::from_slice(&value).map_err(|error| MovingError::Broken {
                what: format!("{DATABASE}, volume {:?}", String::from_utf8_lossy(&name)),
                why: error.to_string(),
            })?;
            entries.insert(String::from_utf8_lossy(&name).into_owned(), entry);
        }
        Ok(entries)
    }

    fn take(&self, name: &str, entry: Entry, target: &Target<'_>) -> Result<Outcome, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let options = entry.options.unwrap_or_default();
        volumes::check(name, &options).map_err(|error| text(&error))?;
        let place = target.layout.volumes_dir().join(name);
        if place.join(volumes::DOCUMENT).exists() {
            return Ok(Outcome::Present);
        }
        if place.exists() {
            return Err(format!("{} is there, and is no volume", place.display()));
        }
        if target.store.is_none() {
            return Ok(Outcome::WouldBe);
        }
        let old = self.root.directory(&format!("{VOLUMES}/{name}")).map_err(|error| text(&error))?;
        let made = rustix::fs::fstat(&old).map_err(|error| text(&error))?;
        let created = made.st_ctime.saturating_mul(1_000_000_000).saturating_add_unsigned(made.st_ctime_nsec);
        let volume = Volume {
            name: name.to_owned(),
            labels: entry.labels.unwrap_or_default(),
            options,
            created: Timestamp::from_unix_nanos(created),
            mountpoint: place.join("_data"),
        };
        let temporary = target.layout.tmp_dir().join(format!("moving-{name}"));
        // Of a run that was interrupted.
        let cleared = match fs::remove_dir_all(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        cleared.map_err(|error| text(&error))?;
        let copied = fill(&temporary, &volume, old.as_fd())
            .and_then(|()| super::volumes::publish(&temporary, &place).map_err(|error| error.to_string()));
        if copied.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_dir_all(&temporary);
        }
        copied.map(|()| Outcome::Taken)
    }
}

/// Makes the volume in the directory `to`.
fn fill(to: &Path, volume: &Volume, old: std::os::fd::BorrowedFd<'_>) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    volumes::make_directories(to).map_err(|error| text(&error))?;
    // What is mounted there by the options is not the volume's own.
    if !volumes::is_mounted_by(&volume.options) {
        archive::copy_tree(old, Path::new("_data"), &to.join("_data")).map_err(|error| text(&error))?;
    }
    document::write(&to.join(volumes::DOCUMENT), volume, Durability::Disk).map_err(|error| text(&error))
}

/// Renames a whole directory into place, when all of it is on disk.
pub(super) fn publish(temporary: &Path, place: &Path) -> io::Result<()> {
    rustix::fs::syncfs(fs::File::open(temporary)?)?;
    fs::rename(temporary, place)?;
    let parent = place.parent().unwrap_or(place);
    fs::File::open(parent)?.sync_all()
}
