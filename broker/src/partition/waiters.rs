//! Long polls: who waits for records of which partitions, and for how many bytes. Pure.
//!
//! A fetch that finds too little is parked here. Each commit of a partition is told once, whatever
//! the number of those who wait for it. There are no deadlines here: a long poll is awaited by the
//! task of its connection, which has a timer of its own.

use std::collections::BTreeMap;

use firn_proto::ids::TopicPartition;

/// Names one parked fetch.
pub type WaitId = u64;

/// The parked fetches of one broker.
#[derive(Debug, Default)]
pub struct Waiters {
    next: WaitId,
    parked: BTreeMap<WaitId, Parked>,
    /// In the order in which they came.
    by_partition: BTreeMap<TopicPartition, Vec<WaitId>>,
    ready: Vec<WaitId>,
}

#[derive(Debug)]
struct Parked {
    partitions: Vec<TopicPartition>,
    /// Bytes that are still missing.
    missing: usize,
}

impl Waiters {
    /// Parks a fetch until `missing` more bytes of its partitions are visible.
    pub fn park(&mut self, mut partitions: Vec<TopicPartition>, missing: usize) -> WaitId {
        partitions.sort_unstable();
        partitions.dedup();
        let id = self.next;
        self.next += 1;
        for tp in &partitions {
            self.by_partition.entry(*tp).or_default().push(id);
        }
        let parked = Parked {
            partitions,
            missing: missing.max(1),
        };
        self.parked.insert(id, parked);
        id
    }

    /// `bytes` more of a partition have become visible.
    pub fn on_visible(&mut self, tp: TopicPartition, bytes: usize) {
        let Some(ids) = self.by_partition.get(&tp) else {
            return;
        };
        let mut satisfied = Vec::new();
        for id in ids {
            if let Some(parked) = self.parked.get_mut(id) {
                parked.missing = parked.missing.saturating_sub(bytes);
                if parked.missing == 0 {
                    satisfied.push(*id);
                }
            }
        }
        for id in satisfied {
            self.finish(id);
        }
    }

    /// A partition is gone or has another owner: who waits for it is answered at once.
    pub fn on_closed(&mut self, tp: TopicPartition) {
        for id in self.by_partition.get(&tp).cloned().unwrap_or_default() {
            self.finish(id);
        }
    }

    /// Forgets a fetch, whose client has gone or whose time is up.
    pub fn cancel(&mut self, id: WaitId) {
        self.unpark(id);
        self.ready.retain(|ready| *ready != id);
    }

    /// The fetches that are to be tried again, each once.
    pub fn take_ready(&mut self) -> Vec<WaitId> {
        std::mem::take(&mut self.ready)
    }

    /// How many are parked.
    pub fn len(&self) -> usize {
        self.parked.len()
    }

    /// Whether none is parked.
    pub fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    fn finish(&mut self, id: WaitId) {
        if self.unpark(id) {
            self.ready.push(id);
        }
    }

    fn unpark(&mut self, id: WaitId) -> bool {
        let Some(parked) = self.parked.remove(&id) else {
            return false;
        };
        for tp in parked.partitions {
            if let Some(ids) = self.by_partition.get_mut(&tp) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.by_partition.remove(&tp);
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use firn_proto::ids::{PartitionIndex, TopicId};

    fn tp(partition: i32) -> TopicPartition {
        TopicPartition {
            topic: TopicId([1; 16]),
            partition: PartitionIndex(partition),
        }
    }

    #[test]
    fn a_fetch_waits_until_its_partitions_together_have_enough() {
        let mut waiters = Waiters::default();
        let id = waiters.park(vec![tp(0), tp(1), tp(0)], 100);
        waiters.on_visible(tp(0), 60);
        waiters.on_visible(tp(2), 1000);
        assert!(waiters.take_ready().is_empty());
        waiters.on_visible(tp(1), 40);
        assert_eq!(waiters.take_ready(), [id]);
        assert!(waiters.is_empty());
        assert!(waiters.by_partition.is_empty());
    }

    #[test]
    fn each_is_told_once() {
        let mut waiters = Waiters::default();
        let first = waiters.park(vec![tp(0)], 1);
        let second = waiters.park(vec![tp(0)], 1);
        waiters.on_visible(tp(0), 10);
        waiters.on_visible(tp(0), 10);
        assert_eq!(waiters.take_ready(), [first, second]);
        assert!(waiters.take_ready().is_empty());
    }

    #[test]
    fn a_closed_partition_answers_everybody_who_waits_for_it() {
        let mut waiters = Waiters::default();
        let id = waiters.park(vec![tp(0), tp(1)], usize::MAX);
        waiters.park(vec![tp(1)], usize::MAX);
        waiters.on_closed(tp(0));
        assert_eq!(waiters.take_ready(), [id]);
        assert_eq!(waiters.len(), 1);
    }

    #[test]
    fn who_has_gone_is_not_told() {
        let mut waiters = Waiters::default();
        let gone = waiters.park(vec![tp(0)], 1);
        let ready_and_gone = waiters.park(vec![tp(1)], 1);
        waiters.on_visible(tp(1), 1);
        waiters.cancel(gone);
        waiters.cancel(ready_and_gone);
        waiters.on_visible(tp(0), 1);
        assert!(waiters.take_ready().is_empty());
        assert!(waiters.by_partition.is_empty());
    }

    #[test]
    fn a_fetch_that_wants_nothing_is_ready_at_the_first_byte() {
        let mut waiters = Waiters::default();
        let id = waiters.park(vec![tp(0)], 0);
        waiters.on_visible(tp(0), 1);
        assert_eq!(waiters.take_ready(), [id]);
    }
}
