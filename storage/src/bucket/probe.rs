//! The store proves itself (I11): a create has exactly one winner however many try at once, a
//! second create is refused, GET and LIST see a finished PUT.
//!
//! Many stores that speak S3 ignore `If-None-Match`, or look before they write without a lock, and
//! say nothing: only racing them shows it. The full probe runs once per bucket and configuration
//! and leaves a marker; one round runs at every start.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::future::join_all;

use super::error::{BucketError, CreateOutcome};
use super::report::{Report, Verdict};
use super::retry::PROBE_PATIENCE;
use super::{Bucket, BucketKind, Purpose, backoff};
use crate::layout::{self, Key, Place};

/// Writers that race for one key in a round of the full probe.
pub(super) const WRITERS_FULL: u8 = 16;
const WRITERS_QUICK: u8 = 4;
const WRITERS_QUICK_LOCAL: u8 = 2;
/// Rounds of the full probe. A store that looks before it writes lost 47 rounds of 50 with 16
/// writers, so that 8 rounds without a double winner are no accident.
const ROUNDS_FULL: u32 = 8;
/// On a local disk the kernel's hard link decides, and every create costs two fsyncs.
const ROUNDS_LOCAL: u32 = 1;
/// Larger than one network packet, so that writers overlap while the store receives the bodies.
const BODY_BYTES: usize = 8 * 1024;
/// Attempts to get a clear answer out of a store that is throttled or fails.
const ATTEMPTS_MAX: u32 = 6;
/// Part of the marker's name: raised when the probe checks more than before.
const VERSION: u64 = 1;

const ONE_WINNER: &str = "one winner per create";
const REFUSED: &str = "second create refused";
const GET: &str = "get after put";
const LIST: &str = "list after put";
const FIX: &str = "use a store with atomic conditional puts: AWS S3, MinIO, Cloudflare R2, file://";

/// What the marker says to people.
pub(crate) const PROBE_PASSED: &str = "the full probe passed under this configuration\n";

/// How much of the probe to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// All rounds if this bucket has not passed them under this configuration; else one.
    AsNeeded,
    /// All rounds.
    Full,
}

/// A promise the store broke, and how it showed.
struct Broken {
    check: &'static str,
    reason: String,
}

/// How a race ended.
enum Race {
    /// One create left this body.
    Won(Bytes),
    /// The store's answers do not tell: it was overloaded, or failed, or was not reached.
    Unclear(String),
}

/// Why a round gave no verdict of success.
enum RoundError {
    Broken(Broken),
    Bucket(BucketError),
}

impl From<BucketError> for RoundError {
    fn from(error: BucketError) -> Self {
        match error {
            BucketError::Unfit { check: _, reason } => Self::Broken(Broken {
                check: LIST,
                reason,
            }),
            other => Self::Bucket(other),
        }
    }
}

/// Runs the probe and adds its checks to `report`.
///
/// # Errors
/// If the store does not answer; a store that answers wrongly is a failed check instead.
pub(super) async fn run(
    bucket: &Bucket,
    depth: Depth,
    configuration: u64,
    report: &mut Report,
) -> Result<(), BucketError> {
    let marker = Place::ProbeMarker(configuration ^ VERSION).key();
    let passed_before =
        depth == Depth::AsNeeded && bucket.get(Purpose::Probe, &marker).await?.is_some();
    let (rounds, writers) = match (passed_before, bucket.kind()) {
        (true, BucketKind::File | BucketKind::Memory) => (1, WRITERS_QUICK_LOCAL),
        (true, BucketKind::S3 | BucketKind::Given) => (1, WRITERS_QUICK),
        (false, BucketKind::File | BucketKind::Memory) => (ROUNDS_LOCAL, WRITERS_FULL),
        (false, BucketKind::S3 | BucketKind::Given) => (ROUNDS_FULL, WRITERS_FULL),
    };
    let mut used = Vec::new();
    let mut outcome = Ok(());
    for _ in 0..rounds {
        outcome = round(bucket, writers, &mut used).await;
        if outcome.is_err() {
            break;
        }
    }
    let is_away = matches!(
        outcome,
        Err(RoundError::Bucket(BucketError::Unavailable { .. }))
    );
    if !is_away && let Err(error) = bucket.delete(Purpose::Probe, &used).await {
        tracing::warn!(%error, "the scratch objects of the probe were not deleted");
    }
    let broken = match outcome {
        Ok(()) => None,
        Err(RoundError::Broken(broken)) => Some(broken),
        Err(RoundError::Bucket(error)) => return Err(error),
    };
    if broken.is_none() && !passed_before {
        // A marker that is not written only means that the full probe runs once more.
        let body = Bytes::from_static(PROBE_PASSED.as_bytes());
        let _ = bucket
            .create_once(Purpose::Probe, &marker, vec![body])
            .await;
    }
    let rounds = match rounds {
        1 => "1 round".to_owned(),
        several => format!("{several} rounds"),
    };
    let extent = format!("{rounds} of {writers} writers");
    add_checks(report, broken.as_ref(), &extent);
    Ok(())
}

fn add_checks(report: &mut Report, broken: Option<&Broken>, extent: &str) {
    let mut skipped = false;
    for check in [ONE_WINNER, REFUSED, GET, LIST] {
        match broken {
            Some(broken) if broken.check == check => {
                report.add_with_fix(check, Verdict::Failed, &broken.reason, FIX);
                skipped = true;
            }
            _ if skipped => report.add(check, Verdict::Skipped, "an earlier check failed"),
            _ => report.add(check, Verdict::Passed, extent),
        }
    }
}

/// One race for one fresh key, then everything that must hold of its object.
async fn round(bucket: &Bucket, writers: u8, used: &mut Vec<Key>) -> Result<(), RoundError> {
    let began = bucket.0.clock.mono();
    let mut last = String::new();
    for attempt in 1..=ATTEMPTS_MAX {
        let name = bucket.0.entropy.next_u128();
        let key = Place::Scratch(name).key();
        used.push(key.clone());
        match race(bucket, &key, writers).await? {
            Race::Won(winner) => {
                refuses_second(bucket, &key).await?;
                sees_by_get(bucket, &key, winner, writers).await?;
                return sees_by_list(bucket, &key, name).await;
            }
            Race::Unclear(detail) => last = detail,
        }
        // Who asks for the probe asks again, and says meanwhile what is waited for.
        if bucket.0.clock.mono().since(began) >= PROBE_PATIENCE {
            return Err(unavailable(&key, attempt, last));
        }
        let pause = backoff(attempt, bucket.0.entropy.next_u64());
        tokio::time::sleep(pause).await;
    }
    Err(unavailable(&layout::scratch(), ATTEMPTS_MAX, last))
}

/// Lets `writers` create one key at once.
async fn race(bucket: &Bucket, key: &Key, writers: u8) -> Result<Race, RoundError> {
    let attempts = (0..writers).map(|writer| async move {
        let body = vec![body_of(key, writer)];
        (writer, bucket.create_once(Purpose::Probe, key, body).await)
    });
    let mut created = Vec::new();
    let mut unclear = None;
    for (writer, outcome) in join_all(attempts).await {
        match outcome {
            CreateOutcome::Created => created.push(writer),
            CreateOutcome::Exists => {}
            CreateOutcome::Unclear(answer) => unclear = Some(answer),
            CreateOutcome::Refused(error) => return Err(error.into()),
        }
    }
    match created.as_slice() {
        [winner] => Ok(Race::Won(body_of(key, *winner))),
        [] => match unclear {
            Some(answer) => Ok(Race::Unclear(answer.detail)),
            None => Err(broken(
                ONE_WINNER,
                format!("all of {writers} concurrent creates of a fresh key were refused"),
            )),
        },
        several => Err(broken(
            ONE_WINNER,
            format!(
                "{} of {writers} concurrent creates of one key succeeded: the store ignores \
                 If-None-Match or does not check it atomically",
                several.len()
            ),
        )),
    }
}

async fn refuses_second(bucket: &Bucket, key: &Key) -> Result<(), RoundError> {
    let began = bucket.0.clock.mono();
    let mut last = String::new();
    for attempt in 1..=ATTEMPTS_MAX {
        let body = vec![Bytes::from_static(b"second")];
        match bucket.create_once(Purpose::Probe, key, body).await {
            CreateOutcome::Exists => return Ok(()),
            CreateOutcome::Created => {
                return Err(broken(
                    REFUSED,
                    "a create of an existing key succeeded: the store ignores If-None-Match"
                        .to_owned(),
                ));
            }
            CreateOutcome::Refused(error) => return Err(error.into()),
            CreateOutcome::Unclear(answer) => {
                last = answer.detail;
                if bucket.0.clock.mono().since(began) >= PROBE_PATIENCE {
                    return Err(unavailable(key, attempt, last));
                }
                let pause = backoff(attempt, bucket.0.entropy.next_u64());
                tokio::time::sleep(pause).await;
            }
        }
    }
    Err(unavailable(key, ATTEMPTS_MAX, last))
}

fn unavailable(key: &Key, attempts: u32, detail: String) -> RoundError {
    RoundError::Bucket(BucketError::Unavailable {
        operation: super::Operation::Create,
        key: key.to_string(),
        attempts,
        detail,
    })
}

async fn sees_by_get(
    bucket: &Bucket,
    key: &Key,
    winner: Bytes,
    writers: u8,
) -> Result<(), RoundError> {
    match bucket.get(Purpose::Probe, key).await? {
        Some(body) if body == winner => Ok(()),
        Some(body) => {
            let writer = (0..writers).find(|writer| body_of(key, *writer) == body);
            let whose =
                writer.map_or_else(|| "no writer's".to_owned(), |w| format!("writer {w}'s"));
            Err(broken(
                ONE_WINNER,
                format!("the object holds {whose} body, but another writer was told that it won"),
            ))
        }
        None => Err(broken(
            GET,
            "GET does not see an object whose PUT had succeeded".to_owned(),
        )),
    }
}

async fn sees_by_list(bucket: &Bucket, key: &Key, name: u128) -> Result<(), RoundError> {
    let before = Place::Scratch(name.saturating_sub(1)).key();
    let folder = layout::scratch();
    let listed = bucket
        .list(Purpose::Probe, &folder, Some(&before), 1)
        .await?;
    match listed.first() {
        Some(object) if object.key == *key && object.size == BODY_BYTES as u64 => Ok(()),
        _ => Err(broken(
            LIST,
            "LIST does not see an object whose PUT had succeeded".to_owned(),
        )),
    }
}

fn body_of(key: &Key, writer: u8) -> Bytes {
    let mut body = vec![writer; BODY_BYTES];
    let name = key.as_str().as_bytes();
    body[..name.len()].copy_from_slice(name);
    body.into()
}

fn broken(check: &'static str, reason: String) -> RoundError {
    RoundError::Broken(Broken { check, reason })
}

/// A hash of everything that decides which store answers, and how (FNV-1a): the marker of a probe
/// says nothing about the same bucket behind another endpoint.
pub(super) fn configuration_hash(parts: &BTreeMap<&str, String>) -> u64 {
    let text: String = parts
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
