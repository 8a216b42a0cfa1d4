//! Builds the parts of a node, each from those before it.

use std::sync::Arc;
use std::time::Duration;

use firn_coordinator::groups::GroupConfig;
use firn_coordinator::{Coordinator, CoordinatorConfig, EndReason};
use firn_proto::cluster::{
    CoordinatorError, LinkAddress, RegisterBroker, RegisteredBroker, Reply, Request,
};
use firn_proto::env::Entropy;
use firn_proto::ids::{ClusterId, DiskId};
use firn_proto::journal::JournalError;
use firn_storage::bucket::{Bucket, BucketKind, backoff};
use firn_storage::cache::{CachedObjects, DiskSpace, FoyerCache, TailCache};
use firn_storage::journal::cluster_id;
use firn_storage::read::Reader;
use firn_storage::stream::StreamEnv;
use firn_storage::wal::local::{LocalWal, LocalWalError, LocalWalOptions, Recovered};
use firn_storage::wal::{FlushPolicy, Wal, WalError, WalSpec};

use super::Parts;
use super::doors::Doors;
use super::reminder::Reminder;
use super::sink::NodeSink;
use crate::config::Config;
use crate::error::FirnError;
use crate::insist::insist;

/// Settings of the coordinator that do not say who this process is.
pub(super) fn coordinator_config(config: &Config, bucket: &Bucket) -> CoordinatorConfig {
    let millis = |duration: Duration| i32::try_from(duration.as_millis()).unwrap_or(i32::MAX);
    CoordinatorConfig {
        groups: GroupConfig {
            session_timeout_ms_min: millis(config.groups.session_timeout_min),
            session_timeout_ms_max: millis(config.groups.session_timeout_max),
            initial_rebalance_delay: config.groups.initial_rebalance_delay,
            members_max: config.groups.size_max,
            consumer_members_max: config.groups.consumer_size_max,
            consumer_session_timeout: config.groups.consumer_session_timeout,
            consumer_heartbeat_interval: config.groups.consumer_heartbeat_interval,
            offsets_retention: config.groups.offsets_retention,
        },
        puts_per_second: (bucket.kind() == BucketKind::S3).then_some(JOURNAL_PUTS_PER_SECOND),
        ..CoordinatorConfig::default()
    }
}

/// The id of the cluster whose bucket this is. Claims nothing.
pub(super) async fn cluster(
    config: &Config,
    bucket: &Bucket,
    env: &StreamEnv,
) -> Result<ClusterId, FirnError> {
    let ask = || async { Ok(cluster_id(bucket, env).await?) };
    patiently(config, env, "the id of the cluster cannot be read yet", ask).await
}

/// Asks the journal again until it answers, or `bucket.start.timeout.ms` has passed; says
/// `meanwhile` at growing intervals.
async fn patiently<T, F>(
    config: &Config,
    env: &StreamEnv,
    meanwhile: &str,
    ask: impl Fn() -> F,
) -> Result<T, FirnError>
where
    F: Future<Output = Result<T, EndReason>>,
{
    let began = env.clock.mono();
    let mut attempt = 0;
    let mut reminder = Reminder::new();
    loop {
        let answer = ask().await;
        let waited = env.clock.mono().since(began);
        match answer {
            Err(EndReason::Journal(
                JournalError::Unavailable(reason) | JournalError::Refused(reason),
            )) if waited < config.bucket.start_timeout => {
                attempt += 1;
                if reminder.is_due(waited) {
                    tracing::warn!(reason, "{meanwhile}");
                }
                tokio::time::sleep(backoff(attempt, env.entropy.next_u64())).await;
            }
            answer => return answer.map_err(|reason| coordinator_ended(&reason)),
        }
    }
}

/// What the end of the coordinator means for the process.
pub(super) fn coordinator_ended(reason: &EndReason) -> FirnError {
    match reason {
        EndReason::Journal(JournalError::Fenced { .. } | JournalError::Superseded { .. }) => {
            FirnError::Fenced(reason.to_string())
        }
        EndReason::Forgotten => FirnError::Fenced(reason.to_string()),
        reason => FirnError::failed("the journal cannot be used", reason),
    }
}

/// What it means for the process that the coordinator has ended, which nobody asked it to.
pub(super) fn coordinator_gone(ended: Result<(), EndReason>) -> FirnError {
    match ended {
        Ok(()) => FirnError::failed("the coordinator has stopped", "nobody asked it to"),
        Err(reason) => coordinator_ended(&reason),
    }
}

/// What the end of the WAL means for the process.
pub(super) fn wal_ended(error: &WalError) -> FirnError {
    match error {
        WalError::Fenced { .. } => FirnError::Fenced(error.to_string()),
        error if error.exit_code().is_some() => FirnError::disk("the local wal failed", error),
        error => FirnError::failed("the wal failed", error),
    }
}

/// Tells the coordinator that this process lives, and gets an incarnation and a stream from it.
pub(super) async fn register(
    config: &Config,
    doors: &Doors,
    disk: Option<DiskId>,
    link: LinkAddress,
    coordinator: &Coordinator,
    entropy: &Entropy,
) -> Result<RegisteredBroker, FirnError> {
    let request = RegisterBroker {
        broker: config.broker_id,
        listeners: doors.advertised(config),
        rack: config.rack.clone(),
        disk,
        link: Some(link),
    };
    // Asked twice, the second answer counts: the first incarnation ends with it.
    match call_again(coordinator, entropy, Request::RegisterBroker(request)).await? {
        Reply::RegisterBroker(registered) => Ok(registered),
        _ => Err(unexpected("RegisterBroker")),
    }
}

/// Says that this process serves, and whether it may own partitions.
pub(super) async fn take_part(config: &Config, parts: &Parts) -> Result<(), FirnError> {
    let serves = Request::TakePart {
        incarnation: parts.registered.incarnation,
        owns: config.roles.broker,
    };
    match insist(&parts.coordinator, &parts.entropy, serves).await {
        Ok(_) => Ok(()),
        Err(error @ CoordinatorError::Refused(_)) => Err(FirnError::Fenced(error.to_string())),
        Err(error) => Err(FirnError::failed("the coordinator does not answer", error)),
    }
}

/// Takes the directory of the local WAL, if there is one, and reads what is in it.
pub(super) async fn open_local_wal(
    config: &Config,
    cluster: ClusterId,
    entropy: &Arc<Entropy>,
) -> Result<Option<(LocalWal, Recovered)>, FirnError> {
    let Some(dir) = config.wal_dir() else {
        return Ok(None);
    };
    let shown = dir.display().to_string();
    let entropy = Arc::clone(entropy);
    let options = LocalWalOptions::new(dir, config.broker_id);
    let open = move || LocalWal::open(&options, cluster, &entropy);
    let opened = tokio::task::spawn_blocking(open).await;
    let what = format!("cannot use the local wal {shown}");
    match opened {
        Ok(Ok(opened)) => Ok(Some(opened)),
        Ok(Err(error @ LocalWalError::Io { .. })) => Err(FirnError::disk(what, error)),
        Ok(Err(error)) => Err(FirnError::failed(what, error)),
        Err(error) => Err(FirnError::failed(what, error)),
    }
}

/// Starts the WAL on this process's own stream.
pub(super) fn start_wal(
    config: &Config,
    bucket: &Bucket,
    registered: &RegisteredBroker,
    local: Option<LocalWal>,
    sink: &Arc<NodeSink>,
    env: &StreamEnv,
) -> Result<Wal, FirnError> {
    let mut policy = FlushPolicy::for_bucket(bucket.kind());
    if config.wal.puts_per_second.is_some() {
        policy.puts_per_second = config.wal.puts_per_second;
    }
    let spec = WalSpec {
        cluster: registered.cluster,
        stream: registered.stream,
        policy,
        bytes_in_flight: config.wal.memory_bytes,
        local,
    };
    Wal::start(bucket.clone(), spec, Arc::clone(sink) as _, env.clone()).map_err(|e| wal_ended(&e))
}

/// Opens the caches and what reads through them.
pub(super) async fn open_reader(
    config: &Config,
    bucket: &Bucket,
    cluster: ClusterId,
    tail: &Arc<TailCache>,
) -> Result<Reader, FirnError> {
    let disk = config.cache.disk_dir.clone().map(|directory| DiskSpace {
        directory,
        bytes: config.cache.disk_bytes,
        cluster,
    });
    let cache = FoyerCache::open(config.cache.memory_bytes, disk.as_ref())
        .await
        .map_err(|e| FirnError::disk("cannot open the cache (cache.disk.dir)", e))?;
    let objects = CachedObjects::new(bucket.clone(), cache.shared());
    Ok(Reader::new(Arc::clone(tail), objects))
}

/// Asks the coordinator what may be asked twice: again, whenever the leader was lost before it
/// answered. Another answer that does not come ends a start or a stop.
pub(super) async fn call_again(
    coordinator: &Coordinator,
    entropy: &Entropy,
    request: Request,
) -> Result<Reply, FirnError> {
    let reply = insist(coordinator, entropy, request).await;
    reply.map_err(|e| FirnError::failed("the coordinator does not answer", e))
}

/// The coordinator answered another question.
pub(super) fn unexpected(request: &str) -> FirnError {
    let reason = "this is a bug; please report it";
    FirnError::failed(format!("{request} has the wrong reply"), reason)
}

/// Journal puts of a busy coordinator on a store where requests cost money.
const JOURNAL_PUTS_PER_SECOND: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_taken_for_dead_is_fenced_and_told_what_to_do() {
        let ended = coordinator_gone(Err(EndReason::Forgotten));
        assert!(matches!(ended, FirnError::Fenced(_)), "{ended:?}");
        let said = ended.to_string();
        assert!(
            said.contains("for dead") && said.contains("Start it again"),
            "{said}"
        );
    }
}
