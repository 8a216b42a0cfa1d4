//! What is fed into a segment. Blocks: runs on a thread of its own.

use std::{io, mem};

use bytes::Bytes;
use firn_proto::limits::ROW_GROUP_BYTES_TARGET;
use firn_proto::record::BatchView;
use tokio::sync::mpsc;

use super::ArchiveFault;
use super::feed::Fed;
use crate::low_priority::Stopped;
use crate::segment::{Fingerprints, Segment, SegmentOrigin, SegmentWriter, Written};

/// A segment that was made.
pub(super) struct Encoded {
    /// Its bytes.
    pub(super) pieces: Vec<Bytes>,
    /// Where everything in it is.
    pub(super) segment: Segment,
    /// What went in.
    pub(super) fingerprints: Fingerprints,
    /// How much went in.
    pub(super) taken: Taken,
}

/// How much went into a segment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    pub(super) batches: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// Takes what is fed until nothing comes any more, or until the segment has about `segment_bytes`.
pub(super) fn encode(
    mut fed: mpsc::Receiver<Fed>,
    origin: &SegmentOrigin,
    segment_bytes: usize,
) -> Result<Encoded, ArchiveFault> {
    let mut writer = SegmentWriter::new(Pieces::default(), origin)?;
    let mut taken = Taken::default();
    loop {
        // who feeds says so at the end: if not, it could not go on, and this is no segment
        match fed.blocking_recv().ok_or(Stopped)? {
            Fed::Run {
                partition,
                base_offset,
                last_offset,
            } => writer.begin_run(partition, base_offset, last_offset)?,
            Fed::Batches(batches, memory) => {
                for batch in batches {
                    let last_offset = push(&mut writer, batch, &mut taken)?;
                    if is_full(&writer, segment_bytes) {
                        writer.end_run_at(last_offset)?;
                        return finish(writer, taken);
                    }
                }
                drop(memory);
            }
            Fed::RunEnd(last_offset) => {
                writer.end_run_at(last_offset)?;
                if is_full(&writer, segment_bytes) {
                    return finish(writer, taken);
                }
            }
            Fed::End => return finish(writer, taken),
        }
    }
}

/// Adds a batch and returns its last offset. Markers of transactions are no records: they leave a
/// gap.
fn push(
    writer: &mut SegmentWriter<Pieces>,
    mut bytes: Bytes,
    taken: &mut Taken,
) -> Result<i64, ArchiveFault> {
    // it was checked when it was read, or before it became durable
    let batch = BatchView::take(&mut bytes)?;
    let header = batch.header();
    if !header.attributes.is_control() {
        writer.push(&batch)?;
        taken.batches += 1;
        taken.records += u64::try_from(header.record_count).unwrap_or_default();
        taken.bytes += batch.bytes().len() as u64;
    }
    Ok(header.last_offset())
}

/// Whether another row group would be one too many, or make the segment larger than it should be.
fn is_full(writer: &SegmentWriter<Pieces>, segment_bytes: usize) -> bool {
    writer.row_groups_left() == 0 || writer.bytes_written() + ROW_GROUP_BYTES_TARGET > segment_bytes
}

fn finish(writer: SegmentWriter<Pieces>, taken: Taken) -> Result<Encoded, ArchiveFault> {
    let Written {
        sink,
        segment,
        fingerprints,
    } = writer.finish()?;
    Ok(Encoded {
        pieces: sink.into_pieces(),
        segment,
        fingerprints,
        taken,
    })
}

/// Bytes as they are written, in pieces that are never copied again: one buffer would be moved each
/// time it grows.
#[derive(Default)]
struct Pieces {
    full: Vec<Bytes>,
    open: Vec<u8>,
}

const PIECE_BYTES: usize = 1024 * 1024;

impl Pieces {
    fn into_pieces(mut self) -> Vec<Bytes> {
        self.close();
        self.full
    }

    fn close(&mut self) {
        let piece = mem::take(&mut self.open);
        if !piece.is_empty() {
            self.full.push(piece.into());
        }
    }
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.open.capacity() == 0 {
            self.open.reserve_exact(PIECE_BYTES);
        }
        let room = PIECE_BYTES.saturating_sub(self.open.len());
        let taken = bytes.len().min(room);
        self.open.extend_from_slice(&bytes[..taken]);
        if self.open.len() >= PIECE_BYTES {
            self.close();
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
