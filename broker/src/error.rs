//! Why the process ends, and with which exit status.

use std::process::ExitCode;

use firn_storage::bucket::{BucketError, BucketUrl};
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
        "fenced: {0}. What this process acknowledged when the bucket had it is served from there. \
         Start it again, and it joins the cluster anew"
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

    /// The bucket at `url` cannot be used.
    pub fn bucket(url: &str, error: BucketError) -> Self {
        let what = format!("cannot use the bucket {url}");
        match error {
            BucketError::Url { .. } => ConfigError::Contradiction(error.to_string()).into(),
            BucketError::Disk { .. } | BucketError::DirectoryRefuses { .. } => {
                Self::disk(what, error)
            }
            BucketError::Unavailable { detail, .. } => {
                let what = format!("the bucket {url} does not answer");
                Self::failed(what, with_hint(url, &detail))
            }
            error => Self::failed(what, error),
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

/// Why the bucket at `url` does not answer, with where to look if nobody is there at all.
pub(crate) fn with_hint(url: &str, detail: &str) -> String {
    if !NOBODY_THERE.iter().any(|words| detail.contains(words)) {
        return detail.to_owned();
    }
    let endpoint = match BucketUrl::parse(url) {
        Ok(BucketUrl::S3(url)) => url.endpoint,
        _ => None,
    };
    match endpoint {
        Some(endpoint) => format!("{detail}: check endpoint={endpoint}, and that the store runs"),
        None => format!("{detail}: check region= of the bucket url, and AWS_ENDPOINT_URL"),
    }
}

/// What is said of a host that is not there, or has no store.
const NOBODY_THERE: [&str; 5] = [
    "Connection refused",
    "No route to host",
    "failed to lookup address",
    "operation timed out",
    "no answer within",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_not_there_is_looked_for_where_the_url_says() {
        let refused = "Connection refused (os error 111)";
        let url = "s3://b/p?endpoint=http://127.0.0.1:9000";
        let hint = with_hint(url, refused);
        assert!(
            hint.contains("check endpoint=http://127.0.0.1:9000"),
            "{hint}"
        );
        let hint = with_hint("s3://b/p", refused);
        assert!(hint.contains("AWS_ENDPOINT_URL"), "{hint}");
        assert_eq!(with_hint(url, "503 SlowDown"), "503 SlowDown");
    }
}
