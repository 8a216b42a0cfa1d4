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
use firn_proto::limits::MAP_PAGE_RUNS;

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
        let key = SegmentKey {
            incarnation: self.incarnation,
            number: self.next.fetch_add(1, Ordering::Relaxed),
        };
        let page = write_map_page(&self.bucket, &self.entropy, tp, key, &runs).await?;
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
