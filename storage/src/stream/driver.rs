//! Runs a [`StreamWriter`] against a bucket: one task per stream that does what the machine asks
//! for and tells it the answers. Bounded by the slots in flight; every pause is tokio's.
//!
//! May not touch: which answer means what (`writer.rs`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use firn_proto::env::{Clock, Entropy};
use firn_proto::ids::Slot;
use firn_proto::limits::SLOTS_IN_FLIGHT_MAX;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use thiserror::Error;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::StreamName;
use super::recover::{ReadError, read_header};
use super::slot::{Nonce, SlotBody};
use super::writer::{Action, FencedBy, PutAnswer, ReadBack, StreamEvent, StreamSpec, StreamWriter};
use crate::bucket::{Bucket, CreateOutcome, UnclearKind};

/// What a driver takes from the world around it.
#[derive(Clone)]
pub struct StreamEnv {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Nonces and jitter.
    pub entropy: Arc<Entropy>,
}

/// Why a slot was not taken.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum StreamError {
    /// The stream has ended. Nothing at or after `at` counts; get a new stream.
    #[error("the stream is fenced at slot {at} by {by:?}: another process has taken over")]
    Fenced {
        /// The first slot that is lost.
        at: Slot,
        /// By whom.
        by: FencedBy,
    },
    /// [`StreamHandle::close`] was called, or the events are no longer received.
    #[error("the stream is closed")]
    Closed,
}

/// The right to write a stream. Dropping it abandons what is in flight (which may or may not come
/// to be durable); [`StreamHandle::close`] waits for it.
pub struct StreamHandle {
    shared: Arc<Shared>,
    task: AbortOnDrop,
}

/// Receives what becomes of the slots. A place in flight is free again once its event has been
/// received, so a slow receiver holds the writer back.
pub struct StreamEvents {
    shared: Arc<Shared>,
    events: mpsc::Receiver<StreamEvent>,
}

struct Shared {
    writer: Mutex<StreamWriter>,
    /// Places for slots that are in flight or whose event has not been received.
    room: Semaphore,
    wake: Notify,
    closing: AtomicBool,
    env: StreamEnv,
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl StreamHandle {
    /// Starts the task of a stream at the first slot of `spec`. Needs a tokio runtime.
    pub fn start(bucket: Bucket, spec: StreamSpec, env: StreamEnv) -> (Self, StreamEvents) {
        let shared = Arc::new(Shared {
            writer: Mutex::new(StreamWriter::new(spec)),
            room: Semaphore::new(SLOTS_IN_FLIGHT_MAX),
            wake: Notify::new(),
            closing: AtomicBool::new(false),
            env,
        });
        // Never full: a place in flight is given back only when its event has been received.
        let (sender, events) = mpsc::channel(SLOTS_IN_FLIGHT_MAX + 1);
        let driver = Driver {
            shared: Arc::clone(&shared),
            bucket,
            stream: spec.stream,
            events: sender,
            answers: FuturesUnordered::new(),
        };
        let task = AbortOnDrop(tokio::spawn(driver.run()));
        let events = StreamEvents {
            shared: Arc::clone(&shared),
            events,
        };
        (Self { shared, task }, events)
    }

    /// Gives `body` the next slot, as soon as one of [`SLOTS_IN_FLIGHT_MAX`] places is free, and
    /// puts it. Calls that come one after the other get slots in that order.
    ///
    /// Dropping the future before it is done takes no slot.
    ///
    /// # Errors
    /// [`StreamError`], for good: no later call succeeds.
    pub async fn submit(&self, body: SlotBody) -> Result<Slot, StreamError> {
        let Ok(place) = self.shared.room.acquire().await else {
            return Err(self.shared.why_closed());
        };
        let nonce = Nonce::from_random(self.shared.env.entropy.next_u128());
        let now = self.shared.env.clock.mono();
        let slot = self
            .shared
            .writer()
            .submit(body, nonce, now)
            .map_err(|fenced| StreamError::Fenced {
                at: fenced.at,
                by: fenced.by,
            })?;
        place.forget();
        self.shared.wake.notify_one();
        Ok(slot)
    }

    /// The end of the durable prefix: every slot below it is durable and ours.
    pub fn durable_end(&self) -> Slot {
        self.shared.writer().durable_end()
    }

    /// Waits until every slot submitted is durable, and ends the task. Takes as long as the store
    /// does; dropping the future abandons what is in flight.
    ///
    /// # Errors
    /// [`StreamError::Fenced`] if the stream ended first.
    pub async fn close(mut self) -> Result<Slot, StreamError> {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.room.close();
        self.shared.wake.notify_one();
        if let Err(error) = (&mut self.task.0).await {
            tracing::error!(%error, "the task of a stream failed");
        }
        match self.shared.why_closed() {
            StreamError::Closed => Ok(self.durable_end()),
            fenced @ StreamError::Fenced { .. } => Err(fenced),
        }
    }
}

impl StreamEvents {
    /// The next event; `None` once the stream is closed and everything has been told.
    ///
    /// Cancellation-safe.
    pub async fn recv(&mut self) -> Option<StreamEvent> {
        let event = self.events.recv().await?;
        if matches!(event, StreamEvent::Durable { .. }) {
            self.shared.room.add_permits(1);
        }
        Some(event)
    }
}

impl Drop for StreamEvents {
    fn drop(&mut self) {
        self.shared.room.close();
    }
}

impl Shared {
    fn writer(&self) -> MutexGuard<'_, StreamWriter> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn why_closed(&self) -> StreamError {
        self.writer()
            .fence()
            .map_or(StreamError::Closed, |fenced| StreamError::Fenced {
                at: fenced.at,
                by: fenced.by,
            })
    }
}

enum Answer {
    Put(Slot, PutAnswer),
    ReadBack(Slot, ReadBack),
}

struct Driver {
    shared: Arc<Shared>,
    bucket: Bucket,
    stream: StreamName,
    events: mpsc::Sender<StreamEvent>,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
}

impl Driver {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            if self.act() {
                return;
            }
            if shared.closing.load(Ordering::Acquire) && shared.writer().is_idle() {
                return;
            }
            let due = shared.writer().next_timeout();
            let pause = due.map(|due| due.since(shared.env.clock.mono()));
            tokio::select! {
                biased;
                Some(answer) = self.answers.next() => self.on_answer(answer),
                () = shared.wake.notified() => {}
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {
                    shared.writer().on_timeout(shared.env.clock.mono());
                }
            }
        }
    }

    /// Does everything that can be done now. True once the stream has ended.
    fn act(&mut self) -> bool {
        loop {
            let now = self.shared.env.clock.mono();
            let Some(action) = self.shared.writer().poll(now) else {
                return false;
            };
            match action {
                Action::Put { slot, object } => self.put(slot, object),
                Action::ReadBack { slot } => self.read_back(slot),
                Action::Tell(event) => {
                    if let StreamEvent::Fenced { at, by } = event {
                        tracing::warn!(stream = %self.stream, %at, ?by, "the stream is fenced");
                        self.shared.room.close();
                    }
                    self.tell(event);
                    if matches!(event, StreamEvent::Fenced { .. }) {
                        return true;
                    }
                }
            }
        }
    }

    fn tell(&self, event: StreamEvent) {
        // A receiver that is gone has closed the stream; the slots in flight are still resolved.
        let full = matches!(
            self.events.try_send(event),
            Err(mpsc::error::TrySendError::Full(_))
        );
        assert!(
            !full,
            "there is a place for the event of every slot in flight"
        );
    }

    fn put(&self, slot: Slot, object: Vec<Bytes>) {
        let (bucket, stream) = (self.bucket.clone(), self.stream);
        let attempt = async move {
            let key = stream.key(slot);
            let outcome = bucket.create_once(stream.purpose(), &key, object).await;
            Answer::Put(slot, put_answer(&stream, slot, outcome))
        };
        self.answers.push(attempt.boxed());
    }

    fn read_back(&self, slot: Slot) {
        let (bucket, stream) = (self.bucket.clone(), self.stream);
        let attempt = async move {
            let found = match read_header(&bucket, &stream, slot).await {
                Ok(Some(header)) => ReadBack::Found(header),
                Ok(None) => ReadBack::Absent,
                Err(error @ ReadError::Corrupt { .. }) => {
                    tracing::error!(%error, "a slot of a live stream is corrupt");
                    ReadBack::Unreadable
                }
                Err(error) => {
                    tracing::warn!(%error, "a slot could not be read back, asking again");
                    ReadBack::Failed
                }
            };
            Answer::ReadBack(slot, found)
        };
        self.answers.push(attempt.boxed());
    }

    fn on_answer(&self, answer: Answer) {
        let now = self.shared.env.clock.mono();
        let luck = self.shared.env.entropy.next_u64();
        let mut writer = self.shared.writer();
        match answer {
            Answer::Put(slot, answer) => writer.on_put(slot, answer, now, luck),
            Answer::ReadBack(slot, found) => writer.on_read_back(slot, found, now, luck),
        }
    }
}

/// What an outcome of the bucket is to the writer; says it in the log if it is a failure.
pub(super) fn put_answer(stream: &StreamName, slot: Slot, outcome: CreateOutcome) -> PutAnswer {
    match outcome {
        CreateOutcome::Created => PutAnswer::Created,
        CreateOutcome::Exists => PutAnswer::Exists,
        CreateOutcome::Unclear(unclear) => {
            tracing::info!(%stream, %slot, reason = %unclear, "a put is unclear, reading it back");
            match unclear.kind {
                UnclearKind::Conflict => PutAnswer::Exists,
                UnclearKind::Timeout | UnclearKind::Throttled => PutAnswer::Congested,
                UnclearKind::Broken | UnclearKind::Failed | UnclearKind::Other => {
                    PutAnswer::Unclear
                }
            }
        }
        CreateOutcome::Refused(error) => {
            tracing::error!(%stream, %slot, %error, "a put is refused, trying again");
            PutAnswer::Refused
        }
    }
}

#[cfg(test)]
mod tests;
