//! What an owner tells brokers of other racks about its partitions.

use std::sync::Arc;

use firn_coordinator::Coordinator;
use firn_proto::cluster::ClusterImage;
use firn_proto::env::Clock;
use firn_proto::ids::Incarnation;
use firn_proto::limits::{LOOK_RUNS_MAX, LOOK_WAIT_MAX, READ_RUNS_MAX};
use firn_proto::link::{Look, Looks, Sight, SightRun, Sights};
use firn_storage::state::RunRef;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::link::Owning;
use crate::partition::{Partition, Partitions};

/// The partitions of this process, as others may look at them. Cheap to clone.
#[derive(Clone)]
pub struct OwnedPartitions {
    partitions: Arc<Partitions>,
    incarnation: Incarnation,
    coordinator: Coordinator,
    image: watch::Receiver<Arc<ClusterImage>>,
    clock: Arc<dyn Clock>,
}

impl Owning for OwnedPartitions {
    fn look(&self, looks: Looks) -> BoxFuture<'static, Sights> {
        self.clone().answer(looks).boxed()
    }
}

/// What there is at one moment.
struct Seen {
    sights: Sights,
    /// What was looked at, up to which high watermark.
    partitions: Vec<(Arc<Partition>, i64)>,
    /// About how many bytes there are to read: what all sights say together, so that the reader finds
    /// as many.
    available: usize,
    /// The reader must know at once: something is not owned here, or no offset of it.
    is_urgent: bool,
}

impl OwnedPartitions {
    /// The partitions of the process of `incarnation`.
    pub fn new(
        partitions: Arc<Partitions>,
        incarnation: Incarnation,
        coordinator: Coordinator,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            partitions,
            incarnation,
            image: coordinator.image(),
            coordinator,
            clock,
        }
    }

    /// The answer, under the rules for an answer to a client of this broker: who does not hear from
    /// the leader says nothing. It says so at once, for the reader waits for records and for no leader.
    async fn answer(self, looks: Looks) -> Sights {
        if !self.may_read() {
            return Sights::new();
        }
        let sights = self.wait(&looks).await;
        // While it waited, this process may have stood still, and another may own them.
        match self.may_read() {
            true => sights,
            false => Sights::new(),
        }
    }

    fn may_read(&self) -> bool {
        self.coordinator.is_read_or_look(self.clock.mono())
    }

    async fn wait(&self, looks: &Looks) -> Sights {
        let began = self.clock.mono();
        let wait = looks.wait.min(LOOK_WAIT_MAX);
        let wanted = usize::try_from(looks.bytes_min).unwrap_or(usize::MAX);
        loop {
            let seen = self.see(looks);
            let left = wait.saturating_sub(self.clock.mono().since(began));
            if seen.is_urgent || seen.available >= wanted || left.is_zero() {
                return seen.sights;
            }
            let missing = wanted - seen.available;
            let wait = self.partitions.wait(&seen.partitions, missing);
            drop(seen);
            // Woken or not, what there is decides.
            let _ = timeout(left, wait.ready()).await;
        }
    }

    fn see(&self, looks: &Looks) -> Seen {
        let image = self.image.borrow().clone();
        let mut seen = Seen {
            sights: Vec::with_capacity(looks.partitions.len()),
            partitions: Vec::new(),
            available: 0,
            is_urgent: false,
        };
        let mut runs_left = LOOK_RUNS_MAX;
        for look in &looks.partitions {
            let Some(partition) = self.owned(&image, look) else {
                seen.is_urgent = true;
                seen.sights.push(None);
                continue;
            };
            // First: what becomes visible meanwhile is looked at again.
            let looked_to = partition.bounds().high_watermark;
            let sight = sight(&partition, look, looks.read_committed, runs_left);
            runs_left -= sight.runs.len();
            seen.is_urgent |= look.offset < sight.log_start || look.offset > sight.log_end;
            seen.available = seen.available.saturating_add(sight.available as usize);
            seen.partitions.push((partition, looked_to));
            seen.sights.push(Some(sight));
        }
        seen
    }

    /// The partition, if this process owns it in the epoch that the reader names, and the bucket has
    /// all that is visible of it: of a topic that was local it may lack the end for a while.
    fn owned(&self, image: &ClusterImage, look: &Look) -> Option<Arc<Partition>> {
        let known = image.topic(look.tp.topic)?.partition(look.tp.partition)?;
        let is_own = known
            .owner
            .is_some_and(|owner| owner.incarnation == self.incarnation);
        let open = self.partitions.find_tp(look.tp);
        let is_it = |open: &Arc<Partition>| {
            is_own && known.epoch == look.epoch && open.epoch() == look.epoch
        };
        open.filter(|open| is_it(open) && open.bounds().bucket_has_all())
    }
}

/// What a reader may know of a partition, with up to `runs_max` runs.
fn sight(partition: &Partition, look: &Look, committed: bool, runs_max: usize) -> Sight {
    let bounds = partition.bounds();
    // Others have nothing but the bucket, and the topic may have become local since it was looked.
    let high_watermark = bounds.high_watermark.min(bounds.durable_end);
    let last_stable_offset = bounds.last_stable_offset.min(bounds.durable_end);
    let end = match committed {
        true => last_stable_offset,
        false => high_watermark,
    };
    let offset = look.offset.max(bounds.archived_to);
    let bytes = usize::try_from(look.bytes_max).unwrap_or(usize::MAX);
    let mut runs = match offset < end {
        true => partition.runs(offset, end, bytes),
        false => Vec::new(),
    };
    let available = available(look, bounds.archived_to, end, &runs);
    runs.truncate(READ_RUNS_MAX.min(runs_max));
    Sight {
        log_start: bounds.log_start,
        archived_to: bounds.archived_to,
        high_watermark,
        last_stable_offset,
        log_end: bounds.log_end,
        available,
        runs: runs.iter().map(told).collect(),
    }
}

/// About how many bytes there are of those that are wanted, in `runs`, which are all of these, or in
/// segments.
fn available(look: &Look, archived_to: i64, end: i64, runs: &[RunRef]) -> u32 {
    if look.offset >= end {
        return 0;
    }
    let wanted = look.bytes_max.max(1);
    if look.offset < archived_to {
        // Whoever is that far behind has as much as it wants.
        return wanted;
    }
    let there: u64 = runs.iter().map(|run| u64::from(run.run.byte_len)).sum();
    u32::try_from(there).unwrap_or(u32::MAX).clamp(1, wanted)
}

fn told(found: &RunRef) -> SightRun {
    let RunRef { at, run } = *found;
    SightRun {
        at,
        epoch: run.epoch,
        base_offset: run.base_offset,
        last_offset: run.last_offset,
        byte_start: run.byte_start,
        byte_len: run.byte_len,
        max_timestamp: run.max_timestamp,
        flags: run.flags.0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use firn_coordinator::Environment;
    use firn_proto::env::{Entropy, Mono};
    use firn_proto::ids::{
        LeaderEpoch, PartitionIndex, Slot, SlotPosition, StreamId, TopicId, TopicPartition,
    };
    use firn_proto::limits::FENCE_LOOK_LASTS;
    use firn_storage::cache::TailCache;
    use firn_storage::state::{BatchFlags, Run};

    use super::*;

    /// It is always that late.
    struct At(Mono);

    impl Clock for At {
        fn wall_ms(&self) -> i64 {
            0
        }

        fn mono(&self) -> Mono {
            self.0
        }
    }

    /// What a process says at `now` that was alone at the beginning of time.
    fn says(now: Mono, coordinator: Coordinator) -> Option<Sights> {
        let clock = Arc::new(At(now));
        let tail = Arc::new(TailCache::new(0));
        let partitions = Arc::new(Partitions::new(Arc::clone(&clock) as _, tail, 1));
        let owned = OwnedPartitions::new(partitions, Incarnation(1), coordinator, clock);
        let looks = Looks {
            wait: Duration::ZERO,
            bytes_min: 0,
            read_committed: false,
            partitions: vec![look(0, 1)],
        };
        owned.look(looks).now_or_never()
    }

    #[tokio::test]
    async fn a_process_that_has_not_heard_from_the_leader_for_long_says_nothing_and_at_once() {
        let (coordinator, _seat) = Coordinator::vacant(Environment {
            clock: Arc::new(At(Mono(0))),
            entropy: Arc::new(Entropy::from_seed(1)),
        });
        let owns_none = vec![None];
        assert_eq!(says(Mono(0), coordinator.clone()), Some(owns_none));
        let later = Mono(0).after(2 * FENCE_LOOK_LASTS);
        assert_eq!(says(later, coordinator), Some(Sights::new()));
    }

    const TP: TopicPartition = TopicPartition {
        topic: TopicId([1; 16]),
        partition: PartitionIndex(0),
    };

    fn look(offset: i64, bytes_max: u32) -> Look {
        Look {
            tp: TP,
            epoch: LeaderEpoch(1),
            offset,
            bytes_max,
        }
    }

    /// Runs of ten offsets and so many bytes, from offset 100 on.
    fn runs(count: i64, byte_len: u32) -> Vec<RunRef> {
        let run = |number: i64| RunRef {
            at: SlotPosition {
                stream: StreamId(3),
                slot: Slot(number.unsigned_abs()),
            },
            run: Run {
                tp: TP,
                epoch: LeaderEpoch(1),
                base_offset: 100 + 10 * number,
                last_offset: 109 + 10 * number,
                byte_start: 0,
                byte_len,
                max_timestamp: 0,
                flags: BatchFlags(0),
            },
        };
        (0..count).map(run).collect()
    }

    #[test]
    fn no_partition_has_more_than_is_wanted_of_it_however_far_behind_its_reader_is() {
        let lags = |bytes_max| available(&look(100, bytes_max), 100, 1100, &runs(100, 1000));
        assert_eq!(lags(1_000_000), 100_000);
        assert_eq!(lags(5_000), 5_000);
        assert_eq!(
            available(&look(0, 5_000), 100, 1100, &[]),
            5_000,
            "archived"
        );
        assert_eq!(available(&look(0, u32::MAX), 100, 1100, &[]), u32::MAX);
    }

    #[test]
    fn bytes_of_runs_that_the_answer_has_no_room_for_are_there() {
        let many = READ_RUNS_MAX as i64 * 2;
        let all = available(&look(100, u32::MAX), 100, 100 + 10 * many, &runs(many, 1));
        assert_eq!(i64::from(all), many);
    }

    #[test]
    fn something_is_there_exactly_where_something_is_visible() {
        assert_eq!(available(&look(100, 1000), 100, 100, &[]), 0);
        assert_eq!(available(&look(120, 1000), 100, 110, &runs(1, 9)), 0);
        assert_eq!(available(&look(100, 0), 100, 110, &runs(1, 9)), 1);
        assert_eq!(available(&look(99, 0), 100, 110, &[]), 1);
    }
}
