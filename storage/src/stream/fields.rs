//! Fixed-width little-endian fields: how the formats of this module are written and read.
//!
//! Reading never panics and never allocates more than the bytes at hand can hold.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

/// The bytes ended before a field did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Short;

/// Reads fields one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a>(&'a [u8]);

macro_rules! number {
    ($($name:ident: $int:ty),*) => {
        $(pub(crate) fn $name(&mut self) -> Result<$int, Short> {
            self.array().map(<$int>::from_le_bytes)
        })*
    };
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn left(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Short> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(Short)?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Short)?;
        self.0 = tail;
        Ok(*head)
    }

    number!(u8: u8, u16: u16, u32: u32, u64: u64, i16: i16, i32: i32, i64: i64);
}

/// CRC-32C (Castagnoli) of one piece of memory.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc32c_of([bytes])
}

/// CRC-32C over pieces of memory as if they stood side by side.
pub(crate) fn crc32c_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    low_half(digest.finalize())
}

/// CRC-32C of a body that is kept in several pieces.
pub(crate) fn crc32c_of_body(parts: &[Bytes]) -> u32 {
    crc32c_of(parts.iter().map(AsRef::as_ref))
}

/// A CRC-32 comes as 64 bits whose upper half is zero.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the upper half of a CRC-32 is zero"
)]
pub(crate) fn low_half(crc: u64) -> u32 {
    crc as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c_of([&b"1234"[..], b"56789"]), 0xe306_9283);
    }

    #[test]
    fn reading_past_the_end_is_an_error_and_takes_nothing() {
        let mut fields = Fields::new(&[1, 2, 3]);
        assert_eq!(fields.u32(), Err(Short));
        assert_eq!(fields.u16(), Ok(0x0201));
        assert_eq!(fields.take(2), Err(Short));
        assert_eq!(fields.left(), 1);
    }
}
