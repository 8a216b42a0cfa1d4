//! The chunk of the column of values, written here and not by the `parquet` crate: values are most
//! of the bytes of a segment, and go from their batch into their page in one copy. A chunk whose
//! values zstd does not make shorter is stored as it is.
//!
//! Architecture invariant: pure; what comes out depends on nothing but what goes in.

use std::mem;

use bytes::Bytes;
use firn_proto::limits::{
    ROW_GROUP_BYTES_TARGET, SEGMENT_PAGE_BYTES_TARGET, SEGMENT_SAMPLE_BYTES_MIN,
    SEGMENT_SHRUNK_PERCENT_MAX,
};
use firn_proto::varint::{put_i64, put_u64};
use parquet::basic::{Compression, Encoding, PageType};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, OffsetIndexBuilder, PageEncodingStats};
use parquet::schema::types::ColumnDescPtr;
use zstd::bulk::Compressor;

use super::fault::EncodeError;
use super::schema::{ZSTD_LEVEL, zstd};

/// A page is closed when it has this many rows, however short they are.
const PAGE_ROWS_TARGET: u32 = 20_000;

/// The chunk of a row group in the making. Emptied by [`Self::take`], and used again.
pub(super) struct ValueChunk {
    column: ColumnDescPtr,
    compressor: Compressor<'static>,
    /// A page, compressed.
    compressed: Vec<u8>,
    /// The values of the page that is open, each behind its length.
    page: Vec<u8>,
    levels: Levels,
    /// Pages that are closed.
    bytes: Vec<u8>,
    plain_bytes: usize,
    pages: usize,
    rows: usize,
    index: OffsetIndexBuilder,
    /// Whether pages are stored as they are; the first of them decides.
    is_plain: bool,
}

/// How long the open page is, to go back to.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageMark {
    bytes: usize,
    rows: u32,
    nulls: usize,
}

impl ValueChunk {
    pub(super) fn new(column: ColumnDescPtr) -> Result<Self, EncodeError> {
        Ok(Self {
            column,
            compressor: Compressor::new(ZSTD_LEVEL)?,
            compressed: Vec::new(),
            page: Vec::new(),
            levels: Levels::default(),
            bytes: Vec::new(),
            plain_bytes: 0,
            pages: 0,
            rows: 0,
            index: OffsetIndexBuilder::new(),
            is_plain: false,
        })
    }

    /// Bytes of the pages that are closed and of the one that is open.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len() + self.page.len()
    }

    /// Adds a value to the open page.
    pub(super) fn push(&mut self, value: Option<&[u8]>) -> Result<(), EncodeError> {
        if let Some(value) = value {
            let len = u32::try_from(value.len()).map_err(|_| EncodeError::TooLong("value"))?;
            self.page.extend_from_slice(&len.to_le_bytes());
            self.page.extend_from_slice(value);
        }
        self.levels.push(value.is_some());
        Ok(())
    }

    pub(super) fn mark(&self) -> PageMark {
        PageMark {
            bytes: self.page.len(),
            rows: self.levels.rows,
            nulls: self.levels.nulls.len(),
        }
    }

    /// Takes back every value since `mark`; no page was closed since.
    pub(super) fn back_to(&mut self, mark: PageMark) {
        self.page.truncate(mark.bytes);
        self.levels.rows = mark.rows;
        self.levels.nulls.truncate(mark.nulls);
    }

    /// Closes the page if it is long enough.
    pub(super) fn settle(&mut self) -> Result<(), EncodeError> {
        let is_full =
            self.page.len() >= SEGMENT_PAGE_BYTES_TARGET || self.levels.rows >= PAGE_ROWS_TARGET;
        if is_full { self.close_page() } else { Ok(()) }
    }

    /// Hands the chunk to `write` and begins again, with the same memory. Whether it is stored as it
    /// is.
    pub(super) fn take(
        &mut self,
        write: impl FnOnce(&Bytes, ColumnCloseResult) -> Result<(), ParquetError>,
    ) -> Result<bool, EncodeError> {
        if self.levels.rows > 0 {
            self.close_page()?;
        }
        let close = ColumnCloseResult {
            bytes_written: self.bytes.len() as u64,
            rows_written: self.rows as u64,
            metadata: self.metadata()?,
            bloom_filter: None,
            column_index: None,
            offset_index: Some(mem::take(&mut self.index).build()),
        };
        let chunk = Bytes::from(mem::take(&mut self.bytes));
        write(&chunk, close)?;
        // nobody else holds it, so that nothing is copied
        self.bytes = Vec::from(chunk);
        self.bytes.clear();
        self.bytes.shrink_to(2 * ROW_GROUP_BYTES_TARGET);
        (self.plain_bytes, self.pages, self.rows) = (0, 0, 0);
        Ok(mem::take(&mut self.is_plain))
    }

    fn metadata(&self) -> Result<ColumnChunkMetaData, EncodeError> {
        let compression = match self.is_plain {
            true => Compression::UNCOMPRESSED,
            false => zstd()?,
        };
        let pages = PageEncodingStats {
            page_type: PageType::DATA_PAGE,
            encoding: Encoding::PLAIN,
            count: number(self.pages)?,
        };
        let metadata = ColumnChunkMetaData::builder(ColumnDescPtr::clone(&self.column))
            .set_compression(compression)
            .set_encodings(vec![Encoding::PLAIN, Encoding::RLE])
            .set_page_encoding_stats(vec![pages])
            .set_total_compressed_size(i64::from(number(self.bytes.len())?))
            .set_total_uncompressed_size(i64::from(number(self.plain_bytes)?))
            .set_num_values(i64::from(number(self.rows)?))
            .set_data_page_offset(0)
            .build()?;
        Ok(metadata)
    }

    fn close_page(&mut self) -> Result<(), EncodeError> {
        let rows = self.levels.rows;
        let value_bytes = self.page.len() - 4 * (rows as usize - self.levels.nulls.len());
        let levels = self.levels.take();
        let plain_len = levels.len() + self.page.len();
        let start = self.bytes.len();
        let header_len = if self.is_plain || !self.compress(&levels)? {
            let header_len = put_page_header(&mut self.bytes, rows, plain_len, plain_len)?;
            self.bytes.extend_from_slice(&levels);
            self.bytes.extend_from_slice(&self.page);
            header_len
        } else {
            let stored_len = self.compressed.len();
            let header_len = put_page_header(&mut self.bytes, rows, plain_len, stored_len)?;
            self.bytes.extend_from_slice(&self.compressed);
            header_len
        };
        self.page.clear();
        // one large value must not keep its memory for ever
        self.page.shrink_to(PAGE_BYTES_KEPT);
        self.compressed.shrink_to(PAGE_BYTES_KEPT);
        self.index.append_row_count(i64::from(rows));
        let stored_len = number(self.bytes.len() - start)?;
        self.index
            .append_offset_and_size(i64::from(number(start)?), stored_len);
        let value_bytes = i64::from(number(value_bytes)?);
        self.index
            .append_unencoded_byte_array_data_bytes(Some(value_bytes));
        self.plain_bytes += header_len + plain_len;
        self.pages += 1;
        self.rows += rows as usize;
        Ok(())
    }

    /// Compresses the open page behind its `levels`; `false` if it is better left as it is, which
    /// the first page decides for all.
    fn compress(&mut self, levels: &[u8]) -> Result<bool, EncodeError> {
        self.page.splice(0..0, levels.iter().copied());
        let plain_len = self.page.len();
        let bound = zstd::zstd_safe::compress_bound(plain_len);
        self.compressed.clear();
        self.compressed.reserve(bound);
        self.compressor
            .compress_to_buffer(&self.page, &mut self.compressed)?;
        let is_sample = self.pages == 0 && plain_len >= SEGMENT_SAMPLE_BYTES_MIN;
        let percent = self.compressed.len() * 100 / plain_len;
        if is_sample && percent > SEGMENT_SHRUNK_PERCENT_MAX {
            self.is_plain = true;
            self.page.drain(..levels.len());
        }
        Ok(!self.is_plain)
    }
}

/// Which rows of the open page have a value.
#[derive(Debug, Default)]
struct Levels {
    rows: u32,
    /// Those that have none.
    nulls: Vec<u32>,
}

impl Levels {
    fn push(&mut self, is_value: bool) {
        if !is_value {
            self.nulls.push(self.rows);
        }
        self.rows += 1;
    }

    /// The definition levels with their length in front, and none any more: one run if all rows are
    /// alike, else a bit for each.
    fn take(&mut self) -> Vec<u8> {
        let rows = self.rows as usize;
        let mut levels = vec![0; 4];
        if self.nulls.is_empty() || self.nulls.len() == rows {
            put_u64(&mut levels, u64::from(self.rows) << 1);
            levels.push(u8::from(self.nulls.is_empty()));
        } else {
            let bytes = rows.div_ceil(8);
            put_u64(&mut levels, (bytes as u64) << 1 | 1);
            let bits = levels.len();
            levels.resize(bits + bytes, 0xff);
            let behind = self.rows..(bytes * 8) as u32;
            for row in self.nulls.iter().copied().chain(behind) {
                levels[bits + row as usize / 8] &= !(1 << (row % 8));
            }
        }
        let len = (levels.len() - 4) as u32;
        levels[..4].copy_from_slice(&len.to_le_bytes());
        self.rows = 0;
        self.nulls.clear();
        levels
    }
}

/// Memory that is kept for the next page.
const PAGE_BYTES_KEPT: usize = 8 * SEGMENT_PAGE_BYTES_TARGET;

/// Writes the header of a data page of version 1 with plain values (Thrift, compact protocol), and
/// says how long it is.
fn put_page_header(
    out: &mut Vec<u8>,
    rows: u32,
    plain_len: usize,
    stored_len: usize,
) -> Result<usize, EncodeError> {
    /// A number whose field id is one more than that of the field before it.
    const NEXT_I32: u8 = 0x15;
    /// A struct whose field id is two more.
    const STRUCT_AFTER_NEXT: u8 = 0x2c;
    const DATA_PAGE: i32 = 0;
    const PLAIN: i32 = 0;
    const RLE: i32 = 3;
    let start = out.len();
    let mut put = |number: i32| {
        out.push(NEXT_I32);
        put_i64(out, i64::from(number));
    };
    put(DATA_PAGE);
    put(number(plain_len)?);
    put(number(stored_len)?);
    out.push(STRUCT_AFTER_NEXT);
    for number in [rows.cast_signed(), PLAIN, RLE, RLE] {
        out.push(NEXT_I32);
        put_i64(out, i64::from(number));
    }
    // the ends of both structs
    out.extend_from_slice(&[0, 0]);
    Ok(out.len() - start)
}

/// A length or count, as Parquet has them.
fn number(number: usize) -> Result<i32, EncodeError> {
    i32::try_from(number).map_err(|_| EncodeError::TooLong("column of a row group"))
}
