//! Containers of an old root: `containers/<id>/{config.v2.json,hostconfig.json,<id>-json.log}` and the writable layer. The
//! description is read and checked as if a client had sent it; what the old daemon had resolved stays resolved as it was.
//! A container counts from the moment its document is there, which is written last.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use dockerd_image::moving::{OldRoot, StockImages};
use dockerd_store::{Durability, document};
use dockerd_types::ContainerId;
use dockerd_types::container::{CreateContainer, HostConfig, MountKind, NetworkMode};

use super::document::{StockContainer, StockMount, time};
use super::{Describe, Outcome, Report, Target};
use crate::container::spec::{ContainerDocument, ContainerSpec, MountPoint, MountPointKind};
use crate::container::state_writer::STATE_FILE;
use crate::container::validate::{self, HostLimits};
use crate::container::{create, mount_spec};
use crate::system::host;

const CONTAINERS: &str = "containers";
/// Largest document of a container.
const MOST_OF_A_DOCUMENT: u64 = 16 << 20;
/// Longest list of rotated log files.
const MOST_LOGS: u32 = 1000;

/// What taking over one container works with.
struct Context<'a> {
    root: &'a OldRoot,
    images: &'a StockImages<'a>,
    target: &'a Target<'a>,
    describe: Describe<'a>,
    limits: HostLimits,
    /// Names of containers here and whose they are.
    names: HashMap<String, ContainerId>,
}

/// What of a container is to be told beside its fate.
type Notes = Vec<String>;

pub(super) fn import(
    root: &OldRoot,
    images: &StockImages<'_>,
    target: &Target<'_>,
    describe: Describe<'_>,
    report: &mut Report<'_>,
) {
    let ids = match root.names(CONTAINERS) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return report.line("container", "list", Outcome::Refused(error.to_string())),
    };
    let (limits, names) = (host::limits(target.config), names(target));
    let mut context = Context { root, images, target, describe, limits, names };
    for id in ids.iter().filter_map(|id| ContainerId::parse(id).ok()) {
        let (stock, mut notes) = (context.read(&id), Notes::new());
        let name = match &stock {
            Ok(stock) => stock.name.trim_start_matches('/').to_owned(),
            Err(_) => String::new(),
        };
        let shown = if name.is_empty() { id.short().to_owned() } else { format!("{name} ({})", id.short()) };
        let result = stock.and_then(|stock| context.take(&id, &name, &stock, &mut notes));
        report.result("container", &shown, result);
        for note in notes {
            report.line("container", &shown, Outcome::Note(note));
        }
    }
}

/// Names of the containers that are here.
fn names(target: &Target<'_>) -> HashMap<String, ContainerId> {
    let Ok(entries) = fs::read_dir(target.layout.containers_dir()) else { return HashMap::new() };
    let ids = entries.flatten().filter_map(|entry| ContainerId::parse(&entry.file_name().to_string_lossy()).ok());
    let named = ids.filter_map(|id| {
        let stored = document::read::<ContainerDocument>(&target.layout.container_document(&id)).ok()?;
        Some((stored.name, id))
    });
    named.collect()
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Context<'_> {
    fn read(&self, id: &ContainerId) -> Result<StockContainer, String> {
        let path = format!("{CONTAINERS}/{id}/config.v2.json");
        let bytes = self.root.read(&path, MOST_OF_A_DOCUMENT).map_err(|error| format!("{path}: {error}"))?;
        let stock: StockContainer = serde_json::from_slice(&bytes).map_err(|error| format!("{path}: {error}"))?;
        if stock.id != id.as_str() {
            return Err(format!("{path}: is of another container"));
        }
        Ok(stock)
    }

    fn take(
        &mut self,
        id: &ContainerId,
        name: &str,
        stock: &StockContainer,
        notes: &mut Notes,
    ) -> Result<Outcome, String> {
        if self.target.layout.container_document(id).exists() {
            return Ok(Outcome::Present);
        }
        if let Some(why) = stock.is_busy() {
            return Err(why.to_owned());
        }
        validate::check_name(name).map_err(text)?;
        if let Some(other) = self.names.get(name) {
            return Err(format!("its name is that of container {} here", other.short()));
        }
        let spec = self.spec(id, stock, notes)?;
        let upper = self.images.writable(&stock.driver, id).map_err(text)?;
        let Some(store) = &self.target.store else {
            self.names.insert(name.to_owned(), id.clone());
            return Ok(Outcome::WouldBe);
        };
        let image = store.index().images.get(&spec.image).cloned();
        let image = image.ok_or_else(|| format!("its image {} is not here", spec.image.short()))?;
        let snapshots = store.snapshots();
        let dir = self.target.layout.container_dir(id);
        // Of a run that was interrupted.
        snapshots.remove(id.as_str()).map_err(text)?;
        remove(&dir)?;
        let document = ContainerDocument { name: name.to_owned(), spec: spec.into() };
        let mut make = || {
            store.prepare(id.as_str(), image.chain()).map_err(text)?;
            snapshots.adopt_upper(id.as_str(), upper.as_fd()).map_err(text)?;
            create::make_dir(&dir).map_err(text)?;
            self.copy_logs(id, &dir, notes)?;
            document::write(&dir.join(STATE_FILE), &stock.state(), Durability::Process).map_err(text)?;
            rustix::fs::syncfs(fs::File::open(&dir).map_err(text)?).map_err(text)?;
            document::write(&self.target.layout.container_document(id), &document, Durability::Disk).map_err(text)
        };
        if let Err(error) = make() {
            // The first error is the one to tell; a daemon sweeps what is left of a container without a document.
            let _ = (remove(&dir), snapshots.remove(id.as_str()));
            return Err(error);
        }
        self.names.insert(name.to_owned(), id.clone());
        Ok(Outcome::Taken)
    }

    /// Its description in our words.
    fn spec(&self, id: &ContainerId, stock: &StockContainer, notes: &mut Notes) -> Result<ContainerSpec, String> {
        let path = format!("{CONTAINERS}/{id}/hostconfig.json");
        let bytes = self.root.read(&path, MOST_OF_A_DOCUMENT).map_err(|error| format!("{path}: {error}"))?;
        let host = serde_json::from_slice(&bytes).map_err(|error| format!("{path}: {error}"))?;
        let body = serde_json::to_vec(&stock.body(host)).map_err(text)?;
        let CreateContainer { config, mut host_config, mut endpoints, .. } = (self.describe)(&body)?;
        let image = stock.image().ok_or("its image has no digest")?;
        let image = self.images.new_id(&stock.driver, &image).map_err(|error| format!("its image: {error}"))?;
        validate::check_config(&config).map_err(text)?;
        let mut as_asked = config.clone();
        if host_config.uts_host || matches!(host_config.network_mode, NetworkMode::Container(_)) {
            // Filled in by the old daemon; a client could not have asked for it.
            as_asked.hostname.clear();
        }
        notes.extend(validate::check_host(&as_asked, &host_config, &self.limits).map_err(text)?);
        validate::check_endpoints(&endpoints).map_err(text)?;
        validate::fill_defaults(&mut host_config, self.target.config, &self.limits);
        create::attach_to_network(&host_config, &mut endpoints);
        for network in endpoints.keys().filter(|name| !matches!(name.as_str(), "bridge" | "host" | "none")) {
            notes.push(format!("it cannot be started before there is a network {network:?}"));
        }
        let mounts = self.mounts(stock, &host_config)?;
        let platform = self.platform(&image);
        let json_file = host_config.log_config.driver == "json-file";
        Ok(ContainerSpec {
            id: id.clone(),
            created: time(&stock.created).ok_or("it has no time of creation")?,
            image,
            platform,
            path: stock.path.clone(),
            args: stock.args.clone().unwrap_or_default(),
            config,
            host: host_config,
            mounts,
            endpoints,
            storage_driver: self.target.store.as_ref().map_or("", |store| store.snapshots().name()).to_owned(),
            log_path: json_file.then(|| self.target.layout.container_json_log(id)),
        })
    }

    fn platform(&self, image: &dockerd_types::Digest) -> String {
        let image = self.target.store.as_ref().and_then(|store| store.index().images.get(image).cloned());
        image.map_or_else(String::new, |image| crate::image::platform(&image))
    }

    fn mounts(&self, stock: &StockContainer, host: &HostConfig) -> Result<Vec<MountPoint>, String> {
        let typed: BTreeMap<String, &MountKind> =
            host.mounts.iter().map(|mount| (mount_spec::clean(&mount.target), &mount.kind)).collect();
        let points = stock.mount_points.iter().flatten();
        let points = points.map(|(destination, point)| self.mount(destination, point, &typed));
        points.collect::<Result<Vec<_>, _>>()
    }

    fn mount(
        &self,
        destination: &str,
        point: &StockMount,
        typed: &BTreeMap<String, &MountKind>,
    ) -> Result<MountPoint, String> {
        let destination = mount_spec::clean(destination);
        let asked = typed.get(&destination).copied();
        let wrong = |why: &str| format!("its mount at {destination}: {why}");
        if destination == "/" {
            return Err(wrong("is at the root"));
        }
        let kind = match (point.kind.as_str(), asked) {
            ("bind", _) if point.source.starts_with('/') => {
                let options = point.spec.bind_options.clone().unwrap_or_default();
                MountPointKind::Bind {
                    source: mount_spec::clean(&point.source),
                    non_recursive: options.non_recursive,
                    read_only_non_recursive: options.read_only_non_recursive,
                    read_only_force_recursive: options.read_only_force_recursive,
                    create_source: !point.skip_mountpoint_creation,
                }
            }
            ("volume", _) => self.volume(point).map_err(|why| wrong(&why))?,
            ("tmpfs", Some(MountKind::Tmpfs { size_bytes, mode, options })) => {
                MountPointKind::Tmpfs { options: create::tmpfs_options(*size_bytes, *mode, options) }
            }
            ("image", _) => return Err(wrong("mounts of images are not taken over")),
            _ => return Err(wrong("is of a kind that is not known")),
        };
        Ok(MountPoint {
            kind,
            read_only: !point.writable,
            propagation: point.propagation.clone(),
            mode: point.mode.clone(),
            typed: asked.is_some(),
            destination,
        })
    }

    fn volume(&self, point: &StockMount) -> Result<MountPointKind, String> {
        mount_spec::check_volume_name(&point.name).map_err(text)?;
        if point.name.is_empty() {
            return Err("the volume has no name".to_owned());
        }
        if !matches!(point.driver.as_str(), "" | "local") {
            return Err(format!("volume driver {:?} is not supported", point.driver));
        }
        let place = self.target.layout.volumes_dir().join(&point.name);
        if self.target.store.is_some() && !place.exists() {
            return Err(format!("volume {:?} is not here", point.name));
        }
        let options = point.spec.volume_options.clone().unwrap_or_default();
        Ok(MountPointKind::Volume {
            name: point.name.clone(),
            driver: "local".to_owned(),
            source: place.join("_data"),
            subpath: options.subpath,
            no_copy: options.no_copy,
            anonymous: point.spec.source.is_empty(),
        })
    }

    /// The log and its rotated files; compressed ones are left behind.
    fn copy_logs(&self, id: &ContainerId, to: &Path, notes: &mut Notes) -> Result<(), String> {
        let base = format!("{id}-json.log");
        let rotated = (1..MOST_LOGS).map(|number| format!("{base}.{number}"));
        for name in std::iter::once(base.clone()).chain(rotated) {
            match self.copy_log(id, &name, to) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(format!("log {name}: {error}")),
            }
        }
        if self.root.has(&format!("{CONTAINERS}/{id}/{base}.1.gz")) {
            notes.push("compressed parts of its log are left behind".to_owned());
        }
        Ok(())
    }

    fn copy_log(&self, id: &ContainerId, name: &str, to: &Path) -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut from = self.root.file(&format!("{CONTAINERS}/{id}/{name}"))?;
        let mut to = fs::File::options().write(true).create_new(true).mode(0o640).open(to.join(name))?;
        io::copy(&mut from, &mut to).map(drop)
    }
}

fn remove(dir: &Path) -> Result<(), String> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(text(error)),
        _ => Ok(()),
    }
}
