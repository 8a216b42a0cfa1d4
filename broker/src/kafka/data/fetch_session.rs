//! Incremental fetch sessions (KIP-227): which partitions a client reads, remembered between its
//! requests, so that a request names only what changed and an answer holds only what is news.
//!
//! Owns the cache of sessions of this broker. Pure: the time and the random session id come in as
//! arguments; the handler keeps it behind a lock that is never held over an await.
//!
//! Rules, in the words of the protocol (session id, session epoch):
//! - (0, −1): no session. (any, 0): a full request that asks for a new session and ends the old
//!   one. (id, −1): ends the session, answered in full.
//! - (id, n > 0): incremental. An unknown id is `FETCH_SESSION_ID_NOT_FOUND`, another epoch than
//!   expected `INVALID_FETCH_SESSION_EPOCH`, names in a session of ids (or the reverse)
//!   `FETCH_SESSION_TOPIC_ID_ERROR`. Epochs wrap from `i32::MAX` to 1.
//! - A broker may always decline a session by answering id 0; this one does when its cache is full
//!   of sessions in use.

use std::collections::BTreeMap;
use std::time::Duration;

use firn_proto::cluster::TopicKey;
use firn_proto::env::Mono;
use firn_proto::limits::{FETCH_SESSION_ENTRY_BYTES, FETCH_SESSIONS_BYTES_MAX, FETCH_SESSIONS_MAX};

/// A session that was not used for this long may be evicted for a new one
/// (`min.incremental.fetch.session.eviction.ms`).
const EVICTABLE_AFTER: Duration = Duration::from_secs(120);
/// Session epoch of a request that wants no session, or ends its own.
const EPOCH_FINAL: i32 = -1;
/// Session epoch of a full request that asks for a new session.
const EPOCH_INITIAL: i32 = 0;

/// What a client wants of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The topic: by name up to Fetch v12, by id from v13 on. A name is shared by all partitions.
    pub topic: TopicKey,
    /// The partition in it.
    pub partition: i32,
    /// First offset wanted.
    pub fetch_offset: i64,
    /// Most bytes wanted of this partition.
    pub max_bytes: i32,
    /// The leader epoch the client believes in, or −1.
    pub current_leader_epoch: i32,
    /// The epoch of the last record the client has, or −1 (Fetch v12).
    pub last_fetched_epoch: i32,
}

/// A fetch request, as far as sessions are concerned.
#[derive(Clone, Debug)]
pub struct SessionRequest {
    /// Session id of the request; 0 for none.
    pub id: i32,
    /// Session epoch of the request.
    pub epoch: i32,
    /// Whether this request version names topics by id.
    pub uses_ids: bool,
    /// Partitions that are new or changed.
    pub wanted: Vec<Wanted>,
    /// Partitions no longer wanted.
    pub forgotten: Vec<(TopicKey, i32)>,
}

/// What the handler has to read, and how to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionTurn {
    /// The session id to answer; 0 for no session.
    pub id: i32,
    /// Whether the answer may leave out partitions without news.
    pub incremental: bool,
    /// The partitions to read, in the order in which they take their turn at the byte limit.
    pub wanted: Vec<Wanted>,
    epoch: i32,
}

/// The marks of one partition that an incremental answer repeats only when they have moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// High watermark in the answer.
    pub high_watermark: i64,
    /// Last stable offset in the answer.
    pub last_stable_offset: i64,
    /// Log start offset in the answer.
    pub log_start_offset: i64,
}

/// What was found for one partition of a turn.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The marks of the answer.
    pub marks: Marks,
    /// Whether records are returned.
    pub has_records: bool,
    /// Whether an error or a diverging epoch is returned.
    pub has_error: bool,
}

/// Why a session request cannot be served. The answer carries no partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// No such session, or evicted: the client starts over with a full request.
    IdNotFound,
    /// The client and the broker disagree on how many requests were made.
    InvalidEpoch,
    /// The session was made with names and the request has ids, or the reverse.
    TopicIdMix,
}

#[derive(Debug)]
struct Cached {
    wanted: Wanted,
    /// What the client was told last; `None` until the first answer.
    told: Option<Marks>,
}

#[derive(Debug)]
struct Session {
    /// The epoch the next request must carry.
    next_epoch: i32,
    uses_ids: bool,
    last_used: Mono,
    /// By turn: a partition that was served goes to the end, so that a small byte limit does not
    /// starve the partitions behind it.
    turns: BTreeMap<u64, Cached>,
    turn_of: BTreeMap<(TopicKey, i32), u64>,
    next_turn: u64,
    /// What all of it takes.
    bytes: usize,
}

impl Session {
    fn new(uses_ids: bool, now: Mono) -> Self {
        Self {
            next_epoch: 1,
            uses_ids,
            last_used: now,
            turns: BTreeMap::new(),
            turn_of: BTreeMap::new(),
            next_turn: 0,
            bytes: 0,
        }
    }

    fn want(&mut self, wanted: Wanted) {
        let key = (wanted.topic.clone(), wanted.partition);
        if let Some(cached) = self
            .turn_of
            .get(&key)
            .and_then(|turn| self.turns.get_mut(turn))
        {
            cached.wanted = wanted;
            return;
        }
        self.bytes += entry_bytes(&wanted.topic);
        self.turn_of.insert(key, self.next_turn);
        self.turns
            .insert(self.next_turn, Cached { wanted, told: None });
        self.next_turn += 1;
    }

    fn forget(&mut self, key: &(TopicKey, i32)) {
        if let Some(turn) = self.turn_of.remove(key) {
            self.bytes -= entry_bytes(&key.0);
            self.turns.remove(&turn);
        }
    }

    /// Notes what is answered for a partition and says whether it is news.
    fn tell(&mut self, key: &(TopicKey, i32), found: &Found) -> bool {
        let Some(&turn) = self.turn_of.get(key) else {
            return true;
        };
        let Some(mut cached) = self.turns.remove(&turn) else {
            return true;
        };
        let news = found.has_records || found.has_error || cached.told != Some(found.marks);
        // After an error the marks are told again, as the client may have dropped what it knew.
        cached.told = (!found.has_error).then_some(found.marks);
        let turn = if found.has_records {
            self.next_turn += 1;
            self.next_turn - 1
        } else {
            turn
        };
        self.turn_of.insert(key.clone(), turn);
        self.turns.insert(turn, cached);
        news
    }
}

/// What a session takes for one partition, as if every one of them had a name of its own.
fn entry_bytes(topic: &TopicKey) -> usize {
    match topic {
        TopicKey::Name(name) => FETCH_SESSION_ENTRY_BYTES + name.len(),
        TopicKey::Id(_) => FETCH_SESSION_ENTRY_BYTES,
    }
}

/// The fetch sessions of one broker.
#[derive(Debug, Default)]
pub struct FetchSessions {
    sessions: BTreeMap<i32, Session>,
    bytes: usize,
}

impl FetchSessions {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sessions in the cache.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no session is open.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// How many partitions a request asks for, about: those of its session and its own.
    pub fn partitions_asked(&self, request: &SessionRequest) -> usize {
        let session = self.sessions.get(&request.id);
        let known = session.map_or(0, |session| session.turns.len());
        known + request.wanted.len() + request.forgotten.len()
    }

    /// Takes a request in and says what to read. `random` makes the id of a new session.
    ///
    /// # Errors
    /// [`SessionError`] as in the rules at the top of this file.
    pub fn begin(
        &mut self,
        request: SessionRequest,
        now: Mono,
        random: u64,
    ) -> Result<SessionTurn, SessionError> {
        if request.epoch == EPOCH_FINAL || request.epoch == EPOCH_INITIAL {
            self.end(request.id);
            let id = if request.epoch == EPOCH_INITIAL {
                self.open(&request, now, random)
            } else {
                0
            };
            return Ok(SessionTurn {
                id,
                incremental: false,
                wanted: request.wanted,
                epoch: 0,
            });
        }
        let session = self
            .sessions
            .get_mut(&request.id)
            .ok_or(SessionError::IdNotFound)?;
        if session.next_epoch != request.epoch {
            return Err(SessionError::InvalidEpoch);
        }
        if session.uses_ids != request.uses_ids {
            return Err(SessionError::TopicIdMix);
        }
        let before = session.bytes;
        session.last_used = now;
        session.next_epoch = if request.epoch == i32::MAX {
            1
        } else {
            request.epoch + 1
        };
        for key in &request.forgotten {
            session.forget(key);
        }
        for wanted in request.wanted {
            session.want(wanted);
        }
        let wanted: Vec<_> = session
            .turns
            .values()
            .map(|cached| cached.wanted.clone())
            .collect();
        self.bytes = self.bytes - before + session.bytes;
        if self.bytes > FETCH_SESSIONS_BYTES_MAX {
            // Grown beyond what the cache may hold: answered in full, without a session.
            self.end(request.id);
            return Ok(SessionTurn {
                id: 0,
                incremental: false,
                wanted,
                epoch: 0,
            });
        }
        Ok(SessionTurn {
            id: request.id,
            incremental: true,
            wanted,
            epoch: request.epoch,
        })
    }

    /// Notes what is answered for partition `index` of `turn.wanted` and says whether the answer
    /// must hold it.
    pub fn include(&mut self, turn: &SessionTurn, index: usize, found: &Found) -> bool {
        let Some(wanted) = turn.wanted.get(index) else {
            return true;
        };
        let Some(session) = self.sessions.get_mut(&turn.id) else {
            return true;
        };
        let current = if turn.epoch == i32::MAX {
            1
        } else {
            turn.epoch + 1
        };
        if session.next_epoch != current {
            // Another request of the session has come in between: leave its marks alone.
            return true;
        }
        session.tell(&(wanted.topic.clone(), wanted.partition), found) || !turn.incremental
    }

    fn end(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.bytes -= session.bytes;
        }
    }

    /// Makes a session for a full request, or answers 0 if there is no room.
    fn open(&mut self, request: &SessionRequest, now: Mono, random: u64) -> i32 {
        let topics = request.wanted.iter().map(|wanted| &wanted.topic);
        let bytes: usize = topics.map(entry_bytes).sum();
        if bytes == 0 || self.bytes + bytes > FETCH_SESSIONS_BYTES_MAX {
            return 0;
        }
        if self.sessions.len() >= FETCH_SESSIONS_MAX && !self.evict(now) {
            return 0;
        }
        let mut session = Session::new(request.uses_ids, now);
        for wanted in &request.wanted {
            session.want(wanted.clone());
        }
        let id = self.free_id(random);
        self.bytes += session.bytes;
        self.sessions.insert(id, session);
        id
    }

    /// Ends the session that was idle longest, if that was long enough.
    fn evict(&mut self, now: Mono) -> bool {
        let oldest = self
            .sessions
            .iter()
            .min_by_key(|(_, session)| session.last_used);
        let Some((&id, session)) = oldest else {
            return false;
        };
        if now.since(session.last_used) < EVICTABLE_AFTER {
            return false;
        }
        self.end(id);
        true
    }

    /// A positive id that no session has, starting the search at `random`.
    fn free_id(&self, random: u64) -> i32 {
        let start = i32::try_from(random % (i32::MAX as u64)).unwrap_or(0) + 1;
        let above = (start..=i32::MAX).find(|id| !self.sessions.contains_key(id));
        above
            .or_else(|| (1..start).find(|id| !self.sessions.contains_key(id)))
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
