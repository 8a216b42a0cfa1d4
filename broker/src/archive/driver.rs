//! The one task that archives: looks once a second whether a topic is due, and archives what was
//! asked for. A round takes everything of a topic that was there when it began, in as many segments
//! as that needs, one after the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use firn_proto::cluster::{ArchiveError, ClusterImage};
use firn_proto::env::{Clock, Entropy};
use firn_proto::ids::{Incarnation, TopicId};
use firn_proto::limits::{
    ARCHIVE_INPUT_BYTES_MAX, ARCHIVE_INPUT_RUNS_MAX, ARCHIVE_LOOK_INTERVAL, ARCHIVE_REFUSALS_MAX,
};
use firn_storage::archive::{ArchiveFault, Archiver, Unarchived};
use firn_storage::layout::SegmentName;
use firn_storage::read::ReadError;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::commit::MapWriter;
use super::{ArchiveParts, Failed, Flush, Flushed, NotArchived, Progress, Waiting};
use crate::partition::{Partition, Partitions};

/// What of a topic a segment is to hold.
struct Input {
    /// The partitions, with where each is archived to.
    partitions: Vec<(Arc<Partition>, i64)>,
    /// Their runs.
    ranges: Vec<Unarchived>,
}

pub(super) struct Driver {
    archiver: Archiver,
    map: MapWriter,
    partitions: Arc<Partitions>,
    image: watch::Receiver<Arc<ClusterImage>>,
    incarnation: Incarnation,
    clock: Arc<dyn Clock>,
    entropy: Arc<Entropy>,
    interval: Duration,
    progress: Arc<Progress>,
    stop: CancellationToken,
    /// Segments have entered the map since state rows were last asked for.
    rows_due: bool,
    /// The number of the next segment. None is used twice, whatever becomes of it.
    next_number: u64,
}

impl Driver {
    pub(super) fn new(
        parts: ArchiveParts,
        progress: Arc<Progress>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            archiver: parts.archiver,
            partitions: parts.partitions,
            image: parts.coordinator.image(),
            incarnation: parts.incarnation,
            clock: parts.clock,
            interval: parts.interval,
            map: MapWriter {
                coordinator: parts.coordinator,
                bucket: parts.bucket,
                entropy: Arc::clone(&parts.entropy),
            },
            entropy: parts.entropy,
            progress,
            stop,
            rows_due: false,
            next_number: 0,
        }
    }

    /// Archives until it is told to stop.
    pub(super) async fn run(mut self, mut flushes: mpsc::Receiver<Flush>) {
        let stop = self.stop.clone();
        let mut look = interval(ARCHIVE_LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                flush = flushes.recv() => {
                    let Some(Flush { topic, answer }) = flush else {
                        return;
                    };
                    let flushed = Box::pin(self.flush(topic)).await;
                    // whoever has gone needs no answer
                    let _ = answer.send(flushed);
                }
                _ = look.tick() => {
                    if Box::pin(self.archive_due()).await {
                        // there may be more
                        look.reset_immediately();
                    }
                }
            }
        }
    }

    /// Archives the topic that is due, if one is. Whether that was so, and it worked.
    async fn archive_due(&mut self) -> bool {
        let waiting = self.waiting();
        let now = self.clock.mono();
        let image = Arc::clone(&self.image.borrow());
        let interval = |topic| self.interval_of(&image, topic);
        let Some(topic) = self.progress.picker().pick(now, &waiting, interval) else {
            self.want_rows();
            return false;
        };
        self.round(topic).await.is_ok()
    }

    /// Archives what is there of a topic, or of all.
    async fn flush(&mut self, topic: Option<TopicId>) -> Result<Flushed, NotArchived> {
        let mut topics: Vec<TopicId> = self.waiting().iter().map(|w| w.tp.topic).collect();
        topics.dedup();
        topics.retain(|waits| topic.is_none_or(|wanted| wanted == *waits));
        let mut flushed = Flushed::default();
        let mut failed = None;
        for topic in topics {
            match self.round(topic).await {
                Ok(segments) => flushed.segments += segments,
                Err(NotArchived::Stopping) => return Err(NotArchived::Stopping),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        self.want_rows();
        failed.map_or(Ok(flushed), Err)
    }

    /// Lets the WAL go on without what was archived: once for all topics that were due together.
    fn want_rows(&mut self) {
        if std::mem::take(&mut self.rows_due) {
            self.partitions.want_rows();
        }
    }

    /// Archives what is there of a topic now, and says how many segments that made.
    async fn round(&mut self, topic: TopicId) -> Result<u64, NotArchived> {
        let began = self.clock.mono();
        let archived = self.archive(topic).await;
        match &archived {
            Ok(segments) => {
                self.progress.picker().on_archived(topic, began);
                self.rows_due |= *segments > 0;
            }
            Err(NotArchived::Stopping) => {}
            Err(error) => {
                self.progress.failures.fetch_add(1, Ordering::Relaxed);
                let failed = match error {
                    NotArchived::Fault(fault) if fault.is_of_bucket() => Failed::Bucket,
                    _ => Failed::Topic(topic),
                };
                let (now, luck) = (self.clock.mono(), self.entropy.next_u64());
                self.progress.picker().on_failed(failed, now, luck);
                tracing::warn!(%topic, %error, "a topic was not archived, trying again later");
            }
        }
        archived
    }

    async fn archive(&mut self, topic: TopicId) -> Result<u64, NotArchived> {
        let targets: Vec<(Arc<Partition>, i64)> = self
            .partitions
            .all()
            .into_iter()
            .filter(|partition| partition.tp().topic == topic)
            .map(|partition| {
                let end = partition.bounds().last_stable_offset;
                (partition, end)
            })
            .collect();
        let mut segments = 0;
        let mut in_a_row = 0;
        loop {
            let input = input(&targets);
            if input.ranges.is_empty() {
                return Ok(segments);
            }
            match self.segment(topic, &input).await {
                Ok(()) => {
                    segments += 1;
                    in_a_row = 0;
                }
                Err(error) if is_out_of_date(&error) && in_a_row < ARCHIVE_REFUSALS_MAX => {
                    in_a_row += 1;
                    tracing::info!(%topic, %error, "partitions have moved on, looking anew");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes one segment and brings it into the map.
    async fn segment(&mut self, topic: TopicId, input: &Input) -> Result<(), NotArchived> {
        let image = Arc::clone(&self.image.borrow());
        let found = image.topic(topic).ok_or(NotArchived::UnknownTopic)?;
        let name = SegmentName {
            topic_name: found.name.to_string(),
            topic,
            incarnation: self.incarnation,
            number: self.next_number,
        };
        self.next_number += 1;
        let written = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            written = self.archiver.write(&name, &input.ranges) => Some(written),
        };
        let archived = match written {
            None => {
                self.map.abandon(&name).await;
                return Err(NotArchived::Stopping);
            }
            Some(Err(fault)) => {
                if fault.may_exist() {
                    self.map.abandon(&name).await;
                }
                return Err(fault.into());
            }
            Some(Ok(archived)) => archived,
        };
        self.map.commit(&archived, &input.partitions).await?;
        self.progress.segments.fetch_add(1, Ordering::Relaxed);
        for run in &archived.segment.runs {
            let mut partitions = input.partitions.iter();
            let partition = partitions.find(|(p, _)| p.tp().partition == run.partition);
            if let Some((partition, _)) = partition {
                partition.on_archived(run.last_offset + 1);
            }
        }
        let bytes = archived.segment.byte_len;
        let runs = archived.segment.runs.len();
        tracing::debug!(key = %name.key(), bytes, runs, "a segment is in the map");
        Ok(())
    }

    /// The partitions that have something to archive, ascending.
    fn waiting(&self) -> Vec<Waiting> {
        let partitions = self.partitions.all();
        let waiting = partitions.iter().filter(|partition| {
            let bounds = partition.bounds();
            bounds.archived_to < bounds.last_stable_offset.min(bounds.durable_end)
        });
        waiting
            .map(|partition| Waiting {
                tp: partition.tp(),
                bytes: partition.unarchived_bytes(),
            })
            .collect()
    }

    fn interval_of(&self, image: &ClusterImage, topic: TopicId) -> Duration {
        let own = || {
            let configs = &image.topic(topic)?.configs;
            let value = configs.get("firn.archive.interval.ms")?;
            value.trim().parse().ok().map(Duration::from_millis)
        };
        own().unwrap_or(self.interval)
    }
}

/// What the next segment is to hold: what of each partition is below its target and in no segment.
fn input(targets: &[(Arc<Partition>, i64)]) -> Input {
    let mut input = Input {
        partitions: Vec::new(),
        ranges: Vec::new(),
    };
    let (mut bytes_left, mut runs_left) = (ARCHIVE_INPUT_BYTES_MAX, ARCHIVE_INPUT_RUNS_MAX);
    for (partition, target) in targets {
        if bytes_left == 0 || runs_left == 0 {
            break;
        }
        let from = partition.bounds().archived_to;
        if partition.is_closed() || from >= *target {
            continue;
        }
        let mut runs = partition.unarchived_runs(bytes_left);
        runs.truncate(runs_left);
        let Some(last) = runs.last() else {
            continue;
        };
        let end = last.run.last_offset.saturating_add(1).min(*target);
        let bytes = runs.iter().map(|found| found.run.byte_len as usize).sum();
        bytes_left = bytes_left.saturating_sub(bytes);
        runs_left -= runs.len();
        input.partitions.push((Arc::clone(partition), from));
        input.ranges.push(Unarchived {
            partition: partition.tp().partition,
            from,
            end,
            runs,
        });
    }
    input
}

/// Whether a log start has moved, or a partition gone elsewhere, while the segment was made.
fn is_out_of_date(error: &NotArchived) -> bool {
    matches!(
        error,
        NotArchived::Refused(ArchiveError::Contradiction { .. } | ArchiveError::NotOwner(_))
            | NotArchived::Fault(ArchiveFault::Read(
                ReadError::NotCovered { .. } | ReadError::Gone { .. }
            ))
    )
}
