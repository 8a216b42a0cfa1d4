//! The fold: from their last state rows and the indexes of the slots behind them to where
//! partitions ended (I4, I6, I8).
//!
//! The machine is pure: [`Fold`] says which slots it needs and takes their indexes, each one once
//! for all partitions. [`fold`] reads them, many at a time.
//!
//! May not touch: who owns what, which streams are sealed: the coordinator's journal says what to
//! fold.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use firn_proto::cluster::{FoldRange, PartitionFold};
use firn_proto::ids::{ClusterId, LeaderEpoch, Slot, SlotPosition, StreamId, TopicPartition};
use futures::{StreamExt, TryStreamExt};

use crate::bucket::Bucket;
use crate::checkpoint::{self, CheckpointReadError};
use crate::state::{ProducerBatch, Run, StateError, StateRow, StoredRow};
use crate::stream::slot::SlotFault;
use crate::stream::{ReadError, StreamName, WalIndex, read_indexes};

/// GETs of one fold in flight at a time.
const GETS_MAX: usize = 32;

/// Why a fold has no result. Everything but an unreachable bucket is corruption: something that
/// was durable is gone or changed, and no partition may be served from it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FoldError {
    /// A state row cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointReadError),
    /// The slot that the journal names for a partition has no state row of it.
    #[error("slot {at} holds no state row of {tp}, though the journal names it")]
    RowAbsent {
        /// The partition.
        tp: TopicPartition,
        /// The slot.
        at: SlotPosition,
    },
    /// A slot cannot be read.
    #[error("cannot fold: {0}")]
    Read(#[from] ReadError),
    /// The index of a slot is not one.
    #[error("the index of slot {at} is corrupt: {fault}")]
    Index {
        /// The slot.
        at: SlotPosition,
        /// What is wrong.
        fault: SlotFault,
    },
    /// Records that the journal says were archived or deleted lie behind the end of the log.
    #[error(
        "the log of {tp} ends at offset {end}, though the journal says that everything below {bound} was archived or deleted: slots of it are lost"
    )]
    Short {
        /// The partition.
        tp: TopicPartition,
        /// Where the slots end.
        end: i64,
        /// The larger of where it is archived to and its log start.
        bound: i64,
    },
    /// The runs of a partition do not follow each other.
    #[error("the log has a gap or an overlap: {0}")]
    NotContiguous(#[from] StateError),
}

impl FoldError {
    /// Whether the bucket did not serve what is needed: trying again may help, and nothing is known
    /// to be damaged.
    pub fn is_of_bucket(&self) -> bool {
        matches!(
            self,
            Self::Read(ReadError::Bucket(_))
                | Self::Checkpoint(
                    CheckpointReadError::Bucket(_)
                        | CheckpointReadError::Slot(ReadError::Bucket(_))
                )
        )
    }
}

/// Folds partitions through the windows that the coordinator named. The result has one state row
/// for each of `folds`, in their order. `now_ms` is wall time and only says when producers were
/// seen.
///
/// Dropping the future is harmless: nothing is written.
///
/// # Errors
///
/// [`FoldError`].
pub async fn fold(
    bucket: &Bucket,
    cluster: ClusterId,
    folds: &[PartitionFold],
    now_ms: i64,
) -> Result<Vec<StateRow>, FoldError> {
    let rows = read_rows(bucket, cluster, folds).await?;
    let starts = folds.iter().zip(rows).map(|(fold, row)| FoldStart {
        tp: fold.tp,
        row,
        ranges: fold.ranges.clone(),
        log_start: fold.log_start,
        archived_to: fold.archived_to,
    });
    let mut machine = Fold::new(starts, now_ms);
    while let Some((stream, slots)) = machine.next_read() {
        let name = StreamName::wal(cluster, stream);
        let mut indexes = std::pin::pin!(read_indexes(bucket, &name, slots, None, GETS_MAX));
        while let Some(view) = indexes.try_next().await? {
            let at = SlotPosition {
                stream,
                slot: view.header.slot,
            };
            let index = WalIndex::decode(&view.index, view.header.body_len)
                .map_err(|fault| FoldError::Index { at, fault })?;
            machine.on_index(at, &index)?;
        }
    }
    machine.finish()
}

/// The state rows that the folds start from, each checkpoint read once.
async fn read_rows(
    bucket: &Bucket,
    cluster: ClusterId,
    folds: &[PartitionFold],
) -> Result<Vec<Option<StateRow>>, FoldError> {
    let mut wanted: BTreeMap<SlotPosition, BTreeMap<TopicPartition, usize>> = BTreeMap::new();
    for (index, fold) in folds.iter().enumerate() {
        if let Some(at) = fold.row {
            wanted.entry(at).or_default().insert(fold.tp, index);
        }
    }
    let mut reads = futures::stream::iter(wanted)
        .map(|(at, partitions)| async move {
            let name = StreamName::wal(cluster, at.stream);
            let rows = checkpoint::read(bucket, &name, at.slot).await?;
            pick(at, partitions, rows, folds)
        })
        .buffer_unordered(GETS_MAX);
    let mut indexes = Vec::new();
    let mut stored = Vec::new();
    while let Some(picked) = reads.try_next().await? {
        for (index, row) in picked {
            indexes.push(index);
            stored.push(row);
        }
    }
    let mut found: Vec<Option<StateRow>> = folds.iter().map(|_| None).collect();
    let rows = checkpoint::with_pages(bucket, stored).await?;
    for (index, row) in indexes.into_iter().zip(rows) {
        found[index] = Some(row);
    }
    Ok(found)
}

/// The rows that are wanted of a checkpoint, each with its place among the folds. The others are let
/// go of at once: together the checkpoints of a long-lived stream hold every partition many times.
fn pick(
    at: SlotPosition,
    mut wanted: BTreeMap<TopicPartition, usize>,
    rows: Vec<StoredRow>,
    folds: &[PartitionFold],
) -> Result<Vec<(usize, StoredRow)>, FoldError> {
    let mut picked = Vec::with_capacity(wanted.len());
    for mut row in rows {
        if let Some(index) = wanted.remove(&row.without_runs().tp) {
            let fold = &folds[index];
            row.drop_pages_below(fold.archived_to.max(fold.log_start));
            picked.push((index, row));
        }
    }
    match wanted.pop_first() {
        Some((tp, _)) => Err(FoldError::RowAbsent { tp, at }),
        None => Ok(picked),
    }
}

/// What one partition is folded from.
#[derive(Clone, Debug)]
pub struct FoldStart {
    /// The partition.
    pub tp: TopicPartition,
    /// Its last durable state row; without one the fold starts from nothing.
    pub row: Option<StateRow>,
    /// The windows from the one of the row on, in the order of the epoch table.
    pub ranges: Vec<FoldRange>,
    /// The log start that is journalled.
    pub log_start: i64,
    /// Records below are in segments or deleted: where they lay in the WAL is not wanted.
    pub archived_to: i64,
}

/// Many partitions that are folded together. Pure.
#[derive(Debug)]
pub struct Fold {
    partitions: Vec<Partition>,
    /// Which windows of which partitions lie in a stream.
    windows: BTreeMap<StreamId, BTreeMap<TopicPartition, Vec<(usize, usize)>>>,
    /// What is left to read, streams ascending: they are given out in that order, so that the
    /// earlier windows of a partition mostly come first.
    reads: VecDeque<(StreamId, Range<Slot>)>,
    /// The stream that is being read.
    reading: Option<StreamId>,
    now_ms: i64,
}

#[derive(Debug)]
struct Partition {
    row: StateRow,
    windows: Vec<FoldWindow>,
    /// The window whose rows come next.
    current: usize,
    /// What the journal says of it.
    log_start: i64,
    archived_to: i64,
}

#[derive(Debug)]
struct FoldWindow {
    range: FoldRange,
    read: bool,
    /// Rows that came before those of an earlier window.
    waiting: Vec<(SlotPosition, Vec<Run>, Vec<ProducerBatch>)>,
}

impl Fold {
    /// A fold of `starts`, one per partition.
    pub fn new(starts: impl IntoIterator<Item = FoldStart>, now_ms: i64) -> Self {
        let partitions: Vec<_> = starts.into_iter().map(Partition::new).collect();
        let mut windows: BTreeMap<_, BTreeMap<_, Vec<_>>> = BTreeMap::new();
        let mut slots: BTreeMap<StreamId, Vec<Range<Slot>>> = BTreeMap::new();
        for (at, partition) in partitions.iter().enumerate() {
            for (window, FoldWindow { range, .. }) in partition.windows.iter().enumerate() {
                let of_stream = windows.entry(range.stream).or_default();
                of_stream
                    .entry(partition.row.tp)
                    .or_default()
                    .push((at, window));
                slots
                    .entry(range.stream)
                    .or_default()
                    .push(range.from..range.end);
            }
        }
        let reads = slots.into_iter().flat_map(|(stream, ranges)| {
            let merged = merge(ranges);
            merged.into_iter().map(move |range| (stream, range))
        });
        Self {
            partitions,
            windows,
            reads: reads.collect(),
            reading: None,
            now_ms,
        }
    }

    /// The slots to read next; the index of each is then given to [`Self::on_index`], in order.
    pub fn next_read(&mut self) -> Option<(StreamId, Range<Slot>)> {
        let next = self.reads.pop_front();
        let stream = next.as_ref().map(|(stream, _)| *stream);
        if let Some(done) = self.reading.filter(|done| stream != Some(*done)) {
            self.on_stream_read(done);
        }
        self.reading = stream;
        next
    }

    /// Takes the index of a slot.
    ///
    /// # Errors
    ///
    /// [`FoldError::NotContiguous`].
    pub fn on_index(&mut self, at: SlotPosition, index: &WalIndex) -> Result<(), FoldError> {
        let Some(windows) = self.windows.get(&at.stream) else {
            return Ok(());
        };
        for runs in index.runs.chunk_by(|a, b| a.tp == b.tp) {
            for (partition, window) in windows.get(&runs[0].tp).into_iter().flatten() {
                self.partitions[*partition].take(
                    *window,
                    at,
                    runs,
                    &index.producers,
                    self.now_ms,
                )?;
            }
        }
        Ok(())
    }

    /// The state rows, in the order of the starts.
    ///
    /// # Errors
    ///
    /// [`FoldError::NotContiguous`].
    pub fn finish(mut self) -> Result<Vec<StateRow>, FoldError> {
        if let Some(stream) = self.reading.take() {
            self.on_stream_read(stream);
        }
        let now_ms = self.now_ms;
        self.partitions
            .into_iter()
            .map(|partition| partition.finish(now_ms))
            .collect()
    }

    fn on_stream_read(&mut self, stream: StreamId) {
        for (partition, window) in self
            .windows
            .get(&stream)
            .into_iter()
            .flatten()
            .flat_map(|(_, all)| all)
        {
            self.partitions[*partition].windows[*window].read = true;
        }
    }
}

impl Partition {
    fn new(start: FoldStart) -> Self {
        let FoldStart {
            tp,
            row,
            ranges,
            log_start,
            archived_to,
        } = start;
        let first_epoch = ranges.first().map(|range| range.epoch);
        let row = match (row, first_epoch) {
            (Some(row), _) => row,
            (None, Some(epoch)) => StateRow::new(tp, epoch),
            // nothing is known of it and nothing is to be read
            (None, None) => StateRow::new(tp, LeaderEpoch(0)),
        };
        let windows = ranges
            .into_iter()
            .filter(|range| range.epoch >= row.epoch)
            .map(|range| behind(&row, range))
            .map(|range| FoldWindow {
                range,
                // nothing of an empty one will be read
                read: range.from >= range.end,
                waiting: Vec::new(),
            })
            .collect();
        Self {
            row,
            windows,
            current: 0,
            log_start,
            archived_to,
        }
    }

    fn take(
        &mut self,
        window: usize,
        at: SlotPosition,
        runs: &[Run],
        producers: &[ProducerBatch],
        now_ms: i64,
    ) -> Result<(), FoldError> {
        let range = self.windows[window].range;
        // I6: only what lies in the window, and is of its epoch
        if at.slot < range.from || at.slot >= range.end {
            return Ok(());
        }
        if !runs.iter().any(|run| run.epoch == range.epoch) {
            return Ok(());
        }
        self.advance(now_ms)?;
        if window == self.current {
            return self.apply(at, range, runs, producers, now_ms);
        }
        let tp = self.row.tp;
        let of_tp = producers.iter().filter(|batch| batch.tp == tp);
        let rows = (at, runs.to_vec(), of_tp.copied().collect());
        self.windows[window].waiting.push(rows);
        Ok(())
    }

    fn apply(
        &mut self,
        at: SlotPosition,
        range: FoldRange,
        runs: &[Run],
        producers: &[ProducerBatch],
        now_ms: i64,
    ) -> Result<(), FoldError> {
        self.row.begin_epoch(range.epoch);
        self.row.apply_slot(at, runs, producers, now_ms)?;
        Ok(())
    }

    /// Goes on to the first window that is not read to its end.
    fn advance(&mut self, now_ms: i64) -> Result<(), FoldError> {
        while let Some(window) = self.windows.get_mut(self.current) {
            let (range, read) = (window.range, window.read);
            for (at, runs, producers) in std::mem::take(&mut window.waiting) {
                self.apply(at, range, &runs, &producers, now_ms)?;
            }
            if !read {
                break;
            }
            self.current += 1;
        }
        Ok(())
    }

    fn finish(mut self, now_ms: i64) -> Result<StateRow, FoldError> {
        self.advance(now_ms)?;
        assert_eq!(
            self.current,
            self.windows.len(),
            "I4: the end of {} is asked for before every window was read",
            self.row.tp
        );
        // the state is that after the last slot of the last window, whether it had rows or not
        if let Some(FoldWindow { range, .. }) = self.windows.last() {
            self.row.begin_epoch(range.epoch);
            if range.from < range.end {
                self.row.after = Some(SlotPosition {
                    stream: range.stream,
                    slot: Slot(range.end.0 - 1),
                });
            }
        }
        self.raise_to_journal()?;
        Ok(self.row)
    }

    /// What the journal knows of log start and archive is newer than the row.
    fn raise_to_journal(&mut self) -> Result<(), FoldError> {
        let bound = self.archived_to.max(self.log_start);
        let (tp, end) = (self.row.tp, self.row.end_offset);
        if bound > end {
            return Err(FoldError::Short { tp, end, bound });
        }
        self.row.raise_log_start(self.log_start);
        self.row.runs.drop_below(bound);
        Ok(())
    }
}

/// The part of a window that is not in the row yet. A row names the slot it is the state after,
/// which lies before the slot that holds it: those in between were in flight when it was taken.
fn behind(row: &StateRow, range: FoldRange) -> FoldRange {
    match row.after {
        Some(after) if after.stream == range.stream && row.epoch == range.epoch => FoldRange {
            from: range.from.max(after.slot.next()),
            ..range
        },
        _ => range,
    }
}

/// Ranges, sorted, with those that touch made one.
fn merge(mut ranges: Vec<Range<Slot>>) -> Vec<Range<Slot>> {
    ranges.retain(|range| range.start < range.end);
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<Slot>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests;
