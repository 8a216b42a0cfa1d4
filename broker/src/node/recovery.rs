//! What a start does about its own disk, before anything is served: streams of earlier processes of
//! which the local WAL may hold more than the bucket are sealed and folded, what only the disk has is
//! put again, and the next epochs begin here (I4). Everything else that dead processes left is taken
//! over by the process that holds the coordinator (`recovery/`). What the disk has of partitions that
//! are damaged in the bucket stays on it, and they wait, until a start can say what is missing.
//!
//! Every step may be repeated after a crash: what is done is found in the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use firn_coordinator::Coordinator;
use firn_proto::cluster::{
    AssignmentError, ClusterImage, PartitionEnd, PartitionFold, ProgressReport, RegisteredBroker,
    ReleasePartition, ReleasePartitions, Reply, Request, ResumePartition, ResumePartitions,
    StreamToSeal,
};
use firn_proto::ids::{BrokerId, DiskId, Incarnation, LeaderEpoch, Slot, StreamId, TopicPartition};
use firn_storage::bucket::Bucket;
use firn_storage::state::StateRow;
use firn_storage::stream::StreamEnv;
use firn_storage::wal::local::{EpochEnd, LocalRow, Missing, MissingEpoch, Recovered};
use firn_storage::wal::{Acks, FairKey, Wal};

use super::lost::{report_held_back, report_lost, report_settled};
use super::own_disk::OwnDisk;
use super::parts::{call_again, unexpected, wal_ended};
use super::rows::StateRows;
use super::sink::NodeSink;
use crate::error::FirnError;
use crate::metrics::Metrics;
use crate::recovery::{Beginner, Folded, KnownStates, RecoveryError, fold_each, seal_and_report};

/// How long a start waits until it is known what became of everything that its disk holds something
/// of: longer than any dead process is taken for alive that has said so in its configuration.
const SETTLES_MAX: Duration = Duration::from_secs(60);
/// The pause before it looks again.
const SETTLES_LOOK: Duration = Duration::from_millis(100);

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

/// An epoch of a partition.
pub(super) type Epoch = (TopicPartition, LeaderEpoch);

/// What the disk holds something of.
struct Settled {
    /// Epochs that have ended and have no next one.
    folds: Vec<PartitionFold>,
    /// Says what followed all the others.
    image: Arc<ClusterImage>,
}

/// What has become of all that the disk holds something of.
pub(super) struct TakenUp {
    /// Epochs that were taken up again and ended: nothing may be appended in them any more, though a
    /// picture of before says that they are this process's.
    pub(super) ended: Vec<Epoch>,
    /// Epochs that are damaged in the bucket, of which the disk has what acks=1 acknowledged: nobody
    /// may begin the next ones without it.
    pub(super) unplaced: Vec<Epoch>,
    /// The disk, unless it is damaged: then it cannot say that it held nothing of an epoch.
    pub(super) own: Option<OwnDisk>,
}

/// What was put again, and what was not.
struct PutAgain {
    folded: Vec<Folded>,
    resumed: Vec<Epoch>,
    lost: Vec<LocalRow>,
}

impl Recovery<'_> {
    /// Takes up what `local`, the local disk, may hold more of than the bucket. Epochs that begin here
    /// leave their states in `known`.
    pub(super) async fn run(&self, local: Recovered) -> Result<TakenUp, FirnError> {
        let Settled { folds, image } = self.settled(&local).await?;
        let (folds, held_back) = hold_back(folds, &image, &local);
        report_held_back(&held_back.partitions, local.disk());
        let (folded, damaged) = self.fold(folds).await?;
        let unplaced = rows_of(&damaged, &local);
        let waiting = unplaced.iter().filter(|row| row.entry.acks == Acks::Local);
        let waiting: BTreeSet<_> = waiting.map(epoch_of).collect();
        report_waiting(&waiting);
        let missing = missing(&local, &folded, &image);
        let PutAgain {
            folded,
            resumed,
            lost,
        } = self.put_missing_again(folded, missing, &local).await?;
        report_lost(&lost, &local.quarantine(), self.metrics);
        if damaged.is_empty() {
            report_settled(&local, &self.registered.seals, &lost);
        }
        let beginner = Beginner {
            coordinator: self.coordinator,
            entropy: &self.env.entropy,
            incarnation: self.registered.incarnation,
            known: self.known,
        };
        beginner.begin(folded, Some(self.registered.broker)).await?;
        let rows = local.rows().iter();
        let own = OwnDisk {
            disk: local.disk(),
            held: rows.map(epoch_of).collect(),
        };
        let is_whole = local.damaged().is_empty();
        forget(local, lost, unplaced, held_back.streams).await?;
        Ok(TakenUp {
            ended: resumed,
            own: is_whole.then_some(own),
            unplaced: waiting.into_iter().collect(),
        })
    }

    /// Seals the streams that were written with this disk, and learns what became of all that it
    /// holds something of. The picture may be older than the journal, and the journal may take a
    /// process for alive whose disk this one holds: what neither knows an end of is waited for, since
    /// it could be taken for lost, and so is that process, whose partitions may count on this disk.
    async fn settled(&self, local: &Recovered) -> Result<Settled, FirnError> {
        let rows = local.rows().iter();
        let held: BTreeSet<Epoch> = rows.map(epoch_of).collect();
        let mut streams: BTreeSet<StreamId> = local.rows().iter().map(|row| row.stream).collect();
        let pictures = self.coordinator.image();
        let until = self.env.clock.mono().after(SETTLES_MAX);
        loop {
            // whoever has gone by then left what is pending
            let before = Arc::clone(&pictures.borrow());
            let (seals, mut folds) = self.pending().await?;
            let is_ours = |ended: &StreamToSeal| {
                ended.disk == Some(local.disk()) || streams.contains(&ended.stream)
            };
            let ended: Vec<_> = seals.into_iter().filter(is_ours).collect();
            if !ended.is_empty() {
                streams.extend(ended.iter().map(|ended| ended.stream));
                self.seal_ended(ended).await?;
                continue;
            }
            // those of local topics go on with this disk alone, whatever it holds of them
            let waits = |fold: &PartitionFold| fold.waits_for == Some(local.disk());
            folds.retain(|fold| streams.contains(&fold.stream) || waits(fold));
            let image = Arc::clone(&pictures.borrow());
            let pending: BTreeSet<Epoch> = folds.iter().map(|fold| (fold.tp, fold.epoch)).collect();
            let is_open = |(tp, epoch): &&Epoch| is_open(&image, *tp, *epoch);
            let open = held.difference(&pending).find(is_open);
            let own = self.registered.incarnation;
            let other = other_with(&before, local.disk(), own);
            // a picture of before this process knows nothing of what came after it
            let is_shown = before.broker_of(own).is_some();
            if is_shown && other.is_none() && open.is_none() {
                return Ok(Settled { folds, image });
            }
            if self.env.clock.mono() >= until {
                return Err(unsettled(open, other));
            }
            tokio::time::sleep(SETTLES_LOOK).await;
        }
    }

    async fn pending(&self) -> Result<(Vec<StreamToSeal>, Vec<PartitionFold>), FirnError> {
        match self.ask(Request::PendingRecovery).await? {
            Reply::PendingRecovery { seals, folds } => Ok((seals, folds)),
            _ => Err(unexpected("PendingRecovery")),
        }
    }

    /// Asks what may be asked twice.
    async fn ask(&self, request: Request) -> Result<Reply, FirnError> {
        call_again(self.coordinator, &self.env.entropy, request).await
    }

    async fn seal_ended(&self, ended: Vec<StreamToSeal>) -> Result<(), RecoveryError> {
        let cluster = self.registered.cluster;
        for ended in ended {
            seal_and_report(self.bucket, self.coordinator, cluster, ended, self.env).await?;
        }
        Ok(())
    }

    /// Learns where partitions ended, and which of them are damaged in the bucket: where those
    /// ended is not known.
    async fn fold(
        &self,
        folds: Vec<PartitionFold>,
    ) -> Result<(Vec<Folded>, BTreeSet<Epoch>), FirnError> {
        if folds.is_empty() {
            return Ok((Vec::new(), BTreeSet::new()));
        }
        let partitions = folds.len();
        tracing::info!(partitions, "folding partitions of the local wal");
        let epochs: BTreeMap<_, _> = folds.iter().map(|fold| (fold.tp, fold.epoch)).collect();
        let now_ms = self.env.clock.wall_ms();
        let folds = fold_each(self.bucket, self.registered.cluster, folds, now_ms).await;
        let (folded, damaged) = folds.map_err(RecoveryError::from)?.ended();
        let damaged = damaged.into_iter().filter_map(|(tp, error)| {
            tracing::error!(
                partition = %tp, %error,
                "a partition cannot be served; what the local wal holds of it stays there"
            );
            Some((tp, *epochs.get(&tp)?))
        });
        Ok((folded, damaged.collect()))
    }

    /// Puts what only the local disk has into this process's stream, with the same offsets, epoch
    /// and bytes: a second window of the epoch (RESUME). The folds of those partitions then end
    /// behind it. What had been acknowledged and cannot be put comes back beside them.
    async fn put_missing_again(
        &self,
        mut folded: Vec<Folded>,
        mut missing: Missing,
        local: &Recovered,
    ) -> Result<PutAgain, FirnError> {
        let put_again = std::mem::take(&mut missing.put_again);
        let epochs = self.resume(&mut folded, put_again, &mut missing).await?;
        let lost = missing.lost_acknowledged(|_| false);
        let resumed = epochs.iter().map(|epoch| (epoch.tp, epoch.epoch)).collect();
        if !epochs.is_empty() {
            let entries: usize = epochs.iter().map(|epoch| epoch.entries.len()).sum();
            tracing::info!(
                entries,
                partitions = epochs.len(),
                "putting again what only the local disk has"
            );
            for epoch in &epochs {
                self.put_again(epoch, local).await?;
            }
            self.wal.flush().await;
            let rows = self.sink.take_resumed();
            for (row, epoch) in rows.iter().zip(&epochs) {
                if row.end_offset != epoch.end {
                    let ended = self.wal.failed().await;
                    return Err(wal_ended(&ended));
                }
            }
            folded.extend(self.release(rows).await?);
        }
        Ok(PutAgain {
            folded,
            resumed,
            lost,
        })
    }

    /// Asks for a second window of the epochs that miss something. Those that get it leave
    /// `folded`; their rows follow the WAL from now on. Of the others everything is lost, unless
    /// their topic is deleted.
    async fn resume(
        &self,
        folded: &mut Vec<Folded>,
        epochs: Vec<MissingEpoch>,
        missing: &mut Missing,
    ) -> Result<Vec<MissingEpoch>, FirnError> {
        if epochs.is_empty() {
            return Ok(epochs);
        }
        self.tell_of_disk().await?;
        let mut by_tp: BTreeMap<_, _> = epochs.into_iter().map(|epoch| (epoch.tp, epoch)).collect();
        let ends = folded.iter().map(|folded| folded.end);
        let asked: Vec<PartitionEnd> = ends.filter(|end| by_tp.contains_key(&end.tp)).collect();
        let resumed = asked.iter().map(|end| ResumePartition { end: *end });
        let request = Request::ResumePartitions(ResumePartitions {
            incarnation: self.registered.incarnation,
            resumed: resumed.collect(),
        });
        let Reply::Assigned(results) = self.ask(request).await? else {
            return Err(unexpected("ResumePartitions"));
        };
        for (end, result) in asked.iter().zip(results) {
            let Err(error) = result else { continue };
            if error == AssignmentError::NoBroker {
                return Err(taken_for_dead());
            }
            let refused = by_tp.remove(&end.tp).into_iter();
            if error != AssignmentError::Unknown {
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

    /// Until the epochs are released the disk alone has what is put again: it is to be waited for
    /// should this process die as the one before did.
    async fn tell_of_disk(&self) -> Result<(), FirnError> {
        let told = self.ask(Request::ReportProgress(ProgressReport {
            incarnation: self.registered.incarnation,
            stream: self.registered.stream,
            durable_end: Slot(0),
            rows: Vec::new(),
            rows_end: Slot(0),
            holds_local: true,
        }));
        match told.await? {
            Reply::Stream(Ok(())) => Ok(()),
            Reply::Stream(Err(_)) => Err(taken_for_dead()),
            _ => Err(unexpected("ReportProgress")),
        }
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
        let released = ends.iter().map(|end| ReleasePartition {
            end: *end,
            row: Some(at),
        });
        let request = Request::ReleasePartitions(ReleasePartitions {
            incarnation: self.registered.incarnation,
            released: released.collect(),
        });
        let Reply::Released(results) = self.ask(request).await? else {
            return Err(unexpected("ReleasePartitions"));
        };
        let mut folded = Vec::with_capacity(rows.len());
        for ((row, end), result) in rows.into_iter().zip(ends).zip(results) {
            match result {
                // not current: said before, and the answer was lost
                Ok(()) | Err(AssignmentError::NotCurrent) => folded.push(Folded { row, end }),
                // deleted
                Err(AssignmentError::Unknown) => {}
                Err(error) => {
                    let what = format!("cannot end an epoch of {}", row.tp);
                    return Err(FirnError::failed(what, error));
                }
            }
        }
        Ok(folded)
    }
}

/// The epoch that an entry was appended in.
fn epoch_of(row: &LocalRow) -> Epoch {
    (row.entry.tp, row.entry.epoch)
}

/// What the disk holds of these epochs.
fn rows_of(epochs: &BTreeSet<Epoch>, local: &Recovered) -> Vec<LocalRow> {
    let rows = local.rows().iter();
    let rows = rows.filter(|row| epochs.contains(&epoch_of(row)));
    rows.cloned().collect()
}

/// Says what is to be done about epochs that cannot go on without this disk.
fn report_waiting(epochs: &BTreeSet<Epoch>) {
    for (tp, epoch) in epochs {
        tracing::error!(
            partition = %tp, %epoch,
            "the local wal holds records of a partition that acks=1 acknowledged, and what the bucket \
             has of it is damaged: nobody goes on with it while this process lives. Once the bucket \
             is whole, start this broker again with this directory, which puts there what is \
             missing; with another directory the partition goes on without, or waits for this one if \
             it is of a topic with firn.durability=local"
        );
    }
}

/// What is not begun here, though it waits for this disk.
#[derive(Default)]
struct HeldBack {
    partitions: Vec<TopicPartition>,
    /// The streams of their last epochs, whose segments stay on the disk.
    streams: BTreeSet<StreamId>,
}

/// Sets those aside that wait for this disk, which may have lost a part of them: what is left does
/// not say where they end. They wait on, for an operator to give that up.
fn hold_back(
    folds: Vec<PartitionFold>,
    image: &ClusterImage,
    local: &Recovered,
) -> (Vec<PartitionFold>, HeldBack) {
    let mut held_back = HeldBack::default();
    if local.damaged().is_empty() {
        return (folds, held_back);
    }
    let mut lacks = BTreeMap::new();
    let mut may_lack = |stream| {
        *lacks
            .entry(stream)
            .or_insert_with(|| local.may_lack(stream))
    };
    let whole = folds.into_iter().filter(|fold| {
        let streams = streams_of(image, fold);
        let is_held =
            fold.waits_for == Some(local.disk()) && streams.iter().any(|stream| may_lack(*stream));
        if is_held {
            held_back.partitions.push(fold.tp);
            held_back.streams.extend(streams);
        }
        !is_held
    });
    let whole = whole.collect();
    (whole, held_back)
}

/// The streams that hold records of the epoch that is folded: several if it was taken up again.
fn streams_of(image: &ClusterImage, fold: &PartitionFold) -> BTreeSet<StreamId> {
    let topic = image.topic(fold.tp.topic);
    let partition = topic.and_then(|topic| topic.partition(fold.tp.partition));
    let windows = partition.map_or(&[][..], |partition| &partition.windows);
    let of_epoch = windows.iter().filter(|window| window.epoch == fold.epoch);
    let streams = of_epoch.map(|window| window.stream);
    streams.chain([fold.stream]).collect()
}

/// What the bucket lacks of the local WAL: an epoch that is folded may go on, one that the journal
/// knows a next one of may not. Nothing is owed of others: their topics are deleted, or it is not
/// known where they ended.
fn missing(local: &Recovered, folded: &[Folded], image: &ClusterImage) -> Missing {
    let ends: BTreeMap<Epoch, i64> = folded
        .iter()
        .map(|folded| ((folded.end.tp, folded.end.epoch), folded.end.end_offset))
        .collect();
    Missing::of(local.rows(), |_, tp, epoch| match ends.get(&(tp, epoch)) {
        Some(end) => Some(EpochEnd::Folded(*end)),
        None => over_at(image, tp, epoch).map(EpochEnd::Over),
    })
}

/// Where the epoch began that followed this one, if one did.
fn over_at(image: &ClusterImage, tp: TopicPartition, epoch: LeaderEpoch) -> Option<i64> {
    let partition = image.topic(tp.topic)?.partition(tp.partition)?;
    let next = partition.epochs.iter().find(|next| next.epoch > epoch)?;
    Some(next.start_offset)
}

/// Whether no epoch has followed this one of a topic that is there.
fn is_open(image: &ClusterImage, tp: TopicPartition, epoch: LeaderEpoch) -> bool {
    image.topic(tp.topic).is_some() && over_at(image, tp, epoch).is_none()
}

/// Why a start ends that the cluster did not wait for.
fn taken_for_dead() -> FirnError {
    FirnError::Fenced(
        "the cluster has taken this process for dead while it took up its local wal, of which \
         nothing is removed"
            .to_owned(),
    )
}

/// The live process besides `own` that shows the disk, though `own` holds it: it is gone, and not known
/// to be, or has a copy.
fn other_with(image: &ClusterImage, disk: DiskId, own: Incarnation) -> Option<BrokerId> {
    let mut brokers = image.brokers.values();
    let other = brokers.find(|broker| broker.disk == Some(disk) && broker.incarnation != own);
    other.map(|other| other.broker)
}

/// Why a start has given up waiting: for this epoch, for another process that shows the disk, or for
/// the picture of the cluster.
fn unsettled(open: Option<&Epoch>, other: Option<BrokerId>) -> FirnError {
    let what = "the local wal cannot be taken up";
    let waited = SETTLES_MAX.as_secs();
    let copied = "if a broker runs on a copy of this directory, give this one a directory of its own, \
                  else start it again";
    match (open, other) {
        (Some((tp, epoch)), _) => FirnError::failed(
            what,
            format!(
                "it holds records of epoch {epoch} of {tp}, whose owner has been taken for alive \
                 for {waited} s: {copied}"
            ),
        ),
        (None, Some(broker)) => FirnError::failed(
            what,
            format!(
                "broker {broker} showed it, and has been taken for alive for {waited} s: {copied}"
            ),
        ),
        (None, None) => FirnError::failed(
            what,
            format!("the cluster has not said for {waited} s who belongs to it: start again"),
        ),
    }
}

/// Empties the local directory of what is in the bucket now. What is lost is kept aside; what is
/// unplaced, and what is of the streams `held_back`, stays.
async fn forget(
    local: Recovered,
    lost: Vec<LocalRow>,
    unplaced: Vec<LocalRow>,
    held_back: BTreeSet<StreamId>,
) -> Result<(), FirnError> {
    let what = "cannot clean the local wal";
    let forget = move || local.forget(&lost, &unplaced, &held_back);
    match tokio::task::spawn_blocking(forget).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(FirnError::disk(what, error)),
        Err(error) => Err(FirnError::failed(what, error)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use firn_proto::cluster::{EpochStart, PartitionImage, TopicImage};
    use firn_proto::ids::{PartitionIndex, TopicId};

    use super::*;

    const TP: TopicPartition = TopicPartition {
        topic: TopicId([1; 16]),
        partition: PartitionIndex(0),
    };

    fn image(epochs: &[(i32, i64)]) -> ClusterImage {
        let epochs = epochs.iter().map(|(epoch, start_offset)| EpochStart {
            epoch: LeaderEpoch(*epoch),
            start_offset: *start_offset,
        });
        let partition = PartitionImage {
            epoch: LeaderEpoch(3),
            owner: None,
            moving_to: None,
            preferred: BrokerId(1),
            epochs: epochs.collect(),
            windows: Vec::new(),
            counts_locally: false,
        };
        let topic = TopicImage {
            id: TP.topic,
            name: "t".into(),
            created_ms: 0,
            replication_factor: 1,
            configs: BTreeMap::new(),
            partitions: vec![partition],
        };
        ClusterImage {
            topics: Arc::new([(TP.topic, Arc::new(topic))].into()),
            ..ClusterImage::default()
        }
    }

    /// An epoch that has no next one in an older picture is not over at offset 0: all that the disk
    /// holds of it would be reported as lost.
    #[test]
    fn an_epoch_is_over_only_where_the_next_one_is_known() {
        let epoch = LeaderEpoch;
        let picture = image(&[(0, 0), (3, 40)]);
        assert_eq!(over_at(&picture, TP, epoch(0)), Some(40));
        assert_eq!(over_at(&picture, TP, epoch(1)), Some(40));
        assert_eq!(over_at(&picture, TP, epoch(3)), None);
        assert!(!is_open(&picture, TP, epoch(0)) && is_open(&picture, TP, epoch(3)));
        let deleted = ClusterImage::default();
        assert!(!is_open(&deleted, TP, epoch(3)));
        assert_eq!(over_at(&deleted, TP, epoch(3)), None);
    }
}
