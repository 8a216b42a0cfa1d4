//! Whole nodes in one process: what clients are told of them, and what is left of one that ends.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use firn_broker::config::{Config, Pair, Profile, Source};
use firn_broker::node::{Node, World};
use firn_proto::env::{Clock, Entropy, Mono};
use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::create_topics::{CreatableTopic, CreateTopicsRequest};
use firn_proto::kafka::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use firn_proto::kafka::{Reader, Request, Response, read_response_header};
use firn_storage::bucket::Bucket;
use firn_storage::bucket::testing::{Fault, FaultStore, On, Rule};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CREATE_TOPICS: i16 = 5;
const METADATA: i16 = 12;

fn config(pairs: &[(&str, &str)]) -> Arc<Config> {
    let fixed = [("http", "none"), ("kafka", "127.0.0.1:0")];
    let fixed = fixed.map(|(key, value)| Pair::new(key, value, Source::Default));
    let pairs = pairs.iter();
    let pairs = pairs.map(|(key, value)| Pair::new(key, value, Source::Override));
    let pairs = fixed.into_iter().chain(pairs);
    Arc::new(Config::new(Profile::Dev, pairs.collect()).unwrap())
}

fn directory() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().join("bucket").display());
    (folder, url)
}

async fn ask(address: SocketAddr, version: i16, request: impl Into<Request>) -> Response {
    let request = request.into();
    let mut socket = TcpStream::connect(address).await.unwrap();
    let frame = request.encode(version, 1, None);
    socket.write_all(&frame.to_bytes()).await.unwrap();
    let mut answer = vec![0; socket.read_i32().await.unwrap().try_into().unwrap()];
    socket.read_exact(&mut answer).await.unwrap();
    let mut reader = Reader::new(answer.into());
    read_response_header(&mut reader, request.api(), version).unwrap();
    Response::read(request.api(), version, &mut reader).unwrap()
}

async fn metadata(address: SocketAddr, topic: &str) -> MetadataResponse {
    let topic = MetadataRequestTopic {
        name: Some(topic.to_owned()),
        ..MetadataRequestTopic::default()
    };
    let request = MetadataRequest {
        topics: Some(vec![topic]),
        allow_auto_topic_creation: false,
        ..MetadataRequest::default()
    };
    match ask(address, METADATA, request).await {
        Response::Metadata(metadata) => metadata,
        other => panic!("{other:?}"),
    }
}

async fn create(node: &Node, topic: &str) {
    let topic = CreatableTopic {
        name: topic.to_owned(),
        num_partitions: 1,
        replication_factor: 1,
        ..CreatableTopic::default()
    };
    let request = CreateTopicsRequest {
        topics: vec![topic],
        timeout_ms: 10_000,
        ..CreateTopicsRequest::default()
    };
    ask(node.listeners()[0].bound, CREATE_TOPICS, request).await;
}

#[tokio::test]
async fn clients_are_told_the_address_of_the_listener_they_came_in_on() {
    let listeners = "KAFKA=plaintext://127.0.0.1:0 IN=plaintext://127.0.0.1:0 \
                     OUT=plaintext://127.0.0.1:0,advertise=kafka.example:19092 \
                     V6=plaintext://[::1]:0,advertise=[2001:db8::7]:9092";
    let config = config(&[("bucket", "memory://"), ("listeners", listeners)]);
    let node = Node::start(config).await.unwrap();
    let mut told = Vec::new();
    for listener in node.listeners() {
        let metadata = metadata(listener.bound, "t").await;
        let broker = &metadata.brokers[0];
        told.push((listener.name.clone(), broker.host.clone(), broker.port));
    }
    let own = i32::from(node.listeners()[1].bound.port());
    assert_eq!(
        told,
        [
            (
                "KAFKA".to_owned(),
                "127.0.0.1".to_owned(),
                i32::from(node.listeners()[0].bound.port())
            ),
            ("IN".to_owned(), "127.0.0.1".to_owned(), own),
            ("OUT".to_owned(), "kafka.example".to_owned(), 19092),
            ("V6".to_owned(), "2001:db8::7".to_owned(), 9092),
        ]
    );
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_restart_begins_the_next_epoch_of_every_partition() {
    let (_folder, url) = directory();
    let config = config(&[("bucket", &url)]);
    for epoch in 0..3 {
        let node = Node::start(Arc::clone(&config)).await.unwrap();
        if epoch == 0 {
            create(&node, "t").await;
        }
        let metadata = metadata(node.listeners()[0].bound, "t").await;
        let partition = &metadata.topics[0].partitions[0];
        assert_eq!((partition.leader_id, partition.leader_epoch), (1, epoch));
        node.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_second_process_of_a_broker_that_lives_is_told_so_and_the_first_goes_on() {
    let (folder, url) = directory();
    let config = config(&[("bucket", &url), ("broker.id", "7")]);
    let first = Node::start(Arc::clone(&config)).await.unwrap();
    let second = Node::start(config).await;
    let error = second.err().unwrap().to_string();
    assert!(error.contains("broker id 7 is taken"), "{error}");
    let cards = std::fs::read_dir(folder.path().join("bucket/meta/brokers"));
    assert_eq!(
        cards.unwrap().count(),
        1,
        "of a start that failed none is left"
    );
    create(&first, "on").await;
    let metadata = metadata(first.listeners()[0].bound, "on").await;
    assert_eq!(metadata.topics[0].partitions[0].leader_id, 7);
    first.stop().await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_named_before_the_bucket_is_touched() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (folder, url) = directory();
    let error = Node::start(config(&[("bucket", &url), ("kafka", &address)])).await;
    let error = error.err().unwrap().to_string();
    assert!(
        error.contains(&address) && error.contains("--kafka"),
        "{error}"
    );
    assert!(!folder.path().join("bucket").exists());
}

#[tokio::test]
async fn a_node_starts_in_the_world_it_is_given() {
    let world = || World::of_machine();
    let bucket = Bucket::memory(world().clock, world().entropy);
    let config = config(&[("bucket", "memory://")]);
    for epoch in 0..2 {
        let world = World {
            bucket: Some(bucket.clone()),
            ..world()
        };
        let node = Node::start_in(world, Arc::clone(&config)).await.unwrap();
        if epoch == 0 {
            create(&node, "kept").await;
        }
        let metadata = metadata(node.listeners()[0].bound, "kept").await;
        assert_eq!(metadata.topics[0].partitions.len(), 1);
        node.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_topic_that_cannot_be_made_yet_does_not_keep_a_client_from_its_others() {
    let store = FaultStore::in_memory();
    let machine = World::of_machine();
    let bucket = Bucket::from_store(
        Arc::new(store.clone()),
        Arc::clone(&machine.clock),
        Arc::clone(&machine.entropy),
    );
    let world = World {
        bucket: Some(bucket),
        ..machine
    };
    let node = Node::start_in(world, config(&[("bucket", "memory://")])).await;
    let node = node.unwrap();
    create(&node, "there").await;
    store.inject(
        Rule::new(On::Put, Fault::Hang)
            .key("meta/log")
            .times(u64::MAX),
    );
    let named = |name: &str| MetadataRequestTopic {
        name: Some(name.to_owned()),
        ..MetadataRequestTopic::default()
    };
    let request = MetadataRequest {
        topics: Some(vec![named("there"), named("not_yet")]),
        ..MetadataRequest::default()
    };
    let asked = ask(node.listeners()[0].bound, METADATA, request);
    let asked = tokio::time::timeout(Duration::from_secs(60), asked).await;
    let Ok(Response::Metadata(metadata)) = asked else {
        panic!("{asked:?}")
    };
    let told: Vec<_> = metadata
        .topics
        .iter()
        .map(|topic| (topic.error_code, topic.partitions.len()))
        .collect();
    let expected = [(ErrorCode::None, 1), (ErrorCode::LeaderNotAvailable, 0)];
    assert_eq!(told, expected);
}

/// Tokio's paused time.
struct PausedClock(tokio::time::Instant);

impl Clock for PausedClock {
    fn wall_ms(&self) -> i64 {
        1_700_000_000_000
    }

    fn mono(&self) -> Mono {
        Mono(u64::try_from(self.0.elapsed().as_micros()).unwrap())
    }
}

/// What writes to the bucket tries for ever; a start that waited for it would hang in silence.
#[tokio::test(start_paused = true)]
async fn a_start_gives_up_on_a_bucket_that_stops_answering_and_says_so() {
    // the journal is opened, the broker registers
    for puts in 0..2 {
        let clock: Arc<dyn Clock> = Arc::new(PausedClock(tokio::time::Instant::now()));
        let entropy = Arc::new(Entropy::from_seed(1));
        let store = FaultStore::in_memory();
        let hang = Rule::new(On::Put, Fault::Hang).key("meta/log");
        store.inject(hang.after(puts).times(u64::MAX));
        let world = World {
            bucket: Some(Bucket::from_store(
                Arc::new(store.clone()),
                Arc::clone(&clock),
                Arc::clone(&entropy),
            )),
            clock: Arc::clone(&clock),
            entropy,
            ..World::of_machine()
        };
        let config = config(&[("bucket", "memory://"), ("bucket.start.timeout.ms", "30s")]);
        // the put that hangs is the last thing that the bucket heard
        let die = async {
            while store.hits().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            store.set_outage(true);
        };
        let (started, ()) = tokio::join!(Node::start_in(world, config), die);
        let error = started.err().unwrap().to_string();
        assert!(
            error.contains("does not answer") && error.contains("bucket.start.timeout.ms"),
            "{puts}: {error}"
        );
    }
}

/// A file in the way answers whoever runs the test as a directory of somebody else would.
#[tokio::test]
async fn a_start_does_not_wait_for_a_directory_that_refuses_it() {
    let (folder, url) = directory();
    let bucket = folder.path().join("bucket");
    std::fs::create_dir(&bucket).unwrap();
    std::fs::write(bucket.join("meta"), "in the way").unwrap();
    let config = config(&[("bucket", &url), ("bucket.start.timeout.ms", "1h")]);
    let patience = Duration::from_secs(60);
    let started = tokio::time::timeout(patience, Node::start(config)).await;
    let error = started.unwrap().err().unwrap().to_string();
    for words in [&url, "refuses", "Not a directory", "rights"] {
        assert!(error.contains(words), "no {words:?} in {error}");
    }
}
