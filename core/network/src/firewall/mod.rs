//! The packet filter as the drivers see it: masquerade, isolation and published ports of bridges. One trait; `nft` speaks
//! to the kernel, `none` is for `--iptables=false`.

pub mod nft;
mod none;

use std::fmt::Debug;
use std::net::{Ipv4Addr, SocketAddrV4};

use dockerd_types::network::Protocol;

use crate::error::NetworkError;
use crate::ipam::Subnet;

pub use none::NoFirewall;

/// A bridge as far as the packet filter is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeRules {
    /// The bridge's link.
    pub link: String,
    /// Its network.
    pub subnet: Subnet,
    /// Whether containers may speak to each other unasked.
    pub icc: bool,
    /// Whether nothing goes in or out but between its own containers and the host.
    pub internal: bool,
    /// Whether the outside sees the host's address instead of the container's.
    pub masquerade: bool,
    /// Whether others may reach published ports at the container's own address.
    pub direct_routing: bool,
}

/// What is set as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// All bridges.
    pub bridges: Vec<BridgeRules>,
    /// All published ports.
    pub forwards: Vec<PortForward>,
    /// The host forwards for its containers only: what concerns no bridge is dropped.
    pub drop_foreign: bool,
}

/// A port of the host that leads to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortForward {
    /// Transport.
    pub protocol: Protocol,
    /// The host's address; `None`: any of them.
    pub host: Option<Ipv4Addr>,
    /// The host's port.
    pub port: u16,
    /// Where it leads.
    pub to: SocketAddrV4,
}

/// A packet filter. Every method is one transaction: done or not done. Blocking.
pub trait Firewall: Send + Sync + Debug {
    /// Replaces everything that is ours.
    fn install(&self, rules: &Ruleset) -> Result<(), NetworkError>;
    /// Replaces the rules for bridges; published ports stay. `drop_foreign` as in [`Ruleset`].
    fn replace_bridges(&self, bridges: &[BridgeRules], drop_foreign: bool) -> Result<(), NetworkError>;
    /// Publishes.
    fn publish(&self, forwards: &[PortForward]) -> Result<(), NetworkError>;
    /// Ends one publication and begins another, at once.
    fn redirect(&self, old: &[PortForward], new: &[PortForward]) -> Result<(), NetworkError>;
    /// Ends a publication.
    fn withdraw(&self, forwards: &[PortForward]) -> Result<(), NetworkError>;
    /// Whether published ports are served by it.
    fn forwards(&self) -> bool;
}
