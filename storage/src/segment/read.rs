//! Row groups back into batches.

use bytes::Bytes;
use firn_proto::ids::{LeaderEpoch, PartitionIndex, TopicId};
use firn_proto::limits::BATCH_PLAIN_BYTES_MAX;
use firn_proto::record::{
    BatchHeader, BatchView, BuildError, Codec, Compression, RecordFields, TimestampType, assemble,
    put_header, put_record,
};
use firn_proto::varint::take_i64;

use super::arrays::MICROS;
use super::column::{Leaf, Physical};
use super::fault::SegmentFault;
use super::map::RowGroup;
use super::page::{self, Pages};
use super::schema::{LEAF_NAMES, LEAVES};
use super::table::{Beyond, Row, RowReader, Trailer, take_kept};

/// How a batch is to be compressed that is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetCodec {
    /// As its producer did (`compression.type=producer`).
    Producer,
    /// As its topic says.
    Topic(Compression),
}

/// Reads the batches of one row group in order, from its own bytes: those of
/// [`RowGroup::byte_range`]. Holds those bytes, a page of each column, and a batch.
///
/// A batch that its producer did not compress comes back byte for byte, and every other with the
/// same records and header, if [`TargetCodec::Producer`] is asked for. One that could not be
/// decoded when it was written comes back as it came, whatever codec is asked for.
///
/// After an error the reader is of no use.
pub struct RowGroupReader {
    rows: RowReader,
    /// A row that was looked at and is still to be read.
    peeked: Option<Row>,
    /// The row that was read last, and its records.
    row: Option<Row>,
    plain: Vec<u8>,
    columns: Columns,
}

/// What the batch table says of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSummary {
    /// Its header, without length and CRC; `None` if it is kept verbatim.
    pub header: Option<BatchHeader>,
    /// Its last offset.
    pub last_offset: i64,
    /// Whether the table has its timestamps.
    pub has_timestamps: bool,
    /// How many of its records the table keeps verbatim.
    pub records_kept: u64,
}

/// A batch, short of its form.
#[derive(Clone, Copy, Debug)]
pub(super) enum Decoded<'a> {
    /// As it came.
    Verbatim(&'a [u8]),
    /// Header and records, uncompressed; length and CRC in the header are not set.
    Plain(&'a BatchHeader, &'a [u8]),
}

impl RowGroupReader {
    /// Checks `bytes` against their checksums and against what the map says of them.
    ///
    /// # Errors
    /// They are damaged, or they are not this row group.
    pub fn open(
        bytes: &Bytes,
        topic: TopicId,
        partition: PartitionIndex,
        group: &RowGroup,
    ) -> Result<Self, SegmentFault> {
        let trailer = Trailer::decode(bytes)?;
        let is_it = (trailer.topic, trailer.partition) == (topic, partition)
            && trailer.base_offset == group.base_offset
            && trailer.last_offset <= group.last_offset
            && trailer.records == group.records;
        if !is_it {
            let name = |topic, partition, base: i64, last: i64| {
                format!("offsets {base}..={last} of {topic}/{partition}")
            };
            return Err(SegmentFault::Other {
                found: name(
                    trailer.topic,
                    trailer.partition,
                    trailer.base_offset,
                    trailer.last_offset,
                ),
                expected: name(topic, partition, group.base_offset, group.last_offset),
            });
        }
        let (_, rows) = trailer.split(bytes)?;
        let columns = Columns::new(&trailer, bytes);
        Ok(Self {
            rows: RowReader::new(&trailer, rows),
            peeked: None,
            row: None,
            plain: Vec::new(),
            columns,
        })
    }

    /// Passes over the batches that end below `offset`.
    ///
    /// # Errors
    /// The batch table is broken.
    pub fn skip_below(&mut self, offset: i64) -> Result<(), SegmentFault> {
        while let Some(row) = self.next_row()? {
            if row.last_offset() >= offset {
                self.peeked = Some(row);
                break;
            }
            self.columns.pass(&row);
        }
        Ok(())
    }

    /// The next batch, or `None` behind the last.
    ///
    /// # Errors
    /// The row group is broken, or the codec has no such level.
    pub fn next_batch(&mut self, target: TargetCodec) -> Result<Option<BatchView>, SegmentFault> {
        let Some(decoded) = self.next_decoded()? else {
            return Ok(None);
        };
        match decoded {
            Decoded::Verbatim(batch) => {
                let batch = BatchView::take(&mut Bytes::copy_from_slice(batch));
                batch
                    .map(Some)
                    .map_err(|_| SegmentFault::Table("batch kept verbatim"))
            }
            Decoded::Plain(header, plain) => {
                let compression = match target {
                    TargetCodec::Producer => {
                        header.attributes.codec().unwrap_or(Codec::None).into()
                    }
                    TargetCodec::Topic(compression) => compression,
                };
                assemble(header, compression, plain)
                    .map(Some)
                    .map_err(|source| build_fault(header, source))
            }
        }
    }

    /// What the batch table says of the next batch, which is passed over; `None` behind the last.
    ///
    /// # Errors
    /// The batch table is broken.
    pub fn next_summary(&mut self) -> Result<Option<BatchSummary>, SegmentFault> {
        let Some(row) = self.next_row()? else {
            return Ok(None);
        };
        self.columns.pass(&row);
        let last_offset = row.last_offset();
        let (header, beyond) = match row {
            Row::Verbatim { .. } => (None, Beyond::default()),
            Row::Columns { header, beyond } => (Some(header), beyond),
        };
        Ok(Some(BatchSummary {
            header,
            last_offset,
            has_timestamps: beyond.timestamps.is_some(),
            records_kept: beyond.records,
        }))
    }

    /// The next batch without its form.
    pub(super) fn next_decoded(&mut self) -> Result<Option<Decoded<'_>>, SegmentFault> {
        let Some(row) = self.next_row()? else {
            return Ok(None);
        };
        let table = self.rows.bytes();
        let decoded = match self.row.insert(row) {
            Row::Verbatim { start, end, .. } => {
                Decoded::Verbatim(table.get(*start..*end).unwrap_or_default())
            }
            Row::Columns { header, beyond } => {
                self.plain.clear();
                self.columns
                    .put_records(header, *beyond, table, &mut self.plain)?;
                Decoded::Plain(header, &self.plain)
            }
        };
        Ok(Some(decoded))
    }

    /// Leader epoch of the next batch, offsets and timestamps of its records; `None` behind the
    /// last. Reads nothing else of them, so that no batch can be made of this row group any more.
    pub(super) fn next_times(
        &mut self,
        mut visit: impl FnMut(LeaderEpoch, i64, i64),
    ) -> Result<Option<()>, SegmentFault> {
        let Some(row) = self.next_row()? else {
            return Ok(None);
        };
        if let Row::Columns { header, beyond } = row {
            let mut times = Times::new(&header, beyond, self.rows.bytes());
            let append_time = match header.attributes.timestamp_type() {
                TimestampType::CreateTime => None,
                TimestampType::LogAppendTime => Some(header.max_timestamp),
            };
            self.columns.catch_up_times()?;
            for _ in 0..header.record_count {
                let (offset_delta, timestamp_delta) = self.columns.next_deltas(&mut times)?;
                let created = header.base_timestamp.wrapping_add(timestamp_delta);
                visit(
                    header.leader_epoch,
                    header.base_offset + i64::from(offset_delta),
                    append_time.unwrap_or(created),
                );
            }
        }
        Ok(Some(()))
    }

    /// About what it holds in memory beside the bytes that it was opened with.
    pub fn memory_bytes(&self) -> usize {
        let columns = self.columns.leaves().into_iter().map(Leaf::memory_bytes);
        self.rows.bytes().len() + self.plain.capacity() + columns.sum::<usize>()
    }

    fn next_row(&mut self) -> Result<Option<Row>, SegmentFault> {
        match self.peeked.take() {
            Some(row) => Ok(Some(row)),
            None => self.rows.next_row(),
        }
    }
}

/// The columns of a row group, each at the same record.
struct Columns {
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
    fn new(trailer: &Trailer, bytes: &Bytes) -> Self {
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

    fn leaves(&self) -> [&Leaf; LEAVES] {
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
    fn pass(&mut self, row: &Row) {
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
    fn catch_up_times(&mut self) -> Result<(), SegmentFault> {
        let rows = std::mem::take(&mut self.behind);
        self.offset.skip(rows, &mut self.codec)?;
        self.timestamp.skip(rows, &mut self.codec)
    }

    /// Appends the records of the next batch as they stood there.
    fn put_records(
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
    fn next_deltas(&mut self, times: &mut Times<'_>) -> Result<(i32, i64), SegmentFault> {
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
struct Times<'a> {
    base_offset: i64,
    last_offset_delta: i32,
    delta_before: i32,
    base_timestamp: i64,
    /// The deltas of its timestamps, if they are in the batch table.
    deltas: Option<&'a [u8]>,
}

impl<'a> Times<'a> {
    fn new(header: &BatchHeader, beyond: Beyond, table: &'a [u8]) -> Self {
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

fn build_fault(header: &BatchHeader, source: BuildError) -> SegmentFault {
    SegmentFault::Build {
        offset: header.base_offset,
        source,
    }
}
