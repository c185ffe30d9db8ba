//! The bridge driver: containers are ports of one bridge of the host, have addresses of its subnet and reach the world
//! through the host.
//!
//! An attachment is: the lowest free address, then one batch on the sandbox's own netlink socket (address, hardware
//! address, default route), then, only if ports are published, one transaction of the packet filter. The link itself
//! was made ahead by the pool.

pub mod setup;
pub(crate) mod sweep;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dockerd_sys::netlink::{Batch, Socket};
use dockerd_types::ContainerId;
use dockerd_types::network::{EndpointConfig, EndpointState};

use crate::config::NetworkConfig;
use crate::driver::{
    Attached, EndpointRequest, KeptEndpoint, NetworkDetails, NetworkDriver, NetworkIdentity, bare_endpoint,
};
use crate::error::NetworkError;
use crate::firewall::BridgeRules;
use crate::ipam::Allocator;
use crate::link::{self, MacAddress};
use crate::pool::ShelfId;
use crate::portmap::{PortPublisher, Publications};
use crate::sandbox::{INNER_NAME, SandboxHandle, VethPort};
use setup::BridgeLink;
use sweep::Sweeper;

/// A container's attachment.
#[derive(Debug)]
struct Endpoint {
    handle: Option<SandboxHandle>,
    address: Ipv4Addr,
    publications: Publications,
}

/// One bridge.
#[derive(Debug)]
pub struct BridgeNetwork {
    identity: NetworkIdentity,
    bridge: BridgeLink,
    config: NetworkConfig,
    gateway: Ipv4Addr,
    shelf: ShelfId,
    publisher: Arc<PortPublisher>,
    addresses: Mutex<Allocator>,
    endpoints: Mutex<HashMap<ContainerId, Endpoint>>,
    sweeper: Sweeper,
    /// Links an earlier daemon made; looked at once.
    leftovers: Vec<u32>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a [`BridgeNetwork`] is made of.
#[derive(Debug)]
pub struct BridgeParts {
    /// Who it is.
    pub identity: NetworkIdentity,
    /// Its link.
    pub bridge: BridgeLink,
    /// Settings.
    pub config: NetworkConfig,
    /// Its prepared sandboxes.
    pub shelf: ShelfId,
    /// Publishes ports.
    pub publisher: Arc<PortPublisher>,
    /// Links an earlier daemon made.
    pub leftovers: Vec<u32>,
}

impl BridgeNetwork {
    /// The driver of a bridge that is set up.
    pub fn new(parts: BridgeParts) -> Result<Self, NetworkError> {
        let BridgeParts { identity, bridge, config, shelf, publisher, leftovers } = parts;
        let gateway = config.default_gateway.unwrap_or(bridge.address);
        if !bridge.subnet.contains(gateway) {
            let subnet = bridge.subnet.to_string();
            return Err(NetworkError::OutsideSubnet { setting: "default gateway", value: gateway.into(), subnet });
        }
        if let Some(range) = config.fixed_cidr.filter(|range| !bridge.subnet.overlaps(*range)) {
            let subnet = bridge.subnet.to_string();
            return Err(NetworkError::OutsideSubnet { setting: "fixed CIDR", value: range.first().into(), subnet });
        }
        let mut addresses = Allocator::new(bridge.subnet, config.fixed_cidr);
        addresses.reserve(bridge.address);
        addresses.reserve(gateway);
        let sweeper = Sweeper::start()?;
        Ok(Self {
            identity,
            bridge,
            config,
            gateway,
            shelf,
            publisher,
            addresses: Mutex::new(addresses),
            endpoints: Mutex::default(),
            sweeper,
            leftovers,
        })
    }

    /// The bridge's own address.
    pub fn address(&self) -> Ipv4Addr {
        self.bridge.address
    }

    /// What the packet filter is to do for it.
    pub fn rules(&self) -> BridgeRules {
        BridgeRules {
            link: self.bridge.name.clone(),
            subnet: self.bridge.subnet,
            icc: self.config.icc,
            masquerade: self.config.masquerade,
            direct_routing: self.config.direct_routing,
        }
    }

    /// Whether the container is on it.
    pub fn has(&self, container: &ContainerId) -> bool {
        lock(&self.endpoints).contains_key(container)
    }

    /// All published ports.
    pub fn forwards(&self) -> Vec<crate::firewall::PortForward> {
        lock(&self.endpoints).values().flat_map(|endpoint| endpoint.publications.forwards()).collect()
    }

    fn configure(
        &self,
        socket: &Socket,
        port: VethPort,
        address: Ipv4Addr,
        mac: MacAddress,
    ) -> Result<(), NetworkError> {
        let mut batch = Batch::new();
        link::add_address(&mut batch, port.inner, address, self.bridge.subnet.prefix());
        // After the address: this is when the neighbours are told.
        link::set_mac(&mut batch, port.inner, mac);
        link::add_default_route(&mut batch, port.inner, self.gateway);
        socket.transact(&batch).map_err(NetworkError::kernel("give the container its address"))
    }

    fn publish(
        &self,
        address: Ipv4Addr,
        state: &EndpointState,
        request: &EndpointRequest<'_>,
    ) -> Result<Publications, NetworkError> {
        if request.ports.is_empty() {
            return Ok(Publications::default());
        }
        self.publisher.publish(address, request.ports).map_err(|source| NetworkError::External {
            name: request.name.to_owned(),
            endpoint: state.endpoint_id.clone(),
            source: Box::new(source),
        })
    }

    /// Silences a sandbox that may live on for a moment, then gives its address back and lets the kernel take it down.
    fn give_back(&self, handle: Option<SandboxHandle>, address: Ipv4Addr) {
        let port = handle.as_ref().and_then(|handle| handle.port);
        if let (Some(handle), Some(port)) = (&handle, port) {
            let mut batch = Batch::new();
            link::delete_address(&mut batch, port.inner, address, self.bridge.subnet.prefix());
            // The container may have changed its own link; then the sweeper has the last word.
            if let Err(error) = handle.socket.transact(&batch) {
                tracing::debug!(%address, %error, "an address could not be taken from its container");
            }
        }
        lock(&self.addresses).release(address);
        // The namespace goes with this, unless another container still uses it.
        drop(handle);
        if let Some(port) = port {
            self.sweeper.watch(port.host);
        }
    }
}

fn hardware_address(config: &EndpointConfig) -> MacAddress {
    let wished = config.mac_address.as_deref().and_then(MacAddress::parse);
    wished.unwrap_or_else(|| MacAddress::local(crate::random()))
}

impl NetworkDriver for BridgeNetwork {
    fn kind(&self) -> &'static str {
        "bridge"
    }

    fn shelf(&self) -> Option<ShelfId> {
        Some(self.shelf)
    }

    fn attach(&self, handle: Option<SandboxHandle>, request: &EndpointRequest<'_>) -> Result<Attached, NetworkError> {
        let address = lock(&self.addresses).take().ok_or_else(|| NetworkError::AddressesExhausted {
            network: self.identity.name.clone(),
            id: self.identity.id.to_string(),
        })?;
        let mac = hardware_address(request.config);
        let state = EndpointState {
            ipv4: Some((address, self.bridge.subnet.prefix())),
            gateway4: Some(self.gateway),
            mac_address: mac.to_string(),
            interface: INNER_NAME.to_owned(),
            ..bare_endpoint(&self.identity)
        };
        let configured = match handle.as_ref().and_then(|handle| Some((&handle.socket, handle.port?))) {
            Some((socket, port)) => self.configure(socket, port, address, mac),
            None => Err(NetworkError::io("find the container's link")(std::io::ErrorKind::NotFound.into())),
        };
        let published = configured.and_then(|()| self.publish(address, &state, request));
        match published {
            Ok(publications) => {
                let ports = publications.list();
                let endpoint = Endpoint { handle, address, publications };
                lock(&self.endpoints).insert(request.container.clone(), endpoint);
                Ok(Attached { state, ports })
            }
            Err(error) => {
                self.give_back(handle, address);
                Err(error)
            }
        }
    }

    fn detach(&self, container: &ContainerId) {
        let Some(endpoint) = lock(&self.endpoints).remove(container) else { return };
        let Endpoint { handle, address, publications } = endpoint;
        if !publications.is_empty() {
            self.publisher.withdraw(publications);
        }
        self.give_back(handle, address);
    }

    fn adopt(&self, kept: Vec<(KeptEndpoint<'_>, Option<SandboxHandle>)>) -> Result<(), NetworkError> {
        let mut hosts = Vec::new();
        for (kept, handle) in kept {
            let Some((address, _)) = kept.state.ipv4 else { continue };
            lock(&self.addresses).reserve(address);
            hosts.extend(handle.as_ref().and_then(|handle| handle.port).map(|port| port.host));
            let publications = self.publisher.restore(address, kept.ports);
            lock(&self.endpoints).insert(kept.container.clone(), Endpoint { handle, address, publications });
        }
        sweep::remove(self.leftovers.iter().copied().filter(|index| !hosts.contains(index)))
    }

    fn details(&self) -> NetworkDetails {
        let flag = |value: bool| value.to_string();
        NetworkDetails {
            subnet: Some(self.bridge.subnet),
            range: self.config.fixed_cidr,
            gateway: Some(self.gateway),
            options: vec![
                ("com.docker.network.bridge.default_bridge", flag(true)),
                ("com.docker.network.bridge.enable_icc", flag(self.config.icc)),
                ("com.docker.network.bridge.enable_ip_masquerade", flag(self.config.masquerade)),
                ("com.docker.network.bridge.host_binding_ipv4", self.config.publish_address.to_string()),
                ("com.docker.network.bridge.name", self.bridge.name.clone()),
                ("com.docker.network.driver.mtu", self.config.mtu.to_string()),
            ],
        }
    }
}
