//! Random histories: whatever comes in whatever order, what must hold does, and the journal leads to
//! the same state again.

use firn_proto::cluster::{EpochStart, ForceMove};
use proptest::prelude::*;

use super::*;
use crate::command::{GroupRow, PutGroup, SlotBuilder, decode_slot};
use crate::snapshot::{decode_snapshot, encode_snapshot};

/// A step of a random history; numbers choose among what exists.
#[derive(Clone, Debug)]
enum Step {
    Register(u8, Option<u8>),
    End(u8),
    Report(u8, u8, u8),
    Seal(u8, u8),
    AssignAll(u8),
    Release(u8, u8),
    ResumeAll(u8),
    Create(u8, u8),
    Delete(u8),
    Grow(u8),
    Configure(u8),
    Commit(u8, u8),
    PutGroup(u8),
    DropGroup(u8),
    Fence(u8),
    Drain(u8, bool),
    Move(u8, u8),
    Resign(u8),
    /// A topic acknowledges by the local WAL, or by the bucket.
    Durability(u8, bool),
    /// Whether as it waits now, or as it waited an epoch before.
    Force(u8, bool),
    /// An earlier command comes once more.
    Repeat(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3u8, proptest::option::of(0..2u8)).prop_map(|(b, d)| Step::Register(b, d)),
        (0..3u8).prop_map(Step::End),
        (any::<u8>(), 0..4u8, any::<u8>()).prop_map(|(b, s, p)| Step::Report(b, s, p)),
        (any::<u8>(), 0..4u8).prop_map(|(s, e)| Step::Seal(s, e)),
        (0..5u8).prop_map(Step::AssignAll),
        (any::<u8>(), 0..4u8).prop_map(|(p, e)| Step::Release(p, e)),
        any::<u8>().prop_map(Step::ResumeAll),
        (0..6u8, 1..5u8).prop_map(|(n, p)| Step::Create(n, p)),
        any::<u8>().prop_map(Step::Delete),
        any::<u8>().prop_map(Step::Grow),
        any::<u8>().prop_map(Step::Configure),
        (0..3u8, any::<u8>()).prop_map(|(g, t)| Step::Commit(g, t)),
        (0..3u8).prop_map(Step::PutGroup),
        (0..3u8).prop_map(Step::DropGroup),
        (0..3u8).prop_map(Step::Fence),
        (0..3u8, any::<bool>()).prop_map(|(b, drain)| Step::Drain(b, drain)),
        (any::<u8>(), 0..3u8).prop_map(|(p, to)| Step::Move(p, to)),
        (0..9u8).prop_map(Step::Resign),
        (any::<u8>(), any::<bool>()).prop_map(|(t, local)| Step::Durability(t, local)),
        (any::<u8>(), any::<bool>()).prop_map(|(p, is_late)| Step::Force(p, is_late)),
        any::<prop::sample::Index>().prop_map(Step::Repeat),
    ]
}

/// The steps that decide who waits for which disk.
fn disk_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3u8, proptest::option::of(0..2u8)).prop_map(|(b, d)| Step::Register(b, d)),
        (0..3u8).prop_map(Step::Fence),
        (0..3u8).prop_map(Step::End),
        (any::<u8>(), 0..4u8).prop_map(|(s, e)| Step::Seal(s, e)),
        (0..5u8).prop_map(Step::AssignAll),
        (any::<u8>(), 0..4u8).prop_map(|(p, e)| Step::Release(p, e)),
        any::<u8>().prop_map(Step::ResumeAll),
        any::<bool>().prop_map(|is_local| Step::Durability(0, is_local)),
        (any::<u8>(), any::<bool>()).prop_map(|(p, is_late)| Step::Force(p, is_late)),
    ]
}

impl World {
    fn topic_ids(&self) -> Vec<TopicId> {
        self.state.topics.iter().map(|(id, _)| id).collect()
    }

    fn folded_ends(&self, by: u8) -> Vec<PartitionEnd> {
        let folds = self.state.pending_folds();
        let ends = folds.iter().map(|fold| {
            let window = *self.windows(fold.tp).last().unwrap();
            let folded = window.first_offset + i64::from(by);
            let end_offset = fold.released_end.unwrap_or(folded);
            end(fold.tp, fold.epoch.0, fold.stream, end_offset)
        });
        ends.collect()
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Register(broker, disk) => drop(self.register(i32::from(broker), disk)),
            Step::End(broker) => {
                if let Some(broker) = self.state.brokers.get(&BrokerId(i32::from(broker))) {
                    let command = Command::EndBroker(broker.incarnation);
                    self.apply(command);
                }
            }
            Step::Report(broker, ahead, partition) => self.step_report(broker, ahead, partition),
            Step::Seal(stream, ahead) => {
                if let Some(seal) = pick(&self.state.pending_seals(), stream) {
                    let end = seal.durable_end.0 + u64::from(ahead);
                    self.seal(seal.stream, end).unwrap();
                }
            }
            Step::AssignAll(by) => {
                let ended = self.folded_ends(by);
                let to = pick(&self.brokers(), by).filter(|_| by.is_multiple_of(2));
                self.apply(Command::AssignPartitions(AssignPartitions {
                    ended,
                    to: to.map(|to| to.broker),
                }));
            }
            Step::Release(partition, by) => self.step_release(partition, by),
            Step::ResumeAll(broker) => {
                if let Some(broker) = pick(&self.brokers(), broker) {
                    let ends = self.folded_ends(1).into_iter();
                    self.apply(Command::ResumePartitions(ResumePartitions {
                        incarnation: broker.incarnation,
                        resumed: ends.map(|end| ResumePartition { end }).collect(),
                    }));
                }
            }
            Step::Fence(broker) => {
                if let Some(broker) = self.state.brokers.get(&BrokerId(i32::from(broker))) {
                    let command = Command::FenceBroker(broker.incarnation);
                    self.apply(command);
                }
            }
            Step::Drain(broker, drain) => {
                let broker = BrokerId(i32::from(broker));
                self.apply(Command::DrainBroker(DrainBroker { broker, drain }));
            }
            Step::Move(partition, to) => {
                if let Some(tp) = pick(&self.all_partitions(), partition) {
                    let epoch = self.partition(tp).epoch;
                    let to = BrokerId(i32::from(to));
                    let asked = MovePartition { tp, epoch, to };
                    self.apply(Command::MovePartitions(vec![asked]));
                }
            }
            Step::Resign(epoch) => {
                self.apply(Command::Resign(CoordinatorEpoch(epoch.into())));
            }
            Step::Durability(topic, is_local) => {
                if let Some(name) = self.topic_name(topic) {
                    self.set_durability(&name, if is_local { "local" } else { "bucket" });
                }
            }
            Step::Force(partition, is_late) => {
                if let Some(fold) = pick(&self.state.pending_folds(), partition)
                    && let Some(disk) = fold.waits_for
                {
                    let epoch = LeaderEpoch(fold.epoch.0 - i32::from(is_late));
                    let tp = fold.tp;
                    let applied =
                        self.apply(Command::ForceMove(vec![ForceMove { tp, epoch, disk }]));
                    assert_eq!(applied.effects.changed, !is_late, "{applied:?}");
                }
            }
            Step::Repeat(at) => {
                if let Some(at) = at.index(self.journal.len() + 1).checked_sub(1) {
                    self.repeat(at);
                }
            }
            Step::Create(name, partitions) => {
                drop(self.create(&format!("t{name}"), i32::from(partitions)));
            }
            _ => self.step_topics_and_groups(step),
        }
    }

    /// Commands about what is there already may be late, and may come twice. The ids of new things
    /// are drawn for one command alone.
    fn repeat(&mut self, at: usize) {
        let command = self.journal[at].command.clone();
        let gives_ids = matches!(
            command,
            Command::RegisterBroker(_) | Command::CreateTopics(_)
        );
        if !gives_ids {
            self.apply(command);
        }
    }

    fn step_topics_and_groups(&mut self, step: &Step) {
        match *step {
            Step::Delete(topic) => {
                if let Some(id) = pick(&self.topic_ids(), topic) {
                    self.apply(Command::DeleteTopics(vec![id]));
                }
                for broker in self.brokers() {
                    self.apply(Command::ConfirmDeleted(ConfirmDeleted {
                        incarnation: broker.incarnation,
                        topics: self.state.topics.deleting().map(|(id, _)| id).collect(),
                    }));
                }
            }
            Step::Grow(topic) => {
                if let Some(name) = self.topic_name(topic) {
                    self.apply(Command::CreatePartitions(vec![GrowTopic {
                        name,
                        partitions: 6,
                        owners: Vec::new(),
                    }]));
                }
            }
            Step::Configure(topic) => {
                if let Some(name) = self.topic_name(topic) {
                    self.apply(Command::AlterConfigs(vec![AlterConfigs {
                        name,
                        replace_all: topic.is_multiple_of(2),
                        changes: vec![ConfigChange {
                            name: format!("c{}", topic % 3),
                            value: (topic % 5 != 0).then(|| topic.to_string()),
                        }],
                    }]));
                }
            }
            Step::Commit(group, topic) => {
                if let Some(id) = pick(&self.topic_ids(), topic) {
                    self.apply(Command::CommitOffsets(CommitOffsets {
                        group: format!("g{group}").into(),
                        retention_ms: (topic.is_multiple_of(2)).then_some(1000),
                        topics: vec![(id, vec![(PartitionIndex(0), committed(1 << 40))])],
                    }));
                }
            }
            Step::PutGroup(group) => {
                self.apply(Command::PutGroup(put_group(group)));
            }
            Step::DropGroup(group) => {
                self.apply(Command::DropGroups(vec![format!("g{group}").into()]));
            }
            _ => unreachable!("handled by the caller"),
        }
    }

    fn step_report(&mut self, broker: u8, ahead: u8, partition: u8) {
        let Some(broker) = pick(&self.brokers(), broker) else {
            return;
        };
        let durable = self
            .state
            .streams
            .find(broker.stream)
            .unwrap()
            .durable_end
            .0;
        let end = durable + u64::from(ahead);
        let rows = pick(&self.all_partitions(), partition).map(|tp| RowReport {
            slot: Slot(end.saturating_sub(u64::from(partition % 3))),
            partitions: vec![tp],
        });
        self.apply(Command::ReportProgress(ProgressReport {
            incarnation: broker.incarnation,
            stream: broker.stream,
            durable_end: Slot(end),
            rows: rows.into_iter().collect(),
            rows_end: Slot(end.saturating_sub(u64::from(partition % 5))),
            holds_local: false,
        }));
    }

    fn step_release(&mut self, partition: u8, by: u8) {
        let Some(tp) = pick(&self.all_partitions(), partition) else {
            return;
        };
        let image = self.partition(tp);
        let (Some(owner), Some(window)) = (image.owner, image.windows.last()) else {
            return;
        };
        let durable = self.state.streams.find(window.stream).unwrap().durable_end;
        let released = ReleasePartition {
            end: end(
                tp,
                window.epoch.0,
                window.stream,
                window.first_offset + i64::from(by),
            ),
            row: Some(durable),
        };
        let ended = vec![released.end];
        self.apply(Command::ReleasePartitions(ReleasePartitions {
            incarnation: owner.incarnation,
            released: vec![released],
        }));
        if by.is_multiple_of(2) {
            self.apply(Command::AssignPartitions(AssignPartitions {
                ended,
                to: None,
            }));
        }
    }

    fn topic_name(&self, topic: u8) -> Option<String> {
        let id = pick(&self.topic_ids(), topic)?;
        Some(self.state.topics.find(id)?.image.name.to_string())
    }
}

fn put_group(group: u8) -> PutGroup {
    PutGroup {
        group: format!("g{group}").into(),
        row: GroupRow {
            protocol_type: "consumer".into(),
            generation: 4,
            protocol: "range".into(),
            leader: "m".into(),
            members: Vec::new(),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_journal_replays_to_the_same_state(
        steps in proptest::collection::vec(step(), 1..60),
        per_slot in 1..5usize,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut world = World::default();
        for step in &steps {
            world.step(step);
        }
        let mut slots = Vec::new();
        for commands in world.journal.chunks(per_slot) {
            let mut slot = SlotBuilder::new();
            for stamped in commands {
                slot.push(stamped).unwrap();
            }
            slots.push(slot.take());
        }
        let cut = cut.index(slots.len() + 1);
        let mut replayed = State::default();
        for (index, slot) in slots.iter().enumerate() {
            if index == cut {
                replayed = decode_snapshot(&encode_snapshot(&replayed).unwrap()).unwrap();
            }
            for stamped in decode_slot(slot).unwrap() {
                prop_assert!(replayed.apply(&stamped).effects.changed);
            }
        }
        prop_assert_eq!(&replayed, &world.state);
    }

    #[test]
    fn epochs_begin_where_the_ones_before_ended(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        World::default().run_checked(&steps);
    }

    #[test]
    fn what_counted_by_a_disk_goes_on_with_that_disk(
        steps in proptest::collection::vec(disk_step(), 1..60),
    ) {
        let mut world = World::default();
        world.register(0, Some(0));
        world.register(1, Some(1));
        world.create("t0", 2).unwrap();
        world.run_checked(&steps);
    }
}

impl World {
    /// Checks all that must hold after each step.
    fn run_checked(mut self, steps: &[Step]) {
        // epochs in which the topic was local at some time
        let mut local = BTreeSet::new();
        for step in steps {
            let before = self.state.clone();
            let commands = self.journal.len();
            self.step(step);
            for (id, stream) in before.streams.iter() {
                assert!(stream.floor <= self.state.streams.find(id).unwrap().floor);
            }
            for tp in self.all_partitions() {
                self.check_partition(tp);
                if let Some((was, _)) = before.topics.partition(tp) {
                    self.check_succession(tp, was, commands);
                    if local.contains(&(tp, was.epoch)) {
                        self.check_disk(tp, was);
                    }
                }
                if self.state.topics.find(tp.topic).unwrap().image.is_local() {
                    local.insert((tp, self.partition(tp).epoch));
                }
            }
            self.check_counts();
        }
    }

    fn check_partition(&self, tp: TopicPartition) {
        let now = self.partition(tp);
        let rise =
            |a: &EpochStart, b: &EpochStart| a.epoch < b.epoch && a.start_offset < b.start_offset;
        assert!(now.epochs.is_sorted_by(rise), "{now:?}");
        let windows = &now.windows;
        assert!(windows.is_sorted_by(|a, b| a.first_offset <= b.first_offset));
        let (last, earlier) = match windows.split_last() {
            Some((last, earlier)) => (Some(last), earlier),
            None => (None, &[][..]),
        };
        assert!(
            earlier.iter().all(|window| window.end_slot.is_some()),
            "{now:?}"
        );
        assert_eq!(
            last.map(|last| last.epoch),
            (now.epoch.0 >= 0).then_some(now.epoch)
        );
        if let Some(owner) = now.owner {
            let broker = &self.state.brokers[&owner.broker];
            assert_eq!(broker.incarnation, owner.incarnation, "who owns lives");
            let open = last.map(|last| (last.stream, last.end_slot));
            assert_eq!(open, Some((owner.stream, None)), "{now:?}");
        }
        if let Some(to) = now.moving_to {
            assert!(now.owner.is_some_and(|owner| owner.broker != to), "{now:?}");
            assert!(!self.state.brokers[&to].draining, "{now:?}");
        }
    }

    /// What the commands since did to a partition: epochs follow one by one, each from where a
    /// command said that the one before ended, and only if that was sealed or is released.
    fn check_succession(&self, tp: TopicPartition, was: &PartitionImage, commands: usize) {
        let now = self.partition(tp);
        if was.epoch == now.epoch && was.windows.len() == now.windows.len() {
            let same_owner = was.owner.is_none() || now.owner.is_none() || was.owner == now.owner;
            assert!(same_owner, "I4: {tp} changes hands within an epoch");
            return;
        }
        let Some(ended) = was.windows.last() else {
            assert_eq!(
                now.windows.first().map(|window| window.first_offset),
                Some(0)
            );
            return;
        };
        let last = now.windows.last().unwrap();
        if (last.epoch, last.stream) == (ended.epoch, ended.stream) {
            return;
        }
        let begun = last;
        let follows = begun.epoch == ended.epoch || begun.epoch.0 == ended.epoch.0 + 1;
        assert!(follows, "{begun:?} after {ended:?}");
        let mut ends = self.journal[commands..]
            .iter()
            .flat_map(|stamped| ends_of(&stamped.command));
        assert!(
            ends.any(|end| end.tp == tp && end.end_offset == begun.first_offset),
            "I4: {begun:?} begins where no command said that {ended:?} ended"
        );
        let is_sealed = self.state.streams.sealed_end(ended.stream).is_some();
        assert!(
            is_sealed || self.is_released(tp, ended.epoch),
            "I4: {ended:?} has no end"
        );
    }

    fn is_released(&self, tp: TopicPartition, epoch: LeaderEpoch) -> bool {
        self.journal.iter().any(|stamped| match &stamped.command {
            Command::ReleasePartitions(body) => body
                .released
                .iter()
                .any(|released| released.end.tp == tp && released.end.epoch == epoch),
            _ => false,
        })
    }

    /// An epoch in which the topic was local at some time is followed at a broker that shows its disk,
    /// if it was not released, its last owner crashed, and nobody gave that disk up.
    fn check_disk(&self, tp: TopicPartition, was: &PartitionImage) {
        let now = self.partition(tp);
        let Some(ended) = was.windows.last().filter(|_| now.epoch != was.epoch) else {
            return;
        };
        let stream = self.state.streams.find(ended.stream).unwrap();
        let Some(disk) = stream.disk.filter(|_| !stream.is_whole) else {
            return;
        };
        let is_forced = self.journal.iter().any(|stamped| match &stamped.command {
            Command::ForceMove(moves) => {
                let given_up = (tp, ended.epoch, disk);
                let mut moves = moves.iter();
                moves.any(|asked| (asked.tp, asked.epoch, asked.disk) == given_up)
            }
            _ => false,
        });
        let shown = now
            .owner
            .and_then(|owner| self.state.brokers[&owner.broker].disk);
        assert!(
            is_forced || self.is_released(tp, ended.epoch) || shown == Some(disk),
            "{tp} goes on in {now:?} without {disk}, behind {ended:?}"
        );
    }

    /// What is counted is what there is.
    fn check_counts(&self) {
        let mut owned: BTreeMap<_, _> = self.state.brokers.keys().map(|id| (*id, 0)).collect();
        for tp in self.all_partitions() {
            if let Some(owner) = self.partition(tp).owner {
                *owned.entry(owner.broker).or_default() += 1;
            }
        }
        assert_eq!(owned, self.state.owned);
    }
}

/// The ends of epochs that a command names.
fn ends_of(command: &Command) -> Vec<PartitionEnd> {
    match command {
        Command::AssignPartitions(body) => body.ended.clone(),
        Command::ReleasePartitions(body) => body.released.iter().map(|r| r.end).collect(),
        Command::ResumePartitions(body) => body.resumed.iter().map(|r| r.end).collect(),
        _ => Vec::new(),
    }
}
