use aws_credential_types::provider::error::CredentialsError;
use firn_proto::env::{Mono, SystemClock};
use firn_proto::ids::{Slot, StreamId};
use object_store::memory::InMemory;

mod s3;
mod s3_server;

use super::error::Failure;
use super::testing::{Fault, FaultStore, On, Rule};
use super::*;
use crate::layout::{self, Place};

const P: Purpose = Purpose::Wal;

fn env() -> (Arc<dyn Clock>, Arc<Entropy>) {
    (
        Arc::new(SystemClock::new()),
        Arc::new(Entropy::from_seed(1)),
    )
}

fn memory() -> Bucket {
    let (clock, entropy) = env();
    Bucket::memory(clock, entropy)
}

/// The clock of the test's runtime, which may stand still.
struct RuntimeClock(tokio::time::Instant);

impl Clock for RuntimeClock {
    fn wall_ms(&self) -> i64 {
        self.0.elapsed().as_millis() as i64
    }

    fn mono(&self) -> Mono {
        Mono(self.0.elapsed().as_micros() as u64)
    }
}

fn faulty() -> (FaultStore, Bucket) {
    let clock = Arc::new(RuntimeClock(tokio::time::Instant::now()));
    let (_, entropy) = env();
    let store = FaultStore::in_memory();
    (
        store.clone(),
        Bucket::from_store(Arc::new(store), clock, entropy),
    )
}

fn slot(slot: u64) -> Key {
    Place::WalSlot {
        stream: StreamId(1),
        slot: Slot(slot),
    }
    .key()
}

fn body(text: &'static str) -> Vec<Bytes> {
    vec![Bytes::from_static(text.as_bytes())]
}

/// What every store must do for a log. The bucket must be empty.
async fn conforms(bucket: &Bucket) {
    creates_once(bucket).await;
    reads_ranges(bucket).await;
    lists_in_order(bucket).await;
    lists_more_than_a_page(bucket).await;
    deletes(bucket).await;
    has_one_winner(bucket).await;
}

async fn creates_once(bucket: &Bucket) {
    let key = slot(0);
    assert_eq!(bucket.get(P, &key).await.unwrap(), None);
    assert_eq!(bucket.size(P, &key).await.unwrap(), None);
    let pieces = vec![
        Bytes::from_static(b"fir"),
        Bytes::new(),
        Bytes::from_static(b"n"),
    ];
    assert!(matches!(
        bucket.create_once(P, &key, pieces).await,
        CreateOutcome::Created
    ));
    assert!(matches!(
        bucket.create_once(P, &key, body("other")).await,
        CreateOutcome::Exists
    ));
    assert_eq!(bucket.get(P, &key).await.unwrap().unwrap(), "firn");
    assert_eq!(bucket.size(P, &key).await.unwrap(), Some(4));
    let empty = slot(1);
    assert!(matches!(
        bucket.create_once(P, &empty, vec![]).await,
        CreateOutcome::Created
    ));
    assert_eq!(bucket.get(P, &empty).await.unwrap().unwrap(), "");
}

async fn reads_ranges(bucket: &Bucket) {
    let key = slot(0);
    for (range, expected) in [
        (0..2, "fi"),
        (1..4, "irn"),
        (2..100, "rn"),
        (4..8, ""),
        (1 << 33..1 << 34, ""),
        (2..2, ""),
    ] {
        let got = bucket.get_range(P, &key, range.clone()).await.unwrap();
        assert_eq!(got.unwrap(), expected, "{range:?}");
    }
    assert_eq!(bucket.get_range(P, &slot(99), 0..4).await.unwrap(), None);
    assert_eq!(bucket.get_range(P, &slot(99), 4..4).await.unwrap(), None);
}

async fn lists_more_than_a_page(bucket: &Bucket) {
    let stream = StreamId(77);
    let key = |slot| {
        Place::WalSlot {
            stream,
            slot: Slot(slot),
        }
        .key()
    };
    for n in 0..300 {
        bucket.create_once(P, &key(n), body("x")).await;
    }
    let folder = layout::wal_stream(stream);
    let all = bucket.list(P, &folder, Some(&key(9)), 1000).await.unwrap();
    let keys: Vec<Key> = all.into_iter().map(|object| object.key).collect();
    assert_eq!(keys, (10..300).map(key).collect::<Vec<_>>());
}

async fn lists_in_order(bucket: &Bucket) {
    for n in [300, 20, 100] {
        bucket.create_once(P, &slot(n), body("x")).await;
    }
    let folder = layout::wal_stream(StreamId(1));
    let numbers = |objects: Vec<ListedObject>| -> Vec<u64> {
        let places = objects.iter().map(|o| Place::parse(o.key.as_str()));
        places
            .map(|place| match place {
                Some(Place::WalSlot { slot, .. }) => slot.0,
                other => panic!("{other:?}"),
            })
            .collect()
    };
    let all = bucket.list(P, &folder, None, 100).await.unwrap();
    assert_eq!(
        all[0],
        ListedObject {
            key: slot(0),
            size: 4
        }
    );
    assert_eq!(numbers(all), [0, 1, 20, 100, 300]);
    let some = bucket.list(P, &folder, Some(&slot(1)), 2).await.unwrap();
    assert_eq!(numbers(some), [20, 100]);
    let between = bucket.list(P, &folder, Some(&slot(21)), 2).await.unwrap();
    assert_eq!(numbers(between), [100, 300]);
    let elsewhere = layout::wal_stream(StreamId(2));
    assert_eq!(bucket.list(P, &elsewhere, None, 100).await.unwrap(), []);
}

async fn deletes(bucket: &Bucket) {
    bucket.delete(P, &[]).await.unwrap();
    bucket
        .delete(P, &[slot(20), slot(21), slot(100)])
        .await
        .unwrap();
    assert_eq!(bucket.get(P, &slot(20)).await.unwrap(), None);
    let folder = layout::wal_stream(StreamId(1));
    assert_eq!(bucket.list(P, &folder, None, 100).await.unwrap().len(), 3);
}

async fn has_one_winner(bucket: &Bucket) {
    for round in 1000..1010 {
        let key = slot(round);
        let attempts = (0..16_u8).map(|writer| {
            let body = vec![Bytes::from(vec![writer; 5000])];
            let key = &key;
            async move { (writer, bucket.create_once(P, key, body).await) }
        });
        let outcomes = futures::future::join_all(attempts).await;
        let winners: Vec<u8> = outcomes
            .iter()
            .filter(|(_, outcome)| matches!(outcome, CreateOutcome::Created))
            .map(|(writer, _)| *writer)
            .collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        let stored = bucket.get(P, &key).await.unwrap().unwrap();
        assert_eq!(stored, vec![winners[0]; 5000]);
    }
}

#[tokio::test]
async fn memory_conforms() {
    conforms(&memory()).await;
}

#[tokio::test]
async fn a_directory_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, entropy) = env();
    let bucket = Bucket::directory(&folder.path().join("a/b"), clock, entropy).unwrap();
    conforms(&bucket).await;
}

#[tokio::test]
async fn a_root_prefix_stays_out_of_keys() {
    let (clock, entropy) = env();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let root = Path::from("some/prefix");
    let inside = Bucket::new(
        Arc::clone(&store),
        root,
        BucketKind::Given,
        clock.clone(),
        entropy.clone(),
    );
    conforms(&inside).await;
    let outside = Bucket::from_store(store, clock, entropy);
    assert_eq!(outside.get(P, &slot(0)).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn an_unclear_create_is_never_called_done_or_refused() {
    for (fault, kind, applied) in [
        (Fault::AnswerLost, UnclearKind::Broken, true),
        (Fault::RequestLost, UnclearKind::Broken, false),
        (Fault::AppliedLater, UnclearKind::Broken, false),
        (Fault::Conflict, UnclearKind::Conflict, false),
        (Fault::Throttled, UnclearKind::Throttled, false),
        (Fault::FailedBefore, UnclearKind::Failed, false),
        (Fault::FailedAfter, UnclearKind::Failed, true),
        (Fault::Hang, UnclearKind::Timeout, false),
        (Fault::HangAfter, UnclearKind::Timeout, true),
    ] {
        let (store, bucket) = faulty();
        store.inject(Rule::new(On::Put, fault).key("wal/"));
        match bucket.create_once(P, &slot(0), body("x")).await {
            CreateOutcome::Unclear(unclear) => assert_eq!(unclear.kind, kind, "{fault:?}"),
            other => panic!("{fault:?}: {other:?}"),
        }
        let there = bucket.get(P, &slot(0)).await.unwrap().is_some();
        assert_eq!(there, applied, "{fault:?}");
        assert_eq!(
            bucket.usage().requests(P, Operation::Create),
            1,
            "one attempt, no retry"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_uplink_gets_a_slot_through_in_the_end() {
    let (store, bucket) = faulty();
    store.set_uplink(Some(50 * 1024));
    let slot_bytes = Bytes::from(vec![7; 8 * 1024 * 1024]);
    let mut attempts = 0;
    loop {
        attempts += 1;
        match bucket
            .create_once(P, &slot(0), vec![slot_bytes.clone()])
            .await
        {
            CreateOutcome::Created => break,
            CreateOutcome::Unclear(unclear) => assert_eq!(unclear.kind, UnclearKind::Timeout),
            other => panic!("{other:?}"),
        }
        assert!(attempts < 10, "livelock");
    }
    assert!(attempts > 1, "the first guess was a faster uplink");
    let next = bucket.create_once(P, &slot(1), vec![slot_bytes]).await;
    assert!(
        matches!(next, CreateOutcome::Created),
        "and what was learned is kept"
    );
}

#[tokio::test]
async fn a_held_back_put_arrives_later() {
    let (store, bucket) = faulty();
    store.inject(Rule::new(On::Put, Fault::AppliedLater));
    bucket.create_once(P, &slot(0), body("first")).await;
    assert!(matches!(
        bucket.create_once(P, &slot(0), body("again")).await,
        CreateOutcome::Created
    ));
    assert!(matches!(
        store.deliver().await,
        Some(Err(object_store::Error::AlreadyExists { .. }))
    ));
    assert_eq!(bucket.get(P, &slot(0)).await.unwrap().unwrap(), "again");
    assert!(store.deliver().await.is_none());
}

#[tokio::test]
async fn a_lack_of_rights_is_refused_at_once() {
    let (store, bucket) = faulty();
    store.inject(Rule::new(On::Put, Fault::Denied));
    store.inject(Rule::new(On::Get, Fault::Denied));
    assert!(matches!(
        bucket.create_once(P, &slot(0), body("x")).await,
        CreateOutcome::Refused(BucketError::Denied { .. })
    ));
    assert!(matches!(
        bucket.get(P, &slot(0)).await,
        Err(BucketError::Denied { .. })
    ));
    assert_eq!(bucket.usage().requests(P, Operation::Get), 1);
}

#[tokio::test(start_paused = true)]
async fn a_read_outlives_passing_trouble() {
    let (store, bucket) = faulty();
    bucket.create_once(P, &slot(0), body("firn")).await;
    for fault in [
        Fault::Throttled,
        Fault::FailedBefore,
        Fault::Hang,
        Fault::Truncated,
    ] {
        store.inject(Rule::new(On::Get, fault).times(2));
        assert_eq!(
            bucket.get(P, &slot(0)).await.unwrap().unwrap(),
            "firn",
            "{fault:?}"
        );
        store.inject(Rule::new(On::Get, fault).times(2));
        let range = bucket.get_range(P, &slot(0), 1..3).await.unwrap();
        assert_eq!(range.unwrap(), "ir", "{fault:?}");
    }
    for fault in [Fault::Throttled, Fault::Hang] {
        store.inject(Rule::new(On::List, fault).times(2));
        let folder = layout::wal_stream(StreamId(1));
        assert_eq!(
            bucket.list(P, &folder, None, 10).await.unwrap().len(),
            1,
            "{fault:?}"
        );
        store.inject(Rule::new(On::Delete, fault));
        bucket.delete(P, &[slot(7)]).await.unwrap();
    }
    assert!(!store.has_rules());
}

#[test]
fn whose_clock_is_off_is_told_so_and_not_to_check_credentials() {
    let skewed = "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request \
                  time and the server's time is too large.</Message></Error>";
    let error = object_store::Error::PermissionDenied {
        path: "key".to_owned(),
        source: skewed.into(),
    };
    let Failure::Lasting(error) = error::sort(Operation::Get, "key", &error) else {
        panic!("asking again does not help")
    };
    assert!(matches!(error, BucketError::ClockOff { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("set the clock"), "{text}");
}

#[test]
fn whoever_has_no_credentials_is_told_what_to_set() {
    let lacking = CredentialsError::not_loaded("no providers in chain provided credentials");
    let error = object_store::Error::Unauthenticated {
        path: "credentials".to_owned(),
        source: Box::new(lacking),
    };
    let Failure::Lasting(error) = error::sort(Operation::Get, "key", &error) else {
        panic!("asking again does not help")
    };
    assert!(
        matches!(error, BucketError::NoCredentials { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
}

/// A start that lets a store prove itself says what it waits for, so that it has to hear of it.
#[tokio::test(start_paused = true)]
async fn a_probe_waits_for_a_store_that_hangs_once_and_says_so() {
    for depth in [Depth::AsNeeded, Depth::Full] {
        let (store, bucket) = faulty();
        for on in [On::Get, On::Put] {
            store.inject(Rule::new(on, Fault::Hang).times(u64::MAX));
        }
        let error = bucket.examine(depth).await.unwrap_err();
        let BucketError::Unavailable {
            attempts: 1,
            detail,
            ..
        } = error
        else {
            panic!("{error:?}")
        };
        assert!(detail.starts_with("no answer within 5"), "{detail}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_reads_before_it_answers_gets_the_time_of_the_range() {
    const LEN: u64 = 8 * 1024 * 1024;
    let clock = Arc::new(RuntimeClock(tokio::time::Instant::now()));
    let (_, entropy) = env();
    let store = FaultStore::in_memory();
    let shared = Arc::new(store.clone());
    let bucket = Bucket::new(shared, Path::default(), BucketKind::File, clock, entropy);
    let body = vec![Bytes::from(vec![7; LEN as usize])];
    bucket.create_once(P, &slot(0), body).await;
    store.set_downlink(Some(1024 * 1024));
    let learned = || lock(&bucket.0.download).timeout(LEN);
    let before = learned();
    let read = bucket.get_range(P, &slot(0), 0..LEN).await.unwrap();
    assert_eq!(read.unwrap().len() as u64, LEN);
    assert_eq!(bucket.usage().requests(P, Operation::Get), 1);
    assert_eq!(learned(), before, "bytes that came at once have no rate");
}

#[test]
fn a_bucket_is_missing_only_if_the_body_of_an_answer_says_so() {
    let sorted = |text: &str| {
        let error = StoreError::Generic {
            store: "test",
            source: text.into(),
        };
        match error::sort(Operation::List, "key", &error) {
            Failure::Lasting(BucketError::NoSuchBucket { .. }) => true,
            Failure::Lasting(_) | Failure::Absent | Failure::Passing(_) => false,
        }
    };
    assert!(sorted("404: <Error><Code>NoSuchBucket</Code></Error>"));
    assert!(!sorted("/data/NoSuchBucket/tables: Input/output error"));
    assert!(!sorted(
        "<Error><Code>SlowDown</Code><Key>NoSuchBucket</Key></Error>"
    ));
}

#[tokio::test]
async fn a_missing_directory_is_made_only_if_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("missing");
    let url = format!("file://{}", directory.display());
    let connect = async |create_bucket| {
        let (clock, entropy) = env();
        let options = BucketOptions {
            create_bucket,
            ..BucketOptions::default()
        };
        Bucket::connect(&url, &options, clock, entropy).await
    };
    let error = connect(false).await.unwrap_err();
    assert!(matches!(error, BucketError::NoSuchBucket { .. }), "{error}");
    assert!(
        error.to_string().contains("missing does not exist"),
        "{error}"
    );
    assert!(!directory.exists());
    connect(true).await.unwrap();
    assert!(directory.is_dir());
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_a_read_with_the_reason() {
    let (store, bucket) = faulty();
    store.set_outage(true);
    let error = bucket.get(P, &slot(0)).await.unwrap_err();
    assert!(
        matches!(
            error,
            BucketError::Unavailable {
                attempts: retry::READ_ATTEMPTS_MAX,
                ..
            }
        ),
        "{error}"
    );
    store.set_outage(false);
    assert_eq!(bucket.get(P, &slot(0)).await.unwrap(), None);
}

#[tokio::test]
async fn requests_and_bytes_are_counted_by_purpose() {
    let bucket = memory();
    bucket
        .create_once(Purpose::Wal, &slot(0), body("firn"))
        .await;
    bucket
        .create_once(Purpose::Journal, &slot(0), body("firn"))
        .await;
    bucket
        .get_range(Purpose::Fold, &slot(0), 0..2)
        .await
        .unwrap();
    assert_eq!(bucket.get(Purpose::Meta, &slot(9)).await.unwrap(), None);
    let usage = bucket.usage();
    let row = |purpose| *usage.rows.iter().find(|r| r.purpose == purpose).unwrap();
    assert_eq!(
        (
            row(Purpose::Wal).requests,
            row(Purpose::Wal).errors,
            row(Purpose::Wal).bytes_sent
        ),
        (1, 0, 4)
    );
    assert_eq!(
        (
            row(Purpose::Journal).errors,
            row(Purpose::Journal).bytes_sent
        ),
        (0, 0),
        "that the key is taken is an answer"
    );
    assert_eq!(row(Purpose::Fold).bytes_received, 2);
    let absent = row(Purpose::Meta);
    assert_eq!((absent.requests, absent.errors), (1, 0), "it was answered");
}

#[tokio::test]
async fn the_probe_passes_on_memory_and_on_a_directory() {
    let (clock, entropy) = env();
    let options = BucketOptions {
        create_bucket: true,
        ..BucketOptions::default()
    };
    Bucket::open("memory://", &options, clock, entropy)
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().join("data").display());
    for expected in [18, 3] {
        let (clock, entropy) = env();
        let bucket = Bucket::open(&url, &options, clock, entropy).await.unwrap();
        let creates = bucket.usage().requests(Purpose::Probe, Operation::Create);
        assert_eq!(creates, expected);
    }
}

#[tokio::test]
async fn every_check_of_a_report_is_one_line() {
    let report = memory().examine(Depth::Full).await.unwrap();
    let lines: Vec<String> = report.to_string().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 4);
    assert!(
        lines.iter().all(|line| line.starts_with("ok ")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn each_broken_promise_of_a_store_fails_its_own_check() {
    for (on, fault, skip, check) in [
        (On::Put, Fault::ConditionIgnored, 0, "one winner per create"),
        (
            On::Put,
            Fault::ConditionIgnored,
            16,
            "second create refused",
        ),
        (On::Get, Fault::Unseen, 0, "get after put"),
        (On::Get, Fault::BitFlip, 0, "one winner per create"),
        (On::List, Fault::Unseen, 0, "list after put"),
    ] {
        let (store, bucket) = faulty();
        store.inject(
            Rule::new(on, fault)
                .key("scratch")
                .after(skip)
                .times(u64::MAX),
        );
        let error = bucket
            .examine(Depth::Full)
            .await
            .unwrap()
            .into_result()
            .unwrap_err();
        assert!(
            matches!(error, BucketError::Unfit { check: failed, .. } if failed == check),
            "{fault:?}: {error}"
        );
        let marker = Place::ProbeMarker(1).key();
        assert_eq!(
            bucket.get(P, &marker).await.unwrap(),
            None,
            "no marker after a failure"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_in_trouble_is_probed_again_and_not_called_unfit() {
    for fault in [
        Fault::Throttled,
        Fault::AnswerLost,
        Fault::FailedAfter,
        Fault::Conflict,
    ] {
        let (store, bucket) = faulty();
        store.inject(Rule::new(On::Put, fault).key("scratch").times(20));
        let report = bucket.examine(Depth::Full).await.unwrap();
        assert!(report.is_usable(), "{fault:?}: {report}");
    }
    let (store, bucket) = faulty();
    store.set_outage(true);
    assert!(matches!(
        bucket.examine(Depth::Full).await,
        Err(BucketError::Unavailable { .. })
    ));
}
