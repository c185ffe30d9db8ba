//! Where subnets of networks without one of their own come from: `--default-address-pool`, Docker's defaults otherwise.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Subnet;

/// A range cut into subnets of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPool {
    /// The range.
    pub base: Subnet,
    /// Prefix length of each subnet cut from it.
    pub size: u8,
}

impl AddressPool {
    /// Its first subnet that overlaps nothing of `taken`. None when `size` is shorter than the base's prefix.
    fn first_free(self, taken: &[Subnet]) -> Option<Subnet> {
        let first = Subnet::containing(self.base.first(), self.size).filter(|_| self.size >= self.base.prefix())?;
        let step = 1u128.checked_shl(first.rest().into())?;
        let mut offset = 0;
        loop {
            let subnet = Subnet::containing(self.base.nth(offset)?, self.size)?;
            let Some(other) = taken.iter().find(|other| other.overlaps(subnet)) else { return Some(subnet) };
            // Behind all of the other: an IPv6 pool may have more subnets than could be looked at.
            offset = (self.base.offset(other.last())? / step).checked_add(1)?.checked_mul(step)?;
        }
    }
}

/// Docker's pools for local networks.
pub fn defaults() -> Vec<AddressPool> {
    let pool = |a: u8, b: u8, prefix: u8, size: u8| {
        Subnet::containing(Ipv4Addr::new(a, b, 0, 0), prefix).map(|base| AddressPool { base, size })
    };
    [
        pool(172, 17, 16, 16),
        pool(172, 18, 16, 16),
        pool(172, 19, 16, 16),
        pool(172, 20, 14, 16),
        pool(172, 24, 14, 16),
        pool(172, 28, 14, 16),
        pool(192, 168, 16, 20),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The pool of a site's own IPv6 networks, of the random number that makes it unlike others' (RFC 4193, section 3.2).
pub fn unique_local(global_id: [u8; 5]) -> Option<AddressPool> {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&global_id);
    Subnet::containing(Ipv6Addr::from(octets), 48).map(|base| AddressPool { base, size: 64 })
}

/// The first subnet of the pools of that family that overlaps nothing of `taken`.
pub fn first_free(pools: &[AddressPool], ipv6: bool, taken: &[Subnet]) -> Option<Subnet> {
    pools.iter().filter(|pool| pool.base.is_ipv6() == ipv6).find_map(|pool| pool.first_free(taken))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().expect("subnet")
    }

    #[test]
    fn the_next_free_subnet_is_taken() {
        let free = |taken: &[&str]| {
            let taken: Vec<Subnet> = taken.iter().map(|text| subnet(text)).collect();
            first_free(&defaults(), false, &taken).map(|found| found.to_string())
        };
        assert_eq!(free(&[]).as_deref(), Some("172.17.0.0/16"));
        assert_eq!(free(&["172.17.3.0/24"]).as_deref(), Some("172.18.0.0/16"));
        assert_eq!(free(&["172.16.0.0/12"]).as_deref(), Some("192.168.0.0/20"));
        assert_eq!(free(&["172.16.0.0/12", "192.168.1.0/24"]).as_deref(), Some("192.168.16.0/20"));
        assert_eq!(free(&["0.0.0.0/0"]), None);
        let six = [AddressPool { base: subnet("fd00::/48"), size: 64 }];
        let found = first_free(&six, true, &[subnet("fd00::/64"), subnet("0.0.0.0/0")]);
        assert_eq!(found, Some(subnet("fd00:0:0:1::/64")));
        let vast = [AddressPool { base: subnet("fc00::/7"), size: 64 }];
        assert_eq!(first_free(&vast, true, &[subnet("fc00::/8")]), Some(subnet("fd00::/64")));
        assert_eq!(first_free(&vast, true, &[subnet("fc00::/7")]), None);
    }

    proptest! {
        #[test]
        fn what_is_found_overlaps_nothing(taken in proptest::collection::vec((any::<u32>(), 8u8..=32), 0..20)) {
            let taken: Vec<Subnet> =
                taken.iter().filter_map(|(bits, prefix)| Subnet::containing(Ipv4Addr::from_bits(*bits), *prefix)).collect();
            if let Some(found) = first_free(&defaults(), false, &taken) {
                prop_assert!(taken.iter().all(|other| !other.overlaps(found)));
            }
        }
    }
}
