//! Opens the bucket at the start of a node, and waits for one that does not answer: for so long, and
//! no longer.

use std::sync::Arc;
use std::time::Duration;

use firn_proto::env::{Clock, Entropy, Mono};
use firn_storage::bucket::{
    Bucket, BucketError, BucketOptions, Depth, Operation, UsageRow, backoff,
};

use super::reminder::Reminder;
use crate::config::BucketConfig;
use crate::error::{FirnError, with_hint};

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
/// minutes for a slot gets them, and silence begins with the first attempt that fails. A bucket
/// that is read and takes nothing (a full disk, a right that was lost) serves no start either.
///
/// # Errors
/// Those of `start`, or that nothing was answered or taken for `bucket.start.timeout.ms`.
pub(super) async fn while_it_answers<T>(
    config: &BucketConfig,
    bucket: &Bucket,
    clock: &Arc<dyn Clock>,
    start: impl Future<Output = Result<T, FirnError>>,
) -> Result<T, FirnError> {
    let mut start = std::pin::pin!(start);
    let mut heard = Silence::after(Heard::of_all(bucket));
    let mut taken = Silence::after(Heard::of_creates(bucket));
    let mut reminders = [Reminder::new(); 2];
    loop {
        tokio::select! {
            biased;
            done = &mut start => return done,
            () = tokio::time::sleep(LISTEN_EVERY) => {}
        }
        let now = clock.mono();
        heard.hear(Heard::of_all(bucket), now);
        taken.hear(Heard::of_creates(bucket), now);
        // Creates may be over, so that none can end the silence: it lasts up to the last of them.
        let refused = taken
            .lasted(taken.failed_at)
            .filter(|silent| !silent.is_zero());
        let silences = [
            (heard.lasted(now), "does not answer"),
            (refused, "takes nothing"),
        ];
        for ((silent, does_what), reminder) in silences.into_iter().zip(&mut reminders) {
            let Some(silent) = silent else {
                if reminder.is_over() {
                    tracing::info!("the bucket {} answers again", config.url);
                }
                continue;
            };
            let what = format!("the bucket {} {does_what}", config.url);
            if silent >= config.start_timeout {
                return Err(FirnError::failed(what, gave_up(silent)));
            }
            if reminder.is_due(silent) {
                let silent_s = silent.as_secs();
                tracing::warn!(silent_s, "{what}, the start waits for it");
            }
        }
    }
}

fn gave_up(waited: Duration) -> String {
    let seconds = waited.as_secs();
    format!("gave up after {seconds} s (bucket.start.timeout.ms)")
}

/// What has been heard of the bucket so far.
#[derive(Clone, Copy)]
struct Heard {
    answers: u64,
    failures: u64,
}

impl Heard {
    /// Every request. One that is cut off has failed.
    fn of_all(bucket: &Bucket) -> Self {
        Self::of(&bucket.usage().rows, |row| row.errors)
    }

    /// Creates. One that is cut off says nothing: it may be the uplink that is slow.
    fn of_creates(bucket: &Bucket) -> Self {
        let mut rows = bucket.usage().rows;
        rows.retain(|row| row.operation == Operation::Create);
        Self::of(&rows, |row| row.refused)
    }

    fn of(rows: &[UsageRow], failures: impl Fn(&UsageRow) -> u64) -> Self {
        let answers = |row: &UsageRow| row.requests.saturating_sub(row.errors);
        Self {
            answers: rows.iter().map(answers).sum(),
            failures: rows.iter().map(failures).sum(),
        }
    }
}

/// How long requests of some kind have only failed.
struct Silence {
    heard: Heard,
    from: Option<Mono>,
    failed_at: Mono,
}

impl Silence {
    /// None yet: what was heard before does not count.
    fn after(heard: Heard) -> Self {
        Self {
            heard,
            from: None,
            failed_at: Mono::default(),
        }
    }

    fn hear(&mut self, heard: Heard, now: Mono) {
        let before = std::mem::replace(&mut self.heard, heard);
        if heard.answers > before.answers {
            self.from = None;
        } else if heard.failures > before.failures {
            self.from.get_or_insert(now);
            self.failed_at = now;
        }
    }

    fn lasted(&self, to: Mono) -> Option<Duration> {
        self.from.map(|from| to.since(from))
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
    let mut reminder = Reminder::new();
    let mut reason = "no answer".to_owned();
    loop {
        let left = config
            .start_timeout
            .saturating_sub(clock.mono().since(began));
        match tokio::time::timeout(left.max(ATTEMPT_MIN), ask()).await {
            Ok(Ok(answer)) => {
                if reminder.is_over() {
                    tracing::info!("the bucket {} answers", config.url);
                }
                return Ok(answer);
            }
            Ok(Err(BucketError::Unavailable { detail, .. })) => {
                reason = with_hint(&config.url, &detail);
            }
            // a full disk, most likely
            Ok(Err(error @ BucketError::Disk { .. })) => reason = error.to_string(),
            Ok(Err(error)) => return Err(FirnError::bucket(&config.url, error)),
            // The attempt was cut off; what was heard before it is still the best reason.
            Err(_) => {}
        }
        let waited = clock.mono().since(began);
        let what = format!("the bucket {} does not answer", config.url);
        if waited >= config.start_timeout {
            let reason = format!("{reason}; {}", gave_up(waited));
            return Err(FirnError::failed(what, reason));
        }
        if reminder.is_due(waited) {
            let gives_up_after_s = config.start_timeout.as_secs();
            tracing::warn!(gives_up_after_s, "{what}, the start waits for it: {reason}");
        }
        attempt += 1;
        tokio::time::sleep(backoff(attempt, entropy.next_u64())).await;
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
    use firn_storage::bucket::testing::{Fault, FaultStore, On, Rule};
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

    /// The same, once a second.
    async fn put_each_second(bucket: &Bucket) -> Result<(), FirnError> {
        let key = Place::Cluster.key();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let body = vec![Bytes::from_static(b"slot")];
            let outcome = bucket.create_once(Purpose::Meta, &key, body).await;
            if matches!(outcome, CreateOutcome::Created) {
                return Ok(());
            }
            bucket.get(Purpose::Meta, &key).await.unwrap();
        }
    }

    /// A bucket over `store`, whose start may take 8 seconds.
    fn bucket_on(store: FaultStore) -> (BucketConfig, Bucket, Arc<dyn Clock>) {
        let clock: Arc<dyn Clock> = Arc::new(PausedClock(tokio::time::Instant::now()));
        let entropy = Arc::new(Entropy::from_seed(1));
        let bucket = Bucket::from_store(Arc::new(store), Arc::clone(&clock), entropy);
        let config = BucketConfig {
            url: "memory://".to_owned(),
            create: false,
            start_timeout: Duration::from_secs(8),
        };
        (config, bucket, clock)
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_gives_up_on_a_bucket_that_is_read_and_takes_nothing() {
        for fault in [Fault::Denied, Fault::FailedBefore] {
            let store = FaultStore::in_memory();
            store.inject(Rule::new(On::Put, fault).times(u64::MAX));
            let (config, bucket, clock) = bucket_on(store);
            let start = while_it_answers(&config, &bucket, &clock, put_each_second(&bucket));
            let started = tokio::time::timeout(HOUR, start).await;
            let refused = started.expect("it tries for ever").unwrap_err();
            assert!(refused.to_string().contains("takes nothing"), "{refused}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_asks_a_store_that_hangs_again_and_ends_with_what_it_waited_for() {
        let store = FaultStore::in_memory();
        for on in [On::Get, On::Put] {
            store.inject(Rule::new(on, Fault::Hang).times(u64::MAX));
        }
        let (config, bucket, clock) = bucket_on(store);
        let entropy = Arc::new(Entropy::from_seed(1));
        let error = prove(&config, &bucket, &clock, &entropy).await.unwrap_err();
        let text = error.to_string();
        let words = [
            "memory:// does not answer",
            "no answer within 5000 ms",
            "gave up after 8 s",
        ];
        for word in words {
            assert!(text.contains(word), "no {word:?} in {text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_does_not_wait_for_a_store_that_refuses_it() {
        let store = FaultStore::in_memory();
        store.inject(Rule::new(On::Get, Fault::Denied).times(u64::MAX));
        let (config, bucket, clock) = bucket_on(store);
        let entropy = Arc::new(Entropy::from_seed(1));
        let error = prove(&config, &bucket, &clock, &entropy).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("cannot use the bucket memory://: the store refuses access"),
            "{text}"
        );
        assert_eq!(clock.mono(), Mono(0));
    }

    const HOUR: Duration = Duration::from_secs(60 * 60);

    #[tokio::test(start_paused = true)]
    async fn a_start_whose_creates_are_over_may_read_for_as_long_as_it_takes() {
        let store = FaultStore::in_memory();
        store.inject(Rule::new(On::Put, Fault::FailedBefore));
        let (config, bucket, clock) = bucket_on(store);
        let start = async {
            let key = Place::Cluster.key();
            let body = vec![Bytes::from_static(b"slot")];
            bucket.create_once(Purpose::Meta, &key, body).await;
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                bucket.get(Purpose::Meta, &key).await.unwrap();
            }
            Ok(())
        };
        let started = while_it_answers(&config, &bucket, &clock, start).await;
        assert!(started.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_gives_up_on_a_dead_bucket_and_not_on_a_slow_one() {
        for is_dead in [false, true] {
            let store = FaultStore::in_memory();
            // 20 s for the object, several times what the first attempts get
            store.set_uplink(Some(1_000));
            store.set_outage(is_dead);
            let (config, bucket, clock) = bucket_on(store);
            let started = while_it_answers(&config, &bucket, &clock, put(&bucket)).await;
            assert_eq!(started.is_err(), is_dead);
        }
    }
}
