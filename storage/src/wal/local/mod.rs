//! The local WAL: entries on the broker's own disk, fsynced in groups, for `acks=1`
//! (FORMAT.md §7). Knows nothing of the bucket: it is told what is durable.
//!
//! - `directory.rs`: lock, identity, files
//! - `format.rs`: the bytes; pure
//! - `log.rs`: the writer of segments
//! - `thread.rs`: group commit
//! - `recovery.rs`, `missing.rs`: what is found at start, and what of it the bucket lacks

mod directory;
mod error;
pub(crate) mod format;
mod log;
mod missing;
mod recovery;
mod thread;

use std::fs::File;
use std::path::PathBuf;

use firn_proto::env::Entropy;
use firn_proto::ids::{BrokerId, ClusterId, DiskId, StreamId};
use firn_proto::limits;

pub use directory::ForeignDirectory;
pub use error::LocalWalError;
pub use missing::{EpochEnd, LostRange, Missing, MissingEpoch};
pub use recovery::{DamagedSegment, LocalRow, Recovered};
pub use thread::LocalAck;

pub(crate) use recovery::SegmentView;
pub(crate) use thread::{LocalEvents, LocalQueue};

use directory::{Device, Directory};
use log::{LocalLog, is_full};

/// Where the local WAL lies and how.
#[derive(Clone, Debug)]
pub struct LocalWalOptions {
    /// The directory, for one process at a time.
    pub dir: PathBuf,
    /// Whose it is. That of another broker is refused, unless this one is known by its disk.
    pub broker: Option<BrokerId>,
    /// What to do with a directory of another cluster.
    pub foreign: ForeignDirectory,
    /// Size of a segment in bytes.
    pub segment_bytes: u64,
}

impl LocalWalOptions {
    /// Segments of the usual size in `dir`, which is `broker`'s if that is said; a directory of another cluster is
    /// refused.
    pub fn new(dir: impl Into<PathBuf>, broker: Option<BrokerId>) -> Self {
        Self {
            dir: dir.into(),
            broker,
            foreign: ForeignDirectory::default(),
            segment_bytes: limits::LOCAL_SEGMENT_BYTES,
        }
    }
}

/// A local WAL directory that this process has locked, ready to be written to.
#[derive(Debug)]
pub struct LocalWal {
    directory: Directory,
    segment_bytes: u64,
    next_number: u64,
    next_sequence: u64,
    /// The first segment, unless the disk has no room for it now.
    first: Option<FirstSegment>,
}

/// An empty segment that was reserved for a writer. Without one it is removed again: starts that
/// fail one after the other must not fill the disk.
#[derive(Debug)]
struct FirstSegment {
    directory: Directory,
    number: u64,
    file: Option<File>,
}

impl Drop for FirstSegment {
    fn drop(&mut self) {
        if self.file.is_some() {
            // what stays behind is found and removed by the next start that succeeds
            let _ = self.directory.remove(self.number);
        }
    }
}

impl LocalWal {
    /// Takes the directory, reads what is in it, and reserves the first segment: a disk that cannot
    /// hold one is met by the start and not by the first producer. One that has no room now may
    /// have it later. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`LocalWalError::Locked`] while another process has it, [`LocalWalError::ForeignCluster`]
    /// for a directory of another cluster, [`LocalWalError::ForeignBroker`] for that of another
    /// broker, [`LocalWalError::Io`] for what the disk answers.
    pub fn open(
        options: &LocalWalOptions,
        cluster: ClusterId,
        entropy: &Entropy,
    ) -> Result<(Self, Recovered), LocalWalError> {
        let (mut local, recovered) = Self::take(options, cluster, entropy)?;
        let (number, dir) = (local.next_number, options.dir.display());
        match local.directory.create(number, local.segment_bytes) {
            Ok(file) => {
                local.first = Some(FirstSegment {
                    directory: local.directory.clone(),
                    number,
                    file: Some(file),
                });
            }
            Err(error) if is_full(&error) => {
                tracing::warn!(%dir, %error, "no room for the local wal: acks=1 waits for the bucket until there is");
            }
            Err(error) => {
                let path = local.directory.segment_path(number);
                return Err(LocalWalError::io("reserve the segment", &path)(error));
            }
        }
        Ok((local, recovered))
    }

    /// Takes the directory and reads what is in it.
    fn take(
        options: &LocalWalOptions,
        cluster: ClusterId,
        entropy: &Entropy,
    ) -> Result<(Self, Recovered), LocalWalError> {
        let whose = (cluster, options.broker);
        let directory = Directory::open(&options.dir, whose, options.foreign, entropy)?;
        let recovered = Recovered::scan(directory.clone())?;
        let local = Self {
            directory,
            segment_bytes: options.segment_bytes,
            next_number: recovered.next_number(),
            next_sequence: recovered.next_sequence(),
            first: None,
        };
        Ok((local, recovered))
    }

    /// The id of the directory, by which the coordinator knows the disk again.
    pub fn disk(&self) -> DiskId {
        self.directory.disk()
    }

    /// The sequence of the first entry to be written.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    pub(crate) fn into_log(self, stream: StreamId) -> LocalLog<Directory> {
        let identity = (self.directory.cluster(), self.directory.disk());
        let mut log = LocalLog::new(
            self.directory,
            identity,
            stream,
            self.segment_bytes,
            self.next_number,
        );
        if let Some(file) = self.first.and_then(|mut first| first.file.take()) {
            log.add_reserved(file);
        }
        log
    }
}

#[cfg(test)]
pub(crate) mod tests;
