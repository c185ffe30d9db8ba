//! Links that plugins make: moved into a sandbox and given back, with the routes that come with them.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use dockerd_sys::netlink::{Batch, Family, NetlinkError, Socket};
use dockerd_types::{ContainerId, NetworkId};

use super::held::{HeldSandbox, Joint};
use super::{NetworkOrder, NetworkStack, lock};
use crate::error::{NetworkError, errno_text};
use crate::ipam::Addresses;
use crate::link::{self, DefaultRoute};
use crate::remote::RemoteError;
use crate::sandbox;

impl NetworkStack {
    /// Has the plugin of one of a sandbox's networks make the link, and moves it in. Whoever undoes it finds in the joint
    /// what there is to undo.
    pub(super) fn plug(
        &self,
        container: &ContainerId,
        held: &mut HeldSandbox,
        at: usize,
        netns: &OwnedFd,
        inside: &Socket,
        key: &Path,
    ) -> Result<(), NetworkError> {
        let network = held.joints[at].network.clone();
        let Some(remote) = network.remote() else { return Ok(()) };
        open_to_plugin(key, netns);
        let provided = remote.join(container, held.ports(), key)?;
        let name = match held.joints[at].state.interface.strip_prefix(provided.prefix.as_str()) {
            Some(number) if number.bytes().all(|byte| byte.is_ascii_digit()) => held.joints[at].state.interface.clone(),
            _ => sandbox::free_name(&provided.prefix, |name| held.has_interface(name)),
        };
        let joint = &mut held.joints[at];
        joint.state.interface = if provided.source.is_some() { name } else { String::new() };
        let has = |ipv6: bool| joint.state.addresses().any(|address| address.is_ipv6() == ipv6);
        let [gateway4, gateway6] = provided.gateways;
        let gateway6 = gateway6.filter(|_| has(true));
        let source = provided.source.clone();
        joint.provided = Some(provided);
        if let Some(source) = source {
            let host = Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket"))?;
            let (name, ipv6) = (joint.state.interface.as_str(), has(true));
            joint.port = Some(sandbox::adopt_link(&host, netns, inside, &source, name, ipv6)?);
        }
        for (gateway, ipv6) in [(gateway4, false), (gateway6, true)] {
            match gateway {
                Some(std::net::IpAddr::V4(gateway)) if !ipv6 => joint.state.gateway4 = Some(gateway),
                Some(std::net::IpAddr::V6(gateway)) if ipv6 => joint.state.gateway6 = Some(gateway),
                Some(gateway) => {
                    let why = "network is unreachable".to_owned();
                    return Err(RemoteError::Unreachable { gateway: gateway.to_string(), why }.into());
                }
                None => {}
            }
        }
        // Nothing but a link leads to a gateway.
        if let (None, Some(gateway)) = (joint.port, joint.state.gateways().next()) {
            let why = "network is unreachable".to_owned();
            return Err(RemoteError::Unreachable { gateway: gateway.to_string(), why }.into());
        }
        remote.joined(container);
        Ok(())
    }

    /// Tells plugins which of a sandbox's networks the outside reaches it by.
    pub(super) fn shift_external(&self, container: &ContainerId, held: &HeldSandbox) -> Result<(), NetworkError> {
        if held.joints.iter().all(|joint| joint.network.remote().is_none()) {
            return Ok(());
        }
        let routers = [false, true].map(|ipv6| held.router(ipv6).map(|joint| joint.id().clone()));
        let is_router = |joint: &Joint| routers.iter().flatten().any(|router| router == joint.id());
        // Those that are not any more come first.
        for external in [false, true] {
            for joint in held.joints.iter().filter(|joint| is_router(joint) == external) {
                let Some(remote) = joint.network.remote().filter(|remote| !remote.is_internal()) else { continue };
                let no_proxy = routers[1].as_ref().is_some_and(|router| router != joint.id());
                remote.set_external(container, held.ports(), external, no_proxy).map_err(|source| {
                    NetworkError::External {
                        name: held.name().to_owned(),
                        endpoint: joint.state.endpoint_id.clone(),
                        source: Box::new(source),
                    }
                })?;
            }
        }
        Ok(())
    }

    /// Has plugins take back what an earlier daemon left. Blocking, for as long as plugins take.
    pub fn sweep_plugins(&self) {
        let networks = lock(&self.networks).clone();
        networks.iter().for_each(|network| network.sweep());
    }

    /// The same of a network that is not one of ours any more. Blocking.
    pub fn sweep_removed(&self, order: NetworkOrder) {
        let (identity, source) = match order {
            NetworkOrder::Remote(order) => return self.remote(order).sweep(),
            NetworkOrder::Bridge(order) => (order.identity, order.addresses),
            NetworkOrder::Macvlan(order) => (order.identity, order.addresses),
            NetworkOrder::ConfigurationOnly(_) => return,
        };
        if let Addresses::Remote(leases) = self.addresses(&identity, source, Vec::new()) {
            leases.sweep();
        }
    }

    /// A network is gone, and plugins know it.
    pub fn forget_ledger(&self, network: &NetworkId) {
        let dir = self.ledgers.join(network.as_str());
        if let Err(error) = std::fs::remove_dir_all(&dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %dir.display(), %error, "a network's endpoints stay on disk");
        }
    }
}

/// Lets a plugin open the namespace while no process is in it.
fn open_to_plugin(key: &Path, netns: &OwnedFd) {
    if std::fs::symlink_metadata(key).is_ok() {
        return;
    }
    let target = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
    if let Err(error) = std::os::unix::fs::symlink(target, key) {
        tracing::warn!(file = %key.display(), %error, "a plugin cannot open a container's network namespace");
    }
}

/// Leaves a plugin's network: the plugin is told first, and then has its link back.
pub(super) fn unplug(container: &ContainerId, socket: Option<&Socket>, joint: &Joint) {
    let Some(remote) = joint.network.remote() else { return };
    remote.leave(container);
    let source = joint.provided.as_ref().and_then(|provided| provided.source.as_deref());
    if let (Some(port), Some(source), Some(socket)) = (joint.port, source, socket) {
        sandbox::return_link(socket, port.inner, source);
    }
}

/// Routes that a plugin's network has besides the default ones; of which families others are a way out, IPv4 first.
pub(super) fn set_routes(inside: &Socket, joint: &Joint, ways_out: [bool; 2]) -> Result<(), NetworkError> {
    let (Some(provided), Some(port)) = (&joint.provided, joint.port) else { return Ok(()) };
    for route in provided.routes.iter().filter(|route| !route.is_default()) {
        let mut batch = Batch::new();
        link::add_route(&mut batch, route.destination, route.hop, port.inner);
        inside.transact(&batch).map_err(|error| RemoteError::Route {
            destination: route.destination.to_string(),
            hop: route.hop.filter(|hop| !ways_out[usize::from(hop.is_ipv6())]).map(|hop| hop.to_string()),
            why: reason(&error),
        })?;
    }
    Ok(())
}

/// The default route of one family, in the place of what was one.
pub(super) fn set_default_route(inside: &Socket, route: DefaultRoute) -> Result<(), NetworkError> {
    let mut batch = Batch::new();
    link::replace_default_route(&mut batch, route);
    let gateway = route.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
    let outcome = inside.transact(&batch);
    outcome.map_err(|error| RemoteError::Unreachable { gateway, why: reason(&error) }.into())
}

/// The kernel's word for what is on no link differs between families.
fn reason(error: &NetlinkError) -> String {
    if error.is(libc::EHOSTUNREACH) { "network is unreachable".to_owned() } else { errno_text(error.io()) }
}
