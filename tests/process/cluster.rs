//! Several brokers on one bucket: any of them may die at any moment, all of them at once too, and
//! nothing that was acknowledged is missing, doubled or out of order; committed offsets never go
//! back.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use firn_tests::client::code;
use firn_tests::cluster::{BROKERS, Brokers, Cluster, ClusterPlan};
use firn_tests::group::GroupMember;
use firn_tests::node::{forget_local_files, quiet_command, tested};
use firn_tests::ports;
use firn_tests::process::Process;
use firn_tests::producer::IdempotentProducer;
use firn_tests::proxy::{Proxy, Weather};
use firn_tests::records::Record;
use firn_tests::seed::Seed;
use firn_tests::wait;

use crate::{FIRN, folder, minio_for};

const TOPIC: &str = "clustered";
const GROUP: &str = "committers";
const PARTITIONS: i32 = 6;
const KILLS: usize = 60;
/// The share of the kills that hits an archive commit, a move or an election: one in so many.
const AMID_EVERY: usize = 4;

/// Producers of their own threads, one for each partition, until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    producers: Vec<JoinHandle<IdempotentProducer>>,
}

impl Load {
    fn start(brokers: &Brokers, seed: &mut Seed) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let producers = (0..PARTITIONS).map(|partition| {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            let brokers = brokers.clone();
            let mut seed = Seed::of(seed.draw());
            thread::spawn(move || {
                let mut producer = IdempotentProducer::of_partition(&brokers, TOPIC, partition);
                let mut written = 0;
                producer.reconnect();
                while !stop.load(Ordering::Relaxed) {
                    let before = producer.history.acknowledged_count();
                    let records: Vec<Record> = (0..1 + seed.below(4))
                        .map(|_| {
                            written += 1;
                            Record::new("key", format!("{partition} value {written}"))
                        })
                        .collect();
                    if !producer.send(partition, &records) {
                        producer.reconnect();
                    }
                    let gained = producer.history.acknowledged_count() - before;
                    acknowledged.fetch_add(gained as u64, Ordering::Relaxed);
                    wait::pause(Duration::from_millis(2));
                }
                while !producer.flush() {
                    producer.reconnect();
                }
                producer
            })
        });
        Self {
            producers: producers.collect(),
            stop,
            acknowledged,
        }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits for acknowledgements of what was sent from now on.
    fn wait_progress(&self, what: &str) {
        let before = self.acknowledged();
        wait::until(what, wait::PATIENCE, || {
            (self.acknowledged() > before + 20).then_some(())
        });
    }

    fn stop(self) -> Vec<IdempotentProducer> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.producers.into_iter();
        ended
            .map(|producer| producer.join().expect("a producer that ends well"))
            .collect()
    }
}

/// Commits rising offsets of one group, and asserts that what is read back never goes back.
struct Committer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<i64>,
}

impl Committer {
    fn start(brokers: &Brokers) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let brokers = brokers.clone();
        let thread = thread::spawn(move || {
            let mut committed = -1;
            let mut next = 0;
            while !stopped.load(Ordering::Relaxed) {
                let Some(mut member) = GroupMember::coordinated(&brokers, GROUP, TOPIC) else {
                    continue;
                };
                while let Ok(read) = member.try_committed(0) {
                    if let Ok(read) = read {
                        assert!(read >= committed, "committed {committed}, then read {read}");
                    }
                    next += 1;
                    match member.try_commit(0, next) {
                        Ok(code::NONE) => committed = next,
                        Ok(_) => {}
                        Err(_) => break,
                    }
                    wait::pause(Duration::from_millis(5));
                    if stopped.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
            committed
        });
        Self { stop, thread }
    }

    fn stop(self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("committed offsets never go back")
    }
}

fn assert_all_kept(brokers: &Brokers, producers: &[IdempotentProducer]) {
    for (partition, producer) in (0..).zip(producers) {
        let log = brokers.read(TOPIC, partition);
        let faults = producer.history.faults(partition, &log);
        assert!(
            faults.is_empty(),
            "{} faults in {TOPIC}/{partition}, first: {:#?}",
            faults.len(),
            &faults[..faults.len().min(10)]
        );
    }
}

#[test]
fn sixty_kills_of_three_brokers_lose_double_or_reorder_nothing() {
    let folder = folder();
    let test = "sixty_kills_of_three_brokers_lose_double_or_reorder_nothing";
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let mut seed = Seed::from_environment(test, 11);
    let plan = ClusterPlan::on_minio(&minio, FIRN, folder.path())
        .with_setting("archive.interval.ms=2s")
        .with_setting("collection.interval.ms=200");
    let brokers = plan.brokers();
    let mut cluster = plan.start();
    brokers.any().create_topic(TOPIC, PARTITIONS, &[]);
    let load = Load::start(&brokers, &mut seed);
    let committer = Committer::start(&brokers);
    let mut amid = 0;
    for kill in 0..KILLS {
        load.wait_progress(&format!("progress before kill {kill}"));
        amid += usize::from(kill_some(&mut cluster, &brokers, kill, &mut seed));
        wait::pause(Duration::from_millis(seed.below(400)));
        if seed.below(3) == 0 {
            load_goes_on_or_not(&cluster, &load, kill);
        }
        for at in (0..BROKERS).filter(|at| !cluster.runs(*at)) {
            if seed.below(3) == 0 {
                forget_local_files(cluster.plan().nodes[at].folder());
            }
        }
        cluster.revive();
    }
    assert!(amid >= 10, "only {amid} kills came amid something");
    load.wait_progress("progress after the last kill");
    let committed = committer.stop();
    assert!(committed > 0, "no offset was committed");
    let producers = load.stop();
    assert_all_kept(&brokers, &producers);
    cluster.stop_all();
    let cluster = plan.start();
    assert_all_kept(&brokers, &producers);
    cluster.stop_all();
}

/// Kills one broker, the one that leads, two, or all. Says whether it came amid an archive commit, a
/// move or an election.
fn kill_some(cluster: &mut Cluster, brokers: &Brokers, kill: usize, seed: &mut Seed) -> bool {
    let leader = brokers.controller(TOPIC);
    let other = (leader + 1 + usize::try_from(seed.below(2)).unwrap()) % BROKERS;
    if kill.is_multiple_of(AMID_EVERY) {
        match seed.below(3) {
            0 => {
                drop(cluster.node(other).start_http_post("/archive/flush"));
                wait::pause(Duration::from_micros(seed.below(60_000)));
                cluster.kill(other);
            }
            1 => {
                // It hands its partitions over and is killed while it does.
                cluster.node(other).process.signal("TERM");
                wait::pause(Duration::from_micros(seed.below(60_000)));
                cluster.kill(other);
            }
            _ => {
                cluster.kill(leader);
                wait::pause(Duration::from_micros(seed.below(900_000)));
                cluster.kill(other);
            }
        }
        return true;
    }
    match seed.below(6) {
        0 => (0..BROKERS).for_each(|at| cluster.kill(at)),
        1 | 2 => cluster.kill(leader),
        _ => cluster.kill(other),
    }
    false
}

/// With any broker alive the others' partitions are served before the dead are back.
fn load_goes_on_or_not(cluster: &Cluster, load: &Load, kill: usize) {
    if (0..BROKERS).any(|at| cluster.runs(at)) {
        load.wait_progress(&format!("progress without the dead of kill {kill}"));
    }
}

/// A broker that stands still for longer than every lease, and then goes on, acknowledges nothing
/// of what it had; the same for one that led.
#[test]
fn a_broker_that_stood_still_acknowledges_nothing_that_is_lost() {
    let folder = folder();
    let test = "a_broker_that_stood_still_acknowledges_nothing_that_is_lost";
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let mut seed = Seed::from_environment(test, 12);
    let plan = ClusterPlan::on_minio(&minio, FIRN, folder.path())
        .with_setting("broker.session.timeout.ms=6s");
    let brokers = plan.brokers();
    let mut cluster = plan.start();
    brokers.any().create_topic(TOPIC, PARTITIONS, &[]);
    let load = Load::start(&brokers, &mut seed);
    let committer = Committer::start(&brokers);
    for round in 0..4 {
        load.wait_progress("progress before anything stands still");
        let leader = brokers.controller(TOPIC);
        let frozen = if round % 2 == 0 {
            leader
        } else {
            (leader + 1) % BROKERS
        };
        // One that has just come back has something to lose first.
        wait::until(
            "the one that will stand still to own something",
            wait::PATIENCE,
            || {
                let owns = |partition| {
                    let leader = brokers.leader_address(TOPIC, partition)?;
                    (brokers.position(leader) == Some(frozen)).then_some(())
                };
                (0..PARTITIONS).find_map(owns)
            },
        );
        cluster.node(frozen).process.freeze();
        wait::until("the partitions to go elsewhere", wait::PATIENCE, || {
            let rest = brokers.without(frozen);
            let elsewhere = |partition| {
                let leader = rest.leader_address(TOPIC, partition)?;
                (brokers.position(leader) != Some(frozen)).then_some(())
            };
            (0..PARTITIONS).try_for_each(elsewhere)
        });
        cluster.node(frozen).process.thaw();
        load.wait_progress("progress after it goes on");
        wait::until("the zombie to end", wait::PATIENCE, || {
            (!cluster.node_mut(frozen).process.is_running()).then_some(())
        });
        cluster.revive();
    }
    committer.stop();
    let producers = load.stop();
    assert_all_kept(&brokers, &producers);
    cluster.stop_all();
}

/// Each broker's bucket fails in turn, in every way: what it had goes on there or elsewhere, and
/// once it is well again so is the cluster.
#[test]
fn a_bucket_that_fails_one_broker_costs_nothing() {
    let folder = folder();
    let test = "a_bucket_that_fails_one_broker_costs_nothing";
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let mut seed = Seed::from_environment(test, 13);
    let proxies = [(); BROKERS].map(|()| Proxy::before(minio.address()));
    let addresses = std::array::from_fn(|at| proxies[at].address());
    let plan = ClusterPlan::on_minio_by(&addresses, FIRN, folder.path())
        .with_setting("broker.session.timeout.ms=6s");
    let brokers = plan.brokers();
    let mut cluster = plan.start();
    brokers.any().create_topic(TOPIC, PARTITIONS, &[]);
    let load = Load::start(&brokers, &mut seed);
    let committer = Committer::start(&brokers);
    let weathers = [
        Weather::Slow(Duration::from_millis(100)),
        Weather::AnswersLost,
        Weather::Unavailable,
        Weather::Silent,
        Weather::Cut,
    ];
    for weather in weathers {
        load.wait_progress(&format!("progress before {weather:?}"));
        let leader = brokers.controller(TOPIC);
        let hit = (leader + usize::try_from(seed.below(2)).unwrap()) % BROKERS;
        proxies[hit].set(weather);
        wait::pause(Duration::from_millis(500 + seed.below(4000)));
        proxies[hit].set(Weather::Fair);
        load.wait_progress(&format!("progress after {weather:?}"));
        cluster.revive();
    }
    committer.stop();
    let producers = load.stop();
    assert_all_kept(&brokers, &producers);
    cluster.stop_all();
}

/// Requests cost money: three brokers that have nothing to do make one a second at most, together.
#[test]
fn an_idle_cluster_asks_its_bucket_for_little() {
    let folder = folder();
    let test = "an_idle_cluster_asks_its_bucket_for_little";
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let proxy = Proxy::before(minio.address());
    let plan = ClusterPlan::on_minio_by(&[proxy.address(); BROKERS], FIRN, folder.path());
    let cluster = plan.start();
    let brokers = plan.brokers();
    brokers.any().create_topic(TOPIC, PARTITIONS, &[]);
    // What a start leaves behind is tidied up first.
    wait::pause(IDLE_AFTER);
    let before = proxy.requests();
    let watch = wait::Stopwatch::start();
    wait::pause(IDLE_FOR);
    let asked = proxy.requests() - before;
    let seconds = watch.elapsed().as_secs();
    assert!(asked > 0, "the proxy counts nothing");
    assert!(
        asked <= seconds,
        "an idle cluster made {asked} requests in {seconds} s"
    );
    cluster.stop_all();
}

/// Partitions leave a broker that drains without a record lost or an error that a client sees, and
/// come back.
#[test]
fn a_broker_hands_over_when_it_is_told_to() {
    let folder = folder();
    let mut seed = Seed::from_environment("a_broker_hands_over_when_it_is_told_to", 14);
    let plan = ClusterPlan::on_directory(FIRN, folder.path());
    let brokers = plan.brokers();
    let cluster = plan.start();
    brokers.any().create_topic(TOPIC, PARTITIONS, &[]);
    let load = Load::start(&brokers, &mut seed);
    load.wait_progress("progress before any order");
    let owned = |broker: usize| {
        // of the one that is told to drain: the others' pictures may be a moment behind
        let status = plan.nodes[1].run(&["cluster", "info", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["brokers"][broker]["partitions"].as_u64().unwrap()
    };
    wait::until("each broker to have its share", wait::PATIENCE, || {
        (0..BROKERS).all(|at| owned(at) == 2).then_some(())
    });
    plan.nodes[1].run(&["cluster", "drain", "3"]);
    assert_eq!(owned(2), 0);
    load.wait_progress("progress on two brokers");
    plan.nodes[1].run(&["cluster", "undrain", "3"]);
    wait::until(
        "each broker to have its share again",
        wait::PATIENCE,
        || (0..BROKERS).all(|at| owned(at) == 2).then_some(()),
    );
    load.wait_progress("progress on three brokers");
    let producers = load.stop();
    assert_all_kept(&brokers, &producers);
    cluster.stop_all();
}

/// `firn dev --brokers 3`: three processes, and one that is killed comes back.
#[test]
fn a_cluster_for_development_is_one_command() {
    let folder = folder();
    let (kafka, http) = (ports::free_row(3), ports::free_row(3));
    let mut command = quiet_command(&tested(FIRN));
    command.args(["dev", "--brokers", "3"]);
    command.args([
        "--bucket",
        &format!("file://{}/bucket", folder.path().display()),
    ]);
    command.args(["--kafka", &kafka.to_string(), "--http", &http.to_string()]);
    command.current_dir(folder.path());
    let mut dev = Process::spawn("firn dev", command, &folder.path().join("firn.log"));
    let process_of = |dev: &Process, broker: u32| {
        let output = dev.output();
        let line = output
            .lines()
            .filter(|line| line.contains(&format!("broker {broker} ")))
            .rfind(|line| line.contains(" process "))?;
        line.rsplit_once(' ')?.1.parse::<u32>().ok()
    };
    let second = wait::until("three brokers", wait::PATIENCE, || process_of(&dev, 2));
    let addresses = (0..3).map(|at| SocketAddr::new(kafka.ip(), kafka.port() + at));
    let brokers = Brokers::at(addresses.collect());
    brokers.any().create_topic(TOPIC, PARTITIONS, &[]);
    let mut seed = Seed::of(15);
    let load = Load::start(&brokers, &mut seed);
    load.wait_progress("progress before the kill");
    kill_process(second);
    load.wait_progress("progress after the kill");
    wait::until(
        "another process of the second broker",
        wait::PATIENCE,
        || process_of(&dev, 2).filter(|process| *process != second),
    );
    load.wait_progress("progress on three brokers");
    let producers = load.stop();
    assert_all_kept(&brokers, &producers);
    dev.signal("TERM");
    assert!(dev.wait(wait::PATIENCE).success(), "{}", dev.output());
    assert!(
        brokers.answering().next().is_none(),
        "a broker was left behind"
    );
}

/// Ends a process of this test as a crash does.
fn kill_process(id: u32) {
    let status = Command::new("kill").args(["-9", &id.to_string()]).status();
    assert!(status.expect("the kill program").success());
}

const IDLE_AFTER: Duration = Duration::from_secs(15);
const IDLE_FOR: Duration = Duration::from_secs(20);
