//! Consumers of one group: they share the partitions, and resume from what they committed.

use std::collections::BTreeMap;

use firn_tests::client::{Client, code};
use firn_tests::group::GroupMember;
use firn_tests::node::{Node, NodePlan};
use firn_tests::records::StoredRecord;
use firn_tests::wait;

use crate::flights::{self, PARTITIONS};
use crate::{FIRN, folder, forget_local_files, minio_for, node_on};

const TOPIC: &str = "shared";
const GROUP: &str = "readers";

/// The group part of the main job. In order, on a directory.
#[test]
fn two_consumers_share_the_flights_and_resume_after_a_restart() {
    let folder = folder();
    let plan = NodePlan::on_directory(FIRN, folder.path());
    flights_are_shared(&plan, Node::stop, || forget_local_files(folder.path()));
}

/// The same on a real S3 server, and the broker crashes instead of leaving.
#[test]
fn two_consumers_share_the_flights_and_resume_after_a_crash_on_s3() {
    let folder = folder();
    let test = "two_consumers_share_the_flights_and_resume_after_a_crash_on_s3";
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let plan = node_on(&minio, folder.path());
    flights_are_shared(&plan, Node::kill, || forget_local_files(folder.path()));
}

/// Two consumers read half of each of their partitions, commit, and lose their broker; two new
/// ones of the same group read on from there. Together they have read each flight once.
fn flights_are_shared(plan: &NodePlan, end: fn(Node), forget: impl Fn()) {
    let flights = flights::by_partition();
    let halves: BTreeMap<i32, i64> = (0..PARTITIONS)
        .map(|partition| {
            let count = flights.get(&partition).map_or(0, Vec::len);
            (partition, i64::try_from(count / 2).unwrap())
        })
        .collect();
    assert!(halves.values().all(|half| *half > 0), "{halves:?}");
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic(flights::TOPIC, PARTITIONS, &[]);
    flights::produce(node.kafka(), &flights);
    let mut read: BTreeMap<i32, Vec<StoredRecord>> = BTreeMap::new();

    let (mut first, mut second) = members(&node, flights::TOPIC);
    for (member, partitions) in join_both(&mut first, &mut second) {
        assert_eq!(partitions.len(), 3, "each has half of the partitions");
        let member = if member == 0 { &mut first } else { &mut second };
        for partition in partitions {
            assert_eq!(member.committed(partition), -1, "nothing is committed yet");
            let half = halves[&partition];
            let log = client.read(flights::TOPIC, partition, 0);
            let seen = log.into_iter().filter(|stored| stored.offset < half);
            read.entry(partition).or_default().extend(seen);
            member.commit(partition, half);
        }
        assert_eq!(member.heartbeat(), code::NONE);
    }
    end(node);

    forget();
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.wait_leaders(flights::TOPIC, PARTITIONS);
    let (mut first, mut second) = members(&node, flights::TOPIC);
    let mut resumed = Vec::new();
    for (member, partitions) in join_both(&mut first, &mut second) {
        let member = if member == 0 { &mut first } else { &mut second };
        for partition in partitions {
            let from = member.committed(partition);
            assert_eq!(
                from, halves[&partition],
                "the group resumes where it committed"
            );
            let rest = client.read(flights::TOPIC, partition, from);
            read.entry(partition).or_default().extend(rest);
            resumed.push(partition);
        }
    }
    resumed.sort_unstable();
    assert_eq!(
        resumed,
        (0..PARTITIONS).collect::<Vec<_>>(),
        "each partition has one reader"
    );
    for (partition, read) in &read {
        flights::assert_are(*partition, read, &flights, "by the group");
    }
    first.leave();
    second.leave();
    node.stop();
}

#[test]
fn a_member_that_leaves_hands_its_partitions_over() {
    let folder = folder();
    let node = NodePlan::on_directory(FIRN, folder.path()).start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic(TOPIC, PARTITIONS, &[]);
    let (mut first, mut second) = members(&node, TOPIC);
    join_both(&mut first, &mut second);
    second.leave();
    wait::until("the rest to hear of the rebalance", wait::PATIENCE, || {
        (first.heartbeat() == code::REBALANCE_IN_PROGRESS).then_some(())
    });
    first.ask_to_join();
    let members = first.joined();
    assert_eq!(members, [first.id()]);
    first.ask_to_sync(&[(first.id().to_owned(), (0..PARTITIONS).collect())]);
    assert_eq!(first.synced().len(), PARTITIONS as usize);
    node.stop();
}

/// KIP-496.
#[test]
fn offsets_are_deleted_unless_a_member_reads_the_topic() {
    let folder = folder();
    let plan = NodePlan::on_directory(FIRN, folder.path());
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic(TOPIC, 2, &[]);
    let mut member = GroupMember::new(node.kafka(), GROUP, TOPIC);
    let nothing = (code::GROUP_ID_NOT_FOUND, vec![]);
    assert_eq!(member.delete_offsets(&[0]), nothing, "no such group");
    member.ask_to_join();
    member.joined();
    member.ask_to_sync(&[(member.id().to_owned(), vec![0, 1])]);
    member.synced();
    member.commit(0, 7);
    member.commit(1, 8);
    let subscribed = (code::NONE, vec![code::GROUP_SUBSCRIBED_TO_TOPIC]);
    assert_eq!(member.delete_offsets(&[0]), subscribed);
    assert_eq!(member.committed(0), 7);

    member.leave();
    let deleted = (
        code::NONE,
        vec![code::NONE, code::UNKNOWN_TOPIC_OR_PARTITION],
    );
    assert_eq!(member.delete_offsets(&[0, 2]), deleted);
    node.kill();
    let node = plan.start();
    let mut member = GroupMember::new(node.kafka(), GROUP, TOPIC);
    assert_eq!(member.committed(0), -1, "what was deleted stays so");
    assert_eq!(member.committed(1), 8, "and nothing else");
    node.stop();
}

fn members(node: &Node, topic: &str) -> (GroupMember, GroupMember) {
    let member = || GroupMember::new(node.kafka(), GROUP, topic);
    (member(), member())
}

/// Brings both into one generation and gives each half of the partitions.
fn join_both(first: &mut GroupMember, second: &mut GroupMember) -> [(usize, Vec<i32>); 2] {
    first.ask_to_join();
    first.joined();
    first.ask_to_sync(&[(first.id().to_owned(), (0..PARTITIONS).collect())]);
    first.synced();
    // The second's join starts the next generation, which waits for the first to join again.
    let (led, members) = std::thread::scope(|scope| {
        let joining = scope.spawn(|| {
            second.ask_to_join();
            second.joined()
        });
        wait::until("the first to hear of the second", wait::PATIENCE, || {
            (first.heartbeat() == code::REBALANCE_IN_PROGRESS).then_some(())
        });
        first.ask_to_join();
        let of_first = first.joined();
        let of_second = joining.join().expect("the second joins");
        if of_first.is_empty() {
            (1, of_second)
        } else {
            (0, of_first)
        }
    });
    assert_eq!(members.len(), 2, "both are in the generation");
    let halves = [(0..3).collect::<Vec<_>>(), (3..6).collect()];
    let assignment: Vec<(String, Vec<i32>)> = members.into_iter().zip(halves).collect();
    let of = |leads: bool| if leads { assignment.as_slice() } else { &[] };
    first.ask_to_sync(of(led == 0));
    second.ask_to_sync(of(led == 1));
    [(0, first.synced()), (1, second.synced())]
}
