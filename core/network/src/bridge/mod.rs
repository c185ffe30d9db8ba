//! The bridge driver: containers are ports of one bridge of the host, have addresses of its subnet and reach the world
//! through the host. One value is one network; the default bridge and user-defined ones differ in their settings only.
//!
//! The driver knows addresses. Links, routes and published ports of a container belong to its sandbox, which may be on
//! several networks: see [`crate::stack`].

pub mod setup;
pub(crate) mod sweep;

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dockerd_types::ContainerId;
use dockerd_types::network::{EndpointConfig, EndpointState};

use crate::driver::{NetworkDetails, NetworkDriver, NetworkIdentity, bare_endpoint};
use crate::error::NetworkError;
use crate::firewall::BridgeRules;
use crate::ipam::{Allocator, Subnet};
use crate::link::MacAddress;
use crate::pool::ShelfId;
use crate::sandbox::LinkPlan;
use setup::BridgeLink;

/// What a bridge network is like, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSettings {
    /// Where containers' default route leads; the bridge's own address unless somebody else is the router.
    pub gateway: Ipv4Addr,
    /// The part of the subnet containers get addresses from.
    pub range: Option<Subnet>,
    /// Addresses nobody gets.
    pub reserved: Vec<Ipv4Addr>,
    /// Largest packet.
    pub mtu: u32,
    /// Whether containers may speak to each other unasked.
    pub icc: bool,
    /// Whether the outside sees the host's address instead of the container's.
    pub masquerade: bool,
    /// Whether nothing leads in or out.
    pub internal: bool,
    /// Whether others may reach containers at their own addresses.
    pub direct_routing: bool,
    /// Where ports are published that name no address.
    pub publish_address: Ipv4Addr,
    /// Options as inspect shows them.
    pub options: BTreeMap<String, String>,
}

/// Who has what.
#[derive(Debug)]
struct Leases {
    free: Allocator,
    held: HashMap<ContainerId, Ipv4Addr>,
    closed: bool,
}

/// One bridge.
#[derive(Debug)]
pub struct BridgeNetwork {
    identity: NetworkIdentity,
    bridge: BridgeLink,
    settings: BridgeSettings,
    plan: LinkPlan,
    shelf: ShelfId,
    leases: Mutex<Leases>,
    /// Somebody gave something back.
    released: Condvar,
}

impl BridgeNetwork {
    /// The driver of a bridge that is set up; `plan` describes links into it, `shelf` has them ready.
    pub fn new(
        identity: NetworkIdentity,
        bridge: BridgeLink,
        settings: BridgeSettings,
        plan: LinkPlan,
        shelf: ShelfId,
    ) -> Result<Self, NetworkError> {
        let outside = |setting, value: Ipv4Addr| {
            Err(NetworkError::OutsideSubnet { setting, value: value.into(), subnet: bridge.subnet.to_string() })
        };
        if !bridge.subnet.contains(settings.gateway) {
            return outside("default gateway", settings.gateway);
        }
        if let Some(range) = settings.range.filter(|range| !bridge.subnet.overlaps(*range)) {
            return outside("fixed CIDR", range.first());
        }
        let mut free = Allocator::new(bridge.subnet, settings.range);
        for address in [bridge.address, settings.gateway].into_iter().chain(settings.reserved.iter().copied()) {
            free.reserve(address);
        }
        let leases = Mutex::new(Leases { free, held: HashMap::new(), closed: false });
        Ok(Self { identity, bridge, settings, plan, shelf, leases, released: Condvar::new() })
    }

    /// The bridge's own address.
    pub fn address(&self) -> Ipv4Addr {
        self.bridge.address
    }

    /// The bridge's link.
    pub fn bridge(&self) -> &BridgeLink {
        &self.bridge
    }

    fn lock(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the address asked for, else the lowest free one.
    fn take(&self, container: &ContainerId, wished: Option<Ipv4Addr>) -> Result<Ipv4Addr, NetworkError> {
        let network = || self.identity.name.clone();
        if let Some(address) = wished.filter(|address| !self.bridge.subnet.contains(*address)) {
            return Err(NetworkError::AddressOutside(address.into()));
        }
        let mut leases = self.lock();
        if leases.closed {
            return Err(NetworkError::Closed { network: network() });
        }
        let address = match wished {
            // Outside the range there is no bitmap; those who have such addresses are few.
            Some(address) => {
                let subnet = self.bridge.subnet;
                let ends = subnet.prefix() < 31 && (address == subnet.first() || address == subnet.last());
                let others = leases.held.values().any(|held| *held == address)
                    || [self.bridge.address, self.settings.gateway].contains(&address)
                    || self.settings.reserved.contains(&address);
                let free = !ends && !others && leases.free.reserve(address);
                free.then_some(address).ok_or(NetworkError::AddressInUse)?
            }
            None => {
                let exhausted =
                    || NetworkError::AddressesExhausted { network: network(), id: self.identity.id.to_string() };
                leases.free.take().ok_or_else(exhausted)?
            }
        };
        leases.held.insert(container.clone(), address);
        Ok(address)
    }
}

fn hardware_address(config: &EndpointConfig) -> MacAddress {
    let wished = config.mac_address.as_deref().and_then(MacAddress::parse);
    wished.unwrap_or_else(|| MacAddress::local(crate::random()))
}

impl NetworkDriver for BridgeNetwork {
    fn identity(&self) -> &NetworkIdentity {
        &self.identity
    }

    fn kind(&self) -> &'static str {
        "bridge"
    }

    fn shelf(&self) -> Option<ShelfId> {
        Some(self.shelf)
    }

    fn link(&self) -> Option<LinkPlan> {
        Some(self.plan)
    }

    fn allot(&self, container: &ContainerId, config: &EndpointConfig) -> Result<EndpointState, NetworkError> {
        let address = self.take(container, config.ipv4)?;
        Ok(EndpointState {
            ipv4: Some((address, self.bridge.subnet.prefix())),
            gateway4: (!self.settings.internal).then_some(self.settings.gateway),
            mac_address: hardware_address(config).to_string(),
            ..bare_endpoint(&self.identity)
        })
    }

    fn keep(&self, container: &ContainerId, state: &EndpointState) {
        let Some((address, _)) = state.ipv4 else { return };
        let mut leases = self.lock();
        leases.free.reserve(address);
        leases.held.insert(container.clone(), address);
    }

    fn release(&self, container: &ContainerId) {
        let mut leases = self.lock();
        if let Some(address) = leases.held.remove(container) {
            leases.free.release(address);
            self.released.notify_all();
        }
    }

    fn reopen(&self) {
        self.lock().closed = false;
    }

    fn close(&self, patience: Duration) -> Result<(), NetworkError> {
        let waited = self.released.wait_timeout_while(self.lock(), patience, |leases| !leases.held.is_empty());
        let (mut leases, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if !leases.held.is_empty() {
            return Err(NetworkError::InUse { network: self.identity.name.clone() });
        }
        leases.closed = true;
        Ok(())
    }

    fn publish_address(&self) -> Option<Ipv4Addr> {
        (!self.settings.internal).then_some(self.settings.publish_address)
    }

    fn rules(&self) -> Option<BridgeRules> {
        Some(BridgeRules {
            link: self.bridge.name.clone(),
            subnet: self.bridge.subnet,
            icc: self.settings.icc,
            internal: self.settings.internal,
            masquerade: self.settings.masquerade,
            direct_routing: self.settings.direct_routing,
        })
    }

    fn details(&self) -> NetworkDetails {
        NetworkDetails {
            subnet: Some(self.bridge.subnet),
            range: self.settings.range,
            gateway: Some(self.settings.gateway),
            options: self.settings.options.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pool::SandboxPool;

    fn network(range: Option<&str>) -> BridgeNetwork {
        let subnet: Subnet = "10.5.0.0/24".parse().expect("subnet");
        let pool = SandboxPool::start().expect("pool");
        let plan = LinkPlan { bridge: 1, mtu: 1500, isolated: false };
        let shelf = pool.add_idle_shelf(crate::sandbox::Blueprint::Plain);
        let settings = BridgeSettings {
            gateway: Ipv4Addr::new(10, 5, 0, 1),
            range: range.map(|text| text.parse().expect("range")),
            reserved: vec![Ipv4Addr::new(10, 5, 0, 3)],
            mtu: 1500,
            icc: true,
            masquerade: true,
            internal: false,
            direct_routing: false,
            publish_address: Ipv4Addr::UNSPECIFIED,
            options: BTreeMap::new(),
        };
        let link = BridgeLink { index: 1, name: "br-x".to_owned(), address: settings.gateway, subnet };
        let id = dockerd_types::NetworkId::from_random([0xa7; 32]).expect("id");
        BridgeNetwork::new(NetworkIdentity { id, name: "n".to_owned() }, link, settings, plan, shelf).expect("network")
    }

    fn container(number: u8) -> ContainerId {
        ContainerId::parse(&format!("{number:064x}")).expect("id")
    }

    fn asked(last: u8) -> EndpointConfig {
        EndpointConfig { ipv4: Some(Ipv4Addr::new(10, 5, 0, last)), ..EndpointConfig::default() }
    }

    #[test]
    fn addresses_asked_for() {
        let network = network(Some("10.5.0.128/25"));
        let any = EndpointConfig::default();
        let last = |number, config: &EndpointConfig| {
            network.allot(&container(number), config).map(|state| state.ipv4.map_or(0, |(ip, _)| ip.octets()[3]))
        };
        assert_eq!(last(1, &any).ok(), Some(128));
        // Inside the range and outside it.
        assert_eq!(last(2, &asked(129)).ok(), Some(129));
        assert_eq!(last(3, &asked(9)).ok(), Some(9));
        assert_eq!(last(4, &any).ok(), Some(130));
        for taken in [1, 9, 128] {
            assert!(matches!(last(5, &asked(taken)), Err(NetworkError::AddressInUse)), "{taken}");
        }
        let outside = EndpointConfig { ipv4: Some(Ipv4Addr::new(10, 6, 0, 1)), ..EndpointConfig::default() };
        assert!(matches!(last(5, &outside), Err(NetworkError::AddressOutside(_))));
        assert!(matches!(network.close(Duration::ZERO), Err(NetworkError::InUse { .. })));
        (1..=4).for_each(|number| network.release(&container(number)));
        network.close(Duration::ZERO).expect("nobody is on it");
        assert!(matches!(last(5, &any), Err(NetworkError::Closed { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Nobody gets what another has, whatever is asked for and given back.
        #[test]
        fn addresses_have_one_owner(steps in proptest::collection::vec((0u8..40, proptest::option::of(0u8..=255)), 1..120)) {
            let network = network(None);
            let mut owners = HashMap::new();
            for (number, wished) in steps {
                if owners.remove(&number).is_some() {
                    network.release(&container(number));
                    continue;
                }
                let config = wished.map_or_else(EndpointConfig::default, asked);
                let free = wished.is_none_or(|last| !matches!(last, 0 | 1 | 3 | 255) && !owners.values().any(|o| *o == last));
                let given = network.allot(&container(number), &config).ok().and_then(|state| state.ipv4);
                prop_assert_eq!(given.is_some(), free);
                if let Some((address, _)) = given {
                    let last = address.octets()[3];
                    prop_assert!(!matches!(last, 0 | 1 | 3 | 255));
                    prop_assert!(!owners.values().any(|other| *other == last));
                    prop_assert!(wished.is_none_or(|wished| wished == last));
                    owners.insert(number, last);
                }
            }
        }
    }
}
