//! The packet filter where nobody said who is to set the rules: nf_tables, until the host begins to drop by iptables' chain
//! FORWARD what no rule of iptables lets through (ufw, when it is enabled). From then on iptables, as if that had been so at
//! the start; it stays so, since a rule more in a chain that lets everything through does no harm.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use super::guard::{Change, Judge};
use super::iptables::{IptablesFirewall, Touched};
use super::nft::{Damage, NftFirewall, attribute};
use super::{Backend, BridgeRules, DropForeign, Firewall, Guard, Handled, PortForward, Ruleset, is_dropped_by_host};
use crate::error::NetworkError;

/// The driver.
#[derive(Debug)]
pub(super) struct Automatic {
    handled: Handled,
    nft: NftFirewall,
    iptables: IptablesFirewall,
    /// Who it is. Changes have an order with those that go to one of them.
    backend: RwLock<Backend>,
    heard: Arc<Heard>,
}

/// What the judge of this driver's guard tells it.
#[derive(Debug, Default)]
struct Heard {
    is_iptables: AtomicBool,
    /// Rules of nf_tables are missing.
    is_damaged: AtomicBool,
}

impl Automatic {
    /// Begins with nf_tables.
    pub(super) fn new(handled: Handled, nft: NftFirewall, iptables: IptablesFirewall) -> Self {
        Self { handled, nft, iptables, backend: RwLock::default(), heard: Arc::default() }
    }

    fn backend(&self) -> RwLockReadGuard<'_, Backend> {
        self.backend.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with who it is.
    fn with<T>(&self, work: impl FnOnce(&dyn Firewall) -> T) -> T {
        let backend = self.backend();
        match *backend {
            Backend::Nftables => work(&self.nft),
            Backend::Iptables => work(&self.iptables),
        }
    }

    /// Hands everything over to iptables.
    fn change_over(&self, backend: &mut Backend, rules: &Ruleset) -> Result<(), NetworkError> {
        self.iptables.install(rules)?;
        *backend = Backend::Iptables;
        self.heard.is_iptables.store(true, Ordering::Relaxed);
        tracing::info!("the host drops what no rule of iptables forwards; ours are set by iptables from now on");
        if let Err(error) = self.nft.clear() {
            tracing::warn!(%error, "rules of nf_tables are left");
        }
        Ok(())
    }
}

impl Firewall for Automatic {
    fn install(&self, rules: &Ruleset) -> Result<(), NetworkError> {
        let mut backend = self.backend.write().unwrap_or_else(PoisonError::into_inner);
        if *backend == Backend::Iptables {
            return self.iptables.install(rules);
        }
        if !is_dropped_by_host(self.handled, &self.iptables) {
            return self.nft.install(rules);
        }
        self.change_over(&mut backend, rules).or_else(|error| {
            tracing::warn!(%error, "the host drops what no rule of iptables forwards: containers may be cut off");
            // One family may be done.
            if let Err(error) = self.iptables.clear() {
                tracing::warn!(%error, "rules of iptables are left");
            }
            self.nft.install(rules)
        })
    }

    fn add_bridge(&self, bridge: &BridgeRules, drop_foreign: DropForeign) -> Result<(), NetworkError> {
        self.with(|firewall| firewall.add_bridge(bridge, drop_foreign))
    }

    fn remove_bridge(&self, bridge: &BridgeRules) -> Result<(), NetworkError> {
        self.with(|firewall| firewall.remove_bridge(bridge))
    }

    fn publish(&self, forwards: &[PortForward]) -> Result<(), NetworkError> {
        self.with(|firewall| firewall.publish(forwards))
    }

    fn redirect(&self, old: &[PortForward], new: &[PortForward]) -> Result<(), NetworkError> {
        self.with(|firewall| firewall.redirect(old, new))
    }

    fn withdraw(&self, forwards: &[PortForward]) -> Result<(), NetworkError> {
        self.with(|firewall| firewall.withdraw(forwards))
    }

    fn clear(&self) -> Result<(), NetworkError> {
        self.with(|firewall| firewall.clear())
    }

    fn forwards(&self, ipv6: bool) -> bool {
        self.handled.has(ipv6)
    }

    fn forwards_loopback(&self) -> bool {
        self.with(|firewall| firewall.forwards_loopback())
    }

    fn guard(&self) -> Result<Option<Guard>, NetworkError> {
        let (heard, damage, touched) = (self.heard.clone(), Damage::default(), self.iptables.touched());
        Guard::start(Either { heard, damage, touched, is_host_changed: false }).map(Some)
    }

    fn is_damaged(&self) -> Result<bool, NetworkError> {
        match *self.backend() {
            Backend::Nftables => {
                let is_damaged = self.heard.is_damaged.swap(false, Ordering::Relaxed);
                Ok(is_damaged || is_dropped_by_host(self.handled, &self.iptables))
            }
            Backend::Iptables => self.iptables.is_damaged(),
        }
    }

    fn backend(&self) -> Backend {
        *Automatic::backend(self)
    }
}

/// The judge of whoever it is, who also notes when the host's own chain FORWARD becomes another one.
#[derive(Debug)]
struct Either {
    heard: Arc<Heard>,
    damage: Damage,
    touched: Touched,
    is_host_changed: bool,
}

impl Judge for Either {
    fn note(&mut self, change: &Change<'_>) -> bool {
        let (damaged, touched) = (self.damage.note(change), self.touched.note(change));
        if self.heard.is_iptables.load(Ordering::Relaxed) {
            return touched;
        }
        if damaged {
            self.missed();
        }
        let kind = i32::from(change.kind);
        if kind == libc::NFT_MSG_NEWGEN {
            let is_host_changed = std::mem::take(&mut self.is_host_changed) && !self.touched.is_own(change);
            return is_host_changed || damaged;
        }
        let is_of_iptables = [libc::NFPROTO_IPV4, libc::NFPROTO_IPV6].contains(&change.family.into());
        self.is_host_changed |= is_of_iptables
            && kind == libc::NFT_MSG_NEWCHAIN
            && change.text(attribute::CHAIN_TABLE) == Some("filter")
            && change.text(attribute::CHAIN_NAME) == Some("FORWARD");
        false
    }

    fn missed(&mut self) {
        self.heard.is_damaged.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use dockerd_sys::netlink::MessageWriter;

    use super::*;
    use crate::firewall::HostPolicy;
    use crate::firewall::guard::tests::tell;

    #[test]
    fn only_the_hosts_own_forwarding_counts() {
        let handled = Handled { ipv4: true, ipv6: true };
        let iptables = IptablesFirewall::new(handled, HostPolicy::Bypassed);
        let heard = Arc::<Heard>::default();
        let (damage, touched) = (Damage::default(), iptables.touched());
        let mut judge = Either { heard: heard.clone(), damage, touched, is_host_changed: false };
        let mut transaction = |family, kind, table: &str, chain: &str| {
            let named = |out: &mut MessageWriter<'_>| {
                out.c_text(attribute::CHAIN_TABLE, table).c_text(attribute::CHAIN_NAME, chain);
            };
            assert!(!tell(&mut judge, family, kind, named));
            tell(&mut judge, 0, libc::NFT_MSG_NEWGEN, |_| {})
        };
        assert!(transaction(libc::NFPROTO_IPV4, libc::NFT_MSG_NEWCHAIN, "filter", "FORWARD"));
        assert!(transaction(libc::NFPROTO_IPV6, libc::NFT_MSG_NEWCHAIN, "filter", "FORWARD"));
        assert!(!transaction(libc::NFPROTO_IPV4, libc::NFT_MSG_NEWCHAIN, "filter", "INPUT"));
        assert!(!transaction(libc::NFPROTO_INET, libc::NFT_MSG_NEWCHAIN, "filter", "FORWARD"));
        assert!(
            !transaction(libc::NFPROTO_IPV4, libc::NFT_MSG_DELRULE, "filter", "FORWARD"),
            "not while it is nf_tables"
        );
        assert!(!heard.is_damaged.load(Ordering::Relaxed));
        heard.is_iptables.store(true, Ordering::Relaxed);
        assert!(transaction(libc::NFPROTO_IPV4, libc::NFT_MSG_DELRULE, "filter", "FORWARD"));
        assert!(!transaction(libc::NFPROTO_IPV4, libc::NFT_MSG_NEWCHAIN, "filter", "FORWARD"));
    }
}
