//! Which partitions should have other owners: those of brokers that drain, and as few others as
//! make the live brokers even.
//!
//! Pure: looks at the state, changes nothing. Every call counts all partitions once and then does
//! little for each move it proposes, however many partitions there are.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use firn_proto::cluster::{MovePartition, PartitionImage};
use firn_proto::ids::{BrokerId, TopicId, TopicPartition};

use crate::state::{State, partition_at};

/// The next moves to ask for, so that with those under way there are at most `in_flight_max`.
/// None, if all brokers that may own partitions own about the same number.
pub fn moves(state: &State, in_flight_max: usize) -> Vec<MovePartition> {
    if is_at_rest(state) {
        return Vec::new();
    }
    let mut plan = Plan::of(state);
    let room = in_flight_max.saturating_sub(plan.under_way);
    let mut moves = Vec::new();
    for (donor, mut surplus) in plan.donors() {
        while surplus > 0 && moves.len() < room {
            let Some((tp, to)) = plan.next_move(donor) else {
                break;
            };
            surplus -= 1;
            let partition = state.topics().partition(tp);
            moves.extend(partition.map(|(partition, _)| MovePartition {
                tp,
                epoch: partition.epoch,
                to,
            }));
        }
    }
    moves
}

/// Whether the brokers are even already, which is seen without a look at the partitions.
fn is_at_rest(state: &State) -> bool {
    let loads = |drains: bool| {
        let brokers = state.brokers().values();
        let meant = brokers.filter(move |broker| broker.draining == drains);
        meant.map(|broker| state.owned_by(broker.broker))
    };
    let (most, least) = (loads(false).max(), loads(false).min());
    loads(true).all(|owned| owned == 0) && most.unwrap_or(0) - least.unwrap_or(0) <= 1
}

/// Where all partitions are, counted as if those under way had arrived.
struct Plan {
    /// Moves that were asked for before.
    under_way: usize,
    /// What brokers have that may own partitions.
    staying: BTreeMap<BrokerId, usize>,
    /// What brokers have that drain.
    leaving: BTreeMap<BrokerId, usize>,
    /// What brokers have beyond their share.
    beyond: BTreeMap<BrokerId, usize>,
    /// What brokers lack of their share.
    wanted: BTreeMap<BrokerId, usize>,
    /// How many partitions of each topic a broker has.
    by_topic: BTreeMap<(TopicId, BrokerId), usize>,
    /// Partitions that are not under way, by owner and topic.
    movable: BTreeMap<(BrokerId, TopicId), VecDeque<TopicPartition>>,
    /// Topics of an owner's movable partitions, by how many it has of them.
    topics_of: BTreeMap<BrokerId, BTreeSet<(usize, TopicId)>>,
}

impl Plan {
    fn of(state: &State) -> Self {
        let (leaving, staying): (Vec<_>, Vec<_>) =
            state.brokers().values().partition(|broker| broker.draining);
        let mut plan = Self {
            under_way: 0,
            staying: staying.iter().map(|broker| (broker.broker, 0)).collect(),
            leaving: leaving.iter().map(|broker| (broker.broker, 0)).collect(),
            beyond: BTreeMap::new(),
            wanted: BTreeMap::new(),
            by_topic: BTreeMap::new(),
            movable: BTreeMap::new(),
            topics_of: BTreeMap::new(),
        };
        for (id, topic) in state.topics().iter() {
            for (index, partition) in topic.image.partitions.iter().enumerate() {
                plan.count(partition_at(id, index), partition);
            }
        }
        for (owner, topic) in plan.movable.keys() {
            let count = plan.by_topic.get(&(*topic, *owner)).copied().unwrap_or(0);
            let topics = plan.topics_of.entry(*owner).or_default();
            topics.insert((count, *topic));
        }
        plan.share();
        plan
    }

    fn count(&mut self, tp: TopicPartition, partition: &PartitionImage) {
        let Some(owner) = partition.owner else {
            return;
        };
        let holder = partition.moving_to.unwrap_or(owner.broker);
        let side = match self.staying.contains_key(&holder) {
            true => &mut self.staying,
            false => &mut self.leaving,
        };
        *side.entry(holder).or_default() += 1;
        *self.by_topic.entry((tp.topic, holder)).or_default() += 1;
        if partition.moving_to.is_some() {
            self.under_way += 1;
        } else {
            let of_topic = self.movable.entry((holder, tp.topic)).or_default();
            of_topic.push_back(tp);
        }
    }

    /// Gives every broker that stays its fair share. Where that is no whole number, those get one
    /// more that have most already, so that the fewest partitions move.
    fn share(&mut self) {
        let total: usize = self.staying.values().chain(self.leaving.values()).sum();
        let brokers = self.staying.len();
        let Some(least) = total.checked_div(brokers) else {
            return;
        };
        let mut by_load: Vec<_> = self.staying.iter().map(|(id, load)| (*load, *id)).collect();
        by_load.sort_by_key(|(load, id)| (Reverse(*load), *id));
        for (index, (load, id)) in by_load.into_iter().enumerate() {
            let share = least + usize::from(index < total % brokers);
            match load.cmp(&share) {
                Ordering::Less => drop(self.wanted.insert(id, share - load)),
                Ordering::Equal => {}
                Ordering::Greater => drop(self.beyond.insert(id, load - share)),
            }
        }
    }

    /// Who gives, and how much: brokers that drain everything, and first; others what they have
    /// beyond their share.
    fn donors(&self) -> Vec<(BrokerId, usize)> {
        let donors = self.leaving.iter().chain(&self.beyond);
        donors.map(|(id, surplus)| (*id, *surplus)).collect()
    }

    /// A partition of the topic of which the donor has most, for the broker that has fewest of it.
    fn next_move(&mut self, donor: BrokerId) -> Option<(TopicPartition, BrokerId)> {
        let (count, topic) = self.topics_of.get_mut(&donor)?.pop_last()?;
        let of_topic = |id: &BrokerId| self.by_topic.get(&(topic, *id)).copied().unwrap_or(0);
        let wanting = self.wanted.iter();
        let to = wanting.min_by_key(|(id, wanted)| (of_topic(id), Reverse(**wanted), **id));
        let to = *to?.0;
        let movable = self.movable.get_mut(&(donor, topic))?;
        let tp = movable.pop_front()?;
        if !movable.is_empty() {
            let topics = self.topics_of.entry(donor).or_default();
            topics.insert((count - 1, topic));
        }
        *self.by_topic.entry((topic, to)).or_default() += 1;
        if let Some(wanted) = self.wanted.get_mut(&to) {
            *wanted -= 1;
            if *wanted == 0 {
                self.wanted.remove(&to);
            }
        }
        Some((tp, to))
    }
}

#[cfg(test)]
mod tests;
