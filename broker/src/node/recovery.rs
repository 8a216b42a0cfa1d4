//! What a start does about its own disk, before anything is served: streams of earlier processes of
//! which the local WAL may hold more than the bucket are sealed and folded, what only the disk has is
//! put again, and the next epochs begin here (I4). Everything else that dead processes left is taken
//! over by the process that holds the coordinator (`recovery/`).
//!
//! Every step may be repeated after a crash: what is done is found in the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_coordinator::Coordinator;
use firn_proto::cluster::{
    PartitionEnd, PartitionFold, PartitionImage, RegisteredBroker, ReleasePartition,
    ReleasePartitions, Reply, Request, ResumePartition, ResumePartitions, StreamToSeal,
};
use firn_proto::ids::{DiskId, LeaderEpoch, StreamId};
use firn_storage::bucket::Bucket;
use firn_storage::fold::fold;
use firn_storage::state::StateRow;
use firn_storage::stream::StreamEnv;
use firn_storage::wal::local::{EpochEnd, LocalRow, Missing, MissingEpoch, Recovered};
use firn_storage::wal::{FairKey, Wal};

use super::lost::{report_lost, report_settled};
use super::parts::{call, call_again, unexpected, wal_ended};
use super::rows::StateRows;
use super::sink::NodeSink;
use crate::error::FirnError;
use crate::metrics::Metrics;
use crate::recovery::{Beginner, Folded, KnownStates, RecoveryError, seal_and_report};

/// What recovery works with.
pub(super) struct Recovery<'a> {
    pub(super) bucket: &'a Bucket,
    pub(super) coordinator: &'a Coordinator,
    pub(super) registered: &'a RegisteredBroker,
    pub(super) env: &'a StreamEnv,
    pub(super) wal: &'a Wal,
    pub(super) sink: &'a NodeSink,
    pub(super) rows: &'a StateRows,
    pub(super) known: &'a KnownStates,
    pub(super) metrics: &'a Metrics,
}

impl Recovery<'_> {
    /// Takes up what `local`, the local disk, may hold more of than the bucket. Epochs that begin here
    /// leave their states in `known`.
    pub(super) async fn run(&self, local: Recovered) -> Result<(), FirnError> {
        let (ended, streams) = self.of_disk(&local);
        self.seal_ended(ended).await?;
        let folded = self.fold_ended(&streams, local.disk()).await?;
        let (folded, lost) = self.put_missing_again(folded, &local).await?;
        report_lost(&lost, &local.quarantine(), self.metrics);
        report_settled(&local, &self.registered.seals, &lost);
        let beginner = Beginner {
            coordinator: self.coordinator,
            incarnation: self.registered.incarnation,
            known: self.known,
        };
        beginner.begin(folded, Some(self.registered.broker)).await?;
        forget(local, lost).await
    }

    /// The streams that wait for their seal and were written with this disk, and all of which it
    /// holds something.
    fn of_disk(&self, local: &Recovered) -> (Vec<StreamToSeal>, BTreeSet<StreamId>) {
        let seals = self.registered.seals.iter();
        let of_disk = seals.filter(|ended| ended.disk == Some(local.disk()));
        let ended: Vec<_> = of_disk.copied().collect();
        let held = local.rows().iter().map(|row| row.stream);
        let streams = ended.iter().map(|ended| ended.stream).chain(held).collect();
        (ended, streams)
    }

    async fn seal_ended(&self, ended: Vec<StreamToSeal>) -> Result<(), RecoveryError> {
        let cluster = self.registered.cluster;
        for ended in ended {
            seal_and_report(self.bucket, self.coordinator, cluster, ended, self.env).await?;
        }
        Ok(())
    }

    /// Learns where the partitions of these streams ended.
    async fn fold_ended(
        &self,
        streams: &BTreeSet<StreamId>,
        disk: DiskId,
    ) -> Result<Vec<Folded>, FirnError> {
        let Reply::PendingRecovery { mut folds, .. } = call_again(
            self.coordinator,
            &self.env.entropy,
            Request::PendingRecovery,
        )
        .await?
        else {
            return Err(unexpected("PendingRecovery"));
        };
        // those of local topics go on with this disk alone, whatever it holds of them
        let waits = |fold: &PartitionFold| fold.waits_for == Some(disk);
        folds.retain(|fold| streams.contains(&fold.stream) || waits(fold));
        if folds.is_empty() {
            return Ok(Vec::new());
        }
        tracing::info!(
            partitions = folds.len(),
            "folding partitions of the local wal"
        );
        let now_ms = self.env.clock.wall_ms();
        let rows = fold(self.bucket, self.registered.cluster, &folds, now_ms);
        let rows = rows.await.map_err(RecoveryError::from)?;
        let folded = folds.iter().zip(rows);
        let folded = folded.map(|(fold, row)| Folded::of(fold, row));
        Ok(folded.collect::<Result<_, _>>()?)
    }

    /// Puts what only the local disk has into this process's stream, with the same offsets, epoch
    /// and bytes: a second window of the epoch (RESUME). The folds of those partitions then end
    /// behind it. What had been acknowledged and cannot be put comes back beside them.
    async fn put_missing_again(
        &self,
        mut folded: Vec<Folded>,
        local: &Recovered,
    ) -> Result<(Vec<Folded>, Vec<LocalRow>), FirnError> {
        let mut missing = self.missing(&folded, local);
        let put_again = std::mem::take(&mut missing.put_again);
        let resumed = self.resume(&mut folded, put_again, &mut missing).await?;
        let lost = missing.lost_acknowledged(|_| false);
        if resumed.is_empty() {
            return Ok((folded, lost));
        }
        let entries: usize = resumed.iter().map(|epoch| epoch.entries.len()).sum();
        tracing::info!(
            entries,
            partitions = resumed.len(),
            "putting again what only the local disk has"
        );
        for epoch in &resumed {
            self.put_again(epoch, local).await?;
        }
        self.wal.flush().await;
        let rows = self.sink.take_resumed();
        for (row, epoch) in rows.iter().zip(&resumed) {
            if row.end_offset != epoch.end {
                let ended = self.wal.failed().await;
                return Err(wal_ended(&ended));
            }
        }
        folded.extend(self.release(rows).await?);
        Ok((folded, lost))
    }

    /// What the bucket lacks of the local WAL: an epoch that is folded may go on, one that the
    /// journal knows a next one of may not.
    fn missing(&self, folded: &[Folded], local: &Recovered) -> Missing {
        let image = Arc::clone(&self.coordinator.image().borrow());
        let ends: BTreeMap<_, _> = folded
            .iter()
            .map(|folded| ((folded.end.tp, folded.end.epoch), folded.end.end_offset))
            .collect();
        Missing::of(local.rows(), |_, tp, epoch| {
            match ends.get(&(tp, epoch)) {
                Some(end) => Some(EpochEnd::Folded(*end)),
                // None: deleted by those who own it
                None => over_at(image.topic(tp.topic)?.partition(tp.partition)?, epoch),
            }
        })
    }

    /// Asks for a second window of the epochs that miss something. Those that get it leave
    /// `folded`; their rows follow the WAL from now on. Of the others everything is lost.
    async fn resume(
        &self,
        folded: &mut Vec<Folded>,
        epochs: Vec<MissingEpoch>,
        missing: &mut Missing,
    ) -> Result<Vec<MissingEpoch>, FirnError> {
        if epochs.is_empty() {
            return Ok(epochs);
        }
        let mut by_tp: BTreeMap<_, _> = epochs.into_iter().map(|epoch| (epoch.tp, epoch)).collect();
        let asked: Vec<PartitionEnd> = folded
            .iter()
            .map(|folded| folded.end)
            .filter(|end| by_tp.contains_key(&end.tp))
            .collect();
        let request = Request::ResumePartitions(ResumePartitions {
            incarnation: self.registered.incarnation,
            resumed: asked
                .iter()
                .map(|end| ResumePartition { end: *end })
                .collect(),
        });
        let Reply::Assigned(results) = call(self.coordinator, request).await? else {
            return Err(unexpected("ResumePartitions"));
        };
        for (end, result) in asked.iter().zip(results) {
            if let Err(error) = result {
                let refused = by_tp.remove(&end.tp).into_iter();
                tracing::warn!(partition = %end.tp, %error, "an epoch cannot be resumed");
                missing.lost.extend(refused.flat_map(|epoch| epoch.entries));
            }
        }
        let (resumed, rest): (Vec<_>, Vec<_>) = std::mem::take(folded)
            .into_iter()
            .partition(|folded| by_tp.contains_key(&folded.row.tp));
        *folded = rest;
        self.sink
            .resume(resumed.into_iter().map(|folded| folded.row));
        Ok(by_tp.into_values().collect())
    }

    async fn put_again(&self, epoch: &MissingEpoch, local: &Recovered) -> Result<(), FirnError> {
        for row in &epoch.entries {
            let entry = local
                .read(row)
                .map_err(|e| FirnError::disk("cannot read the local wal", e))?;
            let permit = self.wal.reserve(entry.records.len(), FairKey(0)).await;
            let pushed = permit.and_then(|permit| self.wal.push(entry, permit));
            pushed.map_err(|e| wal_ended(&e))?;
        }
        Ok(())
    }

    /// Ends the epochs that were resumed: nothing more is appended in them (I4, RELEASE).
    async fn release(&self, rows: Vec<StateRow>) -> Result<Vec<Folded>, FirnError> {
        let at = self.rows.write_closed(&rows).await;
        let at = at.map_err(|e| wal_ended(&e))?;
        let ends: Vec<PartitionEnd> = rows
            .iter()
            .map(|row| PartitionEnd {
                tp: row.tp,
                epoch: row.epoch,
                stream: self.registered.stream,
                end_offset: row.end_offset,
            })
            .collect();
        let request = Request::ReleasePartitions(ReleasePartitions {
            incarnation: self.registered.incarnation,
            released: ends
                .iter()
                .map(|end| ReleasePartition {
                    end: *end,
                    row: Some(at),
                })
                .collect(),
        });
        let Reply::Released(results) = call(self.coordinator, request).await? else {
            return Err(unexpected("ReleasePartitions"));
        };
        let mut folded = Vec::with_capacity(rows.len());
        for ((row, end), result) in rows.into_iter().zip(ends).zip(results) {
            result
                .map_err(|e| FirnError::failed(format!("cannot end an epoch of {}", row.tp), e))?;
            folded.push(Folded { row, end });
        }
        Ok(folded)
    }
}

/// Where an epoch ended that another one followed. Of one that the journal knows no end of,
/// nothing is known to be in the bucket.
fn over_at(partition: &PartitionImage, epoch: LeaderEpoch) -> Option<EpochEnd> {
    let next = partition.epochs.iter().find(|next| next.epoch > epoch);
    Some(EpochEnd::Over(next.map_or(0, |next| next.start_offset)))
}

/// Empties the local directory of what is in the bucket now. What is lost is kept aside.
async fn forget(local: Recovered, lost: Vec<LocalRow>) -> Result<(), FirnError> {
    let what = "cannot clean the local wal";
    match tokio::task::spawn_blocking(move || local.forget(&lost)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(FirnError::disk(what, error)),
        Err(error) => Err(FirnError::failed(what, error)),
    }
}
