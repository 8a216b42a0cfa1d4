//! Assignors: who is to read which partition. Pure functions of members, topics and the assignment
//! before.
//!
//! - `uniform.rs`: even, and as little moves as that allows
//! - `range.rs`: neighbouring partitions of each topic, the same ones of topics of one size

mod range;
mod uniform;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_proto::cluster::Assignment;
use firn_proto::ids::{PartitionIndex, TopicId, TopicPartition};

/// What makes target assignments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Assignor {
    /// What a group has whose members wish for nothing.
    #[default]
    Uniform,
    Range,
}

impl Assignor {
    /// The assignor of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Uniform, Self::Range]
            .into_iter()
            .find(|assignor| assignor.name() == name)
    }

    /// Kafka's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// What each member is to read. Every partition that a member reads is given to exactly one.
    pub(super) fn assign(self, group: &Assigning<'_>) -> BTreeMap<Arc<str>, Assignment> {
        match self {
            Self::Uniform => uniform::assign(group),
            Self::Range => range::assign(group),
        }
    }
}

/// A group that is to be assigned.
#[derive(Debug)]
pub(super) struct Assigning<'a> {
    /// Its members by id.
    pub(super) members: BTreeMap<&'a Arc<str>, Candidate<'a>>,
    /// How many partitions each topic has that a member reads.
    pub(super) partitions: BTreeMap<TopicId, i32>,
}

/// A member that is to be assigned.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    /// Its static id.
    pub(super) instance: Option<&'a Arc<str>>,
    /// What it reads, all of it in [`Assigning::partitions`].
    pub(super) topics: Arc<BTreeSet<TopicId>>,
    /// What it was to read before.
    pub(super) before: &'a Assignment,
}

impl Assigning<'_> {
    /// All partitions of a topic, ascending.
    fn partitions_of(&self, topic: TopicId) -> impl Iterator<Item = TopicPartition> + use<> {
        let count = self.partitions.get(&topic).copied().unwrap_or(0);
        (0..count).map(move |index| TopicPartition {
            topic,
            partition: PartitionIndex(index),
        })
    }

    fn exists(&self, tp: TopicPartition) -> bool {
        let count = self.partitions.get(&tp.topic).copied().unwrap_or(0);
        (0..count).contains(&tp.partition.0)
    }
}
