//! Twice the capacity for some minutes: memory stays within the configured sum, goodput within
//! reach of the capacity, and no producer is starved.
//!
//! Minutes at capacity write more than most disks hold, so the oldest WAL objects are deleted as
//! new ones come: nobody reads them, and the broker does not look at them again while it runs.
//!
//! ```sh
//! cargo build --release -p firn
//! cargo run --release -p firn-benches --bin overload            # or with --seconds 30
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a command that prints what it measured, and ends where it cannot go on"
)]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use clap::Parser;
use firn_benches::machine::{describe, fsync_milliseconds};
use firn_tests::client::{Client, code};
use firn_tests::node::{Node, NodePlan};
use firn_tests::records::{ProducerFields, Record, encode_batch};
use firn_tests::wait::{self, Stopwatch};

const TOPIC: &str = "overload";
const PRODUCERS: usize = 16;
const BATCH_BYTES: usize = 64 * 1024;
const MEBIBYTE: f64 = (1_u64 << 20) as f64;
/// Requests one producer keeps unanswered when nothing holds it back.
const WINDOW: usize = 5;
/// The same when it offers more than is taken: all a connection's buffers hold, and more.
const WINDOW_OVERLOAD: usize = 200;
/// What the broker may hold, each as `-X key=value` with its size in MiB.
const MEMORY: [(&str, u64); 6] = [
    ("wal.memory.bytes", 128),
    ("cache.tail.bytes", 64),
    ("cache.memory.bytes", 64),
    ("queued.max.produce.bytes", 64),
    ("queued.max.request.bytes", 96),
    ("queued.max.fetch.bytes", 64),
];
/// Half of what Produce may queue, as the broker asks.
const LARGEST_REQUEST: &str = "socket.request.max.bytes=32MiB";
/// What the broker may take beyond the configured sum.
const ALLOWANCE_MIB: u64 = 100;
/// What stays in the bucket while the load runs.
const BUCKET_BYTES_KEPT: u64 = 4 << 30;
/// Shorter objects are not WAL objects under this load, and stay.
const OBJECT_BYTES_MIN: u64 = 256 << 10;

/// Offers a broker twice what it can take.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long the overload lasts.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// How long the capacity is measured before.
    #[arg(long, default_value_t = 30)]
    capacity_seconds: u64,
    /// Where data goes; a temporary folder in the current one by default.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// The binary to measure; the one beside this program by default.
    #[arg(long)]
    firn: Option<PathBuf>,
}

fn main() {
    let arguments = Arguments::parse();
    let firn = arguments.firn.clone().unwrap_or_else(|| {
        let here = std::env::current_exe().expect("this program has a path");
        here.with_file_name("firn")
    });
    let parent = arguments
        .folder
        .clone()
        .unwrap_or_else(|| PathBuf::from("."));
    let folder = tempfile::tempdir_in(parent).expect("a folder for data");
    let path = folder
        .path()
        .canonicalize()
        .expect("a folder that is there");
    let mut plan =
        NodePlan::on_directory(&firn.to_string_lossy(), &path).started_by(&["taskset", "-c", "0"]);
    for (key, mebibytes) in MEMORY {
        plan = plan.with_setting(&format!("{key}={mebibytes}MiB"));
    }
    plan = plan.with_setting(LARGEST_REQUEST);
    let fsync = fsync_milliseconds(&path);
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).expect("a broker that serves");
    client.create_topic(TOPIC, PRODUCERS as i32, &[]);

    let (capacity, offered, overload) = while_old_objects_go(&path.join("bucket"), || {
        let capacity = load(&node, Duration::from_secs(arguments.capacity_seconds), None);
        let offered = capacity.per_second() * 2.0;
        let overload = load(&node, Duration::from_secs(arguments.seconds), Some(offered));
        (capacity, offered, overload)
    });
    let per_second = capacity.per_second();
    let configured: u64 = MEMORY.iter().map(|(_, mebibytes)| mebibytes).sum();
    let peak = node.process.resident_bytes_peak() as f64 / MEBIBYTE;
    let goodput = overload.per_second() / per_second;

    println!(
        "Machine: {}; fsync p50 {:.2} ms",
        describe(),
        fsync.quantile(0.5)
    );
    println!("Settings: {}", settings());
    println!("| Figure | Measured | Goal | Reached |\n|---|---|---|---|");
    println!(
        "| capacity, {PRODUCERS} producers, MiB/s | {:.0} | | |",
        per_second / MEBIBYTE
    );
    println!(
        "| offered for {} s, at most {PRODUCERS} x {} MiB unanswered, MiB/s | {:.0} | | |",
        arguments.seconds,
        WINDOW_OVERLOAD * BATCH_BYTES >> 20,
        offered / MEBIBYTE
    );
    let limit = (configured + ALLOWANCE_MIB) as f64;
    println!(
        "| peak resident MiB | {peak:.0} | ≤ {limit:.0} ({configured} configured + {ALLOWANCE_MIB}) | {} |",
        yes(peak <= limit)
    );
    println!(
        "| goodput / capacity | {goodput:.2} | ≥ 0.90 | {} |",
        yes(goodput >= 0.9)
    );
    println!(
        "| least / greatest share of a producer | {:.2} | | |",
        overload.least as f64 / overload.greatest.max(1) as f64
    );
    node.stop();
    std::process::exit(i32::from(peak > limit || goodput < 0.9));
}

fn settings() -> String {
    let words = MEMORY.map(|(key, mebibytes)| format!("-X {key}={mebibytes}MiB"));
    format!("{} -X {LARGEST_REQUEST}", words.join(" "))
}

fn yes(reached: bool) -> &'static str {
    if reached { "yes" } else { "no" }
}

/// Runs `work` while the oldest objects of `bucket` are deleted.
fn while_old_objects_go<T>(bucket: &Path, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                delete_old_objects(bucket);
                wait::pause(Duration::from_millis(500));
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// Deletes the oldest long objects until [`BUCKET_BYTES_KEPT`] are left.
fn delete_old_objects(bucket: &Path) {
    let mut objects = Vec::new();
    let mut folders = vec![bucket.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.len() >= OBJECT_BYTES_MIN {
                let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                objects.push((written, metadata.len(), entry.path()));
            }
        }
    }
    objects.sort_unstable();
    let mut left: u64 = objects.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, path) in objects {
        if left <= BUCKET_BYTES_KEPT {
            break;
        }
        if fs::remove_file(path).is_ok() {
            left -= bytes;
        }
    }
}

/// What was acknowledged.
struct Load {
    bytes: u64,
    taken: Duration,
    least: u64,
    greatest: u64,
}

impl Load {
    fn per_second(&self) -> f64 {
        self.bytes as f64 / self.taken.as_secs_f64()
    }
}

/// Produces from all producers for `time`: as fast as answers come, or at `offered` bytes per
/// second in all, however slowly they come.
fn load(node: &Node, time: Duration, offered: Option<f64>) -> Load {
    let stop = AtomicBool::new(false);
    let acknowledged: Vec<AtomicU64> = (0..PRODUCERS).map(|_| AtomicU64::new(0)).collect();
    let watch = Stopwatch::start();
    let mut taken = Duration::ZERO;
    let mut counts = Vec::new();
    std::thread::scope(|scope| {
        for (at, count) in acknowledged.iter().enumerate() {
            let address = node.kafka();
            let stop = &stop;
            let share = offered.map(|bytes| bytes / PRODUCERS as f64);
            scope.spawn(move || producer(address, at as i32, share, stop, count));
        }
        wait::pause(time);
        // Counted at the end of the time: what comes while the window drains does not help.
        taken = watch.elapsed();
        counts = acknowledged
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        stop.store(true, Ordering::Relaxed);
    });
    Load {
        bytes: counts.iter().sum(),
        taken,
        least: counts.iter().copied().min().unwrap_or(0),
        greatest: counts.iter().copied().max().unwrap_or(0),
    }
}

fn producer(
    address: SocketAddr,
    partition: i32,
    bytes_per_second: Option<f64>,
    stop: &AtomicBool,
    acknowledged: &AtomicU64,
) {
    let mut client = Client::connect(address).expect("a broker that serves");
    let batch = batch(partition);
    let window = bytes_per_second.map_or(WINDOW, |_| WINDOW_OVERLOAD);
    let watch = Stopwatch::start();
    let mut sent = 0_u64;
    let mut answered = 0_u64;
    let receive = |client: &mut Client, answered: &mut u64| {
        let produced = client.receive_produced().expect("an answer");
        assert_eq!(produced.error, code::NONE, "a batch is taken in the end");
        *answered += 1;
        acknowledged.fetch_add(BATCH_BYTES as u64, Ordering::Relaxed);
    };
    while !stop.load(Ordering::Relaxed) {
        let due = bytes_per_second.map_or(u64::MAX, |rate| {
            (watch.elapsed().as_secs_f64() * rate / BATCH_BYTES as f64) as u64
        });
        if sent < due && sent - answered < window as u64 {
            let sending = client.send_produce(TOPIC, partition, batch.clone());
            sending.expect("the broker keeps the connection");
            sent += 1;
        } else if sent > answered {
            receive(&mut client, &mut answered);
        } else {
            wait::pause(Duration::from_millis(1));
        }
    }
    while sent > answered {
        receive(&mut client, &mut answered);
    }
}

/// A batch of 1 KiB records, [`BATCH_BYTES`] of payload in all.
fn batch(partition: i32) -> Bytes {
    let value = vec![b'a' + partition as u8; 1024];
    let records = vec![Record::new("key", value); BATCH_BYTES / 1024];
    encode_batch(&records, ProducerFields::NONE)
}
