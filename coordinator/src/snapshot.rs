//! The bytes of the whole state: `{format u16}` and then the rows, as `firn_proto::codec` writes
//! them. A snapshot stands for every command up to the position that it is stored under.

use std::sync::Arc;

use bincode::{Decode, Encode};
use bytes::Bytes;
use firn_proto::cluster::BrokerImage;
use firn_proto::codec::{self, CodecError};
use firn_proto::ids::{Incarnation, ProducerId, StreamId, TopicId};
use firn_proto::limits::SNAPSHOT_BYTES_MAX;
use thiserror::Error;

use crate::state::{
    Deleting, KeptGroup, NextIds, Offsets, SegmentMap, State, Stream, Streams, Topic, Topics,
};

/// Format of a snapshot: the rows, and then where folds of each stream start.
const SNAPSHOT_FORMAT: u16 = 2;
/// The format before, without the latter.
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

#[derive(Encode, Decode)]
struct Rows {
    at_ms: i64,
    feature_level: u16,
    next_incarnation: Incarnation,
    next_stream: StreamId,
    next_producer: ProducerId,
    brokers: Vec<Arc<BrokerImage>>,
    streams: Vec<(StreamId, Stream)>,
    topics: Vec<Topic>,
    deleting: Vec<(TopicId, Deleting)>,
    segments: SegmentMap,
    groups: Vec<(Arc<str>, KeptGroup)>,
    offsets: Offsets,
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
        segments: state.segments.clone(),
        groups: state.groups.clone().into_iter().collect(),
        offsets: state.offsets.clone(),
    };
    let mut out = SNAPSHOT_FORMAT.to_le_bytes().to_vec();
    codec::encode_into(&rows, &mut out)?;
    codec::encode_into(&state.streams.rows_ends(), &mut out)?;
    Ok(Bytes::from(out))
}

/// Reads the state.
pub fn decode_snapshot(bytes: &[u8]) -> Result<State, SnapshotError> {
    let format = bytes.split_first_chunk::<2>();
    let (rows, rows_ends) = match format.map(|(f, rest)| (u16::from_le_bytes(*f), rest)) {
        Some((SNAPSHOT_FORMAT, rest)) => codec::decode::<SNAPSHOT_BYTES_MAX, _>(rest)?,
        Some((SNAPSHOT_FORMAT_1, rest)) => {
            let rows: Rows = codec::decode::<SNAPSHOT_BYTES_MAX, _>(rest)?;
            (rows, Vec::new())
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
        streams: Streams::from_rows(rows.streams, rows_ends),
        topics: Topics::from_rows(rows.topics, rows.deleting),
        segments: rows.segments,
        groups: rows.groups.into_iter().collect(),
        offsets: rows.offsets,
        ..State::default()
    };
    state.rebuild_derived();
    Ok(state)
}
