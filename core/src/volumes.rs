//! Local volumes: a directory each, with a document beside it. Who uses a volume is known from the containers at boot and
//! kept in memory.

mod local;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dockerd_runtime::BoxFuture;
use dockerd_store::document::Document;
use dockerd_store::{Durability, Layout, document};
use dockerd_types::container::Labels;
use dockerd_types::{ContainerId, ErrorKind, Filters, Kinded, Timestamp};
use serde::{Deserialize, Serialize};

use crate::container::{names, pattern};
use crate::error::EngineError;
use crate::event_bus::EventBus;
use crate::ports::{EventNote, Events, VolumeOrder, VolumeUse, Volumes};
use crate::system::df::VolumeUsage;

/// File name of a volume's document in its directory.
pub(crate) const DOCUMENT: &str = "volume.json";
/// Marks volumes that were made without a name.
pub const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";
/// Filter keys of `docker volume ls`.
pub const FILTERS: [&str; 4] = ["dangling", "driver", "label", "name"];
/// Filter keys of `docker volume prune`.
pub const PRUNE_FILTERS: [&str; 3] = ["all", "label", "label!"];

/// A volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// When it was made.
    pub created: Timestamp,
    /// Its directory; not stored.
    #[serde(skip)]
    pub mountpoint: PathBuf,
}

impl Document for Volume {
    const VERSION: u32 = 1;
}

/// What can go wrong with volumes; Docker's words.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// No such volume.
    #[error("get {0}: no such volume")]
    NotFound(String),
    /// Somebody uses it.
    #[error("remove {name}: volume is in use - [{}]", .users.join(", "))]
    InUse {
        /// Its name.
        name: String,
        /// Ids of containers.
        users: Vec<String>,
    },
    /// Not a name.
    #[error(
        "create {0}: \"{0}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )]
    Name(String),
    /// One letter is no name.
    #[error("create {0}: volume name is too short, names should be at least two alphanumeric characters")]
    ShortName(String),
    /// Only local volumes are built.
    #[error("create {name}: error looking up volume plugin {driver}: plugin \"{driver}\" not found")]
    Driver {
        /// The volume.
        name: String,
        /// The driver.
        driver: String,
    },
    /// Not a truth value.
    #[error("invalid filter 'all': strconv.ParseBool: parsing {0:?}: invalid syntax")]
    All(String),
    /// Something is mounted on the volume and does not go.
    #[error("remove {0}: device or resource busy")]
    Busy(String),
}

impl Kinded for VolumeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) | Self::Driver { .. } => ErrorKind::NotFound,
            Self::InUse { .. } => ErrorKind::Conflict,
            Self::Name(_) | Self::ShortName(_) | Self::All(_) => ErrorKind::InvalidArgument,
            Self::Busy(_) => ErrorKind::System,
        }
    }
}

/// The volumes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct VolumeService {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    trash: PathBuf,
    events: EventBus,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    volumes: BTreeMap<String, Arc<Volume>>,
    users: HashMap<String, HashSet<ContainerId>>,
    /// Of volumes with a device: containers for which it is mounted.
    mounted: HashMap<String, HashSet<ContainerId>>,
}

impl VolumeService {
    /// Reads the volumes of this data root. Blocking.
    pub fn open(layout: &Layout, events: EventBus) -> Result<Self, EngineError> {
        let dir = layout.volumes_dir();
        let mut volumes = BTreeMap::new();
        let entries = fs::read_dir(&dir).map_err(|error| EngineError::io("read volumes", error))?;
        for entry in entries.flatten() {
            match document::read::<Volume>(&entry.path().join(DOCUMENT)) {
                Ok(mut volume) => {
                    volume.mountpoint = entry.path().join("_data");
                    volumes.insert(volume.name.clone(), Arc::new(volume));
                }
                Err(_) if is_half_made(&entry.path()) => {
                    // The daemon died while it made it; nobody was told of it and nothing is in it.
                    if let Err(error) = fs::remove_dir_all(entry.path()) {
                        tracing::warn!(path = %entry.path().display(), %error, "half-made volume stays");
                    }
                }
                Err(error) => tracing::warn!(path = %entry.path().display(), %error, "volume cannot be loaded"),
            }
        }
        let state = Mutex::new(State { volumes, ..State::default() });
        Ok(Self { inner: Arc::new(Inner { dir, trash: layout.trash_dir(), events, state }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The volume of that name, made where it is missing. Blocking.
    pub fn create(
        &self,
        name: Option<&str>,
        driver: &str,
        options: BTreeMap<String, String>,
        mut labels: Labels,
    ) -> Result<Arc<Volume>, EngineError> {
        let name = match name.filter(|name| !name.is_empty()) {
            Some(name) => valid_name(name)?.to_owned(),
            None => {
                labels.insert(ANONYMOUS_LABEL.to_owned(), String::new());
                dockerd_types::ids::hex(&names::random::<32>())
            }
        };
        if !matches!(driver, "" | "local") {
            return Err(EngineError::module(VolumeError::Driver { name, driver: driver.to_owned() }));
        }
        let mut state = self.state();
        if let Some(volume) = state.volumes.get(&name) {
            return Ok(volume.clone());
        }
        local::check(&name, &options).map_err(EngineError::module)?;
        let dir = self.inner.dir.join(&name);
        let mountpoint = dir.join("_data");
        let volume = Volume { name: name.clone(), labels, options, created: Timestamp::now(), mountpoint };
        make_directories(&dir).map_err(|error| EngineError::io("make volume", error))?;
        document::write(&dir.join(DOCUMENT), &volume, Durability::Disk)?;
        let volume = Arc::new(volume);
        state.volumes.insert(name.clone(), volume.clone());
        drop(state);
        self.event(&name, "create");
        Ok(volume)
    }

    /// Volumes that pass the filters, by name.
    pub fn list(&self, filters: &Filters) -> Result<Vec<Arc<Volume>>, EngineError> {
        let dangling = filters.boolean("dangling")?;
        let state = self.state();
        let used = |name: &str| state.users.get(name).is_some_and(|users| !users.is_empty());
        let matching = state.volumes.values().filter(|volume| {
            dangling.is_none_or(|dangling| dangling != used(&volume.name))
                && filters.any("driver", |driver| driver == "local")
                && filters.any("name", |pattern| pattern::is_match(pattern, &volume.name))
                && filters.labels_match(&volume.labels)
        });
        Ok(matching.cloned().collect())
    }

    /// Every volume with what it takes on disk. Blocking.
    pub fn usage(&self) -> Vec<VolumeUsage> {
        let volumes: Vec<(Arc<Volume>, usize)> = {
            let state = self.state();
            let users = |name: &str| state.users.get(name).map_or(0, |users| users.len());
            state.volumes.values().map(|volume| (volume.clone(), users(&volume.name))).collect()
        };
        let usage = |(volume, users): (Arc<Volume>, usize)| {
            let size = tree_size(&volume.mountpoint);
            VolumeUsage { volume, users, size }
        };
        volumes.into_iter().map(usage).collect()
    }

    /// The volume of that name.
    pub fn inspect(&self, name: &str) -> Result<Arc<Volume>, EngineError> {
        let volume = self.state().volumes.get(name).cloned();
        volume.ok_or_else(|| EngineError::module(VolumeError::NotFound(name.to_owned())))
    }

    /// Removes a volume nobody uses. Blocking.
    pub fn remove(&self, name: &str, force: bool) -> Result<(), EngineError> {
        let mut state = self.state();
        if !state.volumes.contains_key(name) {
            let missing = EngineError::module(VolumeError::NotFound(name.to_owned()));
            return if force { Ok(()) } else { Err(missing) };
        }
        let mut users: Vec<String> = state.users.get(name).into_iter().flatten().map(ToString::to_string).collect();
        if !users.is_empty() {
            users.sort();
            return Err(EngineError::module(VolumeError::InUse { name: name.to_owned(), users }));
        }
        let (dir, data) = (self.inner.dir.join(name), self.inner.dir.join(name).join("_data"));
        let io = |error| EngineError::io("remove volume", error);
        // What is mounted there is somebody else's and must not be deleted with the volume.
        dockerd_sys::mount::detach(&data).map_err(io)?;
        if dockerd_sys::mount::local::is_mounted(&data).map_err(io)? {
            return Err(EngineError::module(VolumeError::Busy(name.to_owned())));
        }
        let trash = self.inner.trash.join(format!("volume-{}", dockerd_types::ids::hex(&names::random::<16>())));
        fs::rename(&dir, &trash).map_err(io)?;
        state.volumes.remove(name);
        state.users.remove(name);
        state.mounted.remove(name);
        drop(state);
        if let Err(error) = fs::remove_dir_all(&trash) {
            tracing::warn!(volume = name, %error, "files of a volume could not be deleted; the next start will");
        }
        self.event(name, "destroy");
        Ok(())
    }

    /// Removes unused volumes, only anonymous ones unless `all`; their names and bytes. Blocking.
    pub fn prune(&self, filters: &Filters, all: bool) -> Result<(Vec<String>, u64), EngineError> {
        let wants_all = filters.boolean("all").map_err(|_| {
            let text = filters.values("all").next().unwrap_or_default();
            EngineError::module(VolumeError::All(text.to_owned()))
        })?;
        let all = all || wants_all.unwrap_or(false);
        let mut unused = Filters::default();
        unused.insert("dangling", "true");
        let (mut removed, mut bytes) = (Vec::new(), 0);
        for volume in self.list(&unused)? {
            let chosen = all || volume.labels.contains_key(ANONYMOUS_LABEL);
            if !chosen || !filters.labels_match(&volume.labels) {
                continue;
            }
            let size = tree_size(&volume.mountpoint);
            if self.remove(&volume.name, false).is_ok() {
                bytes += size;
                removed.push(volume.name.clone());
            }
        }
        Ok((removed, bytes))
    }

    fn event(&self, name: &str, action: &str) {
        let attributes = BTreeMap::from([("driver".to_owned(), "local".to_owned())]);
        let (actor, action) = (name.to_owned(), action.to_owned());
        self.inner.events.publish(EventNote { kind: "volume", action, actor, attributes, time: Timestamp::now() });
    }
}

impl Volumes for VolumeService {
    fn ensure(&self, order: VolumeOrder) -> BoxFuture<'_, Result<VolumeUse, EngineError>> {
        let service = self.clone();
        Box::pin(async move {
            let VolumeOrder { name, driver, options, labels, container } = order;
            let made = tokio::task::spawn_blocking(move || {
                let volume = service.create(name.as_deref(), &driver, options, labels)?;
                service.note_use(&volume.name, &container);
                Ok::<_, EngineError>(volume)
            });
            let volume = made.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
            let (name, mountpoint) = (volume.name.clone(), volume.mountpoint.clone());
            Ok(VolumeUse { name, driver: "local".to_owned(), mountpoint })
        })
    }

    fn note_use(&self, name: &str, container: &ContainerId) {
        self.state().users.entry(name.to_owned()).or_default().insert(container.clone());
    }

    fn mount(&self, name: &str, container: &ContainerId) -> Result<(), EngineError> {
        let volume = self.inspect(name)?;
        if !local::needs_mount(&volume.options) {
            return Ok(());
        }
        let mut state = self.state();
        let users = state.mounted.entry(name.to_owned()).or_default();
        if users.is_empty() {
            // A daemon that was killed may have left its mount.
            let detached = dockerd_sys::mount::detach(&volume.mountpoint);
            detached.map_err(|error| EngineError::io("unmount volume", error))?;
            local::mount(&volume.options, &volume.mountpoint).map_err(EngineError::module)?;
        }
        users.insert(container.clone());
        Ok(())
    }

    fn note_mounted(&self, name: &str, container: &ContainerId) {
        if self.inspect(name).is_ok_and(|volume| local::needs_mount(&volume.options)) {
            self.state().mounted.entry(name.to_owned()).or_default().insert(container.clone());
        }
    }

    fn unmount(&self, container: &ContainerId) {
        let mut state = self.state();
        let mut free = Vec::new();
        for (name, users) in &mut state.mounted {
            if users.remove(container) && users.is_empty() {
                free.push(name.clone());
            }
        }
        for name in free {
            state.mounted.remove(&name);
            if let Err(error) = dockerd_sys::mount::detach(&self.inner.dir.join(&name).join("_data")) {
                tracing::warn!(volume = name, %error, "volume could not be unmounted");
            }
        }
    }

    fn copy_up(
        &self,
        name: &str,
        container: &ContainerId,
        rootfs: BorrowedFd<'_>,
        path: &str,
    ) -> Result<(), EngineError> {
        let volume = self.inspect(name)?;
        self.mount(name, container)?;
        let fail = |error| EngineError::io(format!("copy to volume {name}"), error);
        let copied = match fs::read_dir(&volume.mountpoint).map(|mut entries| entries.next().is_some()) {
            Ok(true) => Ok(()),
            Ok(false) => dockerd_image::archive::copy_tree(rootfs, Path::new(path), &volume.mountpoint)
                .map_err(EngineError::from),
            Err(error) => Err(fail(error)),
        };
        self.unmount(container);
        copied
    }

    fn release(&self, container: &ContainerId, remove_anonymous: bool) -> BoxFuture<'_, ()> {
        let unused: Vec<String> = {
            let mut state = self.state();
            let mut freed = Vec::new();
            for (name, users) in &mut state.users {
                if users.remove(container) && users.is_empty() {
                    freed.push(name.clone());
                }
            }
            freed.retain(|name| state.volumes.get(name).is_some_and(|v| v.labels.contains_key(ANONYMOUS_LABEL)));
            freed
        };
        let service = self.clone();
        Box::pin(async move {
            if !remove_anonymous || unused.is_empty() {
                return;
            }
            let removal = tokio::task::spawn_blocking(move || {
                for name in unused {
                    if let Err(error) = service.remove(&name, true) {
                        tracing::warn!(volume = name, %error, "anonymous volume could not be removed");
                    }
                }
            });
            let _ = removal.await;
        })
    }
}

fn valid_name(name: &str) -> Result<&str, EngineError> {
    let word = |b: u8| b.is_ascii_alphanumeric();
    let bytes = name.as_bytes();
    let ok = bytes.len() >= 2 && word(bytes[0]) && bytes.iter().all(|b| word(*b) || matches!(b, b'_' | b'.' | b'-'));
    if bytes.len() == 1 {
        return Err(EngineError::module(VolumeError::ShortName(name.to_owned())));
    }
    if ok { Ok(name) } else { Err(EngineError::module(VolumeError::Name(name.to_owned()))) }
}

/// Whether a volume of that name and these options may be, in the words of its creation.
pub(crate) fn check(name: &str, options: &BTreeMap<String, String>) -> Result<(), EngineError> {
    valid_name(name)?;
    local::check(name, options).map_err(EngineError::module)
}

/// Whether a volume of these options is something that is mounted, and not its own directory.
pub(crate) fn is_mounted_by(options: &BTreeMap<String, String>) -> bool {
    local::needs_mount(options)
}

/// Makes the directories of a volume: `dir`, and in it the one for its data.
pub(crate) fn make_directories(dir: &Path) -> std::io::Result<()> {
    make_directory(dir, 0o701).and_then(|()| make_directory(&dir.join("_data"), 0o755))
}

/// Whether the document was never written and nothing is in the volume.
fn is_half_made(dir: &Path) -> bool {
    let is_empty = || fs::read_dir(dir.join("_data")).map_or(true, |mut entries| entries.next().is_none());
    dir.is_dir() && !dir.join(DOCUMENT).exists() && is_empty()
}

fn make_directory(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

fn tree_size(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let Ok(entries) = fs::read_dir(path) else { return meta.len() };
    entries.flatten().map(|entry| tree_size(&entry.path())).sum()
}
