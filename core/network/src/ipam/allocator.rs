//! Which addresses of one subnet are in use: a bitmap that grows with what is used. The lowest free address is given, as
//! Docker does.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Subnet;

/// Addresses of one subnet.
#[derive(Debug, Clone)]
pub struct Allocator {
    /// Endpoints' addresses come from here; the subnet or a part of it.
    range: Subnet,
    /// Bit per address at the beginning of `range`, set when it is in use. Words that are missing have no bit set.
    words: Vec<u64>,
    /// No word before this one has a free bit.
    full_before: usize,
    /// Addresses in use behind those that may have a bit, by their distance from the first.
    far: BTreeSet<u128>,
}

const BITS: u128 = 64;
/// So many addresses have a bit at most: what somebody asks for anywhere in an IPv6 subnet must not fill the memory.
const NEAR: u128 = 1 << 16;

impl Allocator {
    /// All of `range` is free but the network's own and the broadcast address of `subnet`.
    pub fn new(subnet: Subnet, range: Option<Subnet>) -> Self {
        let (words, far) = (Vec::new(), BTreeSet::new());
        let mut out = Self { range: range.unwrap_or(subnet), words, full_before: 0, far };
        if subnet.has_own_address() {
            out.reserve(subnet.first());
        }
        if subnet.has_broadcast() {
            out.reserve(subnet.last());
        }
        out
    }

    /// Takes the lowest free address.
    pub fn take(&mut self) -> Option<IpAddr> {
        let mut word = self.full_before;
        while self.words.get(word).is_some_and(|bits| *bits == u64::MAX) {
            word += 1;
        }
        self.full_before = word;
        let bit = self.words.get(word).map_or(0, |bits| bits.trailing_ones());
        let mut offset = word as u128 * BITS + u128::from(bit);
        // Where the bits end, those in use lie close together again.
        offset += self.far.range(offset..).zip(offset..).take_while(|(used, at)| *used == at).count() as u128;
        let address = self.range.nth(offset)?;
        self.set(offset);
        Some(address)
    }

    /// Takes this very address; `false` when it was in use. An address outside the range is nobody's concern here.
    pub fn reserve(&mut self, address: IpAddr) -> bool {
        self.range.offset(address).is_none_or(|offset| self.set(offset))
    }

    /// Gives an address back.
    pub fn release(&mut self, address: IpAddr) {
        let Some(offset) = self.range.offset(address) else { return };
        match position(offset) {
            None => _ = self.far.remove(&offset),
            Some((word, bit)) => {
                if let Some(bits) = self.words.get_mut(word) {
                    *bits &= !bit;
                    self.full_before = self.full_before.min(word);
                }
            }
        }
    }

    /// Marks it as used; whether it was free.
    fn set(&mut self, offset: u128) -> bool {
        let Some((word, bit)) = position(offset) else { return self.far.insert(offset) };
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let free = self.words[word] & bit == 0;
        self.words[word] |= bit;
        free
    }
}

/// The word and the bit in it; `None` for what is far.
fn position(offset: u128) -> Option<(usize, u64)> {
    (offset < NEAR).then_some(((offset / BITS) as usize, 1 << (offset % BITS)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn first_container_gets_the_second_address() {
        let mut bridge = Allocator::new("172.17.0.0/16".parse().expect("subnet"), None);
        assert!(bridge.reserve(Ipv4Addr::new(172, 17, 0, 1).into()));
        let taken: Vec<String> = (0..3).filter_map(|_| bridge.take()).map(|a| a.to_string()).collect();
        assert_eq!(taken, ["172.17.0.2", "172.17.0.3", "172.17.0.4"]);
        bridge.release(Ipv4Addr::new(172, 17, 0, 3).into());
        assert_eq!(bridge.take(), Some(Ipv4Addr::new(172, 17, 0, 3).into()));
        assert!(!bridge.reserve(Ipv4Addr::new(172, 17, 0, 4).into()));
    }

    #[test]
    fn a_range_is_used_up_and_no_more() {
        let subnet = "10.0.0.0/24".parse().expect("subnet");
        let mut small = Allocator::new(subnet, Some("10.0.0.248/29".parse().expect("range")));
        let all: Vec<_> = std::iter::from_fn(|| small.take()).collect();
        // 248 to 254; 255 is the subnet's broadcast address.
        assert_eq!(all.len(), 7);
        assert_eq!(small.take(), None);
        let mut all = Allocator::new("255.255.255.252/30".parse().expect("subnet"), None);
        assert_eq!(std::iter::from_fn(|| all.take()).count(), 2);
        // IPv6 has no broadcasts.
        let mut six = Allocator::new("fd00::fffc/126".parse().expect("subnet"), None);
        assert_eq!(std::iter::from_fn(|| six.take()).count(), 3);
    }

    #[test]
    fn addresses_far_away_cost_nothing() {
        let mut six = Allocator::new("fd00::/64".parse().expect("subnet"), None);
        let far = "fd00::ffff:ffff:ffff:fffe".parse().expect("address");
        assert!(six.reserve(far) && !six.reserve(far));
        assert_eq!(six.take().map(|a| a.to_string()).as_deref(), Some("fd00::1"));
        assert!(six.words.len() <= 1);
        six.release(far);
        assert!(six.reserve(far));
    }

    #[test]
    fn goes_on_behind_the_bits() {
        let mut large = Allocator::new("10.0.0.0/8".parse().expect("subnet"), None);
        large.reserve("10.1.0.1".parse().expect("address"));
        let count = NEAR as usize - 1;
        assert_eq!(std::iter::from_fn(|| large.take()).take(count).count(), count);
        let more: Vec<String> = (0..3).filter_map(|_| large.take()).map(|a| a.to_string()).collect();
        assert_eq!(more, ["10.1.0.0", "10.1.0.2", "10.1.0.3"]);
    }

    proptest! {
        #[test]
        fn always_the_lowest_free(prefix in 20u8..=32, steps in proptest::collection::vec(any::<(bool, u16)>(), 0..300)) {
            let subnet = Subnet::containing(Ipv4Addr::new(10, 1, 0, 0), prefix).expect("prefix");
            let mut tested = Allocator::new(subnet, None);
            let usable = |a: &IpAddr| prefix >= 31 || (*a != subnet.first() && *a != subnet.last());
            let mut free: BTreeSet<IpAddr> = (0..).map_while(|offset| subnet.nth(offset)).filter(usable).collect();
            let mut used = Vec::new();
            for (take, pick) in steps {
                if take || used.is_empty() {
                    let expected = free.pop_first();
                    prop_assert_eq!(tested.take(), expected);
                    used.extend(expected);
                } else {
                    let back = used.swap_remove(usize::from(pick) % used.len());
                    tested.release(back);
                    free.insert(back);
                }
            }
        }
    }
}
