//! Up to where everything is durable, when it becomes so out of order. Pure.

use std::collections::VecDeque;

/// Counts off numbers that were given out in order.
#[derive(Debug)]
pub(crate) struct LowWater {
    low: u64,
    /// From `low` on: which are done. The first never is.
    done: VecDeque<bool>,
}

impl LowWater {
    /// Nothing from `first` on is done.
    pub(crate) fn new(first: u64) -> Self {
        Self {
            low: first,
            done: VecDeque::new(),
        }
    }

    /// `number` is done.
    pub(crate) fn mark(&mut self, number: u64) {
        let Some(ahead) = number.checked_sub(self.low) else {
            return;
        };
        // as far ahead as permits let entries wait for each other
        let ahead = usize::try_from(ahead).unwrap_or(usize::MAX);
        if self.done.len() <= ahead {
            self.done.resize(ahead + 1, false);
        }
        self.done[ahead] = true;
        while self.done.front() == Some(&true) {
            self.done.pop_front();
            self.low += 1;
        }
    }

    /// Everything below this is done.
    pub(crate) fn low(&self) -> u64 {
        self.low
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_mark_stands_below_the_first_that_is_not_done(
            order in Just((5..60_u64).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut water = LowWater::new(5);
            let mut left: std::collections::BTreeSet<u64> = (5..60).collect();
            for number in order {
                water.mark(number);
                left.remove(&number);
                prop_assert_eq!(water.low(), left.first().copied().unwrap_or(60));
            }
        }
    }
}
