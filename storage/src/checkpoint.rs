//! Checkpoints: sets of state rows in a slot, or in an object that is put and confirmed before the
//! slot that names it (FORMAT.md §5).
//!
//! May not touch: what a state row means (`state/`), which slot comes next (`wal/`).

use bytes::Bytes;
use firn_proto::ids::{Slot, SlotPosition, StreamId};

use crate::bucket::{Bucket, BucketError, CreateOutcome, Purpose, backoff};
use crate::layout::Place;
use crate::state::{StateRow, StateRowFault};
use crate::stream::slot::SlotFault;
use crate::stream::{
    CheckpointRef, ReadError, StreamEnv, StreamName, WalIndex, crc32c, read_index,
};

/// What a checkpoint begins with.
pub const CHECKPOINT_MAGIC: [u8; 4] = *b"FCKP";
/// The version this code writes, and the only one it reads.
pub const CHECKPOINT_VERSION: u16 = 1;
const FIXED_LEN: usize = 16;
const CRC_LEN: usize = 4;

/// Rows of this many bytes stand in the index of their slot; more get an object of their own. Half
/// of what a reader of indexes asks for at first, so that such a slot still costs it one request.
pub const INLINE_MAX: usize = 32 * 1024;

/// A checkpoint object that is not ours lies where ours belongs, or it cannot be told.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CheckpointPutError {
    /// Other bytes are there: a stream id was given out twice, or the store lost its mind.
    #[error(
        "checkpoint object {key} is there already with other bytes: nothing but this writer may write it"
    )]
    Foreign {
        /// The object.
        key: String,
    },
}

/// Why bytes are not a checkpoint.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CheckpointFault {
    /// It is shorter than its fixed fields, or than the slot that names it says.
    #[error("it has {found} bytes where {expected} are expected")]
    Length {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be, or at least be.
        expected: u64,
    },
    /// It does not begin like a checkpoint.
    #[error("it does not begin with the magic of a checkpoint")]
    Magic,
    /// Written by a later release.
    #[error("it has version {0}; this release reads version {CHECKPOINT_VERSION}")]
    Version(u16),
    /// Its checksum is wrong.
    #[error("its checksum is wrong")]
    Crc,
    /// One of its rows is no state row.
    #[error("row {row}: {fault}")]
    Row {
        /// Which, from 0.
        row: u32,
        /// What is wrong with it.
        fault: StateRowFault,
    },
    /// There are bytes behind the last row.
    #[error("it has bytes behind its last row")]
    Long,
}

/// Why the state rows of a slot cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CheckpointReadError {
    /// The slot cannot be read.
    #[error("cannot read the slot of a checkpoint: {0}")]
    Slot(#[from] ReadError),
    /// The slot's index is not one.
    #[error("the index of slot {at} is corrupt: {fault}")]
    Index {
        /// The slot.
        at: SlotPosition,
        /// What is wrong.
        fault: SlotFault,
    },
    /// The journal says that the slot has state rows, and it has none.
    #[error("slot {at} holds no checkpoint, though the journal names one there")]
    Absent {
        /// The slot.
        at: SlotPosition,
    },
    /// The bytes are not what was written.
    #[error("the checkpoint of slot {at} is corrupt: {fault}")]
    Corrupt {
        /// The slot.
        at: SlotPosition,
        /// What is wrong.
        fault: CheckpointFault,
    },
    /// The bucket does not serve it.
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

/// State rows as bytes: magic, version u16, zero u16, number of rows u32, zero u32, the rows one
/// behind the other, CRC-32C of all before it; little-endian.
pub fn encode(rows: &[StateRow]) -> Bytes {
    let estimate: usize = rows.iter().map(StateRow::encoded_len_estimate).sum();
    let mut out = Vec::with_capacity(FIXED_LEN + estimate + CRC_LEN);
    out.extend_from_slice(&CHECKPOINT_MAGIC);
    out.extend_from_slice(&CHECKPOINT_VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    // a broker holds far fewer than 2^32 partitions
    let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for row in rows {
        row.encode(&mut out);
    }
    let crc = crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    Bytes::from(out)
}

/// Reads what [`encode`] wrote.
///
/// # Errors
///
/// [`CheckpointFault`]; nothing is trusted before the checksum is right.
pub fn decode(bytes: &[u8]) -> Result<Vec<StateRow>, CheckpointFault> {
    let short = CheckpointFault::Length {
        found: bytes.len() as u64,
        expected: (FIXED_LEN + CRC_LEN) as u64,
    };
    let Some((covered, crc)) = bytes.split_last_chunk::<CRC_LEN>() else {
        return Err(short);
    };
    let Some((fixed, mut rest)) = covered.split_first_chunk::<FIXED_LEN>() else {
        return Err(short);
    };
    if fixed[..4] != CHECKPOINT_MAGIC {
        return Err(CheckpointFault::Magic);
    }
    if u32::from_le_bytes(*crc) != crc32c(covered) {
        return Err(CheckpointFault::Crc);
    }
    let version = u16::from_le_bytes([fixed[4], fixed[5]]);
    if version != CHECKPOINT_VERSION {
        return Err(CheckpointFault::Version(version));
    }
    let count = u32::from_le_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]);
    let mut rows = Vec::new();
    for row in 0..count {
        let decoded =
            StateRow::decode(&mut rest).map_err(|fault| CheckpointFault::Row { row, fault })?;
        rows.push(decoded);
    }
    if !rest.is_empty() {
        return Err(CheckpointFault::Long);
    }
    Ok(rows)
}

/// The state rows that stand in a slot, or in the object that it names.
///
/// # Errors
///
/// [`CheckpointReadError`]: everything but `Bucket` means that the bucket lost or changed
/// something that had been durable.
pub async fn read(
    bucket: &Bucket,
    stream: &StreamName,
    slot: Slot,
) -> Result<Vec<StateRow>, CheckpointReadError> {
    let at = SlotPosition {
        stream: stream.stream,
        slot,
    };
    let view = read_index(bucket, stream, slot)
        .await?
        .ok_or(CheckpointReadError::Absent { at })?;
    if view.index.is_empty() {
        return Err(CheckpointReadError::Absent { at });
    }
    let index = WalIndex::decode(&view.index, view.header.body_len)
        .map_err(|fault| CheckpointReadError::Index { at, fault })?;
    let corrupt = |fault| CheckpointReadError::Corrupt { at, fault };
    match index.checkpoint {
        CheckpointRef::None => Err(CheckpointReadError::Absent { at }),
        CheckpointRef::Inline(rows) => decode(&rows).map_err(corrupt),
        CheckpointRef::Object { slot, len, crc } => {
            let key = Place::Checkpoint {
                stream: stream.stream,
                slot,
            }
            .key();
            let rows = bucket.get(Purpose::Checkpoint, &key).await?;
            let rows = rows.unwrap_or_default();
            if rows.len() as u64 != len {
                return Err(corrupt(CheckpointFault::Length {
                    found: rows.len() as u64,
                    expected: len,
                }));
            }
            if crc32c(&rows) != crc {
                return Err(corrupt(CheckpointFault::Crc));
            }
            decode(&rows).map_err(corrupt)
        }
    }
}

/// Puts `rows` as the checkpoint object of `slot` and returns how a slot names it. The same bytes
/// are put until the object is there, which takes as long as the bucket does.
///
/// Dropping the future may leave an object that nothing names.
///
/// # Errors
///
/// [`CheckpointPutError::Foreign`].
pub(crate) async fn put_object(
    bucket: &Bucket,
    stream: StreamId,
    slot: Slot,
    rows: Bytes,
    env: &StreamEnv,
) -> Result<CheckpointRef, CheckpointPutError> {
    let key = Place::Checkpoint { stream, slot }.key();
    let named = CheckpointRef::Object {
        slot,
        len: rows.len() as u64,
        crc: crc32c(&rows),
    };
    let mut attempt = 0;
    loop {
        let outcome = bucket
            .create_once(Purpose::Checkpoint, &key, vec![rows.clone()])
            .await;
        match outcome {
            CreateOutcome::Created => return Ok(named),
            CreateOutcome::Exists => match bucket.get(Purpose::Checkpoint, &key).await {
                Ok(Some(found)) if found == rows => return Ok(named),
                Ok(Some(_)) => {
                    return Err(CheckpointPutError::Foreign {
                        key: key.to_string(),
                    });
                }
                // a 409 where nothing was written, or no answer: put it again
                Ok(None) | Err(_) => {}
            },
            CreateOutcome::Unclear(reason) => {
                tracing::info!(%key, %reason, "the put of a checkpoint object is unclear, putting it again");
            }
            CreateOutcome::Refused(error) => log_refused(&error),
        }
        attempt += 1;
        tokio::time::sleep(backoff(attempt, env.entropy.next_u64())).await;
    }
}

fn log_refused(error: &BucketError) {
    tracing::warn!(%error, "the bucket refuses a checkpoint object, trying again");
}

#[cfg(test)]
mod tests {
    use firn_proto::ids::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};

    use super::*;

    fn rows(count: i32) -> Vec<StateRow> {
        (0..count)
            .map(|partition| {
                let tp = TopicPartition {
                    topic: TopicId([3; 16]),
                    partition: PartitionIndex(partition),
                };
                let mut row = StateRow::new(tp, LeaderEpoch(partition));
                row.end_offset = i64::from(partition) << 33;
                row
            })
            .collect()
    }

    #[test]
    fn rows_read_back_as_they_were_written() {
        for count in [0, 1, 300] {
            assert_eq!(decode(&encode(&rows(count))), Ok(rows(count)));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = encode(&rows(2)).to_vec();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn a_count_that_the_bytes_cannot_hold_is_refused_before_memory_is_taken() {
        let mut bytes = encode(&[]).to_vec();
        bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        let end = bytes.len() - CRC_LEN;
        let crc = crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(
            decode(&bytes),
            Err(CheckpointFault::Row { row: 0, .. })
        ));
    }

    #[test]
    fn a_checkpoint_has_these_bytes() {
        let bytes = encode(&rows(1));
        assert_eq!(&bytes[..16], b"FCKP\x01\0\0\0\x01\0\0\0\0\0\0\0");
    }
}
