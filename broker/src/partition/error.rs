//! Why a produced batch was not stored.

use firn_proto::error_code::ErrorCode;
use thiserror::Error;

use super::log::Refusal;
use super::prepare::PrepareError;

/// Why a produced batch was not stored, or will not be acknowledged.
#[derive(Debug, Error)]
pub enum AppendError {
    /// The batch itself is wrong.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The partition does not take it.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl AppendError {
    /// The code for the client.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Prepare(error) => error.code(),
            Self::Refused(Refusal::NotOwner) => ErrorCode::NotLeaderOrFollower,
            Self::Refused(Refusal::OutOfOrder { .. }) => ErrorCode::OutOfOrderSequenceNumber,
            Self::Refused(Refusal::ProducerFenced { .. }) => ErrorCode::InvalidProducerEpoch,
        }
    }

    /// The record that is to blame, for `record_errors` (KIP-467).
    pub fn record_index(&self) -> Option<i32> {
        match self {
            Self::Prepare(error) => error.record_index(),
            Self::Refused(_) => None,
        }
    }
}
