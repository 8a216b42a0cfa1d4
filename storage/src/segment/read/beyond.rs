//! What the batch table says of the records of a batch beyond their columns, and what those are
//! counted from.

use firn_proto::record::BatchHeader;
use firn_proto::varint::take_i64;

use super::super::arrays::MICROS;
use super::super::column::Leaf;
use super::super::fault::SegmentFault;
use super::super::table::{Beyond, take_kept};

/// What the offsets and timestamps of a batch's records are counted from.
pub(super) struct Times<'a> {
    base_offset: i64,
    last_offset_delta: i32,
    delta_before: i32,
    base_timestamp: i64,
    /// The deltas of its timestamps, if they are in the batch table.
    deltas: Option<&'a [u8]>,
}

impl<'a> Times<'a> {
    pub(super) fn new(header: &BatchHeader, beyond: Beyond, table: &'a [u8]) -> Self {
        let deltas = beyond.timestamps;
        Self {
            base_offset: header.base_offset,
            last_offset_delta: header.last_offset_delta,
            delta_before: -1,
            base_timestamp: header.base_timestamp,
            deltas: deltas.map(|at| table.get(at..).unwrap_or_default()),
        }
    }

    /// What the next record counts from its batch, of what its columns say.
    pub(super) fn deltas(
        &mut self,
        offset: Option<i64>,
        micros: Option<i64>,
        offsets: &Leaf,
        timestamps: &Leaf,
    ) -> Result<(i32, i64), SegmentFault> {
        let offset_delta = offset
            .and_then(|offset| offset.checked_sub(self.base_offset))
            .and_then(|delta| i32::try_from(delta).ok())
            .filter(|delta| self.delta_before < *delta && *delta <= self.last_offset_delta)
            .ok_or_else(|| offsets.fault("offset outside its batch"))?;
        self.delta_before = offset_delta;
        let timestamp_delta = match &mut self.deltas {
            Some(deltas) => take_i64(deltas).ok_or(SegmentFault::Table("timestamp"))?,
            None => micros
                .filter(|micros| micros % MICROS == 0)
                .map(|micros| (micros / MICROS).wrapping_sub(self.base_timestamp))
                .ok_or_else(|| timestamps.fault("timestamp without whole milliseconds"))?,
        };
        Ok((offset_delta, timestamp_delta))
    }
}

/// The records of a batch that the batch table has verbatim.
pub(super) struct KeptRecords<'a> {
    rest: &'a [u8],
    left: u64,
    /// Index of the next one in the batch, and all of it.
    next: Option<(u64, &'a [u8])>,
}

impl<'a> KeptRecords<'a> {
    pub(super) fn new(beyond: Beyond, table: &'a [u8]) -> Self {
        let mut kept = Self {
            rest: table.get(beyond.records_at..).unwrap_or_default(),
            left: beyond.records,
            next: None,
        };
        kept.advance(0);
        kept
    }

    /// How many records from `index` on are none of them.
    pub(super) fn plain_from(&self, index: u32) -> u32 {
        let Some((next, _)) = self.next else {
            return u32::MAX;
        };
        let plain = next.saturating_sub(u64::from(index));
        u32::try_from(plain).unwrap_or(u32::MAX)
    }

    /// The record at `index`, if it is one of them. Indices are asked for in order.
    pub(super) fn record_at(&mut self, index: u64) -> Option<&'a [u8]> {
        let (_, record) = self.next.take_if(|(next, _)| *next == index)?;
        self.advance(index + 1);
        Some(record)
    }

    /// Takes the next one; `index` is that behind the one before it.
    fn advance(&mut self, index: u64) {
        if self.left > 0 {
            self.left -= 1;
            // the rows were read once before, and were whole
            self.next = take_kept(&mut self.rest).map(|kept| (index + kept.skipped, kept.record));
        }
    }
}
