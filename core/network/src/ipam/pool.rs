//! Where subnets of networks without one of their own come from: `--default-address-pool`, Docker's defaults otherwise.

use std::net::Ipv4Addr;

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
    /// Its subnets, in order. None when `size` is shorter than the base's prefix.
    fn subnets(self) -> impl Iterator<Item = Subnet> {
        let step = 1u64 << (32 - u64::from(self.size.min(32)));
        let (first, last) = (u64::from(self.base.first().to_bits()), u64::from(self.base.last().to_bits()));
        let count = if self.size < self.base.prefix() || self.size > 32 { 0 } else { (last - first + 1) / step };
        (0..count).filter_map(move |index| {
            let bits = u32::try_from(first + index * step).ok()?;
            Subnet::containing(Ipv4Addr::from_bits(bits), self.size)
        })
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

/// The first subnet of the pools that overlaps nothing of `taken`.
pub fn first_free(pools: &[AddressPool], taken: &[Subnet]) -> Option<Subnet> {
    pools.iter().flat_map(|pool| pool.subnets()).find(|subnet| !taken.iter().any(|other| other.overlaps(*subnet)))
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
            first_free(&defaults(), &taken).map(|found| found.to_string())
        };
        assert_eq!(free(&[]).as_deref(), Some("172.17.0.0/16"));
        assert_eq!(free(&["172.17.3.0/24"]).as_deref(), Some("172.18.0.0/16"));
        assert_eq!(free(&["172.16.0.0/12"]).as_deref(), Some("192.168.0.0/20"));
        assert_eq!(free(&["172.16.0.0/12", "192.168.1.0/24"]).as_deref(), Some("192.168.16.0/20"));
        assert_eq!(free(&["0.0.0.0/0"]), None);
    }

    proptest! {
        #[test]
        fn what_is_found_overlaps_nothing(taken in proptest::collection::vec((any::<u32>(), 8u8..=32), 0..20)) {
            let taken: Vec<Subnet> =
                taken.iter().filter_map(|(bits, prefix)| Subnet::containing(Ipv4Addr::from_bits(*bits), *prefix)).collect();
            if let Some(found) = first_free(&defaults(), &taken) {
                prop_assert!(taken.iter().all(|other| !other.overlaps(found)));
            }
        }
    }
}
