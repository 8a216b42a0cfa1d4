//! The batch table: what record batches say beyond the columns, and where everything in a row
//! group is. FORMAT.md §8.3 has the bytes.
//!
//! - `write.rs`: its rows, as they are written
//! - `read.rs`: and as they are read
//!
//! Architecture invariant: pure; reading never panics and never takes more memory than the bytes at
//! hand and a bound allow.

mod read;
mod write;

use firn_proto::ids::{PartitionIndex, TopicId};
use firn_proto::limits::{BATCH_TABLE_BYTES_MAX, ROW_GROUP_RECORDS_MAX};
use firn_proto::record::{Codec, decompress_into};

use super::fault::SegmentFault;
use super::schema::LEAVES;
use crate::stream::crc32c;
use crate::stream::fields::{Fields, Short};

pub(super) use read::{Beyond, Row, RowReader, take_kept};
pub(super) use write::{Odd, TableRows};

/// What the trailer of a batch table begins with.
pub(super) const TABLE_MAGIC: [u8; 8] = *b"FIRNBTAB";
pub(super) const TABLE_VERSION: u16 = 1;
/// The version of a row group that has chunks without compression.
pub(super) const TABLE_VERSION_PLAIN: u16 = 2;
/// Length of the trailer.
pub(crate) const TRAILER_BYTES: usize = 128;

/// Bits of the first byte of a row.
const VERBATIM: u8 = 0x01;
const PRODUCER: u8 = 0x02;
const TIMESTAMPS: u8 = 0x04;
const RECORDS: u8 = 0x08;

/// The end of a row group, which says what the rest of it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(super) topic: TopicId,
    pub(super) partition: PartitionIndex,
    pub(super) base_offset: i64,
    pub(super) last_offset: i64,
    /// Length of each leaf's chunk, in their order.
    pub(super) chunk_lens: [u32; LEAVES],
    /// CRC of all chunks.
    pub(super) chunks_crc: u32,
    pub(super) records: u32,
    pub(super) batches: u32,
    pub(crate) stored_len: u32,
    pub(super) plain_len: u32,
    pub(super) stored_crc: u32,
    /// Chunks that are stored without compression, a bit for each leaf.
    pub(super) plain_chunks: u8,
}

impl Trailer {
    /// Whether the chunk of the leaf is stored without compression.
    pub(super) fn is_plain(&self, leaf: usize) -> bool {
        self.plain_chunks >> leaf & 1 == 1
    }

    fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut out = Vec::with_capacity(TRAILER_BYTES);
        out.extend_from_slice(&TABLE_MAGIC);
        let version = match self.plain_chunks {
            0 => TABLE_VERSION,
            _ => TABLE_VERSION_PLAIN,
        };
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.partition.0.to_le_bytes());
        out.extend_from_slice(&self.topic.0);
        out.extend_from_slice(&self.base_offset.to_le_bytes());
        out.extend_from_slice(&self.last_offset.to_le_bytes());
        for len in self.chunk_lens {
            out.extend_from_slice(&len.to_le_bytes());
        }
        for number in [
            self.chunks_crc,
            self.records,
            self.batches,
            self.stored_len,
            self.plain_len,
            self.stored_crc,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.push(self.plain_chunks);
        out.resize(TRAILER_BYTES - 4, 0);
        let crc = crc32c(&out);
        let mut trailer = [0; TRAILER_BYTES];
        trailer[..TRAILER_BYTES - 4].copy_from_slice(&out);
        trailer[TRAILER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        trailer
    }

    /// Reads the trailer at the end of `group`, the bytes of a row group.
    pub(crate) fn decode(group: &[u8]) -> Result<Self, SegmentFault> {
        let bytes: &[u8; TRAILER_BYTES] = group.last_chunk().ok_or(SegmentFault::Length {
            what: "row group",
            found: group.len(),
            expected: TRAILER_BYTES,
        })?;
        if !bytes.starts_with(&TABLE_MAGIC) {
            return Err(SegmentFault::Magic);
        }
        let (checked, crc) = bytes.split_at(TRAILER_BYTES - 4);
        if crc != crc32c(checked).to_le_bytes() {
            return Err(SegmentFault::Crc("trailer of the batch table"));
        }
        let mut fields = Fields::new(&checked[TABLE_MAGIC.len()..]);
        let short = |_| SegmentFault::Table("trailer");
        let version = fields.u16().map_err(short)?;
        if ![TABLE_VERSION, TABLE_VERSION_PLAIN].contains(&version) {
            return Err(SegmentFault::Version(version));
        }
        fields.take(2).map_err(short)?;
        let mut read = || -> Result<Self, Short> {
            let partition = PartitionIndex(fields.i32()?);
            let topic = TopicId(fields.array()?);
            let base_offset = fields.i64()?;
            let last_offset = fields.i64()?;
            let mut chunk_lens = [0; LEAVES];
            for len in &mut chunk_lens {
                *len = fields.u32()?;
            }
            Ok(Self {
                topic,
                partition,
                base_offset,
                last_offset,
                chunk_lens,
                chunks_crc: fields.u32()?,
                records: fields.u32()?,
                batches: fields.u32()?,
                stored_len: fields.u32()?,
                plain_len: fields.u32()?,
                stored_crc: fields.u32()?,
                plain_chunks: match version {
                    TABLE_VERSION => 0,
                    _ => fields.array::<1>()?[0],
                },
            })
        };
        let trailer = read().map_err(short)?;
        if trailer.records as usize > ROW_GROUP_RECORDS_MAX {
            return Err(SegmentFault::Table("number of records"));
        }
        Ok(trailer)
    }

    /// Takes the row group apart: its chunks, and the rows of its batch table, decompressed.
    pub(crate) fn split<'a>(&self, group: &'a [u8]) -> Result<(&'a [u8], Vec<u8>), SegmentFault> {
        let chunks: u64 = self.chunk_lens.iter().map(|len| u64::from(*len)).sum();
        let expected = chunks + u64::from(self.stored_len) + TRAILER_BYTES as u64;
        if group.len() as u64 != expected {
            return Err(SegmentFault::Length {
                what: "row group",
                found: group.len(),
                expected: usize::try_from(expected).unwrap_or(usize::MAX),
            });
        }
        let rest = &group[..group.len() - TRAILER_BYTES];
        // both lengths were just found to fit
        let (chunks, stored) = rest.split_at(rest.len() - self.stored_len as usize);
        if crc32c(stored) != self.stored_crc {
            return Err(SegmentFault::Crc("batch table"));
        }
        if crc32c(chunks) != self.chunks_crc {
            return Err(SegmentFault::Crc("columns of the row group"));
        }
        let plain_len = self.plain_len as usize;
        if plain_len > BATCH_TABLE_BYTES_MAX {
            return Err(SegmentFault::TooLarge {
                what: "batch table",
                bytes_max: BATCH_TABLE_BYTES_MAX,
            });
        }
        let mut rows = Vec::new();
        decompress_into(Codec::Zstd, stored, plain_len, &mut rows)
            .map_err(|_| SegmentFault::Table("it does not decompress"))?;
        if rows.len() == plain_len {
            Ok((chunks, rows))
        } else {
            Err(SegmentFault::Table("its length"))
        }
    }
}

/// What the fields of a row are counted from: those of the row before it.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    next_offset: i64,
    leader_epoch: i32,
    base_timestamp: i64,
    producer_id: i64,
    base_sequence: i32,
}
