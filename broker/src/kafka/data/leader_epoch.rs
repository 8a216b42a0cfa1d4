//! OffsetForLeaderEpoch (23), versions 2 to 4: where a leader epoch ends.
//!
//! A consumer asks after each change of leader whether what it has read is still in the log
//! (KIP-320). Choice: the latest epoch ends at the high watermark, as nothing beyond it was ever
//! shown to a consumer.

use firn_proto::cluster::ClusterImage;
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::PartitionIndex;
use firn_proto::kafka::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition, OffsetForLeaderTopicResult,
};

use super::epochs::{self, EpochEnd};
use super::locate::{self, TopicRef};
use crate::kafka::connection::Refusal;
use crate::kafka::context::Context;

/// Looks epochs up.
///
/// # Errors
/// Another process leads.
pub async fn handle(
    ctx: &Context,
    request: OffsetForLeaderEpochRequest,
) -> Result<OffsetForLeaderEpochResponse, Refusal> {
    let may_read = ctx.may_read().await?;
    let image = ctx.image.borrow().clone();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter();
        OffsetForLeaderTopicResult {
            partitions: partitions
                .map(|asked| match may_read {
                    true => answer(asked, look_up(ctx, &image, &topic.topic, asked)),
                    false => answer(asked, Err(ErrorCode::NotLeaderOrFollower)),
                })
                .collect(),
            topic: topic.topic,
        }
    });
    Ok(OffsetForLeaderEpochResponse {
        topics: topics.collect(),
        ..OffsetForLeaderEpochResponse::default()
    })
}

fn answer(asked: &OffsetForLeaderPartition, found: Result<EpochEnd, ErrorCode>) -> EpochEndOffset {
    let (error_code, end) = match found {
        Ok(end) => (ErrorCode::None, end),
        Err(code) => (code, EpochEnd::UNKNOWN),
    };
    EpochEndOffset {
        error_code,
        partition: asked.partition,
        leader_epoch: end.epoch,
        end_offset: end.end_offset,
    }
}

fn look_up(
    ctx: &Context,
    image: &ClusterImage,
    name: &str,
    asked: &OffsetForLeaderPartition,
) -> Result<EpochEnd, ErrorCode> {
    let topic = locate::topic(image, TopicRef::Name(name))?;
    let partition =
        locate::partition(ctx, topic, asked.partition).map_err(|misplaced| misplaced.code)?;
    let bounds = partition.bounds();
    epochs::check_current(bounds.epoch, asked.current_leader_epoch)?;
    let known = topic.partition(PartitionIndex(asked.partition));
    let known = known.map_or(&[][..], |partition| &partition.epochs);
    Ok(epochs::end_of(
        known,
        asked.leader_epoch,
        bounds.high_watermark,
    ))
}
