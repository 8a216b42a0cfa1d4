//! Byte back-pressure: how much may be in the WAL and not durable, and who waits for it.
//!
//! [`PermitQueue`] is pure: it says who is next. [`Permits`] puts it behind a short lock and wakes
//! the callers. Neither knows what the bytes are.
//!
//! Fairness is by bytes held: of all who wait, the one that holds least goes first. A producer
//! that floods the broker thus waits for its own bytes and not in front of everybody else's; the
//! one that is first waits until its request fits, so that a large request is never passed by.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// By whom bytes are shared fairly: a connection or a producer, as the caller likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FairKey(pub u64);

/// Names one request that waits.
type Ticket = u64;

/// Who holds how many bytes and who is next. Pure.
#[derive(Debug)]
pub struct PermitQueue {
    capacity: usize,
    held: usize,
    next_ticket: Ticket,
    keys: BTreeMap<FairKey, KeyState>,
    /// Keys with somebody waiting: by bytes held, then by who has waited longest.
    order: BTreeSet<(usize, Ticket, FairKey)>,
}

#[derive(Debug, Default)]
struct KeyState {
    held: usize,
    waiting: VecDeque<(Ticket, usize)>,
}

/// Answer to a request for bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Requested {
    /// The bytes are there.
    Granted,
    /// They come later, as a [`Granted`] with this ticket.
    Wait(u64),
}

/// A request that waited and now has its bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Granted {
    /// The ticket of the request.
    pub ticket: u64,
}

impl PermitQueue {
    /// `capacity` in bytes. A request for more is taken as one for all of it.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            held: 0,
            next_ticket: 0,
            keys: BTreeMap::new(),
            order: BTreeSet::new(),
        }
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held
    }

    /// What a request for `bytes` is counted as.
    pub fn charge(&self, bytes: usize) -> usize {
        bytes.min(self.capacity)
    }

    /// Asks for `bytes` on behalf of `key`. Nobody who waits is passed by.
    pub fn request(&mut self, key: FairKey, bytes: usize) -> Requested {
        let bytes = self.charge(bytes);
        if self.order.is_empty() && self.held + bytes <= self.capacity {
            self.grant(key, bytes);
            return Requested::Granted;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let state = self.keys.entry(key).or_default();
        state.waiting.push_back((ticket, bytes));
        if state.waiting.len() == 1 {
            self.order.insert((state.held, ticket, key));
        }
        Requested::Wait(ticket)
    }

    /// Gives `bytes` of `key` back and says who has got theirs now.
    pub fn release(&mut self, key: FairKey, bytes: usize) -> Vec<Granted> {
        let bytes = self.charge(bytes);
        assert!(
            bytes <= self.held,
            "more permit bytes released than were given"
        );
        self.held -= bytes;
        self.reorder(key, |state| state.held -= bytes);
        self.grant_waiting()
    }

    /// Forgets a request whose caller has gone. Returns false if it has been granted already: the
    /// caller then releases it.
    pub fn cancel(&mut self, key: FairKey, ticket: u64) -> (bool, Vec<Granted>) {
        let mut found = false;
        self.reorder(key, |state| {
            let before = state.waiting.len();
            state.waiting.retain(|(waiting, _)| *waiting != ticket);
            found = state.waiting.len() < before;
        });
        // it may have been the large one that everybody waited behind
        (found, self.grant_waiting())
    }

    fn grant(&mut self, key: FairKey, bytes: usize) {
        self.held += bytes;
        self.reorder(key, |state| state.held += bytes);
    }

    fn grant_waiting(&mut self) -> Vec<Granted> {
        let mut granted = Vec::new();
        while let Some((_, _, key)) = self.order.first().copied() {
            let Some((ticket, bytes)) = self
                .keys
                .get(&key)
                .and_then(|state| state.waiting.front().copied())
            else {
                break;
            };
            if self.held + bytes > self.capacity {
                break;
            }
            self.held += bytes;
            self.reorder(key, |state| {
                state.waiting.pop_front();
                state.held += bytes;
            });
            granted.push(Granted { ticket });
        }
        granted
    }

    /// Changes a key's state and keeps its place in `order` in step.
    fn reorder(&mut self, key: FairKey, change: impl FnOnce(&mut KeyState)) {
        let state = self.keys.entry(key).or_default();
        if let Some((ticket, _)) = state.waiting.front() {
            self.order.remove(&(state.held, *ticket, key));
        }
        change(state);
        match state.waiting.front() {
            Some((ticket, _)) => {
                self.order.insert((state.held, *ticket, key));
            }
            None if state.held == 0 => {
                self.keys.remove(&key);
            }
            None => {}
        }
    }
}

/// The permits of one WAL.
#[derive(Debug)]
pub struct Permits {
    state: Mutex<PermitState>,
}

#[derive(Debug)]
struct PermitState {
    queue: PermitQueue,
    waiters: BTreeMap<Ticket, oneshot::Sender<()>>,
    closed: bool,
}

/// Bytes in the WAL that are given back when this is dropped, which is when they are durable.
#[derive(Debug)]
pub struct WalPermit {
    permits: Arc<Permits>,
    key: FairKey,
    bytes: usize,
}

impl Permits {
    /// Permits for `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::new(PermitState {
                queue: PermitQueue::new(capacity),
                waiters: BTreeMap::new(),
                closed: false,
            }),
        }
    }

    /// Waits until `bytes` more fit. `None` once the permits are closed.
    ///
    /// Cancel safe: a caller that goes away loses its place and holds nothing.
    pub async fn reserve(self: &Arc<Self>, bytes: usize, key: FairKey) -> Option<WalPermit> {
        let (ticket, receive) = {
            let mut state = self.lock();
            if state.closed {
                return None;
            }
            match state.queue.request(key, bytes) {
                Requested::Granted => {
                    let charged = state.queue.charge(bytes);
                    return Some(self.permit(key, charged));
                }
                Requested::Wait(ticket) => {
                    let (send, receive) = oneshot::channel();
                    state.waiters.insert(ticket, send);
                    (ticket, receive)
                }
            }
        };
        let mut place = Place {
            permits: self,
            key,
            bytes,
            ticket: Some(ticket),
        };
        let answered = receive.await;
        place.ticket = None;
        let charged = self.lock().queue.charge(bytes);
        answered.is_ok().then(|| self.permit(key, charged))
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.lock().queue.held()
    }

    /// Turns everybody away who waits and everybody who comes.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiters.clear();
    }

    fn permit(self: &Arc<Self>, key: FairKey, bytes: usize) -> WalPermit {
        WalPermit {
            permits: Arc::clone(self),
            key,
            bytes,
        }
    }

    fn release(&self, key: FairKey, bytes: usize) {
        let mut state = self.lock();
        let granted = state.queue.release(key, bytes);
        state.wake(granted);
    }

    fn leave(&self, key: FairKey, bytes: usize, ticket: Ticket) {
        let mut state = self.lock();
        state.waiters.remove(&ticket);
        let (was_waiting, granted) = state.queue.cancel(key, ticket);
        state.wake(granted);
        if !was_waiting {
            let granted = state.queue.release(key, bytes);
            state.wake(granted);
        }
    }

    fn lock(&self) -> MutexGuard<'_, PermitState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PermitState {
    fn wake(&mut self, granted: Vec<Granted>) {
        for Granted { ticket } in granted {
            if let Some(waiter) = self.waiters.remove(&ticket) {
                // a caller that has just gone gives the bytes back itself, in `Place::drop`
                let _ = waiter.send(());
            }
        }
    }
}

/// The place of a caller that waits: left when the caller is dropped.
struct Place<'a> {
    permits: &'a Permits,
    key: FairKey,
    bytes: usize,
    ticket: Option<Ticket>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.permits.leave(self.key, self.bytes, ticket);
        }
    }
}

impl WalPermit {
    /// The bytes it stands for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back what the batch did not need: a request is reserved whole before its batches are
    /// taken apart.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let part = bytes.min(self.bytes);
        self.bytes -= part;
        self.permits.permit(self.key, part)
    }
}

impl Drop for WalPermit {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.permits.release(self.key, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests;
