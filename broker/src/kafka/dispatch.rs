//! From a frame to its handler and back: one match on the API.
//!
//! A request whose API or version is not served closes the connection: its body cannot be read, so
//! no answer fits it. The exception is ApiVersions, which is answered in version 0 so that a newer
//! client can come again (KIP-511).

use std::sync::Arc;

use bytes::Bytes;
use firn_proto::env::Mono;
use firn_proto::kafka::{ApiKey, Reader, Request, RequestHeader, Response};
use futures::FutureExt;

use super::admin::{
    alter_configs, api_versions, create_partitions, create_topics, delete_topics, describe_cluster,
    describe_configs, find_coordinator, incremental_alter_configs, metadata,
};
use super::answer_size;
use super::connection::{Handler, Refusal, Started};
use super::context::{Call, ConnectionState, Context};
use super::data::produce::PendingProduce;
use super::data::{delete_records, fetch, init_producer_id, leader_epoch, list_offsets, produce};
use super::group::{
    consumer_group_describe, consumer_group_heartbeat, delete_groups, describe_groups, heartbeat,
    join_group, leave_group, list_groups, offset_commit, offset_delete, offset_fetch, sync_group,
};
use super::memory::Reserved;
use super::reply::Reply;

/// The service behind the Kafka door.
pub struct Dispatch {
    ctx: Arc<Context>,
}

impl Dispatch {
    /// A dispatch table over the parts of the process.
    pub fn new(ctx: Arc<Context>) -> Self {
        Self { ctx }
    }
}

impl Handler for Dispatch {
    async fn start(
        &self,
        conn: &Arc<ConnectionState>,
        frame: Bytes,
        mut memory: Reserved,
    ) -> Started {
        let began = self.ctx.clock.mono();
        match read(frame) {
            Ok(Read::Request(task, request)) => {
                memory.shrink_to(task.bytes);
                let task = Task { began, ..task };
                start(&self.ctx, conn, task, request, memory).await
            }
            Ok(Read::UnknownApiVersions(correlation_id)) => {
                let reply = Response::from(api_versions::unsupported()).encode(0, correlation_id);
                Started::Pending(async { Ok(Some(reply.into())) }.boxed())
            }
            Err(refusal) => Started::Refused(refusal),
        }
    }
}

/// What is kept of a request besides its body.
struct Task {
    api: ApiKey,
    call: Call,
    correlation_id: i32,
    began: Mono,
    frame_bytes: usize,
    /// Bytes of the frame and of what was decoded from it.
    bytes: usize,
}

#[expect(
    clippy::large_enum_variant,
    reason = "taken apart where it is made, and the small variant is rare"
)]
enum Read {
    Request(Task, Request),
    /// ApiVersions in a version that is not served.
    UnknownApiVersions(i32),
}

/// Reads header and body.
fn read(frame: Bytes) -> Result<Read, Refusal> {
    let frame_bytes = frame.len();
    let mut reader = Reader::new(frame);
    let header = RequestHeader::read(&mut reader)
        .map_err(|e| Refusal(format!("a frame is no request: {e}")))?;
    let version = header.api_version;
    let Some(api) = ApiKey::from_code(header.api_key) else {
        return Err(unserved(header.api_key, header.client_id.as_deref()));
    };
    if !api.serves(version) {
        if api == ApiKey::ApiVersions {
            return Ok(Read::UnknownApiVersions(header.correlation_id));
        }
        return Err(Refusal(format!("{} v{version} is not served", api.name())));
    }
    let request = Request::read(api, version, &mut reader)
        .map_err(|e| Refusal(format!("{} v{version} is malformed: {e}", api.name())))?;
    let call = Call {
        version,
        client_id: header.client_id.map(Into::into),
    };
    let correlation_id = header.correlation_id;
    Ok(Read::Request(
        Task {
            api,
            call,
            correlation_id,
            began: Mono::default(),
            frame_bytes,
            bytes: frame_bytes.saturating_add(reader.spent()),
        },
        request,
    ))
}

/// Why a request of an API that is not there closes the connection. Those of transactions are named,
/// with the client: many clients show no more than that it was closed.
fn unserved(api_key: i16, client_id: Option<&str>) -> Refusal {
    let name = match api_key {
        24 => "AddPartitionsToTxn",
        25 => "AddOffsetsToTxn",
        26 => "EndTxn",
        27 => "WriteTxnMarkers",
        28 => "TxnOffsetCommit",
        61 => "DescribeProducers",
        65 => "DescribeTransactions",
        66 => "ListTransactions",
        _ => return Refusal(format!("api {api_key} is not served")),
    };
    let client_id = client_id.unwrap_or_default();
    Refusal(format!(
        "{name} of client {client_id:?} is not served: transactions are not there yet"
    ))
}

/// Starts a request. Only Produce does anything before its turn to be answered: its appends keep
/// the order of arrival, whatever earlier requests wait for.
async fn start(
    ctx: &Arc<Context>,
    conn: &Arc<ConnectionState>,
    task: Task,
    request: Request,
    memory: Reserved,
) -> Started {
    let (ctx, conn) = (Arc::clone(ctx), Arc::clone(conn));
    let request = match request {
        Request::Produce(request) => {
            if produce::names_too_many(&request, task.frame_bytes) {
                let what = "Produce names more topics or partitions than its frame holds batches";
                return Started::Refused(Refusal(what.to_owned()));
            }
            let (frame_bytes, began) = (task.frame_bytes, task.began);
            let kept = produce::kept_bytes(&request);
            let decoded = task.bytes.saturating_sub(frame_bytes);
            let mut pending_memory = ctx.request_memory.reserve_pending(kept + decoded).await;
            let pending =
                produce::start(&ctx, &conn, &task.call, request, frame_bytes, began).await;
            // From here on the WAL's permits stand for the batches.
            drop(memory);
            pending_memory.shrink_to(kept);
            let memory = pending_memory;
            return Started::Pending(acknowledge(ctx, conn, task, pending, memory).boxed());
        }
        other => other,
    };
    let reply = async move {
        let reply = match request {
            Request::Fetch(request) => {
                let fetched = fetch::handle(&ctx, &conn, &task.call, request, memory).await?;
                finish(&ctx, &task, &fetched.response.into(), fetched.memory)
            }
            other => respond(&ctx, &conn, &task, other, memory).await?,
        };
        Ok(Some(reply))
    };
    Started::Pending(reply.boxed())
}

/// Answers a request that is neither Produce nor Fetch. An answer that is far larger than its request
/// needs memory of its own: before it is made, if the request says how large it becomes; else, where
/// there is none, it is let go, and made again once there is.
async fn respond(
    ctx: &Context,
    conn: &ConnectionState,
    task: &Task,
    request: Request,
    mut memory: Reserved,
) -> Result<Reply, Refusal> {
    let room = match answer_size::of(&request)? {
        bytes if bytes > LARGE_ANSWER_BYTES => Some(ctx.fetch_memory.reserve_answer(bytes).await),
        _ => None,
    };
    let again = only_looks(&request).then(|| request.clone());
    let response = answer(ctx, conn, &task.call, request, &mut memory).await?;
    let reply = finish(ctx, task, &response, Some(memory));
    if room.is_some() {
        let frame = reply.frame;
        return Ok(Reply {
            frame,
            memory: room,
        });
    }
    let Some(again) = again.filter(|_| reply.frame.len() > LARGE_ANSWER_BYTES) else {
        return Ok(reply);
    };
    let bytes = reply.frame.len();
    if let Some(room) = ctx.fetch_memory.try_reserve_answer(bytes) {
        let frame = reply.frame;
        let memory = Some(room);
        return Ok(Reply { frame, memory });
    }
    drop((reply, response));
    let mut room = ctx.fetch_memory.reserve_answer(bytes).await;
    let response = answer(ctx, conn, &task.call, again, &mut room).await?;
    Ok(finish(ctx, task, &response, Some(room)))
}

/// Whether a request changes nothing, and may be answered with much more than it says.
fn only_looks(request: &Request) -> bool {
    matches!(
        request,
        Request::ConsumerGroupDescribe(_)
            | Request::DescribeConfigs(_)
            | Request::DescribeGroups(_)
            | Request::ListGroups(_)
            | Request::Metadata(_)
            | Request::OffsetFetch(_)
    )
}

/// Answers a Produce whose batches are appended, unless it wants no answer.
async fn acknowledge(
    ctx: Arc<Context>,
    conn: Arc<ConnectionState>,
    task: Task,
    pending: PendingProduce,
    memory: Reserved,
) -> Result<Option<Reply>, Refusal> {
    let response = pending.finish(&ctx, &conn).await?;
    Ok(response.map(|response| finish(&ctx, &task, &response.into(), Some(memory))))
}

/// The one match: every API but Produce and Fetch. What waits long gives `memory` back meanwhile.
async fn answer(
    ctx: &Context,
    conn: &ConnectionState,
    call: &Call,
    request: Request,
    memory: &mut Reserved,
) -> Result<Response, Refusal> {
    Ok(match request {
        Request::AlterConfigs(request) => alter_configs::handle(ctx, request).await.into(),
        Request::ApiVersions(request) => api_versions::handle(conn, call, request).into(),
        Request::ConsumerGroupDescribe(request) => {
            consumer_group_describe::handle(ctx, request).await.into()
        }
        Request::ConsumerGroupHeartbeat(request) => {
            let told = consumer_group_heartbeat::handle(ctx, conn, call, request, memory);
            told.await.into()
        }
        Request::CreatePartitions(request) => create_partitions::handle(ctx, request).await.into(),
        Request::CreateTopics(request) => create_topics::handle(ctx, request).await.into(),
        Request::DeleteRecords(request) => delete_records::handle(ctx, request).await?.into(),
        Request::DeleteTopics(request) => delete_topics::handle(ctx, call, request).await.into(),
        Request::DescribeCluster(request) => describe_cluster::handle(ctx, conn, request).into(),
        Request::DescribeConfigs(request) => describe_configs::handle(ctx, request).into(),
        Request::FindCoordinator(request) => {
            find_coordinator::handle(ctx, conn, call, request).into()
        }
        Request::DeleteGroups(request) => delete_groups::handle(ctx, request).await.into(),
        Request::DescribeGroups(request) => {
            describe_groups::handle(ctx, call, request).await.into()
        }
        Request::Heartbeat(request) => heartbeat::handle(ctx, call, request, memory).await.into(),
        Request::IncrementalAlterConfigs(request) => {
            incremental_alter_configs::handle(ctx, request).await.into()
        }
        Request::InitProducerId(request) => {
            let given = init_producer_id::handle(ctx, call, request, memory);
            given.await.into()
        }
        Request::JoinGroup(request) => {
            let joined = join_group::handle(ctx, conn, call, request, memory);
            joined.await.into()
        }
        Request::LeaveGroup(request) => leave_group::handle(ctx, call, request).await.into(),
        Request::ListGroups(request) => list_groups::handle(ctx, request).await.into(),
        Request::ListOffsets(request) => {
            let found = list_offsets::handle(ctx, call, request);
            found.await?.into()
        }
        Request::Metadata(request) => metadata::handle(ctx, conn, call, request).await.into(),
        Request::OffsetCommit(request) => offset_commit::handle(ctx, call, request).await.into(),
        Request::OffsetDelete(request) => offset_delete::handle(ctx, request).await.into(),
        Request::OffsetFetch(request) => offset_fetch::handle(ctx, call, request).await.into(),
        Request::OffsetForLeaderEpoch(request) => leader_epoch::handle(ctx, request).await?.into(),
        Request::SyncGroup(request) => sync_group::handle(ctx, call, request, memory).await.into(),
        Request::Fetch(_) | Request::Produce(_) => {
            return Err(Refusal("started, but not to be answered here".to_owned()));
        }
    })
}

/// An answer up to this size is covered by the memory of its request.
const LARGE_ANSWER_BYTES: usize = 64 * 1024;

/// Encodes an answer and counts it.
fn finish(ctx: &Context, task: &Task, response: &Response, memory: Option<Reserved>) -> Reply {
    let took = ctx.clock.mono().since(task.began);
    ctx.metrics.request(task.api.name(), took);
    Reply {
        frame: response.encode(task.call.version, task.correlation_id),
        memory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_transactions_are_named_with_their_client() {
        let mut frame = vec![0, 24, 0, 0, 0, 0, 0, 7];
        frame.extend_from_slice(&[0, 3]);
        frame.extend_from_slice(b"etl");
        let refusal = read(frame.into()).err().unwrap();
        assert_eq!(
            refusal.0,
            "AddPartitionsToTxn of client \"etl\" is not served: transactions are not there yet"
        );
        let other = read(vec![0, 34, 0, 0, 0, 0, 0, 7, 0xff, 0xff].into());
        assert_eq!(other.err().unwrap().0, "api 34 is not served");
    }
}
