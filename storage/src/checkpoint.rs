//! Checkpoints: sets of state rows in a slot, or in an object that is put and confirmed before the
//! slot that names it. Beside the rows stand pages of runs that rows, also later ones, refer to:
//! a page is written once (storage/FORMAT.md §5).
//!
//! May not touch: what a state row means (`state/`), which slot comes next (`wal/`).

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use firn_proto::ids::{Slot, SlotPosition, StreamId, TopicPartition};
use futures::{StreamExt, TryStreamExt};

use crate::bucket::{Bucket, BucketError, CreateOutcome, Purpose, backoff};
use crate::layout::Place;
use crate::state::{NewPages, PagePlace, StateRow, StateRowFault, StoredRow, WrittenPage};
use crate::stream::slot::SlotFault;
use crate::stream::{
    CheckpointRef, ReadError, StreamEnv, StreamName, WalIndex, crc32c, read_index,
};

/// What a checkpoint begins with.
pub const CHECKPOINT_MAGIC: [u8; 4] = *b"FCKP";
/// The version this code writes. It reads version 1 as well, which had no pages.
pub const CHECKPOINT_VERSION: u16 = 2;
const FIXED_LEN: usize = 16;
const CRC_LEN: usize = 4;

/// Rows of this many bytes stand in the index of their slot; more get an object of their own. Half
/// of what a reader of indexes asks for at first, so that such a slot still costs it one request.
pub const INLINE_MAX: usize = 32 * 1024;

/// GETs for pages in flight at a time.
const PAGE_GETS_MAX: usize = 32;

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
    #[error("it has version {0}; this release reads versions 1 to {CHECKPOINT_VERSION}")]
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
    /// A page of runs that a row refers to is not what was written.
    #[error("the state row of {tp}: {fault}")]
    Pages {
        /// The partition.
        tp: TopicPartition,
        /// What is wrong.
        fault: StateRowFault,
    },
    /// The bucket does not serve it.
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

/// A checkpoint as bytes.
#[derive(Clone, Debug)]
pub struct EncodedCheckpoint {
    /// The bytes.
    pub bytes: Bytes,
    /// The pages that it is the first to hold. If there are any it must become an object: only
    /// there do rows find them.
    pub pages: Vec<WrittenPage>,
}

/// State rows as bytes, for a checkpoint in `stream`: magic, version u16, zero u16, number of rows
/// u32, bytes of pages u32, the pages, the rows, CRC-32C of all before it; little-endian.
pub fn encode(stream: StreamId, rows: &[StateRow]) -> EncodedCheckpoint {
    let mut new = NewPages::new(stream, FIXED_LEN);
    let estimate: usize = rows.iter().map(StateRow::encoded_len_estimate).sum();
    let mut encoded = Vec::with_capacity(estimate);
    for row in rows {
        row.encode(&mut encoded, &mut new);
    }
    let (page_bytes, pages) = new.into_parts();
    let mut out = Vec::with_capacity(FIXED_LEN + page_bytes.len() + encoded.len() + CRC_LEN);
    out.extend_from_slice(&CHECKPOINT_MAGIC);
    out.extend_from_slice(&CHECKPOINT_VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    // a broker holds far fewer than 2^32 partitions, and a page says in 32 bits where it is
    for count in [rows.len(), page_bytes.len()] {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_le_bytes());
    }
    out.extend_from_slice(&page_bytes);
    out.extend_from_slice(&encoded);
    let crc = crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    EncodedCheckpoint {
        bytes: Bytes::from(out),
        pages,
    }
}

/// Reads what [`encode`] wrote.
///
/// # Errors
///
/// [`CheckpointFault`]; nothing is trusted before the checksum is right.
pub fn decode(bytes: &[u8]) -> Result<Vec<StoredRow>, CheckpointFault> {
    let short = CheckpointFault::Length {
        found: bytes.len() as u64,
        expected: (FIXED_LEN + CRC_LEN) as u64,
    };
    let Some((covered, crc)) = bytes.split_last_chunk::<CRC_LEN>() else {
        return Err(short);
    };
    let Some((fixed, rest)) = covered.split_first_chunk::<FIXED_LEN>() else {
        return Err(short);
    };
    if fixed[..4] != CHECKPOINT_MAGIC {
        return Err(CheckpointFault::Magic);
    }
    if u32::from_le_bytes(*crc) != crc32c(covered) {
        return Err(CheckpointFault::Crc);
    }
    let version = u16::from_le_bytes([fixed[4], fixed[5]]);
    if !(1..=CHECKPOINT_VERSION).contains(&version) {
        return Err(CheckpointFault::Version(version));
    }
    let count = u32::from_le_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]);
    // version 1 has zeros here
    let page_bytes = u32::from_le_bytes([fixed[12], fixed[13], fixed[14], fixed[15]]);
    let page_bytes = usize::try_from(page_bytes).unwrap_or(usize::MAX);
    let mut rest = rest.get(page_bytes..).ok_or(short)?;
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

/// The state rows that stand in a slot, or in the object that it names, as yet without the pages
/// of runs that they refer to: [`with_pages`].
///
/// # Errors
///
/// [`CheckpointReadError`]: everything but `Bucket` means that the bucket lost or changed
/// something that had been durable.
pub async fn read(
    bucket: &Bucket,
    stream: &StreamName,
    slot: Slot,
) -> Result<Vec<StoredRow>, CheckpointReadError> {
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
            let mut rows = decode(&rows).map_err(corrupt)?;
            for row in &mut rows {
                row.found_in(stream.stream, slot);
            }
            Ok(rows)
        }
    }
}

/// Reads the pages of runs that `rows` refer to, and gives the whole rows, in their order. Pages
/// of one object come in one GET: they stand side by side.
///
/// # Errors
///
/// [`CheckpointReadError`]: everything but `Bucket` means that the bucket lost or changed
/// something that had been durable.
pub async fn with_pages(
    bucket: &Bucket,
    rows: Vec<StoredRow>,
) -> Result<Vec<StateRow>, CheckpointReadError> {
    let mut spans: BTreeMap<(StreamId, Slot), Range<u64>> = BTreeMap::new();
    for place in rows.iter().flat_map(StoredRow::places) {
        let (start, end) = extent(&place);
        let span = spans
            .entry((place.stream, place.slot))
            .or_insert(start..end);
        *span = span.start.min(start)..span.end.max(end);
    }
    let gets = spans.into_iter().map(|((stream, slot), span)| async move {
        let key = Place::Checkpoint { stream, slot }.key();
        let got = bucket.get_range(Purpose::Checkpoint, &key, span.clone());
        let bytes = got.await?.unwrap_or_default();
        Ok::<_, BucketError>(((stream, slot), (span.start, bytes)))
    });
    let gets = futures::stream::iter(gets).buffer_unordered(PAGE_GETS_MAX);
    let objects: BTreeMap<_, _> = gets.try_collect().await?;
    let bytes_at = |place: &PagePlace| {
        let (from, bytes): &(u64, Bytes) = objects.get(&(place.stream, place.slot))?;
        let (start, end) = extent(place);
        let start = usize::try_from(start.checked_sub(*from)?).ok()?;
        let end = usize::try_from(end.checked_sub(*from)?).ok()?;
        bytes.get(start..end)
    };
    rows.into_iter()
        .map(|row| {
            let tp = row.without_runs().tp;
            row.with_pages(bytes_at)
                .map_err(|fault| CheckpointReadError::Pages { tp, fault })
        })
        .collect()
}

fn extent(place: &PagePlace) -> (u64, u64) {
    let start = u64::from(place.start);
    (start, start + u64::from(place.len))
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

    const STREAM: StreamId = StreamId(4);

    fn whole(rows: Vec<StoredRow>) -> Vec<StateRow> {
        let none = |_: &PagePlace| None;
        rows.into_iter()
            .map(|row| row.with_pages(none).unwrap())
            .collect()
    }

    #[test]
    fn rows_read_back_as_they_were_written() {
        for count in [0, 1, 300] {
            let bytes = encode(STREAM, &rows(count)).bytes;
            assert_eq!(whole(decode(&bytes).unwrap()), rows(count));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = encode(STREAM, &rows(2)).bytes.to_vec();
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
        let mut bytes = encode(STREAM, &[]).bytes.to_vec();
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
        let bytes = encode(STREAM, &rows(1)).bytes;
        assert_eq!(&bytes[..16], b"FCKP\x02\0\0\0\x01\0\0\0\0\0\0\0");
    }
}
