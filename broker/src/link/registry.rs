//! Who belongs to the cluster: the processes whose cards lie in its bucket. What was read lately is
//! remembered; strangers do not decide how often the bucket is asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use firn_coordinator::ProcessCard;
use firn_proto::env::{Clock, Entropy, Mono};
use firn_proto::ids::{ClusterId, Fingerprint};
use firn_proto::limits::{
    LINK_ACCEPT_MAX, LINK_CARD_ABSENT_LASTS, LINK_CARD_LASTS, LINK_CARDS_MAX,
    LINK_LOOKUPS_PER_SECOND,
};
use firn_proto::link::{Hello, Message};
use firn_storage::bucket::Bucket;
use firn_storage::processes;
use thiserror::Error;
use tokio::time::timeout;

use super::opening::{decode_card, encode_card};
use crate::error::FirnError;
use crate::kafka::seldom::Seldom;

/// The cards in the bucket of one cluster.
pub struct Registry {
    bucket: Bucket,
    cluster: ClusterId,
    clock: Arc<dyn Clock>,
    entropy: Arc<Entropy>,
    known: Mutex<Known>,
}

struct Known {
    cards: BTreeMap<Fingerprint, Looked>,
    lookups: Seldom,
}

/// What was found under a fingerprint, and when.
#[derive(Clone)]
struct Looked {
    card: Option<Arc<ProcessCard>>,
    at: Mono,
}

/// Why it is not known whether a process is registered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RegistryError {
    /// The bucket does not say.
    #[error("the bucket does not say: {0}")]
    Bucket(String),
    /// It was asked too often already.
    #[error("too many unknown processes open links")]
    Crowded,
    /// What lies there is no card.
    #[error("its card cannot be read: {0}")]
    Unreadable(String),
}

impl Registry {
    /// Of the cluster in that bucket.
    pub fn new(
        bucket: Bucket,
        cluster: ClusterId,
        clock: Arc<dyn Clock>,
        entropy: Arc<Entropy>,
    ) -> Self {
        let second = Duration::from_secs(1);
        let known = Known {
            cards: BTreeMap::new(),
            lookups: Seldom::new(LINK_LOOKUPS_PER_SECOND, second),
        };
        Self {
            bucket,
            cluster,
            clock,
            entropy,
            known: Mutex::new(known),
        }
    }

    /// Registers this process, before it opens its first link.
    ///
    /// # Errors
    /// The bucket does not take it.
    pub async fn register(&self, card: &ProcessCard) -> Result<(), FirnError> {
        let failed = |reason: String| FirnError::failed("cannot register this process", reason);
        let bytes = encode_card(card).map_err(|e| failed(e.to_string()))?;
        // What does not fit the beginning of a link is found here, and not when others are met.
        let hello = Message::Hello(Hello {
            cluster: self.cluster,
            card: bytes.clone(),
        });
        hello.to_frame().map_err(|e| failed(e.to_string()))?;
        let at = card.link.fingerprint;
        let put = processes::register(&self.bucket, &self.entropy, self.cluster, at, bytes.into());
        put.await.map_err(|e| failed(e.to_string()))
    }

    /// The card of a process that has opened a link, which anybody may do; `None` if it is not
    /// registered. While the bucket does not answer, who was registered still is.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn card_of_stranger(
        &self,
        process: Fingerprint,
    ) -> Result<Option<Arc<ProcessCard>>, RegistryError> {
        let now = self.clock.mono();
        let may_look = self
            .with(|known| known.fresh(process, now).is_some() || known.lookups.due(now).is_some());
        if !may_look {
            return Err(RegistryError::Crowded);
        }
        match self.card(process).await {
            Err(RegistryError::Bucket(reason)) => {
                let known = self.known(process);
                known.map(Some).ok_or(RegistryError::Bucket(reason))
            }
            answer => answer,
        }
    }

    /// The card of a process; `None` if it is not registered.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn card(
        &self,
        process: Fingerprint,
    ) -> Result<Option<Arc<ProcessCard>>, RegistryError> {
        let now = self.clock.mono();
        if let Some(looked) = self.with(|known| known.fresh(process, now)) {
            return Ok(looked.card);
        }
        self.look(process).await
    }

    /// The card that lies in the bucket now, whatever was found there before; `None` if there is
    /// none.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn look(
        &self,
        process: Fingerprint,
    ) -> Result<Option<Arc<ProcessCard>>, RegistryError> {
        let now = self.clock.mono();
        let read = processes::card(&self.bucket, self.cluster, process);
        let read = timeout(LINK_ACCEPT_MAX, read).await;
        let unknown = |reason: String| RegistryError::Bucket(reason);
        let read = read.map_err(|_| unknown("it does not answer in time".to_owned()))?;
        let bytes = read.map_err(|e| unknown(e.to_string()))?;
        let card = bytes.map(|bytes| decode_card(&bytes)).transpose();
        let card = card.map_err(|e| RegistryError::Unreadable(e.to_string()))?;
        let card = card.map(Arc::new);
        let looked = Looked {
            card: card.clone(),
            at: now,
        };
        self.with(|known| known.keep(process, looked));
        Ok(card)
    }

    /// The card of a process as far as it is known without asking the bucket, however old.
    pub fn known(&self, process: Fingerprint) -> Option<Arc<ProcessCard>> {
        self.with(|known| known.cards.get(&process)?.card.clone())
    }

    /// The processes that are registered, as many as are asked at a time.
    ///
    /// # Errors
    /// [`RegistryError::Bucket`].
    pub async fn registered(&self) -> Result<Vec<Fingerprint>, RegistryError> {
        let listed = processes::registered(&self.bucket, LINK_CARDS_MAX).await;
        listed.map_err(|e| RegistryError::Bucket(e.to_string()))
    }

    /// Forgets processes that have stopped, or whose incarnations have ended in the journal.
    ///
    /// # Errors
    /// [`RegistryError::Bucket`]: some of them may be forgotten.
    pub async fn forget(&self, gone: &[Fingerprint]) -> Result<(), RegistryError> {
        self.with(|known| {
            for process in gone {
                known.cards.remove(process);
            }
        });
        let forgotten = processes::forget(&self.bucket, gone).await;
        forgotten.map_err(|e| RegistryError::Bucket(e.to_string()))
    }

    fn with<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Known {
    fn fresh(&self, process: Fingerprint, now: Mono) -> Option<Looked> {
        let looked = self.cards.get(&process)?;
        let lasts = match looked.card {
            Some(_) => LINK_CARD_LASTS,
            None => LINK_CARD_ABSENT_LASTS,
        };
        (now.since(looked.at) < lasts).then(|| looked.clone())
    }

    /// Keeps what was found; beyond the limit strangers go first, and the oldest.
    fn keep(&mut self, process: Fingerprint, looked: Looked) {
        if self.cards.len() >= LINK_CARDS_MAX && !self.cards.contains_key(&process) {
            let age = |(_, looked): &(&Fingerprint, &Looked)| (looked.card.is_some(), looked.at);
            let oldest = self.cards.iter().min_by_key(age);
            if let Some(oldest) = oldest.map(|(process, _)| *process) {
                self.cards.remove(&oldest);
            }
        }
        self.cards.insert(process, looked);
    }
}

#[cfg(test)]
mod tests;
