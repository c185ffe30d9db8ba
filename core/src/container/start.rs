//! The start saga. Everything that can be refused is refused first; then, each with its undo: network sandbox, root file
//! system, host side of mounts and files and the specification on one thread beside the cgroup on another; then the launch,
//! and at last the new state. The state document is written while the process is being launched, so it costs nothing.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dockerd_network::dns::resolv_conf::Generated;
use dockerd_runtime::seccomp::{Machine, Profile};
use dockerd_runtime::{LaunchError, LaunchRequest, Launched, RuntimeDriver, StdioRequest};
use dockerd_types::container::{IpcMode, NetworkMode, PidMode, Status};
use dockerd_types::network::{EndpointConfig, EndpointState, PortBindings};
use dockerd_types::{ContainerId, Kinded, Timestamp};
use oci_spec::runtime::{LinuxSeccomp, Spec};

use super::Container;
use super::actor::Actor;
use super::error::{ContainerError, JoinError};
use super::files;
use super::health::{Health, HealthPlan};
use super::lifecycle::{self, Refusal, Verb};
use super::links::{self, Linked};
use super::oci::devices::{self, DeviceSet};
use super::oci::mounts::{NetworkFiles, ResolvedKind, ResolvedMount, Shm};
use super::oci::{self, Defaults, Joins, OciInput};
use super::security::{SeccompChoice, SecurityOptions};
use super::spec::{ContainerSpec, MountPointKind, NameService, Snapshot, State};
use super::user::{self, Identity};
use crate::config::SeccompDefault;
use crate::core::Core;
use crate::error::EngineError;
use crate::ports::{ReadySandbox, SandboxOrder};

/// `nosuid,nodev,noexec` of mount_attr, as Docker mounts shared memory.
const SHM_ATTRIBUTES: u64 = dockerd_sys::mount::NO_SUID | dockerd_sys::mount::NO_DEV | dockerd_sys::mount::NO_EXEC;

/// What a process is launched from.
#[derive(Debug)]
struct Surroundings {
    /// `None` when another container's network is joined.
    sandbox: Option<ReadySandbox>,
    /// The root file system, mounted and detached.
    rootfs: OwnedFd,
    oci: Arc<Spec>,
}

/// Everything a launch needs.
#[derive(Debug)]
struct Launching {
    surroundings: Surroundings,
    /// The namespace of the container whose network is joined.
    joined: Option<OwnedFd>,
    restart_count: u32,
    service: NameService,
}

/// Whom it is connected with.
#[derive(Debug, Clone, Copy)]
struct Connections<'a> {
    endpoints: &'a [EndpointState],
    links: &'a [Linked],
}

/// What its programs find of its network.
#[derive(Debug, Default)]
struct InContainer {
    files: Option<NetworkFiles>,
    /// Of its links.
    variables: Vec<String>,
}

/// What of a specification is found on the disk.
#[derive(Debug)]
struct DiskParts {
    mounts: Vec<ResolvedMount>,
    shm: Shm,
    devices: DeviceSet,
    identity: Identity,
}

impl Actor {
    /// `POST /containers/{id}/start`.
    pub(super) async fn start_by_client(&mut self) -> Result<(), EngineError> {
        lifecycle::next(self.snapshot().state.status, Verb::Start).map_err(|refusal| match refusal {
            Refusal::Paused => ContainerError::StartPaused,
            Refusal::Removing => ContainerError::StartRemoving,
            _ => ContainerError::NotModified,
        })?;
        if self.quiesced {
            return Err(EngineError::ShuttingDown);
        }
        self.last_delay = None;
        self.hold_auto_remove = false;
        self.run_process(0).await
    }

    /// The restart policy's delay is over.
    pub(super) async fn start_by_policy(&mut self) -> Result<(), EngineError> {
        lifecycle::next(self.snapshot().state.status, Verb::RestartDue).map_err(|_| ContainerError::NotModified)?;
        let restarts = self.snapshot().state.restart_count + 1;
        self.run_process(restarts).await
    }

    async fn run_process(&mut self, restart_count: u32) -> Result<(), EngineError> {
        if let Some(teardown) = self.teardown.take() {
            // A panic in tear-down was logged by the runtime; the start finds out whether anything is in its way.
            let _ = teardown.await;
        }
        self.exit_on_next = false;
        match self.launch(restart_count).await {
            Ok(()) => {
                self.event("start", &[]);
                Ok(())
            }
            Err(error) => {
                self.start_failed(&error).await;
                Err(error)
            }
        }
    }

    async fn launch(&mut self, restart_count: u32) -> Result<(), EngineError> {
        let snapshot = self.snapshot();
        let spec = snapshot.spec.clone();
        let core = self.core.clone();
        let driver = self.driver()?;
        let security = SecurityOptions::parse(&spec.host)?;
        let joins = joins(&core, &spec)?;
        let joined = joins.network.as_deref().map(open_namespace).transpose()?;
        let devices = collect_devices(&spec).await?;
        // An overlay must not be mounted twice: whoever reads the stopped container's files has them for that long.
        let tree = self.container.tree().clone();
        let _tree = tree.write().await;

        let has_names = has_names(&core, &spec);
        // Two parts that take kernel time, side by side. More threads would wait for each other's processors.
        let surroundings = {
            let (core, container, devices) = (core.clone(), self.container.clone(), devices.clone());
            tokio::task::spawn_blocking(move || {
                make_surroundings(&core, &container, devices, &security, joins, has_names)
            })
        };
        let cgroup = {
            let (driver, core, container) = (driver.clone(), core.clone(), self.container.clone());
            tokio::task::spawn_blocking(move || make_cgroup_side(&*driver, &core, &container, &devices, has_names))
        };
        let (surroundings, cgroup) = tokio::join!(surroundings, cgroup);
        let surroundings = surroundings.unwrap_or_else(|panic| Err(ContainerError::Start(panic.to_string()).into()));
        let cgroup = cgroup.unwrap_or_else(|panic| Err(ContainerError::Start(panic.to_string()).into()));
        let result = match (surroundings, cgroup) {
            (Ok(surroundings), Ok(service)) => {
                let launching = Launching { surroundings, joined, restart_count, service };
                self.launch_in(&driver, launching).await
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        if result.is_err() {
            self.undo().await;
        }
        result
    }

    async fn launch_in(&mut self, driver: &Arc<dyn RuntimeDriver>, launching: Launching) -> Result<(), EngineError> {
        let snapshot = self.snapshot();
        let spec = snapshot.spec.clone();
        let Launching { surroundings, joined, restart_count, service } = launching;
        let Surroundings { sandbox, rootfs, oci } = surroundings;
        let (sandbox_id, netns, endpoints, way_out, ports) = match sandbox {
            Some(ReadySandbox { id, netns, endpoints, way_out, ports }) => (id, netns, endpoints, way_out, ports),
            None => (String::new(), None, Vec::new(), None, Vec::new()),
        };
        let state = State {
            status: Status::Running,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            started_at: Some(Timestamp::now()),
            finished_at: snapshot.state.finished_at,
            manually_stopped: false,
            restart_count,
            sandbox_id,
            network_ids: network_ids(&self.core, &spec),
            dns_names: snapshot.state.dns_names.clone(),
            name_service: service,
            endpoints,
            way_out,
            ports,
            health: HealthPlan::of(&spec.config).map(|_| Health::default()),
        };
        let tty = spec.config.tty;
        let (height, width) = spec.host.console_size;
        let request = LaunchRequest {
            id: spec.id.clone(),
            spec: oci.clone(),
            rootfs,
            netns: netns.or(joined),
            stdio: StdioRequest {
                tty,
                stdin: spec.config.open_stdin,
                console_size: (tty && height > 0 && width > 0).then_some((height, width)),
            },
            init: spec.host.init.unwrap_or(self.core.config.init) && spec.host.pid_mode == PidMode::Private,
        };
        // The plan is sent first: handing over the writing may mean that a thread is made.
        let written = async { self.writer.write(state.clone()).await };
        let (launched, _) = tokio::join!(biased; driver.start(request), written);
        let launched = launched.map_err(|error| {
            tracing::debug!(container = %spec.id, ?error, "launch failed");
            launch_error(&error)
        })?;
        self.running(launched, state, oci)?;
        links::follow(&self.core, &self.container).await;
        Ok(())
    }

    /// The process lives: connect its streams, publish.
    fn running(&mut self, launched: Launched, mut state: State, oci: Arc<Spec>) -> Result<(), EngineError> {
        let Launched { pid, pidfd: _, started_at: _, io, timings } = launched;
        tracing::debug!(container = %self.container.id(), pid, ?timings, "started");
        state.pid = pid;
        self.core.network.started(self.container.id(), pid);
        self.container.oci.store(Some(oci));
        self.container.io().begin(io)?;
        self.container.volume_events(&*self.core.events, "mount");
        for endpoint in &state.endpoints {
            self.container.network_event(&*self.core.events, "connect", endpoint);
        }
        self.update(|s| s.state = state);
        self.begin_health_checks();
        Ok(())
    }

    /// Takes back what a failed start made.
    async fn undo(&mut self) {
        let id = self.container.id();
        self.container.io().end();
        self.core.janitor.ended(&self.container);
        if let Err(error) = self.core.network.remove_sandbox(id).await {
            tracing::warn!(container = %id, %error, "network of a failed start could not be taken down");
        }
        if let Ok(driver) = self.driver()
            && let Err(error) = driver.delete(id).await
        {
            tracing::debug!(container = %id, %error, "nothing left of a failed start");
        }
        release_shm(&self.core, id, &self.snapshot().spec.host.ipc_mode);
        let (volumes, id) = (self.core.volumes.clone(), id.clone());
        if tokio::task::spawn_blocking(move || volumes.unmount(&id)).await.is_err() {
            tracing::warn!("volumes of a failed start could not be unmounted");
        }
    }

    /// Records why the start failed, as inspect shows it; with auto-remove the container goes.
    async fn start_failed(&mut self, error: &EngineError) {
        let exit_code = match error {
            EngineError::Container(ContainerError::Launch { exit_code, .. }) => i64::from(*exit_code),
            _ => 128,
        };
        let text = error.to_string();
        let network_ids = network_ids(&self.core, &self.snapshot().spec);
        let was_restarting = self.snapshot().state.status == Status::Restarting;
        self.update(|s| {
            s.state.error = text;
            s.state.exit_code = exit_code;
            s.state.pid = 0;
            s.state.sandbox_id.clear();
            s.state.network_ids = network_ids;
            s.state.endpoints.clear();
            s.state.way_out = None;
            s.state.ports.clear();
            if was_restarting {
                s.state.status = Status::Exited;
                s.exits += 1;
            }
        });
        self.persist();
        tracing::info!(container = %self.container.id(), kind = ?error.kind(), %error, "start failed");
        if self.snapshot().spec.host.auto_remove {
            self.auto_remove().await;
        }
    }
}

/// Other containers' namespaces this one joins.
fn joins(core: &Core, spec: &ContainerSpec) -> Result<Joins, EngineError> {
    let mut out = Joins::default();
    if let NetworkMode::Container(other) = &spec.host.network_mode {
        let (_, pid) = running_other(core, spec, other, "network")?;
        out.network = Some(format!("/proc/{pid}/ns/net").into());
    }
    if let PidMode::Container(other) = &spec.host.pid_mode {
        let (_, pid) = running_other(core, spec, other, "PID")?;
        out.pid = Some(format!("/proc/{pid}/ns/pid").into());
    }
    if let IpcMode::Container(other) = &spec.host.ipc_mode {
        let (donor, pid) = running_other(core, spec, other, "IPC")?;
        if !matches!(donor.host.ipc_mode, IpcMode::Shareable | IpcMode::Host) {
            return Err(ContainerError::from(JoinError::IpcNotShareable(donor.id.clone())).into());
        }
        out.ipc = Some(format!("/proc/{pid}/ns/ipc").into());
    }
    Ok(out)
}

fn running_other(
    core: &Core,
    spec: &ContainerSpec,
    other: &str,
    kind: &'static str,
) -> Result<(Arc<ContainerSpec>, i32), EngineError> {
    let missing = if kind == "network" { JoinError::NetworkMissing } else { JoinError::Missing };
    let found = core.containers.find(other).map_err(|_| missing(other.to_owned()));
    let found = found.map_err(ContainerError::from)?;
    if *found.id() == spec.id {
        return Err(ContainerError::from(JoinError::Own(kind)).into());
    }
    let snapshot = found.snapshot();
    let id = || found.id().clone();
    let error = match snapshot.state.status {
        Status::Running | Status::Paused => return Ok((snapshot.spec.clone(), snapshot.state.pid)),
        Status::Restarting => JoinError::Restarting(id()),
        _ if kind == "network" => JoinError::NetworkNotRunning(id().to_string()),
        status => JoinError::NotRunning { kind, id: id(), status: status.name() },
    };
    Err(ContainerError::from(error).into())
}

fn open_namespace(path: &Path) -> Result<OwnedFd, EngineError> {
    // One open(2) below /proc: not worth a thread.
    let file = fs::File::open(path).map_err(|e| EngineError::io(format!("open {}", path.display()), e))?;
    Ok(file.into())
}

/// Makes the container's network namespace with everything in it; `None` when it has none of its own. Blocking.
fn sandbox(
    core: &Core,
    spec: &ContainerSpec,
    name: &str,
    resolver: Option<Generated>,
) -> Result<Option<ReadySandbox>, EngineError> {
    let host = &spec.host;
    if matches!(host.network_mode, NetworkMode::Container(_)) {
        return Ok(None);
    }
    let mut endpoints: Vec<(String, EndpointConfig)> =
        spec.endpoints.iter().map(|(network, config)| (network.clone(), config.clone())).collect();
    // The network of the mode has the first interface, the others follow by name.
    let main = core.network.facts(&host.network_mode.text()).map(|facts| facts.name);
    endpoints.sort_by_key(|(network, _)| Some(network) != main.as_ref());
    let request = SandboxOrder {
        container: spec.id.clone(),
        name: name.to_owned(),
        hostname: spec.config.hostname.clone(),
        endpoints: if spec.config.network_disabled { Vec::new() } else { endpoints },
        ports: published_ports(spec),
        exposed: spec.config.exposed_ports.iter().copied().collect(),
        resolver,
    };
    Ok(Some(core.network.create_sandbox(request)?))
}

/// Whether its programs are to ask a resolver of ours: it is to be on a network where containers have names.
fn has_names(core: &Core, spec: &ContainerSpec) -> bool {
    let is_user_defined = |name: &String| core.network.facts(name).is_some_and(|facts| !facts.predefined);
    !spec.config.network_disabled && spec.endpoints.keys().any(is_user_defined)
}

/// Ids of the networks it is to be on, for inspect to show when it does not run.
fn network_ids(core: &Core, spec: &ContainerSpec) -> std::collections::BTreeMap<String, dockerd_types::NetworkId> {
    spec.endpoints.keys().filter_map(|name| Some((name.clone(), core.network.network_id(name)?))).collect()
}

/// What is published: what the client asked for, and with `-P` every other exposed port at any free one.
pub(crate) fn published_ports(spec: &ContainerSpec) -> PortBindings {
    let mut ports = spec.host.port_bindings.clone();
    if spec.host.publish_all_ports {
        for port in &spec.config.exposed_ports {
            let bindings = ports.entry(*port).or_default();
            if bindings.is_empty() {
                bindings.push(dockerd_types::network::PortBinding {
                    host_ip: None,
                    host_port: dockerd_types::network::HostPort::Ephemeral,
                });
            }
        }
    }
    ports
}

/// Device nodes and rules the client asked for; off the async workers where the host's `/dev` must be read.
async fn collect_devices(spec: &Arc<ContainerSpec>) -> Result<DeviceSet, EngineError> {
    if !devices::needs_host(&spec.host) {
        return devices::collect(&spec.host).map_err(oci_error);
    }
    let spec = spec.clone();
    crate::image::blocking(move || devices::collect(&spec.host)).await?.map_err(oci_error)
}

/// Makes the cgroup, the log and the files that need no address and no network; says where names are looked up. Blocking.
fn make_cgroup_side(
    driver: &dyn RuntimeDriver,
    core: &Core,
    container: &Container,
    devices: &DeviceSet,
    has_names: bool,
) -> Result<NameService, EngineError> {
    let spec = &container.snapshot().spec;
    let resources = oci::resources::build(&spec.host, devices).map_err(oci_error)?;
    let path = oci::cgroups_path(spec, core.config.cgroup_parent.as_deref());
    driver.reserve(&spec.id, &path.to_string_lossy(), &resources).map_err(|error| launch_error(&error))?;
    container.io().prepare()?;
    if spec.joins_network_of().is_some() {
        return Ok(NameService::None);
    }
    let paths = files::paths(&core.layout.container_dir(&spec.id));
    write_file(&paths.hostname, &format!("{}\n", spec.config.hostname))?;
    if has_names {
        return Ok(NameService::Resolver);
    }
    // Of the networks without names, the default bridge alone may have IPv6.
    let ipv6 = core.config.network.ipv6 && spec.endpoints.contains_key("bridge");
    let text = files::servers_file(&spec.host, &core.resolver, ipv6);
    write_file(&paths.resolv_conf, &text)?;
    Ok(NameService::Servers(text))
}

fn launch_error(error: &LaunchError) -> ContainerError {
    ContainerError::Launch { text: error.to_string(), exit_code: error.exit_code() }
}

/// Network, root file system and mounts, what depends on the addresses, and the specification. Blocking. The network's
/// refusal is what the stock daemon would meet first.
fn make_surroundings(
    core: &Core,
    container: &Container,
    devices: DeviceSet,
    security: &SecurityOptions,
    joins: Joins,
    has_names: bool,
) -> Result<Surroundings, EngineError> {
    let snapshot = container.snapshot();
    let spec = &snapshot.spec;
    let resolver = has_names.then(|| files::resolver_file(&spec.host, &core.resolver));
    if let Some(file) = &resolver {
        write_file(&files::paths(&core.layout.container_dir(&spec.id)).resolv_conf, &file.text)?;
    }
    let links = links::resolve(core, &snapshot)?;
    let sandbox = sandbox(core, spec, &snapshot.name, resolver)?;
    let (rootfs, parts) = prepare(core, container, spec, devices)?;
    let endpoints = sandbox.as_ref().map_or(&[][..], |sandbox| &sandbox.endpoints);
    let oci = describe(core, spec, Connections { endpoints, links: &links }, security, joins, parts)?;
    Ok(Surroundings { sandbox, rootfs, oci: Arc::new(oci) })
}

/// Root file system, mounts and accounts. Blocking.
fn prepare(
    core: &Core,
    container: &Container,
    spec: &ContainerSpec,
    devices: DeviceSet,
) -> Result<(OwnedFd, DiskParts), EngineError> {
    let rootfs = container.root().start(|| core.images.mount(&spec.id))?;
    let mounts = spec.mounts.iter().map(|point| resolve(core, &spec.id, point)).collect::<Result<_, _>>()?;
    let accounts = user::read_files(rootfs.as_fd());
    let identity = user::resolve(&spec.config.user, &spec.host.group_add, &accounts)
        .map_err(|e| ContainerError::Start(e.to_string()))?;
    Ok((rootfs, DiskParts { mounts, shm: shm(core, spec)?, devices, identity }))
}

fn oci_error(error: oci::SpecError) -> EngineError {
    ContainerError::Start(error.to_string()).into()
}

fn write_file(path: &Path, text: &str) -> Result<(), EngineError> {
    files::write(path, text).map_err(|e| EngineError::io(format!("write {}", path.display()), e))
}

pub(super) fn resolve(
    core: &Core,
    container: &ContainerId,
    point: &super::spec::MountPoint,
) -> Result<ResolvedMount, EngineError> {
    let (source, kind) = match &point.kind {
        MountPointKind::Bind { source, non_recursive, read_only_non_recursive, create_source, .. } => {
            if *create_source && let Err(error) = make_source(source) {
                let problem = super::create_error::MountError::SourcePath { path: source.clone(), source: error };
                return Err(super::create_error::CreateError::from(problem).into());
            }
            let kind = ResolvedKind::Bind { non_recursive: *non_recursive, top_read_only: *read_only_non_recursive };
            (PathBuf::from(source), kind)
        }
        MountPointKind::Volume { name, source, subpath, .. } => {
            core.volumes.mount(name, container)?;
            (within(source, subpath)?, ResolvedKind::Bind { non_recursive: false, top_read_only: false })
        }
        MountPointKind::Tmpfs { options } => (PathBuf::new(), ResolvedKind::Tmpfs(options.clone())),
        MountPointKind::Image { .. } => return Err(EngineError::NotBuilt("mounting another image")),
    };
    Ok(ResolvedMount {
        source,
        destination: point.destination.clone(),
        kind,
        read_only: point.read_only,
        propagation: point.propagation.clone(),
    })
}

/// `-v /missing:/x` makes the directory, root's, 0755.
fn make_source(source: &str) -> std::io::Result<()> {
    if Path::new(source).exists() {
        return Ok(());
    }
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o755).create(source)
}

/// A directory of a volume, which must be there and must not lead out of it.
fn within(root: &Path, subpath: &str) -> Result<PathBuf, EngineError> {
    if subpath.is_empty() {
        return Ok(root.to_owned());
    }
    let wanted = root.join(subpath);
    let io = |e| EngineError::io(format!("cannot access path {}", wanted.display()), e);
    let real = fs::canonicalize(&wanted).map_err(io)?;
    let inside = real.starts_with(fs::canonicalize(root).map_err(io)?);
    if inside { Ok(real) } else { Err(io(std::io::ErrorKind::PermissionDenied.into())) }
}

fn shm(core: &Core, spec: &ContainerSpec) -> Result<Shm, EngineError> {
    Ok(match &spec.host.ipc_mode {
        IpcMode::None => Shm::None,
        IpcMode::Host => Shm::Bind("/dev/shm".into()),
        IpcMode::Private | IpcMode::Default => Shm::Private(spec.host.shm_size),
        IpcMode::Shareable => {
            let dir = core.shm_dir(&spec.id);
            let io = |e| EngineError::io(format!("make {}", dir.display()), e);
            fs::create_dir_all(&dir).map_err(io)?;
            let options = ["source=shm".to_owned(), format!("size={}", spec.host.shm_size), "mode=1777".to_owned()];
            let tmpfs = dockerd_sys::mount::file_system("tmpfs", &options, SHM_ATTRIBUTES).map_err(io)?;
            dockerd_sys::mount::attach_at(&tmpfs, &dir).map_err(io)?;
            Shm::Bind(dir)
        }
        IpcMode::Container(other) => {
            let donor = core.containers.find(other).map_err(EngineError::from)?;
            match donor.snapshot().spec.host.ipc_mode {
                IpcMode::Host => Shm::Bind("/dev/shm".into()),
                _ => Shm::Bind(core.shm_dir(donor.id())),
            }
        }
    })
}

/// Takes a shareable container's `/dev/shm` off the host. Cheap when there is none.
pub(super) fn release_shm(core: &Core, id: &ContainerId, mode: &IpcMode) {
    if *mode != IpcMode::Shareable {
        return;
    }
    let dir = core.shm_dir(id);
    if let Err(error) = dockerd_sys::mount::detach(&dir) {
        tracing::debug!(dir = %dir.display(), %error, "no shared memory mounted");
    }
}

/// Writes what depends on the addresses and builds the specification. Blocking.
fn describe(
    core: &Core,
    spec: &ContainerSpec,
    connections: Connections<'_>,
    security: &SecurityOptions,
    joins: Joins,
    parts: DiskParts,
) -> Result<Spec, EngineError> {
    let Connections { endpoints, links } = connections;
    let files = network_files(core, spec)?;
    if spec.joins_network_of().is_none() {
        let gateway = host_gateway(core);
        let text = if spec.host.network_mode == NetworkMode::Host {
            files::hosts_of_host(&fs::read_to_string("/etc/hosts").unwrap_or_default(), &spec.host, &gateway)
        } else {
            let names = &spec.config;
            let links: String = links.iter().map(Linked::hosts_lines).collect();
            files::hosts(&names.hostname, &names.domainname, &spec.host, &gateway, endpoints, &links)
        };
        write_file(&files.hosts, &text)?;
    }
    let variables = links.iter().flat_map(Linked::environment).collect();
    build_spec(core, spec, security, joins, parts, InContainer { files: Some(files), variables })
}

fn build_spec(
    core: &Core,
    spec: &ContainerSpec,
    security: &SecurityOptions,
    joins: Joins,
    parts: DiskParts,
    own: InContainer,
) -> Result<Spec, EngineError> {
    let defaults = Defaults {
        ulimits: &core.config.default_ulimits,
        cgroup_parent: core.config.cgroup_parent.as_deref(),
        no_new_privileges: core.config.no_new_privileges,
    };
    let DiskParts { mounts, shm, devices, identity } = parts;
    let InContainer { files, variables: link_variables } = own;
    let input = OciInput {
        spec,
        link_variables,
        host: &core.facts,
        defaults,
        mounts,
        shm,
        files,
        joins,
        devices,
        identity,
        seccomp: seccomp(core, spec, security)?,
        security,
    };
    oci::build(input).map_err(oci_error)
}

/// The files of the container whose network is joined, or its own.
pub(super) fn network_files(core: &Core, spec: &ContainerSpec) -> Result<NetworkFiles, EngineError> {
    let owner = match spec.joins_network_of() {
        Some(other) => core.containers.find(other)?.id().clone(),
        None => spec.id.clone(),
    };
    Ok(files::paths(&core.layout.container_dir(&owner)))
}

fn host_gateway(core: &Core) -> Vec<std::net::IpAddr> {
    if !core.config.host_gateway_ips.is_empty() {
        return core.config.host_gateway_ips.clone();
    }
    files::default_gateway(core.network.default_gateway())
}

/// The profile chosen, resolved for the container's capabilities; none for privileged containers.
fn seccomp(core: &Core, spec: &ContainerSpec, security: &SecurityOptions) -> Result<Option<LinuxSeccomp>, EngineError> {
    let failed = |e: dockerd_runtime::seccomp::ProfileError| EngineError::from(ContainerError::Start(e.to_string()));
    let custom;
    let profile = match (&security.seccomp, &core.config.seccomp) {
        (Some(SeccompChoice::Unconfined), _) => return Ok(None),
        (Some(SeccompChoice::Builtin), _) => Profile::builtin(),
        (Some(SeccompChoice::Profile(json)), _) => {
            custom = Profile::parse(json).map_err(failed)?;
            &custom
        }
        (None, _) if spec.host.privileged => return Ok(None),
        (None, SeccompDefault::Unconfined) => return Ok(None),
        (None, SeccompDefault::Builtin) => Profile::builtin(),
        (None, SeccompDefault::Custom { json, .. }) => {
            custom = Profile::parse(json).map_err(failed)?;
            &custom
        }
    };
    let caps = oci::capability_mask(&spec.host, core.facts.available_caps).map_err(oci_error)?;
    profile.resolve(Machine::this(), caps).map_err(failed)
}

/// The specification of a container that lives on from before the daemon's start: for execs in it.
pub(super) fn respecify(core: &Core, snapshot: &Snapshot) -> Result<Spec, EngineError> {
    let spec = &snapshot.spec;
    let security = SecurityOptions::parse(&spec.host)?;
    let parts =
        DiskParts { mounts: Vec::new(), shm: Shm::None, devices: DeviceSet::default(), identity: Identity::default() };
    // The others may have ended meanwhile; its own process has what it was started with.
    let linked = links::resolve(core, snapshot).unwrap_or_default();
    let own = InContainer { files: None, variables: linked.iter().flat_map(Linked::environment).collect() };
    build_spec(core, spec, &security, Joins::default(), parts, own)
}
