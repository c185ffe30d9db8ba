//! Who has which addresses on one network: at most one of each family, from whatever subnet of that family has one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dockerd_types::ContainerId;

use super::{Allocator, Subnet};
use crate::driver::NetworkIdentity;
use crate::error::NetworkError;

/// A subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetPlan {
    /// Which.
    pub subnet: Subnet,
    /// The part of it that addresses are drawn from.
    pub range: Option<Subnet>,
    /// Where those on it find the way out; `None`: nowhere.
    pub gateway: Option<IpAddr>,
    /// Addresses nobody gets.
    pub reserved: Vec<IpAddr>,
}

/// An address that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease<A> {
    /// The address.
    pub address: A,
    /// Bits of its subnet's prefix.
    pub prefix: u8,
    /// The way out of its subnet.
    pub gateway: Option<A>,
}

/// A subnet and what of it is in use.
#[derive(Debug)]
struct Pool {
    plan: SubnetPlan,
    free: Allocator,
}

impl Pool {
    fn new(plan: SubnetPlan) -> Self {
        let mut free = Allocator::new(plan.subnet, plan.range);
        for address in plan.reserved.iter().copied().chain(plan.gateway) {
            free.reserve(address);
        }
        Self { plan, free }
    }

    /// Whether nobody may ever have this address of the subnet.
    fn is_reserved(&self, address: IpAddr) -> bool {
        let subnet = self.plan.subnet;
        (subnet.has_own_address() && address == subnet.first())
            || (subnet.has_broadcast() && address == subnet.last())
            || self.plan.gateway == Some(address)
            || self.plan.reserved.contains(&address)
    }
}

#[derive(Debug, Default)]
struct State {
    pools: Vec<Pool>,
    held: HashMap<ContainerId, Vec<IpAddr>>,
    closed: bool,
}

impl State {
    /// Takes the address asked for, else the lowest free one of the family. The pool it is from is told with it; `None`
    /// where the family is used up.
    fn take(&mut self, ipv6: bool, wished: Option<IpAddr>) -> Result<Option<(IpAddr, usize)>, NetworkError> {
        let Some(address) = wished else {
            let pools = self.pools.iter_mut().enumerate().filter(|(_, pool)| pool.plan.subnet.is_ipv6() == ipv6);
            return Ok({ pools }.find_map(|(at, pool)| Some((pool.free.take()?, at))));
        };
        let at = self.pools.iter().position(|pool| pool.plan.subnet.contains(address));
        let at = at.ok_or(NetworkError::AddressOutside(address))?;
        // Outside the range there is no bitmap; those who have such addresses are few.
        let others = || self.held.values().flatten().any(|held| *held == address);
        let free = !self.pools[at].is_reserved(address) && !others() && self.pools[at].free.reserve(address);
        free.then_some(Some((address, at))).ok_or(NetworkError::AddressInUse)
    }

    fn give_back(&mut self, address: IpAddr) {
        for pool in &mut self.pools {
            pool.free.release(address);
        }
    }
}

/// The addresses of one network.
#[derive(Debug)]
pub struct Leases {
    network: NetworkIdentity,
    state: Mutex<State>,
    /// Somebody gave something back.
    released: Condvar,
    ipv4: bool,
    ipv6: bool,
}

impl Leases {
    /// All of these are free but what is reserved.
    pub fn new(network: NetworkIdentity, subnets: Vec<SubnetPlan>) -> Self {
        let has = |ipv6| subnets.iter().any(|plan| plan.subnet.is_ipv6() == ipv6);
        let (ipv4, ipv6) = (has(false), has(true));
        let pools = subnets.into_iter().map(Pool::new).collect();
        let state = Mutex::new(State { pools, ..State::default() });
        Self { network, state, released: Condvar::new(), ipv4, ipv6 }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An address of each family the network has; those wished for, else the lowest free ones. A container that has some
    /// already keeps none of them. Nothing is taken on failure.
    #[expect(clippy::type_complexity, reason = "one lease for each family")]
    pub fn allot(
        &self,
        container: &ContainerId,
        ipv4: Option<Ipv4Addr>,
        ipv6: Option<Ipv6Addr>,
    ) -> Result<(Option<Lease<Ipv4Addr>>, Option<Lease<Ipv6Addr>>), NetworkError> {
        let mut state = self.lock();
        if state.closed {
            return Err(NetworkError::Closed { network: self.network.name.clone() });
        }
        let four = if self.ipv4 { Some(self.take(&mut state, false, ipv4.map(IpAddr::V4))?) } else { None };
        let six = match self.ipv6.then(|| self.take(&mut state, true, ipv6.map(IpAddr::V6))).transpose() {
            Ok(six) => six,
            Err(error) => {
                four.into_iter().for_each(|(address, _)| state.give_back(address));
                return Err(error);
            }
        };
        let out = (
            four.and_then(|(address, at)| lease(&state.pools[at].plan, address, as_ipv4)),
            six.and_then(|(address, at)| lease(&state.pools[at].plan, address, as_ipv6)),
        );
        let held = four.into_iter().chain(six).map(|(address, _)| address).collect();
        if let Some(before) = state.held.insert(container.clone(), held) {
            before.into_iter().for_each(|address| state.give_back(address));
        }
        Ok(out)
    }

    fn take(&self, state: &mut State, ipv6: bool, wished: Option<IpAddr>) -> Result<(IpAddr, usize), NetworkError> {
        state.take(ipv6, wished)?.ok_or_else(|| NetworkError::AddressesExhausted {
            family: if ipv6 { "IPv6" } else { "IPv4" },
            network: self.network.name.clone(),
            id: self.network.id.to_string(),
        })
    }

    /// Takes over what a container that outlived a daemon has.
    pub fn keep(&self, container: &ContainerId, addresses: impl Iterator<Item = IpAddr>) {
        let mut state = self.lock();
        let held: Vec<IpAddr> = addresses.collect();
        for address in &held {
            for pool in &mut state.pools {
                pool.free.reserve(*address);
            }
        }
        state.held.insert(container.clone(), held);
    }

    /// Gives back what a container has; idempotent.
    pub fn release(&self, container: &ContainerId) {
        let mut state = self.lock();
        if let Some(held) = state.held.remove(container) {
            held.into_iter().for_each(|address| state.give_back(address));
            self.released.notify_all();
        }
    }

    /// Nobody gets an address any more. Fails if one still has some after `patience`. Blocking for so long.
    pub fn close(&self, patience: Duration) -> Result<(), NetworkError> {
        let waited = self.released.wait_timeout_while(self.lock(), patience, |state| !state.held.is_empty());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if !state.held.is_empty() {
            return Err(NetworkError::InUse { network: self.network.name.clone() });
        }
        state.closed = true;
        Ok(())
    }

    /// Takes [`Leases::close`] back.
    pub fn reopen(&self) {
        self.lock().closed = false;
    }
}

fn lease<A>(plan: &SubnetPlan, address: IpAddr, of: fn(IpAddr) -> Option<A>) -> Option<Lease<A>> {
    Some(Lease { address: of(address)?, prefix: plan.subnet.prefix(), gateway: plan.gateway.and_then(of) })
}

fn as_ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn as_ipv6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use dockerd_types::NetworkId;
    use proptest::prelude::*;

    use super::*;

    fn leases(plans: Vec<SubnetPlan>) -> Leases {
        let id = NetworkId::from_random([0xab; 32]).expect("id");
        Leases::new(NetworkIdentity { id, name: "n".to_owned() }, plans)
    }

    fn plan(subnet: &str, range: Option<&str>, gateway: &str, reserved: &[&str]) -> SubnetPlan {
        SubnetPlan {
            subnet: subnet.parse().expect("subnet"),
            range: range.map(|text| text.parse().expect("range")),
            gateway: Some(gateway.parse().expect("address")),
            reserved: reserved.iter().map(|text| text.parse().expect("address")).collect(),
        }
    }

    fn container(number: u8) -> ContainerId {
        ContainerId::parse(&format!("{number:064x}")).expect("id")
    }

    fn at(last: u8) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::new(10, 5, 0, last))
    }

    #[test]
    fn addresses_asked_for() {
        let network = leases(vec![plan("10.5.0.0/24", Some("10.5.0.128/25"), "10.5.0.1", &[])]);
        let last = |number, wish| {
            let allotted = network.allot(&container(number), wish, None);
            allotted.map(|(four, _)| four.map_or(0, |lease| lease.address.octets()[3]))
        };
        assert_eq!(last(1, None).ok(), Some(128));
        // Inside the range and outside it.
        assert_eq!(last(2, at(129)).ok(), Some(129));
        assert_eq!(last(3, at(9)).ok(), Some(9));
        assert_eq!(last(4, None).ok(), Some(130));
        for taken in [0, 1, 9, 128, 255] {
            assert!(matches!(last(5, at(taken)), Err(NetworkError::AddressInUse)), "{taken}");
        }
        let outside = Some(Ipv4Addr::new(10, 6, 0, 1));
        assert!(matches!(last(5, outside), Err(NetworkError::AddressOutside(_))));
        assert!(matches!(network.close(Duration::ZERO), Err(NetworkError::InUse { .. })));
        (1..=4).for_each(|number| network.release(&container(number)));
        network.close(Duration::ZERO).expect("nobody is on it");
        assert!(matches!(last(5, None), Err(NetworkError::Closed { .. })));
    }

    #[test]
    fn one_of_each_family_or_none() {
        let six = plan("fd00:5::/126", None, "fd00:5::1", &[]);
        let network = leases(vec![plan("10.5.0.0/24", None, "10.5.0.1", &[]), six]);
        let allot = |number| network.allot(&container(number), None, None);
        let (four, six) = allot(1).expect("both");
        assert_eq!(four.map(|lease| lease.address), at(2));
        assert_eq!(six.map(|lease| lease.address.to_string()).as_deref(), Some("fd00:5::2"));
        allot(2).expect("both");
        // IPv6 is used up; the IPv4 address is not lost.
        assert!(matches!(allot(3), Err(NetworkError::AddressesExhausted { family: "IPv6", .. })));
        network.release(&container(2));
        assert_eq!(allot(3).expect("both").0.map(|lease| lease.address), at(3));
    }

    #[test]
    fn subnets_of_one_family_follow_each_other() {
        let plans = vec![plan("10.5.0.0/30", None, "10.5.0.1", &[]), plan("10.6.0.0/30", None, "10.6.0.1", &[])];
        let network = leases(plans);
        let allot = |number| network.allot(&container(number), None, None).map(|(four, _)| four);
        let lease =
            |a, b, c, d, gateway| Lease { address: Ipv4Addr::new(a, b, c, d), prefix: 30, gateway: Some(gateway) };
        assert_eq!(allot(1).ok().flatten(), Some(lease(10, 5, 0, 2, Ipv4Addr::new(10, 5, 0, 1))));
        assert_eq!(allot(2).ok().flatten(), Some(lease(10, 6, 0, 2, Ipv4Addr::new(10, 6, 0, 1))));
        assert!(matches!(allot(3), Err(NetworkError::AddressesExhausted { family: "IPv4", .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Nobody gets what another has, whatever is asked for and given back.
        #[test]
        fn addresses_have_one_owner(steps in proptest::collection::vec((0u8..40, proptest::option::of(0u8..=255)), 1..120)) {
            let network = leases(vec![plan("10.5.0.0/24", None, "10.5.0.1", &["10.5.0.3"])]);
            let mut owners = HashMap::new();
            for (number, wished) in steps {
                if owners.remove(&number).is_some() {
                    network.release(&container(number));
                    continue;
                }
                let free = wished.is_none_or(|last| !matches!(last, 0 | 1 | 3 | 255) && !owners.values().any(|o| *o == last));
                let given = network.allot(&container(number), wished.and_then(at), None).ok().and_then(|(four, _)| four);
                prop_assert_eq!(given.is_some(), free);
                if let Some(lease) = given {
                    let last = lease.address.octets()[3];
                    prop_assert!(!matches!(last, 0 | 1 | 3 | 255));
                    prop_assert!(!owners.values().any(|other| *other == last));
                    prop_assert!(wished.is_none_or(|wished| wished == last));
                    owners.insert(number, last);
                }
            }
        }
    }
}
