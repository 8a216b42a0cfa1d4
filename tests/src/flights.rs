//! The real input: flights, one JSON object a line, keyed by the airport they leave from.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

/// One flight.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flight {
    /// The airport of departure.
    pub origin: String,
    /// The whole line, without its end.
    pub line: String,
}

/// Every flight of the file that `CI_FIRN_FLIGHTS` names, else of the slice in the repository.
pub fn load() -> Vec<Flight> {
    let path = std::env::var_os("CI_FIRN_FLIGHTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("data/flights-3k.jsonl.gz"),
        PathBuf::from,
    );
    let file = File::open(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    let lines = BufReader::new(GzDecoder::new(file)).lines();
    lines
        .map(|line| {
            let line = line.expect("the file holds lines of text");
            Flight {
                origin: origin(&line).to_owned(),
                line,
            }
        })
        .collect()
}

/// The airport of departure in a line.
///
/// # Panics
/// When the line is no flight.
pub fn origin(line: &str) -> &str {
    line.split_once("\"origin\":\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .unwrap_or_else(|| panic!("not a flight: {line}"))
        .0
}

/// The partition this harness gives an airport: any fixed rule will do.
pub fn partition(origin: &str, partitions: i32) -> i32 {
    let sum: i32 = origin.bytes().map(i32::from).sum();
    sum % partitions
}
