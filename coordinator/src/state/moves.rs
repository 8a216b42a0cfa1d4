//! Where partitions go: what owners are asked to give up, brokers that drain, who owns next, and what
//! an operator gives up.
//!
//! A partition is under way (`moving_to`) only while it has an owner, and only to another live
//! broker that does not drain: whatever ends one of these calls the move off. A move never ends an
//! epoch by itself; only RELEASE does, or the seal of a dead owner's stream (I4).

use std::sync::Arc;

use firn_proto::cluster::{
    AssignmentError, BrokerImage, ForceMove, ForcedMove, MovePartition, PartitionImage, Reply,
};
use firn_proto::ids::{BrokerId, TopicPartition};

use super::windows::{marks_mut, partition_mut};
use super::{Effects, State};
use crate::command::DrainBroker;

impl State {
    pub(super) fn drain(&mut self, body: &DrainBroker, effects: &mut Effects) {
        let Some(image) = self.brokers.get_mut(&body.broker) else {
            return;
        };
        if image.draining == body.drain {
            return;
        }
        Arc::make_mut(image).draining = body.drain;
        effects.brokers = true;
        effects.changed = true;
        if body.drain {
            self.call_off_moves_to(body.broker, effects);
        }
    }

    /// Nothing goes to a broker that died or drains.
    pub(super) fn call_off_moves_to(&mut self, broker: BrokerId, effects: &mut Effects) {
        let goes_there = |p: &PartitionImage| p.moving_to == Some(broker);
        self.change_partitions(effects, goes_there, |partition| partition.moving_to = None);
    }

    pub(super) fn ask_moves(&mut self, moves: &[MovePartition], effects: &mut Effects) -> Reply {
        let mut results = Vec::with_capacity(moves.len());
        for asked in moves {
            let checked = self.check_move(asked);
            results.push(checked.map(|moving_to| {
                let partition = partition_mut(&mut self.topics, asked.tp);
                if let Some(partition) = partition.filter(|p| p.moving_to != moving_to) {
                    partition.moving_to = moving_to;
                    effects.topic(asked.tp.topic);
                }
            }));
        }
        Reply::Moved(results)
    }

    /// Where the partition is under way to after that.
    fn check_move(&self, asked: &MovePartition) -> Result<Option<BrokerId>, AssignmentError> {
        let found = self.topics.partition(asked.tp);
        let (partition, _) = found.ok_or(AssignmentError::Unknown)?;
        let owner = partition.owner.ok_or(AssignmentError::NotCurrent)?;
        if partition.epoch != asked.epoch {
            return Err(AssignmentError::NotCurrent);
        }
        if owner.broker == asked.to {
            return Ok(None);
        }
        match self.brokers.get(&asked.to) {
            Some(target) if !target.draining => Ok(Some(asked.to)),
            _ => Err(AssignmentError::NoBroker),
        }
    }

    /// Partitions that wait for a disk wait no longer: what the bucket has of them is what is left.
    pub(super) fn force_moves(&mut self, moves: &[ForceMove], effects: &mut Effects) -> Reply {
        let mut results = Vec::with_capacity(moves.len());
        for asked in moves {
            let checked = self.check_force(asked);
            // another picture of the topic, though it looks the same: whoever takes over looks again
            if checked.is_ok()
                && partition_mut(&mut self.topics, asked.tp).is_some()
                && let Some(marks) = marks_mut(&mut self.topics, asked.tp)
            {
                marks.is_forced = true;
                effects.changed = true;
                effects.topic(asked.tp.topic);
            }
            results.push(checked);
        }
        Reply::Forced(results)
    }

    /// What was looked at may have gone on since, and wait for another disk.
    fn check_force(&self, asked: &ForceMove) -> Result<ForcedMove, AssignmentError> {
        let tp = asked.tp;
        let found = self.topics.partition(tp);
        let (partition, marks) = found.ok_or(AssignmentError::Unknown)?;
        let (Some(disk), Some(last)) = (self.waits_for(tp), partition.windows.last()) else {
            return Err(AssignmentError::NotCurrent);
        };
        if (asked.epoch, asked.disk) != (last.epoch, disk) {
            return Err(AssignmentError::NotCurrent);
        }
        Ok(ForcedMove {
            tp,
            epoch: last.epoch,
            stream: last.stream,
            broker: partition.preferred,
            disk,
            known_end: last.first_offset.max(marks.archived_to),
        })
    }

    /// Who begins the next epoch as soon as the owner releases the partition.
    pub(super) fn move_target(&self, tp: TopicPartition) -> Option<Arc<BrokerImage>> {
        let (partition, _) = self.topics.partition(tp)?;
        let target = self.brokers.get(&partition.moving_to?)?;
        (!target.draining).then(|| Arc::clone(target))
    }

    /// Evenly and stickily: back to the broker that had it unless others have clearly less. One
    /// that drains gets nothing while another lives.
    pub(super) fn next_owner(
        &self,
        tp: TopicPartition,
        wanted: Option<BrokerId>,
    ) -> Result<Arc<BrokerImage>, AssignmentError> {
        let (partition, _) = self.topics.partition(tp).ok_or(AssignmentError::Unknown)?;
        let id = match wanted {
            Some(id) => id,
            None => self.choose_owner(partition.preferred)?,
        };
        let image = self.brokers.get(&id).ok_or(AssignmentError::NoBroker)?;
        Ok(Arc::clone(image))
    }

    fn choose_owner(&self, preferred: BrokerId) -> Result<BrokerId, AssignmentError> {
        let all_drain = self.brokers.values().all(|broker| broker.draining);
        let mut brokers = 0;
        let mut least = None;
        let mut of_preferred = None;
        for (id, broker) in &self.brokers {
            if broker.draining && !all_drain {
                continue;
            }
            let owned = self.owned_by(*id);
            brokers += 1;
            if least.is_none_or(|(fewest, _)| owned < fewest) {
                least = Some((owned, *id));
            }
            if *id == preferred {
                of_preferred = Some(owned);
            }
        }
        let (_, least) = least.ok_or(AssignmentError::NoBroker)?;
        let total = self.owned.values().sum::<usize>() + 1;
        let fair = total.div_ceil(brokers);
        Ok(match of_preferred {
            Some(owned) if owned < fair => preferred,
            _ => least,
        })
    }
}
