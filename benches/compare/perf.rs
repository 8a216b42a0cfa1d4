//! Throughput and latency by Kafka's own perf tools; the broker's CPU from `/proc`.

use std::process::Command;

use crate::contender::{Broker, Contender, Kind, ON_CLIENT_CORE};
use crate::report::{Report, Row};

const PARTITIONS: i32 = 6;
const GIBIBYTE: f64 = (1_u64 << 30) as f64;
const MEBIBYTE: u64 = 1 << 20;
/// What is consumed must lie in Firn's tail cache and in Kafka's page cache alike.
const TAIL_BYTES: u64 = 96 * MEBIBYTE;
/// How often the tail is consumed for one figure.
const TAIL_READS: u64 = 10;
/// Warm-up of the brokers before anything counts.
const WARM_UP_BYTES: u64 = 2048 * MEBIBYTE;
const LATENCY_RECORDS_PER_SECOND: u64 = 10_000;

struct Workload {
    name: &'static str,
    record_bytes: u64,
    codec: &'static str,
    /// Payload produced for one figure.
    bytes: u64,
}

const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "1 KiB",
        record_bytes: 1024,
        codec: "none",
        bytes: 2048 * MEBIBYTE,
    },
    Workload {
        name: "100 B",
        record_bytes: 100,
        codec: "none",
        bytes: 1024 * MEBIBYTE,
    },
    Workload {
        name: "1 KiB lz4",
        record_bytes: 1024,
        codec: "lz4",
        bytes: 2048 * MEBIBYTE,
    },
];

/// CPU-seconds per GiB produced and consumed from the tail, and MB/s, of each workload.
pub(crate) fn measure_throughput(contender: &Contender, kind: Kind, report: &mut Report) {
    let folder = contender.fresh_folder(kind);
    let broker = contender.start(kind, &folder, false);
    let warm_up = Workload {
        name: "warm-up",
        bytes: WARM_UP_BYTES,
        ..WORKLOADS[0]
    };
    produce(contender, &broker, &warm_up, "warm-up", warm_up.bytes);
    for workload in &WORKLOADS {
        let topic = workload.name.replace(' ', "-");
        let warm = format!("{topic}-warm");
        produce(contender, &broker, workload, &warm, workload.bytes / 4);
        let before = broker.process().cpu_seconds();
        let produced = produce(contender, &broker, workload, &topic, workload.bytes);
        let cpu = broker.process().cpu_seconds() - before;
        let gib = produced.records as f64 * workload.record_bytes as f64 / GIBIBYTE;
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
    let topic = format!("{}-tail", workload.name.replace(' ', "-"));
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
    let gib = (tail.records * workload.record_bytes * reads) as f64 / GIBIBYTE;
    report.add(Row::ConsumeCpu(workload.name), kind, cpu / gib);
    let rate = rates.iter().sum::<f64>() / rates.len() as f64;
    report.add(Row::ConsumeRate(workload.name), kind, rate);
}

/// Produce latency at a fixed rate: Firn as it is, Kafka with an fsync per append.
pub(crate) fn measure_latency(contender: &Contender, kind: Kind, report: &mut Report) {
    let folder = contender.fresh_folder(kind);
    let broker = contender.start(kind, &folder, true);
    broker.client().create_topic("latency", PARTITIONS, &[]);
    let records = 60 * LATENCY_RECORDS_PER_SECOND / contender.scale;
    let warm_up = 20 * LATENCY_RECORDS_PER_SECOND / contender.scale;
    let mut command = perf_tool(contender, &broker, "ProducerPerformance");
    command
        .args(["--topic", "latency", "--record-size", "1024"])
        .args(["--num-records", &(records + warm_up).to_string()])
        .args(["--warmup-records", &warm_up.to_string()])
        .args(["--throughput", &LATENCY_RECORDS_PER_SECOND.to_string()])
        .args([
            "--command-property",
            "acks=all",
            "linger.ms=1",
            "batch.size=16384",
        ]);
    let before = broker.process().cpu_seconds();
    let produced = Produced::parse(&run(command));
    let cpu = broker.process().cpu_seconds() - before;
    let gib = (records + warm_up) as f64 * 1024.0 / GIBIBYTE;
    report.add(Row::LatencyP50, kind, produced.p50_ms);
    report.add(Row::LatencyP99, kind, produced.p99_ms);
    report.add(Row::LatencyP999, kind, produced.p999_ms);
    report.add(Row::LatencyCpu, kind, cpu / gib);
}

fn produce(
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
        .args([
            "--command-property",
            "acks=all",
            "batch.size=65536",
            "linger.ms=5",
        ])
        .arg(format!("compression.type={}", workload.codec));
    Produced::parse(&run(command))
}

/// Consumes a topic from its start; MB/s while it fetched.
fn consume_once(contender: &Contender, broker: &Broker, topic: &str, records: u64) -> f64 {
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
struct Produced {
    records: u64,
    megabytes_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
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
