//! Moves the log starts of partitions that this broker owns: first in the journal, then here (I5).

use std::sync::Arc;

use firn_coordinator::Coordinator;
use firn_proto::cluster::{
    ArchiveError, CoordinatorError, PagedRelease, RaiseLogStart, RaiseLogStarts, Reply, Request,
};
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::Incarnation;

use crate::partition::Partition;

/// Moves log starts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogStarts {
    coordinator: Coordinator,
    incarnation: Incarnation,
}

impl LogStarts {
    /// Moves them for the partitions of `incarnation`.
    pub fn new(coordinator: Coordinator, incarnation: Incarnation) -> Self {
        Self {
            coordinator,
            incarnation,
        }
    }

    /// Moves the log start of each partition up to an offset, and says where it is then: further up
    /// if it was already. One result for each, in order; durable when they come. If the future is
    /// dropped, some of them may have moved in the journal, and are seen to have when the partition
    /// is opened again.
    ///
    /// The codes are OFFSET_OUT_OF_RANGE above the high watermark, NOT_LEADER_OR_FOLLOWER if the
    /// partition has gone elsewhere, and retriable ones while the journal does not answer.
    pub async fn raise(&self, wanted: Vec<(Arc<Partition>, i64)>) -> Vec<Result<i64, ErrorCode>> {
        let mut results: Vec<_> = wanted.iter().map(|(found, to)| now(found, *to)).collect();
        let mut moving = Vec::new();
        let mut starts = Vec::new();
        for (index, (partition, to)) in wanted.into_iter().enumerate() {
            if results.get(index) != Some(&Ok(to)) || partition.bounds().log_start >= to {
                continue;
            }
            if let Some(start) = start(&partition, to, None) {
                starts.push(start);
                moving.push((index, partition, to));
            }
        }
        if starts.is_empty() {
            return results;
        }
        let moved = self.ask(starts).await;
        for (place, (index, partition, to)) in moving.into_iter().enumerate() {
            let result = match &moved {
                Ok(moved) => moved.get(place).cloned().unwrap_or(Ok(())).map_err(code),
                Err(error) => Err(coordinator_code(error)),
            };
            if result.is_ok() {
                partition.on_log_start(to);
            }
            if let Some(place) = results.get_mut(index) {
                *place = result.map(|()| to);
            }
        }
        results
    }

    /// Runs of map pages below the log start leave the map.
    ///
    /// # Errors
    /// The map has moved on, or the partition elsewhere, or the journal does not answer.
    pub async fn release(
        &self,
        partition: &Partition,
        paged: PagedRelease,
    ) -> Result<(), ErrorCode> {
        let log_start = partition.bounds().log_start;
        let Some(start) = start(partition, log_start, Some(paged)) else {
            return Ok(());
        };
        let moved = self.ask(vec![start]).await;
        let moved = moved.map_err(|error| coordinator_code(&error))?;
        moved.into_iter().try_for_each(|moved| moved.map_err(code))
    }

    async fn ask(
        &self,
        starts: Vec<RaiseLogStart>,
    ) -> Result<Vec<Result<(), ArchiveError>>, CoordinatorError> {
        let request = Request::RaiseLogStarts(RaiseLogStarts {
            incarnation: self.incarnation,
            starts,
        });
        match self.coordinator.call(request).await? {
            Reply::LogStarts(moved) => Ok(moved),
            _ => Err(CoordinatorError::Stopped),
        }
    }
}

/// Where the log start is to be, or is already; or why it cannot be there.
fn now(partition: &Partition, to: i64) -> Result<i64, ErrorCode> {
    let bounds = partition.bounds();
    if to > bounds.high_watermark {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    Ok(to.max(bounds.log_start))
}

/// What the journal is told; `None` of a partition without any record, whose log start is its end.
fn start(
    partition: &Partition,
    log_start: i64,
    paged: Option<PagedRelease>,
) -> Option<RaiseLogStart> {
    let bound = partition.bounds().archived_to.max(log_start);
    Some(RaiseLogStart {
        tp: partition.tp(),
        epoch: partition.epoch(),
        log_start,
        next: partition.next_slot(bound)?,
        paged,
    })
}

fn code(error: ArchiveError) -> ErrorCode {
    match error {
        ArchiveError::NotOwner(_) | ArchiveError::Ended(_) => ErrorCode::NotLeaderOrFollower,
        ArchiveError::UnknownTopic => ErrorCode::UnknownTopicOrPartition,
        ArchiveError::Abandoned | ArchiveError::Entered | ArchiveError::Contradiction { .. } => {
            tracing::error!(%error, "the journal refuses a log start");
            ErrorCode::KafkaStorageError
        }
    }
}

fn coordinator_code(error: &CoordinatorError) -> ErrorCode {
    tracing::warn!(%error, "a log start was not moved");
    match error {
        CoordinatorError::Busy => ErrorCode::RequestTimedOut,
        CoordinatorError::Refused(_) => ErrorCode::InvalidRequest,
        CoordinatorError::NotLeader(_) | CoordinatorError::Stopped => {
            ErrorCode::NotLeaderOrFollower
        }
    }
}
