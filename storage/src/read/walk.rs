//! Walks the bytes of a run batch by batch and checks each against the run that names it. Pure.
//!
//! Base offset and leader epoch of a batch lie outside of its CRC, so they are checked against what
//! the log says: the first batch begins where the run does, each next one where the last ended, the
//! last one ends where the run does, and all bear the run's epoch. The CRC is checked of batches
//! that are served; those that are skipped only lead the way.

use std::ops::Range;

use bytes::Bytes;
use firn_proto::limits::{CACHE_BLOCK_BYTES, COLD_GET_BYTES_MAX};
use firn_proto::record::{BatchHeader, BatchView, HeaderError};

use super::cursors::Cursor;
use super::plan::Piece;
use crate::state::RunRef;

/// How bytes contradict their run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RunFault {
    /// The offset that should begin there.
    pub(super) offset: i64,
    /// The contradiction.
    pub(super) reason: String,
}

/// What the walk came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A batch that ends before the offset wanted, and is behind us now.
    Skipped,
    /// A batch to be taken or left. Its bytes are all here; its CRC is not checked yet.
    Batch(BatchHeader),
    /// The bytes end before the batch does; this many are needed from here on.
    Short {
        /// Bytes from the place of the walk.
        needed: u64,
    },
    /// The end of the run.
    End,
}

/// A walk over the batches of a run.
pub(super) struct RunWalk {
    run: RunRef,
    byte_end: u64,
    /// Where the walk stands.
    byte: u64,
    /// The base offset of the batch there.
    expect: i64,
    /// Bytes from `byte` on.
    bytes: Bytes,
}

impl RunWalk {
    /// A walk from the start of `piece`, with the first of its bytes.
    pub(super) fn new(piece: &Piece, bytes: Bytes) -> Self {
        Self {
            run: piece.run,
            byte_end: piece.byte_end(),
            byte: piece.start,
            expect: piece.expect,
            bytes,
        }
    }

    /// Looks at the batch here. Passes it if it ends before `offset`.
    pub(super) fn step(&mut self, offset: i64) -> Result<Step, RunFault> {
        if self.byte == self.byte_end {
            return match self.expect.checked_sub(1) == Some(self.run.run.last_offset) {
                true => Ok(Step::End),
                false => {
                    let last = self.run.run.last_offset;
                    Err(self.fault(format!("the run ends before its last offset {last}")))
                }
            };
        }
        let header = match BatchHeader::parse(&self.bytes) {
            Ok(header) => header,
            Err(HeaderError::Truncated { expected, .. }) => return self.short(expected),
            Err(error) => return Err(self.fault(error.to_string())),
        };
        self.check(&header)?;
        if header.last_offset() < offset {
            self.pass(&header);
            return Ok(Step::Skipped);
        }
        Ok(Step::Batch(header))
    }

    /// Takes the batch that the last step found.
    pub(super) fn take(&mut self, header: &BatchHeader) -> Result<Bytes, RunFault> {
        let mut bytes = self.bytes.clone();
        let batch = BatchView::take(&mut bytes).map_err(|e| self.fault(e.to_string()))?;
        if !batch.crc_matches() {
            return Err(self.fault("the checksum of the batch does not match".to_owned()));
        }
        self.pass(header);
        Ok(batch.into_bytes())
    }

    /// The range to fetch if `needed` bytes are needed here.
    pub(super) fn rest(&self, needed: u64, max_bytes: usize) -> Range<u64> {
        let wanted = (max_bytes as u64).clamp(CACHE_BLOCK_BYTES as u64, COLD_GET_BYTES_MAX as u64);
        self.byte..self.byte_end.min(self.byte + needed.max(wanted))
    }

    /// Goes on with `bytes`, which begin where the walk stands and were asked for because `needed`
    /// were needed.
    pub(super) fn refill(&mut self, bytes: Bytes, needed: u64) -> Result<(), RunFault> {
        if (bytes.len() as u64) < needed {
            return Err(self.fault("the object ends before its run does".to_owned()));
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Where the walk stands, if that is inside of the run.
    pub(super) fn cursor(&self) -> Option<Cursor> {
        let inside = self.byte < self.byte_end && self.expect > self.run.run.base_offset;
        inside.then_some(Cursor {
            at: self.run.at,
            byte: self.byte,
        })
    }

    fn pass(&mut self, header: &BatchHeader) {
        let length = header.total_bytes();
        self.byte += length as u64;
        self.bytes = self.bytes.slice(length..);
        self.expect = header.last_offset().saturating_add(1);
    }

    fn short(&self, needed: usize) -> Result<Step, RunFault> {
        let needed = needed as u64;
        if needed > self.byte_end - self.byte {
            return Err(self.fault(format!(
                "a batch of {needed} bytes reaches beyond its run of {} bytes",
                self.run.run.byte_len
            )));
        }
        Ok(Step::Short { needed })
    }

    fn check(&self, header: &BatchHeader) -> Result<(), RunFault> {
        let run = &self.run.run;
        if header.total_bytes() as u64 > self.byte_end - self.byte {
            return Err(self.fault(format!(
                "a batch of {} bytes reaches beyond its run of {} bytes",
                header.total_bytes(),
                run.byte_len
            )));
        }
        if header.base_offset != self.expect {
            return Err(self.fault(format!("the batch begins at {}", header.base_offset)));
        }
        if header.last_offset_delta < 0 || header.last_offset() > run.last_offset {
            return Err(self.fault(format!(
                "the batch ends at {}, its run at {}",
                header.last_offset(),
                run.last_offset
            )));
        }
        if header.leader_epoch != run.epoch {
            return Err(self.fault(format!(
                "the batch is of epoch {}, its run of {}",
                header.leader_epoch, run.epoch
            )));
        }
        Ok(())
    }

    fn fault(&self, reason: String) -> RunFault {
        RunFault {
            offset: self.expect,
            reason,
        }
    }
}

#[cfg(test)]
mod tests;
