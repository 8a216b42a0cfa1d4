//! The columns of a row group, read record by record, side by side.

mod run;

use bytes::Bytes;
use firn_proto::limits::BATCH_PLAIN_BYTES_MAX;
use firn_proto::record::{BatchHeader, RecordFields, put_header, put_record};

use super::beyond::{KeptRecords, Times};
use super::build_fault;
use crate::segment::column::{Leaf, Physical};
use crate::segment::fault::SegmentFault;
use crate::segment::page::{self, Pages};
use crate::segment::schema::{LEAF_NAMES, LEAVES};
use crate::segment::table::{Beyond, Row, Trailer};
use run::check_length;

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
    headers: Vec<u8>,
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
            headers: Vec::new(),
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
        for leaf in [
            &mut self.partition,
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
        let count = header.record_count.cast_unsigned();
        let mut index = 0;
        while index < count {
            let plain = kept.plain_from(index).min(count - index);
            if plain > 0
                && let Some(run) = self.run(plain)?
            {
                self.put_run(run, header, &mut times, out)?;
                index += run.records;
                continue;
            }
            let record = kept.record_at(u64::from(index));
            self.put_one(header, &mut times, record, out)?;
            index += 1;
        }
        Ok(())
    }

    /// Appends the next record, whatever it is.
    fn put_one(
        &mut self,
        header: &BatchHeader,
        times: &mut Times<'_>,
        kept: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Result<(), SegmentFault> {
        if self.partition.next_number(&mut self.codec)? != Some(self.partition_index) {
            return Err(self.partition.fault("another partition"));
        }
        let (offset_delta, timestamp_delta) = self.next_deltas(times)?;
        let header_count = self.next_headers()?;
        let fields = RecordFields {
            timestamp_delta,
            offset_delta,
            key: self.key.next_bytes(&mut self.codec)?,
            value: self.value.next_bytes(&mut self.codec)?,
            header_count,
            headers: &self.headers,
        };
        match kept {
            Some(record) => out.extend_from_slice(record),
            None => put_record(out, &fields).map_err(|error| build_fault(header, error))?,
        }
        check_length(out)
    }

    /// Offset and timestamp of the next record, less those of its batch.
    pub(super) fn next_deltas(
        &mut self,
        times: &mut Times<'_>,
    ) -> Result<(i32, i64), SegmentFault> {
        let offset = self.offset.next_number(&mut self.codec)?;
        let micros = self.timestamp.next_number(&mut self.codec)?;
        times.deltas(offset, micros, &self.offset, &self.timestamp)
    }

    /// Makes the headers of the next record in `headers`, and counts them.
    fn next_headers(&mut self) -> Result<usize, SegmentFault> {
        self.headers.clear();
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
