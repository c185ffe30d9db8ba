//! Who gives a network's containers their addresses: the daemon itself, a plugin, or nobody.

use std::time::Duration;

use dockerd_types::ContainerId;
use dockerd_types::network::EndpointState;

use super::{Leases, SubnetPlan};
use crate::driver::{EndpointRequest, NetworkIdentity, bare_endpoint};
use crate::error::NetworkError;
use crate::link::MacAddress;
use crate::remote::leases::{LeasedPool, RemoteLeases};

/// The addresses of one network.
#[derive(Debug)]
pub enum Addresses {
    /// The daemon gives them.
    Own(Leases),
    /// A plugin does.
    Remote(RemoteLeases),
    /// Nobody does: links have none, or bring their own.
    Nobody,
}

/// Who is to give them, before there is a network.
#[derive(Debug, Clone, Default)]
pub enum AddressSource {
    /// The daemon.
    #[default]
    Own,
    /// A plugin, from pools by these names.
    Remote(RemoteSource),
    /// Nobody.
    Nobody,
}

/// A plugin that is to give them.
#[derive(Debug, Clone)]
pub struct RemoteSource {
    /// Its name.
    pub driver: String,
    /// The plugin's names of the pools, by their subnets.
    pub pools: Vec<(super::Subnet, String)>,
}

impl RemoteSource {
    /// The pools it gives addresses of.
    pub(crate) fn leased(&self, subnets: Vec<SubnetPlan>) -> Vec<LeasedPool> {
        let id = |plan: &SubnetPlan| self.pools.iter().find(|(subnet, _)| *subnet == plan.subnet).map(|(_, id)| id);
        subnets.into_iter().filter_map(|plan| Some(LeasedPool { id: id(&plan)?.clone(), plan })).collect()
    }
}

impl Addresses {
    /// The state of an endpoint with an address of each family the network has; those asked for, else any. Nothing is taken
    /// on failure. May block where others give them.
    pub(crate) fn endpoint(
        &self,
        identity: &NetworkIdentity,
        request: &EndpointRequest<'_>,
        mac: Option<MacAddress>,
    ) -> Result<EndpointState, NetworkError> {
        let mut state = bare_endpoint(identity);
        state.mac_address = mac.map(|mac| mac.to_string()).unwrap_or_default();
        match self {
            Self::Own(leases) => {
                let (ipv4, ipv6) = leases.allot(request.container, request.config.ipv4, request.config.ipv6)?;
                state.ipv4 = ipv4.map(|lease| (lease.address, lease.prefix));
                state.gateway4 = ipv4.and_then(|lease| lease.gateway);
                state.ipv6 = ipv6.map(|lease| (lease.address, lease.prefix));
                state.gateway6 = ipv6.and_then(|lease| lease.gateway);
            }
            Self::Remote(leases) => leases.allot(request, &mut state)?,
            Self::Nobody => {}
        }
        Ok(state)
    }

    /// Takes over what a container that outlived a daemon has.
    pub(crate) fn keep(&self, container: &ContainerId, state: &EndpointState) {
        match self {
            Self::Own(leases) => leases.keep(container, state.addresses()),
            Self::Remote(leases) => leases.ledger().keep(container, &state.endpoint_id),
            Self::Nobody => {}
        }
    }

    /// Gives back what a container has; idempotent. May block where others give them.
    pub(crate) fn release(&self, container: &ContainerId) {
        match self {
            Self::Own(leases) => leases.release(container),
            Self::Remote(leases) => leases.release(container),
            Self::Nobody => {}
        }
    }

    /// Nobody gets an address any more. Fails if one still has some after `patience`. Blocking for so long.
    pub(crate) fn close(&self, patience: Duration) -> Result<(), NetworkError> {
        match self {
            Self::Own(leases) => leases.close(patience),
            Self::Remote(leases) => leases.ledger().close(patience),
            Self::Nobody => Ok(()),
        }
    }

    /// Takes [`Addresses::close`] back.
    pub(crate) fn reopen(&self) {
        match self {
            Self::Own(leases) => leases.reopen(),
            Self::Remote(leases) => leases.ledger().reopen(),
            Self::Nobody => {}
        }
    }
}
