//! Brokers, their streams, and who may append to a partition since which offset.

use bincode::{Decode, Encode};
use thiserror::Error;

use super::image::Listener;
use crate::ids::{
    BrokerId, ClusterId, DiskId, Fingerprint, Incarnation, LeaderEpoch, Slot, SlotPosition,
    StreamId, TopicPartition,
};

/// Where other processes of the cluster reach one, and by what they know it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LinkAddress {
    /// Host name or address literal, without brackets.
    pub host: String,
    /// UDP port.
    pub port: u16,
    /// Of its certificate: whoever else answers there is not it.
    pub fingerprint: Fingerprint,
}

/// A broker process that starts.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RegisterBroker {
    /// Its id, if configured; else the one under which its disk was shown last, or the lowest that
    /// no live process has.
    pub broker: Option<BrokerId>,
    /// Where clients reach it.
    pub listeners: Vec<Listener>,
    /// Its rack.
    pub rack: Option<String>,
    /// Its local WAL directory, if it has one.
    pub disk: Option<DiskId>,
    /// Where other brokers reach it, if they can.
    pub link: Option<LinkAddress>,
}

/// The place a broker process got.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RegisteredBroker {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its id.
    pub broker: BrokerId,
    /// This start of it.
    pub incarnation: Incarnation,
    /// Its own stream, empty, to be written from slot 0 by this process only.
    pub stream: StreamId,
    /// Streams of ended incarnations that have no end yet, in ascending order. Whoever embeds the
    /// coordinator seals them, reports [`super::Request::StreamSealed`], folds what
    /// [`super::Request::PendingRecovery`] then names, and asks for the next epochs.
    pub seals: Vec<StreamToSeal>,
}

/// Where a stream ends. Also a command of the journal, as are the next three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SealStream {
    /// The stream.
    pub stream: StreamId,
    /// Its first slot that does not count.
    pub end: Slot,
}

/// Epochs that have ended, and who owns the partitions next.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AssignPartitions {
    /// The ends, folded from a sealed stream or released by their owner.
    pub ended: Vec<PartitionEnd>,
    /// The next owner; the coordinator chooses evenly and stickily if absent.
    pub to: Option<BrokerId>,
}

/// What an owner gives up.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReleasePartitions {
    /// The owner.
    pub incarnation: Incarnation,
    /// Its partitions, each with the end of its epoch.
    pub released: Vec<ReleasePartition>,
}

/// Epochs that a broker takes up again.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ResumePartitions {
    /// The new incarnation, which showed the disk when it registered.
    pub incarnation: Incarnation,
    /// What it resumes.
    pub resumed: Vec<ResumePartition>,
}

/// A stream that waits for its seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StreamToSeal {
    /// The stream.
    pub stream: StreamId,
    /// The broker that wrote it.
    pub broker: BrokerId,
    /// Slots below were given up by the journal; never look there.
    pub floor: Slot,
    /// Slots below were reported durable by the writer; a store without one of them is at fault.
    pub durable_end: Slot,
    /// The disk that may hold more of it than the bucket: the one its writer showed, unless that
    /// stopped in order.
    pub disk: Option<DiskId>,
    /// Its writer has acknowledged records before the bucket held them.
    pub holds_local: bool,
}

/// What to read in order to learn where an epoch of a partition ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PartitionFold {
    /// The partition.
    pub tp: TopicPartition,
    /// The epoch of the last window to read.
    pub epoch: LeaderEpoch,
    /// The stream of that window.
    pub stream: StreamId,
    /// The slot that holds its last durable state row; without one the fold starts from nothing.
    pub row: Option<SlotPosition>,
    /// The slots whose indexes come after the row, in the order to apply them.
    pub ranges: Vec<FoldRange>,
    /// Where the epoch ended, if the journal says so already: its owner released it, or the next
    /// one has begun. The fold ends there too.
    pub released_end: Option<i64>,
    /// The log start that is journalled. A state row may know a lower one.
    pub log_start: i64,
    /// Records below are in segments or deleted: their runs are not to be read from the WAL.
    pub archived_to: i64,
    /// Only a process that shows this disk begins the next epoch, after it has put what is missing
    /// in the bucket (RESUME): the topic has `firn.durability=local`.
    pub waits_for: Option<DiskId>,
    /// The disk that may hold more of the last window than the bucket, of what acks=1 acknowledged:
    /// it is waited for, but not for long.
    pub disk: Option<DiskId>,
}

/// A part of a fold: rows of (the partition, `epoch`) in slots `from .. end` of a stream (I6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FoldRange {
    /// Rows of another epoch do not count here.
    pub epoch: LeaderEpoch,
    /// The stream.
    pub stream: StreamId,
    /// The first slot to read.
    pub from: Slot,
    /// The first slot not to read.
    pub end: Slot,
}

/// The end of an epoch of a partition, named by the (epoch, stream) it ends: the command is
/// dropped where that is no longer current (I4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PartitionEnd {
    /// The partition.
    pub tp: TopicPartition,
    /// The epoch that ended.
    pub epoch: LeaderEpoch,
    /// The stream of its last window.
    pub stream: StreamId,
    /// The first offset that the epoch did not use.
    pub end_offset: i64,
}

/// A partition that begins an epoch, or takes one up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Assigned {
    /// The partition.
    pub tp: TopicPartition,
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// The owner.
    pub owner: Incarnation,
    /// The owner's stream.
    pub stream: StreamId,
    /// The first offset to use.
    pub start_offset: i64,
}

/// RELEASE: an owner has stopped appending to the partition for good, its last slot with it is
/// durable, and so is a state row that it wrote after that (I4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReleasePartition {
    /// What ends, and where.
    pub end: PartitionEnd,
    /// The slot of the owner's stream with the state row; `None` only if the partition has none
    /// and never had a record.
    pub row: Option<Slot>,
}

/// RESUME: the latest epoch gets a second window, in the stream of the next incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ResumePartition {
    /// What is taken up again: the epoch, the sealed stream, and its folded end.
    pub end: PartitionEnd,
}

/// A partition that shall get another owner: its present one is asked to release it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MovePartition {
    /// The partition.
    pub tp: TopicPartition,
    /// Its epoch; a move of an earlier one is refused.
    pub epoch: LeaderEpoch,
    /// The broker that shall own it. Its present owner: it stays there after all.
    pub to: BrokerId,
}

/// A partition that is to wait for a disk no longer, as whoever gives that up has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ForceMove {
    /// The partition.
    pub tp: TopicPartition,
    /// Its last epoch; if it is another one by now, nothing is given up.
    pub epoch: LeaderEpoch,
    /// The disk that it waits for; if that is another one by now, nothing is given up.
    pub disk: DiskId,
}

/// What is given up of a partition that waits no longer for a disk. The next epoch begins at the end
/// of what the bucket has; records from there on that only the disk holds are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ForcedMove {
    /// The partition.
    pub tp: TopicPartition,
    /// The epoch that ends.
    pub epoch: LeaderEpoch,
    /// The stream of its last window.
    pub stream: StreamId,
    /// The broker that wrote it.
    pub broker: BrokerId,
    /// The disk.
    pub disk: DiskId,
    /// Records below are in the bucket for certain. How many more are is known once the next epoch
    /// begins.
    pub known_end: i64,
}

/// Epochs that have ended, of which the local WAL of a process may hold more than the bucket, and
/// which are damaged there: no next ones are to begin before a process shows that disk again, and can
/// say what is missing. Only the leader's memory knows, so that it is said again and again.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HoldEpochs {
    /// The process. Once it is gone its disk is waited for as if it had told of what that holds.
    pub incarnation: Incarnation,
    /// The partitions and their last epochs.
    pub epochs: Vec<(TopicPartition, LeaderEpoch)>,
}

/// What an owner tells about its stream, about once a second while it writes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ProgressReport {
    /// The writer.
    pub incarnation: Incarnation,
    /// Its stream.
    pub stream: StreamId,
    /// The first slot that is not known to be durable.
    pub durable_end: Slot,
    /// State rows that have become durable since the last report.
    pub rows: Vec<RowReport>,
    /// The state rows of this report and those before it hold everything in slots of the stream
    /// below this one, so that a fold starts here. A partition whose row was not written again has
    /// nothing in them.
    pub rows_end: Slot,
    /// At some time this process has acknowledged records that only its local WAL held (acks=1, or
    /// a topic with `firn.durability=local`).
    pub holds_local: bool,
}

/// State rows that are durable in (or named by) one slot.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RowReport {
    /// The slot.
    pub slot: Slot,
    /// The partitions.
    pub partitions: Vec<TopicPartition>,
}

/// Why a word about a stream was refused.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Error)]
pub enum StreamError {
    /// The end lies below what is known to be durable: the store lost slots, or the sealer is at
    /// fault. Nothing was changed.
    #[error("stream {stream} cannot end at slot {end}: {reason}")]
    EndTooLow {
        /// The stream.
        stream: StreamId,
        /// The end that was refused.
        end: Slot,
        /// Which known slot it contradicts.
        reason: String,
    },
    /// The stream has another end in the journal.
    #[error("stream {stream} is already sealed, at slot {end}")]
    Sealed {
        /// The stream.
        stream: StreamId,
        /// Its end.
        end: Slot,
    },
    /// No such stream, or it belongs to another incarnation.
    #[error("stream {0} is not one of this broker's")]
    Unknown(StreamId),
    /// The stream's writer has not ended, so that it must not be sealed.
    #[error("stream {0} belongs to a live broker")]
    Live(StreamId),
}

/// Why a partition's epoch was neither ended nor begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Error)]
pub enum AssignmentError {
    /// The disk that the incarnation showed is not that of the epoch (RESUME).
    #[error("the broker does not have the disk of the epoch that it wants to resume")]
    AnotherDisk,
    /// The end lies below the start of the epoch, or differs from the released one.
    #[error("the end offset contradicts the journal")]
    EndContradicts,
    /// No broker is alive that could own the partition, or the one named is not, or it drains.
    #[error("no live broker can own the partition")]
    NoBroker,
    /// The epoch named is not the partition's latest, or not in that stream.
    #[error("the epoch named is no longer current")]
    NotCurrent,
    /// The epoch's stream is neither sealed nor was the epoch released.
    #[error("the epoch has not ended: its stream is neither sealed nor was it released")]
    NotEnded,
    /// The row named does not lie in the durable part of the stream.
    #[error("the state row named is not known to be durable")]
    RowNotDurable,
    /// No such topic or partition.
    #[error("there is no such partition")]
    Unknown,
    /// The topic has `firn.durability=local`, its last owner crashed, and this is not about a broker
    /// that shows that one's disk.
    #[error(
        "the partition waits for the disk of its last owner (firn.durability=local); start a broker \
         with that disk, or force the move and lose what only it holds"
    )]
    WaitsForDisk,
}
