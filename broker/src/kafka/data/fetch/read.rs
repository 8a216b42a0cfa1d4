//! Reads what a survey found, within the byte limits of the request (KIP-74).
//!
//! Partitions are served in their turn. What is in memory comes first, and costs no wait; the rest
//! is read side by side, as each is a round trip to the bucket. The first batch of all is served
//! whatever its size, so that a consumer with small limits goes on.

use bytes::Bytes;
use firn_proto::error_code::ErrorCode;
use firn_proto::limits::COLD_GETS_MAX;
use firn_storage::read::{ReadError, ReadOutcome, ReadRequest};
use firn_storage::state::RunRef;
use futures::StreamExt;

use super::answer::PartitionRead;
use super::survey::{Readable, Surveyed};
use crate::kafka::context::Context;

/// Bytes that a request may still have.
struct Budget {
    left: usize,
    served: bool,
}

impl Budget {
    /// Whether nothing more can be taken.
    fn is_spent(&self) -> bool {
        self.served && self.left == 0
    }

    /// Takes what was read, or nothing if it is too much by now.
    fn take(&mut self, outcome: ReadOutcome) -> Vec<Bytes> {
        if outcome.batches.is_empty() || (self.served && outcome.bytes > self.left) {
            return Vec::new();
        }
        self.left = self.left.saturating_sub(outcome.bytes);
        self.served = true;
        outcome.batches
    }
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
    for (index, Surveyed { mut read, readable }) in surveyed.into_iter().enumerate() {
        let readable = readable.filter(|readable| readable.available > 0 && !budget.is_spent());
        if let Some(readable) = readable {
            match ctx.reader.read_hot(&request(&readable, &budget, &[])) {
                Some(outcome) => {
                    read.records = budget.take(outcome);
                    count(ctx, &readable, &read);
                }
                None => cold.push((index, readable)),
            }
        }
        reads.push(read);
    }
    read_cold(ctx, cold, &mut budget, &mut reads).await;
    reads
}

async fn read_cold(
    ctx: &Context,
    cold: Vec<(usize, Readable)>,
    budget: &mut Budget,
    reads: &mut [PartitionRead],
) {
    let (left, served) = (budget.left, budget.served);
    let mut outcomes = futures::stream::iter(cold)
        .map(|(index, readable)| async move {
            let so_far = Budget { left, served };
            let outcome = read_one(ctx, &readable, &so_far).await;
            (index, readable, outcome)
        })
        .buffered(COLD_GETS_MAX);
    while !budget.is_spent() {
        let Some((index, readable, outcome)) = outcomes.next().await else {
            return;
        };
        let Some(read) = reads.get_mut(index) else {
            return;
        };
        match outcome {
            Ok(outcome) => {
                read.records = budget.take(outcome);
                count(ctx, &readable, read);
            }
            Err(error) => {
                let tp = readable.partition.tp();
                tracing::warn!(%tp, offset = readable.offset, %error, "a read failed");
                read.error = error_code(&error);
            }
        }
    }
}

/// Reads from objects. What has moved since the runs were taken is looked up once more.
async fn read_one(
    ctx: &Context,
    readable: &Readable,
    budget: &Budget,
) -> Result<ReadOutcome, ReadError> {
    let max_bytes = readable.max_bytes.min(budget.left);
    let runs = || {
        readable
            .partition
            .runs(readable.offset, readable.end, max_bytes)
    };
    let first = ctx.reader.read(&request(readable, budget, &runs())).await;
    match first {
        Err(ReadError::NotCovered { .. } | ReadError::Gone { .. }) => {
            ctx.reader.read(&request(readable, budget, &runs())).await
        }
        outcome => outcome,
    }
}

fn request<'a>(readable: &Readable, budget: &Budget, runs: &'a [RunRef]) -> ReadRequest<'a> {
    ReadRequest {
        tp: readable.partition.tp(),
        offset: readable.offset,
        end: readable.end,
        max_bytes: readable.max_bytes.min(budget.left),
        first_in_any_case: !budget.served,
        runs,
    }
}

fn count(ctx: &Context, readable: &Readable, read: &PartitionRead) {
    let bytes = read.bytes() as u64;
    if bytes > 0 {
        ctx.metrics.topic(&readable.topic).bytes_out.inc_by(bytes);
    }
}

/// The code for records that could not be read. Only a bucket that does not answer is worth asking
/// again; corruption must be loud.
pub(in crate::kafka::data) fn error_code(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::NotCovered { .. } | ReadError::Gone { .. } | ReadError::Bucket(_) => {
            ErrorCode::KafkaStorageError
        }
        ReadError::Corrupt { .. } | ReadError::Undecodable { .. } => ErrorCode::CorruptMessage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(bytes: usize) -> ReadOutcome {
        ReadOutcome {
            batches: vec![vec![0; bytes].into()],
            bytes,
            next_offset: 1,
        }
    }

    #[test]
    fn the_first_batch_is_taken_whatever_its_size_and_no_other() {
        let mut budget = Budget {
            left: 10,
            served: false,
        };
        assert_eq!(budget.take(outcome(100)).len(), 1);
        assert!(budget.is_spent());
        assert_eq!(budget.take(outcome(1)).len(), 0);
    }

    #[test]
    fn what_no_longer_fits_is_left_for_the_next_request() {
        let mut budget = Budget {
            left: 10,
            served: false,
        };
        assert_eq!(budget.take(outcome(6)).len(), 1);
        assert_eq!(budget.take(outcome(6)).len(), 0);
        assert_eq!(budget.take(outcome(4)).len(), 1);
    }
}
