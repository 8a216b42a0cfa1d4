//! Which broker reads a partition for the clients of a rack. Pure.
//!
//! Every process comes to the same choice from the same picture: a partition keeps its reader as long
//! as that lives and does not drain, the partitions of a rack are spread evenly over its brokers, and
//! one that comes or goes moves no more than its share (rendezvous hashing).
//!
//! Records of topics that are visible once their owner's disk has them are read from the owner alone:
//! the bucket has them later.

use std::collections::BTreeMap;

use firn_proto::cluster::{
    BrokerImage, ClusterImage, LinkAddress, Ownership, PartitionImage, TopicImage,
};
use firn_proto::ids::{BrokerId, PartitionIndex, TopicPartition};

/// The broker that the owner of a partition sends clients of `rack` to; none if they are in the owner's
/// rack, or nobody is in theirs.
pub fn reader(
    image: &ClusterImage,
    topic: &TopicImage,
    index: PartitionIndex,
    owner: BrokerId,
    rack: &str,
) -> Option<BrokerId> {
    let owner = image.brokers.get(&owner)?;
    if !can_be_read_elsewhere(topic, owner) || owner.rack.as_deref() == Some(rack) {
        return None;
    }
    let tp = tp(topic, index);
    let of_rack = readers_besides(image, owner).filter(|(theirs, _)| *theirs == rack);
    let best = of_rack.max_by_key(|(_, broker)| weight(tp, *broker))?;
    Some(best.1)
}

/// The brokers that clients of racks other than the owner's are sent to, one of each rack: clients
/// follow only a broker that the metadata names as a replica.
pub fn readers(
    image: &ClusterImage,
    topic: &TopicImage,
    index: PartitionIndex,
    partition: &PartitionImage,
) -> Vec<BrokerId> {
    let owner = partition.owner.map(|owner| owner.broker);
    let owner = owner.and_then(|owner| image.brokers.get(&owner));
    let Some(owner) = owner.filter(|owner| can_be_read_elsewhere(topic, owner)) else {
        return Vec::new();
    };
    let tp = tp(topic, index);
    let mut best: BTreeMap<&str, (u64, BrokerId)> = BTreeMap::new();
    for (rack, broker) in readers_besides(image, owner) {
        if owner.rack.as_deref() != Some(rack) {
            let found = (weight(tp, broker), broker);
            let best = best.entry(rack).or_insert(found);
            *best = found.max(*best);
        }
    }
    best.into_values().map(|(_, broker)| broker).collect()
}

/// Where the owner is asked what may be read of a partition, if the broker `own` may read it for a
/// client of `rack`: it is in that rack, and the owner is in another one.
pub fn read_by(
    image: &ClusterImage,
    topic: &TopicImage,
    owner: Ownership,
    own: BrokerId,
    rack: &str,
) -> Option<LinkAddress> {
    let own = image.brokers.get(&own)?;
    let is_reader = own.rack.as_deref() == Some(rack) && !own.draining;
    let owner = image
        .brokers
        .get(&owner.broker)
        .filter(|found| found.incarnation == owner.incarnation)?;
    let is_elsewhere = owner.rack.as_deref() != Some(rack) && own.broker != owner.broker;
    let may = is_reader && is_elsewhere && can_be_read_elsewhere(topic, owner);
    owner.link.clone().filter(|_| may)
}

fn can_be_read_elsewhere(topic: &TopicImage, owner: &BrokerImage) -> bool {
    owner.link.is_some() && !topic.is_local()
}

/// Brokers other than the owner that take clients, with their racks.
fn readers_besides<'a>(
    image: &'a ClusterImage,
    owner: &BrokerImage,
) -> impl Iterator<Item = (&'a str, BrokerId)> {
    let owner = owner.broker;
    image
        .brokers
        .values()
        .filter(move |broker| !broker.draining && broker.broker != owner)
        .filter_map(|broker| Some((broker.rack.as_deref()?, broker.broker)))
}

fn tp(topic: &TopicImage, partition: PartitionIndex) -> TopicPartition {
    TopicPartition {
        topic: topic.id,
        partition,
    }
}

/// The broker with the largest has the partition.
fn weight(tp: TopicPartition, broker: BrokerId) -> u64 {
    let topic = u128::from_le_bytes(tp.topic.0);
    let parts = [
        topic as u64,
        (topic >> 64) as u64,
        u64::from(tp.partition.0.cast_unsigned()),
        u64::from(broker.0.cast_unsigned()),
    ];
    parts.into_iter().fold(0, |hash, part| mix(hash ^ part))
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit of `x`.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use firn_proto::ids::{Fingerprint, Incarnation, LeaderEpoch, StreamId, TopicId};

    use super::*;

    const PARTITIONS: i32 = 3000;

    fn broker(id: i32, rack: Option<&str>) -> BrokerImage {
        let number = u64::from(id.cast_unsigned());
        BrokerImage {
            broker: BrokerId(id),
            incarnation: Incarnation(number),
            stream: StreamId(number),
            listeners: Vec::new(),
            rack: rack.map(str::to_owned),
            disk: None,
            link: Some(LinkAddress {
                host: format!("broker-{id}"),
                port: 9092,
                fingerprint: Fingerprint([0; 32]),
            }),
            draining: false,
        }
    }

    fn image(brokers: impl IntoIterator<Item = BrokerImage>) -> ClusterImage {
        let brokers = brokers.into_iter();
        ClusterImage {
            brokers: Arc::new(brokers.map(|b| (b.broker, Arc::new(b))).collect()),
            ..ClusterImage::default()
        }
    }

    /// Broker 1 in rack a, 2 to 4 in rack b, 5 in none.
    fn racks() -> Vec<BrokerImage> {
        vec![
            broker(1, Some("a")),
            broker(2, Some("b")),
            broker(3, Some("b")),
            broker(4, Some("b")),
            broker(5, None),
        ]
    }

    fn topic() -> TopicImage {
        TopicImage {
            id: TopicId([7; 16]),
            name: "t".into(),
            created_ms: 0,
            replication_factor: 1,
            configs: BTreeMap::new(),
            partitions: Vec::new(),
        }
    }

    fn owned_by(id: i32) -> PartitionImage {
        PartitionImage {
            epoch: LeaderEpoch(0),
            owner: Some(ownership(id)),
            preferred: BrokerId(id),
            moving_to: None,
            epochs: Vec::new(),
            windows: Vec::new(),
            counts_locally: false,
        }
    }

    fn ownership(id: i32) -> Ownership {
        let number = u64::from(id.cast_unsigned());
        Ownership {
            broker: BrokerId(id),
            incarnation: Incarnation(number),
            stream: StreamId(number),
        }
    }

    /// Who reads each partition of broker 1 for clients of rack b.
    fn choices(image: &ClusterImage) -> Vec<Option<BrokerId>> {
        let choose = |index| reader(image, &topic(), PartitionIndex(index), BrokerId(1), "b");
        (0..PARTITIONS).map(choose).collect()
    }

    #[test]
    fn clients_of_the_owners_rack_and_of_racks_without_brokers_stay_with_the_owner() {
        let image = image(racks());
        let choose =
            |owner, rack| reader(&image, &topic(), PartitionIndex(0), BrokerId(owner), rack);
        assert_eq!(choose(1, "a"), None);
        assert_eq!(choose(2, "b"), None);
        assert_eq!(choose(1, "c"), None);
        assert_eq!(choose(2, "a"), Some(BrokerId(1)));
        assert_eq!(choose(5, "a"), Some(BrokerId(1)), "its owner has no rack");
    }

    #[test]
    fn partitions_are_spread_over_the_brokers_of_a_rack_and_stay_where_they_are() {
        let before = choices(&image(racks()));
        for id in 2..=4 {
            let share = before.iter().filter(|b| **b == Some(BrokerId(id))).count();
            assert!((900..1100).contains(&share), "broker {id} has {share}");
        }
        let without: Vec<_> = racks().into_iter().filter(|b| b.broker.0 != 3).collect();
        let after = choices(&image(without));
        for (before, after) in before.into_iter().zip(after) {
            assert_ne!(after, Some(BrokerId(3)));
            assert!(after == before || before == Some(BrokerId(3)));
        }
    }

    #[test]
    fn a_broker_that_drains_reads_for_nobody() {
        let mut brokers = racks();
        brokers[1].draining = true;
        let image = image(brokers);
        let chosen = choices(&image);
        assert!(!chosen.contains(&Some(BrokerId(2))) && !chosen.contains(&None));
        let asked = |own| read_by(&image, &topic(), ownership(1), BrokerId(own), "b");
        assert_eq!(asked(2), None);
        assert_eq!(asked(3).map(|link| link.host), Some("broker-1".to_owned()));
    }

    #[test]
    fn only_brokers_of_the_clients_rack_read_what_an_owner_of_another_one_has() {
        let image = image(racks());
        let asked =
            |owner, own, rack| read_by(&image, &topic(), owner, BrokerId(own), rack).is_some();
        assert!(asked(ownership(1), 2, "b"));
        assert!(!asked(ownership(1), 2, "a"), "the client is elsewhere");
        assert!(!asked(ownership(3), 2, "b"), "the owner is as near");
        assert!(!asked(ownership(1), 5, "b"), "this broker has no rack");
        let earlier = Ownership {
            incarnation: Incarnation(77),
            ..ownership(1)
        };
        assert!(!asked(earlier, 2, "b"), "that process is gone");
    }

    #[test]
    fn replicas_are_the_readers_of_all_other_racks() {
        let mut brokers = racks();
        brokers.push(broker(6, Some("c")));
        let image = image(brokers);
        for index in 0..100 {
            let index = PartitionIndex(index);
            let named = readers(&image, &topic(), index, &owned_by(1));
            let of = |rack| reader(&image, &topic(), index, BrokerId(1), rack);
            assert_eq!(named, [of("b").unwrap(), of("c").unwrap()]);
        }
        let unowned = PartitionImage {
            owner: None,
            ..owned_by(1)
        };
        assert!(readers(&image, &topic(), PartitionIndex(0), &unowned).is_empty());
    }

    #[test]
    fn what_the_bucket_has_later_than_its_owner_is_read_from_the_owner() {
        let image = image(racks());
        let mut topic = topic();
        let local = (TopicImage::DURABILITY.to_owned(), "local".to_owned());
        topic.configs = [local].into();
        let index = PartitionIndex(0);
        assert_eq!(reader(&image, &topic, index, BrokerId(1), "b"), None);
        assert_eq!(
            read_by(&image, &topic, ownership(1), BrokerId(2), "b"),
            None
        );
        assert!(readers(&image, &topic, index, &owned_by(1)).is_empty());
    }
}
