mod archive;
mod histories;
mod moves;

use std::sync::Arc;

use firn_proto::cluster::{
    AssignPartitions, Assigned, AssignmentError, CommittedOffset, ConfigChange, ConfirmDeleted,
    Listener, MovePartition, NewTopic, PartitionEnd, PartitionImage, ProgressReport,
    RegisterBroker, RegisteredBroker, ReleasePartition, ReleasePartitions, ResumePartition,
    ResumePartitions, RowReport, SealStream, SecurityProtocol, StreamError, TopicImage, Window,
};
use firn_proto::ids::{DiskId, LeaderEpoch, PartitionIndex, Slot, TopicPartition};

use super::*;
use crate::command::{DrainBroker, ProducerIdsWanted};

/// A state together with the journal that made it.
#[derive(Default)]
struct World {
    state: State,
    journal: Vec<Stamped>,
    topics: u64,
}

impl World {
    fn apply(&mut self, command: Command) -> Applied {
        let stamped = Stamped {
            at_ms: self.state.at_ms + 1,
            command,
        };
        let applied = self.state.apply(&stamped);
        if applied.effects.changed {
            self.journal.push(stamped);
        }
        applied
    }

    fn register(&mut self, broker: i32, disk: Option<u8>) -> RegisteredBroker {
        let body = RegisterBroker {
            broker: Some(BrokerId(broker)),
            listeners: vec![Listener {
                name: "PLAINTEXT".to_owned(),
                security: SecurityProtocol::Plaintext,
                host: "127.0.0.1".to_owned(),
                port: 9092,
            }],
            rack: None,
            disk: disk.map(|byte| DiskId([byte; 16])),
            link: None,
        };
        match self.apply(Command::RegisterBroker(body)).reply {
            Reply::RegisterBroker(registered) => registered,
            other => panic!("{other:?}"),
        }
    }

    fn create(&mut self, name: &str, partitions: i32) -> Result<TopicId, TopicError> {
        self.topics += 1;
        let id = TopicId::from_random(u128::from(self.topics) << 96);
        let topic = new_topic(name, partitions);
        let body = vec![IdentifiedTopic { id, topic }];
        match self.apply(Command::CreateTopics(body)).reply {
            Reply::CreateTopics(mut results) => match results.remove(0) {
                Ok(created) => Ok(created.id),
                Err(refusal) => Err(refusal.error),
            },
            other => panic!("{other:?}"),
        }
    }

    fn report(&mut self, who: &RegisteredBroker, end: u64, rows: &[(u64, TopicPartition)]) {
        let row = |(slot, tp): &(u64, TopicPartition)| RowReport {
            slot: Slot(*slot),
            partitions: vec![*tp],
        };
        let body = ProgressReport {
            incarnation: who.incarnation,
            stream: who.stream,
            durable_end: Slot(end),
            rows: rows.iter().map(row).collect(),
            // what was in flight when a row was taken lies below the slot that holds it
            rows_end: Slot(rows.iter().map(|(slot, _)| *slot).min().unwrap_or(0)),
            holds_local: false,
        };
        self.apply(Command::ReportProgress(body));
    }

    fn seal(&mut self, stream: StreamId, end: u64) -> Result<(), StreamError> {
        let body = SealStream {
            stream,
            end: Slot(end),
        };
        match self.apply(Command::SealStream(body)).reply {
            Reply::Stream(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn assign(&mut self, end: PartitionEnd) -> Result<LeaderEpoch, AssignmentError> {
        self.assign_ended(end, None)
    }

    fn assign_to(&mut self, end: PartitionEnd, to: i32) -> Result<LeaderEpoch, AssignmentError> {
        self.assign_ended(end, Some(BrokerId(to)))
    }

    fn assign_ended(
        &mut self,
        end: PartitionEnd,
        to: Option<BrokerId>,
    ) -> Result<LeaderEpoch, AssignmentError> {
        let body = AssignPartitions {
            ended: vec![end],
            to,
        };
        match self.apply(Command::AssignPartitions(body)).reply {
            Reply::Assigned(mut results) => results.remove(0).map(|assigned| assigned.epoch),
            other => panic!("{other:?}"),
        }
    }

    fn release(
        &mut self,
        who: &RegisteredBroker,
        end: PartitionEnd,
        row: Option<u64>,
    ) -> Result<(), AssignmentError> {
        let body = ReleasePartitions {
            incarnation: who.incarnation,
            released: vec![ReleasePartition {
                end,
                row: row.map(Slot),
            }],
        };
        match self.apply(Command::ReleasePartitions(body)).reply {
            Reply::Released(mut results) => results.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn resume(
        &mut self,
        who: &RegisteredBroker,
        ended: PartitionEnd,
    ) -> Result<Assigned, AssignmentError> {
        let body = ResumePartitions {
            incarnation: who.incarnation,
            resumed: vec![ResumePartition { end: ended }],
        };
        match self.apply(Command::ResumePartitions(body)).reply {
            Reply::Assigned(mut results) => results.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn set_durability(&mut self, topic: &str, value: &str) {
        self.apply(Command::AlterConfigs(vec![AlterConfigs {
            name: topic.to_owned(),
            replace_all: false,
            changes: vec![ConfigChange {
                name: TopicImage::DURABILITY.to_owned(),
                value: Some(value.to_owned()),
            }],
        }]));
    }

    fn windows(&self, tp: TopicPartition) -> Vec<Window> {
        self.partition(tp).windows.clone()
    }

    fn partition(&self, tp: TopicPartition) -> &PartitionImage {
        self.state.topics.partition(tp).unwrap().0
    }

    fn brokers(&self) -> Vec<Arc<BrokerImage>> {
        self.state.brokers.values().cloned().collect()
    }

    fn all_partitions(&self) -> Vec<TopicPartition> {
        let topics = self.state.topics.iter();
        topics
            .flat_map(|(id, topic)| (0..topic.marks.len()).map(move |i| partition_at(id, i)))
            .collect()
    }

    fn floor(&self, stream: StreamId) -> u64 {
        self.state.streams.find(stream).unwrap().floor.0
    }
}

impl State {
    /// Snapshots up to format 3 did not say where windows begin, nor of sealed streams how their
    /// writers had ended.
    pub(crate) fn forget_what_was_not_kept(&mut self) {
        for (_, topic) in self.topics.iter_mut() {
            for marks in &mut topic.marks {
                marks.rows_from = Slot(0);
            }
        }
        self.streams.forget_how_sealed_ones_ended();
    }
}

fn new_topic(name: &str, partitions: i32) -> NewTopic {
    NewTopic {
        name: name.to_owned(),
        partitions,
        replication_factor: 1,
        owners: Vec::new(),
        configs: Vec::new(),
    }
}

fn first(topic: TopicId) -> TopicPartition {
    TopicPartition {
        topic,
        partition: PartitionIndex(0),
    }
}

fn end(tp: TopicPartition, epoch: i32, stream: StreamId, end_offset: i64) -> PartitionEnd {
    PartitionEnd {
        tp,
        epoch: LeaderEpoch(epoch),
        stream,
        end_offset,
    }
}

#[test]
fn a_restart_seals_folds_and_begins_the_next_epoch_at_the_folded_end() {
    let mut world = World::default();
    let old = world.register(1, None);
    let tp = first(world.create("a", 2).unwrap());
    world.report(&old, 5, &[(3, tp)]);
    let new = world.register(1, None);
    assert_eq!(new.seals.len(), 1);
    assert_eq!(new.seals[0].stream, old.stream);
    assert_eq!(new.seals[0].durable_end, Slot(5));
    assert_eq!(world.partition(tp).owner, None);

    world.seal(old.stream, 7).unwrap();
    let folds = world.state.pending_folds();
    assert_eq!(folds.len(), 2);
    assert_eq!(folds[0].tp, tp);
    let range = folds[0].ranges[0];
    assert_eq!(
        (range.from, range.end),
        (Slot(3), Slot(7)),
        "the fold starts where the rows end"
    );
    assert_eq!(
        folds[1].ranges[0].from,
        Slot(3),
        "a partition without a row had nothing below"
    );

    assert_eq!(world.assign(end(tp, 0, old.stream, 40)), Ok(LeaderEpoch(1)));
    let partition = world.partition(tp);
    assert_eq!(partition.owner.unwrap().incarnation, new.incarnation);
    assert_eq!(partition.epochs.len(), 2);
    assert_eq!(partition.epochs[1].start_offset, 40);
    assert_eq!(
        world.assign(end(tp, 0, old.stream, 40)),
        Err(AssignmentError::NotCurrent),
        "the same end begins no second epoch"
    );
}

/// A row says itself which slot it is the state after, and that may lie before the slot that holds
/// it. A fold that is given no range then never looks at what lies between, and the batches there
/// are lost.
#[test]
fn a_row_in_the_last_slot_of_a_stream_leaves_its_window_to_be_folded() {
    let mut world = World::default();
    let old = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    world.report(&old, 5, &[(4, tp)]);
    world.register(1, None);
    world.seal(old.stream, 5).unwrap();
    let folds = world.state.pending_folds();
    assert_eq!(folds[0].ranges.len(), 1);
    assert_eq!(folds[0].ranges[0].end, Slot(5));
}

#[test]
fn a_live_stream_is_not_sealed_and_ends_no_epoch() {
    let mut world = World::default();
    let broker = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    assert_eq!(
        world.seal(broker.stream, 9),
        Err(StreamError::Live(broker.stream))
    );
    assert_eq!(
        world.assign(end(tp, 0, broker.stream, 0)),
        Err(AssignmentError::NotEnded)
    );
}

#[test]
fn a_seal_below_the_reported_prefix_is_refused() {
    let mut world = World::default();
    let old = world.register(1, None);
    world.report(&old, 5, &[]);
    world.register(1, None);
    assert!(matches!(
        world.seal(old.stream, 4),
        Err(StreamError::EndTooLow { .. })
    ));
    assert_eq!(world.seal(old.stream, 5), Ok(()));
    assert_eq!(
        world.seal(old.stream, 5),
        Ok(()),
        "repeating it is harmless"
    );
    assert!(matches!(
        world.seal(old.stream, 6),
        Err(StreamError::Sealed { .. })
    ));
}

#[test]
fn a_zombie_reports_in_vain() {
    let mut world = World::default();
    let old = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    world.register(1, None);
    let before = world.state.clone();
    world.report(&old, 9, &[(8, tp)]);
    assert_eq!(world.state, before);
}

#[test]
fn a_released_partition_moves_at_its_released_end_only() {
    let mut world = World::default();
    let one = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    let two = world.register(2, None);
    let stream = one.stream;
    assert_eq!(
        world.release(&two, end(tp, 0, stream, 10), Some(4)),
        Err(AssignmentError::NotCurrent),
        "only the owner releases"
    );
    assert_eq!(
        world.release(&one, end(tp, 0, stream, 10), None),
        Err(AssignmentError::RowNotDurable)
    );
    assert_eq!(world.release(&one, end(tp, 0, stream, 10), Some(4)), Ok(()));
    assert_eq!(
        world.assign(end(tp, 0, stream, 11)),
        Err(AssignmentError::EndContradicts)
    );
    world.apply(Command::AssignPartitions(AssignPartitions {
        ended: vec![end(tp, 0, stream, 10)],
        to: Some(BrokerId(2)),
    }));
    let windows = world.windows(tp);
    assert_eq!(windows[0].end_slot, Some(Slot(5)));
    assert_eq!(windows[1].stream, two.stream);
    assert_eq!(windows[1].first_offset, 10);

    world.register(1, None);
    assert!(
        matches!(world.seal(stream, 4), Err(StreamError::EndTooLow { .. })),
        "a seal at or below the slot a release names is refused"
    );
}

/// Whoever releases may die before the next epoch begins. The partition then waits for its fold
/// like any other that has ended: from the row named up to the end of the released window.
#[test]
fn a_released_partition_without_a_next_epoch_is_folded_to_its_released_end() {
    let mut world = World::default();
    let one = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    world.report(&one, 9, &[(3, tp)]);
    let released = end(tp, 0, one.stream, 10);
    assert_eq!(world.release(&one, released, Some(8)), Ok(()));
    for is_sealed in [false, true] {
        if is_sealed {
            world.register(1, None);
            world.seal(one.stream, 12).unwrap();
        }
        let folds = world.state.pending_folds();
        assert_eq!(folds.len(), 1, "sealed: {is_sealed}");
        assert_eq!(folds[0].released_end, Some(10));
        assert_eq!(folds[0].row.unwrap().slot, Slot(8));
        let range = folds[0].ranges[0];
        assert_eq!((range.stream, range.end), (one.stream, Slot(9)));
    }
    assert_eq!(
        world.assign(end(tp, 0, one.stream, 12)),
        Err(AssignmentError::EndContradicts)
    );
    assert_eq!(world.assign(released), Ok(LeaderEpoch(1)));
    assert!(world.state.pending_folds().is_empty());
}

#[test]
fn a_release_after_the_seal_is_refused() {
    let mut world = World::default();
    let old = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    world.register(1, None);
    world.seal(old.stream, 3).unwrap();
    assert_eq!(
        world.release(&old, end(tp, 0, old.stream, 0), Some(2)),
        Err(AssignmentError::NotCurrent)
    );
}

#[test]
fn resume_needs_the_disk_of_the_epoch() {
    for (disk, expected) in [
        (Some(7), Ok(LeaderEpoch(0))),
        (Some(8), Err(AssignmentError::AnotherDisk)),
        (None, Err(AssignmentError::AnotherDisk)),
    ] {
        let mut world = World::default();
        let old = world.register(1, Some(7));
        let tp = first(world.create("a", 1).unwrap());
        world.report(&old, 3, &[(1, tp)]);
        let new = world.register(1, disk);
        world.seal(old.stream, 3).unwrap();
        let resumed = world.resume(&new, end(tp, 0, old.stream, 20));
        assert_eq!(resumed.map(|assigned| assigned.epoch), expected);
        if expected.is_ok() {
            let windows = world.windows(tp);
            assert_eq!(windows.len(), 2);
            assert_eq!(windows[1].epoch, LeaderEpoch(0));
            assert_eq!(windows[1].first_offset, 20);
            assert_eq!(
                world.release(&new, end(tp, 0, new.stream, 25), Some(0)),
                Ok(())
            );
            assert_eq!(world.assign(end(tp, 0, new.stream, 25)), Ok(LeaderEpoch(1)));
        }
    }
}

/// Whoever asks again has not heard the answer, and goes on with what it resumed: taken for too late
/// it would count what only its disk has as lost.
#[test]
fn a_resume_may_be_asked_for_twice() {
    let mut world = World::default();
    let old = world.register(1, Some(7));
    let tp = first(world.create("a", 1).unwrap());
    let new = world.register(1, Some(7));
    world.seal(old.stream, 3).unwrap();
    let ended = end(tp, 0, old.stream, 20);
    let resumed = world.resume(&new, ended).unwrap();
    let (state, journal) = (world.state.clone(), world.journal.len());
    assert_eq!(world.resume(&new, ended), Ok(resumed));
    assert_eq!((&world.state, world.journal.len()), (&state, journal));
    for other in [end(tp, 0, old.stream, 21), end(tp, 1, old.stream, 20)] {
        assert_eq!(world.resume(&new, other), Err(AssignmentError::NotCurrent));
    }
    let released = end(tp, 0, new.stream, 25);
    world.release(&new, released, Some(0)).unwrap();
    assert_eq!(world.resume(&new, ended), Err(AssignmentError::NotCurrent));
}

#[test]
fn a_disk_is_asked_for_after_a_crash_only() {
    for in_order in [true, false] {
        let mut world = World::default();
        let old = world.register(1, Some(7));
        if in_order {
            world.apply(Command::EndBroker(old.incarnation));
        }
        let new = world.register(1, None);
        let disk = (!in_order).then_some(DiskId([7; 16]));
        assert_eq!(new.seals[0].disk, disk, "stopped in order: {in_order}");
    }
}

#[test]
fn a_floor_waits_for_the_last_window_and_the_last_row() {
    let mut world = World::default();
    let one = world.register(1, None);
    let a = first(world.create("a", 1).unwrap());
    world.report(&one, 10, &[]);
    let b = first(world.create("b", 1).unwrap());
    world.report(&one, 20, &[(12, a), (15, b)]);
    assert_eq!(world.floor(one.stream), 0, "a's window names slot 0");
    world.apply(Command::DeleteTopics(vec![a.topic]));
    assert_eq!(world.floor(one.stream), 10, "b's window names slot 10");
    world.apply(Command::DeleteTopics(vec![b.topic]));
    assert_eq!(world.floor(one.stream), 20, "nothing is needed any more");
}

#[test]
fn epochs_and_windows_without_records_leave_no_trace() {
    let mut world = World::default();
    let mut broker = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    for epoch in 0..20 {
        let next = world.register(1, None);
        world.seal(broker.stream, 0).unwrap();
        assert_eq!(
            world.assign(end(tp, epoch, broker.stream, 0)),
            Ok(LeaderEpoch(epoch + 1))
        );
        broker = next;
    }
    assert_eq!(world.partition(tp).epochs.len(), 1);
    assert_eq!(world.windows(tp).len(), 1);
}

#[test]
fn a_name_is_free_once_the_owner_confirms_or_its_stream_is_sealed() {
    let mut world = World::default();
    let broker = world.register(1, None);
    for sealed in [false, true] {
        let id = world.create("a.b", 1).unwrap();
        let reply = world.apply(Command::DeleteTopics(vec![id])).reply;
        let Reply::DeleteTopics(results) = reply else {
            panic!("{reply:?}")
        };
        assert!(!results[0].as_ref().unwrap().name_free);
        assert_eq!(world.create("a.b", 1), Err(TopicError::AlreadyExists));
        if sealed {
            world.register(1, None);
            world.seal(broker.stream, 0).unwrap();
        } else {
            world.apply(Command::ConfirmDeleted(ConfirmDeleted {
                incarnation: broker.incarnation,
                topics: vec![id],
            }));
        }
        let again = world.create("a.b", 1).unwrap();
        assert_ne!(again, id);
        if !sealed {
            world.apply(Command::DeleteTopics(vec![again]));
            world.apply(Command::ConfirmDeleted(ConfirmDeleted {
                incarnation: broker.incarnation,
                topics: vec![again],
            }));
        }
    }
}

#[test]
fn offsets_go_with_their_topic_and_commits_to_it_are_skipped() {
    let mut world = World::default();
    world.register(1, None);
    let id = world.create("a", 1).unwrap();
    let commit = CommitOffsets {
        group: "g".into(),
        retention_ms: None,
        topics: vec![(id, vec![(PartitionIndex(0), committed(5_000_000_000))])],
    };
    world.apply(Command::CommitOffsets(commit.clone()));
    assert!(world.state.offsets.of_group("g").is_some());
    world.apply(Command::DeleteTopics(vec![id]));
    assert!(world.state.offsets.of_group("g").is_none());
    let late = world.apply(Command::CommitOffsets(commit));
    assert!(!late.effects.changed);
}

#[test]
fn bad_topics_are_refused_one_by_one() {
    let mut world = World::default();
    world.register(1, None);
    world.create("a_b", 1).unwrap();
    let mut topics = vec![
        new_topic("ok", 1),
        new_topic("ok", 1),
        new_topic("a/b", 1),
        new_topic("a_b", 1),
        new_topic("a.b", 1),
        new_topic("none", 0),
        new_topic("many", i32::MAX),
        new_topic("rf", 1),
        new_topic("owner", 1),
    ];
    topics[7].replication_factor = 0;
    topics[8].owners = vec![BrokerId(9)];
    let results = world.state.check_create(&topics);
    let errors: Vec<_> = results.iter().map(|r| r.as_ref().err()).collect();
    assert_eq!(errors[0], None);
    let error = |index: usize| &errors[index].unwrap().error;
    assert_eq!(*error(1), TopicError::NamedTwice);
    assert!(matches!(error(2), TopicError::InvalidName(_)));
    assert_eq!(*error(3), TopicError::AlreadyExists);
    assert!(matches!(error(4), TopicError::InvalidName(_)));
    assert!(matches!(error(5), TopicError::InvalidPartitions(_)));
    assert!(matches!(error(6), TopicError::InvalidPartitions(_)));
    assert_eq!(*error(7), TopicError::InvalidReplicationFactor(0));
    assert!(matches!(error(8), TopicError::InvalidReplicaAssignment(_)));
}

#[test]
fn ten_thousand_partitions_are_created_and_reassigned_evenly_in_two_commands() {
    let mut world = World::default();
    let one = world.register(1, None);
    let id = world.create("big", 10_000).unwrap();
    let two = world.register(2, None);
    world.apply(Command::EndBroker(one.incarnation));
    let three = world.register(3, None);
    world.seal(one.stream, 0).unwrap();
    let folds = world.state.pending_folds();
    assert_eq!(folds.len(), 10_000);
    let ended = folds.iter().map(|fold| end(fold.tp, 0, fold.stream, 0));
    let body = AssignPartitions {
        ended: ended.collect(),
        to: None,
    };
    world.apply(Command::AssignPartitions(body));
    let topic = world.state.topics.find(id).unwrap();
    let owned = |who: &RegisteredBroker| {
        let partitions = topic.image.partitions.iter();
        partitions
            .filter(|p| p.owner.unwrap().incarnation == who.incarnation)
            .count()
    };
    assert_eq!((owned(&two), owned(&three)), (5_000, 5_000));
}

#[test]
fn producer_ids_are_given_out_once() {
    let mut world = World::default();
    let mut next = 0;
    for _ in 0..3 {
        let wanted = ProducerIdsWanted { len: 1000 };
        let reply = world.apply(Command::AllocateProducerIds(wanted)).reply;
        let Reply::ProducerIds(block) = reply else {
            panic!("{reply:?}")
        };
        assert_eq!((block.first.0, block.len), (next, 1000));
        next += 1000;
    }
}

fn committed(offset: i64) -> CommittedOffset {
    CommittedOffset {
        offset,
        leader_epoch: LeaderEpoch(3),
        metadata: "note".into(),
    }
}

fn pick<T: Clone>(items: &[T], by: u8) -> Option<T> {
    let index = usize::from(by).checked_rem(items.len())?;
    items.get(index).cloned()
}
