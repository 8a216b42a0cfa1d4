//! Brokers die at random and in the midst of what must not be done by halves.

use std::io::Read;
use std::time::Duration;

use firn_tests::cluster::{BROKERS, Brokers, Cluster, ClusterPlan};
use firn_tests::minio::Minio;
use firn_tests::node::forget_local_files;
use firn_tests::seed::Seed;
use firn_tests::wait;

use super::load::{Committer, Load, PARTITIONS, TOPIC, assert_all_kept};
use crate::{FIRN, folder, minio_for};

const KILLS: usize = 60;
/// The share of the kills that is to hit an archive commit, a move or an election: one in so many.
const AMID_EVERY: usize = 3;
/// So many of those do, at least: whether one did is seen from what was left behind.
const AMID_MIN: usize = 10;
/// A machine that is slow or quick at the wrong moment misses them: then it goes on, up to so many kills.
const KILLS_MAX: usize = 2 * KILLS;

/// What a broker says in its log when it begins to hand over its partitions,
const HANDS_OVER: &str = "giving partitions to other brokers";
/// and when the journal has taken note of some of them.
const GIVEN_UP: &str = "partitions given up";

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
    let mut amid = [0; 3];
    for kill in 0..KILLS_MAX {
        if kill >= KILLS && is_enough(&amid) {
            break;
        }
        load.wait_progress(&format!("progress before kill {kill}"));
        if kill.is_multiple_of(AMID_EVERY) || kill >= KILLS {
            let kind = least_hit(&amid);
            let amid_what = [amid_archive_commit, amid_move, amid_election][kind];
            let hit = amid_what(&mut cluster, &brokers, &minio, &mut seed);
            amid[kind] += usize::from(hit);
        } else {
            kill_some(&mut cluster, &brokers, &mut seed);
        }
        wait::pause(Duration::from_millis(seed.below(400)));
        // With any broker alive the others' partitions are served before the dead are back.
        if seed.below(3) == 0 && (0..BROKERS).any(|at| cluster.runs(at)) {
            load.wait_progress(&format!("progress without the dead of kill {kill}"));
        }
        for at in (0..BROKERS).filter(|at| !cluster.runs(*at)) {
            if seed.below(3) == 0 {
                forget_local_files(cluster.plan().nodes[at].folder());
            }
        }
        cluster.revive();
    }
    assert!(
        is_enough(&amid),
        "kills amid archive commits, moves, elections: only {amid:?}"
    );
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

/// Whether enough kills hit an archive commit, a move or an election, and each of them was hit.
fn is_enough(amid: &[usize; 3]) -> bool {
    amid.iter().sum::<usize>() >= AMID_MIN && amid.iter().all(|hits| *hits > 0)
}

/// What was hit least often, and of several the first.
fn least_hit(amid: &[usize; 3]) -> usize {
    (0..amid.len()).min_by_key(|kind| amid[*kind]).unwrap()
}

/// Kills one broker, the one that leads, or all.
fn kill_some(cluster: &mut Cluster, brokers: &Brokers, seed: &mut Seed) {
    let (leader, other) = leader_and_other(brokers, seed);
    match seed.below(6) {
        0 => (0..BROKERS).for_each(|at| cluster.kill(at)),
        1 | 2 => cluster.kill(leader),
        _ => cluster.kill(other),
    }
}

fn leader_and_other(brokers: &Brokers, seed: &mut Seed) -> (usize, usize) {
    let leader = brokers.controller(TOPIC);
    let other = (leader + 1 + usize::try_from(seed.below(2)).unwrap()) % BROKERS;
    (leader, other)
}

/// Kills a broker that has put a segment and has not answered yet that it is archived: it was reading
/// it back, or committing it. Whether that was so.
fn amid_archive_commit(
    cluster: &mut Cluster,
    brokers: &Brokers,
    minio: &Minio,
    seed: &mut Seed,
) -> bool {
    let (leader, other) = leader_and_other(brokers, seed);
    let hit = if seed.below(2) == 0 { leader } else { other };
    let incarnation = incarnation(cluster, hit);
    let written = || {
        let names = minio.names_below("cluster/tables");
        let own = format!("{incarnation:016x}-");
        names.iter().filter(|name| name.starts_with(&own)).count()
    };
    let before = written();
    let flushing = cluster.node(hit).start_http_post("/archive/flush");
    flushing.set_nonblocking(true).unwrap();
    let mut answer = String::new();
    let is_answered = |answer: &mut String| {
        // It ends where there is nothing more to read now.
        let _ = (&flushing).read_to_string(answer);
        answer.contains("\"segments\"") || answer.contains("\"error\"")
    };
    wait::until("a segment, or the end of the flush", wait::PATIENCE, || {
        (is_answered(&mut answer) || written() > before).then_some(())
    });
    wait::pause(Duration::from_micros(seed.below(3000)));
    cluster.kill(hit);
    written() > before && !is_answered(&mut answer)
}

/// Kills a broker that is handing its partitions over. Whether the journal had not yet taken note.
fn amid_move(cluster: &mut Cluster, brokers: &Brokers, _: &Minio, seed: &mut Seed) -> bool {
    let (leader, other) = leader_and_other(brokers, seed);
    let hit = if seed.below(2) == 0 { leader } else { other };
    let process = &mut cluster.node_mut(hit).process;
    let said = |output: String, words: &str| output.matches(words).count();
    let before = said(process.output(), HANDS_OVER);
    let given_up = said(process.output(), GIVEN_UP);
    process.signal("TERM");
    let begins = wait::until("it to hand over, or its end", wait::PATIENCE, || {
        let begins = said(process.output(), HANDS_OVER) > before;
        (begins || !process.is_running()).then_some(begins)
    });
    wait::pause(Duration::from_micros(seed.below(10_000)));
    let ran = process.is_running();
    process.kill();
    let is_amid = begins && ran && said(process.output(), GIVEN_UP) == given_up;
    cluster.kill(hit);
    is_amid
}

/// Kills the leader, and another one before a third has claimed the next epoch, or while it takes
/// over. Whether nobody had claimed it.
fn amid_election(cluster: &mut Cluster, brokers: &Brokers, minio: &Minio, seed: &mut Seed) -> bool {
    let (leader, other) = leader_and_other(brokers, seed);
    let claims = || minio.names_below("cluster/meta/epoch").len();
    let before = claims();
    cluster.kill(leader);
    wait::pause(Duration::from_micros(seed.below(500_000)));
    cluster.kill(other);
    claims() == before
}

/// Which start of the broker this is.
fn incarnation(cluster: &Cluster, at: usize) -> u64 {
    wait::until("a picture with the broker in it", wait::PATIENCE, || {
        let status = cluster.node(at).plan().run(&["cluster", "info", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let id = i32::try_from(at + 1).unwrap();
        let brokers = status["brokers"].as_array().unwrap();
        let own = brokers.iter().find(|broker| broker["broker"] == id)?;
        own["incarnation"].as_u64()
    })
}
