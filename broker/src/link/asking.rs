//! What is asked over one link, and who waits for which answer: many at a time, answered in any order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use firn_proto::limits::LINK_QUEUE_BYTES_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::figures::PeerFigures;
use super::outbox::Calls;
use super::wire::{LinkFault, Sender};

/// What callers and the tasks of a link share. `A` is an answer.
pub(super) struct Asking<A> {
    /// What goes out.
    pub(super) sender: Sender,
    places: Arc<Semaphore>,
    calls: Mutex<Waiting<A>>,
}

struct Waiting<A> {
    next: u64,
    callers: BTreeMap<u64, Caller<A>>,
    /// Why there will be no more answers.
    broken: Option<LinkFault>,
}

struct Caller<A> {
    answer: oneshot::Sender<Result<A, LinkFault>>,
    _place: Place,
}

/// The right to ask once.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl<A> Asking<A> {
    /// Nothing is asked yet; `at_once` may be at a time.
    pub(super) fn new(calls: Calls, at_once: usize, figures: Arc<PeerFigures>) -> Self {
        Self {
            sender: Sender::new(calls, figures),
            places: Arc::new(Semaphore::new(at_once)),
            calls: Mutex::new(Waiting {
                next: 0,
                callers: BTreeMap::new(),
                broken: None,
            }),
        }
    }

    /// Waits until one more may ask.
    pub(super) async fn place(&self) -> Result<Place, LinkFault> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        match place {
            Ok(_permit) => Ok(Place { _permit }),
            Err(_) => Err(self.fault()),
        }
    }

    /// A place, if there is one at once.
    pub(super) fn place_now(&self) -> Option<Place> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.ok().map(|_permit| Place { _permit })
    }

    /// Asks, once there is room for the question, and waits for the answer.
    pub(super) async fn ask(&self, place: Place, bytes: Bytes) -> Result<A, LinkFault> {
        let (answer, answered) = oneshot::channel();
        let mut caller = Some(Caller {
            answer,
            _place: place,
        });
        loop {
            let emptied = self.sender.emptied();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.put(&bytes, &mut caller)? {
                break;
            }
            tracing::debug!(most = LINK_QUEUE_BYTES_MAX, "a link is full");
            emptied.await;
        }
        drop(bytes);
        answered.await.map_err(|_| self.fault())?
    }

    /// Lets a question go, if there is room: from then on its caller waits. A caller that gives up
    /// before leaves nothing behind.
    fn put(&self, bytes: &Bytes, caller: &mut Option<Caller<A>>) -> Result<bool, LinkFault> {
        let mut waiting = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fault) = &waiting.broken {
            return Err(fault.clone());
        }
        let call = waiting.next;
        let put = self.sender.with(|outbox| outbox.call(call, bytes.clone()));
        if put.is_err() {
            return Ok(false);
        }
        waiting.next += 1;
        waiting
            .callers
            .extend(caller.take().map(|caller| (call, caller)));
        Ok(true)
    }

    /// Hands an answer over.
    pub(super) fn answer(&self, call: u64, answer: A) -> Result<(), LinkFault> {
        let mut waiting = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let caller = waiting.callers.remove(&call);
        let caller = caller.ok_or_else(|| {
            LinkFault::Call(format!("call {call} is answered, which nobody has made"))
        })?;
        // Whoever asked may have given up.
        drop(caller.answer.send(Ok(answer)));
        Ok(())
    }

    /// The link is broken: no answer will come any more.
    pub(super) fn fail(&self, fault: &LinkFault) {
        let mut waiting = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = waiting.broken.get_or_insert_with(|| fault.clone()).clone();
        let callers = std::mem::take(&mut waiting.callers);
        drop(waiting);
        for caller in callers.into_values() {
            drop(caller.answer.send(Err(fault.clone())));
        }
        self.places.close();
        self.sender.emptied_for_good();
    }

    /// Why there are no more answers.
    pub(super) fn fault(&self) -> LinkFault {
        let waiting = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.broken.clone().unwrap_or(LinkFault::Ended)
    }

    /// Whether there are no more answers.
    pub(super) fn is_broken(&self) -> bool {
        let waiting = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.broken.is_some()
    }
}

#[cfg(test)]
mod tests {
    use firn_proto::limits::LINK_CALLS_MAX;
    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn who_gives_up_before_there_is_room_leaves_no_place_taken() {
        let asking = Asking::<()>::new(Calls::Asked, LINK_CALLS_MAX, Arc::default());
        let all = Bytes::from(vec![0; LINK_QUEUE_BYTES_MAX]);
        asking.sender.with(|outbox| outbox.call(77, all)).unwrap();
        let place = asking.place().await.unwrap();
        let mut ask = Box::pin(asking.ask(place, Bytes::from_static(b"question")));
        assert!(poll!(&mut ask).is_pending());
        assert_eq!(asking.places.available_permits(), LINK_CALLS_MAX - 1);
        drop(ask);
        assert_eq!(asking.places.available_permits(), LINK_CALLS_MAX);
    }

    #[tokio::test]
    async fn the_end_of_a_link_is_told_to_all_who_wait_and_all_who_come() {
        let asking = Arc::new(Asking::<()>::new(Calls::Looks, 2, Arc::default()));
        let place = asking.place_now().unwrap();
        let mut ask = Box::pin(asking.ask(place, Bytes::from_static(b"question")));
        assert!(poll!(&mut ask).is_pending());
        let left = asking.place_now().unwrap();
        assert!(asking.place_now().is_none(), "there is no third place");
        asking.fail(&LinkFault::Silent);
        assert!(matches!(ask.await, Err(LinkFault::Silent)));
        let late = asking.ask(left, Bytes::new()).await;
        assert!(matches!(late, Err(LinkFault::Silent)));
        assert!(matches!(
            asking.place().await.err(),
            Some(LinkFault::Silent)
        ));
        assert!(asking.is_broken());
    }
}
