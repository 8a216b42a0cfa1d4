//! Plans a read: which runs, from which byte on, and what to fetch ahead. Pure.

use std::ops::Range;

use firn_proto::limits::{CACHE_BLOCK_BYTES, COLD_GET_BYTES_MAX, READ_AHEAD_BYTES, READ_RUNS_MAX};

use super::cursors::Cursor;
use crate::state::RunRef;

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) offset: i64,
    /// Exclusive.
    pub(super) end: i64,
    pub(super) max_bytes: usize,
}

/// A run, or its rest from a place where a batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) run: RunRef,
    /// Byte of the object at which the walk begins.
    pub(super) start: u64,
    /// Base offset of the batch there.
    pub(super) expect: i64,
    /// Bytes before the offset wanted, as far as they can be guessed.
    skip_guess: u64,
}

/// The runs of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// In the order of their offsets, without gaps.
    pub(super) pieces: Vec<Piece>,
    /// What a sequential reader will want next.
    pub(super) ahead: Vec<Piece>,
    /// Whether the reader goes on where a read stopped, or begins where a run does.
    pub(super) sequential: bool,
}

impl Piece {
    fn new(run: RunRef) -> Self {
        Self {
            run,
            start: u64::from(run.run.byte_start),
            expect: run.run.base_offset,
            skip_guess: 0,
        }
    }

    /// The same run from its start.
    pub(super) fn whole(&self) -> Self {
        Self {
            skip_guess: self.skip_guess,
            ..Self::new(self.run)
        }
    }

    /// The byte behind the run.
    pub(super) fn byte_end(&self) -> u64 {
        u64::from(self.run.run.byte_start) + u64::from(self.run.run.byte_len)
    }

    /// All bytes of the piece.
    pub(super) fn range(&self) -> Range<u64> {
        self.start..self.byte_end()
    }

    /// The bytes to fetch first for a reader that wants `max_bytes`: enough for what it skips and
    /// wants, at least a block's worth, at most what one GET takes.
    pub(super) fn window(&self, max_bytes: usize) -> Range<u64> {
        let wanted = (max_bytes as u64).saturating_add(self.skip_guess);
        let wanted = wanted.clamp(CACHE_BLOCK_BYTES as u64, COLD_GET_BYTES_MAX as u64);
        self.start..self.byte_end().min(self.start + wanted)
    }

    fn bytes(&self) -> u64 {
        self.byte_end().saturating_sub(self.start)
    }
}

/// Plans what is wanted out of `runs`, which are in the order of their offsets. `None` if no run
/// holds the first offset.
pub(super) fn plan(want: Want, runs: &[RunRef], cursor: Option<Cursor>) -> Option<Plan> {
    let from = runs.partition_point(|r| r.run.last_offset < want.offset);
    let mut first = Piece::new(*runs.get(from)?);
    if first.expect > want.offset {
        return None;
    }
    let mut sequential = first.expect == want.offset;
    let in_run = |c: &Cursor| c.at == first.run.at && first.range().contains(&c.byte);
    if let Some(cursor) = cursor.filter(in_run) {
        (first.start, first.expect) = (cursor.byte, want.offset);
        sequential = true;
    } else {
        first.skip_guess = skip_guess(&first.run, want.offset);
    }

    let mut plan = Plan {
        pieces: Vec::new(),
        ahead: Vec::new(),
        sequential,
    };
    let mut planned = 0_u64;
    let mut expected = first.run.run.base_offset;
    for (number, run) in runs[from..].iter().enumerate() {
        // A gap ends the read: who asks for the offset behind it learns that it is missing.
        if run.run.base_offset != expected || run.run.base_offset >= want.end {
            break;
        }
        let piece = if number == 0 { first } else { Piece::new(*run) };
        let budget = want.max_bytes as u64;
        let wanted = planned < budget || number == 0;
        if wanted && plan.pieces.len() < READ_RUNS_MAX && plan.ahead.is_empty() {
            plan.pieces.push(piece);
            let rest = Piece {
                start: piece.window(want.max_bytes).end,
                ..piece
            };
            if planned + piece.bytes() > budget && rest.bytes() > 0 {
                plan.ahead.push(ahead(rest));
            }
        } else if planned < budget.saturating_add(READ_AHEAD_BYTES as u64) {
            plan.ahead.push(ahead(piece));
        } else {
            break;
        }
        planned += piece.bytes().saturating_sub(piece.skip_guess);
        expected = run.run.last_offset.checked_add(1)?;
    }
    Some(plan)
}

/// A piece of which only so much is fetched ahead. `run` keeps its bounds; only the range counts.
fn ahead(mut piece: Piece) -> Piece {
    let bytes = piece.bytes().min(READ_AHEAD_BYTES as u64);
    let end = piece.start + bytes - u64::from(piece.run.run.byte_start);
    piece.run.run.byte_len = u32::try_from(end).unwrap_or(u32::MAX);
    piece
}

/// Where in the run the offset may lie, if all records are of one size.
fn skip_guess(run: &RunRef, offset: i64) -> u64 {
    let records = run
        .run
        .last_offset
        .saturating_sub(run.run.base_offset)
        .saturating_add(1);
    let before = offset.saturating_sub(run.run.base_offset);
    match (u128::try_from(before), u128::try_from(records)) {
        (Ok(before), Ok(records)) if records > 0 => {
            u64::try_from(u128::from(run.run.byte_len) * before / records).unwrap_or(0)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
