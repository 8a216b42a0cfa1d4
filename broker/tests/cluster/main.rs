//! Several whole nodes on one bucket: who leads, who owns what, and what is left when one of them
//! ends. A process that dies is a runtime whose tasks are dropped; nothing is shared but the store
//! and the loopback of this machine.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod members;
mod reads;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use firn_tests::client::code;
use firn_tests::disk::crash_image;
use firn_tests::records::{ProducerFields, Record, encode_batch};
use firn_tests::wait;
use members::{Members, numbers};
use tempfile::TempDir;

const TOPIC: &str = "shared";
const PARTITIONS: i32 = 6;

#[test]
fn processes_on_one_bucket_form_a_cluster_and_share_what_there_is() {
    let members = Members::start(3);
    for member in 0..3 {
        let metadata = members.client(member).metadata(TOPIC).unwrap();
        let mut ids: Vec<_> = metadata.brokers.iter().map(|b| b.node_id.0).collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2, 3], "as member {member} sees it");
    }
    members.client(1).create_topic(TOPIC, PARTITIONS, &[]);
    let mut owned: BTreeMap<i32, usize> = BTreeMap::new();
    for leader in members.leaders(TOPIC, PARTITIONS) {
        *owned.entry(leader).or_default() += 1;
    }
    assert_eq!(owned, [(1, 2), (2, 2), (3, 2)].into());
    for partition in 0..PARTITIONS {
        members.append(TOPIC, partition, 0);
        assert_eq!(members.numbers(TOPIC, partition), [0]);
    }
}

#[test]
fn whoever_does_not_own_a_partition_says_who_does() {
    let members = Members::start(2);
    members.client(0).create_topic(TOPIC, 2, &[]);
    // The picture of those who follow comes a moment after the answer of the one that leads.
    (0..2).for_each(|member| members.client(member).wait_leaders(TOPIC, 2));
    let leaders = members.leaders(TOPIC, 2);
    for partition in 0..2 {
        for member in 0..2 {
            let batch = encode_batch(&[Record::new("k", "0")], ProducerFields::NONE);
            let produced = members.client(member).produce(TOPIC, partition, batch);
            let is_owner = members.id(member) == leaders[partition as usize];
            let expected = match is_owner {
                true => code::NONE,
                false => code::NOT_LEADER_OR_FOLLOWER,
            };
            assert_eq!(produced.unwrap().error, expected);
        }
    }
}

/// What a dead process had acknowledged is served by the others, and goes on there.
fn survives_the_death_of(member: usize) {
    let mut members = Members::start(3);
    members.client(0).create_topic(TOPIC, PARTITIONS, &[]);
    for partition in 0..PARTITIONS {
        (0..3).for_each(|number| members.append(TOPIC, partition, number));
    }
    members.kill(member);
    for partition in 0..PARTITIONS {
        members.append(TOPIC, partition, 3);
        assert_eq!(members.numbers(TOPIC, partition), [0, 1, 2, 3]);
    }
    let leaders = members.leaders(TOPIC, PARTITIONS);
    assert!(!leaders.contains(&members.id(member)), "{leaders:?}");
}

#[test]
fn the_bucket_forgets_processes_that_stop_and_those_that_die() {
    let mut members = Members::start(3);
    assert_eq!(members.registered(), 3);
    members.stop(2);
    assert_eq!(members.registered(), 2);
    members.kill(1);
    wait::until("the card to be deleted", wait::PATIENCE, || {
        (members.registered() == 1).then_some(())
    });
}

#[test]
fn partitions_of_a_process_that_dies_go_on_elsewhere_with_all_that_was_acknowledged() {
    survives_the_death_of(1);
}

#[test]
fn when_the_leader_dies_another_leads_and_takes_its_partitions_over() {
    survives_the_death_of(0);
}

#[test]
fn all_processes_die_and_one_that_starts_has_everything() {
    let mut members = Members::start(2);
    members.client(0).create_topic(TOPIC, 2, &[]);
    (0..2).for_each(|partition| members.append(TOPIC, partition, 0));
    members.kill(0);
    members.kill(1);
    members.add();
    for partition in 0..2 {
        members.append(TOPIC, partition, 1);
        assert_eq!(members.numbers(TOPIC, partition), [0, 1]);
    }
}

#[test]
fn a_process_that_joins_gets_its_share_and_one_that_stops_gives_it_back_unnoticed() {
    let mut members = Members::start(2);
    members.client(0).create_topic(TOPIC, PARTITIONS, &[]);
    let is_over = AtomicBool::new(false);
    let (brokers, mut written) = (members.brokers(), 0);
    thread::scope(|scope| {
        let producing = scope.spawn(|| {
            let mut number = 0;
            while !is_over.load(Ordering::Relaxed) {
                (0..PARTITIONS).for_each(|partition| {
                    members::append(&brokers, TOPIC, partition, number);
                });
                number += 1;
            }
            number
        });
        members.add();
        let third = members.id(2);
        wait::until("a share of the new one", wait::PATIENCE, || {
            let leaders = members.leaders(TOPIC, PARTITIONS);
            let share = leaders.iter().filter(|leader| **leader == third).count();
            (share == 2).then_some(())
        });
        members.stop(2);
        let leaders = members.leaders(TOPIC, PARTITIONS);
        assert!(!leaders.contains(&third), "{leaders:?}");
        is_over.store(true, Ordering::Relaxed);
        written = producing.join().unwrap();
    });
    let all: Vec<i32> = (0..written).collect();
    for partition in 0..PARTITIONS {
        assert_eq!(members.numbers(TOPIC, partition), all);
    }
}

/// A member with a disk owns a partition of a topic that counts on it, and has written to it. The
/// other one has none. Gives the members, the disk, and the partition.
fn owner_with_a_disk() -> (Members, TempDir, i32) {
    let mut members = Members::start(1);
    let wal = TempDir::new().unwrap();
    members.add_with(Some(wal.path()));
    let local = [("firn.durability", "local")];
    members.client(0).create_topic(TOPIC, 2, &local);
    (0..2).for_each(|member| members.client(member).wait_leaders(TOPIC, 2));
    let leaders = members.leaders(TOPIC, 2);
    let of_disk = leaders.iter().position(|leader| *leader == members.id(1));
    let partition = of_disk.expect("each has its share") as i32;
    (0..3).for_each(|number| members.append(TOPIC, partition, number));
    members.append(TOPIC, 1 - partition, 0);
    (members, wal, partition)
}

/// The same, once that member has died. The disk is as it was left.
fn owner_with_a_disk_died() -> (Members, TempDir, i32) {
    let (mut members, wal, partition) = owner_with_a_disk();
    let image = crash_image(wal.path());
    members.kill(1);
    wait::until("the partition to wait", wait::PATIENCE, || {
        let waiting = members.ask(0, "GET", "/cluster/waiting");
        waiting.contains(r#""bucket_end":"#).then_some(())
    });
    (members, image, partition)
}

#[test]
fn a_local_topic_waits_for_its_disk_while_others_live_and_goes_on_with_it() {
    let (mut members, disk, partition) = owner_with_a_disk_died();
    members.append(TOPIC, 1 - partition, 1);
    members.add_with(Some(disk.path()));
    assert_eq!(members.numbers(TOPIC, partition), [0, 1, 2]);
    members.append(TOPIC, partition, 3);
    assert_eq!(members.numbers(TOPIC, partition), [0, 1, 2, 3]);
}

/// Nobody else may say that the bucket has everything, and that member is taken for alive for a while
/// after the new one has come.
#[test]
fn a_disk_that_holds_nothing_ends_the_wait_for_it_under_another_id_too() {
    let (mut members, wal, partition) = owner_with_a_disk();
    wait::until("the bucket to have everything", wait::PATIENCE, || {
        let metrics = members.ask(1, "GET", "/metrics");
        metrics
            .contains("\nfirn_wal_permit_bytes 0\n")
            .then_some(())
    });
    let empty = TempDir::new().unwrap();
    fs::copy(wal.path().join("identity"), empty.path().join("identity")).unwrap();
    members.kill(1);
    members.add_as(7, empty.path());
    assert_eq!(members.numbers(TOPIC, partition), [0, 1, 2]);
    members.append(TOPIC, partition, 3);
    assert_eq!(members.numbers(TOPIC, partition), [0, 1, 2, 3]);
}

#[test]
fn a_local_topic_goes_on_at_another_member_once_an_operator_says_so() {
    let (mut members, disk, partition) = owner_with_a_disk_died();
    let waiting = members.ask(0, "GET", "/cluster/waiting");
    let (_, seen) = waiting.split_once("\r\n\r\n").unwrap();
    let answer = members.post(0, "/cluster/force-move", seen);
    assert!(answer.contains(r#""refused":null"#), "{answer}");
    let kept = members.numbers(TOPIC, partition);
    assert!([0, 1, 2].starts_with(&kept), "{kept:?}");
    let next = kept.len() as i32;
    members.append(TOPIC, partition, next);
    let answer = members.post(0, "/cluster/force-move", seen);
    assert!(
        answer.contains("does not wait for a disk any more"),
        "{answer}"
    );
    members.add_with(Some(disk.path()));
    assert_eq!(members.numbers(TOPIC, partition).len(), kept.len() + 1);
}

#[test]
fn a_stop_of_the_owner_hands_a_local_topic_on_with_everything() {
    let mut members = Members::start(1);
    let wal = TempDir::new().unwrap();
    members.add_with(Some(wal.path()));
    let local = [("firn.durability", "local")];
    members.client(0).create_topic(TOPIC, 2, &local);
    for partition in 0..2 {
        (0..3).for_each(|number| members.append(TOPIC, partition, number));
    }
    members.stop(1);
    for partition in 0..2 {
        members.append(TOPIC, partition, 3);
        assert_eq!(members.numbers(TOPIC, partition), [0, 1, 2, 3]);
    }
}

/// The numbers that a client reads who may ask any member.
#[test]
fn a_stop_of_the_leader_hands_the_seat_on() {
    let mut members = Members::start(2);
    members.client(0).create_topic(TOPIC, 2, &[]);
    (0..2).for_each(|partition| members.append(TOPIC, partition, 0));
    members.stop(0);
    for partition in 0..2 {
        members.append(TOPIC, partition, 1);
        assert_eq!(numbers(&mut members.client(1), TOPIC, partition), [0, 1]);
    }
    members.client(1).create_topic("another", 1, &[]);
}
