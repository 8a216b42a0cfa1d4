use firn_proto::env::Mono;
use firn_proto::ids::TopicId;
use firn_proto::kafka::fetch::{FetchPartition, FetchTopic, ForgottenTopic};

use super::*;
use crate::kafka::view::{self, Endpoint};

fn marks(high_watermark: i64) -> Marks {
    Marks {
        high_watermark,
        last_stable_offset: high_watermark,
        log_start_offset: 0,
    }
}

fn empty(high_watermark: i64) -> PartitionRead {
    PartitionRead {
        marks: marks(high_watermark),
        ..PartitionRead::failed(ErrorCode::None)
    }
}

fn full(high_watermark: i64) -> PartitionRead {
    PartitionRead {
        records: vec![Bytes::from_static(b"batch")],
        ..empty(high_watermark)
    }
}

/// A request for partitions 0 and 1 of "a" and 0 of "b".
fn request() -> FetchRequest {
    let partition = |partition| FetchPartition {
        partition,
        fetch_offset: 5,
        partition_max_bytes: 100,
        ..FetchPartition::default()
    };
    let topic = |name: &str, id, partitions| FetchTopic {
        topic: name.to_owned(),
        topic_id: TopicId([id; 16]),
        partitions,
    };
    FetchRequest {
        session_epoch: 0,
        topics: vec![
            topic("a", 1, vec![partition(0), partition(1)]),
            topic("b", 2, vec![partition(0)]),
        ],
        ..FetchRequest::default()
    }
}

fn begin(sessions: &mut FetchSessions, version: i16, request: &FetchRequest) -> SessionTurn {
    let request = session_request(version, request);
    sessions.begin(request, Mono(0), 7).unwrap()
}

#[test]
fn partitions_of_a_topic_stand_together_in_the_order_of_the_request() {
    let mut sessions = FetchSessions::new();
    let turn = begin(&mut sessions, 12, &request());
    let answer = response(
        &mut sessions,
        &turn,
        vec![full(9), empty(9), full(9)],
        false,
    );
    let shape: Vec<_> = answer
        .responses
        .iter()
        .map(|topic| (topic.topic.as_str(), topic.partitions.len()))
        .collect();
    assert_eq!(shape, [("a", 2), ("b", 1)]);
    assert_eq!(answer.session_id, turn.id);
}

#[test]
fn from_version_13_on_topics_are_answered_by_id() {
    let mut sessions = FetchSessions::new();
    let turn = begin(&mut sessions, 13, &request());
    let answer = response(
        &mut sessions,
        &turn,
        vec![full(9), empty(9), full(9)],
        false,
    );
    let ids: Vec<_> = answer
        .responses
        .iter()
        .map(|topic| topic.topic_id)
        .collect();
    assert_eq!(ids, [TopicId([1; 16]), TopicId([2; 16])]);
}

#[test]
fn an_incremental_answer_holds_only_news() {
    let mut sessions = FetchSessions::new();
    let turn = begin(&mut sessions, 13, &request());
    response(
        &mut sessions,
        &turn,
        vec![empty(9), empty(9), empty(9)],
        false,
    );
    let again = FetchRequest {
        session_id: turn.id,
        session_epoch: 1,
        ..FetchRequest::default()
    };
    let turn = begin(&mut sessions, 13, &again);
    // Partition 1 of "a" has a new high watermark, the rest is as it was told.
    let answer = response(
        &mut sessions,
        &turn,
        vec![empty(9), empty(10), empty(9)],
        false,
    );
    assert_eq!(answer.responses.len(), 1);
    assert_eq!(answer.responses[0].partitions.len(), 1);
    assert_eq!(answer.responses[0].partitions[0].partition_index, 1);
}

#[test]
fn an_incremental_answer_repeats_errors() {
    let mut sessions = FetchSessions::new();
    let turn = begin(&mut sessions, 13, &request());
    let failed = || PartitionRead::failed(ErrorCode::NotLeaderOrFollower);
    response(
        &mut sessions,
        &turn,
        vec![failed(), empty(9), empty(9)],
        false,
    );
    let again = FetchRequest {
        session_id: turn.id,
        session_epoch: 1,
        ..FetchRequest::default()
    };
    let turn = begin(&mut sessions, 13, &again);
    let answer = response(
        &mut sessions,
        &turn,
        vec![failed(), empty(9), empty(9)],
        false,
    );
    assert_eq!(answer.responses.len(), 1);
}

#[test]
fn what_a_request_forgets_is_left_out_by_its_key() {
    let forget = FetchRequest {
        forgotten_topics_data: vec![ForgottenTopic {
            topic: "a".to_owned(),
            topic_id: TopicId([1; 16]),
            partitions: vec![0, 1],
        }],
        ..request()
    };
    let keys = session_request(12, &forget).forgotten;
    assert_eq!(keys[1], (TopicKey::Name("a".into()), 1));
    let keys = session_request(13, &forget).forgotten;
    assert_eq!(keys[0], (TopicKey::Id(TopicId([1; 16])), 0));
}

#[test]
fn aborted_transactions_are_null_unless_only_committed_records_are_read() {
    let mut sessions = FetchSessions::new();
    for (committed, aborted) in [(false, None), (true, Some(vec![]))] {
        let turn = begin(&mut sessions, 12, &request());
        let reads = vec![full(9), full(9), full(9)];
        let answer = response(&mut sessions, &turn, reads, committed);
        assert_eq!(
            answer.responses[0].partitions[0].aborted_transactions,
            aborted
        );
    }
}

#[test]
fn endpoints_are_told_of_the_leaders_that_are_named() {
    let mut sessions = FetchSessions::new();
    let turn = begin(&mut sessions, 16, &request());
    let elsewhere = PartitionRead {
        leader: Some(LeaderIdAndEpoch {
            leader_id: 4,
            leader_epoch: 2,
        }),
        ..PartitionRead::failed(ErrorCode::NotLeaderOrFollower)
    };
    let reads = vec![elsewhere, empty(9), empty(9)];
    let answer = response(&mut sessions, &turn, reads, false);
    let endpoints = [3, 4].map(|node_id| Endpoint {
        node_id,
        host: "h".to_owned(),
        port: 9092,
        rack: None,
    });
    let named = leaders(&answer).collect();
    let told: Vec<_> = view::endpoints_of(&named, endpoints.to_vec())
        .iter()
        .map(|node| node.node_id)
        .collect();
    assert_eq!(told, [4]);
}

#[test]
fn a_name_that_no_topic_may_have_is_taken_out_before_it_is_remembered() {
    let named = |names: &[&str]| FetchRequest {
        topics: names
            .iter()
            .map(|name| FetchTopic {
                topic: (*name).to_owned(),
                partitions: vec![FetchPartition::default()],
                ..FetchTopic::default()
            })
            .collect(),
        ..FetchRequest::default()
    };
    let (longest, too_long) = ("x".repeat(249), "x".repeat(100 * FETCH_PARTITION_BYTES));
    let mut request = named(&["a/b", &longest, &too_long]);
    let unknown = take_illegal(12, &mut request);
    let left: Vec<_> = request.topics.iter().map(|topic| &topic.topic).collect();
    assert_eq!(left, [&longest]);
    let names: Vec<_> = unknown.iter().map(|topic| &*topic.topic).collect();
    assert_eq!(names, ["a/b", &too_long]);
    for topic in &unknown {
        let error = topic.partitions[0].error_code;
        assert_eq!(error, ErrorCode::UnknownTopicOrPartition);
    }
    assert_eq!(partitions_worth(&unknown), 2 + 2 + 100);

    let mut by_id = named(&[""]);
    assert!(
        take_illegal(13, &mut by_id).is_empty(),
        "there are no names"
    );
    assert_eq!(by_id.topics.len(), 1);
}
