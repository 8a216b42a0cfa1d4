//! What can go wrong with the local WAL.

use std::io;
use std::path::{Path, PathBuf};

use firn_proto::ids::{BrokerId, ClusterId};

/// Why the local WAL cannot be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum LocalWalError {
    /// Another process has the directory.
    #[error("local wal directory {} is in use by another process (its lock is held{}): stop that process or give this one a directory of its own with --wal", dir.display(), holder_text(holder))]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// What the holder wrote into the lock file: its process id.
        holder: Option<String>,
    },
    /// The directory was written for another bucket.
    #[error("local wal directory {} belongs to cluster {found}, not to {expected}: give this broker a directory of its own with --wal, or remove this one if that cluster is gone", dir.display())]
    ForeignCluster {
        /// The directory.
        dir: PathBuf,
        /// The cluster named in it.
        found: ClusterId,
        /// The cluster of the bucket.
        expected: ClusterId,
    },
    /// The directory holds what another broker of this cluster has to put into the bucket.
    #[error("local wal directory {} belongs to broker {found}, and this is broker {expected}: start with broker.id={found}, or give this broker a directory of its own with --wal", dir.display())]
    ForeignBroker {
        /// The directory.
        dir: PathBuf,
        /// The broker named in it.
        found: BrokerId,
        /// This one.
        expected: BrokerId,
    },
    /// There are segments, but the file that says whose they are is missing or damaged.
    #[error("local wal directory {} holds segments but its identity file is {what}: nothing in it was changed; move it away to keep it for a look, and start with an empty one", dir.display())]
    UnknownIdentity {
        /// The directory.
        dir: PathBuf,
        /// `missing` or `damaged`.
        what: &'static str,
    },
    /// A call to the file system failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// An entry that recovery had found whole is damaged now.
    #[error(
        "entry at byte {offset} of local wal segment {segment} was whole at start and is damaged now: the disk does not keep what it was given; replace it"
    )]
    Damaged {
        /// The segment.
        segment: u64,
        /// Where the entry begins.
        offset: u64,
    },
}

impl LocalWalError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

fn holder_text(holder: &Option<String>) -> String {
    holder
        .as_ref()
        .map(|pid| format!(" by process {pid}"))
        .unwrap_or_default()
}
