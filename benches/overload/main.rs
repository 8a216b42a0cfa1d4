//! Twice the capacity for some minutes, while consumers read: memory stays within the configured
//! sum, goodput within reach of the capacity, no producer is starved and no consumer stands still.
//!
//! Minutes at capacity write more than most disks hold, so the oldest WAL objects of the load are
//! emptied as new ones come: only a consumer that falls far behind asks for them, and the broker
//! itself does not look at them again while it runs.
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

mod bucket;
mod consumers;
mod producers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use firn_benches::machine::{describe, fsync_milliseconds};
use firn_tests::client::Client;
use firn_tests::node::{Node, NodePlan};

use bucket::while_old_objects_are_emptied;
use consumers::{Consumed, while_consumers_read, write_history};
use producers::{BATCH_BYTES, Load, PRODUCERS, WINDOW, load};

const TOPIC: &str = "overload";
const MEBIBYTE: f64 = (1_u64 << 20) as f64;
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
/// A third of what Fetch may queue, as the broker asks.
const LARGEST_ANSWER: &str = "fetch.max.bytes=21MiB";
/// What the broker may take beyond the configured sum.
const ALLOWANCE_MIB: u64 = 100;
/// How long Kafka's clients wait for an answer (`request.timeout.ms`).
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

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

fn main() -> ExitCode {
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
    plan = plan.with_setting(LARGEST_ANSWER);
    let fsync = fsync_milliseconds(&path);
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).expect("a broker that serves");
    client.create_topic(TOPIC, PRODUCERS as i32, &[]);
    write_history(&mut client);

    let run = while_old_objects_are_emptied(&path.join("bucket"), || run(&node, &arguments));
    println!(
        "Machine: {}; fsync p50 {:.2} ms",
        describe(),
        fsync.quantile(0.5)
    );
    println!("Settings: {}", settings());
    let peak = node.process.resident_bytes_peak() as f64 / MEBIBYTE;
    let reached = report(&arguments, &run, peak);
    node.stop();
    match reached {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// What was measured.
struct Run {
    capacity: Load,
    offered: f64,
    overload: Load,
    consumed: Vec<Consumed>,
}

/// Measures the capacity, and then offers twice as much. The same consumers read all the time.
fn run(node: &Node, arguments: &Arguments) -> Run {
    let capacity_time = Duration::from_secs(arguments.capacity_seconds);
    let (capacity, _) = while_consumers_read(node, || load(node, capacity_time, None));
    let offered = capacity.per_second() * 2.0;
    let time = Duration::from_secs(arguments.seconds);
    let (overload, consumed) = while_consumers_read(node, || load(node, time, Some(offered)));
    Run {
        capacity,
        offered,
        overload,
        consumed,
    }
}

/// Prints the figures, and says whether every goal is reached.
fn report(arguments: &Arguments, run: &Run, peak: f64) -> bool {
    let figure = |name: &str, measured: &str| println!("| {name} | {measured} | | |");
    let goal = |name: &str, measured: &str, goal: &str, reached: bool| {
        let word = if reached { "yes" } else { "no" };
        println!("| {name} | {measured} | {goal} | {word} |");
        reached
    };
    let in_mebibytes = |bytes: f64| format!("{:.0}", bytes / MEBIBYTE);
    let capacity = run.capacity.per_second();
    println!("| Figure | Measured | Goal | Reached |\n|---|---|---|---|");
    figure(
        &format!("capacity, {PRODUCERS} producers as fast as it is taken, MiB/s"),
        &in_mebibytes(capacity),
    );
    figure(
        &format!(
            "offered for {} s, at most {PRODUCERS} x {} MiB unanswered, MiB/s",
            arguments.seconds,
            (WINDOW * BATCH_BYTES) >> 20,
        ),
        &in_mebibytes(run.offered),
    );
    let configured: u64 = MEMORY.iter().map(|(_, mebibytes)| mebibytes).sum();
    let limit = configured + ALLOWANCE_MIB;
    let mut reached = goal(
        "peak resident MiB",
        &format!("{peak:.0}"),
        &format!("≤ {limit} ({configured} configured + {ALLOWANCE_MIB})"),
        peak <= limit as f64,
    );
    let goodput = run.overload.per_second() / capacity;
    let goodput_is = format!("{goodput:.2}");
    reached &= goal("goodput / capacity", &goodput_is, "≥ 0.90", goodput >= 0.9);
    let fairness = run.overload.fairness();
    reached &= goal(
        "least / greatest share of a producer",
        &format!("{fairness:.2}"),
        "≥ 0.50",
        fairness >= 0.5,
    );
    for consumed in &run.consumed {
        let name = consumed.name;
        let rate = consumed.bytes as f64 / arguments.seconds as f64;
        reached &= goal(
            &format!("read {name}, MiB/s"),
            &format!("{:.1}", rate / MEBIBYTE),
            "> 0",
            consumed.bytes > 0,
        );
        reached &= goal(
            &format!("longest wait for an answer {name}, s"),
            &format!("{:.1}", consumed.longest_wait.as_secs_f64()),
            &format!("≤ {}", ANSWER_WAIT_MAX.as_secs()),
            consumed.longest_wait <= ANSWER_WAIT_MAX,
        );
        if consumed.jumps > 0 {
            let name = format!("partitions whose reader {name} fell behind what is kept");
            figure(&name, &consumed.jumps.to_string());
        }
    }
    reached
}

fn settings() -> String {
    let words = MEMORY.map(|(key, mebibytes)| format!("-X {key}={mebibytes}MiB"));
    format!(
        "{} -X {LARGEST_REQUEST} -X {LARGEST_ANSWER}",
        words.join(" ")
    )
}

/// Tells another thread that the work it goes along with is over, also when that ends in a panic.
struct Ending<'a>(&'a AtomicBool);

impl<'a> Ending<'a> {
    fn of(work: &'a AtomicBool) -> Self {
        Self(work)
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
