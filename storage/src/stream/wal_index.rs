//! The index of a WAL slot: its runs, the batches of producers with state, and a checkpoint or
//! where one lies.
//!
//! Pure: bytes in, bytes out; hostile bytes give an error, never a panic or a large allocation.
//! Fixed layout, little-endian, specified in `storage/FORMAT.md`. Its checksum stands in its own
//! last bytes as well as in the slot's header, so that a copy of it can be trusted alone.
//! May not touch: what the rows mean (`state/`), what a checkpoint holds (`checkpoint.rs`).

use bytes::{BufMut, Bytes, BytesMut};
use firn_proto::ids::{
    LeaderEpoch, PartitionIndex, ProducerEpoch, ProducerId, Slot, TopicId, TopicPartition,
};
use thiserror::Error;

use super::fields::{Fields, Short, crc32c};
use super::slot::{HEADER_LEN, SlotFault};
use crate::state::{BatchFlags, ProducerBatch, Run};

/// What an index begins with.
pub const INDEX_MAGIC: [u8; 4] = *b"FWIX";
/// The version this code writes, and the only one it reads.
pub const INDEX_VERSION: u16 = 1;

const FIXED_LEN: usize = 32;
const TOPIC_LEN: usize = 16;
const RUN_LEN: usize = 48;
const PRODUCER_LEN: usize = 40;
const REFERENCE_LEN: usize = 24;
const CRC_LEN: usize = 4;

/// The checkpoint that a slot carries. Its rows are the state after exactly the rows of all slots
/// up to one that they name (FORMAT.md §5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CheckpointRef {
    /// None.
    #[default]
    None,
    /// The encoded rows, in the index itself.
    Inline(Bytes),
    /// In an object of its own, put and confirmed before this slot.
    Object {
        /// The slot in the object's key; its stream is this slot's.
        slot: Slot,
        /// Length of the object in bytes.
        len: u64,
        /// CRC-32C of the object.
        crc: u32,
    },
}

/// What the index of a WAL slot holds. `byte_start` of runs counts from the start of the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalIndex {
    /// One row per run, sorted by (topic, partition, base offset); disjoint.
    pub runs: Vec<Run>,
    /// One row per batch of a producer with state, sorted like the runs they lie in.
    pub producers: Vec<ProducerBatch>,
    /// The checkpoint of this slot.
    pub checkpoint: CheckpointRef,
}

/// Rows that cannot be an index: a bug of whoever made them.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum IndexError {
    /// Runs are out of order, overlap or are empty.
    #[error("run {row} is out of order, overlaps the one before it, or is empty")]
    Run {
        /// Its place among the runs.
        row: usize,
    },
    /// A producer batch lies in no run.
    #[error("producer batch {row} lies in no run of this object")]
    Producer {
        /// Its place among the producer batches.
        row: usize,
    },
    /// Something does not fit its field.
    #[error("the {field} does not fit its field in the index")]
    Width {
        /// What it is.
        field: &'static str,
    },
}

impl WalIndex {
    /// Encodes the index, after it has moved the runs to where they will stand in the object: on
    /// entry `byte_start` counts from the start of the body, on return from the start of the
    /// object.
    ///
    /// # Errors
    /// [`IndexError`]; nothing has moved then.
    pub fn place(&mut self) -> Result<Bytes, IndexError> {
        let topics = self.topics();
        let body_start =
            u32::try_from(HEADER_LEN + self.encoded_len(topics.len())).map_err(|_| {
                IndexError::Width {
                    field: "length of the index",
                }
            })?;
        let mut placed = self.clone();
        for run in &mut placed.runs {
            run.byte_start = run
                .byte_start
                .checked_add(body_start)
                .ok_or(IndexError::Width {
                    field: "place of a run",
                })?;
        }
        let bytes = placed.encode(&topics)?;
        *self = placed;
        Ok(bytes)
    }

    fn topics(&self) -> Vec<TopicId> {
        let mut topics: Vec<_> = self.runs.iter().map(|run| run.tp.topic).collect();
        topics.dedup();
        topics
    }

    fn encoded_len(&self, topics: usize) -> usize {
        let checkpoint = match &self.checkpoint {
            CheckpointRef::None => 0,
            CheckpointRef::Inline(rows) => rows.len(),
            CheckpointRef::Object { .. } => REFERENCE_LEN,
        };
        FIXED_LEN
            + topics * TOPIC_LEN
            + self.runs.len() * RUN_LEN
            + self.producers.len() * PRODUCER_LEN
            + checkpoint
            + CRC_LEN
    }

    fn encode(&self, topics: &[TopicId]) -> Result<Bytes, IndexError> {
        check_runs(&self.runs).map_err(|row| IndexError::Run { row })?;
        let mut out = BytesMut::with_capacity(self.encoded_len(topics.len()));
        let (kind, checkpoint_len) = match &self.checkpoint {
            CheckpointRef::None => (0, 0),
            CheckpointRef::Inline(rows) => (1, rows.len()),
            CheckpointRef::Object { .. } => (2, REFERENCE_LEN),
        };
        out.put_slice(&INDEX_MAGIC);
        out.put_u16_le(INDEX_VERSION);
        out.put_u8(kind);
        out.put_u8(0);
        out.put_u32_le(width(topics.len(), "number of topics")?);
        out.put_u32_le(width(self.runs.len(), "number of runs")?);
        out.put_u32_le(width(self.producers.len(), "number of producer batches")?);
        out.put_u32_le(width(checkpoint_len, "length of the checkpoint")?);
        out.put_u64_le(0);
        for topic in topics {
            out.put_slice(&topic.0);
        }
        self.encode_runs(&mut out)?;
        self.encode_producers(&mut out)?;
        match &self.checkpoint {
            CheckpointRef::None => {}
            CheckpointRef::Inline(rows) => out.put_slice(rows),
            CheckpointRef::Object { slot, len, crc } => {
                out.put_u64_le(slot.0);
                out.put_u64_le(*len);
                out.put_u32_le(*crc);
                out.put_u32_le(0);
            }
        }
        let crc = crc32c(&out);
        out.put_u32_le(crc);
        Ok(out.freeze())
    }

    fn encode_runs(&self, out: &mut BytesMut) -> Result<(), IndexError> {
        let mut topic = 0;
        let mut last = self.runs.first().map(|run| run.tp.topic);
        for run in &self.runs {
            if last != Some(run.tp.topic) {
                topic += 1;
                last = Some(run.tp.topic);
            }
            out.put_u32_le(width(topic, "number of topics")?);
            out.put_i32_le(run.tp.partition.0);
            out.put_i32_le(run.epoch.0);
            out.put_u8(run.flags.0);
            out.put_slice(&[0; 3]);
            out.put_i64_le(run.base_offset);
            out.put_i64_le(run.last_offset);
            out.put_u32_le(run.byte_start);
            out.put_u32_le(run.byte_len);
            out.put_i64_le(run.max_timestamp);
        }
        Ok(())
    }

    fn encode_producers(&self, out: &mut BytesMut) -> Result<(), IndexError> {
        for (row, batch) in self.producers.iter().enumerate() {
            let run = run_of(&self.runs, batch).ok_or(IndexError::Producer { row })?;
            out.put_u32_le(width(run, "number of runs")?);
            out.put_i32_le(batch.base_sequence);
            out.put_i64_le(batch.producer.0);
            out.put_i64_le(batch.base_offset);
            out.put_i64_le(batch.max_timestamp);
            out.put_u32_le(batch.count);
            out.put_i16_le(batch.producer_epoch.0);
            out.put_u8(batch.flags.0);
            out.put_u8(0);
        }
        Ok(())
    }

    /// Reads an index whose slot has a body of `body_len` bytes.
    ///
    /// # Errors
    /// [`SlotFault::Index`] with what is wrong.
    pub fn decode(index: &Bytes, body_len: u64) -> Result<Self, SlotFault> {
        let (rows, crc) = index
            .len()
            .checked_sub(CRC_LEN)
            .map(|at| index.split_at(at))
            .ok_or_else(|| fault("it is too short"))?;
        if Fields::new(crc).u32()? != crc32c(rows) {
            return Err(fault("its checksum is wrong"));
        }
        let mut fields = Fields::new(rows);
        let decoded = Self::decode_rows(&mut fields, index)
            .map_err(|error| error.unwrap_or_else(|| fault("it ends in the middle of a row")))?;
        if fields.left() != 0 {
            return Err(fault("it has bytes after its last row"));
        }
        check_runs(&decoded.runs)
            .map_err(|row| fault(&format!("run {row} is out of order, overlaps or is empty")))?;
        decoded.check_bytes(HEADER_LEN as u64 + index.len() as u64, body_len)?;
        Ok(decoded)
    }

    /// `None` as an error means that the bytes ended.
    fn decode_rows(fields: &mut Fields<'_>, index: &Bytes) -> Result<Self, Option<SlotFault>> {
        if fields.array()? != INDEX_MAGIC {
            return Err(Some(fault("it does not begin with its magic")));
        }
        let version = fields.u16()?;
        if version != INDEX_VERSION {
            return Err(Some(fault(&format!(
                "it has version {version}; this release reads version {INDEX_VERSION}"
            ))));
        }
        let kind = fields.u8()?;
        fields.u8()?;
        let topic_count = fields.u32()?;
        let run_count = fields.u32()?;
        let producer_count = fields.u32()?;
        let checkpoint_len = fields.u32()?;
        fields.u64()?;
        let topics = repeat(fields, topic_count, TOPIC_LEN, |fields| {
            Ok(TopicId(fields.array()?))
        })?;
        let runs = repeat(fields, run_count, RUN_LEN, |fields| {
            decode_run(fields, &topics)
        })?;
        let producers = repeat(fields, producer_count, PRODUCER_LEN, |fields| {
            decode_producer(fields, &runs)
        })?;
        let checkpoint = fields.take(usize::try_from(checkpoint_len).map_err(|_| None)?)?;
        let checkpoint = decode_checkpoint(kind, checkpoint, index)?;
        Ok(Self {
            runs,
            producers,
            checkpoint,
        })
    }

    fn check_bytes(&self, body_start: u64, body_len: u64) -> Result<(), SlotFault> {
        let end = body_start.saturating_add(body_len);
        for (row, run) in self.runs.iter().enumerate() {
            let (start, len) = (u64::from(run.byte_start), u64::from(run.byte_len));
            if start < body_start || start + len > end {
                return Err(fault(&format!("run {row} lies outside the body")));
            }
        }
        Ok(())
    }
}

impl From<Short> for Option<SlotFault> {
    fn from(_: Short) -> Self {
        None
    }
}

/// Reads `count` rows of `len` bytes each, after a check that the bytes hold that many.
fn repeat<T>(
    fields: &mut Fields<'_>,
    count: u32,
    len: usize,
    read: impl Fn(&mut Fields<'_>) -> Result<T, Option<SlotFault>>,
) -> Result<Vec<T>, Option<SlotFault>> {
    let count = usize::try_from(count).map_err(|_| None)?;
    if fields.left() / len < count {
        return Err(None);
    }
    (0..count).map(|_| read(fields)).collect()
}

fn decode_run(fields: &mut Fields<'_>, topics: &[TopicId]) -> Result<Run, Option<SlotFault>> {
    let topic = fields.u32()?;
    let topic = usize::try_from(topic)
        .ok()
        .and_then(|at| topics.get(at))
        .ok_or_else(|| fault(&format!("a run names topic {topic}, which is not there")))?;
    let partition = PartitionIndex(fields.i32()?);
    let epoch = LeaderEpoch(fields.i32()?);
    let flags = BatchFlags(fields.u8()?);
    fields.take(3)?;
    Ok(Run {
        tp: TopicPartition {
            topic: *topic,
            partition,
        },
        epoch,
        base_offset: fields.i64()?,
        last_offset: fields.i64()?,
        byte_start: fields.u32()?,
        byte_len: fields.u32()?,
        max_timestamp: fields.i64()?,
        flags,
    })
}

fn decode_producer(
    fields: &mut Fields<'_>,
    runs: &[Run],
) -> Result<ProducerBatch, Option<SlotFault>> {
    let row = fields.u32()?;
    let run = usize::try_from(row)
        .ok()
        .and_then(|at| runs.get(at))
        .ok_or_else(|| {
            fault(&format!(
                "a producer batch names run {row}, which is not there"
            ))
        })?;
    let base_sequence = fields.i32()?;
    let producer = ProducerId(fields.i64()?);
    let base_offset = fields.i64()?;
    let max_timestamp = fields.i64()?;
    let count = fields.u32()?;
    let producer_epoch = ProducerEpoch(fields.i16()?);
    let flags = BatchFlags(fields.u8()?);
    fields.u8()?;
    let batch = ProducerBatch {
        tp: run.tp,
        producer,
        producer_epoch,
        base_sequence,
        count,
        base_offset,
        max_timestamp,
        flags,
    };
    if !holds(run, &batch) {
        return Err(Some(fault(&format!(
            "a producer batch lies outside run {row}, its own"
        ))));
    }
    Ok(batch)
}

fn decode_checkpoint(
    kind: u8,
    bytes: &[u8],
    index: &Bytes,
) -> Result<CheckpointRef, Option<SlotFault>> {
    match (kind, bytes.len()) {
        (0, 0) => Ok(CheckpointRef::None),
        (1, _) => Ok(CheckpointRef::Inline(index.slice_ref(bytes))),
        (2, REFERENCE_LEN) => {
            let mut fields = Fields::new(bytes);
            Ok(CheckpointRef::Object {
                slot: Slot(fields.u64()?),
                len: fields.u64()?,
                crc: fields.u32()?,
            })
        }
        _ => Err(Some(fault(&format!(
            "its checkpoint has kind {kind} and {} bytes, which mean nothing",
            bytes.len()
        )))),
    }
}

fn holds(run: &Run, batch: &ProducerBatch) -> bool {
    let last = batch.base_offset.checked_add(i64::from(batch.count) - 1);
    run.tp == batch.tp
        && batch.count > 0
        && batch.base_offset >= run.base_offset
        && last.is_some_and(|last| last <= run.last_offset)
}

/// The run that holds `batch`; runs are sorted and disjoint.
fn run_of(runs: &[Run], batch: &ProducerBatch) -> Option<usize> {
    let after =
        runs.partition_point(|run| (run.tp, run.base_offset) <= (batch.tp, batch.base_offset));
    let at = after.checked_sub(1)?;
    holds(&runs[at], batch).then_some(at)
}

/// The first row that is not after the one before it, as an error.
fn check_runs(runs: &[Run]) -> Result<(), usize> {
    for (row, run) in runs.iter().enumerate() {
        if run.base_offset < 0 || run.last_offset < run.base_offset || run.byte_len == 0 {
            return Err(row);
        }
        if let Some(before) = row.checked_sub(1).map(|at| &runs[at])
            && (before.tp, before.last_offset) >= (run.tp, run.base_offset)
        {
            return Err(row);
        }
    }
    Ok(())
}

fn width(value: usize, field: &'static str) -> Result<u32, IndexError> {
    u32::try_from(value).map_err(|_| IndexError::Width { field })
}

fn fault(what: &str) -> SlotFault {
    SlotFault::Index(what.to_owned())
}

#[cfg(test)]
mod tests;
