//! When what did not work is tried again: each partition after pauses of its own, which grow, so that
//! one that cannot be opened costs little, and keeps nothing else waiting. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use firn_proto::env::Mono;
use firn_proto::ids::{LeaderEpoch, TopicPartition};

/// The first pause.
pub(super) const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// No pause is longer.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Partitions with which something did not work.
#[derive(Debug, Default)]
pub(super) struct Retries(BTreeMap<TopicPartition, Failing>);

#[derive(Clone, Copy, Debug)]
struct Failing {
    /// As it was wanted.
    epoch: LeaderEpoch,
    /// How often it did not work.
    failures: u32,
    /// When it is tried again.
    due: Mono,
}

impl Retries {
    /// It did not work with these, which failed together and are tried together again.
    pub(super) fn on_failed(&mut self, failed: &[(TopicPartition, LeaderEpoch)], now: Mono) {
        for (tp, epoch) in failed {
            let before = self.0.get(tp).filter(|before| before.epoch == *epoch);
            let failures = before.map_or(0, |before| before.failures) + 1;
            let failing = Failing {
                epoch: *epoch,
                failures,
                due: now.after(pause(failures)),
            };
            self.0.insert(*tp, failing);
        }
    }

    /// It worked, or is over.
    pub(super) fn forget(&mut self, tp: TopicPartition) {
        self.0.remove(&tp);
    }

    /// Whether it did not work so far with the partition, as it is wanted in that epoch.
    pub(super) fn is_failing(&self, tp: TopicPartition, epoch: LeaderEpoch) -> bool {
        self.0
            .get(&tp)
            .is_some_and(|failing| failing.epoch == epoch)
    }

    /// Whether the partition waits at `now`, unless it is wanted in another epoch.
    pub(super) fn waits(&self, tp: TopicPartition, epoch: LeaderEpoch, now: Mono) -> bool {
        let failing = self.0.get(&tp);
        failing.is_some_and(|failing| failing.epoch == epoch && now < failing.due)
    }

    /// Those whose pauses end between `since` and `now`.
    pub(super) fn due(&self, since: Mono, now: Mono) -> impl Iterator<Item = TopicPartition> {
        let due = self
            .0
            .iter()
            .filter(move |(_, f)| since < f.due && f.due <= now);
        due.map(|(tp, _)| *tp)
    }

    /// When the next pause ends after `since`.
    pub(super) fn next(&self, since: Mono) -> Option<Mono> {
        let due = self.0.values().map(|failing| failing.due);
        due.filter(|due| since < *due).min()
    }
}

fn pause(failures: u32) -> Duration {
    let doubled = 1 << failures.saturating_sub(1).min(16);
    PAUSE_FIRST.saturating_mul(doubled).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use firn_proto::ids::{PartitionIndex, TopicId};

    use super::*;

    const EPOCH: LeaderEpoch = LeaderEpoch(3);

    fn tp(partition: i32) -> TopicPartition {
        TopicPartition {
            topic: TopicId([1; 16]),
            partition: PartitionIndex(partition),
        }
    }

    fn second(s: u64) -> Mono {
        Mono(0).after(Duration::from_secs(s))
    }

    /// The partition fails whenever it is tried, until `until` seconds have passed.
    fn tries(until: u64) -> Vec<u64> {
        let mut retries = Retries::default();
        let mut tries = Vec::new();
        for at in 0..until {
            if !retries.waits(tp(0), EPOCH, second(at)) {
                tries.push(at);
                retries.on_failed(&[(tp(0), EPOCH)], second(at));
            }
        }
        tries
    }

    #[test]
    fn a_partition_that_cannot_be_opened_is_tried_less_and_less() {
        assert_eq!(tries(100), [0, 1, 3, 7, 15, 31, 63]);
        let pauses: Vec<u64> = tries(1000).windows(2).map(|two| two[1] - two[0]).collect();
        assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX.as_secs()));
        assert_eq!(pauses.last(), Some(&PAUSE_MAX.as_secs()));
    }

    #[test]
    fn others_do_not_wait_with_it() {
        let mut retries = Retries::default();
        retries.on_failed(&[(tp(0), EPOCH), (tp(1), EPOCH)], second(0));
        retries.on_failed(&[(tp(0), EPOCH)], second(1));
        assert!(!retries.waits(tp(2), EPOCH, second(1)));
        assert!(!retries.waits(tp(1), EPOCH, second(1)));
        assert!(retries.waits(tp(0), EPOCH, second(2)));
        let next = LeaderEpoch(EPOCH.0 + 1);
        assert!(!retries.waits(tp(0), next, second(2)), "that is news");
    }

    #[test]
    fn each_pause_ends_once() {
        let mut retries = Retries::default();
        retries.on_failed(&[(tp(0), EPOCH), (tp(1), EPOCH)], second(5));
        assert_eq!(retries.next(second(5)), Some(second(6)));
        let due = |since, now| retries.due(second(since), second(now)).count();
        assert_eq!((due(5, 5), due(5, 6), due(6, 7)), (0, 2, 0));
        assert_eq!(retries.next(second(6)), None);
        retries.forget(tp(0));
        assert_eq!(retries.due(second(5), second(6)).count(), 1);
    }
}
