//! Entries for the tests of this module.

use bytes::Bytes;
use firn_proto::ids::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};

use super::{Acks, WalEntry};
use crate::state::BatchFlags;

pub(crate) fn tp(partition: i32) -> TopicPartition {
    TopicPartition {
        topic: TopicId([7; 16]),
        partition: PartitionIndex(partition),
    }
}

/// A batch of one record per offset from `base` to `last`, whose bytes tell it from others.
pub(crate) fn entry(partition: i32, base: i64, last: i64, bytes: usize) -> WalEntry {
    let fill = (base as u8)
        .wrapping_mul(31)
        .wrapping_add(partition as u8)
        .wrapping_add(1);
    WalEntry {
        tp: tp(partition),
        epoch: LeaderEpoch(3),
        base_offset: base,
        last_offset: last,
        max_timestamp: 1_700_000_000_000 + last,
        producer: None,
        flags: BatchFlags::default(),
        acks: Acks::Bucket,
        records: Bytes::from(vec![fill; bytes]),
    }
}
