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

    /// Deletes what has left the segment map, and deleted topics.
    async fn delete_doomed(
        &self,
        garbage: &Garbage,
        collected: &mut Collected,
    ) -> Result<(), BucketError> {
        let (mut segments, mut pages, mut ids) = (Vec::new(), Vec::new(), Vec::new());
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
                    ids.push(queued.id);
                }
                Doomed::MapPage { topic, page } => {
                    pages.push((*topic, *page));
                    ids.push(queued.id);
                }
                Doomed::Topic { topic_name, topic } => {
                    collect::delete_table(&self.bucket, topic_name, *topic).await?;
                    add(&self.counts.topics, 1);
                    collected.doomed.push(queued.id);
                }
            }
        }
        collect::delete_segments(&self.bucket, &segments).await?;
        add(&self.counts.segments, segments.len());
        collect::delete_map_pages(&self.bucket, &pages).await?;
        add(&self.counts.map_pages, pages.len());
        collected.doomed.extend(ids);
        Ok(())
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
