//! Which clients were sent to the broker of their rack. Pure: the time comes in.
//!
//! A client that comes back soon could not be served there: the broker was dead, could not be reached
//! by it, or could not reach the owner. It is served here then, and sent again only after a while:
//! clients do as they are told as often as they are told.
//!
//! One that asks again at once has not been there yet, and is told again: librdkafka may put a partition
//! that it is about to read elsewhere into one more Fetch, and throws away what that brings.

use std::collections::{BTreeMap, VecDeque};

use firn_proto::env::Mono;
use firn_proto::ids::TopicPartition;
use firn_proto::limits::{SENT_AGAIN_WITHIN, SENT_AWAY_LASTS, SENT_AWAY_MAX};

/// A partition that a client, known by its connection, was to read elsewhere.
type Sent = (u64, TopicPartition);

/// See the module.
#[derive(Debug, Default)]
pub struct SentAway {
    sent: BTreeMap<Sent, Mono>,
    /// In the order in which they were sent.
    since: VecDeque<(Mono, Sent)>,
}

impl SentAway {
    /// Whether the client of a connection is to be sent away to read a partition that it asks for since
    /// `asked`; then it is remembered that it was.
    pub fn send(&mut self, connection: u64, tp: TopicPartition, asked: Mono) -> bool {
        while let Some((_, sent)) = self
            .since
            .pop_front_if(|(at, _)| asked.since(*at) >= SENT_AWAY_LASTS)
        {
            self.sent.remove(&sent);
        }
        let sent = (connection, tp);
        if let Some(at) = self.sent.get(&sent) {
            return asked.since(*at) <= SENT_AGAIN_WITHIN;
        }
        let has_room = self.sent.len() < SENT_AWAY_MAX;
        if has_room {
            self.sent.insert(sent, asked);
            self.since.push_back((asked, sent));
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use firn_proto::ids::{PartitionIndex, TopicId};

    use super::*;

    fn tp(partition: i32) -> TopicPartition {
        TopicPartition {
            topic: TopicId([1; 16]),
            partition: PartitionIndex(partition),
        }
    }

    #[test]
    fn a_client_that_comes_back_is_sent_again_only_after_a_while() {
        let mut sent = SentAway::default();
        let start = Mono(1_000_000);
        assert!(sent.send(1, tp(0), start));
        assert!(sent.send(1, tp(0), start), "the same question");
        let back = start.after(SENT_AGAIN_WITHIN + Duration::from_millis(1));
        assert!(!sent.send(1, tp(0), back));
        assert!(sent.send(1, tp(1), start), "another partition");
        assert!(sent.send(2, tp(0), start), "another client");
        let later = start.after(SENT_AWAY_LASTS);
        assert!(sent.send(1, tp(0), later));
        assert!(!sent.send(1, tp(0), later.after(Duration::from_secs(1))));
    }

    #[test]
    fn a_client_that_asks_again_at_once_has_not_come_back_yet() {
        let mut sent = SentAway::default();
        let start = Mono(1_000_000);
        assert!(sent.send(1, tp(0), start));
        for _ in 0..2 {
            assert!(sent.send(1, tp(0), start.after(SENT_AGAIN_WITHIN)));
        }
        let back = start.after(SENT_AGAIN_WITHIN + SENT_AGAIN_WITHIN);
        assert!(
            !sent.send(1, tp(0), back),
            "that is told from the first time"
        );
    }

    #[test]
    fn whom_there_is_no_room_to_remember_is_not_sent() {
        let mut sent = SentAway::default();
        let start = Mono(1_000_000);
        for connection in 0..SENT_AWAY_MAX as u64 {
            assert!(sent.send(connection, tp(0), start));
        }
        assert!(!sent.send(u64::MAX, tp(0), start));
        let later = start.after(SENT_AWAY_LASTS);
        assert!(sent.send(u64::MAX, tp(0), later));
        assert_eq!((sent.sent.len(), sent.since.len()), (1, 1));
    }
}
