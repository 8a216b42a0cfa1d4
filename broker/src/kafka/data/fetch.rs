//! Fetch (1), versions 4 to 18: reads record batches.
//!
//! - v4: isolation level. v7: sessions (KIP-227). v9: leader epochs (KIP-320). v11: racks: the owner
//!   sends a client to a broker of its rack, which asks the owner what it may serve (KIP-392). v12:
//!   diverging epochs. v13: topics by id. v16: where new leaders are (KIP-951).
//!
//! A request waits until `min_bytes` can be read or `max_wait_ms` is over; anything the client must
//! know at once, an error or a diverging epoch, is answered at once. Records are taken whole and as
//! slices; memory for an answer is reserved before they are read, not while the request waits; where
//! it is not there at once, the answer is a shorter one. How long a request waits, is the client's
//! choice up to a limit: a poll that finds nothing is begun anew.
//!
//! Requests that claim to come from a replica are refused: there are none (CVE-2018-1288).

mod answer;
mod read;
mod source;
mod survey;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use firn_proto::env::Mono;
use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::fetch::{FetchRequest, FetchResponse};
use firn_proto::limits::{FETCH_CROWDED_WAIT, FETCH_REFUSED_WAIT, FETCH_WAIT_MAX};
use futures::FutureExt;
use tokio::time::timeout;

use self::answer::PartitionRead;
use self::source::Source;
use self::survey::{Readable, Reading, Surveyed, survey};
use super::fetch_session::{FetchSessions, SessionError, SessionRequest, SessionTurn};
use super::topic_rules::TopicRules;
use crate::kafka::connection::Refusal;
use crate::kafka::context::{Call, ConnectionState, Context};
use crate::kafka::memory::Reserved;
use crate::kafka::view;
use crate::read_replica::{Question, Views};

pub(super) use self::survey::visible_end;

/// Isolation level of a consumer that reads only committed records.
pub(super) const READ_COMMITTED: i8 = 1;

/// An answer, and the memory that its records hold until they are written.
pub struct Fetched {
    /// The answer.
    pub response: FetchResponse,
    /// Given back once the answer is written.
    pub memory: Option<Reserved>,
}

/// Reads, or waits for something to read.
///
/// Cancel safe: a request that is dropped leaves its session as if it had not been answered.
///
/// # Errors
/// The client says that it is a replica, or another process leads.
pub async fn handle(
    ctx: &Context,
    conn: &ConnectionState,
    call: &Call,
    mut request: FetchRequest,
    of_request: Reserved,
) -> Result<Fetched, Refusal> {
    if request.replica_id >= 0 || request.replica_state.replica_id >= 0 {
        return Err(Refusal("a client fetches as a replica".to_owned()));
    }
    let unknown = answer::take_illegal(call.version, &mut request);
    let asked = answer::session_request(call.version, &request);
    let partitions = sessions(ctx).partitions_asked(&asked) + answer::partitions_worth(&unknown);
    // From here on a request holds no more than what it asks for.
    let asking = ctx.fetch_memory.reserve_asking(partitions).await;
    let turn = match begin(ctx, asked) {
        Ok(turn) => turn,
        Err(error) => {
            let response = answer::refusal(session_error_code(error));
            return Ok(Fetched {
                response,
                memory: None,
            });
        }
    };
    let max_wait = match unknown.is_empty() {
        true => Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)),
        false => Duration::ZERO,
    };
    let poll = Poll {
        ctx,
        turn: &turn,
        began: ctx.clock.mono(),
        max_wait: max_wait.min(FETCH_WAIT_MAX),
        max_bytes: bytes(request.max_bytes)
            .min(ctx.config.connections.fetch_bytes_max)
            .min(ctx.fetch_memory.answer_bytes_max()),
        min_bytes: bytes(request.min_bytes),
        read_committed: request.isolation_level == READ_COMMITTED,
        connection: conn.id,
        rack: Some(std::mem::take(&mut request.rack_id)).filter(|rack| !rack.is_empty()),
    };
    drop((request, of_request));
    let (reads, memory) = poll.run_while_leading(asking, partitions).await?;
    let sent = reads.iter().filter(|read| read.preferred.is_some()).count();
    ctx.metrics.replica_sent.inc_by(sent as u64);
    let names_leaders = reads.iter().any(|read| read.leader.is_some());
    let mut response = answer::response(&mut sessions(ctx), &turn, reads, poll.read_committed);
    response.responses.extend(unknown);
    if names_leaders {
        let image = ctx.image.borrow().clone();
        let named = answer::leaders(&response).collect();
        response.node_endpoints = view::endpoints_of(&named, view::endpoints(ctx, conn, &image));
    }
    Ok(Fetched {
        response,
        memory: Some(memory),
    })
}

fn bytes(number: i32) -> usize {
    usize::try_from(number).unwrap_or(0)
}

fn begin(ctx: &Context, request: SessionRequest) -> Result<SessionTurn, SessionError> {
    let (now, random) = (ctx.clock.mono(), ctx.entropy.next_u64());
    sessions(ctx).begin(request, now, random)
}

/// The lock is never held over an await.
fn sessions(ctx: &Context) -> std::sync::MutexGuard<'_, FetchSessions> {
    ctx.fetch_sessions
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

fn session_error_code(error: SessionError) -> ErrorCode {
    match error {
        SessionError::IdNotFound => ErrorCode::FetchSessionIdNotFound,
        SessionError::InvalidEpoch => ErrorCode::InvalidFetchSessionEpoch,
        SessionError::TopicIdMix => ErrorCode::FetchSessionTopicIdError,
    }
}

/// One request that waits for something to read.
struct Poll<'a> {
    ctx: &'a Context,
    turn: &'a SessionTurn,
    began: Mono,
    max_wait: Duration,
    max_bytes: usize,
    min_bytes: usize,
    read_committed: bool,
    connection: u64,
    /// The client's rack, if it says.
    rack: Option<String>,
}

impl Poll<'_> {
    /// [`Poll::run`] while what is read may be told; else each partition may be led elsewhere.
    async fn run_while_leading(
        &self,
        asking: Reserved,
        partitions: usize,
    ) -> Result<(Vec<PartitionRead>, Reserved), Refusal> {
        let mut memory = asking;
        if self.ctx.may_read().await? {
            let (reads, of_reads) = self.run(memory, partitions).await;
            // While it waited, this process may have stood still, and another may lead.
            if self.ctx.may_read().await? {
                return Ok((reads, of_reads));
            }
            memory = of_reads;
        }
        tokio::time::sleep(FETCH_REFUSED_WAIT.min(self.max_wait)).await;
        let elsewhere = PartitionRead::failed(ErrorCode::NotLeaderOrFollower);
        Ok((vec![elsewhere; self.turn.wanted.len()], memory))
    }

    /// The answer of each partition of the turn, in its order, and its memory. A request for
    /// `partitions` holds `asking` until then; one that waits for records holds as much of what is
    /// set aside for those. Without records the answer is what was asked for, once more.
    async fn run(&self, asking: Reserved, partitions: usize) -> (Vec<PartitionRead>, Reserved) {
        let mut held = asking;
        let (mut is_parked, mut is_crowded) = (false, false);
        let min_bytes = self.min_bytes.min(self.max_bytes);
        let mut views = Views::default();
        loop {
            let surveyed = self.survey(min_bytes, &mut views).await;
            let available: usize = readable(&surveyed).map(|found| found.available).sum();
            let is_urgent = surveyed.iter().any(|found| found.read.is_urgent());
            let waited = self.ctx.clock.mono().since(self.began);
            let left = self.max_wait.saturating_sub(waited);
            let is_over = left.is_zero() || is_crowded || self.turn.wanted.is_empty();
            if is_urgent || available >= min_bytes || is_over {
                let room = self.reserve(&surveyed).await;
                let (memory, max_bytes) = room.unwrap_or((held, self.max_bytes));
                let reads = read::read_all(self.ctx, surveyed, max_bytes).await;
                return (reads, memory);
            }
            if !is_parked {
                let memory = &self.ctx.fetch_memory;
                is_parked = true;
                if let Some(parked) = memory.reserve_parked(partitions).now_or_never() {
                    held = parked;
                } else {
                    drop(surveyed);
                    let parked = memory.reserve_parked(partitions);
                    match timeout(left.min(FETCH_CROWDED_WAIT), parked).await {
                        Ok(parked) => held = parked,
                        Err(_) => is_crowded = true,
                    }
                    // Things may have moved meanwhile.
                    views = Views::default();
                    continue;
                }
            }
            views = self.wait(surveyed, left, min_bytes - available).await;
        }
    }

    /// Looks at what there is, after owners in other racks have been asked whom `views` knows nothing
    /// of.
    async fn survey(&self, min_bytes: usize, views: &mut Views) -> Vec<Surveyed> {
        let reading = Reading {
            connection: self.connection,
            asked: self.began,
            rack: self.rack.as_deref(),
            committed: self.read_committed,
            bytes_wanted: min_bytes,
        };
        loop {
            let mut surveyed = survey(self.ctx, &self.turn.wanted, &reading, views);
            let unseen = surveyed.iter_mut().filter_map(|found| found.unseen.take());
            let unseen: Vec<Question> = unseen.collect();
            if unseen.is_empty() {
                return surveyed;
            }
            drop(surveyed);
            let readers = &self.ctx.readers;
            views.extend(readers.look_now(unseen, self.read_committed).await);
        }
    }

    /// Waits until there are `missing` bytes more, here or in another rack, for as long as is `left`.
    /// What the owner there has said then is the newest.
    async fn wait(&self, surveyed: Vec<Surveyed>, left: Duration, missing: usize) -> Views {
        let mut questions = Vec::new();
        let mut seen = Vec::new();
        for found in &surveyed {
            let Some(readable) = &found.readable else {
                continue;
            };
            match &readable.source {
                Source::Owned(partition) => {
                    seen.push((Arc::clone(partition), found.read.marks.high_watermark));
                }
                Source::Followed(..) => questions.extend(readable.question()),
            }
        }
        drop(surveyed);
        let wait = self.ctx.partitions.wait(&seen, missing);
        drop(seen);
        if questions.is_empty() {
            // Woken or not, what there is decides.
            let _ = timeout(left, wait.ready()).await;
            return Views::default();
        }
        let readers = &self.ctx.readers;
        tokio::select! {
            () = wait.ready() => Views::default(),
            views = readers.look_first(questions, left, missing, self.read_committed) => views,
        }
    }

    /// Memory for what is going to be read, and how much that may be.
    async fn reserve(&self, surveyed: &[Surveyed]) -> Option<(Reserved, usize)> {
        let mut bytes = 0_usize;
        let mut first = None;
        for found in readable(surveyed).filter(|found| found.available > 0) {
            let (there, of_first_run) = found.bytes_there(found.max_bytes);
            bytes = bytes.saturating_add(there);
            first.get_or_insert_with(|| self.batch_max(found).min(of_first_run));
            if bytes >= self.max_bytes {
                break;
            }
        }
        let first = first?;
        let bytes = bytes.min(self.max_bytes).max(first);
        let memory = &self.ctx.fetch_memory;
        let (room, granted) = memory.reserve_answer_up_to(bytes, first).await;
        let max_bytes = match granted < bytes {
            true => granted,
            false => self.max_bytes,
        };
        Some((room, max_bytes))
    }

    /// The bytes that a batch may have: the first is served whatever the client's limits are.
    fn batch_max(&self, found: &Readable) -> usize {
        let image = self.ctx.image.borrow().clone();
        let default = self.ctx.config.topics.message_max_bytes;
        image.topic_named(&found.topic).map_or(default, |topic| {
            TopicRules::new(&topic.configs, default).batch.bytes_max
        })
    }
}

fn readable(surveyed: &[Surveyed]) -> impl Iterator<Item = &Readable> {
    surveyed.iter().filter_map(|found| found.readable.as_ref())
}
