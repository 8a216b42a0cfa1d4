//! Objects that are created once and never changed: whoever wins, everybody learns the bytes.

use bytes::Bytes;
use firn_proto::env::Entropy;
use thiserror::Error;

use crate::bucket::{Bucket, BucketError, CreateOutcome, Purpose, backoff};
use crate::layout::Key;

/// Attempts before the caller hears that the bucket does not answer.
const ATTEMPTS_MAX: u32 = 12;

/// Whose object it is now.
#[derive(Debug)]
pub(crate) enum Creation {
    /// It has our bytes.
    Ours,
    /// Somebody was there before; these are the bytes.
    Theirs(Bytes),
}

/// Why it is not known whose object it is.
#[derive(Clone, Debug, Error)]
pub enum CreateError {
    /// The object cannot be looked at.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The bucket did not take it.
    #[error("cannot create {key}: {reason}")]
    NotTaken {
        /// The object.
        key: Key,
        /// The last answer.
        reason: String,
    },
}

/// Creates an object and resolves every unclear answer by reading it back.
pub(crate) async fn create(
    bucket: &Bucket,
    entropy: &Entropy,
    purpose: Purpose,
    key: &Key,
    bytes: Bytes,
) -> Result<Creation, CreateError> {
    let mut reason = String::new();
    for attempt in 0..ATTEMPTS_MAX {
        if attempt > 0 {
            tokio::time::sleep(backoff(attempt, entropy.next_u64())).await;
        }
        match bucket.create_once(purpose, key, vec![bytes.clone()]).await {
            CreateOutcome::Created => return Ok(Creation::Ours),
            CreateOutcome::Exists => {}
            CreateOutcome::Unclear(unclear) => reason = unclear.to_string(),
            CreateOutcome::Refused(error) => reason = error.to_string(),
        }
        match bucket.get(purpose, key).await? {
            Some(found) if found == bytes => return Ok(Creation::Ours),
            Some(found) => return Ok(Creation::Theirs(found)),
            None => tracing::debug!(%key, attempt, reason, "a create is unclear, trying again"),
        }
    }
    Err(CreateError::NotTaken {
        key: key.clone(),
        reason,
    })
}
