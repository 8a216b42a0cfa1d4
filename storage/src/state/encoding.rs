//! A state row as bytes, versioned and compact: numbers of variable length, runs as differences.
//! `storage/FORMAT.md` has the table; golden bytes in the tests pin it.
//!
//! Rows lie in checkpoints, which carry a checksum; still nothing here panics or takes memory
//! beyond what the bytes can hold.

use firn_proto::ids::{
    LeaderEpoch, PartitionIndex, ProducerEpoch, ProducerId, Slot, SlotPosition, StreamId, TopicId,
    TopicPartition,
};
use firn_proto::limits::{PRODUCER_BATCHES_KEPT, PRODUCERS_PER_PARTITION_MAX};
use firn_proto::varint::{put_i64, put_u64, take_i64, take_u64};
use thiserror::Error;

use super::page::PagePlace;
use super::partition::{AbortedTxn, OpenTxn, StateRow};
use super::producers::{ProducerState, ProducerTable, Remembered};
use super::runs::RunTable;
use super::stored::{NewPages, StoredRow, decode_open, decode_pages, encode_runs};

/// The version that this code writes. It reads version 1 as well, which had no pages.
pub const STATE_ROW_VERSION: u8 = 2;

/// Why bytes are not a state row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StateRowFault {
    /// Written by a newer release.
    #[error("state row has version {0}, this release reads versions 1 to {STATE_ROW_VERSION}")]
    Version(u8),
    /// A field is cut off or has a value that no row has.
    #[error("state row is broken: {0}")]
    Broken(&'static str),
    /// A page of runs that the row refers to is not there or not what was written.
    #[error("page of runs at {}..{} of checkpoint object {}/{} is missing or damaged", .0.start, u64::from(.0.start) + u64::from(.0.len), .0.stream, .0.slot)]
    Page(PagePlace),
}

pub(super) type Decoded<T> = Result<T, StateRowFault>;

impl StateRow {
    /// Appends the row to `out`. Rows can be strung together: each says where it ends. Full pages
    /// of runs that are not in the bucket yet go to `pages`, if it takes them.
    pub fn encode(&self, out: &mut Vec<u8>, pages: &mut NewPages) {
        out.push(STATE_ROW_VERSION);
        out.extend_from_slice(&self.tp.topic.0);
        put_i64(out, i64::from(self.tp.partition.0));
        put_i64(out, i64::from(self.epoch.0));
        match self.after {
            None => out.push(0),
            Some(after) => {
                out.push(1);
                put_u64(out, after.stream.0);
                put_u64(out, after.slot.0);
            }
        }
        put_i64(out, self.log_start);
        put_i64(out, self.end_offset.wrapping_sub(self.log_start));
        encode_producers(&self.producers, self.end_offset, out);
        put_len(out, self.open_txns.len());
        for txn in &self.open_txns {
            put_i64(out, txn.producer.0);
            put_i64(out, txn.first_offset);
        }
        put_len(out, self.aborted.len());
        for txn in &self.aborted {
            put_i64(out, txn.producer.0);
            put_i64(out, txn.first_offset);
            put_i64(out, txn.last_offset.wrapping_sub(txn.first_offset));
        }
        encode_runs(self, out, pages);
    }

    /// About how many bytes [`Self::encode`] appends; cheap.
    pub fn encoded_len_estimate(&self) -> usize {
        48 + 80 * self.producers.len()
            + 16 * (self.open_txns.len() + self.aborted.len())
            + self.runs.encoded_len_estimate()
    }

    /// Takes the row at the start of `bytes` off.
    ///
    /// # Errors
    /// The bytes are not a row, or one of a newer release.
    pub fn decode(bytes: &mut &[u8]) -> Decoded<StoredRow> {
        let version = take_byte(bytes)?;
        if !(1..=STATE_ROW_VERSION).contains(&version) {
            return Err(StateRowFault::Version(version));
        }
        let (topic, rest) = bytes.split_first_chunk().ok_or(cut("topic id"))?;
        *bytes = rest;
        let tp = TopicPartition {
            topic: TopicId(*topic),
            partition: PartitionIndex(int32(bytes, "partition")?),
        };
        let epoch = LeaderEpoch(int32(bytes, "leader epoch")?);
        let after = match take_byte(bytes)? {
            0 => None,
            1 => Some(SlotPosition {
                stream: StreamId(unsigned(bytes, "stream")?),
                slot: Slot(unsigned(bytes, "slot")?),
            }),
            _ => return Err(StateRowFault::Broken("kind of the slot it is after")),
        };
        let log_start = offset(int(bytes, "log start")?)?;
        let end_offset = offset(log_start.saturating_add(int(bytes, "end offset")?))?;
        if end_offset < log_start {
            return Err(StateRowFault::Broken("end offset below log start"));
        }
        let producers = decode_producers(bytes, end_offset)?;
        let open_txns = repeat(bytes, 2, |bytes| {
            Ok(OpenTxn {
                producer: ProducerId(int(bytes, "producer")?),
                first_offset: offset(int(bytes, "first offset")?)?,
            })
        })?;
        let aborted = repeat(bytes, 3, |bytes| {
            let producer = ProducerId(int(bytes, "producer")?);
            let first_offset = offset(int(bytes, "first offset")?)?;
            let len = int(bytes, "last offset")?;
            Ok(AbortedTxn {
                producer,
                first_offset,
                last_offset: offset(first_offset.saturating_add(len))?,
            })
        })?;
        let pages = match version {
            1 => Vec::new(),
            _ => decode_pages(bytes, tp)?,
        };
        let open = decode_open(bytes, tp)?;
        let row = Self {
            tp,
            epoch,
            after,
            log_start,
            end_offset,
            producers,
            open_txns,
            aborted,
            runs: RunTable::default(),
        };
        Ok(StoredRow { row, pages, open })
    }
}

fn encode_producers(table: &ProducerTable, end_offset: i64, out: &mut Vec<u8>) {
    put_len(out, table.len());
    let mut id_before = 0;
    for (id, state) in table.iter() {
        put_i64(out, id.0.wrapping_sub(id_before));
        id_before = id.0;
        put_i64(out, i64::from(state.epoch().0));
        put_i64(out, state.seen_ms());
        put_i64(out, end_offset.wrapping_sub(state.last_offset()));
        match state.finished_ordinal() {
            None => out.push(0),
            Some(ordinal) => {
                out.push(1);
                put_u64(out, ordinal);
            }
        }
        put_len(out, state.batches().len());
        let (mut offset_before, mut timestamp_before) = (end_offset, state.seen_ms());
        for batch in state.batches() {
            put_i64(out, i64::from(batch.base_sequence));
            put_u64(out, u64::from(batch.count));
            put_i64(out, batch.base_offset.wrapping_sub(offset_before));
            put_i64(out, batch.max_timestamp.wrapping_sub(timestamp_before));
            (offset_before, timestamp_before) = (batch.base_offset, batch.max_timestamp);
        }
    }
}

fn decode_producers(bytes: &mut &[u8], end_offset: i64) -> Decoded<ProducerTable> {
    let count = len(bytes, 6)?;
    if count > PRODUCERS_PER_PARTITION_MAX {
        return Err(StateRowFault::Broken("number of producers"));
    }
    let mut table = ProducerTable::default();
    let mut id_before = 0_i64;
    for _ in 0..count {
        let id = id_before.wrapping_add(int(bytes, "producer")?);
        id_before = id;
        let epoch = i16::try_from(int(bytes, "producer epoch")?)
            .map_err(|_| StateRowFault::Broken("producer epoch"))?;
        let seen_ms = int(bytes, "time of the last batch")?;
        let last_offset = end_offset.wrapping_sub(int(bytes, "last offset of a producer")?);
        let ordinal = match take_byte(bytes)? {
            0 => None,
            1 => Some(unsigned(bytes, "transaction ordinal")?),
            _ => return Err(StateRowFault::Broken("kind of the transaction ordinal")),
        };
        let mut state = ProducerState::new(ProducerEpoch(epoch), seen_ms);
        let batches = len(bytes, 4)?;
        if batches > PRODUCER_BATCHES_KEPT {
            return Err(StateRowFault::Broken("number of batches of a producer"));
        }
        let (mut offset_before, mut timestamp_before) = (end_offset, seen_ms);
        for _ in 0..batches {
            let base_sequence = int32(bytes, "base sequence")?;
            let count = u32::try_from(unsigned(bytes, "record count")?)
                .map_err(|_| StateRowFault::Broken("record count"))?;
            let base_offset = offset(offset_before.wrapping_add(int(bytes, "base offset")?))?;
            let max_timestamp = timestamp_before.wrapping_add(int(bytes, "max timestamp")?);
            (offset_before, timestamp_before) = (base_offset, max_timestamp);
            state.keep(Remembered {
                base_sequence,
                count,
                base_offset,
                max_timestamp,
            });
        }
        state.restore(last_offset, ordinal);
        table.restore(ProducerId(id), state);
    }
    Ok(table)
}

pub(super) fn put_len(out: &mut Vec<u8>, len: usize) {
    put_u64(out, len as u64);
}

/// A number of items, each of which takes at least `bytes_min` bytes of what is left.
pub(super) fn len(bytes: &mut &[u8], bytes_min: usize) -> Decoded<usize> {
    let count = unsigned(bytes, "number of items")?;
    usize::try_from(count)
        .ok()
        .filter(|count| *count <= bytes.len() / bytes_min)
        .ok_or(StateRowFault::Broken("more items than bytes"))
}

fn repeat<T>(
    bytes: &mut &[u8],
    bytes_min: usize,
    read: impl Fn(&mut &[u8]) -> Decoded<T>,
) -> Decoded<Vec<T>> {
    (0..len(bytes, bytes_min)?).map(|_| read(bytes)).collect()
}

pub(super) fn take_byte(bytes: &mut &[u8]) -> Decoded<u8> {
    let (byte, rest) = bytes.split_first().ok_or(cut("a byte"))?;
    *bytes = rest;
    Ok(*byte)
}

pub(super) fn int(bytes: &mut &[u8], field: &'static str) -> Decoded<i64> {
    take_i64(bytes).ok_or_else(|| cut(field))
}

pub(super) fn unsigned(bytes: &mut &[u8], field: &'static str) -> Decoded<u64> {
    take_u64(bytes).ok_or_else(|| cut(field))
}

pub(super) fn int32(bytes: &mut &[u8], field: &'static str) -> Decoded<i32> {
    i32::try_from(int(bytes, field)?).map_err(|_| cut(field))
}

pub(super) fn uint32(bytes: &mut &[u8], field: &'static str) -> Decoded<u32> {
    u32::try_from(unsigned(bytes, field)?).map_err(|_| cut(field))
}

/// An offset is never negative, and there is always one behind it.
pub(super) fn offset(value: i64) -> Decoded<i64> {
    if (0..i64::MAX).contains(&value) {
        Ok(value)
    } else {
        Err(StateRowFault::Broken("offset out of range"))
    }
}

const fn cut(field: &'static str) -> StateRowFault {
    StateRowFault::Broken(field)
}

#[cfg(test)]
mod tests;
