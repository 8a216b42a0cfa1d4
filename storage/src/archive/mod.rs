//! Writing one segment: from runs in WAL objects to an object of the bucket that was read back.
//!
//! - `feed.rs`: reads the runs, batch by batch, within bounded memory
//! - `encode.rs`: what is fed into a segment, until it has enough
//! - `store.rs`: puts the segment and reads every byte of it back, past all caches
//!
//! Architecture invariant: decides neither when something is archived nor what, and commits nothing.
//! The caller names the ranges, gives each segment a number of its own, and must abandon a number
//! whose segment may lie in the bucket before it deletes the object (I9).

mod encode;
mod feed;
mod store;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use firn_proto::env::Entropy;
use firn_proto::ids::{ClusterId, PartitionIndex};
use firn_proto::limits::ARCHIVE_SEGMENT_BYTES_TARGET;
use firn_proto::record::HeaderError;
use thiserror::Error;

use crate::bucket::{Bucket, BucketError};
use crate::layout::{Key, SegmentName};
use crate::low_priority::{Stopped, Workers};
use crate::read::{ReadError, Reader};
use crate::segment::{EncodeError, Segment, SegmentFault, SegmentOrigin};
use crate::state::RunRef;

/// What of a partition is to be archived.
#[derive(Clone, Debug)]
pub struct Unarchived {
    /// The partition.
    pub partition: PartitionIndex,
    /// Where it is archived to.
    pub from: i64,
    /// Nothing at or behind this offset is taken. A batch begins here, or none does yet.
    pub end: i64,
    /// The runs that hold those offsets, in order.
    pub runs: Vec<RunRef>,
}

/// A segment that lies in the bucket and holds what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedSegment {
    /// What it is called.
    pub name: SegmentName,
    /// Where everything in it is. Its runs say how far each partition got, in the order in which
    /// they were given: a partition without a run got nowhere, since the segment was full. A run
    /// begins before the offset that was asked for if the batch that holds that does.
    pub segment: Segment,
}

/// Why there is no segment that could be committed.
#[derive(Debug, Error)]
pub enum ArchiveFault {
    /// There was nothing to archive.
    #[error("no partition has anything to archive")]
    Nothing,
    /// The records could not be read.
    #[error("the records to be archived cannot be read: {0}")]
    Read(#[from] ReadError),
    /// What was read is no batch.
    #[error("the records to be archived are no batch: {0}")]
    Batch(#[from] HeaderError),
    /// The records could not be encoded.
    #[error("the segment cannot be made: {0}")]
    Encode(#[from] EncodeError),
    /// The encoding thread could not be started.
    #[error("no thread could be started for the archiver: {0}")]
    Thread(#[from] io::Error),
    /// The encoding thread is gone.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The bucket did not take the segment.
    #[error("the bucket did not take {key} in {attempts} attempts: {reason}")]
    Put {
        /// The segment.
        key: Key,
        /// How often it was put.
        attempts: u32,
        /// The last answer.
        reason: String,
        /// An attempt had no clear answer: it may be there, or come to be there.
        may_exist: bool,
    },
    /// It could not be read back, after it was put.
    #[error("the segment cannot be read back: {0}")]
    ReadBack(#[from] BucketError),
    /// It was put and is not there.
    #[error("{0} was put and is not there")]
    Missing(Key),
    /// What lies in the bucket is not what was put.
    #[error("{key} does not hold what was put: {fault}")]
    Differs {
        /// The segment.
        key: Key,
        /// The difference.
        fault: SegmentFault,
    },
}

impl ArchiveFault {
    /// Whether an object may lie under the name of the segment now or later: then the segment must
    /// be abandoned, and the object deleted. If not, nothing has reached the bucket.
    pub fn may_exist(&self) -> bool {
        match self {
            Self::Nothing
            | Self::Read(_)
            | Self::Batch(_)
            | Self::Encode(_)
            | Self::Thread(_)
            | Self::Put {
                may_exist: false, ..
            } => false,
            // the thread also compares what was put
            Self::Stopped(_)
            | Self::Put {
                may_exist: true, ..
            }
            | Self::ReadBack(_)
            | Self::Missing(_)
            | Self::Differs { .. } => true,
        }
    }

    /// Whether this is the bucket's doing: the archiver waits until it is well again.
    pub fn is_of_bucket(&self) -> bool {
        matches!(
            self,
            Self::Read(ReadError::Bucket(_)) | Self::Put { .. } | Self::ReadBack(_)
        )
    }
}

/// What archiving has done and cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArchiveUsage {
    /// Segments that were read back and found whole.
    pub segments: u64,
    /// Batches in them.
    pub batches: u64,
    /// Records in them, as the batches count them.
    pub records: u64,
    /// Bytes of those batches as they lay in the WAL.
    pub bytes_in: u64,
    /// Bytes of the segments.
    pub bytes_out: u64,
    /// What encoding and comparing have taken of a processor.
    pub cpu: Duration,
    /// Stretches of segments that were not in the bucket what had been put.
    pub differing: u64,
}

/// Writes segments, one at a time. Cheap to clone.
#[derive(Clone)]
pub struct Archiver(Arc<Inner>);

struct Inner {
    bucket: Bucket,
    reader: Reader,
    cluster: ClusterId,
    entropy: Arc<Entropy>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    segments: AtomicU64,
    batches: AtomicU64,
    records: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    cpu_micros: Arc<AtomicU64>,
    differing: AtomicU64,
}

impl Archiver {
    /// Archives what `reader` reads into `bucket`.
    pub fn new(bucket: Bucket, reader: &Reader, cluster: ClusterId, entropy: Arc<Entropy>) -> Self {
        Self(Arc::new(Inner {
            bucket,
            reader: reader.for_archive(),
            cluster,
            entropy,
            counters: Counters::default(),
        }))
    }

    /// Writes the segment `name` from `ranges`, which are of its topic and ascend by partition: all
    /// of them, or as much as one segment holds. When this returns without an error the segment
    /// lies in the bucket and was compared.
    ///
    /// Dropping the future may leave an object: the segment must be abandoned then.
    ///
    /// # Errors
    /// [`ArchiveFault`], which says whether an object may be there.
    pub async fn write(
        &self,
        name: &SegmentName,
        ranges: &[Unarchived],
    ) -> Result<ArchivedSegment, ArchiveFault> {
        self.write_up_to(name, ranges, ARCHIVE_SEGMENT_BYTES_TARGET)
            .await
    }

    /// What archiving has done and cost.
    pub fn usage(&self) -> ArchiveUsage {
        let counters = &self.0.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ArchiveUsage {
            segments: count(&counters.segments),
            batches: count(&counters.batches),
            records: count(&counters.records),
            bytes_in: count(&counters.bytes_in),
            bytes_out: count(&counters.bytes_out),
            cpu: Duration::from_micros(count(&counters.cpu_micros)),
            differing: count(&counters.differing),
        }
    }

    async fn write_up_to(
        &self,
        name: &SegmentName,
        ranges: &[Unarchived],
        segment_bytes: usize,
    ) -> Result<ArchivedSegment, ArchiveFault> {
        let origin = SegmentOrigin {
            cluster: self.0.cluster,
            topic: name.topic,
            topic_name: name.topic_name.clone(),
        };
        let worker = Workers::start("archive", 1, &self.0.counters.cpu_micros)?;
        let (feeder, fed) = feed::channel(self.0.reader.clone(), name.topic);
        let encoding = worker.run(move || encode::encode(fed, &origin, segment_bytes));
        let (feeding, encoded) = futures::join!(feeder.feed(ranges), encoding);
        // what could not be read is the cause if the other side then stopped, too
        feeding?;
        let encoded = encoded??;
        if encoded.segment.runs.is_empty() {
            return Err(ArchiveFault::Nothing);
        }
        let key = name.key();
        let (segment, taken) = (encoded.segment.clone(), encoded.taken);
        self.put(&key, &encoded.pieces).await?;
        self.read_back(&key, &worker, encoded).await?;
        let counters = &self.0.counters;
        let add = |counter: &AtomicU64, more: u64| counter.fetch_add(more, Ordering::Relaxed);
        add(&counters.segments, 1);
        add(&counters.batches, taken.batches);
        add(&counters.records, taken.records);
        add(&counters.bytes_in, taken.bytes);
        add(&counters.bytes_out, segment.byte_len);
        Ok(ArchivedSegment {
            name: name.clone(),
            segment,
        })
    }
}

#[cfg(test)]
mod tests;
