//! Groups and their committed offsets. The words are Kafka's; the rules of each version of each
//! API are the handlers' business, which turn what a version lacks into the defaults noted here.

use std::sync::Arc;

use bincode::{Decode, Encode};
use thiserror::Error;

use crate::ids::{LeaderEpoch, PartitionIndex, TopicId};

/// A topic as a request names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum TopicKey {
    /// By id (KIP-516 versions).
    Id(TopicId),
    /// By name.
    Name(Arc<str>),
}

/// JoinGroup, versions 0 to 9.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct JoinGroup {
    /// The group.
    pub group: Arc<str>,
    /// The member's id; empty for a new member.
    pub member: Arc<str>,
    /// Static membership (KIP-345).
    pub instance: Option<Arc<str>>,
    /// From the request header.
    pub client_id: Arc<str>,
    /// The client's address.
    pub client_host: Arc<str>,
    /// After this long without a word the member is out, in milliseconds.
    pub session_timeout_ms: i32,
    /// How long the group waits for it in a rebalance, in milliseconds; the session timeout in v0.
    pub rebalance_timeout_ms: i32,
    /// "consumer", "connect", …
    pub protocol_type: Arc<str>,
    /// What it can speak, best first.
    pub protocols: Vec<Protocol>,
    /// Whether a new member must come back with the id it is given (KIP-394, v4 and later).
    pub require_known_member: bool,
    /// Whether the leader may be told to skip the assignment (KIP-814, v9).
    pub supports_skip_assignment: bool,
    /// Why it joins (KIP-800); for the log.
    pub reason: Option<Arc<str>>,
}

/// One assignment protocol of a member.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Protocol {
    /// Its name.
    pub name: Arc<str>,
    /// What the member says in it; opaque.
    pub metadata: Arc<[u8]>,
}

/// A finished JoinGroup.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct JoinedGroup {
    /// The generation.
    pub generation: i32,
    /// As the group uses it.
    pub protocol_type: Arc<str>,
    /// The protocol chosen.
    pub protocol: Arc<str>,
    /// Who makes the assignment.
    pub leader: Arc<str>,
    /// The leader need not make an assignment (KIP-814).
    pub skip_assignment: bool,
    /// The member's id.
    pub member: Arc<str>,
    /// Every member, for the leader only.
    pub members: Vec<JoinedMember>,
}

/// A member as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct JoinedMember {
    /// Its id.
    pub member: Arc<str>,
    /// Its static id.
    pub instance: Option<Arc<str>>,
    /// What it says in the chosen protocol.
    pub metadata: Arc<[u8]>,
}

/// SyncGroup, versions 0 to 5.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SyncGroup {
    /// The group.
    pub group: Arc<str>,
    /// The generation the member joined.
    pub generation: i32,
    /// The member.
    pub member: Arc<str>,
    /// Its static id.
    pub instance: Option<Arc<str>>,
    /// As the member believes (v5); absent: not checked.
    pub protocol_type: Option<Arc<str>>,
    /// As the member believes (v5); absent: not checked.
    pub protocol: Option<Arc<str>>,
    /// From the leader: what each member gets.
    pub assignments: Vec<(Arc<str>, Arc<[u8]>)>,
}

/// A finished SyncGroup.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SyncedGroup {
    /// As the group uses it.
    pub protocol_type: Arc<str>,
    /// The protocol chosen.
    pub protocol: Arc<str>,
    /// The member's part.
    pub assignment: Arc<[u8]>,
}

/// Heartbeat, versions 0 to 4.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Heartbeat {
    /// The group.
    pub group: Arc<str>,
    /// The member's generation.
    pub generation: i32,
    /// The member.
    pub member: Arc<str>,
    /// Its static id.
    pub instance: Option<Arc<str>>,
}

/// LeaveGroup, versions 0 to 5 (before v3: one member).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LeaveGroup {
    /// The group.
    pub group: Arc<str>,
    /// Who leaves.
    pub members: Vec<LeavingMember>,
}

/// A member that leaves, by id or by static id (an administrator removes it).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LeavingMember {
    /// Its id; empty if it is named by its static id alone.
    pub member: Arc<str>,
    /// Its static id.
    pub instance: Option<Arc<str>>,
    /// Why (KIP-800); for the log.
    pub reason: Option<Arc<str>>,
}

/// A finished LeaveGroup.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LeftGroup {
    /// In the order of the request.
    pub members: Vec<LeftMember>,
}

/// What became of one member that wanted to leave.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LeftMember {
    /// As the request named it.
    pub member: Arc<str>,
    /// As the request named it.
    pub instance: Option<Arc<str>>,
    /// Whether it has left.
    pub result: Result<(), GroupError>,
}

/// OffsetCommit, versions 2 to 10.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OffsetCommit {
    /// The group.
    pub group: Arc<str>,
    /// The generation (classic) or member epoch (KIP-848); -1 of a client that is no member.
    pub generation: i32,
    /// The member, empty of a client that is no member.
    pub member: Arc<str>,
    /// Its static id.
    pub instance: Option<Arc<str>>,
    /// Whether `generation` may be a member epoch (v9).
    pub knows_epochs: bool,
    /// How long to keep the offsets, in milliseconds (v2 to 4); absent: the broker's setting.
    pub retention_ms: Option<i64>,
    /// What to commit.
    pub topics: Vec<CommitTopic>,
}

/// Offsets of one topic to commit.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CommitTopic {
    /// The topic.
    pub topic: TopicKey,
    /// Its partitions.
    pub partitions: Vec<OffsetToCommit>,
}

/// One offset to commit.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OffsetToCommit {
    /// The partition.
    pub partition: PartitionIndex,
    /// The next offset to consume.
    pub offset: CommittedOffset,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CommittedOffset {
    /// The next offset to consume.
    pub offset: i64,
    /// The leader epoch of the last consumed record, -1 if unknown.
    pub leader_epoch: LeaderEpoch,
    /// The client's own note.
    pub metadata: Arc<str>,
}

/// What became of an OffsetCommit or OffsetDelete: refused whole, or one result per partition in
/// the order of the request.
pub type CommitResult = Result<Vec<CommitTopicResult>, GroupError>;

/// What became of the commits of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CommitTopicResult {
    /// As the request named it.
    pub topic: TopicKey,
    /// In the order of the request.
    pub partitions: Vec<(PartitionIndex, Result<(), GroupError>)>,
}

/// OffsetFetch of one group, versions 1 to 10.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FetchOffsets {
    /// The group.
    pub group: Arc<str>,
    /// The member and its epoch (KIP-848, v9); absent or -1: not checked.
    pub member: Option<(Arc<str>, i32)>,
    /// Which topics; `None` for every committed offset.
    pub topics: Option<Vec<FetchTopic>>,
    /// Refuse offsets with a pending transactional commit (KIP-447, v7).
    pub require_stable: bool,
}

/// Partitions of one topic whose offsets are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FetchTopic {
    /// The topic.
    pub topic: TopicKey,
    /// Its partitions.
    pub partitions: Vec<PartitionIndex>,
}

/// Committed offsets of one group.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FetchedOffsets {
    /// The group.
    pub group: Arc<str>,
    /// In the order of the request; if all were asked for, by topic id.
    pub result: Result<Vec<FetchTopicResult>, GroupError>,
}

/// Committed offsets of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FetchTopicResult {
    /// As the request named it; by name if all were asked for.
    pub topic: TopicKey,
    /// The topic's id; zero if there is no such topic.
    pub id: TopicId,
    /// `None` where nothing is committed.
    pub partitions: Vec<(PartitionIndex, Result<Option<CommittedOffset>, GroupError>)>,
}

/// OffsetDelete, version 0.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OffsetDelete {
    /// The group.
    pub group: Arc<str>,
    /// Whose offsets to forget.
    pub topics: Vec<FetchTopic>,
}

/// A group's state, as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum GroupState {
    /// A new target assignment is due (KIP-848).
    Assigning,
    /// The leader is making the assignment.
    CompletingRebalance,
    /// Gone.
    Dead,
    /// Without members; its offsets are kept.
    Empty,
    /// Waiting for members to join.
    PreparingRebalance,
    /// Members move towards the target assignment (KIP-848).
    Reconciling,
    /// Every member has its assignment.
    Stable,
}

impl GroupState {
    /// Kafka's spelling.
    pub fn name(self) -> &'static str {
        match self {
            Self::Assigning => "Assigning",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Dead => "Dead",
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::Reconciling => "Reconciling",
            Self::Stable => "Stable",
        }
    }
}

/// Which protocol a group speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum GroupType {
    /// JoinGroup and SyncGroup.
    Classic,
    /// KIP-848.
    Consumer,
}

impl GroupType {
    /// Kafka's spelling.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "Classic",
            Self::Consumer => "Consumer",
        }
    }
}

/// A group, described.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DescribedGroup {
    /// The group.
    pub group: Arc<str>,
    /// Its state.
    pub state: GroupState,
    /// "consumer", "connect", …; empty if it never had members.
    pub protocol_type: Arc<str>,
    /// The protocol chosen; empty while it has none.
    pub protocol: Arc<str>,
    /// Its members.
    pub members: Vec<DescribedMember>,
}

/// A member, described.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DescribedMember {
    /// Its id.
    pub member: Arc<str>,
    /// Its static id.
    pub instance: Option<Arc<str>>,
    /// Its client id.
    pub client_id: Arc<str>,
    /// Its address.
    pub client_host: Arc<str>,
    /// What it says in the chosen protocol; empty unless the group is stable.
    pub metadata: Arc<[u8]>,
    /// Its part; empty unless the group is stable.
    pub assignment: Arc<[u8]>,
}

/// ListGroups, versions 0 to 5.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ListGroups {
    /// Only groups in one of these states (v4), spelled as Kafka does, any case; empty: all.
    pub states: Vec<String>,
    /// Only groups of one of these types (v5), any case; empty: all.
    pub types: Vec<String>,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ListedGroup {
    /// The group.
    pub group: Arc<str>,
    /// "consumer", "connect", …
    pub protocol_type: Arc<str>,
    /// Its state.
    pub state: GroupState,
    /// Its type.
    pub group_type: GroupType,
}

/// Why a group call, or one part of it, was refused. Named after Kafka's codes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Error)]
pub enum GroupError {
    /// FENCED_INSTANCE_ID: another process has taken the static id.
    #[error("another member has taken this static id")]
    FencedInstanceId,
    /// FENCED_MEMBER_EPOCH: it must let everything go and join again.
    #[error("the member's epoch is not the group's: it must join again")]
    FencedMemberEpoch,
    /// GROUP_ID_NOT_FOUND.
    #[error("there is no such group")]
    GroupIdNotFound,
    /// GROUP_MAX_SIZE_REACHED.
    #[error("the group has as many members as it may have")]
    GroupMaxSizeReached,
    /// GROUP_SUBSCRIBED_TO_TOPIC.
    #[error("the group is subscribed to the topic")]
    GroupSubscribedToTopic,
    /// ILLEGAL_GENERATION.
    #[error("the generation is not the group's")]
    IllegalGeneration,
    /// INCONSISTENT_GROUP_PROTOCOL.
    #[error("the member shares no protocol with the group")]
    InconsistentGroupProtocol,
    /// INVALID_COMMIT_OFFSET_SIZE: a partition of a group carries more offsets than may be kept.
    #[error("the group has as many committed offsets as it may have")]
    InvalidCommitOffsetSize,
    /// INVALID_GROUP_ID.
    #[error("the group id is not valid")]
    InvalidGroupId,
    /// INVALID_REGULAR_EXPRESSION.
    #[error("{0}")]
    InvalidRegularExpression(String),
    /// INVALID_REQUEST: a size that no real client sends.
    #[error("{0}")]
    InvalidRequest(String),
    /// INVALID_SESSION_TIMEOUT.
    #[error("the session timeout is outside the allowed range")]
    InvalidSessionTimeout,
    /// MEMBER_ID_REQUIRED: come back with this id.
    #[error("the member must join again with the id {0}")]
    MemberIdRequired(Arc<str>),
    /// NON_EMPTY_GROUP.
    #[error("the group has members")]
    NonEmptyGroup,
    /// OFFSET_METADATA_TOO_LARGE.
    #[error("the note of the commit is too large")]
    OffsetMetadataTooLarge,
    /// REBALANCE_IN_PROGRESS.
    #[error("the group is rebalancing")]
    RebalanceInProgress,
    /// STALE_MEMBER_EPOCH: the member has not yet heard of its epoch.
    #[error("the member's epoch is another one")]
    StaleMemberEpoch,
    /// UNKNOWN_MEMBER_ID.
    #[error("the group does not know the member")]
    UnknownMemberId,
    /// UNKNOWN_TOPIC_OR_PARTITION, or UNKNOWN_TOPIC_ID if the request named the topic by id.
    #[error("there is no such partition")]
    UnknownTopicOrPartition,
    /// UNRELEASED_INSTANCE_ID: another process has the static id and has not left.
    #[error("another member has this static id and has not left")]
    UnreleasedInstanceId,
    /// UNSUPPORTED_ASSIGNOR.
    #[error("there is no assignor {0:?}; there are \"uniform\" and \"range\"")]
    UnsupportedAssignor(Arc<str>),
    /// UNSUPPORTED_VERSION.
    #[error("members of a consumer group commit with version 9 or later")]
    UnsupportedVersion,
    /// UNSTABLE_OFFSET_COMMIT.
    #[error("a transactional commit is pending")]
    UnstableOffsetCommit,
}
