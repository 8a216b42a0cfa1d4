//! What a handler may use: the parts of the process ([`Context`]) and what is known about the
//! client ([`ConnectionState`], [`Call`]). Owns nothing that moves.
//!
//! Handlers have one of two shapes:
//!
//! * `async fn handle(ctx: &Context, conn: &ConnectionState, call: &Call, request: XRequest) -> XResponse`.
//!   It runs once every earlier request of the connection is answered.
//! * Produce: `async fn start(ctx, conn, call, request) -> PendingProduce` appends in the order in
//!   which requests arrive, before earlier ones are answered; `PendingProduce::finish().await`
//!   gives the response, or `None` for acks=0.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use firn_coordinator::Coordinator;
use firn_proto::cluster::{ClusterImage, CoordinatorError};
use firn_proto::env::{Clock, Entropy};
use firn_proto::ids::{BrokerId, ClusterId, Incarnation};
use firn_proto::limits::{ADMIN_WAIT_MAX, ADMIN_WAIT_SLACK, PARKED_REQUEST_BYTES};
use firn_storage::read::Reader;
use firn_storage::wal::Wal;
use tokio::sync::{Semaphore, watch};

use super::connection::Refusal;
use super::data::fetch_session::FetchSessions;
use super::data::init_producer_id::ProducerIds;
use super::memory::{FetchMemory, RequestMemory};
use super::seldom::Seldom;
use crate::config::{Config, HostPort};
use crate::log_starts::LogStarts;
use crate::metrics::Metrics;
use crate::partition::Partitions;
use crate::read_replica::{Readers, SentAway};
use crate::segment_map::SegmentMap;

/// The parts of the process that handlers use; made once by `node.rs`.
pub struct Context {
    /// The configuration.
    pub config: Arc<Config>,
    /// The reader of time.
    pub clock: Arc<dyn Clock>,
    /// The source of randomness.
    pub entropy: Arc<Entropy>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The cluster this bucket belongs to.
    pub cluster: ClusterId,
    /// This broker.
    pub broker: BrokerId,
    /// This start of it.
    pub incarnation: Incarnation,
    /// Reads batches, from memory or from the bucket.
    pub reader: Reader,
    /// The partitions that this process owns.
    pub partitions: Arc<Partitions>,
    /// Which segments hold what of them.
    pub segments: Arc<SegmentMap>,
    /// Moves their log starts.
    pub log_starts: LogStarts,
    /// The write-ahead log that takes their batches.
    pub wal: Wal,
    /// The published picture of the cluster.
    pub image: watch::Receiver<Arc<ClusterImage>>,
    /// The coordinator, reached by messages.
    pub coordinator: Coordinator,
    /// The producer ids that this process may still give out.
    pub producer_ids: ProducerIds,
    /// Held while a list of configs is changed: what is added to it is added to what is there.
    pub config_lists: tokio::sync::Mutex<()>,
    /// What clients read, remembered between their requests.
    pub fetch_sessions: Mutex<FetchSessions>,
    /// Asks other brokers what of their partitions clients of this rack may read here.
    pub readers: Readers,
    /// Which clients were sent to brokers of their own racks.
    pub sent_away: Mutex<SentAway>,
    /// The line on transactions, which nobody coordinates yet.
    pub transactions_refused: Mutex<Seldom>,
    /// Batches that wait for partitions that are about to be opened.
    pub produces_held: Semaphore,
    /// Bytes of all requests in progress.
    pub request_memory: RequestMemory,
    /// Bytes of all Fetch answers that are being written, and of all requests that wait for one.
    pub fetch_memory: FetchMemory,
}

impl Context {
    /// Waits until it is known whether records, offsets and groups may be told to clients: this
    /// process has heard lately that no other one leads. What does not depend on it are the picture
    /// of the cluster, which says no more than where things were, and what waits for the bucket.
    ///
    /// # Errors
    /// They never will be again: another process leads, or this one stops.
    pub async fn may_read(&self) -> Result<bool, Refusal> {
        match self.coordinator.may_read(self.clock.mono()).await {
            Ok(()) => Ok(true),
            Err(error @ CoordinatorError::Stopped) => Err(Refusal(error.to_string())),
            Err(_) => Ok(false),
        }
    }
}

/// How long a request about topics waits for the journal if its client says `timeout_ms`.
pub(super) fn journal_wait(timeout_ms: i32) -> Duration {
    let wait = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
    wait.min(ADMIN_WAIT_MAX) + ADMIN_WAIT_SLACK
}

/// A listener that is open.
#[derive(Debug)]
pub struct OpenListener {
    /// How the operator calls it.
    pub name: String,
    /// Where it is bound.
    pub bound: SocketAddr,
    /// What Metadata tells the clients that came in here.
    pub advertised: HostPort,
}

/// What is known about one connection.
#[derive(Debug)]
pub struct ConnectionState {
    /// A number for the log; rises with each connection of this process.
    pub id: u64,
    /// Where the client came in.
    pub listener: Arc<OpenListener>,
    /// Where it came from.
    pub peer: SocketAddr,
    /// Name and version of the client's library, once ApiVersions (v3 and later) has told them.
    pub software: OnceLock<(String, String)>,
}

/// What the header of a request says.
#[derive(Clone, Debug)]
pub struct Call {
    /// The version of the request, one that the dispatch table serves.
    pub version: i16,
    /// The client's name for itself.
    pub client_id: Option<Arc<str>>,
}

impl Call {
    /// What is kept of a request while it waits, in bytes, besides the ids it is answered with.
    pub(super) fn parked_bytes(&self) -> usize {
        PARKED_REQUEST_BYTES + self.client_id.as_ref().map_or(0, |id| id.len())
    }
}
