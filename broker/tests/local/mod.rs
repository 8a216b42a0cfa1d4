//! Topics whose records count as soon as the local WAL of their partition's owner has them
//! (`firn.durability=local`): what that survives, what waits for which disk, and what an operator
//! gives up who does not wait.

use firn_broker::http::{ForcedAnswer, ForcedStatus, WaitingAnswer, WaitingStatus};
use firn_tests::client::{EARLIEST, HIGH_WATERMARK, code};

use super::*;

const LOCAL: [(&str, &str); 1] = [("firn.durability", "local")];
/// ListOffsets of the record with the largest timestamp.
const NEWEST: i64 = -3;
const LEADER_NOT_AVAILABLE: i16 = 5;
/// Entries begin behind it, in each segment of a local WAL.
const SEGMENT_HEADER: usize = 4096;

impl Process {
    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let address = self.node.as_ref().unwrap().http().unwrap();
        let mut socket = TcpStream::connect(address).unwrap();
        let len = body.len();
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: firn\r\nContent-Length: {len}\r\n\r\n{body}"
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{answer}");
        body.to_owned()
    }

    /// Waits until all partitions wait for a disk, and says how.
    fn wait_waiting(&self) -> Vec<WaitingStatus> {
        wait::until("partitions to wait", wait::PATIENCE, || {
            let answer = self.ask("GET", "/cluster/waiting?broker=1", "");
            let WaitingAnswer::Partitions(waiting) = serde_json::from_str(&answer).unwrap() else {
                panic!("{answer}");
            };
            (waiting.len() == PARTITIONS as usize).then_some(waiting)
        })
    }

    /// Gives up the disk of partitions as they were seen.
    fn force(&self, seen: Vec<WaitingStatus>) -> Vec<ForcedStatus> {
        let seen = serde_json::to_string(&WaitingAnswer::Partitions(seen)).unwrap();
        let answer = self.ask("POST", "/cluster/force-move", &seen);
        match serde_json::from_str(&answer).unwrap() {
            ForcedAnswer::Partitions(forced) => forced,
            ForcedAnswer::Error(reason) => panic!("{reason}"),
        }
    }
}

fn ends_in_bucket() -> Vec<i64> {
    WRITTEN
        .iter()
        .map(|(in_bucket, _)| *in_bucket as i64)
        .collect()
}

/// The bucket and the local WAL of a process that wrote the first of [`WRITTEN`] to the bucket and
/// the rest to its disk alone, everything acknowledged with acks=all, and crashed.
fn crashed_process_with_a_local_topic() -> (FaultStore, TempDir) {
    crashed_process_once(hang("", 0), |_| ())
}

/// The same, where these puts hang, once something was done last.
fn crashed_process_once(hangs: Rule, last: impl FnOnce(&mut Client)) -> (FaultStore, TempDir) {
    let bucket = FaultStore::in_memory();
    let wal = TempDir::new().unwrap();
    let process = Process::start(&bucket, Some(wal.path()), None);
    let mut client = process.client();
    client.create_topic(TOPIC, PARTITIONS, &LOCAL);
    for (partition, (in_bucket, _)) in (0..).zip(WRITTEN) {
        (0..in_bucket).for_each(|at| produce(&mut client, partition, at, -1));
    }
    wait::until("the bucket to have that", wait::PATIENCE, || {
        (process.metric("firn_wal_permit_bytes") == 0).then_some(())
    });
    process.store.inject(hangs);
    for (partition, (in_bucket, local)) in (0..).zip(WRITTEN) {
        (in_bucket..in_bucket + local).for_each(|at| produce(&mut client, partition, at, -1));
    }
    last(&mut client);
    let image = crash_image(wal.path());
    process.crash();
    (bucket, image)
}

#[test]
fn records_are_acknowledged_and_read_before_the_bucket_has_them() {
    let bucket = FaultStore::in_memory();
    let wal = TempDir::new().unwrap();
    let process = Process::start(&bucket, Some(wal.path()), None);
    let mut client = process.client();
    client.create_topic(TOPIC, 1, &LOCAL);
    produce(&mut client, 0, 0, -1);
    wait::until("the bucket to have that", wait::PATIENCE, || {
        (process.metric("firn_wal_permit_bytes") == 0).then_some(())
    });
    process.store.inject(hang(WAL_PUTS, 0));
    (1..4).for_each(|at| produce(&mut client, 0, at, -1));
    assert_holds(&mut client, 0, 4);
    let stored = client.read(TOPIC, 0, 2);
    assert_eq!(stored.len(), 2, "from the middle of what is ahead");
    let newest = client.list_offset(TOPIC, 0, NEWEST);
    assert!((0..4).contains(&newest), "{newest}");
    assert_eq!(client.list_offset(TOPIC, 0, 0), 0);
    process.crash();
}

/// A log starts nowhere but where the bucket has it.
#[test]
fn what_is_deleted_goes_to_the_bucket_first() {
    let bucket = FaultStore::in_memory();
    let wal = TempDir::new().unwrap();
    let process = Process::start(&bucket, Some(wal.path()), None);
    let mut client = process.client();
    client.create_topic(TOPIC, 1, &LOCAL);
    for end in 1..20 {
        produce(&mut client, 0, end - 1, -1);
        client.delete_records(TOPIC, 0, HIGH_WATERMARK);
        assert_eq!(client.list_offset(TOPIC, 0, EARLIEST), end as i64);
    }
    assert!(process.stop());
}

#[test]
fn a_topic_cannot_count_on_disks_that_no_broker_has() {
    let process = Process::start(&FaultStore::in_memory(), None, None);
    let created = process.client().try_create_topic(TOPIC, 1, &LOCAL);
    let (code, message) = created.unwrap_err();
    assert_eq!(code, code::INVALID_CONFIG);
    assert!(message.contains("--wal"), "{message}");
    assert!(process.stop());
}

#[test]
fn a_start_on_a_local_topic_that_crashes_at_any_command_is_taken_up_by_the_next() {
    let crashed = crashed_process_with_a_local_topic;
    let crashes = (0..).take_while(|puts| survives_crashes_at(crashed, JOURNAL_PUTS, *puts));
    assert!(crashes.count() >= 6);
}

#[test]
fn a_start_on_a_local_topic_that_crashes_at_any_put_of_its_wal_is_taken_up_by_the_next() {
    let crashed = crashed_process_with_a_local_topic;
    let crashes = (0..).take_while(|puts| survives_crashes_at(crashed, WAL_PUTS, *puts));
    assert!(crashes.count() >= 3);
}

/// Whether its disk holds something of a partition or not: nobody knows without it.
#[test]
fn partitions_wait_for_their_disk_and_go_on_with_everything_when_it_comes() {
    let (bucket, wal) = crashed_process_with_a_local_topic();
    let process = Process::start(&bucket, None, None);
    let waiting = process.wait_waiting();
    let ends: Vec<_> = waiting
        .iter()
        .map(|waiting| waiting.bucket_end.unwrap())
        .collect();
    assert_eq!(ends, ends_in_bucket());
    let waiting = process.metric("firn_partitions_waiting_for_disk");
    assert_eq!(waiting, PARTITIONS as u64);
    let mut client = process.client();
    let metadata = client.metadata(TOPIC).unwrap();
    for partition in &metadata.topics[0].partitions {
        assert_eq!(partition.leader_id.0, -1);
        assert_eq!(partition.error_code, LEADER_NOT_AVAILABLE);
        let batch = encode_batch(&[Record::new("key", "early")], ProducerFields::NONE);
        let produced = client.produce(TOPIC, partition.partition_index, batch);
        assert_eq!(produced.unwrap().error, code::NOT_LEADER_OR_FOLLOWER);
    }
    let info = process.ask("GET", "/cluster", "");
    assert!(info.contains(r#""partitions":3}]"#), "{info}");
    assert!(process.stop());

    let process = Process::start(&bucket, Some(wal.path()), None);
    let mut client = process.client();
    client.wait_leaders(TOPIC, PARTITIONS);
    for (partition, (in_bucket, local)) in (0..).zip(WRITTEN) {
        let records = in_bucket + local;
        assert_holds(&mut client, partition, records);
        produce(&mut client, partition, records, -1);
    }
    assert_eq!(process.metric("firn_wal_local_lost_records_total"), 0);
    assert_eq!(process.metric("firn_partitions_waiting_for_disk"), 0);
    assert!(process.stop());
}

/// Everything was acknowledged, and may have been read, while the disk was enough.
#[test]
fn partitions_wait_for_their_disk_though_the_topic_counts_by_the_bucket_by_now() {
    let to_bucket = |client: &mut Client| {
        client.alter_topic(TOPIC, &[("firn.durability", "bucket")]);
    };
    let before = || crashed_process_once(hang(WAL_PUTS, 0), to_bucket);
    for (bucket, wal) in [before(), crashed_process_with_a_local_topic()] {
        let process = Process::start(&bucket, None, None);
        process.wait_waiting();
        to_bucket(&mut process.client());
        process.wait_waiting();
        let waiting = process.metric("firn_partitions_waiting_for_disk");
        assert_eq!(waiting, PARTITIONS as u64);
        assert!(process.stop());

        let process = Process::start(&bucket, Some(wal.path()), None);
        let mut client = process.client();
        client.wait_leaders(TOPIC, PARTITIONS);
        for (partition, (in_bucket, local)) in (0..).zip(WRITTEN) {
            let records = in_bucket + local;
            assert_holds(&mut client, partition, records);
            produce(&mut client, partition, records, -1);
        }
        assert_eq!(process.metric("firn_wal_local_lost_records_total"), 0);
        assert_eq!(process.metric("firn_partitions_waiting_for_disk"), 0);
        assert!(process.stop());
    }
}

#[test]
fn a_disk_that_is_given_up_is_counted_and_kept_aside_when_it_comes_back_after_all() {
    let (bucket, wal) = crashed_process_with_a_local_topic();
    let process = Process::start(&bucket, None, None);
    let seen = process.wait_waiting();
    let earlier = seen.iter().cloned().map(|seen| WaitingStatus {
        epoch: seen.epoch - 1,
        ..seen
    });
    for refused in process.force(earlier.collect()) {
        assert!(refused.refused.is_some() && refused.goes_on.is_none());
    }
    process.wait_waiting();
    let forced = process.force(seen);
    let starts = forced
        .iter()
        .map(|forced| forced.goes_on.unwrap().start_offset);
    assert_eq!(starts.collect::<Vec<_>>(), ends_in_bucket());
    let mut client = process.client();
    client.wait_leaders(TOPIC, PARTITIONS);
    for (partition, (in_bucket, _)) in (0..).zip(WRITTEN) {
        assert_holds(&mut client, partition, in_bucket);
        produce(&mut client, partition, in_bucket, -1);
    }
    assert!(process.stop());

    let process = Process::start(&bucket, Some(wal.path()), None);
    let lost: usize = WRITTEN.iter().map(|(_, local)| local).sum();
    let counted = process.metric("firn_wal_local_lost_records_total");
    assert_eq!(counted, lost as u64);
    let kept = fs::read_dir(wal.path().join("quarantine")).unwrap();
    assert_eq!(kept.count(), 1);
    let mut client = process.client();
    client.wait_leaders(TOPIC, PARTITIONS);
    for (partition, (in_bucket, _)) in (0..).zip(WRITTEN) {
        assert_holds(&mut client, partition, in_bucket + 1);
    }
    assert!(process.stop());
}

/// A byte of the first entry of a local WAL is another one now.
fn damage(wal: &Path) {
    let mut segments: Vec<_> = fs::read_dir(wal)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    segments.sort();
    let first = segments.first().unwrap();
    let mut bytes = fs::read(first).unwrap();
    bytes[SEGMENT_HEADER + 20] ^= 1;
    fs::write(first, bytes).unwrap();
}

/// What it lost it cannot say; a start that has nothing else to say of a partition says nothing.
#[test]
fn partitions_wait_on_though_their_disk_is_here_if_that_is_damaged() {
    let (bucket, wal) = crashed_process_with_a_local_topic();
    damage(wal.path());
    for _ in 0..2 {
        let process = Process::start(&bucket, Some(wal.path()), None);
        process.wait_waiting();
        assert_eq!(process.metric("firn_wal_local_lost_records_total"), 0);
        assert!(process.stop());
    }
    let process = Process::start(&bucket, Some(wal.path()), None);
    let forced = process.force(process.wait_waiting());
    let starts = forced
        .iter()
        .map(|forced| forced.goes_on.unwrap().start_offset);
    assert_eq!(starts.collect::<Vec<_>>(), ends_in_bucket());
    assert!(process.stop());

    let process = Process::start(&bucket, Some(wal.path()), None);
    let lost: usize = WRITTEN.iter().map(|(_, local)| local).sum();
    let counted = process.metric("firn_wal_local_lost_records_total") as usize;
    // what the damaged entry was is not known: one of these, if those of before had left the disk
    assert!(counted == lost || counted == lost - 1, "{counted}");
    let kept = fs::read_dir(wal.path().join("quarantine")).unwrap();
    assert!(kept.count() > 0);
    let mut client = process.client();
    client.wait_leaders(TOPIC, PARTITIONS);
    for (partition, (in_bucket, _)) in (0..).zip(WRITTEN) {
        assert_holds(&mut client, partition, in_bucket);
    }
    assert!(process.stop());
}

/// Where they end in the bucket cannot be known while that is damaged, nor what the disk has more.
#[test]
fn a_disk_keeps_what_it_holds_of_partitions_that_are_damaged_in_the_bucket() {
    let (bucket, wal) = crashed_process_with_a_local_topic();
    let process = Process::start(&bucket, None, None);
    process.wait_waiting();
    assert!(process.stop());
    let damage = Rule::new(On::Get, Fault::BitFlip).key(WAL_PUTS);
    bucket.inject(damage.times(u64::MAX));
    let process = Process::start(&bucket, Some(wal.path()), None);
    process.wait_waiting();
    bucket.clear();
    assert!(process.stop());

    let process = Process::start(&bucket, Some(wal.path()), None);
    assert_goes_on(&process);
    assert!(process.stop());
}

/// All that it acknowledged is in the bucket then.
#[test]
fn nobody_waits_for_the_disk_of_a_process_that_stopped_in_order() {
    let bucket = FaultStore::in_memory();
    let wal = TempDir::new().unwrap();
    let process = Process::start(&bucket, Some(wal.path()), None);
    let mut client = process.client();
    client.create_topic(TOPIC, 1, &LOCAL);
    (0..3).for_each(|at| produce(&mut client, 0, at, -1));
    assert!(process.stop());
    let process = Process::start(&bucket, None, None);
    let mut client = process.client();
    client.wait_leaders(TOPIC, 1);
    assert_holds(&mut client, 0, 3);
    produce(&mut client, 0, 3, -1);
    assert!(process.stop());
}
