//! DeleteRecords (21), versions 0 to 2: moves the first offset of partitions up (KIP-107). Kafka
//! Streams does so all the time.
//!
//! A partition is answered once its new log start is durable. Choices, all Kafka's: −1 stands for the
//! high watermark; below the log start nothing moves, and the log start is told; records of a topic
//! that is only compacted stay.

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_proto::cluster::TopicImage;
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::TopicPartition;
use firn_proto::kafka::delete_records::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsRequest,
    DeleteRecordsResponse, DeleteRecordsTopicResult,
};
use firn_proto::limits::LOG_STARTS_MOVED_MAX;
use tokio::time::timeout;

use super::locate::{self, TopicRef};
use super::topic_rules::TopicRules;
use crate::kafka::connection::Refusal;
use crate::kafka::context::{Context, journal_wait};
use crate::partition::{Bounds, Partition};

/// Stands for the high watermark.
const ALL_VISIBLE: i64 = -1;
/// Where a partition begins of which nothing is told but an error.
const NOT_TOLD: i64 = -1;

/// Where each partition is to begin. One that is named twice begins at the higher offset.
type Wanted = BTreeMap<TopicPartition, (Arc<Partition>, i64)>;

/// Deletes the first records of partitions.
///
/// # Errors
/// Another process leads.
pub async fn handle(
    ctx: &Context,
    request: DeleteRecordsRequest,
) -> Result<DeleteRecordsResponse, Refusal> {
    let may_read = ctx.may_read().await?;
    let image = ctx.image.borrow().clone();
    let mut wanted = Wanted::new();
    let topics = request.topics.iter().map(|topic| {
        let found = match may_read {
            true => locate::topic(&image, TopicRef::Name(&topic.name)),
            false => Err(ErrorCode::NotLeaderOrFollower),
        };
        let partitions = topic.partitions.iter();
        let checked = partitions.map(|asked| check(ctx, found?, asked, &mut wanted));
        checked.collect::<Vec<_>>()
    });
    let checked: Vec<_> = topics.collect();
    let starts = raise(ctx, wanted, request.timeout_ms).await;
    let topics = request.topics.into_iter().zip(checked);
    let topics = topics.map(|(topic, checked)| {
        let partitions = topic.partitions.iter().zip(checked);
        let partitions = partitions.map(|(asked, checked)| {
            let moved = checked.and_then(|tp| {
                let start = starts.get(&tp).copied();
                start.unwrap_or(Err(ErrorCode::UnknownServerError))
            });
            answer(asked.partition_index, moved)
        });
        DeleteRecordsTopicResult {
            partitions: partitions.collect(),
            name: topic.name,
        }
    });
    Ok(DeleteRecordsResponse {
        topics: topics.collect(),
        ..DeleteRecordsResponse::default()
    })
}

/// Notes where a partition is to begin, if it may begin there.
fn check(
    ctx: &Context,
    topic: &TopicImage,
    asked: &DeleteRecordsPartition,
    wanted: &mut Wanted,
) -> Result<TopicPartition, ErrorCode> {
    let partition = locate::partition(ctx, topic, asked.partition_index);
    let partition = partition.map_err(|misplaced| misplaced.code)?;
    let rules = TopicRules::new(&topic.configs, usize::MAX);
    if rules.retention.is_none() {
        return Err(ErrorCode::PolicyViolation);
    }
    let to = new_start(&partition.bounds(), asked.offset)?;
    let tp = partition.tp();
    let (_, highest) = wanted.entry(tp).or_insert((partition, to));
    *highest = to.max(*highest);
    Ok(tp)
}

/// Where a partition is to begin whose client says `offset`.
fn new_start(bounds: &Bounds, offset: i64) -> Result<i64, ErrorCode> {
    match offset {
        ALL_VISIBLE => Ok(bounds.high_watermark),
        0.. if offset <= bounds.high_watermark => Ok(offset),
        _ => Err(ErrorCode::OffsetOutOfRange),
    }
}

/// Moves the log starts, and says where each partition begins then. What takes too long may still
/// happen.
async fn raise(
    ctx: &Context,
    wanted: Wanted,
    timeout_ms: i32,
) -> BTreeMap<TopicPartition, Result<i64, ErrorCode>> {
    let (partitions, wanted): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
    // What is only on the local disk yet goes to the bucket first: a log starts nowhere else.
    let is_ahead = |(partition, to): &(Arc<Partition>, i64)| partition.bounds().durable_end < *to;
    let raising = async {
        if wanted.iter().any(is_ahead) {
            ctx.wal.flush().await;
        }
        let mut results = Vec::with_capacity(wanted.len());
        for some in wanted.chunks(LOG_STARTS_MOVED_MAX) {
            results.extend(ctx.log_starts.raise(some.to_vec()).await);
        }
        results
    };
    let late = |(partition, to): &(Arc<Partition>, i64)| {
        let start = partition.bounds().log_start;
        (start >= *to)
            .then_some(start)
            .ok_or(ErrorCode::RequestTimedOut)
    };
    let results = match timeout(journal_wait(timeout_ms), raising).await {
        Ok(results) => results,
        Err(_) => wanted.iter().map(late).collect(),
    };
    partitions.into_iter().zip(results).collect()
}

fn answer(partition_index: i32, moved: Result<i64, ErrorCode>) -> DeleteRecordsPartitionResult {
    let (error_code, low_watermark) = match moved {
        Ok(start) => (ErrorCode::None, start),
        Err(code) => (code, NOT_TOLD),
    };
    DeleteRecordsPartitionResult {
        partition_index,
        low_watermark,
        error_code,
    }
}

#[cfg(test)]
mod tests {
    use firn_proto::ids::LeaderEpoch;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        epoch: LeaderEpoch(7),
        log_start: 5,
        archived_to: 5,
        durable_end: 40,
        high_watermark: 40,
        last_stable_offset: 30,
        log_end: 50,
    };

    #[test]
    fn a_log_begins_anywhere_up_to_the_high_watermark() {
        for offset in [0, 4, 5, 30, 40] {
            assert_eq!(new_start(&BOUNDS, offset), Ok(offset));
        }
        assert_eq!(new_start(&BOUNDS, -1), Ok(40));
    }

    #[test]
    fn what_is_not_visible_is_not_deleted() {
        for offset in [41, 50, i64::MAX, -2, i64::MIN] {
            let refused = new_start(&BOUNDS, offset);
            assert_eq!(refused, Err(ErrorCode::OffsetOutOfRange), "{offset}");
        }
    }
}
