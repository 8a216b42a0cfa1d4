//! Record batches, version 2: Kafka's unit of writing, kept as its producer sent it.
//!
//! - `header.rs`: the 61 bytes in front of the records, and what the attribute bits mean
//! - `batch.rs`: [`BatchView`], a batch over shared bytes: CRC, splitting, stamping in place
//! - `check.rs`: what a produced batch must be, from its header alone
//! - `records.rs`: the records inside, borrowed from decompressed bytes
//! - `compression.rs`: the four codecs, with a bound on what comes out
//! - `builder.rs`: new batches, and old ones under another codec
//! - `search.rs`: one record by its timestamp; records without a key
//!
//! Nothing here knows offsets of a log, owners or topics, and nothing reads records on the produce
//! path but `search.rs`, which compacted topics need. Bytes from a client never make it panic or
//! allocate more than a bound that the caller gives.

mod batch;
mod builder;
mod check;
mod compression;
mod header;
mod records;
mod search;

pub use batch::{BatchView, crc32c};
pub use batch::{Batches, Stamp, split_batches};
pub use builder::{
    BatchBuilder, BuildError, NewHeader, NewRecord, RecordFields, assemble, header_len, put_header,
    put_record, recompress,
};
pub use check::{BatchError, BatchRules, check_produced};
pub use compression::{
    Codec, Compression, CompressionError, compress, decompress, decompress_into,
};
pub use header::{Attributes, BatchHeader, HEADER_BYTES, HeaderError, TimestampType};
pub use records::{Header, Headers, Record, RecordError, Records};
pub use search::{DecodeError, FoundRecord, first_at_or_after, first_of_max, first_without_key};

#[cfg(test)]
mod tests;
