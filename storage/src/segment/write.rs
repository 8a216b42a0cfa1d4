//! Batches into row groups, row groups into a segment.
//!
//! Memory is bounded by one row group, and what comes out depends on nothing but what goes in: the
//! same batches give the same bytes.

use std::io::Write;
use std::mem;

use firn_proto::ids::{PartitionIndex, TopicId};
use firn_proto::limits::{
    BATCH_PLAIN_BYTES_MAX, ROW_GROUP_BYTES_TARGET, ROW_GROUP_PLAIN_BYTES_TARGET,
    ROW_GROUP_RECORDS_TARGET, SEGMENT_ROW_GROUPS_MAX,
};
use firn_proto::record::{BatchHeader, BatchView, Records, decompress_into};
use parquet::file::writer::SerializedFileWriter;

use super::columns::{Columns, GATHERED_BYTES};
use super::fault::EncodeError;
use super::footer::{SegmentOrigin, key_values, map_value};
use super::map::{RowGroup, Segment, SegmentRun};
use super::schema::{parquet_schema, properties};
use super::table::{Odd, TableRows, Trailer};
use super::tally::Tally;
use super::verify::{Fingerprint, Fingerprints};

/// Writes one segment: any number of runs, each with [`Self::begin_run`], its batches with
/// [`Self::push`], and [`Self::end_run`]; at last [`Self::finish`].
///
/// After an error nothing more is taken, and the segment cannot be finished: it would cover offsets
/// whose records it does not have.
pub struct SegmentWriter<W: Write + Send> {
    file: SerializedFileWriter<Tally<W>>,
    columns: Columns,
    topic: TopicId,
    odd: Odd,
    /// Where compressed batches are inflated.
    plain: Vec<u8>,
    run: Option<OpenRun>,
    runs: Vec<SegmentRun>,
    row_groups: usize,
    fingerprints: Vec<u64>,
    failed: bool,
}

/// A finished segment.
#[derive(Debug)]
pub struct Written<W> {
    /// What took the bytes.
    pub sink: W,
    /// Where everything is.
    pub segment: Segment,
    /// What went in, to compare with what is read back.
    pub fingerprints: Fingerprints,
}

struct OpenRun {
    run: SegmentRun,
    /// Offset behind the last batch.
    next_offset: i64,
    /// Where the next row group begins.
    group_base: i64,
    max_timestamp_so_far: i64,
    group: Option<OpenGroup>,
}

struct OpenGroup {
    table: TableRows,
    records: usize,
    plain_bytes: u64,
    fingerprint: Fingerprint,
}

impl<W: Write + Send> SegmentWriter<W> {
    /// Begins a segment.
    ///
    /// # Errors
    /// The sink failed.
    pub fn new(sink: W, origin: &SegmentOrigin) -> Result<Self, EncodeError> {
        let properties = properties()?.into();
        let mut file = SerializedFileWriter::new(Tally::new(sink), parquet_schema()?, properties)?;
        for pair in key_values(origin) {
            file.append_key_value_metadata(pair);
        }
        Ok(Self {
            columns: Columns::new(&file)?,
            file,
            topic: origin.topic,
            odd: Odd::default(),
            plain: Vec::new(),
            run: None,
            runs: Vec::new(),
            row_groups: 0,
            fingerprints: Vec::new(),
            failed: false,
        })
    }

    /// Begins the run of `partition` that covers `base_offset ..= last_offset`; ends the one before.
    /// What the range has no batch for when it is ended counts as gone.
    ///
    /// # Errors
    /// The range is empty or below 0, the sink failed, or something failed before.
    pub fn begin_run(
        &mut self,
        partition: PartitionIndex,
        base_offset: i64,
        last_offset: i64,
    ) -> Result<(), EncodeError> {
        self.unless_failed(|writer| writer.open_run(partition, base_offset, last_offset))
    }

    /// Adds the next batch of the run. One whose records cannot be decoded is kept as it is.
    ///
    /// # Errors
    /// It is a control batch, it is damaged, its offsets are not in order, the segment is full, the
    /// sink failed, or something failed before.
    pub fn push(&mut self, batch: &BatchView) -> Result<(), EncodeError> {
        self.unless_failed(|writer| writer.push_batch(batch))
    }

    /// Ends the run, if one is open: its last row group covers it to its end.
    ///
    /// # Errors
    /// The sink failed, or something failed before.
    pub fn end_run(&mut self) -> Result<(), EncodeError> {
        self.unless_failed(Self::close_run)
    }

    /// Ends the run at `last_offset`, at or behind its last batch, whatever it was to cover when it
    /// was begun: what is behind goes into another segment. A run that would cover nothing is left
    /// out.
    ///
    /// # Errors
    /// No run is open that could end there, the sink failed, or something failed before.
    pub fn end_run_at(&mut self, last_offset: i64) -> Result<(), EncodeError> {
        self.unless_failed(|writer| writer.close_run_at(last_offset))
    }

    /// Bytes of the segment so far, without the row group that is being gathered and the footer.
    pub fn bytes_written(&self) -> usize {
        self.file.bytes_written()
    }

    /// How many more row groups there may be. Each run takes one at least.
    pub fn row_groups_left(&self) -> usize {
        let open = self.run.as_ref().and_then(|run| run.group.as_ref());
        SEGMENT_ROW_GROUPS_MAX - self.row_groups - usize::from(open.is_some())
    }

    /// Ends the segment.
    ///
    /// # Errors
    /// The sink failed, or something failed before.
    pub fn finish(mut self) -> Result<Written<W>, EncodeError> {
        self.end_run()?;
        let mut segment = Segment {
            topic: self.topic,
            byte_len: 0,
            runs: self.runs,
        };
        self.file.append_key_value_metadata(map_value(&segment));
        let tally = self.file.into_inner()?;
        segment.byte_len = tally.bytes;
        Ok(Written {
            sink: tally.sink,
            segment,
            fingerprints: Fingerprints(self.fingerprints),
        })
    }

    /// Does `step` if all steps before it were done, and remembers if it was not.
    fn unless_failed(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        if self.failed {
            return Err(EncodeError::Failed);
        }
        let done = step(self);
        self.failed = done.is_err();
        done
    }

    fn open_run(
        &mut self,
        partition: PartitionIndex,
        base_offset: i64,
        last_offset: i64,
    ) -> Result<(), EncodeError> {
        self.close_run()?;
        if !(0..=last_offset).contains(&base_offset) || last_offset == i64::MAX {
            return Err(EncodeError::Offsets {
                partition,
                base: base_offset,
                last: last_offset,
                left_base: 0,
                left_last: i64::MAX - 1,
            });
        }
        self.run = Some(OpenRun {
            run: SegmentRun {
                partition,
                base_offset,
                last_offset,
                max_timestamp: i64::MIN,
                row_groups: Vec::new(),
            },
            next_offset: base_offset,
            group_base: base_offset,
            max_timestamp_so_far: i64::MIN,
            group: None,
        });
        Ok(())
    }

    fn push_batch(&mut self, batch: &BatchView) -> Result<(), EncodeError> {
        let header = *batch.header();
        let run = self
            .run
            .as_mut()
            .ok_or(EncodeError::NoRun(header.base_offset))?;
        check(batch, run)?;
        if run.group.is_none() {
            if self.row_groups >= SEGMENT_ROW_GROUPS_MAX {
                return Err(EncodeError::RowGroups(self.row_groups));
            }
            run.group = Some(OpenGroup {
                table: TableRows::new(run.group_base),
                records: 0,
                plain_bytes: 0,
                fingerprint: Fingerprint::default(),
            });
        }
        let partition = run.run.partition.0;
        run.next_offset = header.last_offset() + 1;
        run.run.max_timestamp = run.run.max_timestamp.max(header.max_timestamp);
        let mut plain = mem::take(&mut self.plain);
        let pushed = self.push_records(batch, partition, &mut plain);
        // a batch of the largest kind must not keep its memory for ever
        plain.clear();
        plain.shrink_to(4 * GATHERED_BYTES);
        self.plain = plain;
        pushed?;
        self.columns.settle(partition)?;
        if self.is_group_full() {
            self.end_group()?;
        }
        Ok(())
    }

    fn close_run(&mut self) -> Result<(), EncodeError> {
        self.end_group()?;
        if let Some(mut open) = self.run.take() {
            if let Some(group) = open.run.row_groups.last_mut() {
                group.last_offset = open.run.last_offset;
            }
            self.runs.push(open.run);
        }
        Ok(())
    }

    fn close_run_at(&mut self, last_offset: i64) -> Result<(), EncodeError> {
        let open = self.run.as_mut().ok_or(EncodeError::NoRun(last_offset))?;
        let SegmentRun {
            partition,
            base_offset,
            last_offset: end,
            ..
        } = open.run;
        if !(open.next_offset - 1..=end).contains(&last_offset) {
            return Err(EncodeError::Offsets {
                partition,
                base: base_offset,
                last: last_offset,
                left_base: open.next_offset,
                left_last: end,
            });
        }
        if last_offset < base_offset {
            self.run = None;
            return Ok(());
        }
        open.run.last_offset = last_offset;
        self.close_run()
    }

    fn push_records(
        &mut self,
        batch: &BatchView,
        partition: i32,
        buffer: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let header = batch.header();
        let plain = header.attributes.codec().and_then(|codec| {
            let stored = batch.stored_records();
            decompress_into(codec, stored, BATCH_PLAIN_BYTES_MAX, buffer).ok()
        });
        let decoded = match plain {
            Some(plain) if header.record_count >= 0 => self.fill(header, plain, partition)?,
            _ => None,
        };
        let Some(open) = self.run.as_mut() else {
            return Err(EncodeError::NoRun(header.base_offset));
        };
        let Some(group) = open.group.as_mut() else {
            return Err(EncodeError::NoRun(header.base_offset));
        };
        if let (Some(plain), Some(max_timestamp)) = (plain, decoded) {
            group.table.push(header, &self.odd, plain);
            group.fingerprint.batch(header, plain);
            group.plain_bytes += (batch.bytes().len() - batch.stored_records().len()) as u64;
            group.plain_bytes += plain.len() as u64;
            group.records += usize::try_from(header.record_count).unwrap_or_default();
            open.max_timestamp_so_far = open.max_timestamp_so_far.max(max_timestamp);
            open.run.max_timestamp = open.run.max_timestamp.max(max_timestamp);
        } else {
            group.table.push_verbatim(header, batch.bytes());
            group.fingerprint.verbatim(batch.bytes());
            group.plain_bytes += batch.bytes().len() as u64;
        }
        Ok(())
    }

    /// Adds the records to the columns, and what they do not hold to `odd`. The largest timestamp,
    /// or `None`, with nothing added, if the records cannot be decoded.
    fn fill(
        &mut self,
        header: &BatchHeader,
        plain: &[u8],
        partition: i32,
    ) -> Result<Option<i64>, EncodeError> {
        let records = || Records::new(header, plain);
        // what is handed over cannot be taken back
        let large = plain.len() > GATHERED_BYTES;
        if large && records().any(|record| record.is_err()) {
            return Ok(None);
        }
        self.odd.clear();
        let mark = self.columns.mark();
        let mut max_timestamp = i64::MIN;
        for (index, record) in (0..).zip(records()) {
            let Ok(record) = record else {
                self.columns.back_to(mark);
                return Ok(None);
            };
            max_timestamp = max_timestamp.max(record.timestamp);
            self.odd.note(header, index, &record);
            self.columns.push(&record)?;
            if large {
                self.columns.settle(partition)?;
            }
        }
        Ok(Some(max_timestamp))
    }

    fn is_group_full(&self) -> bool {
        let Some(group) = self.run.as_ref().and_then(|run| run.group.as_ref()) else {
            return false;
        };
        self.columns.bytes() >= ROW_GROUP_BYTES_TARGET
            || group.table.len() >= ROW_GROUP_BYTES_TARGET
            || group.plain_bytes >= ROW_GROUP_PLAIN_BYTES_TARGET as u64
            || group.records >= ROW_GROUP_RECORDS_TARGET
    }

    /// Writes the row group that is open, if one is, and its batch table.
    fn end_group(&mut self) -> Result<(), EncodeError> {
        let Some(open) = self.run.as_mut() else {
            return Ok(());
        };
        let Some(group) = open.group.take() else {
            return Ok(());
        };
        let byte_start = self.file.bytes_written() as u64;
        self.file.flush()?;
        self.file.inner_mut().begin_part();
        let chunks = self
            .columns
            .write_to(&mut self.file, open.run.partition.0)?;
        self.file.flush()?;
        // a run is known to end only when it does; then its last row group covers the rest
        let last_offset = open.next_offset - 1;
        let records =
            u32::try_from(group.records).map_err(|_| EncodeError::TooLong("number of records"))?;
        let trailer = Trailer {
            topic: self.topic,
            partition: open.run.partition,
            base_offset: open.group_base,
            last_offset,
            chunk_lens: chunks.lens,
            plain_chunks: chunks.plain,
            chunks_crc: self.file.inner().part_crc(),
            records,
            batches: 0,
            stored_len: 0,
            plain_len: 0,
            stored_crc: 0,
        };
        let table = group.table.finish(trailer)?;
        self.file.write_all(&table)?;
        open.run.row_groups.push(RowGroup {
            base_offset: open.group_base,
            last_offset,
            byte_start,
            byte_len: self.file.bytes_written() as u64 - byte_start,
            max_timestamp_so_far: open.max_timestamp_so_far,
            records,
            plain_bytes: group.plain_bytes,
        });
        open.group_base = open.next_offset;
        self.fingerprints.push(group.fingerprint.finish());
        self.row_groups += 1;
        Ok(())
    }
}

/// A batch must lie in what is left of its run, be no marker, and be as it was produced.
fn check(batch: &BatchView, open: &OpenRun) -> Result<(), EncodeError> {
    let header = batch.header();
    let partition = open.run.partition;
    let offset = header.base_offset;
    if header.attributes.is_control() {
        return Err(EncodeError::Control { partition, offset });
    }
    let last = header.last_offset();
    if offset < open.next_offset || last < offset || last > open.run.last_offset {
        return Err(EncodeError::Offsets {
            partition,
            base: offset,
            last,
            left_base: open.next_offset,
            left_last: open.run.last_offset,
        });
    }
    if !batch.crc_matches() {
        return Err(EncodeError::Crc { partition, offset });
    }
    if batch.stored_records().len() > BATCH_PLAIN_BYTES_MAX {
        return Err(EncodeError::TooLong("record batch"));
    }
    Ok(())
}
