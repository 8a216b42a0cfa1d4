//! Handlers of the group APIs, one file each: they turn a message of any version into a request to
//! the coordinator, and its answer into a message. They decide nothing about groups.

pub mod consumer_group_describe;
pub mod consumer_group_heartbeat;
pub mod delete_groups;
pub mod describe_groups;
pub mod heartbeat;
pub mod join_group;
pub mod leave_group;
pub mod list_groups;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod sync_group;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use firn_proto::cluster::{CoordinatorError, GroupError, Reply, Request, TopicKey};
use firn_proto::error_code::ErrorCode;

use super::context::{Call, Context};
use super::memory::Reserved;

/// Asks the coordinator; an error is one that clients retry, after looking for the coordinator
/// anew.
async fn ask(ctx: &Context, request: Request) -> Result<Reply, ErrorCode> {
    may_read(ctx).await?;
    let answered = ctx.coordinator.call(request).await;
    answered.map_err(|error| unavailable(&error))
}

/// [`ask`], for what is told from memory and changes nothing.
async fn look_up(ctx: &Context, request: Request) -> Result<Reply, ErrorCode> {
    let told = ask(ctx, request).await;
    // While it waited for the journal, this process may have stood still, and another may lead.
    may_read(ctx).await?;
    told
}

/// Groups are told of only while this process knows that no other one leads.
async fn may_read(ctx: &Context) -> Result<(), ErrorCode> {
    let may_read = ctx.coordinator.may_read(ctx.clock.mono()).await;
    may_read.map_err(|error| unavailable(&error))
}

/// [`ask`], for what waits until other members have come: were the memory of such requests held
/// until then, it would be missing for the very requests that they wait for. What is kept besides
/// a few bytes are the client's id and `ids`.
async fn ask_parked(
    ctx: &Context,
    call: &Call,
    request: Request,
    ids: usize,
    memory: &mut Reserved,
) -> Result<Reply, ErrorCode> {
    let kept = call.parked_bytes() + ids;
    let taken = || memory.shrink_to(kept);
    may_read(ctx).await?;
    let answered = ctx.coordinator.call_and(request, taken).await;
    // While it waited, this process may have stood still, and another may lead.
    may_read(ctx).await?;
    answered.map_err(|error| unavailable(&error))
}

/// The code of a group call that had no reply.
fn unavailable(error: &CoordinatorError) -> ErrorCode {
    match error {
        CoordinatorError::Busy => ErrorCode::CoordinatorLoadInProgress,
        CoordinatorError::NotLeader(_) => ErrorCode::NotCoordinator,
        CoordinatorError::Refused(_) => ErrorCode::InvalidRequest,
        CoordinatorError::Stopped => ErrorCode::CoordinatorNotAvailable,
    }
}

/// The code of a refusal.
fn code(error: &GroupError) -> ErrorCode {
    match error {
        GroupError::FencedInstanceId => ErrorCode::FencedInstanceId,
        GroupError::FencedMemberEpoch => ErrorCode::FencedMemberEpoch,
        GroupError::GroupIdNotFound => ErrorCode::GroupIdNotFound,
        GroupError::GroupMaxSizeReached => ErrorCode::GroupMaxSizeReached,
        GroupError::GroupSubscribedToTopic => ErrorCode::GroupSubscribedToTopic,
        GroupError::IllegalGeneration => ErrorCode::IllegalGeneration,
        GroupError::InconsistentGroupProtocol => ErrorCode::InconsistentGroupProtocol,
        GroupError::InvalidCommitOffsetSize => ErrorCode::InvalidCommitOffsetSize,
        GroupError::InvalidGroupId => ErrorCode::InvalidGroupId,
        GroupError::InvalidRegularExpression(_) => ErrorCode::InvalidRegularExpression,
        GroupError::InvalidRequest(_) => ErrorCode::InvalidRequest,
        GroupError::InvalidSessionTimeout => ErrorCode::InvalidSessionTimeout,
        GroupError::MemberIdRequired(_) => ErrorCode::MemberIdRequired,
        GroupError::NonEmptyGroup => ErrorCode::NonEmptyGroup,
        GroupError::OffsetMetadataTooLarge => ErrorCode::OffsetMetadataTooLarge,
        GroupError::RebalanceInProgress => ErrorCode::RebalanceInProgress,
        GroupError::StaleMemberEpoch => ErrorCode::StaleMemberEpoch,
        GroupError::UnknownMemberId => ErrorCode::UnknownMemberId,
        GroupError::UnknownTopicOrPartition => ErrorCode::UnknownTopicOrPartition,
        GroupError::UnreleasedInstanceId => ErrorCode::UnreleasedInstanceId,
        GroupError::UnsupportedAssignor(_) => ErrorCode::UnsupportedAssignor,
        GroupError::UnsupportedVersion => ErrorCode::UnsupportedVersion,
        GroupError::UnstableOffsetCommit => ErrorCode::UnstableOffsetCommit,
    }
}

/// The code of a result that says nothing but whether it went well.
fn code_of(result: &Result<(), GroupError>) -> ErrorCode {
    result.as_ref().err().map_or(ErrorCode::None, code)
}

/// A topic's name as the request gave it; empty if it gave an id.
fn name_of(topic: &TopicKey) -> String {
    match topic {
        TopicKey::Name(name) => name.to_string(),
        TopicKey::Id(_) => String::new(),
    }
}

fn optional(text: Option<String>) -> Option<Arc<str>> {
    text.map(Arc::from)
}

fn optional_string(text: Option<&Arc<str>>) -> Option<String> {
    text.map(ToString::to_string)
}

/// Bytes that the coordinator shares, as a message carries them; nothing is copied.
fn shared(bytes: Arc<[u8]>) -> Bytes {
    Bytes::from_owner(bytes)
}
