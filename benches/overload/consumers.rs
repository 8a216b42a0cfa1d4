//! The consumers that read while the load runs: one at the tail, one that reads an old topic from
//! its start again and again, and a slow one that asks for long answers and takes its time.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use firn_tests::client::{Client, EARLIEST, LATEST, code, topic_name};
use firn_tests::node::Node;
use firn_tests::wait::{self, Stopwatch};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse};

use crate::producers::{BATCH_BYTES, PRODUCERS, batch};
use crate::{Ending, TOPIC};

/// Topics by name.
const FETCH_VERSION: i16 = 12;
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
    let mut reader = Reader::new("at the tail", address, TOPIC, PRODUCERS, LATEST);
    while !stop.load(Ordering::Relaxed) {
        reader.ask(MEBIBYTE, 16 * MEBIBYTE);
        for (partition, error) in reader.take() {
            if error != code::NONE {
                // It fell so far behind that the run has emptied what it wants.
                reader.next[partition] = reader.offset(partition, LATEST);
                reader.consumed.jumps += 1;
            }
        }
    }
    reader.consumed
}

/// Reads the history, and when it is at its end, once more.
fn from_the_start(address: SocketAddr, stop: &AtomicBool) -> Consumed {
    let mut reader = Reader::new("from the start", address, HISTORY, 1, EARLIEST);
    let end = reader.offset(0, LATEST);
    while !stop.load(Ordering::Relaxed) {
        reader.ask(MEBIBYTE, MEBIBYTE);
        reader.take_whole(end);
    }
    reader.consumed
}

/// Reads the history in long answers, and takes each of them late.
fn slow(address: SocketAddr, stop: &AtomicBool) -> Consumed {
    let mut reader = Reader::new("slowly", address, HISTORY, 1, EARLIEST);
    let end = reader.offset(0, LATEST);
    while !stop.load(Ordering::Relaxed) {
        reader.ask(8 * MEBIBYTE, 8 * MEBIBYTE);
        wait::pause(SLOWNESS);
        reader.take_whole(end);
    }
    reader.consumed
}

/// A connection that reads one topic.
struct Reader {
    client: Client,
    topic: &'static str,
    /// Where each partition is read next.
    next: Vec<i64>,
    consumed: Consumed,
}

impl Reader {
    fn new(
        name: &'static str,
        address: SocketAddr,
        topic: &'static str,
        partitions: usize,
        from: i64,
    ) -> Self {
        let mut reader = Self {
            client: Client::connect(address).expect("a broker that serves"),
            topic,
            next: Vec::new(),
            consumed: Consumed {
                name,
                bytes: 0,
                jumps: 0,
                longest_wait: Duration::ZERO,
            },
        };
        for partition in 0..partitions {
            let next = reader.offset(partition, from);
            reader.next.push(next);
        }
        reader
    }

    fn offset(&mut self, partition: usize, which: i64) -> i64 {
        self.client.list_offset(self.topic, partition as i32, which)
    }

    /// Asks for what comes next of each partition.
    fn ask(&mut self, partition_bytes: i32, answer_bytes: i32) {
        let partitions = self.next.iter().enumerate().map(|(partition, next)| {
            FetchPartition::default()
                .with_partition(partition as i32)
                .with_current_leader_epoch(-1)
                .with_fetch_offset(*next)
                .with_last_fetched_epoch(-1)
                .with_log_start_offset(-1)
                .with_partition_max_bytes(partition_bytes)
        });
        let topic = FetchTopic::default()
            .with_topic(topic_name(self.topic))
            .with_partitions(partitions.collect());
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(500)
            .with_min_bytes(1)
            .with_max_bytes(answer_bytes)
            .with_session_id(0)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let sending = self.client.connection.send(FETCH_VERSION, &request);
        sending.expect("the broker keeps the connection");
    }

    /// Takes the oldest answer: the error of each partition. Where there is none, the partition is
    /// read on behind what came.
    fn take(&mut self) -> Vec<(usize, i16)> {
        let watch = Stopwatch::start();
        let received = self
            .client
            .connection
            .receive::<FetchRequest>(FETCH_VERSION);
        let response: FetchResponse = received.expect("Fetch is answered");
        self.consumed.longest_wait = self.consumed.longest_wait.max(watch.elapsed());
        assert_eq!(response.error_code, code::NONE, "the whole Fetch");
        let partitions = response.responses.into_iter().flat_map(|t| t.partitions);
        let mut errors = Vec::new();
        for answer in partitions {
            let partition = answer.partition_index as usize;
            errors.push((partition, answer.error_code));
            let records = answer.records.unwrap_or_default();
            self.consumed.bytes += records.len() as u64;
            if let Some(next) = behind(&records) {
                self.next[partition] = next;
            }
        }
        errors
    }

    /// [`Self::take`] of a single partition that misses nothing; at `end` it is begun anew.
    fn take_whole(&mut self, end: i64) {
        for (_, error) in self.take() {
            assert_eq!(error, code::NONE, "{} is there from its start", self.topic);
        }
        if self.next[0] >= end {
            self.next[0] = 0;
        }
    }
}

/// The offset behind the whole batches in `records`.
fn behind(mut records: &[u8]) -> Option<i64> {
    let mut next = None;
    while let Some(header) = records.first_chunk::<27>() {
        let [
            o0,
            o1,
            o2,
            o3,
            o4,
            o5,
            o6,
            o7,
            l0,
            l1,
            l2,
            l3,
            ..,
            d0,
            d1,
            d2,
            d3,
        ] = *header;
        let base_offset = i64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
        let length = 12 + i32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if records.len() < length {
            break;
        }
        next = Some(base_offset + i64::from(i32::from_be_bytes([d0, d1, d2, d3])) + 1);
        records = &records[length..];
    }
    next
}
