//! The producers: all of them for some time, and what was acknowledged to each.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use firn_tests::client::{Client, code};
use firn_tests::node::Node;
use firn_tests::records::{ProducerFields, Record, encode_batch};
use firn_tests::wait::{self, Stopwatch};

use crate::TOPIC;

pub(crate) const PRODUCERS: usize = 16;
pub(crate) const BATCH_BYTES: usize = 64 * 1024;
/// Requests one producer keeps unanswered: all a connection's buffers hold, and more, so that it
/// is the broker that bounds what is taken.
pub(crate) const WINDOW: usize = 200;

/// What was acknowledged.
pub(crate) struct Load {
    bytes: u64,
    taken: Duration,
    least: u64,
    greatest: u64,
}

impl Load {
    pub(crate) fn per_second(&self) -> f64 {
        self.bytes as f64 / self.taken.as_secs_f64()
    }

    /// What the producer that got least had of what the one that got most had.
    pub(crate) fn fairness(&self) -> f64 {
        self.least as f64 / self.greatest.max(1) as f64
    }
}

/// Produces from all producers for `time`: as fast as it is taken, or at `offered` bytes per second
/// in all, however slowly answers come.
pub(crate) fn load(node: &Node, time: Duration, offered: Option<f64>) -> Load {
    let stop = AtomicBool::new(false);
    let acknowledged: Vec<AtomicU64> = (0..PRODUCERS).map(|_| AtomicU64::new(0)).collect();
    let watch = Stopwatch::start();
    let mut taken = Duration::ZERO;
    let mut counts = Vec::new();
    std::thread::scope(|scope| {
        for (at, count) in acknowledged.iter().enumerate() {
            let address = node.kafka();
            let stop = &stop;
            let share = offered.map(|bytes| bytes / PRODUCERS as f64);
            scope.spawn(move || producer(address, at as i32, share, stop, count));
        }
        wait::pause(time);
        // Counted at the end of the time: what comes while the window drains does not help.
        taken = watch.elapsed();
        counts = acknowledged
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        stop.store(true, Ordering::Relaxed);
    });
    Load {
        bytes: counts.iter().sum(),
        taken,
        least: counts.iter().copied().min().unwrap_or(0),
        greatest: counts.iter().copied().max().unwrap_or(0),
    }
}

fn producer(
    address: SocketAddr,
    partition: i32,
    bytes_per_second: Option<f64>,
    stop: &AtomicBool,
    acknowledged: &AtomicU64,
) {
    let mut client = Client::connect(address).expect("a broker that serves");
    let batch = batch(partition);
    let watch = Stopwatch::start();
    let mut sent = 0_u64;
    let mut answered = 0_u64;
    let receive = |client: &mut Client, answered: &mut u64| {
        let produced = client.receive_produced().expect("an answer");
        assert_eq!(produced.error, code::NONE, "a batch is taken in the end");
        *answered += 1;
        acknowledged.fetch_add(BATCH_BYTES as u64, Ordering::Relaxed);
    };
    while !stop.load(Ordering::Relaxed) {
        let due = bytes_per_second.map_or(u64::MAX, |rate| {
            (watch.elapsed().as_secs_f64() * rate / BATCH_BYTES as f64) as u64
        });
        if sent < due && sent - answered < WINDOW as u64 {
            let sending = client.send_produce(TOPIC, partition, batch.clone());
            sending.expect("the broker keeps the connection");
            sent += 1;
        } else if sent > answered {
            receive(&mut client, &mut answered);
        } else {
            wait::pause(Duration::from_millis(1));
        }
    }
    while sent > answered {
        receive(&mut client, &mut answered);
    }
}

/// A batch of 1 KiB records, [`BATCH_BYTES`] of payload in all.
pub(crate) fn batch(partition: i32) -> Bytes {
    let value = vec![b'a' + partition as u8; 1024];
    let records = vec![Record::new("key", value); BATCH_BYTES / 1024];
    encode_batch(&records, ProducerFields::NONE)
}
