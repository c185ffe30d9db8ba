//! Settings of the default bridge and of what all networks share, resolved by the daemon.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::firewall::{Backend, HostPolicy};
use crate::ipam::{AddressPool, Subnet, pool};

/// Name of the default bridge's link.
pub const DEFAULT_BRIDGE: &str = "docker0";

/// Which bridge containers join by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BridgeChoice {
    /// `docker0`, made if it is not there.
    Default,
    /// One the administrator made.
    Existing(String),
    /// None: there is no network `bridge`.
    None,
}

/// Settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// `--bridge`.
    pub bridge: BridgeChoice,
    /// `--bip`: the bridge's own address and subnet.
    pub bip: Option<(IpAddr, Subnet)>,
    /// `--fixed-cidr`: containers' addresses come from here.
    pub fixed_cidr: Option<Subnet>,
    /// `--default-gateway`.
    pub default_gateway: Option<Ipv4Addr>,
    /// `--ipv6`: whether the default bridge has it.
    pub ipv6: bool,
    /// `--bip6`: the bridge's own address of IPv6 and its subnet.
    pub bip6: Option<(IpAddr, Subnet)>,
    /// `--fixed-cidr-v6`: the default bridge's IPv6 network, or where containers' addresses in it come from.
    pub fixed_cidr_v6: Option<Subnet>,
    /// `--default-gateway-v6`.
    pub default_gateway_v6: Option<Ipv6Addr>,
    /// `--mtu`.
    pub mtu: u32,
    /// `--icc`.
    pub icc: bool,
    /// `--ip`: where ports are published that name no address.
    pub publish_address: IpAddr,
    /// `--ip-forward`.
    pub ip_forward: bool,
    /// `--ip-forward-no-drop`.
    pub ip_forward_no_drop: bool,
    /// `--ip-masq`.
    pub masquerade: bool,
    /// `--iptables`: whether the packet filter is ours to set.
    pub firewall: bool,
    /// `--ip6tables`: the same for IPv6.
    pub firewall_ipv6: bool,
    /// `--firewall-backend`: who sets it; `None`: the stack chooses.
    pub firewall_backend: Option<Backend>,
    /// `--firewall-honour-host`: whether the host's own rules decide who reaches published ports.
    pub host_policy: HostPolicy,
    /// `--userland-proxy`: whether the daemon itself forwards what the packet filter cannot.
    pub userland_proxy: bool,
    /// `--allow-direct-routing`.
    pub direct_routing: bool,
    /// `--default-address-pool`.
    pub pools: Vec<AddressPool>,
    /// `--default-network-opt`: options of new networks that do not say, by driver.
    pub driver_options: BTreeMap<String, BTreeMap<String, String>>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            bridge: BridgeChoice::Default,
            bip: None,
            fixed_cidr: None,
            default_gateway: None,
            ipv6: false,
            bip6: None,
            fixed_cidr_v6: None,
            default_gateway_v6: None,
            mtu: 1500,
            icc: true,
            publish_address: Ipv4Addr::UNSPECIFIED.into(),
            ip_forward: true,
            ip_forward_no_drop: false,
            masquerade: true,
            firewall: true,
            firewall_ipv6: true,
            firewall_backend: None,
            host_policy: HostPolicy::default(),
            userland_proxy: true,
            direct_routing: false,
            pools: pool::defaults(),
            driver_options: BTreeMap::new(),
        }
    }
}
