use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future;
use firn_proto::env::Mono;

use super::*;

#[derive(Debug)]
struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn wall_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    fn mono(&self) -> Mono {
        Mono(0)
    }
}

/// Gives credentials that live for an hour, or fails from the `fails_from`-th call on.
#[derive(Debug)]
struct Hourly {
    clock: Arc<TestClock>,
    calls: Arc<AtomicUsize>,
    fails_from: usize,
}

impl ProvideCredentials for Hourly {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        future::ProvideCredentials::ready(if call >= self.fails_from {
            Err(CredentialsError::provider_error("the role service is away"))
        } else {
            let now = Duration::from_millis(u64::try_from(self.clock.wall_ms()).unwrap());
            let expires = UNIX_EPOCH + now + Duration::from_secs(3600);
            Ok(Credentials::new(
                format!("id-{call}"),
                "hunter2",
                None,
                Some(expires),
                "test",
            ))
        })
    }
}

fn chain(fails_from: usize) -> (Arc<TestClock>, Arc<AtomicUsize>, ChainCredentials) {
    let clock = Arc::new(TestClock(AtomicI64::new(0)));
    let calls = Arc::new(AtomicUsize::new(0));
    let provider = Hourly {
        clock: Arc::clone(&clock),
        calls: Arc::clone(&calls),
        fails_from,
    };
    let chain = ChainCredentials::new(SharedCredentialsProvider::new(provider), clock.clone());
    (clock, calls, chain)
}

#[tokio::test]
async fn credentials_are_kept_until_shortly_before_they_expire() {
    let (clock, calls, chain) = chain(usize::MAX);
    for (minute, id) in [(0, "id-0"), (54, "id-0"), (56, "id-1"), (57, "id-1")] {
        clock.0.store(minute * 60_000, Ordering::Relaxed);
        assert_eq!(
            chain.credential().await.unwrap().key_id,
            id,
            "minute {minute}"
        );
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn credentials_are_used_to_their_end_while_no_new_ones_come() {
    let (clock, _, chain) = chain(1);
    chain.credential().await.unwrap();
    clock.0.store(59 * 60_000, Ordering::Relaxed);
    assert_eq!(chain.credential().await.unwrap().key_id, "id-0");
    clock.0.store(61 * 60_000, Ordering::Relaxed);
    assert!(chain.credential().await.is_err());
}

#[test]
fn no_secret_is_printed() {
    let (_, _, chain) = chain(0);
    let environment = Environment::of(&[(ENV_SECRET, "hunter2")]);
    let printed = format!("{chain:?} {environment:?}");
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(printed.contains(ENV_SECRET));
}

#[test]
fn a_virtual_hosted_endpoint_carries_the_bucket() {
    let url = |path_style| S3Url {
        bucket: "logs".to_owned(),
        prefix: String::new(),
        endpoint: None,
        region: None,
        path_style,
        profile: None,
    };
    let endpoint = "https://s3.example.com:8443";
    assert_eq!(
        request_endpoint(endpoint, &url(false)).unwrap(),
        "https://logs.s3.example.com:8443"
    );
    assert_eq!(request_endpoint(endpoint, &url(true)).unwrap(), endpoint);
    assert!(request_endpoint("http://127.0.0.1:9000", &url(false)).is_err());
}
