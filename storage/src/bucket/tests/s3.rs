//! The bucket over S3's wire protocol: a correct server in this process, wrong ones, and MinIO if
//! the environment names one.

use s3s::dto::{ExpirationStatus, LifecycleExpiration, LifecycleRule};

use super::s3_server::{Conditions, KEY_ID, SECRET, Server};
use super::*;

fn options() -> BucketOptions {
    BucketOptions {
        create_bucket: true,
        environment: Environment::of(&[
            ("AWS_ACCESS_KEY_ID", KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
        ]),
    }
}

async fn open(url: &str) -> Result<Bucket, BucketError> {
    let (clock, entropy) = env();
    Bucket::open(url, &options(), clock, entropy).await
}

#[tokio::test]
async fn a_correct_s3_server_conforms() {
    let server = Server::start(Conditions::Atomic).await;
    let bucket = open(&server.url("logs")).await.unwrap();
    assert_eq!(bucket.kind(), BucketKind::S3);
    conforms(&bucket).await;
}

#[tokio::test]
async fn a_store_that_ignores_the_condition_is_refused_with_the_reason() {
    let server = Server::start(Conditions::Ignored).await;
    let error = open(&server.url("logs")).await.unwrap_err();
    let BucketError::Unfit { check, reason } = error else {
        panic!("{error}")
    };
    assert_eq!(check, "one winner per create");
    assert!(
        reason.contains("16 of 16") && reason.contains("If-None-Match"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_store_that_looks_before_it_writes_is_refused() {
    let server = Server::start(Conditions::CheckedEarly).await;
    let error = open(&server.url("logs")).await.unwrap_err();
    assert!(
        matches!(
            error,
            BucketError::Unfit {
                check: "one winner per create",
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_409_is_unclear_and_the_object_is_not_there() {
    let server = Server::start(Conditions::ConflictFirst).await;
    let (clock, entropy) = env();
    let url = server.url("logs");
    let bucket = Bucket::connect(&url, &options(), clock, entropy)
        .await
        .unwrap();
    match bucket.create_once(P, &slot(0), body("x")).await {
        CreateOutcome::Unclear(unclear) => assert_eq!(unclear.kind, UnclearKind::Conflict),
        other => panic!("{other:?}"),
    }
    assert_eq!(bucket.get(P, &slot(0)).await.unwrap(), None);
    assert!(matches!(
        bucket.create_once(P, &slot(0), body("x")).await,
        CreateOutcome::Created
    ));
}

#[tokio::test]
async fn a_store_that_answers_409_first_still_passes_the_probe() {
    let server = Server::start(Conditions::ConflictFirst).await;
    open(&server.url("logs")).await.unwrap();
}

#[tokio::test]
async fn the_full_probe_runs_once_and_leaves_a_marker() {
    let server = Server::start(Conditions::Atomic).await;
    let creates = async |bucket: Bucket| bucket.usage().requests(Purpose::Probe, Operation::Create);
    let first = creates(open(&server.url("logs")).await.unwrap()).await;
    let second = creates(open(&server.url("logs")).await.unwrap()).await;
    assert!(first > 100 && second < 10, "{first} {second}");
    let (clock, entropy) = env();
    let bucket = Bucket::connect(&server.url("logs"), &options(), clock, entropy)
        .await
        .unwrap();
    let listed = bucket.list(P, &layout::scratch(), None, 10).await.unwrap();
    assert_eq!(listed, [], "the probe cleans up");
}

#[tokio::test]
async fn a_rule_that_expires_records_is_refused() {
    let rule = LifecycleRule {
        expiration: Some(LifecycleExpiration {
            days: Some(7),
            ..LifecycleExpiration::default()
        }),
        id: Some("tidy".to_owned()),
        status: ExpirationStatus::from_static(ExpirationStatus::ENABLED),
        abort_incomplete_multipart_upload: None,
        filter: None,
        noncurrent_version_expiration: None,
        noncurrent_version_transitions: None,
        prefix: None,
        transitions: None,
    };
    let server = Server::start_with(Conditions::Atomic, Some(vec![rule])).await;
    let error = open(&server.url("logs")).await.unwrap_err();
    let BucketError::Unfit { check, reason } = error else {
        panic!("{error}")
    };
    assert_eq!(check, "lifecycle rules");
    assert!(reason.contains("'tidy' expires"), "{reason}");
}

#[tokio::test]
async fn a_missing_bucket_is_named_with_the_fix() {
    let server = Server::start(Conditions::Atomic).await;
    let (clock, entropy) = env();
    let options = BucketOptions {
        create_bucket: false,
        ..options()
    };
    let error = Bucket::open(&server.url("logs"), &options, clock, entropy)
        .await
        .unwrap_err();
    assert!(matches!(error, BucketError::NoSuchBucket { .. }), "{error}");
    assert!(error.to_string().contains("--create-bucket"));
}

#[tokio::test]
async fn a_list_of_a_missing_bucket_is_not_asked_for_again() {
    let server = Server::start(Conditions::Atomic).await;
    let (clock, entropy) = env();
    let options = BucketOptions {
        create_bucket: false,
        ..options()
    };
    let url = server.url("logs");
    let bucket = Bucket::connect(&url, &options, clock, entropy)
        .await
        .unwrap();
    let listed = bucket.list(Purpose::Meta, &Key::listed(""), None, 10).await;
    assert!(
        matches!(listed, Err(BucketError::NoSuchBucket { .. })),
        "{listed:?}"
    );
    let asked: u64 = bucket.usage().rows.iter().map(|row| row.requests).sum();
    assert_eq!(asked, 1);
}

/// The one error of a store that no waiting mends and that is no refusal of rights.
#[tokio::test]
async fn a_bucket_name_that_no_store_takes_is_refused_at_once() {
    let server = Server::start(Conditions::Atomic).await;
    for create_bucket in [false, true] {
        let (clock, entropy) = env();
        let options = BucketOptions {
            create_bucket,
            ..options()
        };
        let opened = Bucket::open(&server.url("Not_A_Name"), &options, clock, entropy).await;
        let error = opened.unwrap_err();
        assert!(matches!(error, BucketError::Rejected { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("InvalidBucketName") && text.contains("give the bucket a name"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn wrong_credentials_are_refused_and_not_printed() {
    let server = Server::start(Conditions::Atomic).await;
    let (clock, entropy) = env();
    let environment = Environment::of(&[
        ("AWS_ACCESS_KEY_ID", KEY_ID),
        ("AWS_SECRET_ACCESS_KEY", "not-the-secret"),
    ]);
    let options = BucketOptions {
        create_bucket: false,
        environment,
    };
    let error = Bucket::open(&server.url("logs"), &options, clock, entropy)
        .await
        .unwrap_err();
    assert!(matches!(error, BucketError::Denied { .. }), "{error:?}");
    let printed = format!("{error} {error:?}");
    assert!(!printed.contains("not-the-secret"), "{printed}");
}

/// Runs where the harness (or a developer) names an S3 server: `CI_FIRN_TEST_S3=s3://bucket?endpoint=…`
/// with the AWS names for its credentials.
#[tokio::test]
#[expect(clippy::print_stderr, reason = "a skipped test says so by name")]
async fn a_real_s3_server_conforms() {
    let Ok(url) = std::env::var("CI_FIRN_TEST_S3") else {
        eprintln!("skipped: CI_FIRN_TEST_S3 does not name an S3 server");
        return;
    };
    let (clock, entropy) = env();
    let options = BucketOptions::of_process(true);
    let unique = format!("conformance-{:016x}", Entropy::from_os().next_u64());
    let url = match url.split_once('?') {
        Some((place, query)) => format!("{}/{unique}?{query}", place.trim_end_matches('/')),
        None => format!("{}/{unique}", url.trim_end_matches('/')),
    };
    let bucket = Bucket::open(&url, &options, clock, entropy).await.unwrap();
    let report = bucket.examine(Depth::Full).await.unwrap();
    assert!(report.is_usable(), "{report}");
    conforms(&bucket).await;
}
