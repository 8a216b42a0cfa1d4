//! The APIs this broker serves, their versions, and their messages.
//!
//! The ranges are those of Kafka 4.1, to the version: old librdkafka turns features on and off by
//! the presence of one exact version in the advertised range (KAFKA-18659, KAFKA-19444), so a
//! tidier range would silently lose compression or groups.

use std::ops::RangeInclusive;

use super::header::write_response_header;
use super::messages::{
    alter_configs, api_versions, consumer_group_describe, consumer_group_heartbeat,
    create_partitions, create_topics, delete_groups, delete_records, delete_topics,
    describe_cluster, describe_configs, describe_groups, fetch, find_coordinator, heartbeat,
    incremental_alter_configs, init_producer_id, join_group, leave_group, list_groups,
    list_offsets, metadata, offset_commit, offset_delete, offset_fetch, offset_for_leader_epoch,
    produce, sync_group,
};
use super::wire::{DecodeError, Field, Form, Frame, Reader, Writer};

/// One side of the protocol: a message of each API.
macro_rules! bodies {
    (
        $(#[$side_doc:meta])*
        $side:ident: $($(#[$doc:meta])* $api:ident($message:ty),)*
    ) => {
        $(#[$side_doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[allow(clippy::large_enum_variant)]
        pub enum $side {$(
            $(#[$doc])*
            $api($message),
        )*}

        impl $side {
            /// Reads the body of a message of this API.
            ///
            /// # Errors
            /// [`DecodeError`] if the version is not served or the bytes are no such message.
            pub fn read(
                api: ApiKey,
                version: i16,
                reader: &mut Reader,
            ) -> Result<Self, DecodeError> {
                let form = api.served_form(version)?;
                match api {
                    $(ApiKey::$api => Field::read(reader, form).map(Self::$api),)*
                }
            }

            /// The API it belongs to.
            pub fn api(&self) -> ApiKey {
                match self {
                    $(Self::$api(_) => ApiKey::$api,)*
                }
            }

            fn write(&self, writer: &mut Writer, form: Form) {
                match self {
                    $(Self::$api(message) => message.write(writer, form),)*
                }
            }
        }

        $(
            impl From<$message> for $side {
                fn from(message: $message) -> Self {
                    Self::$api(message)
                }
            }
        )*
    };
}

macro_rules! apis {
    ($(
        $(#[$doc:meta])*
        $api:ident = $code:literal, $advertised:expr, served from $served:literal,
            flexible from $flexible:literal, $module:ident::$request:ident, $response:ident;
    )*) => {
        /// An API that this broker serves.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        pub enum ApiKey {$(
            $(#[$doc])*
            $api = $code,
        )*}

        impl ApiKey {
            /// Every API, by number.
            pub const ALL: &[Self] = &[$(Self::$api),*];

            /// The API of this number.
            pub fn from_code(code: i16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$api),)*
                    _ => None,
                }
            }

            /// The versions that ApiVersions names.
            pub fn advertised(self) -> RangeInclusive<i16> {
                match self {
                    $(Self::$api => $advertised,)*
                }
            }

            /// The versions that are served; begins later than [`Self::advertised`] for Produce.
            pub fn served(self) -> RangeInclusive<i16> {
                match self {
                    $(Self::$api => $served..=*($advertised).end(),)*
                }
            }

            fn flexible_from(self) -> i16 {
                match self {
                    $(Self::$api => $flexible,)*
                }
            }

            /// The API's name, as Kafka spells it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$api => stringify!($api),)*
                }
            }
        }

        bodies! {
            /// A decoded request.
            Request: $($(#[$doc])* $api($module::$request),)*
        }

        bodies! {
            /// A response to be encoded.
            Response: $($(#[$doc])* $api($module::$response),)*
        }

        #[cfg(feature = "samples")]
        impl ApiKey {
            /// A random request of this API with every field of `version` set.
            pub fn sample_request(self, version: i16, random: &mut rand::rngs::SmallRng) -> Request {
                let form = self.form(version);
                match self {
                    $(Self::$api => Request::$api(super::Sample::sample(random, form)),)*
                }
            }

            /// A random response of this API with every field of `version` set.
            pub fn sample_response(
                self,
                version: i16,
                random: &mut rand::rngs::SmallRng,
            ) -> Response {
                let form = self.form(version);
                match self {
                    $(Self::$api => Response::$api(super::Sample::sample(random, form)),)*
                }
            }
        }
    };
}

apis! {
    /// Appends record batches. v0–v2 carry message formats that no longer exist; they are
    /// advertised because old librdkafka looks for them, and refused when they come.
    Produce = 0, 0..=13, served from 3, flexible from 9,
        produce::ProduceRequest, ProduceResponse;
    /// Reads record batches.
    Fetch = 1, 4..=18, served from 4, flexible from 12, fetch::FetchRequest, FetchResponse;
    /// Looks offsets up by timestamp.
    ListOffsets = 2, 1..=10, served from 1, flexible from 6,
        list_offsets::ListOffsetsRequest, ListOffsetsResponse;
    /// Brokers, topics, and who leads what.
    Metadata = 3, 0..=13, served from 0, flexible from 9,
        metadata::MetadataRequest, MetadataResponse;
    /// Commits offsets of a group.
    OffsetCommit = 8, 2..=9, served from 2, flexible from 8,
        offset_commit::OffsetCommitRequest, OffsetCommitResponse;
    /// Reads committed offsets of groups.
    OffsetFetch = 9, 1..=9, served from 1, flexible from 6,
        offset_fetch::OffsetFetchRequest, OffsetFetchResponse;
    /// Finds the coordinator of groups or transactions.
    FindCoordinator = 10, 0..=6, served from 0, flexible from 3,
        find_coordinator::FindCoordinatorRequest, FindCoordinatorResponse;
    /// A member joins a classic group.
    JoinGroup = 11, 0..=9, served from 0, flexible from 6,
        join_group::JoinGroupRequest, JoinGroupResponse;
    /// A member of a classic group is alive.
    Heartbeat = 12, 0..=4, served from 0, flexible from 4,
        heartbeat::HeartbeatRequest, HeartbeatResponse;
    /// Members leave a classic group.
    LeaveGroup = 13, 0..=5, served from 0, flexible from 4,
        leave_group::LeaveGroupRequest, LeaveGroupResponse;
    /// A member of a classic group asks for its assignment.
    SyncGroup = 14, 0..=5, served from 0, flexible from 4,
        sync_group::SyncGroupRequest, SyncGroupResponse;
    /// Describes groups.
    DescribeGroups = 15, 0..=6, served from 0, flexible from 5,
        describe_groups::DescribeGroupsRequest, DescribeGroupsResponse;
    /// Lists groups.
    ListGroups = 16, 0..=5, served from 0, flexible from 3,
        list_groups::ListGroupsRequest, ListGroupsResponse;
    /// This very table, for clients.
    ApiVersions = 18, 0..=4, served from 0, flexible from 3,
        api_versions::ApiVersionsRequest, ApiVersionsResponse;
    /// Creates topics.
    CreateTopics = 19, 2..=7, served from 2, flexible from 5,
        create_topics::CreateTopicsRequest, CreateTopicsResponse;
    /// Deletes topics.
    DeleteTopics = 20, 1..=6, served from 1, flexible from 4,
        delete_topics::DeleteTopicsRequest, DeleteTopicsResponse;
    /// Moves the first offset of partitions up.
    DeleteRecords = 21, 0..=2, served from 0, flexible from 2,
        delete_records::DeleteRecordsRequest, DeleteRecordsResponse;
    /// Gives a producer its id and epoch.
    InitProducerId = 22, 0..=5, served from 0, flexible from 2,
        init_producer_id::InitProducerIdRequest, InitProducerIdResponse;
    /// Where an epoch ends.
    OffsetForLeaderEpoch = 23, 2..=4, served from 2, flexible from 4,
        offset_for_leader_epoch::OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse;
    /// Shows configs.
    DescribeConfigs = 32, 1..=4, served from 1, flexible from 4,
        describe_configs::DescribeConfigsRequest, DescribeConfigsResponse;
    /// Replaces all configs of topics.
    AlterConfigs = 33, 0..=2, served from 0, flexible from 2,
        alter_configs::AlterConfigsRequest, AlterConfigsResponse;
    /// Adds partitions to topics.
    CreatePartitions = 37, 0..=3, served from 0, flexible from 2,
        create_partitions::CreatePartitionsRequest, CreatePartitionsResponse;
    /// Deletes groups.
    DeleteGroups = 42, 0..=2, served from 0, flexible from 2,
        delete_groups::DeleteGroupsRequest, DeleteGroupsResponse;
    /// Changes single configs of topics.
    IncrementalAlterConfigs = 44, 0..=1, served from 0, flexible from 1,
        incremental_alter_configs::IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse;
    /// Deletes committed offsets of a group (KIP-496). No version is flexible.
    OffsetDelete = 47, 0..=0, served from 0, flexible from 1,
        offset_delete::OffsetDeleteRequest, OffsetDeleteResponse;
    /// Brokers and the cluster's id.
    DescribeCluster = 60, 0..=2, served from 0, flexible from 0,
        describe_cluster::DescribeClusterRequest, DescribeClusterResponse;
    /// A member of a consumer group joins, is alive, or leaves (KIP-848).
    ConsumerGroupHeartbeat = 68, 0..=1, served from 0, flexible from 0,
        consumer_group_heartbeat::ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse;
    /// Describes consumer groups (KIP-848).
    ConsumerGroupDescribe = 69, 0..=1, served from 0, flexible from 0,
        consumer_group_describe::ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse;
}

impl ApiKey {
    /// The API's number.
    pub fn code(self) -> i16 {
        self as i16
    }

    /// Whether requests of this version are answered.
    pub fn serves(self, version: i16) -> bool {
        self.served().contains(&version)
    }

    /// How messages of this version are written.
    pub fn form(self, version: i16) -> Form {
        Form {
            version,
            flexible: version >= self.flexible_from(),
        }
    }

    fn served_form(self, version: i16) -> Result<Form, DecodeError> {
        if !self.serves(version) {
            return Err(DecodeError::UnknownVersion {
                key: self.code(),
                version,
            });
        }
        Ok(self.form(version))
    }
}

impl Request {
    /// The request as a whole frame; for clients.
    pub fn encode(&self, version: i16, correlation_id: i32, client_id: Option<&str>) -> Frame {
        let mut writer = Writer::frame();
        let header = super::RequestHeader {
            api_key: self.api().code(),
            api_version: version,
            correlation_id,
            client_id: client_id.map(str::to_owned),
        };
        header.write(&mut writer);
        self.write(&mut writer, self.api().form(version));
        writer.finish()
    }
}

impl Response {
    /// The response as a whole frame. What `version` lacks is left out.
    pub fn encode(&self, version: i16, correlation_id: i32) -> Frame {
        let api = self.api();
        let mut writer = Writer::frame();
        write_response_header(&mut writer, api, version, correlation_id);
        self.write(&mut writer, api.form(version));
        writer.finish()
    }
}
