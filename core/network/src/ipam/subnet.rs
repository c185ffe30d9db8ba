//! IPv4 subnets in CIDR notation.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is no subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct InvalidSubnet(pub String);

/// A range of addresses with a common prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subnet {
    first: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// The subnet `address` is in; `None` for a prefix above 32.
    pub fn containing(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        let mask = mask(prefix)?;
        Some(Self { first: Ipv4Addr::from_bits(address.to_bits() & mask), prefix })
    }

    /// Splits `172.17.0.1/16` into its address and its subnet.
    pub fn parse_with_address(text: &str) -> Result<(Ipv4Addr, Self), InvalidSubnet> {
        let invalid = || InvalidSubnet(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: Ipv4Addr = address.parse().map_err(|_| invalid())?;
        let subnet = prefix.parse().ok().and_then(|prefix| Self::containing(address, prefix)).ok_or_else(invalid)?;
        Ok((address, subnet))
    }

    /// The network's own address.
    pub fn first(self) -> Ipv4Addr {
        self.first
    }

    /// The broadcast address.
    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.to_bits() | !mask(self.prefix).unwrap_or(u32::MAX))
    }

    /// Bits of the prefix.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The netmask.
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask(self.prefix).unwrap_or(u32::MAX))
    }

    /// Whether `address` is in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        Self::containing(address, self.prefix) == Some(self)
    }

    /// Whether they have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// The first address that is not the network's own; what a gateway gets by default.
    pub fn first_host(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.to_bits().saturating_add(u32::from(self.prefix < 31)))
    }
}

fn mask(prefix: u8) -> Option<u32> {
    match prefix {
        0 => Some(0),
        1..=32 => Some(u32::MAX << (32 - prefix)),
        _ => None,
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse_with_address(text).map(|(_, subnet)| subnet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts() {
        let (address, subnet) = Subnet::parse_with_address("172.17.5.9/16").expect("valid");
        assert_eq!((address.to_string(), subnet.to_string()), ("172.17.5.9".to_owned(), "172.17.0.0/16".to_owned()));
        assert_eq!(subnet.last().to_string(), "172.17.255.255");
        assert_eq!(subnet.first_host().to_string(), "172.17.0.1");
        for bad in ["", "1.2.3.4", "1.2.3.4/33", "1.2.3/8", "a/8", "1.2.3.4/-1"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn overlap_is_symmetric_and_means_a_common_address(a: u32, b: u32, p in 0u8..=32, q in 0u8..=32) {
            let a = Subnet::containing(Ipv4Addr::from_bits(a), p).expect("prefix");
            let b = Subnet::containing(Ipv4Addr::from_bits(b), q).expect("prefix");
            prop_assert_eq!(a.overlaps(b), b.overlaps(a));
            let apart = a.last() < b.first() || b.last() < a.first();
            prop_assert_eq!(a.overlaps(b), !apart);
            prop_assert_eq!(a.to_string().parse::<Subnet>(), Ok(a));
        }
    }
}
