//! Opens the bucket at the start of a node, and waits for one that does not answer: for so long, and
//! no longer.

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

/// Runs a part of the start that works on the bucket, for as long as the bucket answers anything.
/// What writes to it tries for ever, as a running broker must; a start gives up instead, so that
/// whoever waits for it is told. An attempt that takes long is no silence: an uplink that needs
/// minutes for a slot gets them, and silence begins with the first attempt that fails.
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
    let mut heard = Heard::from(bucket);
    let mut silent_from = None;
    loop {
        tokio::select! {
            biased;
            done = &mut start => return done,
            () = tokio::time::sleep(LISTEN_EVERY) => {}
        }
        let (before, now) = (heard, clock.mono());
        heard = Heard::from(bucket);
        if heard.answers > before.answers {
            silent_from = None;
        } else if heard.failures > before.failures {
            silent_from.get_or_insert(now);
        }
        let Some(from) = silent_from else {
            continue;
        };
        let silent = now.since(from);
        let silent_s = silent.as_secs();
        if silent >= config.start_timeout {
            let what = format!("the bucket {} does not answer", config.url);
            let reason = format!("gave up after {silent_s} s (bucket.start.timeout.ms)");
            return Err(FirnError::failed(what, reason));
        }
        tracing::warn!(
            bucket = config.url,
            silent_s,
            "the bucket does not answer, the start waits for it"
        );
    }
}

/// What has been heard of the bucket so far.
#[derive(Clone, Copy)]
struct Heard {
    answers: u64,
    failures: u64,
}

impl From<&Bucket> for Heard {
    fn from(bucket: &Bucket) -> Self {
        let rows = bucket.usage().rows;
        let failures = rows.iter().map(|row| row.errors).sum();
        let requests: u64 = rows.iter().map(|row| row.requests).sum();
        Self {
            answers: requests.saturating_sub(failures),
            failures,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use firn_proto::env::Mono;
    use firn_storage::bucket::testing::FaultStore;
    use firn_storage::bucket::{CreateOutcome, Purpose};
    use firn_storage::layout::Place;

    /// Tokio's paused time.
    struct PausedClock(tokio::time::Instant);

    impl Clock for PausedClock {
        fn wall_ms(&self) -> i64 {
            0
        }

        fn mono(&self) -> Mono {
            Mono(u64::try_from(self.0.elapsed().as_micros()).unwrap())
        }
    }

    /// Puts an object as writers of slots do: again and again, looking for it in between.
    async fn put(bucket: &Bucket) -> Result<(), FirnError> {
        let key = Place::Cluster.key();
        loop {
            let body = vec![Bytes::from_static(&[0; 20_000])];
            let outcome = bucket.create_once(Purpose::Meta, &key, body).await;
            if matches!(outcome, CreateOutcome::Created) {
                return Ok(());
            }
            let _ = bucket.get(Purpose::Meta, &key).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_gives_up_on_a_dead_bucket_and_not_on_a_slow_one() {
        for is_dead in [false, true] {
            let clock: Arc<dyn Clock> = Arc::new(PausedClock(tokio::time::Instant::now()));
            let store = FaultStore::in_memory();
            // 20 s for the object, several times what the first attempts get
            store.set_uplink(Some(1_000));
            store.set_outage(is_dead);
            let entropy = Arc::new(Entropy::from_seed(1));
            let bucket = Bucket::from_store(Arc::new(store), Arc::clone(&clock), entropy);
            let config = BucketConfig {
                url: "memory://".to_owned(),
                create: false,
                start_timeout: Duration::from_secs(8),
            };
            let started = while_it_answers(&config, &bucket, &clock, put(&bucket)).await;
            assert_eq!(started.is_err(), is_dead);
        }
    }
}
