//! Subnets of either family in CIDR notation.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is no subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct InvalidSubnet(pub String);

/// A range of addresses with a common prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subnet {
    first: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// The subnet `address` is in; `None` for a prefix longer than an address.
    pub fn containing(address: impl Into<IpAddr>, prefix: u8) -> Option<Self> {
        let address = address.into();
        let rest = width(address).checked_sub(prefix)?;
        Some(Self { first: like(address, bits(address) & !low_bits(rest)), prefix })
    }

    /// Splits `172.17.0.1/16` or `fd00::1/64` into its address and its subnet.
    pub fn parse_with_address(text: &str) -> Result<(IpAddr, Self), InvalidSubnet> {
        let invalid = || InvalidSubnet(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let subnet = prefix.parse().ok().and_then(|prefix| Self::containing(address, prefix)).ok_or_else(invalid)?;
        Ok((address, subnet))
    }

    /// The network's own address.
    pub fn first(self) -> IpAddr {
        self.first
    }

    /// The last address: of IPv4 the broadcast address.
    pub fn last(self) -> IpAddr {
        like(self.first, bits(self.first) | low_bits(self.rest()))
    }

    /// Bits of the prefix.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Bits that tell its addresses from each other.
    pub fn rest(self) -> u8 {
        width(self.first) - self.prefix
    }

    /// Whether its addresses are IPv6.
    pub fn is_ipv6(self) -> bool {
        self.first.is_ipv6()
    }

    /// Whether `address` is in it.
    pub fn contains(self, address: impl Into<IpAddr>) -> bool {
        Self::containing(address, self.prefix) == Some(self)
    }

    /// Whether they have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// The first address that is not the network's own; what a gateway gets by default.
    pub fn first_host(self) -> IpAddr {
        if self.has_own_address() { self.nth(1).unwrap_or(self.first) } else { self.first }
    }

    /// The address so many after the first; `None` outside.
    pub fn nth(self, offset: u128) -> Option<IpAddr> {
        (offset <= low_bits(self.rest())).then(|| like(self.first, bits(self.first) | offset))
    }

    /// How many addresses after the first this one is; `None` outside.
    pub fn offset(self, address: IpAddr) -> Option<u128> {
        self.contains(address).then(|| bits(address) - bits(self.first))
    }

    /// Whether its first address stands for the network itself: not where it has two addresses or one (RFC 3021, 6164).
    pub fn has_own_address(self) -> bool {
        self.rest() > 1
    }

    /// Whether its last address is for broadcasts.
    pub fn has_broadcast(self) -> bool {
        self.first.is_ipv4() && self.rest() > 1
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// An address of the family of `model`, whose bits fit.
fn like(model: IpAddr, bits: u128) -> IpAddr {
    match model {
        IpAddr::V4(_) => Ipv4Addr::from_bits(bits as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

fn low_bits(count: u8) -> u128 {
    if count >= 128 { u128::MAX } else { (1 << count) - 1 }
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
        let six: Subnet = "fd00:1::9/64".parse().expect("valid");
        assert_eq!((six.to_string(), six.first_host().to_string()), ("fd00:1::/64".to_owned(), "fd00:1::1".to_owned()));
        assert_eq!(six.last().to_string(), "fd00:1::ffff:ffff:ffff:ffff");
        assert!(!six.overlaps(subnet) && !subnet.overlaps(six));
        for bad in ["", "1.2.3.4", "1.2.3.4/33", "1.2.3/8", "a/8", "1.2.3.4/-1", "fd00::/129", "fd00::"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    fn any_subnet() -> impl Strategy<Value = Subnet> {
        let four = (any::<u32>(), 0u8..=32).prop_map(|(a, p)| Subnet::containing(Ipv4Addr::from_bits(a), p));
        let six = (any::<u128>(), 0u8..=128).prop_map(|(a, p)| Subnet::containing(Ipv6Addr::from_bits(a), p));
        prop_oneof![four, six].prop_map(|subnet| subnet.expect("prefix"))
    }

    proptest! {
        #[test]
        fn overlap_is_symmetric_and_means_a_common_address(a in any_subnet(), b in any_subnet()) {
            prop_assert_eq!(a.overlaps(b), b.overlaps(a));
            let apart = a.is_ipv6() != b.is_ipv6() || a.last() < b.first() || b.last() < a.first();
            prop_assert_eq!(a.overlaps(b), !apart);
            prop_assert_eq!(a.to_string().parse::<Subnet>(), Ok(a));
            prop_assert_eq!(a.offset(a.last()).and_then(|offset| a.nth(offset)), Some(a.last()));
        }
    }
}
