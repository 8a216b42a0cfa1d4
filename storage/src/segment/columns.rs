//! The columns of a row group that is being gathered: arrays for the `parquet` crate, but for the
//! values, which have a chunk of their own.
//!
//! Architecture invariant: knows records and columns, neither batches nor where row groups end.

use std::io::Write;
use std::mem;

use arrow_array::ArrayRef;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use firn_proto::record::Record;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;

use super::arrays::{Arrays, Mark};
use super::fault::EncodeError;
use super::schema::{LEAVES, VALUE_LEAF, gathered_schema};
use super::value_chunk::{PageMark, ValueChunk};

/// Arrays are handed to their writers when they have this many bytes,
pub(super) const GATHERED_BYTES: usize = 512 * 1024;
/// or this many records.
const GATHERED_ROWS: usize = 4096;

/// Columns in the making. Emptied by [`Self::write_to`], and used again.
pub(super) struct Columns {
    factory: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    arrays: Arrays,
    /// Of all columns but that of the values; none before something was handed over.
    writers: Vec<ArrowColumnWriter>,
    /// About what they hold.
    written_bytes: usize,
    values: ValueChunk,
}

/// How long the columns are, to go back to.
#[derive(Clone, Copy, Debug)]
pub(super) struct ColumnsMark {
    arrays: Mark,
    values: PageMark,
}

/// What the chunks of a row group are like.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chunks {
    /// The length of each.
    pub(super) lens: [u32; LEAVES],
    /// Those that are stored without compression, a bit for each leaf.
    pub(super) plain: u8,
}

impl Columns {
    /// For row groups of `file`.
    pub(super) fn new<W: Write + Send>(
        file: &SerializedFileWriter<W>,
    ) -> Result<Self, EncodeError> {
        let schema = gathered_schema();
        Ok(Self {
            factory: ArrowRowGroupWriterFactory::new(file, SchemaRef::clone(&schema)),
            schema,
            arrays: Arrays::new(),
            writers: Vec::new(),
            written_bytes: 0,
            values: ValueChunk::new(file.schema_descr().column(VALUE_LEAF))?,
        })
    }

    /// About what they take in the segment, but for what was not handed over yet.
    pub(super) fn bytes(&self) -> usize {
        self.written_bytes + self.values.bytes()
    }

    pub(super) fn push(&mut self, record: &Record<'_>) -> Result<(), EncodeError> {
        self.arrays.push(record);
        self.values.push(record.value)
    }

    pub(super) fn mark(&self) -> ColumnsMark {
        ColumnsMark {
            arrays: self.arrays.mark(),
            values: self.values.mark(),
        }
    }

    /// Takes back everything since `mark`; they were not settled since.
    pub(super) fn back_to(&mut self, mark: ColumnsMark) {
        self.arrays.back_to(mark.arrays);
        self.values.back_to(mark.values);
    }

    /// Hands over what was gathered, if it is enough. It cannot be taken back any more.
    pub(super) fn settle(&mut self, partition: i32) -> Result<(), EncodeError> {
        self.values.settle()?;
        if self.arrays.rows() >= GATHERED_ROWS || self.arrays.bytes() >= GATHERED_BYTES {
            self.hand_over(partition)?;
        }
        Ok(())
    }

    /// Ends the row group and writes its chunks, if it has a record: Parquet has no row groups
    /// without rows.
    pub(super) fn write_to<W: Write + Send>(
        &mut self,
        file: &mut SerializedFileWriter<W>,
        partition: i32,
    ) -> Result<Chunks, EncodeError> {
        self.hand_over(partition)?;
        let mut chunks = Chunks::default();
        if self.writers.is_empty() {
            return Ok(chunks);
        }
        let mut group = file.next_row_group()?;
        for writer in mem::take(&mut self.writers) {
            writer.close()?.append_to_row_group(&mut group)?;
        }
        self.written_bytes = 0;
        let append = |chunk: &Bytes, close| group.append_column(chunk, close);
        let is_plain = self.values.take(append)?;
        chunks.plain = u8::from(is_plain) << VALUE_LEAF;
        let metadata = group.close()?;
        for (len, chunk) in chunks.lens.iter_mut().zip(metadata.columns()) {
            *len = u32::try_from(chunk.compressed_size())
                .map_err(|_| EncodeError::TooLong("column of a row group"))?;
        }
        Ok(chunks)
    }

    /// Hands the arrays that were gathered to their writers.
    fn hand_over(&mut self, partition: i32) -> Result<(), EncodeError> {
        if self.arrays.rows() == 0 {
            return Ok(());
        }
        if self.writers.is_empty() {
            self.writers = self.factory.create_column_writers(0)?;
        }
        let (schema, writers) = (&self.schema, &mut self.writers);
        let write = |columns: &[ArrayRef]| -> Result<(), ParquetError> {
            let mut writers = writers.iter_mut();
            for (field, column) in schema.fields().iter().zip(columns) {
                for leaf in compute_leaves(field, column)? {
                    if let Some(writer) = writers.next() {
                        writer.write(&leaf)?;
                    }
                }
            }
            Ok(())
        };
        self.arrays.take(partition, write)?;
        let writers = self.writers.iter();
        self.written_bytes = writers
            .map(ArrowColumnWriter::get_estimated_total_bytes)
            .sum();
        Ok(())
    }
}
