use super::*;

const LATELY: Duration = Duration::from_millis(100);
const LONG_AGO: Duration = Duration::from_secs(5);
const SESSION: Duration = Duration::from_secs(6);

fn second(s: u64) -> Mono {
    Mono(s * 1_000_000)
}

fn heard(epoch: u64, ago: Duration) -> PeerAnswer {
    PeerAnswer::Heard {
        epoch: CoordinatorEpoch(epoch),
        ago,
    }
}

/// An election in which the leader of epoch 3 could not be reached.
fn without_a_link() -> Election {
    let mut election = Election::new(second(0), SESSION);
    assert_eq!(election.step(), Step::Look);
    election.on_claim(Some((CoordinatorEpoch(3), Holder::Other)));
    assert_eq!(election.step(), Step::Follow);
    election.on_no_link(&PeerError::NoAnswer);
    assert_eq!(election.step(), Step::AskAll);
    election
}

const CAMPAIGN: Step = Step::Campaign {
    after: CoordinatorEpoch(3),
};

#[test]
fn each_claim_that_comes_to_nothing_is_followed_by_one_that_may_take_longer() {
    let mut election = Election::new(second(0), SESSION);
    let mut patience_at = |epoch| {
        election.on_claim(Some((CoordinatorEpoch(epoch), Holder::Other)));
        election.patience()
    };
    for (epoch, times) in [(7, 1), (8, 2), (9, 4), (100, 32)] {
        assert_eq!(patience_at(epoch), times * TAKE_OVER_STEP_MAX, "{epoch}");
    }
}

#[test]
fn whoever_has_nobody_to_follow_campaigns_at_once() {
    let holders = [(None, 0), (Some(Holder::Own), 3), (Some(Holder::Gone), 3)];
    for (holder, epoch) in holders {
        let after = CoordinatorEpoch(epoch);
        let mut election = Election::new(second(0), SESSION);
        election.on_claim(holder.map(|holder| (after, holder)));
        assert_eq!(election.step(), Step::Campaign { after }, "{holder:?}");
    }
}

#[test]
fn the_others_decide_about_a_leader_that_cannot_be_reached() {
    use PeerAnswer::{NoAnswer, NotHeard, Refused, Refuses};
    // The leader of epoch 3 is one of them.
    let may_campaign: [&[PeerAnswer]; 8] = [
        &[],
        &[Refused],
        &[Refused, Refused],
        &[NoAnswer, NotHeard],
        &[NoAnswer, heard(3, LONG_AGO)],
        &[Refused, heard(2, LATELY)],
        &[NoAnswer, NoAnswer, NotHeard, NotHeard],
        &[Refused, Refuses, NotHeard],
    ];
    for answers in may_campaign {
        let mut election = without_a_link();
        election.on_answers(answers, second(0), 0);
        assert_eq!(election.step(), CAMPAIGN, "{answers:?}");
    }
    let must_wait: [&[PeerAnswer]; 8] = [
        &[NoAnswer],
        &[NoAnswer, NoAnswer],
        &[Refused, NoAnswer],
        &[heard(3, LATELY)],
        &[heard(4, LATELY)],
        &[Refused, NotHeard, NotHeard, heard(3, LATELY)],
        &[NoAnswer, NoAnswer, NoAnswer, NotHeard],
        &[Refused, Refuses],
    ];
    for answers in must_wait {
        let mut election = without_a_link();
        election.on_answers(answers, second(0), 0);
        assert!(matches!(election.step(), Step::Wait { .. }), "{answers:?}");
    }
}

#[test]
fn half_of_them_are_enough_when_it_has_lasted_long() {
    let mut election = without_a_link();
    let late = second(0).after(ELECTION_TIE_WAIT);
    election.on_answers(&[PeerAnswer::NoAnswer], late, 0);
    assert_eq!(election.step(), CAMPAIGN);
    let mut election = without_a_link();
    election.on_answers(&[PeerAnswer::NoAnswer; 2], late, 0);
    assert!(
        matches!(election.step(), Step::Wait { .. }),
        "fewer never are"
    );
}

/// An election whose leader lives, but will have nothing to do with this process.
fn refused_by_the_leader() -> Election {
    let mut election = Election::new(second(0), SESSION);
    election.on_claim(Some((CoordinatorEpoch(3), Holder::Other)));
    election.on_no_link(&PeerError::Rejected("another version".to_owned()));
    assert_eq!(election.step(), Step::AskAll);
    election
}

#[test]
fn a_leader_that_refuses_this_process_lives_and_is_left_to_however_long_that_lasts() {
    for at in [second(0), second(11), second(86_400)] {
        for answers in [&[PeerAnswer::Refuses][..], &[], &[PeerAnswer::NotHeard; 2]] {
            let mut election = refused_by_the_leader();
            election.on_answers(answers, at, 0);
            assert!(
                matches!(election.step(), Step::Wait { .. }),
                "{at:?} {answers:?}"
            );
        }
    }
}

#[test]
fn a_refusal_counts_until_the_leader_is_asked_again_and_no_longer() {
    let mut election = refused_by_the_leader();
    election.on_answers(&[PeerAnswer::NotHeard; 2], second(1), 0);
    election.on_waited();
    assert_eq!(election.step(), Step::Look);
    election.on_claim(Some((CoordinatorEpoch(3), Holder::Other)));
    assert_eq!(election.step(), Step::Follow, "its reason may have gone");
    election.on_no_link(&PeerError::NoAnswer);
    election.on_answers(&[PeerAnswer::NotHeard; 2], second(2), 0);
    assert_eq!(election.step(), CAMPAIGN, "and the leader");
}

#[test]
fn whoever_is_not_known_to_others_looks_for_its_own_card_before_anything_else() {
    let mut by_leader = Election::new(second(0), SESSION);
    by_leader.on_claim(Some((CoordinatorEpoch(3), Holder::Other)));
    by_leader.on_no_link(&PeerError::Unregistered);
    let mut by_others = without_a_link();
    let answers = [PeerAnswer::Unregistered, PeerAnswer::NotHeard];
    by_others.on_answers(&answers, second(86_400), 0);
    for mut election in [by_leader, by_others] {
        assert_eq!(election.step(), Step::LookForCard);
        // The others looked before it was there.
        election.on_card(true, second(1), 0);
        assert!(matches!(election.step(), Step::Wait { .. }));
    }
}

#[test]
fn a_card_that_nobody_has_deleted_for_long_shows_that_nobody_leads() {
    let silent = [PeerAnswer::NoAnswer; 5];
    let late = second(0).after(ELECTION_LONE_WAIT + SESSION);
    let mut election = without_a_link();
    election.on_answers(&silent, Mono(late.0 - 1), 0);
    assert!(matches!(election.step(), Step::Wait { .. }));
    for (is_there, step) in [(true, Some(CAMPAIGN)), (false, None)] {
        let mut election = without_a_link();
        election.on_answers(&silent, late, 0);
        assert_eq!(election.step(), Step::LookForCard);
        election.on_card(is_there, late, 0);
        match step {
            Some(step) => assert_eq!(election.step(), step),
            None => assert!(matches!(election.step(), Step::Wait { .. })),
        }
    }
    // One that lives and will not say may follow a leader.
    let mut election = without_a_link();
    election.on_answers(&[PeerAnswer::NoAnswer, PeerAnswer::Refuses], late, 0);
    assert!(matches!(election.step(), Step::Wait { .. }));
}

#[test]
fn waits_grow_and_end_sooner_while_nobody_follows_the_leader() {
    let nobody = (heard(3, Duration::ZERO), ELECTION_RETRY_MAX);
    let somebody = (heard(3, LATELY), ELECTION_RETRY_LED_MAX);
    for (answer, longest) in [nobody, somebody] {
        let mut election = without_a_link();
        let mut waits = Vec::new();
        for _ in 0..10 {
            election.on_answers(&[answer], second(7), 0);
            let Step::Wait { until } = election.step() else {
                panic!("{election:?}")
            };
            waits.push(until.since(second(7)));
            election.on_waited();
            assert_eq!(election.step(), Step::Look);
        }
        assert!(waits.is_sorted());
        assert!(waits[0] <= ELECTION_RETRY_MIN);
        assert_eq!(*waits.last().unwrap(), longest);
    }
}

#[test]
fn a_new_claim_is_followed_soon_however_long_there_was_no_leader() {
    let mut election = without_a_link();
    let wait = |election: &mut Election| {
        election.on_answers(&[heard(4, LATELY)], second(7), 0);
        let Step::Wait { until } = election.step() else {
            panic!("{election:?}")
        };
        election.on_waited();
        until.since(second(7))
    };
    let waits: Vec<_> = (0..10).map(|_| wait(&mut election)).collect();
    assert!(waits[9] > ELECTION_RETRY_MIN);
    election.on_claim(Some((CoordinatorEpoch(4), Holder::Other)));
    assert_eq!(election.step(), Step::Follow);
    election.on_no_link(&PeerError::NotLeading);
    assert_eq!(wait(&mut election), waits[0]);
    election.on_claim(Some((CoordinatorEpoch(4), Holder::Other)));
    election.on_no_link(&PeerError::NotLeading);
    assert!(wait(&mut election) > waits[0], "it is known by now");
}

#[test]
fn no_two_processes_come_at_the_same_time() {
    let waits = [0, u64::MAX / 2, u64::MAX].map(|random| {
        let mut election = without_a_link();
        election.on_answers(&[heard(3, LATELY)], second(7), random);
        let Step::Wait { until } = election.step() else {
            panic!("{election:?}")
        };
        until.since(second(7))
    });
    assert!(waits[0] > waits[1] && waits[1] > waits[2], "{waits:?}");
    assert!(2 * waits[2] > waits[0], "and none at once");
}

/// A few processes whose links come and go, and one of which leads at a time: what the pure part
/// decides, played through to the end.
mod simulation {
    use firn_proto::env::Entropy;

    use super::*;

    struct Process {
        lives: bool,
        /// Whether it reaches the others.
        linked: bool,
        election: Option<Election>,
        heard: Option<(u64, Mono)>,
    }

    struct World {
        seed: u64,
        entropy: Entropy,
        now: Mono,
        processes: Vec<Process>,
        /// Who claimed which epoch, from 1 on.
        claims: Vec<usize>,
    }

    impl World {
        fn new(seed: u64, count: usize) -> Self {
            let process = |_| Process {
                lives: true,
                linked: true,
                election: Some(Election::new(second(0), SESSION)),
                heard: None,
            };
            Self {
                seed,
                entropy: Entropy::from_seed(seed),
                now: second(0),
                processes: (0..count).map(process).collect(),
                claims: Vec::new(),
            }
        }

        fn roll(&self, sides: usize) -> usize {
            usize::try_from(self.entropy.next_u64() % sides as u64).unwrap()
        }

        fn leader(&self) -> Option<usize> {
            let newest = *self.claims.last()?;
            let process = &self.processes[newest];
            (process.lives && process.election.is_none()).then_some(newest)
        }

        fn reaches(&self, a: usize, b: usize) -> bool {
            let linked = |n: usize| self.processes[n].lives && self.processes[n].linked;
            a == b || (linked(a) && linked(b))
        }

        fn answers(&self, asks: usize) -> Vec<PeerAnswer> {
            let others = (0..self.processes.len()).filter(|other| *other != asks);
            others.map(|other| self.answer(asks, other)).collect()
        }

        fn answer(&self, asks: usize, other: usize) -> PeerAnswer {
            let process = &self.processes[other];
            if !process.lives {
                return PeerAnswer::Refused;
            }
            if !self.reaches(asks, other) {
                return PeerAnswer::NoAnswer;
            }
            if self.leader() == Some(other) {
                return heard(self.claims.len() as u64, Duration::ZERO);
            }
            let known = process.heard;
            known.map_or(PeerAnswer::NotHeard, |(epoch, at)| {
                heard(epoch, self.now.since(at))
            })
        }

        /// One step of the election of that process.
        fn step(&mut self, n: usize) {
            let Some(mut election) = self.processes[n].election.take() else {
                return;
            };
            let newest = self.claims.len() as u64;
            match election.step() {
                Step::Look => election.on_claim(self.claims.last().map(|holder| {
                    let holder = if *holder == n {
                        Holder::Own
                    } else {
                        Holder::Other
                    };
                    (CoordinatorEpoch(newest), holder)
                })),
                Step::Follow => {
                    let leader = self.leader();
                    if leader.is_some_and(|leader| self.reaches(n, leader)) {
                        self.processes[n].heard = Some((newest, self.now));
                        return;
                    }
                    election.on_no_link(&PeerError::NoAnswer);
                }
                Step::AskAll => {
                    let random = self.entropy.next_u64();
                    election.on_answers(&self.answers(n), self.now, random);
                }
                Step::LookForCard => election.on_card(false, self.now, 0),
                Step::Campaign { .. } => {}
                Step::Wait { until } if until <= self.now => election.on_waited(),
                Step::Wait { .. } => {}
            }
            if let Step::Campaign { after } = election.step() {
                if after.0 == newest {
                    // What it has just been told is still so.
                    self.check_campaign(n);
                    self.claims.push(n);
                    return;
                }
                election.on_beaten();
            }
            self.processes[n].election = Some(election);
        }

        /// A leader that a majority hears is not deposed.
        fn check_campaign(&self, n: usize) {
            let Some(leader) = self.leader().filter(|leader| *leader != n) else {
                return;
            };
            let living = self
                .processes
                .iter()
                .filter(|process| process.lives)
                .count();
            let hears =
                |other: &usize| self.processes[*other].lives && self.reaches(leader, *other);
            let hearing = (0..self.processes.len()).filter(hears).count();
            assert!(
                2 * hearing <= living,
                "seed {}: {n} deposes {leader}, which {hearing} of {living} hear",
                self.seed
            );
        }

        /// Followers hear the leader, or begin to look for one.
        fn beat(&mut self) {
            let leader = self.leader();
            let epoch = self.claims.len() as u64;
            for n in 0..self.processes.len() {
                if Some(n) == leader {
                    continue;
                }
                let hears = leader.is_some_and(|leader| self.reaches(n, leader));
                let now = self.now;
                let process = &mut self.processes[n];
                if process.election.is_none() && hears {
                    process.heard = Some((epoch, now));
                } else if process.election.is_none()
                    && process
                        .heard
                        .is_none_or(|(_, at)| now.since(at) > BEAT_SILENCE)
                {
                    process.election = Some(Election::new(now, SESSION));
                }
            }
        }

        fn run(&mut self, ticks: usize) {
            for _ in 0..ticks {
                self.now = self.now.after(Duration::from_millis(50));
                self.beat();
                for _ in 0..self.processes.len() {
                    let n = self.roll(self.processes.len());
                    if self.processes[n].lives {
                        self.step(n);
                    }
                }
            }
        }
    }

    #[test]
    fn whatever_dies_or_is_cut_off_somebody_leads_soon_and_is_left_to() {
        for seed in 0..300 {
            let mut world = World::new(seed, 3 + (seed % 3) as usize);
            for _ in 0..20 {
                let n = world.roll(world.processes.len());
                match world.roll(4) {
                    0 => world.processes[n].lives = false,
                    1 => {
                        let process = &mut world.processes[n];
                        process.lives = true;
                        process.election = Some(Election::new(world.now, SESSION));
                        process.heard = None;
                    }
                    2 => world.processes[n].linked = false,
                    _ => world.processes[n].linked = true,
                }
                let ticks = world.roll(200);
                world.run(ticks);
            }
            for process in &mut world.processes {
                process.linked = true;
            }
            if !world.processes.iter().any(|process| process.lives) {
                continue;
            }
            world.run(200);
            let leader = world.leader();
            assert!(leader.is_some(), "seed {seed}: nobody leads");
            let claims = world.claims.len();
            world.run(1_000);
            assert_eq!(
                world.claims.len(),
                claims,
                "seed {seed}: the lead changes hands"
            );
        }
    }

    #[test]
    fn a_standby_that_lost_its_own_links_deposes_nobody() {
        for seed in 0..50 {
            let mut world = World::new(seed, 3);
            world.run(100);
            let leader = world.leader().unwrap();
            world.processes[(leader + 1) % 3].linked = false;
            let claims = world.claims.len();
            world.run(20_000);
            assert_eq!(world.claims.len(), claims, "seed {seed}");
        }
    }
}
