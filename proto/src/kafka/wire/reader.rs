//! A cursor over one received frame that cannot be made to read, or to allocate, beyond it.

use bytes::{Buf, Bytes};

use super::DecodeError;
use crate::limits::{TAGGED_FIELD_BYTES_MAX, TAGGED_FIELDS_MAX, decode_bytes};

/// Reads one frame from front to back.
///
/// Two bounds keep a hostile frame harmless: an array is refused before it is allocated unless
/// the rest of the frame could hold its elements, and all allocations together are paid for out
/// of a budget that grows with the frame.
#[derive(Clone, Debug)]
pub struct Reader {
    rest: Bytes,
    frame: usize,
    spent: usize,
}

impl Reader {
    /// A cursor at the start of `frame`, which is without its length prefix.
    pub fn new(frame: Bytes) -> Self {
        Self {
            frame: frame.len(),
            rest: frame,
            spent: 0,
        }
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Position in the frame.
    pub fn position(&self) -> usize {
        self.frame - self.rest.len()
    }

    /// Bytes that were allocated for what was read so far.
    pub fn spent(&self) -> usize {
        self.spent
    }

    fn budget(&self) -> usize {
        decode_bytes(self.frame)
    }

    /// Pays for an allocation of `bytes`.
    fn spend(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.spent = self.spent.saturating_add(bytes);
        if self.spent > self.budget() {
            return Err(DecodeError::Expansion {
                frame: self.frame,
                budget: self.budget(),
            });
        }
        Ok(())
    }

    fn need(&self, needed: usize) -> Result<(), DecodeError> {
        if needed > self.rest.len() {
            return Err(DecodeError::Truncated {
                at: self.position(),
                needed,
                left: self.rest.len(),
            });
        }
        Ok(())
    }

    /// The next `N` bytes, as they stand.
    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let Some(&bytes) = self.rest.first_chunk::<N>() else {
            self.need(N)?;
            return Ok([0; N]);
        };
        self.rest.advance(N);
        Ok(bytes)
    }

    /// An unsigned varint of up to 32 bits.
    #[inline]
    pub(super) fn uvarint(&mut self) -> Result<u32, DecodeError> {
        let at = self.position();
        let mut value = 0_u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array::<1>()?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && bits > 0x0f {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Varint { at })
    }

    /// A compact length: one more than the length, 0 for null.
    #[inline]
    pub(super) fn compact_length(&mut self) -> Result<Option<usize>, DecodeError> {
        Ok(self.uvarint()?.checked_sub(1).map(|length| length as usize))
    }

    /// A length as it stood before compact ones: −1 for null.
    #[inline]
    pub(super) fn plain_length(&mut self, length: i32) -> Result<Option<usize>, DecodeError> {
        match usize::try_from(length) {
            Ok(length) => Ok(Some(length)),
            Err(_) if length == -1 => Ok(None),
            Err(_) => Err(DecodeError::NegativeLength {
                at: self.position(),
                length,
            }),
        }
    }

    /// The next `length` bytes as a slice of the frame.
    pub(super) fn slice(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        self.need(length)?;
        Ok(self.rest.split_to(length))
    }

    /// The next `length` bytes as text of its own.
    pub(super) fn text(&mut self, length: usize) -> Result<String, DecodeError> {
        self.need(length)?;
        let at = self.position();
        let bytes = self.rest.get(..length).unwrap_or_default();
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Utf8 { at })?;
        let text = text.to_owned();
        self.spend(length)?;
        self.rest.advance(length);
        Ok(text)
    }

    /// An empty vector with room for `count` elements, each at least `least_len` bytes on the
    /// wire.
    pub(super) fn room<T>(
        &mut self,
        count: usize,
        least_len: usize,
    ) -> Result<Vec<T>, DecodeError> {
        if count > self.rest.len() / least_len.max(1) {
            return Err(DecodeError::Count {
                at: self.position(),
                count,
                left: self.rest.len(),
            });
        }
        self.spend(count.saturating_mul(size_of::<T>()))?;
        Ok(Vec::with_capacity(count))
    }

    /// Reads the tagged fields at the end of a flexible structure: `known` reads the field of a
    /// tag and says so, or leaves it; what it leaves is skipped.
    pub fn tagged(
        &mut self,
        mut known: impl FnMut(&mut Self, u32) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        let count = self.uvarint()? as usize;
        if count > TAGGED_FIELDS_MAX {
            return Err(DecodeError::Tagged {
                at: self.position(),
            });
        }
        for _ in 0..count {
            let tag = self.uvarint()?;
            let length = self.uvarint()? as usize;
            self.need(length)?;
            let left_behind = self.rest.len() - length;
            if known(self, tag)? {
                if self.rest.len() != left_behind {
                    return Err(DecodeError::TaggedLength {
                        at: self.position(),
                    });
                }
            } else if length > TAGGED_FIELD_BYTES_MAX {
                return Err(DecodeError::Tagged {
                    at: self.position(),
                });
            } else {
                self.rest.advance(length);
            }
        }
        Ok(())
    }
}
