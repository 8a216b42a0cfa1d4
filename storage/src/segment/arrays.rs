//! The columns of records that are being gathered, but for their values, as Arrow wants them: one
//! array per column, and nothing per record.
//!
//! Architecture invariant: pure; knows records and columns, not batches.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryArray, Int32Array, Int64Array, ListArray, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow_buffer::{Buffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field};
use firn_proto::record::Record;
use parquet::errors::ParquetError;

use super::schema::header_fields;

/// Microseconds in a millisecond: the column of timestamps counts the former.
pub(super) const MICROS: i64 = 1000;

/// Columns in the making. Emptied by [`Self::take`], and used again.
#[derive(Debug)]
pub(super) struct Arrays {
    offsets: Vec<i64>,
    timestamps: Vec<i64>,
    timestamps_valid: NullBufferBuilder,
    keys: Bytestrings,
    header_ends: Vec<i32>,
    header_keys: Bytestrings,
    header_values: Bytestrings,
}

/// How long the columns are, to go back to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    rows: usize,
    headers: usize,
}

impl Arrays {
    pub(super) fn new() -> Self {
        Self {
            offsets: Vec::new(),
            timestamps: Vec::new(),
            timestamps_valid: NullBufferBuilder::new(0),
            keys: Bytestrings::new(),
            header_ends: vec![0],
            header_keys: Bytestrings::new(),
            header_values: Bytestrings::new(),
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.offsets.len()
    }

    /// Bytes of keys and headers.
    pub(super) fn bytes(&self) -> usize {
        let strings = [&self.keys, &self.header_keys, &self.header_values];
        strings.iter().map(|column| column.bytes.len()).sum()
    }

    /// Adds a record, without its value. A header key that is not UTF-8 is shown with replacement characters.
    pub(super) fn push(&mut self, record: &Record<'_>) {
        self.offsets.push(record.offset);
        match micros(record.timestamp) {
            Some(micros) => {
                self.timestamps.push(micros);
                self.timestamps_valid.append_non_null();
            }
            None => {
                self.timestamps.push(0);
                self.timestamps_valid.append_null();
            }
        }
        self.keys.push(record.key);
        for header in record.headers {
            match str::from_utf8(header.key) {
                Ok(_) => self.header_keys.push(Some(header.key)),
                Err(_) => {
                    let shown = String::from_utf8_lossy(header.key);
                    self.header_keys.push(Some(shown.as_bytes()));
                }
            }
            self.header_values.push(header.value);
        }
        self.header_ends.push(length(self.header_keys.len()));
    }

    pub(super) fn mark(&self) -> Mark {
        Mark {
            rows: self.offsets.len(),
            headers: self.header_keys.len(),
        }
    }

    /// Takes back everything since `mark`.
    pub(super) fn back_to(&mut self, mark: Mark) {
        self.offsets.truncate(mark.rows);
        self.timestamps.truncate(mark.rows);
        self.timestamps_valid.truncate(mark.rows);
        self.keys.truncate(mark.rows);
        self.header_ends.truncate(mark.rows + 1);
        self.header_keys.truncate(mark.headers);
        self.header_values.truncate(mark.headers);
    }

    /// Hands the columns, in the order of the schema, to `write`, and begins again.
    pub(super) fn take<T>(
        &mut self,
        partition: i32,
        write: impl FnOnce(&[ArrayRef]) -> Result<T, ParquetError>,
    ) -> Result<T, ParquetError> {
        let rows = self.rows();
        let capacity = self.offsets.capacity();
        let offsets = std::mem::replace(&mut self.offsets, Vec::with_capacity(capacity));
        let timestamps = std::mem::replace(&mut self.timestamps, Vec::with_capacity(capacity));
        let valid = self.timestamps_valid.finish();
        let timestamps = TimestampMicrosecondArray::try_new(timestamps.into(), valid)?;
        let ends = std::mem::replace(&mut self.header_ends, Vec::with_capacity(capacity));
        self.header_ends.push(0);
        let header_keys = self.header_keys.array()?;
        let (key_ends, key_bytes, key_valid) = header_keys.into_parts();
        let header_keys = StringArray::try_new(key_ends, key_bytes, key_valid)?;
        let header_columns: Vec<ArrayRef> =
            vec![Arc::new(header_keys), Arc::new(self.header_values.array()?)];
        let headers = StructArray::try_new(header_fields(), header_columns, None)?;
        let element = Field::new("element", DataType::Struct(header_fields()), false);
        let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
        let headers = ListArray::try_new(Arc::new(element), ends, Arc::new(headers), None)?;
        let keys = Arc::new(self.keys.array()?);
        let columns: [ArrayRef; 5] = [
            Arc::new(Int32Array::from_value(partition, rows)),
            Arc::new(Int64Array::from(offsets)),
            Arc::new(timestamps.with_timezone("UTC")),
            Arc::<BinaryArray>::clone(&keys) as ArrayRef,
            Arc::new(headers),
        ];
        let written = write(&columns);
        drop(columns);
        self.keys.reuse(keys);
        written
    }
}

/// What the column of timestamps holds for `timestamp`: nothing for none, or for one that it has no
/// room for.
pub(super) fn micros(timestamp: i64) -> Option<i64> {
    match timestamp {
        -1 => None,
        _ => timestamp.checked_mul(MICROS),
    }
}

/// A column of byte strings.
#[derive(Debug)]
struct Bytestrings {
    ends: Vec<i32>,
    bytes: Vec<u8>,
    valid: NullBufferBuilder,
}

impl Bytestrings {
    fn new() -> Self {
        Self {
            ends: vec![0],
            bytes: Vec::new(),
            valid: NullBufferBuilder::new(0),
        }
    }

    fn len(&self) -> usize {
        self.ends.len() - 1
    }

    fn push(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => {
                self.bytes.extend_from_slice(value);
                self.valid.append_non_null();
            }
            None => self.valid.append_null(),
        }
        self.ends.push(length(self.bytes.len()));
    }

    fn truncate(&mut self, len: usize) {
        self.ends.truncate(len + 1);
        self.valid.truncate(len);
        let end = self.ends.last().copied().unwrap_or_default();
        self.bytes
            .truncate(usize::try_from(end).unwrap_or_default());
    }

    fn array(&mut self) -> Result<BinaryArray, ParquetError> {
        let ends = std::mem::replace(&mut self.ends, vec![0]);
        let bytes = std::mem::take(&mut self.bytes);
        let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
        let array = BinaryArray::try_new(ends, Buffer::from_vec(bytes), self.valid.finish())?;
        Ok(array)
    }

    /// Takes the memory of an array back that nobody else holds any more.
    fn reuse(&mut self, array: Arc<BinaryArray>) {
        let Some(array) = Arc::into_inner(array) else {
            return;
        };
        let (ends, bytes, _) = array.into_parts();
        if let Ok(mut ends) = ends.into_inner().into_inner().into_vec::<i32>() {
            ends.clear();
            ends.push(0);
            self.ends = ends;
        }
        if let Ok(mut bytes) = bytes.into_vec::<u8>() {
            bytes.clear();
            // one large value must not keep its memory for ever
            bytes.shrink_to(4 * super::columns::GATHERED_BYTES);
            self.bytes = bytes;
        }
    }
}

/// A number of bytes or rows. They are gathered up to the bound of one batch, which is far below
/// what 31 bits can say.
fn length(len: usize) -> i32 {
    i32::try_from(len).unwrap_or(i32::MAX)
}

const _: () = assert!(
    2 * firn_proto::limits::BATCH_PLAIN_BYTES_MAX + super::columns::GATHERED_BYTES
        < i32::MAX as usize,
    "what is gathered must fit the offsets of an array"
);
