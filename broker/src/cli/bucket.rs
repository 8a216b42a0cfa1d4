//! `firn bucket usage`: what lies in a bucket, by kind and by topic. Reads the bucket alone; no
//! broker needs to run.

use std::fmt::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use firn_proto::env::{Entropy, SystemClock};
use firn_storage::bucket::{Bucket, BucketError, BucketOptions};
use firn_storage::contents::{BucketContents, Stored, contents};
use serde::Serialize;

use crate::cli::runtime;
use crate::error::FirnError;

/// What of a bucket is wanted.
#[derive(Debug, Args)]
pub(super) struct BucketArgs {
    #[command(subcommand)]
    command: BucketCommand,
}

#[derive(Debug, Subcommand)]
enum BucketCommand {
    /// Count objects and bytes, by kind and by topic
    ///
    /// The kinds are those of storage/FORMAT.md: slots of the WAL and their checkpoints, segments and
    /// the pages of their map, journal and snapshots of the coordinator.
    Usage(UsageArgs),
}

#[derive(Debug, Args)]
struct UsageArgs {
    /// The bucket: file://DIR or s3://BUCKET/PREFIX?endpoint=&region=&path_style=&profile=
    #[arg(long, value_name = "URL", env = "FIRN_BUCKET")]
    bucket: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Lists the bucket, and prints what it holds.
pub(super) fn run(args: &BucketArgs) -> Result<ExitCode, FirnError> {
    let BucketCommand::Usage(args) = &args.command;
    let what = format!("cannot look through {}", args.bucket);
    let found = runtime()?.block_on(look(&args.bucket));
    let found = found.map_err(|reason| FirnError::failed(&what, reason))?;
    let usage = Usage::of(&found);
    match args.json {
        true => {
            let json = serde_json::to_string(&usage).map_err(|e| FirnError::failed(&what, e))?;
            show(&format_args!("{json}\n"));
        }
        false => show(&usage),
    }
    if !found.has_cluster {
        warn(&format_args!(
            "there is no cluster in {}: check the bucket and the prefix\n",
            args.bucket
        ));
    }
    Ok(ExitCode::SUCCESS)
}

async fn look(url: &str) -> Result<BucketContents, String> {
    let clock = Arc::new(SystemClock::new());
    let entropy = Arc::new(Entropy::from_os());
    let options = BucketOptions::of_process(false);
    let bucket = Bucket::connect(url, &options, clock, entropy).await;
    let bucket = bucket.map_err(reason)?;
    contents(&bucket).await.map_err(reason)
}

/// Nothing is created here.
fn reason(error: BucketError) -> String {
    match error {
        BucketError::NoSuchBucket { what } => format!("{what} does not exist: check its name"),
        error => error.to_string(),
    }
}

/// Objects and their bytes.
#[derive(Clone, Copy, Default, Serialize)]
struct Count {
    objects: u64,
    bytes: u64,
}

impl Count {
    fn of(stored: Stored) -> Self {
        Self {
            objects: stored.objects,
            bytes: stored.bytes,
        }
    }

    fn add(&mut self, other: Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}

#[derive(Serialize)]
struct Usage {
    wal: Count,
    checkpoints: Count,
    segments: Count,
    map_pages: Count,
    journal: Count,
    snapshots: Count,
    other: Count,
    unknown: Count,
    total: Count,
    topics: Vec<TopicUsage>,
}

#[derive(Serialize)]
struct TopicUsage {
    name: Option<String>,
    id: String,
    segments: Count,
    map_pages: Count,
    other: Count,
}

impl Usage {
    fn of(found: &BucketContents) -> Self {
        let mut usage = Self {
            wal: Count::of(found.wal),
            checkpoints: Count::of(found.checkpoints),
            segments: Count::default(),
            map_pages: Count::default(),
            journal: Count::of(found.journal),
            snapshots: Count::of(found.snapshots),
            other: Count::of(found.other_meta),
            unknown: Count::of(found.unknown),
            total: Count::default(),
            topics: Vec::new(),
        };
        for (id, topic) in &found.topics {
            let topic = TopicUsage {
                name: topic.topic_name.clone(),
                id: format!("{:032x}", u128::from_be_bytes(id.0)),
                segments: Count::of(topic.segments),
                map_pages: Count::of(topic.map_pages),
                other: Count::of(topic.other_files),
            };
            usage.segments.add(topic.segments);
            usage.map_pages.add(topic.map_pages);
            usage.other.add(topic.other);
            usage.topics.push(topic);
        }
        usage
            .topics
            .sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        for (_, count) in usage.kinds() {
            usage.total.add(count);
        }
        usage
    }

    fn kinds(&self) -> [(&'static str, Count); 8] {
        [
            ("wal", self.wal),
            ("checkpoints", self.checkpoints),
            ("segments", self.segments),
            ("map pages", self.map_pages),
            ("journal", self.journal),
            ("snapshots", self.snapshots),
            ("other", self.other),
            ("not firn's", self.unknown),
        ]
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = vec![("KIND".to_owned(), "OBJECTS".to_owned(), "BYTES".to_owned())];
        let row = |name: &str, count: Count| {
            (
                name.to_owned(),
                count.objects.to_string(),
                count.bytes.to_string(),
            )
        };
        rows.extend(self.kinds().map(|(name, count)| row(name, count)));
        rows.push(row("total", self.total));
        if !self.topics.is_empty() {
            let blank = || (String::new(), String::new(), String::new());
            rows.push(blank());
            rows.push(("TOPIC".to_owned(), "OBJECTS".to_owned(), "BYTES".to_owned()));
        }
        for topic in &self.topics {
            let mut count = topic.segments;
            count.add(topic.map_pages);
            count.add(topic.other);
            let mut name = topic.name.clone().unwrap_or_default();
            write!(name, " {}", topic.id)?;
            rows.push(row(name.trim_start(), count));
        }
        let width = |column: fn(&(String, String, String)) -> usize| {
            rows.iter().map(column).max().unwrap_or(0)
        };
        let (names, objects, bytes) = (
            width(|row| row.0.chars().count()),
            width(|row| row.1.len()),
            width(|row| row.2.len()),
        );
        for (name, count, size) in &rows {
            let line = format!("{name:names$}  {count:>objects$}  {size:>bytes$}");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[expect(clippy::print_stdout, reason = "the usage is what was asked for")]
fn show(text: &dyn fmt::Display) {
    print!("{text}");
}

#[expect(
    clippy::print_stderr,
    reason = "the table or JSON is all of the output"
)]
fn warn(text: &dyn fmt::Display) {
    eprint!("firn: {text}");
}

#[cfg(test)]
mod tests {
    use firn_proto::ids::TopicId;
    use firn_storage::contents::TopicContents;

    use super::*;

    fn stored(objects: u64, bytes: u64) -> Stored {
        Stored { objects, bytes }
    }

    fn contents() -> BucketContents {
        let topic = TopicContents {
            topic_name: Some("orders".to_owned()),
            segments: stored(2, 2000),
            map_pages: stored(1, 100),
            ..TopicContents::default()
        };
        BucketContents {
            topics: [(TopicId([0xab; 16]), topic)].into(),
            wal: stored(10, 12_345),
            unknown: stored(1, 7),
            ..BucketContents::default()
        }
    }

    #[test]
    fn usage_is_a_table_of_kinds_and_topics() {
        let id = "ab".repeat(16);
        let expected = [
            "KIND                                     OBJECTS  BYTES",
            "wal                                           10  12345",
            "checkpoints                                    0      0",
            "segments                                       2   2000",
            "map pages                                      1    100",
            "journal                                        0      0",
            "snapshots                                      0      0",
            "other                                          0      0",
            "not firn's                                     1      7",
            "total                                         14  14452",
            "",
            "TOPIC                                    OBJECTS  BYTES",
            &format!("orders {id}        3   2100"),
            "",
        ];
        assert_eq!(Usage::of(&contents()).to_string(), expected.join("\n"));
    }

    #[test]
    fn usage_is_json_for_programs() {
        let json = serde_json::to_value(Usage::of(&contents())).unwrap();
        assert_eq!(json["wal"]["bytes"], 12_345);
        assert_eq!(json["topics"][0]["name"], "orders");
        assert_eq!(json["topics"][0]["segments"]["objects"], 2);
        assert_eq!(json["total"]["objects"], 14);
    }
}
