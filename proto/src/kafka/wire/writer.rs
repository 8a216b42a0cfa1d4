//! Builds one frame: small fields in one buffer, large slices left where they are.

use bytes::{BufMut, Bytes, BytesMut};

/// From this length on a slice is put into the frame as it is instead of being copied: below it
/// the copy costs less than one more element of a vectored write.
const SPLICE_BYTES_MIN: usize = 2048;

/// Writes one frame from front to back.
#[derive(Debug)]
pub struct Writer {
    own: BytesMut,
    /// Foreign slices and the position in `own` that each stands in front of, ascending.
    splices: Vec<(usize, Bytes)>,
    spliced: usize,
}

/// A frame ready to be sent: its chunks in order, with the length prefix in the first.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    chunks: Vec<Bytes>,
    len: usize,
}

impl Frame {
    /// The chunks, none of them empty, for one vectored write.
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// The chunks by value.
    pub fn into_chunks(self) -> Vec<Bytes> {
        self.chunks
    }

    /// Length in bytes, prefix included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to send (only of a default frame).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The frame as one piece; copies. For tools and tests.
    pub fn to_bytes(&self) -> Bytes {
        self.chunks.concat().into()
    }
}

impl Writer {
    /// A frame that so far holds room for its length prefix.
    pub(crate) fn frame() -> Self {
        let mut own = BytesMut::with_capacity(256);
        own.put_i32(0);
        Self {
            own,
            splices: Vec::new(),
            spliced: 0,
        }
    }

    /// A piece of a frame, without a prefix.
    fn piece() -> Self {
        Self {
            own: BytesMut::new(),
            splices: Vec::new(),
            spliced: 0,
        }
    }

    /// Fills in the length prefix and lets the frame go.
    pub(crate) fn finish(mut self) -> Frame {
        let len = self.own.len() + self.spliced;
        // A frame beyond the prefix's range cannot be built: answers are bounded far below it.
        let prefix = i32::try_from(len - 4).unwrap_or(i32::MAX);
        if let Some(room) = self.own.first_chunk_mut::<4>() {
            *room = prefix.to_be_bytes();
        }
        let own = self.own.freeze();
        let mut chunks = Vec::with_capacity(2 * self.splices.len() + 1);
        let mut from = 0;
        for (at, bytes) in self.splices {
            if at > from {
                chunks.push(own.slice(from..at));
            }
            chunks.push(bytes);
            from = at;
        }
        if own.len() > from {
            chunks.push(own.slice(from..));
        }
        Frame { chunks, len }
    }

    /// Copies `bytes` to the end.
    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.own.put_slice(bytes);
    }

    /// Puts `bytes` at the end, uncopied if they are worth it.
    pub(super) fn put_shared(&mut self, bytes: &Bytes) {
        if bytes.len() < SPLICE_BYTES_MIN {
            self.put(bytes);
            return;
        }
        self.spliced += bytes.len();
        self.splices.push((self.own.len(), bytes.clone()));
    }

    /// An unsigned varint.
    #[inline]
    pub(super) fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.own.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.own.put_u8(value as u8);
    }

    /// A compact length: one more than the length, 0 for null.
    #[inline]
    pub(super) fn compact_length(&mut self, length: Option<usize>) {
        let length = length.map_or(0, |length| {
            u32::try_from(length).unwrap_or(u32::MAX - 1) + 1
        });
        self.uvarint(length);
    }

    /// The number of tagged fields at the end of a flexible structure.
    pub fn tagged_count(&mut self, count: u32) {
        self.uvarint(count);
    }

    /// One tagged field.
    pub fn tagged(&mut self, tag: u32, write: impl FnOnce(&mut Self)) {
        let mut piece = Self::piece();
        write(&mut piece);
        self.uvarint(tag);
        let len = piece.own.len() + piece.spliced;
        self.uvarint(u32::try_from(len).unwrap_or(u32::MAX));
        let mut from = 0;
        for (at, bytes) in &piece.splices {
            self.put(piece.own.get(from..*at).unwrap_or_default());
            self.put_shared(bytes);
            from = *at;
        }
        self.put(piece.own.get(from..).unwrap_or_default());
    }
}
