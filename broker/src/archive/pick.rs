//! Which topic is archived next, and when. Pure: no clock, no randomness, no IO.
//!
//! A topic is due when a record of it has waited for the topic's interval, or when many bytes
//! wait. The one that should have come first goes first. A topic that could not be archived waits
//! for a while, and all of them do while the bucket refuses, each time longer.

use std::collections::BTreeMap;
use std::time::Duration;

use firn_proto::env::Mono;
use firn_proto::ids::{TopicId, TopicPartition};
use firn_proto::limits::{ARCHIVE_DUE_BYTES, ARCHIVE_PAUSE_MAX, ARCHIVE_PAUSE_MIN};

/// A partition with records that could be archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The partition.
    pub tp: TopicPartition,
    /// Bytes of its records that are in no segment.
    pub bytes: u64,
}

/// How a round of archiving failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The bucket refuses: it will refuse other topics as well.
    Bucket,
    /// Something about the topic.
    Topic(TopicId),
}

/// Picks topics, and knows since when their records wait.
#[derive(Debug, Default)]
pub struct Picker {
    since: BTreeMap<TopicPartition, Mono>,
    topics: BTreeMap<TopicId, Pause>,
    bucket: Option<Pause>,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Mono,
    failures: u32,
}

impl Picker {
    /// Takes note of the partitions that wait, ascending, and says which topic is to be archived
    /// now, if any is. `interval` is how long records of a topic may wait.
    pub fn pick(
        &mut self,
        now: Mono,
        waiting: &[Waiting],
        interval: impl Fn(TopicId) -> Duration,
    ) -> Option<TopicId> {
        self.observe(now, waiting);
        if self.is_paused(now) {
            return None;
        }
        let topics = waiting.chunk_by(|a, b| a.tp.topic == b.tp.topic);
        let due = topics.filter_map(|partitions| {
            let topic = partitions.first()?.tp.topic;
            if self.topics.get(&topic).is_some_and(|p| now < p.until) {
                return None;
            }
            let oldest = partitions
                .iter()
                .filter_map(|p| self.since.get(&p.tp))
                .min();
            let deadline = oldest?.after(interval(topic));
            let bytes: u64 = partitions.iter().map(|partition| partition.bytes).sum();
            (deadline <= now || bytes >= ARCHIVE_DUE_BYTES).then_some((deadline, topic))
        });
        due.min().map(|(_, topic)| topic)
    }

    /// Everything of `topic` that waited at `began` is archived.
    pub fn on_archived(&mut self, topic: TopicId, began: Mono) {
        self.bucket = None;
        self.topics.remove(&topic);
        let of_topic = self.since.iter_mut().filter(|(tp, _)| tp.topic == topic);
        for (_, since) in of_topic {
            *since = began.max(*since);
        }
    }

    /// A round failed. `random` spreads what many brokers do then.
    pub fn on_failed(&mut self, failed: Failed, now: Mono, random: u64) {
        let before = match failed {
            Failed::Bucket => self.bucket,
            Failed::Topic(topic) => self.topics.get(&topic).copied(),
        };
        let failures = before.map_or(0, |pause| pause.failures).saturating_add(1);
        let pause = Pause {
            until: now.after(pause(failures, random)),
            failures,
        };
        match failed {
            Failed::Bucket => self.bucket = Some(pause),
            Failed::Topic(topic) => {
                self.topics.insert(topic, pause);
            }
        }
    }

    /// Whether nothing is archived for now, since the bucket refuses.
    pub fn is_paused(&self, now: Mono) -> bool {
        self.bucket.is_some_and(|pause| now < pause.until)
    }

    /// How long the oldest record of a partition has waited, if any does.
    pub fn age(&self, tp: TopicPartition, now: Mono) -> Option<Duration> {
        self.since.get(&tp).map(|since| now.since(*since))
    }

    /// How long the oldest record of all has waited.
    pub fn oldest(&self, now: Mono) -> Duration {
        let oldest = self.since.values().min();
        oldest.map(|since| now.since(*since)).unwrap_or_default()
    }

    fn observe(&mut self, now: Mono, waiting: &[Waiting]) {
        let since = |tp| self.since.get(&tp).copied().unwrap_or(now);
        self.since = waiting.iter().map(|w| (w.tp, since(w.tp))).collect();
        self.topics.retain(|topic, _| {
            let at = waiting.partition_point(|w| w.tp.topic < *topic);
            waiting.get(at).is_some_and(|w| w.tp.topic == *topic)
        });
    }
}

/// The pause after so many failures in a row.
fn pause(failures: u32, random: u64) -> Duration {
    let longest = ARCHIVE_PAUSE_MIN
        .saturating_mul(1 << failures.saturating_sub(1).min(16))
        .min(ARCHIVE_PAUSE_MAX);
    let half = longest / 2;
    let micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_micros(random % micros)
}

#[cfg(test)]
mod tests {
    use firn_proto::ids::PartitionIndex;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(300);

    fn topic(number: u8) -> TopicId {
        TopicId([number; 16])
    }

    fn waits(of: u8, partition: i32, bytes: u64) -> Waiting {
        let tp = TopicPartition {
            topic: topic(of),
            partition: PartitionIndex(partition),
        };
        Waiting { tp, bytes }
    }

    fn at(seconds: u64) -> Mono {
        Mono(0).after(Duration::from_secs(seconds))
    }

    fn pick(picker: &mut Picker, now: Mono, waiting: &[Waiting]) -> Option<TopicId> {
        picker.pick(now, waiting, |_| INTERVAL)
    }

    #[test]
    fn a_topic_is_due_when_its_oldest_record_has_waited_for_its_interval() {
        let mut picker = Picker::default();
        assert_eq!(pick(&mut picker, at(0), &[waits(1, 0, 5)]), None);
        let both = [waits(1, 0, 5), waits(1, 1, 5)];
        assert_eq!(pick(&mut picker, at(299), &both), None);
        assert_eq!(pick(&mut picker, at(300), &both), Some(topic(1)));
        let short = |_| Duration::from_secs(10);
        assert_eq!(picker.pick(at(300), &both, short), Some(topic(1)));
    }

    #[test]
    fn records_that_came_while_a_round_ran_have_waited_since_it_began() {
        let mut picker = Picker::default();
        let waiting = [waits(1, 0, 5)];
        pick(&mut picker, at(0), &waiting);
        picker.on_archived(topic(1), at(300));
        assert_eq!(pick(&mut picker, at(310), &waiting), None);
        assert_eq!(picker.oldest(at(310)), Duration::from_secs(10));
        assert_eq!(pick(&mut picker, at(600), &waiting), Some(topic(1)));
        assert_eq!(pick(&mut picker, at(601), &[]), None);
        assert_eq!(picker.oldest(at(700)), Duration::ZERO);
        assert_eq!(pick(&mut picker, at(700), &waiting), None, "waits anew");
    }

    #[test]
    fn many_bytes_of_all_partitions_together_are_due_at_once() {
        let mut picker = Picker::default();
        let half = ARCHIVE_DUE_BYTES / 2;
        let one_less = [waits(1, 0, half), waits(1, 1, half - 1), waits(2, 0, 1)];
        assert_eq!(pick(&mut picker, at(0), &one_less), None);
        let enough = [waits(1, 0, half), waits(1, 1, half)];
        assert_eq!(pick(&mut picker, at(0), &enough), Some(topic(1)));
    }

    #[test]
    fn who_should_have_come_first_goes_first() {
        let mut picker = Picker::default();
        let second = waits(2, 0, 1);
        pick(&mut picker, at(0), &[second]);
        let both = [waits(1, 0, ARCHIVE_DUE_BYTES), second];
        assert_eq!(pick(&mut picker, at(20), &both), Some(topic(1)));
        assert_eq!(pick(&mut picker, at(300), &both), Some(topic(2)));
        picker.on_archived(topic(2), at(300));
        assert_eq!(pick(&mut picker, at(301), &both), Some(topic(1)));
    }

    #[test]
    fn a_topic_that_fails_waits_ever_longer_and_holds_up_no_other() {
        let mut picker = Picker::default();
        let both = [waits(1, 0, 1), waits(2, 0, 1)];
        pick(&mut picker, at(0), &both);
        let mut now = at(300);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(pick(&mut picker, now, &both), Some(topic(1)));
            picker.on_failed(Failed::Topic(topic(1)), now, 0);
            assert_eq!(pick(&mut picker, now, &both), Some(topic(2)));
            let again = (1..).find(|ms| {
                let then = now.after(Duration::from_millis(*ms));
                pick(&mut picker, then, &both) == Some(topic(1))
            });
            pauses.push(again.unwrap());
            now = now.after(Duration::from_millis(again.unwrap()));
        }
        assert_eq!(
            pauses,
            [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]
        );
        picker.on_archived(topic(1), now);
        assert_eq!(picker.age(both[0].tp, now), Some(Duration::ZERO));
    }

    #[test]
    fn while_the_bucket_refuses_everybody_waits() {
        let mut picker = Picker::default();
        let both = [waits(1, 0, 1), waits(2, 0, 1)];
        pick(&mut picker, at(0), &both);
        picker.on_failed(Failed::Bucket, at(300), u64::MAX);
        assert!(picker.is_paused(at(300)));
        assert_eq!(pick(&mut picker, at(300), &both), None);
        assert_eq!(pick(&mut picker, at(301), &both), Some(topic(1)));
        picker.on_archived(topic(2), at(300));
        assert!(!picker.is_paused(at(300)));
    }

    #[test]
    fn pauses_have_bounds() {
        for failures in 0..100 {
            for random in [0, 1, u64::MAX] {
                let pause = pause(failures, random);
                assert!(pause >= ARCHIVE_PAUSE_MIN / 2 && pause <= ARCHIVE_PAUSE_MAX);
            }
        }
    }
}
