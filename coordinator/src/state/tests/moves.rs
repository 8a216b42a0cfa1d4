//! Moves, drains and fences, and all that may come between the asking and the RELEASE; topics whose
//! partitions wait for a disk.

use firn_proto::cluster::{ForceMove, ForcedMove, PartitionFold};

use super::*;
use crate::snapshot::{decode_snapshot, encode_snapshot};

/// Brokers 1 and 2, and a partition of broker 1 that is asked for by broker 2.
struct Asked {
    world: World,
    one: RegisteredBroker,
    two: RegisteredBroker,
    tp: TopicPartition,
}

fn asked() -> Asked {
    let mut world = World::default();
    let one = world.register(1, Some(7));
    let tp = first(world.create("a", 1).unwrap());
    let two = world.register(2, None);
    world.report(&one, 5, &[(3, tp)]);
    assert_eq!(world.ask(tp, 0, 2), Ok(()));
    assert_eq!(world.partition(tp).moving_to, Some(BrokerId(2)));
    Asked {
        world,
        one,
        two,
        tp,
    }
}

impl World {
    fn ask(&mut self, tp: TopicPartition, epoch: i32, to: i32) -> Result<(), AssignmentError> {
        let asked = MovePartition {
            tp,
            epoch: LeaderEpoch(epoch),
            to: BrokerId(to),
        };
        match self.apply(Command::MovePartitions(vec![asked])).reply {
            Reply::Moved(mut results) => results.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn register_any(&mut self, disk: Option<DiskId>) -> RegisteredBroker {
        let body = RegisterBroker {
            broker: None,
            listeners: Vec::new(),
            rack: None,
            disk,
            link: None,
        };
        match self.apply(Command::RegisterBroker(body)).reply {
            Reply::RegisterBroker(registered) => registered,
            other => panic!("{other:?}"),
        }
    }

    fn drain(&mut self, broker: i32, drain: bool) -> Applied {
        let broker = BrokerId(broker);
        self.apply(Command::DrainBroker(DrainBroker { broker, drain }))
    }

    fn owner(&self, tp: TopicPartition) -> Option<i32> {
        self.partition(tp).owner.map(|owner| owner.broker.0)
    }

    fn fold(&self, tp: TopicPartition) -> Option<PartitionFold> {
        self.state.folds_of(&[tp]).remove(0)
    }
}

#[test]
fn a_release_that_was_asked_for_begins_the_next_epoch_in_the_same_command() {
    let mut with = asked();
    let released = end(with.tp, 0, with.one.stream, 40);
    assert_eq!(with.world.release(&with.one, released, Some(8)), Ok(()));
    let partition = with.world.partition(with.tp);
    assert_eq!(partition.owner.unwrap().incarnation, with.two.incarnation);
    assert_eq!(partition.epoch, LeaderEpoch(1));
    assert_eq!(partition.moving_to, None);
    assert_eq!(partition.epochs[1].start_offset, 40);
    assert_eq!(partition.windows[0].end_slot, Some(Slot(9)));
    assert_eq!(partition.windows[1].first_offset, 40);
    assert!(with.world.state.pending_folds().is_empty());
    assert_eq!(
        with.world.release(&with.one, released, Some(8)),
        Err(AssignmentError::NotCurrent),
        "the same release comes twice"
    );
    assert_eq!(
        with.world.assign(released),
        Err(AssignmentError::NotCurrent)
    );
}

/// The row that the RELEASE names is the state after the last append, so there is nothing to read
/// behind it but what its own slot was in flight with.
#[test]
fn a_new_owner_folds_what_lies_before_its_epoch() {
    let mut with = asked();
    let fresh = first(with.world.create("b", 1).unwrap());
    assert_eq!(with.world.fold(fresh), None, "it begins with nothing");
    let released = end(with.tp, 0, with.one.stream, 40);
    with.world.release(&with.one, released, Some(8)).unwrap();
    let fold = with.world.fold(with.tp).unwrap();
    assert_eq!((fold.epoch, fold.stream), (LeaderEpoch(0), with.one.stream));
    assert_eq!(fold.row.unwrap().slot, Slot(8));
    assert_eq!(
        fold.released_end,
        Some(40),
        "the epoch is known to end there"
    );
    let range = fold.ranges[0];
    assert_eq!((range.from, range.end), (Slot(3), Slot(9)));

    with.world.report(&with.two, 3, &[(2, with.tp)]);
    let fold = with.world.fold(with.tp).unwrap();
    assert_eq!(fold.row.unwrap().stream, with.two.stream);
    assert!(fold.ranges.is_empty(), "its own row holds all of it");

    with.world.apply(Command::FenceBroker(with.two.incarnation));
    assert_eq!(with.world.fold(with.tp), None, "nobody owns it");
    let nothing = TopicPartition {
        partition: PartitionIndex(9),
        ..with.tp
    };
    assert_eq!(with.world.fold(nothing), None);
}

#[test]
fn a_move_is_refused_unless_it_names_the_epoch_and_a_broker_that_can_take_it() {
    let mut with = asked();
    let unknown = TopicPartition {
        partition: PartitionIndex(1),
        ..with.tp
    };
    let world = &mut with.world;
    assert_eq!(world.ask(unknown, 0, 2), Err(AssignmentError::Unknown));
    assert_eq!(world.ask(with.tp, 1, 2), Err(AssignmentError::NotCurrent));
    assert_eq!(world.ask(with.tp, 0, 3), Err(AssignmentError::NoBroker));
    let three = world.register(3, None);
    world.drain(3, true);
    assert_eq!(world.ask(with.tp, 0, 3), Err(AssignmentError::NoBroker));
    world.apply(Command::FenceBroker(three.incarnation));
    world.apply(Command::FenceBroker(with.one.incarnation));
    assert_eq!(world.ask(with.tp, 0, 2), Err(AssignmentError::NotCurrent));
}

#[test]
fn a_second_move_takes_the_place_of_the_first_and_one_to_the_owner_calls_it_off() {
    let mut with = asked();
    with.world.register(3, None);
    assert_eq!(with.world.ask(with.tp, 0, 3), Ok(()));
    assert_eq!(with.world.partition(with.tp).moving_to, Some(BrokerId(3)));
    let repeated = with.world.journal.last().unwrap().command.clone();
    assert!(!with.world.apply(repeated).effects.changed);
    assert_eq!(with.world.ask(with.tp, 0, 1), Ok(()));
    assert_eq!(with.world.partition(with.tp).moving_to, None);
    let released = end(with.tp, 0, with.one.stream, 40);
    assert_eq!(with.world.release(&with.one, released, Some(8)), Ok(()));
    assert_eq!(
        with.world.owner(with.tp),
        None,
        "it was under way already: it waits"
    );
    assert_eq!(with.world.state.pending_folds().len(), 1);
    assert_eq!(with.world.assign(released), Ok(LeaderEpoch(1)));
}

/// Whoever was to get the partition dies or drains; the owner keeps it, and a RELEASE that was on
/// its way leaves it to whoever assigns it.
#[test]
fn a_move_is_called_off_when_its_target_dies_or_drains() {
    for dies in [true, false] {
        let mut with = asked();
        if dies {
            with.world.apply(Command::FenceBroker(with.two.incarnation));
        } else {
            with.world.drain(2, true);
        }
        assert_eq!(with.world.partition(with.tp).moving_to, None);
        assert_eq!(with.world.owner(with.tp), Some(1));
        let released = end(with.tp, 0, with.one.stream, 40);
        assert_eq!(with.world.release(&with.one, released, Some(8)), Ok(()));
        assert_eq!(with.world.owner(with.tp), None);
        assert_eq!(with.world.assign(released), Ok(LeaderEpoch(1)));
        assert_eq!(
            with.world.owner(with.tp),
            Some(1),
            "nobody else may have it"
        );
    }
}

#[test]
fn an_owner_that_dies_while_it_is_asked_ends_its_epoch_by_its_seal_only() {
    let mut with = asked();
    with.world.apply(Command::FenceBroker(with.one.incarnation));
    assert_eq!(with.world.partition(with.tp).moving_to, None);
    let folded = end(with.tp, 0, with.one.stream, 40);
    assert_eq!(with.world.assign(folded), Err(AssignmentError::NotEnded));
    assert_eq!(
        with.world.release(&with.one, folded, Some(8)),
        Err(AssignmentError::NotCurrent),
        "a fenced owner releases nothing"
    );
    with.world.seal(with.one.stream, 9).unwrap();
    assert_eq!(with.world.assign(folded), Ok(LeaderEpoch(1)));
    assert_eq!(with.world.owner(with.tp), Some(2));
}

#[test]
fn an_owner_that_comes_back_with_its_disk_is_not_asked_any_more() {
    let mut with = asked();
    let again = with.world.register(1, Some(7));
    with.world.seal(with.one.stream, 9).unwrap();
    let body = ResumePartitions {
        incarnation: again.incarnation,
        resumed: vec![ResumePartition {
            end: end(with.tp, 0, with.one.stream, 40),
        }],
    };
    with.world.apply(Command::ResumePartitions(body));
    assert_eq!(with.world.owner(with.tp), Some(1));
    assert_eq!(with.world.partition(with.tp).moving_to, None);
    let fold = with.world.fold(with.tp).unwrap();
    assert_eq!(
        (fold.stream, fold.released_end),
        (with.one.stream, Some(40))
    );
}

#[test]
fn a_deleted_topic_is_asked_for_and_released_in_vain() {
    let mut with = asked();
    with.world.apply(Command::DeleteTopics(vec![with.tp.topic]));
    assert_eq!(with.world.ask(with.tp, 0, 2), Err(AssignmentError::Unknown));
    let released = end(with.tp, 0, with.one.stream, 40);
    assert_eq!(
        with.world.release(&with.one, released, Some(8)),
        Err(AssignmentError::Unknown)
    );
    assert_eq!(with.world.fold(with.tp), None);
    assert_eq!(with.world.state.owned[&BrokerId(2)], 0);
}

#[test]
fn a_broker_that_drains_gets_nothing_while_another_lives() {
    let mut world = World::default();
    let one = world.register(1, None);
    world.register(2, None);
    assert!(world.drain(1, true).effects.brokers);
    assert!(!world.drain(1, true).effects.changed);
    assert!(!world.drain(9, true).effects.changed);
    let id = world.create("a", 4).unwrap();
    let owners = |world: &World| {
        let topic = world.state.topics.find(id).unwrap();
        let owners = topic.image.partitions.iter().map(|p| p.owner.unwrap());
        owners.map(|owner| owner.broker.0).collect::<Vec<_>>()
    };
    assert_eq!(owners(&world), [2, 2, 2, 2]);
    world.drain(2, true);
    let alone = first(world.create("b", 1).unwrap());
    assert_eq!(
        world.owner(alone),
        Some(1),
        "all drain: better one than none"
    );
    world.drain(1, false);
    world.drain(2, false);
    let again = first(world.create("c", 1).unwrap());
    assert_eq!(world.owner(again), Some(1));
    world.drain(1, true);
    let next = world.register(1, None);
    assert!(
        !world.state.brokers[&BrokerId(1)].draining,
        "a new process may own"
    );
    assert_eq!(next.seals[0].stream, one.stream);
}

/// A process that was found dead may have acknowledged what only its disk holds; one that left in
/// order has not.
#[test]
fn what_a_fenced_process_holds_on_its_disk_is_said_with_its_stream() {
    for (is_fenced, acks_local) in [(true, true), (true, false), (false, true)] {
        let mut world = World::default();
        let one = world.register(1, Some(7));
        for holds_local in [acks_local, false] {
            world.apply(Command::ReportProgress(ProgressReport {
                incarnation: one.incarnation,
                stream: one.stream,
                durable_end: Slot(2),
                rows: Vec::new(),
                rows_end: Slot(0),
                holds_local,
            }));
        }
        let command = match is_fenced {
            true => Command::FenceBroker(one.incarnation),
            false => Command::EndBroker(one.incarnation),
        };
        assert!(world.apply(command.clone()).effects.brokers);
        assert!(!world.apply(command).effects.changed);
        let seals = world.state.pending_seals();
        assert_eq!(seals[0].holds_local, is_fenced && acks_local);
        assert_eq!(seals[0].disk.is_some(), is_fenced);
    }
}

/// Without a configured id a process that comes back with its disk is the broker that it was, and
/// the one that held the disk before is gone.
#[test]
fn a_broker_without_a_configured_id_is_known_by_its_disk() {
    let mut world = World::default();
    let disk = |byte| Some(DiskId([byte; 16]));
    let one = world.register_any(disk(1));
    let two = world.register_any(disk(2));
    let none = world.register_any(None);
    assert_eq!([&one, &two, &none].map(|who| who.broker.0), [1, 2, 3]);
    world.apply(Command::FenceBroker(one.incarnation));
    let again = world.register_any(disk(2));
    assert_eq!(again.broker, BrokerId(2), "though 1 is free");
    assert!(world.state.live(two.incarnation).is_none());
    assert_eq!(world.register_any(disk(1)).broker, BrokerId(1));
    world.register(2, None);
    assert_eq!(
        world.register_any(disk(2)).broker,
        BrokerId(4),
        "2 is another now"
    );
    assert_eq!(world.register_any(None).broker, BrokerId(5));
}

#[test]
fn the_last_leader_that_resigned_is_remembered() {
    let mut world = World::default();
    assert_eq!(world.state.resigned(), None);
    for (epoch, changes) in [(3, true), (3, false), (2, false), (5, true)] {
        let applied = world.apply(Command::Resign(CoordinatorEpoch(epoch)));
        assert_eq!(applied.effects.changed, changes, "{epoch}");
    }
    assert_eq!(world.state.resigned(), Some(CoordinatorEpoch(5)));
}

/// A partition that came back into a stream it was in before. What the owner wrote then is not the
/// state of its epoch now, however late the report of it comes.
#[test]
fn a_row_of_an_earlier_epoch_in_the_same_stream_comes_too_late() {
    let mut with = asked();
    let tp = with.tp;
    let away = end(tp, 0, with.one.stream, 40);
    with.world.release(&with.one, away, Some(20)).unwrap();
    with.world.report(&with.two, 3, &[(2, tp)]);
    assert_eq!(with.world.ask(tp, 1, 1), Ok(()));
    let back = end(tp, 1, with.two.stream, 50);
    with.world.release(&with.two, back, Some(6)).unwrap();
    assert_eq!(with.world.owner(tp), Some(1));
    let row = |world: &World| world.state.topics.partition(tp).unwrap().1.row.unwrap();
    with.world.report(&with.one, 30, &[(12, tp)]);
    assert_eq!(row(&with.world).stream, with.two.stream);
    assert_eq!(
        with.world
            .release(&with.one, end(tp, 2, with.one.stream, 60), Some(20)),
        Err(AssignmentError::RowNotDurable),
        "nor does the row of the first RELEASE hold what came after"
    );
    with.world.report(&with.one, 32, &[(31, tp)]);
    assert_eq!(row(&with.world).slot, Slot(31));
}

/// Broker 1 crashed while it owned a partition of a topic whose records are acknowledged by the
/// local WAL. Its stream is sealed.
fn crashed_with_a_local_topic(disk: Option<u8>, is_whole: bool) -> Asked {
    crashed_with(disk, is_whole, &["local"])
}

/// The same of a topic that was durable in these ways, one after the other.
fn crashed_with(disk: Option<u8>, is_whole: bool, durability: &[&str]) -> Asked {
    let mut world = World::default();
    let one = world.register(1, disk);
    let tp = first(world.create("a", 1).unwrap());
    for value in durability {
        world.set_durability("a", value);
    }
    let two = world.register(2, None);
    world.report(&one, 5, &[(3, tp)]);
    let command = match is_whole {
        true => Command::EndBroker(one.incarnation),
        false => Command::FenceBroker(one.incarnation),
    };
    world.apply(command);
    world.seal(one.stream, 9).unwrap();
    Asked {
        world,
        one,
        two,
        tp,
    }
}

impl World {
    fn force(
        &mut self,
        tp: TopicPartition,
        epoch: i32,
        disk: u8,
    ) -> Result<ForcedMove, AssignmentError> {
        let asked = ForceMove {
            tp,
            epoch: LeaderEpoch(epoch),
            disk: DiskId([disk; 16]),
        };
        match self.apply(Command::ForceMove(vec![asked])).reply {
            Reply::Forced(mut results) => results.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn waits_for(&self) -> Vec<Option<DiskId>> {
        let folds = self.state.pending_folds();
        folds.iter().map(|fold| fold.waits_for).collect()
    }
}

#[test]
fn a_local_topic_waits_for_its_disk_and_for_nobody_else() {
    let mut with = crashed_with_a_local_topic(Some(7), false);
    let folded = end(with.tp, 0, with.one.stream, 40);
    assert_eq!(with.world.waits_for(), [Some(DiskId([7; 16]))]);
    assert_eq!(
        with.world.assign(folded),
        Err(AssignmentError::WaitsForDisk)
    );
    with.world.register(3, Some(8));
    for to in [2, 3] {
        let reply = with.world.assign_to(folded, to);
        assert_eq!(reply, Err(AssignmentError::WaitsForDisk), "broker {to}");
    }
    let again = with.world.register(4, Some(7));
    let body = ResumePartitions {
        incarnation: again.incarnation,
        resumed: vec![ResumePartition { end: folded }],
    };
    with.world.apply(Command::ResumePartitions(body));
    let partition = with.world.partition(with.tp);
    assert_eq!(partition.epoch, LeaderEpoch(0));
    let owner = partition.owner.unwrap().broker;
    assert_eq!(owner, BrokerId(4), "the disk is in another machine now");
}

#[test]
fn whoever_shows_the_disk_may_say_that_nothing_is_missing() {
    let mut with = crashed_with_a_local_topic(Some(7), false);
    with.world.register(1, Some(7));
    let folded = end(with.tp, 0, with.one.stream, 40);
    assert_eq!(with.world.assign_to(folded, 1), Ok(LeaderEpoch(1)));
}

/// Without a disk, or after an orderly stop, the bucket has all that was acknowledged. So it is with
/// what was released.
#[test]
fn a_local_topic_waits_only_for_what_a_disk_may_hold() {
    for (disk, is_whole) in [(None, false), (Some(7), true)] {
        let mut with = crashed_with_a_local_topic(disk, is_whole);
        assert_eq!(with.world.waits_for(), [None]);
        let folded = end(with.tp, 0, with.one.stream, 40);
        assert_eq!(with.world.assign(folded), Ok(LeaderEpoch(1)));
    }
    let mut with = asked();
    with.world.set_durability("a", "local");
    let released = end(with.tp, 0, with.one.stream, 40);
    with.world.release(&with.one, released, Some(8)).unwrap();
    let owner = with.world.owner(with.tp);
    assert_eq!(owner, Some(2), "moves go on as for other topics");
}

/// What was acknowledged and shown by the disk alone is so whatever the topic wants by now.
#[test]
fn a_topic_that_is_local_no_more_waits_for_its_disk_until_its_epoch_is_over() {
    let mut after = crashed_with_a_local_topic(Some(7), false);
    after.world.set_durability("a", "bucket");
    let mut before = crashed_with(Some(7), false, &["local", "bucket"]);
    for with in [&mut after, &mut before] {
        let world = &mut with.world;
        assert_eq!(world.waits_for(), [Some(DiskId([7; 16]))]);
        let folded = end(with.tp, 0, with.one.stream, 40);
        assert_eq!(world.assign(folded), Err(AssignmentError::WaitsForDisk));
        let read = decode_snapshot(&encode_snapshot(&world.state).unwrap()).unwrap();
        assert_eq!(read, world.state);

        // whoever takes the epoch up and crashes has put nothing into the bucket for certain
        let again = world.register(4, Some(7));
        world.resume(&again, folded).unwrap();
        world.apply(Command::FenceBroker(again.incarnation));
        world.seal(again.stream, 3).unwrap();
        assert_eq!(world.waits_for(), [Some(DiskId([7; 16]))]);
        let folded = end(with.tp, 0, again.stream, 40);
        assert_eq!(world.assign(folded), Err(AssignmentError::WaitsForDisk));

        world.register(5, Some(7));
        assert_eq!(world.assign_to(folded, 5), Ok(LeaderEpoch(1)));
        assert!(!world.partition(with.tp).counts_locally);
    }
}

#[test]
fn an_epoch_that_begins_or_is_released_once_a_topic_is_local_no_more_waits_for_no_disk() {
    let mut with = asked();
    with.world.set_durability("a", "local");
    assert!(with.world.partition(with.tp).counts_locally);
    with.world.set_durability("a", "bucket");
    assert!(with.world.partition(with.tp).counts_locally);
    let three = with.world.register(3, Some(3));
    with.world.ask(with.tp, 0, 3).unwrap();
    let released = end(with.tp, 0, with.one.stream, 40);
    with.world.release(&with.one, released, Some(8)).unwrap();
    with.world.apply(Command::FenceBroker(three.incarnation));
    with.world.seal(three.stream, 3).unwrap();
    assert_eq!(
        with.world.waits_for(),
        [None],
        "epoch 1 counts by the bucket"
    );

    let mut with = asked();
    with.world.set_durability("a", "local");
    with.world.drain(2, true);
    let released = end(with.tp, 0, with.one.stream, 40);
    with.world.release(&with.one, released, Some(8)).unwrap();
    with.world.set_durability("a", "bucket");
    assert!(!with.world.partition(with.tp).counts_locally);
    assert_eq!(with.world.waits_for(), [None]);
}

#[test]
fn a_forced_move_says_what_is_given_up_and_the_next_epoch_begins_where_the_bucket_ends() {
    let mut with = crashed_with_a_local_topic(Some(7), false);
    let forced = ForcedMove {
        tp: with.tp,
        epoch: LeaderEpoch(0),
        stream: with.one.stream,
        broker: BrokerId(1),
        disk: DiskId([7; 16]),
        known_end: 0,
    };
    let refused = Err(AssignmentError::NotCurrent);
    assert_eq!(with.world.force(with.tp, 0, 7), Ok(forced));
    assert_eq!(with.world.force(with.tp, 0, 7), refused);
    assert_eq!(with.world.waits_for(), [None]);
    let folded = end(with.tp, 0, with.one.stream, 40);
    assert_eq!(with.world.assign(folded), Ok(LeaderEpoch(1)));
    assert_eq!(with.world.owner(with.tp), Some(2));
    let again = with.world.force(with.tp, 0, 7);
    assert_eq!(again, refused, "it has an owner");

    let five = with.world.register(5, Some(5));
    assert_eq!(with.world.ask(with.tp, 1, 5), Ok(()));
    let released = end(with.tp, 1, with.two.stream, 50);
    with.world.release(&with.two, released, Some(2)).unwrap();
    with.world.apply(Command::FenceBroker(five.incarnation));
    with.world.seal(five.stream, 3).unwrap();
    let disk = Some(DiskId([5; 16]));
    assert_eq!(with.world.waits_for(), [disk], "one epoch was forced");
    assert_eq!(
        with.world.force(with.tp, 2, 5).map(|forced| forced.disk.0),
        Ok([5; 16])
    );
}

/// Between the look of an operator and the order the partition may have gone on with that disk, and
/// wait for another one, or for the same in a later epoch.
#[test]
fn what_an_operator_has_not_seen_is_not_given_up() {
    let mut with = crashed_with_a_local_topic(Some(7), false);
    let five = with.world.register(5, Some(5));
    for (epoch, disk) in [(0, 5), (1, 7), (-1, 7)] {
        let forced = with.world.force(with.tp, epoch, disk);
        assert_eq!(forced, Err(AssignmentError::NotCurrent), "{epoch} {disk}");
    }
    assert_eq!(with.world.waits_for(), [Some(DiskId([7; 16]))]);
    let again = with.world.register(1, Some(7));
    let folded = end(with.tp, 0, with.one.stream, 40);
    assert_eq!(with.world.assign_to(folded, 1), Ok(LeaderEpoch(1)));
    with.world.ask(with.tp, 1, 5).unwrap();
    let released = end(with.tp, 1, again.stream, 40);
    with.world.release(&again, released, None).unwrap();
    with.world.apply(Command::FenceBroker(five.incarnation));
    with.world.seal(five.stream, 3).unwrap();
    assert_eq!(with.world.waits_for(), [Some(DiskId([5; 16]))]);
    let late = with.world.force(with.tp, 0, 7);
    assert_eq!(late, Err(AssignmentError::NotCurrent));
    assert_eq!(with.world.waits_for(), [Some(DiskId([5; 16]))]);
}
