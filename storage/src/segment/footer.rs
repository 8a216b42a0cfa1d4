//! What a segment says of itself in the key-value metadata of its Parquet footer: whose records it
//! holds and where, so that the segment map could be made anew from the objects alone.
//! FORMAT.md §8.4 has the keys.
//!
//! Architecture invariant: pure. Readers of records need no footer; this is for writing, for
//! verifying and for people.

use std::fmt::Write as _;
use std::str::FromStr;

use firn_proto::ids::{ClusterId, PartitionIndex, TopicId};
use parquet::file::metadata::{
    ColumnChunkMetaData, KeyValue, ParquetMetaData, ParquetMetaDataReader,
};

use super::fault::SegmentFault;
use super::map::{RowGroup, Segment, SegmentRun};

/// Whose records a segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentOrigin {
    /// The cluster.
    pub cluster: ClusterId,
    /// The topic.
    pub topic: TopicId,
    /// What the topic is called.
    pub topic_name: String,
}

const FORMAT: &str = "firn.format";
const FORMAT_VERSION: &str = "1";
const CLUSTER: &str = "firn.cluster";
const TOPIC_ID: &str = "firn.topic_id";
const TOPIC: &str = "firn.topic";
const MAP: &str = "firn.map";
/// What every Parquet file begins and ends with.
pub(crate) const PARQUET_MAGIC: [u8; 4] = *b"PAR1";
/// Length of the footer and magic, at the end of the file.
const TAIL_BYTES: usize = 8;

/// The pairs that are known before there is a record.
pub(super) fn key_values(origin: &SegmentOrigin) -> [KeyValue; 4] {
    [
        KeyValue::new(FORMAT.to_owned(), FORMAT_VERSION.to_owned()),
        KeyValue::new(CLUSTER.to_owned(), origin.cluster.to_string()),
        KeyValue::new(TOPIC_ID.to_owned(), origin.topic.to_string()),
        KeyValue::new(TOPIC.to_owned(), origin.topic_name.clone()),
    ]
}

/// The pair that says where everything is: a line for each run, and behind it one for each of its
/// row groups.
pub(super) fn map_value(segment: &Segment) -> KeyValue {
    let mut lines = String::new();
    for run in &segment.runs {
        // writing to a string does not fail
        let _ = writeln!(
            lines,
            "run {} {} {} {}",
            run.partition, run.base_offset, run.last_offset, run.max_timestamp
        );
        for group in &run.row_groups {
            let _ = writeln!(
                lines,
                "group {} {} {} {} {} {} {}",
                group.base_offset,
                group.last_offset,
                group.byte_start,
                group.byte_len,
                group.max_timestamp_so_far,
                group.records,
                group.plain_bytes
            );
        }
    }
    KeyValue::new(MAP.to_owned(), lines)
}

/// Reads what a segment says of itself from its last bytes, which must hold its footer; `byte_len`
/// is the length of the object.
///
/// # Errors
/// There is no Parquet footer, or not one of a segment.
pub fn read_footer(end: &[u8], byte_len: u64) -> Result<(SegmentOrigin, Segment), SegmentFault> {
    let metadata = parquet_footer(end)?;
    read_key_values(&metadata, byte_len)
}

/// The Parquet footer in the last bytes of an object.
pub(super) fn parquet_footer(end: &[u8]) -> Result<ParquetMetaData, SegmentFault> {
    let truncated = |expected| SegmentFault::Length {
        what: "footer",
        found: end.len(),
        expected,
    };
    let (rest, tail) = end
        .split_last_chunk::<TAIL_BYTES>()
        .ok_or_else(|| truncated(TAIL_BYTES))?;
    let (len, magic) = tail.split_at(TAIL_BYTES - PARQUET_MAGIC.len());
    if magic != PARQUET_MAGIC {
        return Err(SegmentFault::Footer("no Parquet file ends here".to_owned()));
    }
    let len = len
        .iter()
        .rev()
        .fold(0_usize, |len, byte| len << 8 | usize::from(*byte));
    let start = rest
        .len()
        .checked_sub(len)
        .ok_or_else(|| truncated(len.saturating_add(TAIL_BYTES)))?;
    ParquetMetaDataReader::decode_metadata(&rest[start..])
        .map_err(|error| SegmentFault::Footer(error.to_string()))
}

/// Where the chunk of a column is: its first byte and its length; `None` if the footer says what
/// cannot be.
pub(super) fn chunk_range(chunk: &ColumnChunkMetaData) -> Option<(u64, u64)> {
    let start = chunk
        .dictionary_page_offset()
        .unwrap_or_else(|| chunk.data_page_offset());
    let len = chunk.compressed_size();
    Some((u64::try_from(start).ok()?, u64::try_from(len).ok()?))
}

pub(super) fn read_key_values(
    metadata: &ParquetMetaData,
    byte_len: u64,
) -> Result<(SegmentOrigin, Segment), SegmentFault> {
    let pairs = metadata.file_metadata().key_value_metadata();
    let value = |key: &str| {
        let mut pairs = pairs.into_iter().flatten();
        pairs
            .find(|pair| pair.key == key)
            .and_then(|pair| pair.value.as_deref())
            .ok_or_else(|| SegmentFault::Footer(format!("it has no {key}")))
    };
    let broken = |key: &str| SegmentFault::Footer(format!("its {key} cannot be read"));
    let format = value(FORMAT)?;
    if format != FORMAT_VERSION {
        return Err(SegmentFault::Footer(format!(
            "{FORMAT} is {format}, this release reads {FORMAT_VERSION}"
        )));
    }
    let origin = SegmentOrigin {
        cluster: ClusterId::parse(value(CLUSTER)?).ok_or_else(|| broken(CLUSTER))?,
        topic: TopicId::parse(value(TOPIC_ID)?).ok_or_else(|| broken(TOPIC_ID))?,
        topic_name: value(TOPIC)?.to_owned(),
    };
    let segment = Segment {
        topic: origin.topic,
        byte_len,
        runs: parse_map(value(MAP)?).ok_or_else(|| broken(MAP))?,
    };
    Ok((origin, segment))
}

fn parse_map(lines: &str) -> Option<Vec<SegmentRun>> {
    let mut runs: Vec<SegmentRun> = Vec::new();
    for line in lines.lines() {
        let mut words = line.split(' ');
        match words.next()? {
            "run" => runs.push(SegmentRun {
                partition: PartitionIndex(number(&mut words)?),
                base_offset: number(&mut words)?,
                last_offset: number(&mut words)?,
                max_timestamp: number(&mut words)?,
                row_groups: Vec::new(),
            }),
            "group" => runs.last_mut()?.row_groups.push(RowGroup {
                base_offset: number(&mut words)?,
                last_offset: number(&mut words)?,
                byte_start: number(&mut words)?,
                byte_len: number(&mut words)?,
                max_timestamp_so_far: number(&mut words)?,
                records: number(&mut words)?,
                plain_bytes: number(&mut words)?,
            }),
            _ => return None,
        }
        if words.next().is_some() {
            return None;
        }
    }
    Some(runs)
}

fn number<'a, T: FromStr>(words: &mut impl Iterator<Item = &'a str>) -> Option<T> {
    words.next()?.parse().ok()
}
