//! Starts what archives the partitions of this process.

use std::sync::Arc;

use firn_storage::archive::Archiver;
use firn_storage::bucket::Bucket;
use firn_storage::read::Reader;

use super::figures::ArchiveGauges;
use super::{Parts, Starting};
use crate::archive::{Archive, ArchiveParts, ArchiveTask};

impl Starting {
    /// Archives from now on, and shows how far that is.
    pub(super) fn archive(&self, parts: &Parts, bucket: &Bucket, reader: &Reader) -> ArchiveTask {
        let (clock, entropy) = (&self.world.clock, &self.world.entropy);
        let cluster = parts.registered.cluster;
        let archiver = Archiver::new(bucket.clone(), reader, cluster, Arc::clone(entropy));
        let (archive, task) = Archive::start(ArchiveParts {
            archiver,
            bucket: bucket.clone(),
            partitions: Arc::clone(&parts.partitions),
            coordinator: parts.coordinator.clone(),
            incarnation: parts.registered.incarnation,
            clock: Arc::clone(clock),
            entropy: Arc::clone(entropy),
            interval: self.config.topics.archive_interval,
        });
        let figures = ArchiveGauges(archive.clone());
        self.shown.metrics.collect_from(figures);
        // there is one start, and so one archive
        drop(self.shown.archive.set(archive));
        task
    }
}
