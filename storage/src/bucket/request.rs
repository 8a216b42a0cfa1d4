//! One attempt of each request that is not a create: with its own time, and with an answer that was
//! checked for its length. What to do about a failure is decided in `mod.rs`.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error as StoreError, GetOptions, GetRange};

use super::error::{Effect, StoreFailure, UnclearKind};
use super::{Bucket, ListedObject, lock};
use crate::layout::Key;

impl Bucket {
    pub(super) async fn get_once(
        &self,
        path: &Path,
        range: Option<Range<u64>>,
    ) -> Result<Bytes, StoreError> {
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let base = lock(&self.0.download).timeout(0);
        let answer = within(base, self.0.store.get_opts(path, options)).await?;
        let expected = answer.range.end - answer.range.start;
        let timeout = lock(&self.0.download).timeout(expected);
        let started = self.0.clock.mono();
        let body = within(timeout, answer.bytes()).await;
        match body {
            Ok(bytes) if bytes.len() as u64 == expected => {
                let took = self.0.clock.mono().since(started);
                lock(&self.0.download).on_success(expected, took);
                Ok(bytes)
            }
            Ok(bytes) => Err(broken(format!(
                "the body has {} bytes, not {expected}",
                bytes.len()
            ))),
            Err(error) => {
                if self.0.clock.mono().since(started) >= timeout {
                    lock(&self.0.download).on_timeout(expected, timeout);
                }
                Err(error)
            }
        }
    }

    pub(super) async fn head_once(&self, path: &Path) -> Result<u64, StoreError> {
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        let base = lock(&self.0.download).timeout(0);
        Ok(within(base, self.0.store.get_opts(path, options))
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
        let base = lock(&self.0.download).timeout(0);
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
            let Some(object) = within(base, objects.try_next()).await? else {
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
        let base = lock(&self.0.download).timeout(0);
        let paths: Vec<_> = keys.iter().map(|key| Ok(self.path(key))).collect();
        let mut deleted = self
            .0
            .store
            .delete_stream(futures::stream::iter(paths).boxed());
        loop {
            match within(base, deleted.try_next()).await {
                Ok(Some(_)) | Err(StoreError::NotFound { .. }) => {}
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

async fn within<T>(
    timeout: Duration,
    request: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(timeout, request).await {
        Ok(answer) => answer,
        Err(_) => Err(broken(format!(
            "no answer within {} ms",
            timeout.as_millis()
        ))),
    }
}

fn broken(detail: String) -> StoreError {
    StoreFailure {
        effect: Effect::Unknown(UnclearKind::Timeout),
        detail,
    }
    .into_error("bucket")
}
