//! Retention: moves the log starts of the partitions that this broker owns, by time and by size
//! (`retention.ms`, `retention.bytes`), where `cleanup.policy` has `delete`.
//!
//! - `pick.rs`: which runs go (pure)
//! - `page_out.rs`: keeps what the coordinator remembers of the runs that stay small
//! - this file: looks at each partition now and then
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
pub use pick::{Held, Pick, Retention};

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
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// How often it looks (`log.retention.check.interval.ms`).
    pub every: Duration,
}

impl Retainer {
    /// Looks at all partitions in turn, for ever. Dropping the future is harmless.
    pub async fn run(self) {
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look_at_all().await;
        }
    }

    /// Moves every log start that is to move.
    pub async fn look_at_all(&self) {
        let mut moves = Vec::new();
        for partition in self.partitions.all() {
            match self.look_at(&partition).await {
                Ok(Some(log_start)) => moves.push((partition, log_start)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "retention is looked at again later");
                    return;
                }
            }
            if moves.len() >= LOG_STARTS_MOVED_MAX {
                self.move_all(std::mem::take(&mut moves)).await;
            }
        }
        self.move_all(moves).await;
        self.log_starts
            .let_go_of_slots(&self.partitions.all())
            .await;
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
        let Some(retention) = self.retention_of(tp) else {
            return Ok(None);
        };
        let bytes = found.bytes.saturating_add(partition.unarchived_bytes());
        let mut pick = Pick::new(retention, bytes, self.clock.wall_ms());
        if pick.is_idle() {
            return Ok(None);
        }
        loop {
            let runs = match found.part {
                MapPart::Nothing => break,
                MapPart::Runs(runs) => runs,
                MapPart::Page(page) => self.segments.page(tp, &page).await?,
            };
            let Some(last) = runs.last().map(|run| run.last_offset) else {
                break;
            };
            let mut archived = runs
                .iter()
                .filter(|run| run.last_offset >= bounds.log_start);
            if !archived.all(|run| pick.goes(&held(run))) {
                return Ok(pick.log_start());
            }
            found = self.segments.look(tp, RunsFrom::Offset(last + 1)).await?;
        }
        Self::look_at_wal(partition, &mut pick);
        Ok(pick.log_start())
    }

    /// Goes on with what is in no segment yet.
    fn look_at_wal(partition: &Partition, pick: &mut Pick) {
        let bounds = partition.bounds();
        let mut offset = bounds.archived_to;
        while offset < bounds.high_watermark {
            let runs = partition.runs(offset, bounds.high_watermark, RETENTION_LOOK_BYTES);
            let Some(last) = runs.last() else {
                return;
            };
            offset = last.run.last_offset + 1;
            let goes = |held: &Held| pick.goes(held);
            let held = runs.iter().map(|found| Held {
                last_offset: found.run.last_offset,
                max_timestamp: found.run.max_timestamp,
                bytes: u64::from(found.run.byte_len),
                has_batches: true,
            });
            if !held.collect::<Vec<_>>().iter().all(goes) {
                return;
            }
        }
    }

    fn retention_of(&self, tp: TopicPartition) -> Option<Retention> {
        let image = self.image.borrow();
        let topic = image.topic(tp.topic)?;
        TopicRules::new(&topic.configs, usize::MAX).retention
    }
}

fn held(run: &Arc<ArchivedRun>) -> Held {
    Held {
        last_offset: run.last_offset,
        max_timestamp: run.max_timestamp,
        bytes: run.bytes(),
        has_batches: !run.row_groups.is_empty(),
    }
}
