use firn_proto::cluster::{
    NewTopic, PartitionEnd, RegisterBroker, ReleasePartition, ReleasePartitions, Reply,
};
use proptest::prelude::*;

use super::*;
use crate::command::{Command, DrainBroker, IdentifiedTopic, Stamped};

#[derive(Default)]
struct Cluster(State);

impl Cluster {
    fn apply(&mut self, command: Command) -> Reply {
        let at_ms = self.0.at_ms() + 1;
        self.0.apply(&Stamped { at_ms, command }).reply
    }

    fn join(&mut self, broker: i32) {
        self.apply(Command::RegisterBroker(RegisterBroker {
            broker: Some(BrokerId(broker)),
            listeners: Vec::new(),
            rack: None,
            disk: None,
            link: None,
        }));
    }

    fn drain(&mut self, broker: i32, drain: bool) {
        let broker = BrokerId(broker);
        self.apply(Command::DrainBroker(DrainBroker { broker, drain }));
    }

    fn create(&mut self, number: u128, partitions: i32) -> TopicId {
        let id = TopicId::from_random(number << 96);
        let topic = NewTopic {
            name: format!("t{number}"),
            partitions,
            replication_factor: 1,
            owners: Vec::new(),
            configs: Vec::new(),
        };
        self.apply(Command::CreateTopics(vec![IdentifiedTopic { id, topic }]));
        id
    }

    fn ask(&mut self, moves: Vec<MovePartition>) {
        let Reply::Moved(results) = self.apply(Command::MovePartitions(moves)) else {
            panic!("moves are answered with what became of them");
        };
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }

    /// Owners release all that they were asked for; nothing was written.
    fn release_all(&mut self) {
        let mut released = Vec::new();
        for (id, topic) in self.0.topics().iter() {
            for (index, partition) in topic.image.partitions.iter().enumerate() {
                if let (Some(owner), Some(_)) = (partition.owner, partition.moving_to) {
                    let end = PartitionEnd {
                        tp: partition_at(id, index),
                        epoch: partition.epoch,
                        stream: owner.stream,
                        end_offset: 0,
                    };
                    let body = ReleasePartitions {
                        incarnation: owner.incarnation,
                        released: vec![ReleasePartition { end, row: None }],
                    };
                    released.push(body);
                }
            }
        }
        for body in released {
            self.apply(Command::ReleasePartitions(body));
        }
    }

    /// Moves until nothing should; how many partitions moved.
    fn settle(&mut self, in_flight_max: usize) -> usize {
        let mut moved = 0;
        loop {
            let next = moves(&self.0, in_flight_max);
            if next.is_empty() {
                return moved;
            }
            assert!(next.len() <= in_flight_max);
            moved += next.len();
            self.ask(next);
            self.release_all();
        }
    }

    fn loads(&self, topic: Option<TopicId>) -> BTreeMap<i32, usize> {
        let mut loads: BTreeMap<_, _> = self.0.brokers().keys().map(|id| (id.0, 0)).collect();
        for (id, found) in self.0.topics().iter() {
            let meant = topic.is_none_or(|topic| topic == id);
            let partitions = found.image.partitions.iter().filter(|_| meant);
            for owner in partitions.filter_map(|partition| partition.owner) {
                *loads.entry(owner.broker.0).or_default() += 1;
            }
        }
        loads
    }
}

fn spread(loads: &BTreeMap<i32, usize>) -> usize {
    let most = loads.values().max().copied().unwrap_or(0);
    most - loads.values().min().copied().unwrap_or(0)
}

/// A third broker takes a third of what two had, of every topic, and nothing moves between the two.
#[test]
fn ten_thousand_partitions_spread_over_a_third_broker() {
    let mut cluster = Cluster::default();
    cluster.join(1);
    cluster.join(2);
    let topics: Vec<_> = (1..=100)
        .map(|number| cluster.create(number, 100))
        .collect();
    assert_eq!(cluster.settle(50), 0, "two have the same");
    cluster.join(3);
    let all = moves(&cluster.0, usize::MAX);
    assert!(all.iter().all(|asked| asked.to == BrokerId(3)));
    assert_eq!(cluster.settle(500), 3333);
    assert_eq!(spread(&cluster.loads(None)), 1);
    for topic in topics {
        let loads = cluster.loads(Some(topic));
        assert!(spread(&loads) <= 2, "{loads:?}");
    }
}

#[test]
fn no_more_moves_are_asked_for_than_may_be_under_way() {
    let mut cluster = Cluster::default();
    cluster.join(1);
    cluster.create(1, 30);
    cluster.join(2);
    let first = moves(&cluster.0, 4);
    assert_eq!(first.len(), 4);
    cluster.ask(first);
    assert!(moves(&cluster.0, 4).is_empty());
    assert_eq!(moves(&cluster.0, 6).len(), 2);
    assert_eq!(
        moves(&cluster.0, 100).len(),
        11,
        "half of all, with those under way"
    );
}

#[test]
fn a_broker_that_drains_gives_all_and_is_served_first() {
    let mut cluster = Cluster::default();
    cluster.join(1);
    cluster.create(1, 12);
    cluster.join(2);
    cluster.settle(3);
    cluster.join(3);
    cluster.drain(2, true);
    let next = moves(&cluster.0, 6);
    let owner = |asked: &MovePartition| {
        let (partition, _) = cluster.0.topics().partition(asked.tp).unwrap();
        partition.owner.unwrap().broker
    };
    assert!(next.iter().all(|asked| owner(asked) == BrokerId(2)));
    assert!(next.iter().all(|asked| asked.to == BrokerId(3)));
    cluster.settle(2);
    assert_eq!(
        cluster.loads(None),
        BTreeMap::from([(1, 6), (2, 0), (3, 6)])
    );
    cluster.drain(2, false);
    assert_eq!(cluster.settle(2), 4);
    assert_eq!(spread(&cluster.loads(None)), 0);
}

#[test]
fn nothing_moves_where_nobody_could_take_it() {
    let mut cluster = Cluster::default();
    assert!(moves(&cluster.0, 10).is_empty());
    cluster.join(1);
    cluster.create(1, 5);
    assert!(moves(&cluster.0, 10).is_empty());
    cluster.drain(1, true);
    assert!(moves(&cluster.0, 10).is_empty());
    cluster.join(2);
    cluster.drain(2, true);
    assert!(moves(&cluster.0, 10).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a cluster looks like, it comes to rest, even, with nothing left on those that
    /// drain, and no partition has moved without need.
    #[test]
    fn a_cluster_becomes_even_with_the_fewest_moves(
        topics in proptest::collection::vec((0..6i32, 1..9i32), 1..8),
        drains in proptest::collection::btree_set(0..6i32, 0..4),
        in_flight_max in 1..5usize,
    ) {
        let mut cluster = Cluster::default();
        let mut joined = BTreeSet::new();
        for (number, (broker, partitions)) in (1..).zip(topics) {
            if joined.insert(broker) {
                cluster.join(broker);
            }
            cluster.create(number, partitions);
        }
        for broker in drains {
            cluster.drain(broker, true);
        }
        let before = cluster.loads(None);
        let drains = |id: &i32| cluster.0.brokers().get(&BrokerId(*id)).unwrap().draining;
        let staying: Vec<_> = before.keys().copied().filter(|id| !drains(id)).collect();
        let total: usize = before.values().sum();
        let moved = cluster.settle(in_flight_max);
        let after = cluster.loads(None);
        prop_assert_eq!(total, after.values().sum::<usize>());
        if staying.is_empty() {
            prop_assert_eq!(moved, 0);
            return Ok(());
        }
        let on = |loads: &BTreeMap<i32, usize>| {
            let kept = loads.iter().filter(|(id, _)| staying.contains(id));
            kept.map(|(id, load)| (*id, *load)).collect::<BTreeMap<_, _>>()
        };
        prop_assert_eq!(total, on(&after).values().sum::<usize>());
        prop_assert!(spread(&on(&after)) <= 1);
        let gained = after.iter().map(|(id, load)| load.saturating_sub(before[id]));
        prop_assert_eq!(moved, gained.sum::<usize>(), "nobody gives and takes");
    }
}
