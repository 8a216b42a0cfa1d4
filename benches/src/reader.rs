//! A consumer that takes whole answers and looks into none of them: it costs its core next to
//! nothing, so that what it is answered is the broker's doing.

use std::net::SocketAddr;
use std::time::Duration;

use firn_tests::client::{Client, code, topic_name};
use firn_tests::wait::Stopwatch;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse};

/// Topics by name.
const FETCH_VERSION: i16 = 12;

/// A connection that reads one topic.
#[derive(Debug)]
pub struct TopicReader {
    client: Client,
    topic: String,
    /// Where each partition is read next.
    pub next: Vec<i64>,
    /// Bytes of records that came.
    pub bytes: u64,
    /// The longest time it waited for an answer.
    pub longest_wait: Duration,
}

impl TopicReader {
    /// Reads all `partitions` of `topic` from `from` on, which is what `ListOffsets` takes.
    ///
    /// # Panics
    /// When there is no broker that serves the topic.
    pub fn new(address: SocketAddr, topic: &str, partitions: usize, from: i64) -> Self {
        let mut reader = Self {
            client: Client::connect(address).expect("a broker that serves"),
            topic: topic.to_owned(),
            next: Vec::new(),
            bytes: 0,
            longest_wait: Duration::ZERO,
        };
        reader.next = (0..partitions)
            .map(|partition| reader.offset(partition, from))
            .collect();
        reader
    }

    /// What `ListOffsets` answers.
    ///
    /// # Panics
    /// When that is an error.
    pub fn offset(&mut self, partition: usize, which: i64) -> i64 {
        self.client
            .list_offset(&self.topic, partition as i32, which)
    }

    /// Asks for what comes next of each partition.
    ///
    /// # Panics
    /// When the connection breaks.
    pub fn ask(&mut self, partition_bytes: i32, answer_bytes: i32) {
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
            .with_topic(topic_name(&self.topic))
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
    ///
    /// # Panics
    /// When the connection breaks, or the whole Fetch is refused.
    pub fn take(&mut self) -> Vec<(usize, i16)> {
        let watch = Stopwatch::start();
        let received = self
            .client
            .connection
            .receive::<FetchRequest>(FETCH_VERSION);
        let response: FetchResponse = received.expect("Fetch is answered");
        self.longest_wait = self.longest_wait.max(watch.elapsed());
        assert_eq!(response.error_code, code::NONE, "the whole Fetch");
        let partitions = response.responses.into_iter().flat_map(|t| t.partitions);
        let mut errors = Vec::new();
        for answer in partitions {
            let partition = answer.partition_index as usize;
            errors.push((partition, answer.error_code));
            let records = answer.records.unwrap_or_default();
            self.bytes += records.len() as u64;
            if let Some(next) = behind(&records) {
                self.next[partition] = next;
            }
        }
        errors
    }

    /// [`Self::take`] where nothing that is wanted may be missing.
    ///
    /// # Panics
    /// As [`Self::take`], and when a partition is answered an error.
    pub fn take_whole(&mut self) {
        for (partition, error) in self.take() {
            assert_eq!(error, code::NONE, "{}/{partition} is whole", self.topic);
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
