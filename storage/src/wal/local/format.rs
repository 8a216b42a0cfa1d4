//! The bytes of a local WAL: its identity, the header of a segment, and entries. Pure.
//!
//! All integers are little-endian. An entry is a header of [`ENTRY_HEADER`] bytes, the batch, and
//! zeros up to the next multiple of [`ALIGN`]. Entry and segment headers have a CRC-32C of their
//! own, the batch has one in the entry header.
//!
//! An entry names its segment, so that what a recycled file still holds of its earlier life is
//! told apart, and how far the segment had been fsynced when the entry was written: a bad entry
//! below that mark had once been whole, and that is corruption, not a torn tail. It also carries a
//! salt that only this directory knows: recovery looks for entries behind a damaged one, and the
//! bytes of a producer must not pass for one.

use bytes::Bytes;
use crc_fast::crc32_iscsi;
use firn_proto::ids::{
    BrokerId, ClusterId, DiskId, LeaderEpoch, PartitionIndex, ProducerEpoch, ProducerId, StreamId,
    TopicId, TopicPartition,
};

use crate::state::BatchFlags;
use crate::wal::{Acks, ProducerFields, WalEntry};

/// Length of the header of a segment. Entries follow it.
pub(crate) const SEGMENT_HEADER: usize = 4096;
/// Length of the header of an entry.
pub(crate) const ENTRY_HEADER: usize = 128;
/// Entries begin at multiples of this.
pub(crate) const ALIGN: usize = 8;

/// The first bytes of every segment.
pub(crate) const SEGMENT_MAGIC: [u8; 8] = *b"FIRNWSEG";
/// The first bytes of every entry.
pub(crate) const ENTRY_MAGIC: [u8; 4] = *b"FWEn";
const VERSION: u32 = 1;
/// Bytes of the segment header under its CRC, counted from 16.
pub(crate) const SEGMENT_CHECKED: std::ops::Range<usize> = 16..80;
/// Stands for "no segment" in [`SegmentHeader::previous`].
const NO_SEGMENT: u64 = u64::MAX;

pub(crate) const IDENTITY_MAGIC: [u8; 8] = *b"FIRNWALD";
const IDENTITY_VERSION: u32 = 2;
const IDENTITY_BYTES: usize = 56;
/// Version 1 names no broker: the directory is known by itself.
const IDENTITY_BYTES_V1: usize = 48;

/// Whose directory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The cluster.
    pub(crate) cluster: ClusterId,
    /// The directory itself.
    pub(crate) disk: DiskId,
    /// The broker; version 1 does not say.
    pub(crate) broker: Option<BrokerId>,
}

/// The identity of a directory, as it stands in its file; of version 1 if it is no broker's.
pub(crate) fn encode_identity(
    cluster: ClusterId,
    disk: DiskId,
    broker: Option<BrokerId>,
) -> Vec<u8> {
    let (version, len) = match broker {
        Some(_) => (IDENTITY_VERSION, IDENTITY_BYTES),
        None => (1, IDENTITY_BYTES_V1),
    };
    let mut bytes = vec![0; len];
    bytes[..8].copy_from_slice(&IDENTITY_MAGIC);
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    bytes[16..32].copy_from_slice(&cluster.0);
    bytes[32..48].copy_from_slice(&disk.0);
    if let Some(broker) = broker {
        bytes[48..52].copy_from_slice(&broker.0.to_le_bytes());
    }
    let crc = crc32_iscsi(&bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads an identity; `None` unless every byte is as it was written.
pub(crate) fn decode_identity(bytes: &[u8]) -> Option<Identity> {
    let is_long_enough = bytes.len() >= IDENTITY_BYTES_V1;
    let is_ours = is_long_enough
        && bytes[..8] == IDENTITY_MAGIC
        && u32_at(bytes, 12) == crc32_iscsi(&bytes[16..]);
    if !is_ours {
        return None;
    }
    let broker = match (u32_at(bytes, 8), bytes.len()) {
        (1, IDENTITY_BYTES_V1) => None,
        (IDENTITY_VERSION, IDENTITY_BYTES) => {
            Some(BrokerId(i32::from_le_bytes(array_at(bytes, 48))))
        }
        _ => return None,
    };
    Some(Identity {
        cluster: ClusterId(array_at(bytes, 16)),
        disk: DiskId(array_at(bytes, 32)),
        broker,
    })
}

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Whose entries these are.
    pub(crate) cluster: ClusterId,
    /// The directory it belongs to.
    pub(crate) disk: DiskId,
    /// Its number, which is also in its file name.
    pub(crate) number: u64,
    /// The segment before it by the same process and where that ended; it was fsynced up to there
    /// before this one was begun.
    pub(crate) previous: Option<(u64, u64)>,
}

impl SegmentHeader {
    /// The header page.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (previous, previous_end) = self.previous.unwrap_or((NO_SEGMENT, 0));
        let mut page = vec![0; SEGMENT_HEADER];
        page[..8].copy_from_slice(&SEGMENT_MAGIC);
        page[8..12].copy_from_slice(&VERSION.to_le_bytes());
        page[16..32].copy_from_slice(&self.cluster.0);
        page[32..48].copy_from_slice(&self.disk.0);
        page[48..56].copy_from_slice(&self.number.to_le_bytes());
        page[56..64].copy_from_slice(&previous.to_le_bytes());
        page[64..72].copy_from_slice(&previous_end.to_le_bytes());
        let crc = crc32_iscsi(&page[SEGMENT_CHECKED]);
        page[12..16].copy_from_slice(&crc.to_le_bytes());
        page
    }

    /// Reads the header page; `None` unless every checked byte is as it was written.
    pub(crate) fn decode(page: &[u8]) -> Option<Self> {
        let page = page.get(..SEGMENT_CHECKED.end)?;
        let whole = page[..8] == SEGMENT_MAGIC
            && u32_at(page, 8) == VERSION
            && u32_at(page, 12) == crc32_iscsi(&page[SEGMENT_CHECKED]);
        let previous = u64_at(page, 56);
        whole.then(|| Self {
            cluster: ClusterId(array_at(page, 16)),
            disk: DiskId(array_at(page, 32)),
            number: u64_at(page, 48),
            previous: (previous != NO_SEGMENT).then(|| (previous, u64_at(page, 64))),
        })
    }
}

/// Where and when an entry was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The segment it is in.
    pub(crate) segment: u64,
    /// Its place in the order of all entries of the directory.
    pub(crate) sequence: u64,
    /// Everything in its segment below this offset was fsynced before it was written.
    pub(crate) synced: u64,
    /// [`salt_of`] the directory.
    pub(crate) salt: u64,
}

/// The salt of a directory: random bits that never leave the machine.
pub(crate) fn salt_of(disk: DiskId) -> u64 {
    u64_at(&disk.0, 8) ^ u64_at(&disk.0, 0)
}

/// An entry's header as it stands on the disk: everything but the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryHeader {
    /// Where and when it was written.
    pub(crate) stamp: Stamp,
    /// The stream it was to be put into.
    pub(crate) stream: StreamId,
    /// The entry, its records empty.
    pub(crate) entry: WalEntry,
    /// Length of the batch.
    pub(crate) records_len: u32,
    /// CRC-32C of the batch.
    pub(crate) records_crc: u32,
}

/// Bytes an entry takes with a batch of `records_len` bytes.
pub(crate) fn entry_bytes(records_len: usize) -> usize {
    (ENTRY_HEADER + records_len).next_multiple_of(ALIGN)
}

/// The header of `entry` as written at `stamp`.
pub(crate) fn encode_entry_header(
    entry: &WalEntry,
    stream: StreamId,
    stamp: Stamp,
) -> [u8; ENTRY_HEADER] {
    let mut head = [0; ENTRY_HEADER];
    // limits.rs keeps a batch far below 4 GiB
    let records_len = u32::try_from(entry.records.len()).unwrap_or(u32::MAX);
    head[..4].copy_from_slice(&ENTRY_MAGIC);
    head[8..12].copy_from_slice(&records_len.to_le_bytes());
    head[12..16].copy_from_slice(&crc32_iscsi(&entry.records).to_le_bytes());
    head[16..24].copy_from_slice(&stamp.segment.to_le_bytes());
    head[24..32].copy_from_slice(&stamp.sequence.to_le_bytes());
    head[32..40].copy_from_slice(&stamp.synced.to_le_bytes());
    head[40..48].copy_from_slice(&stream.0.to_le_bytes());
    head[48..64].copy_from_slice(&entry.tp.topic.0);
    head[64..68].copy_from_slice(&entry.tp.partition.0.to_le_bytes());
    head[68..72].copy_from_slice(&entry.epoch.0.to_le_bytes());
    head[72..80].copy_from_slice(&entry.base_offset.to_le_bytes());
    head[80..88].copy_from_slice(&entry.last_offset.to_le_bytes());
    head[88..96].copy_from_slice(&entry.max_timestamp.to_le_bytes());
    if let Some(producer) = entry.producer {
        head[96..104].copy_from_slice(&producer.id.0.to_le_bytes());
        head[104..108].copy_from_slice(&producer.base_sequence.to_le_bytes());
        head[108..110].copy_from_slice(&producer.epoch.0.to_le_bytes());
        head[112] = 1;
    }
    head[110] = match entry.acks {
        Acks::None => 0,
        Acks::Local => 1,
        Acks::Bucket => 2,
    };
    head[111] = entry.flags.0;
    head[120..128].copy_from_slice(&stamp.salt.to_le_bytes());
    let crc = crc32_iscsi(&head[8..]);
    head[4..8].copy_from_slice(&crc.to_le_bytes());
    head
}

/// Reads an entry header; `None` unless it is whole.
pub(crate) fn decode_entry_header(bytes: &[u8]) -> Option<EntryHeader> {
    let head = bytes.get(..ENTRY_HEADER)?;
    if head[..4] != ENTRY_MAGIC || u32_at(head, 4) != crc32_iscsi(&head[8..]) {
        return None;
    }
    let acks = match head[110] {
        0 => Acks::None,
        1 => Acks::Local,
        2 => Acks::Bucket,
        _ => return None,
    };
    let producer = (head[112] == 1).then(|| ProducerFields {
        id: ProducerId(i64::from_le_bytes(array_at(head, 96))),
        base_sequence: i32::from_le_bytes(array_at(head, 104)),
        epoch: ProducerEpoch(i16::from_le_bytes(array_at(head, 108))),
    });
    Some(EntryHeader {
        stamp: Stamp {
            segment: u64_at(head, 16),
            sequence: u64_at(head, 24),
            synced: u64_at(head, 32),
            salt: u64_at(head, 120),
        },
        stream: StreamId(u64_at(head, 40)),
        entry: WalEntry {
            tp: TopicPartition {
                topic: TopicId(array_at(head, 48)),
                partition: PartitionIndex(i32::from_le_bytes(array_at(head, 64))),
            },
            epoch: LeaderEpoch(i32::from_le_bytes(array_at(head, 68))),
            base_offset: i64::from_le_bytes(array_at(head, 72)),
            last_offset: i64::from_le_bytes(array_at(head, 80)),
            max_timestamp: i64::from_le_bytes(array_at(head, 88)),
            producer,
            flags: BatchFlags(head[111]),
            acks,
            records: Bytes::new(),
        },
        records_len: u32_at(head, 8),
        records_crc: u32_at(head, 12),
    })
}

/// The whole entry at the start of `bytes`, if header and batch are as they were written.
pub(crate) fn check_entry(bytes: &[u8]) -> Option<EntryHeader> {
    let header = decode_entry_header(bytes)?;
    let end = ENTRY_HEADER.checked_add(usize::try_from(header.records_len).ok()?)?;
    let records = bytes.get(ENTRY_HEADER..end)?;
    (crc32_iscsi(records) == header.records_crc).then_some(header)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::testing::entry;

    const STAMP: Stamp = Stamp {
        segment: 5,
        sequence: 6_000_000_000,
        synced: 4096,
        salt: 0xfedc_ba98_7654_3210,
    };

    #[test]
    fn an_entry_reads_back_as_it_was_written() {
        let mut entry = entry(2, 5_000_000_000, 5_000_000_004, 77);
        entry.acks = Acks::Local;
        entry.flags = BatchFlags(BatchFlags::TRANSACTIONAL);
        entry.producer = Some(ProducerFields {
            id: ProducerId(1 << 40),
            epoch: ProducerEpoch(-1),
            base_sequence: i32::MAX,
        });
        let mut bytes = encode_entry_header(&entry, StreamId(9), STAMP).to_vec();
        bytes.extend_from_slice(&entry.records);
        let header = check_entry(&bytes).unwrap();
        assert_eq!(header.stamp, STAMP);
        assert_eq!(header.stream, StreamId(9));
        assert_eq!(header.records_len, 77);
        entry.records = Bytes::new();
        assert_eq!(header.entry, entry);
    }

    #[test]
    fn every_flipped_bit_of_an_entry_is_noticed() {
        let entry = entry(2, 0, 0, 40);
        let mut bytes = encode_entry_header(&entry, StreamId(9), STAMP).to_vec();
        bytes.extend_from_slice(&entry.records);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(check_entry(&bytes).is_none(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(check_entry(&bytes).is_some());
    }

    #[test]
    fn a_length_from_the_disk_is_never_trusted_beyond_the_bytes() {
        let mut bytes = encode_entry_header(&entry(0, 0, 0, 40), StreamId(9), STAMP).to_vec();
        bytes.extend_from_slice(&[1; 39]);
        assert!(check_entry(&bytes).is_none());
    }

    #[test]
    fn a_segment_header_reads_back_and_notices_damage() {
        for previous in [None, Some((4, 1 << 33))] {
            let header = SegmentHeader {
                cluster: ClusterId([1; 16]),
                disk: DiskId([2; 16]),
                number: 5,
                previous,
            };
            let mut page = header.encode();
            assert_eq!(SegmentHeader::decode(&page), Some(header));
            for at in 0..72 {
                page[at] ^= 0x10;
                assert_eq!(SegmentHeader::decode(&page), None, "byte {at}");
                page[at] ^= 0x10;
            }
        }
        assert_eq!(SegmentHeader::decode(&[0; SEGMENT_HEADER]), None);
    }
}
