//! Throughput and latency by Kafka's own perf tools; the broker's CPU from `/proc`.

use std::process::Command;

use firn_benches::kind::Kind;

use crate::contender::{Broker, Contender, ON_CLIENT_CORE, Settings};
use crate::report::{Report, Row};

pub(crate) const PARTITIONS: i32 = 6;
pub(crate) const GIBIBYTE: f64 = (1_u64 << 30) as f64;
pub(crate) const MEBIBYTE: u64 = 1 << 20;
/// What is consumed must lie in Firn's tail cache and in Kafka's page cache alike.
const TAIL_BYTES: u64 = 96 * MEBIBYTE;
/// How often the tail is consumed for one figure.
const TAIL_READS: u64 = 10;
/// Warm-up of the brokers before anything counts.
const WARM_UP_BYTES: u64 = 2048 * MEBIBYTE;
const LATENCY_RECORDS_PER_SECOND: u64 = 10_000;
/// Kafka syncs each append, as Firn does.
const KAFKA_FSYNCS: Settings = Settings {
    firn: &[],
    kafka: &["log.flush.interval.messages=1"],
};

pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) record_bytes: u64,
    pub(crate) codec: &'static str,
    pub(crate) acks: &'static str,
    /// The other settings of its producer.
    pub(crate) producer: &'static [&'static str],
    /// Payload produced for one figure.
    pub(crate) bytes: u64,
}

impl Workload {
    /// Payload of so many of its records, in GiB.
    pub(crate) fn gibibytes(&self, records: u64) -> f64 {
        (records * self.record_bytes) as f64 / GIBIBYTE
    }

    /// A topic of its own for `purpose`.
    pub(crate) fn topic(&self, purpose: &str) -> String {
        format!("{}-{purpose}", self.name.replace(' ', "-"))
    }
}

/// A producer that prefers throughput a little.
const PRODUCER: &[&str] = &["batch.size=65536", "linger.ms=5"];

/// The plain one comes first.
pub(crate) const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "1 KiB",
        record_bytes: 1024,
        codec: "none",
        acks: "all",
        producer: PRODUCER,
        bytes: 2048 * MEBIBYTE,
    },
    Workload {
        name: "100 B",
        record_bytes: 100,
        codec: "none",
        acks: "all",
        producer: PRODUCER,
        bytes: 1024 * MEBIBYTE,
    },
    Workload {
        name: "1 KiB lz4",
        record_bytes: 1024,
        codec: "lz4",
        acks: "all",
        producer: PRODUCER,
        bytes: 2048 * MEBIBYTE,
    },
];

/// Produces until the broker's code is warm.
pub(crate) fn warm_up_produce(contender: &Contender, broker: &Broker) {
    produce(contender, broker, &WORKLOADS[0], "warm-up", WARM_UP_BYTES);
}

/// CPU-seconds per GiB produced and consumed from the tail, and MB/s, of each workload.
pub(crate) fn measure_throughput(contender: &Contender, kind: Kind, report: &mut Report) {
    let folder = contender.fresh_folder(kind);
    let broker = contender.start(kind, &folder, &Settings::NONE);
    warm_up_produce(contender, &broker);
    for workload in &WORKLOADS {
        let (warm, topic) = (workload.topic("warm"), workload.topic("produced"));
        produce(contender, &broker, workload, &warm, workload.bytes / 4);
        let before = broker.process().cpu_seconds();
        let produced = produce(contender, &broker, workload, &topic, workload.bytes);
        let cpu = broker.process().cpu_seconds() - before;
        let gib = workload.gibibytes(produced.records);
        let name = workload.name;
        report.add(Row::ProduceCpu(name), kind, cpu / gib);
        report.add(Row::ProduceRate(name), kind, produced.megabytes_per_second);
        consume(contender, &broker, workload, kind, report);
    }
}

fn consume(
    contender: &Contender,
    broker: &Broker,
    workload: &Workload,
    kind: Kind,
    report: &mut Report,
) {
    let topic = workload.topic("tail");
    let tail = produce(contender, broker, workload, &topic, TAIL_BYTES);
    let reads = (TAIL_READS / contender.scale).max(1);
    // The first read warms the client's and the broker's code.
    consume_once(contender, broker, &topic, tail.records);
    let before = broker.process().cpu_seconds();
    let mut rates = Vec::new();
    for _ in 0..reads {
        rates.push(consume_once(contender, broker, &topic, tail.records));
    }
    let cpu = broker.process().cpu_seconds() - before;
    let gib = workload.gibibytes(tail.records * reads);
    report.add(Row::ConsumeCpu(workload.name), kind, cpu / gib);
    let rate = rates.iter().sum::<f64>() / rates.len() as f64;
    report.add(Row::ConsumeRate(workload.name), kind, rate);
}

/// Produce latency at a fixed rate: Firn as it is, Kafka with an fsync per append.
pub(crate) fn measure_latency(contender: &Contender, kind: Kind, report: &mut Report) {
    let folder = contender.fresh_folder(kind);
    let broker = contender.start(kind, &folder, &KAFKA_FSYNCS);
    let before = broker.process().cpu_seconds();
    let (produced, gib) = produce_steadily(contender, &broker, "latency", 20, 60);
    let cpu = broker.process().cpu_seconds() - before;
    report.add(Row::LatencyP50, kind, produced.p50_ms);
    report.add(Row::LatencyP99, kind, produced.p99_ms);
    report.add(Row::LatencyP999, kind, produced.p999_ms);
    report.add(Row::LatencyCpu, kind, cpu / gib);
}

/// Produces at a fixed rate for so many seconds, of which the first do not count as latency. With
/// all the payload in GiB.
pub(crate) fn produce_steadily(
    contender: &Contender,
    broker: &Broker,
    topic: &str,
    warm_up_seconds: u64,
    seconds: u64,
) -> (Produced, f64) {
    broker.client().create_topic(topic, PARTITIONS, &[]);
    let records = seconds * LATENCY_RECORDS_PER_SECOND / contender.scale;
    let warm_up = warm_up_seconds * LATENCY_RECORDS_PER_SECOND / contender.scale;
    let mut command = perf_tool(contender, broker, "ProducerPerformance");
    command
        .args(["--topic", topic, "--record-size", "1024"])
        .args(["--num-records", &(records + warm_up).to_string()])
        .args(["--warmup-records", &warm_up.to_string()])
        .args(["--throughput", &LATENCY_RECORDS_PER_SECOND.to_string()])
        .args([
            "--command-property",
            "acks=all",
            "linger.ms=1",
            "batch.size=16384",
        ]);
    let gib = (records + warm_up) as f64 * 1024.0 / GIBIBYTE;
    (Produced::parse(&run(command)), gib)
}

/// Produces `bytes` to a topic of its own, as fast as it is taken.
pub(crate) fn produce(
    contender: &Contender,
    broker: &Broker,
    workload: &Workload,
    topic: &str,
    bytes: u64,
) -> Produced {
    broker.client().create_topic(topic, PARTITIONS, &[]);
    let records = bytes / contender.scale / workload.record_bytes;
    let mut command = perf_tool(contender, broker, "ProducerPerformance");
    command
        .args(["--topic", topic, "--throughput", "-1"])
        .args(["--num-records", &records.to_string()])
        .args(["--record-size", &workload.record_bytes.to_string()])
        .arg("--command-property")
        .args(workload.producer)
        .arg(format!("acks={}", workload.acks))
        .arg(format!("compression.type={}", workload.codec));
    Produced::parse(&run(command))
}

/// Consumes a topic from its start; MB/s while it fetched.
pub(crate) fn consume_once(
    contender: &Contender,
    broker: &Broker,
    topic: &str,
    records: u64,
) -> f64 {
    let mut command = perf_tool(contender, broker, "ConsumerPerformance");
    command
        .args(["--topic", topic, "--num-records", &records.to_string()])
        .args(["--hide-header", "--timeout", "30000"]);
    let said = run(command);
    let line = said.lines().rfind(|line| line.matches(", ").count() >= 7);
    let line = line.unwrap_or_else(|| panic!("no figures in:\n{said}"));
    let fields: Vec<&str> = line.split(", ").collect();
    let read: u64 = fields[4].trim().parse().expect("a number of records");
    assert!(read >= records, "consumed {read} of {records}:\n{said}");
    fields[8].trim().parse().expect("MB/s while fetching")
}

fn perf_tool(contender: &Contender, broker: &Broker, name: &str) -> Command {
    let main = format!("org.apache.kafka.tools.{name}");
    let mut command = contender.jars.java_by(&ON_CLIENT_CORE, "512m", &main);
    command.args(["--bootstrap-server", &broker.address().to_string()]);
    command
}

fn run(mut command: Command) -> String {
    let output = command.output().expect("the tool starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?} failed:\n{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// The last line of the producer's perf tool.
pub(crate) struct Produced {
    pub(crate) records: u64,
    pub(crate) megabytes_per_second: f64,
    p50_ms: f64,
    pub(crate) p99_ms: f64,
    p999_ms: f64,
}

impl Produced {
    /// `N [steady state] records sent, R records/sec (M MB/sec), A ms avg latency, B ms max latency, C ms 50th,
    /// D ms 95th, E ms 99th, F ms 99.9th.`
    fn parse(said: &str) -> Self {
        let line = said.lines().rfind(|line| line.contains("99.9th"));
        let line = line.unwrap_or_else(|| panic!("no figures in:\n{said}"));
        let before = |mark: &str| -> f64 {
            let at = line
                .find(mark)
                .unwrap_or_else(|| panic!("no {mark} in {line}"));
            let number = line[..at].rsplit([' ', '(']).next().unwrap_or_default();
            number
                .parse()
                .unwrap_or_else(|_| panic!("no number before {mark} in {line}"))
        };
        Self {
            records: line
                .split(' ')
                .next()
                .and_then(|number| number.parse().ok())
                .expect("the line opens with the number of records"),
            megabytes_per_second: before(" MB/sec"),
            p50_ms: before(" ms 50th"),
            p99_ms: before(" ms 99th"),
            p999_ms: before(" ms 99.9th"),
        }
    }
}
