//! A container's sandbox as the stack holds it: its networks, which of them have the default routes, where its ports lead.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;

use dockerd_sys::netlink::{Batch, Socket};
use dockerd_types::network::{EndpointConfig, EndpointState, Port, PortBindings};
use dockerd_types::{ContainerId, NetworkId};

use super::Attachment;
use crate::driver::{ContainerPorts, EndpointRequest, NetworkDriver};
use crate::error::{InterfaceFault, NetworkError};
use crate::link::{self, DefaultRoute, MacAddress};
use crate::portmap::{PortTarget, Publications, Route};
use crate::remote::link::ProvidedLink;
use crate::sandbox::{self, INNER_PREFIX, LinkPort};

/// One network of a sandbox.
#[derive(Debug)]
pub(super) struct Joint {
    pub(super) network: Arc<dyn NetworkDriver>,
    pub(super) state: EndpointState,
    pub(super) link_local: Vec<IpAddr>,
    pub(super) priority: i64,
    pub(super) port: Option<LinkPort>,
    /// What a plugin made of it.
    pub(super) provided: Option<ProvidedLink>,
}

impl Joint {
    /// Where its default route of a family would lead.
    pub(super) fn route(&self, ipv6: bool) -> Option<DefaultRoute> {
        let link = self.port?.inner;
        let provided = self.provided.as_ref().and_then(|provided| provided.default_route(ipv6));
        let gateway = self.state.gateways().find(|gateway| gateway.is_ipv6() == ipv6);
        let gateway = gateway.or_else(|| provided?.hop);
        let leads_out = provided.is_some() || self.network.link().is_some_and(|plan| plan.leads_out);
        let by_itself = leads_out && self.state.addresses().any(|address| address.is_ipv6() == ipv6);
        (gateway.is_some() || by_itself).then_some(DefaultRoute { ipv6, link, gateway })
    }

    pub(super) fn id(&self) -> &NetworkId {
        &self.network.identity().id
    }
}

/// A container's sandbox.
#[derive(Debug)]
pub(super) struct HeldSandbox {
    pub(super) name: String,
    /// Inside; `None` where the namespace could not be entered again.
    pub(super) socket: Option<Socket>,
    pub(super) joints: Vec<Joint>,
    /// Its way out where no joint is one.
    pub(super) way_out: Option<Joint>,
    pub(super) wanted: PortBindings,
    pub(super) exposed: Vec<Port>,
    pub(super) publications: Publications,
}

impl HeldSandbox {
    /// A sandbox without networks.
    pub(super) fn new(name: String, wanted: PortBindings, exposed: Vec<Port>) -> Self {
        let publications = Publications::default();
        Self { name, socket: None, joints: Vec::new(), way_out: None, wanted, exposed, publications }
    }

    /// All it stands on.
    pub(super) fn links(&self) -> impl Iterator<Item = &Joint> {
        self.joints.iter().chain(&self.way_out)
    }

    /// Whether it is to have a way out that is none of its networks: a plugin's leads out and has no gateway, nobody else has one,
    /// and no plugin wants none.
    pub(super) fn needs_way_out(&self) -> bool {
        let leads_out = |joint: &Joint| {
            let remote = joint.network.remote();
            joint.provided.is_some() && remote.is_some_and(|remote| !remote.is_internal())
        };
        let is_settled = |joint: &Joint| {
            let forgoes = joint.provided.as_ref().is_some_and(|provided| provided.forgoes_gateway);
            forgoes || joint.state.gateway4.is_some()
        };
        self.joints.iter().any(leads_out) && !self.joints.iter().any(is_settled)
    }

    /// The network that has the default route of a family.
    pub(super) fn router(&self, ipv6: bool) -> Option<&Joint> {
        let routers = self.links().filter(|joint| joint.route(ipv6).is_some());
        routers.min_by_key(|joint| (Reverse(joint.priority), joint.network.identity().name.clone()))
    }

    /// The default routes, IPv4 first.
    pub(super) fn default_routes(&self) -> impl Iterator<Item = DefaultRoute> {
        [false, true].into_iter().filter_map(|ipv6| self.router(ipv6)?.route(ipv6))
    }

    /// Who the routers are, IPv4 first.
    pub(super) fn routers(&self) -> [Option<NetworkId>; 2] {
        [false, true].map(|ipv6| self.router(ipv6).map(|joint| joint.id().clone()))
    }

    /// Where published ports lead; `None`: nowhere.
    pub(super) fn target(&self) -> Option<(PortTarget, &EndpointState)> {
        let (four, six) = (self.router(false), self.router(true));
        let ipv4 = four.and_then(|joint| {
            let (address, policy) = (joint.state.ipv4?.0, joint.network.publishing()?);
            Some(Route { address, mode: policy.ipv4, default_address: policy.address, host: None })
        });
        let ipv6 = six.and_then(|joint| {
            let (address, policy) = (joint.state.ipv6?.0, joint.network.publishing()?);
            Some(Route { address, mode: policy.ipv6, default_address: policy.address, host: policy.host6 })
        });
        let router = four.filter(|_| ipv4.is_some()).or_else(|| six.filter(|_| ipv6.is_some()))?;
        Some((PortTarget { ipv4, ipv6 }, &router.state))
    }

    /// The container's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its ports.
    pub(super) fn ports(&self) -> ContainerPorts<'_> {
        ContainerPorts { published: &self.wanted, exposed: &self.exposed }
    }

    /// Allots it an endpoint on a network.
    pub(super) fn allot(
        &self,
        container: &ContainerId,
        attachment: &Attachment,
    ) -> Result<EndpointState, NetworkError> {
        let Attachment { network, config } = attachment;
        let request = EndpointRequest { container, name: &self.name, config, ports: self.ports() };
        network.allot(&request).map_err(|error| error.at_endpoint(&self.name, &network.identity().name))
    }

    /// What the link into a network is called inside.
    pub(super) fn interface(&self, network: &dyn NetworkDriver, wished: Option<&str>) -> String {
        let taken = |name: &str| self.has_interface(name);
        match network.link() {
            Some(plan) => plan.name(wished, taken),
            // Its plugin may say another beginning when it has made the link.
            None if network.remote().is_some() => sandbox::free_name(INNER_PREFIX, taken),
            None => String::new(),
        }
    }

    pub(super) fn has_interface(&self, name: &str) -> bool {
        self.links().any(|joint| joint.state.interface == name)
    }

    pub(super) fn states(&self) -> Vec<EndpointState> {
        self.joints.iter().map(|joint| joint.state.clone()).collect()
    }
}

/// Whether a container's link leads to it.
pub(super) fn has_link(network: &dyn NetworkDriver) -> bool {
    network.link().is_some() || network.remote().is_some()
}

/// What is asked of a network and cannot be, before anything is done about it.
pub(super) fn check(config: &EndpointConfig, interface: Option<&str>) -> Result<(), NetworkError> {
    let is_link_local = |address: &&IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if let Some(address) = config.link_local.iter().find(|address| !is_link_local(address)) {
        return Err(NetworkError::NotLinkLocal(*address));
    }
    let Some(interface) = interface else { return Ok(()) };
    sandbox::check_name(interface)?;
    match config.mac_address.as_deref().and_then(MacAddress::parse).filter(|mac| !mac.is_station()) {
        None => Ok(()),
        Some(mac) => {
            let (interface, address) = (interface.to_owned(), mac.to_string());
            Err(NetworkError::interface(&interface.clone(), InterfaceFault::Mac { interface, address }))
        }
    }
}

/// Addresses of a link that is up.
pub(super) fn configure(batch: &mut Batch, joint: &Joint) {
    let Some(port) = joint.port else { return };
    for (address, prefix) in joint.state.prefixed_addresses() {
        link::add_address(batch, port.inner, address, prefix);
    }
    for address in &joint.link_local {
        link::add_address(batch, port.inner, *address, if address.is_ipv4() { 16 } else { 64 });
    }
    // After the address: this is when the neighbours are told.
    if let Some(mac) = MacAddress::parse(&joint.state.mac_address) {
        link::set_mac(batch, port.inner, mac);
    }
}
