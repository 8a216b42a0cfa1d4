//! The table: one row per figure, Firn, Kafka, their ratio and the goal.

use std::collections::BTreeMap;
use std::fmt;

use firn_benches::kind::Kind;
use firn_benches::sample::Sample;

/// Whether a Firn figure and its ratio to Kafka's reach a goal.
type Holds = fn(f64, f64) -> bool;

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Row {
    ProduceCpu(&'static str),
    ProduceRate(&'static str),
    ConsumeCpu(&'static str),
    ConsumeRate(&'static str),
    LatencyP50,
    LatencyP99,
    LatencyP999,
    LatencyCpu,
    ArchivedCpu(&'static str),
    ArchivedRate(&'static str),
    Puts(&'static str),
    Lists(&'static str),
    PutsRate(&'static str),
    ColdWork(&'static str),
    ColdRate(&'static str),
    ColdDisk(&'static str),
    QuietP99,
    BackfilledP99,
    BackfilledToQuiet,
    BackfillRate,
    ArchivedBytes,
    SegmentBytes,
    IdleMemory,
    StartEmpty,
    StartStopped,
    StartKilled,
    PartitionsTime,
    PartitionsMemory,
}

impl Row {
    fn title(self) -> String {
        match self {
            Self::ProduceCpu(load) => format!("broker CPU-s per GiB produced, {load}"),
            Self::ProduceRate(load) => format!("produced MB/s, {load} (client-bound)"),
            Self::ConsumeCpu(load) => {
                format!("broker CPU-s per GiB consumed from the tail, {load}")
            }
            Self::ConsumeRate(load) => format!("consumed MB/s, {load} (client-bound)"),
            Self::LatencyP50 => "produce p50 ms at 10 k rec/s of 1 KiB, Kafka fsyncs".to_owned(),
            Self::LatencyP99 => "produce p99 ms, same".to_owned(),
            Self::LatencyP999 => "produce p99.9 ms, same".to_owned(),
            Self::LatencyCpu => "broker CPU-s per GiB, same".to_owned(),
            Self::ArchivedCpu(load) => {
                format!("broker CPU-s per GiB produced and archived, {load}")
            }
            Self::ArchivedRate(load) => format!("produced MB/s meanwhile, {load} (client-bound)"),
            Self::Puts(acks) => format!("PUT per GiB produced and archived, S3, acks={acks}"),
            Self::Lists(acks) => format!("LIST meanwhile, acks={acks}"),
            Self::PutsRate(acks) => format!("produced MB/s meanwhile, acks={acks}"),
            Self::ColdWork(load) => format!("MiB caught up per broker CPU-s, {load}"),
            Self::ColdRate(load) => format!("caught up MB/s, {load}"),
            Self::ColdDisk(load) => format!("bytes from the disk per byte caught up, {load}"),
            Self::QuietP99 => "produce p99 ms at 10 k rec/s of 1 KiB".to_owned(),
            Self::BackfilledP99 => "same during a backfill of at most 100 MB/s".to_owned(),
            Self::BackfilledToQuiet => "produce p99 during it / without".to_owned(),
            Self::BackfillRate => "backfilled MB/s meanwhile".to_owned(),
            Self::ArchivedBytes => "bytes of the bucket / of the records, flights".to_owned(),
            Self::SegmentBytes => "bytes of segments / of the records, flights".to_owned(),
            Self::IdleMemory => "idle resident MiB".to_owned(),
            Self::StartEmpty => "start to first acknowledged record ms, empty folder".to_owned(),
            Self::StartStopped => "same after a clean stop, ms".to_owned(),
            Self::StartKilled => "same after kill -9, ms".to_owned(),
            Self::PartitionsTime => "10,000 partitions created, each with a leader, ms".to_owned(),
            Self::PartitionsMemory => "resident MiB holding 10,000 partitions".to_owned(),
        }
    }

    /// The goal in words and as a test.
    fn goal(self) -> Option<(&'static str, Holds)> {
        Some(match self {
            Self::ProduceCpu("1 KiB lz4") => ("≤ 1/5", |_, ratio| ratio <= 0.2),
            Self::ProduceCpu(_) => ("≤ 1/3", |_, ratio| ratio <= 1.0 / 3.0),
            Self::ConsumeCpu("1 KiB") => ("≤ 1/2", |_, ratio| ratio <= 0.5),
            Self::ConsumeCpu("100 B") => ("≤ 1", |_, ratio| ratio <= 1.0),
            Self::LatencyP99 => ("≤ 1", |_, ratio| ratio <= 1.0),
            Self::ArchivedCpu("1 KiB") => ("≤ 1", |_, ratio| ratio <= 1.0),
            Self::Puts(_) => ("≤ 160", |firn, _| firn <= 160.0),
            Self::Lists(_) => ("0", |firn, _| firn == 0.0),
            Self::ColdWork(_) => ("≥ 2", |_, ratio| ratio.is_finite() && ratio >= 2.0),
            Self::BackfilledToQuiet => ("≤ 1.3", |firn, _| firn <= 1.3),
            Self::ArchivedBytes => ("≤ 0.5", |firn, _| firn <= 0.5),
            Self::IdleMemory => ("≤ 1/10", |_, ratio| ratio <= 0.1),
            Self::StartEmpty | Self::StartStopped => ("≤ 150 ms", |firn, _| firn <= 150.0),
            Self::PartitionsTime => ("≤ 1000 ms", |firn, _| firn <= 1000.0),
            Self::PartitionsMemory => ("≤ 100 MiB", |firn, _| firn <= 100.0),
            _ => return None,
        })
    }
}

/// All figures of all repetitions.
#[derive(Debug, Default)]
pub(crate) struct Report(BTreeMap<Row, BTreeMap<Kind, Sample>>);

impl Report {
    pub(crate) fn add(&mut self, row: Row, kind: Kind, value: f64) {
        eprintln!("   {}: {value:.2}", row.title());
        self.0
            .entry(row)
            .or_default()
            .entry(kind)
            .or_default()
            .add(value);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| Figure: median (range) | Firn | Kafka | Firn / Kafka | Goal | Reached |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for (row, samples) in &self.0 {
            let none = Sample::default();
            let firn = samples.get(&Kind::Firn).unwrap_or(&none);
            let kafka = samples.get(&Kind::Kafka).unwrap_or(&none);
            let ratio =
                (!firn.is_empty() && !kafka.is_empty()).then(|| firn.median() / kafka.median());
            let ratio_text = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
            let (goal, reached) = match row.goal() {
                Some((goal, holds)) if !firn.is_empty() => {
                    let holds = holds(firn.median(), ratio.unwrap_or(f64::INFINITY));
                    (goal, if holds { "yes" } else { "no" })
                }
                _ => ("", ""),
            };
            let title = row.title();
            writeln!(
                f,
                "| {title} | {firn} | {kafka} | {ratio_text} | {goal} | {reached} |"
            )?;
        }
        Ok(())
    }
}
