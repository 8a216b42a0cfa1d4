//! The rows of earlier formats, and what they mean in the present one.

use std::collections::BTreeMap;
use std::sync::Arc;

use bincode::Decode;
use firn_proto::cluster::{
    BrokerImage, EpochStart, Listener, Ownership, PartitionImage, TopicImage, Window,
};
use firn_proto::ids::{
    BrokerId, DiskId, Incarnation, LeaderEpoch, Slot, SlotPosition, StreamId, TopicId,
};

use super::{Rows, RowsNow};
use crate::state::{Archive, PartitionMarks, Phase, Stream, Topic};

/// Brokers could not reach each other, and partitions did not move.
pub(super) type RowsV3 = Rows<BrokerV3, StreamV3, TopicV3<MarksV3>, Archive>;

/// Without an archive: what stands in its place is the length of a list that was always empty.
pub(super) type RowsV2 = Rows<BrokerV3, StreamV3, TopicV3<MarksV2>, Vec<()>>;

#[derive(Decode)]
pub(super) struct BrokerV3 {
    broker: BrokerId,
    incarnation: Incarnation,
    stream: StreamId,
    listeners: Vec<Listener>,
    rack: Option<String>,
    disk: Option<DiskId>,
}

#[derive(Decode)]
pub(super) struct StreamV3 {
    broker: BrokerId,
    incarnation: Incarnation,
    disk: Option<DiskId>,
    floor: Slot,
    durable_end: Slot,
    phase: Phase,
}

#[derive(Decode)]
pub(super) struct TopicV3<M> {
    id: TopicId,
    name: Arc<str>,
    created_ms: i64,
    replication_factor: i16,
    configs: BTreeMap<String, String>,
    partitions: Vec<PartitionV3>,
    marks: Vec<M>,
}

#[derive(Decode)]
struct PartitionV3 {
    epoch: LeaderEpoch,
    owner: Option<Ownership>,
    preferred: BrokerId,
    epochs: Vec<EpochStart>,
    windows: Vec<Window>,
}

#[derive(Decode)]
pub(super) struct MarksV3 {
    row: Option<SlotPosition>,
    released_end: Option<i64>,
    log_start: i64,
    archived_to: i64,
}

#[derive(Decode)]
pub(super) struct MarksV2 {
    row: Option<SlotPosition>,
    released_end: Option<i64>,
    archived_to: i64,
}

impl From<BrokerV3> for Arc<BrokerImage> {
    fn from(broker: BrokerV3) -> Self {
        Self::new(BrokerImage {
            broker: broker.broker,
            incarnation: broker.incarnation,
            stream: broker.stream,
            listeners: broker.listeners,
            rack: broker.rack,
            disk: broker.disk,
            link: None,
            draining: false,
        })
    }
}

impl From<StreamV3> for Stream {
    fn from(stream: StreamV3) -> Self {
        Self {
            broker: stream.broker,
            incarnation: stream.incarnation,
            disk: stream.disk,
            floor: stream.floor,
            durable_end: stream.durable_end,
            phase: stream.phase,
            holds_local: false,
            is_whole: stream.phase == Phase::Left,
        }
    }
}

impl From<PartitionV3> for PartitionImage {
    fn from(partition: PartitionV3) -> Self {
        Self {
            epoch: partition.epoch,
            owner: partition.owner,
            preferred: partition.preferred,
            moving_to: None,
            epochs: partition.epochs,
            windows: partition.windows,
            counts_locally: false,
        }
    }
}

impl From<MarksV3> for PartitionMarks {
    /// No partition had come back into a stream in which rows of it could be reported late.
    fn from(marks: MarksV3) -> Self {
        Self {
            row: marks.row,
            released_end: marks.released_end,
            log_start: marks.log_start,
            archived_to: marks.archived_to,
            rows_from: Slot(0),
            is_forced: false,
        }
    }
}

impl From<MarksV2> for PartitionMarks {
    fn from(marks: MarksV2) -> Self {
        Self::from(MarksV3 {
            row: marks.row,
            released_end: marks.released_end,
            log_start: 0,
            archived_to: marks.archived_to,
        })
    }
}

impl<M: Into<PartitionMarks>> From<TopicV3<M>> for Topic {
    fn from(topic: TopicV3<M>) -> Self {
        let partitions = topic.partitions.into_iter().map(PartitionImage::from);
        Self {
            image: Arc::new(TopicImage {
                id: topic.id,
                name: topic.name,
                created_ms: topic.created_ms,
                replication_factor: topic.replication_factor,
                configs: topic.configs,
                partitions: partitions.collect(),
            }),
            marks: topic.marks.into_iter().map(M::into).collect(),
        }
    }
}

impl From<RowsV3> for RowsNow {
    fn from(rows: RowsV3) -> Self {
        rows.into_present(|archive, _| archive)
    }
}

impl From<RowsV2> for RowsNow {
    /// Every incarnation that ever started is one whose files were not looked through.
    fn from(rows: RowsV2) -> Self {
        rows.into_present(|_, streams| {
            let mut archive = Archive::default();
            for (_, stream) in streams {
                archive.open_writer(stream.incarnation);
            }
            archive
        })
    }
}

impl<B, S, T, A> Rows<B, S, T, A>
where
    Arc<BrokerImage>: From<B>,
    Stream: From<S>,
    Topic: From<T>,
{
    fn into_present(self, archive: impl FnOnce(A, &[(StreamId, Stream)]) -> Archive) -> RowsNow {
        let streams = self.streams.into_iter();
        let streams: Vec<_> = streams.map(|(id, stream)| (id, stream.into())).collect();
        Rows {
            at_ms: self.at_ms,
            feature_level: self.feature_level,
            next_incarnation: self.next_incarnation,
            next_stream: self.next_stream,
            next_producer: self.next_producer,
            brokers: self.brokers.into_iter().map(Into::into).collect(),
            archive: archive(self.archive, &streams),
            streams,
            topics: self.topics.into_iter().map(Topic::from).collect(),
            deleting: self.deleting,
            groups: self.groups,
            offsets: self.offsets,
        }
    }
}
