//! Asking the coordinator until it is known what it did. A call whose answer was lost may have been
//! journalled: whoever must not be behind the journal asks again, with something that may be asked
//! twice.

use firn_coordinator::Coordinator;
use firn_proto::cluster::{CoordinatorError, Reply, Request};
use firn_proto::env::Entropy;
use firn_storage::bucket::backoff;

/// Asks until there is an answer, however long the journal takes.
///
/// # Errors
/// The request can never be answered, or the coordinator has stopped, which ends the process.
pub async fn insist(
    coordinator: &Coordinator,
    entropy: &Entropy,
    request: Request,
) -> Result<Reply, CoordinatorError> {
    let mut attempt = 0;
    loop {
        match coordinator.call(request.clone()).await {
            Err(CoordinatorError::NotLeader(_) | CoordinatorError::Busy) => {}
            answer => return answer,
        }
        attempt += 1;
        tokio::time::sleep(backoff(attempt, entropy.next_u64())).await;
    }
}
