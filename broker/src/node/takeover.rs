//! Who had the bucket before this process, and who takes it away: one line for those who look after
//! either.
//!
//! May not touch: who has it (`firn_storage::journal` and the coordinator decide that).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_proto::cluster::{BrokerImage, ClusterImage, Listener};
use firn_proto::ids::BrokerId;
use firn_storage::bucket::Bucket;
use firn_storage::journal::{newest_epoch, read_claim};

use crate::config::Config;
use crate::error::FirnError;

/// Who this process is, as its claim to the bucket says for others to read.
pub(super) fn identity(broker: BrokerId, listeners: &[Listener]) -> Bytes {
    let process = std::process::id();
    let host = std::fs::read_to_string(HOST_NAME).unwrap_or_default();
    let place = match host.trim() {
        "" => String::new(),
        host => format!(" on {host}"),
    };
    Bytes::from(format!(
        "{} (process {process}{place})",
        broker_at(broker, listeners)
    ))
}

/// Says from whom this process takes the bucket, if somebody had it: whoever stops in order gives it
/// back first. Whether that process still runs cannot be seen from here.
pub(super) fn report_predecessors(before: &ClusterImage) {
    let had: Vec<String> = before.brokers.values().map(predecessor).collect();
    if had.is_empty() {
        return;
    }
    tracing::warn!(
        from = had.join(", "),
        "this process takes over from one that did not stop in order: it has crashed, or it still \
         runs and ends now with status 3"
    );
}

/// The last words of a process that lost its place to another: with who that is, if the bucket says,
/// and where records may be that are nowhere else.
pub(super) async fn name_successor(
    error: FirnError,
    config: &Config,
    bucket: &Bucket,
) -> FirnError {
    let FirnError::Fenced(reason) = error else {
        return error;
    };
    let newest = async {
        let epoch = newest_epoch(bucket).await.ok()?;
        read_claim(bucket, epoch).await.ok()?
    };
    let claim = tokio::time::timeout(NAME_SUCCESSOR_MAX, newest).await;
    let who = claim.ok().flatten().map(|claim| shown(&claim.identity));
    let who = who.unwrap_or_else(|| "another process".to_owned());
    let took = format!(
        "{who} took over the bucket {} ({reason})",
        config.bucket.url
    );
    FirnError::Fenced(match config.wal_dir() {
        None => took,
        Some(dir) => format!(
            "{took}. Records acknowledged with acks=1 that had not reached the bucket are only in the \
             local WAL in {}, where a later start with that directory finds and names them",
            dir.display()
        ),
    })
}

fn predecessor(broker: &Arc<BrokerImage>) -> String {
    let at = broker_at(broker.broker, &broker.listeners);
    format!("{at} (incarnation {})", broker.incarnation.0)
}

fn broker_at(broker: BrokerId, listeners: &[Listener]) -> String {
    match listeners.first() {
        Some(Listener { host, port, .. }) => format!("broker {broker} at {host}:{port}"),
        None => format!("broker {broker}"),
    }
}

/// The identity of a claim as a line can take it.
fn shown(identity: &[u8]) -> String {
    let text = String::from_utf8_lossy(identity);
    let printable = text.chars().filter(|c| !c.is_control());
    let text: String = printable.take(IDENTITY_CHARS_MAX).collect();
    match text.as_str() {
        "" => "another process".to_owned(),
        _ => text,
    }
}

/// Where Linux says what this machine is called.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";
/// Longest identity that is shown.
const IDENTITY_CHARS_MAX: usize = 200;
/// How long a process that has to end looks for who took its place.
const NAME_SUCCESSOR_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Pair, Profile, Source};
    use firn_proto::env::{Entropy, SystemClock};

    #[test]
    fn whoever_claimed_the_bucket_is_shown_in_one_short_line() {
        assert_eq!(shown(b""), "another process");
        assert_eq!(shown(b"broker 1\n\x1b[2J"), "broker 1[2J");
        assert_eq!(shown(&[b'x'; 5000]).len(), IDENTITY_CHARS_MAX);
        let own = identity(BrokerId(7), &[]);
        assert!(shown(&own).starts_with("broker 7 (process "));
    }

    #[tokio::test]
    async fn who_is_fenced_says_where_records_may_be_that_only_acks_1_acknowledged() {
        let words = async |wal| {
            let pairs = [("bucket", "memory://"), ("wal", wal)];
            let pairs = pairs.map(|(key, value)| Pair::new(key, value, Source::Override));
            let config = Config::new(Profile::Dev, pairs.to_vec()).unwrap();
            let entropy = Arc::new(Entropy::from_seed(1));
            let bucket = Bucket::memory(Arc::new(SystemClock::new()), entropy);
            let fenced = FirnError::Fenced("claimed epoch 2".to_owned());
            name_successor(fenced, &config, &bucket).await.to_string()
        };
        let with = words("/disk/firn-wal").await;
        assert!(
            with.contains("acks=1") && with.contains("/disk/firn-wal"),
            "{with}"
        );
        let without = words("none").await;
        assert!(!without.contains("acks=1"), "{without}");
        for words in [with, without] {
            assert!(words.contains("memory:// (claimed epoch 2)"), "{words}");
        }
    }
}
