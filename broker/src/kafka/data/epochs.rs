//! What the epochs of a partition say about a client's view of it (KIP-101, KIP-320, KIP-595).
//! Pure; the table of epochs is the journal's.

use firn_proto::cluster::EpochStart;
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::LeaderEpoch;

/// "Not given", where a request has room for an epoch.
const NOT_GIVEN: i32 = -1;

/// The last epoch at or below one that was asked for, and the offset at which it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The epoch, −1 if unknown.
    pub epoch: i32,
    /// The first offset that is not in it, −1 if unknown.
    pub end_offset: i64,
}

impl EpochEnd {
    /// Nothing is known of the epoch.
    pub const UNKNOWN: Self = Self {
        epoch: -1,
        end_offset: -1,
    };
}

/// Compares the epoch in which the client believes the partition to be (−1: it does not say) with
/// the one in which it is.
///
/// # Errors
/// FENCED_LEADER_EPOCH if the client is behind, UNKNOWN_LEADER_EPOCH if this broker is.
pub fn check_current(current: LeaderEpoch, claimed: i32) -> Result<(), ErrorCode> {
    if claimed == NOT_GIVEN || claimed == current.0 {
        Ok(())
    } else if claimed < current.0 {
        Err(ErrorCode::FencedLeaderEpoch)
    } else {
        Err(ErrorCode::UnknownLeaderEpoch)
    }
}

/// Where `epoch` ends. `epochs` ascends; `log_end` is the end of the latest.
///
/// An epoch below all that are known ends where the first known one begins; one above all of them
/// is unknown.
pub fn end_of(epochs: &[EpochStart], epoch: i32, log_end: i64) -> EpochEnd {
    let next = epochs.partition_point(|start| start.epoch.0 <= epoch);
    let floor = next.checked_sub(1).and_then(|at| epochs.get(at));
    match (floor, epochs.get(next)) {
        (Some(latest), None) if latest.epoch.0 == epoch => EpochEnd {
            epoch,
            end_offset: log_end,
        },
        (_, None) => EpochEnd::UNKNOWN,
        (floor, Some(next)) => EpochEnd {
            epoch: floor.map_or(epoch, |floor| floor.epoch.0),
            end_offset: next.start_offset,
        },
    }
}

/// The epoch of the record at `offset`, or of the one that will be there.
pub fn epoch_at(epochs: &[EpochStart], offset: i64) -> i32 {
    let next = epochs.partition_point(|start| start.start_offset <= offset);
    let epoch = next.checked_sub(1).and_then(|at| epochs.get(at));
    epoch.map_or(-1, |start| start.epoch.0)
}

/// Says where the log and a client part that has read up to `fetch_offset`, the last of it in
/// epoch `last_fetched` (−1: it does not say). `None` if they do not.
///
/// # Errors
/// OFFSET_OUT_OF_RANGE if nothing is known of the epoch.
pub fn divergence(
    epochs: &[EpochStart],
    last_fetched: i32,
    fetch_offset: i64,
    log_end: i64,
) -> Result<Option<EpochEnd>, ErrorCode> {
    if last_fetched == NOT_GIVEN {
        return Ok(None);
    }
    let end = end_of(epochs, last_fetched, log_end);
    if end == EpochEnd::UNKNOWN {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    let parted = end.epoch < last_fetched || end.end_offset < fetch_offset;
    Ok(parted.then_some(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Epoch 2 from offset 0, 5 from 10, 6 from 10 (nothing in 5), 9 from 30.
    fn epochs() -> Vec<EpochStart> {
        [(2, 0), (5, 10), (6, 10), (9, 30)]
            .map(|(epoch, start_offset)| EpochStart {
                epoch: LeaderEpoch(epoch),
                start_offset,
            })
            .to_vec()
    }

    fn end(epoch: i32, end_offset: i64) -> EpochEnd {
        EpochEnd { epoch, end_offset }
    }

    #[test]
    fn an_epoch_ends_where_the_next_begins() {
        assert_eq!(end_of(&epochs(), 2, 40), end(2, 10));
        assert_eq!(end_of(&epochs(), 6, 40), end(6, 30));
    }

    #[test]
    fn an_epoch_that_never_was_ends_with_the_one_before() {
        assert_eq!(end_of(&epochs(), 3, 40), end(2, 10));
        assert_eq!(end_of(&epochs(), 8, 40), end(6, 30));
    }

    #[test]
    fn the_latest_epoch_ends_with_the_log() {
        assert_eq!(end_of(&epochs(), 9, 40), end(9, 40));
    }

    #[test]
    fn a_later_epoch_is_unknown() {
        assert_eq!(end_of(&epochs(), 10, 40), EpochEnd::UNKNOWN);
        assert_eq!(end_of(&[], 0, 40), EpochEnd::UNKNOWN);
    }

    #[test]
    fn an_epoch_before_all_ends_where_the_first_begins() {
        assert_eq!(end_of(&epochs(), 1, 40), end(1, 0));
    }

    #[test]
    fn clients_in_another_epoch_are_told_who_is_behind() {
        let current = LeaderEpoch(5);
        assert_eq!(check_current(current, -1), Ok(()));
        assert_eq!(check_current(current, 5), Ok(()));
        assert_eq!(check_current(current, 4), Err(ErrorCode::FencedLeaderEpoch));
        assert_eq!(
            check_current(current, 6),
            Err(ErrorCode::UnknownLeaderEpoch)
        );
    }

    #[test]
    fn a_client_that_read_what_the_log_has_not_is_told_where_they_part() {
        // It read up to 15 in epoch 2, which ended at 10.
        assert_eq!(divergence(&epochs(), 2, 15, 40), Ok(Some(end(2, 10))));
        // It read in epoch 7, which never was.
        assert_eq!(divergence(&epochs(), 7, 20, 40), Ok(Some(end(6, 30))));
        assert_eq!(divergence(&epochs(), 6, 20, 40), Ok(None));
        assert_eq!(divergence(&epochs(), -1, 99, 40), Ok(None));
        assert_eq!(
            divergence(&epochs(), 10, 40, 40),
            Err(ErrorCode::OffsetOutOfRange)
        );
    }

    #[test]
    fn a_record_is_in_the_last_epoch_that_begins_at_or_before_it() {
        assert_eq!(epoch_at(&epochs(), 9), 2);
        assert_eq!(epoch_at(&epochs(), 10), 6);
        assert_eq!(epoch_at(&epochs(), 31), 9);
        assert_eq!(epoch_at(&[], 0), -1);
    }
}
