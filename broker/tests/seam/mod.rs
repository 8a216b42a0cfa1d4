//! One offset is served from exactly one place at a time: whoever reads while records are archived,
//! the WAL is collected, the log start moves and the node starts again finds each record once and
//! whole, and reaches the end.
//!
//! Each record says where it lies, so that an answer is checked without a second log beside it.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use firn_tests::client::{FETCH_VERSION, LATEST, fetch_request, produce_request};
use firn_tests::records::{ProducerFields, decode_batches, encode_batch};
use firn_tests::seed::Seed;
use kafka_protocol::messages::ListOffsetsRequest;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use tempfile::TempDir;

use super::*;

const NEWEST: i64 = -3;
const READERS: u64 = 3;
/// Batches that each step of the test lets the writer write.
const BATCHES_PER_STEP: u64 = 25;
const BATCH_RECORDS_MAX: u64 = 20;
/// Of a fetch.
const SIZES: [i32; 4] = [1, 3_000, 60_000, 1 << 20];
/// How far a record's time may be ahead of that of the next.
const UNEVEN_MS: i64 = 400;
const RECORD_MS: i64 = 10;
/// How often a writer that has written enough looks whether it may go on.
const IDLE: Duration = Duration::from_millis(2);

/// Caches that hold little, and a collector that looks all the time.
const SMALL: [(&str, &str); 3] = [
    ("cache.tail.bytes", "65536"),
    ("cache.memory.bytes", "1048576"),
    ("collection.interval.ms", "20"),
];
const CONFIGS: [(&str, &str); 3] = [
    KEPT,
    ("firn.archive.interval.ms", "1000"),
    ("file.delete.delay.ms", "0"),
];

/// The record that lies there.
fn record_at(partition: i32, offset: i64) -> Record {
    let length = usize::try_from(offset * 7919 % 700).unwrap();
    let text = format!("{partition} at {offset}");
    let value = format!("{text} {}", "x".repeat(length));
    Record {
        timestamp: time_at(offset),
        ..Record::new(text, value)
    }
}

/// Its time, which does not rise with the offset.
fn time_at(offset: i64) -> i64 {
    wait::record_time_ms() + offset * RECORD_MS + offset * 7919 % UNEVEN_MS
}

/// Where the bucket lies.
enum Place {
    Memory(FaultStore),
    Directory(TempDir),
}

impl Place {
    fn start(&self) -> (Runtime, Node) {
        let mut world = World::of_machine();
        let url = match self {
            Self::Memory(store) => {
                let (clock, entropy) = (Arc::clone(&world.clock), Arc::clone(&world.entropy));
                let bucket = Bucket::from_store(Arc::new(store.clone()), clock, entropy);
                world.bucket = Some(bucket);
                "memory://".to_owned()
            }
            Self::Directory(directory) => format!("file://{}", directory.path().display()),
        };
        launch(world, &[&[("bucket", &url[..])], &SMALL[..]].concat())
    }
}

/// What the threads of a test know of each other.
struct Shared {
    door: Mutex<SocketAddr>,
    /// Rises when a restart begins, and when it is over: it is odd meanwhile.
    phase: AtomicU64,
    is_over: AtomicBool,
    /// How many batches may be written.
    allowed: AtomicU64,
    /// Behind the last record of each partition that was acknowledged.
    acknowledged: [AtomicI64; PARTITIONS as usize],
}

impl Shared {
    fn acknowledged(&self, partition: i32) -> i64 {
        self.acknowledged[partition as usize].load(SeqCst)
    }
}

/// A client that stays through restarts, and takes no error without one.
struct Patient<'a> {
    shared: &'a Shared,
    /// Whose connection was made in this phase.
    client: Option<(u64, Client)>,
}

impl<'a> Patient<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            client: None,
        }
    }

    /// Asks once. None if the answer was lost in a restart.
    fn try_ask<T>(
        &mut self,
        ask: impl FnOnce(&mut Client) -> io::Result<(i16, T)>,
    ) -> Option<Result<T, i16>> {
        let phase = self.shared.phase.load(SeqCst);
        self.client.take_if(|(made, _)| *made != phase);
        if self.client.is_none() {
            let door = *self.shared.door.lock().unwrap();
            self.client = Client::connect(door).ok().map(|client| (phase, client));
        }
        let (_, client) = self.client.as_mut()?;
        let answer = ask(client);
        let is_restart = phase % 2 == 1 || self.shared.phase.load(SeqCst) != phase;
        match answer {
            Ok((code::NONE, found)) => Some(Ok(found)),
            Ok((error, _)) if !code::RETRIABLE.contains(&error) => Some(Err(error)),
            Ok((error, _)) => {
                // a broker that has not heard from its bucket for a while says so
                let is_cut_off = error == code::NOT_LEADER_OR_FOLLOWER;
                assert!(
                    is_restart || is_cut_off,
                    "error {error}, and nothing restarts"
                );
                None
            }
            Err(error) => {
                assert!(is_restart, "{error}, and nothing restarts");
                self.client = None;
                None
            }
        }
    }

    /// Asks until there is an answer.
    fn ask<T>(
        &mut self,
        mut ask: impl FnMut(&mut Client) -> io::Result<(i16, T)>,
    ) -> Result<T, i16> {
        wait::until("an answer", wait::PATIENCE, || self.try_ask(&mut ask))
    }

    fn list(&mut self, partition: i32, timestamp: i64) -> i64 {
        let wanted = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default()
            .with_name(TopicName(StrBytes::from_static_str(TOPIC)))
            .with_partitions(vec![wanted]);
        let request = ListOffsetsRequest::default().with_topics(vec![topic]);
        let found = self.ask(|client| {
            let answer = client.connection.call(7, &request)?;
            let found = &answer.topics[0].partitions[0];
            Ok((found.error_code, found.offset))
        });
        found.unwrap()
    }

    fn fetch(&mut self, partition: i32, offset: i64, bytes_max: i32) -> Result<Bytes, i16> {
        let mut request = fetch_request(TOPIC, partition, offset, 500);
        request.topics[0].partitions[0].partition_max_bytes = bytes_max;
        self.ask(|client| {
            let mut answer = client.connection.call(FETCH_VERSION, &request)?;
            let found = &mut answer.responses[0].partitions[0];
            Ok((found.error_code, found.records.take().unwrap_or_default()))
        })
    }

    /// Reads a partition from `from` to its end, and returns that.
    fn read(&mut self, partition: i32, from: i64, bytes_max: i32) -> i64 {
        let acknowledged = self.shared.acknowledged(partition);
        let end = self.list(partition, LATEST);
        assert!(end >= acknowledged, "{end}, and {acknowledged} was told");
        let mut next = from;
        while next < end {
            match self.fetch(partition, next, bytes_max) {
                Ok(batches) => next = behind(partition, next, batches),
                Err(code::OFFSET_OUT_OF_RANGE) => {
                    let start = self.list(partition, EARLIEST);
                    assert!(start > next, "{next} is refused, the log starts at {start}");
                    next = start;
                }
                Err(error) => panic!("error {error} at {next} of {partition}"),
            }
        }
        end
    }
}

/// Checks the answer to a fetch, and returns where the next one goes on.
fn behind(partition: i32, asked: i64, batches: Bytes) -> i64 {
    let records = decode_batches(batches);
    let first = records.first().map(|first| first.offset);
    let first = first.unwrap_or_else(|| panic!("nothing at {asked} of {partition}"));
    assert!(first <= asked, "{first} at {asked} of {partition}");
    let mut next = first;
    for StoredRecord { offset, record } in records {
        assert_eq!(offset, next, "at {asked} of {partition}");
        assert_eq!(
            record,
            record_at(partition, offset),
            "{offset} of {partition}"
        );
        next += 1;
    }
    assert!(next > asked, "only what lies before {asked} of {partition}");
    next
}

/// The one writer: what it does not know the fate of after a restart it finds at the end of the log.
fn write(shared: &Shared, mut random: Seed) {
    let mut patient = Patient::new(shared);
    let mut ends = [None; PARTITIONS as usize];
    let mut written = 0;
    while !shared.is_over.load(SeqCst) {
        if written == shared.allowed.load(SeqCst) {
            wait::pause(IDLE);
            continue;
        }
        let partition = random.below(PARTITIONS as u64) as i32;
        let end = &mut ends[partition as usize];
        let base = end.unwrap_or_else(|| patient.list(partition, LATEST));
        let next = base + 1 + random.below(BATCH_RECORDS_MAX) as i64;
        let records: Vec<_> = (base..next).map(|at| record_at(partition, at)).collect();
        let batch = encode_batch(&records, ProducerFields::NONE);
        let request = produce_request(TOPIC, partition, batch, -1);
        let produced = patient.try_ask(|client| {
            let answer = client.connection.call(9, &request)?;
            let produced = &answer.responses[0].partition_responses[0];
            Ok((produced.error_code, produced.base_offset))
        });
        *end = produced.map(|produced| {
            assert_eq!(produced, Ok(base), "of {partition}");
            shared.acknowledged[partition as usize].store(next, SeqCst);
            written += 1;
            next
        });
    }
}

/// Reads all partitions again and again, the last time when nothing changes any more.
fn read(shared: &Shared, mut random: Seed) {
    let mut patient = Patient::new(shared);
    let mut was_over = false;
    while !was_over {
        was_over = shared.is_over.load(SeqCst);
        for partition in 0..PARTITIONS {
            let size = SIZES[random.below(SIZES.len() as u64) as usize];
            let from = match random.below(2) {
                0 => 0,
                _ => patient.list(partition, EARLIEST),
            };
            // one record at a time takes long: only the newest
            let end = shared.acknowledged(partition);
            let from = if size == 1 { from.max(end - 100) } else { from };
            patient.read(partition, from, size);
        }
    }
}

/// Asks for times and checks what is found against those that all records have.
fn search(shared: &Shared, mut random: Seed) {
    let mut patient = Patient::new(shared);
    while !shared.is_over.load(SeqCst) {
        let partition = random.below(PARTITIONS as u64) as i32;
        let end = shared.acknowledged(partition);
        let start = patient.list(partition, EARLIEST);
        let asked = match random.below(5) {
            0 => NEWEST,
            _ => time_at(random.below(end as u64 + 1) as i64) + random.below(3) as i64 - 1,
        };
        let found = patient.list(partition, asked);
        let start_after = patient.list(partition, EARLIEST);
        let what = format!("{found} for {asked} in {start}..{end} of {partition}");
        assert!(found == -1 || found >= start, "{what}");
        let better = match asked {
            NEWEST if found == -1 => (start_after..end).next(),
            NEWEST => (start_after..end).find(|at| time_at(*at) > time_at(found)),
            _ if found == -1 => (start_after..end).find(|at| time_at(*at) >= asked),
            _ => {
                assert!(time_at(found) >= asked, "{what}");
                (start_after..found).find(|at| time_at(*at) >= asked)
            }
        };
        assert_eq!(better, None, "{what}");
    }
}

fn flush(http: SocketAddr) {
    let output = Command::new(env!("CARGO_BIN_EXE_firn"))
        .args(["archive", "flush", "--http", &http.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn restart(
    place: &Place,
    shared: &Shared,
    (runtime, node): (Runtime, Node),
    is_crash: bool,
) -> (Runtime, Node) {
    shared.phase.fetch_add(1, SeqCst);
    if is_crash {
        drop(node);
    } else {
        runtime.block_on(node.stop()).unwrap();
    }
    runtime.shutdown_background();
    let (runtime, node) = place.start();
    let door = node.listeners()[0].bound;
    *shared.door.lock().unwrap() = door;
    Client::connect(door)
        .unwrap()
        .wait_leaders(TOPIC, PARTITIONS);
    shared.phase.fetch_add(1, SeqCst);
    (runtime, node)
}

fn races(test: &str, place: &Place, steps: u64) {
    let mut random = Seed::from_environment(test, 4);
    let running = place.start();
    let door = running.1.listeners()[0].bound;
    Client::connect(door)
        .unwrap()
        .create_topic(TOPIC, PARTITIONS, &CONFIGS);
    let shared = Shared {
        door: Mutex::new(door),
        phase: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
        allowed: AtomicU64::new(0),
        acknowledged: Default::default(),
    };
    let mut running = thread::scope(|scope| {
        let mut running = running;
        let shared = &shared;
        // however the test ends, the others are to end as well
        let over = Over(shared);
        let seed = random.clone();
        scope.spawn(move || write(shared, seed));
        for _ in 0..READERS {
            random.draw();
            let seed = random.clone();
            scope.spawn(move || read(shared, seed));
        }
        random.draw();
        let seed = random.clone();
        scope.spawn(move || search(shared, seed));
        let mut patient = Patient::new(shared);
        for step in 0..steps {
            shared.allowed.fetch_add(BATCHES_PER_STEP, SeqCst);
            match random.below(8) {
                0..4 => flush(running.1.http().unwrap()),
                4..6 => {
                    let partition = random.below(PARTITIONS as u64) as i32;
                    let most = shared.acknowledged(partition) * 3 / 4;
                    let start = random.below(most as u64 + 1) as i64;
                    let told = patient.ask(|client| {
                        let (error, start) = delete_records(client, partition, start);
                        Ok((error, start))
                    });
                    assert!(told.unwrap() >= start, "step {step}");
                }
                crash => running = restart(place, shared, running, crash == 6),
            }
        }
        drop(over);
        running
    });
    // what is written is there, in segments alone
    flush(running.1.http().unwrap());
    running = restart(place, &shared, running, false);
    let mut patient = Patient::new(&shared);
    for partition in 0..PARTITIONS {
        let end = patient.read(partition, 0, 1 << 20);
        assert!(end > 0, "{partition} was written");
    }
    running.0.block_on(running.1.stop()).unwrap();
}

/// Tells the threads when the test is over.
struct Over<'a>(&'a Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, SeqCst);
    }
}

#[test]
fn readers_miss_nothing_while_everything_moves_in_memory() {
    let place = Place::Memory(FaultStore::in_memory());
    races("seam in memory", &place, 40);
}

#[test]
fn readers_miss_nothing_while_everything_moves_in_a_directory() {
    let place = Place::Directory(TempDir::new().unwrap());
    races("seam in a directory", &place, 25);
}
