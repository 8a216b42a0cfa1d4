//! Consumers of one group: they share the partitions, and resume from what they committed.

use std::collections::BTreeMap;

use firn_tests::client::{Client, code};
use firn_tests::group::GroupMember;
use firn_tests::node::{Node, NodePlan};
use firn_tests::records::Record;
use firn_tests::wait;

use crate::{FIRN, folder, forget_local_files};

const TOPIC: &str = "shared";
const GROUP: &str = "readers";
const PARTITIONS: i32 = 6;
const RECORDS: usize = 20;

#[test]
fn two_consumers_share_partitions_and_resume_after_a_restart() {
    let folder = folder();
    let plan = NodePlan::on_directory(FIRN, folder.path());
    let node = plan.start();
    fill(&node);
    let mut read: BTreeMap<i32, Vec<i64>> = BTreeMap::new();

    let (mut first, mut second) = members(&node);
    for (member, partitions) in join_both(&mut first, &mut second) {
        assert_eq!(partitions.len(), 3, "each has half of the partitions");
        let member = if member == 0 { &mut first } else { &mut second };
        for partition in partitions {
            assert_eq!(member.committed(partition), -1, "nothing is committed yet");
            read_to(&node, partition, 0, 12, &mut read);
            member.commit(partition, 12);
        }
        assert_eq!(member.heartbeat(), code::NONE);
    }
    node.stop();

    forget_local_files(folder.path());
    let node = plan.start();
    let (mut first, mut second) = members(&node);
    let mut resumed = Vec::new();
    for (member, partitions) in join_both(&mut first, &mut second) {
        let member = if member == 0 { &mut first } else { &mut second };
        for partition in partitions {
            let from = member.committed(partition);
            assert_eq!(from, 12, "the group resumes where it committed");
            read_to(&node, partition, from, RECORDS as i64, &mut read);
            resumed.push(partition);
        }
    }
    resumed.sort_unstable();
    assert_eq!(
        resumed,
        (0..PARTITIONS).collect::<Vec<_>>(),
        "each partition has one reader"
    );
    for offsets in read.values() {
        assert_eq!(
            *offsets,
            (0..RECORDS as i64).collect::<Vec<_>>(),
            "each record once"
        );
    }
    first.leave();
    second.leave();
    node.stop();
}

#[test]
fn a_member_that_leaves_hands_its_partitions_over() {
    let folder = folder();
    let node = NodePlan::on_directory(FIRN, folder.path()).start();
    fill(&node);
    let (mut first, mut second) = members(&node);
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

fn fill(node: &Node) {
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic(TOPIC, PARTITIONS, &[]);
    for partition in 0..PARTITIONS {
        for at in 0..RECORDS {
            let record = Record::new("key", format!("{partition}/{at}"));
            client.append(TOPIC, partition, &[record]);
        }
    }
}

fn members(node: &Node) -> (GroupMember, GroupMember) {
    let member = || GroupMember::new(node.kafka(), GROUP, TOPIC);
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

fn read_to(node: &Node, partition: i32, from: i64, to: i64, read: &mut BTreeMap<i32, Vec<i64>>) {
    let mut client = Client::connect(node.kafka()).unwrap();
    let log = client.read(TOPIC, partition, from);
    let offsets = log.iter().map(|stored| stored.offset).filter(|o| *o < to);
    read.entry(partition).or_default().extend(offsets);
}
