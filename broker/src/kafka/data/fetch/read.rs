//! Reads what a survey found, within the byte limits of the request (KIP-74).
//!
//! Partitions are served in their turn, whether they are in memory or in objects: each takes its
//! share of what the answer may hold before the next one is looked at, so that a partition that is
//! read from its start goes on beside busy ones. What is in memory costs no wait; the rest is read
//! side by side, as each is a round trip to the bucket. The first batch of all is served whatever
//! its size, so that a consumer with small limits goes on.

use firn_proto::ids::TopicPartition;
use firn_proto::limits::COLD_GETS_MAX;
use firn_proto::record::Codec;
use firn_storage::read::{ReadOutcome, ReadRequest, SegmentRead};
use firn_storage::segment::TargetCodec;
use firn_storage::state::RunRef;
use futures::StreamExt;

use super::answer::PartitionRead;
use super::source::Source;
use super::survey::{Readable, Surveyed};
use crate::kafka::context::Context;
use crate::kafka::data::topic_rules::TopicRules;
use crate::kafka::data::unreadable::Unreadable;

/// Bytes that a request may still have.
struct Budget {
    left: usize,
    served: bool,
}

/// What one partition may have of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    bytes: usize,
    first_in_any_case: bool,
}

impl Budget {
    /// Whether nothing more can be taken.
    fn is_spent(&self) -> bool {
        self.served && self.left == 0
    }

    /// What a partition that wants `bytes` may have.
    fn share(&self, bytes: usize) -> Share {
        Share {
            bytes: bytes.min(self.left),
            first_in_any_case: !self.served,
        }
    }

    /// Counts what was read, or what is set aside to be read.
    fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
        self.served |= bytes > 0;
    }
}

/// A partition that is read from objects.
struct Cold {
    index: usize,
    readable: Readable,
    share: Share,
}

/// Reads up to `max_bytes` of the surveyed partitions and gives their answers, in order.
pub(super) async fn read_all(
    ctx: &Context,
    surveyed: Vec<Surveyed>,
    max_bytes: usize,
) -> Vec<PartitionRead> {
    let mut budget = Budget {
        left: max_bytes,
        served: false,
    };
    let mut reads = Vec::with_capacity(surveyed.len());
    let mut cold = Vec::new();
    for (
        index,
        Surveyed {
            mut read, readable, ..
        },
    ) in surveyed.into_iter().enumerate()
    {
        let readable = readable.filter(|readable| readable.available > 0 && !budget.is_spent());
        if let Some(readable) = readable {
            let share = budget.share(readable.max_bytes);
            // what is durable by now was in the tail before
            let ahead = ahead(&readable.source, &readable, readable.offset, share);
            match ahead.or_else(|| ctx.reader.read_hot(&request(&readable, share, &[]))) {
                Some(outcome) => {
                    budget.spend(outcome.bytes);
                    read.records = outcome.batches;
                    count(ctx, &readable, &read);
                }
                None => {
                    budget.spend(readable.bytes_there(share.bytes).0);
                    cold.push(Cold {
                        index,
                        readable,
                        share,
                    });
                }
            }
        }
        reads.push(read);
    }
    read_cold(ctx, cold, &mut reads).await;
    reads
}

async fn read_cold(ctx: &Context, cold: Vec<Cold>, reads: &mut [PartitionRead]) {
    let mut outcomes = futures::stream::iter(cold)
        .map(|cold| async move { (read_one(ctx, &cold).await, cold) })
        .buffered(COLD_GETS_MAX);
    while let Some((outcome, cold)) = outcomes.next().await {
        let Some(read) = reads.get_mut(cold.index) else {
            return;
        };
        match outcome {
            Ok(outcome) => {
                read.records = outcome.batches;
                count(ctx, &cold.readable, read);
            }
            Err(error) => {
                let tp = cold.readable.source.tp();
                tracing::warn!(%tp, offset = cold.readable.offset, %error, "a read failed");
                read.error = error.code();
            }
        }
    }
}

/// Reads from objects. What has moved since its place was looked up is looked up again.
async fn read_one(ctx: &Context, cold: &Cold) -> Result<ReadOutcome, Unreadable> {
    let mut source = cold.readable.source.clone();
    let tp = source.tp();
    let mut offset = cold.readable.offset;
    let mut looks = 0;
    loop {
        let outcome = Box::pin(read_at(ctx, cold, &source, offset)).await;
        match outcome {
            Err(error) => {
                ctx.segments.forget(tp);
                if !error.looks_again(&mut looks).await {
                    return Err(error);
                }
            }
            // Offsets without records: what is behind them was asked for as well.
            Ok(read) if read.batches.is_empty() && read.next_offset > offset => {
                offset = read.next_offset;
                if offset >= cold.readable.end {
                    return Ok(read);
                }
            }
            Ok(read) => return Ok(read),
        }
        source = source.again(ctx, offset, cold.share.bytes).await;
    }
}

/// Reads from where `offset` is now.
async fn read_at(
    ctx: &Context,
    cold: &Cold,
    source: &Source,
    offset: i64,
) -> Result<ReadOutcome, Unreadable> {
    let Cold {
        readable, share, ..
    } = cold;
    let tp = source.tp();
    let bounds = source.bounds();
    if offset < bounds.log_start {
        let log_start = bounds.log_start;
        return Err(Unreadable::Deleted { tp, log_start });
    }
    if let Some(outcome) = ahead(source, readable, offset, *share) {
        return Ok(outcome);
    }
    if offset >= bounds.archived_to {
        let runs = source.runs(offset, readable.end, share.bytes);
        let request = ReadRequest {
            offset,
            ..request(readable, *share, &runs)
        };
        return Ok(ctx.reader.read(&request).await?);
    }
    let runs = ctx.segments.runs(tp, offset).await?;
    let wanted = SegmentRead {
        tp,
        topic_name: &readable.topic,
        offset,
        end: readable.end.min(bounds.archived_to),
        max_bytes: share.bytes,
        first_in_any_case: share.first_in_any_case,
        codec: codec(ctx, tp),
        runs: &runs,
    };
    Ok(ctx.reader.read_segments(&wanted).await?)
}

/// How the batches of a topic are compressed that are made again from segments: as they were stored,
/// at the level that the topic asks for if it names a codec. A topic that wants no compression keeps
/// what was compressed before it did: nobody has counted on the memory for more.
fn codec(ctx: &Context, tp: TopicPartition) -> TargetCodec {
    let image = ctx.image.borrow();
    let rules = image
        .topic(tp.topic)
        .map(|topic| TopicRules::new(&topic.configs, usize::MAX));
    let compression = rules.and_then(|rules| rules.compression);
    match compression.filter(|compression| compression.codec != Codec::None) {
        Some(compression) => TargetCodec::Topic(compression),
        None => TargetCodec::Producer,
    }
}

/// What is visible from `offset` on and in no slot yet.
fn ahead(source: &Source, readable: &Readable, offset: i64, share: Share) -> Option<ReadOutcome> {
    let span = (offset, readable.end);
    source.read_ahead(span, share.bytes, share.first_in_any_case)
}

fn request<'a>(readable: &Readable, share: Share, runs: &'a [RunRef]) -> ReadRequest<'a> {
    ReadRequest {
        tp: readable.source.tp(),
        offset: readable.offset,
        end: readable.end,
        max_bytes: share.bytes,
        first_in_any_case: share.first_in_any_case,
        runs,
    }
}

fn count(ctx: &Context, readable: &Readable, read: &PartitionRead) {
    let bytes = read.bytes() as u64;
    if bytes > 0 {
        ctx.metrics.topic(&readable.topic).bytes_out.inc_by(bytes);
    }
    if matches!(readable.source, Source::Followed(..)) {
        ctx.metrics.replica_bytes_out.inc_by(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_batch_is_taken_whatever_its_size_and_no_other() {
        let mut budget = Budget {
            left: 10,
            served: false,
        };
        let first = Share {
            bytes: 10,
            first_in_any_case: true,
        };
        assert_eq!(budget.share(100), first);
        budget.spend(100);
        assert!(budget.is_spent());
        assert!(!budget.share(1).first_in_any_case);
    }

    #[test]
    fn a_partition_without_records_takes_nothing_from_the_next() {
        let mut budget = Budget {
            left: 10,
            served: false,
        };
        budget.spend(0);
        assert!(budget.share(1).first_in_any_case);
    }

    #[test]
    fn what_is_set_aside_for_one_partition_is_not_offered_to_the_next() {
        let mut budget = Budget {
            left: 10,
            served: false,
        };
        let set_aside = budget.share(6).bytes;
        budget.spend(set_aside);
        let next = Share {
            bytes: 4,
            first_in_any_case: false,
        };
        assert_eq!(budget.share(6), next);
    }
}
