//! Row groups back into batches.

mod beyond;
mod columns;

use bytes::Bytes;
use firn_proto::ids::{LeaderEpoch, PartitionIndex, TopicId};
use firn_proto::record::{
    BatchHeader, BatchView, BuildError, Codec, Compression, TimestampType, assemble,
};

use super::column::Leaf;
use super::fault::SegmentFault;
use super::map::RowGroup;
use super::table::{Beyond, Row, RowReader, Trailer};
use beyond::Times;
use columns::Columns;

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

    /// Whether there is no other batch.
    pub fn is_behind_last(&self) -> bool {
        self.peeked.is_none() && self.rows.is_behind_last()
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

fn build_fault(header: &BatchHeader, source: BuildError) -> SegmentFault {
    SegmentFault::Build {
        offset: header.base_offset,
        source,
    }
}
