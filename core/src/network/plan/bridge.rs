//! What the bridge driver is told of a network.

use std::net::{IpAddr, Ipv4Addr};

use dockerd_network::NetworkConfig;
use dockerd_network::bridge::{BridgeFamily, BridgeSettings};
use dockerd_network::driver::NetworkIdentity;
use dockerd_network::firewall::GatewayMode;
use dockerd_network::link::{LONGEST_NAME, is_link_name};
use dockerd_network::stack::BridgeOrder;
use dockerd_types::boolean::parse_bool;

use super::{PlanError, Surroundings, pools, remote};
use crate::network::document::{PoolDocument, UserNetwork};

/// Driver options of bridges, by their names in the API.
const NAME: &str = "com.docker.network.bridge.name";
pub(super) const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const INHIBIT_IPV4: &str = "com.docker.network.bridge.inhibit_ipv4";
pub(super) const TRUSTED: &str = "com.docker.network.bridge.trusted_host_interfaces";
const MTU: &str = "com.docker.network.driver.mtu";
const PREFIX: &str = "com.docker.network.container_iface_prefix";
/// What the kernel gives an Ethernet.
const USUAL_MTU: u32 = 1500;
/// Of IPv4 and IPv6.
const GATEWAY_MODES: [&str; 2] =
    ["com.docker.network.bridge.gateway_mode_ipv4", "com.docker.network.bridge.gateway_mode_ipv6"];
const SOURCES: [&str; 2] = ["com.docker.network.host_ipv4", "com.docker.network.host_ipv6"];

/// A network's options, read one at a time.
struct Options<'a>(&'a UserNetwork);

impl Options<'_> {
    fn text(&self, option: &str) -> Option<&str> {
        self.0.options.get(option).map(String::as_str).filter(|text| !text.is_empty())
    }

    fn wrong(option: &'static str, value: &str, why: impl Into<String>) -> PlanError {
        PlanError::Option { option, value: value.to_owned(), why: why.into() }
    }

    fn flag(&self, option: &'static str, default: bool) -> Result<bool, PlanError> {
        let Some(value) = self.0.options.get(option) else { return Ok(default) };
        let why = || format!("strconv.ParseBool: parsing {value:?}: invalid syntax");
        parse_bool(value).ok_or_else(|| Self::wrong(option, value, why()))
    }

    fn mtu(&self) -> Result<u32, PlanError> {
        let Some(value) = self.0.options.get(MTU) else { return Ok(USUAL_MTU) };
        let why = |_| Self::wrong(MTU, value, format!("strconv.Atoi: parsing {value:?}: invalid syntax"));
        let mtu: i64 = value.parse().map_err(why)?;
        u32::try_from(mtu).map_err(|_| PlanError::Mtu(mtu))
    }

    fn address(&self, option: &'static str) -> Result<Option<IpAddr>, PlanError> {
        let read = |value: &str| value.parse().map_err(|_| Self::wrong(option, value, "nil ip"));
        self.text(option).map(read).transpose()
    }

    /// Links of the host. They need not be there; a name no link can have trusts nobody.
    fn trusted(&self) -> Vec<String> {
        let names = self.text(TRUSTED).into_iter().flat_map(|list| list.split(':'));
        names.filter(|name| is_link_name(name)).map(str::to_owned).collect()
    }

    fn mode(&self, ipv6: bool) -> Result<GatewayMode, PlanError> {
        let option = GATEWAY_MODES[usize::from(ipv6)];
        match self.text(option) {
            None | Some("nat") => Ok(GatewayMode::Nat),
            Some("nat-unprotected") => Ok(GatewayMode::NatUnprotected),
            Some("routed") => Ok(GatewayMode::Routed),
            Some("isolated") if self.0.internal => Ok(GatewayMode::Isolated),
            Some("isolated") => Err(PlanError::NotInternal),
            Some(other) => Err(Self::wrong(option, other, format!("unknown gateway mode {other}"))),
        }
    }
}

/// The bridge's name, which no other network has.
pub(super) fn link(network: &UserNetwork, around: &Surroundings<'_>) -> Result<String, PlanError> {
    let asked = network.options.get(NAME).filter(|name| !name.is_empty()).cloned();
    let link = asked.unwrap_or_else(|| format!("br-{}", network.id.short()));
    if link.len() > LONGEST_NAME {
        return Err(PlanError::LinkName);
    }
    let bridges = around.networks.iter().filter(|other| other.driver == "bridge");
    if let Some(other) = { bridges }.find(|other| other.link == link) {
        return Err(PlanError::SameBridge { id: network.id.clone(), link, other: other.id.clone() });
    }
    Ok(link)
}

/// `defaults` are the default bridge's settings where networks share them.
pub(super) fn order(network: &UserNetwork, defaults: &NetworkConfig) -> Result<BridgeOrder, PlanError> {
    let options = Options(network);
    let own_address = !options.flag(INHIBIT_IPV4, false)?;
    let family = |ipv6: bool| -> Result<Option<BridgeFamily>, PlanError> {
        let mode = options.mode(ipv6)?;
        let mut pools = network.pools_in_use().filter(|pool| pool.subnet.is_ipv6() == ipv6);
        let Some(pool) = pools.next() else { return Ok(None) };
        if pools.next().is_some() {
            return Err(PlanError::SeveralSubnets);
        }
        let source = options.address(SOURCES[usize::from(ipv6)])?;
        Ok(Some(bridge_family(pool, mode, source, ipv6 || own_address)))
    };
    Ok(BridgeOrder {
        identity: NetworkIdentity { id: network.id.clone(), name: network.name.clone() },
        link: network.link.clone(),
        addresses: remote::source(network),
        settings: BridgeSettings {
            ipv4: family(false)?,
            ipv6: family(true)?,
            // `--mtu` concerns the default bridge.
            mtu: options.mtu()?,
            prefix: options.text(PREFIX).unwrap_or(dockerd_network::sandbox::INNER_PREFIX).to_owned(),
            icc: options.flag(ICC, true)?,
            masquerade: options.flag(MASQUERADE, true)?,
            internal: network.internal,
            direct_routing: defaults.direct_routing,
            trusted: options.trusted(),
            // `--ip` concerns the default bridge.
            publish_address: options.address(HOST_BINDING)?.unwrap_or_else(|| Ipv4Addr::UNSPECIFIED.into()),
            options: network.options.clone(),
        },
    })
}

fn bridge_family(pool: &PoolDocument, mode: GatewayMode, source: Option<IpAddr>, own_address: bool) -> BridgeFamily {
    let gateway = pools::gateway(pool);
    let isolated = mode == GatewayMode::Isolated;
    BridgeFamily {
        subnet: pool.subnet,
        address: (own_address && !isolated).then_some(gateway),
        gateway: (!isolated).then_some(gateway),
        range: pool.range,
        reserved: pool.auxiliary.values().copied().collect(),
        mode,
        source,
    }
}
