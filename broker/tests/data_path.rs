//! The data APIs of a whole node in memory, spoken to over TCP: what is produced comes back, in
//! every version, and every answer that clients build on is as Kafka's.

#![allow(clippy::panic, clippy::unwrap_used)]

mod configs;
mod delete_records;
mod running;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use firn_broker::node::{Node, World};
use firn_proto::env::{Clock, Mono};
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::{ProducerEpoch, ProducerId, TopicId};
use firn_proto::kafka::api_versions::ApiVersionsRequest;
use firn_proto::kafka::create_topics::{CreatableTopic, CreateTopicsRequest};
use firn_proto::kafka::delete_topics::DeleteTopicsRequest;
use firn_proto::kafka::describe_groups::DescribeGroupsRequest;
use firn_proto::kafka::fetch::{
    FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData,
};
use firn_proto::kafka::heartbeat::HeartbeatRequest;
use firn_proto::kafka::init_producer_id::InitProducerIdRequest;
use firn_proto::kafka::list_groups::ListGroupsRequest;
use firn_proto::kafka::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsTopic,
};
use firn_proto::kafka::metadata::{MetadataRequest, MetadataRequestTopic};
use firn_proto::kafka::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use firn_proto::kafka::offset_fetch::OffsetFetchRequest;
use firn_proto::kafka::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use firn_proto::kafka::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, TopicProduceData,
};
use firn_proto::kafka::{ApiKey, Reader, Request, Response, read_response_header};
use firn_proto::limits::{FENCE_LOOK_LASTS, FETCH_REFUSED_WAIT};
use firn_proto::record::{BatchBuilder, Codec, NewRecord, split_batches};
use firn_storage::bucket::Bucket;
use firn_storage::bucket::testing::{Fault, FaultStore, On, Rule};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use running::{config, figure, http_get};

const TOPIC: &str = "measurements";
/// A minute before the tests begin, by the clock of their nodes: records may lie neither in the
/// future nor so far back that retention takes them.
const TIME: i64 = 1_700_000_000_000;

async fn start() -> Node {
    start_on("memory://").await
}

async fn start_on(bucket: &str) -> Node {
    let config = config(&[("bucket", bucket), ("http", "none")]);
    Node::start_in(world(), config).await.unwrap()
}

/// A node on a store that fails as told.
async fn start_on_faults(store: &FaultStore, pairs: &[(&str, &str)]) -> Node {
    start_in(world(), store, pairs).await
}

async fn start_in(mut world: World, store: &FaultStore, pairs: &[(&str, &str)]) -> Node {
    let (clock, entropy) = (Arc::clone(&world.clock), Arc::clone(&world.entropy));
    world.bucket = Some(Bucket::from_store(Arc::new(store.clone()), clock, entropy));
    let pairs = [&[("bucket", "memory://"), ("http", "127.0.0.1:0")], pairs].concat();
    Node::start_in(world, config(&pairs)).await.unwrap()
}

/// The machine's world, but for the date.
fn world() -> World {
    let mut world = World::of_machine();
    let began_ms = world.clock.wall_ms();
    world.clock = Arc::new(AMinuteAfterTime {
        machine: world.clock,
        began_ms,
    });
    world
}

/// The machine's clock, of a machine that was started a minute after [`TIME`].
struct AMinuteAfterTime {
    machine: Arc<dyn Clock>,
    began_ms: i64,
}

impl Clock for AMinuteAfterTime {
    fn wall_ms(&self) -> i64 {
        TIME + 60_000 + self.machine.wall_ms() - self.began_ms
    }

    fn mono(&self) -> Mono {
        self.machine.mono()
    }
}

/// The machine's clock, set forward as the test says: as if nothing had run meanwhile.
struct SetForward {
    machine: Arc<dyn Clock>,
    micros: AtomicU64,
}

impl SetForward {
    fn set_forward(&self, by: Duration) {
        let micros = u64::try_from(by.as_micros()).unwrap();
        self.micros.store(micros, Ordering::Relaxed);
    }
}

/// A node whose clock can be set forward.
async fn start_with_clock(store: &FaultStore, pairs: &[(&str, &str)]) -> (Node, Arc<SetForward>) {
    let mut world = world();
    let clock = Arc::new(SetForward {
        machine: world.clock,
        micros: AtomicU64::new(0),
    });
    world.clock = Arc::clone(&clock) as Arc<dyn Clock>;
    (start_in(world, store, pairs).await, clock)
}

impl Clock for SetForward {
    fn wall_ms(&self) -> i64 {
        self.machine.wall_ms()
    }

    fn mono(&self) -> Mono {
        let by = Duration::from_micros(self.micros.load(Ordering::Relaxed));
        self.machine.mono().after(by)
    }
}

/// A connection that asks one thing at a time.
struct Client {
    socket: TcpStream,
    correlation_id: i32,
}

impl Client {
    async fn connect(node: &Node) -> Self {
        let socket = TcpStream::connect(node.listeners()[0].bound).await.unwrap();
        Self {
            socket,
            correlation_id: 0,
        }
    }

    async fn send(&mut self, version: i16, request: &Request) {
        self.correlation_id += 1;
        let frame = request.encode(version, self.correlation_id, Some("test"));
        self.socket.write_all(&frame.to_bytes()).await.unwrap();
    }

    async fn receive(&mut self, api: ApiKey, version: i16) -> Response {
        let length = self.socket.read_i32().await.unwrap();
        let mut frame = vec![0; length as usize];
        self.socket.read_exact(&mut frame).await.unwrap();
        let mut reader = Reader::new(frame.into());
        let correlation_id = read_response_header(&mut reader, api, version).unwrap();
        assert_eq!(correlation_id, self.correlation_id);
        let response = Response::read(api, version, &mut reader).unwrap();
        assert_eq!(reader.remaining(), 0);
        response
    }

    async fn call(&mut self, version: i16, request: impl Into<Request>) -> Response {
        let request = request.into();
        self.send(version, &request).await;
        self.receive(request.api(), version).await
    }

    /// Makes the topic by asking for it, as clients do.
    async fn topic(&mut self) -> TopicId {
        let request = MetadataRequest {
            topics: Some(vec![MetadataRequestTopic {
                name: Some(TOPIC.to_owned()),
                ..MetadataRequestTopic::default()
            }]),
            ..MetadataRequest::default()
        };
        loop {
            let Response::Metadata(response) = self.call(12, request.clone()).await else {
                panic!("not Metadata");
            };
            let topic = &response.topics[0];
            let led = topic
                .partitions
                .iter()
                .all(|partition| partition.leader_id >= 0);
            if topic.error_code == ErrorCode::None && led {
                return topic.topic_id;
            }
        }
    }

    async fn produce(&mut self, version: i16, request: ProduceRequest) -> PartitionProduceResponse {
        loop {
            let Response::Produce(response) = self.call(version, request.clone()).await else {
                panic!("not Produce");
            };
            let partition = response.responses[0].partition_responses[0].clone();
            // A partition that was just made may not be open yet, which clients retry.
            if partition.error_code != ErrorCode::NotLeaderOrFollower {
                return partition;
            }
        }
    }

    async fn fetch(&mut self, version: i16, request: FetchRequest) -> FetchResponse {
        match self.call(version, request).await {
            Response::Fetch(response) => response,
            other => panic!("not Fetch: {other:?}"),
        }
    }

    async fn list(&mut self, timestamp: i64) -> ListOffsetsPartitionResponse {
        let request = ListOffsetsRequest {
            replica_id: -1,
            topics: vec![ListOffsetsTopic {
                name: TOPIC.to_owned(),
                partitions: vec![ListOffsetsPartition {
                    timestamp,
                    ..ListOffsetsPartition::default()
                }],
            }],
            ..ListOffsetsRequest::default()
        };
        match self.call(9, request).await {
            Response::ListOffsets(response) => response.topics[0].partitions[0].clone(),
            other => panic!("not ListOffsets: {other:?}"),
        }
    }
}

fn record(time: i64, value: &[u8]) -> NewRecord<'_> {
    NewRecord {
        timestamp: time,
        value: Some(value),
        ..NewRecord::default()
    }
}

fn batch(times: &[i64]) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::Lz4);
    for time in times {
        builder.push(&record(*time, b"value")).unwrap();
    }
    builder.build().unwrap().into_bytes()
}

fn produce_of(id: TopicId, acks: i16, records: Bytes) -> ProduceRequest {
    ProduceRequest {
        acks,
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData {
            name: TOPIC.to_owned(),
            topic_id: id,
            partition_data: vec![PartitionProduceData {
                index: 0,
                records: Some(records),
            }],
        }],
        ..ProduceRequest::default()
    }
}

fn fetch_of(id: TopicId, offset: i64) -> FetchRequest {
    FetchRequest {
        max_wait_ms: 10_000,
        min_bytes: 1,
        topics: vec![FetchTopic {
            topic: TOPIC.to_owned(),
            topic_id: id,
            partitions: vec![FetchPartition {
                fetch_offset: offset,
                partition_max_bytes: 1 << 20,
                ..FetchPartition::default()
            }],
        }],
        ..FetchRequest::default()
    }
}

fn only(response: &FetchResponse) -> &PartitionData {
    assert_eq!(response.error_code, ErrorCode::None);
    &response.responses[0].partitions[0]
}

/// First offset and number of records of each batch.
fn batches(data: &PartitionData) -> Vec<(i64, i32)> {
    let records = data.records.as_ref().unwrap().to_bytes();
    split_batches(records)
        .map(|batch| {
            let batch = batch.unwrap();
            assert!(batch.crc_matches());
            (batch.header().base_offset, batch.header().record_count)
        })
        .collect()
}

#[tokio::test]
async fn what_is_produced_comes_back_in_every_version() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    let mut offset = 0;
    for version in ApiKey::Produce.served() {
        let answer = client
            .produce(version, produce_of(id, -1, batch(&[TIME, TIME])))
            .await;
        assert_eq!(answer.error_code, ErrorCode::None, "v{version}");
        assert_eq!(answer.base_offset, offset, "v{version}");
        offset += 2;
    }
    for version in ApiKey::Fetch.served() {
        let response = client.fetch(version, fetch_of(id, 0)).await;
        let data = only(&response);
        assert_eq!(data.error_code, ErrorCode::None, "v{version}");
        assert_eq!(data.high_watermark, offset, "v{version}");
        let expected: Vec<_> = (0..offset).step_by(2).map(|base| (base, 2)).collect();
        assert_eq!(batches(data), expected, "v{version}");
    }
    node.stop().await.unwrap();
}

#[tokio::test]
async fn an_offset_in_the_middle_of_a_batch_gets_the_whole_batch() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    for acks in [-1, 1] {
        client
            .produce(9, produce_of(id, acks, batch(&[TIME, TIME, TIME])))
            .await;
    }
    let response = client.fetch(12, fetch_of(id, 4)).await;
    assert_eq!(batches(only(&response)), [(3, 3)]);
}

#[tokio::test]
async fn a_limit_below_the_first_batch_does_not_hold_a_consumer_up() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    for _ in 0..2 {
        client.produce(9, produce_of(id, -1, batch(&[TIME]))).await;
    }
    let mut request = fetch_of(id, 0);
    request.max_bytes = 1;
    request.topics[0].partitions[0].partition_max_bytes = 1;
    let response = client.fetch(12, request).await;
    assert_eq!(batches(only(&response)), [(0, 1)]);
}

#[tokio::test]
async fn a_fetch_at_the_end_waits_for_the_next_record() {
    let node = start().await;
    let mut consumer = Client::connect(&node).await;
    let mut producer = Client::connect(&node).await;
    let id = consumer.topic().await;
    producer
        .produce(9, produce_of(id, -1, batch(&[TIME])))
        .await;
    let waiting = Request::from(FetchRequest {
        max_wait_ms: 60_000,
        ..fetch_of(id, 1)
    });
    consumer.send(12, &waiting).await;
    producer
        .produce(9, produce_of(id, -1, batch(&[TIME])))
        .await;
    let Response::Fetch(response) = consumer.receive(ApiKey::Fetch, 12).await else {
        panic!("not Fetch");
    };
    assert_eq!(batches(only(&response)), [(1, 1)]);
}

#[tokio::test]
async fn a_fetch_of_nothing_is_answered_when_its_time_is_up() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client.produce(9, produce_of(id, -1, batch(&[TIME]))).await;
    let request = FetchRequest {
        max_wait_ms: 1,
        ..fetch_of(id, 1)
    };
    let response = client.fetch(12, request).await;
    assert_eq!(batches(only(&response)), []);
    assert_eq!(only(&response).error_code, ErrorCode::None);
}

#[tokio::test]
async fn an_offset_outside_the_log_is_refused_with_its_bounds() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client.produce(9, produce_of(id, -1, batch(&[TIME]))).await;
    for offset in [-1, 2, 1 << 40] {
        let response = client.fetch(12, fetch_of(id, offset)).await;
        let data = only(&response);
        assert_eq!(data.error_code, ErrorCode::OffsetOutOfRange, "{offset}");
        assert_eq!((data.log_start_offset, data.high_watermark), (0, 1));
    }
}

#[tokio::test]
async fn clients_in_another_epoch_are_fenced() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client.produce(9, produce_of(id, -1, batch(&[TIME]))).await;
    let mut request = fetch_of(id, 0);
    request.topics[0].partitions[0].current_leader_epoch = 1000;
    let response = client.fetch(12, request).await;
    assert_eq!(only(&response).error_code, ErrorCode::UnknownLeaderEpoch);
}

#[tokio::test]
async fn topics_that_do_not_exist_are_named_as_they_were() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let stranger = TopicId([9; 16]);
    let response = client.fetch(13, fetch_of(stranger, 0)).await;
    assert_eq!(only(&response).error_code, ErrorCode::UnknownTopicId);
    let response = client.fetch(12, fetch_of(stranger, 0)).await;
    assert_eq!(
        only(&response).error_code,
        ErrorCode::UnknownTopicOrPartition
    );
    let produce = produce_of(stranger, -1, batch(&[TIME]));
    let answer = client.produce(13, produce.clone()).await;
    assert_eq!(answer.error_code, ErrorCode::UnknownTopicId);
    let answer = client.produce(12, produce).await;
    assert_eq!(answer.error_code, ErrorCode::UnknownTopicOrPartition);
}

#[tokio::test]
async fn a_name_that_no_topic_can_have_is_unknown_and_its_neighbours_are_served() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client.produce(12, produce_of(id, -1, batch(&[TIME]))).await;
    for version in [4, 6, 7, 12] {
        let mut request = fetch_of(id, 0);
        let mut nameless = request.topics[0].clone();
        nameless.topic = "no/topic".to_owned();
        request.topics.insert(0, nameless);
        let response = client.fetch(version, request).await;
        assert_eq!(response.error_code, ErrorCode::None, "v{version}");
        let of = |name: &str| {
            let mut topics = response.responses.iter();
            let topic = topics.find(|topic| topic.topic == name);
            &topic
                .unwrap_or_else(|| panic!("v{version}: {name}"))
                .partitions[0]
        };
        let unknown = of("no/topic").error_code;
        assert_eq!(unknown, ErrorCode::UnknownTopicOrPartition, "v{version}");
        assert_eq!(batches(of(TOPIC)), [(0, 1)], "v{version}");
    }
}

#[tokio::test]
async fn a_producer_in_a_hurry_waits_as_long_as_the_bucket_needs() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    for acks in [-1, 1] {
        let mut request = produce_of(id, acks, batch(&[TIME]));
        request.timeout_ms = 0;
        let answer = client.produce(12, request).await;
        assert_eq!(answer.error_code, ErrorCode::None, "acks {acks}");
    }
}

#[tokio::test]
async fn a_session_answers_only_news() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client.produce(9, produce_of(id, -1, batch(&[TIME]))).await;
    let full = FetchRequest {
        session_epoch: 0,
        max_wait_ms: 1,
        ..fetch_of(id, 1)
    };
    let response = client.fetch(13, full).await;
    assert_ne!(response.session_id, 0);
    let mut incremental = FetchRequest {
        session_id: response.session_id,
        session_epoch: 1,
        max_wait_ms: 1,
        min_bytes: 1,
        ..FetchRequest::default()
    };
    let response = client.fetch(13, incremental.clone()).await;
    assert_eq!(response.responses, []);
    client.produce(9, produce_of(id, -1, batch(&[TIME]))).await;
    incremental.session_epoch = 2;
    let response = client.fetch(13, incremental.clone()).await;
    assert_eq!(batches(only(&response)), [(1, 1)]);
    let response = client.fetch(13, incremental).await;
    assert_eq!(response.error_code, ErrorCode::InvalidFetchSessionEpoch);
}

#[tokio::test]
async fn offsets_are_found_by_time_to_the_record() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    for times in [
        [TIME, TIME + 10],
        [TIME + 30, TIME + 20],
        [TIME + 25, TIME + 5],
    ] {
        client.produce(9, produce_of(id, -1, batch(&times))).await;
    }
    // (asked for, offset, timestamp)
    let expected = [
        (-1, 6, -1),
        (-2, 0, -1),
        (-3, 2, TIME + 30),
        (-4, 0, -1),
        (-5, -1, -1),
        (0, 0, TIME),
        (TIME + 1, 1, TIME + 10),
        (TIME + 11, 2, TIME + 30),
        (TIME + 30, 2, TIME + 30),
        (TIME + 31, -1, -1),
    ];
    for (timestamp, offset, found) in expected {
        let answer = client.list(timestamp).await;
        assert_eq!(answer.error_code, ErrorCode::None, "{timestamp}");
        assert_eq!(
            (answer.offset, answer.timestamp),
            (offset, found),
            "{timestamp}"
        );
    }
}

#[tokio::test]
async fn a_batch_sent_twice_is_stored_once() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    let request = InitProducerIdRequest {
        producer_epoch: -1,
        ..InitProducerIdRequest::default()
    };
    let Response::InitProducerId(producer) = client.call(4, request).await else {
        panic!("not InitProducerId");
    };
    assert_eq!(
        (producer.error_code, producer.producer_epoch),
        (ErrorCode::None, 0)
    );
    let batch = |sequence| {
        let (id, epoch) = (ProducerId(producer.producer_id), ProducerEpoch(0));
        let mut builder = BatchBuilder::new(Codec::None).producer(id, epoch, sequence);
        builder.push(&record(TIME, b"once")).unwrap();
        builder.build().unwrap().into_bytes()
    };
    for (sequence, offset) in [(0, 0), (1, 1), (0, 0), (1, 1), (2, 2)] {
        let answer = client.produce(9, produce_of(id, -1, batch(sequence))).await;
        assert_eq!(answer.error_code, ErrorCode::None, "sequence {sequence}");
        assert_eq!(answer.base_offset, offset, "sequence {sequence}");
    }
    let answer = client.produce(9, produce_of(id, -1, batch(9))).await;
    assert_eq!(answer.error_code, ErrorCode::OutOfOrderSequenceNumber);
}

#[tokio::test]
async fn batches_that_break_a_rule_are_refused_with_its_code() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    let mut damaged = batch(&[TIME]).to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let mut double = batch(&[TIME]).to_vec();
    double.extend_from_slice(&batch(&[TIME]));
    let cases = [
        (-1, damaged.into(), ErrorCode::CorruptMessage),
        (-1, double.into(), ErrorCode::InvalidRecord),
        (-1, Bytes::new(), ErrorCode::InvalidRecord),
        (-1, batch(&[i64::MAX]), ErrorCode::InvalidTimestamp),
        (2, batch(&[TIME]), ErrorCode::InvalidRequiredAcks),
    ];
    for (acks, records, code) in cases {
        let answer = client.produce(9, produce_of(id, acks, records)).await;
        assert_eq!((answer.error_code, answer.base_offset), (code, -1));
    }
    assert_eq!(client.list(-1).await.offset, 0);
}

#[tokio::test]
async fn acks_0_has_no_answer() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client.produce(9, produce_of(id, -1, batch(&[TIME]))).await;
    client
        .send(9, &produce_of(id, 0, batch(&[TIME])).into())
        .await;
    // The next answer on the connection is that of the next request.
    assert_eq!(client.list(-2).await.offset, 0);
    let response = client.fetch(12, fetch_of(id, 1)).await;
    assert_eq!(batches(only(&response)), [(1, 1)]);
}

#[tokio::test]
async fn an_error_under_acks_0_closes_the_connection() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let stranger = produce_of(TopicId([9; 16]), 0, batch(&[TIME]));
    client.send(12, &stranger.into()).await;
    assert!(client.socket.read_i32().await.is_err());
}

#[tokio::test]
async fn several_produce_requests_in_flight_keep_their_order() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client.produce(9, produce_of(id, -1, batch(&[TIME]))).await;
    let first = client.correlation_id + 1;
    for _ in 0..20 {
        client
            .send(9, &produce_of(id, -1, batch(&[TIME])).into())
            .await;
    }
    client.correlation_id = first - 1;
    for offset in 1..=20 {
        client.correlation_id += 1;
        let Response::Produce(response) = client.receive(ApiKey::Produce, 9).await else {
            panic!("not Produce");
        };
        assert_eq!(
            response.responses[0].partition_responses[0].base_offset,
            offset
        );
    }
}

#[tokio::test]
async fn the_latest_epoch_ends_at_the_high_watermark() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client
        .produce(9, produce_of(id, -1, batch(&[TIME, TIME])))
        .await;
    let response = client.fetch(12, fetch_of(id, 0)).await;
    let records = only(&response).records.as_ref().unwrap().to_bytes();
    let first = split_batches(records).next().unwrap().unwrap();
    let epoch = first.header().leader_epoch.0;
    let ask = |leader_epoch| OffsetForLeaderEpochRequest {
        replica_id: -1,
        topics: vec![OffsetForLeaderTopic {
            topic: TOPIC.to_owned(),
            partitions: vec![OffsetForLeaderPartition {
                leader_epoch,
                ..OffsetForLeaderPartition::default()
            }],
        }],
    };
    for (asked, end) in [(epoch, (epoch, 2)), (epoch + 1, (-1, -1))] {
        let Response::OffsetForLeaderEpoch(response) = client.call(4, ask(asked)).await else {
            panic!("not OffsetForLeaderEpoch");
        };
        let answer = &response.topics[0].partitions[0];
        assert_eq!((answer.leader_epoch, answer.end_offset), end);
    }
}

#[tokio::test]
async fn a_restarted_node_serves_what_was_acknowledged_and_knows_its_producers() {
    let directory = tempfile::tempdir().unwrap();
    let bucket = format!("file://{}", directory.path().display());
    let producer = (ProducerId(0), ProducerEpoch(0));
    let batch = |sequence| {
        let mut builder = BatchBuilder::new(Codec::Zstd).producer(producer.0, producer.1, sequence);
        builder
            .push(&record(TIME + i64::from(sequence), b"kept"))
            .unwrap();
        builder.build().unwrap().into_bytes()
    };
    let node = start_on(&bucket).await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    for sequence in 0..10 {
        let answer = client.produce(9, produce_of(id, -1, batch(sequence))).await;
        assert_eq!(answer.base_offset, i64::from(sequence));
    }
    drop(client);
    node.stop().await.unwrap();

    let node = start_on(&bucket).await;
    let mut client = Client::connect(&node).await;
    assert_eq!(client.topic().await, id);
    let again = client.produce(9, produce_of(id, -1, batch(9))).await;
    assert_eq!((again.error_code, again.base_offset), (ErrorCode::None, 9));
    for version in ApiKey::Fetch.served() {
        let response = client.fetch(version, fetch_of(id, 3)).await;
        let expected: Vec<_> = (3..10).map(|base| (base, 1)).collect();
        assert_eq!(batches(only(&response)), expected, "v{version}");
    }
    let found = client.list(TIME + 5).await;
    assert_eq!((found.offset, found.timestamp), (5, TIME + 5));
    let next = client.produce(9, produce_of(id, -1, batch(10))).await;
    assert_eq!((next.error_code, next.base_offset), (ErrorCode::None, 10));
}

/// A bucket that takes nothing fills the WAL, and then the memory of Produce in front of it. Who reads
/// what is in memory, or only says that it is alive, must not notice.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_bucket_takes_nothing_only_producers_wait() {
    const VALUE_BYTES: usize = 1_000_000;
    const WAL_BYTES: usize = 128 << 20;
    let store = FaultStore::in_memory();
    let node = start_on_faults(
        &store,
        &[
            ("wal.memory.bytes", "128MiB"),
            ("socket.request.max.bytes", "2MiB"),
            ("queued.max.produce.bytes", "4MiB"),
        ],
    )
    .await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client.produce(9, produce_of(id, -1, batch(&[TIME]))).await;

    let no_slots = Rule::new(On::Put, Fault::RequestLost);
    store.inject(no_slots.times(u64::MAX));
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(&record(TIME, &vec![7; VALUE_BYTES])).unwrap();
    let large = builder.build().unwrap().into_bytes();
    let mut floods = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let mut producer = Client::connect(&node).await;
        let request = produce_of(id, 0, large.clone()).into();
        floods.spawn(async move {
            loop {
                producer.send(9, &request).await;
            }
        });
    }
    // Nothing leaves the WAL, so that what is full stays so.
    let full = async {
        while figure::<usize>(&node, "firn_wal_permit_bytes").await + VALUE_BYTES < WAL_BYTES
            || figure::<usize>(&node, "firn_queued_produce_bytes").await < 2 * VALUE_BYTES
        {
            tokio::task::yield_now().await;
        }
    };
    patiently("a full WAL and memory of Produce", full).await;

    let mut other = Client::connect(&node).await;
    assert_eq!(other.topic().await, id);
    let response = other.fetch(12, fetch_of(id, 0)).await;
    assert_eq!(batches(only(&response)), [(0, 1)]);
    let Response::Heartbeat(alive) = other.call(4, HeartbeatRequest::default()).await else {
        panic!("not Heartbeat");
    };
    assert_ne!(alive.error_code, ErrorCode::None, "nobody is in the group");
}

/// Whether another process has taken the bucket over, one that does not hear from it cannot know:
/// then it says no more than where things were.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_cut_off_from_its_bucket_ends_reads_until_it_hears_from_it() {
    let store = FaultStore::in_memory();
    let (node, clock) = start_with_clock(&store, &[]).await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client.produce(9, produce_of(id, -1, batch(&[TIME]))).await;

    store.set_outage(true);
    clock.set_forward(2 * FENCE_LOOK_LASTS);
    let asked_at = clock.mono();
    let read = client.fetch(12, fetch_of(id, 0)).await;
    let took = clock.mono().since(asked_at);
    assert!(took >= FETCH_REFUSED_WAIT, "it is asked again in a loop");
    assert_eq!(only(&read).error_code, ErrorCode::NotLeaderOrFollower);
    let records = only(&read).records.as_ref();
    assert!(records.is_none_or(|records| records.is_empty()));
    let listed = client.list(-1).await;
    assert_eq!(listed.error_code, ErrorCode::NotLeaderOrFollower);
    let Response::Heartbeat(alive) = client.call(4, HeartbeatRequest::default()).await else {
        panic!("not Heartbeat");
    };
    assert_eq!(alive.error_code, ErrorCode::NotCoordinator);
    assert_eq!(client.topic().await, id, "Metadata goes on");
    let Response::ApiVersions(versions) = client.call(0, ApiVersionsRequest::default()).await
    else {
        panic!("not ApiVersions");
    };
    assert_eq!(versions.error_code, ErrorCode::None);
    wait_until_ready_says(&node, "nothing is read").await;

    store.set_outage(false);
    let read = async {
        loop {
            let read = client.fetch(12, fetch_of(id, 0)).await;
            if only(&read).error_code != ErrorCode::NotLeaderOrFollower {
                break read;
            }
        }
    };
    let read = patiently("a read that is not refused", read).await;
    assert_eq!(batches(only(&read)), [(0, 1)]);
    wait_until_ready_says(&node, " 200 ").await;
}

async fn wait_until_ready_says(node: &Node, words: &str) {
    let says = async {
        while !http_get(node, "/readyz").await.contains(words) {
            tokio::task::yield_now().await;
        }
    };
    patiently(words, says).await;
}

/// Gives up on what never comes.
async fn patiently<T>(what: &str, wait: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
    waited.unwrap_or_else(|_| panic!("gave up waiting for {what:?}"))
}

/// A timestamp that is looked up in the bucket was let in before; another may lead meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_while_it_looks_a_timestamp_up_does_not_tell_what_it_found() {
    let store = FaultStore::in_memory();
    let (node, clock) = start_with_clock(&store, &[("cache.tail.bytes", "0")]).await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client.produce(9, produce_of(id, -1, batch(&[TIME]))).await;

    store.inject(Rule::new(On::Get, Fault::Hang).key("wal/"));
    let unsaid = Rule::new(On::Get, Fault::FailedBefore).key("meta/epoch");
    store.inject(unsaid.times(u64::MAX));
    let cut_off = async {
        let is_wal = |(_, fault, _): &(On, Fault, String)| *fault == Fault::Hang;
        while !store.hits().iter().any(is_wal) {
            tokio::task::yield_now().await;
        }
        clock.set_forward(2 * FENCE_LOOK_LASTS);
    };
    let (listed, ()) = tokio::join!(client.list(TIME), cut_off);
    assert_eq!(listed.error_code, ErrorCode::NotLeaderOrFollower);
    assert_eq!(listed.offset, -1);
}

/// What is told of groups waits for the journal to hold it; another may lead meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_while_a_look_at_groups_waits_does_not_tell_what_it_knew() {
    let looks = FaultStore::in_memory();
    let store = FaultStore::new(Arc::new(looks.clone()));
    let (node, clock) = start_with_clock(&store, &[]).await;
    let mut committing = Client::connect(&node).await;
    committing.topic().await;
    let unsaid = Rule::new(On::Get, Fault::FailedBefore).key("meta/epoch");
    looks.inject(unsaid.times(u64::MAX));
    let untaken = Rule::new(On::Put, Fault::FailedBefore).key("meta/log");
    store.inject(untaken.times(u64::MAX));
    committing.send(7, &commit_of("g").into()).await;
    let commit_waits = async {
        while store.hits().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    patiently("the journal to be asked", commit_waits).await;

    let asked: [(i16, Request); 3] = [
        (5, fetch_offsets_of("g").into()),
        (4, ListGroupsRequest::default().into()),
        (4, describe_of("g").into()),
    ];
    let received: usize = figure(&node, RECEIVED).await;
    let mut clients = Vec::new();
    let mut sent = 0;
    for (version, request) in asked {
        let mut client = Client::connect(&node).await;
        client.send(version, &request).await;
        sent += request.encode(version, 1, Some("test")).to_bytes().len();
        clients.push((client, request.api(), version));
    }
    let all_wait = async { while figure::<usize>(&node, RECEIVED).await < received + sent {} };
    patiently("the requests to come", all_wait).await;
    clock.set_forward(2 * FENCE_LOOK_LASTS);
    store.clear();
    for (mut client, api, version) in clients {
        let told = patiently("an answer", client.receive(api, version)).await;
        let code = match told {
            Response::OffsetFetch(fetched) => fetched.error_code,
            Response::ListGroups(listed) => listed.error_code,
            Response::DescribeGroups(described) => described.groups[0].error_code,
            other => panic!("not asked: {other:?}"),
        };
        assert_eq!(code, ErrorCode::NotCoordinator, "{api:?}");
    }
}

const RECEIVED: &str = "firn_kafka_received_bytes_total";

fn commit_of(group: &str) -> OffsetCommitRequest {
    OffsetCommitRequest {
        group_id: group.to_owned(),
        generation_id_or_member_epoch: -1,
        topics: vec![OffsetCommitRequestTopic {
            name: TOPIC.to_owned(),
            partitions: vec![OffsetCommitRequestPartition::default()],
        }],
        ..OffsetCommitRequest::default()
    }
}

fn fetch_offsets_of(group: &str) -> OffsetFetchRequest {
    OffsetFetchRequest {
        group_id: group.to_owned(),
        topics: None,
        ..OffsetFetchRequest::default()
    }
}

fn describe_of(group: &str) -> DescribeGroupsRequest {
    DescribeGroupsRequest {
        groups: vec![group.to_owned()],
        ..DescribeGroupsRequest::default()
    }
}

/// What needs the journal waits as long as the client says, or a little longer.
#[tokio::test(flavor = "multi_thread")]
async fn topics_are_not_waited_for_longer_than_the_client_says() {
    let store = FaultStore::in_memory();
    let node = start_on_faults(&store, &[]).await;
    let mut client = Client::connect(&node).await;
    client.topic().await;

    store.set_outage(true);
    let create = CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: "late".to_owned(),
            num_partitions: 1,
            replication_factor: 1,
            ..CreatableTopic::default()
        }],
        timeout_ms: 1,
        ..CreateTopicsRequest::default()
    };
    let Response::CreateTopics(created) = client.call(7, create).await else {
        panic!("not CreateTopics");
    };
    assert_eq!(created.topics[0].error_code, ErrorCode::RequestTimedOut);
    let delete = DeleteTopicsRequest {
        topic_names: vec![TOPIC.to_owned()],
        timeout_ms: 1,
        ..DeleteTopicsRequest::default()
    };
    let Response::DeleteTopics(deleted) = client.call(5, delete).await else {
        panic!("not DeleteTopics");
    };
    assert_eq!(deleted.responses[0].error_code, ErrorCode::RequestTimedOut);
}

/// A topic that is made again under its name is another one: who knows the old one by its id must
/// not read or write the new one's records.
#[tokio::test]
async fn a_topic_made_again_answers_to_its_new_id_only() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let old = client.topic().await;
    client
        .produce(13, produce_of(old, -1, batch(&[TIME])))
        .await;
    let delete = DeleteTopicsRequest {
        topic_names: vec![TOPIC.to_owned()],
        timeout_ms: 30_000,
        ..DeleteTopicsRequest::default()
    };
    let Response::DeleteTopics(deleted) = client.call(5, delete).await else {
        panic!("not DeleteTopics");
    };
    assert_eq!(deleted.responses[0].error_code, ErrorCode::None);
    let new = client.topic().await;
    assert_ne!(new, old);
    client
        .produce(13, produce_of(new, -1, batch(&[TIME])))
        .await;

    for version in (13..=18).filter(|version| ApiKey::Fetch.serves(*version)) {
        let read = client.fetch(version, fetch_of(old, 0)).await;
        let error = only(&read).error_code;
        assert_eq!(error, ErrorCode::UnknownTopicId, "v{version}");
        let read = client.fetch(version, fetch_of(new, 0)).await;
        assert_eq!(batches(only(&read)), [(0, 1)], "v{version}");
    }
    let refused = client
        .produce(13, produce_of(old, -1, batch(&[TIME])))
        .await;
    assert_eq!(refused.error_code, ErrorCode::UnknownTopicId);
    for (id, error) in [(old, ErrorCode::UnknownTopicId), (new, ErrorCode::None)] {
        let request = MetadataRequest {
            topics: Some(vec![MetadataRequestTopic {
                topic_id: id,
                ..MetadataRequestTopic::default()
            }]),
            ..MetadataRequest::default()
        };
        let Response::Metadata(response) = client.call(12, request).await else {
            panic!("not Metadata");
        };
        assert_eq!(response.topics[0].error_code, error);
    }
}

/// Kafka serves partitions in their turn. Were those in memory served first, a consumer that is
/// behind on one partition would never catch up there as long as others are busy.
#[tokio::test]
async fn a_partition_in_objects_has_its_turn_before_a_later_one_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let bucket = format!("file://{}", directory.path().display());
    let config = config(&[
        ("bucket", &bucket),
        ("http", "none"),
        ("num.partitions", "2"),
    ]);
    let node = Node::start_in(world(), Arc::clone(&config)).await.unwrap();
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client.produce(9, produce_of(id, -1, batch(&[TIME]))).await;
    drop(client);
    node.stop().await.unwrap();

    let node = Node::start_in(world(), config).await.unwrap();
    let mut client = Client::connect(&node).await;
    client.topic().await;
    let mut hot = produce_of(id, -1, batch(&[TIME]));
    hot.topic_data[0].partition_data[0].index = 1;
    client.produce(9, hot).await;
    let mut both = fetch_of(id, 0);
    both.max_bytes = 1;
    let first = both.topics[0].partitions[0].clone();
    both.topics[0].partitions.push(FetchPartition {
        partition: 1,
        ..first
    });
    let response = client.fetch(12, both).await;
    let served = response.responses[0].partitions.iter();
    let served: Vec<_> = served.map(|data| batches(data).len()).collect();
    assert_eq!(served, [1, 0]);
}
