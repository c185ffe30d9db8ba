//! The bridge driver: containers are ports of one bridge of the host, have addresses of its subnet and reach the world
//! through the host. One value is one network; the default bridge and user-defined ones differ in their settings only.
//!
//! The driver knows addresses. Links, routes and published ports of a container belong to its sandbox, which may be on
//! several networks: see [`crate::stack`].

pub mod mend;
pub mod setup;
pub(crate) mod sweep;

use std::collections::BTreeMap;
use std::net::IpAddr;

use dockerd_types::network::EndpointState;

use crate::driver::{EndpointRequest, NetworkDetails, NetworkDriver, NetworkIdentity, PublishPolicy, hardware_address};
use crate::error::NetworkError;
use crate::firewall::{BridgeRules, FamilyRules, GatewayMode};
use crate::ipam::{Addresses, Subnet, SubnetPlan};
use crate::pool::ShelfId;
use crate::sandbox::{LinkKind, LinkPlan};
use mend::Upkeep;
use setup::BridgeLink;

/// One family of a bridge network, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeFamily {
    /// Its subnet.
    pub subnet: Subnet,
    /// The bridge's own address; `None`: it has none.
    pub address: Option<IpAddr>,
    /// Where containers' default route leads: the bridge's own address unless somebody else is the router; `None`: nowhere.
    pub gateway: Option<IpAddr>,
    /// The part of the subnet containers get addresses from.
    pub range: Option<Subnet>,
    /// Addresses nobody gets.
    pub reserved: Vec<IpAddr>,
    /// How containers and the world reach each other.
    pub mode: GatewayMode,
    /// What the outside sees instead of containers' addresses; `None`: an address of the link packets leave by.
    pub source: Option<IpAddr>,
}

/// What a bridge network is like, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSettings {
    /// IPv4, if it has it.
    pub ipv4: Option<BridgeFamily>,
    /// IPv6, if it has it.
    pub ipv6: Option<BridgeFamily>,
    /// Largest packet.
    pub mtu: u32,
    /// What names of links inside begin with.
    pub prefix: String,
    /// Whether containers may speak to each other unasked.
    pub icc: bool,
    /// Whether the outside sees another address instead of the container's.
    pub masquerade: bool,
    /// Whether nothing leads in or out.
    pub internal: bool,
    /// Whether others may reach containers at their own addresses.
    pub direct_routing: bool,
    /// Links of the host from which others may in any case.
    pub trusted: Vec<String>,
    /// Where ports are published that name no address.
    pub publish_address: IpAddr,
    /// Options as inspect shows them.
    pub options: BTreeMap<String, String>,
}

impl BridgeSettings {
    /// Its families.
    pub fn families(&self) -> impl Iterator<Item = &BridgeFamily> {
        self.ipv4.iter().chain(&self.ipv6)
    }

    /// Where containers' addresses come from; fails if they contradict each other.
    pub fn subnets(&self) -> Result<Vec<SubnetPlan>, NetworkError> {
        let mut subnets = Vec::new();
        for family in self.families() {
            let outside = |setting, value: IpAddr| {
                Err(NetworkError::OutsideSubnet { setting, value, subnet: family.subnet.to_string() })
            };
            if let Some(gateway) = family.gateway.filter(|gateway| !family.subnet.contains(*gateway)) {
                return outside("default gateway", gateway);
            }
            if let Some(range) = family.range.filter(|range| !family.subnet.overlaps(*range)) {
                return outside("fixed CIDR", range.first());
            }
            subnets.push(SubnetPlan {
                subnet: family.subnet,
                range: family.range,
                // Nothing leads out of an internal network; its gateway is nobody else's all the same.
                gateway: family.gateway.filter(|_| !self.internal),
                reserved: family.reserved.iter().copied().chain(family.address).chain(family.gateway).collect(),
            });
        }
        Ok(subnets)
    }

    /// The bridge's own addresses with the bits of their prefixes.
    pub fn addresses(&self) -> Vec<(IpAddr, u8)> {
        self.families().filter_map(|family| Some((family.address?, family.subnet.prefix()))).collect()
    }
}

/// One bridge.
#[derive(Debug)]
pub struct BridgeNetwork {
    identity: NetworkIdentity,
    bridge: BridgeLink,
    settings: BridgeSettings,
    plan: LinkPlan,
    shelf: ShelfId,
    addresses: Addresses,
}

impl BridgeNetwork {
    /// The driver of a bridge that is set up; `plan` describes links into it, `shelf` has them ready. Addresses are those of
    /// [`BridgeSettings::subnets`].
    pub fn new(
        identity: NetworkIdentity,
        bridge: BridgeLink,
        settings: BridgeSettings,
        plan: LinkPlan,
        shelf: ShelfId,
        addresses: Addresses,
    ) -> Self {
        Self { identity, bridge, settings, plan, shelf, addresses }
    }

    /// What it is like.
    pub fn settings(&self) -> &BridgeSettings {
        &self.settings
    }

    /// The bridge's link.
    pub fn bridge(&self) -> &BridgeLink {
        &self.bridge
    }
}

impl NetworkDriver for BridgeNetwork {
    fn identity(&self) -> &NetworkIdentity {
        &self.identity
    }

    fn kind(&self) -> &str {
        "bridge"
    }

    fn shelf(&self) -> Option<ShelfId> {
        Some(self.shelf)
    }

    fn link(&self) -> Option<&LinkPlan> {
        Some(&self.plan)
    }

    fn addresses(&self) -> Option<&Addresses> {
        Some(&self.addresses)
    }

    fn allot(&self, request: &EndpointRequest<'_>) -> Result<EndpointState, NetworkError> {
        self.addresses.endpoint(&self.identity, request, Some(hardware_address(request.config)))
    }

    fn publishing(&self) -> Option<PublishPolicy> {
        let mode = |family: &Option<BridgeFamily>| family.as_ref().map_or(GatewayMode::Nat, |family| family.mode);
        (!self.settings.internal).then(|| PublishPolicy {
            address: self.settings.publish_address,
            ipv4: mode(&self.settings.ipv4),
            ipv6: mode(&self.settings.ipv6),
            host6: self.settings.ipv6.as_ref().and_then(|family| match family.address? {
                IpAddr::V6(address) => Some(address),
                IpAddr::V4(_) => None,
            }),
        })
    }

    fn upkeep(&self) -> Option<Upkeep> {
        let isolated = matches!(self.plan.kind, LinkKind::Port { isolated: true, .. });
        let (link, mtu) = (self.bridge.clone(), self.settings.mtu);
        link.ours.then(|| Upkeep { link, mtu, addresses: self.settings.addresses(), isolated })
    }

    fn rules(&self) -> Option<BridgeRules> {
        let family = |family: &BridgeFamily| {
            let BridgeFamily { subnet, mode, source, .. } = *family;
            FamilyRules { subnet, mode, source }
        };
        Some(BridgeRules {
            link: self.bridge.name.clone(),
            ipv4: self.settings.ipv4.as_ref().map(family),
            ipv6: self.settings.ipv6.as_ref().map(family),
            icc: self.settings.icc,
            internal: self.settings.internal,
            masquerade: self.settings.masquerade,
            direct_routing: self.settings.direct_routing,
            trusted: self.settings.trusted.clone(),
        })
    }

    fn details(&self) -> NetworkDetails {
        let plan = |family: &BridgeFamily| SubnetPlan {
            subnet: family.subnet,
            range: family.range,
            gateway: family.address,
            reserved: family.gateway.filter(|gateway| Some(*gateway) != family.address).into_iter().collect(),
        };
        NetworkDetails { subnets: self.settings.families().map(plan).collect(), options: self.settings.options.clone() }
    }
}
