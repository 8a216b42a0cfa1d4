//! Runs packed side by side: about ten bytes each, as differences to the run before. The same
//! bytes in memory, in a state row and in a checkpoint's pages (storage/FORMAT.md §5).

use firn_proto::ids::{LeaderEpoch, Slot, SlotPosition, StreamId, TopicPartition};
use firn_proto::varint::{put_i64, put_u64};

use super::encoding::{Decoded, StateRowFault, int, int32, offset, take_byte, uint32, unsigned};
use super::row::{BatchFlags, Run, RunRef};

/// Runs between two marks: what a look-up reads in vain at most.
pub(super) const RUNS_PER_MARK: u32 = 32;

/// Runs of one partition, contiguous or with gaps, ascending.
#[derive(Clone, Debug, Default)]
pub(super) struct Page {
    bytes: Vec<u8>,
    /// Every [`RUNS_PER_MARK`]th run but the first. Not stored: made again as runs are taken in.
    marks: Vec<Mark>,
    count: u32,
    base_offset: i64,
    max_timestamp: i64,
    last: Before,
    /// Where it lies in the bucket, if it was written there.
    place: Option<PagePlace>,
}

/// What the next run is told as a difference to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Before {
    era: Option<(StreamId, LeaderEpoch)>,
    slot: u64,
    end: i64,
    timestamp: i64,
}

/// Where a look-up may begin to read.
#[derive(Clone, Copy, Debug)]
struct Mark {
    before: Before,
    byte: usize,
}

/// A page in a checkpoint object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PagePlace {
    /// The stream in the object's key.
    pub stream: StreamId,
    /// The slot in the object's key.
    pub slot: Slot,
    /// Where the page begins in the object.
    pub start: u32,
    /// Its length, its checksum included.
    pub len: u32,
}

impl Page {
    /// Adds a run. The caller has compared it with [`Self::end`].
    pub(super) fn push(&mut self, at: SlotPosition, run: &Run) {
        if self.count == 0 {
            self.base_offset = run.base_offset;
            self.max_timestamp = run.max_timestamp;
        }
        if self.count > 0 && self.count.is_multiple_of(RUNS_PER_MARK) {
            self.marks.push(Mark {
                before: self.last,
                byte: self.bytes.len(),
            });
        }
        self.max_timestamp = self.max_timestamp.max(run.max_timestamp);
        self.count += 1;
        let last = &mut self.last;
        let era = (at.stream, run.epoch);
        let is_new = last.era != Some(era);
        // the low bit says whether stream and epoch follow, the others are the flags
        self.bytes.push((run.flags.0 << 1) | u8::from(is_new));
        if is_new {
            put_u64(&mut self.bytes, era.0.0);
            put_i64(&mut self.bytes, i64::from(era.1.0));
            last.era = Some(era);
            last.slot = 0;
        }
        put_u64(&mut self.bytes, at.slot.0.wrapping_sub(last.slot));
        put_i64(&mut self.bytes, run.base_offset.wrapping_sub(last.end));
        put_i64(
            &mut self.bytes,
            run.last_offset.wrapping_sub(run.base_offset),
        );
        put_u64(&mut self.bytes, u64::from(run.byte_start));
        put_u64(&mut self.bytes, u64::from(run.byte_len));
        put_i64(
            &mut self.bytes,
            run.max_timestamp.wrapping_sub(last.timestamp),
        );
        last.slot = at.slot.0;
        last.end = run.last_offset.wrapping_add(1);
        last.timestamp = run.max_timestamp;
    }

    /// Takes `count` runs off the front of `bytes`, each behind the one before.
    pub(super) fn take(bytes: &mut &[u8], tp: TopicPartition, count: u32) -> Decoded<Self> {
        let mut page = Self::default();
        for _ in 0..count {
            let mut before = page.last;
            let found = take_run(bytes, &mut before, tp)?;
            page.push(found.at, &found.run);
        }
        Ok(page.close())
    }

    /// The runs, from the first on.
    pub(super) fn runs(&self, tp: TopicPartition) -> impl Iterator<Item = RunRef> {
        self.runs_behind(tp, None)
    }

    /// The runs from at most [`RUNS_PER_MARK`] before the one that holds `offset` on: whoever looks
    /// for it skips few.
    pub(super) fn runs_near(
        &self,
        tp: TopicPartition,
        offset: i64,
    ) -> impl Iterator<Item = RunRef> {
        let behind = self.marks.partition_point(|mark| mark.before.end <= offset);
        self.runs_behind(tp, behind.checked_sub(1).and_then(|at| self.marks.get(at)))
    }

    fn runs_behind(&self, tp: TopicPartition, mark: Option<&Mark>) -> impl Iterator<Item = RunRef> {
        let (mut before, byte) =
            mark.map_or_else(Default::default, |mark| (mark.before, mark.byte));
        let mut bytes = self.bytes.get(byte..).unwrap_or_default();
        // what was pushed reads back; what was read was checked
        std::iter::from_fn(move || take_run(&mut bytes, &mut before, tp).ok())
    }

    /// Nothing more will be added.
    pub(super) fn close(mut self) -> Self {
        self.bytes.shrink_to_fit();
        self.marks.shrink_to_fit();
        self
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The first offset.
    pub(super) fn base_offset(&self) -> i64 {
        self.base_offset
    }

    /// The offset behind the last run.
    pub(super) fn end(&self) -> i64 {
        self.last.end
    }

    pub(super) fn max_timestamp(&self) -> i64 {
        self.max_timestamp
    }

    /// The stream of the last run.
    pub(super) fn last_stream(&self) -> Option<StreamId> {
        self.last.era.map(|(stream, _)| stream)
    }

    pub(super) fn place(&self) -> Option<PagePlace> {
        self.place
    }

    pub(super) fn set_place(&mut self, place: PagePlace) {
        self.place = Some(place);
    }
}

fn take_run(bytes: &mut &[u8], before: &mut Before, tp: TopicPartition) -> Decoded<RunRef> {
    let head = take_byte(bytes)?;
    if head & 1 == 1 {
        let stream = StreamId(unsigned(bytes, "stream of a run")?);
        before.era = Some((stream, LeaderEpoch(int32(bytes, "epoch of a run")?)));
        before.slot = 0;
    }
    let (stream, epoch) = before
        .era
        .ok_or(StateRowFault::Broken("run without a stream"))?;
    let slot = before.slot.wrapping_add(unsigned(bytes, "slot of a run")?);
    let base_offset = offset(before.end.wrapping_add(int(bytes, "base offset of a run")?))?;
    let last_offset = base_offset.saturating_add(int(bytes, "last offset of a run")?);
    if base_offset < before.end || last_offset < base_offset || last_offset == i64::MAX {
        return Err(StateRowFault::Broken("offsets of a run"));
    }
    let byte_start = uint32(bytes, "start of a run")?;
    let byte_len = uint32(bytes, "length of a run")?;
    let max_timestamp = before
        .timestamp
        .wrapping_add(int(bytes, "timestamp of a run")?);
    *before = Before {
        era: before.era,
        slot,
        end: last_offset + 1,
        timestamp: max_timestamp,
    };
    Ok(RunRef {
        at: SlotPosition {
            stream,
            slot: Slot(slot),
        },
        run: Run {
            tp,
            epoch,
            base_offset,
            last_offset,
            byte_start,
            byte_len,
            max_timestamp,
            flags: BatchFlags(head >> 1),
        },
    })
}
