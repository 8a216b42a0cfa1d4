//! Opens the bucket at the start of a node, and waits for one that does not answer yet.

use std::sync::Arc;
use std::time::Duration;

use firn_proto::env::{Clock, Entropy};
use firn_storage::bucket::{Bucket, BucketError, BucketOptions, backoff};

use crate::config::{BucketConfig, ConfigError};
use crate::error::FirnError;

/// Opens the bucket and lets it prove itself. A bucket that does not answer is asked again until
/// `bucket.start.timeout.ms` has passed; one that answers no is not.
///
/// # Errors
/// The reason, as the process's last words.
pub(super) async fn open(
    config: &BucketConfig,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<Entropy>,
) -> Result<Bucket, FirnError> {
    let options = BucketOptions::of_process(config.create);
    let began = clock.mono();
    let mut attempt = 0;
    loop {
        let opening = Bucket::open(
            &config.url,
            &options,
            Arc::clone(clock),
            Arc::clone(entropy),
        );
        let left = config
            .start_timeout
            .saturating_sub(clock.mono().since(began));
        let error = match tokio::time::timeout(left.max(ATTEMPT_MIN), opening).await {
            Ok(Ok(bucket)) => return Ok(bucket),
            Ok(Err(error @ BucketError::Unavailable { .. })) => error.to_string(),
            Ok(Err(error)) => return Err(lasting(&config.url, error)),
            Err(_) => "no answer".to_owned(),
        };
        let waited = clock.mono().since(began);
        if waited >= config.start_timeout {
            let reason = format!(
                "{error}; gave up after {} s (bucket.start.timeout.ms)",
                waited.as_secs()
            );
            return Err(FirnError::failed(
                format!("the bucket {} does not answer", config.url),
                reason,
            ));
        }
        attempt += 1;
        let pause = backoff(attempt, entropy.next_u64());
        tracing::warn!(
            bucket = config.url,
            error,
            retry_in_ms = pause.as_millis(),
            "the bucket does not answer"
        );
        tokio::time::sleep(pause).await;
    }
}

/// An answer that asking again will not change.
fn lasting(url: &str, error: BucketError) -> FirnError {
    let what = format!("cannot use the bucket {url}");
    match error {
        BucketError::Url { .. } => ConfigError::Contradiction(error.to_string()).into(),
        BucketError::Disk { .. } => FirnError::disk(what, error),
        error => FirnError::failed(what, error),
    }
}

/// Even a start timeout of zero lets one attempt have this long.
const ATTEMPT_MIN: Duration = Duration::from_secs(1);
