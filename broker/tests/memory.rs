//! What requests hold of the memory that all of them share, seen from outside: over TCP, and by the
//! figures of the node.

#![allow(clippy::panic, clippy::unwrap_used)]

mod running;

use std::time::Duration;

use firn_broker::node::Node;
use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::describe_groups::DescribeGroupsRequest;
use firn_proto::kafka::fetch::{FetchPartition, FetchRequest, FetchTopic};
use firn_proto::kafka::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use firn_proto::kafka::metadata::{MetadataRequest, MetadataRequestTopic};
use firn_proto::kafka::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use firn_proto::kafka::{Reader, Request, Response, read_response_header};
use firn_proto::record::{BatchBuilder, Codec, NewRecord};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use running::{config, figure};

/// A version of JoinGroup that takes new members without sending them back first.
const JOIN_GROUP: i16 = 3;
const DESCRIBE_GROUPS: i16 = 5;
const FETCH: i16 = 12;
const METADATA: i16 = 12;
const PRODUCE: i16 = 9;
const TOPIC: &str = "measurements";

async fn start(pairs: &[(&str, &str)]) -> Node {
    let pairs = [&[("bucket", "memory://"), ("http", "127.0.0.1:0")], pairs].concat();
    Node::start(config(&pairs)).await.unwrap()
}

/// Sends a request over a connection of its own.
async fn send(node: &Node, version: i16, request: &Request) -> TcpStream {
    let mut socket = TcpStream::connect(node.listeners()[0].bound).await.unwrap();
    let frame = request.encode(version, 1, None);
    socket.write_all(&frame.to_bytes()).await.unwrap();
    socket
}

async fn ask(node: &Node, version: i16, request: Request) -> Response {
    let mut socket = send(node, version, &request).await;
    let mut answer = vec![0; socket.read_i32().await.unwrap().try_into().unwrap()];
    socket.read_exact(&mut answer).await.unwrap();
    let mut reader = Reader::new(answer.into());
    read_response_header(&mut reader, request.api(), version).unwrap();
    Response::read(request.api(), version, &mut reader).unwrap()
}

/// A rebalance waits for the JoinGroup of every member. Did those that have come hold their memory
/// until the rest is there, there would be none for the rest of a large group.
#[tokio::test(flavor = "multi_thread")]
async fn members_that_wait_for_a_rebalance_hold_no_memory_of_requests() {
    const MEMBERS: usize = 50;
    let node = start(&[("group.initial.rebalance.delay.ms", "10min")]).await;
    let join = JoinGroupRequest {
        group_id: "group".to_owned(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 600_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".to_owned(),
            metadata: vec![7; 6_000].into(),
        }],
        ..JoinGroupRequest::default()
    };
    let join = Request::from(join);
    let mut parked = Vec::new();
    for _ in 0..MEMBERS {
        parked.push(send(&node, JOIN_GROUP, &join).await);
    }
    let everybody_waits = async {
        loop {
            let describe = DescribeGroupsRequest {
                groups: vec!["group".to_owned()],
                ..DescribeGroupsRequest::default()
            };
            let described = ask(&node, DESCRIBE_GROUPS, describe.into()).await;
            let Response::DescribeGroups(described) = described else {
                panic!("not DescribeGroups");
            };
            if described.groups[0].members.len() == MEMBERS {
                return;
            }
        }
    };
    let everybody_waits = tokio::time::timeout(Duration::from_secs(60), everybody_waits);
    everybody_waits.await.unwrap();
    let held: usize = figure(&node, "firn_queued_request_bytes").await;
    assert!(held <= MEMBERS * 1024, "{held} bytes are held");
}

/// Makes the topic, with one record in its first partition.
async fn topic_with_a_record(node: &Node, partitions: usize) {
    let named = MetadataRequestTopic {
        name: Some(TOPIC.to_owned()),
        ..MetadataRequestTopic::default()
    };
    let metadata = MetadataRequest {
        topics: Some(vec![named]),
        ..MetadataRequest::default()
    };
    loop {
        let Response::Metadata(described) = ask(node, METADATA, metadata.clone().into()).await
        else {
            panic!("not Metadata");
        };
        let topic = &described.topics[0];
        let led = topic.partitions.iter().filter(|p| p.leader_id >= 0);
        if led.count() == partitions {
            break;
        }
    }
    let mut builder = BatchBuilder::new(Codec::None);
    let record = NewRecord {
        value: Some(b"value"),
        ..NewRecord::default()
    };
    builder.push(&record).unwrap();
    let records = Some(builder.build().unwrap().into_bytes());
    let produce = ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData {
            name: TOPIC.to_owned(),
            partition_data: vec![PartitionProduceData { index: 0, records }],
            ..TopicProduceData::default()
        }],
        ..ProduceRequest::default()
    };
    loop {
        let Response::Produce(produced) = ask(node, PRODUCE, produce.clone().into()).await else {
            panic!("not Produce");
        };
        if produced.responses[0].partition_responses[0].error_code == ErrorCode::None {
            return;
        }
    }
}

fn fetch_of(partitions: std::ops::Range<i32>) -> Request {
    let partition = |partition| FetchPartition {
        partition,
        partition_max_bytes: 1 << 20,
        ..FetchPartition::default()
    };
    let fetch = FetchRequest {
        max_wait_ms: 60_000,
        min_bytes: 1,
        max_bytes: 1 << 20,
        topics: vec![FetchTopic {
            topic: TOPIC.to_owned(),
            partitions: partitions.map(partition).collect(),
            ..FetchTopic::default()
        }],
        ..FetchRequest::default()
    };
    fetch.into()
}

/// What is set aside for requests that wait for records is bounded. When it is used up, those whose
/// records are there are answered all the same.
#[tokio::test(flavor = "multi_thread")]
async fn fetches_that_wait_for_records_do_not_hold_up_those_that_have_them() {
    let node = start(&[
        ("num.partitions", "100"),
        ("fetch.max.bytes", "1MiB"),
        ("queued.max.fetch.bytes", "8MiB"),
    ])
    .await;
    topic_with_a_record(&node, 100).await;
    let mut parked = Vec::new();
    for _ in 0..60 {
        parked.push(send(&node, FETCH, &fetch_of(1..100)).await);
        let fetched = ask(&node, FETCH, fetch_of(0..1));
        let fetched = tokio::time::timeout(Duration::from_secs(30), fetched).await;
        let Ok(Response::Fetch(fetched)) = fetched else {
            panic!("no answer while {} fetches wait", parked.len());
        };
        let records = fetched.responses[0].partitions[0].records.as_ref();
        assert!(!records.unwrap().to_bytes().is_empty());
    }
}
