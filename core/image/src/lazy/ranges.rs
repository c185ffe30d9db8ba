//! Sets of bytes of a file, as ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges that neither overlap nor touch, by their starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds bytes.
    pub(super) fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        // From the end on: the last that begins before the new one's end may reach into it, and so may those before.
        while let Some((&first, &last)) = self.0.range(..=end).next_back()
            && last >= start
        {
            (start, end) = (start.min(first), end.max(last));
            self.0.remove(&first);
        }
        self.0.insert(start, end);
    }

    /// Takes bytes away.
    pub(super) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&first, &last)) = self.0.range(..range.end).next_back()
            && last > range.start
        {
            self.0.remove(&first);
            if first < range.start {
                self.0.insert(first, range.start);
            }
            if last > range.end {
                self.0.insert(range.end, last);
            }
        }
    }

    /// What of `range` is not in it, in order.
    pub(super) fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut out = Vec::new();
        let mut at = range.start;
        let before = self.0.range(..=at).next_back().map_or(at, |(_, &last)| last);
        at = at.max(before);
        for (&first, &last) in self.0.range(range.start..) {
            if first >= range.end {
                break;
            }
            if first > at {
                out.push(at..first);
            }
            at = at.max(last);
        }
        if at < range.end {
            out.push(at..range.end);
        }
        out
    }

    /// Whether all of `range` is in it.
    pub(super) fn covers(&self, range: Range<u64>) -> bool {
        self.gaps(range).is_empty()
    }

    /// How many bytes are in it.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first).sum()
    }

    /// The first part of `range` that is in neither of both.
    pub(super) fn first_gap_in(&self, other: &Self, range: Range<u64>) -> Option<Range<u64>> {
        self.gaps(range).into_iter().find_map(|gap| other.gaps(gap).into_iter().next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_a_set_of_bytes(steps in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..24), 0..40), from in 0u64..64, length in 0u64..64) {
            let (mut ranges, mut model) = (Ranges::default(), vec![false; 128]);
            for (adds, start, length) in steps {
                let range = start..start + length;
                model[start as usize..(start + length) as usize].fill(adds);
                if adds { ranges.add(range) } else { ranges.remove(range) }
                let parts: Vec<_> = ranges.0.iter().map(|(first, last)| (*first, *last)).collect();
                prop_assert!(parts.iter().all(|(first, last)| first < last));
                prop_assert!(parts.windows(2).all(|pair| pair[0].1 < pair[1].0), "{:?}", parts);
            }
            prop_assert_eq!(ranges.bytes(), model.iter().filter(|has| **has).count() as u64);
            let asked = from..from + length;
            let mut rest = model[from as usize..(from + length) as usize].to_vec();
            for gap in ranges.gaps(asked.clone()) {
                for at in gap {
                    prop_assert!(!rest[(at - from) as usize]);
                    rest[(at - from) as usize] = true;
                }
            }
            prop_assert!(rest.iter().all(|has| *has));
            prop_assert_eq!(ranges.covers(asked), ranges.gaps(from..from + length).is_empty());
        }
    }

    #[test]
    fn the_first_gap_of_two() {
        let (mut here, mut under_way) = (Ranges::default(), Ranges::default());
        here.add(0..10);
        under_way.add(10..20);
        assert_eq!(here.first_gap_in(&under_way, 0..100), Some(20..100));
        assert_eq!(here.first_gap_in(&under_way, 5..25), Some(20..25));
        assert_eq!(here.first_gap_in(&under_way, 0..20), None);
        under_way.add(0..100);
        assert_eq!(here.first_gap_in(&under_way, 0..100), None);
    }
}
