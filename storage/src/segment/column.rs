//! One column of a row group, read value by value from the pages of its chunk.
//!
//! Knows the encodings that segments are written with: plain, dictionary, and differences, in data
//! pages of version 1.
//!
//! Architecture invariant: pure; no call panics, and memory is bounded by two pages, whatever the
//! bytes say.

mod run;

use std::ops::Range;

use bytes::Bytes;
use firn_proto::limits::SEGMENT_DICTIONARY_BYTES;

use super::fault::SegmentFault;
use super::page::{Codec, PageBytes, PageHeader, PageKind, Pages};
use super::values::{Delta, Hybrid};

/// What a column holds, as Parquet stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Physical {
    Int32,
    Int64,
    Bytes,
}

/// Repetition and definition level of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) repetition: u32,
    pub(super) definition: u32,
}

/// A column that has pages of its own.
#[derive(Debug)]
pub(super) struct Leaf {
    pages: Pages,
    physical: Physical,
    max: Level,
    /// The page that is being read, and how many levels are left in it.
    page: PageBytes,
    left: u32,
    repetition: Hybrid,
    definition: Hybrid,
    data: Data,
    dictionary: Dictionary,
    peeked: Option<Level>,
}

/// Where the values of a page are.
#[derive(Clone, Copy, Debug)]
enum Data {
    Plain(usize),
    Indices(Hybrid),
    Delta(Delta),
}

#[derive(Debug, Default)]
struct Dictionary {
    page: PageBytes,
    entries: Vec<Range<usize>>,
}

impl Leaf {
    /// What it holds in memory beside its chunk.
    pub(super) fn memory_bytes(&self) -> usize {
        let entries = self.dictionary.entries.capacity() * size_of::<Range<usize>>();
        self.page.memory_bytes() + self.dictionary.page.memory_bytes() + entries
    }

    pub(super) fn new(
        pages: Pages,
        physical: Physical,
        max_repetition: u32,
        max_definition: u32,
    ) -> Self {
        Self {
            pages,
            physical,
            max: Level {
                repetition: max_repetition,
                definition: max_definition,
            },
            page: PageBytes::default(),
            left: 0,
            repetition: Hybrid::default(),
            definition: Hybrid::default(),
            data: Data::Plain(0),
            dictionary: Dictionary::default(),
            peeked: None,
        }
    }

    pub(super) fn fault(&self, what: &'static str) -> SegmentFault {
        self.pages.fault(what)
    }

    /// The next value of a column without repetition; `None` is null.
    pub(super) fn next_bytes(&mut self, codec: &mut Codec) -> Result<Option<&[u8]>, SegmentFault> {
        let level = self.level(codec)?;
        if level.definition < self.max.definition {
            return Ok(None);
        }
        self.bytes().map(Some)
    }

    /// The next number of a column without repetition; `None` is null.
    pub(super) fn next_number(&mut self, codec: &mut Codec) -> Result<Option<i64>, SegmentFault> {
        let level = self.level(codec)?;
        if level.definition < self.max.definition {
            return Ok(None);
        }
        self.number().map(Some)
    }

    /// Passes over `rows` values of a column without repetition, whole pages unread.
    pub(super) fn skip(&mut self, rows: u64, codec: &mut Codec) -> Result<(), SegmentFault> {
        let mut rows = rows;
        while rows > 0 {
            if self.left == 0 {
                let (header, stored) = self.pages.next_page()?;
                if header.kind == PageKind::Data && u64::from(header.values) <= rows {
                    rows -= u64::from(header.values);
                } else {
                    self.begin_page(&header, stored, codec)?;
                }
                continue;
            }
            match self.physical {
                Physical::Bytes => drop(self.next_bytes(codec)?),
                Physical::Int32 | Physical::Int64 => drop(self.next_number(codec)?),
            }
            rows -= 1;
        }
        Ok(())
    }

    /// The level that [`Self::level`] returns next; `None` behind the last.
    pub(super) fn peek(&mut self, codec: &mut Codec) -> Result<Option<Level>, SegmentFault> {
        if self.peeked.is_none() && (self.left > 0 || !self.pages.is_empty()) {
            self.peeked = Some(self.level(codec)?);
        }
        Ok(self.peeked)
    }

    /// Takes the next level. A value follows it if its definition is the highest.
    pub(super) fn level(&mut self, codec: &mut Codec) -> Result<Level, SegmentFault> {
        if let Some(level) = self.peeked.take() {
            return Ok(level);
        }
        self.load(codec)?;
        self.left -= 1;
        let mut level = Level {
            repetition: 0,
            definition: 0,
        };
        if self.max.repetition > 0 {
            let next = self.repetition.next(&self.page);
            level.repetition = next.ok_or_else(|| self.fault("repetition level"))?;
        }
        if self.max.definition > 0 {
            let next = self.definition.next(&self.page);
            level.definition = next.ok_or_else(|| self.fault("definition level"))?;
        }
        if level.repetition > self.max.repetition || level.definition > self.max.definition {
            return Err(self.fault("level"));
        }
        Ok(level)
    }

    /// Begins the next page with levels, unless there are some left of this one.
    fn load(&mut self, codec: &mut Codec) -> Result<(), SegmentFault> {
        while self.left == 0 {
            if self.pages.is_empty() {
                return Err(self.fault("fewer values than records"));
            }
            let (header, stored) = self.pages.next_page()?;
            self.begin_page(&header, stored, codec)?;
        }
        Ok(())
    }

    /// The value behind the level just taken.
    pub(super) fn bytes(&mut self) -> Result<&[u8], SegmentFault> {
        let (column, what) = (&self.pages, "byte string");
        match &mut self.data {
            Data::Plain(at) => {
                let range = string_at(&self.page, *at).ok_or_else(|| column.fault(what))?;
                *at = range.end;
                Ok(&self.page[range])
            }
            Data::Indices(indices) => {
                let index = indices.next(&self.page);
                let entry = self.dictionary.entry(index);
                entry.ok_or_else(|| column.fault("index into the dictionary"))
            }
            Data::Delta(_) => Err(column.fault(what)),
        }
    }

    /// The number behind the level just taken.
    pub(super) fn number(&mut self) -> Result<i64, SegmentFault> {
        let fault = |what| self.pages.fault(what);
        match &mut self.data {
            Data::Delta(delta) => delta.next(&self.page).ok_or_else(|| fault("number")),
            Data::Plain(at) => {
                let end = *at + self.physical.width();
                let bytes = self.page.get(*at..end).ok_or_else(|| fault("number"))?;
                *at = end;
                Ok(number_of(bytes))
            }
            Data::Indices(indices) => {
                let index = indices.next(&self.page);
                let entry = self.dictionary.entry(index);
                entry
                    .map(number_of)
                    .ok_or_else(|| fault("index into the dictionary"))
            }
        }
    }

    fn begin_page(
        &mut self,
        header: &PageHeader,
        stored: Bytes,
        codec: &mut Codec,
    ) -> Result<(), SegmentFault> {
        if header.kind == PageKind::Dictionary {
            let mut page = std::mem::take(&mut self.dictionary.page);
            self.pages.inflate(header, stored, codec, &mut page)?;
            self.dictionary = Dictionary::new(page, header.values, self.physical)
                .ok_or_else(|| self.fault("dictionary"))?;
            return Ok(());
        }
        self.pages.inflate(header, stored, codec, &mut self.page)?;
        let mut at = 0;
        for (max, levels) in [
            (self.max.repetition, &mut self.repetition),
            (self.max.definition, &mut self.definition),
        ] {
            if max > 0 {
                (*levels, at) = levels_at(&self.page, at, max)
                    .ok_or_else(|| self.pages.fault("levels of a page"))?;
            }
        }
        self.data = self
            .data_at(at, header.encoding)
            .ok_or_else(|| self.fault("encoding of a page"))?;
        self.left = header.values;
        Ok(())
    }

    fn data_at(&self, at: usize, encoding: i32) -> Option<Data> {
        match encoding {
            PLAIN => Some(Data::Plain(at)),
            PLAIN_DICTIONARY | RLE_DICTIONARY => {
                // a page of nulls may end here
                let width = self.page.get(at).copied().unwrap_or_default();
                Hybrid::new(at + 1, self.page.len(), u32::from(width)).map(Data::Indices)
            }
            // a page of nulls may have no number at all
            DELTA_BINARY_PACKED if at == self.page.len() => Some(Data::Delta(Delta::default())),
            DELTA_BINARY_PACKED => Delta::new(&self.page, at).map(Data::Delta),
            _ => None,
        }
    }
}

impl Dictionary {
    /// Takes a page of plain values apart.
    fn new(page: PageBytes, values: u32, physical: Physical) -> Option<Self> {
        let mut entries: Vec<Range<usize>> = Vec::new();
        // each takes more than a byte
        if values as usize > SEGMENT_DICTIONARY_BYTES {
            return None;
        }
        let mut at = 0;
        for _ in 0..values {
            let entry = match physical {
                Physical::Bytes => string_at(&page, at)?,
                Physical::Int32 | Physical::Int64 => at..at + physical.width(),
            };
            at = entry.end;
            page.get(entry.clone())?;
            entries.push(entry);
        }
        Some(Self { page, entries })
    }

    fn entry(&self, index: Option<u32>) -> Option<&[u8]> {
        let entry = self.entries.get(usize::try_from(index?).ok()?)?;
        self.page.get(entry.clone())
    }
}

impl Physical {
    /// Bytes of a number.
    fn width(self) -> usize {
        match self {
            Self::Int32 => 4,
            Self::Int64 => 8,
            Self::Bytes => 0,
        }
    }
}

/// Parquet's numbers of encodings.
const PLAIN: i32 = 0;
const PLAIN_DICTIONARY: i32 = 2;
const DELTA_BINARY_PACKED: i32 = 5;
const RLE_DICTIONARY: i32 = 8;

/// The levels that begin at `at` with their length, and where they end.
fn levels_at(page: &[u8], at: usize, max: u32) -> Option<(Hybrid, usize)> {
    let range = string_at(page, at)?;
    let width = u32::BITS - max.leading_zeros();
    Some((Hybrid::new(range.start, range.end, width)?, range.end))
}

/// Where the bytes are that begin at `at` with their length.
fn string_at(page: &[u8], at: usize) -> Option<Range<usize>> {
    let len: &[u8; 4] = page.get(at..)?.first_chunk()?;
    let start = at + len.len();
    let end = start.checked_add(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
    (end <= page.len()).then_some(start..end)
}

/// A little-endian number of four or eight bytes.
fn number_of(bytes: &[u8]) -> i64 {
    if let Ok(bytes) = bytes.try_into() {
        return i64::from_le_bytes(bytes);
    }
    bytes
        .try_into()
        .map_or(0, |bytes| i64::from(i32::from_le_bytes(bytes)))
}
