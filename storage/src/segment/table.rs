//! The batch table: what record batches say beyond the columns, and where everything in a row
//! group is. FORMAT.md §8.3 has the bytes.
//!
//! Architecture invariant: pure; reading never panics and never takes more memory than the bytes at
//! hand and a bound allow.

use firn_proto::ids::{LeaderEpoch, PartitionIndex, ProducerEpoch, ProducerId, TopicId};
use firn_proto::limits::{BATCH_TABLE_BYTES_MAX, ROW_GROUP_RECORDS_MAX};
use firn_proto::record::{Attributes, BatchHeader, Codec, Record, Records, decompress_into};
use firn_proto::varint::{put_i64, put_u64, take_i64, take_u64};

use super::fault::{EncodeError, SegmentFault};
use super::schema::LEAVES;
use crate::stream::crc32c;
use crate::stream::fields::Fields;

/// What the trailer of a batch table begins with.
pub(super) const TABLE_MAGIC: [u8; 8] = *b"FIRNBTAB";
pub(super) const TABLE_VERSION: u16 = 1;
/// Length of the trailer.
pub(crate) const TRAILER_BYTES: usize = 128;

/// Bits of the first byte of a row.
const VERBATIM: u8 = 0x01;
const PRODUCER: u8 = 0x02;
const TIMESTAMPS: u8 = 0x04;
const RECORDS: u8 = 0x08;

/// The end of a row group, which says what the rest of it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(super) topic: TopicId,
    pub(super) partition: PartitionIndex,
    pub(super) base_offset: i64,
    pub(super) last_offset: i64,
    /// Length of each leaf's chunk, in their order.
    pub(super) chunk_lens: [u32; LEAVES],
    /// CRC of all chunks.
    pub(super) chunks_crc: u32,
    pub(super) records: u32,
    pub(super) batches: u32,
    pub(crate) stored_len: u32,
    pub(super) plain_len: u32,
    pub(super) stored_crc: u32,
}

impl Trailer {
    fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut out = Vec::with_capacity(TRAILER_BYTES);
        out.extend_from_slice(&TABLE_MAGIC);
        out.extend_from_slice(&TABLE_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.partition.0.to_le_bytes());
        out.extend_from_slice(&self.topic.0);
        out.extend_from_slice(&self.base_offset.to_le_bytes());
        out.extend_from_slice(&self.last_offset.to_le_bytes());
        for len in self.chunk_lens {
            out.extend_from_slice(&len.to_le_bytes());
        }
        for number in [
            self.chunks_crc,
            self.records,
            self.batches,
            self.stored_len,
            self.plain_len,
            self.stored_crc,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.resize(TRAILER_BYTES - 4, 0);
        let crc = crc32c(&out);
        let mut trailer = [0; TRAILER_BYTES];
        trailer[..TRAILER_BYTES - 4].copy_from_slice(&out);
        trailer[TRAILER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        trailer
    }

    /// Reads the trailer at the end of `group`, the bytes of a row group.
    pub(crate) fn decode(group: &[u8]) -> Result<Self, SegmentFault> {
        let bytes: &[u8; TRAILER_BYTES] = group.last_chunk().ok_or(SegmentFault::Length {
            what: "row group",
            found: group.len(),
            expected: TRAILER_BYTES,
        })?;
        if !bytes.starts_with(&TABLE_MAGIC) {
            return Err(SegmentFault::Magic);
        }
        let (checked, crc) = bytes.split_at(TRAILER_BYTES - 4);
        if crc != crc32c(checked).to_le_bytes() {
            return Err(SegmentFault::Crc("trailer of the batch table"));
        }
        let mut fields = Fields::new(&checked[TABLE_MAGIC.len()..]);
        let short = |_| SegmentFault::Table("trailer");
        let version = fields.u16().map_err(short)?;
        if version != TABLE_VERSION {
            return Err(SegmentFault::Version(version));
        }
        fields.take(2).map_err(short)?;
        let mut read = || -> Result<Self, crate::stream::fields::Short> {
            let partition = PartitionIndex(fields.i32()?);
            let topic = TopicId(fields.array()?);
            let base_offset = fields.i64()?;
            let last_offset = fields.i64()?;
            let mut chunk_lens = [0; LEAVES];
            for len in &mut chunk_lens {
                *len = fields.u32()?;
            }
            Ok(Self {
                topic,
                partition,
                base_offset,
                last_offset,
                chunk_lens,
                chunks_crc: fields.u32()?,
                records: fields.u32()?,
                batches: fields.u32()?,
                stored_len: fields.u32()?,
                plain_len: fields.u32()?,
                stored_crc: fields.u32()?,
            })
        };
        let trailer = read().map_err(short)?;
        if trailer.records as usize > ROW_GROUP_RECORDS_MAX {
            return Err(SegmentFault::Table("number of records"));
        }
        Ok(trailer)
    }

    /// Takes the row group apart: its chunks, and the rows of its batch table, decompressed.
    pub(crate) fn split<'a>(&self, group: &'a [u8]) -> Result<(&'a [u8], Vec<u8>), SegmentFault> {
        let chunks: u64 = self.chunk_lens.iter().map(|len| u64::from(*len)).sum();
        let expected = chunks + u64::from(self.stored_len) + TRAILER_BYTES as u64;
        if group.len() as u64 != expected {
            return Err(SegmentFault::Length {
                what: "row group",
                found: group.len(),
                expected: usize::try_from(expected).unwrap_or(usize::MAX),
            });
        }
        let rest = &group[..group.len() - TRAILER_BYTES];
        // both lengths were just found to fit
        let (chunks, stored) = rest.split_at(rest.len() - self.stored_len as usize);
        if crc32c(stored) != self.stored_crc {
            return Err(SegmentFault::Crc("batch table"));
        }
        if crc32c(chunks) != self.chunks_crc {
            return Err(SegmentFault::Crc("columns of the row group"));
        }
        let plain_len = self.plain_len as usize;
        if plain_len > BATCH_TABLE_BYTES_MAX {
            return Err(SegmentFault::TooLarge {
                what: "batch table",
                bytes_max: BATCH_TABLE_BYTES_MAX,
            });
        }
        let mut rows = Vec::new();
        decompress_into(Codec::Zstd, stored, plain_len, &mut rows)
            .map_err(|_| SegmentFault::Table("it does not decompress"))?;
        if rows.len() == plain_len {
            Ok((chunks, rows))
        } else {
            Err(SegmentFault::Table("its length"))
        }
    }
}

/// The rows of a batch table that is being written.
#[derive(Debug, Default)]
pub(super) struct TableRows {
    bytes: Vec<u8>,
    before: Before,
    batches: u32,
}

/// What the fields of a row are counted from: those of the row before it.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    next_offset: i64,
    leader_epoch: i32,
    base_timestamp: i64,
    producer_id: i64,
    base_sequence: i32,
}

/// What the records of a batch need beyond the columns.
#[derive(Debug, Default)]
pub(super) struct Odd {
    /// Whether the timestamps do not all follow from the column.
    pub(super) timestamps: bool,
    /// How many records are kept verbatim.
    pub(super) records: u64,
    /// They, each with its place and length.
    bytes: Vec<u8>,
    /// Index behind the last of them.
    next: u64,
}

impl Odd {
    pub(super) fn clear(&mut self) {
        self.timestamps = false;
        self.records = 0;
        self.bytes.clear();
        self.next = 0;
    }

    /// Keeps `record`, at `index` in its batch, as it stands there.
    pub(super) fn keep(&mut self, index: u64, record: &Record<'_>) {
        put_u64(&mut self.bytes, index - self.next);
        put_u64(&mut self.bytes, record.stored.len() as u64);
        self.bytes.extend_from_slice(record.stored);
        self.records += 1;
        self.next = index + 1;
    }
}

impl TableRows {
    /// No rows yet of a row group that begins at `base_offset`.
    pub(super) fn new(base_offset: i64) -> Self {
        Self {
            bytes: Vec::new(),
            before: Before {
                next_offset: base_offset,
                ..Before::default()
            },
            batches: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// A batch that could not be decoded, as it came.
    pub(super) fn push_verbatim(&mut self, header: &BatchHeader, batch: &[u8]) {
        self.bytes.push(VERBATIM);
        self.put_offset(header);
        put_u64(&mut self.bytes, batch.len() as u64);
        self.bytes.extend_from_slice(batch);
    }

    /// A batch whose records, the bytes `plain`, are in the columns.
    pub(super) fn push(&mut self, header: &BatchHeader, odd: &Odd, plain: &[u8]) {
        let has_producer = (header.producer_id.0, header.producer_epoch.0) != (-1, -1)
            || header.base_sequence != -1;
        let mut head = 0;
        for (bit, set) in [
            (PRODUCER, has_producer),
            (TIMESTAMPS, odd.timestamps),
            (RECORDS, odd.records > 0),
        ] {
            head |= if set { bit } else { 0 };
        }
        self.bytes.push(head);
        self.put_offset(header);
        let out = &mut self.bytes;
        put_u64(out, u64::from(header.record_count.cast_unsigned()));
        let deltas = i64::from(header.last_offset_delta) + 1;
        put_i64(out, deltas - i64::from(header.record_count));
        put_u64(out, u64::from(header.attributes.0.cast_unsigned()));
        let before = &mut self.before;
        put_i64(
            out,
            i64::from(header.leader_epoch.0) - i64::from(before.leader_epoch),
        );
        put_i64(
            out,
            header.base_timestamp.wrapping_sub(before.base_timestamp),
        );
        put_i64(
            out,
            header.max_timestamp.wrapping_sub(header.base_timestamp),
        );
        before.leader_epoch = header.leader_epoch.0;
        before.base_timestamp = header.base_timestamp;
        if has_producer {
            put_i64(out, header.producer_id.0.wrapping_sub(before.producer_id));
            put_i64(out, i64::from(header.producer_epoch.0));
            put_i64(
                out,
                i64::from(header.base_sequence) - i64::from(before.base_sequence),
            );
            before.producer_id = header.producer_id.0;
            before.base_sequence = header.base_sequence;
        }
        if odd.timestamps {
            for record in Records::new(header, plain).flatten() {
                put_i64(out, record.timestamp_delta);
            }
        }
        if odd.records > 0 {
            put_u64(out, odd.records);
            out.extend_from_slice(&odd.bytes);
        }
    }

    fn put_offset(&mut self, header: &BatchHeader) {
        let gap = header.base_offset.wrapping_sub(self.before.next_offset);
        put_u64(&mut self.bytes, gap.cast_unsigned());
        self.before.next_offset = header.last_offset() + 1;
        self.batches += 1;
    }

    /// The batch table: rows and trailer, whose numbers about the rows are set here.
    pub(super) fn finish(self, mut trailer: Trailer) -> Result<Vec<u8>, EncodeError> {
        let mut out = zstd::bulk::compress(&self.bytes, 1)?;
        let len = |len: usize| u32::try_from(len).map_err(|_| EncodeError::TooLong("batch table"));
        trailer.batches = self.batches;
        trailer.stored_len = len(out.len())?;
        trailer.plain_len = len(self.bytes.len())?;
        trailer.stored_crc = crc32c(&out);
        out.extend_from_slice(&trailer.encode());
        Ok(out)
    }
}

/// A row as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Row {
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
pub(super) struct Beyond {
    /// Where the timestamp deltas begin, if they are here.
    pub(super) timestamps: Option<usize>,
    /// How many records are kept verbatim, and where they begin.
    pub(super) records: u64,
    pub(super) records_at: usize,
}

impl Row {
    pub(super) fn last_offset(&self) -> i64 {
        match self {
            Self::Verbatim { last_offset, .. } => *last_offset,
            Self::Columns { header, .. } => header.last_offset(),
        }
    }
}

/// Reads the rows of a batch table one after the other.
#[derive(Debug)]
pub(super) struct RowReader {
    rows: Vec<u8>,
    at: usize,
    before: Before,
    batches_left: u32,
    records_left: u32,
    last_offset: i64,
}

impl RowReader {
    pub(super) fn new(trailer: &Trailer, rows: Vec<u8>) -> Self {
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
    pub(super) fn bytes(&self) -> &[u8] {
        &self.rows
    }

    /// The next row, if there is one.
    pub(super) fn next_row(&mut self) -> Result<Option<Row>, SegmentFault> {
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
    let (head, behind) = rest.split_first().ok_or(cut("first byte of a row"))?;
    *rest = behind;
    let base_offset = before
        .next_offset
        .checked_add_unsigned(unsigned(rest, "base offset")?)
        .ok_or(cut("base offset"))?;
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
        .ok_or(cut("last offset"))?;
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
            let kept = take_kept(rest).ok_or(cut("record kept verbatim"))?;
            let index = next.checked_add(kept.skipped);
            next = index
                .filter(|index| *index < u64::from(record_count.cast_unsigned()))
                .ok_or(cut("record kept verbatim"))?
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
        .ok_or(cut("length of a batch"))?;
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
pub(super) struct Kept<'a> {
    /// Records between it and the one before it.
    pub(super) skipped: u64,
    /// All of it.
    pub(super) record: &'a [u8],
}

/// Takes a record that is kept verbatim off the front.
pub(super) fn take_kept<'a>(bytes: &mut &'a [u8]) -> Option<Kept<'a>> {
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
        .ok_or(cut("last offset"))
}

fn signed(bytes: &mut &[u8], field: &'static str) -> Result<i64, SegmentFault> {
    take_i64(bytes).ok_or(cut(field))
}

fn unsigned(bytes: &mut &[u8], field: &'static str) -> Result<u64, SegmentFault> {
    take_u64(bytes).ok_or(cut(field))
}

fn added(before: i32, difference: i64) -> Result<i32, SegmentFault> {
    i64::from(before)
        .checked_add(difference)
        .and_then(|sum| i32::try_from(sum).ok())
        .ok_or(cut("a difference"))
}

const fn cut(field: &'static str) -> SegmentFault {
    SegmentFault::Table(field)
}
