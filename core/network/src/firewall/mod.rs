//! The packet filter as the drivers see it: masquerade, isolation and published ports of bridges. One trait; `nft` speaks
//! to the kernel, `iptables` runs iptables-restore for those who need its chains, `none` is for `--iptables=false`; `firewalld`
//! has its zones let pass what they decide on.

mod automatic;
mod firewalld;
mod guard;
pub mod iptables;
pub mod nft;
mod none;

use std::fmt::Debug;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use dockerd_types::network::Protocol;

use crate::config::NetworkConfig;
use crate::error::NetworkError;
use crate::ipam::Subnet;
use iptables::IptablesFirewall;
use nft::NftFirewall;

use automatic::Automatic;
use firewalld::WithFirewalld;
pub use guard::Guard;
pub use none::NoFirewall;

/// Who sets the rules (`--firewall-backend`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Backend {
    /// nf_tables by netlink.
    #[default]
    Nftables,
    /// iptables-restore and ip6tables-restore.
    Iptables,
}

impl Backend {
    /// As the flag and `/info` call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// Whether the host's own rules for what it is sent have a say in who reaches published ports (`--firewall-honour-host`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HostPolicy {
    /// No: they are translated before those are asked.
    #[default]
    Bypassed,
    /// Yes: what comes from elsewhere is not translated, so it is for the host, and reaches the daemon, which passes it on.
    Honoured {
        /// Whether containers see who has sent it: what they answer is led back to the daemon.
        senders: bool,
    },
}

impl HostPolicy {
    /// Whether the host has a say.
    pub fn is_honoured(self) -> bool {
        self != Self::Bypassed
    }

    /// Whether what containers answer is to be led back to the daemon.
    pub fn keeps_senders(self) -> bool {
        self == Self::Honoured { senders: true }
    }
}

/// Whether a family is ours to filter.
#[derive(Debug, Clone, Copy)]
pub struct Handled {
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
}

impl Handled {
    /// One of them.
    pub fn has(self, ipv6: bool) -> bool {
        if ipv6 { self.ipv6 } else { self.ipv4 }
    }

    /// Those that are.
    pub fn families(self) -> impl Iterator<Item = bool> {
        [false, true].into_iter().filter(move |ipv6| self.has(*ipv6))
    }
}

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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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

/// The bit of packets' marks that says that a packet is an answer for the daemon (see `portmap/senders.rs`).
pub(crate) const ANSWER_MARK: u32 = 0x0200_0000;

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
    /// Takes everything away that is ours, if anything is there: another driver is used from now on.
    fn clear(&self) -> Result<(), NetworkError>;
    /// Whether ports of a family that are published are served by it. Clients with link-local addresses never are: no packet
    /// leads from them to a container.
    fn forwards(&self, ipv6: bool) -> bool;
    /// Whether that is so of `[::1]` too, where the host has an address of its own on the network.
    fn forwards_loopback(&self) -> bool;
    /// Who notices when others take its rules away, in the calling thread's network namespace; `None`: it has none.
    fn guard(&self) -> Result<Option<Guard>, NetworkError> {
        Ok(None)
    }
    /// Whether something is missing indeed, when its guard says that it may be.
    fn is_damaged(&self) -> Result<bool, NetworkError>;
    /// Who sets the rules at the moment.
    fn backend(&self) -> Backend;
}

/// Whether the host drops by its chain FORWARD what no rule of iptables lets through (ufw, and the stock daemon before us), so
/// that rules elsewhere are in vain. An earlier daemon's doing, which goes with its rules, does not count. Blocking.
fn is_dropped_by_host(handled: Handled, iptables: &IptablesFirewall) -> bool {
    let drops = |ipv6: &bool| {
        let asked = nft::chain_of_iptables(*ipv6, "filter", "FORWARD");
        let asked = asked.inspect_err(|error| tracing::debug!(%error, "the host's policy is not known"));
        matches!(asked, Ok(Some(true)))
    };
    let is_its_own = |ipv6: bool| match iptables.check().and_then(|()| iptables.drops_foreign(ipv6)) {
        Ok(by_us) => !by_us,
        Err(error) => {
            tracing::warn!(%error, "the host drops what no rule of iptables forwards: containers may be cut off");
            false
        }
    };
    handled.families().filter(drops).any(is_its_own)
}

/// The packet filter of this daemon's settings, in the calling thread's network namespace, and what of the policy asked for
/// this kernel can do. What an earlier daemon set by other means is gone then. Blocking.
pub(crate) fn open(config: &NetworkConfig) -> Result<(Arc<dyn Firewall>, HostPolicy), NetworkError> {
    let handled = Handled { ipv4: config.firewall, ipv6: config.firewall_ipv6 };
    if !handled.ipv4 && !handled.ipv6 {
        return Ok((Arc::new(NoFirewall), HostPolicy::Bypassed));
    }
    let wanted = config.host_policy;
    let (nft, iptables) = (NftFirewall::new(handled, wanted), IptablesFirewall::new(handled, wanted));
    let backend = config.firewall_backend.unwrap_or_else(|| {
        if !is_dropped_by_host(handled, &iptables) {
            return Backend::Nftables;
        }
        tracing::info!("the host drops what no rule of iptables forwards; ours are set by iptables");
        Backend::Iptables
    });
    let can_keep_senders = match backend {
        Backend::Nftables => {
            iptables.clear()?;
            wanted.keeps_senders().then(|| nft.check_marking())
        }
        Backend::Iptables => {
            iptables.check()?;
            nft.clear()?;
            wanted.keeps_senders().then(|| iptables.check_marking())
        }
    };
    let policy = match can_keep_senders.transpose() {
        Ok(_) => wanted,
        Err(error) => {
            tracing::warn!(%error, "containers will not see who connects to their published ports");
            HostPolicy::Honoured { senders: false }
        }
    };
    let (nft, iptables) = (nft.with_policy(policy), iptables.with_policy(policy));
    let firewall: Arc<dyn Firewall> = match (backend, config.firewall_backend) {
        (Backend::Nftables, None) => Arc::new(Automatic::new(handled, nft, iptables)),
        (Backend::Nftables, Some(_)) => Arc::new(nft),
        (Backend::Iptables, _) => Arc::new(iptables),
    };
    Ok((WithFirewalld::around(firewall), policy))
}
