//! Counts requests, bytes, errors and time at the bucket by purpose and operation: what `/metrics`
//! shows and what the bill is made of.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::error::BucketError;

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $label:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The label in metrics and messages.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.label())
            }
        }
    };
}

labels! {
    /// What a request is for.
    Purpose {
        /// Slots of a broker's WAL stream.
        Wal = "wal",
        /// Slots of the coordinator's journal.
        Journal = "journal",
        /// Checkpoint objects.
        Checkpoint = "checkpoint",
        /// Snapshots of the coordinator's state.
        Snapshot = "snapshot",
        /// Reading indexes to learn where a partition ended.
        Fold = "fold",
        /// Serving consumers from WAL slots.
        Read = "read",
        /// Serving consumers from segments.
        ReadSegment = "read_segment",
        /// Writing segments, and reading them back before they count.
        Archive = "archive",
        /// Pages of the segment map.
        Map = "map",
        /// The start-up probe.
        Probe = "probe",
        /// Cluster id, epochs, brokers.
        Meta = "meta",
        /// Deleting what nothing needs any more.
        Collect = "collect",
    }
}

labels! {
    /// What a request does.
    Operation {
        /// PUT with If-None-Match.
        Create = "create",
        /// GET, whole or a range.
        Get = "get",
        /// HEAD.
        Head = "head",
        /// LIST, one page or many.
        List = "list",
        /// DELETE of one or many.
        Delete = "delete",
    }
}

const ROWS: usize = Purpose::ALL.len() * Operation::ALL.len();

#[derive(Debug, Default)]
struct Row {
    requests: AtomicU64,
    errors: AtomicU64,
    refused: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    micros: AtomicU64,
}

/// The counters of one bucket.
#[derive(Debug)]
pub(super) struct Counters {
    rows: [Row; ROWS],
    /// The last answer was that the clock of this machine is off.
    clock_is_off: AtomicBool,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            rows: std::array::from_fn(|_| Row::default()),
            clock_is_off: AtomicBool::new(false),
        }
    }

    /// Counts one request that took `took`.
    pub(super) fn count(&self, label: (Purpose, Operation), ok: bool, took: Duration) {
        let row = self.row(label);
        row.requests.fetch_add(1, Ordering::Relaxed);
        row.errors.fetch_add(u64::from(!ok), Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        row.micros.fetch_add(micros, Ordering::Relaxed);
        if ok {
            self.clock_is_off.store(false, Ordering::Relaxed);
        }
    }

    /// Notes what the store refuses this process for.
    pub(super) fn refused_for(&self, error: &BucketError) {
        if matches!(error, BucketError::ClockOff { .. }) {
            self.clock_is_off.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the store takes no request because of the clock of this machine.
    pub(super) fn clock_is_off(&self) -> bool {
        self.clock_is_off.load(Ordering::Relaxed)
    }

    /// Counts a create that the store answered with a refusal.
    pub(super) fn refused(&self, label: (Purpose, Operation)) {
        self.row(label).refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts bytes that the store took.
    pub(super) fn sent(&self, label: (Purpose, Operation), bytes: u64) {
        self.row(label).sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that the store gave.
    pub(super) fn received(&self, label: (Purpose, Operation), bytes: u64) {
        self.row(label).received.fetch_add(bytes, Ordering::Relaxed);
    }

    fn row(&self, (purpose, operation): (Purpose, Operation)) -> &Row {
        &self.rows[purpose as usize * Operation::ALL.len() + operation as usize]
    }

    pub(super) fn snapshot(&self) -> BucketUsage {
        let labels = Purpose::ALL
            .iter()
            .flat_map(|&p| Operation::ALL.iter().map(move |&o| (p, o)));
        let rows = labels
            .map(|(purpose, operation)| {
                let row = self.row((purpose, operation));
                UsageRow {
                    purpose,
                    operation,
                    requests: row.requests.load(Ordering::Relaxed),
                    errors: row.errors.load(Ordering::Relaxed),
                    refused: row.refused.load(Ordering::Relaxed),
                    bytes_sent: row.sent.load(Ordering::Relaxed),
                    bytes_received: row.received.load(Ordering::Relaxed),
                    busy: Duration::from_micros(row.micros.load(Ordering::Relaxed)),
                }
            })
            .filter(|row| row.requests > 0)
            .collect();
        BucketUsage { rows }
    }
}

/// What has been asked of the bucket since the process started.
#[derive(Clone, Debug, Default)]
pub struct BucketUsage {
    /// One row per purpose and operation that occurred.
    pub rows: Vec<UsageRow>,
}

/// The requests of one purpose and operation.
#[derive(Clone, Copy, Debug)]
pub struct UsageRow {
    /// What for.
    pub purpose: Purpose,
    /// What.
    pub operation: Operation,
    /// Requests sent, every retry counted.
    pub requests: u64,
    /// Those of them that brought no usable answer.
    pub errors: u64,
    /// Creates among those that the store answered, and did not take. The others were cut off.
    pub refused: u64,
    /// Bytes of bodies the store took.
    pub bytes_sent: u64,
    /// Bytes of bodies the store gave.
    pub bytes_received: u64,
    /// The sum of the time all of them took.
    pub busy: Duration,
}

impl BucketUsage {
    /// Requests of one purpose and operation.
    pub fn requests(&self, purpose: Purpose, operation: Operation) -> u64 {
        let row = self
            .rows
            .iter()
            .find(|r| (r.purpose, r.operation) == (purpose, operation));
        row.map_or(0, |row| row.requests)
    }
}
