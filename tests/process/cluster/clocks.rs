//! A broker whose clock is an hour off, follower or leader. What is old is told by the clocks of the
//! leader and of the owner, which must agree; who lives is told by monotonic ones; and a store that
//! checks the time of signatures takes nothing of such a broker, which makes room.

use firn_tests::client::{EARLIEST, code};
use firn_tests::cluster::{BROKERS, Brokers, Cluster, ClusterPlan};
use firn_tests::records::{ProducerFields, Record, encode_batch};
use firn_tests::seed::Seed;
use firn_tests::wait;
use firn_tests::wrong_clock::WrongClock;

use super::load::{Committer, Load, PARTITIONS, TOPIC, assert_all_kept};
use crate::{FIRN, folder, minio_for};

/// Records of it are old when they are written, and kept for half an hour.
const WITNESS: &str = "witness";
/// Its records are stamped by the clocks of their brokers.
const STAMPED: &str = "stamped";
/// Records of it are new, and kept for half an hour.
const FRESH: &str = "fresh";

const HOUR_SECONDS: i64 = 3600;
const MINUTE_MS: i64 = 60_000;
/// How old the records of [`WITNESS`] are: by a clock that is an hour behind, too, they are to go.
const AGE_MS: i64 = 120 * MINUTE_MS;
/// The one whose clock is off.
const WRONG: usize = 2;

#[test]
fn a_follower_whose_clock_is_an_hour_ahead_deletes_nothing_early() {
    let test = "a_follower_whose_clock_is_an_hour_ahead_deletes_nothing_early";
    an_hour_off(test, 0, HOUR_SECONDS, 30 * MINUTE_MS);
}

#[test]
fn a_follower_whose_clock_is_an_hour_behind_deletes_an_hour_late() {
    let test = "a_follower_whose_clock_is_an_hour_behind_deletes_an_hour_late";
    an_hour_off(test, 0, -HOUR_SECONDS, 30 * MINUTE_MS);
}

/// To itself everything is an hour older than it is: of what it owns that is kept which is to be kept
/// for longer. To the others nothing is, and to nobody once its clock is right.
#[test]
fn a_leader_whose_clock_is_an_hour_ahead_loses_nothing() {
    let test = "a_leader_whose_clock_is_an_hour_ahead_loses_nothing";
    an_hour_off(test, WRONG, HOUR_SECONDS, 90 * MINUTE_MS);
}

#[test]
fn a_leader_whose_clock_is_an_hour_behind_loses_nothing() {
    let test = "a_leader_whose_clock_is_an_hour_behind_loses_nothing";
    an_hour_off(test, WRONG, -HOUR_SECONDS, 30 * MINUTE_MS);
}

/// Old records go, on every broker, and new ones stay, while the clock is off and when its broker
/// dies and comes back with a right one.
fn an_hour_off(test: &str, leader: usize, seconds: i64, retention_ms: i64) {
    let folder = folder();
    let Some(clock) = WrongClock::for_test(test, folder.path()) else {
        return;
    };
    clock.set(seconds);
    let mut seed = Seed::from_environment(test, 18);
    let plan = ClusterPlan::on_directory(FIRN, folder.path())
        .with_setting("log.retention.check.interval.ms=50")
        .with_setting("collection.interval.ms=50")
        .with_setting("archive.interval.ms=1s");
    let plan = with_clock(plan, &clock);
    let brokers = plan.brokers();
    let mut cluster = plan.start_led_by(leader);
    let retention = retention_ms.to_string();
    let half_an_hour = (30 * MINUTE_MS).to_string();
    let kept = [("retention.ms", retention.as_str())];
    let soon = [("retention.ms", half_an_hour.as_str())];
    brokers.any().create_topic(TOPIC, PARTITIONS, &kept);
    brokers.any().create_topic(WITNESS, PARTITIONS, &soon);
    brokers.any().create_topic(FRESH, PARTITIONS, &soon);
    let by_broker = [("message.timestamp.type", "LogAppendTime")];
    brokers.any().create_topic(STAMPED, PARTITIONS, &by_broker);
    assert_eq!(brokers.controller(TOPIC), leader);
    assert_clock_is_off(&brokers, seconds);

    let load = Load::start(&brokers, &mut seed);
    load.wait_progress_everywhere("progress while the clock is off");
    let others = (0..BROKERS).filter(|at| *at != WRONG);
    let owned = others.flat_map(|at| brokers.led_by(FRESH, PARTITIONS, at));
    fresh_stays(&brokers, owned, 1);
    cluster.kill(WRONG);
    load.wait_progress_everywhere("progress without the one whose clock is off");
    witness_goes(&brokers, 3);
    clock.set(0);
    cluster.revive();
    load.wait_progress_everywhere("progress once all clocks are right");
    fresh_stays(&brokers, 0..PARTITIONS, 4);
    let producers = load.stop();
    for partition in 0..PARTITIONS {
        assert_eq!(log_start(&brokers, TOPIC, partition), 0, "deleted early");
    }
    assert_all_kept(&brokers, &producers);
    cluster.stop_all();
}

/// S3 refuses signatures that are minutes off. A broker whose clock jumps says so and ends; so does
/// its next start, until the clock is right. The others go on, without their leader too.
#[test]
fn a_broker_whose_clock_s3_refuses_says_so_and_leaves() {
    let folder = folder();
    let test = "a_broker_whose_clock_s3_refuses_says_so_and_leaves";
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let Some(clock) = WrongClock::for_test(test, folder.path()) else {
        return;
    };
    let mut seed = Seed::from_environment(test, 19);
    let plan = with_clock(ClusterPlan::on_minio(&minio, FIRN, folder.path()), &clock);
    let brokers = plan.brokers();
    let mut cluster = plan.start_led_by(0);
    brokers.any().create_topic(TOPIC, PARTITIONS, &[]);
    let load = Load::start(&brokers, &mut seed);
    let committer = Committer::start(&brokers);
    for seconds in [HOUR_SECONDS, -HOUR_SECONDS] {
        load.wait_progress_everywhere("progress while all clocks are right");
        if seconds < 0 {
            make_leader(&brokers, &mut cluster, &load);
        }
        wait::until("it to own something", wait::PATIENCE, || {
            (!brokers.led_by(TOPIC, PARTITIONS, WRONG).is_empty()).then_some(())
        });
        clock.set(seconds);
        assert_leaves(&mut cluster);
        load.wait_progress_everywhere("progress without the one whose clock is off");
        // Its next start fares no better, and disturbs nobody.
        let mut again = plan.nodes[WRONG].launch();
        let status = again.process.wait(wait::PATIENCE);
        assert_eq!(status.code(), Some(1), "it ended with {status}");
        load.wait_progress_everywhere("progress after its next start");
        clock.set(0);
        cluster.kill(WRONG);
        cluster.revive();
    }
    let committed = committer.stop();
    assert!(committed > 0, "no offset was committed");
    let producers = load.stop();
    assert_all_kept(&brokers, &producers);
    cluster.stop_all();
}

fn with_clock(mut plan: ClusterPlan, clock: &WrongClock) -> ClusterPlan {
    plan.nodes[WRONG] = clock.worn_by(plan.nodes[WRONG].clone());
    plan
}

/// Stops the others, so that it leads, and starts them again.
fn make_leader(brokers: &Brokers, cluster: &mut Cluster, load: &Load) {
    (0..BROKERS)
        .filter(|at| *at != WRONG)
        .for_each(|at| cluster.stop(at));
    load.wait_progress_everywhere("progress on one broker");
    cluster.revive();
    assert_eq!(brokers.controller(TOPIC), WRONG);
}

/// Its process ends, and says what is to be done.
fn assert_leaves(cluster: &mut Cluster) {
    let process = &mut cluster.node_mut(WRONG).process;
    let status = process.wait(wait::PATIENCE);
    let output = process.output();
    assert_eq!(status.code(), Some(1), "it ended with {status}:\n{output}");
    let last = output.lines().last().unwrap_or_default();
    assert!(last.contains("set the clock"), "its last words: {last}");
}

/// The broker with the wrong clock stamps records as it says, and the others do not.
fn assert_clock_is_off(brokers: &Brokers, seconds: i64) {
    let now_ms = wait::record_time_ms();
    let half_ms = 30 * MINUTE_MS;
    for at in 0..BROKERS {
        let partition = wait::until("each broker to own something", wait::PATIENCE, || {
            brokers.led_by(STAMPED, PARTITIONS, at).first().copied()
        });
        let mut client = brokers.leader(STAMPED, partition).unwrap();
        client.append(STAMPED, partition, &[Record::new("key", "stamped")]);
        let mut is_after = |ms| client.list_offset(STAMPED, partition, ms) == 0;
        let found = (is_after(now_ms - half_ms), is_after(now_ms + half_ms));
        let off = if at == WRONG { seconds } else { 0 };
        assert_eq!(found, (off >= 0, off > 0), "the clock of broker {}", at + 1);
    }
}

/// Appends a record to each of those partitions of [`FRESH`]: each stays, through two passes of
/// retention, of which one has begun after it was written. The passes are the rounds of [`WITNESS`]
/// from `round` on.
fn fresh_stays(brokers: &Brokers, partitions: impl IntoIterator<Item = i32>, round: i64) {
    let fresh = Record::new("key", "fresh");
    let append = |partition| (partition, append(brokers, FRESH, partition, &fresh));
    let written: Vec<_> = partitions.into_iter().map(append).collect();
    assert!(!written.is_empty());
    witness_goes(brokers, round);
    witness_goes(brokers, round + 1);
    for (partition, offset) in written {
        let log_start = log_start(brokers, FRESH, partition);
        assert!(log_start <= offset, "{log_start} in {FRESH}-{partition}");
    }
}

/// Appends a record to a partition, wherever it is led, and says at which offset.
fn append(brokers: &Brokers, topic: &str, partition: i32, record: &Record) -> i64 {
    wait::until("a record to be taken", wait::PATIENCE, || {
        let mut client = brokers.leader(topic, partition)?;
        let batch = encode_batch(std::slice::from_ref(record), ProducerFields::NONE);
        let produced = client.produce(topic, partition, batch).ok()?;
        (produced.error == code::NONE).then_some(produced.base_offset)
    })
}

/// Appends an old record to each partition of [`WITNESS`], and waits until each is gone: `round`
/// counts from 1.
fn witness_goes(brokers: &Brokers, round: i64) {
    for partition in 0..PARTITIONS {
        let old = Record {
            timestamp: wait::record_time_ms() - AGE_MS,
            ..Record::new("key", "old")
        };
        append(brokers, WITNESS, partition, &old);
    }
    for partition in 0..PARTITIONS {
        wait::until("old records to be deleted", wait::PATIENCE, || {
            (log_start(brokers, WITNESS, partition) >= round).then_some(())
        });
    }
}

/// Where a partition begins, wherever it is led.
fn log_start(brokers: &Brokers, topic: &str, partition: i32) -> i64 {
    wait::until("the log start", wait::PATIENCE, || {
        let mut leader = brokers.leader(topic, partition)?;
        leader.try_list_offset(topic, partition, EARLIEST).ok()
    })
}
