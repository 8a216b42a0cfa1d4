use super::super::image::Ownership;
use super::*;
use crate::ids::{LeaderEpoch, StreamId};

fn partition(epoch: i32) -> PartitionImage {
    PartitionImage {
        epoch: LeaderEpoch(epoch),
        owner: Some(Ownership {
            broker: BrokerId(1),
            incarnation: Incarnation(1),
            stream: StreamId(1),
        }),
        preferred: BrokerId(1),
        moving_to: None,
        epochs: Vec::new(),
        windows: Vec::new(),
        counts_locally: false,
    }
}

fn topic(n: u128, name: &str, partitions: i32) -> Arc<TopicImage> {
    Arc::new(TopicImage {
        id: TopicId::from_random(n),
        name: name.into(),
        created_ms: 0,
        replication_factor: 1,
        configs: BTreeMap::new(),
        partitions: (0..partitions).map(|_| partition(0)).collect(),
    })
}

fn picture(version: u64, topics: &[Arc<TopicImage>]) -> ClusterImage {
    let names = topics
        .iter()
        .map(|topic| (Arc::clone(&topic.name), topic.id));
    let by_id = topics.iter().map(|topic| (topic.id, Arc::clone(topic)));
    ClusterImage {
        version,
        names: Arc::new(names.collect()),
        topics: Arc::new(by_id.collect()),
        ..ClusterImage::default()
    }
}

fn follow(followed: &mut FollowedImage, updates: &[ImageUpdate]) -> ClusterImage {
    let (last, before) = updates.split_last().unwrap();
    for update in before {
        assert_eq!(followed.take(update), Ok(None));
    }
    followed.take(last).unwrap().unwrap().clone()
}

#[test]
fn a_follower_sees_what_the_leader_sees() {
    let mut pictures = vec![picture(1, &[topic(1, "a", 3), topic(2, "b", 1)])];
    let moved = {
        let mut moved = TopicImage::clone(&topic(1, "a", 3));
        moved.partitions[1].epoch = LeaderEpoch(1);
        Arc::new(moved)
    };
    pictures.push(picture(2, &[Arc::clone(&moved), topic(2, "b", 1)]));
    pictures.push(picture(3, &[moved, topic(3, "b", 2)]));
    pictures.push(picture(4, &[topic(1, "a", 5)]));
    pictures.push(picture(5, &[]));
    let mut followed = FollowedImage::default();
    let mut old = None;
    for new in &pictures {
        let updates = ImageUpdate::between(old, new).unwrap();
        assert_eq!(follow(&mut followed, &updates), *new);
        old = Some(new);
    }
}

#[test]
fn one_partition_that_changes_does_not_cost_the_others() {
    let before = picture(1, &[topic(1, "a", 10_000)]);
    let mut changed = TopicImage::clone(&topic(1, "a", 10_000));
    changed.partitions[77].epoch = LeaderEpoch(9);
    let diff = ImageDiff::between(&before, &picture(2, &[Arc::new(changed)]));
    assert!(diff.topics.is_empty());
    let [(_, partitions)] = &diff.partitions[..] else {
        panic!("{diff:?}")
    };
    assert_eq!(partitions.len(), 1);
    assert!(codec::encode(&diff).unwrap().len() < 100);
}

#[test]
fn a_long_picture_goes_in_parts() {
    let new = picture(1, &[topic(1, "a", 100_000)]);
    let updates = ImageUpdate::between(None, &new).unwrap();
    assert!(updates.len() > 1);
    for update in &updates {
        assert!(update.part.bytes.len() <= LINK_PART_BYTES_MAX);
    }
    assert_eq!(follow(&mut FollowedImage::default(), &updates), new);
}

#[test]
fn an_update_of_another_picture_is_refused() {
    let first = picture(1, &[topic(1, "a", 1)]);
    let second = picture(2, &[topic(1, "a", 2)]);
    let [update] = &ImageUpdate::between(Some(&first), &second).unwrap()[..] else {
        panic!("it is short")
    };
    let mut followed = FollowedImage::default();
    let refused = followed.take(update).err();
    assert_eq!(
        refused,
        Some(ImageFault::Base {
            base: Some(1),
            last: None
        })
    );
}

#[test]
fn hostile_parts_take_no_memory_and_make_nothing() {
    let part = |at, len, bytes: usize| Part {
        at,
        len,
        bytes: vec![0; bytes],
    };
    let cases: [&[Part]; 6] = [
        &[part(0, u64::MAX, 1)],
        &[part(1, 2, 1)],
        &[part(0, 2, 3)],
        &[part(0, 3, 1), part(2, 3, 1)],
        &[part(0, 3, 1), part(1, 4, 1)],
        &[part(0, 3, 0)],
    ];
    for parts in cases {
        let mut gathering = Parts::default();
        let results = parts.iter().map(|part| gathering.take(part));
        assert!(results.last().unwrap().is_err(), "{parts:?}");
    }
    let mut gathering = Parts::default();
    assert_eq!(gathering.take(&part(0, 0, 0)), Ok(Some(Vec::new())));
    assert!(gathering.take(&part(u64::MAX, 1, 1)).is_err());
}
