//! Which host ports containers have. Pure: whether another program has one is found out by whoever binds it.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use dockerd_types::network::{HostPort, Protocol};

/// Why no port was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// This one is taken.
    Taken(SocketAddr),
    /// All of the range are.
    Exhausted,
}

/// Both "all addresses" and each address of the family are in the same slot: they exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Slot {
    protocol: Protocol,
    ipv6: bool,
    port: u16,
}

/// The ports containers have.
#[derive(Debug)]
pub struct PortAllocator {
    /// Where ports come from that are not named, both ends included.
    ephemeral: (u16, u16),
    /// The addresses that have a port; seldom more than one.
    owners: HashMap<Slot, Vec<IpAddr>>,
    /// The last port an address drew from the ephemeral range; the next one comes after it.
    drawn: HashMap<(IpAddr, Protocol), u16>,
}

impl PortAllocator {
    /// With the host's ephemeral range.
    pub fn new(ephemeral: (u16, u16)) -> Self {
        Self { ephemeral, owners: HashMap::new(), drawn: HashMap::new() }
    }

    /// Takes one port, the same on all `addresses`, that fits `wish` and is not in `tried`. What the addresses exclude
    /// among themselves is not looked at.
    pub fn take(
        &mut self,
        addresses: &[IpAddr],
        protocol: Protocol,
        wish: HostPort,
        tried: &BTreeSet<u16>,
    ) -> Result<u16, Refusal> {
        let free = |port: &u16| !tried.contains(port) && self.conflict(addresses, protocol, *port).is_none();
        let port = match wish {
            HostPort::Range(first, last) if first == last => {
                if let Some(address) = self.conflict(addresses, protocol, first) {
                    return Err(Refusal::Taken(SocketAddr::new(address, first)));
                }
                (!tried.contains(&first)).then_some(first)
            }
            HostPort::Range(first, last) => (first..=last).find(free),
            HostPort::Ephemeral => {
                let (first, last) = self.ephemeral;
                let drawn = addresses.iter().filter_map(|ip| self.drawn.get(&(*ip, protocol)).copied()).max();
                let after = drawn.filter(|port| (first..last).contains(port)).map_or(first, |port| port + 1);
                (after..=last).chain(first..after).find(free)
            }
        };
        let port = port.ok_or(Refusal::Exhausted)?;
        for address in addresses {
            self.owners.entry(slot(address, protocol, port)).or_default().push(*address);
            if wish == HostPort::Ephemeral {
                self.drawn.insert((*address, protocol), port);
            }
        }
        Ok(port)
    }

    /// Gives a port back.
    pub fn release(&mut self, addresses: &[IpAddr], protocol: Protocol, port: u16) {
        for address in addresses {
            let slot = slot(address, protocol, port);
            let Some(owners) = self.owners.get_mut(&slot) else { continue };
            if let Some(at) = owners.iter().position(|owner| owner == address) {
                owners.swap_remove(at);
            }
            if owners.is_empty() {
                self.owners.remove(&slot);
            }
        }
    }

    /// The address on which somebody has the port already.
    fn conflict(&self, addresses: &[IpAddr], protocol: Protocol, port: u16) -> Option<IpAddr> {
        addresses.iter().find_map(|wanted| {
            let owners = self.owners.get(&slot(wanted, protocol, port))?;
            owners.iter().copied().find(|owner| exclude(owner, wanted))
        })
    }
}

/// Whether only one of two addresses can have a port. "All addresses" and each of them exclude each other.
pub fn exclude(one: &IpAddr, other: &IpAddr) -> bool {
    let same_family = one.is_ipv4() == other.is_ipv4();
    one == other || (same_family && (one.is_unspecified() || other.is_unspecified()))
}

fn slot(address: &IpAddr, protocol: Protocol, port: u16) -> Slot {
    Slot { protocol, ipv6: address.is_ipv6(), port }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ANY: [IpAddr; 2] = [IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)];
    const LOCAL: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)];

    fn take(ports: &mut PortAllocator, addresses: &[IpAddr], wish: HostPort) -> Result<u16, Refusal> {
        ports.take(addresses, Protocol::Tcp, wish, &BTreeSet::new())
    }

    #[test]
    fn ephemeral_ports_go_round() {
        let mut ports = PortAllocator::new((32768, 32770));
        let wish = HostPort::Ephemeral;
        assert_eq!(take(&mut ports, &ANY, wish), Ok(32768));
        ports.release(&ANY, Protocol::Tcp, 32768);
        assert_eq!(take(&mut ports, &ANY, wish), Ok(32769));
        // Another address has a count of its own, and keeps off what all addresses have.
        assert_eq!(take(&mut ports, &LOCAL, wish), Ok(32768));
        assert_eq!(take(&mut ports, &ANY, wish), Ok(32770));
        assert_eq!(take(&mut ports, &ANY, wish), Err(Refusal::Exhausted));
    }

    #[test]
    fn named_ports_and_ranges() {
        let mut ports = PortAllocator::new((32768, 60999));
        assert_eq!(take(&mut ports, &ANY, HostPort::Range(80, 80)), Ok(80));
        let taken = Refusal::Taken("0.0.0.0:80".parse().expect("address"));
        assert_eq!(take(&mut ports, &ANY, HostPort::Range(80, 80)), Err(taken));
        assert_eq!(take(&mut ports, &ANY, HostPort::Range(80, 81)), Ok(81));
        assert_eq!(take(&mut ports, &ANY, HostPort::Range(80, 81)), Err(Refusal::Exhausted));
        // The text names who has it.
        assert_eq!(take(&mut ports, &LOCAL, HostPort::Range(80, 80)), Err(taken));
        assert_eq!(ports.take(&ANY, Protocol::Udp, HostPort::Range(80, 80), &BTreeSet::new()), Ok(80));
        let tried = BTreeSet::from([90]);
        assert_eq!(ports.take(&ANY, Protocol::Tcp, HostPort::Range(90, 91), &tried), Ok(91));
    }

    proptest! {
        #[test]
        fn nobody_gets_what_another_has(steps in proptest::collection::vec((0u8..3, any::<bool>(), 0u16..8), 0..200)) {
            let mut ports = PortAllocator::new((100, 105));
            let mut held: Vec<(&[IpAddr], u16)> = Vec::new();
            for (action, all, pick) in steps {
                let addresses: &[IpAddr] = if all { &ANY } else { &LOCAL };
                if action == 0 && !held.is_empty() {
                    let (addresses, port) = held.swap_remove(usize::from(pick) % held.len());
                    ports.release(addresses, Protocol::Tcp, port);
                    continue;
                }
                let wish = if action == 1 { HostPort::Ephemeral } else { HostPort::Range(100 + pick, 103 + pick) };
                if let Ok(port) = take(&mut ports, addresses, wish) {
                    prop_assert!(held.iter().all(|(_, other)| *other != port));
                    held.push((addresses, port));
                }
            }
        }
    }
}
