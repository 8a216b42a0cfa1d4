//! Reads the runs that are archived, in order, and hands their batches over. It reads ahead of what
//! encodes them by a bounded number of bytes.

use std::sync::Arc;

use bytes::Bytes;
use firn_proto::ids::{PartitionIndex, TopicId, TopicPartition};
use firn_proto::limits::{ARCHIVE_FED_BYTES_MAX, ARCHIVE_READ_BYTES};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Unarchived;
use crate::read::{ReadError, ReadRequest, Reader};

/// Messages that wait to be taken; their bytes are bounded apart.
const WAITING_MAX: usize = 4;

/// A step of a segment that is being made.
pub(super) enum Fed {
    /// A run begins, and is to cover this if the segment holds all of it.
    Run {
        /// Its partition.
        partition: PartitionIndex,
        /// Its first offset.
        base_offset: i64,
        /// Its last offset, at most.
        last_offset: i64,
    },
    /// Its next batches, with the memory that they take.
    Batches(Vec<Bytes>, OwnedSemaphorePermit),
    /// It has no more of them, and covers the offsets up to this one.
    RunEnd(i64),
    /// Everything was handed over.
    End,
}

/// The side that reads.
pub(super) struct Feeder {
    reader: Reader,
    topic: TopicId,
    out: mpsc::Sender<Fed>,
    memory: Arc<Semaphore>,
}

/// The other side wants no more.
struct Full;

/// Both sides of a feed of the runs of one topic.
pub(super) fn channel(reader: Reader, topic: TopicId) -> (Feeder, mpsc::Receiver<Fed>) {
    let (out, fed) = mpsc::channel(WAITING_MAX);
    let feeder = Feeder {
        reader,
        topic,
        out,
        memory: Arc::new(Semaphore::new(ARCHIVE_FED_BYTES_MAX)),
    };
    (feeder, fed)
}

impl Feeder {
    /// Hands over all of `ranges`, or as much as is wanted.
    pub(super) async fn feed(self, ranges: &[Unarchived]) -> Result<(), ReadError> {
        for range in ranges {
            if let Err(Full) = self.feed_range(range).await? {
                return Ok(());
            }
        }
        // whoever is gone has enough
        let _ = self.out.send(Fed::End).await;
        Ok(())
    }

    async fn feed_range(&self, range: &Unarchived) -> Result<Result<(), Full>, ReadError> {
        let mut offset = range.from;
        let mut begun = false;
        while offset < range.end {
            let request = ReadRequest {
                tp: TopicPartition {
                    topic: self.topic,
                    partition: range.partition,
                },
                offset,
                end: range.end,
                max_bytes: ARCHIVE_READ_BYTES,
                first_in_any_case: true,
                runs: &range.runs,
            };
            let read = self.reader.read(&request).await?;
            let Some(first) = read.batches.first() else {
                break;
            };
            if !begun {
                let base_offset = base_offset(first).map_or(offset, |base| base.min(offset));
                let run = Fed::Run {
                    partition: range.partition,
                    base_offset,
                    last_offset: range.end - 1,
                };
                if self.out.send(run).await.is_err() {
                    return Ok(Err(Full));
                }
                begun = true;
            }
            offset = read.next_offset;
            if self.hand_over(read.batches, read.bytes).await.is_err() {
                return Ok(Err(Full));
            }
        }
        if begun && self.out.send(Fed::RunEnd(offset - 1)).await.is_err() {
            return Ok(Err(Full));
        }
        Ok(Ok(()))
    }

    async fn hand_over(&self, batches: Vec<Bytes>, bytes: usize) -> Result<(), Full> {
        let bytes = u32::try_from(bytes.min(ARCHIVE_FED_BYTES_MAX)).unwrap_or(u32::MAX);
        let memory = Arc::clone(&self.memory).acquire_many_owned(bytes).await;
        let memory = memory.map_err(|_| Full)?;
        let batches = Fed::Batches(batches, memory);
        self.out.send(batches).await.map_err(|_| Full)
    }
}

/// Where the first batch begins: before the offset wanted, if that is in the middle of it.
fn base_offset(batch: &Bytes) -> Option<i64> {
    Some(i64::from_be_bytes(*batch.first_chunk()?))
}
