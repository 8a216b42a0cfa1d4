//! `firn cluster force-move`: says what would be lost, asks, and gives it up.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, BufRead};
use std::process::ExitCode;

use clap::Args;

use crate::cli::http_client::BrokerArgs;
use crate::cli::table::Table;
use crate::cli::{show, tell};
use crate::error::FirnError;
use crate::http::{ForcedAnswer, ForcedStatus, WaitingAnswer, WaitingStatus};
use crate::recovery::chunks;

/// Which partitions are to go on without the disk that they wait for.
#[derive(Debug, Args)]
pub(super) struct ForceArgs {
    /// The partitions
    #[arg(value_name = "TOPIC:PARTITION", required_unless_present = "broker")]
    partitions: Vec<String>,
    /// All that wait for the disk of this broker
    #[arg(long, value_name = "N", conflicts_with = "partitions")]
    broker: Option<i32>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    at: BrokerArgs,
}

impl ForceArgs {
    pub(super) fn run(&self) -> Result<ExitCode, FirnError> {
        let waiting = self.look()?;
        let missing = self.not_waiting(&waiting);
        if !missing.is_empty() {
            let reason = format!(
                "{} does not wait for a disk, or its owner has crashed only just now; firn cluster \
                 info says what waits",
                missing.join(", ")
            );
            return Err(FirnError::failed(NOTHING_DONE, reason));
        }
        tell(&format_args!(
            "{}{}",
            WaitingTable(&waiting),
            Warning(&waiting)
        ));
        if !self.yes && !is_confirmed(&mut io::stdin().lock()) {
            return Err(FirnError::failed(
                NOTHING_DONE,
                "it was not answered with yes",
            ));
        }
        let mut all_go_on = true;
        for seen in chunks(waiting) {
            let forced = self.give_up(seen)?;
            all_go_on &= forced.iter().all(|forced| forced.goes_on.is_some());
        }
        match all_go_on {
            true => Ok(ExitCode::SUCCESS),
            false => Ok(ExitCode::FAILURE),
        }
    }

    /// Gives up what was seen, and nothing that waits otherwise by now; says what became of it.
    fn give_up(&self, seen: Vec<WaitingStatus>) -> Result<Vec<ForcedStatus>, FirnError> {
        let seen = serde_json::to_string(&WaitingAnswer::Partitions(seen))
            .map_err(|error| FirnError::failed(NOTHING_DONE, error))?;
        let answer = self.at.post("/cluster/force-move", &seen)?;
        let forced = match self.at.parse(&answer)? {
            ForcedAnswer::Partitions(forced) => forced,
            ForcedAnswer::Error(reason) => {
                return Err(FirnError::failed("giving the disk up; try again", reason));
            }
        };
        match self.at.json {
            true => show(&answer.body.trim_start()),
            false => forced.iter().for_each(|forced| show(&Outcome(forced))),
        }
        Ok(forced)
    }

    /// What waits of that which is named.
    fn look(&self) -> Result<Vec<WaitingStatus>, FirnError> {
        let query = match self.broker {
            Some(broker) => format!("broker={broker}"),
            None => format!("partitions={}", self.partitions.join(",")),
        };
        let path = format!("/cluster/waiting?{query}");
        let answer = self.at.ask("GET", &path, || {})?;
        match self.at.parse(&answer)? {
            WaitingAnswer::Partitions(waiting) => Ok(waiting),
            WaitingAnswer::Error(reason) => {
                Err(FirnError::failed("looking for what waits", reason))
            }
        }
    }

    /// What is named and does not wait.
    fn not_waiting(&self, waiting: &[WaitingStatus]) -> Vec<String> {
        let waits: BTreeSet<String> = waiting.iter().map(name).collect();
        match self.broker {
            Some(broker) if waiting.is_empty() => vec![format!("no partition of broker {broker}")],
            Some(_) => Vec::new(),
            None => {
                let named = self.partitions.iter();
                named
                    .filter(|name| !waits.contains(*name))
                    .cloned()
                    .collect()
            }
        }
    }
}

fn name(waiting: &WaitingStatus) -> String {
    format!("{}:{}", waiting.topic, waiting.partition)
}

/// Whether the next line says so.
fn is_confirmed(lines: &mut impl BufRead) -> bool {
    tell(&"type yes to give that up:");
    let mut line = String::new();
    lines.read_line(&mut line).is_ok() && line.trim() == "yes"
}

/// What waits, a line for each.
struct WaitingTable<'a>(&'a [WaitingStatus]);

const HEADINGS: [&str; 6] = [
    "PARTITION",
    "BROKER",
    "DISK",
    "EPOCH",
    "BUCKET ENDS AT",
    "NEWEST RECORD",
];

impl fmt::Display for WaitingTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let age = |s: Option<u64>| s.map_or_else(|| "-".to_owned(), |s| format!("{s} s ago"));
        let mut table = Table::new(HEADINGS);
        for waiting in self.0 {
            table.add([
                name(waiting),
                waiting.broker.to_string(),
                waiting.disk.clone(),
                waiting.epoch.to_string(),
                known(waiting.bucket_end),
                age(waiting.newest_age_s),
            ]);
        }
        write!(f, "{table}")
    }
}

/// What is lost.
struct Warning<'a>(&'a [WaitingStatus]);

impl fmt::Display for Warning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} partitions go on where the bucket ends. Every record from that offset on is lost, \
             acknowledged or not, and may have been read: how many there are, only the disk knows, at \
             most what was written since the newest record that the bucket has. If a broker can be \
             started with that disk, do that instead, and nothing is lost.",
            self.0.len()
        )
    }
}

/// What became of one partition.
struct Outcome<'a>(&'a ForcedStatus);

impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ForcedStatus {
            topic,
            partition,
            broker,
            disk,
            refused,
            goes_on,
        } = self.0;
        write!(f, "{topic}:{partition} ")?;
        match (refused, goes_on) {
            (Some(reason), _) => writeln!(f, "was not given up: {reason}"),
            (None, Some(goes_on)) => writeln!(
                f,
                "goes on at offset {start} at broker {owner}, epoch {epoch}; lost is what broker \
                 {broker} had acknowledged from offset {start} on and only disk {disk} holds",
                start = goes_on.start_offset,
                owner = goes_on.broker,
                epoch = goes_on.epoch,
            ),
            (None, None) => writeln!(
                f,
                "has given up disk {disk} of broker {broker}, and goes on as soon as a broker can \
                 own it; firn cluster info says whether one does"
            ),
        }
    }
}

const NOTHING_DONE: &str = "nothing was given up";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::http::GoesOnStatus;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        force: ForceArgs,
    }

    fn args(partitions: &[&str], broker: Option<i32>) -> ForceArgs {
        let broker = broker.map(|broker| format!("--broker={broker}"));
        let words = ["firn"].into_iter().chain(partitions.iter().copied());
        let words = words.map(str::to_owned).chain(broker);
        Line::try_parse_from(words).unwrap().force
    }

    fn waits(topic: &str, partition: i32) -> WaitingStatus {
        WaitingStatus {
            topic: topic.to_owned(),
            topic_id: "t0".to_owned(),
            partition,
            epoch: 3,
            broker: 1,
            disk: "0badcafe".to_owned(),
            bucket_end: Some(41),
            newest_age_s: Some(183),
        }
    }

    #[test]
    fn only_yes_is_yes() {
        for (said, is_yes) in [
            ("yes\n", true),
            (" yes \n", true),
            ("y\n", false),
            ("", false),
        ] {
            assert_eq!(is_confirmed(&mut said.as_bytes()), is_yes, "{said:?}");
        }
    }

    #[test]
    fn what_does_not_wait_is_named() {
        let waiting = [waits("a", 0)];
        assert!(args(&["a:0"], None).not_waiting(&waiting).is_empty());
        assert_eq!(args(&["a:0", "a:1"], None).not_waiting(&waiting), ["a:1"]);
        assert!(args(&[], Some(1)).not_waiting(&waiting).is_empty());
        let nothing = args(&[], Some(1)).not_waiting(&[]);
        assert_eq!(nothing, ["no partition of broker 1"]);
    }

    #[test]
    fn what_would_be_lost_and_what_was_is_said_by_offset() {
        let table = WaitingTable(&[waits("a", 0)]).to_string();
        let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row, ["a:0", "1", "0badcafe", "3", "41", "183", "s", "ago"]);
        let outcome = Outcome(&ForcedStatus {
            topic: "a".to_owned(),
            partition: 0,
            broker: 1,
            disk: "0badcafe".to_owned(),
            refused: None,
            goes_on: Some(GoesOnStatus {
                broker: 2,
                epoch: 4,
                start_offset: 41,
            }),
        })
        .to_string();
        assert!(
            outcome.starts_with("a:0 goes on at offset 41 at broker 2"),
            "{outcome}"
        );
        assert!(
            outcome.contains("acknowledged from offset 41 on"),
            "{outcome}"
        );
    }
}
