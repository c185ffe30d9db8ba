//! What every kind of network can do. One driver object is one network; the engine keeps them by name.

use std::fmt::Debug;
use std::net::Ipv4Addr;

use dockerd_types::network::{EndpointConfig, EndpointState, PortBindings, PublishedPort};
use dockerd_types::{ContainerId, EndpointId};

use crate::error::NetworkError;
use crate::ipam::Subnet;
use crate::pool::ShelfId;
use crate::sandbox::SandboxHandle;

/// A network's own facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkIdentity {
    /// Its id.
    pub id: dockerd_types::NetworkId,
    /// Its name.
    pub name: String,
}

/// An attachment asked for.
#[derive(Debug)]
pub struct EndpointRequest<'a> {
    /// For whom.
    pub container: &'a ContainerId,
    /// The container's name, for error texts.
    pub name: &'a str,
    /// What the client asked for.
    pub config: &'a EndpointConfig,
    /// Ports to publish.
    pub ports: &'a PortBindings,
}

/// An attachment made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// As inspect shows it.
    pub state: EndpointState,
    /// What was published.
    pub ports: Vec<PublishedPort>,
}

/// An attachment that outlived a daemon.
#[derive(Debug)]
pub struct KeptEndpoint<'a> {
    /// Whose.
    pub container: &'a ContainerId,
    /// As it was stored.
    pub state: &'a EndpointState,
    /// What was published.
    pub ports: &'a [PublishedPort],
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
    pub options: Vec<(&'static str, String)>,
}

/// One network. Methods are blocking unless they say otherwise.
pub trait NetworkDriver: Send + Sync + Debug {
    /// The kind, as the API names it.
    fn kind(&self) -> &'static str;
    /// Where sandboxes prepared for this network lie; `None`: its containers live in the host's. Never blocks.
    fn shelf(&self) -> Option<ShelfId>;
    /// Joins a container whose sandbox came from this network's shelf. A failure leaves nothing behind.
    fn attach(&self, handle: Option<SandboxHandle>, request: &EndpointRequest<'_>) -> Result<Attached, NetworkError>;
    /// Ends a container's attachment; idempotent.
    fn detach(&self, container: &ContainerId);
    /// Takes over attachments of running containers and removes what is left of others'.
    fn adopt(&self, kept: Vec<(KeptEndpoint<'_>, Option<SandboxHandle>)>) -> Result<(), NetworkError>;
    /// For inspect. Never blocks.
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
