//! A row group that is open: batches are made of it one after the other, and those that were made
//! last are kept for readers that follow close behind. Pure, but for the work that it is.

use std::collections::VecDeque;

use bytes::Bytes;
use firn_proto::limits::REBUILT_BYTES_MAX;

use crate::segment::{RowGroup, RowGroupReader, SegmentFault, TargetCodec};

/// What a reader wants of a row group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) offset: i64,
    /// Nothing at or behind it.
    pub(super) end: i64,
    pub(super) max_bytes: usize,
    pub(super) first_in_any_case: bool,
    pub(super) codec: TargetCodec,
}

/// What it got.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) batches: Vec<Bytes>,
    pub(super) bytes: usize,
    pub(super) next_offset: i64,
    /// The budget or the end was reached; else the row group ends here.
    pub(super) is_full: bool,
}

struct Rebuilt {
    last_offset: i64,
    bytes: Bytes,
}

pub(super) struct OpenGroup {
    /// Gone behind the last batch, with the bytes of the row group.
    reader: Option<RowGroupReader>,
    raw_bytes: u64,
    last_offset: i64,
    /// Every batch that ends at or behind `from` and begins before `next` is in `rebuilt`; the
    /// reader stands at `next`.
    from: i64,
    next: i64,
    rebuilt: VecDeque<Rebuilt>,
    rebuilt_bytes: usize,
    /// Whether the row group behind it was asked for.
    pub(super) is_next_ahead: bool,
}

impl OpenGroup {
    /// A row group that is read from `offset` on.
    pub(super) fn new(
        mut reader: RowGroupReader,
        group: &RowGroup,
        offset: i64,
    ) -> Result<Self, SegmentFault> {
        reader.skip_below(offset)?;
        Ok(Self {
            reader: Some(reader),
            raw_bytes: group.byte_len,
            last_offset: group.last_offset,
            from: offset,
            next: offset,
            rebuilt: VecDeque::new(),
            rebuilt_bytes: 0,
            is_next_ahead: false,
        })
    }

    /// From and up to which offset a reader may go on here.
    pub(super) fn span(&self) -> (i64, i64) {
        (self.from, self.next)
    }

    pub(super) fn holds(&self, offset: i64) -> bool {
        (self.from..=self.next).contains(&offset)
    }

    /// Whether no other batch will be made of it.
    pub(super) fn has_ended(&self) -> bool {
        self.reader.is_none()
    }

    /// About what it holds in memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        let reader = self
            .reader
            .as_ref()
            .map_or(0, |reader| self.raw_bytes + reader.memory_bytes() as u64);
        reader + self.rebuilt_bytes as u64
    }

    /// Takes whole batches from the one that holds the offset on, which must be held here.
    pub(super) fn take(&mut self, want: &Want) -> Result<Taken, SegmentFault> {
        let mut taken = Taken {
            next_offset: want.offset,
            ..Taken::default()
        };
        let made = self.rebuilt.iter();
        for batch in made.filter(|batch| batch.last_offset >= want.offset) {
            if !taken.offer(want, batch) {
                return Ok(taken);
            }
        }
        while let Some(batch) = self.rebuild(want.codec)? {
            if !taken.offer(want, batch) {
                return Ok(taken);
            }
        }
        let behind = self.last_offset.saturating_add(1).min(want.end);
        taken.next_offset = taken.next_offset.max(behind);
        Ok(taken)
    }

    /// Makes the next batch, if there is one.
    fn rebuild(&mut self, codec: TargetCodec) -> Result<Option<&Rebuilt>, SegmentFault> {
        let Some(reader) = &mut self.reader else {
            return Ok(None);
        };
        let Some(batch) = reader.next_batch(codec)? else {
            self.end();
            return Ok(None);
        };
        let last_offset = batch.header().last_offset();
        self.next = last_offset.saturating_add(1);
        if reader.is_behind_last() && reader.next_batch(codec)?.is_none() {
            self.end();
        }
        let bytes = batch.into_bytes();
        self.rebuilt_bytes += bytes.len();
        self.rebuilt.push_back(Rebuilt { last_offset, bytes });
        while self.rebuilt_bytes > REBUILT_BYTES_MAX
            && self.rebuilt.len() > 1
            && let Some(oldest) = self.rebuilt.pop_front()
        {
            self.rebuilt_bytes -= oldest.bytes.len();
            self.from = oldest.last_offset.saturating_add(1);
        }
        Ok(self.rebuilt.back())
    }

    /// Lets go of the row group behind its last batch: whoever has read that asks for the next one,
    /// and nobody might come here again for long.
    fn end(&mut self) {
        self.next = self.last_offset.saturating_add(1);
        self.reader = None;
    }
}

impl Taken {
    /// Takes the batch if it is wanted.
    fn offer(&mut self, want: &Want, batch: &Rebuilt) -> bool {
        let fits = self.bytes + batch.bytes.len() <= want.max_bytes;
        let is_wanted = fits || (want.first_in_any_case && self.batches.is_empty());
        if batch.last_offset >= want.end || !is_wanted {
            self.is_full = true;
            return false;
        }
        self.bytes += batch.bytes.len();
        self.next_offset = batch.last_offset + 1;
        self.batches.push(batch.bytes.clone());
        true
    }
}
