//! The segment map, log starts and what may be deleted, step by step.

mod floors;
mod map;

use firn_proto::cluster::{
    ArchiveError, ArchivedRun, Collected, CommitRun, CommitSegment, Doomed, FindRuns, FoundRuns,
    MapPage, MapPart, PageOut, PagedRelease, RaiseLogStart, RaiseLogStarts, RowGroup, RunsFrom,
    SegmentKey,
};
use firn_proto::ids::SlotPosition;
use firn_proto::limits::{FOUND_RUNS_MAX, GARBAGE_LISTED_MAX, MAP_PAGE_RUNS};

use super::*;

impl World {
    fn commit(&mut self, body: CommitSegment) -> Result<(), ArchiveError> {
        match self.apply(Command::CommitSegment(body)).reply {
            Reply::Archive(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn abandon(&mut self, key: SegmentKey) -> Result<(), ArchiveError> {
        match self.apply(Command::AbandonSegment(key)).reply {
            Reply::Archive(result) => result,
            other => panic!("{other:?}"),
        }
    }

    /// Commits a segment of one run that ends with `last_offset`.
    fn archive_to(
        &mut self,
        who: &RegisteredBroker,
        number: u64,
        tp: TopicPartition,
        last_offset: i64,
        next: SlotPosition,
    ) {
        let run = self.run_to(tp, last_offset, next);
        let body = segment(who, number, tp.topic, vec![run]);
        assert_eq!(self.commit(body), Ok(()));
    }

    fn run_to(&self, tp: TopicPartition, last_offset: i64, next: SlotPosition) -> CommitRun {
        let (image, marks) = self.state.topics.partition(tp).unwrap();
        run(tp, image.epoch, (marks.archived_to, last_offset), next)
    }

    fn raise(
        &mut self,
        who: &RegisteredBroker,
        tp: TopicPartition,
        log_start: i64,
        next: SlotPosition,
        paged: Option<PagedRelease>,
    ) -> Result<(), ArchiveError> {
        let epoch = self.partition(tp).epoch;
        let start = RaiseLogStart {
            tp,
            epoch,
            log_start,
            next,
            paged,
        };
        let body = RaiseLogStarts {
            incarnation: who.incarnation,
            starts: vec![start],
        };
        match self.apply(Command::RaiseLogStarts(body)).reply {
            Reply::LogStarts(mut results) => results.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn page_out(&mut self, tp: TopicPartition, page: MapPage) -> Result<(), ArchiveError> {
        let body = PageOut { tp, page };
        match self.apply(Command::PageOutRuns(body)).reply {
            Reply::Archive(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn collected(&mut self, body: Collected) {
        assert_eq!(
            self.apply(Command::ReportCollected(body)).reply,
            Reply::Done
        );
    }

    fn find(&self, tp: TopicPartition, from: RunsFrom) -> FoundRuns {
        self.state.find_runs(&FindRuns { tp, from }, 0).unwrap()
    }

    /// The runs in memory from an offset on.
    fn runs_from(&self, tp: TopicPartition, offset: i64) -> Vec<Arc<ArchivedRun>> {
        match self.find(tp, RunsFrom::Offset(offset)).part {
            MapPart::Runs(runs) => runs,
            MapPart::Nothing => Vec::new(),
            MapPart::Page(page) => panic!("{page:?}"),
        }
    }

    fn doomed(&self, now_ms: i64) -> Vec<Doomed> {
        let garbage = self.state.garbage(now_ms);
        garbage
            .doomed
            .into_iter()
            .map(|queued| queued.what)
            .collect()
    }

    fn set_config(&mut self, topic: &str, name: &str, value: &str) {
        self.apply(Command::AlterConfigs(vec![AlterConfigs {
            name: topic.to_owned(),
            replace_all: false,
            changes: vec![ConfigChange {
                name: name.to_owned(),
                value: Some(value.to_owned()),
            }],
        }]));
    }
}

fn key(who: &RegisteredBroker, number: u64) -> SegmentKey {
    SegmentKey {
        incarnation: who.incarnation,
        number,
    }
}

fn at(stream: StreamId, slot: u64) -> SlotPosition {
    SlotPosition {
        stream,
        slot: Slot(slot),
    }
}

fn nth(topic: TopicId, partition: i32) -> TopicPartition {
    TopicPartition {
        topic,
        partition: PartitionIndex(partition),
    }
}

/// A run of ten bytes an offset whose largest timestamp is its last offset.
fn run(
    tp: TopicPartition,
    epoch: LeaderEpoch,
    (base_offset, last_offset): (i64, i64),
    next: SlotPosition,
) -> CommitRun {
    let group = RowGroup {
        base_offset,
        last_offset,
        byte_start: 4,
        byte_len: 10 * (1 + (last_offset - base_offset).clamp(-1, 1_000_000)) as u64,
        max_timestamp_so_far: last_offset,
        records: 1,
        plain_bytes: 1,
    };
    CommitRun {
        partition: tp.partition,
        epoch,
        base_offset,
        last_offset,
        max_timestamp: last_offset,
        row_groups: vec![group],
        next,
    }
}

fn segment(
    who: &RegisteredBroker,
    number: u64,
    topic: TopicId,
    runs: Vec<CommitRun>,
) -> CommitSegment {
    CommitSegment {
        topic,
        segment: key(who, number),
        runs,
    }
}

/// The row in slot 3 knows of producers up to there. What they wrote since is in slots whose
/// records are archived: a fold that left them out would take a repeated batch for a new one (I8).
#[test]
fn a_fold_after_archiving_reads_every_slot_since_the_last_state_row() {
    let mut world = World::default();
    let old = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    world.report(&old, 4, &[(3, tp)]);
    world.report(&old, 10, &[]);
    world.archive_to(&old, 0, tp, 99, at(old.stream, 10));
    assert_eq!(world.windows(tp)[0].lowest_slot, Slot(10));
    assert_eq!(world.floor(old.stream), 3);
    world.register(1, None);
    world.seal(old.stream, 12).unwrap();
    let folds = world.state.pending_folds();
    let range = folds[0].ranges[0];
    assert_eq!((range.from, range.end), (Slot(3), Slot(12)));
    assert_eq!((folds[0].log_start, folds[0].archived_to), (0, 100));
}

/// The owner in between died before its first row was reported. Its records are archived by the
/// next one, which dies just as early: the fold still starts in the first stream.
#[test]
fn an_archived_window_stays_while_the_last_row_lies_before_it() {
    let mut world = World::default();
    let one = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    world.report(&one, 4, &[(3, tp)]);
    let two = world.register(1, None);
    world.seal(one.stream, 6).unwrap();
    world.assign(end(tp, 0, one.stream, 10)).unwrap();
    world.report(&two, 5, &[]);
    let three = world.register(1, None);
    world.seal(two.stream, 7).unwrap();
    world.assign(end(tp, 1, two.stream, 20)).unwrap();
    world.report(&three, 9, &[]);
    world.archive_to(&three, 0, tp, 24, at(three.stream, 9));
    assert_eq!(world.windows(tp).len(), 3);
    assert_eq!(world.floor(one.stream), 3);
    assert_eq!(world.floor(two.stream), 0, "its producers are in no row");

    let four = world.register(1, None);
    world.seal(three.stream, 9).unwrap();
    let folds = world.state.pending_folds();
    let ranges = folds[0].ranges.iter();
    let ranges: Vec<_> = ranges
        .map(|range| (range.stream, range.from.0, range.end.0))
        .collect();
    let expected = [(one.stream, 3, 6), (two.stream, 0, 7), (three.stream, 0, 9)];
    assert_eq!(ranges, expected);

    world.assign(end(tp, 2, three.stream, 25)).unwrap();
    world.report(&four, 2, &[(1, tp)]);
    assert_eq!(world.windows(tp).len(), 1, "all of it is in the row");
    for (stream, end) in [(one.stream, 6), (two.stream, 7), (three.stream, 9)] {
        assert_eq!(world.floor(stream), end);
    }
}

#[test]
fn a_floor_waits_for_what_is_not_archived() {
    let mut world = World::default();
    let one = world.register(1, None);
    let topic = world.create("a", 2).unwrap();
    let (a, b) = (nth(topic, 0), nth(topic, 1));
    world.report(&one, 20, &[(18, a), (18, b)]);
    world.archive_to(&one, 0, a, 9, at(one.stream, 15));
    assert_eq!(
        world.floor(one.stream),
        0,
        "b has its first run where it may"
    );
    world.archive_to(&one, 1, b, 9, at(one.stream, 7));
    assert_eq!(world.floor(one.stream), 7);
    world.archive_to(&one, 2, b, 19, at(one.stream, 99));
    assert_eq!(world.floor(one.stream), 15);
    assert_eq!(
        world.windows(b)[0].lowest_slot,
        Slot(20),
        "no further than is durable"
    );
    world.archive_to(&one, 3, a, 19, at(one.stream, 16));
    assert_eq!(world.floor(one.stream), 16);
    world.raise(&one, a, 20, at(one.stream, 20), None).unwrap();
    assert_eq!(world.floor(one.stream), 18, "the rows are in slot 18");
}

/// The last epoch that begins at or below the log start stays: it has the record there.
#[test]
fn epochs_below_the_log_start_go() {
    let mut world = World::default();
    let one = world.register(1, None);
    let tp = nth(world.create("a", 1).unwrap(), 0);
    for (epoch, end_offset) in (0..3).zip([40, 50, 60]) {
        let row = 5 + epoch as u64;
        let released = end(tp, epoch, one.stream, end_offset);
        world.release(&one, released, Some(row)).unwrap();
        world.assign(released).unwrap();
    }
    let starts = |world: &World| {
        let epochs = world.partition(tp).epochs.iter();
        epochs
            .map(|e| (e.epoch.0, e.start_offset))
            .collect::<Vec<_>>()
    };
    assert_eq!(starts(&world), [(0, 0), (1, 40), (2, 50), (3, 60)]);
    let next = at(one.stream, 20);
    let is_shown = |world: &mut World, log_start| {
        let before = world.partition(tp).clone();
        world.raise(&one, tp, log_start, next, None).unwrap();
        before.epochs != world.partition(tp).epochs
    };
    assert!(!is_shown(&mut world, 39));
    assert!(is_shown(&mut world, 40));
    assert_eq!(starts(&world), [(1, 40), (2, 50), (3, 60)]);
    assert!(is_shown(&mut world, 59));
    assert_eq!(starts(&world), [(2, 50), (3, 60)]);
    assert!(is_shown(&mut world, 70));
    assert_eq!(starts(&world), [(3, 60)]);
}

/// Nothing is ever archived of a partition that nobody writes to. Its owner says so.
#[test]
fn an_idle_partition_lets_go_of_slots_with_the_log_start_it_has() {
    let mut world = World::default();
    let one = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    world.report(&one, 20, &[(18, tp)]);
    assert_eq!(world.floor(one.stream), 0);
    assert_eq!(world.raise(&one, tp, 0, at(one.stream, 19), None), Ok(()));
    assert_eq!(world.floor(one.stream), 18);
    let before = world.state.clone();
    assert_eq!(world.raise(&one, tp, 0, at(one.stream, 19), None), Ok(()));
    assert_eq!(world.state, before);
}

#[test]
fn a_segment_enters_whole_or_not_at_all() {
    let mut world = World::default();
    let one = world.register(1, None);
    let topic = world.create("a", 3).unwrap();
    world.register(2, None);
    let next = at(one.stream, 0);
    let epoch = LeaderEpoch(0);
    let own = |partition, offsets| run(nth(topic, partition), epoch, offsets, next);
    let gap = CommitRun {
        row_groups: vec![own(1, (0, 3)).row_groups[0], own(1, (5, 9)).row_groups[0]],
        ..own(1, (0, 9))
    };
    let short = CommitRun {
        row_groups: own(1, (0, 8)).row_groups,
        ..own(1, (0, 9))
    };
    let stale = run(nth(topic, 1), LeaderEpoch(1), (0, 9), next);
    let not_owner = |partition| ArchiveError::NotOwner(PartitionIndex(partition));
    let before = world.state.clone();
    for (wrong, expected) in [
        (own(1, (1, 9)), None),
        (own(1, (0, -1)), None),
        (own(1, (0, i64::MAX)), None),
        (gap, None),
        (short, None),
        (own(0, (0, 9)), None),
        (stale, Some(not_owner(1))),
        (own(7, (0, 9)), Some(not_owner(7))),
        (own(-1, (0, 9)), None),
    ] {
        let body = segment(&one, 5, topic, vec![own(0, (0, 9)), wrong.clone()]);
        let refused = world.commit(body).unwrap_err();
        match expected {
            Some(expected) => assert_eq!(refused, expected),
            None => assert!(
                matches!(refused, ArchiveError::Contradiction { partition, .. }
                    if partition == wrong.partition),
                "{refused:?}"
            ),
        }
        assert_eq!(world.state, before);
    }
    let nothing = segment(&one, 5, topic, Vec::new());
    assert!(world.commit(nothing).is_err());
    let unknown = segment(&one, 5, TopicId::ZERO, vec![own(0, (0, 9))]);
    assert_eq!(world.commit(unknown), Err(ArchiveError::UnknownTopic));
    let body = segment(&one, 5, topic, vec![own(0, (0, 9)), own(1, (0, 4))]);
    assert_eq!(world.commit(body), Ok(()));
    let found = world.find(nth(topic, 1), RunsFrom::Offset(0));
    assert_eq!(
        (found.archived_to, found.bytes, found.runs_in_memory),
        (5, 50, 1)
    );
    assert_eq!(world.runs_from(nth(topic, 1), 0)[0].runs_of_segment, 2);
    let late = segment(&one, 6, topic, vec![own(1, (0, 9))]);
    assert!(
        matches!(world.commit(late), Err(ArchiveError::Contradiction { .. })),
        "another segment was faster"
    );
}

/// What is needed of a window that is not reached yet is not for the archive to say.
#[test]
fn a_position_in_another_window_moves_no_slot() {
    let mut world = World::default();
    let one = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    world.report(&one, 6, &[(3, tp)]);
    let two = world.register(1, None);
    world.seal(one.stream, 6).unwrap();
    world.assign(end(tp, 0, one.stream, 10)).unwrap();
    world.report(&two, 9, &[]);
    let lowest = |world: &World| {
        let windows = world.windows(tp);
        let lowest = windows.iter().map(|window| window.lowest_slot.0);
        lowest.collect::<Vec<_>>()
    };
    world.archive_to(&two, 0, tp, 4, at(two.stream, 8));
    assert_eq!(lowest(&world), [0, 0]);
    world.archive_to(&two, 1, tp, 7, at(one.stream, 5));
    assert_eq!(lowest(&world), [5, 0]);
    world.archive_to(&two, 2, tp, 9, at(one.stream, 6));
    assert_eq!(lowest(&world), [6, 0]);
    world.archive_to(&two, 3, tp, 12, at(two.stream, 8));
    assert_eq!(lowest(&world), [6, 8]);
}

/// The log start may lie in the middle of a batch. No batch is divided, so that the row group begins
/// where the batch does.
#[test]
fn a_run_may_begin_inside_its_first_row_group() {
    let mut world = World::default();
    let one = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    let next = at(one.stream, 0);
    assert_eq!(world.raise(&one, tp, 5, next, None), Ok(()));
    let mut inside = world.run_to(tp, 19, next);
    inside.row_groups[0].base_offset = 3;
    let body = segment(&one, 0, tp.topic, vec![inside.clone()]);
    assert_eq!(world.commit(body), Ok(()));
    let runs = world.runs_from(tp, 5);
    assert_eq!((runs[0].base_offset, runs[0].last_offset), (5, 19));
    assert!(runs[0].row_group_of(5).is_some());

    let mut behind = world.run_to(tp, 29, next);
    behind.row_groups[0].base_offset = 21;
    let mut before = world.run_to(tp, 29, next);
    before.row_groups[0].base_offset = 3;
    before.row_groups[0].last_offset = 19;
    for wrong in [behind, before] {
        let refused = world.commit(segment(&one, 1, tp.topic, vec![wrong]));
        assert!(matches!(refused, Err(ArchiveError::Contradiction { .. })));
    }
}

#[test]
fn a_key_enters_once_and_never_after_it_was_abandoned() {
    let mut world = World::default();
    let one = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    let next = at(one.stream, 0);
    let entered = segment(&one, 3, tp.topic, vec![world.run_to(tp, 9, next)]);
    assert_eq!(world.commit(entered.clone()), Ok(()));
    let before = world.state.clone();
    assert_eq!(
        world.commit(entered.clone()),
        Ok(()),
        "repeating it is harmless"
    );
    assert_eq!(world.abandon(key(&one, 3)), Err(ArchiveError::Entered));
    let other = segment(
        &one,
        3,
        tp.topic,
        vec![run(tp, LeaderEpoch(0), (0, 7), next)],
    );
    assert!(matches!(
        world.commit(other),
        Err(ArchiveError::Contradiction { .. })
    ));
    assert_eq!(world.state, before);

    assert_eq!(world.abandon(key(&one, 4)), Ok(()));
    assert_eq!(world.abandon(key(&one, 4)), Ok(()));
    let late = segment(&one, 4, tp.topic, vec![world.run_to(tp, 19, next)]);
    assert_eq!(world.commit(late), Err(ArchiveError::Abandoned));

    let two = world.register(1, None);
    let ended = ArchiveError::Ended(one.incarnation);
    let late = segment(&one, 5, tp.topic, vec![world.run_to(tp, 19, next)]);
    assert_eq!(world.commit(late), Err(ended.clone()));
    assert_eq!(world.commit(entered.clone()), Ok(()), "it is in the map");
    assert_eq!(world.abandon(key(&one, 6)), Ok(()));
    let mut list = world.state.garbage(0).writers;
    assert_eq!(list.len(), 1, "the new process is alive");
    let writer = list.remove(0);
    assert_eq!(
        (writer.incarnation, writer.entered),
        (one.incarnation, vec![(3, 4)])
    );
    world.collected(Collected {
        writers: vec![one.incarnation, two.incarnation],
        ..Collected::default()
    });
    assert!(world.state.garbage(0).writers.is_empty());
    assert_eq!(world.abandon(key(&one, 7)), Err(ended.clone()));
    assert_eq!(world.commit(entered), Err(ended));
    assert_eq!(
        world.abandon(key(&two, 0)),
        Ok(()),
        "the living are not forgotten"
    );
}

#[test]
fn a_segment_goes_with_the_last_of_its_runs_after_the_delay_of_its_topic() {
    let mut world = World::default();
    let one = world.register(1, None);
    let topic = world.create("a", 2).unwrap();
    let (a, b) = (nth(topic, 0), nth(topic, 1));
    let next = at(one.stream, 0);
    let runs = vec![world.run_to(a, 9, next), world.run_to(b, 9, next)];
    world.commit(segment(&one, 0, topic, runs)).unwrap();
    world.archive_to(&one, 1, a, 19, next);
    world.raise(&one, a, 15, next, None).unwrap();
    let found = world.find(a, RunsFrom::Offset(0));
    assert_eq!(
        (found.log_start, found.archived_to, found.bytes),
        (15, 20, 100)
    );
    assert_eq!(
        world.runs_from(a, 0).len(),
        1,
        "the run that holds the log start stays"
    );
    assert_eq!(
        world.state.garbage(i64::MAX).queued,
        0,
        "b has a run of the first segment"
    );

    world.raise(&one, b, 10, next, None).unwrap();
    let due = world.state.at_ms + 60_000;
    assert_eq!(world.doomed(due - 1), []);
    assert_eq!(world.state.garbage(due - 1).next_due_ms, Some(due));
    let gone = |number| Doomed::Segment {
        topic_name: "a".into(),
        topic,
        segment: key(&one, number),
    };
    assert_eq!(world.doomed(due), [gone(0)]);
    world.set_config("a", "file.delete.delay.ms", "5");
    world.raise(&one, a, 30, next, None).unwrap();
    assert_eq!(world.find(a, RunsFrom::Offset(0)).archived_to, 30);
    assert_eq!(
        world.doomed(due),
        [gone(1), gone(0)],
        "what is due first comes first"
    );
    let ids = world
        .state
        .garbage(due)
        .doomed
        .iter()
        .map(|queued| queued.id)
        .collect();
    world.collected(Collected {
        doomed: ids,
        ..Collected::default()
    });
    assert_eq!(world.state.garbage(i64::MAX).queued, 0);
    assert!(matches!(
        world.raise(&one, a, 29, next, None),
        Err(ArchiveError::Contradiction { .. })
    ));
}

#[test]
fn a_deleted_topic_goes_as_a_whole_once_nobody_holds_it() {
    let mut world = World::default();
    let one = world.register(1, None);
    let topic = world.create("a", 2).unwrap();
    let (a, b) = (nth(topic, 0), nth(topic, 1));
    let next = at(one.stream, 0);
    let runs = vec![world.run_to(a, 9, next), world.run_to(b, 9, next)];
    world.commit(segment(&one, 0, topic, runs)).unwrap();
    world.raise(&one, a, 10, next, None).unwrap();
    world.apply(Command::DeleteTopics(vec![topic]));
    assert_eq!(world.state.archive.maps().count(), 0);
    assert_eq!(world.state.archive.left().count(), 0);
    assert_eq!(
        world.state.find_runs(
            &FindRuns {
                tp: a,
                from: RunsFrom::Offset(0)
            },
            0
        ),
        None
    );
    assert_eq!(
        world.doomed(i64::MAX),
        [],
        "its owner may still write to its folder"
    );
    world.apply(Command::ConfirmDeleted(ConfirmDeleted {
        incarnation: one.incarnation,
        topics: vec![topic],
    }));
    assert_eq!(world.doomed(i64::MAX).len(), 1);
    let again = world.create("a", 1).unwrap();
    world.archive_to(&one, 1, first(again), 9, next);
    let doomed = world.doomed(i64::MAX);
    assert!(matches!(&doomed[..], [Doomed::Topic { topic: gone, .. }] if *gone == topic));
}

#[test]
fn slots_below_a_floor_are_listed_until_they_are_reported_gone() {
    let mut world = World::default();
    let one = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    world.report(&one, 20, &[(18, tp)]);
    assert!(world.state.garbage(0).streams.is_empty());
    world.archive_to(&one, 0, tp, 9, at(one.stream, 12));
    let listed = world.state.garbage(0).streams;
    assert_eq!((listed[0].from, listed[0].floor), (Slot(0), Slot(12)));
    assert!(listed[0].is_live && !listed[0].is_over);
    let gone = |to, over: &[StreamId]| Collected {
        streams: vec![(one.stream, Slot(to))],
        over: over.to_vec(),
        ..Collected::default()
    };
    world.collected(gone(5, &[]));
    assert_eq!(world.state.garbage(0).streams[0].from, Slot(5));
    world.collected(gone(12, &[one.stream]));
    assert!(world.state.garbage(0).streams.is_empty());

    let two = world.register(1, None);
    world.seal(one.stream, 20).unwrap();
    world.assign(end(tp, 0, one.stream, 30)).unwrap();
    world.report(&two, 3, &[(2, tp)]);
    world.raise(&two, tp, 30, at(two.stream, 3), None).unwrap();
    let listed = world.state.garbage(0).streams;
    assert_eq!((listed[0].stream, listed[0].floor), (one.stream, Slot(20)));
    assert!(
        listed[0].is_over,
        "it was not when its folder was reported gone"
    );
    world.collected(gone(20, &[]));
    assert!(
        world.state.garbage(0).streams[0].is_over,
        "its checkpoints are left"
    );
    world.collected(gone(20, &[one.stream]));
    let streams = world.state.garbage(0).streams;
    assert!(streams.iter().all(|listed| listed.stream != one.stream));
}

#[test]
fn runs_are_found_by_offset_by_time_and_by_the_largest_time() {
    let mut world = World::default();
    let one = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    let next = at(one.stream, 0);
    assert_eq!(world.find(tp, RunsFrom::Offset(0)).part, MapPart::Nothing);
    for number in 0..100 {
        world.archive_to(&one, number, tp, number as i64 * 10 + 9, next);
    }
    let mut dateless = world.run_to(tp, 1009, next);
    dateless.row_groups.clear();
    dateless.max_timestamp = i64::MIN;
    world
        .commit(segment(&one, 100, tp.topic, vec![dateless]))
        .unwrap();
    let first_of = |from| match world.find(tp, from).part {
        MapPart::Runs(runs) => Some((runs[0].base_offset, runs.len())),
        MapPart::Nothing => None,
        MapPart::Page(page) => panic!("{page:?}"),
    };
    let time = |timestamp, offset| RunsFrom::Time { timestamp, offset };
    for (from, expected) in [
        (RunsFrom::Offset(-1), Some((0, FOUND_RUNS_MAX))),
        (RunsFrom::Offset(505), Some((500, 51))),
        (RunsFrom::Offset(1009), Some((1000, 1))),
        (RunsFrom::Offset(1010), None),
        (time(0, 0), Some((0, FOUND_RUNS_MAX))),
        (time(500, 0), Some((500, 51))),
        (time(500, 700), Some((700, 31))),
        (time(1000, 0), None),
        (time(i64::MIN, 1000), None),
        (RunsFrom::MaxTime { offset: 0 }, Some((990, 2))),
        (RunsFrom::MaxTime { offset: 1000 }, None),
    ] {
        assert_eq!(first_of(from), expected, "{from:?}");
    }
}

/// The page that the oldest `runs` runs in memory make, as their owner would.
fn page_of(world: &World, tp: TopicPartition, key: SegmentKey, runs: usize) -> MapPage {
    let map = world.state.archive.maps().find(|(of, _)| *of == tp);
    let runs: Vec<_> = map.unwrap().1.runs().iter().take(runs).collect();
    MapPage {
        key,
        base_offset: runs[0].base_offset,
        last_offset: runs[runs.len() - 1].last_offset,
        max_timestamp: runs.iter().map(|run| run.max_timestamp).max().unwrap(),
        runs: runs.len() as u32,
        run_bytes: runs.iter().map(|run| run.bytes()).sum(),
        byte_len: 100,
    }
}

#[test]
fn a_page_takes_the_oldest_runs_as_they_are() {
    let mut world = World::default();
    let one = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    let next = at(one.stream, 0);
    for number in 0..10 {
        world.archive_to(&one, number, tp, number as i64 * 10 + 9, next);
    }
    let page = page_of(&world, tp, key(&one, 0), 4);
    let before = world.state.clone();
    let wrong = [
        MapPage { runs: 5, ..page },
        MapPage { runs: 0, ..page },
        MapPage { runs: 11, ..page },
        MapPage {
            base_offset: 10,
            ..page
        },
        MapPage {
            last_offset: 38,
            ..page
        },
        MapPage {
            max_timestamp: 40,
            ..page
        },
        MapPage {
            run_bytes: 399,
            ..page
        },
    ];
    for wrong in wrong {
        assert!(matches!(
            world.page_out(tp, wrong),
            Err(ArchiveError::Contradiction { .. })
        ));
        assert_eq!(world.state, before);
    }
    let ended = SegmentKey {
        incarnation: Incarnation(9),
        number: 0,
    };
    let zombie = MapPage { key: ended, ..page };
    let refused = Err(ArchiveError::Ended(ended.incarnation));
    assert_eq!(world.page_out(tp, zombie), refused);

    assert_eq!(world.page_out(tp, page), Ok(()));
    let after = world.state.clone();
    assert_eq!(world.page_out(tp, page), Ok(()), "repeating it is harmless");
    let again = page_of(&world, tp, page.key, 4);
    assert!(world.page_out(tp, again).is_err(), "a key enters once");
    assert_eq!(world.state, after);
    let found = world.find(tp, RunsFrom::Offset(39));
    assert_eq!((found.runs_in_memory, found.bytes), (6, 1000));
    assert_eq!(found.part, MapPart::Page(page));
    assert_eq!(world.runs_from(tp, 40).len(), 6);
    let all = world.state.describe_archive(None);
    assert_eq!((all[0].runs, all[0].bytes, all[0].pages), (10, 1000, 1));
}

/// Three pages of four runs of ten offsets each, and two runs in memory, each run in a segment of
/// its own.
fn paged() -> (World, RegisteredBroker, TopicPartition, Vec<MapPage>) {
    let mut world = World::default();
    let one = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    let next = at(one.stream, 0);
    for number in 0..14 {
        world.archive_to(&one, number, tp, number as i64 * 10 + 9, next);
    }
    let mut pages = Vec::new();
    for number in 0..3 {
        let page = page_of(&world, tp, key(&one, number), 4);
        world.page_out(tp, page).unwrap();
        pages.push(page);
    }
    (world, one, tp, pages)
}

fn release(
    who: &RegisteredBroker,
    pages: &[MapPage],
    released_to: i64,
    segments: std::ops::Range<u64>,
    next_released_to: i64,
) -> PagedRelease {
    PagedRelease {
        pages: pages.iter().map(|page| page.key).collect(),
        released_to,
        run_bytes: 100 * (segments.end - segments.start),
        segments: segments.map(|number| (key(who, number), 1)).collect(),
        next_released_to,
    }
}

#[test]
fn paged_runs_leave_as_whoever_read_the_pages_says() {
    let (mut world, one, tp, pages) = paged();
    let next = at(one.stream, 0);
    let before = world.state.clone();
    let good = release(&one, &pages[..2], 0, 0..5, 50);
    let mut other_key = good.clone();
    other_key.pages[1] = pages[2].key;
    let mut twice = good.clone();
    twice.segments[4] = twice.segments[3];
    let mut unknown = good.clone();
    unknown.segments[4].0.number = 99;
    let wrong = [
        None,
        Some(release(&one, &pages[..1], 0, 0..4, 40)),
        Some(release(&one, &pages[..3], 0, 0..5, 50)),
        Some(release(&one, &pages[..2], 10, 0..5, 50)),
        Some(release(&one, &pages[..2], 0, 0..3, 50)),
        Some(release(&one, &pages[..2], 0, 0..8, 50)),
        Some(release(&one, &pages[..2], 0, 0..5, 40)),
        Some(release(&one, &pages[..2], 0, 0..5, 60)),
        Some(PagedRelease {
            run_bytes: 399,
            ..good.clone()
        }),
        Some(other_key),
        Some(twice),
        Some(unknown),
    ];
    for wrong in wrong {
        let refused = world.raise(&one, tp, 55, next, wrong.clone());
        assert!(
            matches!(refused, Err(ArchiveError::Contradiction { .. })),
            "{wrong:?}"
        );
        assert_eq!(world.state, before);
    }
    assert_eq!(world.raise(&one, tp, 55, next, Some(good)), Ok(()));
    let found = world.find(tp, RunsFrom::Offset(0));
    assert_eq!((found.released_to, found.bytes), (50, 900));
    assert_eq!(found.part, MapPart::Page(pages[1]));
    let segments = |doomed: &Doomed| matches!(doomed, Doomed::Segment { .. });
    let doomed = world.doomed(i64::MAX);
    assert_eq!(doomed.iter().filter(|doomed| segments(doomed)).count(), 5);
    let gone = Doomed::MapPage {
        topic: tp.topic,
        page: pages[0].key,
    };
    assert!(doomed.contains(&gone));
    assert_eq!(world.state.describe_archive(Some(tp.topic))[0].runs, 9);

    let nothing = release(&one, &pages[1..2], 50, 0..0, 50);
    assert_eq!(world.raise(&one, tp, 58, next, Some(nothing)), Ok(()));
    let rest = release(&one, &pages[1..], 50, 5..12, 120);
    assert_eq!(world.raise(&one, tp, 135, next, Some(rest)), Ok(()));
    let found = world.find(tp, RunsFrom::Offset(0));
    assert_eq!((found.bytes, found.runs_in_memory), (100, 1));
    assert_eq!(world.state.garbage(i64::MAX).queued, 13 + 3);
}

/// A page that waits in the delete queue has readers: it is no orphan.
#[test]
fn an_ended_writer_is_listed_with_the_pages_that_are_named() {
    let (mut world, one, tp, pages) = paged();
    let next = at(one.stream, 0);
    let good = release(&one, &pages[..1], 0, 0..4, 40);
    world.raise(&one, tp, 40, next, Some(good)).unwrap();
    world.register(1, None);
    let writer = &world.state.garbage(0).writers[0];
    assert_eq!(writer.entered, [(0, 14)]);
    let mut named = writer.pages.clone();
    named.sort_unstable();
    assert_eq!(named, [(tp.topic, 0), (tp.topic, 1), (tp.topic, 2)]);
}

#[test]
fn an_answer_about_garbage_is_bounded() {
    let mut world = World::default();
    let one = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    let next = at(one.stream, 0);
    let segments = GARBAGE_LISTED_MAX as u64 + 10;
    for number in 0..segments {
        world.archive_to(&one, number, tp, number as i64, next);
    }
    world.raise(&one, tp, segments as i64, next, None).unwrap();
    let garbage = world.state.garbage(i64::MAX);
    assert_eq!(
        (garbage.doomed.len(), garbage.queued),
        (GARBAGE_LISTED_MAX, segments)
    );
    assert!(garbage.doomed.is_sorted_by_key(|queued| queued.id));
}
