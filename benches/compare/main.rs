//! Firn beside Apache Kafka 4.3.1 on one machine: the broker on core 0, the clients on core 1, the
//! two in turn (ABBA), Kafka's own perf tools for both. Prints one table of ratios in Markdown.
//!
//! ```sh
//! cargo build --release -p firn
//! cargo run --release -p firn-benches --bin compare            # or with --quick
//! cargo run --release -p firn-benches --bin compare -- --repetitions 1 --parts catch-up
//! ```
//!
//! One repetition of any one part ends within some minutes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command that prints what it measured, and ends where it cannot go on"
)]

mod archive;
mod backfill;
mod bucket;
mod contender;
mod perf;
mod report;
mod start;

use std::cell::Cell;
use std::path::PathBuf;

use clap::Parser;
use firn_benches::kind::Kind;
use firn_benches::machine::{StealWatch, describe, fsync_milliseconds};
use firn_tests::kafka::KafkaJars;

use contender::Contender;
use report::Report;

/// Measures Firn beside Apache Kafka.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often each contender is measured.
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Small counts, to see that it works: the figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// Only this contender: firn or kafka.
    #[arg(long)]
    only: Option<String>,
    /// Only these parts: start, partitions, throughput, latency, and of the archive produce,
    /// requests, catch-up, backfill, flights.
    #[arg(long, value_delimiter = ',')]
    parts: Vec<String>,
    /// Where data goes, up to 10 GB at a time; a temporary folder in the current one by default,
    /// not on a tmpfs.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// The binary to measure; the one beside this program by default.
    #[arg(long)]
    firn: Option<PathBuf>,
}

impl Arguments {
    fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|wanted| wanted == part)
    }
}

fn main() {
    let arguments = Arguments::parse();
    let jars = KafkaJars::find().expect("Kafka's jars and Java: `.ci/run install` brings them");
    let firn = arguments.firn.clone().unwrap_or_else(|| {
        let here = std::env::current_exe().expect("this program has a path");
        here.with_file_name("firn")
    });
    assert!(
        firn.is_file(),
        "no {}: run `cargo build --release -p firn` first",
        firn.display()
    );
    let parent = arguments
        .folder
        .clone()
        .unwrap_or_else(|| PathBuf::from("."));
    let folder = tempfile::tempdir_in(parent).expect("a folder for data");
    let contender = Contender {
        jars,
        firn,
        folder: folder
            .path()
            .canonicalize()
            .expect("a folder that is there"),
        starts: Cell::new(0),
        scale: if arguments.quick { 50 } else { 1 },
    };
    let fsync = fsync_milliseconds(folder.path());
    let steal = StealWatch::start();
    let mut report = Report::default();
    for turn in turns(&arguments) {
        measure(&arguments, &contender, turn, &mut report);
    }
    println!("Machine: {}", describe());
    println!(
        "fsync of 4 KiB today: p50 {:.2} ms, p99 {:.2} ms; stolen by neighbours: {:.1} %",
        fsync.quantile(0.5),
        fsync.quantile(0.99),
        steal.percent()
    );
    println!(
        "Firn: `{}`; Kafka: {}, heap 1 GiB, G1, defaults (acknowledges from the page cache); its\n\
         latency row with `log.flush.interval.messages=1`. Broker on core 0, clients on core 1.\n\
         Archived rows: Firn with `{}`, but where requests are counted. Caught up and backfilled: nothing in memory before, Firn\n\
         from segments, Kafka from its log.\n",
        contender.firn_arguments(),
        firn_tests::kafka::VERSION,
        archive::ARCHIVING.firn.join(" ")
    );
    println!("{report}");
}

/// A B B A A B ...: a drift of the machine falls on both.
fn turns(arguments: &Arguments) -> Vec<Kind> {
    let mut turns = Vec::new();
    for repetition in 0..arguments.repetitions {
        let mut pair = [Kind::Firn, Kind::Kafka];
        if repetition % 2 == 1 {
            pair.reverse();
        }
        turns.extend(pair);
    }
    turns.retain(|kind| {
        arguments
            .only
            .as_ref()
            .is_none_or(|only| kind.name() == only)
    });
    turns
}

fn measure(arguments: &Arguments, contender: &Contender, kind: Kind, report: &mut Report) {
    eprintln!("-- {}", kind.name());
    if arguments.wants("start") {
        start::measure(contender, kind, report);
    }
    if arguments.wants("partitions") {
        start::measure_partitions(contender, kind, report);
    }
    if arguments.wants("throughput") {
        perf::measure_throughput(contender, kind, report);
    }
    if arguments.wants("latency") {
        perf::measure_latency(contender, kind, report);
    }
    if arguments.wants("produce") {
        archive::measure_produce(contender, kind, report);
    }
    if arguments.wants("catch-up") {
        archive::measure_catch_up(contender, kind, report);
    }
    if arguments.wants("backfill") {
        backfill::measure(contender, kind, report);
    }
    if kind == Kind::Firn && arguments.wants("requests") {
        bucket::measure_requests(contender, report);
    }
    if kind == Kind::Firn && arguments.wants("flights") {
        bucket::measure_flights(contender, report);
    }
}
