//! Consumers that join, leave, die, come back, miss answers and are slow to let go, while topics come,
//! grow and go and leaders change: no partition is read by two, ever, and it all settles.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firn_proto::cluster::{Assignment, ConsumerHeartbeat, GroupError};
use firn_proto::ids::{PartitionIndex, TopicPartition};

use super::super::TopicSource;
use super::{REBALANCE_MS, SESSION, Scene, join};
use crate::groups::GroupConfig;

const SEEDS: u64 = 150;
const STEPS: usize = 250;
const CONSUMERS: usize = 6;
const TOPICS: [&str; 4] = ["orders-1", "orders-2", "clicks", "logs"];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A consumer as its process has it.
#[derive(Clone, Debug, Default)]
struct Consumer {
    /// Its process runs.
    up: bool,
    starts: usize,
    fixed: bool,
    topics: Vec<&'static str>,
    regex: Option<&'static str>,
    /// 0 before it has joined.
    epoch: i32,
    /// What it reads.
    owned: Assignment,
    /// What it was told to read.
    told: Assignment,
    /// The last answer was lost: it says everything.
    missed: bool,
}

impl Consumer {
    fn subscribe(&mut self, random: &mut Random) {
        self.topics = TOPICS.into_iter().filter(|_| random.one_in(2)).collect();
        self.regex = random.one_in(3).then_some("orders-.*");
    }

    /// The process ends without a word.
    fn die(&mut self) {
        self.up = false;
        self.forget();
    }

    fn forget(&mut self) {
        self.epoch = 0;
        self.owned = Assignment::default();
        self.told = Assignment::default();
        self.missed = false;
    }

    /// Lets go of what it is not to read any more.
    fn obey(&mut self) {
        self.owned = self.told.clone();
    }
}

struct World {
    scene: Scene,
    consumers: Vec<Consumer>,
    random: Random,
    seed: u64,
}

fn config() -> GroupConfig {
    GroupConfig::default()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut scene = Scene::with(config());
        scene.topics.create(TOPICS[0], 3);
        scene.topics.create(TOPICS[2], 5);
        let mut consumers = vec![Consumer::default(); CONSUMERS];
        for consumer in &mut consumers {
            consumer.fixed = random.one_in(3);
            consumer.subscribe(&mut random);
        }
        Self {
            scene,
            consumers,
            random,
            seed,
        }
    }

    fn request(&self, at: usize, epoch: i32, whole: bool) -> ConsumerHeartbeat {
        let consumer = &self.consumers[at];
        let member = format!("c{at}-{}", consumer.starts);
        let mut request = ConsumerHeartbeat {
            epoch,
            instance: consumer.fixed.then(|| format!("i{at}").into()),
            regex: Some(consumer.regex.unwrap_or("").into()),
            owned: Some(consumer.owned.clone()),
            ..join(&member, &consumer.topics)
        };
        if !whole {
            request.rebalance_timeout_ms = -1;
            request.topics = None;
            request.regex = None;
        }
        request
    }

    /// One heartbeat, whose answer may be lost.
    fn beat(&mut self, at: usize, lost: bool) {
        let consumer = &self.consumers[at];
        let whole = consumer.epoch == 0 || consumer.missed;
        let mut request = self.request(at, consumer.epoch, whole);
        if !whole && self.random.one_in(2) && self.consumers[at].owned == self.consumers[at].told {
            request.owned = None;
        }
        let result = self.scene.beat(&request);
        let consumer = &mut self.consumers[at];
        if lost {
            consumer.missed = true;
            return;
        }
        consumer.missed = false;
        match result {
            Ok(standing) => {
                consumer.epoch = standing.epoch;
                if let Some(assignment) = standing.assignment {
                    consumer.told = assignment;
                    // What is new is taken up at once: what it says next that it owns counts.
                    if consumer.owned.is_subset(&consumer.told) {
                        consumer.obey();
                    }
                }
            }
            Err(GroupError::FencedMemberEpoch | GroupError::UnknownMemberId) => consumer.forget(),
            // The process before it is still thought to be there.
            Err(GroupError::UnreleasedInstanceId) => {}
            Err(GroupError::GroupIdNotFound) if consumer.epoch > 0 => consumer.forget(),
            Err(error) => panic!("seed {}: consumer {at}: {error}", self.seed),
        }
    }

    fn leave(&mut self, at: usize) {
        let consumer = &self.consumers[at];
        let epoch = if consumer.fixed { -2 } else { -1 };
        if consumer.epoch > 0 {
            let request = self.request(at, epoch, false);
            // One that is out by now cannot leave.
            drop(self.scene.beat(&request));
        }
        self.consumers[at].die();
    }

    fn step(&mut self) {
        let at = self.random.below(CONSUMERS);
        let up = self.consumers[at].up;
        match self.random.below(20) {
            0 if up => self.consumers[at].die(),
            1 if up => self.leave(at),
            2 if up => {
                let consumer = &mut self.consumers[at];
                consumer.subscribe(&mut self.random);
                consumer.missed = true;
            }
            3 => self.change_topics(),
            4 => self.scene.restart(config()),
            5 | 6 => self.scene.pass(Duration::from_millis(500)),
            7 if self.random.one_in(4) => self.be_heard(4),
            8..=10 if up => self.consumers[at].obey(),
            _ if up => {
                let lost = self.random.one_in(8);
                self.beat(at, lost);
            }
            _ => {
                self.consumers[at].up = true;
                self.consumers[at].starts += 1;
            }
        }
        self.check();
    }

    fn change_topics(&mut self) {
        let name = TOPICS[self.random.below(TOPICS.len())];
        let partitions = self.scene.topics.named(name).map(|(_, count)| count);
        match partitions {
            None => {
                self.scene.topics.create(name, 4);
            }
            Some(count) if self.random.one_in(2) && count < 12 => {
                self.scene.topics.grow(name, count + 2);
            }
            Some(_) => self.scene.topics.delete(name),
        }
        self.scene.topics_changed();
    }

    /// No partition is read by two.
    fn check(&self) {
        let mut readers: BTreeMap<TopicPartition, usize> = BTreeMap::new();
        for (at, consumer) in self.consumers.iter().enumerate() {
            for tp in consumer.owned.iter() {
                let other = readers.insert(tp, at);
                assert_eq!(other, None, "seed {}: {tp} is read by {at} too", self.seed);
            }
        }
    }

    fn settle(&mut self) {
        let patience = SESSION + Duration::from_millis(REBALANCE_MS.unsigned_abs().into());
        self.be_heard(3 * patience.as_secs() / 5);
    }

    /// Everybody who is up is heard every five seconds; those who died may be out by then.
    fn be_heard(&mut self, times: u64) {
        for _ in 0..times {
            for at in 0..CONSUMERS {
                if self.consumers[at].up {
                    self.beat(at, false);
                    self.consumers[at].obey();
                }
                self.check();
            }
            self.scene.pass(Duration::from_secs(5));
        }
    }

    fn check_settled(&mut self) {
        let seed = self.seed;
        let changes = self.scene.changes;
        for at in 0..CONSUMERS {
            if self.consumers[at].up {
                self.beat(at, false);
            }
        }
        assert_eq!(
            self.scene.changes, changes,
            "seed {seed}: it does not come to rest"
        );
        let mut wanted = BTreeSet::new();
        for consumer in self.consumers.iter().filter(|consumer| consumer.up) {
            let reads = |name: &str| {
                let matches = consumer.regex.is_some() && name.starts_with("orders-");
                matches || consumer.topics.contains(&name)
            };
            let read = self.scene.topics.all().filter(|(name, _, _)| reads(name));
            let read: BTreeMap<_, _> = read.map(|(_, id, count)| (id, count)).collect();
            for tp in consumer.owned.iter() {
                assert!(
                    read.contains_key(&tp.topic),
                    "seed {seed}: {tp} is not read"
                );
            }
            for (topic, count) in read {
                wanted.extend((0..count).map(|index| TopicPartition {
                    topic,
                    partition: PartitionIndex(index),
                }));
            }
        }
        let owned = self.consumers.iter().flat_map(|c| c.owned.iter());
        assert_eq!(
            owned.collect::<BTreeSet<_>>(),
            wanted,
            "seed {seed}: all is read"
        );
    }
}

#[test]
fn no_partition_is_read_by_two_and_it_all_settles() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.settle();
        world.check_settled();
    }
}
