//! The WAL buffer: which batches go into the next slot, and when it is put (the flush
//! policy). Pure; the driver is `front.rs`.
//!
//! Owns the order of what waits. Batches of one partition leave in the order in which they came;
//! between partitions a slot is shared out by deficit round robin, so that a partition with a
//! long queue cannot keep another one waiting.

use std::collections::{BTreeMap, VecDeque};

use firn_proto::env::Mono;
use firn_proto::ids::TopicPartition;

use super::entry::WalEntry;
use super::gather::{GatherPolicy, Gathering};
use super::tokens::PutTokens;
use crate::state::{BatchFlags, ProducerBatch, Run};

/// What a batch costs in a slot besides its bytes: its rows in the index, rounded up. Keeps a
/// slot of tiny batches from having an index many times its body.
const ROW_BYTES: usize = 64;
/// Least share of a slot that a partition gets at its turn, in bytes.
const QUANTUM_MIN: usize = 4096;

/// The figures of the flush policy.
#[derive(Clone, Copy, Debug)]
pub struct FlushPolicy {
    /// At this many bytes the buffer is put without a token, on credit.
    pub slot_bytes: usize,
    /// Slots in flight at most.
    pub slots_in_flight: usize,
    /// Slots in flight at most for a buffer that does not fill a slot. On one disk a second small
    /// put only splits the group commit, so that `file://` sets 1 here.
    pub partial_slots_in_flight: usize,
    /// `wal.puts.per.second`; `None` is unlimited.
    pub puts_per_second: Option<u32>,
    /// How long a busy buffer waits for a slot that is worth its put; `None` never waits.
    pub gather: Option<GatherPolicy>,
}

/// Batches that wait for their slot. `H` is what is held with each of them until it is durable.
#[derive(Debug)]
pub struct WalBuffer<H> {
    policy: FlushPolicy,
    tokens: PutTokens,
    gathering: Option<Gathering>,
    queues: BTreeMap<TopicPartition, Queue<H>>,
    bytes: usize,
    in_flight: usize,
    /// Put although nothing is buffered: a checkpoint waits for a slot.
    wanted: bool,
    /// No token is needed until everything buffered now has left.
    forced: bool,
    /// The partition whose turn it is in the next slot.
    turn: Option<TopicPartition>,
}

#[derive(Debug)]
struct Queue<H> {
    entries: VecDeque<(WalEntry, H)>,
    /// Bytes it may still take in this round.
    deficit: usize,
}

/// The content of one slot, sorted by (topic, partition).
#[derive(Debug)]
pub struct ClosedSlot<H> {
    /// One row per run; byte ranges count from the start of the body.
    pub runs: Vec<Run>,
    /// One row per batch of a producer with state.
    pub producers: Vec<ProducerBatch>,
    /// The batches, in the order of the body.
    pub entries: Vec<WalEntry>,
    /// What was held with them, in the same order.
    pub held: Vec<H>,
    /// Length of the body.
    pub body_bytes: usize,
}

impl<H> WalBuffer<H> {
    /// An empty buffer with a full burst of tokens.
    pub fn new(policy: FlushPolicy, now: Mono) -> Self {
        Self {
            tokens: PutTokens::new(policy.puts_per_second, now),
            gathering: policy.gather.map(Gathering::new),
            policy,
            queues: BTreeMap::new(),
            bytes: 0,
            in_flight: 0,
            wanted: false,
            forced: false,
            turn: None,
        }
    }

    /// Adds a batch behind those of its partition.
    pub fn push(&mut self, entry: WalEntry, held: H) {
        self.bytes += weight(&entry);
        self.queues
            .entry(entry.tp)
            .or_insert_with(|| Queue {
                entries: VecDeque::new(),
                deficit: 0,
            })
            .entries
            .push_back((entry, held));
    }

    /// Asks for a slot even if no batch is buffered, because a checkpoint goes into it.
    pub fn want_slot(&mut self) {
        self.wanted = true;
    }

    /// Lets everything that is buffered go without waiting for tokens.
    pub fn force(&mut self) {
        self.forced = !self.is_empty();
    }

    /// Drops everything that waits.
    pub fn clear(&mut self) {
        self.queues.clear();
        self.bytes = 0;
        self.wanted = false;
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty() && !self.wanted
    }

    /// Bytes that wait, rows included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Slots that were closed and are not done.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether the buffer fills a slot.
    pub fn is_full(&self) -> bool {
        self.bytes >= self.policy.slot_bytes
    }

    /// Whether what waits is worth a put, and whether it fills a slot: when either changes, the
    /// driver should look at it.
    pub fn marks(&self) -> (bool, bool) {
        let gathered = |gathering: &Gathering| gathering.is_worth(self.bytes);
        let is_worth = self.gathering.as_ref().is_some_and(gathered);
        (is_worth, self.is_full())
    }

    /// Closes the next slot if the policy lets it go now. To be called until it returns `None`,
    /// after every push, every slot done and at [`Self::next_timeout`].
    pub fn close_slot(&mut self, now: Mono) -> Option<ClosedSlot<H>> {
        if self.is_empty() || !self.has_place() {
            return None;
        }
        if self.is_urgent() {
            self.tokens.take_on_credit(now);
        } else if self.held_until(now).is_some() || !self.tokens.take(now) {
            return None;
        }
        let before = self.bytes;
        let taken = if self.bytes <= self.policy.slot_bytes {
            self.take_all()
        } else {
            self.take_fair_shares()
        };
        if let Some(gathering) = &mut self.gathering {
            gathering.on_close(now, before - self.bytes);
        }
        self.wanted = false;
        self.forced &= !self.is_empty();
        self.in_flight += 1;
        Some(ClosedSlot::of(taken))
    }

    /// A slot in flight is durable.
    pub fn on_slot_done(&mut self) {
        assert!(
            self.in_flight > 0,
            "I2: a slot became durable that was not in flight"
        );
        self.in_flight -= 1;
    }

    /// When the buffer may go, if only time is missing: a token, or the end of a wait for more.
    pub fn next_timeout(&mut self, now: Mono) -> Option<Mono> {
        if self.is_empty() || !self.has_place() {
            return None;
        }
        if self.is_urgent() {
            return Some(now);
        }
        let token = self.tokens.ready_at(now);
        Some(self.held_until(now).map_or(token, |held| held.max(token)))
    }

    /// Neither tokens nor a wait for more hold it back.
    fn is_urgent(&self) -> bool {
        self.is_full() || self.forced
    }

    /// Until when a buffer that is not urgent waits for more. Somebody waits for a checkpoint.
    fn held_until(&mut self, now: Mono) -> Option<Mono> {
        let gathering = self.gathering.as_mut().filter(|_| !self.wanted)?;
        gathering.hold(now, self.bytes)
    }

    fn has_place(&self) -> bool {
        let places = if self.is_full() {
            self.policy.slots_in_flight
        } else {
            self.policy.partial_slots_in_flight
        };
        self.in_flight < places
    }

    fn take_all(&mut self) -> Vec<(WalEntry, H)> {
        self.bytes = 0;
        self.turn = None;
        let count = self.queues.values().map(|queue| queue.entries.len()).sum();
        let mut taken = Vec::with_capacity(count);
        for (_, queue) in std::mem::take(&mut self.queues) {
            taken.extend(queue.entries);
        }
        taken
    }

    /// Deficit round robin: at its turn a partition may take its share of a slot, and keeps what
    /// it did not use while it has batches waiting. The slot ends at the first batch that does
    /// not fit, and that batch is first in the next one, so that a large batch is never passed by
    /// for ever; a batch larger than a slot goes alone.
    fn take_fair_shares(&mut self) -> Vec<(WalEntry, H)> {
        let share = (self.policy.slot_bytes / self.queues.len().max(1)).max(QUANTUM_MIN);
        let mut taken = Vec::new();
        let mut room = self.policy.slot_bytes;
        while let Some(tp) = self.next_turn() {
            let Some(queue) = self.queues.get_mut(&tp) else {
                break;
            };
            queue.deficit += share;
            while let Some((front, _)) = queue.entries.front() {
                let size = weight(front);
                if size > queue.deficit {
                    break;
                }
                if size > room && !taken.is_empty() {
                    // first in the next slot
                    self.turn = Some(tp);
                    taken.sort_by_key(|(entry, _): &(WalEntry, H)| entry.tp);
                    return taken;
                }
                queue.deficit -= size;
                room = room.saturating_sub(size);
                self.bytes -= size;
                taken.extend(queue.entries.pop_front());
            }
            if queue.entries.is_empty() {
                self.queues.remove(&tp);
            }
            self.turn = self.after(tp);
        }
        taken.sort_by_key(|(entry, _)| entry.tp);
        taken
    }

    fn next_turn(&self) -> Option<TopicPartition> {
        match self.turn {
            Some(turn) => self.queues.range(turn..).next(),
            None => None,
        }
        .or_else(|| self.queues.first_key_value())
        .map(|(tp, _)| *tp)
    }

    fn after(&self, tp: TopicPartition) -> Option<TopicPartition> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.queues
            .range((Excluded(tp), Unbounded))
            .next()
            .map(|(tp, _)| *tp)
    }
}

fn weight(entry: &WalEntry) -> usize {
    entry.records.len() + ROW_BYTES
}

impl<H> ClosedSlot<H> {
    fn of(taken: Vec<(WalEntry, H)>) -> Self {
        let mut slot = Self {
            runs: Vec::new(),
            producers: Vec::new(),
            entries: Vec::with_capacity(taken.len()),
            held: Vec::with_capacity(taken.len()),
            body_bytes: 0,
        };
        for (entry, held) in taken {
            slot.add_to_runs(&entry);
            slot.producers.extend(entry.producer_batch());
            slot.body_bytes += entry.records.len();
            slot.entries.push(entry);
            slot.held.push(held);
        }
        slot
    }

    fn add_to_runs(&mut self, entry: &WalEntry) {
        // slots are bounded far below 4 GiB: limits.rs holds a batch to MESSAGE_BYTES_MAX
        let byte_start = u32::try_from(self.body_bytes).unwrap_or(u32::MAX);
        let byte_len = u32::try_from(entry.records.len()).unwrap_or(u32::MAX);
        if let Some(run) = self.runs.last_mut().filter(|run| run.tp == entry.tp) {
            assert!(
                entry.base_offset > run.last_offset,
                "I4: offset {} of {} is used twice: the batch before it ends at {}",
                entry.base_offset,
                entry.tp,
                run.last_offset
            );
            if run.epoch == entry.epoch && entry.base_offset == run.last_offset + 1 {
                run.last_offset = entry.last_offset;
                run.byte_len += byte_len;
                run.max_timestamp = run.max_timestamp.max(entry.max_timestamp);
                run.flags = BatchFlags(run.flags.0 | entry.flags.0);
                return;
            }
        }
        self.runs.push(Run {
            tp: entry.tp,
            epoch: entry.epoch,
            base_offset: entry.base_offset,
            last_offset: entry.last_offset,
            byte_start,
            byte_len,
            max_timestamp: entry.max_timestamp,
            flags: entry.flags,
        });
    }
}

#[cfg(test)]
mod tests;
