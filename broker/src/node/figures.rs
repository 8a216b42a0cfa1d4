//! Figures that live where they are counted, read whenever somebody asks `/metrics`.

use std::fmt;

use firn_storage::bucket::{Bucket, UsageRow};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

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
