//! Streams: how far each is durable, where it ends, and its floor.
//!
//! A floor is the least slot that a window or a state row names (I7). Every such name is a *pin*;
//! pins are counted per slot, so that a floor costs a look-up and not a walk over all partitions.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};
use firn_proto::cluster::{StreamError, StreamGarbage};
use firn_proto::ids::{BrokerId, DiskId, Incarnation, Slot, StreamId};

/// Where a stream is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Phase {
    /// Its writer's incarnation has ended; the stream waits for its seal.
    Ended,
    /// Its writer lives.
    Live,
    /// It ends before this slot.
    Sealed {
        /// The first slot that does not count.
        end: Slot,
    },
    /// As [`Phase::Ended`], by a writer that stopped in order: all that it acknowledged is in the
    /// bucket, and no disk holds more of it.
    Left,
}

/// One incarnation's stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Stream {
    /// The broker that writes it.
    pub broker: BrokerId,
    /// The process that writes it.
    pub incarnation: Incarnation,
    /// The disk that the process showed.
    pub disk: Option<DiskId>,
    /// Slots below are not needed any more.
    pub floor: Slot,
    /// The first slot that is not known to be durable.
    pub durable_end: Slot,
    /// Where it is in its life.
    pub phase: Phase,
    /// Its writer has acknowledged records before the bucket held them, or was about to put again
    /// those of an earlier one.
    pub holds_local: bool,
    /// Its writer stopped in order, so that no disk holds more of it than the bucket.
    pub is_whole: bool,
}

impl Stream {
    /// Whether it has ended and nothing of it is needed.
    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Sealed { end } if end <= self.floor)
    }
}

/// What of a stream is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct CollectedTo {
    /// Slots below.
    pub slot: Slot,
    /// It was over, and its checkpoint folder is gone too.
    pub is_over: bool,
}

/// All streams, live and ended: one for each start of a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    by_id: BTreeMap<StreamId, Stream>,
    /// Everything in slots below is in a state row.
    rows_ends: BTreeMap<StreamId, Slot>,
    /// What is deleted, where anything is.
    collected: BTreeMap<StreamId, CollectedTo>,
    /// How many windows and state rows name each slot. Derived: rebuilt from them.
    pins: BTreeMap<StreamId, BTreeMap<Slot, u32>>,
    /// Streams whose floor may have moved in this command. Empty between commands.
    moved: BTreeSet<StreamId>,
}

impl Streams {
    /// The streams of a snapshot, as yet without pins.
    pub(crate) fn from_rows(
        rows: Vec<(StreamId, Stream)>,
        rows_ends: Vec<(StreamId, Slot)>,
        collected: Vec<(StreamId, CollectedTo)>,
    ) -> Self {
        Self {
            by_id: rows.into_iter().collect(),
            rows_ends: rows_ends.into_iter().collect(),
            collected: collected.into_iter().collect(),
            ..Self::default()
        }
    }

    /// All streams, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (StreamId, &Stream)> {
        self.by_id.iter().map(|(id, stream)| (*id, stream))
    }

    /// The stream of that id.
    pub fn find(&self, id: StreamId) -> Option<&Stream> {
        self.by_id.get(&id)
    }

    /// The end of a sealed stream.
    pub fn sealed_end(&self, id: StreamId) -> Option<Slot> {
        match self.by_id.get(&id)?.phase {
            Phase::Sealed { end } => Some(end),
            Phase::Ended | Phase::Live | Phase::Left => None,
        }
    }

    /// The first slot that may hold what is in no reported state row: where a fold starts.
    pub fn rows_end(&self, id: StreamId) -> Slot {
        self.rows_ends.get(&id).copied().unwrap_or(Slot(0))
    }

    pub(crate) fn rows_ends(&self) -> Vec<(StreamId, Slot)> {
        self.rows_ends.iter().map(|(id, end)| (*id, *end)).collect()
    }

    /// The first slot of the stream that is not given up.
    pub fn floor(&self, id: StreamId) -> Slot {
        self.by_id.get(&id).map_or(Slot(0), |stream| stream.floor)
    }

    pub(super) fn durable_end(&self, id: StreamId) -> Slot {
        let stream = self.by_id.get(&id);
        stream.map_or(Slot(0), |stream| stream.durable_end)
    }

    pub(crate) fn collected(&self) -> Vec<(StreamId, CollectedTo)> {
        self.collected.iter().map(|(id, to)| (*id, *to)).collect()
    }

    /// Streams with slots that are not needed any more and not known to be deleted.
    pub(super) fn garbage(&self) -> impl Iterator<Item = StreamGarbage> {
        self.by_id.iter().filter_map(|(id, stream)| {
            let collected = self.collected.get(id).copied().unwrap_or_default();
            let is_over = stream.is_over();
            let is_due = collected.slot < stream.floor || (is_over && !collected.is_over);
            is_due.then_some(StreamGarbage {
                stream: *id,
                from: collected.slot,
                floor: stream.floor,
                is_over,
                is_live: stream.phase == Phase::Live,
            })
        })
    }

    /// Slots below `to` are deleted. False if that was known.
    pub(super) fn collect(&mut self, id: StreamId, to: Slot) -> bool {
        let to = to.min(self.floor(id));
        let known = self.collected.get(&id).copied().unwrap_or_default();
        if to <= known.slot {
            return false;
        }
        self.collected.insert(id, CollectedTo { slot: to, ..known });
        true
    }

    /// The checkpoint folder of a stream that is over is gone too. False if that was known.
    pub(super) fn close_over(&mut self, id: StreamId) -> bool {
        if !self.by_id.get(&id).is_some_and(Stream::is_over) {
            return false;
        }
        let known = self.collected.entry(id).or_default();
        !std::mem::replace(&mut known.is_over, true)
    }

    /// State rows hold everything below `end`. False if that was known.
    pub(super) fn raise_rows_end(&mut self, id: StreamId, end: Slot) -> bool {
        let end = end.min(self.durable_end(id));
        if end <= self.rows_end(id) {
            return false;
        }
        self.rows_ends.insert(id, end);
        self.moved.insert(id);
        true
    }

    pub(super) fn open(&mut self, id: StreamId, stream: Stream) {
        let known = self.by_id.insert(id, stream);
        assert!(
            known.is_none(),
            "I6: stream {id:?} has been given out before"
        );
    }

    /// Ends a live stream; it waits for its seal from now on.
    pub(super) fn end(&mut self, id: StreamId) {
        if let Some(stream) = self.by_id.get_mut(&id)
            && stream.phase == Phase::Live
        {
            stream.phase = Phase::Ended;
        }
    }

    /// Ends a live stream whose writer stopped in order; it waits for its seal from now on.
    pub(super) fn leave(&mut self, id: StreamId) {
        if let Some(stream) = self.by_id.get_mut(&id)
            && stream.phase == Phase::Live
        {
            stream.phase = Phase::Left;
            stream.is_whole = true;
        }
    }

    /// Seals a stream. True if that is news.
    pub(super) fn seal(&mut self, id: StreamId, end: Slot) -> Result<bool, StreamError> {
        let stream = self.by_id.get_mut(&id).ok_or(StreamError::Unknown(id))?;
        match stream.phase {
            Phase::Live => return Err(StreamError::Live(id)),
            Phase::Sealed { end: known } if known == end => return Ok(false),
            Phase::Sealed { end } => return Err(StreamError::Sealed { stream: id, end }),
            Phase::Ended | Phase::Left => {}
        }
        let refused = |reason: String| StreamError::EndTooLow {
            stream: id,
            end,
            reason,
        };
        if end < stream.floor {
            return Err(refused(format!("its floor is {}", stream.floor)));
        }
        if end < stream.durable_end {
            return Err(refused(format!(
                "its writer reported slots below {} durable",
                stream.durable_end
            )));
        }
        stream.phase = Phase::Sealed { end };
        self.moved.insert(id);
        Ok(true)
    }

    /// Notes that slots below `end` are durable. False if that was known.
    pub(super) fn raise_durable(&mut self, id: StreamId, end: Slot) -> bool {
        match self.by_id.get_mut(&id) {
            Some(stream) if stream.durable_end < end => {
                stream.durable_end = end;
                self.moved.insert(id);
                true
            }
            _ => false,
        }
    }

    /// Notes that only a disk may hold what the stream's writer acknowledged. False if that was
    /// known.
    pub(super) fn note_local(&mut self, id: StreamId) -> bool {
        let stream = self.by_id.get_mut(&id);
        stream.is_some_and(|stream| !std::mem::replace(&mut stream.holds_local, true))
    }

    /// A window or state row names the slot from now on.
    pub(super) fn pin(&mut self, id: StreamId, slot: Slot) {
        *self.pins.entry(id).or_default().entry(slot).or_default() += 1;
        self.moved.insert(id);
    }

    /// A window or state row no longer names the slot.
    pub(super) fn unpin(&mut self, id: StreamId, slot: Slot) {
        let pins = self.pins.entry(id).or_default();
        let count = pins.get_mut(&slot);
        assert!(
            count.is_some(),
            "I7: slot {slot} of stream {id} was let go of more often than it was named"
        );
        if let Some(count) = count {
            *count -= 1;
            if *count == 0 {
                pins.remove(&slot);
            }
        }
        self.moved.insert(id);
    }

    /// Raises the floors that may have moved; the last step of every command.
    pub(super) fn settle(&mut self) {
        for id in std::mem::take(&mut self.moved) {
            let Some(stream) = self.by_id.get_mut(&id) else {
                continue;
            };
            let pins = self.pins.get(&id);
            let least = pins.and_then(|pins| pins.first_key_value());
            let resolved = match stream.phase {
                Phase::Sealed { end } => end,
                Phase::Ended | Phase::Live | Phase::Left => stream.durable_end,
            };
            let rows_end = self.rows_ends.get(&id).copied().unwrap_or(Slot(0));
            // A fold of whoever holds a pin reads from `rows_end` on, which may lie below the slot
            // that holds the row. What was let go of before that was noted stays so.
            let held = |slot: &Slot| rows_end.min(*slot).max(stream.floor.min(*slot));
            let floor = least.map_or(resolved, |(slot, _)| held(slot));
            assert!(
                stream.floor <= floor && floor <= resolved,
                "I7: the floor of stream {id} must rise from {} and stay at or below {resolved}, \
                 but windows and rows put it at {floor}",
                stream.floor
            );
            stream.floor = floor;
            if pins.is_some_and(BTreeMap::is_empty) {
                self.pins.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Streams {
        pub(crate) fn forget_how_sealed_ones_ended(&mut self) {
            for stream in self.by_id.values_mut() {
                stream.is_whole &= stream.phase == Phase::Left;
            }
        }
    }

    /// A row in slot 8 is the state after an earlier one: whoever folds from it reads what was in
    /// flight when it was taken.
    #[test]
    fn a_floor_leaves_what_a_fold_from_the_row_reads() {
        let id = StreamId(1);
        let mut streams = Streams::default();
        let live = Stream {
            broker: BrokerId(1),
            incarnation: Incarnation(1),
            disk: None,
            floor: Slot(0),
            durable_end: Slot(0),
            phase: Phase::Live,
            holds_local: false,
            is_whole: false,
        };
        streams.open(id, live);
        streams.raise_durable(id, Slot(10));
        streams.pin(id, Slot(8));
        streams.settle();
        assert_eq!(streams.find(id).unwrap().floor, Slot(0), "nothing is known");
        assert!(streams.raise_rows_end(id, Slot(6)));
        assert!(!streams.raise_rows_end(id, Slot(5)), "it never goes back");
        streams.settle();
        assert_eq!(streams.find(id).unwrap().floor, Slot(6));
        assert!(streams.raise_rows_end(id, Slot(20)));
        assert_eq!(streams.rows_end(id), Slot(10), "rows hold what is durable");
        streams.settle();
        assert_eq!(streams.find(id).unwrap().floor, Slot(8));
    }
}
