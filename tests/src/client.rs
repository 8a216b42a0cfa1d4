//! The oracle client: topics, produce, fetch, offsets. Blocking, one broker, no retry beyond what
//! a method says: a test decides what an error means.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, DeleteRecordsRequest, FetchRequest,
    IncrementalAlterConfigsRequest, InitProducerIdRequest, ListOffsetsRequest, MetadataRequest,
    MetadataResponse, ProduceRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use crate::records::{ProducerFields, Record, StoredRecord, decode_batches, encode_batch};
use crate::wait;
use crate::wire::Connection;

/// Produce with topics by name.
pub const PRODUCE_VERSION: i16 = 9;
/// Fetch with topics by name.
pub const FETCH_VERSION: i16 = 12;
const LIST_OFFSETS_VERSION: i16 = 7;
const METADATA_VERSION: i16 = 12;
const CREATE_TOPICS_VERSION: i16 = 7;
const DELETE_RECORDS_VERSION: i16 = 2;
const ALTER_CONFIGS_VERSION: i16 = 1;
const INIT_PRODUCER_ID_VERSION: i16 = 4;

/// A topic, to the APIs of configs.
const TOPIC_RESOURCE: i8 = 2;

/// DeleteRecords of all there is.
pub const HIGH_WATERMARK: i64 = -1;
/// `ListOffsets` of the log's start.
pub const EARLIEST: i64 = -2;
/// `ListOffsets` of the next offset to read.
pub const LATEST: i64 = -1;

/// Errors of the protocol, as far as the tests tell them apart.
pub mod code {
    /// No error.
    pub const NONE: i16 = 0;
    /// The offset is outside the log.
    pub const OFFSET_OUT_OF_RANGE: i16 = 1;
    /// A batch fails its checksum or contradicts itself.
    pub const CORRUPT_MESSAGE: i16 = 2;
    /// No such topic or partition.
    pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    /// Somebody else may lead the partition: a broker cut off from its bucket says so, too.
    pub const NOT_LEADER_OR_FOLLOWER: i16 = 6;
    /// The batch is larger than the topic takes.
    pub const MESSAGE_TOO_LARGE: i16 = 10;
    /// The group moves to its next generation.
    pub const REBALANCE_IN_PROGRESS: i16 = 27;
    /// This version of the API is not served.
    pub const UNSUPPORTED_VERSION: i16 = 35;
    /// The topic is there already.
    pub const TOPIC_ALREADY_EXISTS: i16 = 36;
    /// The record format is not taken.
    pub const UNSUPPORTED_FOR_MESSAGE_FORMAT: i16 = 43;
    /// A config is not legal, or cannot be had.
    pub const INVALID_CONFIG: i16 = 40;
    /// A sequence has a gap before it.
    pub const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
    /// There is no group of this id.
    pub const GROUP_ID_NOT_FOUND: i16 = 69;
    /// The join must be repeated with the member id that came with this.
    pub const MEMBER_ID_REQUIRED: i16 = 79;
    /// A member of the group reads the topic.
    pub const GROUP_SUBSCRIBED_TO_TOPIC: i16 = 86;
    /// A record is refused.
    pub const INVALID_RECORD: i16 = 87;
    /// Answers after which the same batch is sent again, and the same group request.
    pub const RETRIABLE: [i16; 11] = [3, 5, 6, 7, 13, 14, 15, 16, 19, 20, 56];
}

/// What the broker said to one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Produced {
    /// An error of [`code`].
    pub error: i16,
    /// The offset of the batch's first record.
    pub base_offset: i64,
}

/// What the broker said to one fetch of one partition.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// An error of [`code`].
    pub error: i16,
    /// The end of what may be read.
    pub high_watermark: i64,
    /// Whole batches, the last perhaps cut.
    pub batches: Bytes,
}

/// A client of one broker.
#[derive(Debug)]
pub struct Client {
    /// The connection, for requests this type has no method for.
    pub connection: Connection,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            connection: Connection::open(address)?,
        })
    }

    /// Makes a topic, replicated as the broker does by default, and waits until each partition has a
    /// leader.
    ///
    /// # Panics
    /// When the broker refuses; a topic that is there already is no refusal.
    pub fn create_topic(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        match self.try_create_topic(name, partitions, configs) {
            Ok(()) | Err((code::TOPIC_ALREADY_EXISTS, _)) => self.wait_leaders(name, partitions),
            Err((code, message)) => panic!("cannot create {name}: error {code} {message}"),
        }
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// The code and the message with which the broker refuses.
    ///
    /// # Panics
    /// When the connection breaks.
    pub fn try_create_topic(
        &mut self,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> Result<(), (i16, String)> {
        let configs = configs.iter().map(|(name, value)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_string((*name).to_owned()))
                .with_value(Some(StrBytes::from_string((*value).to_owned())))
        });
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(-1)
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(30_000);
        let response = self.connection.call(CREATE_TOPICS_VERSION, &request);
        let topic = response.expect("CreateTopics is answered").topics.remove(0);
        let message = topic.error_message.map(|message| message.to_string());
        match topic.error_code {
            code::NONE => Ok(()),
            code => Err((code, message.unwrap_or_default())),
        }
    }

    /// Deletes the records of a partition below an offset, or below [`HIGH_WATERMARK`].
    ///
    /// # Panics
    /// When the broker refuses.
    pub fn delete_records(&mut self, name: &str, partition: i32, offset: i64) {
        let partition = DeleteRecordsPartition::default()
            .with_partition_index(partition)
            .with_offset(offset);
        let topic = DeleteRecordsTopic::default()
            .with_name(topic_name(name))
            .with_partitions(vec![partition]);
        let request = DeleteRecordsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(30_000);
        let response = self.connection.call(DELETE_RECORDS_VERSION, &request);
        let deleted = response.expect("DeleteRecords is answered");
        let code = deleted.topics[0].partitions[0].error_code;
        assert_eq!(code, code::NONE, "cannot delete records of {name}");
    }

    /// Sets configs of a topic.
    ///
    /// # Panics
    /// When the broker refuses.
    pub fn alter_topic(&mut self, name: &str, configs: &[(&str, &str)]) {
        let configs = configs.iter().map(|(name, value)| {
            AlterableConfig::default()
                .with_name(StrBytes::from_string((*name).to_owned()))
                .with_value(Some(StrBytes::from_string((*value).to_owned())))
        });
        let topic = AlterConfigsResource::default()
            .with_resource_type(TOPIC_RESOURCE)
            .with_resource_name(StrBytes::from_string(name.to_owned()))
            .with_configs(configs.collect());
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![topic]);
        let response = self.connection.call(ALTER_CONFIGS_VERSION, &request);
        let altered = response
            .expect("AlterConfigs is answered")
            .responses
            .remove(0);
        assert_eq!(
            altered.error_code,
            code::NONE,
            "{:?}",
            altered.error_message
        );
    }

    /// Waits until every partition of the topic has a leader.
    pub fn wait_leaders(&mut self, name: &str, partitions: i32) {
        wait::until("leaders of all partitions", wait::PATIENCE, || {
            let metadata = self.metadata(name).expect("Metadata is answered");
            let topic = metadata.topics.first()?;
            let led = topic.partitions.iter().filter(|partition| {
                partition.error_code == code::NONE && partition.leader_id.0 >= 0
            });
            (led.count() == partitions as usize).then_some(())
        });
    }

    /// Metadata of one topic, which is not created by asking.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn metadata(&mut self, name: &str) -> io::Result<MetadataResponse> {
        let topic = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request = MetadataRequest::default()
            .with_topics(Some(vec![topic]))
            .with_allow_auto_topic_creation(false);
        self.connection.call(METADATA_VERSION, &request)
    }

    /// A new producer id for idempotent producing.
    ///
    /// # Panics
    /// When the broker gives none within the harness's patience.
    pub fn init_producer(&mut self) -> ProducerFields {
        wait::until("a producer id", wait::PATIENCE, || {
            let request = InitProducerIdRequest::default()
                .with_transactional_id(None)
                .with_transaction_timeout_ms(60_000);
            let response = self
                .connection
                .call(INIT_PRODUCER_ID_VERSION, &request)
                .expect("InitProducerId is answered");
            (response.error_code == code::NONE).then_some(ProducerFields {
                id: response.producer_id.0,
                epoch: response.producer_epoch,
                base_sequence: 0,
            })
        })
    }

    /// Appends records as one batch with acks=all, again while the partition is on its way to its
    /// leader. Returns the offset of the first.
    ///
    /// # Panics
    /// When the broker refuses for good, or the connection breaks.
    pub fn append(&mut self, topic: &str, partition: i32, records: &[Record]) -> i64 {
        wait::until("a batch to be taken", wait::PATIENCE, || {
            let batch = encode_batch(records, ProducerFields::NONE);
            let produced = self
                .produce(topic, partition, batch)
                .expect("Produce is answered");
            if code::RETRIABLE.contains(&produced.error) {
                return None;
            }
            assert_eq!(produced.error, code::NONE, "Produce to {topic}/{partition}");
            Some(produced.base_offset)
        })
    }

    /// Produces one batch with acks=all and waits for the answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: Bytes) -> io::Result<Produced> {
        self.produce_with_acks(topic, partition, batch, -1)
    }

    /// Produces one batch and waits for the answer; `acks` is 1 or -1.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn produce_with_acks(
        &mut self,
        topic: &str,
        partition: i32,
        batch: Bytes,
        acks: i16,
    ) -> io::Result<Produced> {
        let request = produce_request(topic, partition, batch, acks);
        self.connection.send(PRODUCE_VERSION, &request)?;
        self.receive_produced()
    }

    /// Sends one batch with acks=all; [`Self::receive_produced`] has its answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send_produce(&mut self, topic: &str, partition: i32, batch: Bytes) -> io::Result<()> {
        let request = produce_request(topic, partition, batch, -1);
        self.connection.send(PRODUCE_VERSION, &request)
    }

    /// The answer to the oldest batch that has none.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn receive_produced(&mut self) -> io::Result<Produced> {
        let response = self.connection.receive::<ProduceRequest>(PRODUCE_VERSION)?;
        let partition = &response.responses[0].partition_responses[0];
        Ok(Produced {
            error: partition.error_code,
            base_offset: partition.base_offset,
        })
    }

    /// Fetches from one partition, waiting up to half a second for a first byte.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> io::Result<Fetched> {
        let request = fetch_request(topic, partition, offset, 500);
        let response = self.connection.call(FETCH_VERSION, &request)?;
        let partition = &response.responses[0].partitions[0];
        Ok(Fetched {
            error: partition.error_code,
            high_watermark: partition.high_watermark,
            batches: partition.records.clone().unwrap_or_default(),
        })
    }

    /// Everything from `from` up to the partition's end as it is at the call.
    ///
    /// # Panics
    /// When the broker answers an error, or no record where the log has one.
    pub fn read(&mut self, topic: &str, partition: i32, from: i64) -> Vec<StoredRecord> {
        let end = self.list_offset(topic, partition, LATEST);
        let read = self.read_to(topic, partition, from, end);
        read.unwrap_or_else(|code| panic!("{topic}/{partition}: error {code}"))
    }

    /// [`Self::read`], or the code of the first error: a partition may go elsewhere meanwhile.
    ///
    /// # Panics
    /// When the broker answers no record where the log has one, or nothing.
    pub fn try_read(
        &mut self,
        topic: &str,
        partition: i32,
        from: i64,
    ) -> Result<Vec<StoredRecord>, i16> {
        let end = self.try_list_offset(topic, partition, LATEST)?;
        self.read_to(topic, partition, from, end)
    }

    fn read_to(
        &mut self,
        topic: &str,
        partition: i32,
        from: i64,
        end: i64,
    ) -> Result<Vec<StoredRecord>, i16> {
        let mut records = Vec::new();
        let mut next = from;
        while next < end {
            let fetched = self
                .fetch(topic, partition, next)
                .expect("Fetch is answered");
            if fetched.error != code::NONE {
                return Err(fetched.error);
            }
            let before = records.len();
            for stored in decode_batches(fetched.batches) {
                // A batch that spans the asked offset is served whole.
                if stored.offset >= next {
                    records.push(stored);
                }
            }
            assert!(
                records.len() > before,
                "{topic}/{partition}: nothing at {next} of {end}"
            );
            next = records[records.len() - 1].offset + 1;
        }
        Ok(records)
    }

    /// The offset `ListOffsets` answers for a timestamp or for [`EARLIEST`], [`LATEST`], asked again
    /// while the broker has not heard from its bucket.
    ///
    /// # Panics
    /// When the broker answers an error.
    pub fn list_offset(&mut self, topic: &str, partition: i32, timestamp: i64) -> i64 {
        wait::until("an offset to be found", wait::PATIENCE, || {
            match self.try_list_offset(topic, partition, timestamp) {
                Err(code::NOT_LEADER_OR_FOLLOWER) => None,
                answer => Some(answer.expect("ListOffsets succeeds")),
            }
        })
    }

    /// [`Self::list_offset`], asked once: the offset or the error's code.
    ///
    /// # Panics
    /// When the connection breaks.
    pub fn try_list_offset(
        &mut self,
        topic: &str,
        partition: i32,
        timestamp: i64,
    ) -> Result<i64, i16> {
        let wanted = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![wanted]);
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_topics(vec![topic]);
        let response = self.connection.call(LIST_OFFSETS_VERSION, &request);
        let answer = response.expect("ListOffsets is answered");
        let partition = &answer.topics[0].partitions[0];
        match partition.error_code {
            code::NONE => Ok(partition.offset),
            error => Err(error),
        }
    }
}

/// A produce request of one batch.
pub fn produce_request(topic: &str, partition: i32, batch: Bytes, acks: i16) -> ProduceRequest {
    let data = PartitionProduceData::default()
        .with_index(partition)
        .with_records(Some(batch));
    let topic = TopicProduceData::default()
        .with_name(topic_name(topic))
        .with_partition_data(vec![data]);
    ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic])
}

/// A topic's name as the protocol crate has it.
pub fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

/// A fetch request of up to 1 MiB of one partition, which waits for the first byte.
pub fn fetch_request(topic: &str, partition: i32, offset: i64, max_wait_ms: i32) -> FetchRequest {
    let wanted = FetchPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(offset)
        .with_last_fetched_epoch(-1)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(1024 * 1024);
    let topic = FetchTopic::default()
        .with_topic(topic_name(topic))
        .with_partitions(vec![wanted]);
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(16 * 1024 * 1024)
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}
