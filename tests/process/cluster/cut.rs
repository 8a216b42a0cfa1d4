//! A broker that reaches its bucket and not the others, or the others and not its bucket: what it
//! owned goes on elsewhere, and once the network is well again so is the cluster.

use std::time::Duration;

use firn_tests::cluster::{BROKERS, Brokers, Cluster, ClusterPlan};
use firn_tests::link_network::LinkNetwork;
use firn_tests::proxy::{Proxy, Weather};
use firn_tests::seed::Seed;
use firn_tests::wait;

use super::load::{Committer, Load, PARTITIONS, TOPIC, assert_all_kept};
use crate::{FIRN, folder, minio_for};

/// What a broker says in its log when no slot of its WAL has become durable for a while.
const TAKES_NOTHING: &str = "the bucket takes no slots";
/// How a process ends that the others have taken for dead.
const FENCED: i32 = 3;

/// One whose links are cut for less than its session stays what it was, one that nobody hears for
/// longer loses its partitions to the others, which serve them before the network heals. Clients and
/// the bucket reach it all the while, and it acknowledges nothing that is lost. The same for the
/// leader.
#[test]
fn a_broker_cut_off_from_the_others_but_not_from_the_bucket_costs_nothing() {
    let folder = folder();
    let test = "a_broker_cut_off_from_the_others_but_not_from_the_bucket_costs_nothing";
    let mut seed = Seed::from_environment(test, 16);
    let plan =
        ClusterPlan::on_directory(FIRN, folder.path()).with_setting("broker.session.timeout.ms=6s");
    let (plan, network) = plan.on_link_network();
    let brokers = plan.brokers();
    let mut cluster = plan.start();
    brokers.any().create_topic(TOPIC, PARTITIONS, &[]);
    let load = Load::start(&brokers, &mut seed);
    let committer = Committer::start(&brokers);
    for cut in Cut::ALL {
        let what = |when: &str| format!("progress {when} ({cut:?})");
        load.wait_progress_everywhere(&what("before anything is cut"));
        let leader = brokers.controller(TOPIC);
        let hit = match cut {
            Cut::Leader => leader,
            _ => (leader + 1 + usize::try_from(seed.below(2)).unwrap()) % BROKERS,
        };
        wait_owns(&brokers, hit);
        cut.make(&network, hit, leader);
        network.wait_dropped();
        if cut == Cut::Short {
            wait::pause(Duration::from_millis(500 + seed.below(2000)));
            network.heal();
            load.wait_progress_everywhere(&what("once the network is well"));
            assert!(
                cluster.node_mut(hit).process.is_running(),
                "it was cut off for less than its session"
            );
            continue;
        }
        wait_served_without(&brokers, hit);
        load.wait_progress_everywhere(&what("without the one that is cut off"));
        end_of_fenced(&mut cluster, hit);
        network.heal();
        cluster.revive();
        load.wait_progress_everywhere(&what("once the network is well"));
    }
    let committed = committer.stop();
    assert!(committed > 0, "no offset was committed");
    let producers = load.stop();
    assert_all_kept(&brokers, &producers);
    cluster.stop_all();
}

/// A stop that begins while there is no leader waits for one: the end of a leader and that of another
/// broker may be one and the same restart.
#[test]
fn a_broker_that_is_told_to_stop_without_a_leader_waits_for_one_and_leaves_in_order() {
    let folder = folder();
    let plan = ClusterPlan::on_directory(FIRN, folder.path())
        .with_setting("broker.session.timeout.ms=60s");
    let (plan, network) = plan.on_link_network();
    let brokers = plan.brokers();
    let mut cluster = plan.start_led_by(0);
    brokers.any().create_topic(TOPIC, PARTITIONS, &[]);
    wait_owns(&brokers, 1);
    network.isolate(1);
    network.wait_dropped();
    let process = &mut cluster.node_mut(1).process;
    process.signal("TERM");
    wait::until("the stop to begin", wait::PATIENCE, || {
        process.output().contains("stopping").then_some(())
    });
    // Longer than one request waits for a leader, and the next.
    wait::pause(Duration::from_secs(8));
    assert!(process.is_running(), "it wrote:\n{}", process.output());
    network.heal();
    let status = process.wait(wait::PATIENCE);
    assert!(status.success(), "{status}:\n{}", process.output());
    cluster.kill(1);
    wait_served_without(&brokers, 1);
    cluster.stop_all();
}

/// Which links do not carry what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Those of a follower to the leader, for less than its session.
    Short,
    /// Those of a follower to the leader. The third broker reaches both.
    Follower,
    /// What a follower says is lost, to whomever.
    Mute,
    /// What a follower is told is lost, by whomever.
    Deaf,
    /// Those of the leader to everybody.
    Leader,
}

impl Cut {
    const ALL: [Self; 5] = [
        Self::Short,
        Self::Follower,
        Self::Mute,
        Self::Deaf,
        Self::Leader,
    ];

    fn make(self, network: &LinkNetwork, hit: usize, leader: usize) {
        let others = || (0..BROKERS).filter(move |other| *other != hit);
        match self {
            Self::Short | Self::Follower => network.part(hit, leader),
            Self::Mute => others().for_each(|other| network.lose(hit, other)),
            Self::Deaf => others().for_each(|other| network.lose(other, hit)),
            Self::Leader => network.isolate(hit),
        }
    }
}

/// A follower without its bucket acknowledges nothing, and goes on where it stood; the others do not
/// wait for it. A leader without its bucket makes room: another leads, and what the first one owned
/// is served elsewhere.
#[test]
fn a_broker_cut_off_from_the_bucket_but_not_from_the_others_costs_nothing() {
    let folder = folder();
    let test = "a_broker_cut_off_from_the_bucket_but_not_from_the_others_costs_nothing";
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let mut seed = Seed::from_environment(test, 17);
    let proxies = [(); BROKERS].map(|()| Proxy::before(minio.address()));
    let addresses = std::array::from_fn(|at| proxies[at].address());
    let plan = ClusterPlan::on_minio_by(&addresses, FIRN, folder.path())
        .with_setting("broker.session.timeout.ms=6s");
    let brokers = plan.brokers();
    let mut cluster = plan.start();
    brokers.any().create_topic(TOPIC, PARTITIONS, &[]);
    let load = Load::start(&brokers, &mut seed);
    let committer = Committer::start(&brokers);

    load.wait_progress_everywhere("progress before anything is cut");
    let follower = (brokers.controller(TOPIC) + 1) % BROKERS;
    wait_owns(&brokers, follower);
    let (its, others) = halves(&brokers, follower);
    proxies[follower].set(Weather::Silent);
    wait::until("it to say that nothing is taken", wait::PATIENCE, || {
        let output = cluster.node(follower).process.output();
        output.contains(TAKES_NOTHING).then_some(())
    });
    let counts = |partitions: &[i32]| -> Vec<u64> {
        partitions.iter().map(|at| load.acknowledged(*at)).collect()
    };
    let before = counts(&its);
    load.wait_progress_in(&others, "progress of what the others own");
    assert_eq!(counts(&its), before, "acknowledged without a bucket");
    proxies[follower].set(Weather::Fair);
    load.wait_progress_everywhere("progress once the bucket is back");
    cluster.revive();

    let leader = brokers.controller(TOPIC);
    wait_owns(&brokers, leader);
    proxies[leader].set(Weather::Silent);
    wait_served_without(&brokers, leader);
    load.wait_progress_everywhere("progress without the leader's bucket");
    proxies[leader].set(Weather::Fair);
    end_of_fenced(&mut cluster, leader);
    cluster.revive();
    load.wait_progress_everywhere("progress once the leader's bucket is back");

    let committed = committer.stop();
    assert!(committed > 0, "no offset was committed");
    let producers = load.stop();
    assert_all_kept(&brokers, &producers);
    cluster.stop_all();
}

/// Waits until a broker leads a partition, and all partitions have leaders: one that has just come
/// back has something to lose first.
fn wait_owns(brokers: &Brokers, at: usize) {
    wait::until("it to own something", wait::PATIENCE, || {
        let (its, others) = halves(brokers, at);
        (!its.is_empty() && its.len() + others.len() == PARTITIONS as usize).then_some(())
    });
}

/// The partitions that a broker leads, and those that others do.
fn halves(brokers: &Brokers, at: usize) -> (Vec<i32>, Vec<i32>) {
    let its = brokers.led_by(TOPIC, PARTITIONS, at);
    let others = (0..BROKERS).filter(|other| *other != at);
    let others = others.flat_map(|other| brokers.led_by(TOPIC, PARTITIONS, other));
    (its, others.collect())
}

/// Waits until the others say that everything is led by one of them.
fn wait_served_without(brokers: &Brokers, at: usize) {
    let rest = brokers.without(at);
    wait::until("the others to lead everything", wait::PATIENCE, || {
        let elsewhere = |partition| rest.position(rest.leader_address(TOPIC, partition)?);
        (0..PARTITIONS)
            .all(|partition| elsewhere(partition).is_some())
            .then_some(())
    });
}

/// Waits for the end of a process that has lost its place, and sees that it says so.
fn end_of_fenced(cluster: &mut Cluster, at: usize) {
    let process = &mut cluster.node_mut(at).process;
    let status = process.wait(wait::PATIENCE);
    assert_eq!(status.code(), Some(FENCED), "it ended with {status}");
    assert!(process.output().contains("fenced:"), "{}", process.output());
}
