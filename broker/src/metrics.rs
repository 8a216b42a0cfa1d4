//! The figures of one process: counters that the doors and partitions raise, and the registry
//! that `/metrics` prints. Names are part of the product; durations are in seconds.
//!
//! Cardinality is bounded: a topic has figures of its own only among the first
//! [`TOPIC_LABELS_MAX`]; the rest are counted together as `(other)`. Nothing is labelled by
//! partition, group or client.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// Topics that have figures of their own.
pub const TOPIC_LABELS_MAX: usize = 200;

/// The figures of one process.
pub struct Metrics {
    registry: RwLock<Registry>,
    topics: RwLock<BTreeMap<Arc<str>, Arc<TopicMetrics>>>,
    other_topics: Arc<TopicMetrics>,
    topic_families: TopicFamilies,
    requests: Family<ApiLabel, Counter>,
    request_seconds: Family<ApiLabel, Histogram, fn() -> Histogram>,
    refused: Family<ReasonLabel, Counter>,
    /// Connections of Kafka clients that are open.
    pub connections: Gauge,
    /// Connections of Kafka clients accepted since the start.
    pub connections_accepted: Counter,
    /// Bytes read from Kafka clients.
    pub bytes_received: Counter,
    /// Bytes written to Kafka clients.
    pub bytes_sent: Counter,
    /// From the append of a Produce request to its acknowledgement.
    pub produce_ack_seconds: Histogram,
    /// Records that acks=1 had acknowledged and that this start found lost.
    pub local_records_lost: Counter,
    /// Times that a client was sent to the broker of its rack to read a partition (KIP-392).
    pub replica_sent: Counter,
    /// Bytes of batches answered to Fetch by clients of this rack, of partitions of other brokers.
    pub replica_bytes_out: Counter,
    /// From the question how far partitions of other brokers may be read to the answers: what is
    /// served is older than what their owners have by no more.
    pub replica_look_seconds: Histogram,
    /// Such questions that an owner did not answer.
    pub replica_unanswered: Counter,
    /// 1 once partitions are served, 0 before and while stopping.
    pub ready: Gauge,
}

/// The figures of one topic, or of all those without figures of their own.
#[derive(Debug)]
pub struct TopicMetrics {
    /// Records appended.
    pub records_in: Counter,
    /// Bytes of batches appended.
    pub bytes_in: Counter,
    /// Bytes of batches answered to Fetch.
    pub bytes_out: Counter,
}

struct TopicFamilies {
    records_in: Family<TopicLabel, Counter>,
    bytes_in: Family<TopicLabel, Counter>,
    bytes_out: Family<TopicLabel, Counter>,
}

impl TopicFamilies {
    fn topic(&self, name: &str) -> Arc<TopicMetrics> {
        let label = TopicLabel {
            topic: name.to_owned(),
        };
        Arc::new(TopicMetrics {
            records_in: self.records_in.get_or_create_owned(&label),
            bytes_in: self.bytes_in.get_or_create_owned(&label),
            bytes_out: self.bytes_out.get_or_create_owned(&label),
        })
    }
}

impl Metrics {
    /// A registry with every figure at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("firn");
        let families = TopicFamilies {
            records_in: Family::default(),
            bytes_in: Family::default(),
            bytes_out: Family::default(),
        };
        let metrics = Self {
            topics: RwLock::default(),
            other_topics: families.topic("(other)"),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            refused: Family::default(),
            connections: Gauge::default(),
            connections_accepted: Counter::default(),
            bytes_received: Counter::default(),
            bytes_sent: Counter::default(),
            produce_ack_seconds: seconds(),
            local_records_lost: Counter::default(),
            replica_sent: Counter::default(),
            replica_bytes_out: Counter::default(),
            replica_look_seconds: seconds(),
            replica_unanswered: Counter::default(),
            ready: Gauge::default(),
            registry: RwLock::default(),
            topic_families: families,
        };
        metrics.register_in(&mut registry);
        metrics.register_replica_in(&mut registry);
        Self {
            registry: RwLock::new(registry),
            ..metrics
        }
    }

    /// The figures of a topic; cheap enough to be asked for each batch.
    pub fn topic(&self, name: &str) -> Arc<TopicMetrics> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = topics.get(name) {
            return Arc::clone(topic);
        }
        if topics.len() >= TOPIC_LABELS_MAX {
            return Arc::clone(&self.other_topics);
        }
        drop(topics);
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let topic = topics
            .entry(name.into())
            .or_insert_with(|| self.topic_families.topic(name));
        Arc::clone(topic)
    }

    /// Counts one answered request of the API `name`.
    pub fn request(&self, name: &'static str, took: Duration) {
        let label = ApiLabel { api: name };
        self.requests.get_or_create(&label).inc();
        self.request_seconds
            .get_or_create(&label)
            .observe(took.as_secs_f64());
    }

    /// Counts one connection or request that was refused.
    pub fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Adds figures that are read from somewhere else whenever somebody looks.
    pub fn collect_from(&self, collector: impl Collector + 'static) {
        let mut registry = self
            .registry
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        registry.register_collector(Box::new(collector));
    }

    /// Everything in the OpenMetrics text format.
    ///
    /// # Errors
    /// A collector failed to write its figures.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    fn register_replica_in(&self, registry: &mut Registry) {
        registry.register(
            "replica_sent",
            "times that a client was sent to a broker of its rack",
            self.replica_sent.clone(),
        );
        registry.register(
            "replica_out_bytes",
            "bytes of batches of other brokers' partitions fetched by clients of this rack",
            self.replica_bytes_out.clone(),
        );
        registry.register(
            "replica_look_seconds",
            "time from asking owners how far their partitions may be read to the answers",
            self.replica_look_seconds.clone(),
        );
        registry.register(
            "replica_unanswered",
            "such questions without an answer",
            self.replica_unanswered.clone(),
        );
    }

    fn register_in(&self, registry: &mut Registry) {
        fn add(registry: &mut Registry, name: &str, help: &str, metric: impl Metric + Clone) {
            registry.register(name, help, metric);
        }
        let topics = &self.topic_families;
        add(
            registry,
            "connections",
            "open connections of kafka clients",
            self.connections.clone(),
        );
        add(
            registry,
            "connections_accepted",
            "connections accepted",
            self.connections_accepted.clone(),
        );
        add(
            registry,
            "refused",
            "connections and requests refused, by reason",
            self.refused.clone(),
        );
        add(
            registry,
            "kafka_received_bytes",
            "bytes read from kafka clients",
            self.bytes_received.clone(),
        );
        add(
            registry,
            "kafka_sent_bytes",
            "bytes written to kafka clients",
            self.bytes_sent.clone(),
        );
        add(
            registry,
            "kafka_requests",
            "requests answered, by api",
            self.requests.clone(),
        );
        add(
            registry,
            "kafka_request_seconds",
            "time from request to answer, by api",
            self.request_seconds.clone(),
        );
        add(
            registry,
            "produce_ack_seconds",
            "time from append to acknowledgement",
            self.produce_ack_seconds.clone(),
        );
        add(
            registry,
            "wal_local_lost_records",
            "records acknowledged with acks=1 that the start found lost",
            self.local_records_lost.clone(),
        );
        add(
            registry,
            "topic_records_in",
            "records appended",
            topics.records_in.clone(),
        );
        add(
            registry,
            "topic_bytes_in",
            "bytes of batches appended",
            topics.bytes_in.clone(),
        );
        add(
            registry,
            "topic_bytes_out",
            "bytes of batches fetched",
            topics.bytes_out.clone(),
        );
        add(
            registry,
            "ready",
            "1 while partitions are served",
            self.ready.clone(),
        );
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TopicLabel {
    topic: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiLabel {
    api: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// 100 µs to 26 s, each bucket twice the last.
fn seconds() -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(
        0.0001, 2.0, 18,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_out_under_their_names() {
        let metrics = Metrics::new();
        metrics.topic("flights").records_in.inc_by(7);
        metrics.request("Produce", Duration::from_millis(3));
        metrics.refuse("max.connections");
        let text = metrics.encode().unwrap();
        for line in [
            "firn_topic_records_in_total{topic=\"flights\"} 7",
            "firn_kafka_requests_total{api=\"Produce\"} 1",
            "firn_refused_total{reason=\"max.connections\"} 1",
            "firn_connections 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn topics_beyond_the_limit_are_counted_together() {
        let metrics = Metrics::new();
        for n in 0..TOPIC_LABELS_MAX + 10 {
            metrics.topic(&format!("t{n}")).bytes_in.inc_by(1);
        }
        let text = metrics.encode().unwrap();
        assert!(text.contains("firn_topic_bytes_in_total{topic=\"(other)\"} 10"));
    }
}
