//! The codecs of record batches, as Kafka's clients write them (KIP-110 for zstd).
//!
//! - gzip, also of several members
//! - snappy: raw, and in the framing of snappy-java ("xerial"), which is what is written
//! - lz4: the frame format
//! - zstd, also without a content size
//!
//! What comes out is bounded by the caller: a few bytes may claim to hold gigabytes.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use thiserror::Error;

/// A codec, with Kafka's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// Not compressed.
    #[default]
    None = 0,
    /// RFC 1952.
    Gzip = 1,
    /// Google's snappy.
    Snappy = 2,
    /// LZ4 frame.
    Lz4 = 3,
    /// Zstandard, RFC 8878.
    Zstd = 4,
}

impl Codec {
    /// All of them, by number.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec of that number.
    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Kafka's number.
    pub fn number(self) -> i16 {
        self as i16
    }
}

/// A codec and how hard it tries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compression {
    /// The codec.
    pub codec: Codec,
    /// gzip: −1 or 0 to 9; zstd: −131072 to 22. `None` is the codec's default. Snappy has no levels,
    /// and lz4 is written by an encoder that has none.
    pub level: Option<i32>,
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        Self { codec, level: None }
    }
}

/// Why bytes could not be compressed or decompressed.
#[derive(Debug, Error)]
pub enum CompressionError {
    /// No codec has this number.
    #[error("no compression codec has the number {0}")]
    UnknownCodec(i16),
    /// The bytes are not what the codec writes.
    #[error("{codec:?} data is broken: {source}")]
    Broken {
        /// The codec.
        codec: Codec,
        /// What it found.
        source: io::Error,
    },
    /// More would come out than the caller allows.
    #[error("{codec:?} data expands to more than {bytes_max} bytes")]
    TooLarge {
        /// The codec.
        codec: Codec,
        /// The bound.
        bytes_max: usize,
    },
}

/// Decompresses into at most `bytes_max` bytes. Without a codec the bytes themselves come back,
/// whatever their number.
///
/// # Errors
/// The bytes are broken, or more than `bytes_max` would come out.
pub fn decompress(
    codec: Codec,
    stored: &[u8],
    bytes_max: usize,
) -> Result<Cow<'_, [u8]>, CompressionError> {
    if codec == Codec::None {
        return Ok(Cow::Borrowed(stored));
    }
    let mut plain = Vec::new();
    inflate(codec, stored, bytes_max, &mut plain)?;
    Ok(Cow::Owned(plain))
}

/// As [`decompress`], into `buffer`, whose memory is used again; what it held is gone.
///
/// # Errors
/// The bytes are broken, or more than `bytes_max` would come out.
pub fn decompress_into<'a>(
    codec: Codec,
    stored: &'a [u8],
    bytes_max: usize,
    buffer: &'a mut Vec<u8>,
) -> Result<&'a [u8], CompressionError> {
    buffer.clear();
    if codec == Codec::None {
        return Ok(stored);
    }
    inflate(codec, stored, bytes_max, buffer)?;
    Ok(buffer)
}

/// Decompresses behind nothing: `plain` is empty.
fn inflate(
    codec: Codec,
    stored: &[u8],
    bytes_max: usize,
    plain: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    let fits = match codec {
        Codec::None => {
            plain.extend_from_slice(stored);
            Ok(true)
        }
        Codec::Gzip => {
            let decoder = flate2::read::MultiGzDecoder::new(stored);
            read_bounded(decoder, stored, bytes_max, plain)
        }
        Codec::Snappy => decompress_snappy(stored, bytes_max, plain),
        Codec::Lz4 => {
            let decoder = lz4_flex::frame::FrameDecoder::new(stored);
            read_bounded(decoder, stored, bytes_max, plain)
        }
        Codec::Zstd => zstd::stream::read::Decoder::with_buffer(stored)
            .and_then(|decoder| read_bounded(decoder, stored, bytes_max, plain)),
    };
    match fits {
        Ok(true) => Ok(()),
        Ok(false) => Err(CompressionError::TooLarge { codec, bytes_max }),
        Err(source) => Err(CompressionError::Broken { codec, source }),
    }
}

/// Compresses. Without a codec the bytes themselves come back.
///
/// # Errors
/// The level is not one of the codec's.
pub fn compress(compression: Compression, plain: &[u8]) -> Result<Cow<'_, [u8]>, CompressionError> {
    let codec = compression.codec;
    let stored = match codec {
        Codec::None => return Ok(Cow::Borrowed(plain)),
        Codec::Gzip => compress_gzip(plain, compression.level),
        Codec::Snappy => compress_snappy(plain),
        Codec::Lz4 => compress_lz4(plain),
        // 0 stands for the library's default
        Codec::Zstd => zstd::stream::encode_all(plain, compression.level.unwrap_or(0)),
    };
    stored
        .map(Cow::Owned)
        .map_err(|source| CompressionError::Broken { codec, source })
}

/// Reads to the end, or returns false where there is more than `bytes_max`.
fn read_bounded(
    mut reader: impl Read,
    stored: &[u8],
    bytes_max: usize,
    plain: &mut Vec<u8>,
) -> io::Result<bool> {
    // records commonly shrink to a quarter; the vector grows where that is too little, and never
    // beyond what the caller counts with
    let mut room = (stored.len() * 4).clamp(1, bytes_max.max(1));
    loop {
        plain.reserve_exact(room);
        let wanted = u64::try_from(room).unwrap_or(u64::MAX);
        let read = reader.by_ref().take(wanted).read_to_end(plain)?;
        if read < room {
            return Ok(true);
        }
        room = plain.len().min(bytes_max.saturating_sub(plain.len()));
        if room == 0 {
            return Ok(reader.read(&mut [0])? == 0);
        }
    }
}

fn compress_gzip(plain: &[u8], level: Option<i32>) -> io::Result<Vec<u8>> {
    let level = level
        .and_then(|level| u32::try_from(level).ok())
        .filter(|level| *level <= 9)
        .map(flate2::Compression::new)
        .unwrap_or_default();
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(plain.len() / 2), level);
    encoder.write_all(plain)?;
    encoder.finish()
}

/// Independent blocks of 64 KiB, no checksums but the header's: what Kafka's own clients write
/// and what every client reads.
fn compress_lz4(plain: &[u8]) -> io::Result<Vec<u8>> {
    let frame = lz4_flex::frame::FrameInfo::new()
        .block_mode(lz4_flex::frame::BlockMode::Independent)
        .block_size(lz4_flex::frame::BlockSize::Max64KB);
    let out = Vec::with_capacity(plain.len() / 2);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, out);
    encoder.write_all(plain)?;
    encoder.finish().map_err(io::Error::other)
}

const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
/// The version of the framing and the oldest one it is compatible with, both 1.
const XERIAL_VERSIONS: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 1];
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;

fn compress_snappy(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(plain.len() / 2 + 32);
    out.extend_from_slice(&XERIAL_MAGIC);
    out.extend_from_slice(&XERIAL_VERSIONS);
    let mut encoder = snap::raw::Encoder::new();
    for block in plain.chunks(XERIAL_BLOCK_BYTES) {
        let block = encoder.compress_vec(block)?;
        let len = u32::try_from(block.len()).map_err(io::Error::other)?;
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&block);
    }
    Ok(out)
}

fn decompress_snappy(stored: &[u8], bytes_max: usize, plain: &mut Vec<u8>) -> io::Result<bool> {
    if !stored.starts_with(&XERIAL_MAGIC) {
        return append_snappy_block(stored, plain, bytes_max);
    }
    let mut rest = stored;
    while !rest.is_empty() {
        // streams may be strung together, each with its own header
        if rest.starts_with(&XERIAL_MAGIC) {
            let header = XERIAL_MAGIC.len() + XERIAL_VERSIONS.len();
            rest = rest.get(header..).ok_or_else(cut_off)?;
            continue;
        }
        let (len, behind) = rest.split_first_chunk().ok_or_else(cut_off)?;
        let len = usize::try_from(u32::from_be_bytes(*len)).map_err(io::Error::other)?;
        let (block, behind) = behind.split_at_checked(len).ok_or_else(cut_off)?;
        rest = behind;
        if !append_snappy_block(block, plain, bytes_max)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns false, having appended nothing, if more than `bytes_max` would come out in all.
fn append_snappy_block(block: &[u8], plain: &mut Vec<u8>, bytes_max: usize) -> io::Result<bool> {
    let len = snap::raw::decompress_len(block)?;
    // a copy of 64 bytes takes 3: what claims to expand further is broken, and is found out
    // before memory is taken for it
    if len > block.len().saturating_mul(32) {
        return Err(io::Error::other("claims to expand further than snappy can"));
    }
    let start = plain.len();
    if len > bytes_max.saturating_sub(start) {
        return Ok(false);
    }
    plain.resize(start + len, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut plain[start..])?;
    plain.truncate(start + written);
    Ok(true)
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the framing is cut off")
}

#[cfg(test)]
mod tests;
