//! Batches of idempotent producers that were refused. Pure.
//!
//! A producer without state may start at any sequence number (KIP-360). So when its first batch is
//! refused, say because the partition was not open yet, the next one, which the client has already
//! sent, would be taken, and the first could never be stored again. It is remembered here for a
//! while which batch has to come first; of a producer that is known too, for it may be forgotten
//! before it sends the batch again. Known ones, of whom an outage refuses many, take no place from
//! the others.
//!
//! When there is no room to remember a refusal, it is at least remembered that there was none: for
//! as long as that batch may be sent again, no unknown producer may begin in the middle before its
//! client has sent its batches again from the first one on.

use std::collections::{BTreeMap, BTreeSet};

use firn_proto::env::Mono;
use firn_proto::ids::{ProducerEpoch, ProducerId, TopicPartition};
use firn_proto::limits::{PRODUCER_RETRY_WINDOW, REFUSALS_KNOWN_MAX, REFUSALS_UNKNOWN_MAX};
use firn_proto::record::BatchHeader;

/// Which refused batch of which producer has to come first. Bounded.
#[derive(Debug, Default)]
pub struct Refusals {
    refused: BTreeMap<Key, Refused>,
    /// The same, by when they were refused.
    by_age: BTreeSet<(Mono, Key)>,
    /// How many of them are of producers that were known.
    of_known: usize,
    /// When one was last passed over for want of room.
    passed_over: Option<Mono>,
}

type Key = (TopicPartition, ProducerId);

#[derive(Clone, Copy, Debug)]
struct Refused {
    epoch: ProducerEpoch,
    base_sequence: i32,
    at: Mono,
    was_known: bool,
    /// Whether no earlier batch of the producer may have been passed over.
    is_first: bool,
}

impl Refused {
    fn is_old(&self, now: Mono) -> bool {
        now.since(self.at) >= PRODUCER_RETRY_WINDOW
    }

    /// Whether a batch of this session may come now.
    fn lets(&self, base_sequence: i32) -> bool {
        base_sequence == self.base_sequence
            || (!self.is_first && precedes(base_sequence, self.base_sequence))
    }
}

/// Why a batch of a producer of which nothing is known may not be stored now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// The batch with this sequence number was refused, and has to come first.
    Batch(i32),
    /// One may have been refused that there was no room to remember.
    PassedOver,
}

impl Refusals {
    /// A batch is refused. `is_known`: something is remembered of its producer, which may be
    /// forgotten before it sends the batch again.
    pub fn on_refused(
        &mut self,
        tp: TopicPartition,
        header: &BatchHeader,
        is_known: bool,
        now: Mono,
    ) {
        if !header.has_producer() || header.base_sequence < 0 {
            return;
        }
        self.forget_old(now);
        let key = (tp, header.producer_id);
        if let Some(earlier) = self.refused.get_mut(&key)
            && earlier.epoch >= header.producer_epoch
        {
            if earlier.epoch == header.producer_epoch && earlier.lets(header.base_sequence) {
                earlier.base_sequence = header.base_sequence;
            }
            return;
        }
        // of an older session
        self.remove(key);
        let is_full = match is_known {
            true => self.of_known >= REFUSALS_KNOWN_MAX,
            false => self.refused.len() - self.of_known >= REFUSALS_UNKNOWN_MAX,
        };
        if is_full {
            self.passed_over = Some(now);
            return;
        }
        let refused = Refused {
            epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            at: now,
            was_known: is_known,
            is_first: header.base_sequence == 0 || !self.has_passed_over(now),
        };
        self.refused.insert(key, refused);
        self.by_age.insert((now, key));
        self.of_known += usize::from(is_known);
    }

    /// Whether a batch of a producer of which nothing is known may be stored now.
    ///
    /// # Errors
    /// [`Behind`]: what has to come first.
    pub fn check(&self, tp: TopicPartition, header: &BatchHeader, now: Mono) -> Result<(), Behind> {
        let refused = self.refused.get(&(tp, header.producer_id));
        let of_session =
            |refused: &&Refused| refused.epoch == header.producer_epoch && !refused.is_old(now);
        match refused.filter(of_session) {
            Some(refused) if refused.lets(header.base_sequence) => Ok(()),
            Some(refused) => Err(Behind::Batch(refused.base_sequence)),
            None if header.base_sequence > 0 && self.has_passed_over(now) => {
                Err(Behind::PassedOver)
            }
            None => Ok(()),
        }
    }

    /// A batch of the producer was stored: from here on its sequence numbers say what is missing.
    pub fn on_stored(&mut self, tp: TopicPartition, producer: ProducerId) {
        self.remove((tp, producer));
    }

    /// A batch was stored before, and this is a repeat of it: nothing is missing if it is the one
    /// that was refused.
    pub fn on_repeated(&mut self, tp: TopicPartition, header: &BatchHeader) {
        let key = (tp, header.producer_id);
        let is_it = |known: &Refused| {
            known.epoch == header.producer_epoch && known.base_sequence == header.base_sequence
        };
        if self.refused.get(&key).is_some_and(is_it) {
            self.remove(key);
        }
    }

    /// Whether nothing is remembered of any batch.
    pub fn is_empty(&self) -> bool {
        self.refused.is_empty()
    }

    fn has_passed_over(&self, now: Mono) -> bool {
        let last = self.passed_over;
        last.is_some_and(|at| now.since(at) < PRODUCER_RETRY_WINDOW)
    }

    fn forget_old(&mut self, now: Mono) {
        while let Some((at, key)) = self.by_age.first().copied()
            && now.since(at) >= PRODUCER_RETRY_WINDOW
        {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: Key) {
        if let Some(refused) = self.refused.remove(&key) {
            self.by_age.remove(&(refused.at, key));
            self.of_known -= usize::from(refused.was_known);
        }
    }
}

/// Whether `earlier` comes before `later` among sequence numbers, which wrap from 2^31 − 1 to 0.
fn precedes(earlier: i32, later: i32) -> bool {
    let ahead = later.wrapping_sub(earlier) & i32::MAX;
    (1..1 << 30).contains(&ahead)
}

#[cfg(test)]
mod tests {
    use super::*;
    use firn_proto::ids::{PartitionIndex, TopicId};
    use firn_proto::record::{BatchBuilder, NewRecord};

    const TP: TopicPartition = TopicPartition {
        topic: TopicId([1; 16]),
        partition: PartitionIndex(0),
    };

    fn batch(producer: i64, epoch: i16, base_sequence: i32) -> BatchHeader {
        let mut builder = BatchBuilder::default().producer(
            ProducerId(producer),
            ProducerEpoch(epoch),
            base_sequence,
        );
        builder.push(&NewRecord::default()).unwrap();
        *builder.build().unwrap().header()
    }

    #[test]
    fn the_batch_that_was_refused_first_has_to_come_first() {
        let mut refusals = Refusals::default();
        let now = Mono(0);
        refusals.on_refused(TP, &batch(1, 0, 5), false, now);
        refusals.on_refused(TP, &batch(1, 0, 6), false, now);
        assert_eq!(
            refusals.check(TP, &batch(1, 0, 6), now),
            Err(Behind::Batch(5))
        );
        assert_eq!(refusals.check(TP, &batch(1, 0, 5), now), Ok(()));
        assert_eq!(refusals.check(TP, &batch(2, 0, 6), now), Ok(()));
        refusals.on_stored(TP, ProducerId(1));
        assert!(refusals.is_empty());
    }

    #[test]
    fn a_new_session_owes_nothing() {
        let mut refusals = Refusals::default();
        refusals.on_refused(TP, &batch(1, 0, 5), false, Mono(0));
        assert_eq!(refusals.check(TP, &batch(1, 1, 0), Mono(0)), Ok(()));
        refusals.on_refused(TP, &batch(1, 1, 0), false, Mono(0));
        assert_eq!(
            refusals.check(TP, &batch(1, 1, 9), Mono(0)),
            Err(Behind::Batch(0))
        );
    }

    #[test]
    fn a_client_that_never_comes_back_is_forgotten() {
        let mut refusals = Refusals::default();
        refusals.on_refused(TP, &batch(1, 0, 5), false, Mono(0));
        let later = Mono(0).after(PRODUCER_RETRY_WINDOW);
        assert_eq!(refusals.check(TP, &batch(1, 0, 6), later), Ok(()));
    }

    /// As many refusals as are remembered, half of them of known producers, and `more`.
    fn full(more: usize, is_known: bool) -> Refusals {
        let mut refusals = Refusals::default();
        for producer in 0..REFUSALS_UNKNOWN_MAX as i64 {
            refusals.on_refused(TP, &batch(producer, 0, 5), false, Mono(0));
        }
        for producer in 0..REFUSALS_KNOWN_MAX as i64 {
            refusals.on_refused(TP, &batch(KNOWN + producer, 0, 5), true, Mono(0));
        }
        for producer in 0..more as i64 {
            refusals.on_refused(TP, &batch(MORE + producer, 0, 5), is_known, Mono(0));
        }
        refusals
    }

    const KNOWN: i64 = 1 << 40;
    const MORE: i64 = 1 << 41;

    #[test]
    fn the_memory_is_bounded() {
        let mut refusals = full(10, false);
        let most = REFUSALS_UNKNOWN_MAX + REFUSALS_KNOWN_MAX;
        assert_eq!(refusals.refused.len(), most);
        assert_eq!(refusals.by_age.len(), most);
        let later = Mono(0).after(PRODUCER_RETRY_WINDOW);
        refusals.on_refused(TP, &batch(MORE, 0, 5), false, later);
        assert_eq!((refusals.refused.len(), refusals.by_age.len()), (1, 1));
        assert_eq!(refusals.of_known, 0);
    }

    #[test]
    fn known_producers_take_no_place_from_unknown_ones() {
        let mut refusals = Refusals::default();
        for producer in 0..2 * REFUSALS_KNOWN_MAX as i64 {
            refusals.on_refused(TP, &batch(KNOWN + producer, 0, 5), true, Mono(0));
        }
        refusals.on_refused(TP, &batch(1, 0, 0), false, Mono(0));
        let check = |sequence| refusals.check(TP, &batch(1, 0, sequence), Mono(0));
        assert_eq!((check(0), check(1)), (Ok(()), Err(Behind::Batch(0))));
    }

    #[test]
    fn while_a_refusal_may_have_been_passed_over_no_unknown_producer_begins_in_the_middle() {
        for is_known in [false, true] {
            let refusals = full(1, is_known);
            let check = |sequence, at| refusals.check(TP, &batch(MORE, 0, sequence), at);
            assert_eq!(check(6, Mono(0)), Err(Behind::PassedOver));
            assert_eq!(check(0, Mono(0)), Ok(()), "nothing comes before it");
            assert_eq!(check(6, Mono(0).after(PRODUCER_RETRY_WINDOW)), Ok(()));
        }
        assert_eq!(
            full(0, false).check(TP, &batch(MORE, 0, 6), Mono(0)),
            Ok(())
        );
    }

    #[test]
    fn once_there_is_room_who_was_passed_over_goes_on_with_the_batch_it_sends_again() {
        let mut refusals = full(1, false);
        refusals.on_stored(TP, ProducerId(0));
        // batch 5 was passed over; 6 comes behind it, and then both again
        refusals.on_refused(TP, &batch(MORE, 0, 6), false, Mono(0));
        assert_eq!(refusals.check(TP, &batch(MORE, 0, 5), Mono(0)), Ok(()));
        assert_eq!(
            refusals.check(TP, &batch(MORE, 0, 7), Mono(0)),
            Err(Behind::Batch(6))
        );
        refusals.on_refused(TP, &batch(MORE, 0, 5), false, Mono(0));
        assert_eq!(
            refusals.check(TP, &batch(MORE, 0, 6), Mono(0)),
            Err(Behind::Batch(5))
        );
    }

    #[test]
    fn sequence_numbers_wrap() {
        assert!(precedes(i32::MAX, 0) && precedes(4, 5));
        assert!(!precedes(0, i32::MAX) && !precedes(5, 5) && !precedes(5, 4));
    }

    #[test]
    fn batches_without_a_producer_are_none_of_its_business() {
        let mut refusals = Refusals::default();
        let mut builder = BatchBuilder::default();
        builder.push(&NewRecord::default()).unwrap();
        refusals.on_refused(TP, builder.build().unwrap().header(), false, Mono(0));
        assert!(refusals.is_empty());
    }
}
