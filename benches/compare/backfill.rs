//! What producers feel of a consumer that reads a long log from its beginning.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use firn_benches::kind::Kind;
use firn_benches::reader::TopicReader;
use firn_tests::client::{EARLIEST, LATEST};
use firn_tests::wait::{self, Stopwatch};

use crate::contender::{CLIENT_CORE, Contender, Settings};
use crate::perf::{MEBIBYTE, PARTITIONS, WORKLOADS, produce, produce_steadily};
use crate::report::{Report, Row};

/// What the backfill reads at most.
const BYTES_PER_SECOND: u64 = 100_000_000;
const WARM_UP_SECONDS: u64 = 10;
const SECONDS: u64 = 20;
/// What the backfill could read beyond those: no more of it lasts while the tool starts and ends.
const SECONDS_MORE: u64 = 10;
const PARTITION_BYTES: i32 = MEBIBYTE as i32;

/// Produce p99 at a fixed rate, without a backfill and with one that finds nothing in memory.
pub(crate) fn measure(contender: &Contender, kind: Kind, report: &mut Report) {
    let folder = contender.fresh_folder(kind);
    let broker = contender.start(kind, &folder, &Settings::NONE);
    let history = WORKLOADS[0].topic("history");
    let bytes = BYTES_PER_SECOND * (WARM_UP_SECONDS + SECONDS + SECONDS_MORE);
    produce(contender, &broker, &WORKLOADS[0], &history, bytes);
    broker.archive();
    let broker = broker.forget(&folder);
    broker.client().wait_leaders(&history, PARTITIONS);
    let steadily = |topic: &str| {
        let (produced, _) = produce_steadily(contender, &broker, topic, WARM_UP_SECONDS, SECONDS);
        produced.p99_ms
    };
    let quiet = steadily("quiet");
    let (backfilled, rate) =
        while_backfilled(broker.address(), &history, || steadily("backfilled"));
    report.add(Row::QuietP99, kind, quiet);
    report.add(Row::BackfilledP99, kind, backfilled);
    report.add(Row::BackfilledToQuiet, kind, backfilled / quiet);
    report.add(Row::BackfillRate, kind, rate);
}

/// Runs `work` while the topic is read, and says how many MB/s that were, all the time counted.
fn while_backfilled<T>(address: SocketAddr, topic: &str, work: impl FnOnce() -> T) -> (T, f64) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = Stopwatch::start();
        let backfill = scope.spawn(|| backfill(address, topic, &stop));
        let result = work();
        let seconds = watch.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        let bytes = backfill.join().expect("a consumer goes on");
        (result, bytes as f64 / seconds / 1e6)
    })
}

/// Reads the topic from its beginning to its end, or until it is told to stop.
fn backfill(address: SocketAddr, topic: &str, stop: &AtomicBool) -> u64 {
    stay_on_client_core();
    let open = |from| TopicReader::new(address, topic, PARTITIONS as usize, from);
    let (mut reader, end) = (open(EARLIEST), open(LATEST).next);
    let watch = Stopwatch::start();
    while !stop.load(Ordering::Relaxed) && reader.next != end {
        let due = watch.elapsed().as_secs_f64() * BYTES_PER_SECOND as f64;
        if reader.bytes as f64 > due {
            wait::pause(Duration::from_millis(1));
            continue;
        }
        reader.ask(PARTITION_BYTES, PARTITION_BYTES * PARTITIONS);
        reader.take_whole();
    }
    reader.bytes
}

/// Leaves the broker's core to the broker.
fn stay_on_client_core() {
    let thread = fs::read_link("/proc/thread-self").expect("Linux names its threads");
    let thread = thread.file_name().expect("a thread has a number");
    let pinned = Command::new("taskset")
        .args(["-p", "-c", CLIENT_CORE])
        .arg(thread)
        .output()
        .expect("taskset starts");
    assert!(pinned.status.success(), "taskset: {pinned:?}");
}
