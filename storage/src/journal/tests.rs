use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use firn_proto::env::{Clock, Entropy};
use firn_proto::ids::Slot;
use firn_proto::journal::{Journal, KnownSlot, Taking};
use firn_proto::limits::SNAPSHOT_PIECE_BYTES;

use super::record::Snapshot;
use super::*;
use crate::bucket::Operation;
use crate::bucket::testing::{Fault, FaultStore, On, Rule};
use crate::stream::testing::TokioClock;
use crate::stream::{StreamName, read_header};

struct World {
    store: FaultStore,
    bucket: Bucket,
    env: StreamEnv,
}

fn world() -> World {
    world_over(FaultStore::in_memory())
}

fn world_over(store: FaultStore) -> World {
    let env = StreamEnv {
        clock: Arc::new(TokioClock::new()) as Arc<dyn Clock>,
        entropy: Arc::new(Entropy::from_seed(1)),
    };
    let bucket = Bucket::from_store(
        Arc::new(store.clone()),
        Arc::clone(&env.clock),
        Arc::clone(&env.entropy),
    );
    World { store, bucket, env }
}

impl World {
    async fn try_open(&self) -> Result<OpenedJournal, JournalError> {
        let opener = BucketJournal::new(self.bucket.clone(), self.env.clone());
        opener
            .open(Taking::next_free(Bytes::from_static(b"me")))
            .await
    }

    /// Opens with what is known of a slot.
    async fn open_after(&self, at: JournalPosition, body: Option<&'static str>) -> OpenedJournal {
        let opener = BucketJournal::new(self.bucket.clone(), self.env.clone());
        let body = body.map(Bytes::from);
        let taking = Taking {
            known: Some(KnownSlot { at, body }),
            ..Taking::next_free(Bytes::from_static(b"me"))
        };
        opener.open(taking).await.unwrap()
    }

    /// How often the bucket was asked for an object.
    fn gets(&self) -> u64 {
        let rows = self.bucket.usage().rows;
        let gets = rows.iter().filter(|row| row.operation == Operation::Get);
        gets.map(|row| row.requests).sum()
    }

    async fn open(&self) -> OpenedJournal {
        self.try_open().await.unwrap()
    }

    /// Replaces an object, which only a store that fails does.
    async fn replace(&self, key: &Key, bytes: Bytes) {
        self.bucket
            .delete(Purpose::Meta, std::slice::from_ref(key))
            .await
            .unwrap();
        self.bucket
            .create_once(Purpose::Meta, key, vec![bytes])
            .await;
    }

    async fn has_slot(&self, cluster: ClusterId, epoch: u64, slot: u64) -> bool {
        let name = StreamName::journal(cluster, CoordinatorEpoch(epoch));
        read_header(&self.bucket, &name, Slot(slot))
            .await
            .unwrap()
            .is_some()
    }
}

async fn append(journal: &dyn Journal, text: &str) -> Result<JournalPosition, JournalError> {
    journal.append(Bytes::from(text.to_owned())).await
}

fn at(epoch: u64, slot: u64) -> JournalPosition {
    JournalPosition {
        epoch: CoordinatorEpoch(epoch),
        slot: Slot(slot),
    }
}

fn texts(opened: &OpenedJournal) -> Vec<String> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    opened.entries.iter().map(|(_, body)| text(body)).collect()
}

fn state(opened: &OpenedJournal) -> Option<&str> {
    let (_, body) = opened.snapshot.as_ref()?;
    Some(std::str::from_utf8(body).unwrap())
}

fn is_fenced<T: std::fmt::Debug>(result: &Result<T, JournalError>) -> bool {
    matches!(result, Err(JournalError::Fenced { .. }))
}

#[tokio::test(start_paused = true)]
async fn an_empty_bucket_gives_epoch_one_and_nothing_else() {
    let opened = world().open().await;
    assert_eq!(opened.epoch, CoordinatorEpoch(1));
    assert!(opened.snapshot.is_none() && opened.entries.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_appended_in_any_epoch_is_read_in_order() {
    let world = world();
    let mut cluster = None;
    for epoch in 1..6_u64 {
        let opened = world.open().await;
        assert_eq!(*cluster.get_or_insert(opened.cluster), opened.cluster);
        assert_eq!(opened.epoch, CoordinatorEpoch(epoch));
        let expected: Vec<_> = (1..epoch)
            .flat_map(|e| [format!("{e}a"), format!("{e}b")])
            .collect();
        assert_eq!(texts(&opened), expected);
        let a = append(&*opened.journal, &format!("{epoch}a"))
            .await
            .unwrap();
        let b = append(&*opened.journal, &format!("{epoch}b"))
            .await
            .unwrap();
        assert_eq!((a, b), (at(epoch, 1), at(epoch, 2)));
    }
}

#[tokio::test(start_paused = true)]
async fn appends_in_flight_together_become_durable_in_the_order_of_calls() {
    let world = world();
    let opened = world.open().await;
    world
        .store
        .inject(Rule::new(On::Put, Fault::Throttled).times(3));
    let appends: Vec<_> = (0..20)
        .map(|n| opened.journal.append(Bytes::from(n.to_string())))
        .collect();
    let positions = futures::future::join_all(appends).await;
    let slots: Vec<_> = positions.into_iter().map(|at| at.unwrap().slot.0).collect();
    assert_eq!(slots, (1..21).collect::<Vec<_>>());
    let expected: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(texts(&world.open().await), expected);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_overtaken_can_append_nothing_more() {
    let world = world();
    let zombie = world.open().await;
    append(&*zombie.journal, "acknowledged").await.unwrap();
    let leader = world.open().await;
    assert_eq!(texts(&leader), ["acknowledged"]);
    let late = append(&*zombie.journal, "late").await;
    assert!(is_fenced(&late), "{late:?}");
    let later = append(&*zombie.journal, "later").await;
    assert!(is_fenced(&later), "{later:?}");
    append(&*leader.journal, "next").await.unwrap();
    assert_eq!(texts(&world.open().await), ["acknowledged", "next"]);
}

#[tokio::test(start_paused = true)]
async fn of_openers_at_the_same_time_the_last_epoch_leads() {
    for faults in 0..30 {
        let world = world();
        world
            .store
            .inject(Rule::new(On::Put, Fault::AnswerLost).after(faults).times(2));
        world
            .store
            .inject(Rule::new(On::Put, Fault::Conflict).after(faults * 7 % 11));
        let opened = tokio::join!(
            world.try_open(),
            world.try_open(),
            world.try_open(),
            world.try_open()
        );
        let opened = [opened.0, opened.1, opened.2, opened.3];
        let mut epochs: Vec<_> = opened
            .iter()
            .flatten()
            .map(|journal| journal.epoch.0)
            .collect();
        let newest = *epochs.iter().max().unwrap();
        epochs.sort_unstable();
        epochs.dedup();
        assert_eq!(
            epochs.len(),
            opened.iter().flatten().count(),
            "one winner per epoch"
        );
        let mut acknowledged = Vec::new();
        for journal in opened.iter().flatten() {
            let text = format!("from {}", journal.epoch);
            match append(&*journal.journal, &text).await {
                Ok(_) => acknowledged.push(text),
                Err(error) => assert!(journal.epoch.0 < newest, "faults {faults}: {error}"),
            }
        }
        assert_eq!(acknowledged, [format!("from {newest}")], "faults {faults}");
        assert_eq!(texts(&world.open().await), acknowledged, "faults {faults}");
    }
}

/// Everything a process does in one life: opens, appends twice, puts a snapshot, appends.
async fn life(world: &World, name: &str, acknowledged: &mut Vec<String>) {
    let Ok(opened) = world.try_open().await else {
        return;
    };
    let mut all = texts(&opened);
    let before = state(&opened).map(str::to_owned);
    let replayed: Vec<String> = before
        .iter()
        .flat_map(|state| state.split(' '))
        .map(str::to_owned)
        .collect();
    all.splice(0..0, replayed);
    for entry in acknowledged.iter() {
        assert!(
            all.contains(entry),
            "{name}: {entry} was acknowledged and is not in {all:?}"
        );
    }
    for number in 0..2 {
        let text = format!("{name}.{number}");
        let Ok(covers) = append(&*opened.journal, &text).await else {
            return;
        };
        acknowledged.push(text.clone());
        all.push(text);
        let state = Bytes::from(all.join(" "));
        if opened.journal.put_snapshot(covers, state).await.is_err() {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_any_request_loses_nothing_that_was_acknowledged() {
    for on in [On::Put, On::Delete, On::List, On::Get] {
        for fault in [Fault::RequestLost, Fault::HangAfter] {
            for step in 0..24 {
                let world = world();
                let mut acknowledged = Vec::new();
                life(&world, "first", &mut acknowledged).await;
                assert_eq!(acknowledged.len(), 2);
                // From request `step` on nothing succeeds any more: the process dies there.
                world
                    .store
                    .inject(Rule::new(on, fault).after(step).times(u64::MAX));
                let dying = life(&world, "second", &mut acknowledged);
                let _ = tokio::time::timeout(Duration::from_secs(3600), dying).await;
                world.store.clear();
                let so_far = acknowledged.len();
                life(&world, "third", &mut acknowledged).await;
                assert_eq!(acknowledged.len(), so_far + 2, "{on:?} {fault:?} {step}");
                life(&world, "fourth", &mut acknowledged).await;
                assert_eq!(acknowledged.len(), so_far + 4, "{on:?} {fault:?} {step}");
            }
        }
    }
}

/// A journal with `count` entries in epoch 1 and a snapshot after every one in `snapshots`.
async fn filled(world: &World, count: u64, snapshots: &[u64]) -> OpenedJournal {
    let opened = world.open().await;
    for slot in 1..=count {
        let covers = append(&*opened.journal, &slot.to_string()).await.unwrap();
        if snapshots.contains(&slot) {
            let state = Bytes::from(format!("up to {slot}"));
            opened.journal.put_snapshot(covers, state).await.unwrap();
        }
    }
    opened
}

#[tokio::test(start_paused = true)]
async fn a_journal_is_read_from_its_newest_snapshot_on() {
    let world = world();
    filled(&world, 6, &[2, 4]).await;
    let opened = world.open().await;
    assert_eq!(state(&opened), Some("up to 4"));
    assert_eq!(
        opened.snapshot.as_ref().map(|(covers, _)| *covers),
        Some(at(1, 4))
    );
    assert_eq!(texts(&opened), ["5", "6"]);
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_over_says_how_it_goes_on_and_how_much_the_snapshot_left_to_read() {
    let world = world();
    filled(&world, 6, &[2]).await;
    drop(world.open().await);
    let steps = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&steps);
    let opener = BucketJournal::new(world.bucket.clone(), world.env.clone());
    let taking = Taking {
        on_step: Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        }),
        ..Taking::next_free(Bytes::new())
    };
    let opened = opener.open(taking).await.unwrap();
    assert_eq!(
        opened.log_slots, 5,
        "four entries, and the opening of epoch 2"
    );
    let steps = steps.load(Ordering::Relaxed);
    assert!(steps > opened.log_slots, "{steps} steps");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_any_length_is_read_in_pieces_and_comes_back_whole() {
    let piece = usize::try_from(SNAPSHOT_PIECE_BYTES).unwrap();
    let mut around = 0;
    for (length, pieces) in [(0, 1), (piece - 1, 1), (piece, 2), (2 * piece + 1, 3)] {
        let world = world();
        let journal = world.open().await.journal;
        let covers = append(&*journal, "1").await.unwrap();
        let state = Bytes::from(vec![b's'; length - around]);
        journal.put_snapshot(covers, state.clone()).await.unwrap();
        let key = snapshot_key(covers);
        let size = world.bucket.size(Purpose::Meta, &key).await.unwrap();
        let size = usize::try_from(size.unwrap()).unwrap();
        match length {
            // What a snapshot has beside the state.
            0 => around = size,
            length => assert_eq!(size, length),
        }
        let opened = world.open().await;
        let read = (world.bucket.usage().rows.into_iter())
            .find(|row| (row.purpose, row.operation) == (Purpose::Snapshot, Operation::Get));
        assert_eq!(read.unwrap().requests, pieces, "{length}");
        assert!(opened.snapshot.unwrap().1 == state, "{length}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_knows_the_journal_reads_only_what_comes_after() {
    for body in [Some("298"), None] {
        let world = world();
        filled(&world, 300, &[100]).await;
        let before = world.gets();
        let opened = world.open_after(at(1, 298), body).await;
        assert!(opened.follows_known && opened.snapshot.is_none());
        assert_eq!(texts(&opened), ["299", "300"]);
        assert_eq!(opened.log_slots, 200, "as many as the snapshot leaves");
        let asked = world.gets() - before;
        assert!(asked < 20, "{asked} requests");
        append(&*opened.journal, "301").await.unwrap();
        let all = world.open().await;
        assert_eq!(state(&all), Some("up to 100"));
        assert_eq!(texts(&all).len(), 201);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_knows_an_early_epoch_reads_all_later_ones() {
    let world = world();
    filled(&world, 3, &[]).await;
    for text in ["4", "5"] {
        append(&*world.open().await.journal, text).await.unwrap();
    }
    let opened = world.open_after(at(1, 3), Some("3")).await;
    assert!(opened.follows_known);
    assert_eq!(texts(&opened), ["4", "5"]);
    let opened = world.open_after(at(3, 1), Some("5")).await;
    assert!(opened.follows_known);
    assert_eq!(texts(&opened), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_the_journal_is_not_believed() {
    let misfits = [
        (at(1, 5), Some("4"), "another body"),
        (at(1, 2), Some("2"), "below the snapshot"),
        (at(1, 0), None, "an opening"),
        (at(1, 7), None, "nothing there, or the seal"),
        (at(1, 300), Some("300"), "nothing there"),
        (at(9, 1), Some("1"), "an epoch that nobody took"),
        (JournalPosition::START, None, "nothing at all"),
    ];
    for was_ended in [false, true] {
        for (at, body, why) in misfits {
            let world = world();
            let leader = filled(&world, 6, &[4]).await;
            if was_ended {
                world.open().await;
            }
            let opened = world.open_after(at, body).await;
            assert!(!opened.follows_known, "{why}");
            assert_eq!(state(&opened), Some("up to 4"), "{why}");
            assert_eq!(texts(&opened), ["5", "6"], "{why}");
            assert!(is_fenced(&append(&*leader.journal, "late").await));
        }
    }
}

/// It may be corrupt, for it was not read.
#[tokio::test(start_paused = true)]
async fn nothing_is_collected_for_a_snapshot_that_was_not_read() {
    let world = world();
    let cluster = filled(&world, 6, &[2, 4]).await.cluster;
    let nonsense = Bytes::from_static(b"nonsense");
    world.replace(&snapshot_key(at(1, 4)), nonsense).await;
    let opened = world.open_after(at(1, 6), Some("6")).await;
    let covers = append(&*opened.journal, "7").await.unwrap();
    let whole = opened.journal.put_snapshot(covers, "up to 7".into());
    whole.await.unwrap();
    assert!(world.has_slot(cluster, 1, 3).await);
    let nonsense = Bytes::from_static(b"nonsense");
    world.replace(&snapshot_key(covers), nonsense).await;
    let opened = world.open().await;
    assert_eq!(state(&opened), Some("up to 2"));
    assert_eq!(texts(&opened), ["3", "4", "5", "6", "7"]);
}

#[tokio::test(start_paused = true)]
async fn slots_below_the_snapshot_before_the_newest_are_collected_and_seals_never() {
    let world = world();
    let cluster = filled(&world, 3, &[3]).await.cluster;
    let second = world.open().await;
    let covers = append(&*second.journal, "4").await.unwrap();
    second
        .journal
        .put_snapshot(covers, "up to 4".into())
        .await
        .unwrap();
    for slot in 0..=3 {
        assert!(
            !world.has_slot(cluster, 1, slot).await,
            "slot {slot} is covered twice"
        );
    }
    assert!(world.has_slot(cluster, 1, 4).await, "the seal of epoch 1");
    assert!(
        world.has_slot(cluster, 2, 1).await,
        "needed if the newest snapshot is corrupt"
    );
    let covers = append(&*second.journal, "5").await.unwrap();
    second
        .journal
        .put_snapshot(covers, "up to 5".into())
        .await
        .unwrap();
    assert_eq!(
        snapshots(&world.bucket).await.unwrap(),
        [at(2, 1), at(2, 2)]
    );
    let opened = world.open().await;
    assert_eq!(state(&opened), Some("up to 5"));
    assert_eq!(texts(&opened), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_may_cover_what_an_earlier_epoch_left() {
    let world = world();
    filled(&world, 3, &[]).await;
    let second = world.open().await;
    second
        .journal
        .put_snapshot(at(1, 3), "up to 3".into())
        .await
        .unwrap();
    let third = world.open().await;
    assert_eq!(state(&third), Some("up to 3"));
    assert_eq!(texts(&third), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_snapshot_is_passed_over_for_the_one_before_it() {
    let world = world();
    filled(&world, 6, &[2, 4]).await;
    world
        .replace(
            &snapshot_key(at(1, 4)),
            Bytes::from_static(b"FIRNSNAPnonsense"),
        )
        .await;
    let opened = world.open().await;
    assert_eq!(state(&opened), Some("up to 2"));
    assert_eq!(texts(&opened), ["3", "4", "5", "6"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_collected_that_only_a_corrupt_snapshot_covers() {
    let world = world();
    filled(&world, 6, &[2, 4]).await;
    let nonsense = Bytes::from_static(b"nonsense");
    world
        .replace(&snapshot_key(at(1, 4)), nonsense.clone())
        .await;
    let second = world.open().await;
    let covers = append(&*second.journal, "7").await.unwrap();
    second
        .journal
        .put_snapshot(covers, "up to 7".into())
        .await
        .unwrap();
    world.replace(&snapshot_key(covers), nonsense).await;
    let third = world.open().await;
    assert_eq!(state(&third), Some("up to 2"), "the one that is whole");
    assert_eq!(texts(&third), ["3", "4", "5", "6", "7"]);
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_snapshot_goes_with_those_before_it_once_two_later_ones_are_whole() {
    let world = world();
    filled(&world, 6, &[2, 4]).await;
    world
        .replace(&snapshot_key(at(1, 4)), Bytes::from_static(b"nonsense"))
        .await;
    let second = world.open().await;
    for text in ["7", "8"] {
        let covers = append(&*second.journal, text).await.unwrap();
        let state = Bytes::from(format!("up to {text}"));
        second.journal.put_snapshot(covers, state).await.unwrap();
    }
    let kept = snapshots(&world.bucket).await.unwrap();
    assert_eq!(kept, [at(2, 1), at(2, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_journal_without_a_whole_snapshot_fails_loudly() {
    let world = world();
    filled(&world, 8, &[2, 4, 6]).await;
    for covers in [at(1, 4), at(1, 6)] {
        world
            .replace(&snapshot_key(covers), Bytes::from_static(b"nonsense"))
            .await;
    }
    let opened = world.try_open().await.map(|opened| texts(&opened));
    assert!(
        matches!(opened, Err(JournalError::Corrupt { .. })),
        "{opened:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_a_later_release_is_not_passed_over() {
    let world = world();
    let cluster = filled(&world, 6, &[2, 4]).await.cluster;
    let later = Snapshot {
        cluster,
        covers: at(1, 4),
        floor: None,
        body: Bytes::new(),
    };
    let mut bytes = later.encode().to_vec();
    bytes[8] = 2;
    let crc_at = bytes.len() - 4;
    let crc = crate::stream::fields::crc32c(&bytes[..crc_at]);
    bytes[crc_at..].copy_from_slice(&crc.to_le_bytes());
    world.replace(&snapshot_key(at(1, 4)), bytes.into()).await;
    let opened = world.try_open().await.map(|opened| texts(&opened));
    assert!(
        matches!(&opened, Err(JournalError::Corrupt { reason, .. }) if reason.contains("version")),
        "{opened:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_or_corrupt_slot_fails_loudly_and_gives_no_state() {
    for corrupt in [false, true] {
        let world = world();
        let cluster = filled(&world, 6, &[2]).await.cluster;
        // The end is in the bucket, so that what follows is damage and not a new end.
        drop(world.open().await);
        let key = StreamName::journal(cluster, CoordinatorEpoch(1)).key(Slot(4));
        let mut bytes = world
            .bucket
            .get(Purpose::Meta, &key)
            .await
            .unwrap()
            .unwrap()
            .to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        world
            .bucket
            .delete(Purpose::Meta, std::slice::from_ref(&key))
            .await
            .unwrap();
        if corrupt {
            world
                .bucket
                .create_once(Purpose::Meta, &key, vec![bytes.into()])
                .await;
        }
        let opened = world.try_open().await.map(|opened| texts(&opened));
        assert!(
            matches!(&opened, Err(JournalError::Corrupt { at, .. }) if *at == key.to_string()),
            "corrupt {corrupt}: {opened:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_seal_below_a_newer_snapshot_ends_nothing() {
    let world = world();
    let leader = filled(&world, 8, &[2, 4, 6]).await;
    // A successor that had listed the first snapshot only comes to slots that are collected by
    // now, and seals the first one that it does not find.
    let walk = Walk {
        bucket: &world.bucket,
        env: &world.env,
        cluster: leader.cluster,
        epoch: CoordinatorEpoch(2),
        on_step: &|| (),
    };
    let _ = walk.walk(&[]).await;
    assert!(
        world.has_slot(leader.cluster, 1, 0).await,
        "a seal in a collected slot"
    );
    let successor = world.open().await;
    assert_eq!(state(&successor), Some("up to 6"));
    assert_eq!(texts(&successor), ["7", "8"]);
    assert!(is_fenced(&append(&*leader.journal, "late").await));
}

#[tokio::test(start_paused = true)]
async fn a_seal_put_while_slots_are_collected_is_void() {
    let world = world();
    let leader = filled(&world, 8, &[4]).await;
    // The successor has read the snapshot at 4 and waits for slot 5 while the leader, alive, puts
    // two more snapshots and collects slot 5. It then finds nothing there and seals it.
    world.store.inject(
        Rule::new(On::Get, Fault::Throttled)
            .key("meta/log")
            .times(4),
    );
    let collecting = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        for slot in [6, 8] {
            let state = Bytes::from(format!("up to {slot}"));
            leader
                .journal
                .put_snapshot(at(1, slot), state)
                .await
                .unwrap();
        }
    };
    let (successor, ()) = tokio::join!(world.open(), collecting);
    assert!(world.has_slot(leader.cluster, 1, 5).await, "the void seal");
    assert_eq!(state(&successor), Some("up to 8"));
    assert!(is_fenced(&append(&*leader.journal, "late").await));
    let again = world.open().await;
    assert_eq!(
        (state(&again), texts(&again)),
        (Some("up to 8"), Vec::new())
    );
}

#[tokio::test(start_paused = true)]
async fn a_zombies_snapshot_counts_since_it_covers_only_what_was_durable() {
    let world = world();
    let zombie = filled(&world, 4, &[]).await;
    let leader = world.open().await;
    append(&*leader.journal, "5").await.unwrap();
    zombie
        .journal
        .put_snapshot(at(1, 4), "up to 4".into())
        .await
        .unwrap();
    let opened = world.open().await;
    assert_eq!(state(&opened), Some("up to 4"));
    assert_eq!(texts(&opened), ["5"]);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "I10")]
async fn a_snapshot_of_what_is_not_durable_is_a_bug() {
    let world = world();
    let opened = world.open().await;
    let _ = opened.journal.put_snapshot(at(1, 5), Bytes::new()).await;
}

#[tokio::test(start_paused = true)]
async fn the_identity_of_a_claimant_can_be_read_by_others() {
    let world = world();
    let opened = world.open().await;
    let claim = read_claim(&world.bucket, opened.epoch)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (claim.epoch, claim.identity),
        (opened.epoch, Bytes::from_static(b"me"))
    );
    assert_eq!(
        read_claim(&world.bucket, CoordinatorEpoch(2))
            .await
            .unwrap(),
        None
    );
    assert_eq!(newest_epoch(&world.bucket).await.unwrap(), opened.epoch);
}

#[tokio::test(start_paused = true)]
async fn an_epoch_that_another_has_claimed_is_not_passed_over_by_whoever_wanted_it() {
    let world = world();
    let opener = BucketJournal::new(world.bucket.clone(), world.env.clone());
    assert_eq!(opener.newest().await.unwrap(), None);
    let after = |who: &'static [u8], epoch| Taking {
        after: Some(epoch),
        ..Taking::next_free(Bytes::from_static(who))
    };
    let first = opener.open(after(b"a", CoordinatorEpoch(0)));
    assert_eq!(first.await.unwrap().epoch, CoordinatorEpoch(1));
    let beaten = opener.open(after(b"b", CoordinatorEpoch(0)));
    assert!(matches!(
        beaten.await.err(),
        Some(JournalError::Superseded {
            newer: CoordinatorEpoch(1),
            ..
        })
    ));
    let newest = opener.newest().await.unwrap().unwrap();
    assert_eq!(newest.identity, Bytes::from_static(b"a"));
    let next = opener.open(after(b"b", newest.epoch));
    assert_eq!(next.await.unwrap().epoch, CoordinatorEpoch(2));
}

#[tokio::test(start_paused = true)]
async fn the_newest_claim_is_found_behind_a_page_of_keys_that_are_none() {
    let world = world();
    world.open().await;
    let claim = Place::EpochClaim(CoordinatorEpoch(1)).key();
    for number in 0..LIST_MAX {
        let stray = Key::listed(&format!("{claim}-{number:04}"));
        let body = vec![Bytes::from_static(b"stray")];
        world.bucket.create_once(Purpose::Meta, &stray, body).await;
    }
    assert_eq!(world.open().await.epoch, CoordinatorEpoch(2));
    let newest = newest_epoch(&world.bucket).await.unwrap();
    assert_eq!(newest, CoordinatorEpoch(2));
}

#[tokio::test(start_paused = true)]
async fn a_leader_with_nothing_to_put_can_look_for_a_later_one() {
    let world = world();
    let first = world.open().await;
    assert_eq!(first.journal.look_for_newer().await.unwrap(), None);
    let second = world.open().await;
    let newer = first.journal.look_for_newer().await.unwrap();
    assert_eq!(newer, Some(second.epoch));
    assert_eq!(second.journal.look_for_newer().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_the_bucket_refuses_is_no_outage() {
    let world = world();
    let opened = world.open().await;
    world.store.inject(Rule::new(On::Get, Fault::Denied));
    let refused = opened.journal.look_for_newer().await;
    assert!(
        matches!(refused, Err(JournalError::Refused(_))),
        "{refused:?}"
    );
}
