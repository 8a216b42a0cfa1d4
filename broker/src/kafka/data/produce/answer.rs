//! The response to a Produce request, put together from what became of each batch. Pure.

use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::produce::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, ProduceResponse,
};

use super::admit::Refused;
use crate::partition::Appended;

/// A batch that is where `acks` wants it.
pub(super) fn appended(index: i32, appended: Appended) -> PartitionProduceResponse {
    PartitionProduceResponse {
        index,
        base_offset: appended.base_offset,
        log_append_time_ms: appended.log_append_ms.unwrap_or(-1),
        log_start_offset: appended.log_start,
        ..PartitionProduceResponse::default()
    }
}

/// A batch that was not taken.
pub(super) fn refused(index: i32, refused: Refused) -> PartitionProduceResponse {
    let record_errors = refused.record.map(|batch_index| BatchIndexAndErrorMessage {
        batch_index,
        batch_index_error_message: refused.message.clone(),
    });
    PartitionProduceResponse {
        index,
        error_code: refused.code,
        base_offset: -1,
        record_errors: record_errors.into_iter().collect(),
        error_message: refused.message,
        ..PartitionProduceResponse::default()
    }
}

/// The leaders that `response` names.
pub(super) fn leaders(response: &ProduceResponse) -> impl Iterator<Item = i32> {
    let partitions = response
        .responses
        .iter()
        .flat_map(|topic| &topic.partition_responses);
    partitions.map(|partition| partition.current_leader.leader_id)
}

/// Whether somebody else leads a partition of the response.
pub(super) fn names_leaders(response: &ProduceResponse) -> bool {
    response
        .responses
        .iter()
        .flat_map(|topic| &topic.partition_responses)
        .any(|partition| partition.error_code == ErrorCode::NotLeaderOrFollower)
}
