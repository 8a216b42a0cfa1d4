//! The follower's side of a link to the leader: calls go out, their answers and the leader's
//! pictures come in.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use firn_coordinator::{FromLeader, LeaderLink, PeerError};
use firn_proto::cluster::{Beat, CoordinatorError, Reply, Request};
use firn_proto::limits::{
    LINK_CALLS_MAX, LINK_MESSAGE_BYTES_MAX, LINK_QUEUE_BYTES_MAX, LINK_SILENCE_MAX,
};
use firn_proto::link::{Assembly, CallPart, Message, decode_reply, encode_request};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::figures::{Linked, PeerFigures};
use super::opening::{Opened, peer_error};
use super::outbox::Calls;
use super::wire::{LinkFault, MessageReader, Sender};

/// A link to the leader. Dropping it ends it.
pub(super) struct FollowerLink {
    shared: Arc<Shared>,
    updates: mpsc::Receiver<FromLeader>,
    _tasks: JoinSet<()>,
}

/// What callers and the two tasks of a link share.
struct Shared {
    sender: Sender,
    places: Arc<Semaphore>,
    calls: Mutex<Waiting>,
}

/// Who waits for which answer.
#[derive(Default)]
struct Waiting {
    next: u64,
    callers: BTreeMap<u64, Caller>,
    /// Why there will be no more answers.
    broken: Option<LinkFault>,
}

struct Caller {
    answer: oneshot::Sender<Result<Reply, CoordinatorError>>,
    _place: OwnedSemaphorePermit,
}

impl FollowerLink {
    /// Over a link whose other side has said that its pictures will come.
    pub(super) fn start(opened: Opened) -> Self {
        let shared = Arc::new(Shared::new(opened.linked.peer()));
        let (updates, received) = mpsc::channel(UPDATES_AHEAD);
        let mut tasks = JoinSet::new();
        tasks.spawn(run(Arc::clone(&shared), opened, updates));
        Self {
            shared,
            updates: received,
            _tasks: tasks,
        }
    }
}

impl LeaderLink for FollowerLink {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Reply, CoordinatorError>> {
        let shared = Arc::clone(&self.shared);
        async move { shared.call(request).await }.boxed()
    }

    fn beat(&self, beat: Beat) {
        let sender = &self.shared.sender;
        sender.with(|outbox| outbox.beat(Message::Beat(beat)));
    }

    fn next(&mut self) -> BoxFuture<'_, Result<FromLeader, PeerError>> {
        async {
            let update = self.updates.recv().await;
            update.ok_or_else(|| peer_error(&self.shared.fault()))
        }
        .boxed()
    }
}

impl Drop for FollowerLink {
    fn drop(&mut self) {
        self.shared.fail(&LinkFault::Dropped);
    }
}

/// Serves the link until it breaks.
async fn run(shared: Arc<Shared>, opened: Opened, updates: mpsc::Sender<FromLeader>) {
    let Opened {
        mut reader,
        mut writer,
        linked,
        figures,
    } = opened;
    let fault = tokio::select! {
        fault = shared.sender.run(&mut writer) => fault,
        fault = read(&shared, &mut reader, &linked, &updates) => fault,
    };
    if let LinkFault::Refused(refusal) = &fault {
        figures.on_refused(refusal.reason);
    }
    // Callers hear of it first: whoever waits for pictures may then link anew at once.
    shared.fail(&fault);
    tracing::debug!(%fault, "the link to the leader has ended");
}

/// Takes in what the leader says, until the link breaks.
async fn read(
    shared: &Shared,
    reader: &mut MessageReader,
    linked: &Linked,
    updates: &mpsc::Sender<FromLeader>,
) -> LinkFault {
    let mut answers = Assembly::default();
    loop {
        let message = match timeout(LINK_SILENCE_MAX, reader.next()).await {
            Ok(Ok(message)) => message,
            Ok(Err(fault)) => return fault,
            Err(_) => return LinkFault::Silent,
        };
        let update = match message {
            Message::Answer(part) => {
                if let Err(fault) = shared.answer(&mut answers, part) {
                    return fault;
                }
                continue;
            }
            Message::Image(update) => FromLeader::Image(update),
            Message::LeaderBeat(beat) => {
                linked.on_beat();
                linked.on_answered(beat.echo);
                FromLeader::Beat(beat)
            }
            Message::Journal(part) => FromLeader::Journal(part),
            Message::Refused(refusal) => return LinkFault::Refused(refusal),
            message => return LinkFault::Unexpected(message.kind()),
        };
        if updates.send(update).await.is_err() {
            return LinkFault::Dropped;
        }
    }
}

impl Shared {
    fn new(figures: Arc<PeerFigures>) -> Self {
        Self {
            sender: Sender::new(Calls::Asked, figures),
            places: Arc::new(Semaphore::new(LINK_CALLS_MAX)),
            calls: Mutex::default(),
        }
    }

    async fn call(&self, request: Request) -> Result<Reply, CoordinatorError> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|_| self.lost())?;
        let bytes = encode_request(&request);
        let bytes = bytes.map_err(|e| CoordinatorError::Refused(e.to_string()))?;
        drop(request);
        if bytes.len() > LINK_MESSAGE_BYTES_MAX {
            let (has, most) = (bytes.len(), LINK_MESSAGE_BYTES_MAX);
            let reason = format!("the request has {has} bytes, the broker link takes {most}");
            return Err(CoordinatorError::Refused(reason));
        }
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
            tracing::debug!(
                most = LINK_QUEUE_BYTES_MAX,
                "the link to the leader is full"
            );
            emptied.await;
        }
        answered.await.map_err(|_| self.lost())?
    }

    /// Lets a request go, if there is room: from then on its caller waits. A caller that gives up
    /// before leaves nothing behind.
    fn put(&self, bytes: &Bytes, caller: &mut Option<Caller>) -> Result<bool, CoordinatorError> {
        let mut waiting = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fault) = &waiting.broken {
            return Err(lost(fault));
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

    /// Hands an answer over, once it is whole.
    fn answer(&self, answers: &mut Assembly, part: CallPart) -> Result<(), LinkFault> {
        let Some((call, bytes)) = answers.take(part)? else {
            return Ok(());
        };
        let reply = decode_reply(&bytes).map_err(|e| LinkFault::Call(e.to_string()))?;
        let mut waiting = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let caller = waiting.callers.remove(&call);
        let caller = caller.ok_or_else(|| {
            LinkFault::Call(format!("call {call} is answered, which nobody has made"))
        })?;
        // Whoever asked may have given up.
        drop(caller.answer.send(reply));
        Ok(())
    }

    /// The link is broken: no answer will come any more.
    fn fail(&self, fault: &LinkFault) {
        let mut waiting = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = waiting.broken.get_or_insert_with(|| fault.clone()).clone();
        let callers = std::mem::take(&mut waiting.callers);
        drop(waiting);
        for caller in callers.into_values() {
            drop(caller.answer.send(Err(lost(&fault))));
        }
        self.places.close();
        self.sender.emptied_for_good();
    }

    fn fault(&self) -> LinkFault {
        let waiting = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.broken.clone().unwrap_or(LinkFault::Ended)
    }

    fn lost(&self) -> CoordinatorError {
        lost(&self.fault())
    }
}

fn lost(fault: &LinkFault) -> CoordinatorError {
    CoordinatorError::NotLeader(format!(
        "the link to the leader has ended ({fault}), and what was asked may or may not have happened"
    ))
}

/// What the leader said that nobody has taken yet.
const UPDATES_AHEAD: usize = 8;

#[cfg(test)]
mod tests {
    use firn_proto::ids::Incarnation;
    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn who_gives_up_before_there_is_room_leaves_no_place_taken() {
        let shared = Shared::new(Arc::default());
        let all = Bytes::from(vec![0; LINK_QUEUE_BYTES_MAX]);
        shared.sender.with(|outbox| outbox.call(77, all)).unwrap();
        let request = Request::LeaveBroker(Incarnation(1));
        let mut call = Box::pin(shared.call(request));
        assert!(poll!(&mut call).is_pending());
        assert_eq!(shared.places.available_permits(), LINK_CALLS_MAX - 1);
        drop(call);
        assert_eq!(shared.places.available_permits(), LINK_CALLS_MAX);
    }
}
