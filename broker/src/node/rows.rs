//! State rows of this process: written into its stream, and remembered until the coordinator has
//! been told where they lie.
//!
//! A partition leaves with a row, and none of it may come behind that in this stream: a fold would
//! take the later one for the state of an epoch that has begun elsewhere since (I4, I8). So the
//! periodic checkpoints and those of partitions that leave take turns, and a row that was copied
//! before its partition left is dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_proto::cluster::RowReport;
use firn_proto::ids::{Slot, TopicPartition};
use firn_storage::collect::OwnCheckpoints;
use firn_storage::state::StateRow;
use firn_storage::wal::{DurableCheckpoint, Wal, WalError};

use crate::partition::{Partition, Partitions, RowsDue};

/// The state rows of this process.
pub(super) struct StateRows {
    wal: Wal,
    partitions: Arc<Partitions>,
    /// The checkpoint objects of this process.
    objects: Arc<Mutex<OwnCheckpoints>>,
    turn: tokio::sync::Mutex<()>,
    untold: Mutex<Untold>,
}

/// What the coordinator has not been told of.
#[derive(Debug, Default)]
struct Untold {
    rows: UnreportedRows,
    /// Rows hold everything in slots below.
    rows_end: Slot,
}

/// The last durable row of each partition whose place the coordinator has not been told. A journal
/// that takes nothing for hours leaves one entry per partition here, not one per checkpoint.
#[derive(Debug, Default)]
struct UnreportedRows(BTreeMap<TopicPartition, Slot>);

impl UnreportedRows {
    fn add(&mut self, row: RowReport) {
        let rows = row.partitions.into_iter().map(|tp| (tp, row.slot));
        self.0.extend(rows);
    }

    fn reports(&self) -> Vec<RowReport> {
        let mut by_slot: BTreeMap<Slot, Vec<TopicPartition>> = BTreeMap::new();
        for (tp, slot) in &self.0 {
            by_slot.entry(*slot).or_default().push(*tp);
        }
        let reports = by_slot.into_iter();
        reports
            .map(|(slot, partitions)| RowReport { slot, partitions })
            .collect()
    }

    /// Forgets what was told, unless a newer row has come meanwhile.
    fn remove(&mut self, told: &[RowReport]) {
        for RowReport { slot, partitions } in told {
            for tp in partitions {
                if self.0.get(tp) == Some(slot) {
                    self.0.remove(tp);
                }
            }
        }
    }
}

impl StateRows {
    /// Rows that go into the stream of `wal`.
    pub(super) fn new(
        wal: Wal,
        partitions: Arc<Partitions>,
        objects: Arc<Mutex<OwnCheckpoints>>,
    ) -> Self {
        Self {
            wal,
            partitions,
            objects,
            turn: tokio::sync::Mutex::default(),
            untold: Mutex::default(),
        }
    }

    /// Writes rows that are due, but for those of partitions that have left meanwhile.
    ///
    /// # Errors
    /// Why the WAL did not take them: they are due again.
    pub(super) async fn write_due(&self, mut due: RowsDue) -> Result<(), WalError> {
        let _turn = self.turn.lock().await;
        self.partitions.keep_owned(&mut due.rows);
        if !due.rows.is_empty()
            && let Err(error) = self.write(&due.rows, false).await
        {
            let partitions = due.rows.iter().map(|row| row.tp);
            self.partitions.rows_failed(partitions);
            return Err(error);
        }
        let end = due.through.slot.next();
        let mut untold = self.untold();
        untold.rows_end = untold.rows_end.max(end);
        Ok(())
    }

    /// Writes the states with which partitions begin an epoch here, in front of their first appends
    /// (I8). They are open when this returns.
    ///
    /// # Errors
    /// Why the WAL did not take them: none is open.
    pub(super) async fn write_first(&self, rows: Vec<StateRow>) -> Result<(), WalError> {
        let written = self.write(&rows, true).await?;
        for row in rows {
            self.partitions.open(row);
        }
        self.partitions.on_pages_stored(&written.pages);
        Ok(())
    }

    /// Writes the last states of partitions that take nothing any more and are settled, and closes
    /// them. Gives the states, and the slot that holds them.
    ///
    /// # Errors
    /// Why the WAL did not take them: they are still open.
    pub(super) async fn write_last(
        &self,
        partitions: &[Arc<Partition>],
    ) -> Result<(Vec<StateRow>, Slot), WalError> {
        let _turn = self.turn.lock().await;
        let rows = self.partitions.settled_rows(partitions);
        let at = self.write(&rows, true).await?.at.slot;
        let tps: Vec<_> = rows.iter().map(|row| row.tp).collect();
        self.partitions.close(&tps);
        Ok((rows, at))
    }

    /// Writes states of partitions that are not open, and gives the slot that holds them.
    ///
    /// # Errors
    /// Why the WAL did not take them.
    pub(super) async fn write_closed(&self, rows: &[StateRow]) -> Result<Slot, WalError> {
        Ok(self.write(rows, true).await?.at.slot)
    }

    /// Puts rows into the stream, and notes where they are. Those of partitions that nobody serves
    /// meanwhile go at once.
    async fn write(&self, rows: &[StateRow], at_once: bool) -> Result<DurableCheckpoint, WalError> {
        let written = match at_once {
            true => self.wal.push_checkpoint_at_once(rows).await?,
            false => self.wal.push_checkpoint(rows).await?,
        };
        self.partitions.on_pages_stored(&written.pages);
        if let Some(object) = written.object {
            let own = self.objects.lock();
            own.unwrap_or_else(PoisonError::into_inner).add(object);
        }
        self.untold().rows.add(RowReport {
            slot: written.at.slot,
            partitions: rows.iter().map(|row| row.tp).collect(),
        });
        Ok(written)
    }

    /// What is to be told: rows that are durable, and the slot below which they hold everything.
    pub(super) fn reports(&self) -> (Vec<RowReport>, Slot) {
        let untold = self.untold();
        (untold.rows.reports(), untold.rows_end)
    }

    /// The coordinator has taken note of these.
    pub(super) fn on_told(&self, told: &[RowReport]) {
        self.untold().rows.remove(told);
    }

    /// Short: no IO and no await under it.
    fn untold(&self) -> MutexGuard<'_, Untold> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use firn_proto::ids::{PartitionIndex, TopicId};

    fn tp(partition: i32) -> TopicPartition {
        TopicPartition {
            topic: TopicId::ZERO,
            partition: PartitionIndex(partition),
        }
    }

    fn row(slot: u64, partitions: &[i32]) -> RowReport {
        RowReport {
            slot: Slot(slot),
            partitions: partitions.iter().map(|partition| tp(*partition)).collect(),
        }
    }

    #[test]
    fn while_nobody_hears_of_rows_only_the_last_of_each_partition_is_kept() {
        let mut rows = UnreportedRows::default();
        for slot in 0..10_000 {
            rows.add(row(slot, &[0, 1]));
        }
        rows.add(row(10_000, &[1]));
        assert_eq!(rows.0.len(), 2);
        assert_eq!(rows.reports(), [row(9_999, &[0]), row(10_000, &[1])]);
    }

    #[test]
    fn a_row_that_came_while_older_ones_were_told_is_told_next() {
        let mut rows = UnreportedRows::default();
        rows.add(row(4, &[0, 1]));
        let told = rows.reports();
        rows.add(row(5, &[1]));
        rows.remove(&told);
        assert_eq!(rows.reports(), [row(5, &[1])]);
        rows.remove(&[row(5, &[1])]);
        assert!(rows.reports().is_empty());
    }
}
