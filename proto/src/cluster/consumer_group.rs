//! Consumer groups of the next generation (KIP-848): the coordinator assigns, members report.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bincode::{Decode, Encode};

use super::group::GroupState;
use crate::ids::{PartitionIndex, TopicId, TopicPartition};

/// Partitions of several topics. No topic stands there without partitions. A clone costs nothing: it
/// shares them with the original until one of the two changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Assignment {
    by_topic: Arc<BTreeMap<TopicId, BTreeSet<PartitionIndex>>>,
}

impl Assignment {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_topic.is_empty()
    }

    /// How many partitions there are.
    pub fn len(&self) -> usize {
        self.by_topic.values().map(BTreeSet::len).sum()
    }

    /// The topics with their partitions.
    pub fn topics(&self) -> impl Iterator<Item = (TopicId, &BTreeSet<PartitionIndex>)> {
        self.by_topic.iter().map(|(topic, rest)| (*topic, rest))
    }

    /// The partitions, ascending.
    pub fn iter(&self) -> impl Iterator<Item = TopicPartition> {
        self.by_topic.iter().flat_map(|(topic, partitions)| {
            let topic = *topic;
            partitions.iter().map(move |partition| TopicPartition {
                topic,
                partition: *partition,
            })
        })
    }

    /// Whether the partition is one of them.
    pub fn contains(&self, tp: TopicPartition) -> bool {
        let partitions = self.by_topic.get(&tp.topic);
        partitions.is_some_and(|partitions| partitions.contains(&tp.partition))
    }

    /// Adds a partition.
    pub fn insert(&mut self, tp: TopicPartition) {
        let by_topic = Arc::make_mut(&mut self.by_topic);
        by_topic.entry(tp.topic).or_default().insert(tp.partition);
    }

    /// Takes a partition out. True if it was there.
    pub fn remove(&mut self, tp: TopicPartition) -> bool {
        if !self.contains(tp) {
            return false;
        }
        let by_topic = Arc::make_mut(&mut self.by_topic);
        if let Some(partitions) = by_topic.get_mut(&tp.topic) {
            partitions.remove(&tp.partition);
            if partitions.is_empty() {
                by_topic.remove(&tp.topic);
            }
        }
        true
    }

    /// Whether every one of them is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.iter().all(|tp| other.contains(tp))
    }

    /// Whether one of them is in `other`.
    pub fn intersects(&self, other: &Self) -> bool {
        self.iter().any(|tp| other.contains(tp))
    }
}

impl FromIterator<TopicPartition> for Assignment {
    fn from_iter<T: IntoIterator<Item = TopicPartition>>(partitions: T) -> Self {
        let mut assignment = Self::default();
        for tp in partitions {
            assignment.insert(tp);
        }
        assignment
    }
}

/// ConsumerGroupHeartbeat, versions 0 and 1.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ConsumerHeartbeat {
    /// The group.
    pub group: Arc<str>,
    /// The member's id; in version 0 empty for a new member.
    pub member: Arc<str>,
    /// Whether a new member must bring its id (v1).
    pub requires_member: bool,
    /// Its epoch; 0 to join, -1 to leave, -2 to leave for a while.
    pub epoch: i32,
    /// Its static id.
    pub instance: Option<Arc<str>>,
    /// Its rack.
    pub rack: Option<Arc<str>>,
    /// From the request header.
    pub client_id: Arc<str>,
    /// The client's address.
    pub client_host: Arc<str>,
    /// How long it may take to let partitions go, in milliseconds; -1: unchanged.
    pub rebalance_timeout_ms: i32,
    /// The topics it reads; absent: unchanged.
    pub topics: Option<Vec<Arc<str>>>,
    /// The pattern of names of topics it reads besides; absent: unchanged.
    pub regex: Option<Arc<str>>,
    /// The assignor it wants; absent: unchanged, or any.
    pub assignor: Option<Arc<str>>,
    /// The partitions it owns; absent: unchanged.
    pub owned: Option<Assignment>,
}

/// Where a member stands after a ConsumerGroupHeartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ConsumerStanding {
    /// Its id.
    pub member: Arc<str>,
    /// Its epoch.
    pub epoch: i32,
    /// How often it is to be heard, in milliseconds.
    pub heartbeat_interval_ms: i32,
    /// What it may own from now on; absent: unchanged.
    pub assignment: Option<Assignment>,
}

/// A consumer group, described.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DescribedConsumerGroup {
    /// The group.
    pub group: Arc<str>,
    /// Its state.
    pub state: GroupState,
    /// Rises with each change of members, subscriptions and topics.
    pub epoch: i32,
    /// The epoch that the target assignment was made for.
    pub assignment_epoch: i32,
    /// What makes it.
    pub assignor: Arc<str>,
    /// Its members.
    pub members: Vec<DescribedConsumerMember>,
}

/// A member of a consumer group, described.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DescribedConsumerMember {
    /// Its id.
    pub member: Arc<str>,
    /// Its static id.
    pub instance: Option<Arc<str>>,
    /// Its rack.
    pub rack: Option<Arc<str>>,
    /// Its epoch.
    pub epoch: i32,
    /// Its client id.
    pub client_id: Arc<str>,
    /// Its address.
    pub client_host: Arc<str>,
    /// The topics it reads by name.
    pub topics: Vec<Arc<str>>,
    /// The pattern of the topics it reads besides.
    pub regex: Option<Arc<str>>,
    /// What it may own now.
    pub assigned: Vec<NamedPartitions>,
    /// What it is to own.
    pub target: Vec<NamedPartitions>,
}

/// Partitions of a topic that exists.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NamedPartitions {
    /// The topic.
    pub topic: TopicId,
    /// Its name.
    pub name: Arc<str>,
    /// Its partitions, ascending.
    pub partitions: Vec<PartitionIndex>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_shares_what_it_holds_until_one_of_the_two_changes() {
        let tp = |index| TopicPartition {
            topic: TopicId([1; 16]),
            partition: PartitionIndex(index),
        };
        let original: Assignment = (0..3).map(tp).collect();
        let mut clone = original.clone();
        let shares = |clone: &Assignment| Arc::ptr_eq(&original.by_topic, &clone.by_topic);
        assert!(shares(&clone));
        assert!(!clone.remove(tp(7)) && shares(&clone), "nothing changed");
        assert!(clone.remove(tp(0)) && !shares(&clone));
        clone.insert(tp(9));
        assert_eq!(original, (0..3).map(tp).collect());
        assert_eq!(clone, [1, 2, 9].map(tp).into_iter().collect());
        for index in [1, 2, 9] {
            assert!(clone.remove(tp(index)));
        }
        assert!(clone.is_empty());
    }
}
