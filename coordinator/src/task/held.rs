//! What waits for the journal, in bytes: a look at a large group takes far more than its question,
//! and while the bucket is away none of it leaves. Pure.

use std::sync::Arc;

use firn_proto::cluster::{
    ArchivedRun, CommitTopicResult, CommittedOffset, DescribedConsumerGroup,
    DescribedConsumerMember, DescribedGroup, DescribedMember, Doomed, FetchTopicResult,
    FetchedOffsets, Garbage, GroupError, JoinedMember, ListedGroup, MapPart, NamedPartitions,
    PartitionFold, Reply, Request, TopicRefusal,
};
use firn_proto::ids::PartitionIndex;
use firn_proto::limits::{
    COORDINATOR_HELD_BYTES_MAX, COORDINATOR_HELD_READ_BYTES_MAX, GROUP_PARTITION_BYTES,
};

/// From how many waiting bytes on a request is told to come again. `None`, never: Heartbeats wait
/// for nothing, and what brokers say of themselves is little, and moves things on.
pub(super) fn bytes_max_before(request: &Request) -> Option<usize> {
    match request {
        Request::AssignPartitions(_)
        | Request::ConfirmDeleted(_)
        | Request::DrainBroker { .. }
        | Request::FoldsOf(_)
        | Request::Heartbeat(_)
        | Request::HoldEpochs(_)
        | Request::LeaveBroker(_)
        | Request::MovePartitions(_)
        | Request::PendingRecovery
        | Request::RegisterBroker(_)
        | Request::ReleasePartitions(_)
        | Request::ReportProgress(_)
        | Request::ResumePartitions(_)
        | Request::StreamSealed(_)
        | Request::TakePart { .. } => None,
        Request::DescribeArchive(_)
        | Request::DescribeConsumerGroups(_)
        | Request::DescribeGroups(_)
        | Request::FindRuns(_)
        | Request::ListGarbage
        | Request::ListGroups(_)
        | Request::OffsetFetch(_) => Some(COORDINATOR_HELD_READ_BYTES_MAX),
        _ => Some(COORDINATOR_HELD_BYTES_MAX),
    }
}

/// About what a reply takes, with what it shares with the state: that may have moved on, and then
/// the reply alone keeps it.
pub(super) fn bytes_of(reply: &Reply) -> usize {
    let more: usize = match reply {
        Reply::Folds(folds) => folds.iter().map(fold).sum(),
        Reply::CreateTopics(results) => size_of_val(&results[..]) + refusals(results.iter()),
        Reply::DeleteTopics(results) => size_of_val(&results[..]) + refusals(results.iter()),
        Reply::Topics(results) => size_of_val(&results[..]) + refusals(results.iter()),
        Reply::JoinGroup(Ok(joined)) => joined.members.iter().map(joined_member).sum(),
        Reply::SyncGroup(Ok(synced)) => synced.assignment.len(),
        Reply::OffsetCommit(Ok(topics)) => topics.iter().map(committed_topic).sum(),
        Reply::OffsetFetch(groups) => groups.iter().map(fetched_group).sum(),
        Reply::DescribeGroups(groups) => groups.iter().map(described_group).sum(),
        Reply::ConsumerHeartbeat(Ok(standing)) => {
            let assignment = standing.assignment.as_ref();
            assignment.map_or(0, |assignment| assignment.len() * GROUP_PARTITION_BYTES)
        }
        Reply::DescribeConsumerGroups(groups) => groups.iter().map(described_consumer_group).sum(),
        Reply::ListGroups(groups) => {
            let named: usize = groups.iter().map(|group| group.group.len()).sum();
            groups.len() * size_of::<ListedGroup>() + named
        }
        Reply::DeleteGroups(results) => size_of_val(&results[..]),
        Reply::LeaveGroup(Ok(left)) => size_of_val(&left.members[..]),
        Reply::Archive(Err(_)) => REFUSAL_BYTES,
        Reply::LogStarts(results) => {
            let refused = results.iter().filter(|result| result.is_err()).count();
            size_of_val(&results[..]) + refused * REFUSAL_BYTES
        }
        Reply::Runs(Some(found)) => found_runs(&found.part),
        Reply::Archives(partitions) => size_of_val(&partitions[..]),
        Reply::Garbage(garbage) => listed_garbage(garbage),
        // A few bytes, or for brokers, who are few.
        _ => 0,
    };
    size_of::<Reply>() + more
}

fn fold(fold: &Option<PartitionFold>) -> usize {
    let ranges = fold.iter().map(|fold| size_of_val(&fold.ranges[..]));
    size_of_val(fold) + ranges.sum::<usize>()
}

fn refusals<'a, T: 'a>(results: impl Iterator<Item = &'a Result<T, TopicRefusal>>) -> usize {
    results.filter(|result| result.is_err()).count() * REFUSAL_BYTES
}

fn found_runs(part: &MapPart) -> usize {
    let MapPart::Runs(runs) = part else {
        return 0;
    };
    let run = |run: &Arc<ArchivedRun>| {
        size_of_val(run) + size_of_val(&**run) + size_of_val(&run.row_groups[..])
    };
    runs.iter().map(run).sum()
}

fn listed_garbage(garbage: &Garbage) -> usize {
    let doomed = garbage.doomed.iter().map(|queued| {
        let name = match &queued.what {
            Doomed::Segment { topic_name, .. } | Doomed::Topic { topic_name, .. } => {
                topic_name.len()
            }
            Doomed::MapPage { .. } => 0,
        };
        size_of_val(queued) + name
    });
    let writers = garbage.writers.iter().map(|writer| {
        size_of_val(writer) + size_of_val(&writer.entered[..]) + size_of_val(&writer.pages[..])
    });
    doomed.chain(writers).sum::<usize>() + size_of_val(&garbage.streams[..])
}

fn joined_member(member: &JoinedMember) -> usize {
    size_of::<JoinedMember>() + member.metadata.len()
}

fn committed_topic(topic: &CommitTopicResult) -> usize {
    size_of::<CommitTopicResult>() + size_of_val(&topic.partitions[..])
}

fn fetched_group(fetched: &FetchedOffsets) -> usize {
    let topics = fetched.result.iter().flatten();
    size_of::<FetchedOffsets>() + topics.map(fetched_topic).sum::<usize>()
}

fn fetched_topic(topic: &FetchTopicResult) -> usize {
    type Fetched = (PartitionIndex, Result<Option<CommittedOffset>, GroupError>);
    let note = |(_, result): &Fetched| {
        let offset = result.as_ref().ok().and_then(Option::as_ref);
        offset.map_or(0, |offset| offset.metadata.len())
    };
    let notes: usize = topic.partitions.iter().map(note).sum();
    size_of::<FetchTopicResult>() + size_of_val(&topic.partitions[..]) + notes
}

fn described_group(described: &Result<DescribedGroup, GroupError>) -> usize {
    let members = described.iter().flat_map(|group| &group.members);
    let member = |member: &DescribedMember| {
        size_of::<DescribedMember>() + member.metadata.len() + member.assignment.len()
    };
    size_of_val(described) + members.map(member).sum::<usize>()
}

fn described_consumer_group(described: &Result<DescribedConsumerGroup, GroupError>) -> usize {
    let named = |topics: &[NamedPartitions]| {
        let topics = topics.iter();
        let bytes = topics.map(|topic| size_of_val(topic) + size_of_val(&topic.partitions[..]));
        bytes.sum::<usize>()
    };
    let members = described.iter().flat_map(|group| &group.members);
    let member = |member: &DescribedConsumerMember| {
        let topics = size_of_val(member) + size_of_val(&member.topics[..]);
        topics + named(&member.assigned) + named(&member.target)
    };
    size_of_val(described) + members.map(member).sum::<usize>()
}

/// What a refusal says, rounded up.
const REFUSAL_BYTES: usize = 512;
