//! One attempt of each request that is not a create: with its own time, and with an answer that was
//! checked for its length. What to do about a failure is decided in `mod.rs`.

use std::ops::Range;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, poll};
use object_store::path::Path;
use object_store::{Error as StoreError, GetOptions, GetRange};

use super::error::{Effect, StoreFailure, UnclearKind};
use super::{Bucket, BucketKind, ListedObject, lock};
use crate::layout::Key;

impl Bucket {
    pub(super) async fn get_once(
        &self,
        path: &Path,
        range: Option<Range<u64>>,
    ) -> Result<Bytes, StoreError> {
        // A directory reads the range before it answers, so that the answer takes its time.
        let read_at_once = match (self.0.kind, &range) {
            (BucketKind::File, Some(range)) => range.end.saturating_sub(range.start),
            _ => 0,
        };
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let opened = self.0.store.get_opts(path, options);
        let answer = self.timed_beside(read_at_once, 0, opened).await?;
        let expected = answer.range.end - answer.range.start;
        let mut body = pin!(answer.bytes());
        let bytes = match poll!(body.as_mut()) {
            // They came with the answer: that says nothing about the rate.
            Poll::Ready(bytes) => bytes?,
            Poll::Pending => self.timed(expected, body).await?,
        };
        if bytes.len() as u64 == expected {
            return Ok(bytes);
        }
        Err(broken(format!(
            "the body has {} bytes, not {expected}",
            bytes.len()
        )))
    }

    pub(super) async fn head_once(&self, path: &Path) -> Result<u64, StoreError> {
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        Ok(self
            .timed(0, self.0.store.get_opts(path, options))
            .await?
            .meta
            .size)
    }

    /// Adds to `found` what a list gives after the last object found so far.
    pub(super) async fn list_once(
        &self,
        prefix: &Key,
        start_after: Option<&Key>,
        limit: usize,
        found: &mut Vec<ListedObject>,
    ) -> Result<(), StoreError> {
        let folder = self.path(prefix);
        let after = found.last().map(|o: &ListedObject| &o.key).or(start_after);
        let mut objects = match after {
            Some(after) => self
                .0
                .store
                .list_with_offset(Some(&folder), &self.path(after)),
            None => self.0.store.list(Some(&folder)),
        };
        while found.len() < limit {
            let Some(object) = self.timed(0, objects.try_next()).await? else {
                break;
            };
            if let Some(key) = self.key(&object.location) {
                found.push(ListedObject {
                    key,
                    size: object.size,
                });
            }
        }
        Ok(())
    }

    pub(super) async fn delete_once(&self, keys: &[Key]) -> Result<(), StoreError> {
        let paths: Vec<_> = keys.iter().map(|key| Ok(self.path(key))).collect();
        let mut deleted = self
            .0
            .store
            .delete_stream(futures::stream::iter(paths).boxed());
        loop {
            match self.timed(0, deleted.try_next()).await {
                Ok(Some(_)) | Err(StoreError::NotFound { .. }) => {}
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives a request that moves `bytes` the time it needs as far as is known, and learns from it.
    async fn timed<T>(
        &self,
        bytes: u64,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.timed_beside(0, bytes, request).await
    }

    /// [`Self::timed`] for a request that may take the time of `beside` more bytes, how fast these
    /// move being nothing to learn.
    async fn timed_beside<T>(
        &self,
        beside: u64,
        bytes: u64,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let timeout = lock(&self.0.download).timeout(beside.saturating_add(bytes));
        let started = self.0.clock.mono();
        let answer = tokio::time::timeout(timeout, request).await;
        let mut timer = lock(&self.0.download);
        match answer {
            Ok(Ok(answer)) => {
                timer.on_success(bytes, self.0.clock.mono().since(started));
                Ok(answer)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                timer.on_timeout(bytes, timeout);
                let waited = timeout.as_millis();
                Err(broken(format!("no answer within {waited} ms")))
            }
        }
    }
}

fn broken(detail: String) -> StoreError {
    StoreFailure {
        effect: Effect::Unknown(UnclearKind::Timeout),
        detail,
    }
    .into_error("bucket")
}
