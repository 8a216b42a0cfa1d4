//! The archive: the segment map, who wrote what, log starts, what leaves the bucket (I9).
//!
//! May not touch: how segments and map pages look, who deletes them.
//!
//! - `map.rs`: the runs and pages of one partition
//! - `commit.rs`: COMMIT and ABANDON
//! - `log_start.rs`: log starts that move up; runs and pages that leave
//! - `page_out.rs`: runs that move into a page in the bucket
//! - `writers.rs`: which keys entered, so that none enters twice
//! - `garbage.rs`: the delete queue and what else may be deleted

mod commit;
mod garbage;
mod log_start;
mod map;
mod page_out;
mod writers;

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use firn_proto::cluster::{ArchiveError, FindRuns, FoundRuns, PartitionArchive, SegmentKey};
use firn_proto::ids::{Incarnation, PartitionIndex, TopicId, TopicPartition};

pub use garbage::DeleteQueue;
pub use map::PartitionMap;
pub use writers::Writer;

use super::State;
use super::topics::{PartitionMarks, partition_at};

/// What the journal keeps of the archive, besides the marks of partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Archive {
    /// Partitions with runs in segments: at most as many as there are partitions. Their owners page
    /// runs out, so that each has a few hundred of them here.
    maps: BTreeMap<TopicPartition, PartitionMap>,
    /// Every incarnation that lives, and each that has ended until its files are looked through.
    writers: BTreeMap<Incarnation, Writer>,
    /// Runs that have left, of segments that have others in the map: at most as many as there are
    /// segments.
    left: BTreeMap<(TopicId, SegmentKey), u32>,
    queue: DeleteQueue,
}

impl Archive {
    /// The partitions with runs in segments.
    pub fn maps(&self) -> impl Iterator<Item = (TopicPartition, &PartitionMap)> {
        self.maps.iter().map(|(tp, map)| (*tp, map))
    }

    /// The incarnations whose files may have to be looked through.
    pub fn writers(&self) -> impl Iterator<Item = (Incarnation, &Writer)> {
        self.writers.iter().map(|(id, writer)| (*id, writer))
    }

    /// Segments some of whose runs have left the map, and how many.
    pub fn left(&self) -> impl Iterator<Item = (TopicId, SegmentKey, u32)> {
        self.left.iter().map(|((id, key), left)| (*id, *key, *left))
    }

    /// The delete queue.
    pub fn queue(&self) -> &DeleteQueue {
        &self.queue
    }

    /// The incarnation may write segments from now on.
    pub(crate) fn open_writer(&mut self, incarnation: Incarnation) {
        self.writers.entry(incarnation).or_default();
    }
}

impl State {
    /// The archive.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Looks for runs of a partition, at `leader_ms`; `None` if there is no such partition.
    pub fn find_runs(&self, wanted: &FindRuns, leader_ms: i64) -> Option<FoundRuns> {
        let (_, marks) = self.topics.partition(wanted.tp)?;
        let nothing = PartitionMap::default();
        let map = self.archive.maps.get(&wanted.tp).unwrap_or(&nothing);
        Some(FoundRuns {
            leader_ms,
            log_start: marks.log_start,
            archived_to: marks.archived_to,
            released_to: map.released().to,
            bytes: map.bytes(),
            runs_in_memory: u32::try_from(map.runs().len()).unwrap_or(u32::MAX),
            part: map.find(wanted.from),
        })
    }

    /// How far the archive of every partition is, or of those of one topic.
    pub fn describe_archive(&self, topic: Option<TopicId>) -> Vec<PartitionArchive> {
        let topics = self
            .topics
            .iter()
            .filter(|(id, _)| topic.is_none_or(|topic| topic == *id));
        let partitions = topics.flat_map(|(id, topic)| {
            let marks = topic.marks.iter().enumerate();
            marks.map(move |(index, marks)| self.describe_partition(partition_at(id, index), marks))
        });
        partitions.collect()
    }

    fn describe_partition(&self, tp: TopicPartition, marks: &PartitionMarks) -> PartitionArchive {
        let map = self.archive.maps.get(&tp);
        PartitionArchive {
            tp,
            log_start: marks.log_start,
            archived_to: marks.archived_to,
            runs: map.map_or(0, PartitionMap::run_count),
            bytes: map.map_or(0, PartitionMap::bytes),
            pages: map.map_or(0, |map| {
                u32::try_from(map.pages().len()).unwrap_or(u32::MAX)
            }),
        }
    }
}

fn contradiction(partition: PartitionIndex, reason: impl Into<String>) -> ArchiveError {
    ArchiveError::Contradiction {
        partition,
        reason: reason.into(),
    }
}
