//! Reading segments: row groups back into batches, for readers whose offsets are archived.
//!
//! - `plan.rs`: which row group comes next (pure)
//! - `open.rs`: a row group that is open: batches are made of it as they are wanted
//! - `remainders.rs`: those that are open, for the next fetch and for others at the same place
//! - `search.rs`: the first record at a time, the newest record
//! - `pages.rs`: pages of the segment map
//!
//! A row group takes one ranged GET, which brings its batch table, too. It is decoded once for a
//! reader that goes on where it stopped, on a few threads of low priority: backfills must not hold up producers and consumers at the tail. What readers hold waits
//! for memory of its own as well.

mod open;
mod pages;
mod plan;
mod remainders;
mod search;

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use firn_proto::cluster::{ArchivedRun, SegmentKey};
use firn_proto::ids::TopicPartition;
use firn_proto::limits::{
    OPEN_ROW_GROUP_WORK_BYTES, ROW_GROUP_DECODERS_MAX, ROW_GROUP_DECODING_BYTES_MAX,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::cold::from_object;
use super::{ReadError, ReadOutcome, Reader};
use crate::bucket::Purpose;
use crate::cache::{CachedObjects, WholeRanges, WholeReads};
use crate::layout::{Key, SegmentName};
use crate::low_priority::Workers;
use crate::segment::{RowGroup, RowGroupReader, SegmentFault, TargetCodec};
use open::{OpenGroup, Taken, Want};
use plan::{GroupAt, Next};
use remainders::{GroupName, Held, Remainders};

pub use search::SegmentSearch;

const KIB: u64 = 1024;

/// What to read of a partition's segments.
#[derive(Clone, Copy, Debug)]
pub struct SegmentRead<'a> {
    /// The partition.
    pub tp: TopicPartition,
    /// What its topic is called in the keys of its segments.
    pub topic_name: &'a str,
    /// The first offset wanted.
    pub offset: i64,
    /// Nothing at or behind this offset is served.
    pub end: i64,
    /// Bytes wanted at most.
    pub max_bytes: usize,
    /// Whether the first batch is served even if it alone is larger than `max_bytes` (KIP-74).
    pub first_in_any_case: bool,
    /// How batches are compressed.
    pub codec: TargetCodec,
    /// Runs of the partition as the segment map has them: in order, contiguous. Runs that lie wholly
    /// before `offset` do no harm.
    pub runs: &'a [Arc<ArchivedRun>],
}

/// What reading segments has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentUsage {
    /// Reads.
    pub reads: u64,
    /// Row groups that were opened: decoded from their beginning on, or from the batch wanted.
    pub opened: u64,
    /// Times that a reader went on in a row group that was open.
    pub continued: u64,
    /// Look-ups by time that looked into a row group.
    pub searched: u64,
    /// What decoding them has taken of a processor, in microseconds.
    pub decoding_micros: u64,
    /// GETs of row groups, and what spared them.
    pub ranges: WholeReads,
    /// GETs of map pages, and what spared them.
    pub pages: WholeReads,
}

/// What reads of segments share.
pub(super) struct Segments {
    ranges: WholeRanges,
    pages: WholeRanges,
    remainders: Arc<Remainders>,
    /// Never closed, so that there is always a permit in the end.
    decoding_kib: Arc<Semaphore>,
    /// Started when first needed; `None` if the machine gives no thread.
    decoders: OnceLock<Option<Workers>>,
    decoding_micros: Arc<AtomicU64>,
    reads: AtomicU64,
    opened: AtomicU64,
    continued: AtomicU64,
    searched: AtomicU64,
}

impl Segments {
    pub(super) fn new(objects: CachedObjects) -> Self {
        let kib = ROW_GROUP_DECODING_BYTES_MAX as u64 / KIB;
        Self {
            pages: WholeRanges::new(objects.clone(), Purpose::Map),
            ranges: WholeRanges::new(objects, Purpose::ReadSegment),
            remainders: Arc::default(),
            decoding_kib: Arc::new(Semaphore::new(
                usize::try_from(kib).unwrap_or(Semaphore::MAX_PERMITS),
            )),
            decoders: OnceLock::new(),
            decoding_micros: Arc::default(),
            reads: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            continued: AtomicU64::new(0),
            searched: AtomicU64::new(0),
        }
    }

    pub(super) fn usage(&self) -> SegmentUsage {
        SegmentUsage {
            reads: self.reads.load(Ordering::Relaxed),
            opened: self.opened.load(Ordering::Relaxed),
            continued: self.continued.load(Ordering::Relaxed),
            searched: self.searched.load(Ordering::Relaxed),
            decoding_micros: self.decoding_micros.load(Ordering::Relaxed),
            ranges: self.ranges.reads(),
            pages: self.pages.reads(),
        }
    }

    /// What `work` returns, which is done on a thread of low priority, also if nobody waits for it any
    /// more. `None` if there are no threads (any more).
    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let start = || {
            let started = Workers::start("segments", ROW_GROUP_DECODERS_MAX, &self.decoding_micros);
            started
                .inspect_err(|error| tracing::error!(%error, "no thread to decode segments on"))
                .ok()
        };
        let decoders = self.decoders.get_or_init(start).as_ref()?;
        decoders.run(work).await.ok()
    }

    /// Waits for a thread to decode the row group on, and for what it holds: no more pieces of work
    /// are under way than there are threads.
    async fn thread(&self, group: &RowGroup) -> Option<OwnedSemaphorePermit> {
        let all = ROW_GROUP_DECODING_BYTES_MAX as u64;
        let bytes = group
            .plain_bytes
            .clamp(all / ROW_GROUP_DECODERS_MAX as u64, all);
        let kib = u32::try_from(bytes / KIB).unwrap_or(u32::MAX);
        let threads = Arc::clone(&self.decoding_kib);
        threads.acquire_many_owned(kib).await.ok()
    }
}

impl Reader {
    /// Whole batches from the one that holds the offset on, or from the next one if there is none:
    /// offsets for which no row group has a batch are passed over.
    ///
    /// Stops at the end, where the bytes wanted are reached, and behind the last run that was given.
    /// The reader goes on at `next_offset` of the outcome, which may lie behind a gap even though
    /// there are no batches; if it equals the offset asked for, the end or the bytes left no room.
    ///
    /// Dropping the future loses nothing: what was asked of the bucket still reaches the cache.
    ///
    /// # Errors
    /// [`ReadError`]; if batches were found before it, those are served instead.
    pub async fn read_segments(&self, read: &SegmentRead<'_>) -> Result<ReadOutcome, ReadError> {
        self.0.segments.reads.fetch_add(1, Ordering::Relaxed);
        let mut outcome = ReadOutcome {
            next_offset: read.offset,
            ..ReadOutcome::default()
        };
        while outcome.next_offset < read.end {
            let offset = outcome.next_offset;
            match plan::next(read.runs, offset) {
                Next::Nothing if offset == read.offset => {
                    return Err(ReadError::NotCovered {
                        tp: read.tp,
                        offset,
                    });
                }
                Next::Nothing => break,
                Next::Gap(to) => outcome.next_offset = to.min(read.end),
                Next::Group(at) => match Box::pin(self.take_group(read, at, &outcome)).await {
                    Ok(taken) => {
                        outcome.batches.extend(taken.batches);
                        outcome.bytes += taken.bytes;
                        outcome.next_offset = taken.next_offset;
                        if taken.is_full {
                            break;
                        }
                    }
                    Err(error) if outcome.batches.is_empty() => return Err(error),
                    // The reader meets it again where it goes on.
                    Err(_) => break,
                },
            }
        }
        Ok(outcome)
    }

    /// Takes batches from one row group; once more past the cache if its bytes are wrong.
    async fn take_group(
        &self,
        read: &SegmentRead<'_>,
        at: GroupAt<'_>,
        before: &ReadOutcome,
    ) -> Result<Taken, ReadError> {
        let want = Want {
            offset: before.next_offset,
            end: read.end,
            max_bytes: read.max_bytes.saturating_sub(before.bytes),
            first_in_any_case: read.first_in_any_case && before.batches.is_empty(),
            codec: read.codec,
        };
        let segments = &self.0.segments;
        let name = GroupName {
            tp: read.tp,
            segment: at.run.segment,
            base_offset: at.group.base_offset,
            codec: read.codec,
        };
        let mut held = segments.remainders.hold(name, want.offset).await;
        let is_continued = held.slot.open.is_some();
        let mut fault: Option<SegmentFault> = None;
        loop {
            if held.slot.open.is_none() {
                let work = OPEN_ROW_GROUP_WORK_BYTES as u64;
                held.reserve(at.group.byte_len.saturating_add(work)).await;
            }
            let bytes = match held.slot.open {
                Some(_) => None,
                None => Some(self.fetch(read, at, fault.is_some()).await?),
            };
            let counted = match bytes {
                Some(_) => &segments.opened,
                None => &segments.continued,
            };
            counted.fetch_add(1, Ordering::Relaxed);
            let work = Work {
                held,
                tp: read.tp,
                group: *at.group,
                bytes,
                want,
            };
            let (back, taken) = self.decode(work).await?;
            held = back;
            match taken {
                Ok(taken) => {
                    let is_sequential = is_continued || !taken.is_full;
                    self.read_ahead(read, at, held, is_sequential);
                    return Ok(taken);
                }
                Err(found) => {
                    held.slot.open = None;
                    let key = key(read.tp, read.topic_name, at.run.segment);
                    self.on_fault(read.tp, key, want.offset, &found, fault.is_some())?;
                    fault = Some(found);
                }
            }
        }
    }

    /// Counts bytes that are wrong. They are fetched anew, unless they were.
    fn on_fault(
        &self,
        tp: TopicPartition,
        key: Key,
        offset: i64,
        fault: &dyn Display,
        was_fetched_anew: bool,
    ) -> Result<(), ReadError> {
        if !was_fetched_anew {
            self.0.refetched.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%tp, %key, %fault, "what was read is wrong, fetching anew");
            return Ok(());
        }
        self.0.corrupt.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%tp, %key, offset, %fault, "an object of the archive is corrupt");
        Err(ReadError::Corrupt {
            key,
            tp,
            offset,
            reason: fault.to_string(),
        })
    }

    /// The bytes of a row group.
    async fn fetch(
        &self,
        read: &SegmentRead<'_>,
        at: GroupAt<'_>,
        past_cache: bool,
    ) -> Result<Bytes, ReadError> {
        let key = key(read.tp, read.topic_name, at.run.segment);
        let range = at.group.byte_range();
        let ranges = &self.0.segments.ranges;
        let bytes = match past_cache {
            false => ranges.read(&key, range).await,
            true => ranges.read_again(&key, range).await,
        };
        bytes.map_err(|error| from_object(read.tp, error))
    }

    /// Decodes on a thread that serves nobody. The work goes on when nobody waits for it any more,
    /// and what is left is kept.
    async fn decode(&self, work: Work) -> Result<(Held, Result<Taken, SegmentFault>), ReadError> {
        let thread = self.0.segments.thread(&work.group).await;
        let (tp, offset) = (work.tp, work.want.offset);
        let decoded = self.0.segments.on_thread(move || {
            let done = work.run();
            drop(thread);
            done
        });
        decoded.await.ok_or(ReadError::Stopped { tp, offset })
    }

    /// Fetches the row group behind this one, once.
    fn read_ahead(
        &self,
        read: &SegmentRead<'_>,
        at: GroupAt<'_>,
        mut held: Held,
        is_sequential: bool,
    ) {
        let Some(open) = held.slot.open.as_mut().filter(|_| is_sequential) else {
            return;
        };
        if std::mem::replace(&mut open.is_next_ahead, true) {
            return;
        }
        let next = plan::behind(read.runs, at.group);
        if let Some(next) = next.filter(|next| next.group.base_offset < read.end) {
            let key = key(read.tp, read.topic_name, next.run.segment);
            let range = next.group.byte_range();
            self.0.segments.ranges.read_ahead(&key, range);
        }
    }
}

/// What a thread decodes.
struct Work {
    held: Held,
    tp: TopicPartition,
    group: RowGroup,
    /// The bytes of the row group, unless it is open.
    bytes: Option<Bytes>,
    want: Want,
}

impl Work {
    fn run(mut self) -> (Held, Result<Taken, SegmentFault>) {
        let taken = self.take();
        (self.held, taken)
    }

    fn take(&mut self) -> Result<Taken, SegmentFault> {
        let slot = &mut self.held.slot;
        if let Some(bytes) = self.bytes.take() {
            let (topic, partition) = (self.tp.topic, self.tp.partition);
            let reader = RowGroupReader::open(&bytes, topic, partition, &self.group)?;
            slot.open = Some(OpenGroup::new(reader, &self.group, self.want.offset)?);
        }
        match &mut slot.open {
            Some(open) => open.take(&self.want),
            None => Err(SegmentFault::Table("row group that is not open")),
        }
    }
}

fn key(tp: TopicPartition, topic_name: &str, segment: SegmentKey) -> Key {
    SegmentName {
        topic_name: topic_name.to_owned(),
        topic: tp.topic,
        incarnation: segment.incarnation,
        number: segment.number,
    }
    .key()
}

#[cfg(test)]
mod tests;
