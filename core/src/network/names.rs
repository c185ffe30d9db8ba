//! Names of containers on user-defined networks: each of these networks has a table of names, each container on one a
//! resolver in its namespace that sees the tables of its networks (`dockerd_network::dns`).
//!
//! A container's resolver is there before its first process and stays until the container's end, also when the container
//! has left its last user-defined network: its `/etc/resolv.conf` still leads there. Names come and go with endpoints.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dockerd_network::NetworkError;
use dockerd_network::dns::resolv_conf::{ExternalServer, Generated};
use dockerd_network::dns::{JoinedNetwork, NetworkNames, Registration, ResolverHandle, Resolvers, SandboxNames};
use dockerd_network::dns::{Settings, Upstream};
use dockerd_types::network::{EndpointConfig, EndpointState};
use dockerd_types::{ContainerId, NetworkId};
use tokio::runtime::Handle;

/// One container's resolver.
#[derive(Debug)]
struct Sandbox {
    view: Arc<SandboxNames>,
    upstreams: Vec<Upstream>,
    ndots_set: bool,
    /// Dropped with the container: it keeps the namespace.
    handle: ResolverHandle,
}

/// Where an endpoint's names are entered.
#[derive(Debug)]
struct Entry {
    network: Arc<NetworkNames>,
    endpoint: String,
}

/// What is entered for a container.
#[derive(Debug, Default)]
struct Present {
    entries: Vec<Entry>,
    sandbox: Option<Sandbox>,
}

/// All names.
#[derive(Debug)]
pub(super) struct Naming {
    resolvers: Resolvers,
    networks: Mutex<HashMap<NetworkId, Arc<NetworkNames>>>,
    containers: Mutex<HashMap<ContainerId, Present>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Naming {
    /// With no names. The calling thread and those of `runtime` are in the host's network namespace.
    pub(super) fn start(runtime: Handle) -> Result<Self, NetworkError> {
        let resolvers = Resolvers::start(runtime)?;
        Ok(Self { resolvers, networks: Mutex::default(), containers: Mutex::default() })
    }

    /// A network was removed.
    pub(super) fn forget_network(&self, id: &NetworkId) {
        lock(&self.networks).remove(id);
    }

    fn network(&self, state: &EndpointState) -> Arc<NetworkNames> {
        let mut networks = lock(&self.networks);
        let made = || Arc::new(NetworkNames::new(state.network_name.as_str()));
        networks.entry(state.network_id.clone()).or_insert_with(made).clone()
    }

    /// Opens the resolver of a container's sandbox, which knows nothing yet and asks the servers of `file` for the rest.
    /// The sandbox is not in use yet, or was used without. Blocking.
    pub(super) fn open(&self, container: &ContainerId, netns: OwnedFd, file: &Generated) -> Result<(), NetworkError> {
        let Generated { servers, ndots_set, text: _ } = file;
        let (view, upstreams, ndots_set) = (Arc::<SandboxNames>::default(), upstreams(servers), *ndots_set);
        let settings = Settings { view: view.clone(), upstreams: upstreams.clone(), external: false, ndots_set };
        let handle = self.resolvers.open(netns, settings)?;
        let sandbox = Sandbox { view, upstreams, ndots_set, handle };
        let before = lock(&self.containers).entry(container.clone()).or_default().sandbox.replace(sandbox);
        drop(before);
        Ok(())
    }

    /// Whether the container has a resolver.
    pub(super) fn is_open(&self, container: &ContainerId) -> bool {
        lock(&self.containers).get(container).is_some_and(|present| present.sandbox.is_some())
    }

    /// Enters the names of all a container's endpoints, instead of what was entered for it before, and shows the container
    /// the names in its networks. Endpoints without names are on networks that have none. With each endpoint comes what
    /// the client asked of its network. Never blocks.
    pub(super) fn enter(&self, container: &ContainerId, endpoints: &[(EndpointState, EndpointConfig)]) {
        let external = endpoints.iter().any(|(state, _)| has_way_out(state));
        let mut named: Vec<_> = endpoints.iter().filter(|(state, _)| !state.dns_names.is_empty()).collect();
        // The order in which several networks are searched: the stock daemon's.
        named.sort_by_key(|(state, asked)| {
            (Reverse(asked.gw_priority), !has_way_out(state), state.network_name.as_str())
        });
        let (mut joined, mut entries) = (Vec::new(), Vec::new());
        for (state, asked) in named {
            let network = self.network(state);
            network.register(state.endpoint_id.as_str(), registration(state));
            let links = asked.links.iter().map(|link| aliased(link)).collect();
            joined.push(JoinedNetwork { names: network.clone(), links });
            entries.push(Entry { network, endpoint: state.endpoint_id.to_string() });
        }
        let mut containers = lock(&self.containers);
        if entries.is_empty() && !containers.contains_key(container) {
            return;
        }
        let present = containers.entry(container.clone()).or_default();
        let before = std::mem::replace(&mut present.entries, entries);
        for old in before {
            if present.entries.iter().all(|entry| entry.endpoint != old.endpoint) {
                old.network.remove(&old.endpoint);
            }
        }
        if let Some(Sandbox { view, upstreams, ndots_set, handle }) = &present.sandbox {
            view.set(joined);
            let (view, upstreams) = (view.clone(), upstreams.clone());
            handle.set(Settings { view, upstreams, external, ndots_set: *ndots_set });
        }
    }

    /// The container's end: its names go, and its resolver. Idempotent; does not block.
    pub(super) fn leave(&self, container: &ContainerId) {
        let Some(Present { entries, sandbox }) = lock(&self.containers).remove(container) else { return };
        entries.iter().for_each(|entry| entry.network.remove(&entry.endpoint));
        drop(sandbox);
    }
}

/// What a container is called on a user-defined network: its name first.
pub(crate) fn dns_names(container: &ContainerId, name: &str, hostname: &str, aliases: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let names = std::iter::once(name).chain(aliases.iter().map(String::as_str));
    for name in names.chain([container.short(), hostname]) {
        if !name.is_empty() && !out.iter().any(|known| known == name) {
            out.push(name.to_owned());
        }
    }
    out
}

fn has_way_out(state: &EndpointState) -> bool {
    state.gateway4.is_some() || state.gateway6.is_some()
}

fn registration(state: &EndpointState) -> Registration {
    Registration { names: state.dns_names.clone(), addresses: state.addresses().collect() }
}

/// A link's alias and the name it stands for.
fn aliased(link: &str) -> (String, String) {
    let (name, alias) = link.split_once(':').unwrap_or((link, link));
    (alias.to_ascii_lowercase(), name.to_ascii_lowercase())
}

fn upstreams(servers: &[ExternalServer]) -> Vec<Upstream> {
    // Of the host's interfaces. The container's have names of their own, which its file cannot mean.
    let number =
        |name: &str| std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok();
    servers.iter().filter_map(|server| server.upstream(number)).collect()
}
