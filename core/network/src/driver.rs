//! What every kind of network can do. One driver object is one network; the engine keeps them by name.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use dockerd_types::network::{EndpointConfig, EndpointState};
use dockerd_types::{ContainerId, EndpointId};

use crate::bridge::mend::Upkeep;
use crate::error::NetworkError;
use crate::firewall::{BridgeRules, GatewayMode};
use crate::ipam::{Leases, SubnetPlan};
use crate::link::MacAddress;
use crate::pool::ShelfId;
use crate::sandbox::LinkPlan;

/// A network's own facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkIdentity {
    /// Its id.
    pub id: dockerd_types::NetworkId,
    /// Its name.
    pub name: String,
}

/// What inspect shows of a network's addresses and options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkDetails {
    /// Its subnets; as gateway the bridge's own address, and another router among the reserved ones.
    pub subnets: Vec<SubnetPlan>,
    /// Driver options, by name.
    pub options: BTreeMap<String, String>,
}

/// How a network publishes ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishPolicy {
    /// The host's address for ports that name none; unspecified: all, of both families.
    pub address: IpAddr,
    /// How IPv4 reaches its containers.
    pub ipv4: GatewayMode,
    /// How IPv6 does.
    pub ipv6: GatewayMode,
    /// The host's own IPv6 address on it, if it has one.
    pub host6: Option<Ipv6Addr>,
}

/// One network. It hands out addresses and says what links look like; sandboxes are put together in [`crate::stack`].
/// No method blocks but where it says so. What a network does not say is that of one without links.
pub trait NetworkDriver: Send + Sync + Debug {
    /// Who it is.
    fn identity(&self) -> &NetworkIdentity;
    /// The kind, as the API names it.
    fn kind(&self) -> &'static str;
    /// Where sandboxes prepared for this network lie; `None`: its containers live in the host's.
    fn shelf(&self) -> Option<ShelfId> {
        None
    }
    /// What a container's link to it looks like; `None`: there is none.
    fn link(&self) -> Option<&LinkPlan> {
        None
    }
    /// Who has which of its addresses; `None`: it gives none.
    fn leases(&self) -> Option<&Leases> {
        None
    }
    /// Allots what a container has on it: addresses, hardware address, an endpoint's id. May block where others give the
    /// addresses.
    fn allot(&self, container: &ContainerId, config: &EndpointConfig) -> Result<EndpointState, NetworkError>;
    /// Takes over what a container that outlived a daemon has.
    fn keep(&self, container: &ContainerId, state: &EndpointState) {
        self.leases().into_iter().for_each(|leases| leases.keep(container, state.addresses()));
    }
    /// Gives back what was allotted to a container; idempotent.
    fn release(&self, container: &ContainerId) {
        self.leases().into_iter().for_each(|leases| leases.release(container));
    }
    /// No container will be allotted anything any more. Fails if one still has something after `patience`: what ended a
    /// moment ago may be on its way out. Blocking for so long.
    fn close(&self, patience: Duration) -> Result<(), NetworkError> {
        self.leases().map_or(Ok(()), |leases| leases.close(patience))
    }
    /// Takes [`NetworkDriver::close`] back.
    fn reopen(&self) {
        self.leases().into_iter().for_each(Leases::reopen);
    }
    /// How it publishes ports; `None`: not at all.
    fn publishing(&self) -> Option<PublishPolicy> {
        None
    }
    /// What the packet filter is to do for it.
    fn rules(&self) -> Option<BridgeRules> {
        None
    }
    /// What its bridge is to be like, if it has one that is ours to keep up.
    fn upkeep(&self) -> Option<Upkeep> {
        None
    }
    /// For inspect.
    fn details(&self) -> NetworkDetails {
        NetworkDetails::default()
    }
}

/// A new endpoint's id.
pub(crate) fn endpoint_id() -> EndpointId {
    loop {
        if let Some(id) = EndpointId::from_random(crate::random()) {
            return id;
        }
    }
}

/// The hardware address asked for, else one of our own.
fn hardware_address(config: &EndpointConfig) -> MacAddress {
    let wished = config.mac_address.as_deref().and_then(MacAddress::parse);
    wished.unwrap_or_else(|| MacAddress::local(crate::random()))
}

/// The state of an endpoint without addresses.
pub(crate) fn bare_endpoint(identity: &NetworkIdentity) -> EndpointState {
    EndpointState {
        network_id: identity.id.clone(),
        network_name: identity.name.clone(),
        endpoint_id: endpoint_id(),
        ipv4: None,
        gateway4: None,
        ipv6: None,
        gateway6: None,
        mac_address: String::new(),
        interface: String::new(),
        dns_names: Vec::new(),
    }
}

/// The state of an endpoint with an address of each family the network has; those wished for, else the lowest free ones.
/// Nothing is taken on failure.
pub(crate) fn leased_endpoint(
    identity: &NetworkIdentity,
    leases: &Leases,
    container: &ContainerId,
    config: &EndpointConfig,
) -> Result<EndpointState, NetworkError> {
    let (ipv4, ipv6) = leases.allot(container, config.ipv4, config.ipv6)?;
    Ok(EndpointState {
        ipv4: ipv4.map(|lease| (lease.address, lease.prefix)),
        gateway4: ipv4.and_then(|lease| lease.gateway),
        ipv6: ipv6.map(|lease| (lease.address, lease.prefix)),
        gateway6: ipv6.and_then(|lease| lease.gateway),
        mac_address: hardware_address(config).to_string(),
        ..bare_endpoint(identity)
    })
}
