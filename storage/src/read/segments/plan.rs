//! Which row group comes next. Pure.

use std::sync::Arc;

use firn_proto::cluster::{ArchivedRun, RowGroup};

/// What the segment map has at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// No run that was given holds the offset.
    Nothing,
    /// There is no record from the offset on before this one.
    Gap(i64),
    /// The row group that covers it.
    Group(GroupAt<'a>),
}

/// A row group and the run that it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupAt<'a> {
    pub(super) run: &'a ArchivedRun,
    pub(super) group: &'a RowGroup,
}

/// What is at `offset`; `runs` are contiguous and in order.
pub(super) fn next(runs: &[Arc<ArchivedRun>], offset: i64) -> Next<'_> {
    let at = runs.partition_point(|run| run.last_offset < offset);
    let Some(run) = runs.get(at).filter(|run| run.base_offset <= offset) else {
        return Next::Nothing;
    };
    if let Some(group) = run.row_group_of(offset) {
        return Next::Group(GroupAt { run, group });
    }
    let later = run
        .row_groups
        .iter()
        .find(|group| group.base_offset > offset);
    let behind = run.last_offset.saturating_add(1);
    match later.map_or(behind, |group| group.base_offset) {
        to if to > offset => Next::Gap(to),
        _ => Next::Nothing,
    }
}

/// The row group behind `group`.
pub(super) fn behind<'a>(runs: &'a [Arc<ArchivedRun>], group: &RowGroup) -> Option<GroupAt<'a>> {
    let mut offset = group.last_offset.checked_add(1)?;
    loop {
        match next(runs, offset) {
            Next::Nothing => return None,
            Next::Gap(to) => offset = to,
            Next::Group(at) => return Some(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use firn_proto::cluster::SegmentKey;
    use firn_proto::ids::Incarnation;

    use super::*;

    fn group(base_offset: i64, last_offset: i64) -> RowGroup {
        RowGroup {
            base_offset,
            last_offset,
            byte_start: 4,
            byte_len: 100,
            max_timestamp_so_far: 0,
            records: 1,
            plain_bytes: 100,
        }
    }

    fn run(base_offset: i64, last_offset: i64, row_groups: Vec<RowGroup>) -> Arc<ArchivedRun> {
        Arc::new(ArchivedRun {
            segment: SegmentKey {
                incarnation: Incarnation(1),
                number: 1,
            },
            runs_of_segment: 1,
            base_offset,
            last_offset,
            max_timestamp: 0,
            row_groups,
        })
    }

    fn bases(runs: &[Arc<ArchivedRun>], offset: i64) -> Option<i64> {
        match next(runs, offset) {
            Next::Group(at) => Some(at.group.base_offset),
            Next::Gap(_) | Next::Nothing => None,
        }
    }

    #[test]
    fn every_offset_has_its_row_group() {
        let runs = [
            run(10, 29, vec![group(10, 14), group(15, 29)]),
            run(30, 39, vec![group(30, 39)]),
        ];
        let found: Vec<_> = [9, 10, 14, 15, 29, 30, 39, 40]
            .map(|offset| bases(&runs, offset))
            .to_vec();
        let expected = [
            None,
            Some(10),
            Some(10),
            Some(15),
            Some(15),
            Some(30),
            Some(30),
            None,
        ];
        assert_eq!(found, expected);
        assert_eq!(next(&runs, 9), Next::Nothing);
        assert_eq!(next(&runs, 40), Next::Nothing);
    }

    #[test]
    fn a_run_without_a_batch_is_a_gap_to_its_end() {
        let runs = [
            run(0, 9, vec![]),
            run(10, 19, vec![]),
            run(20, 20, vec![group(20, 20)]),
        ];
        assert_eq!(next(&runs, 3), Next::Gap(10));
        assert_eq!(next(&runs, 10), Next::Gap(20));
        let first = group(-5, -1);
        assert_eq!(
            behind(&runs, &first).map(|at| at.group.base_offset),
            Some(20)
        );
    }

    #[test]
    fn behind_the_last_row_group_is_nothing() {
        let runs = [
            run(0, 9, vec![group(0, 4), group(5, 9)]),
            run(10, 12, vec![]),
        ];
        let [first, last] = [0, 5].map(|offset| match next(&runs, offset) {
            Next::Group(at) => *at.group,
            other => panic!("{other:?}"),
        });
        assert_eq!(behind(&runs, &first).map(|at| *at.group), Some(last));
        assert_eq!(behind(&runs, &last), None);
    }

    #[test]
    fn offsets_at_the_end_of_numbers_end_too() {
        let runs = [run(5, i64::MAX, vec![])];
        assert_eq!(next(&runs, i64::MAX), Next::Nothing);
        assert_eq!(next(&runs, 5), Next::Gap(i64::MAX));
        assert_eq!(behind(&runs, &group(0, i64::MAX)), None);
    }
}
