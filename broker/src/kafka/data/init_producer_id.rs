//! InitProducerId (22), versions 0 to 5: gives an idempotent producer its id.
//!
//! - v3: a producer may name the id and epoch it had (KIP-360).
//!
//! Choices: without a transactional id every call gets an id of its own with epoch 0, whatever id
//! the producer had before, as in Kafka. Ids come from blocks that the coordinator gives out once,
//! so that no two brokers and no two lives of a broker ever give out the same. A transactional id
//! is refused for good: there is no transaction coordinator, and a producer that asks for one must
//! not go on without. The log says so, for many clients show no more than the code.

use std::sync::PoisonError;

use firn_proto::cluster::{CoordinatorError, ProducerIdBlock, Reply, Request};
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::ProducerId;
use firn_proto::kafka::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use firn_proto::limits::PRODUCER_ID_WAIT_MAX;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::kafka::context::{Call, Context};
use crate::kafka::memory::Reserved;

/// "No producer", in ids and epochs.
const NONE: i64 = -1;

/// The producer ids that this process may still give out.
#[derive(Debug, Default)]
pub struct ProducerIds {
    /// Held while a block is fetched, so that callers who come meanwhile share it.
    block: Mutex<Option<ProducerIdBlock>>,
}

impl ProducerIds {
    /// An id that nobody else gets, from the current block or from a new one.
    ///
    /// # Errors
    /// What `allocate` said, or that it did not answer in time; nothing is given out then. Dropping
    /// the future may lose a block, which nobody gets then.
    pub async fn next(
        &self,
        allocate: impl AsyncFnOnce() -> Result<ProducerIdBlock, CoordinatorError>,
    ) -> Result<ProducerId, CoordinatorError> {
        let next = timeout(PRODUCER_ID_WAIT_MAX, self.take(allocate)).await;
        next.unwrap_or_else(|_| {
            let late = "the bucket has not taken a block of producer ids in time";
            Err(CoordinatorError::NotLeader(late.to_owned()))
        })
    }

    async fn take(
        &self,
        allocate: impl AsyncFnOnce() -> Result<ProducerIdBlock, CoordinatorError>,
    ) -> Result<ProducerId, CoordinatorError> {
        let mut block = self.block.lock().await;
        let mut current = match block.take().filter(|block| block.len > 0) {
            Some(current) => current,
            None => allocate().await?,
        };
        let id = current.first;
        current.first.0 += 1;
        current.len -= 1;
        *block = Some(current);
        Ok(id)
    }
}

/// Gives out a producer id.
pub async fn handle(
    ctx: &Context,
    call: &Call,
    request: InitProducerIdRequest,
    memory: &mut Reserved,
) -> InitProducerIdResponse {
    if let Some(error_code) = refusal(&request) {
        if error_code == ErrorCode::UnsupportedVersion {
            warn_of_transactions(ctx, call, &request);
        }
        return failed(error_code);
    }
    // The next block may wait for the journal.
    drop(request);
    memory.shrink_to(call.parked_bytes());
    let allocate = async || match ctx.coordinator.call(Request::AllocateProducerIds).await? {
        Reply::ProducerIds(block) if block.len > 0 => Ok(block),
        other => Err(CoordinatorError::NotLeader(format!(
            "it answered with no producer ids: {other:?}"
        ))),
    };
    match ctx.producer_ids.next(allocate).await {
        Ok(id) => InitProducerIdResponse {
            producer_id: id.0,
            producer_epoch: 0,
            ..InitProducerIdResponse::default()
        },
        Err(error) => {
            tracing::warn!(%error, "no producer id could be given out");
            // The one code for this that every client tries again.
            failed(ErrorCode::CoordinatorLoadInProgress)
        }
    }
}

fn warn_of_transactions(ctx: &Context, call: &Call, request: &InitProducerIdRequest) {
    let line = ctx.transactions_refused.lock();
    let due = line
        .unwrap_or_else(PoisonError::into_inner)
        .due(ctx.clock.mono());
    if let Some(passed_over) = due {
        tracing::warn!(
            client_id = call.client_id.as_deref().unwrap_or_default(),
            transactional_id = request.transactional_id.as_deref().unwrap_or_default(),
            passed_over,
            "InitProducerId with a transactional id is refused: transactions are not there yet; \
             without transactional.id the producer is served, idempotent or not"
        );
    }
}

fn refusal(request: &InitProducerIdRequest) -> Option<ErrorCode> {
    match &request.transactional_id {
        Some(id) if id.is_empty() => return Some(ErrorCode::InvalidRequest),
        Some(_) => return Some(ErrorCode::UnsupportedVersion),
        None => {}
    }
    let has_id = request.producer_id != NONE;
    let has_epoch = i64::from(request.producer_epoch) != NONE;
    (has_id != has_epoch).then_some(ErrorCode::InvalidRequest)
}

fn failed(error_code: ErrorCode) -> InitProducerIdResponse {
    InitProducerIdResponse {
        error_code,
        producer_epoch: -1,
        ..InitProducerIdResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(first: i64, len: i64) -> ProducerIdBlock {
        ProducerIdBlock {
            first: ProducerId(first),
            len,
        }
    }

    #[tokio::test]
    async fn ids_come_from_one_block_until_it_is_used_up() {
        let ids = ProducerIds::default();
        let mut given = Vec::new();
        for next_block in [1000, 2000, 3000, 4000, 5000] {
            let id = ids.next(async || Ok(block(next_block, 2))).await;
            given.push(id.unwrap().0);
        }
        assert_eq!(given, [1000, 1001, 3000, 3001, 5000]);
    }

    #[tokio::test]
    async fn a_coordinator_that_does_not_answer_gives_no_id() {
        let ids = ProducerIds::default();
        let error = ids.next(async || Err(CoordinatorError::Busy)).await;
        assert_eq!(error, Err(CoordinatorError::Busy));
        let id = ids.next(async || Ok(block(7, 1))).await;
        assert_eq!(id, Ok(ProducerId(7)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_producer_does_not_wait_for_an_id_until_the_bucket_is_back() {
        let ids = ProducerIds::default();
        let (first, second) = tokio::join!(
            ids.next(async || std::future::pending().await),
            ids.next(async || std::future::pending().await),
        );
        for late in [first, second] {
            assert!(
                matches!(late, Err(CoordinatorError::NotLeader(_))),
                "{late:?}"
            );
        }
        let id = ids.next(async || Ok(block(7, 1))).await;
        assert_eq!(id, Ok(ProducerId(7)));
    }

    #[test]
    fn id_and_epoch_come_together_or_not_at_all() {
        let request = |producer_id, producer_epoch| InitProducerIdRequest {
            producer_id,
            producer_epoch,
            ..InitProducerIdRequest::default()
        };
        assert_eq!(refusal(&request(-1, -1)), None);
        assert_eq!(refusal(&request(5, 0)), None);
        assert_eq!(refusal(&request(5, -1)), Some(ErrorCode::InvalidRequest));
        assert_eq!(refusal(&request(-1, 0)), Some(ErrorCode::InvalidRequest));
    }
}
