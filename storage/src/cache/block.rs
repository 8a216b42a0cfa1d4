//! A block of an object, with a checksum bound to its name: a block that rotted, or that a cache
//! gives for another name, counts as not found.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

use crate::layout::Key;

/// The name of a block: objects never change, so it stands for the same bytes for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey {
    /// The object.
    pub object: Key,
    /// Which of its aligned blocks, counted from 0.
    pub block: u32,
}

/// A block as caches hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SealedBlock {
    pub(super) checksum: u32,
    pub(super) bytes: Bytes,
}

impl SealedBlock {
    /// Copies `bytes`, which may be a slice of a much larger answer.
    pub(super) fn seal(key: &BlockKey, bytes: &Bytes) -> Self {
        Self {
            checksum: checksum(key, bytes),
            bytes: Bytes::copy_from_slice(bytes),
        }
    }

    /// The bytes, if they are those that were sealed under this name.
    pub(super) fn open(&self, key: &BlockKey) -> Option<Bytes> {
        (checksum(key, &self.bytes) == self.checksum).then(|| self.bytes.clone())
    }

    /// What the block takes of a cache, in bytes.
    pub(super) fn weight(&self, key: &BlockKey) -> usize {
        /// Entry, allocations and index of a cache.
        const OVERHEAD: usize = 256;
        self.bytes.len() + key.object.as_str().len() + OVERHEAD
    }
}

/// CRC-32C over name and bytes.
fn checksum(key: &BlockKey, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(key.object.as_str().as_bytes());
    digest.update(&key.block.to_le_bytes());
    digest.update(bytes);
    // the library returns every width as u64; this algorithm fills the low 32 bits
    (digest.finalize() & u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(object: &str, block: u32) -> BlockKey {
        BlockKey {
            object: Key::listed(object),
            block,
        }
    }

    #[test]
    fn a_block_opens_only_under_its_own_name_and_only_unharmed() {
        let sealed = SealedBlock::seal(&key("a", 1), &Bytes::from_static(b"firn"));
        assert_eq!(sealed.open(&key("a", 1)).unwrap(), "firn");
        assert_eq!(sealed.open(&key("a", 2)), None);
        assert_eq!(sealed.open(&key("b", 1)), None);
        let rotten = SealedBlock {
            bytes: Bytes::from_static(b"firm"),
            ..sealed
        };
        assert_eq!(rotten.open(&key("a", 1)), None);
    }
}
