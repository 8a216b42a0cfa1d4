//! What goes on beside whatever happens to the brokers: producers that keep a history, and a client
//! that commits offsets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use firn_tests::client::code;
use firn_tests::cluster::Brokers;
use firn_tests::group::GroupMember;
use firn_tests::producer::IdempotentProducer;
use firn_tests::records::Record;
use firn_tests::seed::Seed;
use firn_tests::wait;

pub(super) const TOPIC: &str = "clustered";
pub(super) const PARTITIONS: i32 = 6;
const GROUP: &str = "committers";

/// Producers of their own threads, one for each partition, until they are told to stop.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    /// How many records were, of each partition.
    acknowledged: Arc<Vec<AtomicU64>>,
    producers: Vec<JoinHandle<IdempotentProducer>>,
}

impl Load {
    pub(super) fn start(brokers: &Brokers, seed: &mut Seed) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = (0..PARTITIONS).map(|_| AtomicU64::new(0));
        let acknowledged = Arc::new(acknowledged.collect::<Vec<_>>());
        let producers = (0..PARTITIONS).map(|partition| {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            let brokers = brokers.clone();
            let mut seed = Seed::of(seed.draw());
            thread::spawn(move || {
                let mut producer = IdempotentProducer::of_partition(&brokers, TOPIC, partition);
                let mut written = 0;
                producer.reconnect();
                while !stop.load(Ordering::Relaxed) {
                    let before = producer.history.acknowledged_count();
                    let records: Vec<Record> = (0..1 + seed.below(4))
                        .map(|_| {
                            written += 1;
                            Record::new("key", format!("{partition} value {written}"))
                        })
                        .collect();
                    if !producer.send(partition, &records) {
                        producer.reconnect();
                    }
                    let gained = producer.history.acknowledged_count() - before;
                    acknowledged[partition as usize].fetch_add(gained as u64, Ordering::Relaxed);
                    wait::pause(Duration::from_millis(2));
                }
                while !producer.flush() {
                    producer.reconnect();
                }
                producer
            })
        });
        Self {
            producers: producers.collect(),
            stop,
            acknowledged,
        }
    }

    /// How many records of a partition were acknowledged.
    pub(super) fn acknowledged(&self, partition: i32) -> u64 {
        self.acknowledged[partition as usize].load(Ordering::Relaxed)
    }

    /// Waits for acknowledgements of what was sent from now on, in any partition.
    pub(super) fn wait_progress(&self, what: &str) {
        let sum = || {
            (0..PARTITIONS)
                .map(|partition| self.acknowledged(partition))
                .sum::<u64>()
        };
        let before = sum();
        wait::until(what, wait::PATIENCE, || (sum() > before + 20).then_some(()));
    }

    /// The same, in each of these partitions.
    pub(super) fn wait_progress_in(&self, partitions: &[i32], what: &str) {
        let counts = partitions.iter().map(|at| (*at, self.acknowledged(*at)));
        // What was sent before may be answered first.
        let goals: Vec<(i32, u64)> = counts.map(|(at, count)| (at, count + 30)).collect();
        wait::until(what, wait::PATIENCE, || {
            let is_there = |(at, goal): &(i32, u64)| self.acknowledged(*at) > *goal;
            goals.iter().all(is_there).then_some(())
        });
    }

    /// The same, in every partition.
    pub(super) fn wait_progress_everywhere(&self, what: &str) {
        let all: Vec<i32> = (0..PARTITIONS).collect();
        self.wait_progress_in(&all, what);
    }

    pub(super) fn stop(self) -> Vec<IdempotentProducer> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.producers.into_iter();
        ended
            .map(|producer| producer.join().expect("a producer that ends well"))
            .collect()
    }
}

/// Commits rising offsets of one group, and asserts that what is read back never goes back.
pub(super) struct Committer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<i64>,
}

impl Committer {
    pub(super) fn start(brokers: &Brokers) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let brokers = brokers.clone();
        let thread = thread::spawn(move || {
            let mut committed = -1;
            let mut next = 0;
            while !stopped.load(Ordering::Relaxed) {
                let Some(mut member) = GroupMember::coordinated(&brokers, GROUP, TOPIC) else {
                    continue;
                };
                while let Ok(read) = member.try_committed(0) {
                    if let Ok(read) = read {
                        assert!(read >= committed, "committed {committed}, then read {read}");
                    }
                    next += 1;
                    match member.try_commit(0, next) {
                        Ok(code::NONE) => committed = next,
                        Ok(_) => {}
                        Err(_) => break,
                    }
                    wait::pause(Duration::from_millis(5));
                    if stopped.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
            committed
        });
        Self { stop, thread }
    }

    pub(super) fn stop(self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("committed offsets never go back")
    }
}

pub(super) fn assert_all_kept(brokers: &Brokers, producers: &[IdempotentProducer]) {
    for (partition, producer) in (0..).zip(producers) {
        let log = brokers.read(TOPIC, partition);
        let faults = producer.history.faults(partition, &log);
        assert!(
            faults.is_empty(),
            "{} faults in {TOPIC}/{partition}, first: {:#?}",
            faults.len(),
            &faults[..faults.len().min(10)]
        );
    }
}
