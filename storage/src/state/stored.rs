//! The runs of a state row as bytes: full pages are written once, beside the rows of a checkpoint,
//! and later rows only say where. `storage/FORMAT.md` §5 has the table.
//!
//! A page may be referred to only if it lies in the stream of its last run. As long as that run is
//! needed the floor of the stream stays at or below the run's slot (I7), and the page was written
//! with a later one. What an earlier process left unwritten stays in the row until the partition's
//! next runs are added to it (`runs.rs`).

use firn_proto::ids::{Slot, StreamId, TopicPartition};
use firn_proto::varint::{put_i64, put_u64};

use super::encoding::{Decoded, StateRowFault, int, len, put_len, take_byte, uint32, unsigned};
use super::page::{Page, PagePlace};
use super::partition::StateRow;
use crate::stream::crc32c;

const CRC_LEN: usize = 4;
/// Least bytes of a run: each of its seven fields takes one.
const RUN_LEN_MIN: usize = 7;
/// Least bytes of a page in a row.
const PAGE_LEN_MIN: usize = 7;

const IN_ROW: u8 = 0;
const IN_THIS_CHECKPOINT: u8 = 1;
const IN_AN_OBJECT: u8 = 2;

/// Pages that a checkpoint is the first to write.
#[derive(Debug)]
pub struct NewPages {
    stream: StreamId,
    /// Where the first of them will stand in the checkpoint.
    start: usize,
    bytes: Vec<u8>,
    written: Vec<WrittenPage>,
}

/// A page that a checkpoint is the first to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrittenPage {
    /// Whose runs these are.
    pub tp: TopicPartition,
    /// Their first offset.
    pub base_offset: i64,
    /// Where it begins in the checkpoint.
    pub start: u32,
    /// Its length.
    pub len: u32,
}

impl NewPages {
    /// No pages yet, of a checkpoint in `stream` in which they will begin at byte `start`.
    pub fn new(stream: StreamId, start: usize) -> Self {
        Self {
            stream,
            start,
            bytes: Vec::new(),
            written: Vec::new(),
        }
    }

    /// The bytes of all pages, and what they are.
    pub fn into_parts(self) -> (Vec<u8>, Vec<WrittenPage>) {
        (self.bytes, self.written)
    }

    /// Takes a page in, unless it belongs into rows only.
    fn take(&mut self, tp: TopicPartition, page: &Page) -> Option<(u32, u32)> {
        let start = u32::try_from(self.start + self.bytes.len()).ok()?;
        let len = u32::try_from(page.bytes().len() + CRC_LEN).ok()?;
        if page.last_stream() != Some(self.stream) || start.checked_add(len).is_none() {
            return None;
        }
        self.bytes.extend_from_slice(page.bytes());
        let crc = crc32c(page.bytes());
        self.bytes.extend_from_slice(&crc.to_le_bytes());
        self.written.push(WrittenPage {
            tp,
            base_offset: page.base_offset(),
            start,
            len,
        });
        Some((start, len))
    }
}

pub(super) fn encode_runs(row: &StateRow, out: &mut Vec<u8>, new: &mut NewPages) {
    put_len(out, row.runs.pages().len());
    let mut end = 0_i64;
    for page in row.runs.pages() {
        put_u64(out, u64::from(page.count()));
        put_i64(out, page.base_offset().wrapping_sub(end));
        put_i64(out, page.end().wrapping_sub(page.base_offset()));
        put_i64(out, page.max_timestamp());
        end = page.end();
        if let Some(place) = page.place() {
            out.push(IN_AN_OBJECT);
            put_u64(out, place.stream.0);
            put_u64(out, place.slot.0);
            put_u64(out, u64::from(place.start));
            put_u64(out, u64::from(place.len));
        } else if let Some((start, len)) = new.take(row.tp, page) {
            out.push(IN_THIS_CHECKPOINT);
            put_u64(out, u64::from(start));
            put_u64(out, u64::from(len));
        } else {
            out.push(IN_ROW);
            out.extend_from_slice(page.bytes());
        }
    }
    let open = row.runs.open_page();
    put_u64(out, open.map_or(0, |open| u64::from(open.count())));
    out.extend_from_slice(open.map_or(&[], Page::bytes));
}

/// A state row as it was read, without the pages of runs that lie elsewhere.
#[derive(Clone, Debug)]
pub struct StoredRow {
    /// The row; its table of runs is empty.
    pub(super) row: StateRow,
    pub(super) pages: Vec<PageInRow>,
    /// The runs behind the pages.
    pub(super) open: Option<Page>,
}

/// What a row says about a page.
#[derive(Clone, Debug)]
pub(super) struct PageInRow {
    count: u32,
    base_offset: i64,
    end: i64,
    max_timestamp: i64,
    at: PageAt,
}

#[derive(Clone, Debug)]
enum PageAt {
    Row(Page),
    ThisCheckpoint { start: u32, len: u32 },
    Object(PagePlace),
}

impl StoredRow {
    /// The row, but for its runs.
    pub fn without_runs(&self) -> &StateRow {
        &self.row
    }

    /// How many pages of runs lie outside the row, and how many runs there are in all.
    pub fn pages_and_runs(&self) -> (usize, u64) {
        let outside = |page: &&PageInRow| !matches!(page.at, PageAt::Row(_));
        let in_pages = self.pages.iter().map(|page| u64::from(page.count));
        let open = self.open.iter().map(|page| u64::from(page.count()));
        (
            self.pages.iter().filter(outside).count(),
            in_pages.chain(open).sum(),
        )
    }

    /// Says in which object the row was found: that is where pages of its checkpoint are.
    pub fn found_in(&mut self, stream: StreamId, slot: Slot) {
        for page in &mut self.pages {
            if let PageAt::ThisCheckpoint { start, len } = page.at {
                page.at = PageAt::Object(PagePlace {
                    stream,
                    slot,
                    start,
                    len,
                });
            }
        }
    }

    /// Lets go of the pages whose runs all end below `offset`: they are archived or deleted, and the
    /// objects that hold the pages may be deleted, too.
    pub fn drop_pages_below(&mut self, offset: i64) {
        self.pages.retain(|page| page.end > offset);
    }

    /// Where the pages lie that are not in the row.
    pub fn places(&self) -> impl Iterator<Item = PagePlace> {
        self.pages.iter().filter_map(|page| match page.at {
            PageAt::Object(place) => Some(place),
            PageAt::Row(_) | PageAt::ThisCheckpoint { .. } => None,
        })
    }

    /// The whole row. `bytes_at` gives the bytes of each of [`Self::places`].
    ///
    /// # Errors
    /// A page is missing or not what was written.
    pub fn with_pages<'a>(
        self,
        bytes_at: impl Fn(&PagePlace) -> Option<&'a [u8]>,
    ) -> Decoded<StateRow> {
        let Self {
            mut row,
            pages,
            open,
        } = self;
        for said in pages {
            let page = match &said.at {
                PageAt::Row(page) => page.clone(),
                PageAt::ThisCheckpoint { .. } => {
                    return Err(StateRowFault::Broken("page in a checkpoint without object"));
                }
                PageAt::Object(place) => {
                    let fault = StateRowFault::Page(*place);
                    let bytes = bytes_at(place).ok_or(fault)?;
                    let read = read_page(bytes, row.tp, said.count);
                    let mut page = read.ok_or(fault)?;
                    page.set_place(*place);
                    if !said.is_of(&page) {
                        return Err(fault);
                    }
                    page
                }
            };
            if !row.runs.restore(page) {
                return Err(StateRowFault::Broken("pages of runs overlap"));
            }
        }
        for found in open.iter().flat_map(|page| page.runs(row.tp)) {
            if found.run.base_offset < row.runs.end() {
                return Err(StateRowFault::Broken("offsets of a run"));
            }
            row.runs.push(found.at, &found.run);
        }
        if row.runs.end() > row.end_offset {
            return Err(StateRowFault::Broken("offsets of a run"));
        }
        row.runs = row.runs.starting_at(row.log_start);
        Ok(row)
    }
}

impl PageInRow {
    fn is_of(&self, page: &Page) -> bool {
        (self.base_offset, self.end) == (page.base_offset(), page.end())
            && self.max_timestamp == page.max_timestamp()
    }
}

/// The runs of a page that lies outside its row, if it is whole.
fn read_page(bytes: &[u8], tp: TopicPartition, count: u32) -> Option<Page> {
    let (mut runs, crc) = bytes.split_last_chunk::<CRC_LEN>()?;
    if u32::from_le_bytes(*crc) != crc32c(runs) {
        return None;
    }
    let page = Page::take(&mut runs, tp, count).ok()?;
    runs.is_empty().then_some(page)
}

pub(super) fn decode_pages(bytes: &mut &[u8], tp: TopicPartition) -> Decoded<Vec<PageInRow>> {
    let mut end = 0_i64;
    (0..len(bytes, PAGE_LEN_MIN)?)
        .map(|_| {
            let count = uint32(bytes, "runs of a page")?;
            let base_offset = end.wrapping_add(int(bytes, "base offset of a page")?);
            end = base_offset.wrapping_add(int(bytes, "end of a page")?);
            let max_timestamp = int(bytes, "timestamp of a page")?;
            let at = match take_byte(bytes)? {
                IN_ROW => PageAt::Row(Page::take(bytes, tp, count)?),
                IN_THIS_CHECKPOINT => PageAt::ThisCheckpoint {
                    start: uint32(bytes, "start of a page")?,
                    len: uint32(bytes, "length of a page")?,
                },
                IN_AN_OBJECT => PageAt::Object(PagePlace {
                    stream: StreamId(unsigned(bytes, "stream of a page")?),
                    slot: Slot(unsigned(bytes, "slot of a page")?),
                    start: uint32(bytes, "start of a page")?,
                    len: uint32(bytes, "length of a page")?,
                }),
                _ => return Err(StateRowFault::Broken("kind of a page")),
            };
            Ok(PageInRow {
                count,
                base_offset,
                end,
                max_timestamp,
                at,
            })
        })
        .collect()
}

/// The runs behind the pages. Version 1 had all of them here.
pub(super) fn decode_open(bytes: &mut &[u8], tp: TopicPartition) -> Decoded<Option<Page>> {
    let count = len(bytes, RUN_LEN_MIN)?;
    let count = u32::try_from(count).map_err(|_| StateRowFault::Broken("number of runs"))?;
    Ok(match count {
        0 => None,
        _ => Some(Page::take(bytes, tp, count)?),
    })
}
