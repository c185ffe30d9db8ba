//! Which addresses of one subnet are in use: a bitmap that grows with what is used. The lowest free address is given, as
//! Docker does.

use std::net::Ipv4Addr;

use super::Subnet;

/// Addresses of one subnet.
#[derive(Debug, Clone)]
pub struct Allocator {
    /// Endpoints' addresses come from here; the subnet or a part of it.
    range: Subnet,
    /// Bit per address of `range`, set when it is in use. Words that are missing have no bit set.
    words: Vec<u64>,
    /// No word before this one has a free bit.
    full_before: usize,
}

const BITS: usize = 64;

impl Allocator {
    /// All of `range` is free but the network's own and the broadcast address of `subnet`.
    pub fn new(subnet: Subnet, range: Option<Subnet>) -> Self {
        let mut out = Self { range: range.unwrap_or(subnet), words: Vec::new(), full_before: 0 };
        if subnet.prefix() < 31 {
            out.reserve(subnet.first());
            out.reserve(subnet.last());
        }
        out
    }

    /// Takes the lowest free address.
    pub fn take(&mut self) -> Option<Ipv4Addr> {
        let mut word = self.full_before;
        while self.words.get(word).is_some_and(|bits| *bits == u64::MAX) {
            word += 1;
        }
        self.full_before = word;
        let bit = self.words.get(word).map_or(0, |bits| bits.trailing_ones() as usize);
        let address = self.address(word * BITS + bit)?;
        self.set(word, bit);
        Some(address)
    }

    /// Takes this very address; `false` when it was in use. An address outside the range is nobody's concern here.
    pub fn reserve(&mut self, address: Ipv4Addr) -> bool {
        let Some((word, bit)) = self.position(address) else { return true };
        let free = self.words.get(word).is_none_or(|bits| bits & (1 << bit) == 0);
        self.set(word, bit);
        free
    }

    /// Gives an address back.
    pub fn release(&mut self, address: Ipv4Addr) {
        let Some((word, bit)) = self.position(address) else { return };
        if let Some(bits) = self.words.get_mut(word) {
            *bits &= !(1 << bit);
            self.full_before = self.full_before.min(word);
        }
    }

    fn set(&mut self, word: usize, bit: usize) {
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << bit;
    }

    fn address(&self, offset: usize) -> Option<Ipv4Addr> {
        let bits = self.range.first().to_bits().checked_add(u32::try_from(offset).ok()?)?;
        let address = Ipv4Addr::from_bits(bits);
        self.range.contains(address).then_some(address)
    }

    fn position(&self, address: Ipv4Addr) -> Option<(usize, usize)> {
        if !self.range.contains(address) {
            return None;
        }
        let offset = usize::try_from(address.to_bits() - self.range.first().to_bits()).ok()?;
        Some((offset / BITS, offset % BITS))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn first_container_gets_the_second_address() {
        let mut bridge = Allocator::new("172.17.0.0/16".parse().expect("subnet"), None);
        assert!(bridge.reserve(Ipv4Addr::new(172, 17, 0, 1)));
        let taken: Vec<String> = (0..3).filter_map(|_| bridge.take()).map(|a| a.to_string()).collect();
        assert_eq!(taken, ["172.17.0.2", "172.17.0.3", "172.17.0.4"]);
        bridge.release(Ipv4Addr::new(172, 17, 0, 3));
        assert_eq!(bridge.take(), Some(Ipv4Addr::new(172, 17, 0, 3)));
        assert!(!bridge.reserve(Ipv4Addr::new(172, 17, 0, 4)));
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
    }

    proptest! {
        #[test]
        fn always_the_lowest_free(prefix in 20u8..=32, steps in proptest::collection::vec(any::<(bool, u16)>(), 0..300)) {
            let subnet = Subnet::containing(Ipv4Addr::new(10, 1, 0, 0), prefix).expect("prefix");
            let mut tested = Allocator::new(subnet, None);
            let hosts = |a: &u32| prefix >= 31 || (*a != subnet.first().to_bits() && *a != subnet.last().to_bits());
            let mut free: BTreeSet<u32> =
                (subnet.first().to_bits()..=subnet.last().to_bits()).filter(hosts).collect();
            let mut used = Vec::new();
            for (take, pick) in steps {
                if take || used.is_empty() {
                    let expected = free.pop_first().map(Ipv4Addr::from_bits);
                    prop_assert_eq!(tested.take(), expected);
                    used.extend(expected);
                } else {
                    let back = used.swap_remove(usize::from(pick) % used.len());
                    tested.release(back);
                    free.insert(back.to_bits());
                }
            }
        }
    }
}
