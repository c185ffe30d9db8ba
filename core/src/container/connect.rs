//! `docker network connect` and `disconnect` of one container, by its own task: what it asks of its networks is a part of
//! its description; while it runs, its sandbox is changed first.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dockerd_network::dns::resolv_conf::Generated;
use dockerd_network::ipam::Subnet;
use dockerd_network::stack::endpoint_option_problems;
use dockerd_store::{Durability, document};
use dockerd_types::container::{NetworkMode, Status};
use dockerd_types::network::{AddressKind, EndpointConfig, EndpointState};
use dockerd_types::{ContainerId, ErrorKind, Kinded};

use super::actor::{Actor, Command};
use super::spec::{ContainerDocument, ContainerSpec, NameService, Snapshot};
use super::{Container, files, validate};
use crate::error::EngineError;
use crate::network::names::dns_names;
use crate::ports::{Attachments, ConnectOrder, NetworkFacts};

/// Why a container is not connected or disconnected.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("network {0} not found")]
    NoNetwork(String),
    #[error("container {0} is marked for removal and cannot be connected or disconnected to the network")]
    Removing(ContainerId),
    #[error(
        "container sharing network namespace with another container or host cannot be connected to any other network"
    )]
    SharedNamespace,
    #[error("cannot connect container to host network - container must be created in host network mode")]
    ToHost,
    #[error("cannot disconnect container from host network - container was created in host network mode")]
    FromHost,
    #[error("container cannot be connected to multiple networks with one of the networks in private (none) mode")]
    Private,
    #[error("endpoint with name {name} already exists in network {network}")]
    Exists { name: String, network: String },
    #[error("container {container} is not connected to {the}network {network}")]
    NotConnected { container: ContainerId, the: &'static str, network: String },
    #[error("invalid endpoint settings:\n{0}")]
    Settings(String),
    #[error("invalid MAC address {0}")]
    Mac(String),
}

impl Kinded for ConnectError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoNetwork(_) => ErrorKind::NotFound,
            Self::Settings(_)
            | Self::Mac(_)
            | Self::SharedNamespace
            | Self::ToHost
            | Self::FromHost
            | Self::Private => ErrorKind::InvalidArgument,
            Self::Removing(_) => ErrorKind::Conflict,
            Self::Exists { .. } => ErrorKind::PermissionDenied,
            Self::NotConnected { the: "", .. } => ErrorKind::PermissionDenied,
            Self::NotConnected { .. } => ErrorKind::System,
        }
    }
}

fn refused(error: ConnectError) -> EngineError {
    EngineError::module(error)
}

impl Container {
    /// Puts it on a network.
    pub(crate) async fn connect(&self, network: &str, config: EndpointConfig) -> Result<(), EngineError> {
        let network = network.to_owned();
        self.ask(|reply| Command::Connect { network, config: Box::new(config), reply }).await
    }

    /// Takes it off one.
    pub(crate) async fn disconnect(&self, network: &str, force: bool) -> Result<(), EngineError> {
        let network = network.to_owned();
        self.ask(|reply| Command::Disconnect { network, force, reply }).await
    }
}

impl Actor {
    /// The network is there, or the container does not run and may hope for it.
    pub(super) async fn connect(&mut self, network: String, config: EndpointConfig) -> Result<(), EngineError> {
        let snapshot = self.snapshot();
        let spec = &snapshot.spec;
        if matches!(snapshot.state.status, Status::Removing | Status::Dead) {
            return Err(refused(ConnectError::Removing(spec.id.clone())));
        }
        if let Some(mac) = config.mac_address.as_deref().filter(|mac| !validate::is_mac(mac)) {
            return Err(refused(ConnectError::Mac(mac.to_owned())));
        }
        let facts = self.core.network.facts(&network);
        let running = snapshot.state.is_running();
        if facts.is_none() && running {
            return Err(refused(ConnectError::NoNetwork(network)));
        }
        let name = facts.as_ref().map_or_else(|| network.clone(), |facts| facts.name.clone());
        allowed(spec, &name).map_err(refused)?;
        let asked = facts.as_ref().map_or(Asked::Unknown, NetworkFacts::asked);
        check_endpoint(&asked, &config).map_err(|problems| refused(ConnectError::Settings(problems)))?;
        if running && snapshot.state.endpoints.iter().any(|endpoint| endpoint.network_name == name) {
            let exists = ConnectError::Exists { name: snapshot.name.to_string(), network: name };
            return Err(refused(exists));
        }
        let mut changed = None;
        let mut resolver = None;
        if running {
            let has_none = snapshot.state.name_service != NameService::Resolver;
            if has_none && facts.as_ref().is_some_and(|facts| !facts.predefined) {
                let core = self.core.clone();
                let spec = spec.clone();
                let made = crate::image::blocking(move || files::resolver_file(&spec.host, &core.resolver));
                resolver = Some(made.await?);
            }
            let order = ConnectOrder {
                container: spec.id.clone(),
                name: snapshot.name.to_string(),
                hostname: spec.config.hostname.clone(),
                pid: snapshot.state.pid,
                network: name.clone(),
                endpoint: config.clone(),
                resolver: resolver.clone(),
            };
            let network = self.core.network.clone();
            changed = Some(crate::image::blocking(move || network.connect(order)).await??);
        }
        let mut endpoints = spec.endpoints.clone();
        // What was asked of a network once stays until the container is taken off it.
        let config = endpoints.entry(name.clone()).or_insert(config);
        if !running && facts.as_ref().is_some_and(|facts| !facts.predefined) {
            let names = dns_names(&spec.id, &snapshot.name, &spec.config.hostname, &config.aliases);
            self.update(|s| _ = s.state.dns_names.insert(name.clone(), names));
        }
        self.attached(endpoints, changed).await?;
        if let Some(file) = resolver {
            self.lead_to_resolver(file).await?;
        }
        let now = self.snapshot();
        if let Some(endpoint) = now.state.endpoints.iter().find(|endpoint| endpoint.network_name == name) {
            self.container.network_event(&*self.core.events, "connect", endpoint);
        }
        Ok(())
    }

    /// `_force` is for containers of lost nodes; the stock daemon treats all others alike.
    pub(super) async fn disconnect(&mut self, network: String, _force: bool) -> Result<(), EngineError> {
        let snapshot = self.snapshot();
        let spec = &snapshot.spec;
        if matches!(snapshot.state.status, Status::Removing | Status::Dead) {
            return Err(refused(ConnectError::Removing(spec.id.clone())));
        }
        let facts = self.core.network.facts(&network);
        let name = facts.as_ref().map_or_else(|| network.clone(), |facts| facts.name.clone());
        if spec.host.network_mode == NetworkMode::Host && name == "host" {
            return Err(refused(ConnectError::FromHost));
        }
        let endpoint = snapshot.state.endpoints.iter().find(|endpoint| endpoint.network_name == name).cloned();
        let running = snapshot.state.is_running();
        let absent = |the| {
            let container = spec.id.clone();
            refused(ConnectError::NotConnected { container, the, network: name.clone() })
        };
        let mut changed = None;
        // A plugin's network may have no link, and wants to know all the same.
        let can_be_left = |endpoint: &EndpointState| {
            !endpoint.interface.is_empty() || facts.as_ref().is_some_and(|facts| !facts.predefined)
        };
        match (&endpoint, running) {
            (Some(endpoint), true) if can_be_left(endpoint) => {
                let (network, container, id) =
                    (self.core.network.clone(), spec.id.clone(), endpoint.network_id.clone());
                let pid = snapshot.state.pid;
                changed = Some(crate::image::blocking(move || network.disconnect(&container, pid, &id)).await??);
            }
            (Some(endpoint), true) => {
                // A network without a link, `none`: there is nothing to undo.
                let rest = snapshot.state.endpoints.iter().filter(|e| e.network_id != endpoint.network_id);
                let (endpoints, way_out) = (rest.cloned().collect(), snapshot.state.way_out.clone());
                changed = Some(Attachments { endpoints, way_out, ports: snapshot.state.ports.clone() });
            }
            (None, true) => return Err(absent("")),
            (_, false) if !spec.endpoints.contains_key(&name) => return Err(absent("the ")),
            (_, false) => {}
        }
        let mut endpoints = spec.endpoints.clone();
        endpoints.remove(&name);
        self.update(|s| _ = s.state.dns_names.remove(&name));
        self.attached(endpoints, changed).await?;
        if let Some(endpoint) = &endpoint {
            self.container.network_event(&*self.core.events, "disconnect", endpoint);
        }
        Ok(())
    }

    /// Writes down and publishes what the container asks of its networks now, and what it has.
    async fn attached(
        &mut self,
        wanted: BTreeMap<String, EndpointConfig>,
        changed: Option<Attachments>,
    ) -> Result<(), EngineError> {
        let snapshot = self.snapshot();
        let spec = std::sync::Arc::new(ContainerSpec { endpoints: wanted, ..(*snapshot.spec).clone() });
        let before = &snapshot.state.endpoints;
        // What was there before has names the network does not know of.
        let keep =
            |new: EndpointState| before.iter().find(|old| old.endpoint_id == new.endpoint_id).cloned().unwrap_or(new);
        let changed =
            changed.map(|now| Attachments { endpoints: now.endpoints.into_iter().map(keep).collect(), ..now });
        let lines = changed.as_ref().map(|now| HostLines::between(before, &now.endpoints));
        let document = ContainerDocument { name: snapshot.name.to_string(), spec: spec.clone() };
        let (path, hosts) = (
            self.core.layout.container_document(&spec.id),
            files::paths(&self.core.layout.container_dir(&spec.id)).hosts,
        );
        let names = files::own_names(&spec.config.hostname, &spec.config.domainname);
        self.update(|s| {
            s.spec = spec;
            if let Some(Attachments { endpoints, way_out, ports }) = changed {
                s.state.network_ids =
                    endpoints.iter().map(|e| (e.network_name.clone(), e.network_id.clone())).collect();
                s.state.endpoints = endpoints;
                s.state.way_out = way_out;
                s.state.ports = ports;
            }
        });
        if lines.is_some() {
            self.enter_names();
        }
        let stored = self.persist();
        let written = crate::image::blocking(move || {
            document::write(&path, &document, Durability::Process)?;
            if let Some(HostLines { gone, new }) = lines {
                files::change_hosts(&hosts, &gone, &new, &names)
                    .map_err(|e| EngineError::io("change the hosts file", e))?;
            }
            Ok::<_, EngineError>(())
        });
        written.await??;
        // A panic of the writer was printed; the state is written again with the next change.
        let _ = stored.await;
        Ok(())
    }

    /// Its resolver is open now; its file is to lead there, unless somebody edited it.
    async fn lead_to_resolver(&mut self, file: Generated) -> Result<(), EngineError> {
        let path = files::paths(&self.core.layout.container_dir(self.container.id())).resolv_conf;
        let mut before = NameService::Resolver;
        self.update(|s| std::mem::swap(&mut s.state.name_service, &mut before));
        let stored = self.persist();
        let written = crate::image::blocking(move || files::replace(&path, &before, &file.text)).await?;
        written.map_err(|e| EngineError::io("change the file of name servers", e))?;
        let _ = stored.await;
        Ok(())
    }

    /// Makes known what its endpoints are called now.
    pub(super) fn enter_names(&self) {
        let snapshot = self.snapshot();
        self.core.network.enter_names(self.container.id(), &named_endpoints(&snapshot));
    }
}

/// A running container's endpoints, each with what was asked of its network.
pub(crate) fn named_endpoints(snapshot: &Snapshot) -> Vec<(EndpointState, EndpointConfig)> {
    let asked = |name: &str| snapshot.spec.endpoints.get(name).cloned().unwrap_or_default();
    snapshot.state.endpoints.iter().map(|endpoint| (endpoint.clone(), asked(&endpoint.network_name))).collect()
}

/// Addresses that came and went.
struct HostLines {
    gone: Vec<IpAddr>,
    new: Vec<IpAddr>,
}

impl HostLines {
    fn between(before: &[EndpointState], now: &[EndpointState]) -> Self {
        let addresses =
            |list: &[EndpointState]| -> Vec<IpAddr> { list.iter().flat_map(EndpointState::addresses).collect() };
        let (before, now) = (addresses(before), addresses(now));
        Self {
            gone: before.iter().filter(|address| !now.contains(address)).copied().collect(),
            new: now.iter().filter(|address| !before.contains(address)).copied().collect(),
        }
    }
}

/// Whether a container of this kind may be put on another network.
fn allowed(spec: &ContainerSpec, network: &str) -> Result<(), ConnectError> {
    match &spec.host.network_mode {
        NetworkMode::Host | NetworkMode::Container(_) => return Err(ConnectError::SharedNamespace),
        _ if network == "host" => return Err(ConnectError::ToHost),
        _ => {}
    }
    let private = |name: &str| name == "none";
    if spec.endpoints.keys().any(|name| private(name)) || (private(network) && !spec.endpoints.is_empty()) {
        return Err(ConnectError::Private);
    }
    Ok(())
}

impl NetworkFacts {
    pub(super) fn asked(&self) -> Asked<'_> {
        if self.predefined { Asked::Predefined } else { Asked::User(&self.configured) }
    }
}

/// What a network is to those who ask something of it.
pub(super) enum Asked<'a> {
    /// Not there, or not yet.
    Unknown,
    /// One that every daemon has.
    Predefined,
    /// One of users', with the subnets they named.
    User(&'a [Subnet]),
}

/// Problems of what is asked of a network, as the stock daemon lists them.
pub(super) fn check_endpoint(network: &Asked<'_>, config: &EndpointConfig) -> Result<(), String> {
    let mut problems = Vec::new();
    let wrong = |kind: AddressKind| config.unreadable.iter().filter(move |address| address.kind == kind);
    let wishes = [
        (false, AddressKind::Ipv4, config.ipv4.map(IpAddr::V4)),
        (true, AddressKind::Ipv6, config.ipv6.map(IpAddr::V6)),
    ];
    if let Asked::Predefined = network {
        if wishes.iter().any(|(_, kind, address)| address.is_some() || wrong(*kind).next().is_some()) {
            problems.push("user specified IP address is supported on user defined networks only".to_owned());
        }
        if !config.aliases.is_empty() {
            problems.push("network-scoped alias is supported only for containers in user defined networks".to_owned());
        }
    }
    for (kind, name) in
        [(AddressKind::Ipv4, "IPv4"), (AddressKind::Ipv6, "IPv6"), (AddressKind::LinkLocal, "link-local IP")]
    {
        problems.extend(wrong(kind).map(|address| format!("invalid {name} address: {}", address.text)));
    }
    let subnets = match network {
        Asked::Unknown => None,
        Asked::Predefined => Some(&[][..]),
        Asked::User(subnets) => Some(*subnets),
    };
    for (ipv6, kind, address) in wishes {
        let texts = address.map(|address| address.to_string()).into_iter().chain(wrong(kind).map(|a| a.text.clone()));
        for (text, subnets) in texts.zip(subnets) {
            let mut subnets = subnets.iter().filter(|subnet| subnet.is_ipv6() == ipv6).peekable();
            if subnets.peek().is_none() {
                problems.push(
                    "user specified IP address is supported only when connecting to networks with user configured \
                     subnets"
                        .to_owned(),
                );
            } else if !subnets.any(|subnet| address.is_some_and(|address| subnet.contains(address))) {
                problems.push(format!("no configured subnet or ip-range contain the IP address {text}"));
            }
        }
    }
    problems.extend(endpoint_option_problems(&config.driver_opts));
    match problems.len() {
        0 => Ok(()),
        1 => Err(problems.remove(0)),
        _ => Err(problems.iter().map(|p| format!("* {p}")).collect::<Vec<_>>().join("\n")),
    }
}
