//! What a start does about earlier processes of this broker, before anything is served: their
//! streams are sealed, their partitions folded, what only the local disk has is put again, and the
//! next epochs begin (I4).
//!
//! Every step may be repeated after a crash: what is done is found in the journal.

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_coordinator::Coordinator;
use firn_proto::cluster::{
    AssignPartitions, Assigned, AssignmentError, PartitionEnd, PartitionFold, PartitionImage,
    RegisteredBroker, ReleasePartition, ReleasePartitions, Reply, Request, ResumePartition,
    ResumePartitions, RowReport, SealStream, StreamToSeal,
};
use firn_proto::ids::{LeaderEpoch, Slot};
use firn_storage::bucket::Bucket;
use firn_storage::fold::fold;
use firn_storage::state::StateRow;
use firn_storage::stream::{SealSpec, StreamEnv, StreamName, seal};
use firn_storage::wal::local::{EpochEnd, LocalRow, Missing, MissingEpoch, Recovered};
use firn_storage::wal::{FairKey, Wal};
use futures::{StreamExt, TryStreamExt};

use super::lost::{report_absent_disks, report_lost, report_settled};
use super::parts::{call, unexpected, wal_ended};
use super::sink::NodeSink;
use crate::error::FirnError;
use crate::metrics::Metrics;

/// What recovery works with.
pub(super) struct Recovery<'a> {
    pub(super) bucket: &'a Bucket,
    pub(super) coordinator: &'a Coordinator,
    pub(super) registered: &'a RegisteredBroker,
    pub(super) env: &'a StreamEnv,
    pub(super) wal: &'a Wal,
    pub(super) sink: &'a NodeSink,
    pub(super) metrics: &'a Metrics,
}

/// A partition whose last epoch has ended.
struct Folded {
    /// The state at its end.
    row: StateRow,
    /// What ends, by name.
    end: PartitionEnd,
}

impl Folded {
    /// The epoch of `fold` ended with `row`. One that a process released before it died ended where
    /// that said, and nowhere else.
    fn of(fold: &PartitionFold, row: StateRow) -> Result<Self, FirnError> {
        let PartitionFold {
            tp, epoch, stream, ..
        } = *fold;
        let end_offset = row.end_offset;
        if let Some(released) = fold.released_end.filter(|end| *end != end_offset) {
            let reason = format!(
                "epoch {epoch} of {tp} was released at offset {released}, and its records end at {end_offset}"
            );
            return Err(FirnError::failed(CONTRADICTION, reason));
        }
        let end = PartitionEnd {
            tp,
            epoch,
            stream,
            end_offset,
        };
        Ok(Self { row, end })
    }
}

/// What this broker owns after a start, to be opened.
#[derive(Default)]
pub(super) struct TakenUp {
    /// The states with which the new epochs begin. They lie in this process's stream.
    pub(super) rows: Vec<StateRow>,
    /// Where they lie, to be reported.
    pub(super) reports: Vec<RowReport>,
}

impl Recovery<'_> {
    /// Takes up everything that earlier processes left. `local` is what the local disk holds.
    pub(super) async fn run(&self, local: Option<Recovered>) -> Result<TakenUp, FirnError> {
        let disk = local.as_ref().map(Recovered::disk);
        report_absent_disks(&self.registered.seals, disk);
        self.seal_ended().await?;
        let mut folded = self.fold_ended().await?;
        let mut lost = Vec::new();
        if let Some(local) = &local {
            (folded, lost) = self.put_missing_again(folded, local).await?;
            report_lost(&lost, &local.quarantine(), self.metrics);
            report_settled(local, &self.registered.seals, &lost);
        }
        let taken_up = self.begin_epochs(folded).await?;
        if let Some(local) = local {
            forget(local, lost).await?;
        }
        Ok(taken_up)
    }

    /// Seals the streams of processes that have ended and tells the journal where they end.
    async fn seal_ended(&self) -> Result<(), FirnError> {
        futures::stream::iter(&self.registered.seals)
            .map(|ended| self.seal_one(ended))
            .buffer_unordered(SEALS_AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(())
    }

    async fn seal_one(&self, ended: &StreamToSeal) -> Result<(), FirnError> {
        let stream = StreamName::wal(self.registered.cluster, ended.stream);
        let spec = SealSpec {
            stream,
            floor: ended.floor,
            from: ended.durable_end.max(ended.floor),
        };
        let sealed = seal(self.bucket, spec, self.env)
            .await
            .map_err(|e| FirnError::failed("cannot take over from the last process", e))?;
        tracing::info!(%stream, end = sealed.end.0, "the stream of an ended process is sealed");
        self.report_sealed(ended, sealed.end).await
    }

    async fn report_sealed(&self, ended: &StreamToSeal, end: Slot) -> Result<(), FirnError> {
        let stream = ended.stream;
        let sealed = Request::StreamSealed(SealStream { stream, end });
        match call(self.coordinator, sealed).await? {
            Reply::Stream(Ok(())) => Ok(()),
            Reply::Stream(Err(error)) => Err(FirnError::failed(CONTRADICTION, error)),
            _ => Err(unexpected("StreamSealed")),
        }
    }

    /// Learns where every partition of a sealed stream ended.
    async fn fold_ended(&self) -> Result<Vec<Folded>, FirnError> {
        let Reply::PendingRecovery { folds, .. } =
            call(self.coordinator, Request::PendingRecovery).await?
        else {
            return Err(unexpected("PendingRecovery"));
        };
        if folds.is_empty() {
            return Ok(Vec::new());
        }
        tracing::info!(
            partitions = folds.len(),
            "folding partitions of ended processes"
        );
        let rows = fold(
            self.bucket,
            self.registered.cluster,
            &folds,
            self.env.clock.wall_ms(),
        )
        .await
        .map_err(|e| FirnError::failed("cannot learn where partitions ended", e))?;
        folds
            .iter()
            .zip(rows)
            .map(|(fold, row)| Folded::of(fold, row))
            .collect()
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
        let at = self.checkpoint(&rows).await?;
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

    /// Begins the next epochs with this broker as owner, and writes their state rows into its
    /// stream, in front of any append. Partitions that have gone meanwhile are left out.
    async fn begin_epochs(&self, folded: Vec<Folded>) -> Result<TakenUp, FirnError> {
        let mut taken_up = TakenUp::default();
        for some in chunks(folded) {
            let request = Request::AssignPartitions(AssignPartitions {
                ended: some.iter().map(|folded| folded.end).collect(),
                to: Some(self.registered.broker),
            });
            let Reply::Assigned(results) = call(self.coordinator, request).await? else {
                return Err(unexpected("AssignPartitions"));
            };
            for (folded, result) in some.into_iter().zip(results) {
                match result {
                    Ok(assigned) => {
                        taken_up
                            .rows
                            .push(begun(folded.row, &assigned, self.registered)?);
                    }
                    // deleted while this start was under way
                    Err(error @ AssignmentError::Unknown) => {
                        tracing::info!(partition = %folded.end.tp, %error, "partition not taken up");
                    }
                    // a start that went on would leave it without an owner
                    Err(error) => {
                        let what = format!("cannot begin the next epoch of {}", folded.end.tp);
                        return Err(FirnError::failed(what, error));
                    }
                }
            }
        }
        if !taken_up.rows.is_empty() {
            let slot = self.checkpoint(&taken_up.rows).await?;
            let partitions = taken_up.rows.iter().map(|row| row.tp).collect();
            taken_up.reports.push(RowReport { slot, partitions });
        }
        Ok(taken_up)
    }

    async fn checkpoint(&self, rows: &[StateRow]) -> Result<Slot, FirnError> {
        let pushed = self.wal.push_checkpoint(rows).await;
        Ok(pushed.map_err(|e| wal_ended(&e))?.at.slot)
    }
}

/// The state with which the next epoch begins, if it is this process's: one that was started with
/// the same broker id meanwhile has taken its place.
fn begun(
    mut row: StateRow,
    assigned: &Assigned,
    registered: &RegisteredBroker,
) -> Result<StateRow, FirnError> {
    if (assigned.owner, assigned.stream) != (registered.incarnation, registered.stream) {
        return Err(FirnError::Fenced(format!(
            "epoch {} of {} went to incarnation {} of broker {}, and this is incarnation {}",
            assigned.epoch,
            assigned.tp,
            assigned.owner.0,
            registered.broker.0,
            registered.incarnation.0
        )));
    }
    assert_eq!(
        row.end_offset, assigned.start_offset,
        "I4: epoch {} of {} must begin where the last one ended",
        assigned.epoch, assigned.tp
    );
    row.begin_epoch(assigned.epoch);
    Ok(row)
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

/// Cuts a list into requests that the journal can take one at a time.
fn chunks<T>(list: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let mut rest = list.into_iter();
    std::iter::from_fn(move || {
        let chunk: Vec<T> = rest.by_ref().take(PARTITIONS_PER_REQUEST).collect();
        (!chunk.is_empty()).then_some(chunk)
    })
}

const CONTRADICTION: &str = "the journal contradicts the bucket";
/// Streams that are sealed at the same time.
const SEALS_AT_ONCE: usize = 8;
/// Partitions that one request names.
const PARTITIONS_PER_REQUEST: usize = 2_000;

#[cfg(test)]
mod tests {
    use firn_proto::ids::{
        BrokerId, ClusterId, Incarnation, LeaderEpoch, PartitionIndex, StreamId, TopicId,
        TopicPartition,
    };

    use super::*;

    #[test]
    fn an_epoch_that_went_to_another_process_is_not_begun() {
        let tp = TopicPartition {
            topic: TopicId([1; 16]),
            partition: PartitionIndex(0),
        };
        let registered = RegisteredBroker {
            cluster: ClusterId::ZERO,
            broker: BrokerId(1),
            incarnation: Incarnation(4),
            stream: StreamId(9),
            seals: Vec::new(),
        };
        let ours = Assigned {
            tp,
            epoch: LeaderEpoch(3),
            owner: Incarnation(4),
            stream: StreamId(9),
            start_offset: 0,
        };
        let row = || StateRow::new(tp, LeaderEpoch(2));
        let begun_here = begun(row(), &ours, &registered).unwrap();
        assert_eq!(begun_here.epoch, LeaderEpoch(3));
        let owner = Incarnation(5);
        let stream = StreamId(10);
        for theirs in [Assigned { owner, ..ours }, Assigned { stream, ..ours }] {
            let refused = begun(row(), &theirs, &registered);
            assert!(matches!(refused, Err(FirnError::Fenced(_))), "{theirs:?}");
        }
    }
}
