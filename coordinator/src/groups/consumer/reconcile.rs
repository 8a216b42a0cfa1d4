//! One member's next step towards its target (KIP-848): it lets go first, and gets nothing that
//! another one may still own. Pure.

use firn_proto::cluster::Assignment;
use firn_proto::ids::TopicPartition;

use crate::command::{CurrentAssignment, Progress};

/// What a member is to reach, and what is known of the way.
pub(super) struct Goal<'a, F> {
    pub(super) target: &'a Assignment,
    /// The epoch of the target.
    pub(super) epoch: i32,
    /// Whether another member may own a partition.
    pub(super) held_by_another: F,
    /// What the member says that it owns, if it says so now.
    pub(super) owned: Option<&'a Assignment>,
}

impl<F: Fn(TopicPartition) -> bool> Goal<'_, F> {
    /// Where the member stands now. The same as before if there is nothing to do or it still has
    /// to let go.
    pub(super) fn step(&self, now: &CurrentAssignment) -> CurrentAssignment {
        match now.progress {
            Progress::Stable if now.epoch == self.epoch => now.clone(),
            Progress::Stable | Progress::Unreleased => self.next(now, now.epoch),
            Progress::Unrevoked if self.may_own(&now.revoking) => now.clone(),
            Progress::Unrevoked => self.next(now, now.epoch + 1),
        }
    }

    /// Whether the member may own one of these: it does not, once it has said what it owns.
    fn may_own(&self, partitions: &Assignment) -> bool {
        self.owned.is_none_or(|owned| partitions.intersects(owned))
    }

    fn next(&self, now: &CurrentAssignment, epoch: i32) -> CurrentAssignment {
        let (kept, leaving): (Vec<_>, Vec<_>) = now
            .assigned
            .iter()
            .partition(|tp| self.target.contains(*tp));
        let mut assigned: Assignment = kept.into_iter().collect();
        let revoking: Assignment = leaving.into_iter().collect();
        if !revoking.is_empty() && self.may_own(&revoking) {
            return CurrentAssignment {
                epoch,
                previous_epoch: now.epoch,
                progress: Progress::Unrevoked,
                assigned,
                revoking,
            };
        }
        let mut progress = Progress::Stable;
        for tp in self.target.iter() {
            if (self.held_by_another)(tp) {
                progress = Progress::Unreleased;
            } else {
                assigned.insert(tp);
            }
        }
        let next = CurrentAssignment {
            epoch: self.epoch,
            previous_epoch: now.previous_epoch,
            progress,
            assigned,
            revoking: Assignment::default(),
        };
        if next == *now {
            return next;
        }
        CurrentAssignment {
            previous_epoch: now.epoch,
            ..next
        }
    }
}

#[cfg(test)]
mod tests {
    use firn_proto::ids::{PartitionIndex, TopicId};

    use super::*;

    fn parts(indexes: &[i32]) -> Assignment {
        let partitions = indexes.iter().map(|index| TopicPartition {
            topic: TopicId([1; 16]),
            partition: PartitionIndex(*index),
        });
        partitions.collect()
    }

    fn at(
        epoch: i32,
        previous_epoch: i32,
        progress: Progress,
        assigned: &[i32],
        revoking: &[i32],
    ) -> CurrentAssignment {
        CurrentAssignment {
            epoch,
            previous_epoch,
            progress,
            assigned: parts(assigned),
            revoking: parts(revoking),
        }
    }

    #[test]
    fn a_member_moves_by_these_rules() {
        use Progress::{Stable, Unreleased, Unrevoked};
        type Row<'a> = (
            &'a str,
            CurrentAssignment,
            (&'a [i32], i32),
            &'a [i32],
            Option<&'a [i32]>,
            CurrentAssignment,
        );
        // what, standing, (target, its epoch), held by others, owned, standing after
        let table: &[Row<'_>] = &[
            (
                "is there",
                at(5, 4, Stable, &[1], &[]),
                (&[1], 5),
                &[],
                Some(&[1]),
                at(5, 4, Stable, &[1], &[]),
            ),
            (
                "gets what is free",
                at(5, 4, Stable, &[1], &[]),
                (&[1, 2], 6),
                &[],
                None,
                at(6, 5, Stable, &[1, 2], &[]),
            ),
            (
                "gets what is free and waits for the rest",
                at(0, 0, Stable, &[], &[]),
                (&[1, 2], 6),
                &[2],
                Some(&[]),
                at(6, 0, Unreleased, &[1], &[]),
            ),
            (
                "waits on, unchanged",
                at(6, 5, Unreleased, &[1], &[]),
                (&[1, 2], 6),
                &[2],
                Some(&[1]),
                at(6, 5, Unreleased, &[1], &[]),
            ),
            (
                "gets what was released",
                at(6, 5, Unreleased, &[1], &[]),
                (&[1, 2], 6),
                &[],
                None,
                at(6, 6, Stable, &[1, 2], &[]),
            ),
            (
                "lets go first, in its epoch, and gets nothing",
                at(5, 4, Stable, &[1, 2], &[]),
                (&[2, 3], 7),
                &[],
                Some(&[1, 2]),
                at(5, 5, Unrevoked, &[2], &[1]),
            ),
            (
                "has not said that it let go",
                at(5, 5, Unrevoked, &[2], &[1]),
                (&[2, 3], 7),
                &[],
                None,
                at(5, 5, Unrevoked, &[2], &[1]),
            ),
            (
                "owns it still",
                at(5, 5, Unrevoked, &[2], &[1]),
                (&[2, 3], 7),
                &[],
                Some(&[1, 2]),
                at(5, 5, Unrevoked, &[2], &[1]),
            ),
            (
                "has let go and gets what is new",
                at(5, 5, Unrevoked, &[2], &[1]),
                (&[2, 3], 7),
                &[],
                Some(&[2]),
                at(7, 5, Stable, &[2, 3], &[]),
            ),
            (
                "has let go and must let go of more, one epoch on",
                at(5, 5, Unrevoked, &[2, 3], &[1]),
                (&[2], 8),
                &[],
                Some(&[2, 3]),
                at(6, 5, Unrevoked, &[2], &[3]),
            ),
            (
                "let go of what it never took up",
                at(5, 4, Stable, &[1], &[]),
                (&[], 6),
                &[],
                Some(&[]),
                at(6, 5, Stable, &[], &[]),
            ),
        ];
        for (what, standing, (target, epoch), others, owned, after) in table {
            let others = parts(others);
            let owned = owned.map(parts);
            let goal = Goal {
                target: &parts(target),
                epoch: *epoch,
                held_by_another: |tp| others.contains(tp),
                owned: owned.as_ref(),
            };
            assert_eq!(goal.step(standing), *after, "{what}");
        }
    }
}
