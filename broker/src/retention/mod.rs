//! Retention: moves the log starts of the partitions that this broker owns, by time and by size
//! (`retention.ms`, `retention.bytes`), where `cleanup.policy` has `delete`.
//!
//! - `pick.rs`: which runs go (pure)
//! - `page_out.rs`: keeps what the coordinator remembers of the runs that stay small
//! - this file: looks at each partition now and then
//!
//! A record is old once it is by two clocks: that of the cluster's leader, which comes with each look,
//! and this broker's. One that is wrong, or was, deletes nothing early.
//!
//! Architecture invariant: deletes nothing. What lies below a log start leaves the segment map with
//! it and the WAL with the floor; what has left is collected elsewhere.

mod page_out;
mod pick;

use std::sync::Arc;
use std::time::Duration;

use firn_proto::cluster::{ArchivedRun, ClusterImage, MapPart, RunsFrom};
use firn_proto::env::Clock;
use firn_proto::ids::TopicPartition;
use firn_proto::limits::{LOG_STARTS_MOVED_MAX, RETENTION_LOOK_BYTES};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

pub use page_out::{PageOutError, PageWriter};
pub use pick::{Clocks, Held, Pick, Retention};

use crate::kafka::data::topic_rules::TopicRules;
use crate::log_starts::LogStarts;
use crate::partition::{Partition, Partitions};
use crate::segment_map::{MapError, SegmentMap};

/// Keeps to the retention of all topics.
pub struct Retainer {
    /// What this broker owns.
    pub partitions: Arc<Partitions>,
    /// The segment map.
    pub segments: Arc<SegmentMap>,
    /// Moves log starts.
    pub log_starts: LogStarts,
    /// Pages runs out.
    pub pages: PageWriter,
    /// The topics and their configs.
    pub image: watch::Receiver<Arc<ClusterImage>>,
    /// The clock of this broker.
    pub clock: Arc<dyn Clock>,
    /// How often it looks (`log.retention.check.interval.ms`).
    pub every: Duration,
}

impl Retainer {
    /// Looks at all partitions in turn, for ever. Dropping the future is harmless.
    pub async fn run(self) {
        let ticks = |every| {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let mut looks = ticks(self.every);
        let mut lets_go = ticks(LET_GO_INTERVAL.min(self.every));
        loop {
            tokio::select! {
                _ = looks.tick() => self.look_at_all().await,
                _ = lets_go.tick() => {
                    let partitions = self.partitions.all();
                    self.log_starts.let_go_of_slots(&partitions).await;
                }
            }
        }
    }

    /// Moves every log start that is to move.
    async fn look_at_all(&self) {
        let mut moves = Vec::new();
        for partition in self.partitions.all() {
            match self.look_at(&partition).await {
                Ok(Some(log_start)) => moves.push((partition, log_start)),
                Ok(None) => {}
                Err(error @ MapError::Coordinator { .. }) => {
                    tracing::warn!(%error, "retention is looked at again later");
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, "retention of a partition is looked at again later");
                }
            }
            if moves.len() >= LOG_STARTS_MOVED_MAX {
                self.move_all(std::mem::take(&mut moves)).await;
            }
        }
        self.move_all(moves).await;
    }

    async fn move_all(&self, moves: Vec<(Arc<Partition>, i64)>) {
        let tps: Vec<_> = moves.iter().map(|(partition, _)| partition.tp()).collect();
        let moved = self.log_starts.raise(moves).await;
        for (tp, result) in tps.into_iter().zip(moved) {
            match result {
                Ok(log_start) => tracing::debug!(%tp, log_start, "retention moved the log start"),
                Err(code) => tracing::warn!(%tp, ?code, "retention could not move the log start"),
            }
        }
    }

    /// Where the log start of a partition is to be, if it is to move.
    async fn look_at(&self, partition: &Partition) -> Result<Option<i64>, MapError> {
        let tp = partition.tp();
        let bounds = partition.bounds();
        let from = RunsFrom::Offset(bounds.log_start);
        let mut found = match self.segments.look(tp, from).await {
            // It is being deleted.
            Err(MapError::Unknown(_)) => return Ok(None),
            found => found?,
        };
        if found.is_page_due()
            && let Err(error) = self.pages.page_out(tp).await
        {
            tracing::warn!(%tp, %error, "runs are paged out later");
        }
        // The journal may be ahead, if an answer was lost.
        let known = found.log_start.min(bounds.high_watermark);
        if known > bounds.log_start {
            partition.on_log_start(known);
            return Ok(None);
        }
        let Some(mut retention) = self.retention_of(tp) else {
            return Ok(None);
        };
        let bytes = found.bytes.saturating_add(partition.unarchived_bytes());
        if partition.bounds().archived_to != found.archived_to {
            // What was archived just now would count twice.
            retention.bytes = None;
        }
        let clocks = Clocks {
            leader_ms: found.leader_ms,
            owner_ms: self.clock.wall_ms(),
        };
        let mut pick = Pick::new(retention, bytes, clocks);
        if pick.is_idle() {
            return Ok(None);
        }
        // Every run up to here was looked at: what is archived meanwhile must not be passed over.
        let mut looked_to = bounds.log_start;
        loop {
            let runs = match found.part {
                MapPart::Nothing => break,
                MapPart::Runs(runs) => runs,
                MapPart::Page(page) => self.segments.page(tp, &page).await?,
            };
            let known = runs.partition_point(|run| run.last_offset < looked_to);
            for run in &runs[known..] {
                if run.base_offset > looked_to || !pick.goes(&held(run)) {
                    return Ok(pick.log_start());
                }
                looked_to = run.last_offset + 1;
            }
            found = self.segments.look(tp, RunsFrom::Offset(looked_to)).await?;
        }
        Self::look_at_wal(partition, looked_to, &mut pick);
        Ok(pick.log_start())
    }

    /// Goes on with what is in no segment, unless it does not begin at `offset` any more.
    fn look_at_wal(partition: &Partition, mut offset: i64, pick: &mut Pick) {
        loop {
            let bounds = partition.bounds();
            let runs = partition.runs(offset, bounds.high_watermark, RETENTION_LOOK_BYTES);
            if runs.is_empty() || bounds.archived_to > offset {
                return;
            }
            for found in runs {
                let held = Held {
                    last_offset: found.run.last_offset,
                    max_timestamp: found.run.max_timestamp,
                    bytes: u64::from(found.run.byte_len),
                    has_batches: true,
                };
                if found.run.base_offset > offset || !pick.goes(&held) {
                    return;
                }
                offset = found.run.last_offset + 1;
            }
        }
    }

    fn retention_of(&self, tp: TopicPartition) -> Option<Retention> {
        let image = self.image.borrow();
        let topic = image.topic(tp.topic)?;
        TopicRules::new(&topic.configs, usize::MAX).retention
    }
}

/// How often idle partitions let go of slots though nothing is archived meanwhile.
const LET_GO_INTERVAL: Duration = Duration::from_secs(60);

fn held(run: &Arc<ArchivedRun>) -> Held {
    Held {
        last_offset: run.last_offset,
        max_timestamp: run.max_timestamp,
        bytes: run.bytes(),
        has_batches: !run.row_groups.is_empty(),
    }
}
