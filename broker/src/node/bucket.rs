//! Opens the bucket at the start of a node, and waits for one that does not answer: for so long, and
//! no longer.

use std::sync::Arc;
use std::time::Duration;

use firn_proto::env::{Clock, Entropy};
use firn_storage::bucket::{Bucket, BucketError, BucketOptions, Depth, Operation, backoff};

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

/// Runs a part of the start that works on the bucket, for as long as the bucket answers anything.
/// What writes to it tries for ever, as a running broker must; a start gives up instead, so that
/// whoever waits for it is told.
///
/// # Errors
/// Those of `start`, or that nothing was answered for `bucket.start.timeout.ms`.
pub(super) async fn while_it_answers<T>(
    config: &BucketConfig,
    bucket: &Bucket,
    clock: &Arc<dyn Clock>,
    start: impl Future<Output = Result<T, FirnError>>,
) -> Result<T, FirnError> {
    let mut start = std::pin::pin!(start);
    let mut moved = (progress(bucket), clock.mono());
    loop {
        tokio::select! {
            biased;
            done = &mut start => return done,
            () = tokio::time::sleep(LISTEN_EVERY) => {}
        }
        let (count, now) = (progress(bucket), clock.mono());
        if count > moved.0 {
            moved = (count, now);
            continue;
        }
        let silent = now.since(moved.1);
        let silent_s = silent.as_secs();
        if silent >= config.start_timeout.max(ATTEMPT_MIN) {
            let what = format!("the bucket {} does not answer", config.url);
            let reason =
                format!("nothing was read or written for {silent_s} s (bucket.start.timeout.ms)");
            return Err(FirnError::failed(what, reason));
        }
        tracing::warn!(
            bucket = config.url,
            silent_s,
            "the bucket does not answer, the start waits for it"
        );
    }
}

/// What has been read and written, and lists that were answered. Asking again whether something is
/// there, and hearing that it is not, is no progress.
fn progress(bucket: &Bucket) -> u64 {
    let rows = bucket.usage().rows;
    let moved = rows.iter().map(|row| match row.operation {
        Operation::List => row.requests.saturating_sub(row.errors),
        _ => row.bytes_sent + row.bytes_received,
    });
    moved.sum()
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
/// How often a start looks whether the bucket still answers.
const LISTEN_EVERY: Duration = Duration::from_secs(5);
