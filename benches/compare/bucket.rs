//! What Firn asks of a bucket, and what lies in it: requests, and bytes after archiving. Kafka has
//! none.

use std::collections::BTreeMap;

use firn_benches::kind::Kind;
use firn_tests::flights;
use firn_tests::minio::minio_for;
use firn_tests::node::NodePlan;
use firn_tests::producer::IdempotentProducer;
use firn_tests::records::Record;
use firn_tests::wait;
use serde_json::Value;

use crate::contender::{Broker, Contender, ON_BROKER_CORE, with_settings};
use crate::perf::{MEBIBYTE, PARTITIONS, WORKLOADS, Workload, produce};
use crate::report::{Report, Row};

/// What is produced while requests are counted.
const COUNTED_BYTES: u64 = 1024 * MEBIBYTE;
/// PUT and LIST, as the broker names them.
const OPERATIONS: [&str; 2] = ["create", "list"];

/// A producer, by the name of its rows.
struct Counted {
    name: &'static str,
    workload: Workload,
}

/// acks=1 is what the local WAL is for; it lets slots fill. So does acks=all if the producer has
/// enough in flight: as the README says how on S3.
const COUNTED: [Counted; 3] = [
    Counted {
        name: "1",
        workload: Workload {
            acks: "1",
            ..WORKLOADS[0]
        },
    },
    Counted {
        name: "all",
        workload: Workload {
            acks: "all",
            ..WORKLOADS[0]
        },
    },
    Counted {
        name: "all with large batches",
        workload: Workload {
            producer: LARGE_BATCHES,
            ..WORKLOADS[0]
        },
    },
];
const LARGE_BATCHES: &[&str] = &[
    "batch.size=1048576",
    "linger.ms=100",
    "max.request.size=8388608",
    "buffer.memory=134217728",
];

/// Records of a batch.
const FLIGHTS_PER_BATCH: usize = 100;
/// Firn looks often whether something of the WAL is of no use any more: to partitions that nobody
/// writes to, and at all.
const COLLECTING: [&str; 2] = [
    "log.retention.check.interval.ms=1s",
    "collection.interval.ms=1s",
];
/// What stays in the WAL of a broker at rest, at most.
const WAL_BYTES_AT_REST: u64 = 64 * 1024;

/// Requests to a bucket over S3's protocol, by the broker's own count: from a warm broker, until
/// all that was produced is archived.
pub(crate) fn measure_requests(contender: &Contender, report: &mut Report) {
    let folder = contender.fresh_folder(Kind::Firn);
    let Some(minio) = minio_for("the count of requests", &folder) else {
        return;
    };
    let plan = minio
        .node(&contender.firn.to_string_lossy(), &folder, "compare")
        .with_wal(&folder.join("wal"))
        .started_by(&ON_BROKER_CORE);
    let broker = Broker::Firn(plan.start());
    for Counted { name, workload } in &COUNTED {
        let topic = |purpose: &str| format!("acks-{}-{purpose}", name.replace(' ', "-"));
        let warm = COUNTED_BYTES / 8;
        produce(contender, &broker, workload, &topic("warm"), warm);
        broker.archive();
        let asked = || OPERATIONS.map(|operation| broker.bucket_requests(operation));
        let before = asked();
        let topic = topic("counted");
        let produced = produce(contender, &broker, workload, &topic, COUNTED_BYTES);
        broker.archive();
        let after = asked();
        let [puts, lists] = [0, 1].map(|at| more(OPERATIONS[at], &before[at], &after[at]));
        let gib = workload.gibibytes(produced.records);
        report.add(Row::Puts(name), Kind::Firn, puts / gib);
        report.add(Row::Lists(name), Kind::Firn, lists);
        let rate = produced.megabytes_per_second;
        report.add(Row::PutsRate(name), Kind::Firn, rate);
    }
}

/// How many requests `after` has more than `before`; says what they were for.
fn more(operation: &str, before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> f64 {
    let more = after.iter().map(|(purpose, count)| {
        let more = count - before.get(purpose).unwrap_or(&0.0);
        eprintln!("   {operation} for {purpose}: {more}");
        more
    });
    more.sum()
}

/// Bytes in the bucket once the flights are archived and have left the WAL, for each byte of their
/// keys and values.
pub(crate) fn measure_flights(contender: &Contender, report: &mut Report) {
    let folder = contender.fresh_folder(Kind::Firn);
    let plan = with_settings(contender.firn_plan(&folder), &COLLECTING);
    let broker = Broker::Firn(plan.start());
    broker.client().create_topic("flights", PARTITIONS, &[]);
    let bytes = produce_flights(&broker) as f64;
    broker.archive();
    let usage = wait::until("the flights to leave the WAL", wait::PATIENCE, || {
        let usage = usage(&plan);
        (bytes_of(&usage, "wal") <= WAL_BYTES_AT_REST).then_some(usage)
    });
    let in_bucket = |kind: &str| bytes_of(&usage, kind) as f64 / bytes;
    report.add(Row::ArchivedBytes, Kind::Firn, in_bucket("total"));
    report.add(Row::SegmentBytes, Kind::Firn, in_bucket("segments"));
}

/// Produces all flights, keyed by airport; bytes of their keys and values.
fn produce_flights(broker: &Broker) -> usize {
    let mut parts = vec![Vec::new(); PARTITIONS as usize];
    let mut bytes = 0;
    for flight in flights::load() {
        bytes += flight.origin.len() + flight.line.len();
        let partition = flights::partition(&flight.origin, PARTITIONS);
        parts[partition as usize].push(Record::new(flight.origin, flight.line));
    }
    let mut producer = IdempotentProducer::new(broker.address(), "flights", PARTITIONS);
    for (partition, records) in (0..).zip(&parts) {
        for batch in records.chunks(FLIGHTS_PER_BATCH) {
            assert!(producer.send(partition, batch), "the broker stays up");
        }
    }
    assert!(producer.flush(), "the broker stays up");
    bytes
}

fn usage(plan: &NodePlan) -> Value {
    let usage = plan.run(&["bucket", "usage", "--json"]);
    serde_json::from_str(&usage).expect("usage in JSON")
}

fn bytes_of(usage: &Value, kind: &str) -> u64 {
    let bytes = usage[kind]["bytes"].as_u64();
    bytes.unwrap_or_else(|| panic!("no bytes of {kind} in {usage}"))
}
