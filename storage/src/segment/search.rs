//! The record for a timestamp (ListOffsets; KIP-32, KIP-734), from the bytes of one row group: its
//! offsets, timestamps and batch table are read, and no key, value or header.
//!
//! Records of a batch that could not be decoded are not found.

use std::ops::Range;

use firn_proto::ids::LeaderEpoch;

use super::fault::SegmentFault;
use super::read::RowGroupReader;

/// A record that was found by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedRecord {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in milliseconds.
    pub timestamp: i64,
    /// The leader epoch of its batch.
    pub epoch: LeaderEpoch,
}

/// The first record among `offsets` with a timestamp of at least `timestamp`. The map knows which
/// row groups can have it: [`super::SegmentRun::row_groups_from_time`].
///
/// # Errors
/// The row group is broken.
pub fn first_at_or_after(
    group: RowGroupReader,
    timestamp: i64,
    offsets: &Range<i64>,
) -> Result<Option<TimedRecord>, SegmentFault> {
    let mut found: Option<TimedRecord> = None;
    visit(group, offsets, |record| {
        if record.timestamp >= timestamp {
            found = found.or(Some(record));
        }
        found.is_some()
    })?;
    Ok(found)
}

/// The first record with the largest timestamp of those among `offsets`.
///
/// # Errors
/// The row group is broken.
pub fn first_of_max(
    group: RowGroupReader,
    offsets: &Range<i64>,
) -> Result<Option<TimedRecord>, SegmentFault> {
    let mut found: Option<TimedRecord> = None;
    visit(group, offsets, |record| {
        if found.is_none_or(|best| record.timestamp > best.timestamp) {
            found = Some(record);
        }
        false
    })?;
    Ok(found)
}

/// Shows the records among `offsets` in order, batch by batch until one is enough.
fn visit(
    mut group: RowGroupReader,
    offsets: &Range<i64>,
    mut is_enough: impl FnMut(TimedRecord) -> bool,
) -> Result<(), SegmentFault> {
    group.skip_below(offsets.start)?;
    let mut done = false;
    while !done {
        let read = group.next_times(|epoch, offset, timestamp| {
            if offsets.contains(&offset) {
                done |= is_enough(TimedRecord {
                    offset,
                    timestamp,
                    epoch,
                });
            }
        })?;
        done |= read.is_none();
    }
    Ok(())
}
