//! What archiving costs a broker that is produced to, and what reading again from the beginning
//! costs once nothing of it is in memory.

use firn_benches::kind::Kind;

use crate::contender::{Contender, Settings};
use crate::perf::{
    MEBIBYTE, PARTITIONS, WORKLOADS, Workload, consume_once, produce, warm_up_produce,
};
use crate::report::{Report, Row};

/// Firn archives while it is produced to.
pub(crate) const ARCHIVING: Settings = Settings {
    firn: &["archive.interval.ms=2s"],
    kafka: &[],
};
/// What warms the code that answers consumers.
const WARM_UP_READ_BYTES: u64 = 256 * MEBIBYTE;

fn uncompressed() -> impl Iterator<Item = &'static Workload> {
    WORKLOADS.iter().filter(|load| load.codec == "none")
}

/// CPU-seconds per GiB produced, until all of it is archived as well.
pub(crate) fn measure_produce(contender: &Contender, kind: Kind, report: &mut Report) {
    let folder = contender.fresh_folder(kind);
    let broker = contender.start(kind, &folder, &ARCHIVING);
    warm_up_produce(contender, &broker);
    for workload in uncompressed() {
        let (warm, topic) = (workload.topic("warm"), workload.topic("archived"));
        produce(contender, &broker, workload, &warm, workload.bytes / 4);
        broker.archive();
        let before = broker.process().cpu_seconds();
        let produced = produce(contender, &broker, workload, &topic, workload.bytes);
        broker.archive();
        let cpu = broker.process().cpu_seconds() - before;
        let gib = workload.gibibytes(produced.records);
        report.add(Row::ArchivedCpu(workload.name), kind, cpu / gib);
        let rate = produced.megabytes_per_second;
        report.add(Row::ArchivedRate(workload.name), kind, rate);
    }
}

/// Reads each topic once, from what lies in the bucket or in Kafka's log: nothing of it is in
/// memory. Kafka's code is warm.
pub(crate) fn measure_catch_up(contender: &Contender, kind: Kind, report: &mut Report) {
    let folder = contender.fresh_folder(kind);
    let mut broker = contender.start(kind, &folder, &Settings::NONE);
    for workload in uncompressed() {
        let (warm, topic) = (workload.topic("warm"), workload.topic("cold"));
        let read = produce(contender, &broker, workload, &warm, WARM_UP_READ_BYTES);
        let produced = produce(contender, &broker, workload, &topic, workload.bytes);
        consume_once(contender, &broker, &warm, read.records);
        broker.archive();
        broker = broker.forget(&folder);
        broker.client().wait_leaders(&topic, PARTITIONS);
        let process = broker.process();
        let (cpu_before, disk_before) = (process.cpu_seconds(), process.disk_bytes_read());
        let rate = consume_once(contender, &broker, &topic, produced.records);
        let cpu = process.cpu_seconds() - cpu_before;
        let disk = (process.disk_bytes_read() - disk_before) as f64;
        let bytes = (produced.records * workload.record_bytes) as f64;
        let work = bytes / MEBIBYTE as f64 / cpu;
        report.add(Row::ColdWork(workload.name), kind, work);
        report.add(Row::ColdRate(workload.name), kind, rate);
        report.add(Row::ColdDisk(workload.name), kind, disk / bytes);
    }
}
