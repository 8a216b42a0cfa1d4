//! Questions to the owners of partitions, over links that are opened when somebody is asked and stay
//! open while they are used.
//!
//! May not touch: what is asked, and who owns what.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use firn_coordinator::PeerError;
use firn_proto::cluster::LinkAddress;
use firn_proto::env::{Clock, Mono};
use firn_proto::ids::Fingerprint;
use firn_proto::limits::{LOOK_AGAIN, LOOK_ANSWER_MAX, LOOKS_MAX, LOOKS_NOW_MIN};
use firn_proto::link::{Assembly, Looks, Message, Sights, decode_sights, encode_looks};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::asking::Asking;
use super::figures::LinkFigures;
use super::opening::{Introduction, Opened, open};
use super::outbox::Calls;
use super::transport::Transport;
use super::wire::{LinkFault, MessageReader};

/// The processes that own partitions, as far as they can be asked about them.
pub trait Owners: Send + Sync + 'static {
    /// Asks the process at `owner`. Bounded in time: by what it is to wait for records, and
    /// [`LOOK_ANSWER_MAX`]. Whoever drops it has the owner told that the answer is not wanted.
    fn look(
        &self,
        owner: LinkAddress,
        looks: Looks,
    ) -> BoxFuture<'static, Result<Sights, LookError>>;
}

/// Why an owner says nothing.
#[derive(Clone, Debug, Error)]
pub enum LookError {
    /// It cannot be reached, or its link has ended.
    #[error("the owner cannot be reached: {0}")]
    Unreachable(String),
    /// It was not heard in time.
    #[error("the owner does not answer")]
    Silent,
    /// It may say nothing now: it starts, or does not hear from the leader; or too much is asked.
    #[error("the owner has no answer now")]
    Nothing,
    /// Too many questions are under way to it.
    #[error("too many questions wait for this owner")]
    Crowded,
}

/// Owners at the other ends of links. Cheap to clone.
#[derive(Clone)]
pub struct LinkOwners(Arc<Inner>);

struct Inner {
    transport: Arc<dyn Transport>,
    me: Introduction,
    clock: Arc<dyn Clock>,
    figures: Arc<LinkFigures>,
    /// Of those who were asked lately. What is of no more use goes when the next link is opened.
    links: Mutex<BTreeMap<Fingerprint, Opening>>,
}

/// A link that is being opened by whoever asked first, or is open, or could not be opened.
type Opening = Shared<BoxFuture<'static, Result<Arc<OwnerLink>, Unopened>>>;

/// Why there is no link, and since when.
#[derive(Clone, Debug)]
struct Unopened {
    error: PeerError,
    at: Mono,
}

/// A link to an owner. Dropping it ends it.
struct OwnerLink {
    asking: Arc<Asking<Sights>>,
    _task: JoinSet<()>,
}

impl LinkOwners {
    /// As `me`, whose card is registered.
    pub fn new(
        transport: Arc<dyn Transport>,
        me: Introduction,
        clock: Arc<dyn Clock>,
        figures: Arc<LinkFigures>,
    ) -> Self {
        Self(Arc::new(Inner {
            transport,
            me,
            clock,
            figures,
            links: Mutex::default(),
        }))
    }

    async fn ask(self, owner: LinkAddress, looks: Looks) -> Result<Sights, LookError> {
        let opened = timeout(LOOK_ANSWER_MAX, self.link(owner)).await;
        let link = opened.map_err(|_| LookError::Silent)?;
        let link = link.map_err(|unopened| LookError::Unreachable(unopened.error.to_string()))?;
        let asking = &link.asking;
        let others = match looks.wait.is_zero() {
            true => 0,
            false => LOOKS_NOW_MIN,
        };
        let place = match asking.is_broken() {
            true => return Err(LookError::Unreachable(asking.fault().to_string())),
            false => asking.place_besides(others).ok_or(LookError::Crowded)?,
        };
        let bytes = encode_looks(&looks);
        let bytes = bytes.map_err(|e| LookError::Unreachable(e.to_string()))?;
        let patience = looks.wait + LOOK_ANSWER_MAX;
        let asked = looks.partitions.len();
        drop(looks);
        match asking.ask_for(patience, place, bytes).await {
            Ok(sights) if sights.len() == asked => Ok(sights),
            Ok(_) => Err(LookError::Nothing),
            Err(LinkFault::Silent) => Err(LookError::Silent),
            Err(fault) => Err(LookError::Unreachable(fault.to_string())),
        }
    }

    /// The link to a process: the one there is, or a new one that all wait for who ask meanwhile.
    fn link(&self, to: LinkAddress) -> Opening {
        let now = self.0.clock.mono();
        let mut links = self.0.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opening) = links.get(&to.fingerprint)
            && is_of_use(opening, now)
        {
            return opening.clone();
        }
        links.retain(|_, opening| is_of_use(opening, now));
        let process = to.fingerprint;
        let inner = Arc::clone(&self.0);
        // Whoever asked first may give up, and others wait.
        let opened = tokio::spawn(async move {
            let (transport, figures) = (Arc::clone(&inner.transport), Arc::clone(&inner.figures));
            let opened = open(transport, inner.me.clone(), to, figures).await;
            let at = inner.clock.mono();
            match opened {
                Ok(opened) => Ok(Arc::new(OwnerLink::start(opened))),
                Err(error) => Err(Unopened { error, at }),
            }
        });
        let ended = Unopened {
            error: PeerError::NoAnswer,
            at: now,
        };
        let opened = async move { opened.await.unwrap_or(Err(ended)) };
        let opening = opened.boxed().shared();
        links.insert(process, opening.clone());
        opening
    }
}

impl Owners for LinkOwners {
    fn look(
        &self,
        owner: LinkAddress,
        looks: Looks,
    ) -> BoxFuture<'static, Result<Sights, LookError>> {
        self.clone().ask(owner, looks).boxed()
    }
}

fn is_of_use(opening: &Opening, now: Mono) -> bool {
    match opening.peek() {
        None => true,
        Some(Ok(link)) => !link.asking.is_broken(),
        Some(Err(unopened)) => now.since(unopened.at) < LOOK_AGAIN,
    }
}

impl OwnerLink {
    fn start(opened: Opened) -> Self {
        let asking = Asking::new(Calls::Looks, LOOKS_MAX, opened.linked.peer());
        let asking = Arc::new(asking);
        let mut task = JoinSet::new();
        task.spawn(run(Arc::clone(&asking), opened));
        Self {
            asking,
            _task: task,
        }
    }
}

impl Drop for OwnerLink {
    fn drop(&mut self) {
        self.asking.fail(&LinkFault::Dropped);
    }
}

/// Serves the link until it breaks. That its owner is gone, the transport finds out, or whoever asks.
async fn run(asking: Arc<Asking<Sights>>, opened: Opened) {
    let Opened {
        mut reader,
        mut writer,
        linked: _linked,
        figures,
    } = opened;
    let fault = tokio::select! {
        fault = asking.sender.run(&mut writer) => fault,
        fault = read(&asking, &mut reader) => fault,
    };
    if let LinkFault::Refused(refusal) = &fault {
        figures.on_refused(refusal.reason);
    }
    asking.fail(&fault);
    tracing::debug!(%fault, "the link to an owner has ended");
}

async fn read(asking: &Asking<Sights>, reader: &mut MessageReader) -> LinkFault {
    let mut answers = Assembly::default();
    loop {
        let taken = match reader.next().await {
            Ok(Message::Seen(part)) => answers.take(part).map_err(LinkFault::from),
            Ok(Message::Refused(refusal)) => Err(LinkFault::Refused(refusal)),
            Ok(message) => Err(LinkFault::Unexpected(message.kind())),
            Err(fault) => Err(fault),
        };
        let answered = taken.and_then(|whole| {
            let Some((call, bytes)) = whole else {
                return Ok(());
            };
            let sights = decode_sights(&bytes).map_err(|e| LinkFault::Call(e.to_string()))?;
            asking.answer(call, sights)
        });
        if let Err(fault) = answered {
            return fault;
        }
    }
}
