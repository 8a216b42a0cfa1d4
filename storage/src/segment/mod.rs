//! Segments: the Parquet objects that hold the archived records of one topic, readable by any
//! engine, and batch by batch by this module.
//!
//! A segment holds runs of several partitions. A run is cut into row groups, each of one partition
//! and of whole batches, with six plain columns. What a record batch says beyond them stands in
//! the **batch table**, a compressed block right behind the columns of its row group, so that one
//! ranged GET brings all that is needed to make the batches again. `storage/FORMAT.md` has every
//! byte.
//!
//! An archiver pushes batches into a [`SegmentWriter`], puts what comes out under a
//! [`crate::layout::SegmentName`], reads it back through [`verify_footer`] and [`verify_row_group`],
//! and commits the [`Segment`]. A cold reader finds the row group in that, gets its
//! [`RowGroup::byte_range`] and hands the bytes to a [`RowGroupReader`], which gives batches one at a
//! time: what it has not given yet can wait for the next sequential fetch.
//!
//! - `map.rs`: [`Segment`], [`SegmentRun`], [`RowGroup`]: where everything is, for the segment map
//! - `schema.rs`: the columns and how they are stored
//! - `columns.rs`, `arrays.rs`, `value_chunk.rs`: columns of records that are being gathered
//! - `table.rs`: the batch table
//! - `write.rs`, `tally.rs`: [`SegmentWriter`]: batches into row groups
//! - `footer.rs`: what a segment says of itself in its key-value metadata
//! - `page.rs`, `values.rs`, `column.rs`: reading the pages of one column
//! - `read.rs`, `read/columns.rs`: [`RowGroupReader`]: row groups back into batches
//! - `search.rs`: the record for a timestamp
//! - `verify.rs`: what was written against what went in
//! - `map_page.rs`: older runs of a partition, as the segment map keeps them in the bucket
//! - `fault.rs`: what can go wrong
//!
//! Writing goes through the `parquet` crate. Reading does not: a row group is decoded from its own
//! bytes, without a footer, one value at a time, and whatever the bytes say it never panics and
//! never takes more memory than a bound.
//!
//! Architecture invariant: pure functions of bytes; no IO and no scheduling. Which batches are
//! archived, where objects go and who reads them is decided elsewhere.

mod arrays;
mod column;
mod columns;
mod fault;
pub(crate) mod footer;
mod map;
pub(crate) mod map_page;
mod page;
mod read;
mod schema;
mod search;
pub(crate) mod table;
mod tally;
mod value_chunk;
mod values;
mod verify;
mod write;

pub use fault::{EncodeError, SegmentFault};
pub use footer::{SegmentOrigin, read_footer};
pub use map::{RowGroup, Segment, SegmentRun, row_groups_from_time};
pub use map_page::{MAP_PAGE_MAGIC, MapPageFault, decode_map_page, encode_map_page};
pub use read::{BatchSummary, RowGroupReader, TargetCodec};
pub use search::{TimedRecord, first_at_or_after, first_of_max};
pub use verify::{Fingerprints, PlainChunks, verify_footer, verify_row_group};
pub use write::{SegmentWriter, Written};

#[cfg(test)]
pub(crate) mod tests;
