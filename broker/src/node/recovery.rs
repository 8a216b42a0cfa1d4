//! What a start does about earlier processes of this broker, before anything is served: their
//! streams are sealed, their partitions folded, what only the local disk has is put again, and the
//! next epochs begin (DESIGN §3, §4, I4).
//!
//! Every step may be repeated after a crash: what is done is found in the journal.

use firn_coordinator::Coordinator;
use firn_proto::cluster::{
    Assigned, PartitionEnd, PartitionFold, RegisteredBroker, Reply, Request, StreamToSeal,
};
use firn_proto::ids::Slot;
use firn_storage::bucket::Bucket;
use firn_storage::state::StateRow;
use firn_storage::stream::{SealSpec, StreamEnv, StreamName, seal};
use futures::{StreamExt, TryStreamExt};

use crate::error::FirnError;

/// What recovery works with.
pub(super) struct Recovery<'a> {
    pub(super) bucket: &'a Bucket,
    pub(super) coordinator: &'a Coordinator,
    pub(super) registered: &'a RegisteredBroker,
    pub(super) env: &'a StreamEnv,
}

/// A partition whose last epoch has ended.
pub(super) struct Folded {
    /// The state at its end.
    pub(super) row: StateRow,
    /// What ends, by name.
    pub(super) end: PartitionEnd,
}

impl Recovery<'_> {
    /// Seals the streams of processes that have ended and tells the journal where they end.
    pub(super) async fn seal_ended(&self) -> Result<(), FirnError> {
        futures::stream::iter(&self.registered.seals)
            .map(|ended| self.seal_one(ended))
            .buffer_unordered(SEALS_AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(())
    }

    /// Learns where every partition of a sealed stream ended.
    pub(super) async fn fold_ended(&self) -> Result<Vec<Folded>, FirnError> {
        let reply = call(self.coordinator, Request::PendingRecovery).await?;
        let Reply::PendingRecovery { folds, .. } = reply else {
            return Err(unexpected("PendingRecovery"));
        };
        if folds.is_empty() {
            return Ok(Vec::new());
        }
        tracing::info!(partitions = folds.len(), "folding partitions of ended processes");
        self.fold(folds).await
    }

    /// Begins the next epoch of `folded` with this broker as owner. The rows are those to start
    /// it from; partitions that have gone meanwhile are left out.
    pub(super) async fn begin_epochs(&self, folded: Vec<Folded>) -> Result<Vec<StateRow>, FirnError> {
        let mut rows = Vec::with_capacity(folded.len());
        for some in chunks(folded) {
            let ended = some.iter().map(|folded| folded.end).collect();
            let to = Some(self.registered.broker);
            let reply = call(self.coordinator, Request::AssignPartitions { ended, to }).await?;
            let Reply::Assigned(results) = reply else {
                return Err(unexpected("AssignPartitions"));
            };
            for (folded, result) in some.into_iter().zip(results) {
                match result {
                    Ok(assigned) => rows.push(begun(folded.row, &assigned)),
                    Err(error) => {
                        tracing::warn!(partition = %folded.end.tp, %error, "partition not taken over");
                    }
                }
            }
        }
        Ok(rows)
    }

    async fn seal_one(&self, ended: &StreamToSeal) -> Result<(), FirnError> {
        let stream = StreamName::wal(self.registered.cluster, ended.stream);
        let spec = SealSpec { stream, floor: ended.floor, from: ended.durable_end.max(ended.floor) };
        let sealed = seal(self.bucket, spec, self.env)
            .await
            .map_err(|e| FirnError::failed("cannot take over from the last process", e))?;
        tracing::info!(stream = %stream, end = sealed.end.0, "sealed the stream of an ended process");
        self.report_sealed(ended, sealed.end).await
    }

    async fn report_sealed(&self, ended: &StreamToSeal, end: Slot) -> Result<(), FirnError> {
        let request = Request::StreamSealed { stream: ended.stream, end };
        match call(self.coordinator, request).await? {
            Reply::Stream(Ok(())) => Ok(()),
            Reply::Stream(Err(error)) => {
                Err(FirnError::failed("the journal contradicts the bucket", error))
            }
            _ => Err(unexpected("StreamSealed")),
        }
    }
}

/// The state with which the next epoch begins.
fn begun(mut row: StateRow, assigned: &Assigned) -> StateRow {
    assert_eq!(
        row.end_offset, assigned.start_offset,
        "I4: epoch {} of {} must begin where the last one ended",
        assigned.epoch, assigned.tp
    );
    row.begin_epoch(assigned.epoch);
    row
}

/// Asks the coordinator; an answer that does not come is the end of a start.
pub(super) async fn call(coordinator: &Coordinator, request: Request) -> Result<Reply, FirnError> {
    coordinator
        .call(request)
        .await
        .map_err(|e| FirnError::failed("the coordinator does not answer", e))
}

/// The coordinator answered another question.
pub(super) fn unexpected(request: &str) -> FirnError {
    FirnError::failed(format!("{request} has the wrong reply"), "this is a bug; please report it")
}

/// Cuts a list into requests that the journal can take one at a time.
pub(super) fn chunks<T>(list: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let mut rest = list.into_iter();
    std::iter::from_fn(move || {
        let chunk: Vec<T> = rest.by_ref().take(PARTITIONS_PER_REQUEST).collect();
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// Streams that are sealed at the same time.
const SEALS_AT_ONCE: usize = 8;
/// Partitions that one request names.
const PARTITIONS_PER_REQUEST: usize = 2_000;
