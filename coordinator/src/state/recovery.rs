//! What a takeover has to do: streams that wait for their seal, partitions that wait for a fold.
//! Derived from the state, so that a new leader finds unfinished work by itself.

use firn_proto::cluster::{FoldRange, PartitionFold, PartitionImage, StreamToSeal};
use firn_proto::ids::{DiskId, Slot, StreamId, TopicPartition};

use super::State;
use super::streams::Phase;
use super::topics::{PartitionMarks, partition_at};
use super::windows::row_window;

impl State {
    /// Streams of ended incarnations without an end.
    pub fn pending_seals(&self) -> Vec<StreamToSeal> {
        let streams = self.streams.iter();
        streams
            .filter(|(_, stream)| matches!(stream.phase, Phase::Ended | Phase::Left))
            .map(|(id, stream)| StreamToSeal {
                stream: id,
                broker: stream.broker,
                floor: stream.floor,
                durable_end: stream.durable_end,
                disk: stream.disk.filter(|_| stream.phase == Phase::Ended),
                holds_local: stream.holds_local && stream.phase == Phase::Ended,
            })
            .collect()
    }

    /// Partitions whose latest epoch has ended and that have no next one yet: their stream is
    /// sealed, or their owner released them and nobody lived to begin the next epoch (I4).
    pub fn pending_folds(&self) -> Vec<PartitionFold> {
        let mut folds = Vec::new();
        for (id, topic) in self.topics.iter() {
            let partitions = topic.image.partitions.iter().zip(&topic.marks);
            for (index, (partition, marks)) in partitions.enumerate() {
                folds.extend(self.ended_fold(partition_at(id, index), partition, marks));
            }
        }
        folds
    }

    /// What the owners of these partitions fold before they append: all that lies in the windows
    /// before the one that is open now.
    pub fn folds_of(&self, partitions: &[TopicPartition]) -> Vec<Option<PartitionFold>> {
        let folds = partitions.iter().map(|tp| {
            let (partition, marks) = self.topics.partition(*tp)?;
            partition.owner?;
            let (open, before) = partition.windows.split_last()?;
            if before.is_empty() && marks.row.is_none() {
                return None;
            }
            self.fold(*tp, before.len(), Some(open.first_offset))
        });
        folds.collect()
    }

    fn ended_fold(
        &self,
        tp: TopicPartition,
        partition: &PartitionImage,
        marks: &PartitionMarks,
    ) -> Option<PartitionFold> {
        let last = partition.windows.last()?;
        if marks.released_end.is_none() && self.streams.sealed_end(last.stream).is_none() {
            return None;
        }
        self.fold(tp, partition.windows.len(), marks.released_end)
    }

    /// The fold of the first `count` windows, the last of which ends at `known_end` if that is known.
    /// Without any, all is in the row of the window that is open.
    fn fold(
        &self,
        tp: TopicPartition,
        count: usize,
        known_end: Option<i64>,
    ) -> Option<PartitionFold> {
        let (partition, marks) = self.topics.partition(tp)?;
        let windows = &partition.windows;
        let last = windows.get(count.saturating_sub(1))?;
        // Windows before the one with the row are in the row already, which may be that of the
        // window that is open.
        let first = row_window(windows, marks.row).unwrap_or(0);
        let rest = windows.get(first..count).unwrap_or_default();
        // Below the stream's `rows_end` nothing is in no row. The row itself knows which slot it is
        // the state after, if that is a later one. Where the window has its lowest slot does not
        // matter: producers are needed of archived slots too.
        let ranges = rest.iter().map(|window| FoldRange {
            epoch: window.epoch,
            stream: window.stream,
            from: self
                .streams
                .rows_end(window.stream)
                .max(self.streams.floor(window.stream)),
            end: window.end_slot.unwrap_or(Slot(0)),
        });
        Some(PartitionFold {
            tp,
            epoch: last.epoch,
            stream: last.stream,
            row: marks.row,
            ranges: ranges.filter(|range| range.from < range.end).collect(),
            released_end: known_end,
            log_start: marks.log_start,
            archived_to: marks.archived_to,
            waits_for: self.waits_for(tp),
            disk: self.disk_behind(last.stream, known_end),
        })
    }

    /// The disk that may hold more of a window than the bucket; none of one whose end is known.
    fn disk_behind(&self, stream: StreamId, known_end: Option<i64>) -> Option<DiskId> {
        let stream = self.streams.find(stream)?;
        let may_hold_more = known_end.is_none() && stream.holds_local && !stream.is_whole;
        stream.disk.filter(|_| may_hold_more)
    }

    /// The disk without which the next epoch of a partition does not begin: at some time of the latest
    /// one its records counted before the bucket had them, and the last owner crashed. What the
    /// topic's config says by now does not matter.
    pub(super) fn waits_for(&self, tp: TopicPartition) -> Option<DiskId> {
        let (partition, marks) = self.topics.partition(tp)?;
        if !partition.counts_locally || marks.is_forced || marks.released_end.is_some() {
            return None;
        }
        let stream = self.streams.find(partition.windows.last()?.stream)?;
        let is_over = stream.phase != Phase::Live && !stream.is_whole;
        stream.disk.filter(|_| is_over)
    }
}
