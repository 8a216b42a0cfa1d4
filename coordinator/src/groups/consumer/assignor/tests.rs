use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn topic(n: u8) -> TopicId {
    TopicId([n; 16])
}

/// Members as "id reads these topics", in their order, with what they had before.
struct Room {
    ids: Vec<Arc<str>>,
    instances: Vec<Option<Arc<str>>>,
    topics: Vec<Arc<BTreeSet<TopicId>>>,
    partitions: BTreeMap<TopicId, i32>,
    before: BTreeMap<Arc<str>, Assignment>,
}

impl Room {
    fn new(members: &[(&str, &[u8])], partitions: &[(u8, i32)]) -> Self {
        let reads = |topics: &[u8]| topics.iter().map(|n| topic(*n)).collect();
        Self {
            ids: members.iter().map(|(id, _)| Arc::from(*id)).collect(),
            instances: vec![None; members.len()],
            topics: members.iter().map(|(_, t)| Arc::new(reads(t))).collect(),
            partitions: partitions
                .iter()
                .map(|(n, count)| (topic(*n), *count))
                .collect(),
            before: BTreeMap::new(),
        }
    }

    fn assign(&self, assignor: Assignor) -> BTreeMap<Arc<str>, Assignment> {
        let none = Assignment::default();
        let members = self.ids.iter().enumerate().map(|(at, id)| {
            let candidate = Candidate {
                instance: self.instances[at].as_ref(),
                topics: Arc::clone(&self.topics[at]),
                before: self.before.get(id).unwrap_or(&none),
            };
            (id, candidate)
        });
        let targets = assignor.assign(&Assigning {
            members: members.collect(),
            partitions: self.partitions.clone(),
        });
        self.check(&targets);
        targets
    }

    fn reads(&self, at: usize, tp: TopicPartition) -> bool {
        self.topics[at].contains(&tp.topic)
    }

    /// Each partition that anybody reads is with one member that reads it; no other is with any.
    fn check(&self, targets: &BTreeMap<Arc<str>, Assignment>) {
        let mut given = BTreeSet::new();
        for (at, id) in self.ids.iter().enumerate() {
            for tp in targets[id].iter() {
                assert!(self.reads(at, tp), "{id} does not read {tp}");
                assert!(given.insert(tp), "{tp} is given twice");
            }
        }
        let read: BTreeSet<TopicId> = self.topics.iter().flat_map(|t| t.iter().copied()).collect();
        let wanted = read.iter().flat_map(|topic| {
            let count = self.partitions.get(topic).copied().unwrap_or(0);
            (0..count).map(|index| TopicPartition {
                topic: *topic,
                partition: PartitionIndex(index),
            })
        });
        assert_eq!(given, wanted.collect());
    }

    /// No partition is with a member that has two more than another one that reads it.
    fn check_fair(&self, targets: &BTreeMap<Arc<str>, Assignment>) {
        for id in &self.ids {
            for tp in targets[id].iter() {
                for (at, other) in self.ids.iter().enumerate() {
                    let (here, there) = (targets[id].len(), targets[other].len());
                    let fair = !self.reads(at, tp) || here <= there + 1;
                    assert!(fair, "{tp} is with {id} ({here}), not {other} ({there})");
                }
            }
        }
    }
}

fn shown(targets: &BTreeMap<Arc<str>, Assignment>) -> Vec<String> {
    let member = |(id, target): (&Arc<str>, &Assignment)| {
        let parts = target
            .iter()
            .map(|tp| format!(" {}-{}", tp.topic.0[0], tp.partition.0));
        format!("{id}:{}", parts.collect::<String>())
    };
    targets.iter().map(member).collect()
}

#[test]
fn range_gives_neighbours_and_the_first_members_one_more() {
    let room = Room::new(
        &[("a", &[1, 2]), ("b", &[1, 2]), ("c", &[2])],
        &[(1, 5), (2, 4)],
    );
    let targets = room.assign(Assignor::Range);
    assert_eq!(
        shown(&targets),
        ["a: 1-0 1-1 1-2 2-0 2-1", "b: 1-3 1-4 2-2", "c: 2-3"]
    );
}

#[test]
fn range_cuts_topics_of_one_size_alike_and_takes_static_members_first() {
    let mut room = Room::new(&[("a", &[1, 2]), ("z", &[1, 2])], &[(1, 3), (2, 3)]);
    room.instances[1] = Some("first".into());
    let targets = room.assign(Assignor::Range);
    assert_eq!(shown(&targets), ["a: 1-2 2-2", "z: 1-0 1-1 2-0 2-1"]);
}

#[test]
fn range_leaves_members_without_partitions_where_there_are_too_few() {
    let room = Room::new(&[("a", &[1]), ("b", &[1]), ("c", &[1])], &[(1, 2)]);
    assert_eq!(
        shown(&room.assign(Assignor::Range)),
        ["a: 1-0", "b: 1-1", "c:"]
    );
}

#[test]
fn uniform_deals_partitions_of_each_topic_to_all() {
    let room = Room::new(&[("a", &[1, 2]), ("b", &[1, 2])], &[(1, 3), (2, 3)]);
    let targets = room.assign(Assignor::Uniform);
    assert_eq!(shown(&targets), ["a: 1-0 1-2 2-1", "b: 1-1 2-0 2-2"]);
}

#[test]
fn uniform_takes_no_more_from_members_than_a_new_one_is_to_get() {
    let mut room = Room::new(&[("a", &[1]), ("b", &[1])], &[(1, 7)]);
    room.before = room.assign(Assignor::Uniform);
    let grown = Room {
        before: room.before.clone(),
        ..Room::new(&[("a", &[1]), ("b", &[1]), ("c", &[1])], &[(1, 7)])
    };
    let targets = grown.assign(Assignor::Uniform);
    let loads: Vec<_> = targets.values().map(Assignment::len).collect();
    assert_eq!(loads, [3, 2, 2]);
    for (id, before) in &room.before {
        assert!(
            targets[id].is_subset(before),
            "{id} got another one instead"
        );
    }
}

#[test]
fn uniform_is_fair_where_members_read_different_topics() {
    let members: &[(&str, &[u8])] = &[("a", &[1]), ("b", &[1, 2]), ("c", &[2, 3])];
    let room = Room::new(members, &[(1, 6), (2, 2), (3, 1)]);
    let targets = room.assign(Assignor::Uniform);
    let loads: Vec<_> = targets.values().map(Assignment::len).collect();
    assert_eq!(loads, [3, 3, 3]);
}

#[test]
fn nobody_reads_nothing_and_topics_may_be_gone() {
    for assignor in [Assignor::Uniform, Assignor::Range] {
        assert!(Room::new(&[], &[]).assign(assignor).is_empty());
        let room = Room::new(&[("a", &[]), ("b", &[1])], &[(1, 1)]);
        assert_eq!(shown(&room.assign(assignor)), ["a:", "b: 1-0"]);
    }
}

fn rooms() -> impl Strategy<Value = (Vec<BTreeSet<u8>>, Vec<BTreeSet<u8>>, Vec<i32>)> {
    let members = || prop::collection::vec(prop::collection::btree_set(0..4_u8, 0..4), 1..8);
    (members(), members(), prop::collection::vec(0..9_i32, 4))
}

fn room_of(members: &[BTreeSet<u8>], counts: &[i32]) -> Room {
    let names: Vec<String> = (0..members.len()).map(|n| format!("m{n}")).collect();
    let topics: Vec<Vec<u8>> = members
        .iter()
        .map(|t| t.iter().copied().collect())
        .collect();
    let members: Vec<(&str, &[u8])> = names
        .iter()
        .zip(&topics)
        .map(|(name, topics)| (name.as_str(), topics.as_slice()))
        .collect();
    let counts: Vec<(u8, i32)> = (0..4).zip(counts.iter().copied()).collect();
    Room::new(&members, &counts)
}

proptest! {
    #[test]
    fn assignments_are_whole_fair_and_stay_if_nothing_changes(
        (before, after, counts) in rooms(),
    ) {
        let first = room_of(&before, &counts).assign(Assignor::Uniform);
        let mut room = room_of(&after, &counts);
        room.before = first;
        let targets = room.assign(Assignor::Uniform);
        room.check_fair(&targets);
        room.before = targets.clone();
        prop_assert_eq!(room.assign(Assignor::Uniform), targets);
        room.assign(Assignor::Range);
    }
}
