//! Containers' sandboxes: joined at a start, changed while they run, taken down, and taken over after a daemon's restart.
//!
//! The first network's link was made ahead with the namespace; further ones are made when they are needed. Addresses and
//! the default route are one batch on the sandbox's own netlink socket. The default route, and with it the published ports,
//! belong to the network of the highest gateway priority that leads anywhere; by name where several have the same.

use std::cmp::Reverse;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use dockerd_sys::netlink::{Batch, Family, Socket};
use dockerd_sys::ns;
use dockerd_types::network::{EndpointState, PortBindings, PublishedPort};
use dockerd_types::{ContainerId, NetworkId};

use super::{Attachment, Joined, KeptContainer, NetworkStack, SandboxRequest, lock};
use crate::bridge::sweep;
use crate::driver::NetworkDriver;
use crate::error::NetworkError;
use crate::firewall::PortForward;
use crate::link::{self, MacAddress};
use crate::portmap::Publications;
use crate::sandbox::{self, VethPort};

/// One network of a sandbox.
#[derive(Debug)]
struct Joint {
    network: Arc<dyn NetworkDriver>,
    state: EndpointState,
    priority: i64,
    port: Option<VethPort>,
}

impl Joint {
    /// Where its default route would lead.
    fn gateway(&self) -> Option<(u32, Ipv4Addr)> {
        Some((self.port?.inner, self.state.gateway4?))
    }

    fn address(&self) -> Option<Ipv4Addr> {
        self.state.ipv4.map(|(address, _)| address)
    }
}

/// A container's sandbox.
#[derive(Debug)]
pub(super) struct HeldSandbox {
    name: String,
    /// Inside; `None` where the namespace could not be entered again.
    socket: Option<Socket>,
    joints: Vec<Joint>,
    wanted: PortBindings,
    publications: Publications,
}

impl HeldSandbox {
    pub(super) fn forwards(&self) -> Vec<PortForward> {
        self.publications.forwards()
    }

    /// The network that has the default route.
    fn router(&self) -> Option<&Joint> {
        let routers = self.joints.iter().filter(|joint| joint.gateway().is_some());
        routers.min_by_key(|joint| (Reverse(joint.priority), joint.network.identity().name.clone()))
    }

    fn free_interface(&self) -> String {
        let taken = |name: &String| self.joints.iter().any(|joint| joint.state.interface == *name);
        (0..).map(interface).find(|name| !taken(name)).unwrap_or_default()
    }

    fn states(&self) -> Vec<EndpointState> {
        self.joints.iter().map(|joint| joint.state.clone()).collect()
    }
}

fn interface(number: usize) -> String {
    format!("eth{number}")
}

/// Addresses of a link that is up.
fn configure(batch: &mut Batch, joint: &Joint) {
    let Some(port) = joint.port else { return };
    if let Some((address, prefix)) = joint.state.ipv4 {
        link::add_address(batch, port.inner, address, prefix);
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
        let SandboxRequest { container, name, attachments, ports } = request;
        let mut held = HeldSandbox {
            name,
            socket: None,
            joints: Vec::new(),
            wanted: ports,
            publications: Publications::default(),
        };
        match self.build(&container, &mut held, &attachments) {
            Ok(netns) => {
                let joined = Joined { netns, endpoints: held.states(), ports: held.publications.list() };
                // The host's namespace is nothing to take down.
                if held.joints.iter().any(|joint| joint.port.is_some()) {
                    lock(&self.sandboxes).insert(container, held);
                }
                Ok(joined)
            }
            Err(error) => {
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
    ) -> Result<Option<OwnedFd>, NetworkError> {
        for Attachment { network, config } in attachments {
            let mut state = network.allot(container, config)?;
            if network.link().is_some() {
                state.interface = held.free_interface();
            }
            held.joints.push(Joint { network: network.clone(), state, priority: config.gw_priority, port: None });
        }
        let Some(shelf) = attachments.first().and_then(|first| first.network.shelf()) else { return Ok(None) };
        let taken = self.pool.take(shelf)?;
        let (netns, handle) = (taken.netns, taken.handle);
        if let Some(first) = held.joints.first_mut() {
            first.port = handle.port;
        }
        for joint in held.joints.iter_mut().filter(|joint| joint.port.is_none()) {
            let Some(plan) = joint.network.link() else { continue };
            let host = Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket"))?;
            joint.port = Some(sandbox::add_link(&host, &netns, &handle.socket, &joint.state.interface, plan)?);
        }
        let mut batch = Batch::new();
        held.joints.iter().for_each(|joint| configure(&mut batch, joint));
        if let Some((index, gateway)) = held.router().and_then(Joint::gateway) {
            link::add_default_route(&mut batch, index, gateway);
        }
        if !batch.is_empty() {
            let failed = NetworkError::kernel("give the container its address");
            handle.socket.transact(&batch).map_err(failed)?;
        }
        held.socket = Some(handle.socket);
        held.publications = self.publish(held)?;
        Ok(Some(netns))
    }

    /// Publishes what the container wants at its router, if it has one.
    fn publish(&self, held: &HeldSandbox) -> Result<Publications, NetworkError> {
        let Some(router) = held.router().filter(|_| !held.wanted.is_empty()) else {
            return Ok(Publications::default());
        };
        let (Some(address), Some(default)) = (router.address(), router.network.publish_address()) else {
            return Ok(Publications::default());
        };
        self.publisher.publish(address, default, &held.wanted).map_err(|source| NetworkError::External {
            name: held.name.clone(),
            endpoint: router.state.endpoint_id.clone(),
            source: Box::new(source),
        })
    }

    /// Joins one more network while the container runs; `pid` is a process in it. A failure changes nothing. Blocking.
    pub fn connect(&self, container: &ContainerId, pid: i32, wanted: Attachment) -> Result<Changed, NetworkError> {
        let mut held = lock(&self.sandboxes).remove(container).unwrap_or_else(|| HeldSandbox {
            name: String::new(),
            socket: None,
            joints: Vec::new(),
            wanted: PortBindings::new(),
            publications: Publications::default(),
        });
        let outcome = self.add(container, &mut held, pid, wanted);
        let changed = Changed { endpoints: held.states(), ports: held.publications.list() };
        lock(&self.sandboxes).insert(container.clone(), held);
        outcome.map(|()| changed)
    }

    fn add(
        &self,
        container: &ContainerId,
        held: &mut HeldSandbox,
        pid: i32,
        wanted: Attachment,
    ) -> Result<(), NetworkError> {
        let Attachment { network, config } = wanted;
        let Some(plan) = network.link() else { return Ok(()) };
        let netns = ns::open(&sandbox::namespace_of(pid)).map_err(NetworkError::io("open network namespace"))?;
        if held.socket.is_none() {
            held.socket = Some(sandbox::socket_in(&netns)?);
        }
        let host = Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket"))?;
        let mut state = network.allot(container, &config)?;
        state.interface = held.free_interface();
        let before = held.router().map(|joint| joint.network.identity().id.clone());
        let made = match &held.socket {
            Some(socket) => sandbox::add_link(&host, &netns, socket, &state.interface, plan),
            None => Err(NetworkError::io("enter the container's network namespace")(
                std::io::ErrorKind::NotConnected.into(),
            )),
        };
        let port = match made {
            Ok(port) => port,
            Err(error) => {
                network.release(container);
                return Err(error);
            }
        };
        held.joints.push(Joint { network, state, priority: config.gw_priority, port: Some(port) });
        let outcome = self.settle(held, before.as_ref(), true);
        if outcome.is_err()
            && let Some(joint) = held.joints.pop()
        {
            let mut batch = Batch::new();
            link::delete(&mut batch, port.host);
            if let Err(error) = host.transact(&batch) {
                tracing::warn!(%container, %error, "the link of a failed connect could not be removed");
            }
            joint.network.release(container);
            if let Err(error) = self.settle(held, None, false) {
                tracing::warn!(%container, %error, "the routes of before a failed connect could not be set again");
            }
        }
        outcome
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
        let before = held.router().map(|joint| joint.network.identity().id.clone());
        let joint = held.joints.remove(at);
        if let Some(port) = joint.port {
            let host = Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket"))?;
            let mut batch = Batch::new();
            link::delete(&mut batch, port.host);
            // A container with the right to may have removed it itself.
            if let Err(error) = host.transact(&batch) {
                tracing::debug!(%container, %error, "the link of a disconnect was gone");
            }
        }
        joint.network.release(container);
        self.settle(held, before.as_ref(), false)
    }

    /// After a change of the networks: addresses of the newest one, if `is_new`; the default route; published ports.
    /// `before` had the default route; its link may be gone, and the route with it.
    fn settle(&self, held: &mut HeldSandbox, before: Option<&NetworkId>, is_new: bool) -> Result<(), NetworkError> {
        let router = held.router().map(|joint| (joint.network.identity().id.clone(), joint.gateway(), joint.address()));
        let mut batch = Batch::new();
        if let Some(newest) = held.joints.last().filter(|_| is_new) {
            configure(&mut batch, newest);
        }
        let moved = router.as_ref().map(|(id, ..)| id) != before;
        if moved {
            // Where there is no other router now, the route went with its link.
            if let Some((index, gateway)) = router.as_ref().and_then(|(_, gateway, _)| *gateway) {
                link::replace_default_route(&mut batch, index, gateway);
            }
        }
        if let Some(socket) = held.socket.as_ref().filter(|_| !batch.is_empty()) {
            socket.transact(&batch).map_err(NetworkError::kernel("set the container's addresses and routes"))?;
        }
        if !moved || held.wanted.is_empty() {
            return Ok(());
        }
        match router.and_then(|(.., address)| address) {
            None => self.publisher.withdraw(std::mem::take(&mut held.publications)),
            Some(_) if held.publications.is_empty() => held.publications = self.publish(held)?,
            Some(address) => self.publisher.redirect(&mut held.publications, address)?,
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
        let HeldSandbox { name: _, socket, joints, wanted: _, publications } = held;
        if !publications.is_empty() {
            self.publisher.withdraw(publications);
        }
        if let Some(socket) = &socket {
            let mut batch = Batch::new();
            for joint in &joints {
                if let (Some(port), Some((address, prefix))) = (joint.port, joint.state.ipv4) {
                    link::delete_address(&mut batch, port.inner, address, prefix);
                }
            }
            // The container may have changed its own links; then the sweeper has the last word.
            if !batch.is_empty()
                && let Err(error) = socket.transact(&batch)
            {
                tracing::debug!(%container, %error, "an address could not be taken from its container");
            }
        }
        joints.iter().for_each(|joint| joint.network.release(container));
        // The namespace goes with this, unless another container still uses it.
        drop(socket);
        joints.iter().filter_map(|joint| joint.port).for_each(|port| self.sweeper.watch(port.host));
    }

    /// Takes over what the last daemon's running containers have, removes what is left of others, and sets the packet
    /// filter's rules in one transaction. Blocking; once, before anything is joined.
    pub fn restore(&self, kept: &[KeptContainer]) -> Result<(), NetworkError> {
        let networks = self.networks();
        let known = |state: &EndpointState| networks.iter().find(|n| n.identity().id == state.network_id).cloned();
        let linked = |kept: &&KeptContainer| kept.endpoints.iter().any(|(state, _)| !state.interface.is_empty());
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
                let port = ports.get(at).copied().flatten();
                hosts.extend(port.map(|port| port.host));
                joints.push(Joint { network, state: state.clone(), priority: *priority, port });
            }
            let mut held = HeldSandbox {
                name: kept.name.clone(),
                socket,
                joints,
                wanted: kept.wanted.clone(),
                publications: Publications::default(),
            };
            let address = held.router().or_else(|| held.joints.first()).and_then(Joint::address);
            if let Some(address) = address {
                held.publications = self.publisher.restore(address, &kept.ports);
            }
            lock(&self.sandboxes).insert(kept.container.clone(), held);
        }
        let leftovers = std::mem::take(&mut *lock(&self.leftovers));
        sweep::remove(leftovers.into_iter().filter(|index| !hosts.contains(index)))?;
        self.install()
    }
}
