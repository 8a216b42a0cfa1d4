//! What requests hold of the memory that all of them share, seen from outside: over TCP, and by the
//! figures of the node.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use firn_broker::config::{Config, Pair, Profile, Source};
use firn_broker::node::Node;
use firn_proto::kafka::describe_groups::DescribeGroupsRequest;
use firn_proto::kafka::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use firn_proto::kafka::{Reader, Request, Response, read_response_header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A version of JoinGroup that takes new members without sending them back first.
const JOIN_GROUP: i16 = 3;
const DESCRIBE_GROUPS: i16 = 5;

async fn start(pairs: &[(&str, &str)]) -> Node {
    let fixed = [
        ("bucket", "memory://"),
        ("http", "127.0.0.1:0"),
        ("kafka", "127.0.0.1:0"),
    ];
    let pairs = fixed.iter().chain(pairs);
    let pairs = pairs.map(|(key, value)| Pair::new(key, value, Source::Override));
    let config = Config::new(Profile::Dev, pairs.collect()).unwrap();
    Node::start(Arc::new(config)).await.unwrap()
}

/// A figure of `/metrics`.
async fn figure(node: &Node, name: &str) -> usize {
    let mut socket = TcpStream::connect(node.http().unwrap()).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let mut lines = answer.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap().parse().unwrap()
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
    let held = figure(&node, "firn_queued_request_bytes").await;
    assert!(held <= MEMBERS * 1024, "{held} bytes are held");
}
