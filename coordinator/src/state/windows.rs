//! State rows and windows: which row of a partition is the last, and which windows are still
//! needed. Every row and window pins its slot (I7).

use std::sync::Arc;

use firn_proto::cluster::{PartitionImage, Window};
use firn_proto::ids::{SlotPosition, TopicPartition};

use super::streams::Streams;
use super::topics::{PartitionMarks, Topics};
use super::{Effects, State};

impl State {
    /// Whether the last state row of the partition may be this one: it lies in the durable part of
    /// the stream that holds the latest epoch, above the one known.
    pub(super) fn row_may_move(&self, tp: TopicPartition, at: SlotPosition) -> bool {
        let stream = self.streams.find(at.stream);
        stream.is_some_and(|stream| at.slot < stream.durable_end)
            && self.row_may_move_once_durable(tp, at)
    }

    pub(super) fn row_may_move_once_durable(&self, tp: TopicPartition, at: SlotPosition) -> bool {
        let Some((partition, marks)) = self.topics.partition(tp) else {
            return false;
        };
        let latest = partition.windows.last();
        let floor = self.streams.find(at.stream).map(|stream| stream.floor);
        latest.is_some_and(|window| window.stream == at.stream)
            && floor.is_some_and(|floor| floor <= at.slot)
            && marks
                .row
                .is_none_or(|row| row.stream != at.stream || row.slot < at.slot)
    }

    /// The old row is let go of only here, where the new one is known to be durable.
    pub(super) fn move_row(&mut self, tp: TopicPartition, at: SlotPosition, effects: &mut Effects) {
        if let Some(marks) = marks_mut(&mut self.topics, tp) {
            if let Some(old) = marks.row.replace(at) {
                self.streams.unpin(old.stream, old.slot);
            }
            self.streams.pin(at.stream, at.slot);
            effects.changed = true;
            self.drop_empty_windows(tp);
        }
    }

    /// Forgets windows that ended without an offset. A window in whose stream the last state row
    /// lies stays, because the fold starts there.
    pub(super) fn drop_empty_windows(&mut self, tp: TopicPartition) {
        let Some((partition, marks)) = self.topics.partition(tp) else {
            return;
        };
        let row_stream = marks.row.map(|row| row.stream);
        let pairs = partition.windows.windows(2);
        let empty = |first: &Window, next: &Window| {
            first.first_offset == next.first_offset && Some(first.stream) != row_stream
        };
        let keep: Vec<bool> = pairs
            .map(|pair| !empty(&pair[0], &pair[1]))
            .chain([true])
            .collect();
        if keep.iter().all(|keep| *keep) {
            return;
        }
        let streams = &mut self.streams;
        if let Some(partition) = partition_mut(&mut self.topics, tp) {
            let mut keep = keep.into_iter();
            partition
                .windows
                .retain(|window| keep.next().unwrap_or(true) || !let_go(streams, window));
        }
    }
}

fn let_go(streams: &mut Streams, window: &Window) -> bool {
    streams.unpin(window.stream, window.lowest_slot);
    true
}

pub(super) fn partition_mut(
    topics: &mut Topics,
    tp: TopicPartition,
) -> Option<&mut PartitionImage> {
    let topic = topics.find_mut(tp.topic)?;
    let index = usize::try_from(tp.partition.0).ok()?;
    Arc::make_mut(&mut topic.image).partitions.get_mut(index)
}

pub(super) fn marks_mut(topics: &mut Topics, tp: TopicPartition) -> Option<&mut PartitionMarks> {
    let topic = topics.find_mut(tp.topic)?;
    topic.marks.get_mut(usize::try_from(tp.partition.0).ok()?)
}
