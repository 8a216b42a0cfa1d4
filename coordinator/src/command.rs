//! The durable commands of the journal and their bytes.
//!
//! A journal slot is `{format u16}` and then, until its end, commands of
//! `{kind u16, version u16, length u32, body}`, all little-endian. The body is the leader's time
//! stamp followed by the command's fields, both as `firn_proto::codec` writes them. Kinds are
//! never reused. A change to any struct below, also to those it takes from
//! `firn_proto::cluster`, changes durable bytes: it needs a new version here that still reads the
//! old one, and the golden journals in `testdata/` say so.

mod consumer_group;

use std::sync::Arc;

use bincode::{Decode, Encode};
use bytes::Bytes;
use firn_proto::cluster::{
    AlterConfigs, AssignPartitions, Collected, CommitSegment, CommittedOffset, ConfirmDeleted,
    ForceMove, GrowTopic, Listener, MovePartition, NewTopic, PageOut, ProgressReport,
    RaiseLogStarts, RegisterBroker, ReleasePartitions, ResumePartitions, RowReport, SealStream,
    SegmentKey,
};
use firn_proto::codec::{self, CodecError};
use firn_proto::ids::{
    BrokerId, CoordinatorEpoch, DiskId, Incarnation, PartitionIndex, Slot, StreamId, TopicId,
};
use firn_proto::limits::JOURNAL_COMMAND_BYTES_MAX;
use thiserror::Error;

pub use consumer_group::{
    ChangeConsumerGroup, ConsumerGroupRow, ConsumerMemberRow, ConsumerSubscription,
    CurrentAssignment, LEFT_EPOCH, Progress,
};

/// Format of a journal slot.
const SLOT_FORMAT: u16 = 1;
/// Bytes in front of a command's body.
const COMMAND_HEADER_BYTES: usize = 8;

/// A command with the time at which the leader took it, in milliseconds since 1970: never less
/// than that of the command before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped {
    /// The time.
    pub at_ms: i64,
    /// The command.
    pub command: Command,
}

macro_rules! commands {
    ($($(#[$doc:meta])* $kind:literal v $version:literal $name:ident($body:ty)
       $(was $old:literal ($old_body:ty))*,)*) => {
        /// Everything that changes the state of the cluster.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Command {
            $($(#[$doc])* $name($body),)*
        }

        impl Command {
            /// The durable number of the command's kind, and the version of its body.
            fn kind(&self) -> (u16, u16) {
                match self {
                    $(Self::$name(_) => ($kind, $version),)*
                }
            }

            fn encode_body(&self, out: &mut Vec<u8>) -> Result<(), CodecError> {
                match self {
                    $(Self::$name(body) => codec::encode_into(body, out),)*
                }
            }

            fn decode(kind: u16, version: u16, body: &[u8]) -> Result<Stamped, CommandError> {
                match (kind, version) {
                    $(($kind, $version) => {
                        let (at_ms, body): (i64, $body) =
                            codec::decode::<JOURNAL_COMMAND_BYTES_MAX, _>(body)?;
                        Ok(Stamped { at_ms, command: Self::$name(body) })
                    }
                    $(($kind, $old) => {
                        let (at_ms, body): (i64, $old_body) =
                            codec::decode::<JOURNAL_COMMAND_BYTES_MAX, _>(body)?;
                        Ok(Stamped { at_ms, command: Self::$name(body.into()) })
                    })*)*
                    _ => Err(CommandError::UnknownKind { kind, version }),
                }
            }
        }
    };
}

commands! {
    /// A broker process starts.
    1 v 2 RegisterBroker(RegisterBroker) was 1 (RegisterBrokerV1),
    /// A broker process has stopped in order: all that it acknowledged is in the bucket.
    2 v 1 EndBroker(Incarnation),
    /// A stream ends before a slot.
    3 v 1 SealStream(SealStream),
    /// Partitions begin their next epoch.
    4 v 1 AssignPartitions(AssignPartitions),
    /// An owner gives partitions up.
    5 v 1 ReleasePartitions(ReleasePartitions),
    /// A broker takes its last epochs up again.
    6 v 1 ResumePartitions(ResumePartitions),
    /// How far a stream is durable, and where state rows are.
    7 v 3 ReportProgress(ProgressReport) was 1 (ProgressReportV1) was 2 (ProgressReportV2),
    /// An owner has dropped deleted topics.
    8 v 1 ConfirmDeleted(ConfirmDeleted),
    /// Topics come into being.
    9 v 1 CreateTopics(Vec<IdentifiedTopic>),
    /// Topics go.
    10 v 1 DeleteTopics(Vec<TopicId>),
    /// Topics get more partitions.
    11 v 1 CreatePartitions(Vec<GrowTopic>),
    /// Topics get other configs.
    12 v 1 AlterConfigs(Vec<AlterConfigs>),
    /// The next block of producer ids is given out.
    13 v 1 AllocateProducerIds(ProducerIdsWanted),
    /// A group as it stands once its members have their assignments, or without members.
    14 v 1 PutGroup(PutGroup),
    /// Groups go, with their offsets.
    15 v 1 DropGroups(Vec<Arc<str>>),
    /// Offsets of one group.
    16 v 1 CommitOffsets(CommitOffsets),
    /// Offsets of one group go.
    17 v 1 DeleteOffsets(DeleteOffsets),
    /// A segment enters the map.
    18 v 1 CommitSegment(CommitSegment),
    /// A segment never enters the map.
    19 v 1 AbandonSegment(SegmentKey),
    /// Log starts move up, and runs leave the map.
    20 v 1 RaiseLogStarts(RaiseLogStarts),
    /// Runs move into a map page.
    21 v 1 PageOutRuns(PageOut),
    /// Something was deleted from the bucket.
    22 v 1 ReportCollected(Collected),
    /// Members of a consumer group come, go, say something else, or move towards their targets.
    28 v 1 ChangeConsumerGroup(ChangeConsumerGroup),
    /// A broker process is gone: what it acknowledged by its local WAL alone may be on its disk.
    23 v 1 FenceBroker(Incarnation),
    /// A broker shall own nothing any more, or may again.
    24 v 1 DrainBroker(DrainBroker),
    /// Owners are asked to release partitions.
    25 v 1 MovePartitions(Vec<MovePartition>),
    /// The leader of that epoch has stopped answering for good: its successor need not wait until
    /// nobody reads from it any more.
    26 v 1 Resign(CoordinatorEpoch),
    /// Partitions wait for the disk of their last owner no longer.
    27 v 1 ForceMove(Vec<ForceMove>),
}

/// Body of [`Command::RegisterBroker`] in version 1: nobody else could reach the process.
#[derive(Decode)]
struct RegisterBrokerV1 {
    broker: Option<BrokerId>,
    listeners: Vec<Listener>,
    rack: Option<String>,
    disk: Option<DiskId>,
}

impl From<RegisterBrokerV1> for RegisterBroker {
    fn from(body: RegisterBrokerV1) -> Self {
        Self {
            broker: body.broker,
            listeners: body.listeners,
            rack: body.rack,
            disk: body.disk,
            link: None,
        }
    }
}

/// Body of [`Command::ReportProgress`] in version 1, which did not say what the rows hold.
#[derive(Decode)]
struct ProgressReportV1 {
    incarnation: Incarnation,
    stream: StreamId,
    durable_end: Slot,
    rows: Vec<RowReport>,
}

impl From<ProgressReportV1> for ProgressReport {
    fn from(body: ProgressReportV1) -> Self {
        Self {
            incarnation: body.incarnation,
            stream: body.stream,
            durable_end: body.durable_end,
            rows: body.rows,
            rows_end: Slot(0),
            holds_local: false,
        }
    }
}

/// The same in version 2, which did not say what only a disk may hold.
#[derive(Decode)]
struct ProgressReportV2 {
    incarnation: Incarnation,
    stream: StreamId,
    durable_end: Slot,
    rows: Vec<RowReport>,
    rows_end: Slot,
}

impl From<ProgressReportV2> for ProgressReport {
    fn from(body: ProgressReportV2) -> Self {
        Self {
            incarnation: body.incarnation,
            stream: body.stream,
            durable_end: body.durable_end,
            rows: body.rows,
            rows_end: body.rows_end,
            holds_local: false,
        }
    }
}

/// Body of [`Command::DrainBroker`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DrainBroker {
    /// Which.
    pub broker: BrokerId,
    /// Whether its partitions shall go elsewhere.
    pub drain: bool,
}

/// A topic to create under the id that the leader drew for it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct IdentifiedTopic {
    /// Its id.
    pub id: TopicId,
    /// The topic.
    pub topic: NewTopic,
}

/// Body of [`Command::AllocateProducerIds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ProducerIdsWanted {
    /// How many.
    pub len: i64,
}

/// Body of [`Command::PutGroup`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PutGroup {
    /// Its id.
    pub group: Arc<str>,
    /// What is kept of it.
    pub row: GroupRow,
}

/// What the journal keeps of a classic group.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GroupRow {
    /// "consumer", "connect", …
    pub protocol_type: Arc<str>,
    /// Its generation.
    pub generation: i32,
    /// The protocol chosen; empty if it has no members.
    pub protocol: Arc<str>,
    /// The member that makes the assignment; empty if it has no members.
    pub leader: Arc<str>,
    /// Its members, ascending by id.
    pub members: Vec<MemberRow>,
}

/// What the journal keeps of a member.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MemberRow {
    /// Its id.
    pub member: Arc<str>,
    /// Its static id.
    pub instance: Option<Arc<str>>,
    /// Its client id.
    pub client_id: Arc<str>,
    /// Its address.
    pub client_host: Arc<str>,
    /// Its session timeout.
    pub session_timeout_ms: i32,
    /// Its rebalance timeout.
    pub rebalance_timeout_ms: i32,
    /// What it says in the chosen protocol.
    pub metadata: Arc<[u8]>,
    /// Its part.
    pub assignment: Arc<[u8]>,
}

/// Body of [`Command::CommitOffsets`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CommitOffsets {
    /// The group.
    pub group: Arc<str>,
    /// How long to keep them, in milliseconds, if the client said.
    pub retention_ms: Option<i64>,
    /// The offsets by topic. Rows of a topic that is gone are skipped.
    pub topics: Vec<(TopicId, Vec<(PartitionIndex, CommittedOffset)>)>,
}

/// Body of [`Command::DeleteOffsets`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeleteOffsets {
    /// The group.
    pub group: Arc<str>,
    /// Whose offsets go.
    pub topics: Vec<(TopicId, Vec<PartitionIndex>)>,
}

/// Why bytes of the journal are no commands.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// The body is not what its kind needs.
    #[error("a journal command cannot be read or written: {0}")]
    Codec(#[from] CodecError),
    /// A command longer than the limit.
    #[error(
        "a journal command of {bytes} bytes is longer than the limit of {JOURNAL_COMMAND_BYTES_MAX}"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The slot ends in the middle of a command.
    #[error("a journal slot ends in the middle of a command, at byte {at}")]
    Truncated {
        /// Where the command begins.
        at: usize,
    },
    /// A slot of a later release.
    #[error("journal slot has format {0}; this release reads {SLOT_FORMAT}: start a newer release")]
    UnknownFormat(u16),
    /// A command of a later release.
    #[error("journal command kind {kind} version {version} is unknown: start a newer release")]
    UnknownKind {
        /// Its kind.
        kind: u16,
        /// Its version.
        version: u16,
    },
}

/// The bytes of one journal slot under construction.
#[derive(Debug)]
pub struct SlotBuilder {
    bytes: Vec<u8>,
    commands: usize,
}

impl SlotBuilder {
    /// An empty slot.
    pub fn new() -> Self {
        Self {
            bytes: SLOT_FORMAT.to_le_bytes().to_vec(),
            commands: 0,
        }
    }

    /// Appends a command. On an error the slot is as before.
    pub fn push(&mut self, stamped: &Stamped) -> Result<(), CommandError> {
        let start = self.bytes.len();
        let pushed = self.push_bytes(stamped, start);
        match pushed {
            Ok(()) => self.commands += 1,
            Err(_) => self.bytes.truncate(start),
        }
        pushed
    }

    fn push_bytes(&mut self, stamped: &Stamped, start: usize) -> Result<(), CommandError> {
        let (kind, version) = stamped.command.kind();
        self.bytes.extend_from_slice(&kind.to_le_bytes());
        self.bytes.extend_from_slice(&version.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        codec::encode_into(&stamped.at_ms, &mut self.bytes)?;
        stamped.command.encode_body(&mut self.bytes)?;
        let bytes = self.bytes.len() - start - COMMAND_HEADER_BYTES;
        let len = match u32::try_from(bytes) {
            Ok(len) if bytes <= JOURNAL_COMMAND_BYTES_MAX => len,
            _ => return Err(CommandError::TooLong { bytes }),
        };
        self.bytes[start + 4..start + COMMAND_HEADER_BYTES].copy_from_slice(&len.to_le_bytes());
        Ok(())
    }

    /// The place behind the last command, to come back to.
    pub(crate) fn mark(&self) -> (usize, usize) {
        (self.bytes.len(), self.commands)
    }

    /// Takes back every command pushed since `mark`.
    pub(crate) fn rewind(&mut self, mark: (usize, usize)) {
        self.bytes.truncate(mark.0);
        self.commands = mark.1;
    }

    /// Whether it holds no command.
    pub fn is_empty(&self) -> bool {
        self.commands == 0
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes so far; the builder is empty again.
    pub fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(self).bytes)
    }
}

impl Default for SlotBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads the commands of a slot, in order.
pub fn decode_slot(bytes: &[u8]) -> Result<Vec<Stamped>, CommandError> {
    let Some((format, mut rest)) = bytes.split_first_chunk::<2>() else {
        return Err(CommandError::Truncated { at: 0 });
    };
    match u16::from_le_bytes(*format) {
        SLOT_FORMAT => {}
        other => return Err(CommandError::UnknownFormat(other)),
    }
    let mut commands = Vec::new();
    while !rest.is_empty() {
        let truncated = CommandError::Truncated {
            at: bytes.len() - rest.len(),
        };
        let Some((header, tail)) = rest.split_first_chunk::<COMMAND_HEADER_BYTES>() else {
            return Err(truncated);
        };
        let [k0, k1, v0, v1, len @ ..] = *header;
        let len = u32::from_le_bytes(len) as usize;
        let Some((body, tail)) = tail.split_at_checked(len) else {
            return Err(truncated);
        };
        let kind = u16::from_le_bytes([k0, k1]);
        let version = u16::from_le_bytes([v0, v1]);
        commands.push(Command::decode(kind, version, body)?);
        rest = tail;
    }
    Ok(commands)
}

#[cfg(test)]
mod tests;
