//! What an object of the bucket or a file of the local WAL holds, as text (`firn inspect`).
//!
//! Pure: bytes in, text out. The kind is told by what the bytes begin with, so that a copy under
//! any name can be looked at. Damage is described, not hidden: whatever can be read is shown, and
//! every fault is listed. What the coordinator keeps is read by [`OfCoordinator`].
//!
//! - `slot.rs`: slots of both kinds of stream
//! - `rows.rs`: checkpoints
//! - `local.rs`: files of the local WAL
//! - `segment.rs`: segments of topics
//! - `map_page.rs`: pages of the segment map
//!
//! May not touch: how the formats are read (`stream/`, `journal/record.rs`, `state/`, `wal/`,
//! `segment/`).

mod local;
mod map_page;
mod rows;
mod segment;
mod slot;

use std::fmt::{self, Display, Write as _};

use bytes::Bytes;

use crate::bucket::PROBE_PASSED;
use crate::checkpoint::CHECKPOINT_MAGIC;
use crate::journal::record::{
    self, CLUSTER_MAGIC, EPOCH_MAGIC, EpochClaim, PROCESS_MAGIC, ProcessRecord, SNAPSHOT_MAGIC,
    Snapshot,
};
use crate::layout::Place;
use crate::segment::MAP_PAGE_MAGIC;
use crate::segment::footer::PARQUET_MAGIC;
use crate::stream::slot::MAGIC as SLOT_MAGIC;
use crate::wal::local::format::{IDENTITY_MAGIC, SEGMENT_MAGIC};

/// Rows of one kind that are listed; the others are counted.
const ROWS_MAX: usize = 1000;
/// Bytes of a body that are shown.
const PREVIEW_BYTES: usize = 64;

/// What some bytes hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// What it is, in a few words.
    pub kind: &'static str,
    /// What it holds, line by line.
    pub text: String,
    /// What is wrong with it; empty if it is whole.
    pub faults: Vec<String>,
}

/// Reads what storage carries for the coordinator without knowing it: lines, or what is wrong.
#[derive(Clone, Copy, Debug)]
pub struct OfCoordinator {
    /// The commands of a journal entry.
    pub entry: fn(&[u8]) -> Result<Vec<String>, String>,
    /// The state that a snapshot holds.
    pub snapshot: fn(&[u8]) -> Result<Vec<String>, String>,
}

/// Looks at the bytes of an object or a file; `None` if they are nothing that Firn writes.
pub fn inspect(bytes: &Bytes, of_coordinator: OfCoordinator) -> Option<Inspection> {
    if bytes.starts_with(&CHECKPOINT_MAGIC) {
        return Some(rows::inspect(bytes));
    }
    if bytes.starts_with(&MAP_PAGE_MAGIC) {
        return Some(map_page::inspect(bytes));
    }
    if bytes.starts_with(&PARQUET_MAGIC) {
        return Some(segment::inspect(bytes));
    }
    Some(match bytes.first_chunk() {
        Some(&SLOT_MAGIC) => slot::inspect(bytes, of_coordinator),
        Some(&CLUSTER_MAGIC) => inspect_cluster(bytes),
        Some(&EPOCH_MAGIC) => inspect_claim(bytes),
        Some(&PROCESS_MAGIC) => inspect_process(bytes),
        Some(&SNAPSHOT_MAGIC) => inspect_snapshot(bytes, of_coordinator),
        Some(&SEGMENT_MAGIC) => local::inspect(bytes),
        Some(&IDENTITY_MAGIC) => local::inspect_identity(bytes),
        _ if bytes.starts_with(PROBE_PASSED.as_bytes()) => text("marker of the probe", bytes),
        _ if is_scratch(bytes) => text("scratch object of the probe", bytes),
        _ => return local::inspect_without_magic(bytes),
    })
}

impl Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.kind)?;
        f.write_str(&self.text)?;
        self.faults
            .iter()
            .try_for_each(|fault| writeln!(f, "CORRUPT: {fault}"))
    }
}

/// An inspection in the making.
struct Page(Inspection);

impl Page {
    fn new(kind: &'static str) -> Self {
        Self(Inspection {
            kind,
            text: String::new(),
            faults: Vec::new(),
        })
    }

    /// One named value.
    fn field(&mut self, name: &str, value: impl Display) {
        self.line(format_args!("  {name:<16} {value}"));
    }

    fn line(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0.text, "{text}");
    }

    fn fault(&mut self, fault: impl Display) {
        self.0.faults.push(fault.to_string());
    }

    /// Lists rows, or says how many were left out.
    fn rows<T>(&mut self, rows: &[T], show: impl Fn(&T) -> String) {
        for row in rows.iter().take(ROWS_MAX) {
            self.line(format_args!("    {}", show(row)));
        }
        if rows.len() > ROWS_MAX {
            self.line(format_args!("    ... and {} more", rows.len() - ROWS_MAX));
        }
    }

    /// Lists what the coordinator says, or why it cannot.
    fn lines(&mut self, what: &str, lines: Result<Vec<String>, String>) {
        match lines {
            Ok(lines) => {
                self.field(what, lines.len());
                self.rows(&lines, Clone::clone);
            }
            Err(fault) => self.fault(fault),
        }
    }

    fn finish(self) -> Inspection {
        self.0
    }
}

fn inspect_cluster(bytes: &Bytes) -> Inspection {
    let mut page = Page::new("cluster id");
    match record::decode_cluster(bytes) {
        Ok(cluster) => page.field("cluster", cluster),
        Err(fault) => page.fault(fault),
    }
    page.finish()
}

fn inspect_claim(bytes: &Bytes) -> Inspection {
    let mut page = Page::new("claim to a coordinator epoch");
    match EpochClaim::decode(bytes) {
        Ok(claim) => {
            page.field("cluster", claim.cluster);
            page.field("epoch", claim.epoch);
            page.field("nonce", claim.nonce);
            page.field("identity", preview(&claim.identity));
        }
        Err(fault) => page.fault(fault),
    }
    page.finish()
}

fn inspect_process(bytes: &Bytes) -> Inspection {
    let mut page = Page::new("what a process says of itself");
    match ProcessRecord::decode(bytes) {
        Ok(process) => {
            page.field("cluster", process.cluster);
            page.field("fingerprint", process.fingerprint);
            page.field("card", preview(&process.card));
        }
        Err(fault) => page.fault(fault),
    }
    page.finish()
}

fn inspect_snapshot(bytes: &Bytes, of_coordinator: OfCoordinator) -> Inspection {
    let mut page = Page::new("snapshot of the coordinator's state");
    match Snapshot::decode(bytes) {
        Ok(snapshot) => {
            page.field("cluster", snapshot.cluster);
            page.field("covers", format_args!("journal up to {}", snapshot.covers));
            match snapshot.floor {
                Some(floor) => page.field("floor", format_args!("slots up to {floor} may be gone")),
                None => page.field("floor", "no slot is gone"),
            }
            page.field("state", format_args!("{} bytes", snapshot.body.len()));
            page.lines("rows", (of_coordinator.snapshot)(&snapshot.body));
        }
        Err(fault) => page.fault(fault),
    }
    page.finish()
}

/// Whether some bytes begin with the key of a scratch object, as these do.
fn is_scratch(bytes: &[u8]) -> bool {
    let len = Place::Scratch(0).key().as_str().len();
    let name = bytes.get(..len).and_then(|name| str::from_utf8(name).ok());
    matches!(name.and_then(Place::parse), Some(Place::Scratch(_)))
}

/// A text for people.
fn text(kind: &'static str, bytes: &[u8]) -> Inspection {
    let mut page = Page::new(kind);
    page.field("says", preview(bytes));
    page.finish()
}

/// The length of `bytes`, and how they begin.
fn preview(bytes: &[u8]) -> String {
    let mut text = format!("{} bytes", bytes.len());
    let head = &bytes[..bytes.len().min(PREVIEW_BYTES)];
    if head.is_empty() {
        return text;
    }
    let more = if bytes.len() > head.len() { "..." } else { "" };
    let _ = write!(text, ": \"{}\"{more}", head.escape_ascii());
    text
}

#[cfg(test)]
mod tests;
