//! The packet filter as the drivers see it: masquerade, isolation and published ports of bridges. One trait; `nft` speaks
//! to the kernel, `none` is for `--iptables=false`; `firewalld` has its zones let pass what they decide on.

mod firewalld;
pub mod nft;
mod none;

use std::fmt::Debug;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use dockerd_types::network::Protocol;

use crate::error::NetworkError;
use crate::ipam::Subnet;

pub use firewalld::WithFirewalld;
pub use none::NoFirewall;

/// How a network's containers and the world reach each other, per family
/// (`com.docker.network.bridge.gateway_mode_ipv4` and `..._ipv6`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GatewayMode {
    /// Published ports are the host's; what is not published is kept from others.
    #[default]
    Nat,
    /// As `Nat`, but containers' own addresses are open to those who have a route.
    NatUnprotected,
    /// Containers have addresses others route to: nothing is translated, published ports are let through.
    Routed,
    /// The host has no address on the bridge.
    Isolated,
}

/// One family of a bridge as far as the packet filter is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FamilyRules {
    /// The containers' network.
    pub subnet: Subnet,
    /// How it and the world reach each other.
    pub mode: GatewayMode,
    /// What the outside sees instead of the containers' addresses where they are translated; `None`: the address of the
    /// host's link the packet leaves by (`com.docker.network.host_ipv4` and `..._ipv6`).
    pub source: Option<IpAddr>,
}

/// A bridge as far as the packet filter is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeRules {
    /// The bridge's link.
    pub link: String,
    /// IPv4, if it has it.
    pub ipv4: Option<FamilyRules>,
    /// IPv6, if it has it.
    pub ipv6: Option<FamilyRules>,
    /// Whether containers may speak to each other unasked.
    pub icc: bool,
    /// Whether nothing goes in or out but between its own containers and the host.
    pub internal: bool,
    /// Whether the outside sees another address instead of the container's.
    pub masquerade: bool,
    /// Whether others may reach published ports at the container's own address.
    pub direct_routing: bool,
    /// Links of the host from which others may do so in any case.
    pub trusted: Vec<String>,
}

impl BridgeRules {
    /// Its families.
    pub fn families(&self) -> impl Iterator<Item = &FamilyRules> {
        self.ipv4.iter().chain(&self.ipv6)
    }
}

/// What concerns no bridge of ours is dropped, since the host forwards for its containers only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DropForeign {
    /// Of IPv4.
    pub ipv4: bool,
    /// Of IPv6.
    pub ipv6: bool,
}

/// What is set as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// All bridges.
    pub bridges: Vec<BridgeRules>,
    /// All published ports.
    pub forwards: Vec<PortForward>,
    /// What else is dropped.
    pub drop_foreign: DropForeign,
}

/// By what address others reach a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Entry {
    /// A port of the host, which is translated.
    Host {
        /// The host's address; `None`: any of them, of the container's family.
        address: Option<IpAddr>,
        /// The host's port.
        port: u16,
    },
    /// The container's own address and port: a network of the mode [`GatewayMode::Routed`].
    Direct,
}

/// A port of a container that others may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortForward {
    /// Transport.
    pub protocol: Protocol,
    /// By what address.
    pub entry: Entry,
    /// Where it leads.
    pub to: SocketAddr,
    /// The address the host's own connections to `[::1]` come from; `None`: they do not come this way.
    pub loopback: Option<Ipv6Addr>,
}

impl PortForward {
    /// Whether no port of the host is used.
    pub fn is_direct(&self) -> bool {
        self.entry == Entry::Direct
    }
}

/// A packet filter. Every method is one transaction: done or not done. Blocking. All ports of one container that lead to one
/// of its addresses are published in one call, and withdrawn in one.
pub trait Firewall: Send + Sync + Debug {
    /// Replaces everything that is ours.
    fn install(&self, rules: &Ruleset) -> Result<(), NetworkError>;
    /// Adds the rules for one more bridge. `drop_foreign` as in [`Ruleset`].
    fn add_bridge(&self, bridge: &BridgeRules, drop_foreign: DropForeign) -> Result<(), NetworkError>;
    /// Takes the rules for a bridge away; they are those it was added with.
    fn remove_bridge(&self, bridge: &BridgeRules) -> Result<(), NetworkError>;
    /// Publishes.
    fn publish(&self, forwards: &[PortForward]) -> Result<(), NetworkError>;
    /// Ends one publication and begins another, at once.
    fn redirect(&self, old: &[PortForward], new: &[PortForward]) -> Result<(), NetworkError>;
    /// Ends a publication.
    fn withdraw(&self, forwards: &[PortForward]) -> Result<(), NetworkError>;
    /// Whether ports of a family that are published are served by it. Clients with link-local addresses never are: no packet
    /// leads from them to a container.
    fn forwards(&self, ipv6: bool) -> bool;
    /// Whether that is so of `[::1]` too, where the host has an address of its own on the network.
    fn forwards_loopback(&self) -> bool {
        false
    }
    /// Who notices when others take its rules away, in the calling thread's network namespace; `None`: it has none.
    fn guard(&self) -> Result<Option<nft::Guard>, NetworkError> {
        Ok(None)
    }
}
