//! COMMIT: a segment enters the map, or nothing of it. ABANDON: it never will (I9).

use firn_proto::cluster::{
    ArchiveError, ArchivedRun, CommitRun, CommitSegment, SegmentKey, row_groups_cover,
};
use firn_proto::ids::{Incarnation, TopicPartition};

use super::super::topics::Topic;
use super::super::windows::marks_mut;
use super::super::{Effects, State};
use super::contradiction;

impl State {
    pub(in crate::state) fn commit_segment(
        &mut self,
        body: &CommitSegment,
        effects: &mut Effects,
    ) -> Result<(), ArchiveError> {
        if self.has_entered(body)? {
            return Ok(());
        }
        self.check_commit(body)?;
        let SegmentKey {
            incarnation,
            number,
        } = body.segment;
        let writer = self.archive.writers.entry(incarnation).or_default();
        let is_new = writer.entered.insert(number);
        assert!(
            is_new && !writer.abandoned.contains(number),
            "I9: segment {number} of incarnation {incarnation} enters the map twice"
        );
        for run in &body.runs {
            let tp = partition_of(body, run);
            let map = self.archive.maps.entry(tp).or_default();
            map.push(archived(body, run));
            if let Some(marks) = marks_mut(&mut self.topics, tp) {
                marks.archived_to = run.last_offset + 1;
            }
            self.settle_windows(tp, Some(run.next));
        }
        effects.changed = true;
        Ok(())
    }

    pub(in crate::state) fn abandon_segment(
        &mut self,
        key: SegmentKey,
        effects: &mut Effects,
    ) -> Result<(), ArchiveError> {
        let writer = self.archive.writers.get_mut(&key.incarnation);
        let writer = writer.ok_or(ArchiveError::Ended(key.incarnation))?;
        if writer.entered.contains(key.number) {
            return Err(ArchiveError::Entered);
        }
        effects.changed |= writer.abandoned.insert(key.number);
        Ok(())
    }

    /// Whether the segment has entered before, as it is. Runs of it that have left the map since, or
    /// are in pages, are not compared.
    fn has_entered(&self, body: &CommitSegment) -> Result<bool, ArchiveError> {
        let SegmentKey {
            incarnation,
            number,
        } = body.segment;
        let writer = self.archive.writers.get(&incarnation);
        let writer = writer.ok_or(ArchiveError::Ended(incarnation))?;
        if writer.abandoned.contains(number) {
            return Err(ArchiveError::Abandoned);
        }
        if !writer.entered.contains(number) {
            return Ok(false);
        }
        for run in &body.runs {
            let map = self.archive.maps.get(&partition_of(body, run));
            let known = map.and_then(|map| map.run_in_memory(run.base_offset));
            if known.is_some_and(|known| **known != archived(body, run)) {
                let reason = "the segment has entered the map with another run";
                return Err(contradiction(run.partition, reason));
            }
        }
        Ok(true)
    }

    fn check_commit(&self, body: &CommitSegment) -> Result<(), ArchiveError> {
        let incarnation = body.segment.incarnation;
        if self.stream_of(incarnation).is_none() {
            return Err(ArchiveError::Ended(incarnation));
        }
        let topic = self.topics.find(body.topic);
        let topic = topic.ok_or(ArchiveError::UnknownTopic)?;
        if body.runs.is_empty() {
            let reason = "the segment has no run: it would never leave the map";
            return Err(contradiction(0.into(), reason));
        }
        let mut before = None;
        for run in &body.runs {
            if before >= Some(run.partition) {
                let reason = "the runs of the segment do not ascend by partition";
                return Err(contradiction(run.partition, reason));
            }
            before = Some(run.partition);
            check_run(topic, incarnation, run)?;
        }
        Ok(())
    }
}

fn check_run(topic: &Topic, incarnation: Incarnation, run: &CommitRun) -> Result<(), ArchiveError> {
    let not_owner = || ArchiveError::NotOwner(run.partition);
    let image = topic.image.partition(run.partition).ok_or_else(not_owner)?;
    let index = usize::try_from(run.partition.0).map_err(|_| not_owner())?;
    let marks = topic.marks.get(index).ok_or_else(not_owner)?;
    let owns = image
        .owner
        .is_some_and(|owner| owner.incarnation == incarnation);
    if !owns || image.epoch != run.epoch {
        return Err(not_owner());
    }
    if run.base_offset != marks.archived_to {
        let reason = format!(
            "the run begins at offset {}, but the partition is archived to {}",
            run.base_offset, marks.archived_to
        );
        return Err(contradiction(run.partition, reason));
    }
    if run.last_offset < run.base_offset || run.last_offset == i64::MAX {
        let reason = format!("the run cannot end at offset {}", run.last_offset);
        return Err(contradiction(run.partition, reason));
    }
    if !row_groups_cover(&run.row_groups, run.base_offset, run.last_offset) {
        let reason = "the row groups of the run do not cover it";
        return Err(contradiction(run.partition, reason));
    }
    Ok(())
}

fn partition_of(body: &CommitSegment, run: &CommitRun) -> TopicPartition {
    TopicPartition {
        topic: body.topic,
        partition: run.partition,
    }
}

fn archived(body: &CommitSegment, run: &CommitRun) -> ArchivedRun {
    ArchivedRun {
        segment: body.segment,
        runs_of_segment: u32::try_from(body.runs.len()).unwrap_or(u32::MAX),
        base_offset: run.base_offset,
        last_offset: run.last_offset,
        max_timestamp: run.max_timestamp,
        row_groups: run.row_groups.clone(),
    }
}
