//! What the packet filter has of published ports. It is kept here as well, so that all rules can be set anew at any time
//! and no port that is published meanwhile is missed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::error::NetworkError;
use crate::firewall::{BridgeRules, DropForeign, Firewall, PortForward, Ruleset};

/// The packet filter with its published ports.
#[derive(Debug)]
pub(super) struct LivePorts {
    firewall: Arc<dyn Firewall>,
    /// Shared by those who change some ports; alone has it who sets all rules.
    turn: RwLock<()>,
    forwards: Mutex<HashSet<PortForward>>,
}

impl LivePorts {
    /// None yet.
    pub(super) fn new(firewall: Arc<dyn Firewall>) -> Self {
        Self { firewall, turn: RwLock::default(), forwards: Mutex::default() }
    }

    /// Whether the packet filter serves published ports of a family.
    pub(super) fn are_served(&self, ipv6: bool) -> bool {
        self.firewall.forwards(ipv6)
    }

    /// Whether it does so at `[::1]` too.
    pub(super) fn loopback_is_served(&self) -> bool {
        self.firewall.forwards_loopback()
    }

    /// All of them, or none. Blocking.
    pub(super) fn publish(&self, forwards: &[PortForward]) -> Result<(), NetworkError> {
        self.change(&[], forwards, |firewall| firewall.publish(forwards))
    }

    /// Some for others, at once, or not at all. Blocking.
    pub(super) fn redirect(&self, old: &[PortForward], new: &[PortForward]) -> Result<(), NetworkError> {
        self.change(old, new, |firewall| firewall.redirect(old, new))
    }

    /// Whatever comes of it, they are not set again. Blocking.
    pub(super) fn withdraw(&self, forwards: &[PortForward]) -> Result<(), NetworkError> {
        let _turn = self.turn.read().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.firewall.withdraw(forwards);
        self.note(forwards, &[]);
        outcome
    }

    /// The packet filter is to have them from the next [`LivePorts::install`] on.
    pub(super) fn add(&self, forwards: &[PortForward]) {
        self.note(&[], forwards);
    }

    /// Sets all rules anew. Blocking.
    pub(super) fn install(&self, bridges: Vec<BridgeRules>, drop_foreign: DropForeign) -> Result<(), NetworkError> {
        let _turn = self.turn.write().unwrap_or_else(PoisonError::into_inner);
        let forwards = self.lock().iter().copied().collect();
        self.firewall.install(&Ruleset { bridges, forwards, drop_foreign })
    }

    fn change(
        &self,
        old: &[PortForward],
        new: &[PortForward],
        change: impl FnOnce(&dyn Firewall) -> Result<(), NetworkError>,
    ) -> Result<(), NetworkError> {
        let _turn = self.turn.read().unwrap_or_else(PoisonError::into_inner);
        change(&*self.firewall)?;
        self.note(old, new);
        Ok(())
    }

    fn note(&self, old: &[PortForward], new: &[PortForward]) {
        let mut forwards = self.lock();
        old.iter().for_each(|forward| _ = forwards.remove(forward));
        forwards.extend(new);
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<PortForward>> {
        self.forwards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    use dockerd_types::network::Protocol;

    use super::*;
    use crate::firewall::{Backend, Entry};

    /// Keeps what it was told last; waits within `publish` until it may go on.
    #[derive(Debug)]
    struct Slow {
        entered: Sender<()>,
        go_on: Mutex<Receiver<()>>,
        installed: Mutex<Option<Ruleset>>,
    }

    impl Firewall for Slow {
        fn install(&self, rules: &Ruleset) -> Result<(), NetworkError> {
            *self.installed.lock().unwrap() = Some(rules.clone());
            Ok(())
        }

        fn add_bridge(&self, _: &BridgeRules, _: DropForeign) -> Result<(), NetworkError> {
            Ok(())
        }

        fn remove_bridge(&self, _: &BridgeRules) -> Result<(), NetworkError> {
            Ok(())
        }

        fn publish(&self, _: &[PortForward]) -> Result<(), NetworkError> {
            self.entered.send(()).unwrap();
            self.go_on.lock().unwrap().recv().unwrap();
            Ok(())
        }

        fn redirect(&self, _: &[PortForward], _: &[PortForward]) -> Result<(), NetworkError> {
            Err(NetworkError::PortsExhausted)
        }

        fn withdraw(&self, _: &[PortForward]) -> Result<(), NetworkError> {
            Err(NetworkError::PortsExhausted)
        }

        fn clear(&self) -> Result<(), NetworkError> {
            Ok(())
        }

        fn is_damaged(&self) -> Result<bool, NetworkError> {
            Ok(false)
        }

        fn backend(&self) -> Backend {
            Backend::Nftables
        }

        fn forwards(&self, _: bool) -> bool {
            true
        }

        fn forwards_loopback(&self) -> bool {
            false
        }
    }

    fn forward(port: u16) -> PortForward {
        let to = SocketAddr::from(([172, 17, 0, 2], port));
        PortForward { protocol: Protocol::Tcp, entry: Entry::Host { address: None, port }, to, loopback: None }
    }

    fn slow() -> (Arc<Slow>, Receiver<()>, Sender<()>) {
        let (entered, has_entered) = channel();
        let (go, go_on) = channel();
        (Arc::new(Slow { entered, go_on: Mutex::new(go_on), installed: Mutex::default() }), has_entered, go)
    }

    fn installed(slow: &Slow) -> Vec<PortForward> {
        let rules = slow.installed.lock().unwrap().take().unwrap();
        let mut forwards = rules.forwards;
        forwards.sort_by_key(|forward| forward.to);
        forwards
    }

    #[test]
    fn setting_all_waits_for_who_is_publishing() {
        let (slow, has_entered, go) = slow();
        let live = LivePorts::new(slow.clone());
        let (over, is_over) = channel();
        std::thread::scope(|scope| {
            scope.spawn(|| live.publish(&[forward(1)]).unwrap());
            has_entered.recv().unwrap();
            scope.spawn(|| {
                live.install(Vec::new(), DropForeign::default()).unwrap();
                over.send(()).unwrap();
            });
            assert!(is_over.recv_timeout(Duration::from_millis(50)).is_err(), "rules were set while one was published");
            go.send(()).unwrap();
        });
        is_over.try_recv().unwrap();
        assert_eq!(installed(&slow), [forward(1)]);
    }

    #[test]
    fn what_failed_is_as_it_was_and_what_was_withdrawn_is_gone() {
        let (slow, _entered, _go) = slow();
        let live = LivePorts::new(slow.clone());
        let set = || {
            live.install(Vec::new(), DropForeign::default()).unwrap();
            installed(&slow)
        };
        live.add(&[forward(1), forward(2)]);
        live.redirect(&[forward(1)], &[forward(3)]).unwrap_err();
        assert_eq!(set(), [forward(1), forward(2)]);
        live.withdraw(&[forward(1)]).unwrap_err();
        assert_eq!(set(), [forward(2)]);
    }
}
