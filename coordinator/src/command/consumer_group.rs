//! What the journal keeps of a consumer group (KIP-848), and what of it one command changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bincode::{Decode, Encode};
use firn_proto::cluster::Assignment;

/// Epoch of a static member that has left for a while.
pub const LEFT_EPOCH: i32 = -2;

/// Body of [`super::Command::ChangeConsumerGroup`]: the parts of the group that are others now.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ChangeConsumerGroup {
    /// Its id.
    pub group: Arc<str>,
    /// Its epoch.
    pub epoch: i32,
    /// The epoch that the targets were made for.
    pub assignment_epoch: i32,
    /// Hash of the topics read, with their numbers of partitions, as of `epoch`.
    pub topics_hash: u64,
    /// Members that are gone.
    pub gone: Vec<Arc<str>>,
    /// Members that are new, or say something else of themselves.
    pub subscriptions: Vec<(Arc<str>, ConsumerSubscription)>,
    /// Members that are to read something else.
    pub targets: Vec<(Arc<str>, Assignment)>,
    /// Members that have moved towards their targets.
    pub current: Vec<(Arc<str>, CurrentAssignment)>,
}

/// What a member says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ConsumerSubscription {
    /// Its static id.
    pub instance: Option<Arc<str>>,
    /// Its rack.
    pub rack: Option<Arc<str>>,
    /// Its client id.
    pub client_id: Arc<str>,
    /// Its address.
    pub client_host: Arc<str>,
    /// How long it may take to let partitions go.
    pub rebalance_timeout_ms: i32,
    /// The topics it reads by name, ascending.
    pub topics: Vec<Arc<str>>,
    /// The pattern of the topics it reads besides; none if empty.
    pub regex: Option<Arc<str>>,
    /// The assignor it wishes for.
    pub assignor: Option<Arc<str>>,
}

/// How far a member is on the way to its target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct CurrentAssignment {
    /// Its epoch; [`LEFT_EPOCH`] of a static member that has left for a while.
    pub epoch: i32,
    /// The epoch before: the answer that told of the present one may have been lost.
    pub previous_epoch: i32,
    /// What it waits for.
    pub progress: Progress,
    /// What it may own.
    pub assigned: Assignment,
    /// What it must let go and may still own.
    pub revoking: Assignment,
}

/// What a member waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum Progress {
    /// For nothing.
    #[default]
    Stable,
    /// It must let partitions go.
    Unrevoked,
    /// Others must let partitions go.
    Unreleased,
}

/// A consumer group as the journal has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ConsumerGroupRow {
    /// Its epoch.
    pub epoch: i32,
    /// The epoch that the targets were made for.
    pub assignment_epoch: i32,
    /// Hash of the topics read, with their numbers of partitions.
    pub topics_hash: u64,
    /// Its members.
    pub members: BTreeMap<Arc<str>, ConsumerMemberRow>,
}

/// A member as the journal has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ConsumerMemberRow {
    /// What it says of itself.
    pub subscription: ConsumerSubscription,
    /// What it is to read.
    pub target: Assignment,
    /// How far it is.
    pub current: CurrentAssignment,
}

impl ConsumerGroupRow {
    /// Takes a change in. What it says of members that are not there is skipped.
    pub fn apply(&mut self, change: &ChangeConsumerGroup) {
        self.epoch = change.epoch;
        self.assignment_epoch = change.assignment_epoch;
        self.topics_hash = change.topics_hash;
        for member in &change.gone {
            self.members.remove(member);
        }
        for (member, subscription) in &change.subscriptions {
            let row = self.members.entry(Arc::clone(member)).or_default();
            row.subscription = subscription.clone();
        }
        for (member, target) in &change.targets {
            if let Some(row) = self.members.get_mut(member) {
                row.target = target.clone();
            }
        }
        for (member, current) in &change.current {
            if let Some(row) = self.members.get_mut(member) {
                row.current = current.clone();
            }
        }
    }
}
