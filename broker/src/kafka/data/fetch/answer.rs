//! From a Fetch request to the partitions to read, and from what was read to the response. Pure.

use std::sync::Arc;

use bytes::Bytes;
use firn_proto::cluster::TopicKey;
use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::fetch::{
    EpochEndOffset, FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData,
};
use firn_proto::kafka::leaders::LeaderIdAndEpoch;
use firn_proto::limits::FETCH_PARTITION_BYTES;
use firn_proto::topic_name::check_topic_name;

use super::super::epochs::EpochEnd;
use super::super::fetch_session::{
    FetchSessions, Found, Marks, SessionRequest, SessionTurn, Wanted,
};

/// The first version that names topics by id.
pub(super) const IDS_FROM: i16 = 13;

/// What was found in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PartitionRead {
    /// Why there are no records, or `None`.
    pub(super) error: ErrorCode,
    /// The partition's bounds, each −1 if it could not be looked at.
    pub(super) marks: Marks,
    /// Whole batches, the first of which holds the offset asked for.
    pub(super) records: Vec<Bytes>,
    /// Where the client and the log part.
    pub(super) diverging: Option<EpochEnd>,
    /// Who leads the partition, if not this broker or not in the epoch that the client named.
    pub(super) leader: Option<LeaderIdAndEpoch>,
    /// The broker of the client's rack that it is to read from.
    pub(super) preferred: Option<i32>,
}

impl PartitionRead {
    /// Nothing could be read.
    pub(super) fn failed(error: ErrorCode) -> Self {
        Self {
            error,
            marks: Marks {
                high_watermark: -1,
                last_stable_offset: -1,
                log_start_offset: -1,
            },
            records: Vec::new(),
            diverging: None,
            leader: None,
            preferred: None,
        }
    }

    /// Bytes of the records.
    pub(super) fn bytes(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }

    /// Whether the client must be told at once.
    pub(super) fn is_urgent(&self) -> bool {
        self.error.is_error() || self.diverging.is_some() || self.preferred.is_some()
    }
}

/// Takes the topics out of a request that no topic may be called: the answer says of each partition
/// that there is none, and no session remembers them, however long their names are.
pub(super) fn take_illegal(
    version: i16,
    request: &mut FetchRequest,
) -> Vec<FetchableTopicResponse> {
    if version >= IDS_FROM {
        return Vec::new();
    }
    let is_illegal = |name: &str| check_topic_name(name).is_err();
    let forgotten = &mut request.forgotten_topics_data;
    forgotten.retain(|topic| !is_illegal(&topic.topic));
    let topics = &mut request.topics;
    let illegal = topics.extract_if(.., |topic| is_illegal(&topic.topic));
    let unknown = || PartitionRead::failed(ErrorCode::UnknownTopicOrPartition);
    illegal
        .map(|topic| FetchableTopicResponse {
            topic: topic.topic,
            partitions: topic
                .partitions
                .iter()
                .map(|wanted| partition_data(wanted.partition, unknown(), false))
                .collect(),
            ..FetchableTopicResponse::default()
        })
        .collect()
}

/// How many partitions of a request take the memory of these answers.
pub(super) fn partitions_worth(unknown: &[FetchableTopicResponse]) -> usize {
    let worth = |topic: &FetchableTopicResponse| {
        1 + topic.partitions.len() + topic.topic.len() / FETCH_PARTITION_BYTES
    };
    unknown.iter().map(worth).sum()
}

/// The part of a request that sessions deal with.
pub(super) fn session_request(version: i16, request: &FetchRequest) -> SessionRequest {
    let key = |name: &String, id| {
        if version >= IDS_FROM {
            TopicKey::Id(id)
        } else {
            TopicKey::Name(Arc::from(name.as_str()))
        }
    };
    let wanted = request.topics.iter().flat_map(|topic| {
        // One name for all its partitions: a long name must not be copied for each of many.
        let topic_key = key(&topic.topic, topic.topic_id);
        topic.partitions.iter().map(move |partition| Wanted {
            topic: topic_key.clone(),
            partition: partition.partition,
            fetch_offset: partition.fetch_offset,
            max_bytes: partition.partition_max_bytes,
            current_leader_epoch: partition.current_leader_epoch,
            last_fetched_epoch: partition.last_fetched_epoch,
        })
    });
    let forgotten = request.forgotten_topics_data.iter().flat_map(|topic| {
        let topic_key = key(&topic.topic, topic.topic_id);
        let partitions = topic.partitions.iter();
        partitions.map(move |partition| (topic_key.clone(), *partition))
    });
    SessionRequest {
        id: request.session_id,
        epoch: request.session_epoch,
        uses_ids: version >= IDS_FROM,
        wanted: wanted.collect(),
        forgotten: forgotten.collect(),
    }
}

/// The response to a turn. `reads` are those of `turn.wanted`, in its order; of an incremental
/// turn only the news is answered.
pub(super) fn response(
    sessions: &mut FetchSessions,
    turn: &SessionTurn,
    reads: Vec<PartitionRead>,
    read_committed: bool,
) -> FetchResponse {
    let mut responses: Vec<FetchableTopicResponse> = Vec::new();
    for (index, (wanted, read)) in turn.wanted.iter().zip(reads).enumerate() {
        let found = Found {
            marks: read.marks,
            has_records: !read.records.is_empty(),
            has_error: read.is_urgent(),
        };
        if !sessions.include(turn, index, &found) {
            continue;
        }
        let data = partition_data(wanted.partition, read, read_committed);
        match responses.last_mut() {
            Some(last) if is_of(last, &wanted.topic) => last.partitions.push(data),
            _ => responses.push(topic_response(&wanted.topic, data)),
        }
    }
    FetchResponse {
        session_id: turn.id,
        responses,
        ..FetchResponse::default()
    }
}

/// A response without partitions.
pub(super) fn refusal(error_code: ErrorCode) -> FetchResponse {
    FetchResponse {
        error_code,
        ..FetchResponse::default()
    }
}

/// The leaders that `response` names.
pub(super) fn leaders(response: &FetchResponse) -> impl Iterator<Item = i32> {
    let partitions = response
        .responses
        .iter()
        .flat_map(|topic| &topic.partitions);
    partitions.map(|partition| partition.current_leader.leader_id)
}

fn topic_response(topic: &TopicKey, data: PartitionData) -> FetchableTopicResponse {
    let mut response = FetchableTopicResponse {
        partitions: vec![data],
        ..FetchableTopicResponse::default()
    };
    match topic {
        TopicKey::Name(name) => response.topic = name.to_string(),
        TopicKey::Id(id) => response.topic_id = *id,
    }
    response
}

fn is_of(response: &FetchableTopicResponse, topic: &TopicKey) -> bool {
    match topic {
        TopicKey::Name(name) => response.topic == **name,
        TopicKey::Id(id) => response.topic_id == *id,
    }
}

fn partition_data(partition: i32, read: PartitionRead, read_committed: bool) -> PartitionData {
    let diverging_epoch = read
        .diverging
        .map_or_else(Default::default, |end| EpochEndOffset {
            epoch: end.epoch,
            end_offset: end.end_offset,
        });
    PartitionData {
        partition_index: partition,
        error_code: read.error,
        high_watermark: read.marks.high_watermark,
        last_stable_offset: read.marks.last_stable_offset,
        log_start_offset: read.marks.log_start_offset,
        diverging_epoch,
        current_leader: read.leader.unwrap_or_default(),
        // No transaction is ever aborted while none can be begun.
        aborted_transactions: read_committed.then(Vec::new),
        preferred_read_replica: read.preferred.unwrap_or(-1),
        records: Some(read.records.into()),
        ..PartitionData::default()
    }
}

#[cfg(test)]
mod tests;
