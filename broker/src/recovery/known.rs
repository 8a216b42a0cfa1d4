//! States with which partitions begin epochs in this process, as they were learnt while the epochs
//! before were ended: who ends an epoch and begins the next one reads the bucket once.
//!
//! Nothing rests on what is kept here: what is missing is folded again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use firn_proto::ids::{LeaderEpoch, TopicId, TopicPartition};
use firn_storage::state::StateRow;

/// The states of partitions that this process is about to open: each is taken out once.
#[derive(Debug, Default)]
pub struct KnownStates(Mutex<BTreeMap<TopicPartition, StateRow>>);

impl KnownStates {
    /// The partition of `row` begins the epoch set in it with that state, here.
    pub fn keep(&self, row: StateRow) {
        self.states().insert(row.tp, row);
    }

    /// The state with which the partition begins that epoch, if it is known. Whatever is known of
    /// it is forgotten.
    pub fn take(&self, tp: TopicPartition, epoch: LeaderEpoch) -> Option<StateRow> {
        let known = self.states().remove(&tp);
        known.filter(|row| row.epoch == epoch)
    }

    /// The topic is gone.
    pub fn forget(&self, topic: TopicId) {
        self.states().retain(|tp, _| tp.topic != topic);
    }

    /// Short: no IO and no await under it.
    fn states(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, StateRow>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use firn_proto::ids::PartitionIndex;

    use super::*;

    #[test]
    fn a_state_is_taken_once_and_for_its_own_epoch_only() {
        let tp = TopicPartition {
            topic: TopicId([1; 16]),
            partition: PartitionIndex(0),
        };
        let known = KnownStates::default();
        let row = || StateRow::new(tp, LeaderEpoch(3));
        known.keep(row());
        assert_eq!(known.take(tp, LeaderEpoch(3)), Some(row()));
        assert_eq!(known.take(tp, LeaderEpoch(3)), None);
        known.keep(row());
        assert_eq!(known.take(tp, LeaderEpoch(4)), None, "another epoch");
        assert_eq!(known.take(tp, LeaderEpoch(3)), None, "it is over");
        known.keep(row());
        known.forget(tp.topic);
        assert_eq!(known.take(tp, LeaderEpoch(3)), None);
    }
}
