//! The consumers that read while the load runs: one at the tail, one that reads an old topic from
//! its start again and again, and a slow one that asks for long answers and takes its time.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use firn_benches::reader::TopicReader;
use firn_tests::client::{Client, EARLIEST, LATEST, code};
use firn_tests::node::Node;
use firn_tests::wait;

use crate::producers::{BATCH_BYTES, PRODUCERS, batch};
use crate::{Ending, TOPIC};

/// What is read from the start: produced before the load, and more than the caches hold.
const HISTORY: &str = "history";
const HISTORY_BYTES: usize = 256 << 20;
/// Batches of the history on their way at a time.
const HISTORY_WINDOW: usize = 32;
const MEBIBYTE: i32 = 1 << 20;
/// How long the slow consumer takes over each answer.
const SLOWNESS: Duration = Duration::from_secs(1);

/// What one consumer had of the broker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Consumed {
    pub(crate) name: &'static str,
    pub(crate) bytes: u64,
    /// How often it had to go on at the end because what it wanted was gone.
    pub(crate) jumps: u64,
    /// The longest time it waited for an answer.
    pub(crate) longest_wait: Duration,
}

/// Produces what is read from the start.
pub(crate) fn write_history(client: &mut Client) {
    client.create_topic(HISTORY, 1, &[]);
    let batch = batch(0);
    let (mut sent, mut answered) = (0, 0);
    while answered < HISTORY_BYTES / BATCH_BYTES {
        if sent < HISTORY_BYTES / BATCH_BYTES && sent - answered < HISTORY_WINDOW {
            let sending = client.send_produce(HISTORY, 0, batch.clone());
            sending.expect("the broker keeps the connection");
            sent += 1;
        } else {
            let produced = client.receive_produced().expect("an answer");
            assert_eq!(produced.error, code::NONE, "the history is taken");
            answered += 1;
        }
    }
}

/// Runs `work` while all consumers read, and says what they had meanwhile.
pub(crate) fn while_consumers_read<T>(node: &Node, work: impl FnOnce() -> T) -> (T, Vec<Consumed>) {
    let stop = AtomicBool::new(false);
    let (stop, address) = (&stop, node.kafka());
    std::thread::scope(|scope| {
        let consumers = [
            scope.spawn(move || tail(address, stop)),
            scope.spawn(move || from_the_start(address, stop)),
            scope.spawn(move || slow(address, stop)),
        ];
        let ending = Ending::of(stop);
        let result = work();
        drop(ending);
        let consumed = consumers.map(|consumer| consumer.join().expect("a consumer goes on"));
        (result, consumed.to_vec())
    })
}

/// Reads every partition of the load from its end on.
fn tail(address: SocketAddr, stop: &AtomicBool) -> Consumed {
    let mut reader = TopicReader::new(address, TOPIC, PRODUCERS, LATEST);
    let mut jumps = 0;
    while !stop.load(Ordering::Relaxed) {
        reader.ask(MEBIBYTE, 16 * MEBIBYTE);
        for (partition, error) in reader.take() {
            if error != code::NONE {
                // It fell so far behind that the run has emptied what it wants.
                reader.next[partition] = reader.offset(partition, LATEST);
                jumps += 1;
            }
        }
    }
    consumed("at the tail", &reader, jumps)
}

/// Reads the history, and when it is at its end, once more.
fn from_the_start(address: SocketAddr, stop: &AtomicBool) -> Consumed {
    let mut reader = TopicReader::new(address, HISTORY, 1, EARLIEST);
    let end = reader.offset(0, LATEST);
    while !stop.load(Ordering::Relaxed) {
        reader.ask(MEBIBYTE, MEBIBYTE);
        take_again(&mut reader, end);
    }
    consumed("from the start", &reader, 0)
}

/// Reads the history in long answers, and takes each of them late.
fn slow(address: SocketAddr, stop: &AtomicBool) -> Consumed {
    let mut reader = TopicReader::new(address, HISTORY, 1, EARLIEST);
    let end = reader.offset(0, LATEST);
    while !stop.load(Ordering::Relaxed) {
        reader.ask(8 * MEBIBYTE, 8 * MEBIBYTE);
        wait::pause(SLOWNESS);
        take_again(&mut reader, end);
    }
    consumed("slowly", &reader, 0)
}

/// Takes an answer of the history, and goes back to its begin at `end`.
fn take_again(reader: &mut TopicReader, end: i64) {
    reader.take_whole();
    if reader.next[0] >= end {
        reader.next[0] = 0;
    }
}

fn consumed(name: &'static str, reader: &TopicReader, jumps: u64) -> Consumed {
    Consumed {
        name,
        bytes: reader.bytes,
        jumps,
        longest_wait: reader.longest_wait,
    }
}
