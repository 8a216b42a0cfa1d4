//! What may be deleted from the bucket: the delete queue, slots below floors, files of ended
//! incarnations that never entered the map. Nothing leaves this list but by a report that it is
//! gone, so that a crash leaves no orphan.

use std::collections::{BTreeMap, BTreeSet};

use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};
use firn_proto::cluster::{Collected, Doomed, EndedWriter, Garbage, QueuedDelete};
use firn_proto::ids::{Incarnation, TopicId};
use firn_proto::limits::{ENDED_WRITERS_LISTED_MAX, GARBAGE_LISTED_MAX};

use super::super::{Effects, State};

/// Kafka's default of `file.delete.delay.ms`.
const DELETE_DELAY_MS: i64 = 60_000;

/// The delay of a topic between leaving the map and being deleted.
pub(super) fn delay_ms(configs: &BTreeMap<String, String>) -> i64 {
    let set = configs.get("file.delete.delay.ms");
    let set = set.and_then(|value| value.parse().ok());
    set.filter(|delay| *delay >= 0).unwrap_or(DELETE_DELAY_MS)
}

/// What has left the map, until it is deleted: as long as nobody deletes anything it grows with
/// what retention takes out, about a hundred bytes for each segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteQueue {
    next_id: u64,
    entries: BTreeMap<u64, Queued>,
    /// Entries by when they are due. Derived.
    due: BTreeSet<(i64, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct Queued {
    what: Doomed,
    due_ms: i64,
}

impl Encode for DeleteQueue {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.next_id.encode(encoder)?;
        self.entries.encode(encoder)
    }
}

impl<C> Decode<C> for DeleteQueue {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let next_id = Decode::decode(decoder)?;
        let entries: BTreeMap<u64, Queued> = Decode::decode(decoder)?;
        let due = entries.iter().map(|(id, queued)| (queued.due_ms, *id));
        Ok(Self {
            next_id,
            due: due.collect(),
            entries,
        })
    }
}

bincode::impl_borrow_decode!(DeleteQueue);

impl DeleteQueue {
    /// Its entries, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = QueuedDelete> {
        self.entries.iter().map(|(id, queued)| queued.shown(*id))
    }

    pub(super) fn push(&mut self, what: Doomed, due_ms: i64) {
        let id = self.next_id;
        self.next_id += 1;
        self.due.insert((due_ms, id));
        self.entries.insert(id, Queued { what, due_ms });
    }

    fn remove(&mut self, id: u64) -> bool {
        let removed = self.entries.remove(&id);
        removed.is_some_and(|queued| self.due.remove(&(queued.due_ms, id)))
    }

    /// Entries that are due and not held up, oldest first.
    fn due_at<'a>(
        &'a self,
        now_ms: i64,
        is_held: impl Fn(TopicId) -> bool + 'a,
    ) -> impl Iterator<Item = QueuedDelete> + 'a {
        let due = self.due.range(..=(now_ms, u64::MAX));
        let due = due.filter_map(|(_, id)| Some((*id, self.entries.get(id)?)));
        due.filter(move |(_, queued)| match queued.what {
            Doomed::Topic { topic, .. } => !is_held(topic),
            Doomed::Segment { .. } | Doomed::MapPage { .. } => true,
        })
        .map(|(id, queued)| queued.shown(id))
    }

    /// When the first entry behind `now_ms` is due.
    fn next_due_ms(&self, now_ms: i64) -> Option<i64> {
        let next = now_ms.checked_add(1)?;
        self.due
            .range((next, 0)..)
            .next()
            .map(|(due_ms, _)| *due_ms)
    }
}

impl Queued {
    fn shown(&self, id: u64) -> QueuedDelete {
        QueuedDelete {
            id,
            what: self.what.clone(),
            due_ms: self.due_ms,
        }
    }
}

impl State {
    /// What may be deleted from the bucket at a time, in milliseconds since 1970.
    pub fn garbage(&self, now_ms: i64) -> Garbage {
        let queue = &self.archive.queue;
        let due = queue.due_at(now_ms, |topic| self.topics.is_deleting(topic));
        let doomed: Vec<_> = due.take(GARBAGE_LISTED_MAX).collect();
        Garbage {
            next_due_ms: doomed
                .is_empty()
                .then(|| queue.next_due_ms(now_ms))
                .flatten(),
            doomed,
            queued: queue.entries.len() as u64,
            streams: self.streams.garbage().take(GARBAGE_LISTED_MAX).collect(),
            writers: self.ended_writers(),
        }
    }

    pub(in crate::state) fn report_collected(&mut self, body: &Collected, effects: &mut Effects) {
        for id in &body.doomed {
            effects.changed |= self.archive.queue.remove(*id);
        }
        for (stream, to) in &body.streams {
            effects.changed |= self.streams.collect(*stream, *to);
        }
        for stream in &body.over {
            effects.changed |= self.streams.close_over(*stream);
        }
        for incarnation in &body.writers {
            if self.stream_of(*incarnation).is_none() {
                effects.changed |= self.archive.writers.remove(incarnation).is_some();
            }
        }
    }

    /// Ended incarnations, each with its files that are named. Nothing of them is named later: the
    /// commits of an ended incarnation are refused.
    fn ended_writers(&self) -> Vec<EndedWriter> {
        let writers = self.archive.writers.iter();
        let ended = writers.filter(|(incarnation, _)| self.stream_of(**incarnation).is_none());
        let mut listed: BTreeMap<Incarnation, EndedWriter> = ended
            .take(ENDED_WRITERS_LISTED_MAX)
            .map(|(incarnation, writer)| {
                let shown = EndedWriter {
                    incarnation: *incarnation,
                    entered: writer.entered.ranges(),
                    pages: Vec::new(),
                };
                (*incarnation, shown)
            })
            .collect();
        if listed.is_empty() {
            return Vec::new();
        }
        let maps = self.archive.maps.iter();
        let mapped = maps.flat_map(|(tp, map)| map.pages().iter().map(|page| (tp.topic, page.key)));
        let queued = self.archive.queue.entries.values();
        let queued = queued.filter_map(|queued| match queued.what {
            Doomed::MapPage { topic, page } => Some((topic, page)),
            Doomed::Segment { .. } | Doomed::Topic { .. } => None,
        });
        for (topic, page) in mapped.chain(queued) {
            if let Some(writer) = listed.get_mut(&page.incarnation) {
                writer.pages.push((topic, page.number));
            }
        }
        listed.into_values().collect()
    }
}
