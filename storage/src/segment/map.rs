//! Where everything in a segment is: what the segment map keeps of it.
//!
//! Architecture invariant: plain values and look-ups in them.

pub use firn_proto::cluster::RowGroup;
use firn_proto::ids::{PartitionIndex, TopicId};

/// A segment, as far as a reader needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Whose records it holds.
    pub topic: TopicId,
    /// Length of the object.
    pub byte_len: u64,
    /// What it holds, in the order in which it was written.
    pub runs: Vec<SegmentRun>,
}

/// A contiguous offset range of one partition inside a segment. Offsets in it that no row group
/// has a batch for were never records, or their records are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRun {
    /// The partition.
    pub partition: PartitionIndex,
    /// Its first offset.
    pub base_offset: i64,
    /// Its last offset.
    pub last_offset: i64,
    /// The largest timestamp that a batch names or a record has; [`i64::MIN`] without a batch.
    pub max_timestamp: i64,
    /// Its row groups: they cover the range, without a gap between them. None if it has no batch.
    pub row_groups: Vec<RowGroup>,
}

impl Segment {
    /// All row groups, in the order of their bytes.
    pub fn row_groups(&self) -> impl Iterator<Item = (&SegmentRun, &RowGroup)> {
        self.runs
            .iter()
            .flat_map(|run| run.row_groups.iter().map(move |group| (run, group)))
    }
}

impl SegmentRun {
    /// The row groups that may hold a record at or behind `offset` with a timestamp of at least
    /// `timestamp`, in order. Unless `offset` is in the middle of the first, that one has it.
    pub fn row_groups_from_time(&self, timestamp: i64, offset: i64) -> &[RowGroup] {
        row_groups_from_time(&self.row_groups, timestamp, offset)
    }

    /// The row group that has the first record with the largest timestamp of the run.
    pub fn row_group_of_max(&self) -> Option<&RowGroup> {
        let max = self.row_groups.last()?.max_timestamp_so_far;
        self.row_groups_from_time(max, self.base_offset)
            .first()
            .filter(|_| max != i64::MIN)
    }
}

/// The row groups of a run, `groups`, that may hold a record at or behind `offset` with a timestamp
/// of at least `timestamp`. See [`SegmentRun::row_groups_from_time`].
pub fn row_groups_from_time(groups: &[RowGroup], timestamp: i64, offset: i64) -> &[RowGroup] {
    let by_time = groups.partition_point(|group| group.max_timestamp_so_far < timestamp);
    let by_offset = groups.partition_point(|group| group.last_offset < offset);
    &groups[by_time.max(by_offset)..]
}
