//! The bytes of the whole state: `{format u16}` and then the rows, as `firn_proto::codec` writes
//! them. A snapshot stands for every command up to the position that it is stored under.
//!
//! - `older.rs`: what earlier releases wrote

mod older;

use std::sync::Arc;

use bincode::{Decode, Encode};
use bytes::Bytes;
use firn_proto::cluster::BrokerImage;
use firn_proto::codec::{self, CodecError};
use firn_proto::ids::{CoordinatorEpoch, Incarnation, ProducerId, Slot, StreamId, TopicId};
use firn_proto::limits::SNAPSHOT_BYTES_MAX;
use thiserror::Error;

use crate::state::{
    Archive, CollectedTo, Deleting, KeptConsumerGroup, KeptGroup, NextIds, Offsets, State, Stream,
    Streams, Topic, Topics,
};
use older::{RowsV2, RowsV3};

/// Format of a snapshot: the rows, and what stands behind them.
const SNAPSHOT_FORMAT: u16 = 4;
/// The format of clusters of one broker: nothing of links, draining, partitions under way, of what
/// only disks hold, of who resigned, and of consumer groups.
const SNAPSHOT_FORMAT_3: u16 = 3;
/// The one before that, before the archive: no log starts, an empty list where the archive stands now, and
/// nothing of what is deleted.
const SNAPSHOT_FORMAT_2: u16 = 2;
/// The one before that, also without where folds start.
const SNAPSHOT_FORMAT_1: u16 = 1;

/// Why bytes are no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// The rows cannot be read or written.
    #[error("the snapshot of the cluster's state cannot be read or written: {0}")]
    Codec(#[from] CodecError),
    /// A snapshot of a later release, or no snapshot.
    #[error(
        "snapshot has format {0:?}; this release reads {SNAPSHOT_FORMAT}: start a newer release"
    )]
    UnknownFormat(Option<u16>),
}

/// The rows, with brokers, streams, topics and archive as the format has them.
#[derive(Encode, Decode)]
struct Rows<B, S, T, A> {
    at_ms: i64,
    feature_level: u16,
    next_incarnation: Incarnation,
    next_stream: StreamId,
    next_producer: ProducerId,
    brokers: Vec<B>,
    streams: Vec<(StreamId, S)>,
    topics: Vec<T>,
    deleting: Vec<(TopicId, Deleting)>,
    archive: A,
    groups: Vec<(Arc<str>, KeptGroup)>,
    offsets: Offsets,
}

type RowsNow = Rows<Arc<BrokerImage>, Stream, Topic, Archive>;

/// What stands behind the rows.
#[derive(Default, Encode, Decode)]
struct Behind {
    /// Where folds of each stream start.
    rows_ends: Vec<(StreamId, Slot)>,
    /// What of each stream is deleted.
    collected: Vec<(StreamId, CollectedTo)>,
    /// Who has resigned.
    resigned: Option<CoordinatorEpoch>,
    consumer_groups: Vec<(Arc<str>, KeptConsumerGroup)>,
}

/// Writes the state.
pub fn encode_snapshot(state: &State) -> Result<Bytes, SnapshotError> {
    let rows = Rows {
        at_ms: state.at_ms,
        feature_level: state.feature_level,
        next_incarnation: state.next.incarnation,
        next_stream: state.next.stream,
        next_producer: state.next.producer,
        brokers: state.brokers.values().cloned().collect(),
        streams: state
            .streams
            .iter()
            .map(|(id, s)| (id, s.clone()))
            .collect(),
        topics: state.topics.iter().map(|(_, t)| t.clone()).collect(),
        deleting: state
            .topics
            .deleting()
            .map(|(id, d)| (id, d.clone()))
            .collect(),
        archive: state.archive.clone(),
        groups: state.groups.clone().into_iter().collect(),
        offsets: state.offsets.clone(),
    };
    let mut out = SNAPSHOT_FORMAT.to_le_bytes().to_vec();
    codec::encode_into(&rows, &mut out)?;
    let behind = Behind {
        rows_ends: state.streams.rows_ends(),
        collected: state.streams.collected(),
        resigned: state.resigned,
        consumer_groups: state.consumer_groups.clone().into_iter().collect(),
    };
    codec::encode_into(&behind, &mut out)?;
    Ok(Bytes::from(out))
}

/// Reads the state.
pub fn decode_snapshot(bytes: &[u8]) -> Result<State, SnapshotError> {
    let format = bytes.split_first_chunk::<2>();
    let (rows, behind) = match format.map(|(f, rest)| (u16::from_le_bytes(*f), rest)) {
        Some((SNAPSHOT_FORMAT, rest)) => {
            codec::decode::<SNAPSHOT_BYTES_MAX, (RowsNow, Behind)>(rest)?
        }
        Some((SNAPSHOT_FORMAT_3, rest)) => {
            let read = codec::decode::<SNAPSHOT_BYTES_MAX, (RowsV3, (_, _))>(rest)?;
            let (rows, (rows_ends, collected)) = read;
            let behind = Behind {
                rows_ends,
                collected,
                ..Behind::default()
            };
            (rows.into(), behind)
        }
        Some((SNAPSHOT_FORMAT_2, rest)) => {
            let (rows, rows_ends) = codec::decode::<SNAPSHOT_BYTES_MAX, (RowsV2, _)>(rest)?;
            let behind = Behind {
                rows_ends,
                ..Behind::default()
            };
            (rows.into(), behind)
        }
        Some((SNAPSHOT_FORMAT_1, rest)) => {
            let rows = codec::decode::<SNAPSHOT_BYTES_MAX, RowsV2>(rest)?;
            (rows.into(), Behind::default())
        }
        other => {
            return Err(SnapshotError::UnknownFormat(
                other.map(|(format, _)| format),
            ));
        }
    };
    let mut state = State {
        at_ms: rows.at_ms,
        feature_level: rows.feature_level,
        next: NextIds {
            incarnation: rows.next_incarnation,
            stream: rows.next_stream,
            producer: rows.next_producer,
        },
        brokers: rows.brokers.into_iter().map(|b| (b.broker, b)).collect(),
        streams: Streams::from_rows(rows.streams, behind.rows_ends, behind.collected),
        topics: Topics::from_rows(rows.topics, rows.deleting),
        archive: rows.archive,
        groups: rows.groups.into_iter().collect(),
        consumer_groups: behind.consumer_groups.into_iter().collect(),
        offsets: rows.offsets,
        resigned: behind.resigned,
        ..State::default()
    };
    state.rebuild_derived();
    Ok(state)
}
