//! What every kind of network can do. One driver object is one network; the engine keeps them by name.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::time::Duration;

use dockerd_types::network::{EndpointConfig, EndpointState};
use dockerd_types::{ContainerId, EndpointId};

use crate::error::NetworkError;
use crate::firewall::BridgeRules;
use crate::ipam::Subnet;
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
    /// Its subnet.
    pub subnet: Option<Subnet>,
    /// The part of it endpoints get addresses from.
    pub range: Option<Subnet>,
    /// The gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Driver options, by name.
    pub options: BTreeMap<String, String>,
}

/// One network. It hands out addresses and says what links look like; sandboxes are put together in [`crate::stack`].
/// No method blocks but where it says so.
pub trait NetworkDriver: Send + Sync + Debug {
    /// Who it is.
    fn identity(&self) -> &NetworkIdentity;
    /// The kind, as the API names it.
    fn kind(&self) -> &'static str;
    /// Where sandboxes prepared for this network lie; `None`: its containers live in the host's.
    fn shelf(&self) -> Option<ShelfId>;
    /// What a container's link to it looks like; `None`: there is none.
    fn link(&self) -> Option<LinkPlan>;
    /// Allots what a container has on it: addresses, hardware address, an endpoint's id.
    fn allot(&self, container: &ContainerId, config: &EndpointConfig) -> Result<EndpointState, NetworkError>;
    /// Takes over what a container that outlived a daemon has.
    fn keep(&self, container: &ContainerId, state: &EndpointState);
    /// Gives back what was allotted to a container; idempotent.
    fn release(&self, container: &ContainerId);
    /// No container will be allotted anything any more. Fails if one still has something after `patience`: what ended a
    /// moment ago may be on its way out. Blocking for so long.
    fn close(&self, patience: Duration) -> Result<(), NetworkError>;
    /// Takes [`NetworkDriver::close`] back.
    fn reopen(&self);
    /// Where ports are published that name no address; `None`: it publishes none.
    fn publish_address(&self) -> Option<Ipv4Addr>;
    /// What the packet filter is to do for it.
    fn rules(&self) -> Option<BridgeRules>;
    /// For inspect.
    fn details(&self) -> NetworkDetails;
}

/// A new endpoint's id.
pub(crate) fn endpoint_id() -> EndpointId {
    loop {
        if let Some(id) = EndpointId::from_random(crate::random()) {
            return id;
        }
    }
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
