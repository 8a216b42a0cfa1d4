//! Opens the bucket at the start of a node, and waits for one that does not answer yet.

use std::sync::Arc;
use std::time::Duration;

use firn_proto::env::{Clock, Entropy};
use firn_storage::bucket::{Bucket, BucketError, BucketOptions, Depth, backoff};

use crate::config::{BucketConfig, ConfigError};
use crate::error::FirnError;

/// Opens the bucket. It has not proved itself then: [`prove`].
///
/// # Errors
/// The reason, as the process's last words.
pub(super) async fn connect(
    config: &BucketConfig,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<Entropy>,
) -> Result<Bucket, FirnError> {
    let options = BucketOptions::of_process(config.create);
    let connect = || {
        Bucket::connect(
            &config.url,
            &options,
            Arc::clone(clock),
            Arc::clone(entropy),
        )
    };
    patiently(config, clock, entropy, connect).await
}

/// Lets the bucket prove that it can hold a log (I11).
///
/// # Errors
/// The check that failed, as the process's last words.
pub(super) async fn prove(
    config: &BucketConfig,
    bucket: &Bucket,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<Entropy>,
) -> Result<(), FirnError> {
    let examine = || async { bucket.examine(Depth::AsNeeded).await?.into_result() };
    let report = patiently(config, clock, entropy, examine).await?;
    for check in &report.checks {
        tracing::debug!(%check, "bucket checked");
    }
    Ok(())
}

/// Asks a bucket that does not answer again until `bucket.start.timeout.ms` has passed; one that
/// answers no is not asked again.
async fn patiently<T, F>(
    config: &BucketConfig,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<Entropy>,
    ask: impl Fn() -> F,
) -> Result<T, FirnError>
where
    F: Future<Output = Result<T, BucketError>>,
{
    let began = clock.mono();
    let mut attempt = 0;
    let mut error = "no answer".to_owned();
    loop {
        let left = config
            .start_timeout
            .saturating_sub(clock.mono().since(began));
        match tokio::time::timeout(left.max(ATTEMPT_MIN), ask()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(unavailable @ BucketError::Unavailable { .. })) => {
                error = unavailable.to_string();
            }
            Ok(Err(error)) => return Err(lasting(&config.url, error)),
            // The attempt was cut off; what was heard before it is still the best reason.
            Err(_) => {}
        }
        let waited = clock.mono().since(began);
        if waited >= config.start_timeout {
            let what = format!("the bucket {} does not answer", config.url);
            let seconds = waited.as_secs();
            let reason = format!("{error}; gave up after {seconds} s (bucket.start.timeout.ms)");
            return Err(FirnError::failed(what, reason));
        }
        attempt += 1;
        let pause = backoff(attempt, entropy.next_u64());
        let retry_in_ms = pause.as_millis();
        tracing::warn!(
            bucket = config.url,
            error,
            retry_in_ms,
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
