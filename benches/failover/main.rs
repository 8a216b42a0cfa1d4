//! How long clients wait when a broker of three dies, leaves in order, or led the cluster when it
//! died; Firn on MinIO and Apache Kafka, one after the other.
//!
//! ```sh
//! cargo build --release -p firn
//! cargo run --release -p firn-benches --bin failover            # or with --deaths 5
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a command that prints what it measured, and ends where it cannot go on"
)]

mod calls;
mod contender;
mod gaps;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use firn_benches::kind::Kind;
use firn_benches::machine::describe;
use firn_benches::sample::Sample;
use firn_tests::wait;

use calls::GroupCalls;
use contender::Contender;
use gaps::Gaps;

const TOPIC: &str = "failover";
const PARTITIONS: i32 = 6;
/// Between an event and its end: longer than any of them is to take.
const WINDOW: Duration = Duration::from_secs(4);
/// Before the next event, once all brokers are back.
const CALM: Duration = Duration::from_secs(3);
/// Upper borders of the histogram, in milliseconds.
const BORDERS: [f64; 10] = [
    50.0, 100.0, 200.0, 500.0, 1000.0, 1500.0, 2000.0, 3000.0, 5000.0, 10_000.0,
];

/// Lets brokers die and measures what clients notice.
#[derive(Debug, Parser)]
struct Arguments {
    /// Brokers that are killed.
    #[arg(long, default_value_t = 20)]
    deaths: usize,
    /// Brokers that leave in order.
    #[arg(long, default_value_t = 6)]
    departures: usize,
    /// Brokers that are killed while they lead the cluster.
    #[arg(long, default_value_t = 10)]
    leader_deaths: usize,
    /// Only Firn.
    #[arg(long)]
    firn_only: bool,
    /// Where data goes; a temporary folder in the current one by default.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// The binary to measure; the one beside this program by default.
    #[arg(long)]
    firn: Option<PathBuf>,
}

/// What was measured of one contender, in milliseconds.
#[derive(Default)]
struct Measured {
    death: Sample,
    departure: Sample,
    leader_death: Sample,
    leader_calls: Sample,
}

fn main() {
    let arguments = Arguments::parse();
    let firn = arguments.firn.clone().unwrap_or_else(|| {
        let here = std::env::current_exe().expect("this program has a path");
        here.with_file_name("firn")
    });
    let parent = arguments.folder.clone();
    let parent = parent.unwrap_or_else(|| PathBuf::from("."));
    let folder = tempfile::tempdir_in(parent).expect("a folder for data");
    let folder = folder
        .path()
        .canonicalize()
        .expect("a folder that is there");
    println!("Machine: {}", describe());
    let ours = measure(Kind::Firn, &arguments, &firn, &folder);
    let theirs = (!arguments.firn_only).then(|| measure(Kind::Kafka, &arguments, &firn, &folder));
    print!("{}", report(&ours, theirs.as_ref()));
}

fn measure(kind: Kind, arguments: &Arguments, firn: &Path, folder: &Path) -> Measured {
    let mut cluster = Contender::start(kind, firn, &folder.join(kind.name()));
    let brokers = cluster.brokers();
    brokers.any().create_topic(TOPIC, PARTITIONS, &[]);
    let mut gaps = Gaps::start(&brokers, folder);
    let mut measured = Measured::default();
    wait::pause(CALM);
    gaps.longest();
    for death in 0..arguments.deaths {
        let leader = cluster.controller();
        let at = (leader + 1 + death % 2) % cluster.len();
        cluster.kill(at);
        let gap = settled(&mut cluster, &mut gaps);
        println!(
            "{}: broker dies, {death}: longest gap {gap:.0} ms",
            kind.name()
        );
        measured.death.add(gap);
    }
    for departure in 0..arguments.departures {
        let leader = cluster.controller();
        let at = (leader + 1 + departure % 2) % cluster.len();
        cluster.stop(at);
        let gap = settled(&mut cluster, &mut gaps);
        println!(
            "{}: broker leaves, {departure}: longest gap {gap:.0} ms",
            kind.name()
        );
        measured.departure.add(gap);
    }
    for death in 0..arguments.leader_deaths {
        let leader = cluster.controller();
        let calls = GroupCalls::start(&brokers.without(leader), TOPIC);
        cluster.kill(leader);
        wait::pause(WINDOW);
        let calls = calls.longest_gap_ms();
        let gap = settled(&mut cluster, &mut gaps);
        println!(
            "{}: leader dies, {death}: longest gap {gap:.0} ms, group calls back after {calls:.0} ms",
            kind.name()
        );
        measured.leader_calls.add(calls);
        measured.leader_death.add(gap);
    }
    measured
}

/// The longest gap once things are calm again without the one that is gone; then it comes back,
/// which is not measured.
fn settled(cluster: &mut Contender, gaps: &mut Gaps) -> f64 {
    wait::pause(WINDOW);
    let gap = gaps.longest();
    cluster.revive();
    wait::pause(CALM);
    gaps.longest();
    gap
}

fn report(ours: &Measured, theirs: Option<&Measured>) -> String {
    type Of = fn(&Measured) -> &Sample;
    let rows: [(&str, Of, f64, &str); 7] = [
        ("broker dies: longest gap p50", |m| &m.death, 0.5, "≤ 1500"),
        ("broker dies: longest gap p99", |m| &m.death, 0.99, "≤ 3000"),
        (
            "broker leaves: longest gap p50",
            |m| &m.departure,
            0.5,
            "≤ 200",
        ),
        ("broker leaves: longest gap p99", |m| &m.departure, 0.99, ""),
        (
            "leader dies: group calls back p50",
            |m| &m.leader_calls,
            0.5,
            "",
        ),
        (
            "leader dies: group calls back p99",
            |m| &m.leader_calls,
            0.99,
            "≤ 2000",
        ),
        (
            "leader dies: longest gap p99",
            |m| &m.leader_death,
            0.99,
            "",
        ),
    ];
    let mut text = String::from("\n| ms | Firn | Kafka | Goal |\n|---|---|---|---|\n");
    let shown = |sample: &Sample, share| match sample.is_empty() {
        true => "-".to_owned(),
        false => format!("{:.0}", sample.quantile(share)),
    };
    for (title, of, share, goal) in rows {
        let kafka = theirs.map_or_else(|| "-".to_owned(), |m| shown(of(m), share));
        let _ = writeln!(
            text,
            "| {title} | {} | {kafka} | {goal} |",
            shown(of(ours), share)
        );
    }
    let _ = writeln!(
        text,
        "\nbroker dies, how often the longest gap was at most so many ms:\n"
    );
    for (name, measured) in [("Firn", Some(ours)), ("Kafka", theirs)] {
        let Some(measured) = measured else { continue };
        let counts = BORDERS.map(|border| measured.death.count_to(border));
        let cells: Vec<String> = BORDERS
            .iter()
            .zip(counts)
            .map(|(border, count)| format!("{border:.0}: {count}"))
            .collect();
        let _ = writeln!(text, "{name}: {}", cells.join(", "));
    }
    text
}
