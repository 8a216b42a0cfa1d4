//! What the segment map says of the partitions that are read here: asked of the coordinator, and
//! remembered for as long as it serves.
//!
//! Owns no truth. What is remembered may be older than the map: a segment that it names may be
//! gone, and then [`SegmentMap::forget`] makes the next look ask anew.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_coordinator::Coordinator;
use firn_proto::cluster::{
    ArchivedRun, CoordinatorError, FindRuns, FoundRuns, MapPage, MapPart, Reply, Request, RunsFrom,
};
use firn_proto::ids::TopicPartition;
use firn_proto::limits::{FOUND_RUNS_MAX, MAP_PARTITIONS_KNOWN_MAX};
use firn_storage::read::{ReadError, Reader};
use thiserror::Error;

/// Why the map says nothing.
#[derive(Clone, Debug, Error)]
pub enum MapError {
    /// The coordinator does not answer.
    #[error("the segment map of {tp} is not known: {source}")]
    Coordinator {
        /// Whose map.
        tp: TopicPartition,
        /// Why.
        source: CoordinatorError,
    },
    /// A page of the map cannot be read.
    #[error("a page of the segment map of {tp} cannot be read: {source}")]
    Page {
        /// Whose map.
        tp: TopicPartition,
        /// Why.
        source: ReadError,
    },
    /// There is no such partition (any more).
    #[error("the coordinator knows no partition {0}")]
    Unknown(TopicPartition),
}

/// A stretch of the map, in the order of offsets.
type Runs = Arc<[Arc<ArchivedRun>]>;

/// The map as this process sees it.
pub struct SegmentMap {
    coordinator: Coordinator,
    reader: Reader,
    known: Mutex<Known>,
}

/// A stretch of runs of each partition that was asked for lately.
#[derive(Debug, Default)]
struct Known {
    stretches: BTreeMap<TopicPartition, (u64, Runs)>,
    /// Rises with each use; the stretch with the least goes first.
    tick: u64,
}

impl Known {
    fn find(&mut self, tp: TopicPartition, offset: i64) -> Option<Runs> {
        let (used, runs) = self.stretches.get_mut(&tp)?;
        let covers =
            |run: Option<&Arc<ArchivedRun>>| run.map(|run| (run.base_offset, run.last_offset));
        let (first, last) = (covers(runs.first())?.0, covers(runs.last())?.1);
        if !(first..=last).contains(&offset) {
            return None;
        }
        self.tick += 1;
        *used = self.tick;
        Some(Arc::clone(runs))
    }

    fn keep(&mut self, tp: TopicPartition, runs: &Runs) {
        self.tick += 1;
        self.stretches.insert(tp, (self.tick, Arc::clone(runs)));
        if self.stretches.len() > MAP_PARTITIONS_KNOWN_MAX {
            let oldest = self.stretches.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(tp, _)| *tp) {
                self.stretches.remove(&oldest);
            }
        }
    }
}

impl SegmentMap {
    /// A view of the map of `coordinator`, whose pages `reader` reads.
    pub fn new(coordinator: Coordinator, reader: Reader) -> Self {
        Self {
            coordinator,
            reader,
            known: Mutex::default(),
        }
    }

    /// The runs from the one that covers `offset` on, as many as are known; none if no run does.
    ///
    /// # Errors
    /// [`MapError`].
    pub async fn runs(
        &self,
        tp: TopicPartition,
        offset: i64,
    ) -> Result<Vec<Arc<ArchivedRun>>, MapError> {
        let known = self.known().find(tp, offset);
        let runs = match known {
            Some(runs) => runs,
            None => {
                let found = self.look(tp, RunsFrom::Offset(offset)).await?;
                let runs: Runs = self.part(tp, found.part, offset).await?.into();
                self.known().keep(tp, &runs);
                runs
            }
        };
        let from = runs.partition_point(|run| run.last_offset < offset);
        Ok(runs.get(from..).unwrap_or_default().to_vec())
    }

    /// The first run that ends at or behind `offset` and has a batch with a timestamp of at least
    /// `timestamp`.
    ///
    /// # Errors
    /// [`MapError`].
    pub async fn run_with_time(
        &self,
        tp: TopicPartition,
        timestamp: i64,
        offset: i64,
    ) -> Result<Option<Arc<ArchivedRun>>, MapError> {
        let mut offset = offset;
        loop {
            let from = RunsFrom::Time { timestamp, offset };
            let page = match self.look(tp, from).await?.part {
                MapPart::Nothing => return Ok(None),
                MapPart::Runs(runs) => return Ok(runs.into_iter().next()),
                MapPart::Page(page) => page,
            };
            let runs = self.page(tp, &page).await?;
            let is_it = |run: &Arc<ArchivedRun>| {
                run.last_offset >= offset && run.max_timestamp >= timestamp
            };
            match runs.into_iter().find(is_it) {
                Some(run) => return Ok(Some(run)),
                None => offset = page.last_offset.saturating_add(1).max(offset),
            }
        }
    }

    /// The first of the runs that end at or behind `offset` with the largest timestamp.
    ///
    /// # Errors
    /// [`MapError`].
    pub async fn run_with_max_time(
        &self,
        tp: TopicPartition,
        offset: i64,
    ) -> Result<Option<Arc<ArchivedRun>>, MapError> {
        let mut offset = offset;
        let mut best: Option<Arc<ArchivedRun>> = None;
        loop {
            let page = match self.look(tp, RunsFrom::MaxTime { offset }).await?.part {
                MapPart::Nothing => return Ok(best),
                MapPart::Runs(runs) => return Ok(runs.into_iter().fold(best, newest)),
                MapPart::Page(page) => page,
            };
            let runs = self.page(tp, &page).await?.into_iter();
            best = runs
                .filter(|run| run.last_offset >= offset)
                .fold(best, newest);
            if page.base_offset >= offset {
                return Ok(best);
            }
            // What the page has the largest timestamp of may not count.
            offset = page.last_offset.saturating_add(1);
        }
    }

    /// Asks the coordinator.
    ///
    /// # Errors
    /// [`MapError`].
    pub async fn look(&self, tp: TopicPartition, from: RunsFrom) -> Result<FoundRuns, MapError> {
        let request = Request::FindRuns(FindRuns { tp, from });
        match self.coordinator.call(request).await {
            Ok(Reply::Runs(found)) => found.ok_or(MapError::Unknown(tp)),
            Ok(_) => Err(MapError::Unknown(tp)),
            Err(source) => Err(MapError::Coordinator { tp, source }),
        }
    }

    /// The runs of a page.
    ///
    /// # Errors
    /// [`MapError::Page`].
    pub async fn page(
        &self,
        tp: TopicPartition,
        page: &MapPage,
    ) -> Result<Vec<Arc<ArchivedRun>>, MapError> {
        let read = self.reader.read_map_page(tp, page).await;
        read.map_err(|source| MapError::Page { tp, source })
    }

    /// What is remembered of a partition is older than the map.
    pub fn forget(&self, tp: TopicPartition) {
        self.known().stretches.remove(&tp);
    }

    /// The runs of a part from the one that covers `offset` on.
    async fn part(
        &self,
        tp: TopicPartition,
        part: MapPart,
        offset: i64,
    ) -> Result<Vec<Arc<ArchivedRun>>, MapError> {
        Ok(match part {
            MapPart::Nothing => Vec::new(),
            MapPart::Runs(runs) => runs,
            MapPart::Page(page) => {
                let runs = self.page(tp, &page).await?;
                let wanted = runs.into_iter().filter(|run| run.last_offset >= offset);
                wanted.take(FOUND_RUNS_MAX).collect()
            }
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newer of two runs, the first of them if neither is.
fn newest(best: Option<Arc<ArchivedRun>>, run: Arc<ArchivedRun>) -> Option<Arc<ArchivedRun>> {
    match best {
        Some(best) if best.max_timestamp >= run.max_timestamp => Some(best),
        _ => Some(run),
    }
}

impl fmt::Debug for SegmentMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentMap").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use firn_proto::cluster::SegmentKey;
    use firn_proto::ids::{Incarnation, PartitionIndex, TopicId};

    use super::*;

    fn tp(partition: usize) -> TopicPartition {
        TopicPartition {
            topic: TopicId([1; 16]),
            partition: PartitionIndex(partition as i32),
        }
    }

    fn runs(base_offset: i64, last_offset: i64) -> Runs {
        [Arc::new(ArchivedRun {
            segment: SegmentKey {
                incarnation: Incarnation(1),
                number: 0,
            },
            runs_of_segment: 1,
            base_offset,
            last_offset,
            max_timestamp: 0,
            row_groups: Vec::new(),
        })]
        .into()
    }

    #[test]
    fn only_what_covers_the_offset_is_remembered_of_it() {
        let mut known = Known::default();
        known.keep(tp(0), &runs(10, 19));
        assert!(known.find(tp(0), 10).is_some());
        assert!(known.find(tp(0), 19).is_some());
        assert!(known.find(tp(0), 9).is_none());
        assert!(known.find(tp(0), 20).is_none());
        assert!(known.find(tp(1), 10).is_none());
    }

    #[test]
    fn what_was_not_used_for_longest_is_forgotten_first() {
        let mut known = Known::default();
        for partition in 0..MAP_PARTITIONS_KNOWN_MAX {
            known.keep(tp(partition), &runs(0, 9));
        }
        assert!(known.find(tp(0), 0).is_some());
        known.keep(tp(MAP_PARTITIONS_KNOWN_MAX), &runs(0, 9));
        assert_eq!(known.stretches.len(), MAP_PARTITIONS_KNOWN_MAX);
        assert!(known.find(tp(0), 0).is_some(), "it was used");
        assert!(known.find(tp(1), 0).is_none());
    }
}
