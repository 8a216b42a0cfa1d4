//! How archived records are served: as if they still lay in the WAL, whatever their shape, and with
//! an error where the bucket does not have them as they were put.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};
use std::thread;

use bytes::{Bytes, BytesMut};
use firn_proto::record::{Codec, split_batches};
use firn_tests::client::{LATEST, topic_name};
use firn_tests::records::{ProducerFields, decode_batches, encode_batch, seal};
use firn_tests::seed::Seed;
use kafka_protocol::messages::DeleteTopicsRequest;

use super::*;

const NEWEST: i64 = -3;
const BATCH_HEADER_BYTES: usize = 61;
const ATTRIBUTES_AT: usize = 21;

/// Caches with next to nothing in them, and a collector that looks all the time.
const COLD: [(&str, &str); 4] = [
    ("cache.tail.bytes", "1"),
    ("cache.memory.bytes", "1048576"),
    ("collection.interval.ms", "20"),
    ("collection.orphans.delay.ms", "0"),
];

/// The same node after a clean stop, without anything in its caches.
fn again(world: Running) -> Running {
    Running::start_with(world.stop(), &COLD)
}

/// A topic of one partition with these configs.
fn one_partition(world: &Running, configs: &[(&str, &str)]) -> Client {
    let mut client = world.client();
    client.create_topic(TOPIC, 1, &[&[KEPT], configs].concat());
    client
}

fn append(client: &mut Client, times: &[i64]) {
    let record = |time: &i64| Record {
        timestamp: wait::record_time_ms() + time,
        ..Record::new("key", format!("at {time}"))
    };
    let records: Vec<_> = times.iter().map(record).collect();
    client.append(TOPIC, 0, &records);
}

#[test]
fn once_the_wal_is_gone_segments_alone_serve() {
    let world = Running::start_with(FaultStore::in_memory(), &COLD);
    let mut client = world.client();
    client.create_topic(TOPIC, PARTITIONS, &[KEPT]);
    let mut expected = produce(&mut client, 0);
    for (before, more) in expected.iter_mut().zip(produce(&mut client, 1)) {
        before.extend(more);
    }
    world.flush().unwrap();
    let world = again(world);
    const SLOTS: &str = r#"firn_garbage_deleted_total{kind="slot"}"#;
    wait::until("the floor to pass", wait::PATIENCE, || {
        (world.figure(SLOTS) > 0.0).then_some(())
    });
    let wal = Rule::new(On::Get, Fault::Denied).key("wal/");
    world.store.inject(wal.times(u64::MAX));
    assert_read(&mut world.client(), &expected);
    assert_eq!(world.store.hits(), [], "nobody asked for the wal");
    for name in [
        "firn_segment_reads_total",
        "firn_row_groups_opened_total",
        "firn_row_group_gets_total",
        "firn_object_cache_memory_bytes",
    ] {
        assert!(world.figure(name) > 0.0, "{name}");
    }
    assert!(world.figure("firn_segment_searches_total") < 1.0);
    world.client().list_offset(TOPIC, 0, wait::record_time_ms());
    assert!(world.figure("firn_segment_searches_total") > 0.0);
    world.stop();
}

#[test]
fn what_is_deleted_is_counted_by_kind() {
    const DELETED: &str = r#"firn_garbage_deleted_total{kind="segment"}"#;
    let world = Running::start_with(FaultStore::in_memory(), &COLD);
    let mut client = one_partition(&world, &[("file.delete.delay.ms", "3600000")]);
    append(&mut client, &[0, 1]);
    world.flush().unwrap();
    delete_below(&mut client, 2);
    wait::until("the segment to be queued", wait::PATIENCE, || {
        (world.figure("firn_garbage_queued") > 0.0).then_some(())
    });
    assert!(world.figure(DELETED) < 1.0, "its grace is not over");
    client.alter_topic(TOPIC, &[("file.delete.delay.ms", "0")]);
    append(&mut client, &[2]);
    world.flush().unwrap();
    delete_below(&mut client, 3);
    wait::until("the other to be deleted", wait::PATIENCE, || {
        (world.figure(DELETED) > 0.0).then_some(())
    });
    assert_eq!(world.segments().len(), 1);
    world.stop();
}

/// A segment that is in the bucket and of which the journal has not heard.
#[test]
fn orphans_of_a_crash_are_counted() {
    let world = Running::start();
    let mut client = one_partition(&world, &[("firn.archive.interval.ms", "1")]);
    let rule = Rule::new(On::Put, Fault::HangAfter).key(SEGMENT);
    world.store.inject(rule.times(u64::MAX));
    append(&mut client, &[0, 1]);
    wait::until("the archiver to put", wait::PATIENCE, || {
        (!world.store.hits().is_empty()).then_some(())
    });
    let store = world.crash();
    store.clear();
    let world = Running::start_with(store, &COLD);
    wait::until("the orphan to be found", wait::PATIENCE, || {
        (world.figure("firn_garbage_orphans_total") > 0.0).then_some(())
    });
    assert_eq!(world.client().read(TOPIC, 0, 0).len(), 2);
    world.stop();
}

#[test]
fn times_are_found_at_the_same_offsets_as_before() {
    let world = Running::start();
    let mut client = one_partition(&world, &[]);
    for times in [&[50, 10, 30][..], &[20, 70], &[70, 60, 5], &[40]] {
        append(&mut client, times);
    }
    let times = (0..=72).map(|time| wait::record_time_ms() + time);
    let asked: Vec<i64> = times.chain([0, NEWEST, EARLIEST, LATEST]).collect();
    let found = |client: &mut Client| -> Vec<(i64, i64)> {
        let found = asked.iter();
        found
            .map(|time| (*time, client.list_offset(TOPIC, 0, *time)))
            .collect()
    };
    let before = found(&mut client);
    world.flush().unwrap();
    assert_eq!(found(&mut client), before);
    let world = again(world);
    let mut client = world.client();
    assert_eq!(found(&mut client), before, "from segments alone");
    // and when the newest lies in the WAL again
    append(&mut client, &[65, 71]);
    let newest = client.list_offset(TOPIC, 0, NEWEST);
    assert_eq!(newest, 10);
    let between = client.list_offset(TOPIC, 0, wait::record_time_ms() + 71);
    assert_eq!(between, 10);
    world.stop();
}

/// Looks for a record that is archived between the look into segments and that into the WAL.
fn found_while_it_is_archived(timestamp: i64) -> i64 {
    let world = Running::start();
    let mut client = one_partition(&world, &[]);
    append(&mut client, &[50, 10]);
    world.flush().unwrap();
    // of the first segment only its second record counts
    delete_below(&mut client, 1);
    let world = again(world);
    let mut client = world.client();
    append(&mut client, &[40]);
    let first_look = Rule::new(On::Get, Fault::Hang).key(SEGMENT);
    world.store.inject(first_look);
    thread::scope(|scope| {
        let looking = scope.spawn(|| world.client().list_offset(TOPIC, 0, timestamp));
        wait::until("the look into the segment", wait::PATIENCE, || {
            (!world.store.hits().is_empty()).then_some(())
        });
        world.flush().unwrap();
        append(&mut client, &[45]);
        looking.join().unwrap()
    })
}

#[test]
fn a_time_is_found_while_its_record_is_archived() {
    let found = found_while_it_is_archived(wait::record_time_ms() + 30);
    assert_eq!(found, 2, "the first at or after");
}

#[test]
fn the_newest_record_is_found_while_it_is_archived() {
    assert_eq!(found_while_it_is_archived(NEWEST), 2);
}

/// Codec, offset and value of each record.
fn served(batches: Bytes) -> Vec<(Codec, i64, Vec<u8>)> {
    let mut served = Vec::new();
    for batch in split_batches(batches) {
        let batch = batch.unwrap();
        assert!(batch.crc_matches());
        let codec = batch.header().attributes.codec().unwrap();
        let plain = batch.plain_records(1 << 20).unwrap();
        for record in batch.records(&plain) {
            let record = record.unwrap();
            served.push((codec, record.offset, record.value.unwrap().to_vec()));
        }
    }
    served
}

#[test]
fn batches_come_back_in_the_codec_that_their_topic_has_now() {
    let world = Running::start_with(FaultStore::in_memory(), &COLD);
    let mut client = one_partition(&world, &[("compression.type", "zstd")]);
    append(&mut client, &[0, 1, 2]);
    append(&mut client, &[3]);
    world.flush().unwrap();
    let world = again(world);
    let mut client = world.client();
    for (name, codec) in [
        ("zstd", Codec::Zstd),
        ("gzip", Codec::Gzip),
        ("lz4", Codec::Lz4),
        ("snappy", Codec::Snappy),
        // What is compressed stays so: nobody has counted on the memory for more.
        ("uncompressed", Codec::Zstd),
    ] {
        client.alter_topic(TOPIC, &[("compression.type", name)]);
        let expected: Vec<_> = (0..4)
            .map(|at| (codec, at, format!("at {at}").into_bytes()))
            .collect();
        // the answer to a change of configs comes a moment before the change is seen
        wait::until(name, wait::PATIENCE, || {
            let fetched = client.fetch(TOPIC, 0, 0).unwrap();
            (served(fetched.batches) == expected).then_some(())
        });
    }
    world.stop();
}

#[test]
fn a_batch_that_nobody_can_decode_comes_back_as_it_came() {
    let world = Running::start_with(FaultStore::in_memory(), &COLD);
    let mut client = one_partition(&world, &[]);
    let records = [Record::new("key", "value"), Record::new("key", "value")];
    append(&mut client, &[0]);
    for codec in [0u8, 1, 2, 3, 4] {
        let mut batch = BytesMut::from(&encode_batch(&records, ProducerFields::NONE)[..]);
        batch[ATTRIBUTES_AT + 1] = codec;
        batch[BATCH_HEADER_BYTES..].fill(0xee);
        seal(&mut batch);
        let produced = client.produce(TOPIC, 0, batch.freeze()).unwrap();
        assert_eq!(produced.error, code::NONE, "codec {codec}");
    }
    append(&mut client, &[1]);
    let all = |client: &mut Client| {
        let mut all = BytesMut::new();
        let mut next = 0;
        while next < 12 {
            let fetched = client.fetch(TOPIC, 0, next).unwrap();
            assert_eq!(fetched.error, code::NONE, "at {next}");
            for batch in split_batches(fetched.batches) {
                let batch = batch.unwrap();
                let header = batch.header();
                next = header.base_offset + i64::from(header.record_count);
                all.extend_from_slice(batch.bytes());
            }
        }
        all
    };
    let before = all(&mut client);
    world.flush().unwrap();
    let world = again(world);
    assert_eq!(all(&mut world.client()), before);
    assert!(world.figure("firn_segment_reads_total") > 0.0);
    world.stop();
}

#[test]
fn an_outage_delays_the_archive_and_loses_nothing() {
    let world = Running::start_with(FaultStore::in_memory(), &COLD);
    let mut client = world.client();
    client.create_topic(TOPIC, PARTITIONS, &[KEPT]);
    let expected = produce(&mut client, 0);
    for on in [On::Put, On::Get, On::List, On::Delete] {
        let gone = Rule::new(on, Fault::RequestLost);
        world.store.inject(gone.times(u64::MAX));
    }
    thread::scope(|scope| {
        let flush = scope.spawn(|| world.flush());
        wait::until("the archiver to try", wait::PATIENCE, || {
            let hits = world.store.hits();
            let mut keys = hits.iter().map(|(.., key)| key);
            keys.any(|key| key.contains(SEGMENT) || key.starts_with("wal/"))
                .then_some(())
        });
        world.store.clear();
        // this one may have been given up
        let _ = flush.join().unwrap();
    });
    world.flush().unwrap();
    assert_eq!(world.archived(), [(30, 30, 1); 3]);
    let world = again(world);
    assert_read(&mut world.client(), &expected);
    world.stop();
}

/// What the process has logged, all nodes of it.
fn log() -> &'static Mutex<Vec<u8>> {
    static LOG: OnceLock<Mutex<Vec<u8>>> = OnceLock::new();
    struct Log;
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            LOG.get().unwrap().lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    LOG.get_or_init(|| {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::ERROR)
            .with_ansi(false)
            .with_writer(|| Log)
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        Mutex::default()
    })
}

#[test]
fn damage_is_told_and_never_served() {
    log();
    let world = Running::start_with(FaultStore::in_memory(), &COLD);
    let mut client = one_partition(&world, &[]);
    // what is in the middle of the file is this value
    let value = Seed::from_environment("damage", 4).bytes(100_000);
    client.append(TOPIC, 0, &[Record::new("key", value)]);
    let expected = client.read(TOPIC, 0, 0);
    world.flush().unwrap();
    let world = again(world);
    let mut client = world.client();
    let damage = Rule::new(On::Get, Fault::BitFlip).key(SEGMENT);
    world.store.inject(damage.times(u64::MAX));
    let fetched = client.fetch(TOPIC, 0, 0).unwrap();
    let corrupt = (code::CORRUPT_MESSAGE, Bytes::new());
    assert_eq!((fetched.error, fetched.batches), corrupt);
    assert!(world.figure("firn_reads_corrupt_total") > 0.0);
    let logged = String::from_utf8_lossy(&log().lock().unwrap()).into_owned();
    let key = &world.segments()[0];
    let mut lines = logged.lines();
    let line = lines.find(|line| line.contains("is corrupt") && line.contains(key));
    assert!(line.is_some_and(|line| line.contains("ERROR")), "{logged}");
    world.store.clear();
    assert_eq!(client.read(TOPIC, 0, 0), expected);
    world.stop();
}

#[test]
fn a_segment_that_is_missing_is_an_error_of_storage() {
    let world = Running::start_with(FaultStore::in_memory(), &COLD);
    let mut client = one_partition(&world, &[]);
    append(&mut client, &[0, 1]);
    world.flush().unwrap();
    let world = again(world);
    let mut client = world.client();
    let missing = Rule::new(On::Get, Fault::Unseen).key(SEGMENT);
    world.store.inject(missing.times(u64::MAX));
    let fetched = client.fetch(TOPIC, 0, 0).unwrap();
    assert_eq!(
        (fetched.error, fetched.batches),
        (STORAGE_ERROR, Bytes::new())
    );
    world.store.clear();
    assert_eq!(client.read(TOPIC, 0, 0).len(), 2);
    world.stop();
}

/// Kafka's KAFKA_STORAGE_ERROR.
const STORAGE_ERROR: i16 = 56;

#[test]
fn a_topic_of_the_same_name_never_shows_records_of_the_one_before() {
    const ROUNDS: usize = 8;
    let world = Running::start_with(FaultStore::in_memory(), &COLD);
    let configs = [
        ("file.delete.delay.ms", "0"),
        ("firn.archive.interval.ms", "1"),
    ];
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reading = scope.spawn(|| read_rounds(&world, &is_over));
        let mut client = world.client();
        for round in 0..ROUNDS {
            client.create_topic(TOPIC, 1, &[&[KEPT], &configs[..]].concat());
            for _ in 0..5 {
                let record = Record::new("round", round.to_string());
                client.append(TOPIC, 0, &vec![record; 10]);
                world.flush().unwrap();
            }
            assert_eq!(client.read(TOPIC, 0, 0).len(), 50);
            delete_topic(&mut client);
        }
        is_over.store(true, SeqCst);
        reading.join().unwrap();
    });
    world.stop();
}

fn delete_topic(client: &mut Client) {
    let request = DeleteTopicsRequest::default()
        .with_topic_names(vec![topic_name(TOPIC)])
        .with_timeout_ms(30_000);
    let response = client.connection.call(5, &request).unwrap();
    assert_eq!(response.responses[0].error_code, code::NONE);
}

/// Reads whatever topic there is, and holds each answer against the round of its first record.
fn read_rounds(world: &Running, is_over: &AtomicBool) {
    let mut client = world.client();
    let mut seen: BTreeMap<i64, usize> = BTreeMap::new();
    let mut next = 0;
    while !is_over.load(SeqCst) {
        let fetched = client.fetch(TOPIC, 0, next).unwrap();
        let records = decode_batches(fetched.batches);
        let gone = code::RETRIABLE.contains(&fetched.error);
        assert!(
            fetched.error == code::NONE || gone || fetched.error == code::OFFSET_OUT_OF_RANGE,
            "error {} at {next}",
            fetched.error
        );
        let Some(last) = records.last() else {
            // the end, or another topic
            next = 0;
            seen.clear();
            continue;
        };
        let round = |stored: &StoredRecord| -> usize {
            let value = stored.record.value.as_ref().unwrap();
            std::str::from_utf8(value).unwrap().parse().unwrap()
        };
        let newest = round(last);
        let first = records[0].offset;
        for (offset, stored) in (first..).zip(&records) {
            assert_eq!((stored.offset, round(stored)), (offset, newest));
            let before = seen.insert(offset, newest);
            assert!(before.is_none_or(|before| before <= newest), "at {offset}");
        }
        next = last.offset + 1;
    }
}
