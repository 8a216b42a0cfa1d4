//! Several brokers on one bucket: any of them may die at any moment, all of them at once too, and
//! nothing that was acknowledged is missing, doubled or out of order; committed offsets never go
//! back.

mod clocks;
mod cut;
mod kills;
mod load;
mod many;
mod stranger;
mod strangers;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use firn_tests::cluster::{BROKERS, Brokers, ClusterPlan};
use firn_tests::node::{quiet_command, tested};
use firn_tests::ports;
use firn_tests::process::Process;
use firn_tests::proxy::{Proxy, Weather};
use firn_tests::seed::Seed;
use firn_tests::wait;

use crate::{FIRN, folder, minio_for};
use load::{Committer, Load, PARTITIONS, TOPIC, assert_all_kept};

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
