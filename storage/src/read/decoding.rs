//! Looking into the records of batches: off the threads that serve connections, and in bounded
//! memory, however far a few bytes expand.
//!
//! Most batches decompress into a few times their length, and do so side by side. One that does not
//! is decompressed once more with all the memory there is, and thus alone.

use std::sync::Arc;

use firn_proto::limits::{
    BATCH_PLAIN_BYTES_MAX, DECODING_BYTES_FLOOR, DECODING_BYTES_MAX, DECODING_EXPANSION,
};
use firn_proto::record::{BatchView, Codec};
use thiserror::Error;
use tokio::sync::Semaphore;

/// The memory of all batches that are being decompressed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Decodings(Arc<Semaphore>);

/// The thread that looked into a batch is gone: it panicked, or the process ends.
#[derive(Clone, Copy, Debug, Error)]
#[error("the decoder has stopped")]
pub struct Stopped;

impl Default for Decodings {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(DECODING_BYTES_MAX)))
    }
}

impl Decodings {
    /// Calls `look` with the batch and the most bytes that may come out of it; again with more of
    /// them if what it finds `is_too_large`.
    ///
    /// # Errors
    /// [`Stopped`]; what `look` found is in the answer.
    pub async fn look<T, E, L>(
        &self,
        batch: &BatchView,
        look: L,
        is_too_large: impl Fn(&E) -> bool,
    ) -> Result<Result<T, E>, Stopped>
    where
        T: Send + 'static,
        E: Send + 'static,
        L: Fn(&BatchView, usize) -> Result<T, E> + Clone + Send + 'static,
    {
        let expected = expected_bytes(batch);
        let looked = self.look_within(batch, look.clone(), expected).await?;
        match &looked {
            Err(error) if expected < BATCH_PLAIN_BYTES_MAX && is_too_large(error) => {
                self.look_within(batch, look, BATCH_PLAIN_BYTES_MAX).await
            }
            _ => Ok(looked),
        }
    }

    async fn look_within<T, L>(
        &self,
        batch: &BatchView,
        look: L,
        bytes_max: usize,
    ) -> Result<T, Stopped>
    where
        T: Send + 'static,
        L: FnOnce(&BatchView, usize) -> T + Send + 'static,
    {
        let bytes = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        let memory = Arc::clone(&self.0).acquire_many_owned(bytes).await;
        let memory = memory.map_err(|_| Stopped)?;
        let batch = batch.clone();
        // The memory goes with the work, which goes on when nobody waits for it any more.
        let work = move || {
            let found = look(&batch, bytes_max);
            drop(memory);
            found
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| Stopped)
    }
}

/// What a batch may be expected to hold; the bytes of one that is not compressed are there already.
fn expected_bytes(batch: &BatchView) -> usize {
    if batch.header().attributes.codec() == Some(Codec::None) {
        return 0;
    }
    let grown = batch.bytes().len().saturating_mul(DECODING_EXPANSION);
    grown.clamp(DECODING_BYTES_FLOOR, BATCH_PLAIN_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use firn_proto::record::{BatchBuilder, DecodeError, NewRecord, first_of_max};

    use super::*;

    fn batch(codec: Codec, value_bytes: usize) -> BatchView {
        let value = vec![7; value_bytes];
        let mut builder = BatchBuilder::new(codec);
        let record = NewRecord {
            value: Some(&value),
            ..NewRecord::default()
        };
        builder.push(&record).unwrap();
        builder.build().unwrap()
    }

    async fn found(decodings: &Decodings, batch: &BatchView) -> bool {
        let looked = decodings.look(batch, first_of_max, DecodeError::is_too_large);
        looked.await.unwrap().unwrap().is_some()
    }

    #[tokio::test]
    async fn a_batch_that_expands_further_than_expected_is_decoded_all_the_same() {
        let decodings = Decodings::default();
        let batch = batch(Codec::Zstd, 8 << 20);
        assert!(expected_bytes(&batch) < 8 << 20);
        assert!(found(&decodings, &batch).await);
        assert_eq!(decodings.0.available_permits(), DECODING_BYTES_MAX);
    }

    #[tokio::test]
    async fn memory_that_is_taken_holds_up_only_what_needs_it() {
        let decodings = Decodings::default();
        let all = u32::try_from(DECODING_BYTES_MAX).unwrap();
        let taken = decodings.0.acquire_many(all).await.unwrap();
        assert!(found(&decodings, &batch(Codec::None, 1000)).await);
        let compressed = batch(Codec::Lz4, 1000);
        let mut waiting = Box::pin(found(&decodings, &compressed));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(taken);
        assert!(waiting.await);
    }
}
