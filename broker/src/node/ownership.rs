//! What a node does about the picture of the cluster: opens partitions that it is given, closes
//! those whose topic is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

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
    /// Deleted topics that are closed here, which the coordinator has not taken note of.
    pub(super) unconfirmed: Vec<TopicId>,
}

impl Follower {
    /// Follows the picture until the coordinator has stopped.
    pub(super) async fn run(mut self, mut image: watch::Receiver<Arc<ClusterImage>>) {
        loop {
            let latest = Arc::clone(&image.borrow_and_update());
            self.follow(&latest).await;
            tokio::select! {
                changed = image.changed() => if changed.is_err() {
                    return;
                },
                () = tokio::time::sleep(CONFIRM_AGAIN), if !self.unconfirmed.is_empty() => {}
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
        self.close_gone(gone);
        if !self.unconfirmed.is_empty() {
            self.confirm_deleted().await;
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

    fn close_gone(&mut self, gone: Vec<TopicId>) {
        for id in gone {
            let Some(topic) = self.seen.remove(&id) else {
                continue;
            };
            for (index, _) in (0..).map(PartitionIndex).zip(&topic.partitions) {
                self.partitions.close(TopicPartition {
                    topic: id,
                    partition: index,
                });
            }
            tracing::info!(topic = %topic.name, %id, "topic deleted");
            self.unconfirmed.push(id);
        }
    }

    /// Says that nothing here touches those topics any more: their names stay taken until the
    /// coordinator knows, so it is told until it does.
    async fn confirm_deleted(&mut self) {
        let confirm = Request::ConfirmDeleted(ConfirmDeleted {
            incarnation: self.incarnation,
            topics: self.unconfirmed.clone(),
        });
        match self.coordinator.call(confirm).await {
            Ok(_) => self.unconfirmed.clear(),
            Err(error) => {
                tracing::warn!(%error, "the deletion of topics was not confirmed, telling it again");
            }
        }
    }
}

/// The pause before a deletion that the coordinator did not take note of is told to it again.
const CONFIRM_AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use firn_coordinator::{CoordinatorConfig, Environment};
    use firn_proto::env::{Clock, Entropy, SystemClock};
    use firn_storage::bucket::Bucket;
    use firn_storage::cache::TailCache;
    use firn_storage::journal::BucketJournal;
    use firn_storage::stream::StreamEnv;

    async fn coordinator(clock: &Arc<dyn Clock>) -> Coordinator {
        let env = StreamEnv {
            clock: Arc::clone(clock),
            entropy: Arc::new(Entropy::from_seed(1)),
        };
        let bucket = Bucket::memory(Arc::clone(clock), Arc::clone(&env.entropy));
        let environment = Environment {
            clock: Arc::clone(clock),
            entropy: Arc::clone(&env.entropy),
        };
        let opener = Arc::new(BucketJournal::new(bucket, env));
        let started = Coordinator::start(opener, CoordinatorConfig::default(), environment).await;
        started.unwrap().0
    }

    #[tokio::test]
    async fn a_deletion_is_confirmed_until_somebody_takes_note_of_it() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let stopped = coordinator(&clock).await;
        stopped.close().await;
        let topic = TopicImage {
            id: TopicId([7; 16]),
            name: "gone".into(),
            created_ms: 0,
            replication_factor: 1,
            configs: BTreeMap::new(),
            partitions: Vec::new(),
        };
        let tail = Arc::new(TailCache::new(0));
        let mut follower = Follower {
            partitions: Arc::new(Partitions::new(Arc::clone(&clock), tail, 0)),
            coordinator: stopped,
            incarnation: Incarnation(1),
            seen: [(topic.id, Arc::new(topic.clone()))].into(),
            unconfirmed: Vec::new(),
        };
        follower.follow(&ClusterImage::default()).await;
        assert_eq!(follower.unconfirmed, [topic.id], "nobody has taken note");
        follower.coordinator = coordinator(&clock).await;
        follower.follow(&ClusterImage::default()).await;
        assert_eq!(follower.unconfirmed, []);
    }
}
