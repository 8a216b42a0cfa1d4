//! Which numbers of an incarnation have entered the map, or never will (I9).

use std::collections::BTreeMap;

use bincode::{Decode, Encode};

/// What one incarnation has written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Writer {
    /// Its segments that entered the map, whether they are still there or not.
    pub entered: Numbers,
    /// Its segments that never will.
    pub abandoned: Numbers,
    /// Its map pages that entered the map.
    pub pages: Numbers,
}

/// A set of numbers as ranges: who counts up takes one range for each break in the count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Numbers {
    /// The last number of each range by its first.
    ranges: BTreeMap<u64, u64>,
}

impl Numbers {
    /// Whether the number is one of them.
    pub fn contains(&self, number: u64) -> bool {
        let before = self.ranges.range(..=number).next_back();
        before.is_some_and(|(_, last)| number <= *last)
    }

    /// Adds a number. False if it was there.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        if self.contains(number) {
            return false;
        }
        let after = number.checked_add(1).and_then(|n| self.ranges.remove(&n));
        let last = after.unwrap_or(number);
        let before = self.ranges.range_mut(..number).next_back();
        match before {
            Some((_, end)) if end.checked_add(1) == Some(number) => *end = last,
            _ => drop(self.ranges.insert(number, last)),
        }
        true
    }

    /// The ranges, ascending, each without its end.
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        let ranges = self.ranges.iter();
        ranges
            .map(|(first, last)| (*first, last.saturating_add(1)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_are_a_set(numbers in proptest::collection::vec(0..40u64, 0..60)) {
            let mut set = BTreeSet::new();
            let mut ranges = Numbers::default();
            for number in numbers {
                prop_assert_eq!(ranges.insert(number), set.insert(number));
            }
            for number in 0..41 {
                prop_assert_eq!(ranges.contains(number), set.contains(&number));
            }
            let pairs = ranges.ranges();
            prop_assert!(pairs.is_sorted_by(|a, b| a.1 < b.0), "ranges that touch are one");
        }
    }

    #[test]
    fn the_largest_number_is_one_too() {
        let mut numbers = Numbers::default();
        assert!(numbers.insert(u64::MAX));
        assert!(numbers.insert(u64::MAX - 1));
        assert!(!numbers.insert(u64::MAX));
        assert_eq!(numbers.ranges(), [(u64::MAX - 1, u64::MAX)]);
    }
}
