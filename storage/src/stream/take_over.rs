//! Runs a [`Sealer`] against a bucket, until the stream has ended.
//!
//! May not touch: what decides the end (`seal.rs`).

use std::collections::BTreeMap;

use firn_proto::ids::Slot;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use thiserror::Error;

use super::StreamName;
use super::driver::{StreamEnv, put_answer};
use super::recover::{ReadError, read_header};
use super::seal::{SealAction, SealFault, SealSpec, Sealed, Sealer};
use super::slot::{Nonce, SlotFault};
use super::writer::{PutAnswer, ReadBack};
use crate::bucket::Bucket;
use crate::layout::Key;

/// Why a stream could not be ended.
#[derive(Debug, Error)]
pub enum SealError {
    /// A slot that its writer reported durable is not in the bucket: the store lost acknowledged
    /// data, or somebody deleted it. Nothing was sealed.
    #[error(
        "slot object {key} was reported durable and is not data now: the store lost it or \
         somebody deleted it; restore it, nothing was sealed"
    )]
    PrefixLost {
        /// The object.
        key: Key,
    },
    /// A slot is not what it must be.
    #[error("the slot object {key} is corrupt: {fault}")]
    Corrupt {
        /// The object.
        key: Key,
        /// What is wrong with it.
        fault: SlotFault,
    },
    /// The store did not answer for long; trying again is safe.
    #[error("the stream cannot be sealed, the store does not serve {key}: {reason}")]
    Unavailable {
        /// The object.
        key: Key,
        /// The last that was heard.
        reason: String,
    },
}

enum Answer {
    Put(Slot, PutAnswer),
    Read(Slot, Result<ReadBack, ReadError>),
}

/// Ends a stream and says where. May be called again, and by several processes at once: all learn
/// the same end. Dropping the future leaves the stream sealed or not; calling again tells.
///
/// # Errors
/// [`SealError`].
pub async fn seal(bucket: &Bucket, spec: SealSpec, env: &StreamEnv) -> Result<Sealed, SealError> {
    let nonce = Nonce::from_random(env.entropy.next_u128());
    let mut sealer = Sealer::new(spec, nonce);
    let mut answers: FuturesUnordered<BoxFuture<'_, Answer>> = FuturesUnordered::new();
    let mut errors = BTreeMap::new();
    loop {
        while let Some(action) = sealer.poll() {
            match action {
                SealAction::Done(outcome) => {
                    tracing::debug!(stream = %spec.stream, ?outcome, "a stream has ended");
                    return outcome.map_err(|fault| seal_error(&spec.stream, fault, &errors));
                }
                SealAction::Put { slot, object } => answers.push(
                    async move {
                        let key = spec.stream.key(slot);
                        let purpose = spec.stream.purpose();
                        let outcome = bucket.create_once(purpose, &key, vec![object]).await;
                        Answer::Put(slot, put_answer(&spec.stream, slot, outcome))
                    }
                    .boxed(),
                ),
                SealAction::Read { slot } => answers.push(
                    async move {
                        let found = read_header(bucket, &spec.stream, slot).await;
                        let found =
                            found.map(|found| found.map_or(ReadBack::Absent, ReadBack::Found));
                        Answer::Read(slot, found)
                    }
                    .boxed(),
                ),
            }
        }
        let due = sealer.next_timeout();
        let pause = due.map(|due| due.since(env.clock.mono()));
        tokio::select! {
            biased;
            Some(answer) = answers.next() => {
                let (now, luck) = (env.clock.mono(), env.entropy.next_u64());
                match answer {
                    Answer::Put(slot, answer) => sealer.on_put(slot, answer, now, luck),
                    Answer::Read(slot, found) => {
                        let found = found.unwrap_or_else(|error| {
                            let found = read_failure(&error);
                            errors.insert(slot, error);
                            found
                        });
                        sealer.on_read(slot, found, now, luck);
                    }
                }
            }
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {
                sealer.on_timeout(env.clock.mono());
            }
        }
    }
}

fn read_failure(error: &ReadError) -> ReadBack {
    match error {
        ReadError::Corrupt { .. } => ReadBack::Unreadable,
        ReadError::Missing { .. } | ReadError::Bucket(_) => ReadBack::Failed,
    }
}

fn seal_error(
    stream: &StreamName,
    fault: SealFault,
    errors: &BTreeMap<Slot, ReadError>,
) -> SealError {
    match fault {
        SealFault::PrefixLost { slot } => SealError::PrefixLost {
            key: stream.key(slot),
        },
        SealFault::Chain { slot, fault } => SealError::Corrupt {
            key: stream.key(slot),
            fault,
        },
        SealFault::Unreadable { slot } => SealError::Corrupt {
            key: stream.key(slot),
            fault: match errors.get(&slot) {
                Some(ReadError::Corrupt { fault, .. }) => fault.clone(),
                _ => SlotFault::Magic,
            },
        },
        SealFault::Unavailable { slot } => SealError::Unavailable {
            key: stream.key(slot),
            reason: errors
                .get(&slot)
                .map_or_else(|| "its puts fail".to_owned(), ToString::to_string),
        },
    }
}

#[cfg(test)]
mod tests;
