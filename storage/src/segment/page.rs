//! The pages of one column chunk: their headers, which are Thrift structs in the compact protocol,
//! and their bytes, decompressed.
//!
//! Architecture invariant: pure; no call panics, and none takes more memory than
//! [`SEGMENT_PAGE_BYTES_MAX`], whatever the bytes say.

use std::ops::Deref;

use bytes::Bytes;
use firn_proto::limits::SEGMENT_PAGE_BYTES_MAX;
use firn_proto::varint::{take_i32, take_i64, take_u64};
use zstd::bulk::Decompressor;

use super::fault::SegmentFault;

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageKind {
    Data,
    Dictionary,
}

/// The header of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageHeader {
    pub(super) kind: PageKind,
    pub(super) values: u32,
    /// Parquet's number.
    pub(super) encoding: i32,
    plain_len: usize,
}

/// The pages of a chunk, one after the other.
#[derive(Debug)]
pub(super) struct Pages {
    column: &'static str,
    chunk: Bytes,
    /// They are stored as they are.
    is_plain: bool,
    at: usize,
}

/// A page that is being read.
#[derive(Debug)]
pub(super) enum PageBytes {
    /// As it lies in its chunk.
    Stored(Bytes),
    /// Decompressed, in memory that is used again.
    Inflated(Vec<u8>),
}

impl PageBytes {
    /// What it takes beside its chunk.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::Stored(_) => 0,
            Self::Inflated(page) => page.capacity(),
        }
    }
}

impl Default for PageBytes {
    fn default() -> Self {
        Self::Stored(Bytes::new())
    }
}

impl Deref for PageBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Stored(page) => page,
            Self::Inflated(page) => page,
        }
    }
}

impl Pages {
    /// The pages in `chunk`; `is_plain` if they are not compressed.
    pub(super) fn new(column: &'static str, chunk: Bytes, is_plain: bool) -> Self {
        Self {
            column,
            chunk,
            is_plain,
            at: 0,
        }
    }

    /// Whether there is no other page.
    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.chunk.len()
    }

    /// The next page: its header, and its bytes as they are stored.
    pub(super) fn next_page(&mut self) -> Result<(PageHeader, Bytes), SegmentFault> {
        let mut rest = self.chunk.get(self.at..).unwrap_or_default();
        let (header, stored_len) =
            page_header(&mut rest).ok_or_else(|| self.fault("header of a page"))?;
        let start = self.chunk.len() - rest.len();
        let end = start
            .checked_add(stored_len)
            .filter(|end| *end <= self.chunk.len())
            .ok_or_else(|| self.fault("length of a page"))?;
        self.at = end;
        Ok((header, self.chunk.slice(start..end)))
    }

    /// Puts a page as it was before it was compressed into `page`.
    pub(super) fn inflate(
        &self,
        header: &PageHeader,
        stored: Bytes,
        codec: &mut Codec,
        page: &mut PageBytes,
    ) -> Result<(), SegmentFault> {
        if header.plain_len > SEGMENT_PAGE_BYTES_MAX {
            return Err(SegmentFault::TooLarge {
                what: "page of a column",
                bytes_max: SEGMENT_PAGE_BYTES_MAX,
            });
        }
        if self.is_plain {
            let is_whole = stored.len() == header.plain_len;
            *page = PageBytes::Stored(stored);
            return is_whole
                .then_some(())
                .ok_or_else(|| self.fault("length of a page that is not compressed"));
        }
        let mut out = match std::mem::take(page) {
            PageBytes::Inflated(out) => out,
            PageBytes::Stored(_) => Vec::new(),
        };
        codec
            .inflate(&stored, header.plain_len, &mut out)
            .ok_or_else(|| self.fault("page does not decompress"))?;
        *page = PageBytes::Inflated(out);
        Ok(())
    }

    pub(super) fn fault(&self, what: &'static str) -> SegmentFault {
        SegmentFault::Column {
            column: self.column,
            what,
        }
    }
}

/// The state of the decompressor, used for all pages of a row group.
pub(super) struct Codec(Option<Decompressor<'static>>);

impl Codec {
    pub(super) fn new() -> Self {
        Self(None)
    }

    fn inflate(&mut self, stored: &[u8], plain_len: usize, out: &mut Vec<u8>) -> Option<()> {
        out.clear();
        out.reserve(plain_len);
        let codec = match &mut self.0 {
            Some(codec) => codec,
            none => none.insert(Decompressor::new().ok()?),
        };
        let written = codec.decompress_to_buffer(stored, out).ok()?;
        (written == plain_len && out.len() == plain_len).then_some(())
    }
}

/// Numbers of page kinds.
const DATA_PAGE: i32 = 0;
const DICTIONARY_PAGE: i32 = 2;

/// Numbers of types in the compact protocol.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;

/// How deep structs and lists in a header may be nested: statistics are at depth 2.
const DEPTH_MAX: u32 = 8;

/// A page header, and how many bytes of page follow it.
fn page_header(bytes: &mut &[u8]) -> Option<(PageHeader, usize)> {
    let (mut kind, mut plain_len, mut stored_len, mut data) = (None, None, None, None);
    let mut id = 0;
    while let Some(ty) = field(bytes, &mut id)? {
        match (id, ty) {
            (1, I32) => kind = Some(take_i32(bytes)?),
            (2, I32) => plain_len = Some(take_i32(bytes)?),
            (3, I32) => stored_len = Some(take_i32(bytes)?),
            (5 | 7, STRUCT) => data = Some(data_header(bytes)?),
            _ => skip(bytes, ty, DEPTH_MAX)?,
        }
    }
    let kind = match kind? {
        DATA_PAGE => PageKind::Data,
        DICTIONARY_PAGE => PageKind::Dictionary,
        _ => return None,
    };
    let (values, encoding) = data?;
    let header = PageHeader {
        kind,
        values,
        encoding,
        plain_len: usize::try_from(plain_len?).ok()?,
    };
    Some((header, usize::try_from(stored_len?).ok()?))
}

/// Number of values and encoding: the first two fields of both kinds of header.
fn data_header(bytes: &mut &[u8]) -> Option<(u32, i32)> {
    let (mut values, mut encoding) = (None, None);
    let mut id = 0;
    while let Some(ty) = field(bytes, &mut id)? {
        match (id, ty) {
            (1, I32) => values = Some(u32::try_from(take_i32(bytes)?).ok()?),
            (2, I32) => encoding = Some(take_i32(bytes)?),
            _ => skip(bytes, ty, DEPTH_MAX)?,
        }
    }
    Some((values?, encoding?))
}

/// Takes the head of a field; the inner `None` is the end of the struct.
#[expect(
    clippy::option_option,
    reason = "the end and unreadable bytes are told apart"
)]
fn field(bytes: &mut &[u8], id: &mut i32) -> Option<Option<u8>> {
    let head = byte(bytes)?;
    if head == 0 {
        return Some(None);
    }
    *id = match head >> 4 {
        0 => take_i32(bytes)?,
        step => id.checked_add(i32::from(step))?,
    };
    Some(Some(head & 0x0f))
}

/// Passes over a value. Each step takes a byte at least, so that it ends with the bytes.
fn skip(bytes: &mut &[u8], ty: u8, depth: u32) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    match ty {
        TRUE | FALSE => {}
        BYTE => {
            byte(bytes)?;
        }
        I16 | I32 | I64 => {
            take_i64(bytes)?;
        }
        DOUBLE => take(bytes, 8)?,
        BINARY => {
            let len = usize::try_from(take_u64(bytes)?).ok()?;
            take(bytes, len)?;
        }
        LIST | SET => {
            let head = byte(bytes)?;
            let len = match head >> 4 {
                0x0f => take_u64(bytes)?,
                len => u64::from(len),
            };
            for _ in 0..len {
                skip_item(bytes, head & 0x0f, depth)?;
            }
        }
        MAP => {
            let len = take_u64(bytes)?;
            let types = if len == 0 { 0 } else { byte(bytes)? };
            for _ in 0..len {
                skip_item(bytes, types >> 4, depth)?;
                skip_item(bytes, types & 0x0f, depth)?;
            }
        }
        STRUCT => {
            let mut id = 0;
            while let Some(ty) = field(bytes, &mut id)? {
                skip(bytes, ty, depth)?;
            }
        }
        _ => return None,
    }
    Some(())
}

/// Passes over an item of a list: there, a boolean has a byte.
fn skip_item(bytes: &mut &[u8], ty: u8, depth: u32) -> Option<()> {
    match ty {
        TRUE | FALSE => byte(bytes).map(drop),
        _ => skip(bytes, ty, depth),
    }
}

fn take(bytes: &mut &[u8], len: usize) -> Option<()> {
    *bytes = bytes.get(len..)?;
    Some(())
}

fn byte(bytes: &mut &[u8]) -> Option<u8> {
    let (byte, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*byte)
}
