//! The writer of local WAL segments: synchronous, one caller, no thread and no lock of its own.
//!
//! A commit writes entries behind one another and fsyncs once per segment it touches. Segments are
//! reserved whole before they are used, so that a full disk is met between commits and not in
//! the middle of one, and are used again once all that is in them is durable in the bucket.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use firn_proto::ids::{ClusterId, DiskId, StreamId};

use super::directory::{Device, SegmentFile};
use super::format::{
    ALIGN, SEGMENT_HEADER, SegmentHeader, Stamp, encode_entry_header, entry_bytes, salt_of,
};
use crate::wal::WalEntry;

/// Batches below this are copied next to their headers; larger ones are written from where they
/// are.
const COPY_BELOW: usize = 4096;
/// Used segments that are kept for the next use.
const SPARES_MAX: usize = 2;

/// An entry with its place in the order of all entries of the directory.
#[derive(Clone, Debug)]
pub(crate) struct Numbered {
    pub(crate) sequence: u64,
    pub(crate) entry: WalEntry,
}

/// Why a commit ended early.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// No room on the device; worth another try.
    Full(io::Error),
    /// The device did not take what it was given. What is on it is unknown, and it is not asked
    /// again: after a failed fsync the kernel forgets which pages it could not write.
    Device(io::Error),
}

#[derive(Debug)]
pub(crate) struct LocalLog<D: Device> {
    device: D,
    cluster: ClusterId,
    disk: DiskId,
    stream: StreamId,
    segment_bytes: u64,
    next_number: u64,
    active: Option<Active<D::File>>,
    /// Full segments, oldest first.
    full: VecDeque<Full<D::File>>,
    /// Segments with nothing in them that counts, under the numbers at which they lie.
    spares: Vec<Segment<D::File>>,
}

#[derive(Debug)]
struct Segment<F> {
    file: F,
    number: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Active<F> {
    segment: Segment<F>,
    /// Where the next entry goes; 0 until the header is written.
    end: u64,
    last_sequence: u64,
    previous: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Full<F> {
    segment: Segment<F>,
    last_sequence: u64,
}

impl<D: Device> LocalLog<D> {
    /// A writer that begins with segment `next_number`, in a directory where no segment has that
    /// number or a higher one.
    pub(crate) fn new(
        device: D,
        (cluster, disk): (ClusterId, DiskId),
        stream: StreamId,
        segment_bytes: u64,
        next_number: u64,
    ) -> Self {
        Self {
            device,
            cluster,
            disk,
            stream,
            segment_bytes,
            next_number,
            active: None,
            full: VecDeque::new(),
            spares: Vec::new(),
        }
    }

    /// Writes `entries` and fsyncs them. Returns how many of them are on the disk, which is all
    /// unless there is an error; what is not may be given again after [`CommitError::Full`].
    pub(crate) fn commit(&mut self, entries: &[Numbered]) -> (usize, Result<(), CommitError>) {
        let mut done = 0;
        while done < entries.len() {
            match self.commit_to_one_segment(&entries[done..]) {
                Ok(count) => done += count,
                Err(error) => return (done, Err(error)),
            }
        }
        (done, Ok(()))
    }

    /// Everything below `sequence` is durable in the bucket: segments with nothing else are free.
    pub(crate) fn release(&mut self, sequence: u64) {
        while let Some(full) = self.full.front() {
            if full.last_sequence >= sequence {
                return;
            }
            let Some(full) = self.full.pop_front() else {
                return;
            };
            if self.spares.len() < SPARES_MAX && full.segment.bytes == self.segment_bytes {
                self.spares.push(full.segment);
            } else {
                self.remove(full.segment.number);
            }
        }
    }

    /// Takes the segment that was reserved under the next number before there was a writer.
    pub(crate) fn add_reserved(&mut self, file: D::File) {
        self.spares.push(Segment {
            file,
            number: self.next_number,
            bytes: self.segment_bytes,
        });
        self.next_number += 1;
    }

    /// Reserves the next segment before it is needed. A disk that has no room now is asked again
    /// when the room is needed.
    pub(crate) fn prepare(&mut self) {
        let wanted = self
            .active
            .as_ref()
            .is_none_or(|active| active.end > active.segment.bytes / 2);
        if wanted
            && self.spares.is_empty()
            && let Ok(segment) = self.create(self.segment_bytes)
        {
            self.spares.push(segment);
        }
    }

    /// Removes every segment of this writer, when all that is in them is durable in the bucket.
    pub(crate) fn remove_all(&mut self) {
        let full = self.full.drain(..).map(|full| full.segment);
        let rest = self.spares.drain(..);
        let active = self.active.take().map(|active| active.segment);
        let numbers: Vec<_> = full
            .chain(rest)
            .chain(active)
            .map(|segment| segment.number)
            .collect();
        for number in numbers {
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u64) {
        if let Err(error) = self.device.remove(number) {
            tracing::warn!(segment = number, %error, "cannot remove a used local wal segment");
        }
    }

    fn commit_to_one_segment(&mut self, entries: &[Numbered]) -> Result<usize, CommitError> {
        let first = entry_bytes(entries[0].entry.records.len()) as u64;
        let mut active = self.active_with_room(first)?;
        let mut end = active.end.max(SEGMENT_HEADER as u64);
        let count = entries
            .iter()
            .take_while(|numbered| {
                let next = end + entry_bytes(numbered.entry.records.len()) as u64;
                let fits = next <= active.segment.bytes;
                end = if fits { next } else { end };
                fits
            })
            .count();
        let written = self.write(&active, &entries[..count]);
        if written.is_ok() {
            active.end = end;
            active.last_sequence = entries[count - 1].sequence;
        }
        self.active = Some(active);
        written.map(|()| count)
    }

    /// Takes the segment to write to out of `self`; the caller puts it back.
    fn active_with_room(&mut self, bytes: u64) -> Result<Active<D::File>, CommitError> {
        let begins = |active: &Active<D::File>| active.end.max(SEGMENT_HEADER as u64);
        if let Some(active) = self
            .active
            .take_if(|active| begins(active) + bytes <= active.segment.bytes)
        {
            return Ok(active);
        }
        let segment = self.next_segment(SEGMENT_HEADER as u64 + bytes)?;
        let previous = self.active.take().map(|old| {
            let place = (old.segment.number, old.end);
            self.full.push_back(Full {
                segment: old.segment,
                last_sequence: old.last_sequence,
            });
            place
        });
        Ok(Active {
            segment,
            end: 0,
            last_sequence: 0,
            previous,
        })
    }

    fn next_segment(&mut self, at_least: u64) -> Result<Segment<D::File>, CommitError> {
        if at_least <= self.segment_bytes
            && let Some(mut spare) = self.spares.pop()
        {
            // a spare that was made ahead has its number; a used one gets the next
            if spare.number + 1 != self.next_number {
                if let Err(error) = self.device.rename(spare.number, self.next_number) {
                    self.spares.push(spare);
                    return Err(CommitError::of(error));
                }
                spare.number = self.next_number;
                self.next_number += 1;
            }
            return Ok(spare);
        }
        self.create(self.segment_bytes.max(at_least))
            .map_err(CommitError::of)
    }

    fn create(&mut self, bytes: u64) -> io::Result<Segment<D::File>> {
        let number = self.next_number;
        let file = self.device.create(number, bytes)?;
        self.next_number += 1;
        Ok(Segment {
            file,
            number,
            bytes,
        })
    }

    fn write(&self, active: &Active<D::File>, entries: &[Numbered]) -> Result<(), CommitError> {
        let commit = Commit::encode(self, active, entries);
        let mut pieces = commit.pieces(entries);
        active
            .segment
            .file
            .write_at(&mut pieces, active.end)
            .map_err(CommitError::of)?;
        active.segment.file.sync().map_err(CommitError::Device)
    }
}

impl CommitError {
    fn of(error: io::Error) -> Self {
        if is_full(&error) {
            Self::Full(error)
        } else {
            Self::Device(error)
        }
    }
}

/// Whether there may be room later.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The bytes of one write: headers, paddings and small batches in one buffer, with large batches
/// in between that are not copied.
struct Commit {
    buffer: Vec<u8>,
    /// Up to where the buffer goes before each large batch, and which entry that is.
    large: Vec<(usize, usize)>,
}

impl Commit {
    fn encode<D: Device>(
        log: &LocalLog<D>,
        active: &Active<D::File>,
        entries: &[Numbered],
    ) -> Self {
        let mut buffer = Vec::new();
        let mut large = Vec::new();
        if active.end == 0 {
            buffer = SegmentHeader {
                cluster: log.cluster,
                disk: log.disk,
                number: active.segment.number,
                previous: active.previous,
            }
            .encode();
        }
        for (index, Numbered { sequence, entry }) in entries.iter().enumerate() {
            let stamp = Stamp {
                segment: active.segment.number,
                sequence: *sequence,
                synced: active.end,
                salt: salt_of(log.disk),
            };
            buffer.extend_from_slice(&encode_entry_header(entry, log.stream, stamp));
            let len = entry.records.len();
            if len < COPY_BELOW {
                buffer.extend_from_slice(&entry.records);
            } else {
                large.push((buffer.len(), index));
            }
            buffer.resize(buffer.len() + len.next_multiple_of(ALIGN) - len, 0);
        }
        Self { buffer, large }
    }

    fn pieces<'a>(&'a self, entries: &'a [Numbered]) -> Vec<IoSlice<'a>> {
        let mut pieces = Vec::with_capacity(2 * self.large.len() + 1);
        let mut from = 0;
        for (to, index) in &self.large {
            pieces.push(IoSlice::new(&self.buffer[from..*to]));
            pieces.push(IoSlice::new(&entries[*index].entry.records));
            from = *to;
        }
        if from < self.buffer.len() {
            pieces.push(IoSlice::new(&self.buffer[from..]));
        }
        pieces
    }
}

#[cfg(test)]
mod tests;
