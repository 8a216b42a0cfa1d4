//! One node, and brokers that are only registered: what partitions go through on their way to
//! another broker and back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use firn_proto::cluster::{
    Listener, MovePartition, RegisterBroker, RegisteredBroker, SecurityProtocol,
};
use firn_proto::ids::BrokerId;
use firn_storage::bucket::Bucket;
use firn_tests::client::{Client, code, fetch_request};
use firn_tests::records::{ProducerFields, Record, encode_batch};
use firn_tests::wait;
use tokio::runtime::Runtime;

use super::*;
use crate::config::{Config, Pair, Profile, Source};
use crate::node::{Node, World};

const TOPIC: &str = "moved";
/// The one that moves.
const MOVED: i32 = 0;
/// The one that stays.
const KEPT: i32 = 1;
const OTHER: BrokerId = BrokerId(2);

/// A node and the bucket behind it.
struct Broker {
    runtime: Runtime,
    node: Node,
    bucket: Bucket,
}

impl Broker {
    fn start(partitions: i32) -> Self {
        let runtime = Runtime::new().unwrap();
        let machine = World::of_machine();
        let bucket = Bucket::memory(Arc::clone(&machine.clock), Arc::clone(&machine.entropy));
        let world = World {
            bucket: Some(bucket.clone()),
            ..machine
        };
        let node = runtime.block_on(Node::start_in(world, config())).unwrap();
        let broker = Self {
            runtime,
            node,
            bucket,
        };
        broker.client().create_topic(TOPIC, partitions, &[]);
        broker
    }

    fn client(&self) -> Client {
        Client::connect(self.node.listeners()[0].bound).unwrap()
    }

    fn ask(&self, request: Request) -> Reply {
        let coordinator = &self.node.parts.coordinator;
        self.runtime.block_on(coordinator.call(request)).unwrap()
    }

    /// A broker that is alive as far as anybody can see, and never does anything.
    fn register_other(&self) -> RegisteredBroker {
        let listener = self.node.listeners()[0].bound;
        let registered = self.ask(Request::RegisterBroker(RegisterBroker {
            broker: Some(OTHER),
            listeners: vec![Listener {
                name: "KAFKA".to_owned(),
                security: SecurityProtocol::Plaintext,
                host: listener.ip().to_string(),
                port: listener.port(),
            }],
            rack: None,
            disk: None,
            link: None,
        }));
        match registered {
            Reply::RegisterBroker(registered) => registered,
            other => panic!("{other:?}"),
        }
    }

    fn leave(&self, other: &RegisteredBroker) {
        self.ask(Request::LeaveBroker(other.incarnation));
    }

    fn topic(&self) -> Arc<TopicImage> {
        let image = self.node.parts.coordinator.image();
        let image = image.borrow();
        Arc::clone(image.topic_named(TOPIC).unwrap())
    }

    /// Asks for the first `count` partitions to go to the other broker, and waits until they have.
    fn move_to_other(&self, count: usize) {
        let topic = self.topic();
        let partitions = (0..).map(PartitionIndex).zip(&topic.partitions);
        let moves = partitions
            .take(count)
            .map(|(partition, image)| MovePartition {
                tp: TopicPartition {
                    topic: topic.id,
                    partition,
                },
                epoch: image.epoch,
                to: OTHER,
            });
        let Reply::Moved(moved) = self.ask(Request::MovePartitions(moves.collect())) else {
            panic!("the wrong reply");
        };
        assert_eq!(moved, vec![Ok(()); count]);
        self.wait_owned(count, OTHER);
    }

    /// Waits until a broker owns the first `count` partitions, and this one serves its own.
    fn wait_owned(&self, count: usize, by: BrokerId) {
        wait::until("the move", wait::PATIENCE, || {
            let topic = self.topic();
            let owned = topic.partitions.iter().zip(0..).take(count);
            let is_there = owned.into_iter().all(|(partition, index)| {
                let tp = TopicPartition {
                    topic: topic.id,
                    partition: PartitionIndex(index),
                };
                let open = self.node.parts.partitions.find_tp(tp);
                let epoch = open.map(|open| open.epoch());
                partition.owner.is_some_and(|owner| owner.broker == by)
                    && (epoch == Some(partition.epoch)) == (by != OTHER)
            });
            is_there.then_some(())
        });
    }

    fn own(&self) -> BrokerId {
        self.node.parts.registered.broker
    }
}

fn config() -> Arc<Config> {
    let pairs = [
        ("bucket", "memory://"),
        ("http", "none"),
        ("kafka", "127.0.0.1:0"),
        ("wal", "none"),
    ];
    let pairs = pairs.map(|(key, value)| Pair::new(key, value, Source::Override));
    Arc::new(Config::new(Profile::Dev, pairs.to_vec()).unwrap())
}

/// A batch of one record, whose sequence number is its value.
fn batch(producer: ProducerFields, sequence: i32) -> Bytes {
    let record = Record::new("key", sequence.to_string());
    let producer = ProducerFields {
        base_sequence: sequence,
        ..producer
    };
    encode_batch(&[record], producer)
}

/// The records of a partition, as the numbers they were sent with.
fn numbers(client: &mut Client, partition: i32) -> Vec<i32> {
    let records = client.read(TOPIC, partition, 0);
    let numbers = records.iter().map(|stored| {
        let value = stored.record.value.as_ref().unwrap();
        std::str::from_utf8(value).unwrap().parse().unwrap()
    });
    numbers.collect()
}

#[test]
fn a_partition_goes_to_another_broker_and_comes_back_with_its_offsets_and_producers() {
    let broker = Broker::start(2);
    let mut client = broker.client();
    let producer = client.init_producer();
    for sequence in 0..3 {
        let produced = client.produce(TOPIC, MOVED, batch(producer, sequence));
        assert_eq!(produced.unwrap().base_offset, i64::from(sequence));
    }
    let other = broker.register_other();
    broker.move_to_other(1);
    let refused = client.produce(TOPIC, MOVED, batch(producer, 3)).unwrap();
    assert_eq!(refused.error, code::NOT_LEADER_OR_FOLLOWER);
    let refused = client.fetch(TOPIC, MOVED, 0).unwrap();
    assert_eq!(refused.error, code::NOT_LEADER_OR_FOLLOWER);
    let metadata = client.metadata(TOPIC).unwrap();
    let partition = &metadata.topics[0].partitions;
    let moved = partition.iter().find(|p| p.partition_index == MOVED);
    assert_eq!(moved.unwrap().leader_id.0, OTHER.0);
    assert_eq!(client.append(TOPIC, KEPT, &[Record::new("k", "0")]), 0);

    broker.leave(&other);
    broker.wait_owned(1, broker.own());
    let repeated = client.produce(TOPIC, MOVED, batch(producer, 2)).unwrap();
    assert_eq!((repeated.error, repeated.base_offset), (code::NONE, 2));
    let gap = client.produce(TOPIC, MOVED, batch(producer, 4)).unwrap();
    assert_eq!(gap.error, code::OUT_OF_ORDER_SEQUENCE_NUMBER);
    let next = client.produce(TOPIC, MOVED, batch(producer, 3)).unwrap();
    assert_eq!((next.error, next.base_offset), (code::NONE, 3));
    assert_eq!(numbers(&mut client, MOVED), [0, 1, 2, 3]);
    let epochs = broker.topic().partitions[MOVED as usize].epoch;
    assert!(epochs.0 >= 2, "two moves: {epochs}");
    broker.runtime.block_on(broker.node.stop()).unwrap();
}

#[test]
fn who_waits_for_a_partition_that_moves_is_told_at_once() {
    let broker = Broker::start(2);
    broker.register_other();
    let mut waiting = broker.client();
    let request = fetch_request(TOPIC, MOVED, 0, 600_000);
    let version = firn_tests::client::FETCH_VERSION;
    waiting.connection.send(version, &request).unwrap();
    wait::until("a long poll", wait::PATIENCE, || {
        (broker.node.parts.partitions.waiting() == 1).then_some(())
    });
    broker.move_to_other(1);
    let answered = waiting
        .connection
        .receive::<kafka_protocol::messages::FetchRequest>(version)
        .unwrap();
    let partition = &answered.responses[0].partitions[0];
    assert_eq!(partition.error_code, code::NOT_LEADER_OR_FOLLOWER);
}

/// A producer that sends whatever is refused again, while its partition comes and goes.
#[test]
fn an_idempotent_producer_notices_nothing_of_moves_but_that_it_has_to_ask_again() {
    const MOVES: usize = 6;
    let broker = Broker::start(2);
    let is_over = AtomicBool::new(false);
    let mut client = broker.client();
    let producer = client.init_producer();
    let sent = thread::scope(|scope| {
        let producing = scope.spawn(|| {
            let mut sequence = 0;
            while !is_over.load(Ordering::Relaxed) {
                let produced = client.produce(TOPIC, MOVED, batch(producer, sequence));
                let produced = produced.unwrap();
                match produced.error {
                    code::NONE => {
                        assert_eq!(produced.base_offset, i64::from(sequence));
                        sequence += 1;
                    }
                    error => assert_eq!(error, code::NOT_LEADER_OR_FOLLOWER),
                }
            }
            sequence
        });
        for _ in 0..MOVES {
            let other = broker.register_other();
            broker.move_to_other(1);
            broker.leave(&other);
            broker.wait_owned(1, broker.own());
        }
        is_over.store(true, Ordering::Relaxed);
        producing.join().unwrap()
    });
    let all: Vec<i32> = (0..sent).collect();
    assert_eq!(numbers(&mut broker.client(), MOVED), all);
}

/// Where a node has crashed, the next one finds what moves and checkpoints have left.
#[test]
fn a_node_that_crashes_after_moves_is_taken_over_whole() {
    let broker = Broker::start(2);
    let mut client = broker.client();
    let producer = client.init_producer();
    let mut sequence = 0;
    for _ in 0..3 {
        let produced = client.produce(TOPIC, MOVED, batch(producer, sequence));
        assert_eq!(produced.unwrap().error, code::NONE);
        sequence += 1;
        let other = broker.register_other();
        broker.move_to_other(1);
        // the rows of the others are told meanwhile
        broker.node.parts.partitions.want_rows();
        broker.leave(&other);
        broker.wait_owned(1, broker.own());
    }
    let produced = client.produce(TOPIC, MOVED, batch(producer, sequence));
    assert_eq!(produced.unwrap().error, code::NONE);
    drop(broker.node);
    broker.runtime.shutdown_background();

    let runtime = Runtime::new().unwrap();
    let world = World {
        bucket: Some(broker.bucket),
        ..World::of_machine()
    };
    let node = runtime.block_on(Node::start_in(world, config())).unwrap();
    let mut client = Client::connect(node.listeners()[0].bound).unwrap();
    assert_eq!(numbers(&mut client, MOVED), [0, 1, 2, 3]);
    let repeated = client.produce(TOPIC, MOVED, batch(producer, sequence));
    assert_eq!(repeated.unwrap().base_offset, i64::from(sequence));
}

/// Partitions go and come back in bulk: what it costs does not grow with their number.
#[test]
fn thousands_of_partitions_move_with_few_requests() {
    const MANY: i32 = 3_000;
    let broker = Broker::start(MANY);
    let other = broker.register_other();
    let before = requests(&broker.bucket);
    broker.move_to_other(MANY as usize);
    broker.leave(&other);
    broker.wait_owned(MANY as usize, broker.own());
    let requests = requests(&broker.bucket) - before;
    assert!(requests < 200, "{requests} requests to the bucket");
    assert_eq!(
        broker
            .client()
            .append(TOPIC, MANY - 1, &[Record::new("k", "v")]),
        0
    );
}

#[tokio::test]
async fn a_deletion_is_confirmed_until_somebody_takes_note_of_it() {
    let world = World::of_machine();
    let bucket = Bucket::memory(Arc::clone(&world.clock), Arc::clone(&world.entropy));
    let world = World {
        bucket: Some(bucket.clone()),
        ..world
    };
    let node = Node::start_in(world, config()).await.unwrap();
    let parts = &node.parts;
    let movers = Movers {
        bucket,
        cluster: parts.registered.cluster,
        incarnation: parts.registered.incarnation,
        stream: parts.registered.stream,
        coordinator: parts.coordinator.clone(),
        partitions: Arc::clone(&parts.partitions),
        rows: Arc::clone(&parts.rows),
        wal: parts.wal.clone(),
        known: Arc::clone(&parts.known),
        env: firn_storage::stream::StreamEnv {
            clock: World::of_machine().clock,
            entropy: World::of_machine().entropy,
        },
        has_local_wal: false,
    };
    let mut follower = Follower::new(Arc::new(movers), CancellationToken::new());
    let topic = TopicImage {
        id: TopicId([7; 16]),
        name: "gone".into(),
        created_ms: 0,
        replication_factor: 1,
        configs: BTreeMap::new(),
        partitions: Vec::new(),
    };
    follower.seen.insert(topic.id, Arc::new(topic.clone()));
    follower.follow(&ClusterImage::default());
    assert_eq!(follower.unconfirmed, [topic.id], "nobody has taken note");
    let stopped = Err(CoordinatorError::Stopped);
    follower.on_confirmed((vec![topic.id], stopped));
    assert_eq!(follower.unconfirmed, [topic.id], "told again later");
    follower.look_again();
    follower.follow(&ClusterImage::default());
    let confirmed = follower.confirming.take().unwrap().await;
    follower.on_confirmed(confirmed);
    assert_eq!(follower.unconfirmed, []);
}

fn requests(bucket: &Bucket) -> u64 {
    bucket.usage().rows.iter().map(|row| row.requests).sum()
}
