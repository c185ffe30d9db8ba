//! nftables by netlink: one table of ours per network namespace, for both families. Published ports are elements of maps, so
//! that a container with many ports costs one transaction and no rule, and a bridge has chains of its own, so that a new one
//! leaves the others alone.

mod expr;
mod guard;
mod message;
mod ports;
mod rules;
mod uapi;

use std::sync::{Mutex, PoisonError};

use dockerd_sys::netlink::{Family, NetlinkError, Socket};

use super::guard::Guard;
use super::{Backend, BridgeRules, DropForeign, Firewall, Handled, HostPolicy, PortForward, Ruleset};
use crate::error::NetworkError;
pub(super) use guard::Damage;
use message::{INET, Transaction};
pub(super) use uapi::attribute;

/// The table's name; it is ours alone in its network namespace.
pub const TABLE: &str = "dockerd-rs";

/// The driver; works in the network namespace of those who call it.
#[derive(Debug)]
pub struct NftFirewall {
    handled: Handled,
    policy: HostPolicy,
    /// Sockets nobody uses at the moment. No lock is held while the kernel works.
    idle: Mutex<Vec<Socket>>,
}

/// Sockets kept open between transactions.
const KEPT: usize = 4;

impl NftFirewall {
    /// Whether IPv4 and IPv6 are ours to filter. What of the other kind passes by is left alone.
    pub fn new(handled: Handled, policy: HostPolicy) -> Self {
        Self { handled, policy, idle: Mutex::default() }
    }

    /// The same with another policy.
    pub(super) fn with_policy(self, policy: HostPolicy) -> Self {
        Self { policy, ..self }
    }

    /// Whether the kernel can tell answers for the daemon from others.
    pub(super) fn check_marking(&self) -> Result<(), NetworkError> {
        self.commit(rules::marking_only(), "mark answers to published ports")
    }

    fn commit(&self, transaction: Transaction, action: &'static str) -> Result<(), NetworkError> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let socket = match kept {
            Some(socket) => socket,
            None => Socket::open(Family::Netfilter).map_err(NetworkError::io("open netfilter socket"))?,
        };
        let outcome = transaction.commit(&socket);
        // A socket that failed may still have an answer in it.
        if !matches!(outcome, Err(NetlinkError::Socket(_))) {
            let mut idle = idle();
            if idle.len() < KEPT {
                idle.push(socket);
            }
        }
        outcome.map_err(NetworkError::kernel(action))
    }
}

/// A chain of iptables, which works on nf_tables by now: `None` if it is not there, else whether it drops what none of its
/// rules decides on.
pub(super) fn chain_of_iptables(ipv6: bool, table: &str, chain: &str) -> Result<Option<bool>, NetworkError> {
    let socket = Socket::open(Family::Netfilter).map_err(NetworkError::io("open netfilter socket"))?;
    let mut drops = false;
    match socket.query(&message::chain_query(ipv6, table, chain), |found| drops |= message::is_dropping(found)) {
        Err(error) if error.is(libc::ENOENT) => Ok(None),
        other => other.map(|()| Some(drops)).map_err(NetworkError::kernel("look for the chains of iptables")),
    }
}

impl Firewall for NftFirewall {
    fn install(&self, rules: &Ruleset) -> Result<(), NetworkError> {
        self.commit(rules::install(self.handled, self.policy, rules), "install the packet filter's rules")
    }

    fn add_bridge(&self, bridge: &BridgeRules, drop_foreign: DropForeign) -> Result<(), NetworkError> {
        self.commit(rules::add_bridge(self.handled, bridge, drop_foreign), "add the packet filter's rules for a bridge")
    }

    fn remove_bridge(&self, bridge: &BridgeRules) -> Result<(), NetworkError> {
        self.commit(rules::remove_bridge(bridge), "remove the packet filter's rules for a bridge")
    }

    fn redirect(&self, old: &[PortForward], new: &[PortForward]) -> Result<(), NetworkError> {
        if old.is_empty() && new.is_empty() {
            return Ok(());
        }
        self.commit(ports::redirect(self.handled, old, new), "redirect published ports")
    }

    fn publish(&self, forwards: &[PortForward]) -> Result<(), NetworkError> {
        if forwards.is_empty() {
            return Ok(());
        }
        self.commit(ports::publish(self.handled, forwards), "publish ports")
    }

    fn withdraw(&self, forwards: &[PortForward]) -> Result<(), NetworkError> {
        if forwards.is_empty() {
            return Ok(());
        }
        self.commit(ports::withdraw(self.handled, forwards), "withdraw published ports")
    }

    fn clear(&self) -> Result<(), NetworkError> {
        self.commit(rules::clear(), "remove the packet filter's rules")
    }

    fn is_damaged(&self) -> Result<bool, NetworkError> {
        // Its guard knows.
        Ok(true)
    }

    fn backend(&self) -> Backend {
        Backend::Nftables
    }

    fn forwards(&self, ipv6: bool) -> bool {
        self.handled.has(ipv6)
    }

    fn forwards_loopback(&self) -> bool {
        self.handled.has(true)
    }

    fn guard(&self) -> Result<Option<Guard>, NetworkError> {
        Guard::start(Damage::default()).map(Some)
    }
}
