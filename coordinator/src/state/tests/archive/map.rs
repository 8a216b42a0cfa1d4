//! The segment map against a plain list of runs: whatever is committed, paged out and released, and
//! however often the state goes through a snapshot, a search finds what the list has.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::snapshot::{decode_snapshot, encode_snapshot};

/// A step of a random history. Numbers choose among what exists.
#[derive(Clone, Debug)]
enum Turn {
    /// Archives so many offsets of each of the two partitions, with timestamps.
    Commit([(u8, i8); 2]),
    /// Moves the log start of a partition up.
    Raise(bool, u8),
    /// Pages the oldest runs of a partition out.
    PageOut(bool, u8),
    /// The state is written and read back.
    Restart,
}

fn turn() -> impl Strategy<Value = Turn> {
    let part = || (0..4u8, -1..4i8);
    prop_oneof![
        6 => (part(), part()).prop_map(|(a, b)| Turn::Commit([a, b])),
        2 => (any::<bool>(), 0..30u8).prop_map(|(p, by)| Turn::Raise(p, by)),
        3 => (any::<bool>(), 1..7u8).prop_map(|(p, runs)| Turn::PageOut(p, runs)),
        1 => Just(Turn::Restart),
    ]
}

/// What the map should say, and the pages that lie in the bucket.
struct Model {
    world: World,
    owner: RegisteredBroker,
    tps: [TopicPartition; 2],
    runs: [Vec<ArchivedRun>; 2],
    pages: BTreeMap<SegmentKey, Vec<ArchivedRun>>,
    segments: u64,
}

impl Model {
    fn new() -> Self {
        let mut world = World::default();
        let owner = world.register(1, None);
        let topic = world.create("a", 2).unwrap();
        Self {
            world,
            owner,
            tps: [nth(topic, 0), nth(topic, 1)],
            runs: [Vec::new(), Vec::new()],
            pages: BTreeMap::new(),
            segments: 0,
        }
    }

    fn take(&mut self, turn: &Turn) {
        match *turn {
            Turn::Commit(parts) => self.commit(parts),
            Turn::Raise(partition, by) => self.raise(usize::from(partition), by),
            Turn::PageOut(partition, runs) => self.page_out(usize::from(partition), runs),
            Turn::Restart => {
                let snapshot = encode_snapshot(&self.world.state).unwrap();
                self.world.state = decode_snapshot(&snapshot).unwrap();
            }
        }
    }

    fn commit(&mut self, parts: [(u8, i8); 2]) {
        let next = at(self.owner.stream, 0);
        let parts = self.tps.into_iter().zip(parts).enumerate();
        let runs = parts.filter(|(_, (_, (len, _)))| *len > 0);
        let runs: Vec<_> = runs
            .map(|(index, (tp, (len, time)))| {
                let (image, marks) = self.world.state.topics.partition(tp).unwrap();
                let base = marks.archived_to;
                let mut run = run(tp, image.epoch, (base, base + i64::from(len) - 1), next);
                run.max_timestamp = i64::from(time);
                if time < 0 {
                    run.max_timestamp = i64::MIN;
                    run.row_groups.clear();
                }
                (index, run)
            })
            .collect();
        if runs.is_empty() {
            return;
        }
        let of = runs.len() as u32;
        let body: Vec<_> = runs.iter().map(|(_, run)| run.clone()).collect();
        let body = segment(&self.owner, self.segments, self.tps[0].topic, body);
        self.world.commit(body).unwrap();
        for (index, run) in runs {
            self.runs[index].push(ArchivedRun {
                segment: key(&self.owner, self.segments),
                runs_of_segment: of,
                base_offset: run.base_offset,
                last_offset: run.last_offset,
                max_timestamp: run.max_timestamp,
                row_groups: run.row_groups,
            });
        }
        self.segments += 1;
    }

    /// Reads the pages first that begin below the new log start, as an owner does.
    fn raise(&mut self, index: usize, by: u8) {
        let tp = self.tps[index];
        let found = self.world.find(tp, RunsFrom::Offset(0));
        let log_start = found.log_start + i64::from(by);
        let mut release = PagedRelease {
            pages: Vec::new(),
            released_to: found.released_to,
            segments: Vec::new(),
            run_bytes: 0,
            next_released_to: found.released_to,
        };
        let mut part = found.part;
        while let MapPart::Page(page) = part
            && page.base_offset < log_start
        {
            release.pages.push(page.key);
            for run in &self.pages[&page.key] {
                if run.last_offset < log_start && run.base_offset >= found.released_to {
                    release.segments.push((run.segment, run.runs_of_segment));
                    release.run_bytes += run.bytes();
                    release.next_released_to = run.last_offset + 1;
                }
            }
            part = self
                .world
                .find(tp, RunsFrom::Offset(page.last_offset + 1))
                .part;
        }
        let release = (!release.pages.is_empty()).then_some(release);
        let next = at(self.owner.stream, 0);
        let owner = self.owner.clone();
        self.world
            .raise(&owner, tp, log_start, next, release)
            .unwrap();
        self.runs[index].retain(|run| run.last_offset >= log_start);
    }

    fn page_out(&mut self, index: usize, runs: u8) {
        let tp = self.tps[index];
        let in_memory = self.world.find(tp, RunsFrom::Offset(0)).runs_in_memory as usize;
        let runs = usize::from(runs).min(in_memory);
        if runs == 0 {
            return;
        }
        let page = page_of(
            &self.world,
            tp,
            key(&self.owner, self.pages.len() as u64),
            runs,
        );
        self.world.page_out(tp, page).unwrap();
        let held = self.runs[index].iter();
        let held = held.filter(|run| {
            run.base_offset >= page.base_offset && run.last_offset <= page.last_offset
        });
        self.pages.insert(page.key, held.cloned().collect());
    }

    /// The run that a reader finds, who reads the pages that are named to it.
    fn search(&self, tp: TopicPartition, from: RunsFrom) -> Option<ArchivedRun> {
        let found = self.world.find(tp, from);
        let page = match found.part {
            MapPart::Nothing => return None,
            MapPart::Runs(runs) => {
                assert!(runs.len() <= FOUND_RUNS_MAX);
                return Some(ArchivedRun::clone(&runs[0]));
            }
            MapPart::Page(page) => page,
        };
        let held = self.pages[&page.key].iter();
        let held = held.filter(|run| run.base_offset >= found.released_to);
        let held: Vec<_> = held.cloned().collect();
        let behind = page.last_offset + 1;
        let (hit, again) = match from {
            RunsFrom::Offset(_) => (expected(&held, from), RunsFrom::Offset(behind)),
            RunsFrom::Time { timestamp, .. } => {
                let offset = behind;
                (expected(&held, from), RunsFrom::Time { timestamp, offset })
            }
            RunsFrom::MaxTime { .. } => {
                let best = expected(&held, from);
                let is_it = |run: &ArchivedRun| run.max_timestamp == page.max_timestamp;
                if !best.as_ref().is_some_and(is_it) {
                    let other = self.search(tp, RunsFrom::MaxTime { offset: behind });
                    let runs = best.into_iter().chain(other);
                    return runs.rev().max_by_key(|run| run.max_timestamp);
                }
                (best, from)
            }
        };
        hit.or_else(|| self.search(tp, again))
    }

    fn check(&self) {
        let mut mapped = BTreeSet::new();
        for (tp, runs) in self.tps.into_iter().zip(&self.runs) {
            mapped.extend(runs.iter().map(|run| run.segment));
            let mut found = Vec::new();
            let mut offset = 0;
            while let Some(run) = self.search(tp, RunsFrom::Offset(offset)) {
                offset = run.last_offset + 1;
                found.push(run);
            }
            assert_eq!(&found, runs);
            let described = &self.world.state.describe_archive(Some(tp.topic));
            let described = described
                .iter()
                .find(|described| described.tp == tp)
                .unwrap();
            assert_eq!(described.runs, runs.len() as u64);
            let bytes: u64 = runs.iter().map(ArchivedRun::bytes).sum();
            assert_eq!(described.bytes, bytes);
            assert!(described.log_start <= described.archived_to);
            let begin = runs
                .first()
                .map_or(described.archived_to, |run| run.base_offset);
            assert!(begin <= described.log_start);
            for offset in (0..described.archived_to + 2).step_by(3) {
                for timestamp in -1..5 {
                    let from = RunsFrom::Time { timestamp, offset };
                    assert_eq!(self.search(tp, from), expected(runs, from), "{from:?}");
                }
                let from = RunsFrom::MaxTime { offset };
                assert_eq!(self.search(tp, from), expected(runs, from), "{from:?}");
            }
        }
        let queue = self.world.state.archive.queue().iter();
        let doomed = queue.filter_map(|queued| match queued.what {
            Doomed::Segment { segment, .. } => Some(segment.number),
            _ => None,
        });
        let mut doomed: Vec<_> = doomed.collect();
        doomed.sort_unstable();
        let all = 0..self.segments;
        let expected = all.filter(|number| !mapped.contains(&key(&self.owner, *number)));
        assert_eq!(
            doomed,
            expected.collect::<Vec<_>>(),
            "what has left, each once"
        );
    }
}

/// What a search finds in a list of runs.
fn expected(runs: &[ArchivedRun], from: RunsFrom) -> Option<ArchivedRun> {
    let behind = |offset| runs.iter().filter(move |run| run.last_offset >= offset);
    let found = match from {
        RunsFrom::Offset(offset) => behind(offset).next(),
        RunsFrom::Time { timestamp, offset } => {
            let dated = |run: &&ArchivedRun| run.max_timestamp != i64::MIN;
            behind(offset)
                .filter(dated)
                .find(|run| run.max_timestamp >= timestamp)
        }
        RunsFrom::MaxTime { offset } => {
            let max = behind(offset).map(|run| run.max_timestamp).max();
            let max = max.filter(|max| *max != i64::MIN);
            behind(offset).find(|run| Some(run.max_timestamp) == max)
        }
    };
    found.cloned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_map_finds_what_a_list_of_runs_has(turns in proptest::collection::vec(turn(), 1..80)) {
        let mut model = Model::new();
        for turn in &turns {
            model.take(turn);
            model.check();
        }
    }
}

/// A million runs take what a few hundred do, and each is one page away.
#[test]
fn a_million_runs_take_bounded_memory() {
    let mut world = World::default();
    let one = world.register(1, None);
    let tp = first(world.create("a", 1).unwrap());
    let next = at(one.stream, 0);
    let mut pages = 0;
    for number in 0..1_000_000 {
        let offset = number as i64;
        let run = run(tp, LeaderEpoch(0), (offset, offset), next);
        let command = Command::CommitSegment(segment(&one, number, tp.topic, vec![run]));
        let at_ms = world.state.at_ms;
        world.state.apply(&Stamped { at_ms, command });
        if world.find(tp, RunsFrom::Offset(offset)).is_page_due() {
            let page = page_of(&world, tp, key(&one, pages), MAP_PAGE_RUNS as usize);
            world.page_out(tp, page).unwrap();
            pages += 1;
        }
    }
    let found = world.find(tp, RunsFrom::Offset(500_000));
    assert!(!found.is_page_due() && found.runs_in_memory > 0);
    assert!(matches!(found.part, MapPart::Page(page)
        if page.base_offset <= 500_000 && page.last_offset >= 500_000));
    let snapshot = encode_snapshot(&world.state).unwrap();
    assert!(snapshot.len() < 256 * 1024, "{} bytes", snapshot.len());
}
