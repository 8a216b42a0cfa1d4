//! Objects that are created once and never changed: whoever wins, everybody learns the bytes.

use bytes::Bytes;
use firn_proto::journal::JournalError;

use super::unavailable;
use crate::bucket::{Bucket, CreateOutcome, Purpose, backoff};
use crate::layout::Key;
use crate::stream::StreamEnv;

/// Attempts before the caller hears that the bucket does not answer.
const ATTEMPTS_MAX: u32 = 12;

/// Whose object it is now.
#[derive(Debug)]
pub(super) enum Creation {
    /// It has our bytes.
    Ours,
    /// Somebody was there before; these are the bytes.
    Theirs(Bytes),
}

/// Creates an object and resolves every unclear answer by reading it back.
pub(super) async fn create(
    bucket: &Bucket,
    env: &StreamEnv,
    purpose: Purpose,
    key: &Key,
    bytes: Bytes,
) -> Result<Creation, JournalError> {
    let mut reason = String::new();
    for attempt in 0..ATTEMPTS_MAX {
        if attempt > 0 {
            tokio::time::sleep(backoff(attempt, env.entropy.next_u64())).await;
        }
        match bucket.create_once(purpose, key, vec![bytes.clone()]).await {
            CreateOutcome::Created => return Ok(Creation::Ours),
            CreateOutcome::Exists => {}
            CreateOutcome::Unclear(unclear) => reason = unclear.to_string(),
            CreateOutcome::Refused(error) => reason = error.to_string(),
        }
        match bucket.get(purpose, key).await.map_err(unavailable)? {
            Some(found) if found == bytes => return Ok(Creation::Ours),
            Some(found) => return Ok(Creation::Theirs(found)),
            None => tracing::debug!(%key, attempt, reason, "a create is unclear, trying again"),
        }
    }
    Err(JournalError::Unavailable(format!(
        "cannot create {key}: {reason}"
    )))
}
