//! Log starts that move up, and the runs and pages that leave the map with them (I5, I9).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_proto::cluster::{
    ArchiveError, Doomed, PagedRelease, RaiseLogStart, RaiseLogStarts, Reply, SegmentKey,
};
use firn_proto::ids::{Incarnation, TopicId, TopicPartition};

use super::super::windows::{marks_mut, partition_mut};
use super::super::{Effects, State};
use super::{Archive, PartitionMap, contradiction};

/// Whose runs leave, and when what they leave behind may be deleted.
struct Leaving {
    topic: TopicId,
    topic_name: Arc<str>,
    due_ms: i64,
}

impl State {
    pub(in crate::state) fn raise_log_starts(
        &mut self,
        body: &RaiseLogStarts,
        at_ms: i64,
        effects: &mut Effects,
    ) -> Reply {
        let mut results = Vec::with_capacity(body.starts.len());
        for start in &body.starts {
            let checked = self.check_raise(body.incarnation, start);
            results.push(checked.map(|rises| {
                if rises {
                    self.raise_one(start, at_ms);
                    self.forget_epochs(start.tp, effects);
                    effects.changed = true;
                }
                effects.changed |= self.settle_windows(start.tp, Some(start.next));
            }));
        }
        Reply::LogStarts(results)
    }

    /// Whether the log start rises, or stays.
    fn check_raise(
        &self,
        incarnation: Incarnation,
        start: &RaiseLogStart,
    ) -> Result<bool, ArchiveError> {
        let RaiseLogStart { tp, log_start, .. } = *start;
        if self.topics.find(tp.topic).is_none() {
            return Err(ArchiveError::UnknownTopic);
        }
        let not_owner = || ArchiveError::NotOwner(tp.partition);
        let (image, marks) = self.topics.partition(tp).ok_or_else(not_owner)?;
        let owns = image
            .owner
            .is_some_and(|owner| owner.incarnation == incarnation);
        if !owns || image.epoch != start.epoch {
            return Err(not_owner());
        }
        if log_start < marks.log_start {
            let reason = format!("the log start is {} and never goes back", marks.log_start);
            return Err(contradiction(tp.partition, reason));
        }
        if log_start == marks.log_start {
            return Ok(false);
        }
        let nothing = PartitionMap::default();
        let map = self.archive.maps.get(&tp).unwrap_or(&nothing);
        let checked = map.check_release(log_start, start.paged.as_ref());
        checked.map_err(|reason| contradiction(tp.partition, reason))?;
        if let Some(release) = &start.paged {
            let checked = self.archive.check_segments(tp.topic, release);
            checked.map_err(|reason| contradiction(tp.partition, reason))?;
        }
        Ok(true)
    }

    fn raise_one(&mut self, start: &RaiseLogStart, at_ms: i64) {
        let RaiseLogStart { tp, log_start, .. } = *start;
        if let Some(marks) = marks_mut(&mut self.topics, tp) {
            marks.log_start = log_start;
            marks.archived_to = marks.archived_to.max(log_start);
        }
        let Some(topic) = self.topics.find(tp.topic) else {
            return;
        };
        let leaving = Leaving {
            topic: tp.topic,
            topic_name: Arc::clone(&topic.image.name),
            due_ms: at_ms.saturating_add(super::garbage::delay_ms(&topic.image.configs)),
        };
        let Some(map) = self.archive.maps.get_mut(&tp) else {
            return;
        };
        let release = start.paged.as_ref();
        let pages = release.map(|release| map.release(log_start, release));
        let runs = map.take_runs_below(log_start);
        if map.is_empty() {
            self.archive.maps.remove(&tp);
        }
        for (segment, of) in release
            .map(|release| &release.segments)
            .into_iter()
            .flatten()
        {
            self.archive.run_left(&leaving, *segment, *of);
        }
        for run in runs {
            self.archive
                .run_left(&leaving, run.segment, run.runs_of_segment);
        }
        for page in pages.into_iter().flatten() {
            let what = Doomed::MapPage {
                topic: tp.topic,
                page: page.key,
            };
            self.archive.queue.push(what, leaving.due_ms);
        }
    }
}

impl State {
    /// Epochs of which nothing is left go, so that a partition that moves for years has no more of
    /// them than its records need. Whoever asks for one of them is told where the first that is left
    /// begins, which is at or behind its end.
    fn forget_epochs(&mut self, tp: TopicPartition, effects: &mut Effects) {
        let Some((partition, marks)) = self.topics.partition(tp) else {
            return;
        };
        let epochs = &partition.epochs;
        let begun = epochs.partition_point(|epoch| epoch.start_offset <= marks.log_start);
        let gone = begun.saturating_sub(1);
        if gone > 0
            && let Some(partition) = partition_mut(&mut self.topics, tp)
        {
            partition.epochs.drain(..gone);
            effects.topic(tp.topic);
        }
    }
}

impl Archive {
    /// Says what is wrong with the segments that runs in pages are said to leave.
    fn check_segments(&self, topic: TopicId, release: &PagedRelease) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for (segment, of) in &release.segments {
            let left = self.left.get(&(topic, *segment)).copied().unwrap_or(0);
            let writer = self.writers.get(&segment.incarnation);
            let has_entered = writer.is_none_or(|writer| writer.entered.contains(segment.number));
            if !seen.insert(*segment) || left >= *of || !has_entered {
                return Err(format!(
                    "a run of {segment:?} cannot leave the map: of its {of} runs {left} have left"
                ));
            }
        }
        Ok(())
    }

    /// A run has left the map. With the last of its runs the segment goes.
    fn run_left(&mut self, leaving: &Leaving, segment: SegmentKey, runs_of_segment: u32) {
        let topic = leaving.topic;
        let left = self.left.remove(&(topic, segment)).unwrap_or(0) + 1;
        assert!(
            left <= runs_of_segment,
            "I9: {left} runs of {segment:?} have left the map, which had {runs_of_segment}"
        );
        if left < runs_of_segment {
            self.left.insert((topic, segment), left);
            return;
        }
        let what = Doomed::Segment {
            topic_name: Arc::clone(&leaving.topic_name),
            topic,
            segment,
        };
        self.queue.push(what, leaving.due_ms);
    }

    /// A topic is deleted: everything of it leaves the map, and goes as a whole.
    pub(in crate::state) fn forget_topic(
        &mut self,
        topic: TopicId,
        topic_name: &Arc<str>,
        configs: &BTreeMap<String, String>,
        at_ms: i64,
    ) {
        self.maps.retain(|tp, _| tp.topic != topic);
        self.left.retain(|(id, _), _| *id != topic);
        let what = Doomed::Topic {
            topic_name: Arc::clone(topic_name),
            topic,
        };
        let due_ms = at_ms.saturating_add(super::garbage::delay_ms(configs));
        self.queue.push(what, due_ms);
    }
}
