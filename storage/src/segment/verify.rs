//! What was written against what went in, before anything relies on it.
//!
//! The writer takes a fingerprint of the batches of each row group, header and inflated records,
//! before it does anything else with them. What is read back from the bucket goes through the same
//! reader that consumers are served from, and must give the same fingerprint. So the batches need
//! not be kept, or inflated again.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use firn_proto::ids::{PartitionIndex, TopicId};
use firn_proto::record::BatchHeader;
use parquet::basic::Compression;
use parquet::file::metadata::RowGroupMetaData;

use super::fault::SegmentFault;
use super::footer::{chunk_range, parquet_footer, read_key_values};
use super::map::{RowGroup, Segment};
use super::read::{Decoded, RowGroupReader};
use super::table::Trailer;

/// Fingerprints of the batches of a segment's row groups, in the order of
/// [`Segment::row_groups`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprints(pub Vec<u64>);

/// The fingerprint of some batches: CRC-64/NVME of everything that must come back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fingerprint(Digest);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc64Nvme))
    }
}

impl Fingerprint {
    /// A batch that is made again from its header and its records. Its length and CRC follow from
    /// those, unless it is compressed, and then they are made anew.
    pub(super) fn batch(&mut self, header: &BatchHeader, plain: &[u8]) {
        let numbers = [
            header.base_offset,
            i64::from(header.leader_epoch.0),
            i64::from(header.attributes.0),
            i64::from(header.last_offset_delta),
            header.base_timestamp,
            header.max_timestamp,
            header.producer_id.0,
            i64::from(header.producer_epoch.0),
            i64::from(header.base_sequence),
            i64::from(header.record_count),
        ];
        let mut bytes = [0; 8 * 10];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        self.0.update(b"B");
        self.0.update(&bytes);
        self.part(plain);
    }

    /// A batch that comes back as it is.
    pub(super) fn verbatim(&mut self, batch: &[u8]) {
        self.0.update(b"V");
        self.part(batch);
    }

    pub(super) fn finish(self) -> u64 {
        self.0.finalize()
    }

    fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

/// Which chunks of a row group are stored without compression, as its trailer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainChunks(Trailer);

impl PlainChunks {
    /// Those of a row group, the bytes of [`RowGroup::byte_range`].
    ///
    /// # Errors
    /// Its trailer is broken.
    pub fn of(row_group: &[u8]) -> Result<Self, SegmentFault> {
        Ok(Self(Trailer::decode(row_group)?))
    }
}

/// Reads a row group, the bytes of [`RowGroup::byte_range`], back, and says how its chunks are
/// stored.
///
/// # Errors
/// It is broken, or holds other batches than those that went in.
pub fn verify_row_group(
    bytes: &Bytes,
    topic: TopicId,
    partition: PartitionIndex,
    group: &RowGroup,
    fingerprint: u64,
) -> Result<PlainChunks, SegmentFault> {
    let mut reader = RowGroupReader::open(bytes, topic, partition, group)?;
    let mut found = Fingerprint::default();
    while let Some(decoded) = reader.next_decoded()? {
        match decoded {
            Decoded::Verbatim(batch) => found.verbatim(batch),
            Decoded::Plain(header, plain) => found.batch(header, plain),
        }
    }
    if found.finish() == fingerprint {
        return PlainChunks::of(bytes);
    }
    Err(SegmentFault::Differs(format!(
        "the batches at offsets {}..={} of {topic}/{partition} are not those that were written",
        group.base_offset, group.last_offset
    )))
}

/// Reads the footer, in the last bytes of the object, back: engines find the row groups where the
/// map has them, and it says the same as the map; and the same of each chunk as the trailer of its row
/// group, of which `plain_chunks` has what they say, in the order of [`Segment::row_groups`].
///
/// # Errors
/// It is broken, or says something else.
pub fn verify_footer(
    end: &[u8],
    segment: &Segment,
    plain_chunks: &[PlainChunks],
) -> Result<(), SegmentFault> {
    let metadata = parquet_footer(end)?;
    let (_, found) = read_key_values(&metadata, segment.byte_len)?;
    if found != *segment {
        return Err(SegmentFault::Differs(
            "the footer names other row groups than were written".to_owned(),
        ));
    }
    if segment.row_groups().count() != plain_chunks.len() {
        return Err(SegmentFault::Differs(
            "the segment has not as many row groups as were read back".to_owned(),
        ));
    }
    let mut groups = segment
        .row_groups()
        .map(|(_, group)| group)
        .zip(plain_chunks)
        .filter(|(group, _)| group.records > 0);
    for found in metadata.row_groups() {
        let group = groups.next();
        if let Some((group, plain)) = group
            && !has_codecs(found, plain)
        {
            return Err(SegmentFault::Differs(format!(
                "the footer and the trailer do not agree on how the row group of offsets {}..={} \
                 is compressed",
                group.base_offset, group.last_offset
            )));
        }
        let is_there = group.is_some_and(|(group, _)| {
            let mut at = group.byte_start;
            let contiguous = found.columns().iter().all(|chunk| {
                let range = chunk_range(chunk).filter(|(start, _)| *start == at);
                at = at.saturating_add(range.map_or(0, |(_, len)| len));
                range.is_some()
            });
            contiguous
                && at <= group.byte_range().end
                && found.num_rows() == i64::from(group.records)
        });
        if !is_there {
            return Err(SegmentFault::Differs(
                "the footer has a row group that is not where the map has it".to_owned(),
            ));
        }
    }
    match groups.next() {
        None => Ok(()),
        Some((group, _)) => Err(SegmentFault::Differs(format!(
            "the footer has no row group of offsets {}..={}",
            group.base_offset, group.last_offset
        ))),
    }
}

fn has_codecs(found: &RowGroupMetaData, plain: &PlainChunks) -> bool {
    let mut chunks = found.columns().iter().enumerate();
    chunks.all(|(leaf, chunk)| {
        let codec = chunk.compression();
        match plain.0.is_plain(leaf) {
            true => codec == Compression::UNCOMPRESSED,
            false => matches!(codec, Compression::ZSTD(_)),
        }
    })
}
