//! What a node does about the picture of the cluster: opens partitions that it is given, closes
//! those whose topic is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_coordinator::Coordinator;
use firn_proto::cluster::{ClusterImage, ConfirmDeleted, Request, TopicImage};
use firn_proto::ids::{Incarnation, PartitionIndex, TopicId, TopicPartition};
use firn_storage::state::StateRow;
use tokio::sync::watch;

use crate::partition::Partitions;

/// Opens and closes partitions as the picture of the cluster says.
pub(super) struct Follower {
    pub(super) partitions: Arc<Partitions>,
    pub(super) coordinator: Coordinator,
    pub(super) incarnation: Incarnation,
    /// The topics that have been looked at.
    pub(super) seen: BTreeMap<TopicId, Arc<TopicImage>>,
}

impl Follower {
    /// Follows the picture until the coordinator has stopped.
    pub(super) async fn run(mut self, mut image: watch::Receiver<Arc<ClusterImage>>) {
        loop {
            let latest = Arc::clone(&image.borrow_and_update());
            self.follow(&latest).await;
            if image.changed().await.is_err() {
                return;
            }
        }
    }

    /// Brings the open partitions to what `image` says.
    pub(super) async fn follow(&mut self, image: &ClusterImage) {
        for (id, topic) in image.topics.iter() {
            let known = self
                .seen
                .get(id)
                .is_some_and(|seen| Arc::ptr_eq(seen, topic));
            if !known {
                self.open_new(topic);
                self.seen.insert(*id, Arc::clone(topic));
            }
        }
        let gone: Vec<TopicId> = self
            .seen
            .keys()
            .filter(|id| !image.topics.contains_key(id))
            .copied()
            .collect();
        if !gone.is_empty() {
            self.close_gone(gone).await;
        }
    }

    fn open_new(&self, topic: &TopicImage) {
        for (index, partition) in (0..).map(PartitionIndex).zip(&topic.partitions) {
            let tp = TopicPartition {
                topic: topic.id,
                partition: index,
            };
            let is_ours = partition
                .owner
                .is_some_and(|o| o.incarnation == self.incarnation);
            if !is_ours || self.partitions.find_tp(tp).is_some() {
                continue;
            }
            // Whatever has a past is opened by recovery, which knows its state.
            let is_new = partition.windows.len() == 1
                && partition
                    .windows
                    .first()
                    .is_some_and(|window| window.first_offset == 0)
                && partition.epochs.len() <= 1;
            if is_new {
                self.partitions.open(StateRow::new(tp, partition.epoch));
            } else {
                tracing::error!(partition = %tp, "a partition with a past came without its state");
            }
        }
    }

    async fn close_gone(&mut self, gone: Vec<TopicId>) {
        for id in &gone {
            let Some(topic) = self.seen.remove(id) else {
                continue;
            };
            for (index, _) in (0..).map(PartitionIndex).zip(&topic.partitions) {
                self.partitions.close(TopicPartition {
                    topic: *id,
                    partition: index,
                });
            }
            tracing::info!(topic = %topic.name, %id, "topic deleted");
        }
        let confirm = Request::ConfirmDeleted(ConfirmDeleted {
            incarnation: self.incarnation,
            topics: gone,
        });
        if let Err(error) = self.coordinator.call(confirm).await {
            // The names stay taken until this process has ended and its stream is sealed.
            tracing::warn!(%error, "the deletion of topics was not confirmed");
        }
    }
}
