//! What a takeover has to do: streams that wait for their seal, partitions that wait for a fold.
//! Derived from the state, so that a new leader finds unfinished work by itself.

use firn_proto::cluster::{FoldRange, PartitionFold, PartitionImage, StreamToSeal, Window};
use firn_proto::ids::{Slot, TopicPartition};

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
            self.fold(*tp, partition, before, marks, Some(open.first_offset))
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
        let windows = &partition.windows;
        self.fold(tp, partition, windows, marks, marks.released_end)
    }

    /// The fold of `windows`, the first ones of the partition; the last of them ends at `known_end`
    /// if that is known.
    fn fold(
        &self,
        tp: TopicPartition,
        partition: &PartitionImage,
        windows: &[Window],
        marks: &PartitionMarks,
        known_end: Option<i64>,
    ) -> Option<PartitionFold> {
        let last = windows.last()?;
        // Windows before the one with the row are in the row already, which may be that of the
        // window that is open.
        let first = row_window(&partition.windows, marks.row).unwrap_or(0);
        let rest = windows.get(first..).unwrap_or_default();
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
        })
    }
}
