//! The follower's side of a link to the leader: calls go out, their answers and the leader's
//! pictures come in.

use std::sync::Arc;

use firn_coordinator::{FromLeader, LeaderLink, PeerError};
use firn_proto::cluster::{Beat, CoordinatorError, Reply, Request};
use firn_proto::limits::{LINK_CALLS_MAX, LINK_MESSAGE_BYTES_MAX, LINK_SILENCE_MAX};
use firn_proto::link::{Assembly, CallPart, Message, decode_reply, encode_request};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::asking::Asking;
use super::figures::Linked;
use super::opening::{Opened, peer_error};
use super::outbox::Calls;
use super::wire::{LinkFault, MessageReader};

/// A link to the leader. Dropping it ends it.
pub(super) struct FollowerLink {
    shared: Arc<Shared>,
    updates: mpsc::Receiver<FromLeader>,
    _tasks: JoinSet<()>,
}

/// What callers and the task of a link share.
type Shared = Asking<Result<Reply, CoordinatorError>>;

impl FollowerLink {
    /// Over a link whose other side has said that its pictures will come.
    pub(super) fn start(opened: Opened) -> Self {
        let shared = Shared::new(Calls::Asked, LINK_CALLS_MAX, opened.linked.peer());
        let shared = Arc::new(shared);
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
        async move { call(&shared, request).await }.boxed()
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
                if let Err(fault) = answer(shared, &mut answers, part) {
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

async fn call(shared: &Shared, request: Request) -> Result<Reply, CoordinatorError> {
    let place = shared.place().await.map_err(|fault| lost(&fault))?;
    let bytes = encode_request(&request);
    let bytes = bytes.map_err(|e| CoordinatorError::Refused(e.to_string()))?;
    drop(request);
    if bytes.len() > LINK_MESSAGE_BYTES_MAX {
        let (has, most) = (bytes.len(), LINK_MESSAGE_BYTES_MAX);
        let reason = format!("the request has {has} bytes, the broker link takes {most}");
        return Err(CoordinatorError::Refused(reason));
    }
    let answered = shared.ask(place, bytes).await;
    answered.map_err(|fault| lost(&fault))?
}

/// Hands an answer over, once it is whole.
fn answer(shared: &Shared, answers: &mut Assembly, part: CallPart) -> Result<(), LinkFault> {
    let Some((call, bytes)) = answers.take(part)? else {
        return Ok(());
    };
    let reply = decode_reply(&bytes).map_err(|e| LinkFault::Call(e.to_string()))?;
    shared.answer(call, reply)
}

fn lost(fault: &LinkFault) -> CoordinatorError {
    CoordinatorError::NotLeader(format!(
        "the link to the leader has ended ({fault}), and what was asked may or may not have happened"
    ))
}

/// What the leader said that nobody has taken yet.
const UPDATES_AHEAD: usize = 8;
