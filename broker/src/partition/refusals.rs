//! Batches of idempotent producers that were refused. Pure.
//!
//! A producer without state may start at any sequence number (KIP-360). So when its first batch is
//! refused, say because the partition was not open yet, the next one, which the client has already
//! sent, would be taken, and the first could never be stored again. It is remembered here for a
//! while which batch has to come first; of a producer that is known too, for it may be forgotten
//! before it sends the batch again.

use std::collections::BTreeMap;

use firn_proto::env::Mono;
use firn_proto::ids::{ProducerEpoch, ProducerId, TopicPartition};
use firn_proto::limits::{PRODUCER_RETRY_WINDOW, REFUSALS_MAX};
use firn_proto::record::BatchHeader;

/// Which refused batch of which producer has to come first. Bounded.
#[derive(Debug, Default)]
pub struct Refusals {
    refused: BTreeMap<(TopicPartition, ProducerId), Refused>,
}

#[derive(Clone, Copy, Debug)]
struct Refused {
    epoch: ProducerEpoch,
    base_sequence: i32,
    at: Mono,
}

impl Refusals {
    /// A batch is refused.
    pub fn on_refused(&mut self, tp: TopicPartition, header: &BatchHeader, now: Mono) {
        if !header.has_producer() || header.base_sequence < 0 {
            return;
        }
        let key = (tp, header.producer_id);
        let earlier = self.refused.get(&key).is_some_and(|known| {
            known.epoch >= header.producer_epoch && now.since(known.at) < PRODUCER_RETRY_WINDOW
        });
        if earlier {
            return;
        }
        if self.refused.len() >= REFUSALS_MAX {
            self.refused
                .retain(|_, known| now.since(known.at) < PRODUCER_RETRY_WINDOW);
        }
        // full of fresh ones: the broker goes on as Kafka does, without this memory
        if self.refused.len() < REFUSALS_MAX {
            let refused = Refused {
                epoch: header.producer_epoch,
                base_sequence: header.base_sequence,
                at: now,
            };
            self.refused.insert(key, refused);
        }
    }

    /// Whether a batch of a producer of which nothing is known may be stored now; if not, the
    /// sequence number that has to come first.
    pub fn check(&self, tp: TopicPartition, header: &BatchHeader, now: Mono) -> Result<(), i32> {
        match self.refused.get(&(tp, header.producer_id)) {
            Some(known)
                if known.epoch == header.producer_epoch
                    && known.base_sequence != header.base_sequence
                    && now.since(known.at) < PRODUCER_RETRY_WINDOW =>
            {
                Err(known.base_sequence)
            }
            _ => Ok(()),
        }
    }

    /// A batch of the producer was stored: from here on its sequence numbers say what is missing.
    pub fn on_stored(&mut self, tp: TopicPartition, producer: ProducerId) {
        self.refused.remove(&(tp, producer));
    }

    /// A batch was stored before, and this is a repeat of it: nothing is missing if it is the one
    /// that was refused.
    pub fn on_repeated(&mut self, tp: TopicPartition, header: &BatchHeader) {
        let key = (tp, header.producer_id);
        let is_it = |known: &Refused| {
            known.epoch == header.producer_epoch && known.base_sequence == header.base_sequence
        };
        if self.refused.get(&key).is_some_and(is_it) {
            self.refused.remove(&key);
        }
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.refused.is_empty()
    }
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
        refusals.on_refused(TP, &batch(1, 0, 5), now);
        refusals.on_refused(TP, &batch(1, 0, 6), now);
        assert_eq!(refusals.check(TP, &batch(1, 0, 6), now), Err(5));
        assert_eq!(refusals.check(TP, &batch(1, 0, 5), now), Ok(()));
        assert_eq!(refusals.check(TP, &batch(2, 0, 6), now), Ok(()));
        refusals.on_stored(TP, ProducerId(1));
        assert!(refusals.is_empty());
    }

    #[test]
    fn a_new_session_owes_nothing() {
        let mut refusals = Refusals::default();
        refusals.on_refused(TP, &batch(1, 0, 5), Mono(0));
        assert_eq!(refusals.check(TP, &batch(1, 1, 0), Mono(0)), Ok(()));
        refusals.on_refused(TP, &batch(1, 1, 0), Mono(0));
        assert_eq!(refusals.check(TP, &batch(1, 1, 9), Mono(0)), Err(0));
    }

    #[test]
    fn a_client_that_never_comes_back_is_forgotten() {
        let mut refusals = Refusals::default();
        refusals.on_refused(TP, &batch(1, 0, 5), Mono(0));
        let later = Mono(0).after(PRODUCER_RETRY_WINDOW);
        assert_eq!(refusals.check(TP, &batch(1, 0, 6), later), Ok(()));
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut refusals = Refusals::default();
        for producer in 0..REFUSALS_MAX as i64 + 10 {
            refusals.on_refused(TP, &batch(producer, 0, 5), Mono(0));
        }
        assert_eq!(refusals.refused.len(), REFUSALS_MAX);
        let later = Mono(0).after(PRODUCER_RETRY_WINDOW);
        refusals.on_refused(TP, &batch(1 << 40, 0, 5), later);
        assert_eq!(refusals.refused.len(), 1);
    }

    #[test]
    fn batches_without_a_producer_are_none_of_its_business() {
        let mut refusals = Refusals::default();
        let mut builder = BatchBuilder::default();
        builder.push(&NewRecord::default()).unwrap();
        refusals.on_refused(TP, builder.build().unwrap().header(), Mono(0));
        assert!(refusals.is_empty());
    }
}
