//! What a broker asks the owner of partitions that it reads for clients of its own rack (KIP-392), and
//! the answer: how far they may be read, and where their records lie in the bucket. Both go over the
//! link in parts, as calls do. Pure.

use std::time::Duration;

use bincode::{Decode, Encode};
use bytes::Bytes;

use super::call::decode;
use crate::codec::{self, CodecError};
use crate::ids::{LeaderEpoch, SlotPosition, TopicPartition};

/// A question about partitions that one broker owns.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Looks {
    /// How long to wait for as many bytes as are wanted.
    pub wait: Duration,
    /// Bytes that are wanted of all the partitions together.
    pub bytes_min: u32,
    /// Only what belongs to no unfinished transaction is wanted.
    pub read_committed: bool,
    /// The partitions, at most [`LOOK_PARTITIONS_MAX`](crate::limits::LOOK_PARTITIONS_MAX).
    pub partitions: Vec<Look>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Look {
    /// The partition.
    pub tp: TopicPartition,
    /// The epoch in which it is taken to be owned.
    pub epoch: LeaderEpoch,
    /// The first offset that is wanted.
    pub offset: i64,
    /// About how many bytes are wanted from there on.
    pub bytes_max: u32,
}

/// What is seen of a partition by its owner.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Sight {
    /// The first offset there is.
    pub log_start: i64,
    /// Records below are in segments, those from here on in the WAL.
    pub archived_to: i64,
    /// Records below are durable in the bucket, and visible.
    pub high_watermark: i64,
    /// Records below belong to no unfinished transaction.
    pub last_stable_offset: i64,
    /// The offset of the next batch, which is ahead of what is visible.
    pub log_end: i64,
    /// About how many bytes may be read from the first offset that is wanted on, as far as bytes are
    /// wanted: of all runs, named below or not. What is archived counts as all that is wanted. Owner and
    /// reader both judge by it whether there is enough.
    pub available: u32,
    /// Where the records lie that are not in segments: from the first that is wanted on, in the order
    /// of their offsets.
    pub runs: Vec<SightRun>,
}

/// A run in a WAL object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SightRun {
    /// The object.
    pub at: SlotPosition,
    /// The leader epoch in every batch of the run.
    pub epoch: LeaderEpoch,
    /// First offset.
    pub base_offset: i64,
    /// Last offset.
    pub last_offset: i64,
    /// Where the first batch begins in the object.
    pub byte_start: u32,
    /// Bytes of all batches of the run.
    pub byte_len: u32,
    /// Largest timestamp of a record, in milliseconds.
    pub max_timestamp: i64,
    /// The union of the flags of its batches, as in the index of the object.
    pub flags: u8,
}

/// What the owner says of each partition of a question, in its order; `None` of one that it does not
/// own in that epoch. Nothing at all, if it may or can say nothing now.
pub type Sights = Vec<Option<Sight>>;

/// Writes a question.
///
/// # Errors
/// [`CodecError`]: it cannot be written.
pub fn encode_looks(looks: &Looks) -> Result<Bytes, CodecError> {
    codec::encode(looks).map(Bytes::from)
}

/// Reads a question.
///
/// # Errors
/// [`CodecError`]: it is none, or claims to hold more than its length can mean.
pub fn decode_looks(bytes: &[u8]) -> Result<Looks, CodecError> {
    decode(bytes)
}

/// Writes an answer.
///
/// # Errors
/// [`CodecError`]: it cannot be written.
pub fn encode_sights(sights: &Sights) -> Result<Bytes, CodecError> {
    codec::encode(sights).map(Bytes::from)
}

/// Reads an answer.
///
/// # Errors
/// As [`decode_looks`].
pub fn decode_sights(bytes: &[u8]) -> Result<Sights, CodecError> {
    decode(bytes)
}
