//! `firn archive status` and `firn archive flush`: ask the HTTP door of a broker that runs.

use std::fmt;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::archive::{ArchiveStatus, PartitionStatus};
use crate::cli::http_client::{BrokerArgs, HttpAnswer};
use crate::cli::table::Table;
use crate::cli::{show, tell};
use crate::error::FirnError;
use crate::http::FlushAnswer;

/// What of the archive is wanted.
#[derive(Debug, Args)]
pub(super) struct ArchiveArgs {
    #[command(subcommand)]
    command: ArchiveCommand,
}

#[derive(Debug, Subcommand)]
enum ArchiveCommand {
    /// Show how far each partition is archived
    ///
    /// LOG START and HIGH WATERMARK: the first offset, and the one behind the last. ARCHIVED TO:
    /// offsets below are in segments. RUNS and BYTES: the stretches of the partition in segments, and
    /// their row groups. PAGES: objects of the segment map that name the older runs. UNARCHIVED: bytes
    /// in the WAL that are in no segment; OLDEST: how long the first of them has waited.
    Status(AskArgs),
    /// Archive what has been produced so far now, and wait until it is in segments
    Flush(AskArgs),
}

#[derive(Debug, Args)]
struct AskArgs {
    /// Only this topic
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    #[command(flatten)]
    at: BrokerArgs,
}

/// Asks, and prints the answer.
pub(super) fn run(args: &ArchiveArgs) -> Result<ExitCode, FirnError> {
    match &args.command {
        ArchiveCommand::Status(args) => status(args),
        ArchiveCommand::Flush(args) => flush(args),
    }
}

fn status(args: &AskArgs) -> Result<ExitCode, FirnError> {
    let answer = args.ask("GET", "/archive", || {})?;
    let status: ArchiveStatus = args.at.parse(&answer)?;
    match args.at.json {
        true => show(&answer.body),
        false => show(&StatusTable(&status)),
    }
    Ok(ExitCode::SUCCESS)
}

fn flush(args: &AskArgs) -> Result<ExitCode, FirnError> {
    // a connection has an end, whatever is going on in it: then it is asked for once more
    let mut seconds = 0;
    let mut on_second = || {
        seconds += 1;
        if is_told(seconds) {
            args.tell_progress(seconds);
        }
    };
    let mut answer = args.ask("POST", "/archive/flush", &mut on_second)?;
    for _ in 1..FLUSH_ASKS_MAX {
        if !answer.body.trim().is_empty() {
            break;
        }
        answer = args.ask("POST", "/archive/flush", &mut on_second)?;
    }
    let flushed: FlushAnswer = args.at.parse(&answer)?;
    if args.at.json {
        show(&answer.body.trim_start());
    }
    match flushed {
        FlushAnswer::Error(reason) => Err(FirnError::failed("not everything was archived", reason)),
        FlushAnswer::Segments(count) => {
            if !args.at.json {
                let plural = if count == 1 { "" } else { "s" };
                show(&format_args!("archived: {count} new segment{plural}\n"));
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl AskArgs {
    fn ask(
        &self,
        method: &str,
        path: &str,
        on_sign: impl FnMut(),
    ) -> Result<HttpAnswer, FirnError> {
        match &self.topic {
            Some(topic) => {
                let path = format!("{path}?topic={topic}");
                self.at.ask(method, &path, on_sign)
            }
            None => self.at.ask(method, path, on_sign),
        }
    }

    /// Says on stderr that a flush is at work, and how much is left for it or came meanwhile.
    fn tell_progress(&self, seconds: u32) {
        let status = self.ask("GET", "/archive", || {});
        match status.and_then(|answer| self.at.parse(&answer)) {
            Ok(status) => tell(&format_args!("{}", Progress(seconds, &status))),
            Err(error) => tell(&format_args!("still archiving after {seconds} s: {error}")),
        }
    }
}

/// Whether whoever waits is told of this second: ever more seldom, and each minute in the end.
fn is_told(second: u32) -> bool {
    let often = second >= 5 && second.is_multiple_of(5) && (second / 5).is_power_of_two();
    (second < 60 && often) || (second > 0 && second.is_multiple_of(60))
}

/// How far a flush is after so many seconds.
struct Progress<'a>(u32, &'a ArchiveStatus);

impl fmt::Display for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(seconds, status) = self;
        let partitions = status.topics.iter().flat_map(|topic| &topic.partitions);
        let left: u64 = partitions.filter_map(|p| p.unarchived_bytes).sum();
        write!(
            f,
            "still archiving after {seconds} s, {} MiB are in no segment yet",
            left.div_ceil(1024 * 1024)
        )
    }
}

/// The status, a line for each partition.
struct StatusTable<'a>(&'a ArchiveStatus);

const HEADINGS: [&str; 10] = [
    "TOPIC",
    "PARTITION",
    "LOG START",
    "ARCHIVED TO",
    "HIGH WATERMARK",
    "RUNS",
    "BYTES",
    "PAGES",
    "UNARCHIVED",
    "OLDEST",
];

impl fmt::Display for StatusTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(HEADINGS);
        for topic in &self.0.topics {
            for partition in &topic.partitions {
                table.add(row(&topic.topic, partition));
            }
        }
        write!(f, "{table}")?;
        match self.0.paused {
            true => writeln!(f, "paused: the bucket refuses; see the log of the broker"),
            false => Ok(()),
        }
    }
}

fn row(topic: &str, partition: &PartitionStatus) -> [String; HEADINGS.len()] {
    let known = |number: Option<String>| number.unwrap_or_else(|| "-".to_owned());
    [
        topic.to_owned(),
        partition.partition.to_string(),
        partition.log_start.to_string(),
        partition.archived_to.to_string(),
        known(partition.high_watermark.map(|n| n.to_string())),
        partition.runs.to_string(),
        partition.bytes.to_string(),
        partition.pages.to_string(),
        known(partition.unarchived_bytes.map(|n| n.to_string())),
        known(
            partition
                .oldest_unarchived_ms
                .filter(|_| partition.unarchived_bytes != Some(0))
                .map(|ms| format!("{} s", ms / 1000)),
        ),
    ]
}

/// A connection lasts up to a minute: an hour.
const FLUSH_ASKS_MAX: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::TopicStatus;

    #[test]
    fn the_table_is_aligned_whatever_the_numbers() {
        let partition = |partition, archived_to| PartitionStatus {
            partition,
            log_start: 0,
            archived_to,
            high_watermark: (partition == 0).then_some(12_345_678_901_234_567),
            runs: 3,
            bytes: 1 << 40,
            pages: 0,
            unarchived_bytes: (partition == 0).then_some(9),
            oldest_unarchived_ms: (partition == 0).then_some(61_999),
        };
        let status = ArchiveStatus {
            paused: true,
            topics: vec![TopicStatus {
                topic: "a-topic-with-a-long-name".to_owned(),
                id: String::new(),
                partitions: vec![partition(0, 5), partition(10, 1 << 50)],
            }],
        };
        let table = StatusTable(&status).to_string();
        let lines: Vec<&str> = table.lines().collect();
        let [headings, first, second, paused] = lines[..] else {
            panic!("{table}");
        };
        assert_eq!(
            (first.len(), second.len()),
            (headings.len(), headings.len())
        );
        assert!(first.ends_with("    61 s"), "{table}");
        assert!(second.ends_with("       -"), "{table}");
        assert!(paused.starts_with("paused"), "{table}");
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(
            serde_json::from_str::<ArchiveStatus>(&json).unwrap(),
            status
        );
    }

    #[test]
    fn progress_is_told_ever_more_seldom() {
        let told: Vec<u32> = (0..200).filter(|second| is_told(*second)).collect();
        assert_eq!(told, [5, 10, 20, 40, 60, 120, 180]);
    }
}
