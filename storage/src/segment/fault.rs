//! What can go wrong with a segment.

use firn_proto::ids::PartitionIndex;
use firn_proto::record::BuildError;
use parquet::errors::ParquetError;
use thiserror::Error;

/// Why batches could not be written into a segment.
#[derive(Debug, Error)]
pub enum EncodeError {
    /// Markers end transactions; they are no records, and whoever picks the batches leaves them out.
    #[error(
        "the batch at offset {offset} of partition {partition} is a control batch, which no segment holds"
    )]
    Control {
        /// Its partition.
        partition: PartitionIndex,
        /// Its base offset.
        offset: i64,
    },
    /// The bytes were damaged since they were produced: read them again.
    #[error(
        "the batch at offset {offset} of partition {partition} does not match its crc: read it again before it is archived"
    )]
    Crc {
        /// Its partition.
        partition: PartitionIndex,
        /// Its base offset.
        offset: i64,
    },
    /// A batch or a run is not where the caller said it would be.
    #[error(
        "offsets {base}..={last} of partition {partition} do not lie in what is left of the run, {left_base}..={left_last}"
    )]
    Offsets {
        /// The partition.
        partition: PartitionIndex,
        /// First offset of the batch.
        base: i64,
        /// Its last offset.
        last: i64,
        /// First offset that the run has left.
        left_base: i64,
        /// Last offset of the run.
        left_last: i64,
    },
    /// A batch was pushed before a run was begun.
    #[error("the batch at offset {0} belongs to no run: begin one first")]
    NoRun(i64),
    /// The segment is full; [`super::SegmentWriter::row_groups_left`] says so before.
    #[error("the segment has {0} row groups, as many as one may have: put the run into another")]
    RowGroups(usize),
    /// A step before this one failed.
    #[error("writing this segment has failed before: begin it anew")]
    Failed,
    /// Something is too long for the format.
    #[error("{0} is too long for a segment")]
    TooLong(&'static str),
    /// The Parquet writer or the sink behind it failed.
    #[error("the segment could not be written: {0}")]
    Parquet(#[from] ParquetError),
    /// The sink failed.
    #[error("the segment could not be written: {0}")]
    Io(#[from] std::io::Error),
}

/// Why bytes are not the row group, or the segment, that they should be. Read them again; if they
/// come back the same, the object is damaged.
#[derive(Debug, Error)]
pub enum SegmentFault {
    /// There are not as many bytes as there should be.
    #[error("the {what} has {found} bytes, {expected} are expected")]
    Length {
        /// What it is.
        what: &'static str,
        /// Bytes there are.
        found: usize,
        /// Bytes there should be.
        expected: usize,
    },
    /// These bytes are no batch table.
    #[error("no batch table ends here: its magic is missing")]
    Magic,
    /// Written by a newer release.
    #[error("the batch table has version {0}, this release reads version 1")]
    Version(u16),
    /// A checksum does not match.
    #[error("the crc of the {0} does not match")]
    Crc(&'static str),
    /// It is whole, and another one than was asked for: the map or the range is wrong.
    #[error("this is the row group of {found}, not of {expected}")]
    Other {
        /// What it says it is.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// A number in the batch table, or what it says, cannot be.
    #[error("the batch table is broken: {0}")]
    Table(&'static str),
    /// A page of a column cannot be read.
    #[error("column {column} is broken: {what}")]
    Column {
        /// The column.
        column: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// More would come out than the limit allows.
    #[error("{what} has more than {bytes_max} bytes")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// The limit.
        bytes_max: usize,
    },
    /// A batch could not be built from what was read.
    #[error("the batch at offset {offset} could not be built: {source}")]
    Build {
        /// Its base offset.
        offset: i64,
        /// Why.
        source: BuildError,
    },
    /// The footer cannot be read.
    #[error("the footer is broken: {0}")]
    Footer(String),
    /// What was read is not what was written.
    #[error("read back, {0}")]
    Differs(String),
}
