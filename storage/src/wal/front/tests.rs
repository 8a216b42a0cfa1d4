use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use firn_proto::env::{Clock, Entropy, Mono, SystemClock};
use firn_proto::ids::{BrokerId, LeaderEpoch, TopicPartition};
use futures::FutureExt;
use futures::future::join_all;
use tempfile::TempDir;

use super::*;
use crate::bucket::CreateOutcome;
use crate::bucket::testing::{Fault, FaultStore, On, Rule};
use crate::stream::slot::seal_object;
use crate::stream::{CheckpointRef, SealSpec, WalIndex, read_index, read_object};
use crate::wal::local::{EpochEnd, LocalWalOptions, Missing, Recovered};
use crate::wal::testing::{entry, tp};
use crate::wal::{Acks, DurableSlot};

const CLUSTER: ClusterId = ClusterId([1; 16]);
const STREAM: StreamId = StreamId(7);

/// Tokio's paused time.
struct TestClock(tokio::time::Instant);

impl Clock for TestClock {
    fn wall_ms(&self) -> i64 {
        0
    }

    fn mono(&self) -> Mono {
        Mono(self.0.elapsed().as_micros() as u64)
    }
}

#[derive(Default)]
struct Told {
    durable: Vec<DurableSlot>,
    local: BTreeMap<TopicPartition, i64>,
    fenced: Option<Slot>,
}

#[derive(Default)]
struct TestSink(Mutex<Told>);

impl TestSink {
    fn with<R>(&self, look: impl FnOnce(&Told) -> R) -> R {
        look(&self.0.lock().unwrap())
    }

    /// (slot, partition, base offset) of everything durable, in the order in which it was told.
    fn durable(&self) -> Vec<(u64, i32, i64)> {
        self.with(|told| {
            told.durable
                .iter()
                .flat_map(|slot| {
                    slot.entries
                        .iter()
                        .map(|entry| (slot.at.slot.0, entry.tp.partition.0, entry.base_offset))
                })
                .collect()
        })
    }
}

impl WalSink for TestSink {
    fn on_local(&self, acked: &[LocalAck]) {
        let mut told = self.0.lock().unwrap();
        for ack in acked {
            told.local.insert(ack.tp, ack.last_offset);
        }
    }

    fn on_durable(&self, slot: DurableSlot) {
        let mut told = self.0.lock().unwrap();
        assert!(told.fenced.is_none());
        told.durable.push(slot);
    }

    fn on_fenced(&self, at: Slot) {
        self.0.lock().unwrap().fenced = Some(at);
    }
}

/// A WAL over a store with faults, on paused time.
struct World {
    store: FaultStore,
    bucket: Bucket,
    sink: Arc<TestSink>,
    wal: Wal,
}

fn env() -> StreamEnv {
    StreamEnv {
        clock: Arc::new(TestClock(tokio::time::Instant::now())),
        entropy: Arc::new(Entropy::from_seed(1)),
    }
}

fn spec() -> WalSpec {
    WalSpec {
        cluster: CLUSTER,
        stream: STREAM,
        policy: FlushPolicy {
            slot_bytes: 100_000,
            slots_in_flight: 4,
            partial_slots_in_flight: 4,
            puts_per_second: None,
            gather: None,
        },
        bytes_in_flight: 1_000_000,
        local: None,
    }
}

fn world(spec: WalSpec) -> World {
    let env = env();
    let store = FaultStore::in_memory();
    let bucket = Bucket::from_store(
        Arc::new(store.clone()),
        Arc::clone(&env.clock),
        Arc::clone(&env.entropy),
    );
    let sink = Arc::new(TestSink::default());
    let wal = Wal::start(
        bucket.clone(),
        spec,
        Arc::clone(&sink) as Arc<dyn WalSink>,
        env,
    )
    .unwrap();
    World {
        store,
        bucket,
        sink,
        wal,
    }
}

fn local(dir: &Path) -> (LocalWal, Recovered) {
    let options = LocalWalOptions {
        segment_bytes: 64 * 1024,
        ..LocalWalOptions::new(dir, Some(BrokerId(1)))
    };
    LocalWal::open(&options, CLUSTER, &Entropy::from_seed(1)).unwrap()
}

impl World {
    async fn push(&self, entry: WalEntry) {
        let permit = self.wal.reserve(entry.records.len(), FairKey(0)).await;
        self.wal.push(entry, permit.unwrap()).unwrap();
    }

    async fn index(&self, slot: u64) -> WalIndex {
        let name = StreamName::wal(CLUSTER, STREAM);
        let view = read_index(&self.bucket, &name, Slot(slot)).await;
        let view = view.unwrap().unwrap();
        WalIndex::decode(&view.index, view.header.body_len).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_pushed_is_in_the_bucket_where_its_run_says() {
    let world = world(spec());
    for base in 0..3 {
        world.push(entry(1, base, base, 500)).await;
        world.push(entry(0, base, base, 50_000)).await;
    }
    assert_eq!(
        world.wal.close().await.unwrap(),
        Slot(world.sink.with(|told| told.durable.len() as u64))
    );
    let slots = world.sink.with(|told| {
        told.durable
            .iter()
            .map(|slot| (slot.at, slot.runs.clone(), slot.entries.clone()))
            .collect::<Vec<_>>()
    });
    for (at, runs, entries) in slots {
        let name = StreamName::wal(CLUSTER, STREAM);
        let key = name.key(at.slot);
        let object = world
            .bucket
            .get(name.purpose(), &key)
            .await
            .unwrap()
            .unwrap();
        for run in &runs {
            let range = run.byte_start as usize..(run.byte_start + run.byte_len) as usize;
            let expected: Vec<u8> = entries
                .iter()
                .filter(|entry| entry.tp == run.tp)
                .flat_map(|entry| entry.records.to_vec())
                .collect();
            assert_eq!(object[range], expected[..]);
        }
        assert_eq!(world.index(at.slot.0).await.runs, runs);
    }
    let mut bases: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    for (_, partition, base) in world.sink.durable() {
        bases.entry(partition).or_default().push(base);
    }
    assert_eq!(bases, [(0, vec![0, 1, 2]), (1, vec![0, 1, 2])].into());
}

#[tokio::test(start_paused = true)]
async fn slots_are_told_in_order_whatever_the_store_answers() {
    let world = world(spec());
    for (skip, fault) in [
        (0, Fault::Throttled),
        (2, Fault::AnswerLost),
        (4, Fault::RequestLost),
        (5, Fault::FailedAfter),
        (7, Fault::Conflict),
        (9, Fault::HangAfter),
    ] {
        world.store.inject(Rule::new(On::Put, fault).after(skip));
    }
    for base in 0..30 {
        world
            .push(entry((base % 3) as i32, base, base, 40_000))
            .await;
        tokio::task::yield_now().await;
    }
    world.wal.close().await.unwrap();
    let durable = world.sink.durable();
    assert_eq!(durable.len(), 30);
    assert!(durable.is_sorted_by_key(|(slot, _, _)| *slot));
    for partition in 0..3 {
        let bases: Vec<_> = durable.iter().filter(|row| row.1 == partition).collect();
        assert!(bases.is_sorted_by_key(|row| row.2), "partition {partition}");
    }
    assert_eq!(world.wal.status().permit_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn an_outage_stops_producers_and_ends_without_a_loss() {
    let world = world(spec());
    world.store.set_outage(true);
    let mut pushed = 0;
    loop {
        let reserve = world.wal.reserve(50_000, FairKey(pushed % 7));
        let Ok(permit) = tokio::time::timeout(Duration::from_secs(60), reserve).await else {
            break;
        };
        let base = pushed as i64;
        world
            .wal
            .push(entry(0, base, base, 50_000), permit.unwrap())
            .unwrap();
        pushed += 1;
    }
    assert_eq!(pushed, 20, "as many as the permits allow");
    assert_eq!(world.sink.durable(), []);
    tokio::time::sleep(Duration::from_secs(1_800)).await;
    world.store.set_outage(false);
    assert!(world.wal.reserve(50_000, FairKey(0)).await.is_ok());
    world.wal.close().await.unwrap();
    let bases: Vec<_> = world.sink.durable().iter().map(|row| row.2).collect();
    assert_eq!(bases, (0..20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn puts_of_a_busy_broker_are_bounded_by_its_tokens() {
    let mut spec = spec();
    spec.policy.puts_per_second = Some(10);
    let world = world(spec);
    for base in 0..1_000 {
        world.push(entry(0, base, base, 10)).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.wal.close().await.unwrap();
    let puts = world.sink.with(|told| told.durable.len());
    assert!((90..=110).contains(&puts), "{puts} puts in 10 s");
}

#[tokio::test(start_paused = true)]
async fn an_idle_wal_puts_nothing() {
    let world = world(spec());
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    world.wal.flush().await;
    assert_eq!(world.wal.close().await.unwrap(), Slot(0));
    assert!(world.index_count().await == 0);
}

#[tokio::test(start_paused = true)]
async fn a_flush_returns_when_all_before_it_is_durable() {
    let mut spec = spec();
    spec.policy.puts_per_second = Some(1);
    let world = world(spec);
    for base in 0..10 {
        world.push(entry(0, base, base, 10)).await;
        world.wal.flush().await;
        assert_eq!(world.sink.durable().len() as i64, base + 1);
    }
    assert_eq!(
        world.wal.next_durable().slot,
        world.wal.status().durable_end
    );
}

#[tokio::test(start_paused = true)]
async fn a_fenced_wal_tells_no_more_and_turns_everybody_away() {
    let world = world(spec());
    world.push(entry(0, 0, 0, 10)).await;
    world.wal.flush().await;
    let seal = SealSpec {
        stream: StreamName::wal(CLUSTER, STREAM),
        floor: Slot(0),
        from: Slot(1),
    };
    crate::stream::seal(&world.bucket, seal, &env())
        .await
        .unwrap();
    world.push(entry(0, 1, 1, 10)).await;
    let error = world.wal.failed().await;
    assert!(matches!(error, WalError::Fenced { at: Slot(1) }));
    assert!(matches!(
        world.wal.close().await,
        Err(WalError::Fenced { .. })
    ));
    assert!(matches!(
        world.wal.reserve(1, FairKey(0)).await,
        Err(WalError::Fenced { .. })
    ));
    assert_eq!(world.sink.durable(), [(0, 0, 0)]);
    assert_eq!(world.sink.with(|told| told.fenced), Some(Slot(1)));
    assert_eq!(world.wal.status().permit_bytes, 0);
}

/// The fence is known as soon as one put has met the seal, and slots below it may still be on their
/// way then. Nothing new is taken from that moment on, and those slots are durable like any other.
#[tokio::test(start_paused = true)]
async fn what_lies_below_a_fence_is_told_though_it_becomes_durable_after_it() {
    let world = world(WalSpec {
        policy: FlushPolicy {
            slots_in_flight: 8,
            ..spec().policy
        },
        ..spec()
    });
    let name = StreamName::wal(CLUSTER, STREAM);
    let seal = seal_object(&name, Slot(2), Nonce([9; 16]));
    let key = name.key(Slot(2));
    let put = world.bucket.create_once(name.purpose(), &key, vec![seal]);
    assert!(matches!(put.await, CreateOutcome::Created));
    // slot 0 is written, which its writer learns only when it has waited long enough
    world.store.inject(Rule::new(On::Put, Fault::HangAfter));
    let mut base = 0;
    let refused = loop {
        let permit = match world.wal.reserve(100_000, FairKey(0)).await {
            Ok(permit) => permit,
            Err(error) => break error,
        };
        if let Err(error) = world.wal.push(entry(0, base, base, 100_000), permit) {
            break error;
        }
        base += 1;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    };
    assert!(matches!(refused, WalError::Fenced { at: Slot(2) }));
    assert_eq!(
        world.sink.durable(),
        [],
        "refused before the stream has ended"
    );
    assert!(matches!(
        world.wal.close().await,
        Err(WalError::Fenced { at: Slot(2) })
    ));
    assert_eq!(world.sink.durable(), [(0, 0, 0), (1, 0, 1)]);
    assert_eq!(world.wal.status().durable_end, Slot(2));
    assert_eq!(world.sink.with(|told| told.fenced), Some(Slot(2)));
}

#[tokio::test(start_paused = true)]
async fn a_closed_wal_takes_nothing() {
    let world = world(spec());
    let permit = world.wal.reserve(10, FairKey(0)).await.unwrap();
    assert_eq!(world.wal.close().await.unwrap(), Slot(0));
    let refused = world.wal.push(entry(0, 0, 0, 10), permit);
    assert!(matches!(refused, Err(WalError::Closed)));
    assert!(matches!(
        world.wal.reserve(1, FairKey(0)).await,
        Err(WalError::Closed)
    ));
    let checkpoint = world
        .wal
        .push_checkpoint_bytes(Bytes::from_static(b"rows"), false, false)
        .await;
    assert!(matches!(checkpoint, Err(WalError::Closed)));
}

/// A partition that moves is served by nobody until the state with which it goes is durable.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_others_wait_for_needs_no_token() {
    let mut spec = spec();
    spec.policy.puts_per_second = Some(1);
    let world = world(spec);
    let rows = [StateRow::new(tp(0), LeaderEpoch(0))];
    for base in 0..5 {
        world.push(entry(0, base, base, 10)).await;
        world.wal.flush().await;
        let written = world.wal.push_checkpoint_at_once(&rows);
        let written = tokio::time::timeout(Duration::from_millis(100), written).await;
        assert!(written.is_ok(), "checkpoint {base} waits for a token");
    }
    let waits = world.wal.push_checkpoint(&rows);
    let waits = tokio::time::timeout(Duration::from_millis(100), waits).await;
    assert!(waits.is_err(), "the periodic ones have time");
}

/// It may have to wait for room among others, which go meanwhile.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_others_wait_for_needs_no_token_however_long_it_waited_for_room() {
    let mut spec = spec();
    spec.policy.puts_per_second = Some(1);
    let world = world(spec);
    let rows = [StateRow::new(tp(0), LeaderEpoch(0))];
    let periodic = (0..CHECKPOINTS_WAITING_MAX).map(|_| world.wal.push_checkpoint(&rows));
    let hurried = world.wal.push_checkpoint_at_once(&rows);
    // the first of the others may wait for a token, and then there is room
    let hurried = tokio::time::timeout(Duration::from_secs(2), hurried);
    let (_, hurried) = tokio::join!(join_all(periodic), hurried);
    assert!(hurried.is_ok(), "it waits for tokens");
}

#[tokio::test(start_paused = true)]
async fn a_small_checkpoint_stands_in_its_slot() {
    let world = world(spec());
    let rows = Bytes::from(vec![5; checkpoint::INLINE_MAX]);
    let at = world
        .wal
        .push_checkpoint_bytes(rows.clone(), false, false)
        .await;
    let slot = SlotPosition {
        stream: STREAM,
        slot: Slot(0),
    };
    let object = None;
    assert_eq!(at.unwrap(), CheckpointAt { slot, object });
    assert_eq!(world.index(0).await.checkpoint, CheckpointRef::Inline(rows));
}

#[tokio::test(start_paused = true)]
async fn a_large_checkpoint_is_put_before_the_slot_that_names_it() {
    let world = world(spec());
    for fault in [Fault::Throttled, Fault::AnswerLost, Fault::Denied] {
        world
            .store
            .inject(Rule::new(On::Put, fault).key("checkpoint"));
    }
    let rows = Bytes::from(vec![5; checkpoint::INLINE_MAX + 1]);
    let mut push = Box::pin(world.wal.push_checkpoint_bytes(rows.clone(), false, false));
    assert!(push.as_mut().now_or_never().is_none());
    // entries do not wait for it
    world.push(entry(0, 0, 0, 10)).await;
    world.wal.flush().await;
    let at = push.await.unwrap();
    let CheckpointRef::Object { slot, len, .. } = world.index(at.slot.slot.0).await.checkpoint
    else {
        panic!("not an object");
    };
    assert_eq!(len, rows.len() as u64);
    assert_eq!(at.object, Some(slot));
    let key = crate::layout::Place::Checkpoint {
        stream: STREAM,
        slot,
    }
    .key();
    let found = world
        .bucket
        .get(crate::bucket::Purpose::Checkpoint, &key)
        .await;
    assert_eq!(found.unwrap(), Some(rows));
}

#[tokio::test(start_paused = true)]
async fn checkpoints_never_share_a_slot_or_an_object() {
    let world = world(spec());
    let pushes = (0..10_u8).map(|number| {
        let rows = Bytes::from(vec![
            number;
            checkpoint::INLINE_MAX + usize::from(number % 2)
        ]);
        world.wal.push_checkpoint_bytes(rows, false, false)
    });
    let positions = join_all(pushes).await;
    let mut slots: Vec<_> = positions
        .into_iter()
        .map(|at| at.unwrap().slot.slot)
        .collect();
    slots.dedup();
    assert_eq!(slots.len(), 10);
}

/// Of the objects below a floor only the newest can be named at or above it (storage/FORMAT.md
/// §4.1).
#[tokio::test(start_paused = true)]
async fn an_object_lies_behind_the_slot_that_names_the_one_before() {
    let world = world(spec());
    let mut behind = Slot(0);
    for number in 0..5 {
        let lost = Rule::new(On::Put, Fault::RequestLost).key("checkpoint");
        world.store.inject(lost.times(number + 1));
        let rows = Bytes::from(vec![5; checkpoint::INLINE_MAX + 1]);
        let first = world.wal.push_checkpoint_bytes(rows.clone(), false, false);
        let second = world.wal.push_checkpoint_bytes(rows, false, false);
        let entries = async {
            let base = i64::try_from(number).unwrap();
            world.push(entry(0, base, base, 10)).await;
            world.wal.flush().await;
        };
        let (first, second, ()) = tokio::join!(first, second, entries);
        for at in [first.unwrap(), second.unwrap()] {
            let object = at.object.unwrap();
            assert!(behind <= object && object <= at.slot.slot, "{at:?}");
            behind = at.slot.slot.next();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_checkpoint_is_told_when_the_task_panics() {
    let world = world(spec());
    world
        .store
        .inject(Rule::new(On::Put, Fault::Hang).key("checkpoint"));
    let rows = Bytes::from(vec![5; checkpoint::INLINE_MAX + 1]);
    let mut on_its_way = Box::pin(world.wal.push_checkpoint_bytes(rows.clone(), false, false));
    assert!(on_its_way.as_mut().now_or_never().is_none());
    let mut queued = Box::pin(world.wal.push_checkpoint_bytes(rows, false, false));
    assert!(queued.as_mut().now_or_never().is_none());
    // the sink panics when it is told of a slot after this
    world.sink.0.lock().unwrap().fenced = Some(Slot(0));
    world.push(entry(0, 0, 0, 10)).await;
    for waiting in [on_its_way, queued] {
        let told = tokio::time::timeout(Duration::from_secs(3600), waiting).await;
        let told = told.expect("it waits for ever");
        assert!(matches!(told, Err(WalError::TaskFailed)), "{told:?}");
    }
}

#[tokio::test]
async fn the_local_wal_acknowledges_while_the_bucket_is_gone() {
    let dir = TempDir::new().unwrap();
    let mut spec = spec();
    spec.local = Some(local(dir.path()).0);
    let world = world(spec);
    world.store.set_outage(true);
    for base in 0..20 {
        let mut entry = entry((base % 2) as i32, base, base, 3_000);
        entry.acks = Acks::Local;
        world.push(entry).await;
    }
    while world.sink.with(|told| told.local.clone()) != [(tp(0), 18), (tp(1), 19)].into() {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.sink.durable(), []);
    let fsyncs = world.wal.status().fsync.unwrap().count();
    assert!((1..=20).contains(&fsyncs));
}

#[tokio::test]
async fn a_clean_stop_leaves_nothing_behind_in_the_local_wal() {
    let dir = TempDir::new().unwrap();
    let mut spec = spec();
    spec.local = Some(local(dir.path()).0);
    let world = world(spec);
    for base in 0..200 {
        world.push(entry(0, base, base, 3_000)).await;
    }
    world.wal.close().await.unwrap();
    assert_eq!(world.sink.durable().len(), 200);
    let (_, recovered) = local(dir.path());
    assert_eq!(recovered.rows(), []);
}

#[tokio::test]
async fn what_the_bucket_lacks_is_found_in_the_local_wal_of_a_killed_broker() {
    let dir = TempDir::new().unwrap();
    let mut spec = spec();
    spec.local = Some(local(dir.path()).0);
    let world = world(spec);
    for base in 0..5 {
        world.push(entry(0, base, base, 3_000)).await;
    }
    world.wal.flush().await;
    world.store.set_outage(true);
    for base in 5..9 {
        world.push(entry(0, base, base, 3_000)).await;
    }
    while world.sink.with(|told| told.local.get(&tp(0)) != Some(&8)) {
        tokio::task::yield_now().await;
    }
    // as a killed process leaves it
    let copy = TempDir::new().unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let (_, recovered) = local(copy.path());
    let missing = Missing::of(recovered.rows(), |stream, _, _| {
        (stream == STREAM).then_some(EpochEnd::Folded(5))
    });
    assert_eq!(missing.put_again[0].end, 9);
    let first = recovered.read(&missing.put_again[0].entries[0]).unwrap();
    assert_eq!(first, entry(0, 5, 5, 3_000));
    assert_eq!(missing.lost, []);
}

#[tokio::test]
async fn a_file_bucket_makes_groups_of_what_waits_for_the_disk() {
    let dir = TempDir::new().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let entropy = Arc::new(Entropy::from_seed(1));
    let bucket = Bucket::directory(dir.path(), Arc::clone(&clock), Arc::clone(&entropy)).unwrap();
    let sink = Arc::new(TestSink::default());
    let mut spec = spec();
    spec.policy = FlushPolicy::for_bucket(bucket.kind());
    let stream = Arc::clone(&sink) as Arc<dyn WalSink>;
    let wal = Wal::start(bucket.clone(), spec, stream, StreamEnv { clock, entropy }).unwrap();
    for base in 0..1_000 {
        let permit = wal.reserve(100, FairKey(0)).await.unwrap();
        wal.push(entry(0, base, base, 100), permit).unwrap();
    }
    let end = wal.close().await.unwrap();
    assert_eq!(sink.durable().len(), 1_000);
    assert!(end.0 < 500, "{end} puts for 1000 entries");
    let name = StreamName::wal(CLUSTER, STREAM);
    let last = Slot(end.0 - 1);
    assert!(read_object(&bucket, &name, last).await.unwrap().is_some());
    assert!(read_object(&bucket, &name, end).await.unwrap().is_none());
}

impl World {
    async fn index_count(&self) -> usize {
        let folder = crate::layout::wal_stream(STREAM);
        let listed = self
            .bucket
            .list(crate::bucket::Purpose::Wal, &folder, None, 10)
            .await;
        listed.unwrap().len()
    }
}
