//! The sink of a segment, which knows what went through it.

use std::io::{self, Write};

use crc_fast::{CrcAlgorithm, Digest};

use crate::stream::fields::low_half;

/// Counts the bytes that go through it, and has the CRC of a part of them.
pub(super) struct Tally<W> {
    pub(super) sink: W,
    pub(super) bytes: u64,
    crc: Digest,
}

impl<W> Tally<W> {
    pub(super) fn new(sink: W) -> Self {
        Self {
            sink,
            bytes: 0,
            crc: Digest::new(CrcAlgorithm::Crc32Iscsi),
        }
    }

    /// The CRC counts from here on.
    pub(super) fn begin_part(&mut self) {
        self.crc = Digest::new(CrcAlgorithm::Crc32Iscsi);
    }

    /// CRC-32C of the part.
    pub(super) fn part_crc(&self) -> u32 {
        low_half(self.crc.clone().finalize())
    }
}

impl<W: Write> Write for Tally<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.sink.write(bytes)?;
        self.bytes += written as u64;
        self.crc.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
