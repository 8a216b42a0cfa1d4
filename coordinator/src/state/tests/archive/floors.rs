//! Brokers that append, archive, delete, die and compete, over a WAL that is only remembered here.
//! Whatever they do, no slot is given up that a fold or a reader needs, and no key enters twice.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::snapshot::{decode_snapshot, encode_snapshot};

/// A step of a random history. Numbers choose among what exists.
#[derive(Clone, Debug)]
enum Turn {
    /// A broker starts, which ends its last process. With the flag what has ended is taken over.
    Start(u8, bool),
    Append(u8, u8),
    Report(u8),
    /// State rows of what was appended up to so many slots before. With the flag the coordinator
    /// hears of them later.
    Checkpoint(u8, u8, bool),
    /// A report that was told comes once more, out of order: its first answer was lost.
    Repeat(u8),
    /// An owner is asked to release a partition.
    Move(u8, u8),
    Drain(u8, bool),
    /// A process is found dead. With the flag what has ended is taken over.
    Fence(u8, bool),
    /// With the flag the next epoch begins at once if it has not.
    Release(u8, bool),
    /// Any process that ever was commits up to an append, under a new number or an old one.
    Commit(u8, [u8; 3], Option<u8>),
    Abandon(u8, u8),
    Raise(u8, u8, u8),
    Collect,
}

fn turn() -> impl Strategy<Value = Turn> {
    let by = any::<u8>;
    prop_oneof![
        2 => (0..3u8, any::<bool>()).prop_map(|(b, takes_over)| Turn::Start(b, takes_over)),
        8 => (by(), 1..4u8).prop_map(|(tp, len)| Turn::Append(tp, len)),
        2 => by().prop_map(Turn::Report),
        3 => (by(), 0..4u8, any::<bool>()).prop_map(|(b, lag, l)| Turn::Checkpoint(b, lag, l)),
        1 => by().prop_map(Turn::Repeat),
        2 => (by(), 0..3u8).prop_map(|(tp, to)| Turn::Move(tp, to)),
        1 => (0..3u8, any::<bool>()).prop_map(|(b, drain)| Turn::Drain(b, drain)),
        1 => (0..3u8, any::<bool>()).prop_map(|(b, takes_over)| Turn::Fence(b, takes_over)),
        3 => (by(), any::<bool>()).prop_map(|(tp, assigns)| Turn::Release(tp, assigns)),
        6 => (by(), any::<[u8; 3]>(), proptest::option::weighted(0.2, by()))
            .prop_map(|(who, to, number)| Turn::Commit(who, to, number)),
        1 => (by(), by()).prop_map(|(who, number)| Turn::Abandon(who, number)),
        3 => (by(), by(), by()).prop_map(|(who, tp, to)| Turn::Raise(who, tp, to)),
        1 => Just(Turn::Collect),
    ]
}

/// A slot with offsets of one partition. It has a row of a producer too.
#[derive(Clone, Copy, Debug)]
struct Append {
    at: SlotPosition,
    epoch: LeaderEpoch,
    last_offset: i64,
}

/// What was appended to a partition.
#[derive(Clone, Debug, Default)]
struct Log {
    appends: Vec<Append>,
    /// How many of them are in the last state row that the coordinator knows.
    in_row: usize,
    /// How many are in the last one that its owner wrote.
    in_written: usize,
}

/// A report with state rows, and how many appends of which log are in them.
#[derive(Clone, Debug)]
struct Told {
    report: ProgressReport,
    rows: Vec<(usize, usize)>,
}

impl Log {
    fn end(&self) -> i64 {
        self.appends
            .last()
            .map_or(0, |append| append.last_offset + 1)
    }
}

struct Cluster {
    world: World,
    topic: TopicId,
    /// All processes that ever were.
    processes: Vec<RegisteredBroker>,
    /// The slots of each stream that were written.
    slots: BTreeMap<StreamId, u64>,
    rows_ends: BTreeMap<StreamId, u64>,
    /// Reports that were not told, in order, and those that were.
    late: Vec<Told>,
    told: Vec<Told>,
    logs: [Log; 3],
    numbers: u64,
    entered: BTreeSet<SegmentKey>,
}

impl Cluster {
    fn new() -> Self {
        let mut world = World::default();
        let one = world.register(0, None);
        let topic = world.create("a", 3).unwrap();
        Self {
            world,
            topic,
            processes: vec![one],
            slots: BTreeMap::new(),
            rows_ends: BTreeMap::new(),
            late: Vec::new(),
            told: Vec::new(),
            logs: Default::default(),
            numbers: 0,
            entered: BTreeSet::new(),
        }
    }

    fn tp(&self, by: u8) -> (usize, TopicPartition) {
        let index = usize::from(by) % self.logs.len();
        (index, nth(self.topic, index as i32))
    }

    fn take(&mut self, turn: &Turn) {
        match *turn {
            Turn::Start(broker, takes_over) => {
                let process = self.world.register(i32::from(broker), None);
                self.processes.push(process);
                if takes_over {
                    self.take_over();
                }
            }
            Turn::Append(by, len) => self.append(by, len),
            Turn::Report(by) => {
                if let Some(broker) = pick(&self.processes, by) {
                    self.world.report(&broker, self.written(broker.stream), &[]);
                }
            }
            Turn::Checkpoint(by, lag, is_late) => self.checkpoint(by, lag, is_late),
            Turn::Repeat(by) => {
                if let Some(told) = pick(&self.told, by) {
                    self.tell(&told);
                }
            }
            Turn::Move(by, to) => self.ask(by, to),
            Turn::Drain(broker, drain) => {
                let broker = BrokerId(i32::from(broker));
                let body = DrainBroker { broker, drain };
                self.world.apply(Command::DrainBroker(body));
            }
            Turn::Fence(broker, takes_over) => {
                let broker = self.world.state.brokers.get(&BrokerId(i32::from(broker)));
                if let Some(incarnation) = broker.map(|broker| broker.incarnation) {
                    self.world.apply(Command::FenceBroker(incarnation));
                }
                if takes_over {
                    self.take_over();
                }
            }
            Turn::Release(by, assigns) => self.release(by, assigns),
            Turn::Commit(by, to, number) => self.commit(by, to, number),
            Turn::Abandon(by, number) => {
                let process = pick(&self.processes, by).unwrap();
                let number = u64::from(number) % (self.numbers + 2);
                let refused = self.world.abandon(key(&process, number)).is_err();
                let is_entered = self.entered.contains(&key(&process, number));
                assert!(refused || !is_entered);
            }
            Turn::Raise(by, tp, to) => self.raise(by, tp, to),
            Turn::Collect => self.collect(),
        }
    }

    fn written(&self, stream: StreamId) -> u64 {
        self.slots.get(&stream).copied().unwrap_or(0)
    }

    fn write(&mut self, stream: StreamId) -> SlotPosition {
        let next = self.slots.entry(stream).or_default();
        *next += 1;
        at(stream, *next - 1)
    }

    fn take_over(&mut self) {
        for seal in self.world.state.pending_seals() {
            self.world
                .seal(seal.stream, self.written(seal.stream))
                .unwrap();
        }
        for fold in self.world.state.pending_folds() {
            let log = &mut self.logs[fold.tp.partition.0 as usize];
            log.in_written = log.in_row;
            let end = end(fold.tp, fold.epoch.0, fold.stream, log.end());
            if self.world.assign(end).is_err() {
                assert!(self.world.state.brokers.is_empty());
            }
        }
    }

    fn ask(&mut self, by: u8, to: u8) {
        let (_, tp) = self.tp(by);
        let to = BrokerId(i32::from(to));
        let image = self.world.partition(tp).clone();
        let asked = MovePartition {
            tp,
            epoch: image.epoch,
            to,
        };
        let reply = self.world.apply(Command::MovePartitions(vec![asked])).reply;
        let Reply::Moved(results) = reply else {
            panic!("{reply:?}")
        };
        let target = self.world.state.brokers.get(&to);
        let may_go = target.is_some_and(|target| !target.draining);
        let expected = match image.owner {
            None => Err(AssignmentError::NotCurrent),
            Some(owner) if owner.broker == to => Ok(None),
            Some(_) if may_go => Ok(Some(to)),
            Some(_) => Err(AssignmentError::NoBroker),
        };
        let moving_to = expected.unwrap_or(image.moving_to);
        assert_eq!(results, [expected.map(drop)]);
        assert_eq!(self.world.partition(tp).moving_to, moving_to);
    }

    fn append(&mut self, by: u8, len: u8) {
        let (index, tp) = self.tp(by);
        let image = self.world.partition(tp);
        let (epoch, owner) = (image.epoch, image.owner);
        if let Some(owner) = owner {
            let at = self.write(owner.stream);
            let log = &mut self.logs[index];
            let last_offset = log.end() + i64::from(len) - 1;
            log.appends.push(Append {
                at,
                epoch,
                last_offset,
            });
        }
    }

    fn checkpoint(&mut self, by: u8, lag: u8, is_late: bool) {
        let alive = self.world.brokers();
        let Some(broker) = pick(&alive, by) else {
            return;
        };
        let known = self.rows_ends.get(&broker.stream).copied().unwrap_or(0);
        let slot = self.write(broker.stream).slot;
        let rows_end = slot.0.saturating_sub(u64::from(lag)).max(known);
        let mut partitions = Vec::new();
        let mut rows = Vec::new();
        for (index, log) in self.logs.iter_mut().enumerate() {
            let tp = nth(self.topic, index as i32);
            let owner = self.world.state.topics.partition(tp).unwrap().0.owner;
            let is_in =
                |append: &Append| append.at.stream != broker.stream || append.at.slot.0 < rows_end;
            let in_row = log
                .appends
                .iter()
                .take_while(|append| is_in(append))
                .count();
            let is_own = owner.is_some_and(|owner| owner.stream == broker.stream);
            if is_own && in_row > log.in_written {
                log.in_written = in_row;
                partitions.push(tp);
                rows.push((index, in_row));
            }
        }
        self.rows_ends.insert(broker.stream, rows_end);
        let report = ProgressReport {
            incarnation: broker.incarnation,
            stream: broker.stream,
            durable_end: slot.next(),
            rows: vec![RowReport { slot, partitions }],
            rows_end: Slot(rows_end),
            holds_local: false,
        };
        self.late.push(Told { report, rows });
        if !is_late {
            let (due, late) = std::mem::take(&mut self.late)
                .into_iter()
                .partition(|told| told.report.stream == broker.stream);
            self.late = late;
            for told in &due {
                self.tell(told);
            }
            self.told.extend(due);
        }
    }

    fn tell(&mut self, told: &Told) {
        let body = told.report.clone();
        let row = at(body.stream, body.rows[0].slot.0);
        self.world.apply(Command::ReportProgress(body));
        for (index, in_row) in &told.rows {
            let tp = nth(self.topic, *index as i32);
            let (_, marks) = self.world.state.topics.partition(tp).unwrap();
            if marks.row == Some(row) {
                self.logs[*index].in_row = *in_row;
            }
        }
    }

    fn release(&mut self, by: u8, assigns: bool) {
        let (index, tp) = self.tp(by);
        let image = self.world.partition(tp);
        let (epoch, Some(owner)) = (image.epoch, image.owner) else {
            return;
        };
        let moving_to = image.moving_to;
        let row = self.write(owner.stream).slot;
        let released = end(tp, epoch.0, owner.stream, self.logs[index].end());
        let processes = self.processes.iter();
        let who = processes
            .clone()
            .find(|p| p.incarnation == owner.incarnation);
        let who = who.unwrap().clone();
        self.world.release(&who, released, Some(row.0)).unwrap();
        self.logs[index].in_row = self.logs[index].appends.len();
        self.logs[index].in_written = self.logs[index].in_row;
        let owner = self.world.partition(tp).owner;
        assert_eq!(owner.map(|owner| owner.broker), moving_to);
        if assigns && moving_to.is_none() {
            self.world.assign(released).unwrap();
        }
    }

    /// Where the first offset lies that is at or behind `bound`, as the owner knows it.
    fn next_of(&self, index: usize, bound: i64) -> SlotPosition {
        let appends = self.logs[index].appends.iter();
        let mut left = appends.skip_while(|append| append.last_offset < bound);
        if let Some(append) = left.next() {
            return append.at;
        }
        let owner = self.world.partition(nth(self.topic, index as i32)).owner;
        let stream = owner.map_or(StreamId(1), |owner| owner.stream);
        at(stream, self.written(stream))
    }

    fn commit(&mut self, by: u8, to: [u8; 3], number: Option<u8>) {
        let process = pick(&self.processes, by).unwrap();
        let mut runs = Vec::new();
        for (index, to) in to.into_iter().enumerate() {
            let tp = nth(self.topic, index as i32);
            let (image, marks) = self.world.state.topics.partition(tp).unwrap();
            let owner = image.owner.map(|owner| owner.incarnation);
            let wanted = to % 7 == 0 || owner == Some(process.incarnation);
            let appends = self.logs[index].appends.iter();
            let left: Vec<_> = appends
                .filter(|a| a.last_offset >= marks.archived_to)
                .collect();
            if let Some(append) = pick(&left, to)
                && wanted
            {
                let next = self.next_of(index, append.last_offset + 1);
                // one that was prepared before another entered
                let late = if to % 5 == 0 { i64::from(to % 3) } else { 0 };
                let base_offset = (marks.archived_to - late).max(0);
                let offsets = (base_offset, append.last_offset);
                runs.push(run(tp, image.epoch, offsets, next));
            }
        }
        let number = number.map_or(self.numbers, |number| {
            u64::from(number) % (self.numbers + 1)
        });
        self.numbers += 1;
        let body = segment(&process, number, self.topic, runs);
        let applied = self.world.apply(Command::CommitSegment(body.clone()));
        if applied.effects.changed {
            assert!(self.entered.insert(body.segment), "I9: a key enters once");
            let again = self.world.apply(Command::CommitSegment(body));
            assert_eq!(again.reply, Reply::Archive(Ok(())));
            assert!(!again.effects.changed);
        }
    }

    fn raise(&mut self, by: u8, tp: u8, to: u8) {
        let process = pick(&self.processes, by).unwrap();
        let (index, tp) = self.tp(tp);
        let (_, marks) = self.world.state.topics.partition(tp).unwrap();
        let (from, archived_to) = (marks.log_start, marks.archived_to);
        let log_start = from + i64::from(to) % (self.logs[index].end() - from + 1);
        let next = self.next_of(index, log_start.max(archived_to));
        drop(self.world.raise(&process, tp, log_start, next, None));
    }

    fn collect(&mut self) {
        let garbage = self.world.state.garbage(i64::MAX);
        for listed in &garbage.streams {
            assert!(listed.from <= listed.floor);
        }
        let over = garbage.streams.iter().filter(|listed| listed.is_over);
        self.world.collected(Collected {
            doomed: garbage.doomed.iter().map(|queued| queued.id).collect(),
            over: over.map(|listed| listed.stream).collect(),
            streams: garbage
                .streams
                .iter()
                .map(|s| (s.stream, s.floor))
                .collect(),
            writers: garbage
                .writers
                .iter()
                .map(|writer| writer.incarnation)
                .collect(),
        });
        let left = self.world.state.garbage(i64::MAX);
        assert_eq!(
            (left.queued, left.streams.len(), left.writers.len()),
            (0, 0, 0)
        );
    }

    fn check(&self) {
        self.check_map();
        for (index, log) in self.logs.iter().enumerate() {
            let tp = nth(self.topic, index as i32);
            let (image, marks) = self.world.state.topics.partition(tp).unwrap();
            let needed = log
                .appends
                .iter()
                .filter(|a| a.last_offset >= marks.archived_to);
            for append in needed {
                let Append { at, epoch, .. } = *append;
                assert!(self.world.floor(at.stream) <= at.slot.0, "I7: {append:?}");
                let holds = |window: &Window| {
                    window.stream == at.stream
                        && window.epoch == epoch
                        && window.lowest_slot <= at.slot
                        && window.end_slot.is_none_or(|end| at.slot < end)
                };
                assert!(image.windows.iter().any(holds), "I7: {append:?}");
            }
        }
        self.check_moves();
        self.check_folds();
        self.check_own_folds();
    }

    /// Whoever is asked to release owns, and whoever shall own lives and does not drain.
    fn check_moves(&self) {
        for tp in self.world.all_partitions() {
            let image = self.world.partition(tp);
            let brokers = &self.world.state.brokers;
            if let Some(owner) = image.owner {
                assert_eq!(brokers[&owner.broker].incarnation, owner.incarnation);
            }
            if let Some(to) = image.moving_to {
                assert!(
                    image.owner.is_some_and(|owner| owner.broker != to),
                    "{image:?}"
                );
                assert!(!brokers[&to].draining, "{image:?}");
            }
        }
    }

    /// What an owner folds is all that was appended before its epoch and is in no state row.
    fn check_own_folds(&self) {
        let partitions = self.world.all_partitions();
        let folds = self.world.state.folds_of(&partitions);
        for ((log, tp), fold) in self.logs.iter().zip(&partitions).zip(&folds) {
            let (image, marks) = self.world.state.topics.partition(*tp).unwrap();
            let Some(open) = image.windows.last().filter(|_| image.owner.is_some()) else {
                assert_eq!(*fold, None);
                continue;
            };
            let before = log.appends.iter().filter(|a| a.epoch < open.epoch);
            let end = before
                .clone()
                .next_back()
                .map_or(0, |append| append.last_offset + 1);
            assert_eq!(open.first_offset, end);
            let Some(fold) = fold else {
                assert_eq!((end, marks.row), (0, None));
                continue;
            };
            assert_eq!(fold.released_end, Some(end));
            assert_eq!(fold.row, marks.row);
            for Append { at, epoch, .. } in before.skip(log.in_row) {
                let mut ranges = fold.ranges.iter().filter(|range| range.epoch == *epoch);
                let reads = ranges.any(|range| {
                    range.stream == at.stream && (range.from..range.end).contains(&at.slot)
                });
                assert!(reads, "I8: {at} {fold:?}");
            }
        }
    }

    /// I9: contiguous up to where the partition is archived to, and nothing of it is to be deleted.
    fn check_map(&self) {
        let queue = self.world.state.archive.queue().iter();
        let doomed = queue.filter_map(|queued| match queued.what {
            Doomed::Segment { segment, .. } => Some(segment),
            _ => None,
        });
        let doomed: BTreeSet<_> = doomed.collect();
        for index in 0..self.logs.len() {
            let tp = nth(self.topic, index as i32);
            let (_, marks) = self.world.state.topics.partition(tp).unwrap();
            let mut runs: Vec<Arc<ArchivedRun>> = Vec::new();
            loop {
                let behind = runs.last().map_or(0, |run| run.last_offset + 1);
                match self.world.runs_from(tp, behind) {
                    more if more.is_empty() => break,
                    more => runs.extend(more),
                }
            }
            assert!(runs.is_sorted_by(|a, b| a.last_offset + 1 == b.base_offset));
            let begin = runs
                .first()
                .map_or(marks.archived_to, |run| run.base_offset);
            let end = runs
                .last()
                .map_or(marks.log_start, |run| run.last_offset + 1);
            assert!(begin <= marks.log_start && marks.log_start <= marks.archived_to);
            assert_eq!(end, marks.archived_to);
            for run in &runs {
                assert!(self.entered.contains(&run.segment) && !doomed.contains(&run.segment));
            }
        }
    }

    /// If everybody died now, the folds would read every slot that is in no state row.
    fn check_folds(&self) {
        let mut world = World {
            state: self.world.state.clone(),
            ..World::default()
        };
        for broker in self.world.brokers() {
            world.apply(Command::EndBroker(broker.incarnation));
        }
        for seal in world.state.pending_seals() {
            world.seal(seal.stream, self.written(seal.stream)).unwrap();
        }
        let folds = world.state.pending_folds();
        for (index, log) in self.logs.iter().enumerate() {
            let tp = nth(self.topic, index as i32);
            let fold = folds.iter().find(|fold| fold.tp == tp).unwrap();
            if let Some(row) = fold.row {
                assert!(world.floor(row.stream) <= row.slot.0, "I7: {row}");
            }
            for Append { at, epoch, .. } in log.appends.iter().skip(log.in_row) {
                let reads = |range: &&firn_proto::cluster::FoldRange| {
                    range.stream == at.stream
                        && range.epoch == *epoch
                        && (range.from..range.end).contains(&at.slot)
                };
                assert!(
                    fold.ranges.iter().any(|range| reads(&range)),
                    "I8: {at} {fold:?}"
                );
                assert!(self.world.floor(at.stream) <= at.slot.0, "I7: {at}");
            }
            let lasts = fold.ranges.iter().map(|range| (range.stream, range.from.0));
            for (stream, from) in lasts {
                assert!(
                    world.floor(stream) <= from,
                    "I7: what a fold reads is there"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn nothing_is_given_up_that_is_needed(turns in proptest::collection::vec(turn(), 1..100)) {
        let mut cluster = Cluster::new();
        for turn in &turns {
            let before = cluster.world.state.clone();
            cluster.take(turn);
            cluster.check();
            for (id, stream) in before.streams.iter() {
                prop_assert!(stream.floor <= cluster.world.state.streams.find(id).unwrap().floor);
            }
        }
        let mut replayed = State::default();
        for stamped in &cluster.world.journal {
            prop_assert!(replayed.apply(stamped).effects.changed);
        }
        prop_assert_eq!(&replayed, &cluster.world.state);
        let snapshot = encode_snapshot(&replayed).unwrap();
        prop_assert_eq!(&decode_snapshot(&snapshot).unwrap(), &replayed);
    }
}
