//! Who this process is, and what one has to say that was taken for dead: one line for those who look
//! after it.

use firn_proto::cluster::Listener;
use firn_proto::ids::BrokerId;

use crate::config::Config;
use crate::error::FirnError;

/// Who this process is, in one line for others to read.
pub(super) fn shown_as(broker: Option<BrokerId>, listeners: &[Listener]) -> String {
    let process = std::process::id();
    let host = std::fs::read_to_string(HOST_NAME).unwrap_or_default();
    let place = match host.trim() {
        "" => String::new(),
        host => format!(" on {host}"),
    };
    let broker = broker.map_or_else(String::new, |broker| format!(" {broker}"));
    let at = match listeners.first() {
        Some(Listener { host, port, .. }) => format!(" at {host}:{port}"),
        None => String::new(),
    };
    format!("broker{broker}{at} (process {process}{place})")
}

/// The last words of a process that lost its place: with where records may be that are nowhere else.
pub(super) fn last_words(error: FirnError, config: &Config) -> FirnError {
    let FirnError::Fenced(reason) = error else {
        return error;
    };
    let url = &config.bucket.url;
    let lost = format!("the cluster in the bucket {url} goes on without this process ({reason})");
    FirnError::Fenced(match config.wal_dir() {
        None => lost,
        Some(dir) => format!(
            "{lost}. Records acknowledged with acks=1, or of topics with firn.durability=local, that \
             had not reached the bucket are only in the local WAL in {}: start again with that \
             directory, which puts them there, or finds and names them",
            dir.display()
        ),
    })
}

/// Where Linux says what this machine is called.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Pair, Profile, Source};

    #[test]
    fn a_process_is_shown_in_one_line() {
        let own = shown_as(Some(BrokerId(7)), &[]);
        assert!(own.starts_with("broker 7 (process "), "{own}");
        assert!(shown_as(None, &[]).starts_with("broker (process "));
    }

    #[test]
    fn who_is_fenced_says_where_records_may_be_that_only_acks_1_acknowledged() {
        let words = |wal| {
            let pairs = [("bucket", "memory://"), ("wal", wal)];
            let pairs = pairs.map(|(key, value)| Pair::new(key, value, Source::Override));
            let config = Config::new(Profile::Dev, pairs.to_vec()).unwrap();
            let fenced = FirnError::Fenced("stream 4 is sealed".to_owned());
            last_words(fenced, &config).to_string()
        };
        let with = words("/disk/firn-wal");
        assert!(
            with.contains("acks=1") && with.contains("/disk/firn-wal"),
            "{with}"
        );
        let without = words("none");
        assert!(!without.contains("acks=1,"), "{without}");
        for words in [with, without] {
            assert!(words.contains("memory://") && words.contains("stream 4 is sealed"));
        }
    }
}
