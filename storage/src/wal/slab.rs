//! Small batches, copied out of the socket buffers they came in.
//!
//! A batch is a slice of the buffer its request was read into and pins all of it. For a large
//! batch that is the cheapest way; a small one would pin a thousand times its size for as long as
//! the bucket takes. So small ones are copied into slabs, which they fill.

use bytes::{Bytes, BytesMut};
use firn_proto::limits::TINY_BATCH_BYTES;

use super::entry::WalEntry;

/// Size of a slab. What one batch pins at most is this.
const SLAB_BYTES: usize = 16 * TINY_BATCH_BYTES;

/// The slab that is being filled.
#[derive(Debug, Default)]
pub(crate) struct Slab {
    open: BytesMut,
}

impl Slab {
    /// `records` itself if it is large, and a copy of it in a slab if it is small.
    pub(crate) fn keep(&mut self, records: Bytes) -> Bytes {
        if records.len() >= TINY_BATCH_BYTES {
            return records;
        }
        if self.open.capacity() < records.len() {
            self.open = BytesMut::with_capacity(SLAB_BYTES);
        }
        self.open.extend_from_slice(&records);
        self.open.split().freeze()
    }
}

/// The body of a slot: the batches one behind the other. Neighbours that are small become one
/// piece, which they then share, so that a body of many small batches is not one of many pieces.
pub(crate) fn body_of(entries: &mut [WalEntry]) -> Vec<Bytes> {
    let is_small = |entry: &WalEntry| entry.records.len() < TINY_BATCH_BYTES;
    let mut body = Vec::new();
    for group in entries.chunk_by_mut(|a, b| is_small(a) && is_small(b)) {
        if let [alone] = group {
            body.push(alone.records.clone());
            continue;
        }
        let bytes = group.iter().map(|entry| entry.records.len()).sum();
        let mut piece = BytesMut::with_capacity(bytes);
        for entry in group.iter() {
            piece.extend_from_slice(&entry.records);
        }
        let piece = piece.freeze();
        let mut from = 0;
        for entry in group {
            let to = from + entry.records.len();
            entry.records = piece.slice(from..to);
            from = to;
        }
        body.push(piece);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::testing::entry;

    #[test]
    fn a_small_batch_lets_go_of_its_socket_buffer() {
        let socket = Bytes::from(vec![7; 1 << 20]);
        let mut slab = Slab::default();
        let kept = slab.keep(socket.slice(5..105));
        assert_eq!(kept, socket.slice(5..105));
        assert!(
            socket.try_into_mut().is_ok(),
            "nobody else holds the buffer"
        );
    }

    #[test]
    fn a_large_batch_is_not_copied() {
        let socket = Bytes::from(vec![7; TINY_BATCH_BYTES]);
        let kept = Slab::default().keep(socket.clone());
        assert_eq!(kept.as_ptr(), socket.as_ptr());
    }

    #[test]
    fn slabs_are_filled_one_after_the_other() {
        let mut slab = Slab::default();
        let small = Bytes::from(vec![1; 1_000]);
        let kept: Vec<_> = (0..200).map(|_| slab.keep(small.clone())).collect();
        assert!(kept.iter().all(|copy| *copy == small));
        let neighbours = kept
            .windows(2)
            .filter(|pair| pair[0].as_ptr_range().end == pair[1].as_ptr())
            .count();
        assert!(neighbours > 190);
    }

    #[test]
    fn small_neighbours_share_a_piece_and_large_ones_stay_where_they_are() {
        let sizes = [10, 20, TINY_BATCH_BYTES, 5_000, 30, 6_000, 1, 2, 3];
        let mut entries: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(index, bytes)| entry(0, index as i64, index as i64, *bytes))
            .collect();
        let before: Vec<_> = entries.iter().map(|entry| entry.records.clone()).collect();
        let body = body_of(&mut entries);
        let lengths: Vec<_> = body.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [30, TINY_BATCH_BYTES, 5_000, 30, 6_000, 6]);
        assert_eq!(body.concat(), before.concat());
        for (entry, records) in entries.iter().zip(&before) {
            assert_eq!(entry.records, records);
        }
        assert_eq!(body[1].as_ptr(), before[2].as_ptr());
        assert_eq!(
            entries[1].records.as_ptr_range().end,
            body[0].as_ptr_range().end
        );
    }

    #[test]
    fn an_empty_slot_has_an_empty_body() {
        assert!(body_of(&mut []).is_empty());
    }
}
