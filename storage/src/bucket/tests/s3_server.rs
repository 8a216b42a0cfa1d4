//! An S3 server in this process: objects in a map behind one lock, so that conditions are atomic,
//! and switches for the ways in which other stores are wrong.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub(super) const KEY_ID: &str = "test-key-id";
pub(super) const SECRET: &str = "test-secret-hunter2";
/// Smaller than what tests list, so that lists have pages.
const PAGE_KEYS: usize = 3;

/// How the server treats `If-None-Match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conditions {
    /// Checked and written under one lock.
    Atomic,
    /// Never looked at.
    Ignored,
    /// Checked before the body is read, and not again.
    CheckedEarly,
    /// Checked, but every first attempt at a key is answered 409.
    ConflictFirst,
}

#[derive(Default)]
struct Objects {
    buckets: BTreeMap<String, BTreeMap<String, Bytes>>,
    conflicted: Vec<String>,
}

#[derive(Clone)]
struct Store {
    objects: Arc<Mutex<Objects>>,
    conditions: Conditions,
    rules: Option<LifecycleRules>,
}

/// A running server; stops when dropped.
pub(super) struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(super) async fn start(conditions: Conditions) -> Self {
        Self::start_with(conditions, None).await
    }

    pub(super) async fn start_with(conditions: Conditions, rules: Option<LifecycleRules>) -> Self {
        let store = Store {
            objects: Arc::default(),
            conditions,
            rules,
        };
        let mut builder = S3ServiceBuilder::new(store);
        builder.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let io = TokioIo::new(socket);
                    http1::Builder::new()
                        .serve_connection(io, service)
                        .await
                        .ok();
                });
            }
        });
        Self { address, task }
    }

    pub(super) fn url(&self, bucket: &str) -> String {
        format!("s3://{bucket}/some/prefix?endpoint=http://{}", self.address)
    }
}

fn object(input_key: &str, body: &Bytes) -> Object {
    Object {
        key: Some(input_key.to_owned()),
        size: Some(body.len() as i64),
        last_modified: Some(Timestamp::from(SystemTime::UNIX_EPOCH)),
        ..Object::default()
    }
}

impl Store {
    fn put(&self, bucket: &str, key: &str, create: bool, body: Bytes) -> S3Result<()> {
        let mut objects = self.objects.lock().unwrap();
        let first = !objects.conflicted.iter().any(|k| k == key);
        if self.conditions == Conditions::ConflictFirst && create && first {
            objects.conflicted.push(key.to_owned());
            return Err(s3_error!(ConditionalRequestConflict));
        }
        let Some(bucket) = objects.buckets.get_mut(bucket) else {
            return Err(s3_error!(NoSuchBucket));
        };
        let checked = matches!(
            self.conditions,
            Conditions::Atomic | Conditions::ConflictFirst
        );
        if checked && create && bucket.contains_key(key) {
            return Err(s3_error!(PreconditionFailed));
        }
        bucket.insert(key.to_owned(), body);
        Ok(())
    }

    fn find(&self, bucket: &str, key: &str) -> S3Result<Bytes> {
        let objects = self.objects.lock().unwrap();
        let Some(bucket) = objects.buckets.get(bucket) else {
            return Err(s3_error!(NoSuchBucket));
        };
        bucket.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }
}

type Answer<'b, T> = BoxFuture<'b, S3Result<S3Response<T>>>;

impl S3 for Store {
    fn create_bucket<'a, 'b>(
        &'a self,
        req: S3Request<CreateBucketInput>,
    ) -> Answer<'b, CreateBucketOutput>
    where
        'a: 'b,
        Self: 'b,
    {
        async move {
            self.objects
                .lock()
                .unwrap()
                .buckets
                .entry(req.input.bucket)
                .or_default();
            Ok(S3Response::new(CreateBucketOutput::default()))
        }
        .boxed()
    }

    fn head_bucket<'a, 'b>(
        &'a self,
        req: S3Request<HeadBucketInput>,
    ) -> Answer<'b, HeadBucketOutput>
    where
        'a: 'b,
        Self: 'b,
    {
        async move {
            match self
                .objects
                .lock()
                .unwrap()
                .buckets
                .contains_key(&req.input.bucket)
            {
                true => Ok(S3Response::new(HeadBucketOutput::default())),
                false => Err(s3_error!(NoSuchBucket)),
            }
        }
        .boxed()
    }

    fn get_bucket_lifecycle_configuration<'a, 'b>(
        &'a self,
        _req: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> Answer<'b, GetBucketLifecycleConfigurationOutput>
    where
        'a: 'b,
        Self: 'b,
    {
        async move {
            let Some(rules) = self.rules.clone() else {
                return Err(s3_error!(NoSuchLifecycleConfiguration));
            };
            Ok(S3Response::new(GetBucketLifecycleConfigurationOutput {
                rules: Some(rules),
                ..GetBucketLifecycleConfigurationOutput::default()
            }))
        }
        .boxed()
    }

    fn put_object<'a, 'b>(&'a self, req: S3Request<PutObjectInput>) -> Answer<'b, PutObjectOutput>
    where
        'a: 'b,
        Self: 'b,
    {
        async move {
            let input = req.input;
            let create = input.if_none_match.is_some();
            let early = self.conditions == Conditions::CheckedEarly;
            if early && create && self.find(&input.bucket, &input.key).is_ok() {
                return Err(s3_error!(PreconditionFailed));
            }
            let mut body = Vec::new();
            if let Some(mut pieces) = input.body {
                while let Some(piece) = pieces.next().await {
                    body.extend_from_slice(&piece.map_err(|_| s3_error!(IncompleteBody))?);
                }
            }
            if early {
                // What a slow disk does: others pass the check before this one writes.
                tokio::task::yield_now().await;
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            self.put(&input.bucket, &input.key, create, body.into())?;
            Ok(S3Response::new(PutObjectOutput {
                e_tag: Some(ETag::Strong("tag".to_owned())),
                ..PutObjectOutput::default()
            }))
        }
        .boxed()
    }

    fn get_object<'a, 'b>(&'a self, req: S3Request<GetObjectInput>) -> Answer<'b, GetObjectOutput>
    where
        'a: 'b,
        Self: 'b,
    {
        async move {
            let body = self.find(&req.input.bucket, &req.input.key)?;
            let size = body.len() as u64;
            let (body, content_range) = match req.input.range {
                None => (body, None),
                Some(range) => {
                    let range = range.check(size)?;
                    let shown = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                    (
                        body.slice(range.start as usize..range.end as usize),
                        Some(shown),
                    )
                }
            };
            let length = body.len() as i64;
            let stream = futures::stream::iter([Ok::<_, std::io::Error>(body)]);
            Ok(S3Response::new(GetObjectOutput {
                body: Some(StreamingBlob::wrap(stream.into_stream())),
                content_length: Some(length),
                content_range,
                e_tag: Some(ETag::Strong("tag".to_owned())),
                last_modified: Some(Timestamp::from(SystemTime::UNIX_EPOCH)),
                ..GetObjectOutput::default()
            }))
        }
        .boxed()
    }

    fn head_object<'a, 'b>(
        &'a self,
        req: S3Request<HeadObjectInput>,
    ) -> Answer<'b, HeadObjectOutput>
    where
        'a: 'b,
        Self: 'b,
    {
        async move {
            let body = self.find(&req.input.bucket, &req.input.key)?;
            Ok(S3Response::new(HeadObjectOutput {
                content_length: Some(body.len() as i64),
                e_tag: Some(ETag::Strong("tag".to_owned())),
                last_modified: Some(Timestamp::from(SystemTime::UNIX_EPOCH)),
                ..HeadObjectOutput::default()
            }))
        }
        .boxed()
    }

    fn list_objects_v2<'a, 'b>(
        &'a self,
        req: S3Request<ListObjectsV2Input>,
    ) -> Answer<'b, ListObjectsV2Output>
    where
        'a: 'b,
        Self: 'b,
    {
        async move {
            let input = req.input;
            let objects = self.objects.lock().unwrap();
            let Some(bucket) = objects.buckets.get(&input.bucket) else {
                return Err(s3_error!(NoSuchBucket));
            };
            let prefix = input.prefix.unwrap_or_default();
            let after = input
                .continuation_token
                .or(input.start_after)
                .unwrap_or_default();
            let mut found: Vec<Object> = bucket
                .iter()
                .filter(|(key, _)| key.starts_with(&prefix) && **key > after)
                .map(|(key, body)| object(key, body))
                .take(PAGE_KEYS + 1)
                .collect();
            let more = found.len() > PAGE_KEYS;
            found.truncate(PAGE_KEYS);
            let last = found.last().and_then(|o| o.key.clone());
            Ok(S3Response::new(ListObjectsV2Output {
                is_truncated: Some(more),
                next_continuation_token: last.filter(|_| more),
                key_count: Some(found.len() as i32),
                contents: Some(found),
                ..ListObjectsV2Output::default()
            }))
        }
        .boxed()
    }

    fn delete_objects<'a, 'b>(
        &'a self,
        req: S3Request<DeleteObjectsInput>,
    ) -> Answer<'b, DeleteObjectsOutput>
    where
        'a: 'b,
        Self: 'b,
    {
        async move {
            let mut objects = self.objects.lock().unwrap();
            let Some(bucket) = objects.buckets.get_mut(&req.input.bucket) else {
                return Err(s3_error!(NoSuchBucket));
            };
            let mut deleted = Vec::new();
            for object in req.input.delete.objects {
                bucket.remove(&object.key);
                deleted.push(DeletedObject {
                    key: Some(object.key),
                    ..DeletedObject::default()
                });
            }
            Ok(S3Response::new(DeleteObjectsOutput {
                deleted: Some(deleted),
                ..DeleteObjectsOutput::default()
            }))
        }
        .boxed()
    }
}
