//! What a local WAL directory holds at start. Reads, never writes, until it is told to forget; what
//! is neither in the bucket nor can get there any more is not forgotten but kept aside, and what may
//! still have to get there is left where it is.
//!
//! A torn tail is where the last write was cut off by a crash: nothing of it was acknowledged, it
//! is left out. A bad entry below a place that a later entry knows to have been fsynced is
//! corruption: what is whole is still listed, the segment is reported, and goes to quarantine
//! instead of being removed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::Bytes;
use crc_fast::crc32_iscsi;
use firn_proto::ids::{DiskId, StreamId};
use firn_proto::limits::LOCAL_QUARANTINE_SEGMENTS_MAX;

use super::directory::Directory;
use super::error::LocalWalError;
use super::format::{
    ALIGN, ENTRY_HEADER, ENTRY_MAGIC, EntryHeader, SEGMENT_HEADER, SegmentHeader, check_entry,
    entry_bytes, salt_of,
};
use crate::wal::WalEntry;

/// One entry that an earlier process fsynced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalRow {
    /// The stream it was to be put into.
    pub stream: StreamId,
    /// The entry, its records empty: [`Recovered::read`] has them.
    pub entry: WalEntry,
    /// Length of the batch in bytes.
    pub records_len: u32,
    /// Its place in the order of all entries of the directory.
    pub sequence: u64,
    segment: u64,
    offset: u64,
    records_crc: u32,
}

#[cfg(test)]
impl LocalRow {
    /// A row for tests that read no file.
    pub(crate) fn for_test(stream: StreamId, entry: WalEntry) -> Self {
        Self {
            stream,
            entry,
            records_len: 0,
            sequence: 0,
            segment: 0,
            offset: 0,
            records_crc: 0,
        }
    }
}

/// A segment that does not hold any more what had been fsynced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSegment {
    /// Its number.
    pub segment: u64,
    /// Where the first damage begins.
    pub offset: u64,
}

/// What earlier processes left in the directory.
#[derive(Debug)]
pub struct Recovered {
    directory: Directory,
    rows: Vec<LocalRow>,
    damaged: Vec<DamagedSegment>,
    segments: Vec<u64>,
    next_number: u64,
}

impl Recovered {
    /// Reads every segment of the directory. One segment is in memory at a time.
    pub(crate) fn scan(directory: Directory) -> Result<Self, LocalWalError> {
        let segments = directory.segments()?;
        let taken = segments
            .iter()
            .chain(&directory.quarantined()?)
            .max()
            .copied();
        let salt = salt_of(directory.disk());
        let mut scans = Vec::with_capacity(segments.len());
        for number in &segments {
            let path = directory.segment_path(*number);
            let bytes = std::fs::read(&path).map_err(LocalWalError::io("read", &path))?;
            scans.push(Scan::of(&bytes, *number, salt));
        }
        mark_ends(&mut scans);
        let mut recovered = Self {
            directory,
            rows: Vec::new(),
            damaged: Vec::new(),
            segments,
            next_number: taken.map_or(1, |last| last + 1),
        };
        for scan in scans {
            recovered.add(scan);
        }
        Ok(recovered)
    }

    /// All whole entries, in the order in which they were written.
    pub fn rows(&self) -> &[LocalRow] {
        &self.rows
    }

    /// Segments that are damaged below what had been fsynced.
    pub fn damaged(&self) -> &[DamagedSegment] {
        &self.damaged
    }

    /// Whether a damaged segment may have held entries of that stream which are gone.
    pub fn may_lack(&self, stream: StreamId) -> bool {
        let mut damaged = self.damaged.iter();
        damaged.any(|damage| self.may_be_of(damage.segment, stream))
    }

    /// Whether a segment may be of that stream, as far as the entries tell that are left in it and
    /// around it: each process writes segments of its own in one stream, and numbers and streams of
    /// those after it are higher.
    fn may_be_of(&self, segment: u64, stream: StreamId) -> bool {
        self.rows.iter().all(|row| {
            (row.segment > segment || row.stream <= stream)
                && (row.segment < segment || stream <= row.stream)
        })
    }

    /// The id of the directory, by which it is known again.
    pub fn disk(&self) -> DiskId {
        self.directory.disk()
    }

    /// One entry with its records. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or the batch is not any more what it was at start.
    pub fn read(&self, row: &LocalRow) -> Result<WalEntry, LocalWalError> {
        let path = self.directory.segment_path(row.segment);
        let mut records = vec![0; row.records_len as usize];
        File::open(&path)
            .and_then(|file| file.read_exact_at(&mut records, row.offset + ENTRY_HEADER as u64))
            .map_err(LocalWalError::io("read", &path))?;
        if crc32_iscsi(&records) != row.records_crc {
            return Err(LocalWalError::Damaged {
                segment: row.segment,
                offset: row.offset,
            });
        }
        Ok(WalEntry {
            records: Bytes::from(records),
            ..row.entry.clone()
        })
    }

    /// Where [`Recovered::forget`] puts what it does not remove.
    pub fn quarantine(&self) -> PathBuf {
        self.directory.quarantine_path()
    }

    /// Removes what was recovered, once every entry of it that was missing is durable in the
    /// bucket. Segments that hold an entry of `unplaced`, of which it is not known yet whether the
    /// bucket has it, and those that hold, or may have held, entries of the streams `held_back` stay,
    /// to be found as they are at the next start. Of the others those that hold an entry of `lost`,
    /// and damaged ones, go to quarantine. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// When a file cannot be removed or moved; what is left is found again at the next start.
    pub fn forget(
        self,
        lost: &[LocalRow],
        unplaced: &[LocalRow],
        held_back: &BTreeSet<StreamId>,
    ) -> Result<(), LocalWalError> {
        let quarantined = self.directory.quarantined()?;
        let with = |rows: &[LocalRow]| rows.iter().map(|row| row.segment).collect();
        let (lost, mut stay): (BTreeSet<u64>, BTreeSet<u64>) = (with(lost), with(unplaced));
        stay.extend(self.segments_of(held_back));
        for number in &self.segments {
            if stay.contains(number) {
                continue;
            }
            let is_damaged = self.damaged.iter().any(|damage| damage.segment == *number);
            let gone = if is_damaged || lost.contains(number) {
                let moved = self.directory.quarantine(*number);
                moved.map(|path| {
                    tracing::warn!(path = %path.display(), "local wal segment moved to quarantine");
                })
            } else {
                self.directory.remove(*number)
            };
            match gone {
                Err(LocalWalError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        self.directory
            .trim_quarantine(&quarantined, LOCAL_QUARANTINE_SEGMENTS_MAX)
    }

    /// Segments that hold entries of these streams, or that are damaged and may have held some.
    fn segments_of(&self, streams: &BTreeSet<StreamId>) -> BTreeSet<u64> {
        let rows = self.rows.iter();
        let with_rows = rows.filter(|row| streams.contains(&row.stream));
        let damaged = self.damaged.iter().map(|damage| damage.segment);
        let may_have = damaged.filter(|segment| {
            let mut streams = streams.iter();
            streams.any(|stream| self.may_be_of(*segment, *stream))
        });
        with_rows.map(|row| row.segment).chain(may_have).collect()
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.next_number
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.rows
            .iter()
            .map(|row| row.sequence)
            .max()
            .map_or(1, |last| last + 1)
    }

    fn add(&mut self, scan: Scan) {
        self.rows.extend(scan.rows);
        if scan.damaged {
            tracing::error!(
                segment = scan.number,
                offset = scan.end,
                dir = %self.directory.path().display(),
                later = scan.later.len(),
                "local wal segment is damaged below what was fsynced: the disk lost what it had confirmed"
            );
            self.rows.extend(scan.later);
            self.damaged.push(DamagedSegment {
                segment: scan.number,
                offset: scan.end,
            });
        }
    }
}

/// One segment file by itself, for people to look at.
#[derive(Debug)]
pub(crate) struct SegmentView {
    /// What it says about itself.
    pub(crate) header: SegmentHeader,
    /// Its entries, up to where they end.
    pub(crate) rows: Vec<LocalRow>,
    /// Where they end.
    pub(crate) end: u64,
    /// Whether more than that had been fsynced.
    pub(crate) damaged: bool,
}

impl SegmentView {
    /// Reads a segment; `None` unless its header is whole.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let header = SegmentHeader::decode(bytes)?;
        let scan = Scan::of(bytes, header.number, salt_of(header.disk));
        Some(Self {
            header,
            rows: scan.rows,
            end: scan.end,
            damaged: scan.damaged,
        })
    }
}

/// What one segment file holds.
#[derive(Debug)]
struct Scan {
    number: u64,
    previous: Option<(u64, u64)>,
    rows: Vec<LocalRow>,
    /// Where the unbroken chain of entries ends.
    end: u64,
    /// Whole entries behind that place.
    later: Vec<LocalRow>,
    damaged: bool,
}

impl Scan {
    fn of(bytes: &[u8], number: u64, salt: u64) -> Self {
        let header = SegmentHeader::decode(bytes).filter(|header| header.number == number);
        let mut scan = Self {
            number,
            previous: header.and_then(|header| header.previous),
            rows: Vec::new(),
            end: 0,
            later: Vec::new(),
            damaged: false,
        };
        let mut sequence = 0;
        if header.is_some() {
            scan.end = SEGMENT_HEADER as u64;
            while let Some(row) = entry_at(bytes, scan.end, number, salt, sequence) {
                scan.end += entry_bytes(row.1.records_len as usize) as u64;
                sequence = row.1.sequence;
                scan.rows.push(row.1);
            }
        }
        scan.look_behind(bytes, salt, sequence);
        scan
    }

    /// Looks for whole entries behind the end of the chain. One that was written when more than
    /// the chain had been fsynced proves damage.
    fn look_behind(&mut self, bytes: &[u8], salt: u64, mut sequence: u64) {
        let mut at = self.end.max(SEGMENT_HEADER as u64);
        while let Some(found) = next_magic(bytes, at) {
            match entry_at(bytes, found, self.number, salt, sequence) {
                Some((header, row)) => {
                    self.damaged |= header.stamp.synced > self.end;
                    at = found + entry_bytes(row.records_len as usize) as u64;
                    sequence = row.sequence;
                    self.later.push(row);
                }
                None => at = found + ALIGN as u64,
            }
        }
    }
}

/// A segment was fsynced up to its end before the next one was begun, which says where that was.
fn mark_ends(scans: &mut [Scan]) {
    let ends: Vec<_> = scans.iter().filter_map(|scan| scan.previous).collect();
    for (number, end) in ends {
        if let Some(scan) = scans.iter_mut().find(|scan| scan.number == number) {
            scan.damaged |= scan.end < end;
        }
    }
}

fn entry_at(
    bytes: &[u8],
    offset: u64,
    number: u64,
    salt: u64,
    after_sequence: u64,
) -> Option<(EntryHeader, LocalRow)> {
    let header = check_entry(bytes.get(usize::try_from(offset).ok()?..)?)?;
    let stamp = header.stamp;
    if stamp.segment != number || stamp.salt != salt || stamp.sequence <= after_sequence {
        return None;
    }
    let row = LocalRow {
        stream: header.stream,
        entry: header.entry.clone(),
        records_len: header.records_len,
        sequence: stamp.sequence,
        segment: number,
        offset,
        records_crc: header.records_crc,
    };
    Some((header, row))
}

fn next_magic(bytes: &[u8], from: u64) -> Option<u64> {
    let rest = bytes.get(usize::try_from(from).ok()?..)?;
    let steps = rest
        .chunks_exact(ALIGN)
        .position(|chunk| chunk[..4] == ENTRY_MAGIC)?;
    Some(from + (steps * ALIGN) as u64)
}
