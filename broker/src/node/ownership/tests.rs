//! One node, and brokers that are only registered: what partitions go through on their way to
//! another broker and back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use firn_proto::cluster::{
    Listener, MovePartition, PartitionEnd, RegisterBroker, RegisteredBroker, ReleasePartition,
    ReleasePartitions, SecurityProtocol,
};
use firn_proto::ids::BrokerId;
use firn_storage::bucket::Bucket;
use firn_storage::bucket::testing::{Fault, FaultStore, On, Rule};
use firn_tests::client::{Client, code, fetch_request, produce_request};
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
/// Puts that fail until the bucket takes a slot: a few tenths of a second.
const SLOWED_BY: u64 = 3;
/// The first version of Produce that names the leader (KIP-951).
const LEADERS_FROM: i16 = 10;

/// A node and the bucket behind it.
struct Broker {
    runtime: Runtime,
    node: Node,
    store: FaultStore,
    bucket: Bucket,
}

impl Broker {
    fn start(partitions: i32) -> Self {
        let runtime = Runtime::new().unwrap();
        let machine = World::of_machine();
        let store = FaultStore::in_memory();
        let bucket = Bucket::from_store(
            Arc::new(store.clone()),
            Arc::clone(&machine.clock),
            Arc::clone(&machine.entropy),
        );
        let world = World {
            bucket: Some(bucket.clone()),
            ..machine
        };
        let node = runtime.block_on(Node::start_in(world, config())).unwrap();
        let broker = Self {
            runtime,
            node,
            store,
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

    /// The next slots of the WAL are put again and again before the bucket takes them.
    fn slow_down(&self) {
        let refused = Rule::new(On::Put, Fault::FailedBefore).key("wal/");
        self.store.inject(refused.times(SLOWED_BY));
    }

    /// Asks for the first `count` partitions to go to the other broker, and waits until they have.
    fn move_to_other(&self, count: usize) {
        self.ask_to_move(count);
        self.wait_owned(count, OTHER);
    }

    fn ask_to_move(&self, count: usize) {
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

/// A client that is sent back without a name asks for metadata, finds what it knows, and waits: it
/// is answered when there is a name.
#[test]
fn who_produces_to_a_partition_that_leaves_is_told_where_it_goes() {
    let broker = Broker::start(2);
    broker.register_other();
    let mut client = broker.client();
    broker.slow_down();
    broker.ask_to_move(1);
    let refused = wait::until("a batch to be refused", wait::PATIENCE, || {
        let batch = encode_batch(&[Record::new("k", "v")], ProducerFields::NONE);
        let request = produce_request(TOPIC, MOVED, batch, -1);
        let answered = client.connection.call(LEADERS_FROM, &request).unwrap();
        (answered.responses[0].partition_responses[0].error_code != code::NONE).then_some(answered)
    });
    let partition = &refused.responses[0].partition_responses[0];
    assert_eq!(partition.error_code, code::NOT_LEADER_OR_FOLLOWER);
    assert_eq!(partition.current_leader.leader_id.0, OTHER.0);
    assert_eq!(refused.node_endpoints[0].node_id.0, OTHER.0);
}

/// Its producers come as soon as they are told, and before the state of its past is written here.
#[test]
fn a_batch_for_a_partition_that_comes_waits_until_it_is_open() {
    let broker = Broker::start(2);
    let mut client = broker.client();
    assert_eq!(client.append(TOPIC, MOVED, &[Record::new("k", "0")]), 0);
    let other = broker.register_other();
    broker.move_to_other(1);
    broker.slow_down();
    broker.leave(&other);
    wait::until("the owner", wait::PATIENCE, || {
        let owner = broker.topic().partitions[MOVED as usize].owner?;
        (owner.broker == broker.own()).then_some(())
    });
    assert_eq!(client.append(TOPIC, MOVED, &[Record::new("k", "1")]), 1);
}

/// What is damaged in the bucket serves nobody, here or elsewhere, and holds up no drain.
#[test]
fn a_partition_that_cannot_be_opened_goes_on_to_who_wants_it() {
    let broker = Broker::start(2);
    let mut client = broker.client();
    assert_eq!(client.append(TOPIC, MOVED, &[Record::new("k", "v")]), 0);
    let other = broker.register_other();
    broker.move_to_other(1);
    let damage = Rule::new(On::Get, Fault::BitFlip).key("wal/");
    broker.store.inject(damage.times(u64::MAX));
    let image = broker.topic().partitions[MOVED as usize].clone();
    let tp = TopicPartition {
        topic: broker.topic().id,
        partition: PartitionIndex(MOVED),
    };
    broker.ask(Request::MovePartitions(vec![MovePartition {
        tp,
        epoch: image.epoch,
        to: broker.own(),
    }]));
    // the other broker never had it open
    let released = broker.ask(Request::ReleasePartitions(ReleasePartitions {
        incarnation: other.incarnation,
        released: vec![ReleasePartition {
            end: PartitionEnd {
                tp,
                epoch: image.epoch,
                stream: other.stream,
                end_offset: 1,
            },
            row: None,
        }],
    }));
    assert_eq!(released, Reply::Released(vec![Ok(())]));
    wait::until("a partition that is not open", wait::PATIENCE, || {
        let image = broker.topic().partitions[MOVED as usize].clone();
        let is_ours = image.owner?.broker == broker.own();
        let gets = broker
            .store
            .hits()
            .into_iter()
            .any(|(on, ..)| on == On::Get);
        (is_ours && gets).then_some(())
    });
    broker.ask_to_move(1);
    broker.wait_owned(1, OTHER);
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
    follower.again = None;
    follower.follow(&ClusterImage::default());
    let confirmed = follower.confirming.take().unwrap().await;
    follower.on_confirmed(confirmed);
    assert_eq!(follower.unconfirmed, []);
}

fn requests(bucket: &Bucket) -> u64 {
    bucket.usage().rows.iter().map(|row| row.requests).sum()
}
