//! The segment map: which archived files hold which offsets of which partition.
//!
//! The archive and its commands come later; the map stands in the state and in its snapshots from
//! the first release, so that both keep their shape.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use firn_proto::ids::{Incarnation, TopicPartition};

/// A segment by its place under its topic: the incarnation that wrote it and a number of its own.
/// A key enters the map at most once (I9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct SegmentKey {
    /// Who wrote it.
    pub incarnation: Incarnation,
    /// Which of its files.
    pub number: u64,
}

/// A run of a partition in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SegmentRun {
    /// The file.
    pub segment: SegmentKey,
    /// The first row group with the run, and the last.
    pub row_groups: (u32, u32),
    /// First offset.
    pub base_offset: i64,
    /// Last offset.
    pub last_offset: i64,
    /// Largest timestamp, in milliseconds.
    pub max_timestamp: i64,
    /// Where its bytes begin in the file.
    pub byte_start: u64,
    /// How many there are.
    pub byte_len: u64,
}

/// The runs of every partition, ascending, contiguous and disjoint (I9).
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SegmentMap {
    /// By partition.
    pub runs: BTreeMap<TopicPartition, Vec<SegmentRun>>,
}
