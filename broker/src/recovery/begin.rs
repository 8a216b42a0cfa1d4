//! Begins the next epochs of partitions whose last ones have ended, where the coordinator wants them
//! or at a broker that is named.

use firn_coordinator::Coordinator;
use firn_proto::cluster::{
    AssignPartitions, Assigned, AssignmentError, PartitionEnd, PartitionFold, Reply, Request,
};
use firn_proto::env::Entropy;
use firn_proto::ids::{BrokerId, Incarnation};
use firn_storage::state::StateRow;

use super::folds::chunks;
use super::{KnownStates, RecoveryError};
use crate::insist::insist;

/// A partition whose last epoch has ended.
#[derive(Debug)]
pub struct Folded {
    /// The state at its end.
    pub row: StateRow,
    /// What ends, by name.
    pub end: PartitionEnd,
}

impl Folded {
    /// The epoch of `fold` ended with `row`. One that a process released before it died ended where
    /// that said, and nowhere else.
    ///
    /// # Errors
    /// [`RecoveryError::Contradiction`].
    pub fn of(fold: &PartitionFold, row: StateRow) -> Result<Self, RecoveryError> {
        let PartitionFold {
            tp, epoch, stream, ..
        } = *fold;
        let end_offset = row.end_offset;
        if let Some(released) = fold.released_end.filter(|end| *end != end_offset) {
            return Err(RecoveryError::Contradiction(format!(
                "epoch {epoch} of {tp} was released at offset {released}, and its records end at {end_offset}"
            )));
        }
        let end = PartitionEnd {
            tp,
            epoch,
            stream,
            end_offset,
        };
        Ok(Self { row, end })
    }
}

/// Who asks for the next epochs.
pub struct Beginner<'a> {
    /// Decides.
    pub coordinator: &'a Coordinator,
    /// Spreads what is asked again.
    pub entropy: &'a Entropy,
    /// This process.
    pub incarnation: Incarnation,
    /// Takes the states of what this process gets.
    pub known: &'a KnownStates,
}

impl Beginner<'_> {
    /// Begins the next epochs at `to`, or evenly and stickily. Partitions that have gone meanwhile,
    /// or whose next epoch somebody else has begun, are passed over; those that no broker can own
    /// are left. Returns how many began.
    ///
    /// # Errors
    /// The coordinator does not answer, or contradicts the bucket.
    pub async fn begin(
        &self,
        folded: Vec<Folded>,
        to: Option<BrokerId>,
    ) -> Result<usize, RecoveryError> {
        let mut begun = 0;
        for some in chunks(folded) {
            let request = Request::AssignPartitions(AssignPartitions {
                ended: some.iter().map(|folded| folded.end).collect(),
                to,
            });
            // asked twice, the second answer is that somebody has begun them
            let reply = insist(self.coordinator, self.entropy, request).await?;
            let Reply::Assigned(results) = reply else {
                return Err(RecoveryError::wrong_reply("AssignPartitions"));
            };
            for (folded, result) in some.into_iter().zip(results) {
                match result {
                    Ok(assigned) => {
                        begun += 1;
                        self.on_begun(folded.row, &assigned);
                    }
                    Err(error) => passed_over(&folded.end, error)?,
                }
            }
        }
        Ok(begun)
    }

    fn on_begun(&self, mut row: StateRow, assigned: &Assigned) {
        assert_eq!(
            row.end_offset, assigned.start_offset,
            "I4: epoch {} of {} must begin where the last one ended",
            assigned.epoch, assigned.tp
        );
        if assigned.owner == self.incarnation {
            row.begin_epoch(assigned.epoch);
            self.known.keep(row);
        }
    }
}

/// Why the next epoch did not begin, if that is as it may be.
fn passed_over(end: &PartitionEnd, error: AssignmentError) -> Result<(), RecoveryError> {
    match error {
        // deleted, or begun by somebody else
        AssignmentError::Unknown | AssignmentError::NotCurrent => {
            tracing::debug!(partition = %end.tp, %error, "not taken over");
            Ok(())
        }
        // whoever comes next gets it, or comes with the disk
        AssignmentError::NoBroker | AssignmentError::WaitsForDisk => Ok(()),
        error => Err(RecoveryError::Contradiction(format!(
            "cannot begin the next epoch of {}: {error}",
            end.tp
        ))),
    }
}

#[cfg(test)]
mod tests {
    use firn_proto::ids::{LeaderEpoch, PartitionIndex, StreamId, TopicId, TopicPartition};

    use super::*;

    const TP: TopicPartition = TopicPartition {
        topic: TopicId([1; 16]),
        partition: PartitionIndex(0),
    };

    #[test]
    fn a_released_epoch_ends_where_its_owner_said() {
        let fold = |released_end| PartitionFold {
            tp: TP,
            epoch: LeaderEpoch(2),
            stream: StreamId(3),
            row: None,
            ranges: Vec::new(),
            released_end,
            log_start: 0,
            archived_to: 0,
            waits_for: None,
            disk: None,
        };
        let row = || StateRow::new(TP, LeaderEpoch(2));
        assert_eq!(Folded::of(&fold(None), row()).unwrap().end.end_offset, 0);
        assert!(Folded::of(&fold(Some(0)), row()).is_ok());
        let lost = Folded::of(&fold(Some(7)), row());
        assert!(
            matches!(lost, Err(RecoveryError::Contradiction(_))),
            "{lost:?}"
        );
    }
}
