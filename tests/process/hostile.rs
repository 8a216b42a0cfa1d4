//! Bad input on the real port: an error code or a closed connection, never a dead process, never
//! memory that a peer decides about, and nobody else who waits for it.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use firn_tests::client::{
    Client, FETCH_VERSION, PRODUCE_VERSION, code, fetch_request, produce_request, topic_name,
};
use firn_tests::node::{Node, NodePlan};
use firn_tests::records::{ProducerFields, Record, encode_batch, seal};
use firn_tests::seed::Seed;
use firn_tests::wire::{Connection, encode};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::produce_request::TopicProduceData;
use kafka_protocol::messages::{
    ApiVersionsRequest, CreateTopicsRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest,
    ProduceRequest,
};
use kafka_protocol::protocol::StrBytes;
use tempfile::TempDir;

use crate::{FIRN, folder};

const TOPIC: &str = "target";
/// Far more than an idle broker needs, far less than one hostile length asks for.
const MEMORY_MAX: u64 = 400 * 1024 * 1024;
/// Every API key a broker could know, and some it cannot.
const API_KEYS: std::ops::RangeInclusive<i16> = -1..=95;

fn broker() -> (TempDir, Node) {
    let folder = folder();
    let node = NodePlan::on_directory(FIRN, folder.path()).start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic(TOPIC, 1, &[]);
    (folder, node)
}

/// The broker lives, serves, and has not grown.
fn assert_unharmed(node: &mut Node) {
    assert!(
        node.process.is_running(),
        "it wrote:\n{}",
        node.process.output()
    );
    let log = node.process.output();
    assert!(!log.contains("panicked"), "a panic is in the log:\n{log}");
    let peak = node.process.resident_bytes_peak();
    assert!(peak < MEMORY_MAX, "memory rose to {peak} bytes");
    let mut client = Client::connect(node.kafka()).unwrap();
    let batch = encode_batch(&[Record::new("k", "v")], ProducerFields::NONE);
    let produced = client.produce(TOPIC, 0, batch).unwrap();
    assert_eq!(produced.error, code::NONE);
}

fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = i32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}

/// A request header (version 1: correlation and client id) and whatever follows.
fn request(api: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    bytes.put_i16(api);
    bytes.put_i16(version);
    bytes.put_i32(7);
    bytes.put_i16(-1);
    bytes.extend_from_slice(body);
    frame(&bytes)
}

/// Sends bytes and waits until the broker is done with them, with or without an answer.
fn throw(node: &Node, bytes: &[u8]) {
    let mut connection = Connection::open(node.kafka()).unwrap();
    // The broker may close before everything is sent: that is one of the right answers.
    let _ = connection.send_bytes(bytes);
    let done = connection.finish();
    assert!(done.is_ok(), "{bytes:02x?} keep the connection open");
}

/// Sends bytes after which the broker must close the connection.
fn assert_closed(node: &Node, what: &str, bytes: &[u8]) {
    let mut connection = Connection::open(node.kafka()).unwrap();
    let _ = connection.send_bytes(bytes);
    let closed = connection.wait_closed();
    assert!(
        closed.is_ok(),
        "{what}: the connection stays open ({closed:?})"
    );
}

#[test]
fn impossible_frame_lengths_close_the_connection() {
    let (_folder, mut node) = broker();
    for length in [i32::MAX, i32::MIN, -1, 0, 1, 0x1603_0100, 0x4745_5420] {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0; 64]);
        assert_closed(&node, &format!("length {length}"), &bytes);
    }
    assert_unharmed(&mut node);
}

#[test]
fn malformed_input_ends_in_a_closed_connection_and_one_line_about_it() {
    let (_folder, mut node) = broker();
    let rest = [0x5a; 64];
    let length = |length: i32| [&length.to_be_bytes()[..], &rest].concat();
    let then_more = |frame: Vec<u8>| [&frame[..], &rest].concat();
    let hostile = [
        ("a negative length", length(-1)),
        ("an endless frame", length(i32::MAX)),
        ("a frame too short for a header", length(1)),
        (
            "another protocol",
            b"GET / HTTP/1.1\r\nHost: firn\r\n\r\n".to_vec(),
        ),
        ("an API nobody knows", then_more(request(9999, 0, &rest))),
        ("a version nobody knows", then_more(request(0, 99, &rest))),
        (
            "an array that cannot be",
            then_more(request(3, 4, &[0x7f, 0xff, 0xff, 0xff])),
        ),
        (
            "a name that is not UTF-8",
            then_more(request(3, 4, &[0, 0, 0, 1, 0, 2, 0xff, 0xfe, 0])),
        ),
    ];
    let peers = hostile.map(|(what, bytes)| {
        let mut connection = Connection::open(node.kafka()).unwrap();
        let peer = connection.local();
        let _ = connection.send_bytes(&bytes);
        let closed = connection.wait_closed();
        assert!(
            closed.is_ok(),
            "{what}: the connection stays open ({closed:?})"
        );
        (what, format!("peer={peer}"))
    });
    assert_unharmed(&mut node);
    // What has ended has written its last line.
    node.process.signal("TERM");
    node.process.wait(firn_tests::wait::PATIENCE);
    let log = node.process.output();
    for (what, peer) in peers {
        let names_it = |line: &&str| line.split_ascii_whitespace().any(|word| word == peer);
        let lines: Vec<&str> = log.lines().filter(names_it).collect();
        assert_eq!(lines.len(), 1, "{what}: {lines:#?} of {log}");
    }
}

#[test]
fn hostile_array_lengths_take_no_memory_in_any_api() {
    let (_folder, mut node) = broker();
    let lengths: [&[u8]; 4] = [
        &[0x7f, 0xff, 0xff, 0xff],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0, 0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff],
        &[
            0, 0xff, 0xff, 0xff, 0xff, 0x07, 0xff, 0xff, 0xff, 0xff, 0x07,
        ],
    ];
    for api in API_KEYS {
        for version in 0..18 {
            let mut connection = Connection::open(node.kafka()).unwrap();
            for body in lengths {
                if connection.send_bytes(&request(api, version, body)).is_err() {
                    break;
                }
            }
            let done = connection.finish();
            assert!(done.is_ok(), "API {api} v{version} keeps the connection");
        }
    }
    assert_unharmed(&mut node);
}

#[test]
fn random_bodies_of_every_api_harm_nothing() {
    let (_folder, mut node) = broker();
    let mut seed = Seed::from_environment("random_bodies_of_every_api_harm_nothing", 11);
    for api in API_KEYS {
        for version in 0..14 {
            let length = 1 + seed.below(80) as usize;
            throw(&node, &request(api, version, &seed.bytes(length)));
        }
    }
    assert_unharmed(&mut node);
}

#[test]
fn cut_off_frames_harm_nothing() {
    let (_folder, mut node) = broker();
    let batch = encode_batch(&[Record::new("k", "v")], ProducerFields::NONE);
    let whole = encode(9, 0, &produce_request(TOPIC, 0, batch, -1));
    for end in 0..whole.len() {
        throw(&node, &whole[..end]);
        // The same, claiming to be whole.
        if end > 4 {
            throw(&node, &frame(&whole[4..end]));
        }
    }
    assert_unharmed(&mut node);
}

#[test]
fn an_unknown_version_of_api_versions_is_answered_in_version_0() {
    let (_folder, mut node) = broker();
    let mut connection = Connection::open(node.kafka()).unwrap();
    connection.send_bytes(&request(18, 99, &[0])).unwrap();
    let answer = connection.receive_frame().unwrap();
    assert_eq!(
        &answer[..4],
        7_i32.to_be_bytes(),
        "the correlation id comes back"
    );
    assert_eq!(&answer[4..6], code::UNSUPPORTED_VERSION.to_be_bytes());
    // And the connection lives on, for the client that asks again.
    let next = ApiVersionsRequest::default();
    connection.send_bytes(&encode(0, 8, &next)).unwrap();
    let answer = connection.receive_frame().unwrap();
    assert_eq!(&answer[4..6], code::NONE.to_be_bytes());
    assert_unharmed(&mut node);
}

#[test]
fn an_unknown_version_of_any_other_api_closes_the_connection() {
    let (_folder, mut node) = broker();
    for api in [0, 1, 2, 3, 19] {
        assert_closed(&node, &format!("API {api}"), &request(api, 99, &[0; 8]));
    }
    assert_closed(&node, "an API nobody knows", &request(9999, 0, &[0; 8]));
    assert_unharmed(&mut node);
}

/// What the broker answers to a batch that `damage` has been at.
fn answer_to(node: &Node, reseal: bool, damage: impl FnOnce(&mut BytesMut)) -> i16 {
    let records = [Record::new("k", "one"), Record::new("k", "two")];
    let mut batch = BytesMut::from(&encode_batch(&records, ProducerFields::NONE)[..]);
    damage(&mut batch);
    if reseal {
        seal(&mut batch);
    }
    let mut client = Client::connect(node.kafka()).unwrap();
    let produced = client.produce(TOPIC, 0, batch.freeze());
    produced.expect("a bad batch is answered").error
}

#[test]
fn bad_batches_get_their_error_code() {
    let (_folder, mut node) = broker();
    let end = |node: &Node| {
        let mut client = Client::connect(node.kafka()).unwrap();
        client.list_offset(TOPIC, 0, firn_tests::client::LATEST)
    };
    let before = end(&node);
    let flipped = answer_to(&node, false, |batch| {
        let last = batch.len() - 1;
        batch[last] ^= 1;
    });
    assert_eq!(flipped, code::CORRUPT_MESSAGE, "a flipped bit");
    for magic in [0, 1, 3, -1_i8] {
        let refused = answer_to(&node, true, |batch| batch[16] = magic.cast_unsigned());
        let fit = [
            code::UNSUPPORTED_FOR_MESSAGE_FORMAT,
            code::INVALID_RECORD,
            code::CORRUPT_MESSAGE,
        ];
        assert!(fit.contains(&refused), "magic {magic}: {refused}");
    }
    for count in [i32::MAX, -1, 0, 1, 3] {
        let refused = answer_to(&node, true, |batch| {
            batch[57..61].copy_from_slice(&count.to_be_bytes());
        });
        assert_ne!(refused, code::NONE, "a record count of {count}");
    }
    for length in [i32::MAX, i32::MIN, -1, 0, 48, 1000] {
        let refused = answer_to(&node, false, |batch| {
            batch[8..12].copy_from_slice(&length.to_be_bytes());
        });
        assert_ne!(refused, code::NONE, "a batch length of {length}");
    }
    let cut = answer_to(&node, false, |batch| batch.truncate(30));
    assert_ne!(cut, code::NONE, "half a header");
    assert_eq!(end(&node), before, "nothing of it was appended");
    assert_unharmed(&mut node);
}

#[test]
fn a_batch_above_the_topics_limit_is_refused_and_a_large_one_within_it_is_taken() {
    let (_folder, mut node) = broker();
    let mut client = Client::connect(node.kafka()).unwrap();
    let too_large = Record::new("k", vec![b'x'; 2 * 1024 * 1024]);
    let batch = encode_batch(&[too_large], ProducerFields::NONE);
    let produced = client.produce(TOPIC, 0, batch).unwrap();
    assert_eq!(produced.error, code::MESSAGE_TOO_LARGE);

    client.create_topic("large", 1, &[("max.message.bytes", "20000000")]);
    let larger_than_a_slot = Record::new("k", vec![b'y'; 12 * 1024 * 1024]);
    let batch = encode_batch(
        std::slice::from_ref(&larger_than_a_slot),
        ProducerFields::NONE,
    );
    let produced = client.produce("large", 0, batch).unwrap();
    assert_eq!(produced.error, code::NONE);
    let log = client.read("large", 0, 0);
    assert_eq!(log.len(), 1);
    assert!(
        log[0].record == larger_than_a_slot,
        "12 MiB come back as they were"
    );
    assert_unharmed(&mut node);
}

#[test]
fn names_that_are_not_utf8_harm_nothing() {
    let (_folder, mut node) = broker();
    let mut body = BytesMut::new();
    body.put_i32(1);
    body.put_i16(4);
    body.extend_from_slice(&[0xff, 0xfe, 0xc3, 0x28]);
    body.put_u8(1);
    throw(&node, &request(3, 4, &body));
    assert_unharmed(&mut node);
}

#[test]
fn bytes_of_other_protocols_harm_nothing() {
    let (_folder, mut node) = broker();
    throw(&node, b"GET / HTTP/1.1\r\nHost: firn\r\n\r\n");
    throw(&node, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    throw(&node, b"SSH-2.0-OpenSSH_9.2\r\n");
    assert_unharmed(&mut node);
}

#[test]
fn a_peer_that_never_reads_its_answers_takes_bounded_memory() {
    let (_folder, mut node) = broker();
    let mut client = Client::connect(node.kafka()).unwrap();
    for _ in 0..8 {
        let batch = encode_batch(
            &[Record::new("k", vec![b'z'; 1_000_000])],
            ProducerFields::NONE,
        );
        let produced = client.produce(TOPIC, 0, batch).unwrap();
        assert_eq!(produced.error, code::NONE);
    }
    let fetch = fetch_frame();
    let mut deaf = Connection::open(node.kafka()).unwrap();
    deaf.give_up_writing_after(Duration::from_secs(2));
    for _ in 0..2000 {
        if deaf.send_bytes(&fetch).is_err() {
            break;
        }
    }
    assert_unharmed(&mut node);
}

/// Fetch v4 of everything in the target, without a wait.
fn fetch_frame() -> Bytes {
    let mut body = BytesMut::new();
    body.put_i32(-1);
    body.put_i32(0);
    body.put_i32(1);
    body.put_i32(50_000_000);
    body.put_i8(0);
    body.put_i32(1);
    body.put_i16(i16::try_from(TOPIC.len()).unwrap());
    body.extend_from_slice(TOPIC.as_bytes());
    body.put_i32(1);
    body.put_i32(0);
    body.put_i64(0);
    body.put_i32(50_000_000);
    Bytes::from(request(1, 4, &body))
}

#[test]
fn a_pipelined_connection_is_answered_in_order() {
    let (_folder, mut node) = broker();
    let mut connection = Connection::open(node.kafka()).unwrap();
    for at in 0..50 {
        let batch = encode_batch(&[Record::new("k", format!("{at}"))], ProducerFields::NONE);
        connection
            .send(9, &produce_request(TOPIC, 0, batch, -1))
            .unwrap();
    }
    let mut offsets = Vec::new();
    for _ in 0..50 {
        let response = connection.receive::<ProduceRequest>(9).unwrap();
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!(partition.error_code, code::NONE);
        offsets.push(partition.base_offset);
    }
    assert!(
        offsets.iter().copied().eq(0..50),
        "appends keep the order of the requests: {offsets:?}"
    );
    assert_unharmed(&mut node);
}

/// Asks whether `count` topics could be created.
fn would_create(count: usize) -> CreateTopicsRequest {
    let topic = |at: usize| {
        CreatableTopic::default()
            .with_name(topic_name(&format!("t{at}")))
            .with_num_partitions(1)
            .with_replication_factor(1)
    };
    CreateTopicsRequest::default()
        .with_topics((0..count).map(topic).collect())
        .with_validate_only(true)
}

#[test]
fn short_requests_with_long_answers_take_bounded_memory() {
    let (_folder, mut node) = broker();
    let mut connection = Connection::open(node.kafka()).unwrap();
    let created = connection.call(7, &would_create(1000)).unwrap();
    assert_eq!(created.topics.len(), 1000);
    for topic in &created.topics {
        assert_eq!(topic.error_code, code::NONE);
        assert!(topic.configs.as_ref().is_some_and(|c| !c.is_empty()));
    }
    let create = encode(7, 0, &would_create(100_000));
    assert_closed(&node, "CreateTopics with 100,000 topics", &create);
    let keys = vec![StrBytes::default(); 500_000];
    let find = FindCoordinatorRequest::default().with_coordinator_keys(keys);
    let find = encode(4, 0, &find);
    assert_closed(&node, "FindCoordinator with 500,000 keys", &find);
    assert_unharmed(&mut node);
}

#[test]
fn names_without_anything_to_produce_take_bounded_memory() {
    let (_folder, mut node) = broker();
    let named = |name: &str, count: usize| {
        let topic = TopicProduceData::default().with_name(topic_name(name));
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(30_000)
            .with_topic_data(vec![topic; count]);
        encode(PRODUCE_VERSION, 0, &request)
    };
    let (many, long) = (named("t", 150_000), named(&"x".repeat(30_000), 500));
    let mut deaf = Vec::new();
    for _ in 0..32 {
        for frame in [&many, &long] {
            let mut connection = Connection::open(node.kafka()).unwrap();
            connection.give_up_writing_after(Duration::from_millis(250));
            // To close the connection is one of the right answers.
            let _ = connection.send_bytes(frame);
            let _ = connection.send_bytes(frame);
            deaf.push(connection);
        }
    }
    assert_unharmed(&mut node);
}

#[test]
fn requests_that_pile_up_behind_one_that_waits_hold_nobody_else_up() {
    let (_folder, mut node) = broker();
    let mut piles = Vec::new();
    for _ in 0..12 {
        let mut connection = Connection::open(node.kafka()).unwrap();
        connection.give_up_writing_after(Duration::from_secs(2));
        // Far longer than anybody else is ready to wait.
        let waits = fetch_request(TOPIC, 0, 0, 60_000);
        connection.send(FETCH_VERSION, &waits).unwrap();
        let heartbeat = HeartbeatRequest::default()
            .with_group_id(GroupId(StrBytes::from_string("g".repeat(8_000))));
        for _ in 0..127 {
            if connection.send(3, &heartbeat).is_err() {
                break;
            }
        }
        piles.push(connection);
    }
    let mut client = Client::connect(node.kafka()).unwrap();
    let metadata = client.metadata(TOPIC).expect("Metadata is answered");
    assert_eq!(metadata.topics[0].error_code, code::NONE);
    let unknown =
        HeartbeatRequest::default().with_group_id(GroupId(StrBytes::from_static_str("nobody")));
    let beaten = client.connection.call(3, &unknown);
    beaten.expect("Heartbeat is answered");
    assert_unharmed(&mut node);
}
