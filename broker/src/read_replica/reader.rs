//! What a reader asks the owners of partitions, many of them side by side, in the course of a Fetch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use firn_proto::cluster::LinkAddress;
use firn_proto::env::Clock;
use firn_proto::ids::{Fingerprint, LeaderEpoch, TopicPartition};
use firn_proto::limits::{LOOK_PARTITIONS_MAX, LOOK_WAIT_MAX};
use firn_proto::link::{Look, Looks, Sight, SightRun};
use firn_storage::state::{BatchFlags, Run, RunRef};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

use crate::kafka::seldom::Seldom;
use crate::link::{LookError, Owners};
use crate::metrics::Metrics;
use crate::partition::Bounds;

/// A partition that another broker owns and this one reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// The partition.
    pub tp: TopicPartition,
    /// The epoch in which it is owned.
    pub epoch: LeaderEpoch,
    /// Where its owner is asked.
    pub owner: Arc<LinkAddress>,
}

/// What a Fetch wants to know of one of them.
#[derive(Clone, Debug)]
pub struct Question {
    /// The partition.
    pub followed: Followed,
    /// The first offset it wants.
    pub offset: i64,
    /// Bytes it wants at most.
    pub bytes_max: usize,
    /// Bytes that are known to be there.
    pub available: usize,
}

/// How an owner has described a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    tp: TopicPartition,
    bounds: Bounds,
    available: usize,
    runs: Vec<RunRef>,
}

/// What owners have said in the course of one Fetch.
#[derive(Debug, Default)]
pub struct Views(BTreeMap<TopicPartition, (LeaderEpoch, Option<Arc<View>>)>);

/// Asks owners. Cheap to clone.
#[derive(Clone)]
pub struct Readers(Arc<Inner>);

struct Inner {
    owners: Arc<dyn Owners>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    line: Mutex<Seldom>,
}

impl View {
    fn of(followed: &Followed, sight: &Sight) -> Self {
        let tp = followed.tp;
        Self {
            tp,
            bounds: Bounds {
                epoch: followed.epoch,
                log_start: sight.log_start,
                archived_to: sight.archived_to,
                durable_end: sight.high_watermark,
                high_watermark: sight.high_watermark,
                last_stable_offset: sight.last_stable_offset,
                log_end: sight.log_end,
            },
            available: sight.available as usize,
            runs: sight.runs.iter().map(|run| heard(tp, run)).collect(),
        }
    }

    /// The partition.
    pub fn tp(&self) -> TopicPartition {
        self.tp
    }

    /// Where it begins and ends.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// About how many bytes its owner counts from the offset on that was asked about, of those that are
    /// wanted.
    pub fn available(&self) -> usize {
        self.available
    }

    /// The runs that hold `offset .. end`, up to about `bytes_max` bytes, as far as they are known.
    pub fn runs(&self, offset: i64, end: i64, bytes_max: usize) -> Vec<RunRef> {
        let mut bytes = 0_usize;
        let wanted = self
            .runs
            .iter()
            .filter(|found| found.run.last_offset >= offset);
        wanted
            .take_while(|found| {
                let is_wanted = found.run.base_offset < end && (bytes == 0 || bytes < bytes_max);
                bytes = bytes.saturating_add(found.run.byte_len as usize);
                is_wanted
            })
            .copied()
            .collect()
    }
}

impl Views {
    /// What the owner has said of a partition; `None` if it was not asked yet in that epoch, and
    /// `Some(None)` if it says nothing.
    pub fn of(&self, followed: &Followed) -> Option<Option<Arc<View>>> {
        let (epoch, view) = self.0.get(&followed.tp)?;
        (*epoch == followed.epoch).then(|| view.clone())
    }

    /// Takes in what was said later.
    pub fn extend(&mut self, later: Self) {
        self.0.extend(later.0);
    }
}

impl Readers {
    /// Asks through `owners`.
    pub fn new(owners: Arc<dyn Owners>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Inner {
            owners,
            clock,
            metrics,
            line: Mutex::default(),
        }))
    }

    /// What all owners say now, or that they do not.
    pub async fn look_now(&self, questions: Vec<Question>, read_committed: bool) -> Views {
        let looks = Looks {
            wait: Duration::ZERO,
            bytes_min: 0,
            read_committed,
            partitions: Vec::new(),
        };
        let began = self.0.clock.mono();
        let mut asked = self.ask(questions, &looks, 0);
        let mut views = Views::default();
        while let Some((said, _)) = asked.next().await {
            views.extend(said);
        }
        let took = self.0.clock.mono().since(began);
        let seconds = &self.0.metrics.replica_look_seconds;
        seconds.observe(took.as_secs_f64());
        views
    }

    /// What the first owner says that has `missing` more bytes than are known to be there, or that has
    /// waited for so long. What the others say is not waited for. One that too many wait at already says
    /// nothing.
    pub async fn look_first(
        &self,
        questions: Vec<Question>,
        wait: Duration,
        missing: usize,
        read_committed: bool,
    ) -> Views {
        let wait = wait.min(LOOK_WAIT_MAX);
        let looks = Looks {
            wait,
            bytes_min: 0,
            read_committed,
            partitions: Vec::new(),
        };
        let mut asked = self.ask(questions, &looks, missing);
        while let Some((views, error)) = asked.next().await {
            // That one can be asked, but not to wait.
            if !matches!(error, Some(LookError::Crowded)) {
                return views;
            }
        }
        tokio::time::sleep(wait).await;
        Views::default()
    }

    /// One question to each owner, or a few.
    fn ask(
        &self,
        questions: Vec<Question>,
        looks: &Looks,
        missing: usize,
    ) -> FuturesUnordered<BoxFuture<'static, (Views, Option<LookError>)>> {
        let mut by_owner: BTreeMap<Fingerprint, Vec<Question>> = BTreeMap::new();
        for question in questions {
            let owner = question.followed.owner.fingerprint;
            by_owner.entry(owner).or_default().push(question);
        }
        let asked = FuturesUnordered::new();
        for questions in by_owner.into_values() {
            for some in questions.chunks(LOOK_PARTITIONS_MAX) {
                let there: usize = some.iter().map(|question| question.available).sum();
                let looks = Looks {
                    bytes_min: bytes(there.saturating_add(missing)),
                    partitions: some.iter().map(Question::look).collect(),
                    ..looks.clone()
                };
                let followed = some.iter().map(|question| question.followed.clone());
                let asked_of = self.clone().ask_one(followed.collect(), looks);
                asked.push(Box::pin(asked_of) as BoxFuture<'static, _>);
            }
        }
        asked
    }

    async fn ask_one(self, followed: Vec<Followed>, looks: Looks) -> (Views, Option<LookError>) {
        let Some(owner) = followed.first().map(|first| Arc::clone(&first.owner)) else {
            return (Views::default(), None);
        };
        let waits = !looks.wait.is_zero();
        let said = self.0.owners.look(LinkAddress::clone(&owner), looks).await;
        let (sights, error) = match said {
            Ok(sights) => (sights, None),
            Err(error) => {
                if !(waits && matches!(error, LookError::Crowded)) {
                    self.on_unanswered(&owner, followed.len(), &error);
                }
                (vec![None; followed.len()], Some(error))
            }
        };
        let views = followed.iter().zip(&sights).map(|(followed, sight)| {
            let view = sight.as_ref().map(|sight| View::of(followed, sight));
            (followed.tp, (followed.epoch, view.map(Arc::new)))
        });
        (Views(views.collect()), error)
    }

    fn on_unanswered(&self, owner: &LinkAddress, partitions: usize, error: &LookError) {
        self.0.metrics.replica_unanswered.inc();
        let mut line = self.0.line.lock().unwrap_or_else(PoisonError::into_inner);
        let due = line.due(self.0.clock.mono());
        drop(line);
        if due.is_some() {
            let (host, port) = (&owner.host, owner.port);
            tracing::warn!(
                host,
                port,
                partitions,
                %error,
                "consumers of this rack go back to the owner of what they read: this broker cannot ask it"
            );
        }
    }
}

impl Question {
    fn look(&self) -> Look {
        Look {
            tp: self.followed.tp,
            epoch: self.followed.epoch,
            offset: self.offset,
            bytes_max: bytes(self.bytes_max),
        }
    }
}

fn bytes(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn heard(tp: TopicPartition, run: &SightRun) -> RunRef {
    RunRef {
        at: run.at,
        run: Run {
            tp,
            epoch: run.epoch,
            base_offset: run.base_offset,
            last_offset: run.last_offset,
            byte_start: run.byte_start,
            byte_len: run.byte_len,
            max_timestamp: run.max_timestamp,
            flags: BatchFlags(run.flags),
        },
    }
}

#[cfg(test)]
mod tests;
