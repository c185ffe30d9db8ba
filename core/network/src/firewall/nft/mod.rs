//! nftables by netlink: one table of ours per network namespace. Published ports are elements of two maps, so that a
//! container with many ports costs one transaction and no rule; the rules themselves are set once.

mod expr;
mod message;
mod rules;
mod uapi;

use std::sync::{Mutex, PoisonError};

use dockerd_sys::netlink::{Family, NetlinkError, Socket};

use super::{BridgeRules, DropForeign, Firewall, PortForward, Ruleset};
use crate::error::NetworkError;
use message::Transaction;

/// The table's name; it is ours alone in its network namespace.
pub const TABLE: &str = "dockerd-rs";

/// The driver; works in the network namespace of those who call it.
#[derive(Debug, Default)]
pub struct NftFirewall {
    /// Sockets nobody uses at the moment. No lock is held while the kernel works.
    idle: Mutex<Vec<Socket>>,
}

/// Sockets kept open between transactions.
const KEPT: usize = 4;

impl NftFirewall {
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

impl Firewall for NftFirewall {
    fn install(&self, rules: &Ruleset) -> Result<(), NetworkError> {
        self.commit(rules::install(rules), "install the packet filter's rules")
    }

    fn replace_bridges(&self, bridges: &[BridgeRules], drop_foreign: DropForeign) -> Result<(), NetworkError> {
        self.commit(rules::replace(bridges, drop_foreign), "replace the packet filter's rules")
    }

    fn redirect(&self, old: &[PortForward], new: &[PortForward]) -> Result<(), NetworkError> {
        if old.is_empty() && new.is_empty() {
            return Ok(());
        }
        self.commit(rules::redirect(old, new), "redirect published ports")
    }

    fn publish(&self, forwards: &[PortForward]) -> Result<(), NetworkError> {
        if forwards.is_empty() {
            return Ok(());
        }
        self.commit(rules::publish(forwards), "publish ports")
    }

    fn withdraw(&self, forwards: &[PortForward]) -> Result<(), NetworkError> {
        if forwards.is_empty() {
            return Ok(());
        }
        self.commit(rules::withdraw(forwards), "withdraw published ports")
    }

    fn forwards(&self) -> bool {
        true
    }
}
