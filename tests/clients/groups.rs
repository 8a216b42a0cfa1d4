//! The main job's group: two consumers by librdkafka share the flights' partitions, and go on where
//! the group has committed after the broker's restart and after their own death.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use firn_tests::cluster::Brokers;
use firn_tests::flights::{self, Flight};
use firn_tests::node::{Node, NodePlan, forget_local_files};
use firn_tests::seed::Seed;
use serde_json::{Value, json};

use crate::producer::{Log, PARTITIONS, Production, TOPIC};
use crate::python::{Script, Scripts, number, partition, python_for};
use crate::{FIRN, s3_for};

const GROUP: &str = "readers";

/// In order, on a directory.
#[test]
fn two_consumers_share_the_flights_and_resume_after_restarts_on_a_directory() {
    let test = "two_consumers_share_the_flights_and_resume_after_restarts_on_a_directory";
    let folder = tempfile::tempdir().unwrap();
    let plan = NodePlan::on_directory(FIRN, folder.path());
    flights_are_shared(test, 21, &plan, Node::stop, folder.path());
}

/// The same on a real S3 server, and the broker crashes instead of leaving.
#[test]
fn two_consumers_share_the_flights_and_resume_after_crashes_on_s3() {
    let test = "two_consumers_share_the_flights_and_resume_after_crashes_on_s3";
    let folder = tempfile::tempdir().unwrap();
    let Some((_minio, plan)) = s3_for(test, folder.path()) else {
        return;
    };
    flights_are_shared(test, 22, &plan, Node::kill, folder.path());
}

fn flights_are_shared(test: &str, seed: u64, plan: &NodePlan, end: fn(Node), folder: &Path) {
    let Some(python) = python_for(test) else {
        return;
    };
    let mut seed = Seed::from_environment(test, seed);
    let aside = tempfile::tempdir().unwrap();
    let scripts = Scripts::new(python, aside.path());
    let node = plan.start();
    let flights = flights::load();
    let brokers = Brokers::at(vec![node.kafka()]);
    let count = flights.len();
    let log = Production::start(&scripts, &brokers, &flights, count, aside.path()).finish();
    let goals = Goals::draw(&log, &mut seed);
    let mut group = Group::new(&scripts, node.bootstrap());

    group.start_two();
    assert_eq!(
        group.starts(),
        Goals::everywhere(|_| 0),
        "from the beginning"
    );
    group.commit(&goals.first);
    group.assert_both_committed();

    // They live through the broker's restart, read on, and die with more read than committed.
    end(node);
    let node = plan.start();
    group.commit(&goals.second);
    group.read(&goals.beyond);
    group.kill_both();
    end(node);
    forget_local_files(folder);
    let node = plan.start();

    group.start_two();
    assert_eq!(group.starts(), goals.second, "resumed where it committed");
    group.commit(&goals.last);
    group.assert_both_committed();
    for partition in 0..PARTITIONS {
        assert!(
            group.committed_records(partition) == log.partition(partition),
            "partition {partition}: the group's records differ from what was produced"
        );
    }
    node.stop();
}

/// How far each partition is read, step by step.
struct Goals {
    first: BTreeMap<i32, i64>,
    second: BTreeMap<i32, i64>,
    /// Read after the second, and not committed.
    beyond: BTreeMap<i32, i64>,
    last: BTreeMap<i32, i64>,
}

impl Goals {
    fn draw(log: &Log, seed: &mut Seed) -> Self {
        let last = Self::everywhere(|partition| {
            let count = log.partition(partition).len();
            assert!(count >= 8, "partition {partition} holds {count} records");
            i64::try_from(count).unwrap()
        });
        let mut between = |from: &BTreeMap<i32, i64>, share: i64| {
            Self::everywhere(|partition| {
                let room = (last[&partition] - from[&partition]) / share;
                let step = seed.below(u64::try_from(room).unwrap());
                from[&partition] + 1 + i64::try_from(step).unwrap()
            })
        };
        let first = between(&Self::everywhere(|_| 0), 2);
        let second = between(&first, 2);
        let beyond = between(&second, 1);
        Self {
            first,
            second,
            beyond,
            last,
        }
    }

    fn everywhere(offset: impl FnMut(i32) -> i64) -> BTreeMap<i32, i64> {
        (0..PARTITIONS).zip((0..PARTITIONS).map(offset)).collect()
    }
}

/// The group as its members tell of it.
struct Group<'a> {
    scripts: &'a Scripts,
    bootstrap: String,
    members: BTreeMap<usize, Member>,
    /// How many members there ever were.
    started: usize,
    /// What was read and then committed, by partition and first offset, whoever did it.
    committed: BTreeMap<(i32, i64), Vec<Flight>>,
    /// How far partitions were read without a commit.
    reached: BTreeMap<i32, i64>,
}

struct Member {
    script: Script,
    /// Its partitions, and what it has read of each since it got it or committed there.
    holds: BTreeMap<i32, Reading>,
    /// Where it has committed something.
    committed: BTreeSet<i32>,
}

struct Reading {
    from: i64,
    records: Vec<Flight>,
}

impl Reading {
    fn start(from: i64) -> Self {
        Self {
            from,
            records: Vec::new(),
        }
    }

    fn next_offset(&self) -> i64 {
        self.from + i64::try_from(self.records.len()).unwrap()
    }
}

impl<'a> Group<'a> {
    fn new(scripts: &'a Scripts, bootstrap: String) -> Self {
        Self {
            scripts,
            bootstrap,
            members: BTreeMap::new(),
            started: 0,
            committed: BTreeMap::new(),
            reached: BTreeMap::new(),
        }
    }

    /// Starts two members and waits until each has half of the partitions.
    fn start_two(&mut self) {
        for _ in 0..2 {
            self.started += 1;
            let arguments = [self.bootstrap.as_str(), GROUP, TOPIC];
            let member = Member {
                script: self.scripts.start(self.started, "consume.py", &arguments),
                holds: BTreeMap::new(),
                committed: BTreeSet::new(),
            };
            self.members.insert(self.started, member);
        }
        self.hear_until("the members to share the partitions", |group| {
            let half = PARTITIONS as usize / 2;
            let held = group.members.values().flat_map(|m| m.holds.keys());
            group.members.values().all(|m| m.holds.len() == half)
                && held.collect::<BTreeSet<_>>().len() == 2 * half
        });
    }

    /// Where the members start to read.
    fn starts(&self) -> BTreeMap<i32, i64> {
        let held = self.members.values().flat_map(|m| &m.holds);
        held.map(|(partition, reading)| (*partition, reading.from))
            .collect()
    }

    /// Has every partition read up to `goals` and committed there.
    fn commit(&mut self, goals: &BTreeMap<i32, i64>) {
        self.tell(&json!({"read": goals, "commit": true}));
        self.hear_until("the group to commit", |group| {
            let ends = group
                .committed
                .iter()
                .map(|((partition, from), read)| (partition, from + read.len() as i64));
            let ends: BTreeMap<i32, i64> = ends.map(|(p, end)| (*p, end)).collect();
            ends == *goals
        });
    }

    /// Has every partition read up to `goals`, and nothing committed.
    fn read(&mut self, goals: &BTreeMap<i32, i64>) {
        self.tell(&json!({"read": goals, "commit": false}));
        self.hear_until("the group to read on", |group| group.reached == *goals);
    }

    fn kill_both(&mut self) {
        self.members.clear();
    }

    fn assert_both_committed(&self) {
        for (id, member) in &self.members {
            let count = member.committed.len();
            assert!(count > 0, "member {id} has read nothing of its partitions");
        }
    }

    /// What the group has read and committed of a partition, from offset 0 on.
    ///
    /// # Panics
    /// When something was committed twice, or never.
    fn committed_records(&self, partition: i32) -> Vec<Flight> {
        let mut records = Vec::new();
        for ((_, from), read) in self.committed.range((partition, 0)..=(partition, i64::MAX)) {
            assert_eq!(
                *from,
                records.len() as i64,
                "partition {partition}: the next commit begins where the last ended"
            );
            records.extend_from_slice(read);
        }
        records
    }

    fn tell(&mut self, order: &Value) {
        for member in self.members.values_mut() {
            member.script.tell(order);
        }
    }

    fn hear_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            self.hear(what);
        }
    }

    /// Takes one line of what a member tells. The dead are not listened to.
    fn hear(&mut self, what: &str) {
        let (id, told) = self.scripts.hear(what);
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let told = told.unwrap_or_else(|| panic!("member {id} ended before its time"));
        if let Some(given) = told["assigned"].as_object() {
            for (partition, offset) in given {
                let reading = Reading::start(offset.as_i64().unwrap());
                member.holds.insert(partition.parse().unwrap(), reading);
            }
        } else if !told["revoked"].is_null() {
            member.holds.clear();
        } else if !told["committed"].is_null() {
            let partition = partition(&told, "committed");
            let end = number(&told, "offset");
            let reading = member.holds.insert(partition, Reading::start(end));
            let reading = reading.unwrap_or_else(|| panic!("member {id} does not hold: {told}"));
            assert_eq!(reading.next_offset(), end, "member {id}: {told}");
            member.committed.insert(partition);
            let twice = self
                .committed
                .insert((partition, reading.from), reading.records);
            assert!(twice.is_none(), "read twice and committed twice: {told}");
        } else if !told["reached"].is_null() {
            let partition = partition(&told, "reached");
            self.reached.insert(partition, number(&told, "offset"));
        } else {
            let reading = member.holds.get_mut(&partition(&told, "partition"));
            let reading = reading.unwrap_or_else(|| panic!("member {id} does not hold: {told}"));
            assert_eq!(reading.next_offset(), number(&told, "offset"), "{told}");
            reading.records.push(Flight {
                origin: told["key"].as_str().unwrap().to_owned(),
                line: told["value"].as_str().unwrap().to_owned(),
            });
        }
    }
}
