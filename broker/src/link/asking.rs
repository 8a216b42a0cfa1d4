//! What is asked over one link, and who waits for which answer: many at a time, answered in any order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use firn_proto::limits::{LINK_QUEUE_BYTES_MAX, LOOKS_SILENT_MAX};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

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
    /// How many questions in a row were not answered in time, each asked after the one before was given
    /// up for that.
    silences: u32,
    /// Questions from this one on were asked after the last of those.
    asked_since: u64,
    /// Why there will be no more answers.
    broken: Option<LinkFault>,
}

struct Caller<A> {
    answer: oneshot::Sender<Result<A, LinkFault>>,
    _place: Place,
}

/// What a call will be answered with.
type Answered<A> = oneshot::Receiver<Result<A, LinkFault>>;

/// The right to ask once.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

/// A question that is forgotten when this is dropped, unless it is answered.
struct Wanted<'a, A> {
    asking: &'a Asking<A>,
    /// Once it is asked.
    call: Option<u64>,
}

impl<A> Drop for Wanted<'_, A> {
    fn drop(&mut self) {
        if let Some(call) = self.call {
            self.asking.forget(call);
        }
    }
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
                silences: 0,
                asked_since: 0,
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

    /// A place, if there is one at once besides `others`. Of those who come in the same instant one or
    /// another may take one of these.
    pub(super) fn place_besides(&self, others: usize) -> Option<Place> {
        if self.places.available_permits() <= others {
            return None;
        }
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.ok().map(|_permit| Place { _permit })
    }

    /// Asks, once there is room for the question, and waits for the answer.
    pub(super) async fn ask(&self, place: Place, bytes: Bytes) -> Result<A, LinkFault> {
        let (_, answered) = self.put_soon(place, bytes).await?;
        answered.await.map_err(|_| self.fault())?
    }

    /// [`Self::ask`] for so long: [`LinkFault::Silent`] then, which fails this question alone unless
    /// nothing is answered here. If this is dropped, or is not answered in time, the other side is told
    /// to answer at once; until it has, the place is taken.
    pub(super) async fn ask_for(
        &self,
        patience: Duration,
        place: Place,
        bytes: Bytes,
    ) -> Result<A, LinkFault> {
        let mut wanted = Wanted {
            asking: self,
            call: None,
        };
        let answered = timeout(patience, async {
            let (call, answered) = self.put_soon(place, bytes).await?;
            wanted.call = Some(call);
            answered.await.map_err(|_| self.fault())?
        });
        let answered = answered.await;
        answered.unwrap_or_else(|_| {
            if let Some(call) = wanted.call {
                self.on_silent(call);
            }
            Err(LinkFault::Silent)
        })
    }

    /// Lets a question go once there is room for it.
    async fn put_soon(&self, place: Place, bytes: Bytes) -> Result<(u64, Answered<A>), LinkFault> {
        let (answer, answered) = oneshot::channel();
        let mut caller = Some(Caller {
            answer,
            _place: place,
        });
        loop {
            let emptied = self.sender.emptied();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if let Some(call) = self.put(&bytes, &mut caller)? {
                return Ok((call, answered));
            }
            tracing::debug!(most = LINK_QUEUE_BYTES_MAX, "a link is full");
            emptied.await;
        }
    }

    /// Lets a question go, if there is room: from then on its caller waits. A caller that gives up
    /// before leaves nothing behind.
    fn put(&self, bytes: &Bytes, caller: &mut Option<Caller<A>>) -> Result<Option<u64>, LinkFault> {
        let mut waiting = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fault) = &waiting.broken {
            return Err(fault.clone());
        }
        let call = waiting.next;
        let put = self.sender.with(|outbox| outbox.call(call, bytes.clone()));
        if put.is_err() {
            return Ok(None);
        }
        waiting.next += 1;
        waiting
            .callers
            .extend(caller.take().map(|caller| (call, caller)));
        Ok(Some(call))
    }

    /// Nobody wants this answer any more. What has not gone is taken back; what has is answered soon,
    /// and counts as under way until then, as it does at the other side.
    fn forget(&self, call: u64) {
        let mut waiting = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.callers.contains_key(&call) && self.sender.forget(call) {
            waiting.callers.remove(&call);
        }
    }

    /// A question was not answered in time. Many that were asked side by side say no more than one.
    fn on_silent(&self, call: u64) {
        let mut waiting = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if call < waiting.asked_since {
            return;
        }
        waiting.asked_since = waiting.next;
        waiting.silences += 1;
        let is_gone = waiting.silences >= LOOKS_SILENT_MAX;
        drop(waiting);
        if is_gone {
            self.fail(&LinkFault::Silent);
        }
    }

    /// Hands an answer over.
    pub(super) fn answer(&self, call: u64, answer: A) -> Result<(), LinkFault> {
        let mut waiting = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let caller = waiting.callers.remove(&call);
        let caller = caller.ok_or_else(|| {
            LinkFault::Call(format!("call {call} is answered, which nobody has made"))
        })?;
        waiting.silences = 0;
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
    use firn_proto::limits::{LINK_CALLS_MAX, LOOKS_MAX};
    use firn_proto::link::Message;
    use futures::poll;

    use super::*;
    use crate::link::outbox::Outbox;

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
    async fn the_place_of_who_gives_up_is_free_once_the_question_is_answered_or_taken_back() {
        let asking = Asking::<()>::new(Calls::Looks, 2, Arc::default());
        let ask = || {
            let place = asking.place_besides(0).unwrap();
            Box::pin(asking.ask_for(Duration::from_secs(9), place, Bytes::from_static(b"q")))
        };
        let (mut gone, mut waits) = (ask(), ask());
        assert!(poll!(&mut gone).is_pending());
        let sent = asking.sender.with(Outbox::next);
        assert!(matches!(sent, Some(Message::Look(part)) if part.call == 0));
        assert!(poll!(&mut waits).is_pending());
        drop((gone, waits));
        assert_eq!(
            asking.places.available_permits(),
            1,
            "of the one that waited"
        );
        let told = asking.sender.with(Outbox::next);
        assert_eq!(told, Some(Message::Forget(0)));
        assert_eq!(asking.sender.with(Outbox::next), None);
        asking.answer(0, ()).unwrap();
        assert_eq!(asking.places.available_permits(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_is_given_up_after_several_silent_questions_and_not_after_many_at_once() {
        let asking = Asking::<()>::new(Calls::Looks, LOOKS_MAX, Arc::default());
        let ask = || async {
            let place = asking.place_besides(0).unwrap();
            let go = async { while asking.sender.with(Outbox::next).is_some() {} };
            let asked = asking.ask_for(Duration::from_secs(1), place, Bytes::from_static(b"q"));
            futures::future::join(asked, go).await.0
        };
        let silent = |asked: &Result<(), LinkFault>| matches!(asked, Err(LinkFault::Silent));
        let at_once = futures::future::join_all((0..100).map(|_| ask())).await;
        assert!(at_once.iter().all(silent));
        for _ in 2..LOOKS_SILENT_MAX {
            assert!(silent(&ask().await) && !asking.is_broken());
        }
        // The other side has heard that it may answer with nothing.
        asking.answer(0, ()).unwrap();
        for _ in 1..LOOKS_SILENT_MAX {
            assert!(silent(&ask().await) && !asking.is_broken());
        }
        assert!(silent(&ask().await) && asking.is_broken());
    }

    #[tokio::test]
    async fn the_end_of_a_link_is_told_to_all_who_wait_and_all_who_come() {
        let asking = Arc::new(Asking::<()>::new(Calls::Looks, 2, Arc::default()));
        let place = asking.place_besides(0).unwrap();
        let mut ask = Box::pin(asking.ask(place, Bytes::from_static(b"question")));
        assert!(poll!(&mut ask).is_pending());
        assert!(
            asking.place_besides(1).is_none(),
            "the last one is for others"
        );
        let left = asking.place_besides(0).unwrap();
        assert!(asking.place_besides(0).is_none(), "there is no third place");
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
