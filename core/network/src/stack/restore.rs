//! What the last daemon's running containers have is taken over.

use dockerd_sys::netlink::{Batch, Family, Socket};
use dockerd_types::network::EndpointState;

use super::held::{HeldSandbox, Joint};
use super::{KeptContainer, NetworkStack, lock};
use crate::bridge::sweep;
use crate::error::NetworkError;
use crate::link::{self, Link};
use crate::sandbox::{self, LinkKind};

impl NetworkStack {
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
        let links = |kept: &KeptContainer| kept.stood_on().map(|(state, _)| state.interface.clone()).collect();
        let reopened = sandbox::reopen(kept.iter().map(|kept| (kept.pid, links(kept))).collect());
        let mut hosts = Vec::new();
        for (kept, reopened) in kept.into_iter().zip(reopened) {
            let reopened = reopened.inspect_err(|error| {
                tracing::warn!(container = %kept.container, %error, "its network namespace cannot be entered");
            });
            let (socket, ports) = reopened.map_or((None, Vec::new()), |found| (Some(found.socket), found.ports));
            let mut held = HeldSandbox::new(kept.name.clone(), kept.wanted.clone(), kept.exposed.clone());
            held.socket = socket;
            for (at, (state, priority)) in kept.stood_on().enumerate() {
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
                let joint = Joint { network, state, link_local, priority, port, provided };
                if at < kept.endpoints.len() {
                    held.joints.push(joint);
                } else {
                    held.way_out = Some(joint);
                }
            }
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
