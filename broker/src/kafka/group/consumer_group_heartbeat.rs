//! ConsumerGroupHeartbeat (68), versions 0 and 1: a member of a consumer group joins, is alive, says
//! what it reads and owns, or leaves (KIP-848); it is told what it may own.
//!
//! - v0: a new member may come without an id. v1: it makes its own (KIP-1082); regular expressions.

use firn_proto::cluster::{
    Assignment, ConsumerHeartbeat, ConsumerStanding, GroupError, Reply, Request,
};
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::{PartitionIndex, TopicPartition};
use firn_proto::kafka::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatAssignment, ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse, ConsumerGroupHeartbeatTopicPartitions,
};

use super::{ask_parked, code, optional};
use crate::kafka::context::{Call, ConnectionState, Context};
use crate::kafka::memory::Reserved;

/// Answers at once, unless the journal has to catch up first.
pub async fn handle(
    ctx: &Context,
    conn: &ConnectionState,
    call: &Call,
    request: ConsumerGroupHeartbeatRequest,
    memory: &mut Reserved,
) -> ConsumerGroupHeartbeatResponse {
    let host = format!("/{}", conn.peer.ip());
    let beat = Request::ConsumerHeartbeat(Box::new(translate(call, &host, request)));
    match ask_parked(ctx, call, beat, 0, memory).await {
        Ok(Reply::ConsumerHeartbeat(Ok(standing))) => answer(standing),
        Ok(Reply::ConsumerHeartbeat(Err(error))) => refuse(&error),
        Ok(_) => refuse_with(ErrorCode::UnknownServerError),
        Err(error) => refuse_with(error),
    }
}

pub(super) fn translate(
    call: &Call,
    host: &str,
    request: ConsumerGroupHeartbeatRequest,
) -> ConsumerHeartbeat {
    let topics = request.subscribed_topic_names;
    ConsumerHeartbeat {
        group: request.group_id.into(),
        member: request.member_id.into(),
        requires_member: call.version >= 1,
        epoch: request.member_epoch,
        instance: optional(request.instance_id),
        rack: optional(request.rack_id),
        client_id: call.client_id.clone().unwrap_or_else(|| "".into()),
        client_host: host.into(),
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        topics: topics.map(|names| names.into_iter().map(Into::into).collect()),
        regex: optional(request.subscribed_topic_regex),
        assignor: optional(request.server_assignor),
        owned: request.topic_partitions.map(owned),
    }
}

fn owned(topics: Vec<ConsumerGroupHeartbeatTopicPartitions>) -> Assignment {
    let partitions = topics.into_iter().flat_map(|named| {
        let topic = named.topic_id;
        let indexes = named.partitions.into_iter();
        indexes.map(move |index| TopicPartition {
            topic,
            partition: PartitionIndex(index),
        })
    });
    partitions.collect()
}

pub(super) fn answer(standing: ConsumerStanding) -> ConsumerGroupHeartbeatResponse {
    let assignment = standing.assignment.map(|assignment| {
        let topics = assignment.topics().map(|(topic_id, partitions)| {
            let partitions = partitions.iter().map(|partition| partition.0).collect();
            ConsumerGroupHeartbeatTopicPartitions {
                topic_id,
                partitions,
            }
        });
        ConsumerGroupHeartbeatAssignment {
            topic_partitions: topics.collect(),
        }
    });
    ConsumerGroupHeartbeatResponse {
        member_id: Some(standing.member.to_string()),
        member_epoch: standing.epoch,
        heartbeat_interval_ms: standing.heartbeat_interval_ms,
        assignment,
        ..ConsumerGroupHeartbeatResponse::default()
    }
}

fn refuse(error: &GroupError) -> ConsumerGroupHeartbeatResponse {
    ConsumerGroupHeartbeatResponse {
        error_message: Some(error.to_string()),
        ..refuse_with(code(error))
    }
}

fn refuse_with(error_code: ErrorCode) -> ConsumerGroupHeartbeatResponse {
    ConsumerGroupHeartbeatResponse {
        error_code,
        ..ConsumerGroupHeartbeatResponse::default()
    }
}
