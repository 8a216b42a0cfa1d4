//! What the picture of the cluster asks of this process for one partition. Pure.

use firn_proto::cluster::PartitionImage;
use firn_proto::ids::{Incarnation, LeaderEpoch};

/// What is to be done about a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    Nothing,
    /// It never had a record: open it.
    OpenNew,
    /// It is ours from now on: learn its state and open it.
    Acquire,
    /// Another broker wants it: give it up.
    Release,
    /// Another broker wants it, and it could not be opened here: give it up as it came.
    GiveBack,
    /// It is not ours any more.
    Close,
}

/// What this process knows of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Here {
    /// This process.
    pub(super) incarnation: Incarnation,
    /// The last epoch in which it was opened here, or that ended here before it was.
    pub(super) last: Option<LeaderEpoch>,
    /// Whether it is open.
    pub(super) is_open: bool,
    /// Whether it could not be opened so far in the epoch that the picture names.
    pub(super) is_failing: bool,
}

/// What `image` asks for. A picture may be older than what is known here: it closes nothing that was
/// opened later, and an epoch is opened once, for this process may have appended to it since.
pub(super) fn due(image: &PartitionImage, here: Here) -> Due {
    let owner = image.owner.filter(|o| o.incarnation == here.incarnation);
    let is_news = here.last.is_none_or(|last| last < image.epoch);
    match owner {
        _ if here.last.is_some_and(|last| last > image.epoch) => Due::Nothing,
        Some(_) if is_news && here.is_failing && image.moving_to.is_some() => Due::GiveBack,
        Some(_) if is_news && is_new(image) => Due::OpenNew,
        Some(_) if is_news => Due::Acquire,
        Some(_) if here.is_open && image.moving_to.is_some() => Due::Release,
        Some(_) => Due::Nothing,
        None if here.is_open => Due::Close,
        None => Due::Nothing,
    }
}

/// Whether it never had a record or a state row: whatever has a past has more windows than one, or
/// begins behind it.
fn is_new(image: &PartitionImage) -> bool {
    let [window] = image.windows.as_slice() else {
        return false;
    };
    window.first_offset == 0 && image.epochs.len() <= 1
}

#[cfg(test)]
mod tests {
    use firn_proto::cluster::{EpochStart, Ownership, Window};
    use firn_proto::ids::{BrokerId, Slot, StreamId};

    use super::*;

    const OWN: Incarnation = Incarnation(4);
    const OTHER: Incarnation = Incarnation(5);

    fn image(epoch: i32, owner: Option<Incarnation>, first_offset: i64) -> PartitionImage {
        let epoch = LeaderEpoch(epoch);
        PartitionImage {
            epoch,
            owner: owner.map(|incarnation| Ownership {
                broker: BrokerId(1),
                incarnation,
                stream: StreamId(9),
            }),
            moving_to: None,
            preferred: BrokerId(1),
            epochs: vec![EpochStart {
                epoch,
                start_offset: first_offset,
            }],
            windows: vec![Window {
                epoch,
                stream: StreamId(9),
                first_offset,
                lowest_slot: Slot(0),
                end_slot: None,
            }],
            counts_locally: false,
        }
    }

    fn here(last: Option<i32>, is_open: bool) -> Here {
        Here {
            incarnation: OWN,
            last: last.map(LeaderEpoch),
            is_open,
            is_failing: false,
        }
    }

    #[test]
    fn what_is_ours_is_opened_with_its_past_if_it_has_one() {
        let new = image(3, Some(OWN), 0);
        assert_eq!(due(&new, here(None, false)), Due::OpenNew);
        assert_eq!(due(&new, here(Some(1), false)), Due::OpenNew);
        let old = image(3, Some(OWN), 7);
        assert_eq!(due(&old, here(None, false)), Due::Acquire);
        assert_eq!(
            due(&image(3, Some(OTHER), 7), here(None, false)),
            Due::Nothing
        );
    }

    #[test]
    fn an_epoch_is_opened_once() {
        for is_open in [true, false] {
            let ours = image(3, Some(OWN), 7);
            assert_eq!(due(&ours, here(Some(3), is_open)), Due::Nothing);
        }
    }

    #[test]
    fn what_another_broker_wants_is_given_up_once() {
        let mut wanted = image(3, Some(OWN), 7);
        wanted.moving_to = Some(BrokerId(2));
        assert_eq!(due(&wanted, here(Some(3), true)), Due::Release);
        assert_eq!(due(&wanted, here(Some(3), false)), Due::Nothing);
        assert_eq!(due(&wanted, here(Some(2), false)), Due::Acquire, "at first");
    }

    #[test]
    fn what_cannot_be_opened_is_given_back_to_who_wants_it() {
        let mut wanted = image(3, Some(OWN), 7);
        let failing = Here {
            is_failing: true,
            ..here(Some(2), false)
        };
        assert_eq!(due(&wanted, failing), Due::Acquire, "nobody else wants it");
        wanted.moving_to = Some(BrokerId(2));
        assert_eq!(due(&wanted, failing), Due::GiveBack);
        let given_back = Here {
            last: Some(LeaderEpoch(3)),
            ..failing
        };
        assert_eq!(due(&wanted, given_back), Due::Nothing, "once");
    }

    #[test]
    fn what_is_ours_no_longer_is_closed() {
        for owner in [None, Some(OTHER)] {
            assert_eq!(due(&image(3, owner, 7), here(Some(3), true)), Due::Close);
            assert_eq!(due(&image(4, owner, 7), here(Some(3), true)), Due::Close);
            assert_eq!(due(&image(4, owner, 7), here(Some(3), false)), Due::Nothing);
        }
    }

    #[test]
    fn an_older_picture_changes_nothing() {
        for owner in [None, Some(OTHER), Some(OWN)] {
            assert_eq!(due(&image(2, owner, 7), here(Some(3), true)), Due::Nothing);
        }
    }
}
