//! Batches for a partition that is on its way from one broker to another. They are held for a moment:
//! a client that is sent back to where nobody takes them yet waits longer before it asks again.
//!
//! The broker that the partition leaves has refused the batch, and holds the *answer* until it can
//! name the next owner (KIP-951). The one that it comes to holds the *batch* until the partition is
//! open there, in front of what its client sends behind it.

use std::sync::Arc;
use std::time::Duration;

use firn_proto::cluster::{ClusterImage, TopicImage};
use firn_proto::ids::{PartitionIndex, TopicPartition};
use firn_proto::kafka::leaders::LeaderIdAndEpoch;
use tokio::time::timeout;

use super::{TopicName, leader_of};
use crate::kafka::context::Context;
use crate::kafka::data::locate::{self, Misplaced};
use crate::partition::Partition;

/// The partition, if this process owns it: waited for if it is about to be opened.
///
/// # Errors
/// It is not here, does not come in time, or too many batches are held already.
pub(super) async fn partition(
    ctx: &Context,
    topic: &TopicImage,
    index: i32,
    patience: Duration,
) -> Result<Arc<Partition>, Misplaced> {
    let found = locate::partition(ctx, topic, index);
    let Err(misplaced) = found else { return found };
    let index = PartitionIndex(index);
    let ours = topic.partition(index).filter(|image| {
        let is_ours = image
            .owner
            .is_some_and(|o| o.incarnation == ctx.incarnation);
        is_ours && image.moving_to.is_none()
    });
    let (Some(ours), Ok(_held)) = (ours, ctx.produces_held.try_acquire()) else {
        return Err(misplaced);
    };
    let tp = TopicPartition {
        topic: topic.id,
        partition: index,
    };
    let opened = ctx.partitions.opened(tp, ours.epoch);
    let opened = timeout(patience, opened).await.ok().flatten();
    opened.ok_or(misplaced)
}

/// The next owner of a partition that this process does not serve (any more): waited for while it is
/// on its way there.
pub(super) async fn next_leader(
    ctx: &Context,
    named: TopicName<'_>,
    index: i32,
    patience: Duration,
) -> Option<LeaderIdAndEpoch> {
    let mut pictures = ctx.image.clone();
    let has_left = pictures.wait_for(|image| !leaves(ctx, image, named, index));
    // what is known when the time is up is all that can be said
    drop(timeout(patience, has_left).await);
    let image = ctx.image.borrow().clone();
    leader_of(ctx, named.find(&image)?, index)
}

/// Whether this process was asked to give the partition to another one, and still has it according
/// to the picture.
fn leaves(ctx: &Context, image: &ClusterImage, named: TopicName<'_>, index: i32) -> bool {
    let topic = named.find(image);
    let partition = topic.and_then(|topic| topic.partition(PartitionIndex(index)));
    partition.is_some_and(|partition| {
        let owner = partition.owner.filter(|o| o.incarnation == ctx.incarnation);
        owner.is_some() && partition.moving_to.is_some()
    })
}
