//! Which partition of this broker a request means, and who has it if this broker has not.

use std::sync::Arc;

use firn_proto::cluster::{ClusterImage, TopicImage};
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::{PartitionIndex, TopicId};

use crate::kafka::context::Context;
use crate::partition::Partition;

/// A topic as a request names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicRef<'a> {
    /// By name.
    Name(&'a str),
    /// By id (KIP-516).
    Id(TopicId),
}

/// A partition that is not served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misplaced {
    /// The code.
    pub code: ErrorCode,
    /// The broker that owns it and the epoch in which it does, if that is known.
    pub leader: Option<(i32, i32)>,
}

impl From<ErrorCode> for Misplaced {
    fn from(code: ErrorCode) -> Self {
        Self { code, leader: None }
    }
}

/// The topic that is meant.
///
/// # Errors
/// UNKNOWN_TOPIC_ID or UNKNOWN_TOPIC_OR_PARTITION.
pub fn topic<'a>(
    image: &'a ClusterImage,
    named: TopicRef<'_>,
) -> Result<&'a Arc<TopicImage>, ErrorCode> {
    match named {
        TopicRef::Name(name) => image
            .topic_named(name)
            .ok_or(ErrorCode::UnknownTopicOrPartition),
        TopicRef::Id(id) => image.topic(id).ok_or(ErrorCode::UnknownTopicId),
    }
}

/// The partition of that index, if this process owns it.
///
/// # Errors
/// UNKNOWN_TOPIC_OR_PARTITION if the topic has no such partition; NOT_LEADER_OR_FOLLOWER if another
/// process owns it, nobody does, or it is not open yet.
pub fn partition(
    ctx: &Context,
    topic: &TopicImage,
    index: i32,
) -> Result<Arc<Partition>, Misplaced> {
    let index = PartitionIndex(index);
    let Some(image) = topic.partition(index) else {
        return Err(ErrorCode::UnknownTopicOrPartition.into());
    };
    let owner = image.owner.ok_or(ErrorCode::NotLeaderOrFollower)?;
    if owner.incarnation != ctx.incarnation {
        return Err(Misplaced {
            code: ErrorCode::NotLeaderOrFollower,
            leader: Some((owner.broker.0, image.epoch.0)),
        });
    }
    // Opened in an earlier epoch, it has been given up since and ends before what the others know.
    let open = ctx.partitions.find(topic.id, index);
    open.filter(|open| open.epoch() == image.epoch)
        .ok_or_else(|| ErrorCode::NotLeaderOrFollower.into())
}

/// The other broker that owns a partition and the epoch in which it does, to be told to a client
/// that is refused here.
pub fn other_leader(ctx: &Context, topic: &TopicImage, index: i32) -> Option<(i32, i32)> {
    leader(topic, index).filter(|(leader, _)| *leader != ctx.broker.0)
}

/// Who owns a partition according to the published picture, to be told to a client.
pub fn leader(topic: &TopicImage, index: i32) -> Option<(i32, i32)> {
    let partition = topic.partition(PartitionIndex(index))?;
    let owner = partition.owner?;
    Some((owner.broker.0, partition.epoch.0))
}
