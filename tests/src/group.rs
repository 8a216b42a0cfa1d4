//! One member of a classic consumer group, step by step: a test decides when each member joins,
//! commits and leaves.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
    SyncGroupRequest,
};
use kafka_protocol::protocol::StrBytes;

use crate::client::{code, topic_name};
use crate::cluster::{ANSWER_PATIENCE, Brokers};
use crate::wait;
use crate::wire::Connection;

const FIND_COORDINATOR_VERSION: i16 = 3;
const JOIN_VERSION: i16 = 5;
const SYNC_VERSION: i16 = 3;
const HEARTBEAT_VERSION: i16 = 3;
const LEAVE_VERSION: i16 = 2;
const COMMIT_VERSION: i16 = 8;
const OFFSET_FETCH_VERSION: i16 = 7;
const OFFSET_DELETE_VERSION: i16 = 0;
const PROTOCOL: &str = "firn-tests";

/// A member of a group that reads one topic.
#[derive(Debug)]
pub struct GroupMember {
    connection: Connection,
    group: GroupId,
    topic: String,
    member: StrBytes,
    generation: i32,
}

impl GroupMember {
    /// A member that has not joined yet. Waits until the group has a coordinator.
    pub fn new(address: SocketAddr, group: &str, topic: &str) -> Self {
        let mut connection = Connection::open(address).expect("a broker that is ready");
        let group = StrBytes::from_string(group.to_owned());
        wait::until("a coordinator of the group", wait::PATIENCE, || {
            let request = FindCoordinatorRequest::default().with_key(group.clone());
            let response = connection
                .call(FIND_COORDINATOR_VERSION, &request)
                .expect("FindCoordinator is answered");
            (response.error_code == code::NONE).then_some(())
        });
        Self {
            connection,
            group: GroupId(group),
            topic: topic.to_owned(),
            member: StrBytes::new(),
            generation: -1,
        }
    }

    /// Nobody who joins, but a client that commits and reads offsets of the group from outside, of
    /// the broker that any of `brokers` names as its coordinator. None while there is none.
    pub fn coordinated(brokers: &Brokers, group: &str, topic: &str) -> Option<Self> {
        let group = StrBytes::from_string(group.to_owned());
        let connection = brokers.answering().find_map(|mut client| {
            let request = FindCoordinatorRequest::default().with_key(group.clone());
            let found = client.connection.call(FIND_COORDINATOR_VERSION, &request);
            let found = found.ok().filter(|found| found.error_code == code::NONE)?;
            let port = u16::try_from(found.port).ok()?;
            let address = SocketAddr::new(found.host.parse().ok()?, port);
            Connection::open_within(address, ANSWER_PATIENCE).ok()
        })?;
        Some(Self {
            connection,
            group: GroupId(group),
            topic: topic.to_owned(),
            member: StrBytes::new(),
            generation: -1,
        })
    }

    /// Asks to join. The answer comes when all members have: [`Self::joined`].
    ///
    /// # Panics
    /// When the connection breaks.
    pub fn ask_to_join(&mut self) {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(StrBytes::from_static_str(PROTOCOL))
            .with_metadata(Bytes::copy_from_slice(&subscription(&self.topic)));
        let request = JoinGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_session_timeout_ms(10_000)
            .with_rebalance_timeout_ms(10_000)
            .with_member_id(self.member.clone())
            .with_protocol_type(StrBytes::from_static_str("consumer"))
            .with_protocols(vec![protocol]);
        self.connection
            .send(JOIN_VERSION, &request)
            .expect("the join is sent");
    }

    /// Takes the answer to a join; asks again where the broker first gave a member id, or is not
    /// ready for the group yet.
    /// Returns the ids of all members if this one leads, else nothing.
    ///
    /// # Panics
    /// When the broker refuses.
    pub fn joined(&mut self) -> Vec<String> {
        let response = self.receive_join().expect("JoinGroup is answered");
        if response.error_code == code::MEMBER_ID_REQUIRED {
            self.member = response.member_id;
            self.ask_to_join();
            return self.joined();
        }
        if code::RETRIABLE.contains(&response.error_code) {
            wait::pause(Duration::from_millis(50));
            self.ask_to_join();
            return self.joined();
        }
        assert_eq!(response.error_code, code::NONE, "JoinGroup");
        self.member = response.member_id;
        self.generation = response.generation_id;
        response
            .members
            .iter()
            .map(|member| member.member_id.to_string())
            .collect()
    }

    fn receive_join(&mut self) -> io::Result<JoinGroupResponse> {
        self.connection.receive::<JoinGroupRequest>(JOIN_VERSION)
    }

    /// Sends the assignment, which only the leader has, and asks for its own part:
    /// [`Self::synced`].
    ///
    /// # Panics
    /// When the connection breaks.
    pub fn ask_to_sync(&mut self, assignment: &[(String, Vec<i32>)]) {
        let assignments = assignment.iter().map(|(member, partitions)| {
            SyncGroupRequestAssignment::default()
                .with_member_id(StrBytes::from_string(member.clone()))
                .with_assignment(assigned(&self.topic, partitions))
        });
        let request = SyncGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id(self.generation)
            .with_member_id(self.member.clone())
            .with_assignments(assignments.collect());
        self.connection
            .send(SYNC_VERSION, &request)
            .expect("the sync is sent");
    }

    /// Takes the answer to a sync: the partitions that are this member's.
    ///
    /// # Panics
    /// When the broker refuses.
    pub fn synced(&mut self) -> Vec<i32> {
        let response = self.connection.receive::<SyncGroupRequest>(SYNC_VERSION);
        let response = response.expect("SyncGroup is answered");
        assert_eq!(response.error_code, code::NONE, "SyncGroup");
        read_assigned(response.assignment)
    }

    /// A heartbeat; returns its error code.
    ///
    /// # Panics
    /// When the connection breaks.
    pub fn heartbeat(&mut self) -> i16 {
        let request = HeartbeatRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id(self.generation)
            .with_member_id(self.member.clone());
        let response = self.connection.call(HEARTBEAT_VERSION, &request);
        response.expect("Heartbeat is answered").error_code
    }

    /// Commits the next offset to read of one partition.
    ///
    /// # Panics
    /// When the broker refuses.
    pub fn commit(&mut self, partition: i32, offset: i64) {
        let error = self.try_commit(partition, offset);
        let error = error.expect("OffsetCommit is answered");
        assert_eq!(error, code::NONE, "OffsetCommit of {partition}");
    }

    /// [`Self::commit`]; returns the error code.
    ///
    /// # Errors
    /// When the connection breaks: the offset may be committed or not.
    pub fn try_commit(&mut self, partition: i32, offset: i64) -> io::Result<i16> {
        let committed = OffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(-1);
        let topic = OffsetCommitRequestTopic::default()
            .with_name(topic_name(&self.topic))
            .with_partitions(vec![committed]);
        let request = OffsetCommitRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(self.member.clone())
            .with_topics(vec![topic]);
        let response = self.connection.call(COMMIT_VERSION, &request)?;
        Ok(response.topics[0].partitions[0].error_code)
    }

    /// The committed offset of one partition; -1 if there is none.
    ///
    /// # Panics
    /// When the broker refuses.
    pub fn committed(&mut self, partition: i32) -> i64 {
        let committed = self.try_committed(partition);
        let committed = committed.expect("OffsetFetch is answered");
        committed.unwrap_or_else(|error| panic!("OffsetFetch of {partition}: {error}"))
    }

    /// [`Self::committed`], or the error code.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn try_committed(&mut self, partition: i32) -> io::Result<Result<i64, i16>> {
        let topic = OffsetFetchRequestTopic::default()
            .with_name(topic_name(&self.topic))
            .with_partition_indexes(vec![partition]);
        let request = OffsetFetchRequest::default()
            .with_group_id(self.group.clone())
            .with_topics(Some(vec![topic]));
        let response = self.connection.call(OFFSET_FETCH_VERSION, &request)?;
        if response.error_code != code::NONE {
            return Ok(Err(response.error_code));
        }
        let partition = &response.topics[0].partitions[0];
        Ok(match partition.error_code {
            code::NONE => Ok(partition.committed_offset),
            error => Err(error),
        })
    }

    /// Deletes committed offsets. Returns the error of the whole and that of each partition.
    ///
    /// # Panics
    /// When the connection breaks.
    pub fn delete_offsets(&mut self, partitions: &[i32]) -> (i16, Vec<i16>) {
        let wanted = partitions.iter().map(|partition| {
            OffsetDeleteRequestPartition::default().with_partition_index(*partition)
        });
        let topic = OffsetDeleteRequestTopic::default()
            .with_name(topic_name(&self.topic))
            .with_partitions(wanted.collect());
        let request = OffsetDeleteRequest::default()
            .with_group_id(self.group.clone())
            .with_topics(vec![topic]);
        let response = self.connection.call(OFFSET_DELETE_VERSION, &request);
        let response = response.expect("OffsetDelete is answered");
        let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
        let codes = partitions.map(|partition| partition.error_code);
        (response.error_code, codes.collect())
    }

    /// Leaves the group.
    ///
    /// # Panics
    /// When the connection breaks.
    pub fn leave(&mut self) {
        let request = LeaveGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_member_id(self.member.clone());
        let response = self.connection.call(LEAVE_VERSION, &request);
        assert_eq!(
            response.expect("LeaveGroup is answered").error_code,
            code::NONE
        );
    }

    /// The member id the broker gave.
    pub fn id(&self) -> &str {
        &self.member
    }
}

/// The consumer protocol's subscription, version 0.
fn subscription(topic: &str) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(1);
    put_text(&mut bytes, topic);
    bytes.put_i32(-1);
    bytes
}

/// The consumer protocol's assignment, version 0.
fn assigned(topic: &str, partitions: &[i32]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(1);
    put_text(&mut bytes, topic);
    bytes.put_i32(i32::try_from(partitions.len()).expect("a count fits"));
    for partition in partitions {
        bytes.put_i32(*partition);
    }
    bytes.put_i32(-1);
    bytes.freeze()
}

fn read_assigned(mut bytes: Bytes) -> Vec<i32> {
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.advance(2);
    let topics = bytes.get_i32();
    let mut partitions = Vec::new();
    for _ in 0..topics {
        let name = usize::try_from(bytes.get_i16()).expect("a length is not negative");
        bytes.advance(name);
        let count = bytes.get_i32();
        partitions.extend((0..count).map(|_| bytes.get_i32()));
    }
    partitions
}

fn put_text(bytes: &mut BytesMut, text: &str) {
    bytes.put_i16(i16::try_from(text.len()).expect("a name is short"));
    bytes.extend_from_slice(text.as_bytes());
}
