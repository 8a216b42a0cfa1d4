//! What goes into the WAL: one batch of one partition.

use bytes::Bytes;
use firn_proto::ids::{LeaderEpoch, ProducerEpoch, ProducerId, TopicPartition};

use crate::state::{BatchFlags, ProducerBatch};

/// When the producer wants its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// Not at all (`acks=0`).
    None,
    /// After the local WAL's fsync, where there is a local WAL (`acks=1`).
    Local,
    /// When the slot is durable in the bucket (`acks=all`).
    Bucket,
}

/// The producer fields of a batch of a producer with state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerFields {
    /// The producer.
    pub id: ProducerId,
    /// Its session.
    pub epoch: ProducerEpoch,
    /// Sequence number of the first record.
    pub base_sequence: i32,
}

/// One record batch as its partition appended it: offsets given, bytes patched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalEntry {
    /// Whose batch this is.
    pub tp: TopicPartition,
    /// The leader epoch it was appended in.
    pub epoch: LeaderEpoch,
    /// First offset.
    pub base_offset: i64,
    /// Last offset.
    pub last_offset: i64,
    /// Largest record timestamp, in milliseconds.
    pub max_timestamp: i64,
    /// Set for a producer with state.
    pub producer: Option<ProducerFields>,
    /// Transactional, control.
    pub flags: BatchFlags,
    /// When its producer is answered.
    pub acks: Acks,
    /// The record batch v2, one batch, base offset and leader epoch patched.
    pub records: Bytes,
}

impl WalEntry {
    /// The row of the index that keeps the producer table a function of the log (I8).
    pub fn producer_batch(&self) -> Option<ProducerBatch> {
        let producer = self.producer?;
        let count = u32::try_from(self.last_offset - self.base_offset + 1).unwrap_or(u32::MAX);
        Some(ProducerBatch {
            tp: self.tp,
            producer: producer.id,
            producer_epoch: producer.epoch,
            base_sequence: producer.base_sequence,
            count,
            base_offset: self.base_offset,
            max_timestamp: self.max_timestamp,
            flags: self.flags,
        })
    }
}
