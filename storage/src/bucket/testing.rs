//! A store that fails as told: wraps any [`ObjectStore`] and plays a script of faults, each of them
//! something that real stores do. For tests and the simulation.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetResult, GetResultPayload, ObjectMeta, ObjectStore, PutOptions,
    PutPayload, PutResult, Result,
};

use super::error::{Effect, StoreFailure, UnclearKind};
use super::unused::refuse_unused_methods;

const STORE: &str = "faults";

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Done, but the connection breaks before the answer.
    AnswerLost,
    /// Nothing done, and the connection breaks.
    RequestLost,
    /// The caller sees a broken connection now; the PUT is held back until [`FaultStore::deliver`].
    AppliedLater,
    /// Nothing done, 409: send it again.
    Conflict,
    /// Nothing done, 503 SlowDown.
    Throttled,
    /// Nothing done, 500.
    FailedBefore,
    /// Done, and still 500.
    FailedAfter,
    /// Nothing done and never an answer: the caller's timeout decides.
    Hang,
    /// Done, and never an answer.
    HangAfter,
    /// Nothing done, 403.
    Denied,
    /// Nothing done, 403: the signature is from another time.
    ClockOff,
    /// Done without looking at the condition: the store ignores `If-None-Match`.
    ConditionIgnored,
    /// A GET gives a body with one bit flipped.
    BitFlip,
    /// The same for a GET of more than so many bytes: what begins an object can be read.
    BitFlipBehind(usize),
    /// A GET gives only the first half of its body.
    Truncated,
    /// A GET or LIST does not see what is there.
    Unseen,
}

/// Which requests a fault may hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// PUT.
    Put,
    /// GET and HEAD.
    Get,
    /// LIST.
    List,
    /// DELETE.
    Delete,
}

/// One line of the script.
#[derive(Clone, Debug)]
pub struct Rule {
    on: On,
    key_part: String,
    skip: u64,
    times: u64,
    fault: Fault,
}

impl Rule {
    /// `fault` on the next request of kind `on`, once, whatever its key.
    pub fn new(on: On, fault: Fault) -> Self {
        Self {
            on,
            key_part: String::new(),
            skip: 0,
            times: 1,
            fault,
        }
    }

    /// Only keys that contain `part`.
    #[must_use]
    pub fn key(mut self, part: &str) -> Self {
        part.clone_into(&mut self.key_part);
        self
    }

    /// Lets `requests` that match pass first.
    #[must_use]
    pub fn after(mut self, requests: u64) -> Self {
        self.skip = requests;
        self
    }

    /// Hits `times` requests; `u64::MAX` is for ever.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }
}

struct Held {
    location: Path,
    payload: PutPayload,
    options: PutOptions,
}

#[derive(Default)]
struct Script {
    rules: Vec<Rule>,
    held: VecDeque<Held>,
    hits: Vec<(On, Fault, String)>,
    outage: bool,
    uplink: Option<u64>,
    downlink: Option<u64>,
}

/// A store with a script of faults. Cheap to clone; clones share the script.
#[derive(Clone)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    script: Arc<Mutex<Script>>,
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({})", self.inner)
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FaultStore {
    /// A store that does what `inner` does until told otherwise.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            script: Arc::default(),
        }
    }

    /// Over an empty store in memory.
    pub fn in_memory() -> Self {
        Self::new(Arc::new(object_store::memory::InMemory::new()))
    }

    /// Adds a line to the script. A request is hit by the first line that matches it.
    pub fn inject(&self, rule: Rule) {
        self.script().rules.push(rule);
    }

    /// From now on every request fails as if the network were gone, or works again.
    pub fn set_outage(&self, outage: bool) {
        self.script().outage = outage;
    }

    /// Lets every PUT take the time that its body needs at this many bytes a second, or none.
    pub fn set_uplink(&self, bytes_per_second: Option<u64>) {
        self.script().uplink = bytes_per_second;
    }

    /// Lets the answer to every GET take the time that its body needs at this many bytes a second,
    /// and the body come with it, or neither.
    pub fn set_downlink(&self, bytes_per_second: Option<u64>) {
        self.script().downlink = bytes_per_second;
    }

    /// Lets the oldest held-back PUT ([`Fault::AppliedLater`]) reach the store.
    ///
    /// # Errors
    /// What the store then answers (nobody else hears it); `None` if nothing was held back.
    pub async fn deliver(&self) -> Option<Result<()>> {
        let held = self.script().held.pop_front()?;
        let put = self
            .inner
            .put_opts(&held.location, held.payload, held.options);
        Some(put.await.map(drop))
    }

    /// How many PUTs are held back.
    pub fn held(&self) -> usize {
        self.script().held.len()
    }

    /// The faults that happened so far, with the keys they hit.
    pub fn hits(&self) -> Vec<(On, Fault, String)> {
        self.script().hits.clone()
    }

    /// Whether lines of the script wait for their request.
    pub fn has_rules(&self) -> bool {
        !self.script().rules.is_empty()
    }

    /// Drops what is left of the script.
    pub fn clear(&self) {
        self.script().rules.clear();
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_fault(&self, on: On, key: &str) -> Option<Fault> {
        let mut script = self.script();
        if script.outage {
            return Some(Fault::RequestLost);
        }
        let matching = |rule: &Rule| rule.on == on && key.contains(&rule.key_part);
        let index = script.rules.iter().position(matching)?;
        let rule = &mut script.rules[index];
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        let fault = rule.fault;
        rule.times -= u64::from(rule.times != u64::MAX);
        if rule.times == 0 {
            script.rules.remove(index);
        }
        script.hits.push((on, fault, key.to_owned()));
        Some(fault)
    }

    async fn put(
        self,
        location: Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let uplink = self.script().uplink;
        if let Some(bytes_per_second) = uplink {
            let millis = payload.content_length() as u64 * 1000 / bytes_per_second.max(1);
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
        let fault = self.next_fault(On::Put, location.as_ref());
        if let Some(error) = fault.and_then(|f| before(f, &location)) {
            return Err(error);
        }
        match fault {
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::AppliedLater) => {
                self.script().held.push_back(Held {
                    location,
                    payload,
                    options,
                });
                Err(failure(UnclearKind::Broken, "the connection broke"))
            }
            Some(Fault::ConditionIgnored) => {
                self.inner
                    .put_opts(&location, payload, PutOptions::default())
                    .await
            }
            _ => {
                let answer = self.inner.put_opts(&location, payload, options).await;
                after(fault).await?;
                answer
            }
        }
    }

    async fn get(self, location: Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.next_fault(On::Get, location.as_ref());
        if let Some(error) = fault.and_then(|f| before(f, &location)) {
            return Err(error);
        }
        match fault {
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Unseen) => Err(Error::NotFound {
                path: location.to_string(),
                source: "not seen".into(),
            }),
            Some(spoil @ (Fault::BitFlip | Fault::BitFlipBehind(_) | Fault::Truncated)) => {
                spoiled(self.inner.get_opts(&location, options).await?, spoil).await
            }
            _ => {
                let answer = self.inner.get_opts(&location, options).await;
                after(fault).await?;
                let downlink = self.script().downlink;
                if let (Some(bytes_per_second), Ok(answer)) = (downlink, &answer) {
                    let length = answer.range.end - answer.range.start;
                    let millis = length * 1000 / bytes_per_second.max(1);
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                }
                answer
            }
        }
    }

    fn list_from(
        &self,
        prefix: Option<&Path>,
        offset: Option<&Path>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let key = prefix.map(ToString::to_string).unwrap_or_default();
        let fault = self.next_fault(On::List, &key);
        let location = prefix.cloned().unwrap_or_default();
        let objects = match offset {
            Some(offset) => self.inner.list_with_offset(prefix, offset),
            None => self.inner.list(prefix),
        };
        async move {
            if let Some(error) = fault.and_then(|f| before(f, &location)) {
                return Err(error);
            }
            match fault {
                Some(Fault::Hang) => std::future::pending().await,
                Some(Fault::Unseen) => Ok(futures::stream::empty().boxed()),
                _ => after(fault).await.map(|()| objects),
            }
        }
        .try_flatten_stream()
        .boxed()
    }
}

/// The error of a fault that leaves nothing behind.
fn before(fault: Fault, location: &Path) -> Option<Error> {
    let path = location.to_string();
    match fault {
        Fault::RequestLost => Some(failure(UnclearKind::Broken, "the connection broke")),
        Fault::Conflict => Some(failure(
            UnclearKind::Conflict,
            "409 ConditionalRequestConflict",
        )),
        Fault::Throttled => Some(failure(UnclearKind::Throttled, "503 SlowDown")),
        Fault::FailedBefore => Some(failure(UnclearKind::Failed, "500 InternalError")),
        Fault::Denied => Some(Error::PermissionDenied {
            path,
            source: "403 AccessDenied".into(),
        }),
        Fault::ClockOff => Some(Error::PermissionDenied {
            path,
            source: "<Code>RequestTimeTooSkewed</Code><Message>too large</Message>".into(),
        }),
        _ => None,
    }
}

/// What a fault does to the answer of a request that was carried out.
async fn after(fault: Option<Fault>) -> Result<()> {
    match fault {
        Some(Fault::AnswerLost) => Err(failure(UnclearKind::Broken, "the connection broke")),
        Some(Fault::FailedAfter) => Err(failure(UnclearKind::Failed, "500 InternalError")),
        Some(Fault::HangAfter) => std::future::pending().await,
        _ => Ok(()),
    }
}

async fn spoiled(answer: GetResult, fault: Fault) -> Result<GetResult> {
    let (meta, range, attributes) = (
        answer.meta.clone(),
        answer.range.clone(),
        answer.attributes.clone(),
    );
    let mut body = answer.bytes().await?.to_vec();
    match fault {
        Fault::Truncated => body.truncate(body.len() / 2),
        Fault::BitFlipBehind(whole) if body.len() <= whole => {}
        _ => {
            let middle = body.len() / 2;
            if let Some(byte) = body.get_mut(middle) {
                *byte ^= 1;
            }
        }
    }
    let body = futures::stream::iter([Ok(Bytes::from(body))]).boxed();
    Ok(GetResult {
        payload: GetResultPayload::Stream(body),
        meta,
        range,
        attributes,
    })
}

fn failure(kind: UnclearKind, detail: &str) -> Error {
    StoreFailure {
        effect: Effect::Unknown(kind),
        detail: detail.to_owned(),
    }
    .into_error(STORE)
}

impl ObjectStore for FaultStore {
    fn put_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> BoxFuture<'c, Result<PutResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.clone().put(location.clone(), payload, opts).boxed()
    }

    fn get_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        options: GetOptions,
    ) -> BoxFuture<'c, Result<GetResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.clone().get(location.clone(), options).boxed()
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .and_then(move |location| {
                let store = store.clone();
                async move {
                    let fault = store.next_fault(On::Delete, location.as_ref());
                    if let Some(error) = fault.and_then(|f| before(f, &location)) {
                        return Err(error);
                    }
                    let one = futures::stream::iter([Ok(location.clone())]).boxed();
                    store
                        .inner
                        .delete_stream(one)
                        .try_collect::<Vec<_>>()
                        .await?;
                    after(fault).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_from(prefix, None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_from(prefix, Some(offset))
    }

    refuse_unused_methods!(STORE);
}
