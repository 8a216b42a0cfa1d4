//! Rows of the index of a WAL object.

use bincode::{Decode, Encode};
use firn_proto::ids::{LeaderEpoch, ProducerEpoch, ProducerId, SlotPosition, TopicPartition};

/// What kind of batches a row covers; bit set, stored as one byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct BatchFlags(pub u8);

impl BatchFlags {
    /// A batch of an open transaction.
    pub const TRANSACTIONAL: u8 = 1;
    /// A control batch (a transaction marker).
    pub const CONTROL: u8 = 2;

    /// Whether every bit of `flag` is set.
    pub fn has(self, flag: u8) -> bool {
        self.0 & flag == flag
    }
}

/// A contiguous offset range of one partition inside a WAL object: batches that stand side by
/// side, so that byte order is offset order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Run {
    /// Whose records these are.
    pub tp: TopicPartition,
    /// The leader epoch in every batch of the run.
    pub epoch: LeaderEpoch,
    /// First offset.
    pub base_offset: i64,
    /// Last offset.
    pub last_offset: i64,
    /// Where the first batch begins, in bytes from the start of the object.
    pub byte_start: u32,
    /// Length of all batches of the run in bytes.
    pub byte_len: u32,
    /// Largest record timestamp of the run, in milliseconds.
    pub max_timestamp: i64,
    /// The union of the flags of its batches.
    pub flags: BatchFlags,
}

/// One batch of a producer with state, in the order of its offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ProducerBatch {
    /// The partition it was written to.
    pub tp: TopicPartition,
    /// The producer.
    pub producer: ProducerId,
    /// Its session.
    pub producer_epoch: ProducerEpoch,
    /// Sequence number of the first record.
    pub base_sequence: i32,
    /// Number of records, which is last offset − base offset + 1.
    pub count: u32,
    /// First offset.
    pub base_offset: i64,
    /// Largest record timestamp, in milliseconds.
    pub max_timestamp: i64,
    /// Transactional, control.
    pub flags: BatchFlags,
}

/// A run together with the slot that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RunRef {
    /// The WAL object.
    pub at: SlotPosition,
    /// The run in it.
    pub run: Run,
}
