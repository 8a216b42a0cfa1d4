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

    /// The same of a row that is said to be durable by whoever wrote it. One that was written in an
    /// earlier epoch in this stream is not of this one, however late it is told.
    pub(super) fn row_may_move_once_durable(&self, tp: TopicPartition, at: SlotPosition) -> bool {
        let Some((partition, marks)) = self.topics.partition(tp) else {
            return false;
        };
        let latest = partition.windows.last();
        let floor = self.streams.find(at.stream).map(|stream| stream.floor);
        latest.is_some_and(|window| window.stream == at.stream)
            && marks.rows_from <= at.slot
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
            self.settle_windows(tp, None);
        }
    }

    /// Raises the lowest slots of the windows to what is needed of them, and forgets windows that
    /// nothing is needed of. `next` is where the first run lies that is in no segment and not
    /// deleted, if that was said. True if that changed anything.
    pub(super) fn settle_windows(
        &mut self,
        tp: TopicPartition,
        next: Option<SlotPosition>,
    ) -> bool {
        let Some((partition, marks)) = self.topics.partition(tp) else {
            return false;
        };
        let settled = settled(&self.streams, &partition.windows, marks, next);
        if settled == partition.windows {
            return false;
        }
        for window in &partition.windows {
            self.streams.unpin(window.stream, window.lowest_slot);
        }
        for window in &settled {
            self.streams.pin(window.stream, window.lowest_slot);
        }
        if let Some(partition) = partition_mut(&mut self.topics, tp) {
            partition.windows = settled;
        }
        true
    }
}

/// What is left of the windows.
///
/// Records of a window whose offsets are all archived or deleted are not needed, but a fold that
/// starts from the last state row takes the producers' batches of every window since (I8). So only
/// windows before that of the row go, and the others keep their streams from being over; how far
/// down in a stream the fold reads is the matter of its floor, not of a lowest slot. A window that
/// ended without an offset has no rows at all, and goes unless the row lies in its stream.
fn settled(
    streams: &Streams,
    windows: &[Window],
    marks: &PartitionMarks,
    next: Option<SlotPosition>,
) -> Vec<Window> {
    let row_stream = marks.row.map(|row| row.stream);
    let of_row = row_window(windows, marks.row);
    // The last of these holds the first offset that is neither archived nor deleted.
    let reached = windows.partition_point(|window| window.first_offset <= marks.archived_to);
    let mut settled = Vec::with_capacity(windows.len());
    for (index, window) in windows.iter().enumerate() {
        let is_archived = index + 1 < reached;
        if let Some(after) = windows.get(index + 1) {
            let is_empty = window.first_offset == after.first_offset;
            let in_row = is_archived && of_row.is_some_and(|row| index < row);
            if in_row || (is_empty && Some(window.stream) != row_stream) {
                continue;
            }
        }
        let durable_end = streams.durable_end(window.stream);
        let end = window.end_slot.unwrap_or(durable_end);
        let slot = match next {
            _ if is_archived => end,
            // Whoever has applied nothing of its own stream yet names the one before; whatever
            // does not lie in this window moves nothing.
            Some(next) if index + 1 == reached && next.stream == window.stream => {
                next.slot.min(end)
            }
            _ => window.lowest_slot,
        };
        settled.push(Window {
            lowest_slot: slot.max(window.lowest_slot),
            ..*window
        });
    }
    settled
}

/// The window that holds the last state row: those before it are in the row.
pub(super) fn row_window(windows: &[Window], row: Option<SlotPosition>) -> Option<usize> {
    let row = row?;
    windows.iter().position(|window| {
        row.stream == window.stream && window.end_slot.is_none_or(|end| row.slot < end)
    })
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
