//! Why records of a partition cannot be read, and what a client is told then.

use std::time::Duration;

use firn_proto::cluster::CoordinatorError;
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::TopicPartition;
use firn_storage::read::ReadError;
use thiserror::Error;

use crate::segment_map::MapError;

/// How often what cannot be read is looked for again, if its place has changed.
const LOOKS_AGAIN_MAX: u32 = 5;
/// The pause before the first of these looks; each later one waits longer by as much. The journal,
/// and with it the collector, know of an archived run a moment before its owner does.
const LOOK_AGAIN_PAUSE: Duration = Duration::from_millis(10);

/// Why records cannot be read.
#[derive(Debug, Error)]
pub enum Unreadable {
    /// They were deleted while they were looked for.
    #[error("{tp} begins at {log_start} now")]
    Deleted {
        /// The partition.
        tp: TopicPartition,
        /// Where it begins.
        log_start: i64,
    },
    /// Where they are is not known.
    #[error(transparent)]
    Map(#[from] MapError),
    /// They are not there, or damaged, or the bucket does not answer.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Unreadable {
    /// Whether what was known of their place is older than the truth, so that another look helps.
    fn is_outdated(&self) -> bool {
        let gone = |error: &ReadError| {
            matches!(error, ReadError::NotCovered { .. } | ReadError::Gone { .. })
        };
        match self {
            Self::Read(error) | Self::Map(MapError::Page { source: error, .. }) => gone(error),
            Self::Deleted { .. } | Self::Map(_) => false,
        }
    }

    /// Waits before the next look, if there is to be one; false if there is none.
    pub async fn looks_again(&self, looks: &mut u32) -> bool {
        *looks += 1;
        let again = self.is_outdated() && *looks <= LOOKS_AGAIN_MAX;
        if again {
            tokio::time::sleep(LOOK_AGAIN_PAUSE * *looks).await;
        }
        again
    }

    /// The code for the client.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Deleted { .. } => ErrorCode::OffsetOutOfRange,
            Self::Map(MapError::Unknown(_)) => ErrorCode::UnknownTopicOrPartition,
            Self::Map(MapError::Coordinator { source, .. }) => match source {
                CoordinatorError::NotLeader(_) | CoordinatorError::Stopped => {
                    ErrorCode::NotLeaderOrFollower
                }
                CoordinatorError::Busy | CoordinatorError::Refused(_) => {
                    ErrorCode::KafkaStorageError
                }
            },
            Self::Read(error) | Self::Map(MapError::Page { source: error, .. }) => match error {
                ReadError::NotCovered { .. }
                | ReadError::Gone { .. }
                | ReadError::Stopped { .. }
                | ReadError::Bucket(_) => ErrorCode::KafkaStorageError,
                ReadError::Corrupt { .. } | ReadError::Undecodable { .. } => {
                    ErrorCode::CorruptMessage
                }
            },
        }
    }
}
