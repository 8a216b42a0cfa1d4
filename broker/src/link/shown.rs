//! What other brokers ask about the partitions that this process owns, and the answers: many at a
//! time, each when it is ready.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use firn_proto::limits::{LOOK_IDLE_MAX, LOOK_PARTITIONS_MAX, LOOKS_BYTES_MAX, LOOKS_MAX};
use firn_proto::link::{Assembly, CallPart, Looks, Message, Sights, decode_looks, encode_sights};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::wire::{LinkFault, MessageReader, Sender};

/// What this process owns.
pub trait Owning: Send + Sync + 'static {
    /// What may be read of these partitions, now or once there is as much as is wanted.
    fn look(&self, looks: Looks) -> BoxFuture<'static, Sights>;
}

/// What this process owns, once it has started that far.
pub type Owned = Arc<OnceLock<Arc<dyn Owning>>>;

/// See the module.
pub(super) struct Shown<'a> {
    owned: &'a Owned,
    sender: &'a Sender,
    asked: Assembly,
    under_way: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// Those of them whose answers are wanted still. One that is dropped here is answered at once.
    wanted: BTreeMap<u64, oneshot::Sender<()>>,
    /// Bytes of the questions under way.
    bytes: usize,
}

/// An answer that is ready.
struct Answered {
    call: u64,
    /// Bytes that the question had.
    bytes: usize,
    sights: Sights,
}

impl<'a> Shown<'a> {
    pub(super) fn new(owned: &'a Owned, sender: &'a Sender) -> Self {
        Self {
            owned,
            sender,
            asked: Assembly::default(),
            under_way: FuturesUnordered::new(),
            wanted: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// Takes in what the other side asks, from the `first` part on, and answers it, until the link
    /// breaks or is of no more use.
    pub(super) async fn run(&mut self, first: CallPart, reader: &mut MessageReader) -> LinkFault {
        let mut taken = self.ask(first);
        loop {
            if let Err(fault) = taken {
                return fault;
            }
            let message = tokio::select! {
                Some(answered) = self.under_way.next() => {
                    self.bytes -= answered.bytes;
                    self.wanted.remove(&answered.call);
                    taken = self.answer(answered.call, &answered.sights);
                    continue;
                }
                message = timeout(LOOK_IDLE_MAX, reader.next()) => message,
            };
            taken = match message {
                Ok(Ok(Message::Look(part))) => self.ask(part),
                Ok(Ok(Message::Forget(call))) => {
                    // It may have been answered meanwhile.
                    self.wanted.remove(&call);
                    Ok(())
                }
                Ok(Ok(message)) => Err(LinkFault::Unexpected(message.kind())),
                Ok(Err(fault)) => Err(fault),
                // Nothing is under way: a question waits less long.
                Err(_) => Err(LinkFault::Dropped),
            };
        }
    }

    fn ask(&mut self, part: CallPart) -> Result<(), LinkFault> {
        let Some((call, bytes)) = self.asked.take(part)? else {
            return Ok(());
        };
        if self.wanted.contains_key(&call) {
            let fault = format!("it asks question {call} again before that is answered");
            return Err(LinkFault::Call(fault));
        }
        let length = bytes.len();
        let is_crowded = self.under_way.len() >= LOOKS_MAX || length > LOOKS_BYTES_MAX - self.bytes;
        let owning = self.owned.get().filter(|_| !is_crowded);
        let Some(owning) = owning else {
            return self.answer(call, &Sights::new());
        };
        let looks = decode_looks(&bytes).map_err(|e| LinkFault::Call(e.to_string()))?;
        if looks.partitions.len() > LOOK_PARTITIONS_MAX {
            let asked = looks.partitions.len();
            let fault = format!("it asks about {asked} partitions, {LOOK_PARTITIONS_MAX} at most");
            return Err(LinkFault::Call(fault));
        }
        self.bytes += length;
        let seen = owning.look(looks);
        let (wanted, forgotten) = oneshot::channel();
        self.wanted.insert(call, wanted);
        self.under_way.push(Box::pin(async move {
            let sights = tokio::select! {
                sights = seen => sights,
                _ = forgotten => Sights::new(),
            };
            Answered {
                call,
                bytes: length,
                sights,
            }
        }));
        Ok(())
    }

    /// Lets an answer go. One for which there is no room becomes one that says nothing.
    fn answer(&self, call: u64, sights: &Sights) -> Result<(), LinkFault> {
        let nothing = || encode_sights(&Sights::new()).unwrap_or_default();
        let bytes = encode_sights(sights).unwrap_or_else(|_| nothing());
        if self.sender.with(|outbox| outbox.call(call, bytes)).is_ok() {
            return Ok(());
        }
        let put = self.sender.with(|outbox| outbox.refuse(call, nothing()));
        put.map_err(|_| LinkFault::Flooded)
    }
}
