//! How container verbs see networks: sandboxes made, given back and taken over after a restart. Also keeps the links
//! below `netns/` by which tools enter a container's network namespace.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use dockerd_network::dns::resolv_conf::Generated;
use dockerd_network::driver::NetworkIdentity;
use dockerd_network::ipam::pool;
use dockerd_network::plugins::{PluginPaths, Plugins};
use dockerd_network::sandbox;
use dockerd_network::stack::{Attachment, Changed, KeptContainer, Predefined, SandboxRequest, StackOptions};
use dockerd_network::{NetworkConfig, NetworkDriver, NetworkError, NetworkStack};
use dockerd_runtime::BoxFuture;
use dockerd_store::Layout;
use dockerd_sys::ns;
use dockerd_types::network::{EndpointConfig, EndpointState};
use dockerd_types::{ContainerId, Kinded, NetworkId, Timestamp};
use tokio::runtime::Handle;

use super::document::{self, NetworkRecord, NetworksDocument, PREDEFINED, UserNetwork, UserNetworks};
use super::names::{self, Naming};
use super::plan::{self, CreateNetwork};
use super::service;
use crate::config::FirewallBackend;
use crate::container::names::random;
use crate::error::EngineError;
use crate::ports::{Attachments, ConnectOrder, KeptSandbox, NetworkFacts, Networks, ReadySandbox, SandboxOrder};

/// The bridge network that containers get out by whose own networks do not lead anywhere; made when it is first needed.
const WAY_OUT: &str = "docker_gwbridge";
/// Digits of a sandbox's id where it is shown.
const SHORT: usize = 12;

/// The stack with what the engine knows of it.
#[derive(Debug)]
pub(crate) struct StackNetworks {
    stack: Arc<NetworkStack>,
    naming: Arc<Naming>,
    records: Vec<NetworkRecord>,
    /// What users made, oldest first. Changed under [`StackNetworks::turn`] only.
    users: Mutex<Vec<UserNetwork>>,
    /// What an earlier daemon was about to make or to remove, until plugins have been told.
    pending: Mutex<Vec<UserNetwork>>,
    /// Networks are made and removed one at a time.
    turn: tokio::sync::Mutex<()>,
    layout: Layout,
    netns_dir: PathBuf,
    /// Ids of sandboxes whose file is below `netns_dir`.
    sandboxes: Arc<Mutex<HashMap<ContainerId, String>>>,
}

/// A network that is not there.
#[derive(Debug, thiserror::Error)]
#[error("network {0} not found")]
pub(crate) struct UnknownNetwork(pub(crate) String);

impl Kinded for UnknownNetwork {
    fn kind(&self) -> dockerd_types::ErrorKind {
        dockerd_types::ErrorKind::NotFound
    }
}

fn networking(error: NetworkError) -> EngineError {
    EngineError::Networking(Box::new(error))
}

fn unopened(error: io::Error) -> EngineError {
    EngineError::io("open network namespace", error)
}

impl StackNetworks {
    /// Sets the networks up. Blocking.
    pub(crate) fn open(layout: &Layout, mut config: NetworkConfig, runtime: Handle) -> Result<Self, EngineError> {
        let NetworksDocument { networks: records, global_id } = document::load(layout)?;
        if !config.pools.iter().any(|pool| pool.base.is_ipv6()) {
            config.pools.extend(global_id.and_then(pool::unique_local));
        }
        let identity = |name: &str| {
            let id = records.iter().find(|record| record.name == name).map(|record| record.id.clone());
            id.map(|id| NetworkIdentity { id, name: name.to_owned() })
                .ok_or_else(|| EngineError::module(UnknownNetwork(name.to_owned())))
        };
        let [bridge, host, none] = PREDEFINED;
        let predefined = Predefined { bridge: identity(bridge)?, host: identity(host)?, none: identity(none)? };
        let UserNetworks { networks: users, incomplete } = document::load_user(layout)?;
        let (pending, users): (Vec<_>, Vec<_>) = users.into_iter().partition(|network| network.pending);
        let order = |network: &UserNetwork| {
            let order = plan::order(network, &config);
            order.inspect_err(|error| tracing::error!(network = network.name, %error, "its document cannot be used"))
        };
        let networks: Vec<_> = users.iter().filter_map(|network| order(network).ok()).collect();
        let incomplete = incomplete || networks.len() < users.len();
        let forwarding_marker = layout.forwarding_marker();
        let naming = Naming::start(runtime.clone()).map_err(EngineError::module)?;
        let plugins = Arc::new(Plugins::new(PluginPaths::default(), runtime.clone()));
        let options = StackOptions {
            config: config.clone(),
            predefined,
            networks,
            incomplete,
            forwarding_marker,
            runtime,
            plugins,
            ledgers: layout.network_dir(),
        };
        let stack = NetworkStack::open(options).map_err(EngineError::module)?;
        let netns_dir = layout.netns_dir();
        link_namespace(&netns_dir.join("default"), std::process::id());
        Ok(Self {
            stack: Arc::new(stack),
            naming: Arc::new(naming),
            records,
            users: Mutex::new(users),
            pending: Mutex::new(pending),
            turn: tokio::sync::Mutex::default(),
            layout: layout.clone(),
            netns_dir,
            sandboxes: Arc::default(),
        })
    }

    /// The networks themselves.
    pub(super) fn stack(&self) -> &Arc<NetworkStack> {
        &self.stack
    }

    /// Where documents lie.
    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The right to make or remove networks.
    pub(super) fn turn(&self) -> &tokio::sync::Mutex<()> {
        &self.turn
    }

    /// What users made, oldest first.
    pub(super) fn users(&self) -> Vec<UserNetwork> {
        self.lock_users().clone()
    }

    /// What a user made, by its id.
    pub(super) fn user(&self, id: &NetworkId) -> Option<UserNetwork> {
        self.lock_users().iter().find(|network| network.id == *id).cloned()
    }

    /// Adds a network whose bridge is there.
    pub(super) fn insert(&self, network: UserNetwork) {
        self.lock_users().push(network);
    }

    /// What an earlier daemon was about to make or to remove; told once.
    pub(super) fn take_pending(&self) -> Vec<UserNetwork> {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a network out.
    pub(super) fn forget(&self, id: &NetworkId) {
        self.lock_users().retain(|network| network.id != *id);
        self.naming.forget_network(id);
    }

    fn lock_users(&self) -> std::sync::MutexGuard<'_, Vec<UserNetwork>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a network was made.
    pub(super) fn created(&self, id: &NetworkId) -> Option<Timestamp> {
        self.records.iter().find(|record| record.id == *id).map(|record| record.created)
    }

    /// By name, id, or the beginning of an id.
    pub(super) fn find(&self, wanted: &str) -> Option<Arc<dyn NetworkDriver>> {
        let all = self.stack.networks();
        let is = |driver: &&Arc<dyn NetworkDriver>| {
            driver.identity().name == wanted || driver.identity().id.as_str() == wanted
        };
        if let Some(exact) = all.iter().find(is) {
            return Some(exact.clone());
        }
        let mut found = all.iter().filter(|driver| driver.identity().id.as_str().starts_with(wanted));
        found.next().filter(|_| !wanted.is_empty() && found.next().is_none()).cloned()
    }

    fn must_find(&self, wanted: &str) -> Result<Arc<dyn NetworkDriver>, EngineError> {
        self.find(wanted).ok_or_else(|| EngineError::Networking(Box::new(UnknownNetwork(wanted.to_owned()))))
    }

    /// The network that containers get out by, made if it is not there. Blocking.
    fn way_out(&self) -> Result<Arc<dyn NetworkDriver>, NetworkError> {
        let _turn = self.turn.blocking_lock();
        if let Some(network) = self.stack.networks().into_iter().find(|network| network.identity().name == WAY_OUT) {
            return Ok(network);
        }
        let option = |name: &str, value: &str| (format!("com.docker.network.bridge.{name}"), value.to_owned());
        let request = CreateNetwork {
            name: WAY_OUT.to_owned(),
            options: [option("name", WAY_OUT), option("enable_icc", "false"), option("enable_ip_masquerade", "true")]
                .into(),
            ..CreateNetwork::default()
        };
        let made = plan::check(request, self.stack.config()).map_err(EngineError::module);
        let made = made
            .and_then(|request| service::make(self, request))
            .map_err(|error| NetworkError::WayOut(error.into()))?;
        let absent = || NetworkError::WayOut(UnknownNetwork(made.name.clone()).into());
        self.find(made.id.as_str()).ok_or_else(absent)
    }

    /// Gives an endpoint its names, if its network has any.
    fn name_endpoint(&self, endpoint: &mut EndpointState, names: impl FnOnce() -> Vec<String>) {
        if self.user(&endpoint.network_id).is_some() {
            endpoint.dns_names = names();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, String>> {
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the resolver of a running container. Blocking.
fn open_resolver(naming: &Naming, container: &ContainerId, pid: i32, file: &Generated) -> Result<(), EngineError> {
    let netns = ns::open(&sandbox::namespace_of(pid)).map_err(unopened)?;
    naming.open(container, netns, file).map_err(networking)
}

/// The beginning of a sandbox's id that it is shown by.
pub(super) fn short(sandbox: &str) -> &str {
    &sandbox[..SHORT.min(sandbox.len())]
}

/// The file of a sandbox below `netns/`.
fn namespace_file(dir: &Path, sandbox: &str) -> PathBuf {
    dir.join(short(sandbox))
}

/// A link to a process's namespace instead of a mount: mounts of the host are copied at every start of a container.
fn link_namespace(file: &Path, pid: u32) {
    let _ = std::fs::remove_file(file);
    if let Err(error) = std::os::unix::fs::symlink(format!("/proc/{pid}/ns/net"), file) {
        tracing::warn!(file = %file.display(), %error, "the network namespace cannot be shown");
    }
}

impl Networks for StackNetworks {
    fn firewall_backend(&self) -> FirewallBackend {
        self.stack.firewall_backend()
    }

    fn drivers(&self) -> Vec<String> {
        let mut all: Vec<String> = ["bridge", "host", "ipvlan", "macvlan", "null"].map(str::to_owned).to_vec();
        all.extend(self.lock_users().iter().map(|network| network.driver.clone()));
        all.sort();
        all.dedup();
        all
    }

    fn create_sandbox(&self, order: SandboxOrder) -> Result<ReadySandbox, EngineError> {
        let SandboxOrder { container, name, hostname, mut endpoints, ports, exposed, resolver } = order;
        if endpoints.is_empty() {
            endpoints.push(("none".to_owned(), EndpointConfig::default()));
        }
        let mut attachments = Vec::with_capacity(endpoints.len());
        let mut asked = Vec::new();
        // Without a bridge its containers have no network at all.
        let mut without_bridge = false;
        for (wanted, config) in endpoints {
            let missing = wanted == "bridge" && self.find("bridge").is_none();
            without_bridge |= missing;
            let network = self.must_find(if missing { "none" } else { &wanted })?;
            asked.push(config.clone());
            attachments.push(Attachment { network, config });
        }
        let id = dockerd_types::ids::hex(&random::<32>());
        let key = namespace_file(&self.netns_dir, &id);
        let request =
            SandboxRequest { container: container.clone(), name: name.clone(), attachments, ports, exposed, key };
        let joined = self.stack.join(request, &|| self.way_out()).map_err(networking)?;
        let mut endpoints = joined.endpoints;
        for (endpoint, asked) in endpoints.iter_mut().zip(&asked) {
            self.name_endpoint(endpoint, || names::dns_names(&container, &name, &hostname, &asked.aliases));
        }
        if let (Some(netns), Some(file)) = (&joined.netns, &resolver) {
            // After an error, whoever starts it takes the sandbox down again.
            let netns = netns.try_clone().map_err(unopened)?;
            self.naming.open(&container, netns, file).map_err(networking)?;
        }
        self.naming.enter(&container, &endpoints.iter().cloned().zip(asked).collect::<Vec<_>>());
        if without_bridge {
            endpoints.retain(|endpoint| endpoint.network_name != "none");
        }
        if joined.netns.is_some() {
            self.lock().insert(container, id.clone());
        }
        Ok(ReadySandbox { id, netns: joined.netns, endpoints, way_out: joined.way_out, ports: joined.ports })
    }

    fn facts(&self, name: &str) -> Option<NetworkFacts> {
        let driver = self.find(name)?;
        let NetworkIdentity { id, name } = driver.identity().clone();
        let user = self.user(&id);
        let configured = user.as_ref().map(UserNetwork::configured).unwrap_or_default();
        Some(NetworkFacts { id, name, predefined: user.is_none(), configured })
    }

    fn connect(&self, order: ConnectOrder) -> Result<Attachments, EngineError> {
        let ConnectOrder { container, name, hostname, pid, network, endpoint, resolver } = order;
        let network = self.find(&network).ok_or_else(|| EngineError::module(UnknownNetwork(network)))?;
        let (id, aliases) = (network.identity().id.clone(), endpoint.aliases.clone());
        let wanted = Attachment { network, config: endpoint };
        let key = self.lock().get(&container).map(|id| namespace_file(&self.netns_dir, id)).unwrap_or_default();
        let changed = self.stack.connect(&container, &name, pid, wanted, &key, &|| self.way_out());
        let changed = changed.map_err(EngineError::module)?;
        let mut endpoints = changed.endpoints;
        // Those it was on before are known by the names they had.
        for endpoint in endpoints.iter_mut().filter(|endpoint| endpoint.network_id == id) {
            self.name_endpoint(endpoint, || names::dns_names(&container, &name, &hostname, &aliases));
        }
        if let Some(file) = resolver.filter(|_| !self.naming.is_open(&container))
            && let Err(error) = open_resolver(&self.naming, &container, pid, &file)
        {
            if let Err(error) = self.stack.disconnect(&container, pid, &id, &|| self.way_out()) {
                tracing::warn!(%container, network = %id, %error, "a failed connect could not be taken back");
            }
            return Err(error);
        }
        Ok(Attachments { endpoints, way_out: changed.way_out, ports: changed.ports })
    }

    fn disconnect(&self, container: &ContainerId, pid: i32, network: &NetworkId) -> Result<Attachments, EngineError> {
        let changed = self.stack.disconnect(container, pid, network, &|| self.way_out());
        let Changed { endpoints, way_out, ports } = changed.map_err(EngineError::module)?;
        Ok(Attachments { endpoints, way_out, ports })
    }

    fn enter_names(&self, container: &ContainerId, endpoints: &[(EndpointState, EndpointConfig)]) {
        self.naming.enter(container, endpoints);
    }

    fn strike_names(&self, container: &ContainerId) {
        self.naming.leave(container);
    }

    fn started(&self, id: &ContainerId, pid: i32) {
        self.stack.refill();
        let Some(sandbox) = self.lock().get(id).cloned() else { return };
        let file = namespace_file(&self.netns_dir, &sandbox);
        let (sandboxes, id) = (Arc::clone(&self.sandboxes), id.clone());
        tokio::task::spawn_blocking(move || {
            link_namespace(&file, pid.unsigned_abs());
            // A short run may be over already, and its link removed before it was made.
            let known = sandboxes.lock().unwrap_or_else(PoisonError::into_inner).get(&id) == Some(&sandbox);
            if !known {
                let _ = std::fs::remove_file(&file);
            }
        });
    }

    fn remove_sandbox(&self, id: &ContainerId) -> BoxFuture<'_, Result<(), EngineError>> {
        let sandbox = self.lock().remove(id);
        self.naming.leave(id);
        let (id, stack) = (id.clone(), self.stack.clone());
        let file = sandbox.map(|sandbox| namespace_file(&self.netns_dir, &sandbox));
        Box::pin(async move {
            stack.leave(&id).await.map_err(networking)?;
            // For starts that failed after they had taken one.
            stack.refill();
            if let Some(file) = file {
                // One unlink on tmpfs; it may never have been made.
                tokio::task::spawn_blocking(move || _ = std::fs::remove_file(file));
            }
            Ok(())
        })
    }

    fn restore(&self, kept: Vec<KeptSandbox>) -> BoxFuture<'_, Result<(), EngineError>> {
        let (stack, naming) = (self.stack.clone(), self.naming.clone());
        let mut resolvers = Vec::new();
        let dir = self.netns_dir.clone();
        let mut containers = Vec::new();
        let mut files = Vec::new();
        for KeptSandbox { container, name, pid, id, endpoints, way_out, ports, wanted, exposed, resolver } in kept {
            resolvers.extend(resolver.map(|file| (container.clone(), pid, file)));
            if !id.is_empty() {
                files.push((namespace_file(&dir, &id), pid));
                self.lock().insert(container.clone(), id);
            }
            containers.push(KeptContainer { container, name, pid, endpoints, way_out, ports, wanted, exposed });
        }
        Box::pin(async move {
            let restored = tokio::task::spawn_blocking(move || {
                stack.restore(&containers)?;
                stack.guard()?;
                for (container, pid, file) in resolvers {
                    if let Err(error) = open_resolver(&naming, &container, pid, &file) {
                        tracing::warn!(%container, %error, "its resolver could not be opened again");
                    }
                }
                remove_stale_files(&dir, &files);
                Ok(())
            });
            restored.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())).map_err(networking)
        })
    }

    fn network_id(&self, name: &str) -> Option<NetworkId> {
        self.find(name).map(|driver| driver.identity().id.clone())
    }

    fn drain(&self) {
        self.stack.drain();
    }

    fn default_gateway(&self) -> Option<Ipv4Addr> {
        self.stack.gateway()
    }
}

/// Leaves only the files of these, anew: another process may have the number meanwhile.
fn remove_stale_files(dir: &Path, files: &[(PathBuf, i32)]) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name() != "default" {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    for (file, pid) in files {
        link_namespace(file, pid.unsigned_abs());
    }
}
