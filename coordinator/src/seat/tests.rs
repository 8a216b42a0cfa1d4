//! Several processes on one bucket, with links in memory that can be cut.

mod world;

use std::sync::Arc;
use std::time::Duration;

use firn_proto::cluster::{CoordinatorError, Reply, Request};
use firn_proto::env::Entropy;
use firn_proto::ids::{BrokerId, CoordinatorEpoch, Incarnation};
use firn_proto::limits::{
    COORDINATOR_READ_LEASE, ELECTION_GONE_LOOK, ELECTION_LONE_WAIT, ELECTION_TIE_WAIT,
    FENCE_LOOK_LASTS, FENCE_LOOK_MAX, LEADER_STALL_MAX, TAKE_OVER_STEP_MAX,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::handle::EndReason;
use crate::task::{Call, Message, Origin};

use world::{World, create, create_many, has_topic, list_groups, moving, register};

#[tokio::test(start_paused = true)]
async fn a_second_process_joins_and_is_told_what_the_first_one_knows() {
    let mut world = World::new(false);
    world.start_many(3).await;
    assert_eq!(world.bucket.claims(), 1, "nobody deposed anybody");
    assert_eq!(world.leader(), Some(0));
    for (asks, name) in [(2, "a"), (0, "b"), (1, "c")] {
        world.ask(asks, create(name)).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        for process in 0..3 {
            assert!(has_topic(&world.at(process), name), "{name} at {process}");
        }
    }
    let now = world.now();
    assert!(world.at(2).may_read(now).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_leader_dies_and_another_one_goes_on_with_what_was_durable() {
    let mut world = World::new(false);
    world.start_many(3).await;
    world.ask(1, create("a")).await.unwrap();
    world.kill(0);
    let died = Instant::now();
    let answered = world.ask(2, create("b")).await;
    assert!(
        answered.is_ok(),
        "calls wait for the next leader: {answered:?}"
    );
    assert!(died.elapsed() < Duration::from_secs(4));
    assert_eq!(world.bucket.claims(), 2);
    sleep(Duration::from_secs(1)).await;
    for process in [1, 2] {
        assert!(has_topic(&world.at(process), "a") && has_topic(&world.at(process), "b"));
    }
}

#[tokio::test(start_paused = true)]
async fn on_one_machine_nobody_waits_for_a_process_that_is_gone() {
    let mut world = World::new(true);
    world.start_many(3).await;
    world.kill(0);
    let died = Instant::now();
    world.ask(1, create("a")).await.unwrap();
    assert!(
        died.elapsed() < Duration::from_secs(1),
        "{:?}",
        died.elapsed()
    );
    for process in [1, 2] {
        world.kill(process);
    }
    let started = Instant::now();
    let last = world.start().await;
    assert!(started.elapsed() < Duration::from_millis(10));
    assert!(has_topic(&world.at(last), "a"));
    assert!(world.ask(last, list_groups()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn when_all_are_gone_the_next_one_starts_at_once() {
    let mut world = World::new(false);
    world.start_many(3).await;
    for process in 0..3 {
        world.kill(process);
    }
    let started = Instant::now();
    let next = world.start().await;
    world.ask(next, create("a")).await.unwrap();
    let took = started.elapsed();
    assert!(
        took >= COORDINATOR_READ_LEASE,
        "it cannot know what others have told: {took:?}"
    );
    assert!(
        took < COORDINATOR_READ_LEASE + Duration::from_millis(100),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_resigns_is_not_waited_for() {
    let mut world = World::new(false);
    world.start_many(2).await;
    world.at(0).close().await;
    let closed = Instant::now();
    world.kill(0);
    world.ask(1, create("a")).await.unwrap();
    assert!(
        closed.elapsed() < COORDINATOR_READ_LEASE,
        "{:?}",
        closed.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_zombie_answers_no_read_after_its_lease_and_no_write_ever() {
    let mut world = World::new(false);
    world.start_many(3).await;
    world.ask(0, create("before")).await.unwrap();
    world.cut_links(0, true);
    world.cut_bucket(0, true);
    sleep(COORDINATOR_READ_LEASE + Duration::from_millis(1)).await;
    let read = world.ask(0, list_groups()).await;
    let lost = world.spawn_ask(0, create("lost"));
    assert!(
        matches!(read, Err(CoordinatorError::NotLeader(_))),
        "{read:?}"
    );
    world.ask(1, create("after")).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    world.cut_links(0, false);
    world.cut_bucket(0, false);
    let answered = lost.await.unwrap();
    assert!(answered.is_err(), "nothing of it is durable: {answered:?}");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.bucket.claims(), 2, "it follows the new one");
    let image = world.at(0);
    assert!(has_topic(&image, "after") && !has_topic(&image, "lost"));
    assert!(world.ask(0, create("again")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_from_the_bucket_makes_room_for_another() {
    let mut world = World::new(false);
    world.start_many(3).await;
    world.cut_bucket(0, true);
    sleep(FENCE_LOOK_LASTS + Duration::from_secs(5)).await;
    assert!(world.ask(1, create("a")).await.is_ok());
    assert_ne!(world.leader(), Some(0));
    world.cut_bucket(0, false);
    sleep(Duration::from_secs(5)).await;
    assert!(has_topic(&world.at(0), "a"));
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_takes_seconds_for_a_request_has_a_leader_all_the_same() {
    let mut world = World::new(false);
    world.start_many(3).await;
    world.bucket.set_looking_lasts(Duration::from_secs(2));
    for second in 0..60 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(world.leader(), Some(0), "after {second} s");
    }
    let read = world.ask(0, list_groups()).await;
    assert!(read.is_ok(), "{read:?}");
    world.kill(0);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(world.bucket.claims(), 2);
    let created = world.ask(1, create("a")).await;
    assert!(created.is_ok(), "{created:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_loop_is_stuck_makes_room_for_another() {
    let mut world = World::new(false);
    world.start_many(3).await;
    sleep(Duration::from_secs(1)).await;
    world.set_stuck(0, true);
    sleep(LEADER_STALL_MAX / 2).await;
    assert_eq!(world.at(0).leads(), Some(CoordinatorEpoch(1)));
    sleep(LEADER_STALL_MAX + Duration::from_secs(3)).await;
    assert_eq!(world.bucket.claims(), 2, "its links are open all the same");
    assert_eq!(world.at(0).leads(), None);
    assert!(world.ask(1, create("a")).await.is_ok());
    world.set_stuck(0, false);
    sleep(Duration::from_secs(5)).await;
    assert_ne!(world.leader(), Some(0));
    assert!(has_topic(&world.at(0), "a"), "it follows the new one");
}

/// What it knew of other leaders is old by then, but it has just not looked yet.
#[tokio::test(start_paused = true)]
async fn whoever_opened_the_journal_for_long_is_not_deposed_for_that() {
    let mut world = World::new(false);
    world.start_many(3).await;
    world.bucket.set_looking_lasts(FENCE_LOOK_MAX / 2);
    world.bucket.set_opening_lasts(3 * FENCE_LOOK_LASTS);
    world.kill(0);
    sleep(10 * FENCE_LOOK_LASTS).await;
    assert_eq!(world.bucket.claims(), 2, "nobody else took over");
    assert!(world.ask(1, create("a")).await.is_ok());
    assert!(world.ask(2, create("b")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_winner_says_that_it_takes_over_until_it_says_that_it_leads() {
    let mut world = World::new(false);
    world.start_many(2).await;
    world.bucket.set_looking_lasts(FENCE_LOOK_MAX / 2);
    world.kill(0);
    while world.bucket.claims() < 2 {
        sleep(Duration::from_millis(1)).await;
    }
    let taken = (CoordinatorEpoch(2), Duration::ZERO);
    while world.at(1).leads().is_none() {
        assert_eq!(world.at(1).heard_leader(world.now()), Some(taken));
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(world.at(1).heard_leader(world.now()), Some(taken));
}

#[tokio::test(start_paused = true)]
async fn a_winner_that_the_bucket_serves_no_more_is_passed_over() {
    let mut world = World::new(false);
    world.start_many(3).await;
    world.bucket.set_stuck(true);
    world.kill(0);
    while world.bucket.claims() < 2 {
        sleep(Duration::from_millis(1)).await;
    }
    world.bucket.set_stuck(false);
    let stuck = world.claimant();
    sleep(TAKE_OVER_STEP_MAX / 2).await;
    assert_eq!(world.bucket.claims(), 2, "it may be slow");
    sleep(TAKE_OVER_STEP_MAX).await;
    assert_eq!(world.bucket.claims(), 3);
    assert_eq!(world.leader(), Some(3 - stuck));
    assert!(world.ask(3 - stuck, create("a")).await.is_ok());
}

/// A snapshot may be of gigabytes, and a bucket slow.
#[tokio::test(start_paused = true)]
async fn a_journal_of_long_steps_is_taken_over_in_the_end() {
    let mut world = World::new(false);
    world.start_many(3).await;
    world.ask(0, create("a")).await.unwrap();
    let step = 3 * TAKE_OVER_STEP_MAX;
    world.bucket.set_step_lasts(step);
    world.bucket.set_opening_lasts(step);
    world.kill(0);
    sleep(20 * TAKE_OVER_STEP_MAX).await;
    assert!(world.leader().is_some());
    assert!(
        world.bucket.claims() <= 4,
        "{} claims",
        world.bucket.claims()
    );
    assert!(world.ask(1, create("b")).await.is_ok());
    assert!(has_topic(&world.at(1), "a"));
}

#[tokio::test(start_paused = true)]
async fn a_winner_that_dies_is_not_waited_for() {
    let mut world = World::new(true);
    world.start_many(3).await;
    world.bucket.set_opening_lasts(4 * FENCE_LOOK_LASTS);
    world.kill(0);
    sleep(2 * FENCE_LOOK_LASTS).await;
    assert_eq!(world.bucket.claims(), 2);
    let winner = world.claimant();
    world.bucket.set_opening_lasts(Duration::ZERO);
    world.kill(winner);
    let died = Instant::now();
    world.ask(3 - winner, create("a")).await.unwrap();
    assert!(
        died.elapsed() <= 2 * ELECTION_GONE_LOOK,
        "{:?}",
        died.elapsed()
    );
}

/// What comes in without end must not keep a leader from what is due.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_always_asked_sees_to_its_brokers_all_the_same() {
    let mut world = World::new(false);
    world.start().await;
    world.ask(0, create("a")).await.unwrap();
    let leader = world.at(0);
    let now = world.now();
    leader.standing.on_beat(Some(Incarnation(1)), false, now);
    world.stand_still(Duration::from_secs(1));
    let mut answers = Vec::new();
    for _ in 0..100 {
        let (answer, answered) = oneshot::channel();
        let call = Call {
            request: list_groups(),
            answer,
            origin: Origin::Here,
        };
        leader.inbox.try_send(Message::Call(call)).unwrap();
        answers.push(answered);
    }
    // Behind those nothing is waited for any more.
    leader.close().await;
    let (left, _) = leader.standing.take_beats();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_takes_over_reads_only_the_last_slots() {
    let mut world = World::new(true);
    world.start_many(4).await;
    for number in 0..50 {
        world.ask(0, create(&format!("t{number}"))).await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    let mut claims = 1;
    for round in 0..2 {
        world.kill(world.leader().unwrap());
        sleep(Duration::from_secs(1)).await;
        claims += 1;
        assert_eq!(world.bucket.claims(), claims);
        assert_eq!(world.bucket.replayed(), 0, "round {round}");
        let leader = world.leader().unwrap();
        for number in 0..50 {
            assert!(has_topic(&world.at(leader), &format!("t{number}")));
        }
        let name = format!("after-{round}");
        world.ask(leader, create(&name)).await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    for place in 0..4 {
        world.kill(place);
    }
    let last = world.start().await;
    assert!(world.bucket.replayed() > 50, "it knew nothing");
    assert!(has_topic(&world.at(last), "after-1"));
}

#[tokio::test(start_paused = true)]
async fn what_a_standby_knows_counts_only_if_it_fits_the_bucket() {
    let mut world = World::new(true);
    world.start_many(2).await;
    world.ask(0, create("a")).await.unwrap();
    let body = world.bucket.bodies().pop().unwrap();
    world.ask(0, create("b")).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    world.kill(0);
    // As if the slot that it knows had never been durable.
    world.bucket.replace_last(body);
    let died = world.bucket.slots();
    sleep(Duration::from_secs(1)).await;
    world.ask(1, create("c")).await.unwrap();
    assert_eq!(world.bucket.replayed(), died, "all of them were read");
    assert!(has_topic(&world.at(1), "a") && !has_topic(&world.at(1), "b"));
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_was_cut_off_catches_up() {
    let mut world = World::new(true);
    world.start_many(3).await;
    for (round, is_cut) in [(0, true), (1, false)] {
        world.cut_links(2, is_cut);
        for number in 0..20 {
            let name = format!("t{round}-{number}");
            world.ask(0, create(&name)).await.unwrap();
        }
    }
    sleep(Duration::from_secs(5)).await;
    world.kill(1);
    world.kill(0);
    sleep(Duration::from_secs(1)).await;
    world.ask(2, create("a")).await.unwrap();
    assert_eq!(world.bucket.replayed(), 0);
    assert!(has_topic(&world.at(2), "t0-19") && has_topic(&world.at(2), "t1-19"));
}

#[tokio::test(start_paused = true)]
async fn a_process_without_the_role_never_leads() {
    let mut world = World::new(true);
    let follower = world.start_follower();
    sleep(ELECTION_TIE_WAIT).await;
    assert_eq!(world.bucket.claims(), 0, "not even if nobody else is there");
    let leader = world.start().await;
    assert!(world.ask(follower, create("a")).await.is_ok());
    world.kill(leader);
    sleep(ELECTION_TIE_WAIT).await;
    assert_eq!(world.bucket.claims(), 1);
    let refused = world.ask(follower, create("b")).await;
    assert!(
        matches!(refused, Err(CoordinatorError::NotLeader(_))),
        "{refused:?}"
    );
    world.start().await;
    assert_eq!(world.bucket.replayed(), world.bucket.slots());
    assert!(world.ask(follower, create("b")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_only_coordinates_owns_nothing_while_another_may() {
    let mut world = World::new(false);
    world.start_many(3).await;
    for process in 0..3 {
        let request = register(world.link(process), None);
        let registered = world.ask(process, request).await;
        let Ok(Reply::RegisterBroker(registered)) = registered else {
            panic!("{registered:?}")
        };
        let says = Request::DrainBroker {
            broker: registered.broker,
            drain: process == 2,
        };
        world.ask(process, says).await.unwrap();
    }
    world.ask(0, create_many("a", 6)).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    let image = Arc::clone(&world.at(0).image().borrow());
    let partitions = &image.topic_named("a").unwrap().partitions;
    let owners = partitions.iter().filter_map(|partition| partition.owner);
    let owners: Vec<_> = owners.map(|owner| owner.broker).collect();
    assert_eq!(owners.len(), 6);
    assert!(!owners.contains(&BrokerId(3)), "{owners:?}");
    assert_eq!(moving(&world.at(0)), []);
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_lost_its_own_links_deposes_nobody() {
    let mut world = World::new(false);
    world.start_many(3).await;
    world.cut_links(2, true);
    sleep(10 * ELECTION_TIE_WAIT).await;
    assert_eq!(world.bucket.claims(), 1);
    assert!(world.ask(1, create("a")).await.is_ok());
    let refused = world.ask(2, create("b")).await;
    assert!(
        matches!(refused, Err(CoordinatorError::NotLeader(_))),
        "{refused:?}"
    );
    world.cut_links(2, false);
    sleep(Duration::from_secs(5)).await;
    assert!(has_topic(&world.at(2), "a"));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_taken_for_dead_ends_and_deposes_nobody() {
    let mut world = World::new(false);
    world.start_many(2).await;
    world.cut_links(1, true);
    sleep(Duration::from_secs(2)).await;
    world.set_card(1, Some(false));
    world.cut_links(1, false);
    let ended = world.ended(1).await;
    assert!(matches!(ended, Err(EndReason::Forgotten)), "{ended:?}");
    assert_eq!(world.bucket.claims(), 1, "of two it was the only other one");
    assert!(world.ask(0, create("a")).await.is_ok());
}

/// Containers that were started again elsewhere: their old addresses answer nobody.
#[tokio::test(start_paused = true)]
async fn processes_that_are_silent_for_good_keep_nobody_waiting_for_ever() {
    let mut world = World::new(false);
    world.start_many(3).await;
    for silent in 0..3 {
        world.cut_links(silent, true);
        world.cut_bucket(silent, true);
    }
    let next = world.launch_another();
    world.set_card(next, Some(true));
    sleep(ELECTION_LONE_WAIT - Duration::from_secs(1)).await;
    assert_eq!(world.bucket.claims(), 1, "one of them may lead");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.leader(), Some(next));
    assert!(world.ask(next, create("a")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_registers_again_has_one_place() {
    let mut world = World::new(false);
    world.start_many(2).await;
    let mut brokers = Vec::new();
    for _ in 0..2 {
        // The first answer is lost.
        let registered = world.ask(1, register(world.link(1), None)).await;
        let Ok(Reply::RegisterBroker(registered)) = registered else {
            panic!("{registered:?}");
        };
        brokers.push(registered.broker);
    }
    let image = world.at(0).image();
    assert_eq!(image.borrow().brokers.len(), 1, "{brokers:?}");
    assert_eq!(brokers, [BrokerId(1); 2]);
}

/// The picture that has not come may say that this process was taken for dead.
#[tokio::test(start_paused = true)]
async fn a_process_without_the_newest_picture_is_read_no_longer_though_it_hears_its_leader() {
    let mut world = World::new(false);
    world.start_many(2).await;
    let follower = world.at(1);
    sleep(Duration::from_secs(1)).await;
    assert!(follower.is_read(world.now()));
    world.hold_pictures(1, true);
    world.ask(0, create("a")).await.unwrap();
    sleep(FENCE_LOOK_LASTS + Duration::from_secs(1)).await;
    assert!(!has_topic(&follower, "a"));
    assert!(!follower.is_read(world.now()), "it would show what is over");
    let (_, ago) = follower.heard_leader(world.now()).unwrap();
    assert!(
        ago < Duration::from_secs(1),
        "and it deposes nobody: {ago:?}"
    );
    world.hold_pictures(1, false);
    follower.may_read(world.now()).await.unwrap();
    assert!(has_topic(&follower, "a"));
    assert_eq!(world.bucket.claims(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_dies_is_fenced_within_a_second_or_two() {
    let mut world = World::new(false);
    world.start_many(3).await;
    for process in 0..3 {
        let registered = world
            .ask(process, register(world.link(process), None))
            .await;
        assert!(
            matches!(registered, Ok(Reply::RegisterBroker(_))),
            "{registered:?}"
        );
    }
    sleep(Duration::from_secs(20)).await;
    let image = world.at(0).image();
    assert_eq!(image.borrow().brokers.len(), 3, "whoever beats lives");
    assert_eq!(image.borrow().controller, Some(BrokerId(1)));
    world.kill(2);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(image.borrow().brokers.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_broker_of_a_leader_that_is_gone_is_fenced_by_the_next_one_at_once() {
    let mut world = World::new(true);
    world.start_many(3).await;
    for process in 0..3 {
        let request = register(world.link(process), None);
        world.ask(process, request).await.unwrap();
    }
    let died = Instant::now();
    world.kill(0);
    let mut image = world.at(1).image();
    let fenced = image.wait_for(|image| image.brokers.len() == 2);
    fenced.await.unwrap();
    assert!(
        died.elapsed() < Duration::from_secs(1),
        "{:?}",
        died.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_joins_gets_its_share_and_one_that_is_silent_gets_nothing() {
    let mut world = World::new(false);
    world.start_many(3).await;
    let serves = |broker| Request::DrainBroker {
        broker: BrokerId(broker),
        drain: false,
    };
    for (process, broker) in [(0, 1), (1, 2)] {
        let request = register(world.link(process), None);
        world.ask(process, request).await.unwrap();
        world.ask(process, serves(broker)).await.unwrap();
    }
    world.ask(0, create_many("a", 6)).await.unwrap();
    world.cut_links(2, true);
    let silent = register(world.link(2), None);
    world.at(0).call(silent).await.unwrap();
    world.at(0).call(serves(3)).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(moving(&world.at(0)), [], "it may be dead");
    world.cut_links(2, false);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(moving(&world.at(0)), [BrokerId(3); 2]);
}

#[tokio::test(start_paused = true)]
async fn an_id_goes_from_a_process_that_is_dead_and_from_no_other() {
    let mut world = World::new(false);
    world.start_many(3).await;
    let id = Some(BrokerId(7));
    world.ask(1, register(world.link(1), id)).await.unwrap();
    let taken = world.ask(2, register(world.link(2), id)).await;
    assert!(
        matches!(taken, Err(CoordinatorError::Refused(_))),
        "{taken:?}"
    );
    let own = world.ask(1, register(world.link(1), id)).await;
    assert!(own.is_ok(), "its own it may have again: {own:?}");
    world.kill(1);
    let freed = world.ask(2, register(world.link(2), id)).await;
    assert!(freed.is_ok(), "{freed:?}");
}

#[tokio::test(start_paused = true)]
async fn an_id_goes_to_one_of_those_who_wait_for_it() {
    for dies in [true, false] {
        let mut world = World::new(false);
        world.start_many(4).await;
        let id = Some(BrokerId(7));
        world.ask(1, register(world.link(1), id)).await.unwrap();
        world.cut_links(1, true);
        sleep(Duration::from_secs(1)).await;
        let wants = |process| world.spawn_ask(process, register(world.link(process), id));
        let waiting = [wants(2), wants(3)];
        sleep(Duration::from_secs(1)).await;
        assert!(waiting.iter().all(|asked| !asked.is_finished()));
        if dies {
            world.kill(1);
        }
        let mut given = 0;
        for asked in waiting {
            match asked.await.unwrap() {
                Ok(Reply::RegisterBroker(_)) => given += 1,
                Err(CoordinatorError::Refused(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(given, 1, "dies: {dies}");
    }
}

/// Whatever is acknowledged is seen by every read that is answered later, wherever that is asked.
#[tokio::test(start_paused = true)]
async fn no_read_is_older_than_what_was_acknowledged_before() {
    for seed in 0..12 {
        let entropy = Entropy::from_seed(seed);
        let roll = |sides: u64| entropy.next_u64() % sides;
        let mut world = World::new(seed % 2 == 0);
        world.start_many(3).await;
        let mut acknowledged = Vec::new();
        let mut reads = 0;
        for round in 0..60 {
            let n = roll(3) as usize;
            match roll(8) {
                0 => world.cut_links(n, true),
                1 => world.cut_bucket(n, true),
                2 => world.replace(n).await,
                3 => world.heal(),
                _ => {}
            }
            let name = format!("t{round}");
            let patience = Duration::from_millis(roll(5_000));
            let asked = world.spawn_ask(roll(3) as usize, create(&name));
            if let Ok(Ok(Ok(Reply::CreateTopics(_)))) = tokio::time::timeout(patience, asked).await
            {
                acknowledged.push(name);
            }
            let at = roll(3) as usize;
            if let Some(seen) = world.read_topics(at, Duration::from_secs(2)).await {
                reads += 1;
                for name in &acknowledged {
                    assert!(
                        seen.contains(name),
                        "seed {seed}: {name} is not seen at {at}"
                    );
                }
            }
        }
        world.heal();
        sleep(2 * ELECTION_TIE_WAIT).await;
        let last = world.ask(0, create("last")).await;
        assert!(last.is_ok(), "seed {seed}: {last:?}");
        assert!(
            acknowledged.len() > 5 && reads > 5,
            "seed {seed}: {reads} reads"
        );
        assert!(world.leader().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_says_which_leader_it_has_heard() {
    let mut world = World::new(false);
    let first = CoordinatorEpoch(1);
    world.start_many(2).await;
    let now = world.now();
    assert_eq!(world.at(0).heard_leader(now), Some((first, Duration::ZERO)));
    assert_eq!(world.at(0).leads(), Some(first));
    sleep(Duration::from_secs(5)).await;
    let (epoch, ago) = world.at(1).heard_leader(world.now()).unwrap();
    assert_eq!(epoch, first);
    assert!(ago < Duration::from_secs(1), "{ago:?}");
    assert_eq!(world.at(1).leads(), None);
    let refused = world.at(1).call_here(list_groups()).await;
    assert!(matches!(refused, Err(CoordinatorError::NotLeader(_))));
}
