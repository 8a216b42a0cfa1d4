//! Brokers, and which of their processes may append to which partition since when (I4).

use std::collections::BTreeSet;
use std::sync::Arc;

use firn_proto::cluster::{
    AssignPartitions, Assigned, AssignmentError, BrokerImage, EpochStart, Ownership, PartitionEnd,
    PartitionImage, ProgressReport, RegisterBroker, RegisteredBroker, ReleasePartition,
    ReleasePartitions, Reply, ResumePartitions, StreamError, TopicImage, Window,
};
use firn_proto::ids::{
    BrokerId, ClusterId, DiskId, Incarnation, LeaderEpoch, Slot, SlotPosition, StreamId, TopicId,
    TopicPartition,
};

use super::streams::{Phase, Stream};
use super::topics::{PartitionMarks, partition_at};
use super::windows::{marks_mut, partition_mut};
use super::{Effects, State};

impl State {
    pub(super) fn register_broker(
        &mut self,
        body: &RegisterBroker,
        effects: &mut Effects,
    ) -> Reply {
        let known = body.broker.or_else(|| self.broker_of_disk(body.disk?));
        let broker = known.unwrap_or_else(|| self.free_broker_id());
        if let Some(before) = self.brokers.get(&broker) {
            self.end_incarnation(before.incarnation, effects);
        }
        let incarnation = self.next.incarnation;
        let stream = self.next.stream;
        self.next.incarnation = Incarnation(incarnation.0 + 1);
        self.next.stream = StreamId(stream.0 + 1);
        let image = BrokerImage {
            broker,
            incarnation,
            stream,
            listeners: body.listeners.clone(),
            rack: body.rack.clone(),
            disk: body.disk,
            link: body.link.clone(),
            draining: false,
        };
        self.brokers.insert(broker, Arc::new(image));
        self.owned.insert(broker, 0);
        let opened = Stream {
            broker,
            incarnation,
            disk: body.disk,
            floor: Slot(0),
            durable_end: Slot(0),
            phase: Phase::Live,
            holds_local: false,
            is_whole: false,
        };
        self.streams.open(stream, opened);
        self.archive.open_writer(incarnation);
        self.assign_never_owned(effects);
        effects.brokers = true;
        effects.changed = true;
        Reply::RegisterBroker(RegisteredBroker {
            cluster: ClusterId::ZERO,
            broker,
            incarnation,
            stream,
            seals: self.pending_seals(),
        })
    }

    /// The process has stopped in order.
    pub(super) fn leave(&mut self, incarnation: Incarnation, effects: &mut Effects) {
        if let Some(stream) = self.stream_of(incarnation) {
            self.streams.leave(stream);
        }
        self.end_incarnation(incarnation, effects);
    }

    /// The process is gone: its partitions have no owner, its stream waits for its seal.
    pub(super) fn end_incarnation(&mut self, incarnation: Incarnation, effects: &mut Effects) {
        let alive = self.brokers.values();
        let Some(image) = alive.into_iter().find(|b| b.incarnation == incarnation) else {
            return;
        };
        let (broker, stream) = (image.broker, image.stream);
        self.brokers.remove(&broker);
        self.owned.remove(&broker);
        self.streams.end(stream);
        let owns = |p: &PartitionImage| p.owner.is_some_and(|o| o.incarnation == incarnation);
        self.change_partitions(effects, owns, |partition| {
            partition.owner = None;
            partition.moving_to = None;
        });
        self.call_off_moves_to(broker, effects);
        effects.brokers = true;
        effects.changed = true;
    }

    /// Changes the partitions that are `meant`; topics without one are not copied.
    pub(super) fn change_partitions(
        &mut self,
        effects: &mut Effects,
        meant: impl Fn(&PartitionImage) -> bool,
        change: impl Fn(&mut PartitionImage),
    ) {
        for (id, topic) in self.topics.iter_mut() {
            if !topic.image.partitions.iter().any(&meant) {
                continue;
            }
            let partitions = &mut Arc::make_mut(&mut topic.image).partitions;
            partitions.iter_mut().filter(|p| meant(p)).for_each(&change);
            effects.topic(id);
        }
    }

    pub(super) fn seal_stream(
        &mut self,
        stream: StreamId,
        end: Slot,
        effects: &mut Effects,
    ) -> Result<(), StreamError> {
        if !self.streams.seal(stream, end)? {
            return Ok(());
        }
        effects.changed = true;
        self.topics.let_go(stream, None);
        let open = |w: &Window| w.stream == stream && w.end_slot.is_none();
        for (id, topic) in self.topics.iter_mut() {
            let partitions = &topic.image.partitions;
            if !partitions.iter().any(|p| p.windows.iter().any(open)) {
                continue;
            }
            let image = Arc::make_mut(&mut topic.image);
            let windows = image.partitions.iter_mut().flat_map(|p| &mut p.windows);
            for window in windows.filter(|w| open(w)) {
                window.end_slot = Some(end);
            }
            effects.topic(id);
        }
        Ok(())
    }

    pub(super) fn report_progress(
        &mut self,
        body: &ProgressReport,
        effects: &mut Effects,
    ) -> Result<(), StreamError> {
        self.check_live_stream(body.incarnation, body.stream)?;
        effects.changed |= self.streams.raise_durable(body.stream, body.durable_end);
        for report in &body.rows {
            for tp in &report.partitions {
                let at = SlotPosition {
                    stream: body.stream,
                    slot: report.slot,
                };
                if self.row_may_move(*tp, at) {
                    self.move_row(*tp, at, effects);
                }
            }
        }
        effects.changed |= self.streams.raise_rows_end(body.stream, body.rows_end);
        effects.changed |= body.holds_local && self.streams.note_local(body.stream);
        Ok(())
    }

    /// Begins the next epoch of every partition whose current one has ended as it is named (I4).
    pub(super) fn assign(&mut self, body: &AssignPartitions, effects: &mut Effects) -> Reply {
        let mut results = Vec::with_capacity(body.ended.len());
        for ended in &body.ended {
            let result = self
                .check_ended(ended, body.to)
                .and_then(|()| self.next_owner(ended.tp, body.to));
            results.push(result.map(|owner| {
                effects.topic(ended.tp.topic);
                self.begin_epoch(ended.tp, &owner, ended.end_offset)
            }));
        }
        Reply::Assigned(results)
    }

    /// Ends epochs where their owner says. Where it was asked to release a partition to a broker
    /// that can take it, that begins the next epoch at once, for the end is known; else the
    /// partition waits for whoever assigns it.
    pub(super) fn release(&mut self, body: &ReleasePartitions, effects: &mut Effects) -> Reply {
        let mut results = Vec::with_capacity(body.released.len());
        for released in &body.released {
            let checked = self.check_release(body.incarnation, released);
            if checked.is_ok() {
                let next = self.move_target(released.end.tp);
                self.release_one(released, effects);
                if let Some(next) = next {
                    self.begin_epoch(released.end.tp, &next, released.end.end_offset);
                }
            }
            results.push(checked);
        }
        Reply::Released(results)
    }

    /// Gives the latest epoch of partitions a second window, in the stream of a broker that came
    /// back with the disk of the first one (I4). Whoever asks twice is told what happened the first
    /// time.
    pub(super) fn resume(&mut self, body: &ResumePartitions, effects: &mut Effects) -> Reply {
        let owner = self.live(body.incarnation).cloned();
        let mut results = Vec::with_capacity(body.resumed.len());
        for resumed in &body.resumed {
            let result = owner.as_ref().ok_or(AssignmentError::NoBroker);
            results.push(result.and_then(|owner| self.resume_one(&resumed.end, owner, effects)));
        }
        Reply::Assigned(results)
    }

    fn resume_one(
        &mut self,
        end: &PartitionEnd,
        owner: &BrokerImage,
        effects: &mut Effects,
    ) -> Result<Assigned, AssignmentError> {
        if let Some(before) = self.resumed_before(end, owner) {
            return Ok(before);
        }
        self.check_resume(end, owner)?;
        effects.topic(end.tp.topic);
        Ok(self.open_window(end.tp, owner, end.epoch, end.end_offset))
    }

    /// Forgets a topic; its windows and rows let go of their slots.
    pub(super) fn forget_topic(&mut self, id: TopicId, at_ms: i64) {
        let Some(topic) = self.topics.find(id) else {
            return;
        };
        let mut held_by = BTreeSet::new();
        for (partition, marks) in topic.image.partitions.iter().zip(&topic.marks) {
            if let Some(owner) = partition.owner {
                held_by.insert(owner.stream);
                if let Some(count) = self.owned.get_mut(&owner.broker) {
                    *count -= 1;
                }
            }
            for window in &partition.windows {
                self.streams.unpin(window.stream, window.lowest_slot);
            }
            if let Some(row) = marks.row {
                self.streams.unpin(row.stream, row.slot);
            }
        }
        let TopicImage { name, configs, .. } = &*topic.image;
        self.archive.forget_topic(id, name, configs, at_ms);
        self.topics.delete(id, held_by);
    }

    /// Gives a partition its first owner, if any broker lives.
    pub(super) fn begin_first_epoch(&mut self, tp: TopicPartition, wanted: Option<BrokerId>) {
        if let Ok(owner) = self.next_owner(tp, wanted) {
            self.begin_epoch(tp, &owner, 0);
        }
    }

    /// The stream of a live process.
    pub(super) fn stream_of(&self, incarnation: Incarnation) -> Option<StreamId> {
        self.live(incarnation).map(|broker| broker.stream)
    }

    /// Recounts what can be told from the rest of the state, after a snapshot was read.
    pub(crate) fn rebuild_derived(&mut self) {
        self.owned = self.brokers.keys().map(|id| (*id, 0)).collect();
        for (_, topic) in self.topics.iter() {
            for partition in &topic.image.partitions {
                if let Some(owner) = partition.owner
                    && let Some(count) = self.owned.get_mut(&owner.broker)
                {
                    *count += 1;
                }
                for window in &partition.windows {
                    self.streams.pin(window.stream, window.lowest_slot);
                }
            }
            for row in topic.marks.iter().filter_map(|marks| marks.row) {
                self.streams.pin(row.stream, row.slot);
            }
        }
        self.streams.settle();
    }

    pub(super) fn live(&self, incarnation: Incarnation) -> Option<&Arc<BrokerImage>> {
        self.brokers
            .values()
            .find(|broker| broker.incarnation == incarnation)
    }

    /// The id under which the disk was shown last, unless a process with another disk has it by now.
    /// One with this disk is gone: whoever shows a disk holds its lock.
    fn broker_of_disk(&self, disk: DiskId) -> Option<BrokerId> {
        let shown = self.streams.iter().filter(|(_, s)| s.disk == Some(disk));
        let broker = shown.last().map(|(_, stream)| stream.broker)?;
        let holder = self.brokers.get(&broker);
        holder
            .is_none_or(|holder| holder.disk == Some(disk))
            .then_some(broker)
    }

    fn free_broker_id(&self) -> BrokerId {
        let taken = |id: &BrokerId| self.brokers.contains_key(id);
        let mut ids = (1..).map(BrokerId);
        ids.find(|id| !taken(id)).unwrap_or(BrokerId(i32::MAX))
    }

    fn assign_never_owned(&mut self, effects: &mut Effects) {
        let never_owned: Vec<_> = self
            .topics
            .iter()
            .flat_map(|(id, topic)| {
                let partitions = topic.image.partitions.iter().enumerate();
                partitions
                    .filter(|(_, partition)| partition.windows.is_empty())
                    .map(move |(index, _)| partition_at(id, index))
            })
            .collect();
        for tp in never_owned {
            self.begin_first_epoch(tp, None);
            effects.topic(tp.topic);
        }
    }

    fn check_live_stream(
        &self,
        incarnation: Incarnation,
        stream: StreamId,
    ) -> Result<(), StreamError> {
        if let Some(end) = self.streams.sealed_end(stream) {
            return Err(StreamError::Sealed { stream, end });
        }
        match self.stream_of(incarnation) {
            Some(own) if own == stream => Ok(()),
            _ => Err(StreamError::Unknown(stream)),
        }
    }

    /// The partition, if the epoch and stream named are still its latest.
    fn current(
        &self,
        end: &PartitionEnd,
    ) -> Result<(&PartitionImage, &PartitionMarks, Window), AssignmentError> {
        let found = self.topics.partition(end.tp);
        let (partition, marks) = found.ok_or(AssignmentError::Unknown)?;
        match partition.windows.last() {
            Some(last) if last.epoch == end.epoch && last.stream == end.stream => {
                if end.end_offset < last.first_offset {
                    return Err(AssignmentError::EndContradicts);
                }
                Ok((partition, marks, *last))
            }
            _ => Err(AssignmentError::NotCurrent),
        }
    }

    fn check_ended(
        &self,
        ended: &PartitionEnd,
        to: Option<BrokerId>,
    ) -> Result<(), AssignmentError> {
        let (_, marks, _) = self.current(ended)?;
        match marks.released_end {
            Some(end) if end == ended.end_offset => return Ok(()),
            Some(_) => return Err(AssignmentError::EndContradicts),
            None if self.streams.sealed_end(ended.stream).is_none() => {
                return Err(AssignmentError::NotEnded);
            }
            None => {}
        }
        let shown = to.and_then(|to| self.brokers.get(&to)?.disk);
        match self.waits_for(ended.tp) {
            Some(disk) if shown != Some(disk) => Err(AssignmentError::WaitsForDisk),
            _ => Ok(()),
        }
    }

    fn check_release(
        &self,
        incarnation: Incarnation,
        released: &ReleasePartition,
    ) -> Result<(), AssignmentError> {
        let (partition, marks, window) = self.current(&released.end)?;
        let owns = partition
            .owner
            .is_some_and(|owner| owner.incarnation == incarnation);
        if !owns || self.streams.sealed_end(window.stream).is_some() {
            return Err(AssignmentError::NotCurrent);
        }
        match released.row {
            Some(slot) => {
                let at = SlotPosition {
                    stream: window.stream,
                    slot,
                };
                let is_empty = released.end.end_offset == window.first_offset;
                let known = marks.row == Some(at) && (marks.rows_from <= slot || is_empty);
                let movable = self.row_may_move_once_durable(released.end.tp, at);
                (known || movable)
                    .then_some(())
                    .ok_or(AssignmentError::RowNotDurable)
            }
            // nothing was appended: the rows of before are the state at the end, too
            None if released.end.end_offset == window.first_offset => Ok(()),
            None => Err(AssignmentError::RowNotDurable),
        }
    }

    fn check_resume(&self, end: &PartitionEnd, owner: &BrokerImage) -> Result<(), AssignmentError> {
        let (_, marks, _) = self.current(end)?;
        if marks.released_end.is_some() || self.streams.sealed_end(end.stream).is_none() {
            return Err(AssignmentError::NotEnded);
        }
        let disk = self.streams.find(end.stream).and_then(|s| s.disk);
        if disk.is_none() || disk != owner.disk {
            return Err(AssignmentError::AnotherDisk);
        }
        Ok(())
    }

    /// The window that was opened when the same was asked before, unless it was released since.
    fn resumed_before(&self, end: &PartitionEnd, owner: &BrokerImage) -> Option<Assigned> {
        let (partition, _) = self.topics.partition(end.tp)?;
        let last = partition.windows.last()?;
        let is_owned = partition
            .owner
            .is_some_and(|is| is.incarnation == owner.incarnation);
        let is_it = (last.epoch, last.stream, last.first_offset)
            == (end.epoch, owner.stream, end.end_offset);
        (is_owned && is_it && end.stream != owner.stream).then_some(Assigned {
            tp: end.tp,
            epoch: end.epoch,
            owner: owner.incarnation,
            stream: owner.stream,
            start_offset: end.end_offset,
        })
    }

    /// Starts the epoch after the current one at `start_offset`.
    fn begin_epoch(
        &mut self,
        tp: TopicPartition,
        owner: &BrokerImage,
        start_offset: i64,
    ) -> Assigned {
        let mut epoch = LeaderEpoch(0);
        if let Some(partition) = partition_mut(&mut self.topics, tp) {
            epoch = LeaderEpoch(partition.epoch.0 + 1);
            partition.epoch = epoch;
            partition.counts_locally = false;
            let last = partition.epochs.last();
            assert!(
                last.is_none_or(|last| last.start_offset <= start_offset),
                "I4: epoch {epoch} of {tp} would start at {start_offset}, before the one it follows"
            );
            // An epoch without records needs no entry: nothing was ever written in it.
            partition.epochs.retain(|e| e.start_offset < start_offset);
            partition.epochs.reserve_exact(1);
            partition.epochs.push(EpochStart {
                epoch,
                start_offset,
            });
        }
        self.open_window(tp, owner, epoch, start_offset)
    }

    /// Makes `owner` the owner, from the slots on that its stream has not filled yet. An epoch that is
    /// taken up again counts by local WALs alone if it did before.
    fn open_window(
        &mut self,
        tp: TopicPartition,
        owner: &BrokerImage,
        epoch: LeaderEpoch,
        first_offset: i64,
    ) -> Assigned {
        let lowest_slot = self.streams.durable_end(owner.stream);
        let topic = self.topics.find(tp.topic);
        let is_local = topic.is_some_and(|topic| topic.image.is_local());
        if let Some(partition) = partition_mut(&mut self.topics, tp) {
            assert!(
                partition.owner.is_none(),
                "I4: {tp} gets an owner while it has one"
            );
            partition.owner = Some(Ownership {
                broker: owner.broker,
                incarnation: owner.incarnation,
                stream: owner.stream,
            });
            partition.preferred = owner.broker;
            partition.moving_to = None;
            partition.counts_locally |= is_local;
            partition.windows.reserve_exact(1);
            partition.windows.push(Window {
                epoch,
                stream: owner.stream,
                first_offset,
                lowest_slot,
                end_slot: None,
            });
            self.streams.pin(owner.stream, lowest_slot);
            *self.owned.entry(owner.broker).or_default() += 1;
        }
        if let Some(marks) = marks_mut(&mut self.topics, tp) {
            marks.released_end = None;
            marks.rows_from = lowest_slot;
            marks.is_forced = false;
        }
        self.settle_windows(tp, None);
        Assigned {
            tp,
            epoch,
            owner: owner.incarnation,
            stream: owner.stream,
            start_offset: first_offset,
        }
    }

    fn release_one(&mut self, released: &ReleasePartition, effects: &mut Effects) {
        let PartitionEnd {
            tp,
            stream,
            end_offset,
            ..
        } = released.end;
        if let Some(slot) = released.row {
            self.streams.raise_durable(stream, slot.next());
            let at = SlotPosition { stream, slot };
            if self.row_may_move(tp, at) {
                self.move_row(tp, at, effects);
            }
        }
        let durable_end = self.streams.durable_end(stream);
        if let Some(marks) = marks_mut(&mut self.topics, tp) {
            marks.released_end = Some(end_offset);
        }
        if let Some(partition) = partition_mut(&mut self.topics, tp) {
            partition.moving_to = None;
            partition.counts_locally = false;
            if let Some(owner) = partition.owner.take()
                && let Some(count) = self.owned.get_mut(&owner.broker)
            {
                *count -= 1;
            }
            if let Some(window) = partition.windows.last_mut() {
                window.end_slot = Some(released.row.map_or(durable_end, Slot::next));
            }
        }
        effects.topic(tp.topic);
    }
}
