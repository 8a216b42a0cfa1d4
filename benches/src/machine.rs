//! The machine a figure was measured on: processor, kernel, what an fsync costs today, and how
//! much of the time a neighbour stole.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use firn_tests::wait::Stopwatch;

use crate::sample::Sample;

/// How many fsyncs are measured.
const FSYNCS: usize = 200;

/// Processor model, number of cores, kernel.
pub fn describe() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, model)| model.trim());
    let cores = cpus.lines().filter(|l| l.starts_with("processor")).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

/// Milliseconds that writing 4 KiB and syncing them takes in `folder` today.
pub fn fsync_milliseconds(folder: &Path) -> Sample {
    let path = folder.join("fsync-probe");
    let mut file = File::create(&path).expect("a file to sync");
    let mut sample = Sample::default();
    for at in 0..FSYNCS {
        file.seek(SeekFrom::Start(4096 * at as u64))
            .expect("a file seeks");
        let started = Stopwatch::start();
        file.write_all(&[at as u8; 4096])
            .expect("the disk has room");
        file.sync_data().expect("the disk syncs");
        sample.add(started.elapsed().as_secs_f64() * 1000.0);
    }
    let _ = fs::remove_file(path);
    sample
}

/// Ticks of all processors so far: (stolen by neighbours, all).
fn ticks() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/stat").expect("Linux has /proc/stat");
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line
        .split_ascii_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    (
        fields.get(7).copied().unwrap_or(0),
        fields.iter().take(8).sum(),
    )
}

/// Watches how much of the machine's time goes to neighbours.
#[derive(Debug)]
pub struct StealWatch((u64, u64));

impl StealWatch {
    /// Starts watching.
    pub fn start() -> Self {
        Self(ticks())
    }

    /// Percent stolen since the start.
    pub fn percent(&self) -> f64 {
        let (stolen, all) = ticks();
        let span = all.saturating_sub(self.0.1).max(1);
        stolen.saturating_sub(self.0.0) as f64 * 100.0 / span as f64
    }
}
