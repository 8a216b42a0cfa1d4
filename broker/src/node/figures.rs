//! Figures that live where they are counted, read whenever somebody asks `/metrics`.

use std::fmt;
use std::sync::Arc;

use firn_coordinator::Coordinator;
use firn_storage::bucket::{Bucket, UsageRow};
use firn_storage::read::{Reader, SegmentUsage};
use firn_storage::wal::{LatencyFigures, Wal};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::runtime::RuntimeMetrics;

use crate::archive::Archive;
use crate::collection::CollectionCounts;
use crate::kafka::memory::RequestMemory;
use crate::partition::Partitions;
use crate::recovery::waiting_partitions;

/// Reads the figures of the bucket.
#[derive(Debug)]
pub(super) struct BucketFigures(pub(super) Bucket);

impl Collector for BucketFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let usage = self.0.usage();
        let mut column = |name, help, value: fn(&UsageRow) -> u64| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for row in &usage.rows {
                let labels = [
                    ("purpose", row.purpose.label()),
                    ("operation", row.operation.label()),
                ];
                ConstCounter::new(value(row)).encode(family.encode_family(&labels)?)?;
            }
            Ok::<(), fmt::Error>(())
        };
        column(
            "bucket_requests",
            "requests to the bucket, retries counted",
            |row| row.requests,
        )?;
        column(
            "bucket_errors",
            "requests that brought no usable answer",
            |row| row.errors,
        )?;
        column(
            "bucket_sent_bytes",
            "bytes of bodies that the bucket took",
            |row| row.bytes_sent,
        )?;
        column(
            "bucket_received_bytes",
            "bytes of bodies that the bucket gave",
            |row| row.bytes_received,
        )?;
        column(
            "bucket_busy_milliseconds",
            "time that all requests took together",
            |row| u64::try_from(row.busy.as_millis()).unwrap_or(u64::MAX),
        )
    }
}

/// Reads the figures of the cluster, and of what is kept of its state in order to lead it.
#[derive(Debug)]
pub(super) struct ClusterFigures(pub(super) Coordinator);

impl Collector for ClusterFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let standby = self.0.followed_to();
        let help = "bytes that were sent of the state that this process keeps in order to lead";
        let bytes = standby.map_or(0, |standby| standby.bytes);
        gauge(&mut encoder, "coordinator_standby_bytes", help, bytes)?;
        let image = Arc::clone(&self.0.image().borrow());
        gauge(
            &mut encoder,
            "partitions_waiting_for_disk",
            "partitions that nobody owns and whose records counted by a local WAL (topics with \
             firn.durability=local): they wait for the disk of their last owner, or are about to be \
             taken over",
            waiting_partitions(&image),
        )
    }
}

/// Reads the figures of the runtime.
#[derive(Debug)]
pub(super) struct RuntimeFigures(pub(super) RuntimeMetrics);

impl Collector for RuntimeFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "tasks of the runtime, which do not grow with the partitions";
        gauge(&mut encoder, "tasks", help, self.0.num_alive_tasks())
    }
}

/// Reads the figures of the WAL.
#[derive(Debug)]
pub(super) struct WalFigures(pub(super) Wal);

impl Collector for WalFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = self.0.status();
        for (name, help, value) in [
            (
                "wal_buffered_bytes",
                "bytes that wait for a slot",
                status.buffered_bytes,
            ),
            (
                "wal_slots_in_flight",
                "slots that are put and not durable",
                status.slots_in_flight,
            ),
            (
                "wal_permit_bytes",
                "bytes taken in and not durable",
                status.permit_bytes,
            ),
            (
                "wal_local_waiting",
                "entries that wait for the local disk",
                status.local_waiting,
            ),
            (
                "wal_local_full",
                "1 while the local disk has no room",
                status.local_full.into(),
            ),
        ] {
            gauge(&mut encoder, name, help, value)?;
        }
        let durable = status.durable_bytes;
        counter(
            &mut encoder,
            "wal_durable_bytes",
            "bytes of durable objects",
            durable,
        )?;
        latency(
            &mut encoder,
            "wal_put_seconds",
            "from the close of a slot until it is durable",
            &status.put,
        )?;
        match &status.fsync {
            Some(fsync) => latency(
                &mut encoder,
                "wal_fsync_seconds",
                "group commits of the local wal",
                fsync,
            ),
            None => Ok(()),
        }
    }
}

/// Reads how much memory requests hold.
#[derive(Debug)]
pub(super) struct RequestFigures(pub(super) RequestMemory);

impl Collector for RequestFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (produce, other) = self.0.held();
        for (name, help, value) in [
            (
                "queued_produce_bytes",
                "bytes of produce requests that are not in the wal",
                produce,
            ),
            (
                "queued_request_bytes",
                "bytes of all other requests in progress",
                other,
            ),
        ] {
            gauge(&mut encoder, name, help, value)?;
        }
        Ok(())
    }
}

/// Reads the figures of reads, tier by tier, and of the partitions they go to.
pub(super) struct ReadFigures {
    pub(super) reader: Reader,
    pub(super) partitions: Arc<Partitions>,
}

impl fmt::Debug for ReadFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadFigures").finish_non_exhaustive()
    }
}

impl Collector for ReadFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (reads, tail) = (self.reader.usage(), self.reader.tail().usage());
        let producers = self.partitions.producers();
        for (name, help, value) in [
            (
                "partitions_owned",
                "partitions that this broker owns",
                self.partitions.len(),
            ),
            (
                "fetches_waiting",
                "fetches that wait for records",
                self.partitions.waiting(),
            ),
            (
                "producer_memory_bytes",
                "bytes of what is remembered of idempotent producers",
                producers.bytes,
            ),
            (
                "tail_cache_bytes",
                "bytes of the newest batches in memory",
                tail.bytes,
            ),
            (
                "object_cache_memory_bytes",
                "bytes of blocks of objects in memory",
                reads.cache_bytes,
            ),
        ] {
            gauge(&mut encoder, name, help, value)?;
        }
        for (name, help, value) in [
            (
                "producers_evicted",
                "producers forgotten early, since producer.memory.bytes was reached",
                producers.evicted,
            ),
            (
                "producers_refused",
                "batches of producers new or long silent refused, since all that are remembered wrote lately",
                producers.refused,
            ),
            ("reads_hot", "reads served from memory alone", reads.hot),
            (
                "reads_cold",
                "reads that needed objects of the bucket",
                reads.cold,
            ),
            (
                "reads_refetched",
                "stretches fetched again because their bytes were wrong",
                reads.refetched,
            ),
            (
                "reads_corrupt",
                "stretches that are wrong in the bucket itself",
                reads.corrupt,
            ),
            (
                "tail_cache_hits",
                "reads that the newest batches served",
                tail.hits,
            ),
            ("tail_cache_misses", "reads that they did not", tail.misses),
            (
                "object_cache_hits",
                "blocks of objects that the cache had",
                reads.objects.hits,
            ),
            (
                "object_cache_misses",
                "blocks of objects that it had not",
                reads.objects.misses,
            ),
            (
                "object_cache_memory_hits",
                "blocks that it had in memory, for the archiver and row groups as well",
                reads.cache.memory,
            ),
            (
                "object_cache_disk_hits",
                "blocks that it had on disk, for the archiver and row groups as well",
                reads.cache.disk,
            ),
        ] {
            counter(&mut encoder, name, help, value)?;
        }
        segments(&mut encoder, &reads.segments)
    }
}

/// Reads of what is archived.
fn segments(encoder: &mut DescriptorEncoder<'_>, usage: &SegmentUsage) -> Result<(), fmt::Error> {
    for (name, help, value) in [
        ("segment_reads", "reads of archived records", usage.reads),
        (
            "segment_searches",
            "row groups that were looked into for a record by its time",
            usage.searched,
        ),
        (
            "row_groups_opened",
            "row groups that were decoded for a reader",
            usage.opened,
        ),
        (
            "row_group_decoding_microseconds",
            "what decoding row groups has taken of a processor",
            usage.decoding_micros,
        ),
        (
            "row_groups_continued",
            "reads that went on in a row group that was open",
            usage.continued,
        ),
        (
            "row_group_gets",
            "row groups, or parts of them, that were fetched from the bucket",
            usage.ranges.gets,
        ),
        (
            "row_group_cache_hits",
            "row groups that the cache had all of",
            usage.ranges.hits,
        ),
        (
            "row_groups_ahead",
            "row groups that had been fetched before they were asked for",
            usage.ranges.ahead,
        ),
        (
            "map_page_gets",
            "pages of the segment map that were fetched from the bucket",
            usage.pages.gets,
        ),
        (
            "map_page_cache_hits",
            "pages of the segment map that the cache had",
            usage.pages.hits,
        ),
    ] {
        counter(encoder, name, help, value)?;
    }
    Ok(())
}

/// Reads what was deleted from the bucket, and what waits for it.
#[derive(Debug)]
pub(super) struct GarbageFigures(pub(super) Arc<CollectionCounts>);

impl Collector for GarbageFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let figures = self.0.figures();
        gauge(
            &mut encoder,
            "garbage_queued",
            "entries of the delete queue, most of which wait for their grace to end",
            usize::try_from(figures.queued).unwrap_or(usize::MAX),
        )?;
        counter(
            &mut encoder,
            "garbage_orphans",
            "segments and map pages deleted that a process which has ended left behind",
            figures.orphans,
        )?;
        let name = "garbage_deleted";
        let help = "what was deleted from the bucket; checkpoint and topic folders count once";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (kind, value) in [
            ("slot", figures.slots),
            ("checkpoint", figures.checkpoints),
            ("segment", figures.segments),
            ("map_page", figures.map_pages),
            ("topic", figures.topics),
        ] {
            let labels = [("kind", kind)];
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Reads the figures of the archive.
pub(super) struct ArchiveGauges(pub(super) Archive);

impl fmt::Debug for ArchiveGauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArchiveGauges").finish_non_exhaustive()
    }
}

impl Collector for ArchiveGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let figures = self.0.figures();
        let usage = figures.usage;
        gauge(
            &mut encoder,
            "archive_lag_bytes",
            "bytes of records that are in no segment",
            usize::try_from(figures.lag_bytes).unwrap_or(usize::MAX),
        )?;
        gauge(
            &mut encoder,
            "archive_lag_seconds",
            "how long the oldest of them has waited",
            usize::try_from(figures.lag.as_secs()).unwrap_or(usize::MAX),
        )?;
        for (name, help, value) in [
            (
                "archive_segments",
                "segments that entered the map",
                figures.segments,
            ),
            (
                "archive_batches",
                "batches in segments that were made",
                usage.batches,
            ),
            (
                "archive_records",
                "records in segments that were made",
                usage.records,
            ),
            (
                "archive_read_bytes",
                "bytes of those batches as they came",
                usage.bytes_in,
            ),
            (
                "archive_written_bytes",
                "bytes of segments that were made",
                usage.bytes_out,
            ),
            (
                "archive_failures",
                "attempts to archive a topic that failed",
                figures.failures,
            ),
            (
                "archive_differing",
                "stretches of segments that were not in the bucket what had been put",
                usage.differing,
            ),
        ] {
            counter(&mut encoder, name, help, value)?;
        }
        let name = "archive_cpu_seconds";
        let help = "what making segments has taken of a processor";
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(usage.cpu.as_secs_f64()).encode(metric)
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: usize,
) -> Result<(), fmt::Error> {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), fmt::Error> {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(metric)
}

fn latency(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    figures: &LatencyFigures,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    let buckets: Vec<(f64, u64)> = figures
        .counts
        .iter()
        .enumerate()
        .map(|(class, count)| {
            let end = LatencyFigures::class_end(class);
            (end.map_or(f64::MAX, |end| end.as_secs_f64()), *count)
        })
        .collect();
    let seconds = figures.micros as f64 / 1_000_000.0;
    metric.encode_histogram::<NoLabelSet>(seconds, figures.count(), &buckets, None)
}
