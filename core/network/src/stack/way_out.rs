//! The way out of a container whose networks have none: plugins make links and may leave the outside to the daemon (libnetwork's
//! gateway service). Such a container stands on one bridge network more, which it is not seen on by clients, and its published
//! ports lead there.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use dockerd_sys::netlink::{Batch, Family, Socket};
use dockerd_types::ContainerId;
use dockerd_types::network::EndpointConfig;

use super::held::{HeldSandbox, Joint, configure};
use super::{Attachment, NetworkStack};
use crate::driver::NetworkDriver;
use crate::error::NetworkError;
use crate::{link, sandbox};

/// Finds the network that is such a way out, or makes it. May block.
pub type WayOut<'a> = &'a dyn Fn() -> Result<Arc<dyn NetworkDriver>, NetworkError>;

impl NetworkStack {
    /// Gives a sandbox its way out if it needs one now, and takes it away if it does not any more. Its ports are left alone.
    /// Whoever undoes a failure finds in `held` what there is to undo.
    pub(super) fn set_way_out(
        &self,
        container: &ContainerId,
        held: &mut HeldSandbox,
        netns: &OwnedFd,
        way_out: WayOut<'_>,
    ) -> Result<(), NetworkError> {
        match (held.needs_way_out(), held.way_out.take()) {
            (true, None) => self.open_way_out(container, held, netns, way_out()?),
            (false, Some(joint)) => {
                self.part(container, held.socket.as_ref(), &joint);
                Ok(())
            }
            (_, as_it_is) => {
                held.way_out = as_it_is;
                Ok(())
            }
        }
    }

    fn open_way_out(
        &self,
        container: &ContainerId,
        held: &mut HeldSandbox,
        netns: &OwnedFd,
        network: Arc<dyn NetworkDriver>,
    ) -> Result<(), NetworkError> {
        let config = EndpointConfig::default();
        let mut state = held.allot(container, &Attachment { network: network.clone(), config })?;
        state.interface = held.interface(&*network, None);
        let (link_local, port, provided) = (Vec::new(), None, None);
        let joint = held.way_out.insert(Joint { network, state, link_local, priority: 0, port, provided });
        let (Some(plan), Some(inside)) = (joint.network.link(), &held.socket) else { return Ok(()) };
        let host = Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket"))?;
        let name = &joint.state.interface;
        joint.port = Some(self.on_bridges(|| sandbox::add_link(&host, netns, inside, name, plan))?);
        let mut batch = Batch::new();
        configure(&mut batch, joint);
        if let Some(route) = joint.route(false) {
            link::replace_default_route(&mut batch, route);
        }
        inside.transact(&batch).map_err(NetworkError::kernel("give the container its way out"))
    }
}
