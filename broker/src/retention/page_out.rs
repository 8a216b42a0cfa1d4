//! Keeps the coordinator's part of the segment map small: the oldest runs of a partition that has
//! many go into a page in the bucket.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use firn_coordinator::Coordinator;
use firn_proto::cluster::{
    ArchiveError, ArchivedRun, CoordinatorError, MapPart, PageOut, Reply, Request, RunsFrom,
    SegmentKey,
};
use firn_proto::env::Entropy;
use firn_proto::ids::{Incarnation, TopicPartition};
use firn_proto::limits::{MAP_PAGE_BYTES_MAX, MAP_PAGE_RUNS};

use firn_storage::bucket::Bucket;
use firn_storage::collect::delete_map_pages;
use firn_storage::map_pages::{WritePageError, write_map_page};
use thiserror::Error;

use crate::segment_map::{MapError, SegmentMap};

/// Writes map pages.
pub struct PageWriter {
    /// Where they go.
    pub bucket: Bucket,
    /// Jitter of attempts.
    pub entropy: Arc<Entropy>,
    /// The map.
    pub segments: Arc<SegmentMap>,
    /// Who keeps it.
    pub coordinator: Coordinator,
    /// Whose pages they are.
    pub incarnation: Incarnation,
    /// The number of the next one.
    pub next: AtomicU64,
}

/// Why runs were not paged out.
#[derive(Debug, Error)]
pub enum PageOutError {
    /// The map does not say which.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The page was not written.
    #[error(transparent)]
    Write(#[from] WritePageError),
    /// The coordinator did not answer.
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    /// The map has changed meanwhile.
    #[error("the map has changed: {0}")]
    Refused(ArchiveError),
}

impl PageWriter {
    /// Pages the oldest runs of a partition out that are in the coordinator's memory, as many as a
    /// page holds.
    ///
    /// # Errors
    /// [`PageOutError`]; the runs are in memory still.
    pub async fn page_out(&self, tp: TopicPartition) -> Result<(), PageOutError> {
        let runs = self.oldest_in_memory(tp).await?;
        if runs.len() < MAP_PAGE_RUNS as usize {
            return Ok(());
        }
        let runs = fitting(&runs);
        let key = SegmentKey {
            incarnation: self.incarnation,
            number: self.next.fetch_add(1, Ordering::Relaxed),
        };
        let page = write_map_page(&self.bucket, &self.entropy, tp, key, runs).await?;
        let request = Request::PageOutRuns(PageOut { tp, page });
        match self.coordinator.call(request).await? {
            Reply::Archive(Err(error)) => {
                // No later command can name it any more: its number is not used again.
                let pages = [(tp.topic, key)];
                if let Err(error) = delete_map_pages(&self.bucket, &pages).await {
                    tracing::debug!(%error, "a page stays until this process has ended");
                }
                Err(PageOutError::Refused(error))
            }
            _ => Ok(()),
        }
    }

    async fn oldest_in_memory(
        &self,
        tp: TopicPartition,
    ) -> Result<Vec<Arc<ArchivedRun>>, MapError> {
        let mut oldest = Vec::new();
        let mut from = 0;
        while oldest.len() < MAP_PAGE_RUNS as usize {
            match self.segments.look(tp, RunsFrom::Offset(from)).await?.part {
                MapPart::Nothing => break,
                MapPart::Page(page) => from = page.last_offset + 1,
                MapPart::Runs(runs) => {
                    let Some(last) = runs.last() else { break };
                    from = last.last_offset + 1;
                    oldest.extend(runs);
                }
            }
        }
        oldest.truncate(MAP_PAGE_RUNS as usize);
        Ok(oldest)
    }
}

/// As many of the first runs as a page has room for.
fn fitting(runs: &[Arc<ArchivedRun>]) -> &[Arc<ArchivedRun>] {
    let mut room = MAP_PAGE_BYTES_MAX;
    let fits = |run: &&Arc<ArchivedRun>| {
        let bytes = size_of::<ArchivedRun>() + size_of_val(&run.row_groups[..]);
        room = room.saturating_sub(bytes);
        room > 0
    };
    let count = runs.iter().take_while(fits).count();
    runs.get(..count.max(1)).unwrap_or(runs)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use firn_coordinator::{Alone, CoordinatorConfig, Environment};
    use firn_proto::cluster::{
        CommitRun, CommitSegment, Listener, NewTopic, RegisterBroker, RegisteredBroker, RowGroup,
        SecurityProtocol,
    };
    use firn_proto::env::{Clock, SystemClock};
    use firn_proto::ids::{LeaderEpoch, PartitionIndex, Slot, SlotPosition, TopicId};
    use firn_proto::limits::MAP_RUNS_IN_MEMORY;
    use firn_storage::cache::{CachedObjects, FoyerCache, TailCache};
    use firn_storage::journal::BucketJournal;
    use firn_storage::read::Reader;
    use firn_storage::stream::StreamEnv;

    use super::*;

    /// A coordinator with a topic of one partition, which this process owns.
    struct World {
        pages: PageWriter,
        registered: RegisteredBroker,
        tp: TopicPartition,
    }

    impl World {
        async fn new() -> Self {
            let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
            let entropy = Arc::new(Entropy::from_seed(1));
            let bucket = Bucket::memory(Arc::clone(&clock), Arc::clone(&entropy));
            let env = StreamEnv {
                clock: Arc::clone(&clock),
                entropy: Arc::clone(&entropy),
            };
            let environment = Environment {
                clock,
                entropy: Arc::clone(&entropy),
            };
            let opener = Arc::new(BucketJournal::new(bucket.clone(), env));
            let config = CoordinatorConfig {
                identity: Bytes::from_static(b"{}"),
                ..CoordinatorConfig::default()
            };
            let started = Coordinator::start(opener, config, environment, Arc::new(Alone)).await;
            // Its task goes on by itself.
            let coordinator = started.unwrap().0;
            let (registered, topic) = settle(&coordinator).await;
            let cache = FoyerCache::open(1 << 20, None).await.unwrap();
            let objects = CachedObjects::new(bucket.clone(), cache.shared());
            let reader = Reader::new(Arc::new(TailCache::new(0)), objects);
            let segments = Arc::new(SegmentMap::new(coordinator.clone(), reader));
            Self {
                pages: PageWriter {
                    bucket,
                    entropy,
                    segments,
                    coordinator,
                    incarnation: registered.incarnation,
                    next: AtomicU64::new(0),
                },
                registered,
                tp: TopicPartition {
                    topic,
                    partition: PartitionIndex(0),
                },
            }
        }

        /// Commits a segment of ten offsets.
        async fn commit(&self, number: u64) {
            let base_offset = i64::try_from(number * 10).unwrap();
            let group = RowGroup {
                base_offset,
                last_offset: base_offset + 9,
                byte_start: 4,
                byte_len: 100,
                max_timestamp_so_far: base_offset,
                records: 10,
                plain_bytes: 1000,
            };
            let run = CommitRun {
                partition: self.tp.partition,
                epoch: LeaderEpoch(0),
                base_offset,
                last_offset: base_offset + 9,
                max_timestamp: base_offset,
                row_groups: vec![group],
                next: SlotPosition {
                    stream: self.registered.stream,
                    slot: Slot(0),
                },
            };
            let segment = SegmentKey {
                incarnation: self.registered.incarnation,
                number,
            };
            let request = Request::CommitSegment(CommitSegment {
                topic: self.tp.topic,
                segment,
                runs: vec![run],
            });
            let committed = self.pages.coordinator.call(request).await.unwrap();
            assert_eq!(committed, Reply::Archive(Ok(())));
        }

        /// Which segment has an offset, and how many runs the coordinator remembers.
        async fn segment_of(&self, offset: i64) -> (u64, u32) {
            let segments = &self.pages.segments;
            segments.forget(self.tp);
            let runs = segments.runs(self.tp, offset).await.unwrap();
            let run = runs.first().unwrap();
            assert!((run.base_offset..=run.last_offset).contains(&offset));
            let from = RunsFrom::Offset(offset);
            let found = segments.look(self.tp, from).await.unwrap();
            (run.segment.number, found.runs_in_memory)
        }
    }

    async fn settle(coordinator: &Coordinator) -> (RegisteredBroker, TopicId) {
        let register = Request::RegisterBroker(RegisterBroker {
            broker: None,
            listeners: vec![Listener {
                name: "KAFKA".to_owned(),
                security: SecurityProtocol::Plaintext,
                host: "127.0.0.1".to_owned(),
                port: 9092,
            }],
            rack: None,
            disk: None,
            link: None,
        });
        let Ok(Reply::RegisterBroker(registered)) = coordinator.call(register).await else {
            panic!("not registered");
        };
        let create = Request::CreateTopics {
            topics: vec![NewTopic {
                name: "long".to_owned(),
                partitions: 1,
                replication_factor: 1,
                configs: Vec::new(),
                owners: Vec::new(),
            }],
            validate_only: false,
        };
        let Ok(Reply::CreateTopics(created)) = coordinator.call(create).await else {
            panic!("not created");
        };
        (registered, created[0].as_ref().unwrap().id)
    }

    /// The coordinator keeps the newest runs; the older ones are found through their page.
    #[tokio::test]
    async fn the_oldest_runs_of_a_long_partition_are_found_in_a_page() {
        let world = World::new().await;
        let count = u64::from(MAP_RUNS_IN_MEMORY) + 1;
        for number in 0..count {
            world.commit(number).await;
        }
        assert_eq!(world.segment_of(0).await, (0, MAP_RUNS_IN_MEMORY + 1));
        world.pages.page_out(world.tp).await.unwrap();
        let left = MAP_RUNS_IN_MEMORY + 1 - MAP_PAGE_RUNS;
        assert_eq!(world.segment_of(0).await, (0, left));
        let last_in_page = i64::from(MAP_PAGE_RUNS) * 10 - 1;
        let page = u64::from(MAP_PAGE_RUNS);
        assert_eq!(world.segment_of(last_in_page).await, (page - 1, left));
        assert_eq!(world.segment_of(last_in_page + 1).await, (page, left));
        world.pages.page_out(world.tp).await.unwrap();
        assert_eq!(world.segment_of(0).await, (0, left), "too few for another");
        world.commit(count).await;
    }

    #[tokio::test]
    async fn records_are_found_by_their_time_in_pages_and_behind_them() {
        let world = World::new().await;
        for number in 0..=u64::from(MAP_RUNS_IN_MEMORY) {
            world.commit(number).await;
        }
        world.pages.page_out(world.tp).await.unwrap();
        let segments = &world.pages.segments;
        for timestamp in [0, 15, 5119, 5120, 7680] {
            let found = segments
                .run_with_time(world.tp, timestamp, 0)
                .await
                .unwrap();
            let expected = (timestamp + 9) / 10 * 10;
            assert_eq!(found.unwrap().max_timestamp, expected, "at {timestamp}");
        }
        assert_eq!(
            segments.run_with_time(world.tp, 7681, 0).await.unwrap(),
            None
        );
        let newest = segments.run_with_max_time(world.tp, 0).await.unwrap();
        assert_eq!(newest.unwrap().base_offset, 7680);
    }
}
