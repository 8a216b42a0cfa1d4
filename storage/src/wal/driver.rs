//! The task behind the front: closes slots when the policy says so, submits them to the stream,
//! and tells the sink what is durable.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use firn_proto::ids::{Slot, SlotPosition};
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::oneshot;

use super::buffer::ClosedSlot;
use super::error::WalError;
use super::front::{CheckpointAt, Held, PendingCheckpoint, Shared};
use super::low_water::LowWater;
use super::sink::DurableSlot;
use super::slab::body_of;
use crate::bucket::Bucket;
use crate::checkpoint::{self, CheckpointPutError};
use crate::state::{ProducerBatch, Run};
use crate::stream::{
    CheckpointRef, SlotBody, StreamEnv, StreamError, StreamEvent, StreamEvents, StreamHandle,
    WalIndex,
};

pub(super) struct Driver {
    shared: Arc<Shared>,
    bucket: Bucket,
    handle: StreamHandle,
    events: StreamEvents,
    env: StreamEnv,
    submitted: Submitted,
    next_slot: Slot,
    checkpoint: Checkpointing,
    /// That one goes without put tokens.
    hurries: bool,
}

/// The slots that are submitted and not durable, oldest first.
struct Submitted {
    shared: Arc<Shared>,
    in_flight: VecDeque<InFlight>,
    low_water: LowWater,
}

/// The one checkpoint that is on its way into a slot.
enum Checkpointing {
    None,
    /// Its object is being put.
    Put(
        BoxFuture<'static, PutOutcome>,
        oneshot::Sender<CheckpointAt>,
    ),
    /// It goes into the next slot.
    Ready(CheckpointRef, oneshot::Sender<CheckpointAt>),
}

type PutOutcome = Result<CheckpointRef, CheckpointPutError>;

/// A slot that is submitted and not durable.
struct InFlight {
    slot: Slot,
    runs: Vec<Run>,
    producers: Vec<ProducerBatch>,
    entries: Vec<super::entry::WalEntry>,
    held: Vec<Held>,
    checkpoint: Option<(Option<Slot>, oneshot::Sender<CheckpointAt>)>,
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        bucket: Bucket,
        handle: StreamHandle,
        events: StreamEvents,
        env: StreamEnv,
        first_sequence: u64,
    ) -> Self {
        let submitted = Submitted {
            shared: Arc::clone(&shared),
            in_flight: VecDeque::new(),
            low_water: LowWater::new(first_sequence),
        };
        Self {
            shared,
            bucket,
            handle,
            events,
            env,
            submitted,
            next_slot: Slot(0),
            checkpoint: Checkpointing::None,
            hurries: false,
        }
    }

    pub(super) async fn run(mut self, local: Option<JoinHandle<()>>) {
        let _guard = EndGuard(Arc::clone(&self.shared));
        let shared = Arc::clone(&self.shared);
        let outcome = loop {
            if let Err(error) = self.put_slots().await {
                break Err(error);
            }
            if self.is_drained() {
                break Ok(());
            }
            let pause = self.pause();
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(StreamEvent::Durable { slot, size, took }) => {
                        self.submitted.on_durable(slot, size, took);
                    }
                    Some(StreamEvent::Fenced { at, .. }) => break Err(WalError::Fenced { at }),
                    None => break Err(WalError::Closed),
                },
                () = shared.wake.notified() => {}
                outcome = checkpoint_object(&mut self.checkpoint) => self.on_checkpoint_put(outcome),
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        };
        self.finish(outcome, local).await;
    }

    /// Closes and submits slots for as long as the policy lets them go.
    async fn put_slots(&mut self) -> Result<(), WalError> {
        loop {
            let now = self.env.clock.mono();
            let closed = {
                let mut state = self.shared.lock();
                if matches!(self.checkpoint, Checkpointing::None)
                    && let Some(pending) = state.checkpoints.pop_front()
                {
                    self.hurries = pending.at_once;
                    self.checkpoint = self.begin_checkpoint(pending);
                }
                let is_ready = matches!(self.checkpoint, Checkpointing::Ready(..));
                if is_ready {
                    state.buffer.want_slot();
                }
                let mut waiting = state.checkpoints.iter();
                let hurries = self.hurries || waiting.any(|pending| pending.at_once);
                if state.closing || (is_ready && hurries) {
                    state.buffer.force();
                }
                state.buffer.close_slot(now)
            };
            let Some(closed) = closed else {
                return Ok(());
            };
            self.submit(closed).await?;
        }
    }

    async fn submit(&mut self, closed: ClosedSlot<Held>) -> Result<(), WalError> {
        let ClosedSlot {
            runs,
            producers,
            mut entries,
            held,
            ..
        } = closed;
        let body = body_of(&mut entries);
        let mut done = None;
        let mut index = WalIndex {
            runs,
            producers,
            checkpoint: CheckpointRef::None,
        };
        self.checkpoint = match std::mem::replace(&mut self.checkpoint, Checkpointing::None) {
            Checkpointing::Ready(checkpoint, reply) => {
                let object = match &checkpoint {
                    CheckpointRef::Object { slot, .. } => Some(*slot),
                    CheckpointRef::Inline(_) | CheckpointRef::None => None,
                };
                index.checkpoint = checkpoint;
                done = Some((object, reply));
                Checkpointing::None
            }
            other => other,
        };
        let rows = index.place()?;
        let slot = self
            .handle
            .submit(SlotBody::new(rows, body))
            .await
            .map_err(|error| match error {
                StreamError::Fenced { at, .. } => WalError::Fenced { at },
                StreamError::Closed => WalError::Closed,
            })?;
        assert_eq!(slot, self.next_slot, "I1: slots are taken in order");
        self.next_slot = slot.next();
        self.submitted.in_flight.push_back(InFlight {
            slot,
            runs: index.runs,
            producers: index.producers,
            entries,
            held,
            checkpoint: done,
        });
        Ok(())
    }

    fn begin_checkpoint(&self, pending: PendingCheckpoint) -> Checkpointing {
        let PendingCheckpoint {
            rows,
            as_object,
            done,
            ..
        } = pending;
        if rows.len() <= checkpoint::INLINE_MAX && !as_object {
            return Checkpointing::Ready(CheckpointRef::Inline(rows), done);
        }
        // no slot names an object of this key yet: the one before is durable in a lower slot
        let (bucket, env) = (self.bucket.clone(), self.env.clone());
        let (stream, slot) = (self.shared.name.stream, self.next_slot);
        let put = async move { checkpoint::put_object(&bucket, stream, slot, rows, &env).await };
        Checkpointing::Put(put.boxed(), done)
    }

    fn on_checkpoint_put(&mut self, outcome: PutOutcome) {
        let before = std::mem::replace(&mut self.checkpoint, Checkpointing::None);
        self.checkpoint = match (before, outcome) {
            (Checkpointing::Put(_, done), Ok(object)) => Checkpointing::Ready(object, done),
            (Checkpointing::Put(..), Err(error)) => {
                // whoever waits for it is told that it failed, and the old state rows still hold
                tracing::error!(%error, "a checkpoint is given up");
                Checkpointing::None
            }
            (other, _) => other,
        };
    }

    fn pause(&self) -> Option<Duration> {
        let now = self.env.clock.mono();
        let due = self.shared.lock().buffer.next_timeout(now)?;
        Some(due.since(now))
    }

    fn is_drained(&self) -> bool {
        let state = self.shared.lock();
        state.closing
            && state.buffer.is_empty()
            && state.checkpoints.is_empty()
            && self.submitted.in_flight.is_empty()
            && matches!(self.checkpoint, Checkpointing::None)
    }

    async fn finish(self, outcome: Result<(), WalError>, local: Option<JoinHandle<()>>) {
        let Self {
            shared,
            handle,
            mut events,
            mut submitted,
            checkpoint,
            ..
        } = self;
        if let Err(error) = &outcome {
            // first of all: the stream may take as long as the bucket does to end
            shared.refuse(error);
        }
        let closed = handle.close().await;
        // what had become durable before the end is durable, and whoever waits for it is told
        while let Some(event) = events.recv().await {
            if let StreamEvent::Durable { slot, size, took } = event {
                submitted.on_durable(slot, size, took);
            }
        }
        let outcome = match (outcome, closed) {
            (Ok(()), Err(StreamError::Fenced { at, .. })) => Err(WalError::Fenced { at }),
            (outcome, _) => outcome,
        };
        if let Err(error) = &outcome {
            shared.turn_away(error);
        }
        drop(submitted);
        drop(checkpoint);
        match &outcome {
            Err(WalError::Fenced { at }) => shared.sink.on_fenced(*at),
            Err(error) => tracing::error!(%error, stream = %shared.name, "the wal ended"),
            Ok(()) => {}
        }
        if let Some(queue) = &shared.local {
            if outcome.is_ok() {
                // all of it is durable: the directory is left empty
                queue.release(u64::MAX);
            }
            queue.close();
        }
        if let Some(thread) = local {
            // it writes what it has and ends
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        shared
            .progress
            .send_modify(|progress| progress.finished = true);
    }
}

impl Submitted {
    fn on_durable(&mut self, slot: Slot, size: u64, took: Duration) {
        let Some(first) = self.in_flight.pop_front() else {
            return;
        };
        assert_eq!(first.slot, slot, "I2: slots become durable in order");
        let at = SlotPosition {
            stream: self.shared.name.stream,
            slot,
        };
        self.shared.put.record(took);
        // before the sink is told: the state rows it may take now are after this slot
        self.shared.progress.send_modify(|progress| {
            progress.durable_end = slot.next();
            progress.durable_bytes += size;
        });
        self.shared.sink.on_durable(DurableSlot {
            at,
            size,
            took,
            runs: first.runs,
            producers: first.producers,
            entries: first.entries,
        });
        for held in &first.held {
            self.low_water.mark(held.sequence);
        }
        let low = self.low_water.low();
        if let Some(local) = &self.shared.local {
            local.release(low);
        }
        // lets producers in again
        drop(first.held);
        self.shared.lock().buffer.on_slot_done();
        self.shared
            .progress
            .send_modify(|progress| progress.low = low);
        if let Some((object, done)) = first.checkpoint {
            // a caller that has gone does not need the answer
            let _ = done.send(CheckpointAt { slot: at, object });
        }
    }
}

/// Tells those who wait if the task ends by a panic.
struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        if !self.0.progress.borrow().finished {
            self.0.turn_away(&WalError::TaskFailed);
            if let Some(queue) = &self.0.local {
                // its thread holds the lock of the directory
                queue.close();
            }
            self.0
                .progress
                .send_modify(|progress| progress.finished = true);
        }
    }
}

/// The object of the checkpoint that is being put, when it is; never if none is.
async fn checkpoint_object(checkpoint: &mut Checkpointing) -> PutOutcome {
    match checkpoint {
        Checkpointing::Put(put, _) => put.await,
        _ => std::future::pending().await,
    }
}
