//! The messages between a broker and the coordinator, and the picture of the cluster that the
//! coordinator publishes. Data only: who may ask what, and what comes back.
//!
//! - `archive.rs`: segments, the map of them, log starts, what is deleted
//! - `topics.rs`: topics, their configs, their deletion; producer ids
//! - `ownership.rs`: brokers, streams, seals, folds, epochs, RELEASE and RESUME (I4)
//! - `group.rs`: groups and committed offsets
//! - `consumer_group.rs`: groups whose assignment the coordinator makes (KIP-848)
//! - `image.rs`: the published picture
//! - `follow.rs`: what a leader and its followers tell each other: pictures, beats, the journal
//!
//! A request for many things has one result per thing, in the order of the request; the request
//! as a whole fails only with a [`CoordinatorError`]. Every reply states what is durable: the
//! coordinator holds it back until the journal has the state it was made from (I10).

mod archive;
mod consumer_group;
mod follow;
mod group;
mod image;
mod ownership;
mod topics;

use bincode::{Decode, Encode};
use thiserror::Error;

pub use archive::{
    ArchiveError, ArchivedRun, Collected, CommitRun, CommitSegment, Doomed, EndedWriter, FindRuns,
    FoundRuns, Garbage, MapPage, MapPart, PageOut, PagedRelease, PartitionArchive, QueuedDelete,
    RaiseLogStart, RaiseLogStarts, RowGroup, RunsFrom, SegmentKey, StreamGarbage, row_group_of,
    row_groups_cover,
};
pub use consumer_group::{
    Assignment, ConsumerHeartbeat, ConsumerStanding, DescribedConsumerGroup,
    DescribedConsumerMember, NamedPartitions,
};
pub use follow::{
    Beat, FollowedImage, ImageDiff, ImageFault, ImageUpdate, JournalAsk, JournalPart, LeaderBeat,
    Part, PartFault, Parts,
};
pub use group::{
    CommitResult, CommitTopic, CommitTopicResult, CommittedOffset, DescribedGroup, DescribedMember,
    FetchOffsets, FetchTopic, FetchTopicResult, FetchedOffsets, GroupError, GroupState, GroupType,
    Heartbeat, JoinGroup, JoinedGroup, JoinedMember, LeaveGroup, LeavingMember, LeftGroup,
    LeftMember, ListGroups, ListedGroup, OffsetCommit, OffsetDelete, OffsetToCommit, Protocol,
    SyncGroup, SyncedGroup, TopicKey,
};
pub use image::{
    BrokerImage, ClusterImage, EpochStart, Listener, Ownership, PartitionImage, SecurityProtocol,
    TopicImage, Window,
};
pub use ownership::{
    AssignPartitions, Assigned, AssignmentError, FoldRange, ForceMove, ForcedMove, HoldEpochs,
    LinkAddress, MovePartition, PartitionEnd, PartitionFold, ProgressReport, RegisterBroker,
    RegisteredBroker, ReleasePartition, ReleasePartitions, ResumePartition, ResumePartitions,
    RowReport, SealStream, StreamError, StreamToSeal,
};
pub use topics::{
    AlterConfigs, ConfigChange, ConfirmDeleted, CreatedTopic, DeletedTopic, GrowTopic, NewTopic,
    ProducerIdBlock, TopicError, TopicRefusal,
};

use crate::ids::{BrokerId, Incarnation, TopicId, TopicPartition};

/// What a broker asks of the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// A broker process starts: gives it an incarnation and a stream of its own, and ends what
    /// earlier processes of the same broker held.
    RegisterBroker(RegisterBroker),
    /// A broker process leaves for good, and all that it acknowledged is in the bucket; its stream
    /// waits to be sealed.
    LeaveBroker(Incarnation),
    /// A stream ends before `end`, which is its first slot that holds a seal (I3).
    StreamSealed(SealStream),
    /// Which streams wait for a seal, and which partitions of sealed streams wait for a fold.
    PendingRecovery,
    /// Begins the next epoch of partitions whose current one has ended (I4).
    AssignPartitions(AssignPartitions),
    /// An owner gives partitions up (I4, RELEASE).
    ReleasePartitions(ReleasePartitions),
    /// A restarted broker that kept its disk takes its last epochs up again (I4).
    ResumePartitions(ResumePartitions),
    /// A broker shall own nothing any more, or may again: an operator says so, to whichever process
    /// has that id.
    DrainBroker {
        /// Which.
        broker: BrokerId,
        /// Whether its partitions shall go elsewhere.
        drain: bool,
    },
    /// Owners are asked to release partitions, so that others may own them.
    MovePartitions(Vec<MovePartition>),
    /// What the owners of these partitions have to fold before they append: the state with which
    /// their epochs begin (I8).
    FoldsOf(Vec<TopicPartition>),
    /// Partitions of topics with `firn.durability=local` wait no longer for the disk of their last
    /// owner, which died: what only that disk holds of them is lost.
    ForceMove(Vec<ForceMove>),
    /// How far an owner's stream is durable and where its state rows stand.
    ReportProgress(ProgressReport),
    /// An owner has dropped deleted topics: it neither appends to nor serves them any more.
    ConfirmDeleted(ConfirmDeleted),
    /// Creates topics.
    CreateTopics {
        /// What to create.
        topics: Vec<NewTopic>,
        /// Only say what would happen.
        validate_only: bool,
    },
    /// Deletes topics. Answered once their names are free again or `timeout_ms` has passed.
    DeleteTopics {
        /// Which.
        topics: Vec<TopicKey>,
        /// How long to wait for the owners, in milliseconds.
        timeout_ms: u32,
    },
    /// Adds partitions to topics.
    CreatePartitions {
        /// What to grow.
        topics: Vec<GrowTopic>,
        /// Only say what would happen.
        validate_only: bool,
    },
    /// Sets and removes configs of topics.
    AlterConfigs {
        /// What to change.
        topics: Vec<AlterConfigs>,
        /// Only say what would happen.
        validate_only: bool,
    },
    /// A block of producer ids that nobody else gets, ever.
    AllocateProducerIds,
    /// A member joins a group. Parked until the rebalance ends.
    JoinGroup(JoinGroup),
    /// A member asks for its assignment. Parked until the leader has sent it.
    SyncGroup(SyncGroup),
    /// A member is alive.
    Heartbeat(Heartbeat),
    /// Members leave.
    LeaveGroup(LeaveGroup),
    /// Commits offsets.
    OffsetCommit(OffsetCommit),
    /// Reads committed offsets of several groups.
    OffsetFetch(Vec<FetchOffsets>),
    /// Removes committed offsets of a group.
    OffsetDelete(OffsetDelete),
    /// Describes groups by id.
    DescribeGroups(Vec<String>),
    /// A member of a consumer group joins, is alive, or leaves.
    ConsumerHeartbeat(Box<ConsumerHeartbeat>),
    /// Describes consumer groups by id.
    DescribeConsumerGroups(Vec<String>),
    /// Lists groups.
    ListGroups(ListGroups),
    /// Deletes groups by id.
    DeleteGroups(Vec<String>),
    /// A segment enters the map (I9, COMMIT).
    CommitSegment(CommitSegment),
    /// A segment never enters the map: its writer deletes the file once this is durable (I9).
    AbandonSegment(SegmentKey),
    /// Log starts move up.
    RaiseLogStarts(RaiseLogStarts),
    /// Runs are paged out.
    PageOutRuns(PageOut),
    /// Looks for runs in the segment map.
    FindRuns(FindRuns),
    /// How far the archive of every topic is, or of one.
    DescribeArchive(Option<TopicId>),
    /// What may be deleted from the bucket.
    ListGarbage,
    /// What was deleted from the bucket.
    ReportCollected(Collected),
    /// Partitions wait, though nobody owns them, for as long as a process lives.
    HoldEpochs(HoldEpochs),
    /// A process says of itself that it serves and may own partitions, or that it shall own none.
    TakePart {
        /// Which: no other that has its id by then.
        incarnation: Incarnation,
        /// Whether it may own partitions. What an operator has said since it came stands.
        owns: bool,
    },
}

/// What the coordinator answers; the variant is that of the request.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// To [`Request::RegisterBroker`].
    RegisterBroker(RegisteredBroker),
    /// To requests that have nothing to tell but that they are durable:
    /// [`Request::LeaveBroker`], [`Request::DrainBroker`], [`Request::ConfirmDeleted`],
    /// [`Request::ReportCollected`], [`Request::HoldEpochs`], [`Request::TakePart`].
    Done,
    /// To [`Request::StreamSealed`] and [`Request::ReportProgress`].
    Stream(Result<(), StreamError>),
    /// To [`Request::PendingRecovery`].
    PendingRecovery {
        /// Streams of ended incarnations without an end, in ascending order.
        seals: Vec<StreamToSeal>,
        /// Partitions whose latest epoch has ended (its stream is sealed, or it was released) and
        /// that have no next one yet.
        folds: Vec<PartitionFold>,
    },
    /// To [`Request::AssignPartitions`] and [`Request::ResumePartitions`].
    Assigned(Vec<Result<Assigned, AssignmentError>>),
    /// To [`Request::ReleasePartitions`].
    Released(Vec<Result<(), AssignmentError>>),
    /// To [`Request::MovePartitions`].
    Moved(Vec<Result<(), AssignmentError>>),
    /// To [`Request::FoldsOf`]: all windows before the one that is open now. `None` if there are
    /// none, so that the epoch begins with nothing, or if nobody owns the partition.
    Folds(Vec<Option<PartitionFold>>),
    /// To [`Request::ForceMove`]: what is given up. A partition that waits for no disk, or not as the
    /// request says, is refused as [`AssignmentError::NotCurrent`].
    Forced(Vec<Result<ForcedMove, AssignmentError>>),
    /// To [`Request::CreateTopics`].
    CreateTopics(Vec<Result<CreatedTopic, TopicRefusal>>),
    /// To [`Request::DeleteTopics`].
    DeleteTopics(Vec<Result<DeletedTopic, TopicRefusal>>),
    /// To [`Request::CreatePartitions`] and [`Request::AlterConfigs`].
    Topics(Vec<Result<(), TopicRefusal>>),
    /// To [`Request::AllocateProducerIds`].
    ProducerIds(ProducerIdBlock),
    /// To [`Request::JoinGroup`]. A refusal of `MemberIdRequired` carries the id to use.
    JoinGroup(Result<JoinedGroup, GroupError>),
    /// To [`Request::SyncGroup`].
    SyncGroup(Result<SyncedGroup, GroupError>),
    /// To [`Request::Heartbeat`].
    Heartbeat(Result<(), GroupError>),
    /// To [`Request::LeaveGroup`].
    LeaveGroup(Result<LeftGroup, GroupError>),
    /// To [`Request::OffsetCommit`] and [`Request::OffsetDelete`].
    OffsetCommit(CommitResult),
    /// To [`Request::OffsetFetch`], in the order of the request.
    OffsetFetch(Vec<FetchedOffsets>),
    /// To [`Request::DescribeGroups`], in the order of the request.
    DescribeGroups(Vec<Result<DescribedGroup, GroupError>>),
    /// To [`Request::ConsumerHeartbeat`].
    ConsumerHeartbeat(Result<ConsumerStanding, GroupError>),
    /// To [`Request::DescribeConsumerGroups`], in the order of the request.
    DescribeConsumerGroups(Vec<Result<DescribedConsumerGroup, GroupError>>),
    /// To [`Request::ListGroups`].
    ListGroups(Vec<ListedGroup>),
    /// To [`Request::DeleteGroups`], in the order of the request.
    DeleteGroups(Vec<Result<(), GroupError>>),
    /// To [`Request::CommitSegment`], [`Request::AbandonSegment`] and [`Request::PageOutRuns`].
    Archive(Result<(), ArchiveError>),
    /// To [`Request::RaiseLogStarts`].
    LogStarts(Vec<Result<(), ArchiveError>>),
    /// To [`Request::FindRuns`]; `None` if there is no such partition.
    Runs(Option<FoundRuns>),
    /// To [`Request::DescribeArchive`], ascending by partition.
    Archives(Vec<PartitionArchive>),
    /// To [`Request::ListGarbage`].
    Garbage(Garbage),
}

/// Why a request as a whole has no reply.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Error)]
pub enum CoordinatorError {
    /// Nobody leads here now, or the leader resigned before its answer was durable. What was asked
    /// may or may not have happened. Ask again.
    #[error("the coordinator is not available: {0}; the request may be repeated")]
    NotLeader(String),
    /// Too many requests wait already. Nothing happened. Ask again later.
    #[error("the coordinator has too many requests waiting; the request may be repeated")]
    Busy,
    /// What is asked for cannot be done, and why: it is too large for the journal, or names a
    /// broker that is not there. Nothing happened.
    #[error("the coordinator refuses: {0}")]
    Refused(String),
    /// The process is stopping.
    #[error("the coordinator has stopped")]
    Stopped,
}
