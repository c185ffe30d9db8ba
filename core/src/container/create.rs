//! `POST /containers/create`: everything is checked before anything is made; then name, writable layer, volumes and the
//! document, in that order, each taken back when a later one fails.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use dockerd_store::{Durability, document};
use dockerd_types::container::{
    ContainerConfig, CreateContainer, Created, HostConfig, IpcMode, MountKind, NetworkMode, PidMode,
};
use dockerd_types::network::EndpointConfig;
use dockerd_types::{ContainerId, Timestamp};

use super::connect::{Asked, check_endpoint};
use super::create_error::CreateError;
use super::mount_spec::{self, WantedMount};
use super::root::HeldRoot;
use super::spec::{ContainerDocument, ContainerSpec, MountPoint, MountPointKind, State};
use super::{Container, ContainerService, image_defaults, links, names, oci, validate};
use crate::core::Core;
use crate::error::EngineError;
use crate::ports::{ContainerImage, NetworkFacts, VolumeOrder};
use crate::saga::Saga;

impl ContainerService {
    /// Makes a container.
    pub async fn create(&self, request: CreateContainer) -> Result<Created, EngineError> {
        // Detached from the client: one that hangs up leaves no half-made container.
        let core = self.core.clone();
        let task = tokio::spawn(async move { create(&core, request).await });
        task.await.unwrap_or_else(|panic| Err(super::error::ContainerError::Start(panic.to_string()).into()))
    }
}

async fn create(core: &Arc<Core>, request: CreateContainer) -> Result<Created, EngineError> {
    let CreateContainer { name, platform, mut config, mut host_config, mut endpoints } = request;
    let wanted_name = name.filter(|n| !n.is_empty());
    let wanted_name = wanted_name.as_deref().map(validate::check_name).transpose()?;
    let image = core.images.resolve(&config.image)?;
    check_platform(&config.image, platform.as_deref(), &image)?;
    image_defaults::merge(&mut config, &image.config);
    let (path, args) = image_defaults::command(&config)?;
    validate::check_config(&config)?;
    let warnings = validate::check_host(&config, &host_config, &core.limits())?;
    validate::check_endpoints(&endpoints)?;
    resolve_other_containers(core, &mut host_config)?;
    validate::fill_defaults(&mut host_config, &core.live(), &core.limits);
    if !host_config.privileged {
        host_config.masked_paths.get_or_insert_with(|| oci::default_masked(&core.facts));
        host_config.readonly_paths.get_or_insert_with(|| oci::READONLY_PATHS.map(str::to_owned).to_vec());
    }
    let mut wanted = mount_spec::wanted(&config, &host_config).map_err(CreateError::from)?;
    wanted.extend(volumes_from(core, &host_config, &wanted)?);
    attach_to_network(&host_config, &mut endpoints);
    let endpoints = name_networks(core, endpoints)?;

    let id = names::new_id();
    fill_hostname(core, &id, &mut config, &host_config);
    let mut saga = Saga::new();
    let name = claim_name(core, &id, wanted_name)?;
    {
        let (name, id) = (name.clone(), id.clone());
        saga.done("name", move || async move { core.containers.release_name(&name, &id) });
    }
    let spec = ContainerSpec {
        id: id.clone(),
        created: Timestamp::now(),
        image: image.id.clone(),
        platform: image.platform.clone(),
        path,
        args,
        log_path: (host_config.log_config.driver == "json-file").then(|| core.layout.container_json_log(&id)),
        config,
        host: host_config,
        mounts: Vec::new(),
        endpoints,
        storage_driver: core.images.driver_name().to_owned(),
    };
    match make(core, &name, spec, wanted, &image, &mut saga).await {
        Ok((spec, root)) => {
            saga.commit();
            let container = Container::adopt(core, spec, &name, State::default(), root);
            core.janitor.created(&container, image.chain.clone());
            container.publish_event(&*core.events, "create", &[]);
            Ok(Created { id, warnings })
        }
        Err(error) => {
            saga.roll_back().await;
            Err(error)
        }
    }
}

/// The steps that leave something on disk.
async fn make<'a>(
    core: &'a Arc<Core>,
    name: &str,
    mut spec: ContainerSpec,
    wanted: Vec<WantedMount>,
    image: &Arc<ContainerImage>,
    saga: &mut Saga<'a>,
) -> Result<(Arc<ContainerSpec>, HeldRoot), EngineError> {
    let id = spec.id.clone();
    core.images.hold(&image.id, &id);
    {
        let (image, id) = (image.id.clone(), id.clone());
        saga.done("image hold", move || async move { core.images.release(&image, &id) });
    }
    {
        let id = id.clone();
        saga.done("volumes", move || async move {
            core.volumes.release(&id, true).await;
        });
    }
    spec.mounts = mount_points(core, &id, wanted).await?;
    let task = {
        let (core, image, name) = (core.clone(), image.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || write(&core, name, spec, &image))
    };
    task.await.unwrap_or_else(|panic| Err(super::error::ContainerError::Start(panic.to_string()).into()))
}

/// Writable layer, copy-up of volumes, directory and document. Blocking; takes back its own on failure.
fn write(
    core: &Core,
    name: String,
    spec: ContainerSpec,
    image: &ContainerImage,
) -> Result<(Arc<ContainerSpec>, HeldRoot), EngineError> {
    let document = ContainerDocument { name, spec: Arc::new(spec) };
    let spec = &document.spec;
    let id = &spec.id;
    let mut root = core.images.prepare(id, image)?;
    let mut rest = || {
        copy_up(core, spec, &mut root)?;
        let dir = core.layout.container_dir(id);
        make_dir(&dir)?;
        document::write(&core.layout.container_document(id), &document, Durability::Process)?;
        Ok(())
    };
    match rest() {
        Ok(()) => Ok((document.spec.clone(), root.map_or_else(HeldRoot::default, HeldRoot::ready))),
        Err(error) => {
            let _ = std::fs::remove_dir_all(core.layout.container_dir(id));
            if let Err(error) = core.images.remove(id) {
                tracing::warn!(container = %id, %error, "layer of a failed creation could not be removed");
            }
            Err(error)
        }
    }
}

/// Makes a container's directory.
pub(crate) fn make_dir(dir: &std::path::Path) -> Result<(), EngineError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().mode(0o710).create(dir);
    made.map_err(|e| EngineError::io(format!("mkdir {}", dir.display()), e))
}

/// Fills empty volumes with what the image has at their place.
fn copy_up(core: &Core, spec: &ContainerSpec, root: &mut Option<OwnedFd>) -> Result<(), EngineError> {
    for point in &spec.mounts {
        let MountPointKind::Volume { name, no_copy: false, subpath, .. } = &point.kind else { continue };
        if !subpath.is_empty() {
            continue;
        }
        let tree = match &*root {
            Some(tree) => tree,
            None => root.insert(core.images.mount(&spec.id)?),
        };
        core.volumes.copy_up(name, &spec.id, tree.as_fd(), &point.destination)?;
    }
    Ok(())
}

fn check_platform(reference: &str, wanted: Option<&str>, image: &ContainerImage) -> Result<(), CreateError> {
    let Some(wanted) = wanted.filter(|w| !w.is_empty()) else { return Ok(()) };
    let parts: Vec<&str> = wanted.split('/').collect();
    if parts.len() > 3 || parts.iter().any(|p| p.is_empty()) {
        return Err(CreateError::PlatformSyntax(wanted.to_owned()));
    }
    let actual = image.platform.clone();
    let have: Vec<&str> = actual.split('/').collect();
    let same = match parts[..] {
        [os] => have.first() == Some(&os),
        [os, arch] => have.first() == Some(&os) && have.get(1) == Some(&normal_arch(arch)),
        _ => have.first() == Some(&parts[0]) && have.get(1) == Some(&normal_arch(parts[1])),
    };
    if same {
        return Ok(());
    }
    Err(CreateError::Platform { reference: reference.to_owned(), actual, wanted: wanted.to_owned() })
}

fn normal_arch(arch: &str) -> &str {
    match arch {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Names of other containers become ids, so that a rename does not change what is joined.
fn resolve_other_containers(core: &Core, host: &mut HostConfig) -> Result<(), EngineError> {
    let find = |name: &str| {
        let found = core.containers.find(name).map_err(|_| CreateError::OtherContainer(name.to_owned()))?;
        Ok::<_, EngineError>(found.id().to_string())
    };
    if let NetworkMode::Container(other) = &mut host.network_mode
        && let Ok(id) = find(other)
    {
        // A missing one is found out at start, as with the stock daemon.
        *other = id;
    }
    if let PidMode::Container(other) = &mut host.pid_mode {
        *other = find(other)?;
    }
    if let IpcMode::Container(other) = &mut host.ipc_mode
        && !other.is_empty()
    {
        *other = find(other)?;
    }
    if matches!(host.network_mode, NetworkMode::Network(_)) {
        // Links are asked of the network there.
        host.links.clear();
    }
    for link in &mut host.links {
        let (target, alias) = link.split_once(':').unwrap_or((link, link));
        if alias.contains(':') {
            return Err(CreateError::LinkFormat(link.clone()).into());
        }
        let found = core.containers.find(target).map_err(|_| CreateError::LinkTarget(target.to_owned()))?;
        *link = links::stored(found.id(), alias);
    }
    Ok(())
}

/// Mounts of other containers, where this one has none of its own.
fn volumes_from(core: &Core, host: &HostConfig, own: &[WantedMount]) -> Result<Vec<WantedMount>, EngineError> {
    let mut out: Vec<WantedMount> = Vec::new();
    for text in &host.volumes_from {
        if text.is_empty() {
            return Err(CreateError::from(super::create_error::MountError::VolumesFromEmpty).into());
        }
        let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
        let parsed = mount_spec::Mode::parse(mode).filter(|m| !m.no_copy && m.propagation.is_empty());
        let parsed = parsed.ok_or_else(|| CreateError::from(super::create_error::MountError::Mode(mode.to_owned())))?;
        let donor = core.containers.find(name).map_err(|_| CreateError::OtherContainer(name.to_owned()))?;
        for point in &donor.snapshot().spec.mounts {
            let taken = own.iter().chain(&out).any(|m| m.destination == point.destination);
            if !taken && let Some(mount) = inherited(point, parsed.read_only) {
                out.push(mount);
            }
        }
    }
    Ok(out)
}

fn inherited(point: &MountPoint, read_only: bool) -> Option<WantedMount> {
    let kind = match &point.kind {
        MountPointKind::Bind { source, .. } => MountKind::Bind {
            source: source.clone(),
            options: dockerd_types::container::BindOptions {
                propagation: point.propagation.clone(),
                ..Default::default()
            },
        },
        MountPointKind::Volume { name, driver, .. } => MountKind::Volume {
            source: name.clone(),
            options: dockerd_types::container::VolumeOptions {
                driver: driver.clone(),
                no_copy: true,
                ..Default::default()
            },
        },
        MountPointKind::Tmpfs { .. } | MountPointKind::Image { .. } => return None,
    };
    Some(WantedMount {
        kind,
        destination: point.destination.clone(),
        read_only: read_only || point.read_only,
        mode: point.mode.clone(),
        typed: false,
        create_source: false,
    })
}

/// The network of the mode is among the endpoints, with what the client said about it.
pub(crate) fn attach_to_network(host: &HostConfig, endpoints: &mut BTreeMap<String, EndpointConfig>) {
    match &host.network_mode {
        NetworkMode::Container(_) => endpoints.clear(),
        NetworkMode::Default | NetworkMode::Bridge => {
            let named = endpoints.remove("default").unwrap_or_default();
            endpoints.entry("bridge".to_owned()).or_insert(named);
        }
        NetworkMode::Host | NetworkMode::None => {
            endpoints.entry(host.network_mode.text()).or_default();
        }
        NetworkMode::Network(name) => {
            endpoints.entry(name.clone()).or_default();
        }
    }
}

/// Networks by their names, whatever the client called them by, with what is asked of those that are there checked. One that
/// is not there may be there at the start.
fn name_networks(
    core: &Core,
    endpoints: BTreeMap<String, EndpointConfig>,
) -> Result<BTreeMap<String, EndpointConfig>, EngineError> {
    let named = endpoints.into_iter().map(|(wanted, config)| {
        let facts = core.network.facts(&wanted);
        let asked = facts.as_ref().map_or(Asked::Unknown, NetworkFacts::asked);
        match check_endpoint(&asked, &config) {
            Ok(()) => Ok((facts.map_or(wanted, |facts| facts.name), config)),
            Err(problems) => Err(CreateError::Endpoint { network: wanted, problems }.into()),
        }
    });
    named.collect()
}

fn fill_hostname(core: &Core, id: &ContainerId, config: &mut ContainerConfig, host: &HostConfig) {
    if let NetworkMode::Container(other) = &host.network_mode {
        if let Ok(donor) = core.containers.find(other) {
            let donor = donor.snapshot();
            config.hostname.clone_from(&donor.spec.config.hostname);
            config.domainname.clone_from(&donor.spec.config.domainname);
        }
        return;
    }
    if !config.hostname.is_empty() {
        return;
    }
    let of_host = host.network_mode == NetworkMode::Host || host.uts_host;
    config.hostname = if of_host { core.facts.hostname.clone() } else { id.short().to_owned() };
}

fn claim_name(core: &Core, id: &ContainerId, wanted: Option<&str>) -> Result<String, CreateError> {
    if let Some(name) = wanted {
        core.containers.claim_name(name, id)?;
        return Ok(name.to_owned());
    }
    Ok(names::draw(id, names::random, |name| core.containers.claim_name(name, id).is_ok()))
}

/// Makes or finds the volumes and fixes what each mount is.
async fn mount_points(core: &Core, id: &ContainerId, wanted: Vec<WantedMount>) -> Result<Vec<MountPoint>, EngineError> {
    let mut out = Vec::with_capacity(wanted.len());
    for mount in wanted {
        let WantedMount { kind, destination, read_only, mut mode, typed, create_source } = mount;
        let (kind, propagation) = match kind {
            MountKind::Bind { source, options } => bind(source, options, create_source),
            MountKind::Volume { source, options } => {
                let anonymous = source.is_empty();
                let driver = if options.driver.is_empty() { "local" } else { &options.driver };
                let order = VolumeOrder {
                    name: (!anonymous).then(|| source.clone()),
                    driver: driver.to_owned(),
                    options: options.driver_options.clone(),
                    labels: options.labels.clone(),
                    container: id.clone(),
                };
                let volume = core.volumes.ensure(order).await?;
                // The stock daemon marks named local volumes so.
                if mode.is_empty() && !anonymous {
                    mode = "z".to_owned();
                }
                let kind = MountPointKind::Volume {
                    name: volume.name,
                    driver: volume.driver,
                    source: volume.mountpoint,
                    subpath: options.subpath,
                    no_copy: options.no_copy,
                    anonymous,
                };
                (kind, String::new())
            }
            MountKind::Tmpfs { size_bytes, mode, options } => {
                (MountPointKind::Tmpfs { options: tmpfs_options(size_bytes, mode, &options) }, String::new())
            }
            MountKind::Image { source, subpath } => {
                let image = core.images.resolve(&source)?.id.clone();
                (MountPointKind::Image { reference: source, image, subpath }, String::new())
            }
        };
        out.push(MountPoint { kind, destination, read_only, propagation, mode, typed });
    }
    out.sort_by(|a, b| a.destination.cmp(&b.destination));
    Ok(out)
}

fn bind(
    source: String,
    options: dockerd_types::container::BindOptions,
    create_source: bool,
) -> (MountPointKind, String) {
    let propagation = if options.propagation.is_empty() { "rprivate".to_owned() } else { options.propagation };
    let kind = MountPointKind::Bind {
        source,
        non_recursive: options.non_recursive,
        read_only_non_recursive: options.read_only_non_recursive,
        read_only_force_recursive: options.read_only_force_recursive,
        create_source: create_source || options.create_mountpoint,
    };
    (kind, propagation)
}

/// Mount options of a typed tmpfs.
pub(crate) fn tmpfs_options(size: u64, mode: Option<u32>, extra: &[Vec<String>]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    out.extend(mode.filter(|m| *m != 0).map(|m| format!("mode={m:o}")));
    out.extend((size > 0).then(|| format!("size={size}")));
    out.extend(extra.iter().map(|words| words.join("=")));
    out
}
