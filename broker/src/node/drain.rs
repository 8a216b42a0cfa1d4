//! A broker that stops gives its partitions to the others first, while it still serves: clients see
//! moves, and no outage.

use firn_coordinator::Coordinator;
use firn_proto::cluster::{ClusterImage, RegisteredBroker, Request};
use firn_proto::env::Entropy;

use crate::insist::insist;

/// Asks for every partition to go elsewhere, and waits until they have; not at all if there is
/// nobody who could take them. The next leader is asked if this one is lost. May be dropped at any
/// time.
pub(super) async fn drain(coordinator: &Coordinator, entropy: &Entropy, own: &RegisteredBroker) {
    let mut image = coordinator.image();
    if is_over(&image.borrow(), own) {
        return;
    }
    let leaves = Request::TakePart {
        incarnation: own.incarnation,
        owns: false,
    };
    if let Err(error) = insist(coordinator, entropy, leaves).await {
        tracing::warn!(%error, "partitions are not given to other brokers before the stop");
        return;
    }
    tracing::info!("giving partitions to other brokers");
    // an error: the coordinator has stopped, and nobody will say that anything has moved
    let _ = image.wait_for(|image| is_over(image, own)).await;
}

/// Whether nothing is owned any more, or nobody can take it.
fn is_over(image: &ClusterImage, own: &RegisteredBroker) -> bool {
    let mut others = image.brokers.values();
    let has_heir = others.any(|other| other.incarnation != own.incarnation && !other.draining);
    let mut partitions = image.topics.values().flat_map(|topic| &topic.partitions);
    !has_heir
        || !partitions.any(|partition| {
            let owner = partition.owner;
            owner.is_some_and(|owner| owner.incarnation == own.incarnation)
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use firn_proto::cluster::{BrokerImage, Ownership, PartitionImage, TopicImage};
    use firn_proto::ids::{BrokerId, ClusterId, Incarnation, LeaderEpoch, StreamId, TopicId};

    use super::*;

    const OWN: RegisteredBroker = RegisteredBroker {
        cluster: ClusterId::ZERO,
        broker: BrokerId(1),
        incarnation: Incarnation(1),
        stream: StreamId(1),
        seals: Vec::new(),
    };

    fn broker(id: i32, draining: bool) -> (BrokerId, Arc<BrokerImage>) {
        let image = BrokerImage {
            broker: BrokerId(id),
            incarnation: Incarnation(id.unsigned_abs().into()),
            stream: StreamId(1),
            listeners: Vec::new(),
            rack: None,
            disk: None,
            link: None,
            draining,
        };
        (BrokerId(id), Arc::new(image))
    }

    fn image(brokers: &[(i32, bool)], owner: i32) -> ClusterImage {
        let owner = Ownership {
            broker: BrokerId(owner),
            incarnation: Incarnation(owner.unsigned_abs().into()),
            stream: StreamId(1),
        };
        let partition = PartitionImage {
            epoch: LeaderEpoch(0),
            owner: Some(owner),
            moving_to: None,
            preferred: BrokerId(1),
            epochs: Vec::new(),
            windows: Vec::new(),
            counts_locally: false,
        };
        let topic = TopicImage {
            id: TopicId([1; 16]),
            name: "t".into(),
            created_ms: 0,
            replication_factor: 1,
            configs: BTreeMap::new(),
            partitions: vec![partition],
        };
        let brokers = brokers.iter().map(|(id, draining)| broker(*id, *draining));
        ClusterImage {
            brokers: Arc::new(brokers.collect()),
            topics: Arc::new([(topic.id, Arc::new(topic))].into()),
            ..ClusterImage::default()
        }
    }

    #[test]
    fn a_broker_drains_while_it_owns_something_and_another_can_take_it() {
        assert!(!is_over(&image(&[(1, true), (2, false)], 1), &OWN));
        assert!(is_over(&image(&[(1, true), (2, false)], 2), &OWN), "gone");
        assert!(is_over(&image(&[(1, true)], 1), &OWN), "nobody is there");
        let all_stop = image(&[(1, true), (2, true)], 1);
        assert!(is_over(&all_stop, &OWN));
    }
}
