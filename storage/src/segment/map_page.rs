//! Pages of the segment map as bytes: older runs of one partition, side by side, which the
//! coordinator names and does not hold. FORMAT.md §9 has the bytes.
//!
//! Architecture invariant: pure; reading never panics and never takes more memory than a bound.

use std::sync::Arc;

use firn_proto::cluster::{ArchivedRun, row_groups_cover};
use firn_proto::codec::{self, CodecError};
use firn_proto::ids::{PartitionIndex, TopicId, TopicPartition};
use firn_proto::limits::{MAP_PAGE_BYTES_MAX, MAP_PAGE_DECODED_BYTES_MAX};
use thiserror::Error;

use crate::stream::crc32c;

/// What a page of the segment map begins with.
pub const MAP_PAGE_MAGIC: [u8; 4] = *b"FMAP";
const MAP_PAGE_VERSION: u16 = 1;
const FIXED_LEN: usize = 28;
const CRC_LEN: usize = 4;

/// Why bytes are not a page of the segment map, or runs cannot become one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MapPageFault {
    /// It is shorter than its fixed fields.
    #[error("it has {0} bytes, less than any page of the segment map")]
    Length(usize),
    /// It does not begin like one.
    #[error("it does not begin with the magic of a page of the segment map")]
    Magic,
    /// Written by a later release.
    #[error("it has version {0}; this release reads version {MAP_PAGE_VERSION}")]
    Version(u16),
    /// Its checksum is wrong.
    #[error("its checksum is wrong")]
    Crc,
    /// The runs cannot be decoded, or encoded.
    #[error(transparent)]
    Runs(#[from] CodecError),
    /// Its runs do not follow each other, or it has none.
    #[error("its runs do not follow each other at offset {0}")]
    Order(i64),
    /// The runs take too much: put fewer into a page.
    #[error(
        "a page of the segment map would have {0} bytes, at most {MAP_PAGE_BYTES_MAX} are read"
    )]
    TooLarge(usize),
    /// It is whole, and another one than was asked for.
    #[error("it is not the page that the segment map names")]
    Other,
}

/// The page with `runs` of `tp`, which are contiguous.
///
/// # Errors
/// The runs do not follow each other, or take too much.
pub fn encode_map_page(
    tp: TopicPartition,
    runs: &[Arc<ArchivedRun>],
) -> Result<Vec<u8>, MapPageFault> {
    check_order(runs)?;
    let mut out = Vec::new();
    out.extend_from_slice(&MAP_PAGE_MAGIC);
    out.extend_from_slice(&MAP_PAGE_VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&tp.topic.0);
    out.extend_from_slice(&tp.partition.0.to_le_bytes());
    codec::encode_into(&runs, &mut out)?;
    let crc = crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    // What is written must be read back.
    decode_map_page(&out)?;
    Ok(out)
}

/// Reads what [`encode_map_page`] wrote.
///
/// # Errors
/// [`MapPageFault`]; nothing is trusted before the checksum is right.
pub fn decode_map_page(
    bytes: &[u8],
) -> Result<(TopicPartition, Vec<Arc<ArchivedRun>>), MapPageFault> {
    if bytes.len() > MAP_PAGE_BYTES_MAX {
        return Err(MapPageFault::TooLarge(bytes.len()));
    }
    let short = MapPageFault::Length(bytes.len());
    let Some((covered, crc)) = bytes.split_last_chunk::<CRC_LEN>() else {
        return Err(short);
    };
    let Some((fixed, runs)) = covered.split_first_chunk::<FIXED_LEN>() else {
        return Err(short);
    };
    if fixed[..4] != MAP_PAGE_MAGIC {
        return Err(MapPageFault::Magic);
    }
    if u32::from_le_bytes(*crc) != crc32c(covered) {
        return Err(MapPageFault::Crc);
    }
    let version = u16::from_le_bytes([fixed[4], fixed[5]]);
    if version != MAP_PAGE_VERSION {
        return Err(MapPageFault::Version(version));
    }
    let mut topic = [0; 16];
    topic.copy_from_slice(&fixed[8..24]);
    let partition = i32::from_le_bytes([fixed[24], fixed[25], fixed[26], fixed[27]]);
    let runs: Vec<Arc<ArchivedRun>> = codec::decode::<MAP_PAGE_DECODED_BYTES_MAX, _>(runs)?;
    check_order(&runs)?;
    let tp = TopicPartition {
        topic: TopicId(topic),
        partition: PartitionIndex(partition),
    };
    Ok((tp, runs))
}

/// Runs follow each other, and so do the row groups of each, which cover it.
fn check_order(runs: &[Arc<ArchivedRun>]) -> Result<(), MapPageFault> {
    let mut next = runs.first().ok_or(MapPageFault::Order(0))?.base_offset;
    for run in runs {
        let fault = MapPageFault::Order(run.base_offset);
        let is_covered = row_groups_cover(&run.row_groups, run.base_offset, run.last_offset);
        if run.base_offset != next || run.last_offset < next || !is_covered {
            return Err(fault);
        }
        next = run.last_offset.checked_add(1).ok_or(fault)?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use firn_proto::cluster::{RowGroup, SegmentKey};
    use firn_proto::ids::Incarnation;

    use super::*;

    pub(crate) fn tp() -> TopicPartition {
        TopicPartition {
            topic: TopicId([0x70; 16]),
            partition: PartitionIndex(3),
        }
    }

    /// Runs of ten offsets each from `base` on; every third has no batch.
    pub(crate) fn runs(base: i64, count: u32) -> Vec<Arc<ArchivedRun>> {
        let run = |at: u32| {
            let base_offset = base + 10 * i64::from(at);
            let group = |from: i64, last: i64| RowGroup {
                base_offset: base_offset + from,
                last_offset: base_offset + last,
                byte_start: 4,
                byte_len: 300 + u64::from(at),
                max_timestamp_so_far: 1_700_000_000_000 + i64::from(at),
                records: 5,
                plain_bytes: 700,
            };
            let has_batches = at % 3 != 2;
            Arc::new(ArchivedRun {
                segment: SegmentKey {
                    incarnation: Incarnation(9),
                    number: u64::from(at),
                },
                runs_of_segment: 2,
                base_offset,
                last_offset: base_offset + 9,
                max_timestamp: if has_batches {
                    1_700_000_000_000
                } else {
                    i64::MIN
                },
                row_groups: if has_batches {
                    vec![group(0, 3), group(4, 9)]
                } else {
                    vec![]
                },
            })
        };
        (0..count).map(run).collect()
    }

    #[test]
    fn a_page_reads_back_as_it_was_written() {
        for (base, count) in [(0, 1), (1 << 33, 3), (7, 512)] {
            let bytes = encode_map_page(tp(), &runs(base, count)).unwrap();
            assert_eq!(decode_map_page(&bytes), Ok((tp(), runs(base, count))));
        }
        let bytes = encode_map_page(tp(), &runs(0, 512)).unwrap();
        assert!(bytes.len() < 40_000, "{}", bytes.len());
    }

    /// Where the log start lay in the middle of a batch, which is not divided.
    #[test]
    fn a_run_may_begin_inside_its_first_row_group() {
        let mut inside = runs(5, 3);
        Arc::make_mut(&mut inside[0]).row_groups[0].base_offset = 2;
        let bytes = encode_map_page(tp(), &inside).unwrap();
        assert_eq!(decode_map_page(&bytes), Ok((tp(), inside)));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = encode_map_page(tp(), &runs(5, 3)).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_map_page(&flipped).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(decode_map_page(&bytes[..len]).is_err(), "cut to {len}");
        }
    }

    fn with_crc(mut bytes: Vec<u8>) -> Vec<u8> {
        let end = bytes.len() - CRC_LEN;
        let crc = crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn hostile_bytes_with_a_right_checksum_are_errors() {
        let bytes = encode_map_page(tp(), &runs(5, 3)).unwrap();
        for at in FIXED_LEN..bytes.len() - CRC_LEN {
            for value in [0, 1, 250, 251, 253, 255] {
                let mut hostile = bytes.clone();
                hostile[at] = value;
                // whatever it says, it is read or refused
                drop(decode_map_page(&with_crc(hostile)));
            }
        }
        let mut many = bytes[..FIXED_LEN].to_vec();
        many.push(253);
        many.extend_from_slice(&u64::MAX.to_le_bytes());
        many.extend_from_slice(&[0; CRC_LEN]);
        let error = decode_map_page(&with_crc(many));
        assert!(matches!(error, Err(MapPageFault::Runs(_))), "{error:?}");
        let mut later = bytes;
        later[4] = 2;
        assert_eq!(
            decode_map_page(&with_crc(later)),
            Err(MapPageFault::Version(2))
        );
        let large = vec![0; MAP_PAGE_BYTES_MAX + 1];
        assert_eq!(
            decode_map_page(&large),
            Err(MapPageFault::TooLarge(large.len()))
        );
    }

    #[test]
    fn runs_that_do_not_follow_each_other_make_no_page() {
        assert_eq!(encode_map_page(tp(), &[]), Err(MapPageFault::Order(0)));
        let mut gap = runs(0, 4);
        gap.remove(1);
        assert_eq!(encode_map_page(tp(), &gap), Err(MapPageFault::Order(20)));
        for spoil in [
            (|run| run.last_offset += 1) as fn(&mut ArchivedRun),
            |run| run.row_groups[1].base_offset += 1,
            |run| run.row_groups[0].last_offset = -1,
            |run| run.row_groups[1].last_offset = i64::MAX,
        ] {
            let mut spoiled = runs(0, 4);
            spoil(Arc::make_mut(&mut spoiled[0]));
            assert_eq!(encode_map_page(tp(), &spoiled), Err(MapPageFault::Order(0)));
        }
    }
}
