//! Partitions read at a broker that does not own them, by clients of its rack (KIP-392).

use std::thread;

use bytes::Bytes;
use firn_proto::limits::READ_RUNS_MAX;
use firn_storage::bucket::testing::{Fault, On, Rule};
use firn_storage::bucket::{Operation, Purpose};
use firn_tests::client::{Client, FETCH_VERSION, LATEST, code, fetch_request};
use firn_tests::records::{ProducerFields, Record, decode_batches, encode_batch};
use firn_tests::wait;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::protocol::StrBytes;

use crate::members::Members;
use crate::{PARTITIONS, TOPIC};

const FENCED_LEADER_EPOCH: i16 = 74;
const UNKNOWN_LEADER_EPOCH: i16 = 75;
/// Nobody is sent to read elsewhere.
const NOBODY: i32 = -1;

/// A Fetch of a client of `rack`, or of one that does not say.
fn request(rack: &str, partition: i32, offset: i64, max_wait_ms: i32) -> FetchRequest {
    let request = fetch_request(TOPIC, partition, offset, max_wait_ms);
    request.with_rack_id(StrBytes::from_string(rack.to_owned()))
}

fn ask(client: &mut Client, request: &FetchRequest) -> PartitionData {
    let response = client.connection.call(FETCH_VERSION, request).unwrap();
    response.responses[0].partitions[0].clone()
}

fn fetch(client: &mut Client, rack: &str, partition: i32, offset: i64) -> PartitionData {
    ask(client, &request(rack, partition, offset, 0))
}

fn numbers(batches: Bytes) -> Vec<i32> {
    let stored = decode_batches(batches).into_iter();
    let number = stored.map(|stored| {
        let value = stored.record.value.unwrap();
        std::str::from_utf8(&value).unwrap().parse().unwrap()
    });
    number.collect()
}

fn records(data: &PartitionData) -> Bytes {
    data.records.clone().unwrap_or_default()
}

/// The member that owns each partition.
fn owners(members: &Members, count: usize) -> Vec<usize> {
    let leaders = members.leaders(TOPIC, PARTITIONS).into_iter();
    let of = |leader| (0..count).find(|member| members.id(*member) == leader);
    leaders.map(|leader| of(leader).unwrap()).collect()
}

/// A topic that every member knows.
fn create(members: &Members, count: usize, configs: &[(&str, &str)]) {
    members.client(0).create_topic(TOPIC, PARTITIONS, configs);
    (0..count).for_each(|member| members.client(member).wait_leaders(TOPIC, PARTITIONS));
}

/// What the member `reader` serves to a client of its rack, once it has `count` numbers: where
/// clients would look for the partition anew, it is asked again.
fn read(members: &Members, reader: usize, rack: &str, partition: i32, count: usize) -> Vec<i32> {
    let mut read = Vec::new();
    wait::until("records at the reader", wait::PATIENCE, || {
        let mut client = members.client(reader);
        let found = fetch(&mut client, rack, partition, read.len() as i64);
        assert!(
            found.error_code == code::NONE || code::RETRIABLE.contains(&found.error_code),
            "error {}",
            found.error_code
        );
        read.extend(numbers(records(&found)));
        (read.len() >= count).then_some(())
    });
    read
}

#[test]
fn a_client_is_sent_to_the_broker_of_its_rack_which_serves_it_the_same_bytes() {
    let racks = ["a", "b"];
    let members = Members::in_racks(&racks, &[]);
    create(&members, 2, &[]);
    for (partition, owner) in (0..).zip(owners(&members, 2)) {
        (0..3).for_each(|number| members.append(TOPIC, partition, number));
        let reader = 1 - owner;
        let (near, far) = (racks[owner], racks[reader]);
        let mut at_owner = members.client(owner);
        let sent = fetch(&mut at_owner, far, partition, 0);
        assert_eq!(sent.error_code, code::NONE);
        assert_eq!(sent.preferred_read_replica.0, members.id(reader));
        assert!(records(&sent).is_empty());

        let whole = fetch(&mut at_owner, near, partition, 0);
        assert_eq!(whole.preferred_read_replica.0, NOBODY);
        assert_eq!(numbers(records(&whole)), [0, 1, 2]);
        let mut at_reader = members.client(reader);
        let served = fetch(&mut at_reader, far, partition, 0);
        assert_eq!(served.error_code, code::NONE);
        assert_eq!(records(&served), records(&whole), "byte for byte");
        assert_eq!(served.high_watermark, whole.high_watermark);
        assert_eq!(served.last_stable_offset, whole.last_stable_offset);
        assert_eq!(served.log_start_offset, 0);

        // Whoever comes back has reasons.
        let back = wait::until("an answer of the owner", wait::PATIENCE, || {
            let found = fetch(&mut at_owner, far, partition, 0);
            let is_sent = found.preferred_read_replica.0 != NOBODY;
            (!is_sent).then_some(found)
        });
        assert_eq!(records(&back), records(&whole));
    }
}

#[test]
fn clients_that_need_no_other_broker_stay_with_the_owner() {
    let racks = ["a", "b"];
    let members = Members::in_racks(&racks, &[]);
    create(&members, 2, &[]);
    for (partition, owner) in (0..).zip(owners(&members, 2)) {
        members.append(TOPIC, partition, 0);
        for rack in ["", racks[owner], "c"] {
            let found = fetch(&mut members.client(owner), rack, partition, 0);
            assert_eq!(found.preferred_read_replica.0, NOBODY, "rack {rack:?}");
            assert_eq!(numbers(records(&found)), [0]);
            let elsewhere = fetch(&mut members.client(1 - owner), rack, partition, 0);
            assert_eq!(elsewhere.error_code, code::NOT_LEADER_OR_FOLLOWER);
            assert_eq!(elsewhere.current_leader.leader_id.0, members.id(owner));
        }
    }
}

#[test]
fn a_client_finds_the_broker_of_its_rack_among_the_replicas() {
    let members = Members::in_racks(&["a", "b", "b"], &[]);
    create(&members, 3, &[]);
    let metadata = members.client(0).metadata(TOPIC).unwrap();
    let racks: Vec<_> = metadata.brokers.iter().map(|b| b.rack.clone()).collect();
    assert_eq!(racks.len(), 3);
    let owners = owners(&members, 3);
    for partition in &metadata.topics[0].partitions {
        let owner = owners[partition.partition_index as usize];
        let replicas: Vec<_> = partition.replica_nodes.iter().map(|id| id.0).collect();
        assert_eq!(replicas.len(), 2, "the owner, and one for the other rack");
        assert_eq!(partition.isr_nodes, partition.replica_nodes);
        let far = if owner == 0 { "b" } else { "a" };
        let index = partition.partition_index;
        let sent = fetch(&mut members.client(owner), far, index, 0);
        assert!(replicas.contains(&sent.preferred_read_replica.0));
        assert_ne!(sent.preferred_read_replica.0, members.id(owner));
    }
}

#[test]
fn a_reader_says_what_its_owner_would_say_of_offsets_and_epochs() {
    let racks = ["a", "b"];
    let members = Members::in_racks(&racks, &[]);
    create(&members, 2, &[]);
    let owner = owners(&members, 2)[0];
    let reader = 1 - owner;
    (0..3).for_each(|number| members.append(TOPIC, 0, number));
    members.client(owner).delete_records(TOPIC, 0, 1);
    let mut client = members.client(reader);
    let mut error = |offset| fetch(&mut client, racks[reader], 0, offset).error_code;
    assert_eq!(error(1), code::NONE);
    assert_eq!(error(3), code::NONE, "there is nothing yet");
    assert_eq!(error(0), code::OFFSET_OUT_OF_RANGE);
    assert_eq!(error(4), code::OFFSET_OUT_OF_RANGE);
    let mut in_epoch = |epoch| {
        let mut request = request(racks[reader], 0, 1, 0);
        request.topics[0].partitions[0].current_leader_epoch = epoch;
        ask(&mut client, &request).error_code
    };
    let epoch = {
        let metadata = members.client(reader).metadata(TOPIC).unwrap();
        let partitions = &metadata.topics[0].partitions;
        let first = partitions.iter().find(|p| p.partition_index == 0);
        first.unwrap().leader_epoch
    };
    assert_eq!(in_epoch(epoch), code::NONE);
    assert_eq!(in_epoch(epoch + 1), UNKNOWN_LEADER_EPOCH);
    if epoch > 0 {
        assert_eq!(in_epoch(epoch - 1), FENCED_LEADER_EPOCH);
    }
}

#[test]
fn a_consumer_waits_at_the_broker_of_its_rack_for_what_is_produced_at_the_owner() {
    let racks = ["a", "b"];
    let members = Members::in_racks(&racks, &[]);
    create(&members, 2, &[]);
    let reader = 1 - owners(&members, 2)[0];
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut client = members.client(reader);
            let mut read = Vec::new();
            while read.len() < 5 {
                let waits = request(racks[reader], 0, read.len() as i64, 60_000);
                let found = ask(&mut client, &waits);
                assert_eq!(found.error_code, code::NONE);
                let numbers = numbers(records(&found));
                assert!(!numbers.is_empty(), "answered before there was anything");
                read.extend(numbers);
            }
            read
        });
        (0..5).for_each(|number| members.append(TOPIC, 0, number));
        assert_eq!(reading.join().unwrap(), [0, 1, 2, 3, 4]);
    });
}

/// Frames that have gone over all links of a member, either way.
fn link_frames(members: &Members, member: usize) -> u64 {
    let metrics = members.ask(member, "GET", "/metrics");
    let frames = metrics.lines();
    let frames = frames.filter(|line| line.starts_with("firn_link_frames_total{"));
    frames
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

#[test]
fn a_consumer_that_wants_more_than_it_takes_of_a_partition_waits_and_its_broker_does_not_ask_on() {
    let racks = ["a", "b"];
    let members = Members::in_racks(&racks, &[]);
    create(&members, 2, &[]);
    let reader = 1 - owners(&members, 2)[0];
    members.append(TOPIC, 0, 0);
    let mut client = members.client(reader);
    assert_eq!(read(&members, reader, racks[reader], 0, 1), [0]);
    let mut wants = request(racks[reader], 0, 0, 2_000);
    // A batch is longer than its header of 61 bytes: there are enough, but not of those it takes.
    wants.min_bytes = 50;
    wants.topics[0].partitions[0].partition_max_bytes = 10;
    let before = link_frames(&members, reader);
    let found = ask(&mut client, &wants);
    let frames = link_frames(&members, reader) - before;
    assert_eq!(
        numbers(records(&found)),
        [0],
        "the first batch, whatever its size"
    );
    // Beats go ten times a second; whoever asked on and on had 2767 frames here.
    assert!(frames < 200, "{frames} frames while it waited");
}

#[test]
fn many_small_runs_are_enough_though_an_answer_of_their_owner_names_only_some_of_them() {
    let racks = ["a", "b"];
    let members = Members::in_racks(&racks, &[]);
    create(&members, 2, &[]);
    let reader = 1 - owners(&members, 2)[0];
    // Each append was answered before the next, and so is a run of its own.
    let runs = READ_RUNS_MAX as i32 + 16;
    (0..runs).for_each(|number| members.append(TOPIC, 0, number));
    let mut client = members.client(reader);
    assert_eq!(read(&members, reader, racks[reader], 0, 1)[0], 0);
    let mut wants = request(racks[reader], 0, 0, 0);
    wants.topics[0].partitions[0].partition_max_bytes = 1;
    let shortest = records(&ask(&mut client, &wants)).len() as i32;
    let mut wants = request(racks[reader], 0, 0, 60_000);
    wants.min_bytes = runs * shortest;
    thread::scope(|scope| {
        let reading = scope.spawn(|| numbers(records(&ask(&mut client, &wants))));
        wait::until(
            "an answer before the wait is over",
            wait::PATIENCE / 2,
            || reading.is_finished().then_some(()),
        );
        assert!(reading.join().unwrap().len() >= READ_RUNS_MAX);
    });
}

#[test]
fn consumers_of_a_rack_share_what_its_broker_has_from_the_bucket() {
    let racks = ["a", "b"];
    let members = Members::in_racks(&racks, &[]);
    create(&members, 2, &[]);
    let owner = owners(&members, 2)[0];
    let reader = 1 - owner;
    members.append(TOPIC, 0, 0);
    let requests = |operation| members.usage(reader).requests(Purpose::Read, operation);
    assert_eq!(requests(Operation::Get), 0);
    for _ in 0..5 {
        assert_eq!(read(&members, reader, racks[reader], 0, 1), [0]);
    }
    assert_eq!(requests(Operation::Get), 1, "five clients, one GET");
    assert_eq!(requests(Operation::List), 0);
}

#[test]
fn records_that_were_archived_are_read_at_the_broker_of_the_rack_once_the_wal_has_let_go_of_them() {
    let racks = ["a", "b"];
    let soon = [
        ("archive.interval.ms", "1"),
        ("collection.interval.ms", "20"),
    ];
    let members = Members::in_racks(&racks, &soon);
    create(&members, 2, &[("retention.ms", "-1")]);
    let owner = owners(&members, 2)[0];
    let reader = 1 - owner;
    let before = members.wal_slots();
    (0..3).for_each(|number| members.append(TOPIC, 0, number));
    // Each append was answered before the next, and so has a slot of its own.
    let held = members.wal_slots().into_iter();
    let held: Vec<String> = held.filter(|slot| !before.contains(slot)).take(3).collect();
    assert_eq!(read(&members, reader, racks[reader], 0, 3), [0, 1, 2]);
    wait::until("their slots to be deleted", wait::PATIENCE, || {
        let left = members.wal_slots();
        held.iter().all(|slot| !left.contains(slot)).then_some(())
    });
    assert_eq!(read(&members, reader, racks[reader], 0, 3), [0, 1, 2]);
    let usage = members.usage(reader);
    assert!(usage.requests(Purpose::ReadSegment, Operation::Get) > 0);
    members.append(TOPIC, 0, 3);
    assert_eq!(read(&members, reader, racks[reader], 0, 4), [0, 1, 2, 3]);
}

#[test]
fn what_the_bucket_has_not_confirmed_is_shown_to_nobody() {
    let racks = ["a", "b"];
    let members = Members::in_racks(&racks, &[]);
    create(&members, 2, &[]);
    let owner = owners(&members, 2)[0];
    let reader = 1 - owner;
    members.append(TOPIC, 0, 0);
    let lost = Rule::new(On::Put, Fault::RequestLost).key("wal/");
    members.store().inject(lost.times(u64::MAX));
    let mut producer = members.client(owner);
    let batch = encode_batch(&[Record::new("number", "1")], ProducerFields::NONE);
    producer.send_produce(TOPIC, 0, batch).unwrap();
    let mut at_owner = members.client(owner);
    wait::until("the batch to have its offset", wait::PATIENCE, || {
        let behind = fetch(&mut at_owner, racks[owner], 0, 2);
        (behind.error_code == code::NONE).then_some(())
    });
    let mut client = members.client(reader);
    let seen = fetch(&mut client, racks[reader], 0, 0);
    assert_eq!((seen.error_code, seen.high_watermark), (code::NONE, 1));
    assert_eq!(numbers(records(&seen)), [0]);
    for offset in [1, 2] {
        // There is an offset, but nothing that may be shown.
        let ahead = fetch(&mut client, racks[reader], 0, offset);
        assert_eq!((ahead.error_code, ahead.high_watermark), (code::NONE, 1));
        assert!(records(&ahead).is_empty());
    }
    members.store().clear();
    assert_eq!(producer.receive_produced().unwrap().base_offset, 1);
    assert_eq!(read(&members, reader, racks[reader], 0, 2), [0, 1]);
}

#[test]
fn reads_go_on_in_a_rack_while_owners_elsewhere_leave_and_die() {
    let mut members = Members::in_racks(&["a", "a", "a", "b"], &[]);
    const READER: usize = 3;
    create(&members, 4, &[]);
    let mut count = 0;
    let mut append_and_read = |members: &Members| {
        (0..PARTITIONS).for_each(|partition| members.append(TOPIC, partition, count));
        count += 1;
        let expected: Vec<i32> = (0..count).collect();
        for partition in 0..PARTITIONS {
            let read = read(members, READER, "b", partition, expected.len());
            assert_eq!(read, expected, "{TOPIC}/{partition}");
        }
    };
    append_and_read(&members);
    members.stop(1);
    append_and_read(&members);
    members.kill(0);
    append_and_read(&members);
    let left = [2, READER].map(|member| members.id(member));
    let leaders = members.leaders(TOPIC, PARTITIONS);
    assert!(leaders.iter().all(|leader| left.contains(leader)));
    assert!(leaders.contains(&left[0]), "some are read elsewhere still");
    let end = members
        .client(2)
        .list_offset(TOPIC, first_of(&leaders, left[0]), LATEST);
    assert_eq!(end, 3);
}

fn first_of(leaders: &[i32], leader: i32) -> i32 {
    let place = leaders.iter().position(|found| *found == leader);
    i32::try_from(place.unwrap()).unwrap()
}
