//! The record for a timestamp (ListOffsets; KIP-32, KIP-734), from the bytes of one row group: its
//! offsets, timestamps and batch table are read, and no key, value or header.
//!
//! Records of a batch that could not be decoded are not found.

use firn_proto::record::FoundRecord;

use super::fault::SegmentFault;
use super::read::RowGroupReader;

/// The first record at or behind `offset_min` with a timestamp of at least `timestamp`. The map
/// knows which row groups can have it: [`super::SegmentRun::row_groups_from_time`].
///
/// # Errors
/// The row group is broken.
pub fn first_at_or_after(
    mut group: RowGroupReader,
    timestamp: i64,
    offset_min: i64,
) -> Result<Option<FoundRecord>, SegmentFault> {
    let mut found: Option<FoundRecord> = None;
    group.skip_below(offset_min)?;
    while found.is_none() {
        let read = group.next_times(|offset, time| {
            if found.is_none() && time >= timestamp && offset >= offset_min {
                found = Some(FoundRecord {
                    offset,
                    timestamp: time,
                });
            }
        })?;
        if read.is_none() {
            break;
        }
    }
    Ok(found)
}

/// The first record with the largest timestamp of those at or behind `offset_min`.
///
/// # Errors
/// The row group is broken.
pub fn first_of_max(
    mut group: RowGroupReader,
    offset_min: i64,
) -> Result<Option<FoundRecord>, SegmentFault> {
    let mut found: Option<FoundRecord> = None;
    group.skip_below(offset_min)?;
    let mut read = Some(());
    while read.is_some() {
        read = group.next_times(|offset, timestamp| {
            if offset >= offset_min && found.is_none_or(|best| timestamp > best.timestamp) {
                found = Some(FoundRecord { offset, timestamp });
            }
        })?;
    }
    Ok(found)
}
