//! Moves the log starts of partitions that this broker owns: first in the journal, then here (I5).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_coordinator::Coordinator;
use firn_proto::cluster::{
    ArchiveError, CoordinatorError, MapPart, PagedRelease, RaiseLogStart, RaiseLogStarts, Reply,
    Request, RunsFrom,
};
use firn_proto::env::Entropy;
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::{Incarnation, LeaderEpoch, Slot, SlotPosition, StreamId, TopicPartition};
use firn_proto::limits::{
    ARCHIVE_REQUEST_ITEMS_MAX, LOG_START_REQUESTS_MAX, LOG_STARTS_MOVED_MAX, MAP_PAGE_RUNS,
    RELEASED_PAGES_MAX,
};
use tokio::sync::Semaphore;

use crate::insist::insist;
use crate::partition::Partition;
use crate::segment_map::{MapError, SegmentMap};

/// Moves log starts. Cheap to clone.
#[derive(Clone)]
pub struct LogStarts {
    coordinator: Coordinator,
    entropy: Arc<Entropy>,
    incarnation: Incarnation,
    segments: Arc<SegmentMap>,
    /// Requests that move log starts, whether anybody waits for them or not.
    moving: Arc<Semaphore>,
    let_go: Arc<Mutex<LetGo>>,
}

/// Below which slots the journal knows that idle partitions need nothing: as much as this process
/// has told it, or more.
#[derive(Debug, Default)]
struct LetGo {
    told: BTreeMap<TopicPartition, (LeaderEpoch, SlotPosition)>,
    /// Slots below are known to the journal as durable: no more than these does it let go of,
    /// whatever it is told.
    durable_end: Slot,
}

impl LetGo {
    /// Those of the `idle` partitions that hold the floors of their streams, beside what others
    /// `need` there. Forgets all partitions but these.
    fn holding(
        &mut self,
        idle: Vec<RaiseLogStart>,
        needed: &BTreeMap<StreamId, Slot>,
    ) -> Vec<RaiseLogStart> {
        let mut told = std::mem::take(&mut self.told);
        let holds = |start: &RaiseLogStart| {
            let Some((epoch, next)) = told.remove(&start.tp) else {
                return true;
            };
            if epoch != start.epoch || next.stream != start.next.stream {
                return true;
            }
            self.told.insert(start.tp, (epoch, next));
            let is_lowest = needed
                .get(&next.stream)
                .is_none_or(|slot| next.slot < *slot);
            next.slot < start.next.slot && is_lowest
        };
        let mut holding = idle;
        holding.retain(holds);
        holding
    }

    /// The journal has answered, which knew slots below `durable_end` when it was asked.
    fn on_moved(
        &mut self,
        starts: &[RaiseLogStart],
        moved: &[Result<(), ArchiveError>],
        durable_end: Slot,
    ) {
        for (start, moved) in starts.iter().zip(moved) {
            if moved.is_ok() {
                let slot = start.next.slot.min(durable_end);
                let kept = SlotPosition { slot, ..start.next };
                self.told.insert(start.tp, (start.epoch, kept));
            }
        }
    }
}

/// A log start on its way up.
struct Move {
    /// Its place among the wanted.
    index: usize,
    partition: Arc<Partition>,
    /// Where it is to be in the end.
    to: i64,
}

impl LogStarts {
    /// Moves them for the partitions of `incarnation`, whose map is `segments`.
    pub fn new(
        coordinator: Coordinator,
        entropy: Arc<Entropy>,
        incarnation: Incarnation,
        segments: Arc<SegmentMap>,
    ) -> Self {
        Self {
            coordinator,
            entropy,
            incarnation,
            segments,
            moving: Arc::new(Semaphore::new(LOG_START_REQUESTS_MAX)),
            let_go: Arc::default(),
        }
    }

    /// Moves the log start of each partition up to an offset, and says where it is then: further up
    /// if it was already. One result for each, in order; durable when they come. If the future is
    /// dropped, what was begun is done all the same: the owner must not be behind the journal.
    ///
    /// The codes are OFFSET_OUT_OF_RANGE above what is durable, NOT_LEADER_OR_FOLLOWER if the
    /// partition has gone elsewhere, and retriable ones while the map cannot be read.
    pub async fn raise(&self, wanted: Vec<(Arc<Partition>, i64)>) -> Vec<Result<i64, ErrorCode>> {
        let count = wanted.len();
        let place = Arc::clone(&self.moving).acquire_owned().await;
        let starts = self.clone();
        let moved = tokio::spawn(async move {
            let moved = starts.raise_all(wanted).await;
            drop(place);
            moved
        });
        let moved = moved.await;
        moved.unwrap_or_else(|_| vec![Err(ErrorCode::UnknownServerError); count])
    }

    async fn raise_all(&self, wanted: Vec<(Arc<Partition>, i64)>) -> Vec<Result<i64, ErrorCode>> {
        let mut results: Vec<_> = wanted.iter().map(|(found, to)| now(found, *to)).collect();
        let mut moves: Vec<Move> = wanted
            .into_iter()
            .enumerate()
            .filter(|(index, (partition, to))| {
                results.get(*index) == Some(&Ok(*to)) && partition.bounds().log_start < *to
            })
            .map(|(index, (partition, to))| Move {
                index,
                partition,
                to,
            })
            .collect();
        // Runs that are paged out leave some pages at a time, and the log start moves with them.
        while !moves.is_empty() {
            moves = self.step(moves, &mut results).await;
        }
        results
    }

    /// Tells the journal of partitions without records in the WAL that they need nothing of it up to
    /// here, though their log starts stay where they are: else a partition that nobody writes to
    /// would hold the floor of the stream (I7). Of `partitions`, all that this process owns, only
    /// those are told that hold it: others need slots that were told of the rest before.
    pub async fn let_go_of_slots(&self, partitions: &[Arc<Partition>]) {
        let mut idle = Vec::new();
        let mut needed = BTreeMap::new();
        for partition in partitions {
            let bounds = partition.bounds();
            let Some(next) = partition.next_slot(bounds.archived_to) else {
                continue;
            };
            if bounds.archived_to < bounds.log_end {
                let first = needed.entry(next.stream).or_insert(next.slot);
                *first = next.slot.min(*first);
                continue;
            }
            idle.push(RaiseLogStart {
                tp: partition.tp(),
                epoch: partition.epoch(),
                log_start: bounds.log_start,
                next,
                paged: None,
            });
        }
        let (holding, durable_end) = {
            let mut let_go = self.let_go();
            (let_go.holding(idle, &needed), let_go.durable_end)
        };
        for starts in holding.chunks(LOG_STARTS_MOVED_MAX) {
            match self.ask(starts.to_vec()).await {
                Ok(moved) => self.let_go().on_moved(starts, &moved, durable_end),
                Err(error) => {
                    tracing::debug!(%error, "idle partitions hold their slots a while longer");
                }
            }
        }
    }

    /// The journal knows that slots of this process's stream below `durable_end` are durable.
    pub fn on_reported(&self, durable_end: Slot) {
        let mut let_go = self.let_go();
        let_go.durable_end = durable_end.max(let_go.durable_end);
    }

    fn let_go(&self) -> MutexGuard<'_, LetGo> {
        self.let_go.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves each as far as one command takes it; returns those that are not where they are to be.
    async fn step(&self, moves: Vec<Move>, results: &mut [Result<i64, ErrorCode>]) -> Vec<Move> {
        let mut starts = Vec::new();
        let mut moving = Vec::new();
        let mut left = Vec::new();
        let mut room = Room::default();
        for found in moves {
            if !room.is_left() {
                left.push(found);
                continue;
            }
            match self.start(&found.partition, found.to).await {
                Ok(start) => {
                    room.take(&start);
                    moving.push((found, start.log_start));
                    starts.push(start);
                }
                Err(code) => set(results, found.index, Err(code)),
            }
        }
        if starts.is_empty() {
            return left;
        }
        let moved = self.ask(starts).await;
        for (place, (found, at)) in moving.into_iter().enumerate() {
            let result = match &moved {
                Ok(moved) => moved.get(place).cloned().unwrap_or(Ok(())).map_err(code),
                Err(error) => Err(coordinator_code(error)),
            };
            if result.is_ok() {
                found.partition.on_log_start(at);
            }
            match result {
                Ok(()) if at < found.to => left.push(found),
                result => set(results, found.index, result.map(|()| found.to)),
            }
        }
        left
    }

    /// What the journal is told to move the log start to `to`, or as far as one command takes it.
    async fn start(&self, partition: &Partition, to: i64) -> Result<RaiseLogStart, ErrorCode> {
        let (log_start, paged) = self.paged(partition, to).await.map_err(|error| {
            tracing::warn!(%error, "a log start was not moved");
            ErrorCode::KafkaStorageError
        })?;
        let bound = partition.bounds().archived_to.max(log_start);
        // A partition without a slot has no record, and its log start is its end.
        let next = partition.next_slot(bound);
        Ok(RaiseLogStart {
            tp: partition.tp(),
            epoch: partition.epoch(),
            log_start,
            next: next.ok_or(ErrorCode::KafkaStorageError)?,
            paged,
        })
    }

    /// Which paged runs leave the map if the log starts at `to`, or as far up as some pages reach.
    async fn paged(
        &self,
        partition: &Partition,
        to: i64,
    ) -> Result<(i64, Option<PagedRelease>), MapError> {
        let tp = partition.tp();
        let mut from = partition.bounds().log_start;
        let mut release: Option<PagedRelease> = None;
        for _ in 0..RELEASED_PAGES_MAX {
            let found = self.segments.look(tp, RunsFrom::Offset(from)).await?;
            let MapPart::Page(page) = found.part else {
                return Ok((to, release));
            };
            let leaving = release.get_or_insert_with(|| PagedRelease {
                pages: Vec::new(),
                released_to: found.released_to,
                segments: Vec::new(),
                run_bytes: 0,
                next_released_to: found.released_to,
            });
            leaving.pages.push(page.key);
            for run in self.segments.page(tp, &page).await? {
                if run.base_offset >= leaving.next_released_to && run.last_offset < to {
                    leaving.segments.push((run.segment, run.runs_of_segment));
                    leaving.run_bytes += run.bytes();
                    leaving.next_released_to = run.last_offset + 1;
                }
            }
            if page.last_offset >= to {
                return Ok((to, release));
            }
            from = page.last_offset + 1;
        }
        Ok((from, release))
    }

    async fn ask(
        &self,
        starts: Vec<RaiseLogStart>,
    ) -> Result<Vec<Result<(), ArchiveError>>, CoordinatorError> {
        let request = Request::RaiseLogStarts(RaiseLogStarts {
            incarnation: self.incarnation,
            starts,
        });
        match insist(&self.coordinator, &self.entropy, request).await? {
            Reply::LogStarts(moved) => Ok(moved),
            _ => Err(CoordinatorError::Stopped),
        }
    }
}

/// Where the log start is to be, or is already; or why it cannot be there.
fn now(partition: &Partition, to: i64) -> Result<i64, ErrorCode> {
    let bounds = partition.bounds();
    if to > bounds.durable_end {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    Ok(to.max(bounds.log_start))
}

/// The most things that one log start names in a request: itself, pages and their runs.
const START_ITEMS_MAX: usize = 1 + RELEASED_PAGES_MAX * (1 + MAP_PAGE_RUNS as usize);
const _: () = assert!(START_ITEMS_MAX <= ARCHIVE_REQUEST_ITEMS_MAX);

/// How much of a request is taken: the coordinator refuses one that names too many things.
#[derive(Default)]
struct Room {
    items: usize,
}

impl Room {
    /// Whether any log start has room, the largest too.
    fn is_left(&self) -> bool {
        self.items + START_ITEMS_MAX <= ARCHIVE_REQUEST_ITEMS_MAX
    }

    fn take(&mut self, start: &RaiseLogStart) {
        let of_pages = |paged: &PagedRelease| paged.pages.len() + paged.segments.len();
        self.items += 1 + start.paged.as_ref().map_or(0, of_pages);
    }
}

fn set(results: &mut [Result<i64, ErrorCode>], index: usize, result: Result<i64, ErrorCode>) {
    if let Some(place) = results.get_mut(index) {
        *place = result;
    }
}

fn code(error: ArchiveError) -> ErrorCode {
    match error {
        ArchiveError::NotOwner(_) | ArchiveError::Ended(_) => ErrorCode::NotLeaderOrFollower,
        ArchiveError::UnknownTopic => ErrorCode::UnknownTopicOrPartition,
        ArchiveError::Abandoned | ArchiveError::Entered | ArchiveError::Contradiction { .. } => {
            tracing::error!(%error, "the journal refuses a log start");
            ErrorCode::KafkaStorageError
        }
    }
}

fn coordinator_code(error: &CoordinatorError) -> ErrorCode {
    tracing::warn!(%error, "a log start was not moved");
    match error {
        CoordinatorError::Busy => ErrorCode::RequestTimedOut,
        CoordinatorError::Refused(_) => ErrorCode::InvalidRequest,
        CoordinatorError::NotLeader(_) | CoordinatorError::Stopped => {
            ErrorCode::NotLeaderOrFollower
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use firn_proto::cluster::SegmentKey;
    use firn_proto::ids::TopicId;

    /// A log start with which so many pages leave, all of them full.
    fn start(pages: usize) -> RaiseLogStart {
        let key = SegmentKey {
            incarnation: Incarnation(1),
            number: 0,
        };
        let paged = PagedRelease {
            pages: vec![key; pages],
            released_to: 0,
            segments: vec![(key, 1); pages * MAP_PAGE_RUNS as usize],
            run_bytes: 0,
            next_released_to: 1,
        };
        RaiseLogStart {
            tp: TopicPartition {
                topic: TopicId::ZERO,
                partition: 0.into(),
            },
            epoch: LeaderEpoch(0),
            log_start: 1,
            next: SlotPosition {
                stream: StreamId(1),
                slot: Slot(0),
            },
            paged: (pages > 0).then_some(paged),
        }
    }

    /// How many such log starts one request takes.
    fn taken(start: &RaiseLogStart) -> usize {
        let mut room = Room::default();
        let mut count = 0;
        while room.is_left() {
            room.take(start);
            count += 1;
        }
        assert!(room.items <= ARCHIVE_REQUEST_ITEMS_MAX, "it is refused");
        count
    }

    #[test]
    fn a_request_ends_where_the_largest_log_start_might_be_too_much() {
        let largest = start(RELEASED_PAGES_MAX);
        assert_eq!(taken(&largest), ARCHIVE_REQUEST_ITEMS_MAX / START_ITEMS_MAX);
        let without_pages = ARCHIVE_REQUEST_ITEMS_MAX - START_ITEMS_MAX + 1;
        assert_eq!(taken(&start(0)), without_pages);
        assert!(without_pages >= LOG_STARTS_MOVED_MAX);
    }

    fn idle(partition: i32, epoch: i32, next: u64) -> RaiseLogStart {
        let mut start = start(0);
        start.tp.partition = partition.into();
        start.epoch = LeaderEpoch(epoch);
        start.next.slot = Slot(next);
        start
    }

    #[test]
    fn what_the_journal_does_not_know_as_durable_is_told_again() {
        let mut let_go = LetGo::default();
        let mut is_told = |durable_end| {
            let holding = let_go.holding(vec![idle(1, 0, 20)], &BTreeMap::new());
            let moved = vec![Ok(()); holding.len()];
            let_go.on_moved(&holding, &moved, Slot(durable_end));
            !holding.is_empty()
        };
        assert!(is_told(15), "of which it keeps 15");
        assert!(is_told(20), "for it may know more by now");
        assert!(!is_told(20), "all is let go of");
    }

    #[test]
    fn the_journal_is_told_only_of_idle_partitions_that_hold_the_floor() {
        let mut let_go = LetGo::default();
        let mut told = |idle: &[RaiseLogStart], needed: Option<u64>| -> Vec<i32> {
            let needed = needed.map(|slot| (StreamId(1), Slot(slot)));
            let holding = let_go.holding(idle.to_vec(), &needed.into_iter().collect());
            // that of the last partition is refused
            let mut moved = vec![Ok(()); holding.len()];
            if holding
                .last()
                .is_some_and(|start| start.tp.partition.0 == 9)
            {
                moved.pop();
                moved.push(Err(ArchiveError::UnknownTopic));
            }
            let_go.on_moved(&holding, &moved, Slot(100));
            holding.iter().map(|start| start.tp.partition.0).collect()
        };
        let at = |next| [idle(1, 0, next), idle(2, 0, next), idle(9, 0, next)];
        assert_eq!(
            told(&at(10), Some(5)),
            [1, 2, 9],
            "of none is anything known"
        );
        assert_eq!(
            told(&at(20), Some(10)),
            [9],
            "another needs what they let go of"
        );
        assert_eq!(told(&at(20), Some(11)), [1, 2, 9]);
        assert_eq!(told(&at(20), None), [9], "nothing is new");
        assert_eq!(told(&[idle(1, 1, 20), idle(2, 0, 21)], None), [1, 2]);
        assert_eq!(told(&[idle(1, 1, 20)], None), [0; 0]);
        assert_eq!(
            told(&[idle(2, 0, 21)], None),
            [2],
            "it was written to meanwhile"
        );
    }
}
