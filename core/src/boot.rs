//! From disk and supervisor to a running engine: documents are loaded, processes that lived on are taken over, exits
//! that happened meanwhile are recorded, leftovers without an owner are removed, and the restart policies are asked.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use dockerd_runtime::{Adopted, ProcessExit, ProcessIo, ProcessKey};
use dockerd_store::layout::CONTAINER_DOCUMENT;
use dockerd_store::{Layout, document};
use dockerd_types::container::Status;
use dockerd_types::{ContainerId, Timestamp};
use tokio::sync::{mpsc, watch};

use crate::config::EngineConfig;
use crate::container::Container;
use crate::container::actor::Command;
use crate::container::connect::named_endpoints;
use crate::container::files::{self, ResolverDefaults};
use crate::container::oci;
use crate::container::registry::Registry;
use crate::container::restart_policy;
use crate::container::root::HeldRoot;
use crate::container::spec::{ContainerDocument, MountPointKind, NameService, State};
use crate::container::state_writer::STATE_FILE;
use crate::core::Core;
use crate::error::EngineError;
use crate::janitor::Janitor;
use crate::ports::{Events, Execs, Images, KeptSandbox, Networks, RuntimeSet, StreamsMaker, Volumes};
use crate::reaper::Reaper;
use crate::system::host;

/// The engine's surroundings, opened.
#[derive(Debug)]
pub struct Parts {
    /// Images.
    pub images: Arc<dyn Images>,
    /// Runtimes.
    pub runtimes: Arc<dyn RuntimeSet>,
    /// Networks.
    pub network: Arc<dyn Networks>,
    /// Volumes.
    pub volumes: Arc<dyn Volumes>,
    /// Events.
    pub events: Arc<dyn Events>,
    /// Streams.
    pub streams: Arc<dyn StreamsMaker>,
    /// Execs.
    pub execs: Arc<dyn Execs>,
}

impl Core {
    /// Puts the parts together. Blocking: reads facts of the host.
    pub(crate) fn assemble(config: EngineConfig, layout: Layout, parts: Parts) -> Result<Arc<Self>, EngineError> {
        let Parts { images, runtimes, network, volumes, events, streams, execs } = parts;
        let resolver = ResolverDefaults {
            servers: config.dns.iter().map(ToString::to_string).collect(),
            options: config.dns_options.clone(),
            search: config.dns_search.clone(),
        };
        let config = Arc::new(config);
        let janitor = Janitor::start(runtimes.clone(), images.clone())
            .map_err(|error| EngineError::io("start a thread", error))?;
        Ok(Arc::new(Self {
            facts: host::facts(),
            limits: host::limits(&config),
            engine_id: engine_id(&layout.engine_id())?,
            live: ArcSwap::new(config.clone()),
            config,
            layout,
            images,
            runtimes,
            network,
            volumes,
            events,
            streams,
            execs,
            containers: Registry::default(),
            reaper: Reaper::new(),
            janitor,
            resolver,
            started_at: Timestamp::now(),
        }))
    }
}

/// The engine's UUID, made at its first start.
fn engine_id(path: &Path) -> Result<String, EngineError> {
    if let Ok(text) = fs::read_to_string(path)
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    let mut bytes: [u8; 16] = crate::container::names::random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = dockerd_types::ids::hex(&bytes);
    let id = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    document::write_bytes(path, id.as_bytes(), dockerd_store::Durability::Disk)?;
    Ok(id)
}

/// How long boot waits for what follows from exits that happened meanwhile.
const EXITS_LIMIT: Duration = Duration::from_secs(5);

/// A container as it lies on disk.
#[derive(Debug)]
struct Stored {
    document: ContainerDocument,
    state: State,
}

/// Brings back every stored container and reconciles with what the supervisor reports.
pub(crate) async fn restore(core: &Arc<Core>, adopted: Vec<Adopted>) -> Result<(), EngineError> {
    own_exec_root(core, &adopted)?;
    let layout = core.layout.clone();
    let stored = tokio::task::spawn_blocking(move || load_all(&layout))
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    let mut living: HashMap<ContainerId, Adopted> = HashMap::new();
    for process in adopted {
        match &process.key {
            ProcessKey::Container(id) => _ = living.insert(id.clone(), process),
            // Nobody waits for an exec of the last daemon any more.
            ProcessKey::Exec(..) => {
                if process.exited.is_some() {
                    core.runtimes.acknowledge(&process.key);
                }
            }
        }
    }
    let mut revived = Vec::new();
    for Stored { document, state } in stored {
        let id = document.spec.id.clone();
        let mut found = living.remove(&id);
        if found.is_none() && state.is_running() {
            found = find_lost(core, &document).await;
        }
        if let Some(item) = bring_back(core, document, state, found) {
            revived.push(item);
        }
    }
    for (id, orphan) in living {
        orphaned(core, &id, &orphan).await;
    }
    restore_network(core, &revived).await?;
    remove_leftovers(core).await;
    let mut ending = Vec::new();
    for Revived { container, exit, .. } in revived {
        if let Some(exit) = exit {
            ending.push(container.subscribe());
            container.tell(Command::Exited(exit)).await?;
        } else if container.snapshot().state.is_running() {
            container.tell(Command::Adopted).await?;
        } else {
            start_by_policy(core, &container).await;
        }
    }
    // The first client shall not be told that they run. One whose output is held open is not waited for.
    let all = futures_util::future::join_all(ending.iter_mut().map(|s| s.wait_for(|s| s.exits > 0 || s.removed)));
    if tokio::time::timeout(EXITS_LIMIT, all).await.is_err() {
        tracing::warn!("containers that ended meanwhile are still being taken down");
    }
    Ok(())
}

/// Notes whose the exec root is. Processes of another data root's containers in it would be taken for leftovers, so with
/// such the daemon does not start.
fn own_exec_root(core: &Core, adopted: &[Adopted]) -> Result<(), EngineError> {
    let path = core.layout.exec_owner();
    let owner = fs::read_to_string(&path).unwrap_or_default();
    let is_ours = owner.is_empty() || owner == core.engine_id;
    if !is_ours && adopted.iter().any(|process| process.exited.is_none()) {
        let text = format!("{} is in use by containers of another data root", core.layout.exec_root().display());
        return Err(EngineError::io("open exec root", std::io::Error::other(text)));
    }
    if owner != core.engine_id {
        fs::write(&path, &core.engine_id).map_err(|e| EngineError::io(format!("write {}", path.display()), e))?;
    }
    Ok(())
}

/// A container brought back and what is left to do with it.
#[derive(Debug)]
struct Revived {
    container: Arc<Container>,
    /// Its process ended while nobody looked.
    exit: Option<ProcessExit>,
}

fn bring_back(
    core: &Arc<Core>,
    document: ContainerDocument,
    mut state: State,
    found: Option<Adopted>,
) -> Option<Revived> {
    let ContainerDocument { name, spec } = document;
    let id = spec.id.clone();
    if let Err(error) = core.containers.claim_name(&name, &id) {
        tracing::warn!(container = %id, %error, "two stored containers have one name; it is known by id only");
    }
    core.images.hold(&spec.image, &id);
    for point in &spec.mounts {
        if let MountPointKind::Volume { name, .. } = &point.kind {
            core.volumes.note_use(name, &id);
        }
    }
    let was_running = state.is_running();
    let cgroup = oci::cgroups_path(&spec, core.config.cgroup_parent.as_deref());
    let cgroup = cgroup.to_string_lossy();
    if found.as_ref().is_none_or(|process| is_recorded(&state, process.exited.as_ref())) {
        // No process of it is left, but the daemon may have died between making its cgroup and launching, or between an
        // exit and the cgroup's removal.
        core.runtimes.discard(&cgroup);
    }
    let mut exit = None;
    let mut io = None;
    match found {
        Some(process) if is_recorded(&state, process.exited.as_ref()) => core.runtimes.acknowledge(&process.key),
        Some(process) => {
            if !was_running {
                // Launched, and the daemon died before the state was stored.
                state.status = Status::Running;
            }
            state.pid = process.pid;
            state.started_at.get_or_insert_with(Timestamp::now);
            core.runtimes.restore(&id, &cgroup);
            exit = process.exited;
            if exit.is_none() {
                for point in &spec.mounts {
                    if let MountPointKind::Volume { name, .. } = &point.kind {
                        core.volumes.note_mounted(name, &id);
                    }
                }
            }
            io = Some(process.io);
        }
        // It ran, and neither it nor a record of its end is left: the machine went down.
        None if was_running => exit = Some(lost(&id)),
        None if state.status == Status::Restarting => state.status = Status::Exited,
        None => {}
    }
    if state.status == Status::Removing {
        state.status = Status::Dead;
    }
    let container = Container::adopt(core, spec, &name, state, HeldRoot::default());
    if let Some(io) = io {
        if exit.is_none() {
            container.root().keep_of(container.snapshot().state.pid);
        }
        reconnect(&container, io);
    }
    Some(Revived { container, exit })
}

/// The exit reached the document before the daemon died, only the supervisor was not told.
fn is_recorded(state: &State, exit: Option<&ProcessExit>) -> bool {
    !state.is_running() && exit.is_some_and(|exit| state.finished_at.is_some_and(|at| at >= exit.at))
}

/// The process of a container that no supervisor knows: looked for in its cgroup.
async fn find_lost(core: &Arc<Core>, document: &ContainerDocument) -> Option<Adopted> {
    let spec = &document.spec;
    let cgroup = oci::cgroups_path(spec, core.config.cgroup_parent.as_deref()).to_string_lossy().into_owned();
    let (core, id) = (core.clone(), spec.id.clone());
    let found = tokio::task::spawn_blocking(move || core.runtimes.find_lost(&id, &cgroup)).await.ok().flatten();
    if found.is_some() {
        tracing::warn!(container = %spec.id, "its supervisor was lost; output meanwhile is, and its exit code will be");
    }
    found
}

/// Gives every supervisor that comes in the place of a lost one what it is to keep, for as long as there are any.
pub(crate) async fn keep_again(core: Arc<Core>, mut replacements: watch::Receiver<u64>) {
    while replacements.changed().await.is_ok() {
        for container in core.containers.all() {
            if container.snapshot().state.is_running()
                && let Err(error) = container.io().keep_again()
            {
                tracing::warn!(container = %container.id(), %error, "its streams will not outlive the daemon");
            }
        }
    }
}

/// What is recorded of a process that vanished with the machine.
fn lost(id: &ContainerId) -> ProcessExit {
    ProcessExit {
        key: ProcessKey::Container(id.clone()),
        code: dockerd_runtime::ExitCode::Unknown,
        at: Timestamp::now(),
        oom_killed: false,
    }
}

fn reconnect(container: &Container, io: ProcessIo) {
    if let Err(error) = container.io().prepare().and_then(|()| container.io().begin(io)) {
        tracing::warn!(container = %container.id(), %error, "streams could not be taken over");
    }
}

/// A process of a container nobody has a document of: its removal was under way.
async fn orphaned(core: &Core, id: &ContainerId, process: &Adopted) {
    tracing::warn!(container = %id, "a process without a container is ended");
    let Some(driver) = core.driver(&core.live().default_runtime) else { return };
    if process.exited.is_none() {
        let _ = driver.kill_all(id);
    }
    if let Err(error) = driver.delete(id).await {
        tracing::debug!(container = %id, %error, "nothing left of the orphan");
    }
    core.runtimes.acknowledge(&process.key);
}

async fn restore_network(core: &Core, revived: &[Revived]) -> Result<(), EngineError> {
    let living = revived
        .iter()
        .filter(|item| item.exit.is_none())
        .map(|item| (item.container.id().clone(), item.container.snapshot()))
        .filter(|(_, snapshot)| snapshot.state.is_running());
    let living: Vec<_> = living.collect();
    let kept = living
        .iter()
        .map(|(container, snapshot)| {
            let priority = |name: &str| snapshot.spec.endpoints.get(name).map_or(0, |asked| asked.gw_priority);
            let endpoints = snapshot.state.endpoints.iter();
            let has_resolver = snapshot.state.name_service == NameService::Resolver;
            KeptSandbox {
                container: container.clone(),
                name: snapshot.name.to_string(),
                pid: snapshot.state.pid,
                id: snapshot.state.sandbox_id.clone(),
                endpoints: endpoints.map(|e| (e.clone(), priority(&e.network_name))).collect(),
                way_out: snapshot.state.way_out.clone(),
                ports: snapshot.state.ports.clone(),
                wanted: crate::container::published_ports(&snapshot.spec),
                exposed: snapshot.spec.config.exposed_ports.iter().copied().collect(),
                resolver: has_resolver.then(|| files::resolver_file(&snapshot.spec.host, &core.resolver)),
            }
        })
        .collect();
    core.network.restore(kept).await?;
    for (container, snapshot) in &living {
        core.network.enter_names(container, &named_endpoints(snapshot));
    }
    Ok(())
}

async fn start_by_policy(core: &Arc<Core>, container: &Arc<Container>) {
    let snapshot = container.snapshot();
    let state = &snapshot.state;
    let policy = snapshot.spec.host.restart_policy;
    let was_started = state.started_at.is_some();
    if restart_policy::start_at_boot(policy, state.exit_code, state.manually_stopped, was_started, state.restart_count)
    {
        let (service, id) = (crate::container::ContainerService { core: core.clone() }, container.id().clone());
        tokio::spawn(async move {
            if let Err(error) = service.start(id.as_str()).await {
                tracing::warn!(container = %id, %error, "could not be started at boot");
            }
        });
    } else if snapshot.spec.host.auto_remove && was_started {
        // It ended, and the daemon died before it could remove it.
        let options = crate::container::RemoveOptions { force: true, volumes: true, link: false };
        let service = crate::container::ContainerService { core: core.clone() };
        if let Err(error) = service.remove(container.id().as_str(), options).await {
            tracing::warn!(container = %container.id(), %error, "auto-remove at boot failed");
        }
    }
}

/// Reads all containers' documents. What cannot be read is left where it is and reported.
fn load_all(layout: &Layout) -> Result<Vec<Stored>, EngineError> {
    let dir = layout.containers_dir();
    let entries = fs::read_dir(&dir).map_err(|e| EngineError::io(format!("read {}", dir.display()), e))?;
    let mut out = Vec::new();
    for entry in entries.flatten() {
        let Ok(id) = ContainerId::parse(&entry.file_name().to_string_lossy()) else { continue };
        let read = document::read::<ContainerDocument>(&layout.container_document(&id));
        match read {
            Ok(document) => {
                let state = document::read::<State>(&layout.container_dir(&id).join(STATE_FILE));
                let state = state.unwrap_or_else(|error| {
                    if !error.is_not_found() {
                        tracing::warn!(container = %id, %error, "state is lost; taken for created");
                    }
                    State::default()
                });
                out.push(Stored { document, state });
            }
            // Creation was interrupted before the document was there: nobody was told of this container.
            Err(error) if error.is_not_found() => _ = fs::remove_dir_all(entry.path()),
            Err(error) => tracing::error!(container = %id, %error, "container cannot be loaded"),
        }
    }
    Ok(out)
}

/// Half-done work of the last daemon: temporary files, trash, run directories and layers without a container.
async fn remove_leftovers(core: &Arc<Core>) {
    let known: HashSet<ContainerId> = core.containers.all().iter().map(|c| c.id().clone()).collect();
    let core = core.clone();
    let swept = tokio::task::spawn_blocking(move || {
        for id in core.images.layer_owners() {
            if !known.contains(&id)
                && let Err(error) = core.images.remove(&id)
            {
                tracing::warn!(container = %id, %error, "leftover layer could not be removed");
            }
        }
        empty(&core.layout.tmp_dir());
        core.runtimes.sweep(core.config.cgroup_parent.as_deref().unwrap_or(oci::CGROUP_PARENT));
        discard_cgroups_of(&core, &core.layout.trash_dir());
        empty(&core.layout.trash_dir());
        let Ok(entries) = fs::read_dir(core.layout.exec_root().join("containers")) else { return };
        for entry in entries.flatten() {
            let owned = ContainerId::parse(&entry.file_name().to_string_lossy()).is_ok_and(|id| known.contains(&id));
            if !owned {
                let _ = dockerd_sys::mount::detach(&entry.path().join("shm"));
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    });
    if swept.await.is_err() {
        tracing::warn!("leftovers could not be swept");
    }
}

/// Containers that were removed: their cgroups may still have been waiting to be.
fn discard_cgroups_of(core: &Core, trash: &Path) {
    let Ok(entries) = fs::read_dir(trash) else { return };
    let document =
        |entry: fs::DirEntry| document::read::<ContainerDocument>(&entry.path().join(CONTAINER_DOCUMENT)).ok();
    for ContainerDocument { spec, .. } in entries.flatten().filter_map(document) {
        let cgroup = oci::cgroups_path(&spec, core.config.cgroup_parent.as_deref());
        core.runtimes.discard(&cgroup.to_string_lossy());
    }
}

fn empty(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if let Err(error) = dockerd_image::archive::remove_all(&path) {
            tracing::warn!(path = %path.display(), %error, "leftover could not be removed");
        }
    }
}

/// Hands every exit to whom it concerns, for as long as the supervisor reports any.
pub(crate) async fn pump_exits(core: Arc<Core>, mut exits: mpsc::UnboundedReceiver<ProcessExit>) {
    while let Some(exit) = exits.recv().await {
        deliver(&core, exit);
    }
}

/// Never waits: a container that is busy gets its exit from a task of its own.
pub(crate) fn deliver(core: &Arc<Core>, exit: ProcessExit) {
    match &exit.key {
        ProcessKey::Exec(..) => {
            let key = exit.key.clone();
            core.execs.exited(exit);
            core.runtimes.acknowledge(&key);
        }
        ProcessKey::Container(id) => match core.containers.by_id(id) {
            Some(container) => container.deliver_exit(exit),
            None => core.runtimes.acknowledge(&exit.key),
        },
    }
}
