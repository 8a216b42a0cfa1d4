use std::sync::mpsc;

use firn_proto::env::SystemClock;
use firn_proto::ids::{ClusterId, DiskId, StreamId};

use super::super::testing::{EIO, ENOSPC, FaultyDisk};
use super::*;
use crate::wal::testing::{entry, tp};

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Fsynced(Vec<(TopicPartition, i64)>),
    Failed(Option<i32>),
}

struct Events(mpsc::Sender<Told>);

impl LocalEvents for Events {
    fn on_fsynced(&self, acked: &[LocalAck]) {
        let acked = acked.iter().map(|ack| (ack.tp, ack.last_offset)).collect();
        let _ = self.0.send(Told::Fsynced(acked));
    }

    fn on_device_failed(&self, error: io::Error) {
        let _ = self.0.send(Told::Failed(error.raw_os_error()));
    }
}

struct World {
    queue: LocalQueue,
    thread: JoinHandle<()>,
    told: mpsc::Receiver<Told>,
}

fn world(disk: &FaultyDisk) -> World {
    let identity = (ClusterId([1; 16]), DiskId([2; 16]));
    let log = LocalLog::new(disk.clone(), identity, StreamId(1), 1 << 20, 1);
    let (send, told) = mpsc::channel();
    let (queue, thread) =
        LocalQueue::start(log, Events(send), Arc::new(SystemClock::new())).unwrap();
    World {
        queue,
        thread,
        told,
    }
}

#[test]
fn a_failed_fsync_ends_it_and_nothing_is_acknowledged_afterwards() {
    let disk = FaultyDisk::with_room(9);
    let world = world(&disk);
    world.queue.push(1, entry(0, 0, 0, 10));
    assert_eq!(world.told.recv(), Ok(Told::Fsynced(vec![(tp(0), 0)])));
    disk.set(|state| state.fail_sync = Some(EIO));
    world.queue.push(2, entry(0, 1, 1, 10));
    assert_eq!(world.told.recv(), Ok(Told::Failed(Some(EIO))));
    disk.set(|state| state.fail_sync = None);
    world.queue.push(3, entry(0, 2, 2, 10));
    world.thread.join().unwrap();
    assert_eq!(world.told.recv(), Err(mpsc::RecvError));
    assert_eq!(world.queue.len(), 0);
}

#[test]
fn a_full_disk_keeps_entries_waiting_until_there_is_room() {
    let disk = FaultyDisk::with_room(0);
    let world = world(&disk);
    world.queue.push(1, entry(0, 0, 0, 10));
    world.queue.push(2, entry(1, 7, 9, 10));
    while !world.queue.is_full() {
        std::thread::yield_now();
    }
    assert!(world.told.try_recv().is_err());
    disk.set(|state| state.room_for_segments = 9);
    let mut acked = Vec::new();
    while acked.len() < 2 {
        let Told::Fsynced(some) = world.told.recv().unwrap() else {
            panic!("a full disk was taken for a broken one");
        };
        acked.extend(some);
    }
    assert_eq!(acked, [(tp(0), 0), (tp(1), 9)]);
}

#[test]
fn what_the_bucket_has_does_not_wait_for_a_full_disk() {
    let disk = FaultyDisk::with_room(9);
    disk.set(|state| state.fail_write = Some(ENOSPC));
    let world = world(&disk);
    for sequence in 1..=100 {
        let base = sequence as i64;
        world.queue.push(sequence, entry(0, base, base, 10));
    }
    while !world.queue.is_full() {
        std::thread::yield_now();
    }
    world.queue.release(100);
    while world.queue.len() != 1 {
        std::thread::yield_now();
    }
    disk.set(|state| state.fail_write = None);
    assert_eq!(world.told.recv(), Ok(Told::Fsynced(vec![(tp(0), 100)])));
}

#[test]
fn a_thread_that_is_closed_writes_what_it_has() {
    let disk = FaultyDisk::with_room(9);
    let world = world(&disk);
    for sequence in 1..=50 {
        let base = sequence as i64;
        world.queue.push(sequence, entry(0, base, base, 10));
    }
    world.queue.close();
    world.thread.join().unwrap();
    let last = world.told.iter().last();
    assert_eq!(last, Some(Told::Fsynced(vec![(tp(0), 50)])));
    let left = disk.set(|state| state.segments.len());
    assert!(left > 0, "it is not durable in the bucket");
}

#[test]
fn a_thread_that_is_closed_when_all_is_durable_leaves_nothing() {
    let disk = FaultyDisk::with_room(9);
    let world = world(&disk);
    world.queue.push(1, entry(0, 0, 0, 10));
    assert!(world.told.recv().is_ok());
    world.queue.release(u64::MAX);
    world.queue.close();
    world.thread.join().unwrap();
    assert_eq!(disk.set(|state| state.segments.len()), 0);
}
