//! The rows of a batch table, as they are read: never a panic, and nothing is taken for true that
//! the bytes at hand cannot hold.

use firn_proto::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use firn_proto::record::{Attributes, BatchHeader};
use firn_proto::varint::{take_i64, take_u64};

use super::{Before, PRODUCER, RECORDS, TIMESTAMPS, Trailer, VERBATIM};
use crate::segment::fault::SegmentFault;

/// A row as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::segment) enum Row {
    /// A batch as it came, at this place among the rows.
    Verbatim {
        last_offset: i64,
        start: usize,
        end: usize,
    },
    /// A batch of records in the columns.
    Columns { header: BatchHeader, beyond: Beyond },
}

/// What the table has of the records of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::segment) struct Beyond {
    /// Where the timestamp deltas begin, if they are here.
    pub(in crate::segment) timestamps: Option<usize>,
    /// How many records are kept verbatim, and where they begin.
    pub(in crate::segment) records: u64,
    pub(in crate::segment) records_at: usize,
}

impl Row {
    pub(in crate::segment) fn last_offset(&self) -> i64 {
        match self {
            Self::Verbatim { last_offset, .. } => *last_offset,
            Self::Columns { header, .. } => header.last_offset(),
        }
    }
}

/// Reads the rows of a batch table one after the other.
#[derive(Debug)]
pub(in crate::segment) struct RowReader {
    rows: Vec<u8>,
    at: usize,
    before: Before,
    batches_left: u32,
    records_left: u32,
    last_offset: i64,
}

impl RowReader {
    pub(in crate::segment) fn new(trailer: &Trailer, rows: Vec<u8>) -> Self {
        Self {
            rows,
            at: 0,
            before: Before {
                next_offset: trailer.base_offset,
                ..Before::default()
            },
            batches_left: trailer.batches,
            records_left: trailer.records,
            last_offset: trailer.last_offset,
        }
    }

    /// The bytes of all rows.
    pub(in crate::segment) fn bytes(&self) -> &[u8] {
        &self.rows
    }

    /// Whether all its rows were read.
    pub(in crate::segment) fn is_behind_last(&self) -> bool {
        self.batches_left == 0
    }

    /// The next row, if there is one.
    pub(in crate::segment) fn next_row(&mut self) -> Result<Option<Row>, SegmentFault> {
        if self.batches_left == 0 {
            let done = self.at == self.rows.len() && self.records_left == 0;
            return if done {
                Ok(None)
            } else {
                Err(SegmentFault::Table("more than its batches"))
            };
        }
        self.batches_left -= 1;
        let mut rest = self.rows.get(self.at..).unwrap_or_default();
        let row = read_row(&mut rest, self.rows.len(), &mut self.before)?;
        if row.last_offset() > self.last_offset {
            return Err(SegmentFault::Table("offset behind the row group"));
        }
        if let Row::Columns { header, .. } = &row {
            self.records_left = u32::try_from(header.record_count)
                .ok()
                .and_then(|count| self.records_left.checked_sub(count))
                .ok_or(SegmentFault::Table("number of records"))?;
        }
        self.at = self.rows.len() - rest.len();
        Ok(Some(row))
    }
}

fn read_row(rest: &mut &[u8], len: usize, before: &mut Before) -> Result<Row, SegmentFault> {
    let (head, behind) = rest
        .split_first()
        .ok_or_else(|| cut("first byte of a row"))?;
    *rest = behind;
    let base_offset = before
        .next_offset
        .checked_add_unsigned(unsigned(rest, "base offset")?)
        .ok_or_else(|| cut("base offset"))?;
    if *head == VERBATIM {
        return read_verbatim(rest, len, base_offset, before);
    }
    if head & !(PRODUCER | TIMESTAMPS | RECORDS) != 0 {
        return Err(cut("first byte of a row"));
    }
    let record_count = i32::try_from(unsigned(rest, "number of records")?)
        .map_err(|_| cut("number of records"))?;
    let last_offset_delta = i64::from(record_count)
        .checked_add(signed(rest, "last offset")?)
        .and_then(|deltas| i32::try_from(deltas.checked_sub(1)?).ok())
        .ok_or_else(|| cut("last offset"))?;
    let attributes = u16::try_from(unsigned(rest, "attributes")?).map_err(|_| cut("attributes"))?;
    let leader_epoch = added(before.leader_epoch, signed(rest, "leader epoch")?)?;
    let base_timestamp = before
        .base_timestamp
        .wrapping_add(signed(rest, "base timestamp")?);
    let max_timestamp = base_timestamp.wrapping_add(signed(rest, "max timestamp")?);
    (before.leader_epoch, before.base_timestamp) = (leader_epoch, base_timestamp);
    let (mut producer_id, mut producer_epoch, mut base_sequence) = (-1, -1, -1);
    if head & PRODUCER != 0 {
        producer_id = before.producer_id.wrapping_add(signed(rest, "producer")?);
        producer_epoch =
            i16::try_from(signed(rest, "producer epoch")?).map_err(|_| cut("producer epoch"))?;
        base_sequence = added(before.base_sequence, signed(rest, "base sequence")?)?;
        (before.producer_id, before.base_sequence) = (producer_id, base_sequence);
    }
    let header = BatchHeader {
        base_offset,
        length: 0,
        leader_epoch: LeaderEpoch(leader_epoch),
        crc: 0,
        attributes: Attributes(attributes.cast_signed()),
        last_offset_delta,
        base_timestamp,
        max_timestamp,
        producer_id: ProducerId(producer_id),
        producer_epoch: ProducerEpoch(producer_epoch),
        base_sequence,
        record_count,
    };
    before.next_offset = next_offset(base_offset, last_offset_delta)?;
    let beyond = read_beyond(rest, len, *head, record_count)?;
    Ok(Row::Columns { header, beyond })
}

/// Reads past what the row has of the records, so that it is known to be whole.
fn read_beyond(
    rest: &mut &[u8],
    len: usize,
    head: u8,
    record_count: i32,
) -> Result<Beyond, SegmentFault> {
    let mut beyond = Beyond::default();
    if head & TIMESTAMPS != 0 {
        beyond.timestamps = Some(len - rest.len());
        for _ in 0..record_count {
            signed(rest, "timestamp")?;
        }
    }
    if head & RECORDS != 0 {
        beyond.records = unsigned(rest, "records kept verbatim")?;
        beyond.records_at = len - rest.len();
        let mut next = 0_u64;
        for _ in 0..beyond.records {
            let kept = take_kept(rest).ok_or_else(|| cut("record kept verbatim"))?;
            let index = next.checked_add(kept.skipped);
            next = index
                .filter(|index| *index < u64::from(record_count.cast_unsigned()))
                .ok_or_else(|| cut("record kept verbatim"))?
                + 1;
        }
    }
    Ok(beyond)
}

fn read_verbatim(
    rest: &mut &[u8],
    len: usize,
    base_offset: i64,
    before: &mut Before,
) -> Result<Row, SegmentFault> {
    let batch_len = usize::try_from(unsigned(rest, "length of a batch")?)
        .map_err(|_| cut("length of a batch"))?;
    let start = len - rest.len();
    let (batch, behind) = rest
        .split_at_checked(batch_len)
        .ok_or_else(|| cut("length of a batch"))?;
    *rest = behind;
    let header = BatchHeader::parse(batch).map_err(|_| cut("batch kept verbatim"))?;
    if header.base_offset != base_offset || header.total_bytes() != batch_len {
        return Err(cut("batch kept verbatim"));
    }
    before.next_offset = next_offset(base_offset, header.last_offset_delta)?;
    Ok(Row::Verbatim {
        last_offset: before.next_offset - 1,
        start,
        end: start + batch_len,
    })
}

/// A record that is kept verbatim.
#[derive(Clone, Copy, Debug)]
pub(in crate::segment) struct Kept<'a> {
    /// Records between it and the one before it.
    pub(in crate::segment) skipped: u64,
    /// All of it.
    pub(in crate::segment) record: &'a [u8],
}

/// Takes a record that is kept verbatim off the front.
pub(in crate::segment) fn take_kept<'a>(bytes: &mut &'a [u8]) -> Option<Kept<'a>> {
    let skipped = take_u64(bytes)?;
    let len = usize::try_from(take_u64(bytes)?).ok()?;
    let (record, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(Kept { skipped, record })
}

fn next_offset(base_offset: i64, last_offset_delta: i32) -> Result<i64, SegmentFault> {
    base_offset
        .checked_add(i64::from(last_offset_delta))
        .and_then(|last| last.checked_add(1))
        .filter(|next| *next >= base_offset)
        .ok_or_else(|| cut("last offset"))
}

fn signed(bytes: &mut &[u8], field: &'static str) -> Result<i64, SegmentFault> {
    take_i64(bytes).ok_or_else(|| cut(field))
}

fn unsigned(bytes: &mut &[u8], field: &'static str) -> Result<u64, SegmentFault> {
    take_u64(bytes).ok_or_else(|| cut(field))
}

fn added(before: i32, difference: i64) -> Result<i32, SegmentFault> {
    i64::from(before)
        .checked_add(difference)
        .and_then(|sum| i32::try_from(sum).ok())
        .ok_or_else(|| cut("a difference"))
}

const fn cut(field: &'static str) -> SegmentFault {
    SegmentFault::Table(field)
}
