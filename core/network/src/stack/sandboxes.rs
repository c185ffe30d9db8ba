//! Containers' sandboxes: joined at a start, changed while they run, taken down, and taken over after a daemon's restart.
//!
//! The first network's link was made ahead with the namespace; further ones are made when they are needed. Addresses and
//! the default routes are one batch on the sandbox's own netlink socket. The default route of a family, and with it the
//! published ports, belong to the network of the highest gateway priority that leads anywhere; by name where several have
//! the same.

use std::cmp::Reverse;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use dockerd_sys::netlink::{Batch, Family, NetlinkError, Socket};
use dockerd_sys::ns;
use dockerd_types::network::{EndpointConfig, EndpointState, Port, PortBindings, PublishedPort};
use dockerd_types::{ContainerId, NetworkId};

use super::options::EndpointOptions;
use super::plugged;
use super::{Attachment, Joined, KeptContainer, NetworkStack, SandboxRequest, lock};
use crate::bridge::sweep;
use crate::driver::{ContainerPorts, EndpointRequest, NetworkDriver};
use crate::error::{InterfaceFault, NetworkError};
use crate::link::{self, DefaultRoute, Link, MacAddress};
use crate::portmap::{PortTarget, Publications, Route};
use crate::remote::link::ProvidedLink;
use crate::sandbox::{self, INNER_PREFIX, LinkKind, LinkPlan, LinkPort, SandboxHandle};

/// One network of a sandbox.
#[derive(Debug)]
pub(super) struct Joint {
    pub(super) network: Arc<dyn NetworkDriver>,
    pub(super) state: EndpointState,
    link_local: Vec<IpAddr>,
    priority: i64,
    pub(super) port: Option<LinkPort>,
    /// What a plugin made of it.
    pub(super) provided: Option<ProvidedLink>,
}

impl Joint {
    /// Where its default route of a family would lead.
    pub(super) fn route(&self, ipv6: bool) -> Option<DefaultRoute> {
        let link = self.port?.inner;
        let provided = self.provided.as_ref().and_then(|provided| provided.default_route(ipv6));
        let gateway = self.state.gateways().find(|gateway| gateway.is_ipv6() == ipv6);
        let gateway = gateway.or_else(|| provided?.hop);
        let leads_out = provided.is_some() || self.network.link().is_some_and(|plan| plan.leads_out);
        let by_itself = leads_out && self.state.addresses().any(|address| address.is_ipv6() == ipv6);
        (gateway.is_some() || by_itself).then_some(DefaultRoute { ipv6, link, gateway })
    }

    pub(super) fn id(&self) -> &NetworkId {
        &self.network.identity().id
    }
}

/// A container's sandbox.
#[derive(Debug)]
pub(super) struct HeldSandbox {
    name: String,
    /// Inside; `None` where the namespace could not be entered again.
    pub(super) socket: Option<Socket>,
    pub(super) joints: Vec<Joint>,
    wanted: PortBindings,
    exposed: Vec<Port>,
    publications: Publications,
}

impl HeldSandbox {
    /// The network that has the default route of a family.
    pub(super) fn router(&self, ipv6: bool) -> Option<&Joint> {
        let routers = self.joints.iter().filter(|joint| joint.route(ipv6).is_some());
        routers.min_by_key(|joint| (Reverse(joint.priority), joint.network.identity().name.clone()))
    }

    /// The default routes, IPv4 first.
    fn default_routes(&self) -> impl Iterator<Item = DefaultRoute> {
        [false, true].into_iter().filter_map(|ipv6| self.router(ipv6)?.route(ipv6))
    }

    /// Who the routers are, IPv4 first.
    fn routers(&self) -> [Option<NetworkId>; 2] {
        [false, true].map(|ipv6| self.router(ipv6).map(|joint| joint.id().clone()))
    }

    /// Where published ports lead; `None`: nowhere.
    fn target(&self) -> Option<(PortTarget, &EndpointState)> {
        let (four, six) = (self.router(false), self.router(true));
        let ipv4 = four.and_then(|joint| {
            let (address, policy) = (joint.state.ipv4?.0, joint.network.publishing()?);
            Some(Route { address, mode: policy.ipv4, default_address: policy.address, host: None })
        });
        let ipv6 = six.and_then(|joint| {
            let (address, policy) = (joint.state.ipv6?.0, joint.network.publishing()?);
            Some(Route { address, mode: policy.ipv6, default_address: policy.address, host: policy.host6 })
        });
        let router = four.filter(|_| ipv4.is_some()).or_else(|| six.filter(|_| ipv6.is_some()))?;
        Some((PortTarget { ipv4, ipv6 }, &router.state))
    }

    /// The container's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its ports.
    pub(super) fn ports(&self) -> ContainerPorts<'_> {
        ContainerPorts { published: &self.wanted, exposed: &self.exposed }
    }

    /// Allots it an endpoint on a network.
    fn allot(&self, container: &ContainerId, attachment: &Attachment) -> Result<EndpointState, NetworkError> {
        let Attachment { network, config } = attachment;
        let request = EndpointRequest { container, name: &self.name, config, ports: self.ports() };
        network.allot(&request).map_err(|error| error.at_endpoint(&self.name, &network.identity().name))
    }

    /// What the link into a network is called inside.
    fn interface(&self, network: &dyn NetworkDriver, wished: Option<&str>) -> String {
        let taken = |name: &str| self.has_interface(name);
        match network.link() {
            Some(plan) => plan.name(wished, taken),
            // Its plugin may say another beginning when it has made the link.
            None if network.remote().is_some() => sandbox::free_name(INNER_PREFIX, taken),
            None => String::new(),
        }
    }

    pub(super) fn has_interface(&self, name: &str) -> bool {
        self.joints.iter().any(|joint| joint.state.interface == name)
    }

    fn states(&self) -> Vec<EndpointState> {
        self.joints.iter().map(|joint| joint.state.clone()).collect()
    }
}

/// Whether a container's link leads to it.
fn has_link(network: &dyn NetworkDriver) -> bool {
    network.link().is_some() || network.remote().is_some()
}

/// What is asked of a network and cannot be, before anything is done about it.
fn check(config: &EndpointConfig, interface: Option<&str>) -> Result<(), NetworkError> {
    let is_link_local = |address: &&IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if let Some(address) = config.link_local.iter().find(|address| !is_link_local(address)) {
        return Err(NetworkError::NotLinkLocal(*address));
    }
    let Some(interface) = interface else { return Ok(()) };
    sandbox::check_name(interface)?;
    match config.mac_address.as_deref().and_then(MacAddress::parse).filter(|mac| !mac.is_station()) {
        None => Ok(()),
        Some(mac) => {
            let (interface, address) = (interface.to_owned(), mac.to_string());
            Err(NetworkError::interface(&interface.clone(), InterfaceFault::Mac { interface, address }))
        }
    }
}

/// Addresses of a link that is up.
fn configure(batch: &mut Batch, joint: &Joint) {
    let Some(port) = joint.port else { return };
    for (address, prefix) in joint.state.prefixed_addresses() {
        link::add_address(batch, port.inner, address, prefix);
    }
    for address in &joint.link_local {
        link::add_address(batch, port.inner, *address, if address.is_ipv4() { 16 } else { 64 });
    }
    // After the address: this is when the neighbours are told.
    if let Some(mac) = MacAddress::parse(&joint.state.mac_address) {
        link::set_mac(batch, port.inner, mac);
    }
}

/// What a change of a running sandbox made of it.
#[derive(Debug, Clone)]
pub struct Changed {
    /// All its networks now.
    pub endpoints: Vec<EndpointState>,
    /// What is published now.
    pub ports: Vec<PublishedPort>,
}

impl NetworkStack {
    /// Makes a sandbox on all networks of `request`. A failure leaves nothing behind. Blocking.
    pub fn join(&self, request: SandboxRequest) -> Result<Joined, NetworkError> {
        let SandboxRequest { container, name, attachments, ports, exposed, key } = request;
        let mut held = HeldSandbox {
            name,
            socket: None,
            joints: Vec::new(),
            exposed,
            wanted: ports,
            publications: Publications::default(),
        };
        match self.build(&container, &mut held, &attachments, &key) {
            Ok(netns) => {
                let joined = Joined { netns, endpoints: held.states(), ports: held.publications.list() };
                // The host's namespace is nothing to take down.
                if held.joints.iter().any(|joint| joint.port.is_some() || joint.network.remote().is_some()) {
                    lock(&self.sandboxes).insert(container, held);
                }
                Ok(joined)
            }
            Err(error) => {
                if held.joints.iter().any(|joint| joint.network.remote().is_some()) {
                    // Plugins may have been shown the namespace under this name.
                    let _ = std::fs::remove_file(&key);
                }
                self.take_down(&container, held);
                Err(error)
            }
        }
    }

    fn build(
        &self,
        container: &ContainerId,
        held: &mut HeldSandbox,
        attachments: &[Attachment],
        key: &Path,
    ) -> Result<Option<OwnedFd>, NetworkError> {
        let mut options = Vec::with_capacity(attachments.len());
        for attachment in attachments {
            let Attachment { network, config } = attachment;
            let wishes = EndpointOptions::parse(&config.driver_opts);
            let interface = held.interface(&**network, wishes.interface.as_deref());
            check(config, has_link(&**network).then_some(interface.as_str()))?;
            let mut state = held.allot(container, attachment)?;
            state.interface = interface;
            let link_local = config.link_local.clone();
            let priority = config.gw_priority;
            let network = network.clone();
            held.joints.push(Joint { network, state, link_local, priority, port: None, provided: None });
            options.push(wishes);
        }
        let Some(shelf) = attachments.first().and_then(|first| first.network.shelf()) else { return Ok(None) };
        let taken = self.on_bridges(|| self.pool.take(shelf))?;
        let (netns, handle) = (taken.netns, taken.handle);
        let furnished = self.furnish(container, held, &netns, &handle, &options, key);
        held.socket = Some(handle.socket);
        furnished?;
        held.publications = self.publish(held)?;
        self.shift_external(container, held)?;
        Ok(Some(netns))
    }

    /// Links, addresses and routes of a new sandbox.
    fn furnish(
        &self,
        container: &ContainerId,
        held: &mut HeldSandbox,
        netns: &OwnedFd,
        handle: &SandboxHandle,
        options: &[EndpointOptions],
        key: &Path,
    ) -> Result<(), NetworkError> {
        let mut batch = Batch::new();
        let mut renamed = None;
        if let (Some(first), Some(port)) = (held.joints.first_mut(), handle.port) {
            first.port = Some(port);
            let made_as = first.network.link().map(LinkPlan::made_as).unwrap_or_default();
            if made_as != first.state.interface {
                link::rename(&mut batch, port.inner, &first.state.interface);
                renamed = Some((made_as, first.state.interface.clone()));
            }
        }
        let mut plugged = false;
        for at in 0..held.joints.len() {
            let joint = &mut held.joints[at];
            if joint.port.is_some() {
                continue;
            }
            if joint.network.remote().is_some() {
                plugged = true;
                self.plug(container, held, at, netns, &handle.socket, key)?;
            } else if let Some(plan) = joint.network.link() {
                let host = Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket"))?;
                let name = &joint.state.interface;
                joint.port = Some(self.on_bridges(|| sandbox::add_link(&host, netns, &handle.socket, name, plan))?);
            }
        }
        if let Some((from, to)) = renamed {
            let number = |error: &NetlinkError| error.io().raw_os_error().unwrap_or(libc::EINVAL);
            let fault = |error| sandbox::name_fault(&from, &to, io::Error::from_raw_os_error(number(&error)));
            handle.socket.transact(&batch).map_err(fault)?;
        }
        for (joint, wishes) in held.joints.iter().zip(options) {
            wishes.apply(netns, &joint.state.interface)?;
        }
        let mut batch = Batch::new();
        held.joints.iter().for_each(|joint| configure(&mut batch, joint));
        if !plugged {
            for route in held.default_routes() {
                link::add_default_route(&mut batch, route);
            }
        }
        if !batch.is_empty() {
            let failed = NetworkError::kernel("give the container its address");
            handle.socket.transact(&batch).map_err(failed)?;
        }
        if plugged {
            held.joints.iter().try_for_each(|joint| plugged::set_routes(&handle.socket, joint, [false; 2]))?;
            held.default_routes().try_for_each(|route| plugged::set_default_route(&handle.socket, route))?;
        }
        Ok(())
    }

    /// Publishes what the container wants at its routers, if it has one.
    fn publish(&self, held: &HeldSandbox) -> Result<Publications, NetworkError> {
        let Some((target, endpoint)) = held.target().filter(|_| !held.wanted.is_empty()) else {
            return Ok(Publications::default());
        };
        self.publisher.publish(&target, &held.wanted).map_err(|source| NetworkError::External {
            name: held.name.clone(),
            endpoint: endpoint.endpoint_id.clone(),
            source: Box::new(source),
        })
    }

    /// Joins one more network while the container runs; `pid` is a process in it, `key` where its namespace can be opened. A
    /// failure changes nothing. Blocking.
    pub fn connect(
        &self,
        container: &ContainerId,
        name: &str,
        pid: i32,
        wanted: Attachment,
        key: &Path,
    ) -> Result<Changed, NetworkError> {
        let mut held = lock(&self.sandboxes).remove(container).unwrap_or_else(|| HeldSandbox {
            name: name.to_owned(),
            socket: None,
            joints: Vec::new(),
            wanted: PortBindings::new(),
            exposed: Vec::new(),
            publications: Publications::default(),
        });
        let outcome = self.attach(container, &mut held, pid, wanted, key);
        let changed = Changed { endpoints: held.states(), ports: held.publications.list() };
        lock(&self.sandboxes).insert(container.clone(), held);
        outcome.map(|()| changed)
    }

    fn attach(
        &self,
        container: &ContainerId,
        held: &mut HeldSandbox,
        pid: i32,
        wanted: Attachment,
        key: &Path,
    ) -> Result<(), NetworkError> {
        if !has_link(&*wanted.network) {
            return Ok(());
        }
        let netns = ns::open(&sandbox::namespace_of(pid)).map_err(NetworkError::io("open network namespace"))?;
        if held.socket.is_none() {
            held.socket = Some(sandbox::socket_in(&netns)?);
        }
        let options = EndpointOptions::parse(&wanted.config.driver_opts);
        let interface = held.interface(&*wanted.network, options.interface.as_deref());
        check(&wanted.config, Some(&interface))?;
        let mut state = held.allot(container, &wanted)?;
        state.interface = interface;
        let before = held.routers();
        let Attachment { network, config } = wanted;
        let (link_local, priority) = (config.link_local, config.gw_priority);
        held.joints.push(Joint { network, state, link_local, priority, port: None, provided: None });
        let outcome = self.link_newest(container, held, &netns, key).and_then(|()| match held.joints.last() {
            Some(newest) => options.apply(&netns, &newest.state.interface),
            None => Ok(()),
        });
        let outcome = outcome.and_then(|()| self.settle(container, held, &before, true));
        if outcome.is_err()
            && let Some(joint) = held.joints.pop()
        {
            self.part(container, held.socket.as_ref(), &joint);
            if let Err(error) = self.settle(container, held, &[None, None], false) {
                tracing::warn!(%container, %error, "the routes of before a failed connect could not be set again");
            }
        }
        outcome
    }

    /// Makes the link into the network that was joined last.
    fn link_newest(
        &self,
        container: &ContainerId,
        held: &mut HeldSandbox,
        netns: &OwnedFd,
        key: &Path,
    ) -> Result<(), NetworkError> {
        let Some(socket) = held.socket.take() else {
            let absent = std::io::ErrorKind::NotConnected.into();
            return Err(NetworkError::io("enter the container's network namespace")(absent));
        };
        let at = held.joints.len() - 1;
        let joint = &mut held.joints[at];
        let made = match joint.network.link() {
            Some(plan) => Socket::open(Family::Route)
                .map_err(NetworkError::io("open netlink socket"))
                .and_then(|host| {
                    let name = &joint.state.interface;
                    self.on_bridges(|| sandbox::add_link(&host, netns, &socket, name, plan))
                })
                .map(|port| joint.port = Some(port)),
            None => self.plug(container, held, at, netns, &socket, key),
        };
        held.socket = Some(socket);
        made
    }

    /// Takes a link away, or gives it back to the plugin that made it, and gives back what was allotted with it.
    fn part(&self, container: &ContainerId, socket: Option<&Socket>, joint: &Joint) {
        if joint.network.remote().is_some() {
            plugged::unplug(container, socket, joint);
        } else if let (Some(port), Some(socket)) = (joint.port, socket) {
            let mut batch = Batch::new();
            // From inside it can be taken away whatever kind it is.
            link::delete(&mut batch, port.inner);
            // A container with the right to may have removed it itself.
            if let Err(error) = socket.transact(&batch) {
                tracing::debug!(%container, %error, "a link of the container was gone");
            }
        }
        joint.network.release(container);
    }

    /// Leaves one network while the container runs. Blocking.
    pub fn disconnect(&self, container: &ContainerId, network: &NetworkId) -> Result<Changed, NetworkError> {
        let held = lock(&self.sandboxes).remove(container);
        let absent = || NetworkError::NotConnected { container: container.to_string(), network: network.to_string() };
        let mut held = held.ok_or_else(absent)?;
        let outcome = self.cut(container, &mut held, network);
        let changed = Changed { endpoints: held.states(), ports: held.publications.list() };
        lock(&self.sandboxes).insert(container.clone(), held);
        outcome.map(|()| changed)
    }

    fn cut(&self, container: &ContainerId, held: &mut HeldSandbox, network: &NetworkId) -> Result<(), NetworkError> {
        let at = held.joints.iter().position(|joint| joint.network.identity().id == *network);
        let Some(at) = at else {
            let network = network.to_string();
            return Err(NetworkError::NotConnected { container: container.to_string(), network });
        };
        let before = held.routers();
        let joint = held.joints.remove(at);
        self.part(container, held.socket.as_ref(), &joint);
        self.settle(container, held, &before, false)
    }

    /// After a change of the networks: addresses of the newest one, if `is_new`; the default routes; published ports.
    /// `before` had the default routes; their links may be gone, and the routes with them.
    fn settle(
        &self,
        container: &ContainerId,
        held: &mut HeldSandbox,
        before: &[Option<NetworkId>; 2],
        is_new: bool,
    ) -> Result<(), NetworkError> {
        let mut batch = Batch::new();
        let newest = held.joints.last().filter(|_| is_new);
        newest.into_iter().for_each(|newest| configure(&mut batch, newest));
        let moved = held.routers() != *before;
        let mut outward = Vec::new();
        for (ipv6, before) in [false, true].into_iter().zip(before) {
            // Where there is no other router now, the route went with its link.
            let router = held.router(ipv6).filter(|joint| Some(joint.id()) != before.as_ref());
            outward.extend(router.and_then(|joint| joint.route(ipv6)));
        }
        let plugged = newest.filter(|newest| newest.provided.is_some());
        if plugged.is_none() {
            outward.drain(..).for_each(|route| link::replace_default_route(&mut batch, route));
        }
        if let Some(socket) = &held.socket {
            if !batch.is_empty() {
                let failed = NetworkError::kernel("set the container's addresses and routes");
                socket.transact(&batch).map_err(failed)?;
            }
            if let Some(newest) = plugged {
                plugged::set_routes(socket, newest, before.each_ref().map(Option::is_some))?;
                outward.into_iter().try_for_each(|route| plugged::set_default_route(socket, route))?;
            }
        }
        self.shift_external(container, held)?;
        if !moved || held.wanted.is_empty() {
            return Ok(());
        }
        match held.target().map(|(target, _)| target) {
            None => self.publisher.withdraw(std::mem::take(&mut held.publications)),
            Some(_) if held.publications.is_empty() => held.publications = self.publish(held)?,
            Some(target) => self.publisher.redirect(&mut held.publications, &target, &held.wanted)?,
        }
        Ok(())
    }

    /// Gives back everything of a container's; idempotent.
    pub async fn leave(self: &Arc<Self>, container: &ContainerId) -> Result<(), NetworkError> {
        let Some(held) = lock(&self.sandboxes).remove(container) else { return Ok(()) };
        let (stack, container) = (self.clone(), container.clone());
        let done = tokio::task::spawn_blocking(move || stack.take_down(&container, held)).await;
        done.map_err(|panic| NetworkError::io("network task")(std::io::Error::other(panic)))
    }

    /// Silences a sandbox that may live on for a moment, then gives its addresses back and lets the kernel take it down.
    fn take_down(&self, container: &ContainerId, held: HeldSandbox) {
        let HeldSandbox { name: _, socket, joints, wanted: _, exposed: _, publications } = held;
        if !publications.is_empty() {
            self.publisher.withdraw(publications);
        }
        if let Some(socket) = &socket {
            let mut batch = Batch::new();
            let ours = joints.iter().filter(|joint| joint.network.remote().is_none());
            for (joint, port) in ours.filter_map(|joint| Some((joint, joint.port?))) {
                if port.host.is_none() {
                    // Its parent may bear no second one, or none of the same address.
                    link::delete(&mut batch, port.inner);
                    continue;
                }
                for (address, prefix) in joint.state.prefixed_addresses() {
                    link::delete_address(&mut batch, port.inner, address, prefix);
                }
            }
            // The container may have changed its own links; then the sweeper has the last word.
            if !batch.is_empty()
                && let Err(error) = socket.transact(&batch)
            {
                tracing::debug!(%container, %error, "addresses could not be taken from their container");
            }
        }
        for joint in &joints {
            if joint.network.remote().is_some() {
                plugged::unplug(container, socket.as_ref(), joint);
            }
            joint.network.release(container);
        }
        // The namespace goes with this, unless another container still uses it.
        drop(socket);
        joints.iter().filter_map(|joint| joint.port?.host).for_each(|host| self.sweeper.watch(host));
    }

    /// Takes over what the last daemon's running containers have, removes what is left of others, and sets the packet
    /// filter's rules in one transaction. Blocking; once, before anything is joined.
    pub fn restore(&self, kept: &[KeptContainer]) -> Result<(), NetworkError> {
        let networks = self.networks();
        let known = |state: &EndpointState| networks.iter().find(|n| n.identity().id == state.network_id).cloned();
        let is_remote = |state: &EndpointState| known(state).is_some_and(|network| network.remote().is_some());
        let linked = |kept: &&KeptContainer| {
            kept.endpoints.iter().any(|(state, _)| !state.interface.is_empty() || is_remote(state))
        };
        let kept: Vec<_> = kept.iter().filter(linked).collect();
        let links = |kept: &KeptContainer| kept.endpoints.iter().map(|(state, _)| state.interface.clone()).collect();
        let reopened = sandbox::reopen(kept.iter().map(|kept| (kept.pid, links(kept))).collect());
        let mut hosts = Vec::new();
        for (kept, reopened) in kept.into_iter().zip(reopened) {
            let reopened = reopened.inspect_err(|error| {
                tracing::warn!(container = %kept.container, %error, "its network namespace cannot be entered");
            });
            let (socket, ports) = reopened.map_or((None, Vec::new()), |found| (Some(found.socket), found.ports));
            let mut joints = Vec::new();
            for (at, (state, priority)) in kept.endpoints.iter().enumerate() {
                let Some(network) = known(state) else {
                    tracing::warn!(container = %kept.container, network = state.network_name, "its network is gone");
                    continue;
                };
                network.keep(&kept.container, state);
                let mut port = ports.get(at).copied().flatten();
                let provided = network.remote().and_then(|remote| remote.link_of(&kept.container));
                if let Some(port) = port.as_mut().filter(|_| network.remote().is_some()) {
                    // Its other end is the plugin's.
                    port.host = None;
                }
                let kind = network.link().map(|plan| plan.kind.clone());
                hosts.extend(port.and_then(|port| port.host).zip(kind));
                let (state, link_local) = (state.clone(), Vec::new());
                joints.push(Joint { network, state, link_local, priority: *priority, port, provided });
            }
            let mut held = HeldSandbox {
                name: kept.name.clone(),
                socket,
                joints,
                wanted: kept.wanted.clone(),
                exposed: kept.exposed.clone(),
                publications: Publications::default(),
            };
            if let Some((target, _)) = held.target() {
                held.publications = self.publisher.restore(&target, &kept.ports);
            }
            lock(&self.sandboxes).insert(kept.container.clone(), held);
        }
        self.attach_all(&hosts)?;
        let leftovers = std::mem::take(&mut *lock(&self.leftovers));
        sweep::remove(leftovers.into_iter().filter(|index| !hosts.iter().any(|(host, _)| host == index)))?;
        self.install()
    }

    /// Host's ends whose bridge was lost while no daemon was there are ports of the one that was made in its place.
    fn attach_all(&self, hosts: &[(u32, LinkKind)]) -> Result<(), NetworkError> {
        if hosts.is_empty() {
            return Ok(());
        }
        let socket = Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket"))?;
        let links = link::all(&socket).map_err(NetworkError::kernel("list the host's links"))?;
        let mut batch = Batch::new();
        for (host, kind) in hosts {
            let LinkKind::Port { bridge, isolated, .. } = *kind else { continue };
            let astray = |link: &&Link| link.index == *host && (link.master, link.group) != (Some(bridge), bridge);
            links.iter().filter(astray).for_each(|link| link::attach(&mut batch, link.index, bridge, isolated));
        }
        // One that ended this moment has no port any more.
        if let Err(error) = socket.transact(&batch) {
            tracing::warn!(%error, "links of running containers could not be attached to their bridges again");
        }
        Ok(())
    }
}
