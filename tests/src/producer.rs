//! An idempotent producer as Kafka's clients are: sequences per partition, several batches in
//! flight on one connection, and after a broken connection every batch without an answer sent
//! again, with the sequence it had. It keeps the history that [`crate::history`] judges.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::client::{Client, code};
use crate::cluster::Brokers;
use crate::history::History;
use crate::records::{ProducerFields, Record, encode_batch};
use crate::wait;

/// Most batches in flight, as `max.in.flight.requests.per.connection` allows with idempotence.
pub const IN_FLIGHT_MAX: usize = 5;

#[derive(Debug)]
struct InFlight {
    partition: i32,
    batch: Bytes,
    values: Vec<Bytes>,
}

/// Where a producer connects.
#[derive(Clone, Debug)]
enum Reached {
    /// Always there.
    Broker(SocketAddr),
    /// To whichever of the brokers leads this partition.
    Leader(Brokers, i32),
}

/// Produces to one topic and remembers what was acknowledged.
#[derive(Debug)]
pub struct IdempotentProducer {
    reached: Reached,
    topic: String,
    client: Option<Client>,
    fields: ProducerFields,
    next_sequence: Vec<i32>,
    in_flight: VecDeque<InFlight>,
    /// What was sent and what was acknowledged.
    pub history: History,
}

impl IdempotentProducer {
    /// Takes a producer id from the broker.
    pub fn new(address: SocketAddr, topic: &str, partitions: i32) -> Self {
        let mut client = Client::connect(address).expect("a broker that is ready");
        let fields = client.init_producer();
        Self::with(
            Reached::Broker(address),
            topic,
            partitions,
            Some(client),
            fields,
        )
    }

    /// Takes a producer id from any of the brokers, and sends to the one that leads `partition`,
    /// wherever that moves.
    pub fn of_partition(brokers: &Brokers, topic: &str, partition: i32) -> Self {
        let fields = brokers.any().init_producer();
        let reached = Reached::Leader(brokers.clone(), partition);
        Self::with(reached, topic, partition + 1, None, fields)
    }

    fn with(
        reached: Reached,
        topic: &str,
        partitions: i32,
        client: Option<Client>,
        fields: ProducerFields,
    ) -> Self {
        Self {
            reached,
            topic: topic.to_owned(),
            client,
            fields,
            next_sequence: vec![0; partitions as usize],
            in_flight: VecDeque::new(),
            history: History::default(),
        }
    }

    /// Sends a batch; waits only when [`IN_FLIGHT_MAX`] others have no answer yet. Returns whether
    /// the connection still stands: if not, the batch waits for [`Self::reconnect`].
    pub fn send(&mut self, partition: i32, records: &[Record]) -> bool {
        while self.in_flight.len() >= IN_FLIGHT_MAX {
            if !self.receive() {
                return false;
            }
        }
        let sequence = &mut self.next_sequence[partition as usize];
        let fields = ProducerFields {
            base_sequence: *sequence,
            ..self.fields
        };
        *sequence += i32::try_from(records.len()).expect("a batch's count fits");
        let values: Vec<Bytes> = records.iter().filter_map(|r| r.value.clone()).collect();
        self.history.sent(partition, &values);
        let in_flight = InFlight {
            partition,
            batch: encode_batch(records, fields),
            values,
        };
        let sent = self.transmit(&in_flight);
        self.in_flight.push_back(in_flight);
        sent
    }

    /// Waits for every answer that is due. Returns whether the connection still stands.
    pub fn flush(&mut self) -> bool {
        while !self.in_flight.is_empty() {
            if !self.receive() {
                return false;
            }
        }
        true
    }

    /// Waits until the oldest batch in flight is acknowledged. Returns whether the connection still
    /// stands.
    pub fn settle_oldest(&mut self) -> bool {
        let waiting = self.in_flight.len();
        while waiting > 0 && self.in_flight.len() == waiting {
            if !self.receive() {
                return false;
            }
        }
        true
    }

    /// How many batches were sent and have no answer yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Connects again, once the broker is back, and sends what has no answer.
    pub fn reconnect(&mut self) {
        wait::until(
            "the broker to take everything in flight",
            wait::PATIENCE,
            || {
                self.client = match &self.reached {
                    Reached::Broker(address) => Client::connect(*address).ok(),
                    Reached::Leader(brokers, partition) => brokers.leader(&self.topic, *partition),
                };
                self.client.as_ref()?;
                for at in 0..self.in_flight.len() {
                    let InFlight {
                        partition, batch, ..
                    } = &self.in_flight[at];
                    let client = self.client.as_mut()?;
                    client
                        .send_produce(&self.topic, *partition, batch.clone())
                        .ok()?;
                }
                Some(())
            },
        );
    }

    fn transmit(&mut self, batch: &InFlight) -> bool {
        let Some(client) = &mut self.client else {
            return false;
        };
        let sent = client.send_produce(&self.topic, batch.partition, batch.batch.clone());
        self.keep_if_ok(sent).is_some()
    }

    /// Takes one answer. A retriable error sends everything in flight again, in order.
    fn receive(&mut self) -> bool {
        let Some(client) = &mut self.client else {
            return false;
        };
        let answer = client.receive_produced();
        let Some(produced) = self.keep_if_ok(answer) else {
            return false;
        };
        if code::RETRIABLE.contains(&produced.error) {
            self.client = None;
            wait::pause(std::time::Duration::from_millis(20));
            self.reconnect();
            return true;
        }
        let batch = self.in_flight.pop_front().expect("an answer has its batch");
        assert_eq!(
            produced.error,
            code::NONE,
            "an idempotent batch is never refused for good ({}/{})",
            self.topic,
            batch.partition
        );
        self.history
            .acknowledged(batch.partition, produced.base_offset, &batch.values);
        true
    }

    fn keep_if_ok<T>(&mut self, result: io::Result<T>) -> Option<T> {
        if result.is_err() {
            self.client = None;
        }
        result.ok()
    }
}
