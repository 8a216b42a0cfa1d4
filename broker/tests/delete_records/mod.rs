//! Deleting the first records of a partition: they are gone for every reader at once, and stay gone.

use firn_proto::kafka::create_topics::CreatableTopicConfig;
use firn_proto::kafka::delete_records::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsTopic,
};

use super::*;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

fn delete(topic: &str, partition_index: i32, offset: i64) -> DeleteRecordsRequest {
    DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic {
            name: topic.to_owned(),
            partitions: vec![DeleteRecordsPartition {
                partition_index,
                offset,
            }],
        }],
        timeout_ms: 30_000,
    }
}

/// The new first offset of a partition, or why it has none.
fn start_of(result: &DeleteRecordsPartitionResult) -> Result<i64, ErrorCode> {
    match result.error_code {
        ErrorCode::None => Ok(result.low_watermark),
        code => {
            assert_eq!(result.low_watermark, -1, "an error tells no offset");
            Err(code)
        }
    }
}

impl Client {
    async fn delete_records(
        &mut self,
        version: i16,
        request: DeleteRecordsRequest,
    ) -> Result<i64, ErrorCode> {
        let Response::DeleteRecords(response) = self.call(version, request).await else {
            panic!("not DeleteRecords");
        };
        start_of(&response.topics[0].partitions[0])
    }

    async fn delete_to(&mut self, offset: i64) -> Result<i64, ErrorCode> {
        self.delete_records(2, delete(TOPIC, 0, offset)).await
    }

    async fn begin(&mut self) -> i64 {
        self.list(EARLIEST).await.offset
    }

    /// Batches of two records each, at 0, 2, 4 and so on.
    async fn pairs(&mut self, id: TopicId, count: usize) {
        for _ in 0..count {
            let pair = batch(&[TIME, TIME + 1]);
            let produced = self.produce(13, produce_of(id, -1, pair)).await;
            assert_eq!(produced.error_code, ErrorCode::None);
        }
    }

    async fn create(&mut self, name: &str, (config, value): (&str, &str)) {
        let topic = CreatableTopic {
            name: name.to_owned(),
            num_partitions: 1,
            replication_factor: 1,
            configs: vec![CreatableTopicConfig {
                name: config.to_owned(),
                value: Some(value.to_owned()),
            }],
            ..CreatableTopic::default()
        };
        let request = CreateTopicsRequest {
            topics: vec![topic],
            timeout_ms: 30_000,
            ..CreateTopicsRequest::default()
        };
        self.call(5, request).await;
    }

    /// As [`Client::delete_records`], again until the partition, just made, is open.
    async fn delete_patiently(&mut self, request: DeleteRecordsRequest) -> Result<i64, ErrorCode> {
        loop {
            let deleted = self.delete_records(2, request.clone()).await;
            if deleted != Err(ErrorCode::NotLeaderOrFollower) {
                return deleted;
            }
        }
    }
}

#[tokio::test]
async fn deleted_records_are_gone_for_every_reader_at_once() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client.pairs(id, 4).await;
    for version in ApiKey::DeleteRecords.served() {
        let start = 2 * (i64::from(version) + 1);
        let request = delete(TOPIC, 0, start);
        assert_eq!(client.delete_records(version, request).await, Ok(start));
        assert_eq!(client.begin().await, start);
        let below = client.fetch(13, fetch_of(id, start - 1)).await;
        let below = only(&below);
        assert_eq!(below.error_code, ErrorCode::OffsetOutOfRange);
        assert_eq!(below.log_start_offset, start, "where to go on");
        assert_eq!(batches(below), []);
        let at = client.fetch(13, fetch_of(id, start)).await;
        assert_eq!(only(&at).log_start_offset, start);
        assert_eq!(batches(only(&at))[0], (start, 2));
    }
}

/// A batch is stored whole: who asks for its second record gets the first one too, and drops it.
#[tokio::test]
async fn a_log_may_begin_inside_a_batch() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client.pairs(id, 2).await;
    assert_eq!(client.delete_to(3).await, Ok(3));
    assert_eq!(client.begin().await, 3);
    let read = client.fetch(13, fetch_of(id, 3)).await;
    assert_eq!(batches(only(&read)), [(2, 2)]);
    let below = client.fetch(13, fetch_of(id, 2)).await;
    assert_eq!(only(&below).error_code, ErrorCode::OffsetOutOfRange);
    assert_eq!(client.list(TIME).await.offset, 3, "the first at that time");
}

#[tokio::test]
async fn all_that_is_visible_is_deleted_by_minus_one_and_producers_go_on_behind_it() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client.pairs(id, 2).await;
    assert_eq!(client.delete_to(-1).await, Ok(4));
    assert_eq!(client.begin().await, 4);
    assert_eq!(client.list(LATEST).await.offset, 4);
    assert_eq!(client.list(TIME).await.offset, -1, "no record is left");
    client.pairs(id, 1).await;
    let read = client.fetch(13, fetch_of(id, 4)).await;
    assert_eq!(batches(only(&read)), [(4, 2)]);
}

#[tokio::test]
async fn below_the_log_start_nothing_moves_and_the_log_start_is_told() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    assert_eq!(client.delete_patiently(delete(TOPIC, 0, 0)).await, Ok(0));
    assert_eq!(client.delete_to(-1).await, Ok(0), "there is nothing yet");
    client.pairs(id, 2).await;
    assert_eq!(client.delete_to(3).await, Ok(3));
    for offset in [0, 1, 3] {
        assert_eq!(client.delete_to(offset).await, Ok(3));
    }
    assert_eq!(client.begin().await, 3);
}

#[tokio::test]
async fn every_partition_has_a_result_of_its_own() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client.pairs(id, 2).await;
    let mut request = delete(TOPIC, 0, 1);
    for (partition_index, offset) in [(0, 2), (0, 5), (0, -2), (7, 0), (-1, 0)] {
        request.topics[0].partitions.push(DeleteRecordsPartition {
            partition_index,
            offset,
        });
    }
    let unknown = delete("unknown", 0, 0).topics.remove(0);
    request.topics.push(unknown);
    let Response::DeleteRecords(response) = client.call(2, request).await else {
        panic!("not DeleteRecords");
    };
    let of = |index: usize| response.topics[index].partitions.iter().map(start_of);
    let unknown = Err(ErrorCode::UnknownTopicOrPartition);
    let out_of_range = Err(ErrorCode::OffsetOutOfRange);
    assert_eq!(
        of(0).collect::<Vec<_>>(),
        [Ok(2), Ok(2), out_of_range, out_of_range, unknown, unknown],
        "where a partition is named twice, the higher offset counts"
    );
    assert_eq!(of(1).collect::<Vec<_>>(), [unknown]);
}

#[tokio::test]
async fn records_of_a_topic_that_is_only_compacted_stay() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    client
        .create("compacted", ("cleanup.policy", "compact"))
        .await;
    let refused = client.delete_patiently(delete("compacted", 0, 0)).await;
    assert_eq!(refused, Err(ErrorCode::PolicyViolation));
    client
        .create("both", ("cleanup.policy", "compact,delete"))
        .await;
    assert_eq!(client.delete_patiently(delete("both", 0, 0)).await, Ok(0));
}

#[tokio::test]
async fn what_is_deleted_stays_so_in_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let bucket = format!("file://{}", directory.path().display());
    let node = start_on(&bucket).await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client.pairs(id, 3).await;
    assert_eq!(client.delete_to(3).await, Ok(3));
    drop(client);
    node.stop().await.unwrap();

    let node = start_on(&bucket).await;
    let mut client = Client::connect(&node).await;
    client.topic().await;
    assert_eq!(client.delete_patiently(delete(TOPIC, 0, 0)).await, Ok(3));
    assert_eq!(client.begin().await, 3);
    let read = client.fetch(13, fetch_of(id, 3)).await;
    assert_eq!(batches(only(&read)), [(2, 2), (4, 2)]);
}

#[tokio::test]
async fn a_log_start_that_is_not_durable_in_time_is_not_told() {
    let store = FaultStore::in_memory();
    let node = start_on_faults(&store, &[]).await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client.pairs(id, 2).await;
    assert_eq!(client.delete_to(1).await, Ok(1));
    store.set_outage(true);
    let late = DeleteRecordsRequest {
        timeout_ms: 1,
        ..delete(TOPIC, 0, 2)
    };
    let late = client.delete_records(2, late).await;
    assert_eq!(late, Err(ErrorCode::RequestTimedOut));
    let data = client.fetch(13, fetch_of(id, 1)).await;
    assert_eq!(only(&data).log_start_offset, 1);
    assert_eq!(batches(only(&data)), [(0, 2), (2, 2)]);
    // The client has gone, and the journal may hold what it asked for: the owner must come to know.
    drop(client);
    store.set_outage(false);
    let mut client = Client::connect(&node).await;
    while client.begin().await < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(client.begin().await, 2);
}

#[tokio::test]
async fn an_epoch_ends_where_it_did_when_its_records_are_deleted() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    client.pairs(id, 2).await;
    client.delete_to(-1).await.unwrap();
    let request = OffsetForLeaderEpochRequest {
        replica_id: -1,
        topics: vec![OffsetForLeaderTopic {
            topic: TOPIC.to_owned(),
            partitions: vec![OffsetForLeaderPartition {
                partition: 0,
                current_leader_epoch: -1,
                leader_epoch: 0,
            }],
        }],
    };
    let Response::OffsetForLeaderEpoch(response) = client.call(4, request).await else {
        panic!("not OffsetForLeaderEpoch");
    };
    let end = &response.topics[0].partitions[0];
    assert_eq!(
        (end.error_code, end.leader_epoch, end.end_offset),
        (ErrorCode::None, 0, 4)
    );
}
