//! Containers' sandboxes: joined at a start, changed while they run, and taken down.
//!
//! The first network's link was made ahead with the namespace; further ones are made when they are needed. Addresses and
//! the default routes are one batch on the sandbox's own netlink socket. The default route of a family, and with it the
//! published ports, belong to the network of the highest gateway priority that leads anywhere; by name where several have
//! the same.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use dockerd_sys::netlink::{Batch, Family, NetlinkError, Socket};
use dockerd_sys::ns;
use dockerd_types::network::{EndpointState, PortBindings, PublishedPort};
use dockerd_types::{ContainerId, NetworkId};

use super::held::{HeldSandbox, Joint, check, configure, has_link};
use super::options::EndpointOptions;
use super::plugged;
use super::{Attachment, Joined, NetworkStack, SandboxRequest, WayOut, lock};
use crate::error::NetworkError;
use crate::link;
use crate::portmap::Publications;
use crate::sandbox::{self, LinkPlan, SandboxHandle};

/// What a change of a running sandbox made of it.
#[derive(Debug, Clone)]
pub struct Changed {
    /// All its networks now.
    pub endpoints: Vec<EndpointState>,
    /// What else it stands on now, to get out.
    pub way_out: Option<EndpointState>,
    /// What is published now.
    pub ports: Vec<PublishedPort>,
}

impl Changed {
    fn to(held: &HeldSandbox) -> Self {
        let way_out = held.way_out.as_ref().map(|joint| joint.state.clone());
        Self { endpoints: held.states(), way_out, ports: held.publications.list() }
    }
}

impl NetworkStack {
    /// Makes a sandbox on all networks of `request`. A failure leaves nothing behind. Blocking.
    pub fn join(&self, request: SandboxRequest, way_out: WayOut<'_>) -> Result<Joined, NetworkError> {
        let SandboxRequest { container, name, attachments, ports, exposed, key } = request;
        let mut held = HeldSandbox::new(name, ports, exposed);
        match self.build(&container, &mut held, &attachments, &key, way_out) {
            Ok(netns) => {
                let Changed { endpoints, way_out, ports } = Changed::to(&held);
                let joined = Joined { netns, endpoints, way_out, ports };
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
        way_out: WayOut<'_>,
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
        self.set_way_out(container, held, &netns, way_out)?;
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
        way_out: WayOut<'_>,
    ) -> Result<Changed, NetworkError> {
        let bare = || HeldSandbox::new(name.to_owned(), PortBindings::new(), Vec::new());
        let mut held = lock(&self.sandboxes).remove(container).unwrap_or_else(bare);
        let outcome = self.attach(container, &mut held, pid, wanted, key, way_out);
        let changed = Changed::to(&held);
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
        way_out: WayOut<'_>,
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
        let before = held.routers();
        // A container has one place on a network.
        if let Some(joint) = held.way_out.take_if(|joint| *joint.id() == wanted.network.identity().id) {
            self.part(container, held.socket.as_ref(), &joint);
        }
        let mut state = match held.allot(container, &wanted) {
            Ok(state) => state,
            Err(error) => {
                self.restore_way_out(container, held, &netns, way_out);
                return Err(error);
            }
        };
        state.interface = interface;
        let Attachment { network, config } = wanted;
        let (link_local, priority) = (config.link_local, config.gw_priority);
        held.joints.push(Joint { network, state, link_local, priority, port: None, provided: None });
        let outcome = self.link_newest(container, held, &netns, key).and_then(|()| match held.joints.last() {
            Some(newest) => options.apply(&netns, &newest.state.interface),
            None => Ok(()),
        });
        let outcome = outcome.and_then(|()| self.set_way_out(container, held, &netns, way_out));
        let outcome = outcome.and_then(|()| self.settle(container, held, &before, true));
        if outcome.is_err()
            && let Some(joint) = held.joints.pop()
        {
            self.part(container, held.socket.as_ref(), &joint);
            self.restore_way_out(container, held, &netns, way_out);
        }
        outcome
    }

    /// After a failed connect.
    fn restore_way_out(&self, container: &ContainerId, held: &mut HeldSandbox, netns: &OwnedFd, way_out: WayOut<'_>) {
        let outward = self.set_way_out(container, held, netns, way_out);
        if let Err(error) = outward.and_then(|()| self.settle(container, held, &[None, None], false)) {
            tracing::warn!(%container, %error, "the routes of before a failed connect could not be set again");
        }
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
    pub(super) fn part(&self, container: &ContainerId, socket: Option<&Socket>, joint: &Joint) {
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

    /// Leaves one network while the container runs; `pid` is a process in it. Blocking.
    pub fn disconnect(
        &self,
        container: &ContainerId,
        pid: i32,
        network: &NetworkId,
        way_out: WayOut<'_>,
    ) -> Result<Changed, NetworkError> {
        let held = lock(&self.sandboxes).remove(container);
        let absent = || NetworkError::NotConnected { container: container.to_string(), network: network.to_string() };
        let mut held = held.ok_or_else(absent)?;
        let outcome = self.cut(container, &mut held, pid, network, way_out);
        let changed = Changed::to(&held);
        lock(&self.sandboxes).insert(container.clone(), held);
        outcome.map(|()| changed)
    }

    fn cut(
        &self,
        container: &ContainerId,
        held: &mut HeldSandbox,
        pid: i32,
        network: &NetworkId,
        way_out: WayOut<'_>,
    ) -> Result<(), NetworkError> {
        let at = held.joints.iter().position(|joint| joint.network.identity().id == *network);
        let Some(at) = at else {
            let network = network.to_string();
            return Err(NetworkError::NotConnected { container: container.to_string(), network });
        };
        let before = held.routers();
        let joint = held.joints.remove(at);
        self.part(container, held.socket.as_ref(), &joint);
        if held.needs_way_out() || held.way_out.is_some() {
            let netns = ns::open(&sandbox::namespace_of(pid)).map_err(NetworkError::io("open network namespace"))?;
            self.set_way_out(container, held, &netns, way_out)?;
        }
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
        let HeldSandbox { name: _, socket, mut joints, way_out, wanted: _, exposed: _, publications } = held;
        joints.extend(way_out);
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
}
