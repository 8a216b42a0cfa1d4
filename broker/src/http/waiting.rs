//! What the HTTP door says of partitions that wait for a disk, as JSON, and the order that ends
//! their wait.
//!
//! * `GET /cluster/waiting?broker=N`, `?partitions=TOPIC:P,TOPIC:P`: a [`WaitingAnswer`].
//! * `POST /cluster/force-move`, with such an answer or a part of it as the body: what only the disk
//!   may hold of those partitions is given up, unless they wait for another one by now, or in another
//!   epoch. Answered is a [`ForcedAnswer`] once they go on, or were not able to for a while.
//!
//! Until the answer an empty line comes each second.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use firn_proto::cluster::ForceMove;
use futures::FutureExt;
use serde::{Deserialize, Serialize};

use super::archive::next_line;
use super::{JSON, Shown, unavailable};
use crate::recovery::{DiskWaiters, RecoveryError, Waiting};

/// A partition that waits for a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingStatus {
    /// Its topic.
    pub topic: String,
    /// The id of the topic.
    pub topic_id: String,
    /// Its index.
    pub partition: i32,
    /// Its last epoch.
    pub epoch: i32,
    /// The broker that owned it then.
    pub broker: i32,
    /// The disk of that broker's local WAL.
    pub disk: String,
    /// The offset behind its last record in the bucket; none if its log is damaged.
    pub bucket_end: Option<i64>,
    /// How old the record with the largest timestamp is that the bucket has of it in the WAL, in
    /// seconds.
    pub newest_age_s: Option<u64>,
}

/// A partition whose disk was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForcedStatus {
    /// Its topic.
    pub topic: String,
    /// Its index.
    pub partition: i32,
    /// The broker that owned it last.
    pub broker: i32,
    /// The disk that was given up.
    pub disk: String,
    /// Why it was not given up after all.
    pub refused: Option<String>,
    /// Where it goes on, once it does.
    pub goes_on: Option<GoesOnStatus>,
}

/// Where a partition goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoesOnStatus {
    /// The broker that owns it.
    pub broker: i32,
    /// In which epoch.
    pub epoch: i32,
    /// From this offset on: what the disk holds from there on is lost.
    pub start_offset: i64,
}

/// Which partitions wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitingAnswer {
    /// These.
    Partitions(Vec<WaitingStatus>),
    /// That cannot be said, for this reason.
    Error(String),
}

/// What became of an order to give disks up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForcedAnswer {
    /// Partition by partition.
    Partitions(Vec<ForcedStatus>),
    /// Nobody knows, for this reason; it may be given again.
    Error(String),
}

pub(super) async fn waiting(State(shown): State<Shown>, RawQuery(query): RawQuery) -> Response {
    let (waiters, asked) = match asked(&shown, query.as_deref()) {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    slowly(async move {
        match look(&waiters, &asked).await {
            Ok(waiting) => WaitingAnswer::Partitions(waiting),
            Err(error) => WaitingAnswer::Error(error.to_string()),
        }
    })
}

pub(super) async fn force(State(shown): State<Shown>, body: String) -> Response {
    let seen = match serde_json::from_str(&body) {
        Ok(WaitingAnswer::Partitions(seen)) if !seen.is_empty() => seen,
        _ => return bad(AS_SEEN),
    };
    let Some(waiters) = shown.waiters.get().cloned() else {
        return unavailable(NOT_YET);
    };
    slowly(async move {
        match give_up(&waiters, seen).await {
            Ok(forced) => ForcedAnswer::Partitions(forced),
            Err(error) => ForcedAnswer::Error(error.to_string()),
        }
    })
}

async fn look(waiters: &DiskWaiters, asked: &Asked) -> Result<Vec<WaitingStatus>, RecoveryError> {
    let waiting = asked.of(waiters.list().await?);
    let in_bucket = waiters.in_bucket(&waiting).await?;
    let status = waiting.into_iter().map(|waiting| {
        let found = in_bucket.get(&waiting.tp);
        WaitingStatus {
            topic: waiting.topic.to_string(),
            topic_id: waiting.tp.topic.to_string(),
            partition: waiting.tp.partition.0,
            epoch: waiting.epoch.0,
            broker: waiting.broker.0,
            disk: waiting.disk.to_string(),
            bucket_end: found.map(|found| found.end),
            newest_age_s: found
                .and_then(|found| found.newest_age)
                .map(|age| age.as_secs()),
        }
    });
    Ok(status.collect())
}

async fn give_up(
    waiters: &DiskWaiters,
    seen: Vec<WaitingStatus>,
) -> Result<Vec<ForcedStatus>, RecoveryError> {
    let waiting = waiters.list().await?;
    let waiting: BTreeMap<_, _> = waiting.iter().map(|now| (place(now), now)).collect();
    let now = |seen: &WaitingStatus| waiting.get(&(seen.topic_id.clone(), seen.partition));
    let checked = seen.iter().map(|seen| as_seen(seen, now(seen).copied()));
    let checked: Vec<_> = checked.collect();
    let asked: Vec<ForceMove> = checked.iter().flatten().copied().collect();
    let results = waiters.force(asked).await?;
    let forced: BTreeMap<_, _> = results
        .iter()
        .flatten()
        .map(|forced| (forced.tp, forced.epoch))
        .collect();
    let goes_on = waiters.wait_until_owned(&forced, BEGIN_MAX).await;
    let mut results = results.into_iter();
    let status = seen.into_iter().zip(checked).map(|(seen, checked)| {
        let goes_on = checked
            .as_ref()
            .ok()
            .and_then(|asked| goes_on.get(&asked.tp));
        let refused = match checked {
            Ok(_) => results.next().and_then(Result::err).map(|e| e.to_string()),
            Err(reason) => Some(reason),
        };
        ForcedStatus {
            topic: seen.topic,
            partition: seen.partition,
            broker: seen.broker,
            disk: seen.disk,
            goes_on: goes_on
                .filter(|_| refused.is_none())
                .map(|goes_on| GoesOnStatus {
                    broker: goes_on.owner.0,
                    epoch: goes_on.epoch.0,
                    start_offset: goes_on.start_offset,
                }),
            refused,
        }
    });
    Ok(status.collect())
}

/// The id of the topic, and the index: a topic of that name may have been created anew.
fn place(waiting: &Waiting) -> (String, i32) {
    (waiting.tp.topic.to_string(), waiting.tp.partition.0)
}

/// What is to be given up, if the partition still waits as it was `seen`; else why nothing is. The
/// coordinator looks once more.
fn as_seen(seen: &WaitingStatus, now: Option<&Waiting>) -> Result<ForceMove, String> {
    let Some(now) = now else {
        return Err("it does not wait for a disk any more: look again".to_owned());
    };
    if (now.epoch.0, now.disk.to_string()) != (seen.epoch, seen.disk.clone()) {
        return Err(format!(
            "it waits for disk {} in epoch {} by now, not for disk {} in epoch {}: look again",
            now.disk, now.epoch, seen.disk, seen.epoch
        ));
    }
    Ok(ForceMove {
        tp: now.tp,
        epoch: now.epoch,
        disk: now.disk,
    })
}

/// Which partitions are meant, of those that wait.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    All,
    /// That a broker owned.
    Broker(i32),
    /// By topic and index.
    Named(BTreeSet<(String, i32)>),
}

impl Asked {
    fn parse(query: Option<&str>) -> Option<Self> {
        let Some(query) = query.filter(|query| !query.is_empty()) else {
            return Some(Self::All);
        };
        if let Some(broker) = query.strip_prefix("broker=") {
            return broker.parse().ok().map(Self::Broker);
        }
        // names of topics have no character that is written in another way
        let named = query.strip_prefix("partitions=")?.split(',');
        let named = named.map(|named| {
            let (topic, index) = named.rsplit_once(':')?;
            Some((topic.to_owned(), index.parse().ok()?))
        });
        named.collect::<Option<_>>().map(Self::Named)
    }

    fn of(&self, mut waiting: Vec<Waiting>) -> Vec<Waiting> {
        waiting.retain(|waiting| match self {
            Self::All => true,
            Self::Broker(broker) => waiting.broker.0 == *broker,
            Self::Named(named) => {
                named.contains(&(waiting.topic.to_string(), waiting.tp.partition.0))
            }
        });
        waiting
    }
}

#[expect(clippy::result_large_err, reason = "it is the answer, either way")]
fn asked(shown: &Shown, query: Option<&str>) -> Result<(DiskWaiters, Asked), Response> {
    let asked = Asked::parse(query).ok_or_else(|| bad(WHICH))?;
    match shown.waiters.get() {
        Some(waiters) => Ok((waiters.clone(), asked)),
        None => Err(unavailable(NOT_YET)),
    }
}

fn bad(reason: &'static str) -> Response {
    (StatusCode::BAD_REQUEST, reason).into_response()
}

/// An answer that takes its time.
fn slowly<T: Serialize>(answer: impl Future<Output = T> + Send + 'static) -> Response {
    let text = async move { serde_json::to_string(&answer.await).unwrap_or_default() };
    let body = Body::from_stream(futures::stream::unfold(Some(text.boxed()), next_line));
    ([(header::CONTENT_TYPE, JSON)], body).into_response()
}

const WHICH: &str = "say which: ?broker=N or ?partitions=TOPIC:PARTITION,TOPIC:PARTITION\n";
const AS_SEEN: &str =
    "say which, and what was seen of them: an answer of GET /cluster/waiting as the body\n";
const NOT_YET: &str = "the broker does not serve yet";
/// How long partitions are waited for that may go on. Well below the end of a connection.
const BEGIN_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use firn_proto::cluster::PartitionFold;
    use firn_proto::ids::{
        BrokerId, DiskId, LeaderEpoch, PartitionIndex, StreamId, TopicId, TopicPartition,
    };

    use super::*;

    #[test]
    fn what_waits_otherwise_than_it_was_seen_is_not_given_up() {
        let tp = TopicPartition {
            topic: TopicId([1; 16]),
            partition: PartitionIndex(3),
        };
        let (epoch, disk) = (LeaderEpoch(4), DiskId([7; 16]));
        let fold = PartitionFold {
            tp,
            epoch,
            stream: StreamId(2),
            row: None,
            ranges: Vec::new(),
            released_end: None,
            log_start: 0,
            archived_to: 0,
            waits_for: Some(disk),
            disk: None,
        };
        let now = Waiting::of(fold, "a".into(), BrokerId(1), disk);
        let seen = WaitingStatus {
            topic: "a".to_owned(),
            topic_id: tp.topic.to_string(),
            partition: 3,
            epoch: 4,
            broker: 1,
            disk: disk.to_string(),
            bucket_end: Some(100),
            newest_age_s: None,
        };
        let asked = ForceMove { tp, epoch, disk };
        assert_eq!(as_seen(&seen, Some(&now)), Ok(asked));
        assert!(as_seen(&seen, None).is_err());
        let earlier = WaitingStatus {
            epoch: 3,
            ..seen.clone()
        };
        let refused = as_seen(&earlier, Some(&now)).unwrap_err();
        assert!(refused.contains("in epoch 4 by now"), "{refused}");
        let other = WaitingStatus {
            disk: DiskId([8; 16]).to_string(),
            ..seen
        };
        assert!(as_seen(&other, Some(&now)).is_err());
    }

    #[test]
    fn partitions_are_named_one_by_one_or_by_their_last_broker() {
        assert_eq!(Asked::parse(None), Some(Asked::All));
        assert_eq!(Asked::parse(Some("")), Some(Asked::All));
        assert_eq!(Asked::parse(Some("broker=7")), Some(Asked::Broker(7)));
        let named = [("a.b".to_owned(), 0), ("c".to_owned(), 12)];
        let asked = Asked::parse(Some("partitions=a.b:0,c:12"));
        assert_eq!(asked, Some(Asked::Named(BTreeSet::from(named))));
        for wrong in [
            "broker=x",
            "partitions=a",
            "partitions=a:b",
            "topic=a",
            "partitions=",
        ] {
            assert_eq!(Asked::parse(Some(wrong)), None, "{wrong}");
        }
    }
}
