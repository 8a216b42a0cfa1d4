//! Segments and the map of them, the log starts of partitions, and what is deleted from the bucket.
//!
//! The segment map says which segment holds which offsets of a partition. Only the owner of a
//! partition changes its part of it: it commits segments and moves the log start. What has left the
//! map is queued, and deleted after a grace (I9).

use std::ops::Range;
use std::sync::Arc;

use bincode::{Decode, Encode};
use thiserror::Error;

use crate::ids::{Incarnation, LeaderEpoch, PartitionIndex, Slot, SlotPosition, StreamId};
use crate::ids::{TopicId, TopicPartition};
use crate::limits::MAP_RUNS_IN_MEMORY;

/// A segment, or a page of the segment map, by its place under its topic: the incarnation that
/// wrote it, and a number that this incarnation never uses twice for the same kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct SegmentKey {
    /// Who wrote it.
    pub incarnation: Incarnation,
    /// Which of its files.
    pub number: u64,
}

/// A row group of a segment: whole batches of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RowGroup {
    /// First offset it covers.
    pub base_offset: i64,
    /// Last offset it covers: the next row group of the run begins behind it.
    pub last_offset: i64,
    /// Where its columns begin in the object.
    pub byte_start: u64,
    /// Length of its columns and its batch table.
    pub byte_len: u64,
    /// The largest timestamp of a record in it and in the row groups of the run before it;
    /// [`i64::MIN`] without a record that could be decoded.
    pub max_timestamp_so_far: i64,
    /// Records in its columns.
    pub records: u32,
    /// Bytes of its batches, uncompressed.
    pub plain_bytes: u64,
}

impl RowGroup {
    /// Its range in the object: what a ranged GET takes.
    pub fn byte_range(&self) -> Range<u64> {
        self.byte_start..self.byte_start.saturating_add(self.byte_len)
    }
}

/// Whether row groups cover a run side by side, or there are none. The run may begin inside the
/// first one: no batch is divided, though a log start may lie in the middle of it.
pub fn row_groups_cover(groups: &[RowGroup], base_offset: i64, last_offset: i64) -> bool {
    let Some(first) = groups.first() else {
        return true;
    };
    let mut next = Some(first.base_offset.min(base_offset));
    for group in groups {
        if next != Some(group.base_offset) || group.last_offset < group.base_offset {
            return false;
        }
        next = group.last_offset.checked_add(1);
    }
    (0..=base_offset).contains(&first.base_offset)
        && first.last_offset >= base_offset
        && next.is_some_and(|next| next - 1 == last_offset)
}

/// The row group that covers `offset`, among those of a run.
pub fn row_group_of(groups: &[RowGroup], offset: i64) -> Option<&RowGroup> {
    let at = groups.partition_point(|group| group.last_offset < offset);
    let found = groups.get(at)?;
    (found.base_offset <= offset).then_some(found)
}

/// A run of a partition in a segment, as the segment map has it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ArchivedRun {
    /// The segment.
    pub segment: SegmentKey,
    /// How many runs, of all partitions, the segment has: it goes once all of them have left.
    pub runs_of_segment: u32,
    /// First offset it covers.
    pub base_offset: i64,
    /// Last offset it covers.
    pub last_offset: i64,
    /// The largest timestamp of a batch in it; [`i64::MIN`] without a batch.
    pub max_timestamp: i64,
    /// Its row groups: they cover the range, without a gap. None if it has no batch. The first may
    /// begin before the range, with a batch in the middle of which the log started.
    pub row_groups: Vec<RowGroup>,
}

impl ArchivedRun {
    /// What it takes in the bucket.
    pub fn bytes(&self) -> u64 {
        self.row_groups.iter().map(|group| group.byte_len).sum()
    }

    /// The row group that covers `offset`.
    pub fn row_group_of(&self, offset: i64) -> Option<&RowGroup> {
        row_group_of(&self.row_groups, offset)
    }
}

/// A page of the segment map that lies in the bucket: older runs of one partition, contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MapPage {
    /// Its key, among the map pages.
    pub key: SegmentKey,
    /// First offset of its first run.
    pub base_offset: i64,
    /// Last offset of its last run.
    pub last_offset: i64,
    /// The largest timestamp of its runs.
    pub max_timestamp: i64,
    /// How many runs it holds.
    pub runs: u32,
    /// The bytes of those runs in their segments.
    pub run_bytes: u64,
    /// Its length.
    pub byte_len: u32,
}

/// COMMIT: a whole segment of newly archived runs enters the map, or nothing of it (I9). Repeating
/// it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CommitSegment {
    /// Whose records it holds.
    pub topic: TopicId,
    /// The segment. Its incarnation commits it.
    pub segment: SegmentKey,
    /// Its runs, ascending by partition, at most one of each.
    pub runs: Vec<CommitRun>,
}

/// A run of a segment that is committed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CommitRun {
    /// Its partition.
    pub partition: PartitionIndex,
    /// The epoch in which the committer owns it.
    pub epoch: LeaderEpoch,
    /// First offset: where the partition is archived to so far.
    pub base_offset: i64,
    /// Last offset.
    pub last_offset: i64,
    /// The largest timestamp of a batch in it.
    pub max_timestamp: i64,
    /// Its row groups: see [`ArchivedRun::row_groups`].
    pub row_groups: Vec<RowGroup>,
    /// See [`RaiseLogStart::next`].
    pub next: SlotPosition,
}

/// Why a segment is not in the map, or a log start does not move.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Error)]
pub enum ArchiveError {
    /// The incarnation has ended.
    #[error("incarnation {0} has ended and may not change the archive")]
    Ended(Incarnation),
    /// The segment was abandoned.
    #[error("the segment was abandoned and cannot enter the map (I9)")]
    Abandoned,
    /// The segment is in the map, or was.
    #[error("the segment has entered the map and cannot be abandoned (I9)")]
    Entered,
    /// The topic is not there (any more).
    #[error("there is no such topic")]
    UnknownTopic,
    /// The committer does not own the partition in the epoch named.
    #[error("partition {0} is not owned by this incarnation in the epoch named")]
    NotOwner(PartitionIndex),
    /// The run does not begin where the partition is archived to, or contradicts itself.
    #[error("partition {partition}: {reason}")]
    Contradiction {
        /// The partition.
        partition: PartitionIndex,
        /// The contradiction.
        reason: String,
    },
}

/// Log starts move up. One result per start.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RaiseLogStarts {
    /// Who owns the partitions.
    pub incarnation: Incarnation,
    /// The starts.
    pub starts: Vec<RaiseLogStart>,
}

/// The log start of one partition moves up. The owner has seen that no record below the high
/// watermark is skipped unless it may be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RaiseLogStart {
    /// The partition.
    pub tp: TopicPartition,
    /// The epoch in which the incarnation owns it.
    pub epoch: LeaderEpoch,
    /// The first offset that is kept. With the log start there is only `next` counts: so an owner
    /// of idle partitions lets go of slots.
    pub log_start: i64,
    /// The slot of the owner's stream, or of one before it, with the first run that is in no segment
    /// and not deleted after this change; if there is none, the slot behind the last one that the
    /// owner has applied. Slots of the partition below it are not needed for their records any more.
    pub next: SlotPosition,
    /// The paged runs that leave the map with it, if any are paged out.
    pub paged: Option<PagedRelease>,
}

/// Runs of map pages that leave the map. Whoever moves the log start beyond where the paged runs
/// that are left begin has read the pages.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PagedRelease {
    /// The pages that were read, from the first of the partition on, without a gap. All but the
    /// last must end below the log start.
    pub pages: Vec<SegmentKey>,
    /// Paged runs below this offset had left before: what the map said when it was asked.
    pub released_to: i64,
    /// The runs in them that end below the log start and had not left: segment, and how many runs
    /// that segment has.
    pub segments: Vec<(SegmentKey, u32)>,
    /// The bytes of those runs in their segments.
    pub run_bytes: u64,
    /// The offset behind the last of those runs; [`PagedRelease::released_to`] if there is none.
    pub next_released_to: i64,
}

/// Runs move from the coordinator's memory into a page that lies in the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PageOut {
    /// Whose runs. The incarnation of the page's key must be alive.
    pub tp: TopicPartition,
    /// The page: the oldest runs that are in memory.
    pub page: MapPage,
}

/// Which runs of a partition are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FindRuns {
    /// The partition.
    pub tp: TopicPartition,
    /// Where to begin.
    pub from: RunsFrom,
}

/// Where a search in the segment map begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RunsFrom {
    /// The run that covers the offset or, if none does, the next one.
    Offset(i64),
    /// The first run that covers `offset` or ends behind it and has a batch with a timestamp of at
    /// least `timestamp`.
    Time {
        /// In milliseconds.
        timestamp: i64,
        /// Runs that end below do not count.
        offset: i64,
    },
    /// The first of the runs that have the largest timestamp. If it is a page that is found and the
    /// run in it with that timestamp does not count, what the rest of the page has stands against
    /// what a search behind the page finds.
    MaxTime {
        /// Runs that end below do not count.
        offset: i64,
    },
}

/// What the segment map says of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FoundRuns {
    /// What the leader's clock says now, in milliseconds. It may go back. What is old by this clock
    /// and by the owner's has reached its age.
    pub leader_ms: i64,
    /// The log start that is journalled.
    pub log_start: i64,
    /// Records below are in segments or deleted.
    pub archived_to: i64,
    /// Paged runs below have left the map.
    pub released_to: i64,
    /// Bytes of all its runs in their segments.
    pub bytes: u64,
    /// Runs that are in the coordinator's memory. Worth a page when there are many:
    /// [`FoundRuns::is_page_due`].
    pub runs_in_memory: u32,
    /// What was found.
    pub part: MapPart,
}

impl FoundRuns {
    /// Whether its owner is to move the oldest runs into a page.
    pub fn is_page_due(&self) -> bool {
        self.runs_in_memory > MAP_RUNS_IN_MEMORY
    }
}

/// A stretch of the segment map.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum MapPart {
    /// No run is as wanted.
    Nothing,
    /// The run, and those behind it, as many as one answer holds.
    Runs(Vec<Arc<ArchivedRun>>),
    /// The page that holds the run, if any does: to be read and searched. If it turns out to hold
    /// none, go on behind its last offset.
    Page(MapPage),
}

/// How far the archive of a topic is, for people.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PartitionArchive {
    /// The partition.
    pub tp: TopicPartition,
    /// The log start that is journalled.
    pub log_start: i64,
    /// Records below are in segments or deleted.
    pub archived_to: i64,
    /// How many runs it has in segments.
    pub runs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Map pages.
    pub pages: u32,
}

/// Something that has left the map, or a deleted topic.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Doomed {
    /// A segment without a run in the map.
    Segment {
        /// What its topic is called in the key.
        topic_name: Arc<str>,
        /// Its topic.
        topic: TopicId,
        /// Which one.
        segment: SegmentKey,
    },
    /// A page of the map without a run.
    MapPage {
        /// Its topic.
        topic: TopicId,
        /// Which one.
        page: SegmentKey,
    },
    /// Everything of a deleted topic.
    Topic {
        /// What it was called.
        topic_name: Arc<str>,
        /// Its id.
        topic: TopicId,
    },
}

/// An entry of the delete queue.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct QueuedDelete {
    /// Its place in the queue.
    pub id: u64,
    /// What goes.
    pub what: Doomed,
    /// Not before, in milliseconds since 1970.
    pub due_ms: i64,
}

/// What may be deleted from the bucket now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Garbage {
    /// Entries of the delete queue whose grace is over, oldest first, as many as one answer holds.
    pub doomed: Vec<QueuedDelete>,
    /// How many entries the queue has altogether.
    pub queued: u64,
    /// When the next entry is due, if none is now.
    pub next_due_ms: Option<i64>,
    /// Streams with slots below their floor, or that are over, that were not reported as collected.
    pub streams: Vec<StreamGarbage>,
    /// Ended incarnations whose files were not looked through.
    pub writers: Vec<EndedWriter>,
}

/// Slots of a stream that are not needed any more.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StreamGarbage {
    /// The stream.
    pub stream: StreamId,
    /// From this slot,
    pub from: Slot,
    /// to the one before this: its floor (I7).
    pub floor: Slot,
    /// It is sealed and everything below its end is garbage: its checkpoint folder can go.
    pub is_over: bool,
    /// Its writer lives.
    pub is_live: bool,
}

/// An incarnation that has ended, and the files of it that entered the map.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EndedWriter {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// Numbers of its segments that entered the map, as ranges without their ends. All other
    /// segments of it are orphans.
    pub entered: Vec<(u64, u64)>,
    /// Map pages of it that the map or the delete queue names: all others are orphans.
    pub pages: Vec<(TopicId, u64)>,
}

/// What was deleted from the bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Collected {
    /// Entries of the delete queue.
    pub doomed: Vec<u64>,
    /// Slots of streams below these, and the checkpoint objects that went with them.
    pub streams: Vec<(StreamId, Slot)>,
    /// Streams that were over ([`StreamGarbage::is_over`]) and whose checkpoint folders are gone.
    pub over: Vec<StreamId>,
    /// Ended incarnations without orphans.
    pub writers: Vec<Incarnation>,
}
