//! What each request does: which commands it becomes, and what is answered.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use firn_proto::cluster::{
    AlterConfigs, ConsumerHeartbeat, CoordinatorError, DeletedTopic, GroupError, GrowTopic,
    Heartbeat, JoinGroup, LeaveGroup, NewTopic, Reply, Request, SyncGroup, TopicError, TopicKey,
    TopicRefusal,
};
use firn_proto::env::Mono;
use firn_proto::ids::{BrokerId, TopicId};
use firn_proto::limits::{ADMIN_WAIT_MAX, PRODUCER_ID_BLOCK};

use super::Leader;
use crate::command::{Command, DrainBroker, IdentifiedTopic, ProducerIdsWanted};
use crate::groups::CallId;

/// A deletion whose answer waits until the names are free.
#[derive(Debug)]
pub(super) struct ParkedDeletion {
    call: CallId,
    results: Vec<Result<DeletedTopic, TopicRefusal>>,
    pub(super) deadline: Mono,
}

impl Leader {
    pub(super) fn handle(&mut self, call: CallId, request: Request) {
        match request {
            Request::RegisterBroker(body) => self.register(call, body),
            Request::LeaveBroker(incarnation) => {
                self.command(call, Command::EndBroker(incarnation))
            }
            Request::StreamSealed(body) => self.command(call, Command::SealStream(body)),
            Request::PendingRecovery => {
                let reply = Reply::PendingRecovery {
                    seals: self.state.pending_seals(),
                    folds: self.free_folds(),
                };
                self.answer(call, reply);
            }
            Request::AssignPartitions(body) => {
                self.command(call, Command::AssignPartitions(body));
            }
            Request::ReleasePartitions(body) => {
                self.command(call, Command::ReleasePartitions(body));
            }
            Request::ResumePartitions(body) => {
                self.command(call, Command::ResumePartitions(body));
            }
            Request::DrainBroker { broker, drain } => self.drain_broker(call, broker, drain),
            Request::MovePartitions(moves) => self.command(call, Command::MovePartitions(moves)),
            Request::ForceMove(moves) => self.command(call, Command::ForceMove(moves)),
            Request::FoldsOf(partitions) => {
                let reply = Reply::Folds(self.state.folds_of(&partitions));
                self.answer(call, reply);
            }
            Request::ReportProgress(body) => self.command(call, Command::ReportProgress(body)),
            Request::ConfirmDeleted(body) => self.command(call, Command::ConfirmDeleted(body)),
            Request::AllocateProducerIds => {
                let body = ProducerIdsWanted {
                    len: PRODUCER_ID_BLOCK,
                };
                self.command(call, Command::AllocateProducerIds(body));
            }
            Request::CreateTopics {
                topics,
                validate_only,
            } => self.create_topics(call, topics, validate_only),
            Request::DeleteTopics { topics, timeout_ms } => {
                self.delete_topics(call, &topics, timeout_ms);
            }
            Request::CreatePartitions {
                topics,
                validate_only,
            } => self.create_partitions(call, topics, validate_only),
            Request::AlterConfigs {
                topics,
                validate_only,
            } => self.alter_configs(call, topics, validate_only),
            Request::JoinGroup(body) => self.join_group(call, &body),
            Request::SyncGroup(body) => self.sync_group(call, &body),
            Request::Heartbeat(body) => self.heartbeat(call, &body),
            Request::LeaveGroup(body) => self.leave_group(call, &body),
            Request::OffsetCommit(body) => self.commit_offsets(call, body),
            Request::OffsetFetch(groups) => self.fetch_offsets(call, groups),
            Request::OffsetDelete(body) => self.delete_offsets(call, body),
            Request::DescribeGroups(groups) => {
                let described = groups.iter().map(|group| self.groups.describe(group));
                let reply = Reply::DescribeGroups(described.collect());
                self.answer(call, reply);
            }
            Request::ConsumerHeartbeat(body) => self.consumer_heartbeat(call, &body),
            Request::DescribeConsumerGroups(groups) => {
                let topics = self.state.topics();
                let groups = groups.iter();
                let described = groups.map(|group| self.groups.describe_consumer(group, topics));
                let reply = Reply::DescribeConsumerGroups(described.collect());
                self.answer(call, reply);
            }
            Request::ListGroups(body) => {
                let reply = Reply::ListGroups(self.groups.list(&body));
                self.answer(call, reply);
            }
            Request::DeleteGroups(groups) => self.delete_groups(call, &groups),
            Request::CommitSegment(body) => self.commit_segment(call, body),
            Request::AbandonSegment(key) => self.command(call, Command::AbandonSegment(key)),
            Request::RaiseLogStarts(body) => self.raise_log_starts(call, body),
            Request::PageOutRuns(body) => self.command(call, Command::PageOutRuns(body)),
            Request::FindRuns(wanted) => {
                // Its clock as it is: the time of the commands stays ahead for ever once a leader's
                // clock was, and would make everything older than it is.
                let leader_ms = self.environment.clock.wall_ms();
                let reply = Reply::Runs(self.state.find_runs(&wanted, leader_ms));
                self.answer(call, reply);
            }
            Request::DescribeArchive(topic) => {
                let reply = Reply::Archives(self.state.describe_archive(topic));
                self.answer(call, reply);
            }
            Request::ListGarbage => self.list_garbage(call),
            Request::ReportCollected(body) => self.report_collected(call, body),
            Request::HoldEpochs(body) => self.hold_epochs(call, body),
            Request::TakePart { incarnation, owns } => self.take_part(call, incarnation, owns),
        }
    }

    /// Runs a command whose reply is the answer.
    pub(super) fn command(&mut self, call: CallId, command: Command) {
        match self.execute(command) {
            Ok(reply) => self.answer(call, reply),
            Err(error) => self.send(call, Err(CoordinatorError::Refused(error.to_string()))),
        }
    }

    fn drain_broker(&mut self, call: CallId, broker: BrokerId, drain: bool) {
        if self.state.brokers().contains_key(&broker) {
            self.on_drain(broker);
            let body = DrainBroker { broker, drain };
            self.command(call, Command::DrainBroker(body));
            return;
        }
        let reason = format!("broker {broker} is not alive; see the list of live brokers");
        self.send(call, Err(CoordinatorError::Refused(reason)));
    }

    fn create_topics(&mut self, call: CallId, topics: Vec<NewTopic>, validate_only: bool) {
        if validate_only {
            let reply = Reply::CreateTopics(self.state.check_create(&topics));
            self.answer(call, reply);
            return;
        }
        let entropy = &self.environment.entropy;
        let identified = topics.into_iter().map(|topic| IdentifiedTopic {
            id: TopicId::from_random(entropy.next_u128()),
            topic,
        });
        let body = identified.collect();
        self.command(call, Command::CreateTopics(body));
    }

    fn create_partitions(&mut self, call: CallId, topics: Vec<GrowTopic>, validate_only: bool) {
        if validate_only {
            let reply = Reply::Topics(self.state.check_grow(&topics));
            self.answer(call, reply);
        } else {
            self.command(call, Command::CreatePartitions(topics));
        }
    }

    fn alter_configs(&mut self, call: CallId, topics: Vec<AlterConfigs>, validate_only: bool) {
        if validate_only {
            let reply = Reply::Topics(self.state.check_alter(&topics));
            self.answer(call, reply);
        } else {
            self.command(call, Command::AlterConfigs(topics));
        }
    }

    fn delete_topics(&mut self, call: CallId, topics: &[TopicKey], timeout_ms: u32) {
        let mut ids = Vec::new();
        let mut seen = BTreeSet::new();
        let mut results = Vec::with_capacity(topics.len());
        for key in topics {
            let mut described = self.state.topics().describe_deletion(key);
            if let Ok(deleted) = &described {
                if seen.insert(deleted.id) {
                    ids.push(deleted.id);
                } else {
                    described = Err(TopicRefusal {
                        topic: key.clone(),
                        error: TopicError::NamedTwice,
                    });
                }
            }
            results.push(described);
        }
        if let Err(error) = self.execute(Command::DeleteTopics(ids)) {
            self.send(call, Err(CoordinatorError::Refused(error.to_string())));
            return;
        }
        let wait = Duration::from_millis(timeout_ms.into()).min(ADMIN_WAIT_MAX);
        self.deletions.push(ParkedDeletion {
            call,
            results,
            deadline: self.environment.clock.mono().after(wait),
        });
    }

    /// Answers deletions whose names are free, or whose callers have waited long enough.
    pub(super) fn finish_deletions(&mut self) {
        if self.deletions.is_empty() {
            return;
        }
        let now = self.environment.clock.mono();
        for mut parked in std::mem::take(&mut self.deletions) {
            let mut all_free = true;
            for deleted in parked.results.iter_mut().flatten() {
                deleted.name_free = !self.state.topics().is_deleting(deleted.id);
                all_free &= deleted.name_free;
            }
            if all_free || parked.deadline <= now {
                self.answer(parked.call, Reply::DeleteTopics(parked.results));
            } else {
                self.deletions.push(parked);
            }
        }
    }

    fn join_group(&mut self, call: CallId, body: &JoinGroup) {
        let random = self.environment.entropy.next_u128();
        let now = self.group_now();
        let out = self.groups.handle_join(call, body, random, now);
        self.take_out(out);
    }

    fn sync_group(&mut self, call: CallId, body: &SyncGroup) {
        let out = self.groups.handle_sync(call, body, self.group_now());
        self.take_out(out);
    }

    fn heartbeat(&mut self, call: CallId, body: &Heartbeat) {
        let result = self.groups.handle_heartbeat(body, self.group_now());
        self.answer_heartbeat(call, Reply::Heartbeat(result));
    }

    fn consumer_heartbeat(&mut self, call: CallId, body: &ConsumerHeartbeat) {
        let random = self.environment.entropy.next_u128();
        let now = self.group_now();
        let topics = self.state.topics();
        let out = (self.groups).handle_consumer_heartbeat(call, body, topics, random, now);
        self.take_out(out);
    }

    fn leave_group(&mut self, call: CallId, body: &LeaveGroup) {
        let out = self.groups.handle_leave(call, body, self.group_now());
        self.take_out(out);
    }

    fn delete_groups(&mut self, call: CallId, groups: &[String]) {
        let mut results = Vec::with_capacity(groups.len());
        let mut dropped = Vec::new();
        for group in groups {
            let mut checked = self.groups.check_delete(group);
            if checked.is_ok() {
                let id: Arc<str> = group.as_str().into();
                self.groups.remove(group);
                dropped.push(id);
            } else if dropped.iter().any(|id| **id == **group) {
                checked = Err(GroupError::GroupIdNotFound);
            }
            results.push(checked);
        }
        match self.execute(Command::DropGroups(dropped)) {
            Ok(_) => self.answer(call, Reply::DeleteGroups(results)),
            Err(error) => self.send(call, Err(CoordinatorError::Refused(error.to_string()))),
        }
    }
}
