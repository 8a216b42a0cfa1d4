//! Finds records in segments by their time (ListOffsets). The segment map says which row group has
//! the record: the largest timestamp of a run up to each of its row groups. So one is read, but
//! where a search begins or ends in the middle of a run.

use std::cmp::{Ordering, Reverse};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic;

use firn_proto::cluster::ArchivedRun;
use firn_proto::ids::TopicPartition;
use firn_proto::limits::OPEN_ROW_GROUP_WORK_BYTES;

use super::key;
use super::plan::GroupAt;
use crate::read::cold::from_object;
use crate::read::{FoundOffset, ReadError, Reader};
use crate::segment::{
    RowGroupReader, SegmentFault, TimedRecord, first_at_or_after, first_of_max,
    row_groups_from_time,
};

/// Where records are looked for by their time.
#[derive(Clone, Copy, Debug)]
pub struct SegmentSearch<'a> {
    /// The partition.
    pub tp: TopicPartition,
    /// What its topic is called in the keys of its segments.
    pub topic_name: &'a str,
    /// Records below do not count.
    pub start: i64,
    /// Nor do those at or behind this offset.
    pub end: i64,
    /// Runs of the partition as the segment map has them, in order. All that may hold the record.
    pub runs: &'a [Arc<ArchivedRun>],
}

/// A row group with records that may be newer than those of others.
struct Candidate<'a> {
    /// No record in it has a larger timestamp.
    promised: i64,
    at: GroupAt<'a>,
}

impl SegmentSearch<'_> {
    fn offsets(&self) -> Range<i64> {
        self.start..self.end
    }

    fn visible_runs(&self) -> impl Iterator<Item = &ArchivedRun> {
        let offsets = self.offsets();
        let runs = self.runs.iter().map(|run| &**run);
        runs.filter(move |run| run.last_offset >= offsets.start && run.base_offset < offsets.end)
    }

    /// The row groups that may have the newest record, the most promising first.
    fn newest(&self) -> Vec<Candidate<'_>> {
        let mut candidates = Vec::new();
        for run in self.visible_runs() {
            // the first row group may begin before the run does
            let first = run.row_groups.first();
            let base_offset = first.map_or(run.base_offset, |first| first.base_offset);
            let is_whole = base_offset >= self.start && run.last_offset < self.end;
            let newest = run
                .row_groups
                .last()
                .map_or(i64::MIN, |last| last.max_timestamp_so_far);
            let from = if is_whole { newest } else { i64::MIN };
            let groups = row_groups_from_time(&run.row_groups, from, self.start);
            // In a whole run the first of them has it; else it may lie in what is not visible.
            let wanted = if is_whole { 1 } else { groups.len() };
            let visible = groups.iter().filter(|group| group.base_offset < self.end);
            candidates.extend(visible.take(wanted).map(|group| Candidate {
                promised: group.max_timestamp_so_far,
                at: GroupAt { run, group },
            }));
        }
        candidates.retain(|candidate| candidate.promised > i64::MIN);
        candidates.sort_by_key(|c| (Reverse(c.promised), c.at.group.base_offset));
        candidates
    }
}

impl Reader {
    /// The first record in segments, by offset, whose timestamp is at least `timestamp` (KIP-79).
    /// Timestamps need not rise with offsets.
    ///
    /// # Errors
    /// As [`Reader::read_segments`].
    pub async fn first_in_segments_at(
        &self,
        search: &SegmentSearch<'_>,
        timestamp: i64,
    ) -> Result<Option<FoundOffset>, ReadError> {
        // Never closed, so that there is always a permit in the end.
        let _place = self.0.searches.acquire().await.ok();
        for run in search.visible_runs() {
            let groups = row_groups_from_time(&run.row_groups, timestamp, search.start);
            for group in groups {
                if group.base_offset >= search.end {
                    return Ok(None);
                }
                let offsets = search.offsets();
                let look = move |group| first_at_or_after(group, timestamp, &offsets);
                let at = GroupAt { run, group };
                if let Some(found) = self.look_into(search, at, look).await? {
                    return Ok(Some(found.into()));
                }
            }
        }
        Ok(None)
    }

    /// The first record in segments with the largest timestamp (KIP-734).
    ///
    /// # Errors
    /// As [`Reader::read_segments`].
    pub async fn newest_in_segments(
        &self,
        search: &SegmentSearch<'_>,
    ) -> Result<Option<FoundOffset>, ReadError> {
        let _place = self.0.searches.acquire().await.ok();
        let mut best: Option<TimedRecord> = None;
        for Candidate { promised, at } in search.newest() {
            let is_beaten = |best: TimedRecord| match best.timestamp.cmp(&promised) {
                Ordering::Less => false,
                Ordering::Equal => best.offset < at.group.base_offset,
                Ordering::Greater => true,
            };
            if best.is_some_and(is_beaten) {
                break;
            }
            let offsets = search.offsets();
            let look = move |group| first_of_max(group, &offsets);
            let found = self.look_into(search, at, look).await?;
            let rank = |found: &TimedRecord| (found.timestamp, Reverse(found.offset));
            best = best.into_iter().chain(found).max_by_key(rank);
        }
        Ok(best.map(FoundOffset::from))
    }

    /// Looks into one row group; once more past the cache if its bytes are wrong.
    async fn look_into<L>(
        &self,
        search: &SegmentSearch<'_>,
        at: GroupAt<'_>,
        look: L,
    ) -> Result<Option<TimedRecord>, ReadError>
    where
        L: Fn(RowGroupReader) -> Result<Option<TimedRecord>, SegmentFault> + Clone + Send + 'static,
    {
        let segments = &self.0.segments;
        segments.searched.fetch_add(1, atomic::Ordering::Relaxed);
        let (tp, group) = (search.tp, *at.group);
        let bytes = group
            .byte_len
            .saturating_add(OPEN_ROW_GROUP_WORK_BYTES as u64);
        let memory = Arc::new(segments.remainders.room(bytes).await);
        let mut was_fetched_anew = false;
        loop {
            let key = key(tp, search.topic_name, at.run.segment);
            let bytes = match was_fetched_anew {
                false => segments.ranges.read(&key, group.byte_range()).await,
                true => segments.ranges.read_again(&key, group.byte_range()).await,
            };
            let bytes = bytes.map_err(|error| from_object(tp, error))?;
            let thread = segments.thread(&group).await;
            let (look, memory) = (look.clone(), Arc::clone(&memory));
            let looked = segments.on_thread(move || {
                let reader = RowGroupReader::open(&bytes, tp.topic, tp.partition, &group);
                let found = reader.and_then(look);
                drop((bytes, memory, thread));
                found
            });
            let offset = group.base_offset;
            let stopped = ReadError::Stopped { tp, offset };
            match looked.await.ok_or(stopped)? {
                Ok(found) => return Ok(found),
                Err(fault) => {
                    self.on_fault(tp, key, offset, &fault, was_fetched_anew)?;
                    was_fetched_anew = true;
                }
            }
        }
    }
}

impl From<TimedRecord> for FoundOffset {
    fn from(found: TimedRecord) -> Self {
        Self {
            offset: found.offset,
            timestamp: found.timestamp,
            epoch: found.epoch,
        }
    }
}
