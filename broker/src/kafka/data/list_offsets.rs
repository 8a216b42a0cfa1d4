//! ListOffsets (2), versions 1 to 10: finds offsets by timestamp.
//!
//! - v2: isolation level. v4: leader epochs. v7: the largest timestamp (KIP-734). v8: earliest
//!   local offset, which is the earliest there is: nothing is tiered. v9: latest tiered offset,
//!   which is none. v11, of Kafka 4.2, is not served: all that it adds is a timestamp for replicas of
//!   tiered topics (KIP-1023).
//!
//! Choices: a timestamp is looked up with record precision: the first record at or after it, as
//! Kafka does. Only what a consumer of the given isolation level can read is found.

use std::sync::Arc;

use firn_proto::cluster::{ArchivedRun, ClusterImage, EpochStart};
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::{PartitionIndex, TopicPartition};
use firn_proto::kafka::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};
use firn_storage::read::{FoundOffset, SegmentSearch};

use super::epochs::{self, epoch_at};
use super::fetch::{READ_COMMITTED, visible_end};
use super::locate::{self, TopicRef};
use super::unreadable::Unreadable;
use crate::kafka::connection::Refusal;
use crate::kafka::context::{Call, Context};
use crate::partition::{Bounds, Partition};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

/// What was found; −1 where there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    offset: i64,
    timestamp: i64,
    epoch: i32,
}

impl Found {
    const NOTHING: Self = Self {
        offset: -1,
        timestamp: -1,
        epoch: -1,
    };

    /// A place in the log, not a record of it.
    fn place(offset: i64, epoch: i32) -> Self {
        Self {
            offset,
            timestamp: -1,
            epoch,
        }
    }
}

/// Looks offsets up.
///
/// # Errors
/// Another process leads.
pub async fn handle(
    ctx: &Context,
    call: &Call,
    request: ListOffsetsRequest,
) -> Result<ListOffsetsResponse, Refusal> {
    let may_read = ctx.may_read().await?;
    let image = ctx.image.borrow().clone();
    let committed = request.isolation_level == READ_COMMITTED;
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let found = match may_read {
                true => look_up(ctx, call, &image, &topic.name, asked, committed).await,
                false => Err(ErrorCode::NotLeaderOrFollower),
            };
            partitions.push(answer(asked.partition_index, found));
        }
        topics.push(ListOffsetsTopicResponse {
            name: topic.name,
            partitions,
        });
    }
    // While it looked, this process may have stood still, and another may lead.
    if may_read && !ctx.may_read().await? {
        let elsewhere = Err(ErrorCode::NotLeaderOrFollower);
        for partition in topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            *partition = answer(partition.partition_index, elsewhere);
        }
    }
    Ok(ListOffsetsResponse {
        topics,
        ..ListOffsetsResponse::default()
    })
}

fn answer(partition_index: i32, found: Result<Found, ErrorCode>) -> ListOffsetsPartitionResponse {
    let (error_code, found) = match found {
        Ok(found) => (ErrorCode::None, found),
        Err(code) => (code, Found::NOTHING),
    };
    ListOffsetsPartitionResponse {
        partition_index,
        error_code,
        timestamp: found.timestamp,
        offset: found.offset,
        leader_epoch: found.epoch,
    }
}

async fn look_up(
    ctx: &Context,
    call: &Call,
    image: &ClusterImage,
    name: &str,
    asked: &ListOffsetsPartition,
    committed: bool,
) -> Result<Found, ErrorCode> {
    let topic = locate::topic(image, TopicRef::Name(name))?;
    let index = PartitionIndex(asked.partition_index);
    let partition = locate::partition(ctx, topic, index.0).map_err(|misplaced| misplaced.code)?;
    let bounds = partition.bounds();
    epochs::check_current(bounds.epoch, asked.current_leader_epoch)?;
    let known = topic.partition(index);
    let known = known.map_or(&[][..], |partition| &partition.epochs);
    if let Some(found) = special(asked.timestamp, call.version, &bounds, committed, known)? {
        return Ok(found);
    }
    let search = Search {
        ctx,
        topic: &topic.name,
        partition: &partition,
        committed,
    };
    let found = match asked.timestamp {
        MAX_TIMESTAMP => Box::pin(search.newest()).await,
        timestamp => Box::pin(search.first_at(timestamp)).await,
    };
    match found {
        Ok(None) => Ok(Found::NOTHING),
        Ok(Some(found)) => Ok(Found {
            offset: found.offset,
            timestamp: found.timestamp,
            epoch: found.epoch.0,
        }),
        Err(error) => Err(failed(partition.tp(), &error)),
    }
}

/// A look for records by their time, in segments and behind them in the WAL.
struct Search<'a> {
    ctx: &'a Context,
    topic: &'a str,
    partition: &'a Partition,
    /// Whether only what is committed is found.
    committed: bool,
}

impl Search<'_> {
    /// The first record at or after a time. What has moved since it was looked up is looked up again.
    async fn first_at(&self, timestamp: i64) -> Result<Option<FoundOffset>, Unreadable> {
        let mut looks = 0;
        loop {
            match self.look_for(timestamp).await {
                Err(error) => self.look_again(error, &mut looks).await?,
                found => return found,
            }
        }
    }

    /// The first record with the largest timestamp.
    async fn newest(&self) -> Result<Option<FoundOffset>, Unreadable> {
        let mut looks = 0;
        loop {
            match self.look_for_newest().await {
                Err(error) => self.look_again(error, &mut looks).await?,
                found => return found,
            }
        }
    }

    async fn look_again(&self, error: Unreadable, looks: &mut u32) -> Result<(), Unreadable> {
        self.ctx.segments.forget(self.partition.tp());
        match error.looks_again(looks).await {
            true => Ok(()),
            false => Err(error),
        }
    }

    /// Records at or behind are not found.
    fn end_of(&self, bounds: &Bounds) -> i64 {
        visible_end(bounds, self.committed)
    }

    fn in_segments<'a>(
        &'a self,
        runs: &'a [Arc<ArchivedRun>],
        start: i64,
        end: i64,
    ) -> SegmentSearch<'a> {
        SegmentSearch {
            tp: self.partition.tp(),
            topic_name: self.topic,
            start,
            end,
            runs,
        }
    }

    /// Segments before `archived_to`, and the WAL behind it. What is archived meanwhile leaves the
    /// runs of the WAL, so that each step looks anew which of them has the next offset.
    async fn look_for(&self, timestamp: i64) -> Result<Option<FoundOffset>, Unreadable> {
        let (reader, tp) = (&self.ctx.reader, self.partition.tp());
        let bounds = self.partition.bounds();
        let (start, end) = (bounds.log_start, self.end_of(&bounds));
        let mut from = start;
        while from < end {
            let archived_to = self.partition.bounds().archived_to;
            if from < archived_to {
                let run = self.ctx.segments.run_with_time(tp, timestamp, from).await?;
                let Some(run) = run else {
                    from = archived_to;
                    continue;
                };
                let runs = std::slice::from_ref(&run);
                let search = self.in_segments(runs, start, end);
                if let Some(found) = reader.first_in_segments_at(&search, timestamp).await? {
                    return Ok(Some(found));
                }
                from = run.last_offset + 1;
                continue;
            }
            let place = self.partition.place_of_time(from, end, timestamp);
            if from < self.partition.bounds().archived_to {
                continue;
            }
            let Some(run) = place.run.filter(|run| run.run.base_offset < end) else {
                let found = reader.first_in_batches(tp, place.ahead, timestamp, (from, end));
                return Ok(found.await?);
            };
            let runs = std::slice::from_ref(&run);
            let found = reader.offset_for_timestamp(tp, timestamp, from, end, runs);
            if let Some(found) = found.await? {
                return Ok(Some(found));
            }
            from = run.run.last_offset + 1;
        }
        Ok(None)
    }

    async fn newest_archived(&self, start: i64) -> Result<Option<FoundOffset>, Unreadable> {
        let (segments, tp) = (&self.ctx.segments, self.partition.tp());
        // The log may start in the middle of a run, whose largest timestamp may lie below.
        let mut runs = segments.runs(tp, start).await?;
        runs.truncate(1);
        let behind = runs.first().map_or(start, |run| run.last_offset + 1);
        runs.extend(segments.run_with_max_time(tp, behind).await?);
        // Asked behind the map, so that whatever that has is visible.
        let end = self.end_of(&self.partition.bounds());
        let search = self.in_segments(&runs, start, end);
        Ok(self.ctx.reader.newest_in_segments(&search).await?)
    }

    async fn look_for_newest(&self) -> Result<Option<FoundOffset>, Unreadable> {
        let (reader, tp) = (&self.ctx.reader, self.partition.tp());
        // First of all: what is archived meanwhile is found in both places, and not in neither.
        let place = self.partition.place_of_newest();
        let bounds = self.partition.bounds();
        let start = bounds.log_start;
        let archived = match start < bounds.archived_to {
            true => self.newest_archived(start).await?,
            false => None,
        };
        let end = self.end_of(&bounds);
        let in_wal = match place.run {
            Some(run) => {
                let runs = std::slice::from_ref(&run);
                reader.max_timestamp(tp, start, end, runs).await?
            }
            None => None,
        };
        let ahead = reader.newest_in_batches(tp, place.ahead, (start, end));
        let later = newer(in_wal, ahead.await?);
        Ok(newer(archived, later))
    }
}

/// The one with the larger timestamp; of equals the first.
fn newer(first: Option<FoundOffset>, later: Option<FoundOffset>) -> Option<FoundOffset> {
    match (first, later) {
        (Some(first), Some(later)) if later.timestamp > first.timestamp => Some(later),
        (first, later) => first.or(later),
    }
}

/// What needs no look at records; `None` for what does.
///
/// # Errors
/// UNSUPPORTED_VERSION for a special timestamp that the version does not have.
fn special(
    timestamp: i64,
    version: i16,
    bounds: &Bounds,
    committed: bool,
    known: &[EpochStart],
) -> Result<Option<Found>, ErrorCode> {
    let since = match timestamp {
        MAX_TIMESTAMP => 7,
        EARLIEST_LOCAL => 8,
        LATEST_TIERED => 9,
        _ => 1,
    };
    if version < since {
        return Err(ErrorCode::UnsupportedVersion);
    }
    Ok(match timestamp {
        LATEST => {
            let end = visible_end(bounds, committed);
            Some(Found::place(end, bounds.epoch.0))
        }
        EARLIEST | EARLIEST_LOCAL => {
            let start = bounds.log_start;
            Some(Found::place(start, epoch_at(known, start)))
        }
        LATEST_TIERED => Some(Found::NOTHING),
        MAX_TIMESTAMP | 0.. => None,
        _ => return Err(ErrorCode::UnsupportedVersion),
    })
}

fn failed(tp: TopicPartition, error: &Unreadable) -> ErrorCode {
    tracing::warn!(%tp, %error, "a timestamp could not be looked up");
    error.code()
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

    fn epochs() -> Vec<EpochStart> {
        [(3, 0), (7, 20)]
            .map(|(epoch, start_offset)| EpochStart {
                epoch: LeaderEpoch(epoch),
                start_offset,
            })
            .to_vec()
    }

    fn look(timestamp: i64, version: i16, committed: bool) -> Result<Option<Found>, ErrorCode> {
        special(timestamp, version, &BOUNDS, committed, &epochs())
    }

    #[test]
    fn the_latest_offset_depends_on_the_isolation_level() {
        assert_eq!(look(LATEST, 1, false), Ok(Some(Found::place(40, 7))));
        assert_eq!(look(LATEST, 2, true), Ok(Some(Found::place(30, 7))));
    }

    #[test]
    fn the_earliest_offset_is_the_log_start_in_its_own_epoch() {
        assert_eq!(look(EARLIEST, 1, false), Ok(Some(Found::place(5, 3))));
        assert_eq!(look(EARLIEST_LOCAL, 8, false), Ok(Some(Found::place(5, 3))));
    }

    #[test]
    fn nothing_is_tiered() {
        assert_eq!(look(LATEST_TIERED, 9, false), Ok(Some(Found::NOTHING)));
    }

    #[test]
    fn records_are_looked_at_for_times() {
        assert_eq!(look(0, 1, false), Ok(None));
        assert_eq!(look(MAX_TIMESTAMP, 7, false), Ok(None));
    }

    #[test]
    fn a_special_timestamp_from_a_later_version_is_refused() {
        for (timestamp, version) in [(MAX_TIMESTAMP, 6), (EARLIEST_LOCAL, 7), (LATEST_TIERED, 8)] {
            assert_eq!(
                look(timestamp, version, false),
                Err(ErrorCode::UnsupportedVersion)
            );
        }
        assert_eq!(look(-6, 10, false), Err(ErrorCode::UnsupportedVersion));
    }
}
