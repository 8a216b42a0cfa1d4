//! Why the process ends, and with which exit status.

use std::process::ExitCode;

use thiserror::Error;

use crate::config::ConfigError;

/// Why the process could not start or had to stop, sorted by exit status.
#[derive(Debug, Error)]
pub enum FirnError {
    /// The command line or configuration is wrong. Exit status 2.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A local disk is full or failed. Exit status 74.
    #[error("{what}: {reason}")]
    Disk {
        /// What was being done.
        what: String,
        /// Why it failed, and what to do.
        reason: String,
    },
    /// Another process has taken this one's place. Exit status 3.
    #[error(
        "fenced: {0}. What this process acknowledged with acks=all is in the bucket and served \
         there. One bucket takes one process: do not restart this one while the other runs, or \
         give it a bucket or a prefix of its own"
    )]
    Fenced(String),
    /// Anything else. Exit status 1.
    #[error("{what}: {reason}")]
    Failed {
        /// What was being done.
        what: String,
        /// Why it failed, and what to do.
        reason: String,
    },
}

impl FirnError {
    /// Something failed for `reason` while `what` was being done.
    pub fn failed(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Failed {
            what: what.into(),
            reason: reason.to_string(),
        }
    }

    /// A local disk failed for `reason` while `what` was being done.
    pub fn disk(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Disk {
            what: what.into(),
            reason: reason.to_string(),
        }
    }

    /// The exit status of the process (sysexits' `EX_IOERR` for disks).
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::from(2),
            Self::Disk { .. } => ExitCode::from(74),
            Self::Fenced(_) => ExitCode::from(3),
            Self::Failed { .. } => ExitCode::FAILURE,
        }
    }
}
