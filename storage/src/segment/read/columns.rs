//! The columns of a row group, read record by record, side by side.

use bytes::Bytes;
use firn_proto::limits::BATCH_PLAIN_BYTES_MAX;
use firn_proto::record::{BatchHeader, RecordFields, put_header, put_record};
use firn_proto::varint::take_i64;

use super::build_fault;
use crate::segment::arrays::MICROS;
use crate::segment::column::{Leaf, Physical};
use crate::segment::fault::SegmentFault;
use crate::segment::page::{self, Pages};
use crate::segment::schema::{LEAF_NAMES, LEAVES};
use crate::segment::table::{Beyond, Row, Trailer, take_kept};

/// The columns of a row group, each at the same record.
pub(super) struct Columns {
    codec: page::Codec,
    /// Records that were passed over and not taken from the columns yet.
    behind: u64,
    partition: Leaf,
    offset: Leaf,
    timestamp: Leaf,
    key: Leaf,
    header_key: Leaf,
    header_value: Leaf,
    value: Leaf,
    partition_index: i64,
    /// How many of the next records are known to be of the partition.
    partition_left: u64,
    headers: Vec<u8>,
    /// How many of the next records are known to have no headers.
    headerless_left: u64,
}

impl Columns {
    /// `bytes` were found to be as long as the trailer says.
    pub(super) fn new(trailer: &Trailer, bytes: &Bytes) -> Self {
        let mut chunks: [Bytes; LEAVES] = Default::default();
        let mut start = 0;
        for (chunk, len) in chunks.iter_mut().zip(trailer.chunk_lens) {
            let end = start + len as usize;
            *chunk = bytes.slice(start..end);
            start = end;
        }
        let [
            partition,
            offset,
            timestamp,
            key,
            header_key,
            header_value,
            value,
        ] = chunks;
        let leaf = |at: usize, chunk, physical, max_repetition, max_definition| {
            let pages = Pages::new(LEAF_NAMES[at], chunk, trailer.is_plain(at));
            Leaf::new(pages, physical, max_repetition, max_definition)
        };
        Self {
            codec: page::Codec::new(),
            behind: 0,
            partition: leaf(0, partition, Physical::Int32, 0, 0),
            offset: leaf(1, offset, Physical::Int64, 0, 0),
            timestamp: leaf(2, timestamp, Physical::Int64, 0, 1),
            key: leaf(3, key, Physical::Bytes, 0, 1),
            header_key: leaf(4, header_key, Physical::Bytes, 1, 1),
            header_value: leaf(5, header_value, Physical::Bytes, 1, 2),
            value: leaf(6, value, Physical::Bytes, 0, 1),
            partition_index: i64::from(trailer.partition.0),
            partition_left: 0,
            headers: Vec::new(),
            headerless_left: 0,
        }
    }

    pub(super) fn leaves(&self) -> [&Leaf; LEAVES] {
        [
            &self.partition,
            &self.offset,
            &self.timestamp,
            &self.key,
            &self.header_key,
            &self.header_value,
            &self.value,
        ]
    }

    /// Passes over the records of a batch, when one behind them is read.
    pub(super) fn pass(&mut self, row: &Row) {
        if let Row::Columns { header, .. } = row {
            self.behind += u64::from(header.record_count.cast_unsigned());
        }
    }

    /// Passes over the records that were passed over in the batch table.
    fn catch_up(&mut self) -> Result<(), SegmentFault> {
        let rows = std::mem::take(&mut self.behind);
        let of_partition = rows.min(self.partition_left);
        self.partition_left -= of_partition;
        self.partition.skip(rows - of_partition, &mut self.codec)?;
        for leaf in [
            &mut self.offset,
            &mut self.timestamp,
            &mut self.key,
            &mut self.value,
        ] {
            leaf.skip(rows, &mut self.codec)?;
        }
        for _ in 0..rows {
            self.next_headers()?;
        }
        Ok(())
    }

    /// The same, of offsets and timestamps only.
    pub(super) fn catch_up_times(&mut self) -> Result<(), SegmentFault> {
        let rows = std::mem::take(&mut self.behind);
        self.offset.skip(rows, &mut self.codec)?;
        self.timestamp.skip(rows, &mut self.codec)
    }

    /// Appends the records of the next batch as they stood there.
    pub(super) fn put_records(
        &mut self,
        header: &BatchHeader,
        beyond: Beyond,
        table: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SegmentFault> {
        let mut times = Times::new(header, beyond, table);
        let mut kept = KeptRecords::new(beyond, table);
        self.catch_up()?;
        for index in 0..u64::from(header.record_count.cast_unsigned()) {
            self.check_partition()?;
            let (offset_delta, timestamp_delta) = self.next_deltas(&mut times)?;
            let header_count = self.next_headers()?;
            let fields = RecordFields {
                timestamp_delta,
                offset_delta,
                key: self.key.next_bytes(&mut self.codec)?,
                value: self.value.next_bytes(&mut self.codec)?,
                header_count,
                headers: &self.headers,
            };
            match kept.record_at(index) {
                Some(record) => out.extend_from_slice(record),
                None => put_record(out, &fields).map_err(|error| build_fault(header, error))?,
            }
            if out.len() > BATCH_PLAIN_BYTES_MAX {
                return Err(SegmentFault::TooLarge {
                    what: "record batch",
                    bytes_max: BATCH_PLAIN_BYTES_MAX,
                });
            }
        }
        Ok(())
    }

    /// Whether the next record is of the partition. All of a row group are, as a rule in one run of
    /// the column, which is looked at once.
    fn check_partition(&mut self) -> Result<(), SegmentFault> {
        if self.partition_left == 0 {
            match self.partition.same_left() {
                Some((left, partition)) if left > 0 && partition == self.partition_index => {
                    self.partition.pass_same(left);
                    self.partition_left = left;
                }
                _ => {
                    let partition = self.partition.next_number(&mut self.codec)?;
                    self.partition_left = u64::from(partition == Some(self.partition_index));
                }
            }
        }
        let left = self.partition_left.checked_sub(1);
        self.partition_left = left.ok_or_else(|| self.partition.fault("another partition"))?;
        Ok(())
    }

    /// Offset and timestamp of the next record, less those of its batch.
    pub(super) fn next_deltas(
        &mut self,
        times: &mut Times<'_>,
    ) -> Result<(i32, i64), SegmentFault> {
        let offset = self.offset.next_number(&mut self.codec)?;
        let offset_delta = offset
            .and_then(|offset| offset.checked_sub(times.base_offset))
            .and_then(|delta| i32::try_from(delta).ok())
            .filter(|delta| times.delta_before < *delta && *delta <= times.last_offset_delta)
            .ok_or_else(|| self.offset.fault("offset outside its batch"))?;
        times.delta_before = offset_delta;
        let micros = self.timestamp.next_number(&mut self.codec)?;
        let timestamp_delta = match &mut times.deltas {
            Some(deltas) => take_i64(deltas).ok_or(SegmentFault::Table("timestamp"))?,
            None => micros
                .filter(|micros| micros % MICROS == 0)
                .map(|micros| (micros / MICROS).wrapping_sub(times.base_timestamp))
                .ok_or_else(|| self.timestamp.fault("timestamp without whole milliseconds"))?,
        };
        Ok((offset_delta, timestamp_delta))
    }

    /// Makes the headers of the next record in `headers`, and counts them.
    fn next_headers(&mut self) -> Result<usize, SegmentFault> {
        self.headers.clear();
        if self.headerless_left == 0 {
            let (keys, values) = (&mut self.header_key, &mut self.header_value);
            self.headerless_left = keys.empty_left().min(values.empty_left());
            keys.pass_empty(self.headerless_left);
            values.pass_empty(self.headerless_left);
        }
        if let Some(left) = self.headerless_left.checked_sub(1) {
            self.headerless_left = left;
            return Ok(0);
        }
        let mut count = 0;
        loop {
            let key = self.header_key.level(&mut self.codec)?;
            let value = self.header_value.level(&mut self.codec)?;
            let begins = u32::from(count > 0);
            if key.repetition != begins
                || value.repetition != begins
                || (key.definition == 0) != (value.definition == 0)
                || (key.definition == 0 && count > 0)
            {
                return Err(self.header_key.fault("levels of headers"));
            }
            if key.definition > 0 {
                let key = self.header_key.bytes()?;
                let value = match value.definition {
                    2 => Some(self.header_value.bytes()?),
                    _ => None,
                };
                put_header(&mut self.headers, key, value)
                    .map_err(|_| SegmentFault::Table("length of a header"))?;
                count += 1;
            }
            if self.headers.len() > BATCH_PLAIN_BYTES_MAX {
                return Err(self.header_value.fault("headers longer than any batch"));
            }
            let next = self.header_key.peek(&mut self.codec)?;
            if next.is_none_or(|next| next.repetition == 0) {
                return Ok(count);
            }
        }
    }
}

/// What the offsets and timestamps of a batch's records are counted from.
pub(super) struct Times<'a> {
    base_offset: i64,
    last_offset_delta: i32,
    delta_before: i32,
    base_timestamp: i64,
    /// The deltas of its timestamps, if they are in the batch table.
    deltas: Option<&'a [u8]>,
}

impl<'a> Times<'a> {
    pub(super) fn new(header: &BatchHeader, beyond: Beyond, table: &'a [u8]) -> Self {
        let deltas = beyond.timestamps;
        Self {
            base_offset: header.base_offset,
            last_offset_delta: header.last_offset_delta,
            delta_before: -1,
            base_timestamp: header.base_timestamp,
            deltas: deltas.map(|at| table.get(at..).unwrap_or_default()),
        }
    }
}

/// The records of a batch that the batch table has verbatim.
struct KeptRecords<'a> {
    rest: &'a [u8],
    left: u64,
    /// Index of the next one in the batch, and all of it.
    next: Option<(u64, &'a [u8])>,
}

impl<'a> KeptRecords<'a> {
    fn new(beyond: Beyond, table: &'a [u8]) -> Self {
        let mut kept = Self {
            rest: table.get(beyond.records_at..).unwrap_or_default(),
            left: beyond.records,
            next: None,
        };
        kept.advance(0);
        kept
    }

    /// The record at `index`, if it is one of them. Indices are asked for in order.
    fn record_at(&mut self, index: u64) -> Option<&'a [u8]> {
        let (_, record) = self.next.take_if(|(next, _)| *next == index)?;
        self.advance(index + 1);
        Some(record)
    }

    /// Takes the next one; `index` is that behind the one before it.
    fn advance(&mut self, index: u64) {
        if self.left > 0 {
            self.left -= 1;
            // the rows were read once before, and were whole
            self.next = take_kept(&mut self.rest).map(|kept| (index + kept.skipped, kept.record));
        }
    }
}
