//! Deletes from the bucket what the journal says nobody needs any more: WAL slots and checkpoint
//! objects below floors, segments and map pages whose grace is over, everything of deleted topics,
//! and segments that a process which has ended left behind (I7, I9).
//!
//! Decides nothing: the coordinator lists the garbage, and is told what is gone. What was deleted
//! and not told, because the process died between, is deleted again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use firn_coordinator::Coordinator;
use firn_proto::cluster::{Collected, Doomed, EndedWriter, Garbage, Reply, Request, StreamGarbage};
use firn_proto::env::{Clock, Mono};
use firn_proto::ids::StreamId;
use firn_storage::bucket::{Bucket, BucketError};
use firn_storage::collect::{self, Orphans, OwnCheckpoints};
use firn_storage::layout::SegmentName;
use tokio::time::{MissedTickBehavior, interval};

/// What a process has deleted so far. What it deleted twice, since it could not note the first time,
/// counts twice.
#[derive(Debug, Default)]
pub struct CollectionCounts {
    queued: AtomicU64,
    slots: AtomicU64,
    checkpoints: AtomicU64,
    segments: AtomicU64,
    map_pages: AtomicU64,
    topics: AtomicU64,
    orphans: AtomicU64,
}

/// [`CollectionCounts`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CollectionFigures {
    /// Entries of the delete queue when it was looked at last.
    pub queued: u64,
    /// WAL slots below floors.
    pub slots: u64,
    /// Checkpoint objects of this process, and folders of those of others.
    pub checkpoints: u64,
    /// Segments that had left the map.
    pub segments: u64,
    /// Pages of the map that nothing named any more.
    pub map_pages: u64,
    /// Folders of deleted topics.
    pub topics: u64,
    /// Segments and map pages that a process which has ended left behind.
    pub orphans: u64,
}

impl CollectionCounts {
    /// How much that is.
    pub fn figures(&self) -> CollectionFigures {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        CollectionFigures {
            queued: read(&self.queued),
            slots: read(&self.slots),
            checkpoints: read(&self.checkpoints),
            segments: read(&self.segments),
            map_pages: read(&self.map_pages),
            topics: read(&self.topics),
            orphans: read(&self.orphans),
        }
    }
}

fn add(count: &AtomicU64, more: usize) {
    count.fetch_add(more as u64, Ordering::Relaxed);
}

/// Deletes garbage.
pub struct Collector {
    /// Where it lies.
    pub bucket: Bucket,
    /// Who knows of it.
    pub coordinator: Coordinator,
    /// This process's own stream,
    pub stream: StreamId,
    /// and the checkpoint objects that it has written there.
    pub checkpoints: Arc<Mutex<OwnCheckpoints>>,
    /// Tells how long this process runs,
    pub clock: Arc<dyn Clock>,
    /// since this moment.
    pub started: Mono,
    /// For how long the files of processes that have ended are left alone
    /// (`collection.orphans.delay.ms`): a put of theirs may be on its way.
    pub orphans_after: Duration,
    /// How often it looks (`collection.interval.ms`).
    pub every: Duration,
    /// What it has deleted.
    pub counts: Arc<CollectionCounts>,
}

impl Collector {
    /// Collects for ever. Dropping the future is harmless.
    pub async fn run(self) {
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // As long as there is more than one answer holds.
            while self.collect().await {}
        }
    }

    /// Deletes what is listed; true if something was, so that there may be more.
    async fn collect(&self) -> bool {
        let garbage = match self.coordinator.call(Request::ListGarbage).await {
            Ok(Reply::Garbage(garbage)) => garbage,
            Ok(_) => return false,
            Err(error) => {
                tracing::debug!(%error, "garbage is looked at again later");
                return false;
            }
        };
        self.counts.queued.store(garbage.queued, Ordering::Relaxed);
        let mut collected = Collected::default();
        if let Err(error) = self.delete(&garbage, &mut collected).await {
            tracing::warn!(%error, "garbage could not be deleted; it is tried again");
        }
        if collected == Collected::default() {
            return false;
        }
        match self
            .coordinator
            .call(Request::ReportCollected(collected))
            .await
        {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%error, "what was deleted could not be noted; it is deleted again");
                false
            }
        }
    }

    /// Deletes garbage, and notes in `collected` what is gone. What cannot be deleted keeps nothing
    /// else from it.
    ///
    /// # Errors
    /// The first thing that went wrong.
    async fn delete(
        &self,
        garbage: &Garbage,
        collected: &mut Collected,
    ) -> Result<(), BucketError> {
        let mut done = self.delete_doomed(garbage, collected).await;
        for stream in &garbage.streams {
            done = done.and(self.delete_of_stream(stream, collected).await);
        }
        let age = self.clock.mono().since(self.started);
        if !garbage.writers.is_empty() && age >= self.orphans_after {
            done = done.and(self.delete_all_orphans(garbage, collected).await);
        }
        done
    }

    async fn delete_all_orphans(
        &self,
        garbage: &Garbage,
        collected: &mut Collected,
    ) -> Result<(), BucketError> {
        let topics = collect::topics_with_tables(&self.bucket).await?;
        for writer in &garbage.writers {
            loop {
                let orphans = collect::orphans(&self.bucket, &topics, writer).await?;
                self.delete_orphans(writer, &orphans).await?;
                if !orphans.has_more {
                    break;
                }
            }
            collected.writers.push(writer.incarnation);
        }
        Ok(())
    }

    async fn delete_orphans(
        &self,
        writer: &EndedWriter,
        orphans: &Orphans,
    ) -> Result<(), BucketError> {
        let (segments, pages) = (orphans.segments.len(), orphans.pages.len());
        if segments + pages > 0 {
            let incarnation = writer.incarnation.0;
            tracing::info!(
                incarnation,
                segments,
                pages,
                "deleting what a crash left behind"
            );
        }
        collect::delete_segments(&self.bucket, &orphans.segments).await?;
        collect::delete_map_pages(&self.bucket, &orphans.pages).await?;
        add(&self.counts.orphans, segments + pages);
        Ok(())
    }

    /// Deletes what has left the segment map, and deleted topics. A topic that cannot be deleted stays
    /// in the queue, and keeps nothing else there.
    async fn delete_doomed(
        &self,
        garbage: &Garbage,
        collected: &mut Collected,
    ) -> Result<(), BucketError> {
        let mut done = Ok(());
        let (mut segments, mut segment_ids) = (Vec::new(), Vec::new());
        let (mut pages, mut page_ids) = (Vec::new(), Vec::new());
        for queued in &garbage.doomed {
            match &queued.what {
                Doomed::Segment {
                    topic_name,
                    topic,
                    segment,
                } => {
                    segments.push(SegmentName {
                        topic_name: topic_name.to_string(),
                        topic: *topic,
                        incarnation: segment.incarnation,
                        number: segment.number,
                    });
                    segment_ids.push(queued.id);
                }
                Doomed::MapPage { topic, page } => {
                    pages.push((*topic, *page));
                    page_ids.push(queued.id);
                }
                Doomed::Topic { topic_name, topic } => {
                    let deleted = collect::delete_table(&self.bucket, topic_name, *topic).await;
                    if deleted.is_ok() {
                        add(&self.counts.topics, 1);
                        collected.doomed.push(queued.id);
                    }
                    done = done.and(deleted);
                }
            }
        }
        let deleted = collect::delete_segments(&self.bucket, &segments).await;
        if deleted.is_ok() {
            add(&self.counts.segments, segments.len());
            collected.doomed.extend(segment_ids);
        }
        done = done.and(deleted);
        let deleted = collect::delete_map_pages(&self.bucket, &pages).await;
        if deleted.is_ok() {
            add(&self.counts.map_pages, pages.len());
            collected.doomed.extend(page_ids);
        }
        done.and(deleted)
    }

    async fn delete_of_stream(
        &self,
        garbage: &StreamGarbage,
        collected: &mut Collected,
    ) -> Result<(), BucketError> {
        let &StreamGarbage {
            stream,
            from,
            floor,
            is_over,
            ..
        } = garbage;
        collect::collect_slots(&self.bucket, stream, from..floor).await?;
        let slots = floor.0.saturating_sub(from.0);
        self.counts.slots.fetch_add(slots, Ordering::Relaxed);
        if is_over {
            collect::delete_all_checkpoints(&self.bucket, stream).await?;
            add(&self.counts.checkpoints, 1);
            collected.over.push(stream);
        } else if stream == self.stream {
            let superfluous = self.own_checkpoints(|own| own.superfluous(floor));
            collect::delete_checkpoints(&self.bucket, stream, &superfluous).await?;
            add(&self.counts.checkpoints, superfluous.len());
            self.own_checkpoints(|own| own.on_deleted(&superfluous));
        } else {
            collect::collect_checkpoints(&self.bucket, stream, floor).await?;
        }
        collected.streams.push((stream, floor));
        Ok(())
    }

    fn own_checkpoints<T>(&self, change: impl FnOnce(&mut OwnCheckpoints) -> T) -> T {
        let mut own = self
            .checkpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        change(&mut own)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use firn_coordinator::Environment;
    use firn_proto::cluster::{QueuedDelete, SegmentKey};
    use firn_proto::env::{Entropy, SystemClock};
    use firn_proto::ids::{Incarnation, TopicId};
    use firn_storage::bucket::testing::{Fault, FaultStore, On, Rule};
    use firn_storage::bucket::{CreateOutcome, Purpose};

    use super::*;

    #[tokio::test]
    async fn what_cannot_be_deleted_keeps_nothing_else_in_the_queue() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let entropy = Arc::new(Entropy::from_seed(1));
        let store = FaultStore::in_memory();
        let shared = Arc::new(store.clone());
        let bucket = Bucket::from_store(shared, Arc::clone(&clock), Arc::clone(&entropy));
        let started = clock.mono();
        let environment = Environment {
            clock: Arc::clone(&clock),
            entropy,
        };
        let collector = Collector {
            bucket,
            coordinator: Coordinator::vacant(environment).0,
            stream: StreamId(1),
            checkpoints: Arc::default(),
            clock,
            started,
            orphans_after: Duration::ZERO,
            every: Duration::from_secs(1),
            counts: Arc::default(),
        };
        let segment = |topic_name: &str| SegmentName {
            topic_name: topic_name.to_owned(),
            topic: TopicId([7; 16]),
            incarnation: Incarnation(1),
            number: 0,
        };
        for topic_name in ["refused", "deleted", "kept"] {
            let (key, body) = (segment(topic_name).key(), vec![Bytes::from_static(b"x")]);
            let put = collector.bucket.create_once(Purpose::Archive, &key, body);
            assert!(matches!(put.await, CreateOutcome::Created));
        }
        let topic = |topic_name: &str| Doomed::Topic {
            topic_name: topic_name.into(),
            topic: TopicId([7; 16]),
        };
        let kept = segment("kept");
        let segment = Doomed::Segment {
            topic_name: "kept".into(),
            topic: kept.topic,
            segment: SegmentKey {
                incarnation: kept.incarnation,
                number: kept.number,
            },
        };
        let doomed = [topic("refused"), segment, topic("deleted")];
        let doomed = doomed.into_iter().zip(0..);
        let garbage = Garbage {
            doomed: doomed
                .map(|(what, id)| QueuedDelete {
                    id,
                    what,
                    due_ms: 0,
                })
                .collect(),
            ..Garbage::default()
        };
        let denied = Rule::new(On::Delete, Fault::Denied).key("refused");
        store.inject(denied.times(u64::MAX));

        let mut collected = Collected::default();
        let done = collector.delete(&garbage, &mut collected).await;
        assert!(matches!(done, Err(BucketError::Denied { .. })), "{done:?}");
        collected.doomed.sort_unstable();
        assert_eq!(collected.doomed, [1, 2]);
        let figures = collector.counts.figures();
        assert_eq!((figures.segments, figures.topics), (1, 1));
    }
}
