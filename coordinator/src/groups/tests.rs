use firn_proto::cluster::{
    GroupState, JoinedGroup, LeavingMember, OffsetCommit, Protocol, SyncedGroup,
};

use std::iter;

use proptest::prelude::*;

use super::*;
use crate::groups::consumer::tests::TestTopics;

const SESSION_MS: i32 = 10_000;
const REBALANCE_MS: i32 = 30_000;
/// The longest session that a client may ask for.
const SESSION_MS_MAX: i32 = 1_800_000;

/// Groups under a clock that the test moves, with the answers that have come so far.
struct Scene {
    groups: Groups,
    now: Mono,
    calls: u64,
    answers: BTreeMap<CallId, Reply>,
    rows: BTreeMap<Arc<str>, GroupRow>,
    /// Joins and syncs, which may be answered late.
    parked: BTreeSet<CallId>,
    /// Calls up to here were made to an earlier leader.
    forgotten: u64,
}

fn without_members(group: &str) -> Idle {
    Idle {
        group: group.into(),
        reads: None,
    }
}

/// How a member joins, to be varied.
#[derive(Clone)]
struct Joiner {
    member: String,
    instance: Option<&'static str>,
    metadata: &'static [u8],
    protocols: Vec<&'static str>,
    require_known: bool,
    skip: bool,
    session_ms: i32,
    rebalance_ms: i32,
}

fn joiner(member: &str) -> Joiner {
    Joiner {
        member: member.to_owned(),
        instance: None,
        metadata: b"m",
        protocols: vec!["range"],
        require_known: false,
        skip: false,
        session_ms: SESSION_MS,
        rebalance_ms: REBALANCE_MS,
    }
}

fn fixed(instance: &'static str, member: &str) -> Joiner {
    Joiner {
        instance: Some(instance),
        ..joiner(member)
    }
}

impl Scene {
    fn new(delay_ms: u64) -> Self {
        let config = GroupConfig {
            initial_rebalance_delay: Duration::from_millis(delay_ms),
            members_max: 4,
            ..GroupConfig::default()
        };
        Self {
            groups: Groups::load(config, iter::empty(), iter::empty(), iter::empty(), Mono(0)),
            now: Mono(0),
            calls: 0,
            answers: BTreeMap::new(),
            rows: BTreeMap::new(),
            parked: BTreeSet::new(),
            forgotten: 0,
        }
    }

    fn take(&mut self, out: Out) {
        for (call, reply) in out.replies {
            let earlier = self.answers.insert(call, reply);
            assert_eq!(earlier, None, "call {call:?} was answered before");
        }
        let puts = out.puts.into_iter();
        self.rows.extend(puts.map(|put| (put.group, put.row)));
    }

    fn next_call(&mut self) -> CallId {
        self.calls += 1;
        CallId(self.calls)
    }

    fn join(&mut self, joiner: &Joiner) -> CallId {
        let call = self.next_call();
        self.parked.insert(call);
        let request = JoinGroup {
            group: "g".into(),
            member: joiner.member.as_str().into(),
            instance: joiner.instance.map(Arc::from),
            client_id: "client".into(),
            client_host: "/127.0.0.1".into(),
            session_timeout_ms: joiner.session_ms,
            rebalance_timeout_ms: joiner.rebalance_ms,
            protocol_type: "consumer".into(),
            protocols: joiner
                .protocols
                .iter()
                .map(|name| Protocol {
                    name: (*name).into(),
                    metadata: joiner.metadata.into(),
                })
                .collect(),
            require_known_member: joiner.require_known,
            supports_skip_assignment: joiner.skip,
            reason: None,
        };
        let out = self
            .groups
            .handle_join(call, &request, call.0.into(), self.now);
        self.take(out);
        call
    }

    fn joined(&self, call: CallId) -> JoinedGroup {
        self.join_result(call).unwrap()
    }

    fn join_result(&self, call: CallId) -> Result<JoinedGroup, GroupError> {
        match self.answers.get(&call) {
            Some(Reply::JoinGroup(result)) => result.clone(),
            other => panic!("call {call:?} was answered with {other:?}"),
        }
    }

    fn waits(&self, call: CallId) -> bool {
        !self.answers.contains_key(&call)
    }

    /// SyncGroup; with parts, as the leader.
    fn sync(&mut self, joined: &JoinedGroup, parts: &[(&str, &str)]) -> CallId {
        let call = self.next_call();
        self.parked.insert(call);
        let request = SyncGroup {
            group: "g".into(),
            generation: joined.generation,
            member: Arc::clone(&joined.member),
            instance: None,
            protocol_type: Some("consumer".into()),
            protocol: Some(Arc::clone(&joined.protocol)),
            assignments: parts
                .iter()
                .map(|(member, part)| ((*member).into(), part.as_bytes().into()))
                .collect(),
        };
        let out = self.groups.handle_sync(call, &request, self.now);
        self.take(out);
        call
    }

    fn sync_result(&self, call: CallId) -> Result<SyncedGroup, GroupError> {
        match self.answers.get(&call) {
            Some(Reply::SyncGroup(result)) => result.clone(),
            other => panic!("call {call:?} was answered with {other:?}"),
        }
    }

    fn part(&self, call: CallId) -> String {
        String::from_utf8(self.sync_result(call).unwrap().assignment.to_vec()).unwrap()
    }

    fn heartbeat(&mut self, joined: &JoinedGroup) -> Result<(), GroupError> {
        let request = Heartbeat {
            group: "g".into(),
            generation: joined.generation,
            member: Arc::clone(&joined.member),
            instance: None,
        };
        self.groups.handle_heartbeat(&request, self.now)
    }

    fn leave(&mut self, member: &str, instance: Option<&str>) -> Result<(), GroupError> {
        let call = self.next_call();
        let request = LeaveGroup {
            group: "g".into(),
            members: vec![LeavingMember {
                member: member.into(),
                instance: instance.map(Arc::from),
                reason: None,
            }],
        };
        let out = self.groups.handle_leave(call, &request, self.now);
        self.take(out);
        match self.answers.remove(&call) {
            Some(Reply::LeaveGroup(Ok(left))) => left.members[0].result.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, member: &str, generation: i32) -> Result<(), GroupError> {
        let request = OffsetCommit {
            group: "g".into(),
            generation,
            member: member.into(),
            instance: None,
            knows_epochs: false,
            retention_ms: None,
            topics: Vec::new(),
        };
        self.groups.check_commit(&request, self.now)
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now.after(Duration::from_millis(ms));
        let out = self.groups.on_timeout(&TestTopics::default(), self.now);
        self.take(out);
    }

    fn state(&self) -> GroupState {
        self.groups.describe("g").unwrap().state
    }

    /// A stable group of one (the leader), then of as many as wanted.
    fn stable(&mut self, joiners: &[Joiner]) -> Vec<JoinedGroup> {
        let calls: Vec<_> = joiners.iter().map(|joiner| self.join(joiner)).collect();
        while self.waits(calls[0]) {
            self.pass(3_000);
        }
        let joined: Vec<_> = calls.into_iter().map(|call| self.joined(call)).collect();
        let ids: Vec<_> = joined.iter().map(|one| one.member.to_string()).collect();
        let parts: Vec<_> = ids.iter().map(|id| (id.as_str(), "part")).collect();
        let mut syncs = Vec::new();
        for one in &joined {
            let leads = one.leader == one.member;
            syncs.push(self.sync(one, if leads { &parts } else { &[] }));
        }
        for sync in syncs {
            assert_eq!(self.part(sync), "part");
        }
        assert_eq!(self.state(), GroupState::Stable);
        joined
    }
}

#[test]
fn two_members_share_a_generation_and_get_their_parts() {
    let mut scene = Scene::new(3_000);
    let a = scene.join(&joiner(""));
    scene.pass(2_000);
    let b = scene.join(&joiner(""));
    scene.pass(1_000);
    assert!(scene.waits(a), "somebody came: the wait is drawn out");
    scene.pass(3_000);
    let (a, b) = (scene.joined(a), scene.joined(b));
    assert_eq!((a.generation, b.generation), (1, 1));
    assert_eq!(a.leader, a.member, "the first to come leads");
    assert_eq!((a.members.len(), b.members.len()), (2, 0));

    let follower = scene.sync(&b, &[]);
    assert!(scene.waits(follower));
    let leader = scene.sync(&a, &[(&*a.member, "0-2"), (&*b.member, "3-5")]);
    assert_eq!(scene.part(leader), "0-2");
    assert_eq!(scene.part(follower), "3-5");
    assert_eq!(scene.rows["g"].generation, 1);
    assert_eq!(scene.rows["g"].members.len(), 2);
    assert_eq!(scene.heartbeat(&b), Ok(()));
}

#[test]
fn without_delay_a_lone_member_joins_at_once() {
    let mut scene = Scene::new(0);
    let call = scene.join(&joiner(""));
    assert_eq!(scene.joined(call).generation, 1);
}

#[test]
fn a_new_member_must_come_back_with_its_id() {
    let mut scene = Scene::new(0);
    let mut first = joiner("");
    first.require_known = true;
    let call = scene.join(&first);
    let Err(GroupError::MemberIdRequired(id)) = scene.join_result(call) else {
        panic!("{:?}", scene.join_result(call))
    };
    assert!(id.starts_with("client-"));
    let call = scene.join(&joiner(&id));
    assert_eq!(scene.joined(call).member, id);
    let stranger = scene.join(&joiner("stranger"));
    assert_eq!(
        scene.join_result(stranger),
        Err(GroupError::UnknownMemberId)
    );
}

#[test]
fn a_rebalance_waits_for_a_member_that_was_promised_a_place() {
    let mut scene = Scene::new(0);
    let one = scene.stable(&[joiner("")]).remove(0);
    let mut new = joiner("");
    new.require_known = true;
    scene.join(&new);
    let again = scene.join(&joiner(&one.member));
    assert!(scene.waits(again), "the leader's join starts a rebalance");
    scene.pass(SESSION_MS as u64);
    assert!(!scene.waits(again), "the promise has run out");
}

#[test]
fn a_joining_member_starts_a_rebalance_that_others_learn_by_heartbeat() {
    let mut scene = Scene::new(0);
    let a = scene.stable(&[joiner("")]).remove(0);
    let b = scene.join(&joiner(""));
    assert!(scene.waits(b));
    assert_eq!(scene.heartbeat(&a), Err(GroupError::RebalanceInProgress));
    let again = scene.join(&joiner(&a.member));
    assert_eq!(scene.joined(again).generation, 2);
    assert_eq!(scene.joined(b).generation, 2);
    assert_eq!(scene.heartbeat(&a), Err(GroupError::IllegalGeneration));
}

#[test]
fn who_does_not_come_back_within_the_rebalance_timeout_is_out() {
    let mut scene = Scene::new(0);
    let a = scene.stable(&[joiner("")]).remove(0);
    let b = scene.join(&joiner(""));
    for _ in 0..5 {
        scene.pass(5_000);
        assert_eq!(scene.heartbeat(&a), Err(GroupError::RebalanceInProgress));
        assert!(scene.waits(b));
    }
    scene.pass(5_000);
    let b = scene.joined(b);
    assert_eq!(b.leader, b.member);
    assert_eq!(b.members.len(), 1);
    assert_eq!(scene.heartbeat(&a), Err(GroupError::UnknownMemberId));
}

#[test]
fn a_silent_member_is_out_after_its_session_timeout() {
    let mut scene = Scene::new(0);
    let a = scene.stable(&[joiner("")]).remove(0);
    scene.pass(9_000);
    assert_eq!(scene.heartbeat(&a), Ok(()));
    scene.pass(9_000);
    assert_eq!(scene.heartbeat(&a), Ok(()));
    scene.pass(10_000);
    assert_eq!(scene.heartbeat(&a), Err(GroupError::UnknownMemberId));
    assert_eq!(scene.state(), GroupState::Empty);
    assert_eq!(scene.rows["g"].members.len(), 0);
    assert_eq!(scene.rows["g"].generation, 2);
}

#[test]
fn a_leader_that_never_sends_the_assignment_is_out_with_all_who_never_asked() {
    let mut scene = Scene::new(0);
    let calls = [scene.join(&joiner(""))];
    let a = scene.joined(calls[0]);
    for _ in 0..3 {
        scene.pass(9_000);
        assert_eq!(scene.heartbeat(&a), Ok(()));
    }
    scene.pass(3_000);
    assert_eq!(scene.heartbeat(&a), Err(GroupError::UnknownMemberId));
}

#[test]
fn a_member_that_joins_while_others_wait_for_parts_sends_them_back() {
    let mut scene = Scene::new(3_000);
    let calls = [scene.join(&joiner("")), scene.join(&joiner(""))];
    scene.pass(3_000);
    scene.pass(3_000);
    let follower = scene.joined(calls[1]);
    let sync = scene.sync(&follower, &[]);
    scene.join(&joiner(""));
    assert_eq!(
        scene.sync_result(sync),
        Err(GroupError::RebalanceInProgress)
    );
    assert_eq!(scene.state(), GroupState::PreparingRebalance);
}

#[test]
fn only_a_leader_or_other_metadata_rebalances_a_stable_group() {
    let mut scene = Scene::new(3_000);
    let joined = scene.stable(&[joiner(""), joiner("")]);
    let call = scene.join(&joiner(&joined[1].member));
    assert_eq!(scene.joined(call).generation, 1, "a lost answer, repeated");
    let mut other = joiner(&joined[1].member);
    other.metadata = b"other";
    scene.join(&other);
    assert_eq!(scene.state(), GroupState::PreparingRebalance);
}

#[test]
fn a_lost_join_answer_is_repeated_before_the_assignment() {
    let mut scene = Scene::new(0);
    let first = scene.join(&joiner(""));
    let first = scene.joined(first);
    let again = scene.join(&joiner(&first.member));
    assert_eq!(scene.joined(again), first);
}

#[test]
fn a_static_member_that_restarts_rebalances_nobody() {
    for skip in [false, true] {
        let mut scene = Scene::new(3_000);
        let joined = scene.stable(&[fixed("i", ""), fixed("j", "")]);
        let old = joined[0].clone();
        assert_eq!(old.leader, old.member);
        let mut back = fixed("i", "");
        back.skip = skip;
        let call = scene.join(&back);
        let new = scene.joined(call);
        assert_eq!(new.generation, 1);
        assert_ne!(new.member, old.member);
        assert_eq!(scene.state(), GroupState::Stable);
        assert_eq!(new.skip_assignment, skip);
        if skip {
            assert_eq!((&new.leader, new.members.len()), (&new.member, 2));
        } else {
            assert_eq!((&new.leader, new.members.len()), (&old.member, 0));
        }
        let call = scene.sync(&new, &[]);
        assert_eq!(scene.part(call), "part", "it keeps its part");
        assert!(
            scene.rows["g"]
                .members
                .iter()
                .any(|m| m.member == new.member),
            "the new id is kept"
        );
        let stale = Heartbeat {
            group: "g".into(),
            generation: 1,
            member: Arc::clone(&old.member),
            instance: Some("i".into()),
        };
        assert_eq!(
            scene.groups.handle_heartbeat(&stale, scene.now),
            Err(GroupError::FencedInstanceId)
        );
    }
}

#[test]
fn a_static_member_that_says_something_new_rebalances() {
    let mut scene = Scene::new(3_000);
    scene.stable(&[fixed("i", ""), fixed("j", "")]);
    let mut back = fixed("i", "");
    back.metadata = b"other";
    let call = scene.join(&back);
    assert!(scene.waits(call));
    assert_eq!(scene.state(), GroupState::PreparingRebalance);
}

#[test]
fn two_joins_under_one_static_id_fence_the_first() {
    let mut scene = Scene::new(3_000);
    let first = scene.join(&fixed("i", ""));
    let second = scene.join(&fixed("i", ""));
    assert_eq!(scene.join_result(first), Err(GroupError::FencedInstanceId));
    scene.pass(3_000);
    scene.pass(3_000);
    assert_eq!(scene.joined(second).members.len(), 1);
}

#[test]
fn members_leave_by_id_or_by_static_id() {
    let mut scene = Scene::new(3_000);
    let joined = scene.stable(&[fixed("i", ""), joiner("")]);
    for (member, instance, expected) in [
        ("stranger", None, Err(GroupError::UnknownMemberId)),
        ("", Some("k"), Err(GroupError::UnknownMemberId)),
        ("other", Some("i"), Err(GroupError::FencedInstanceId)),
        ("", Some("i"), Ok(())),
        (&*joined[1].member, None, Ok(())),
    ] {
        assert_eq!(
            scene.leave(member, instance),
            expected,
            "{member} {instance:?}"
        );
    }
    assert_eq!(scene.state(), GroupState::Empty);
}

#[test]
fn the_protocol_is_the_one_most_members_want_and_all_can_speak() {
    let mut scene = Scene::new(3_000);
    let offers = [
        vec!["sticky", "range", "robin"],
        vec!["robin", "range"],
        vec!["robin", "range"],
    ];
    let calls = offers.map(|protocols| {
        scene.join(&Joiner {
            protocols,
            ..joiner("")
        })
    });
    scene.pass(3_000);
    scene.pass(3_000);
    assert_eq!(&*scene.joined(calls[0]).protocol, "robin");
    let stranger = scene.join(&Joiner {
        protocols: vec!["sticky"],
        ..joiner("")
    });
    assert_eq!(
        scene.join_result(stranger),
        Err(GroupError::InconsistentGroupProtocol)
    );
}

#[test]
fn a_full_group_takes_nobody_but_its_members() {
    let mut scene = Scene::new(3_000);
    let joined = scene.stable(&[joiner(""), joiner(""), joiner(""), joiner("")]);
    let fifth = scene.join(&joiner(""));
    assert_eq!(
        scene.join_result(fifth),
        Err(GroupError::GroupMaxSizeReached)
    );
    let again = scene.join(&joiner(&joined[0].member));
    assert!(scene.waits(again));
}

#[test]
fn commits_follow_the_state_of_the_group() {
    let mut scene = Scene::new(0);
    assert_eq!(scene.commit("m", 1), Err(GroupError::IllegalGeneration));
    assert_eq!(scene.commit("", -1), Ok(()), "a simple consumer");
    let joined = scene.join(&joiner(""));
    let joined = scene.joined(joined);
    let id = joined.member.to_string();
    for (member, generation, expected) in [
        ("", -1, Err(GroupError::UnknownMemberId)),
        ("m", 1, Err(GroupError::UnknownMemberId)),
        (&*id, 0, Err(GroupError::IllegalGeneration)),
        (&*id, 1, Err(GroupError::RebalanceInProgress)),
    ] {
        assert_eq!(scene.commit(member, generation), expected, "{member}");
    }
    scene.sync(&joined, &[]);
    assert_eq!(scene.commit(&id, 1), Ok(()));
    scene.join(&joiner(""));
    assert_eq!(scene.commit(&id, 1), Ok(()), "before it joins again");
}

#[test]
fn a_group_that_the_journal_kept_goes_on_where_it_was() {
    let mut scene = Scene::new(3_000);
    let joined = scene.stable(&[joiner(""), fixed("i", "")]);
    let later = Mono(7_000_000);
    let none: [Arc<str>; 0] = [];
    scene.groups = Groups::load(
        GroupConfig::default(),
        scene.rows.iter(),
        iter::empty(),
        none.iter(),
        later,
    );
    scene.now = later;
    assert_eq!(scene.state(), GroupState::Stable);
    for member in &joined {
        assert_eq!(scene.heartbeat(member), Ok(()));
        assert_eq!(scene.commit(&member.member, 1), Ok(()));
    }
    scene.pass(10_000);
    assert_eq!(scene.state(), GroupState::Empty, "sessions go on as well");
}

#[test]
fn requests_without_sense_are_refused() {
    let mut scene = Scene::new(0);
    let base = JoinGroup {
        group: "g".into(),
        member: "".into(),
        instance: None,
        client_id: "c".into(),
        client_host: "/".into(),
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: REBALANCE_MS,
        protocol_type: "consumer".into(),
        protocols: vec![Protocol {
            name: "range".into(),
            metadata: Arc::from([]),
        }],
        require_known_member: false,
        supports_skip_assignment: false,
        reason: None,
    };
    let vary = |change: fn(&mut JoinGroup)| {
        let mut request = base.clone();
        change(&mut request);
        request
    };
    let long: fn(&mut JoinGroup) = |r| r.client_id = "x".repeat(GROUP_ID_BYTES_MAX + 1).into();
    let huge: fn(&mut JoinGroup) = |r| {
        r.protocols[0].metadata = vec![0; GROUP_MEMBER_BYTES_MAX].into();
    };
    for (request, expected) in [
        (vary(|r| r.group = "".into()), "InvalidGroupId"),
        (vary(|r| r.session_timeout_ms = 1), "InvalidSessionTimeout"),
        (vary(|r| r.protocols.clear()), "InconsistentGroupProtocol"),
        (
            vary(|r| r.protocol_type = "".into()),
            "InconsistentGroupProtocol",
        ),
        (vary(long), "InvalidRequest"),
        (vary(huge), "InvalidRequest"),
    ] {
        let call = scene.next_call();
        let out = scene.groups.handle_join(call, &request, 1, scene.now);
        scene.take(out);
        let error = scene.join_result(call).unwrap_err();
        assert!(format!("{error:?}").starts_with(expected), "{error:?}");
    }
}

#[test]
fn what_consumers_read_is_read_from_their_subscriptions() {
    let mut scene = Scene::new(0);
    let mut one = joiner("");
    one.metadata = b"\0\x01\0\0\0\x01\0\x03abc\xff\xff\xff\xff";
    scene.stable(&[one]);
    let topics = scene
        .groups
        .subscribed("g", &TestTopics::default())
        .unwrap();
    assert_eq!(topics.into_iter().collect::<Vec<_>>(), ["abc"]);
    assert_eq!(
        scene.groups.check_delete("g"),
        Err(GroupError::NonEmptyGroup)
    );
}

#[test]
fn an_empty_group_is_offered_for_removal_after_a_while() {
    let mut scene = Scene::new(0);
    assert_eq!(scene.commit("", -1), Ok(()));
    scene.now = scene.now.after(Duration::from_secs(600));
    let out = scene.groups.on_timeout(&TestTopics::default(), scene.now);
    assert_eq!(out.idle, [without_members("g")]);
    scene.groups.remove("g");
    assert_eq!(scene.groups.next_timeout(), None);
}

#[test]
fn a_stable_group_is_looked_at_for_offsets_of_topics_that_it_does_not_read() {
    let mut scene = Scene::new(0);
    let mut one = joiner("");
    one.session_ms = SESSION_MS_MAX;
    one.metadata = b"\0\x01\0\0\0\x01\0\x03abc\xff\xff\xff\xff";
    scene.stable(&[one]);
    for at in [600, 1200] {
        scene.now = Mono(at * 1_000_000);
        let out = scene.groups.on_timeout(&TestTopics::default(), scene.now);
        let reads = Idle {
            group: "g".into(),
            reads: Some(BTreeSet::from(["abc".to_owned()])),
        };
        assert_eq!(out.idle, [reads]);
    }
}

#[test]
fn commits_to_a_group_that_is_not_there_are_refused_by_the_version() {
    let mut scene = Scene::new(0);
    assert_eq!(scene.commit("m", 1), Err(GroupError::IllegalGeneration));
    let request = OffsetCommit {
        group: "g".into(),
        generation: 1,
        member: "m".into(),
        instance: None,
        knows_epochs: true,
        retention_ms: None,
        topics: Vec::new(),
    };
    let refused = scene.groups.check_commit(&request, scene.now);
    assert_eq!(refused, Err(GroupError::GroupIdNotFound));
    let nameless = scene.groups.subscribed("", &TestTopics::default());
    assert_eq!(nameless, Err(GroupError::InvalidGroupId));
}

#[test]
fn a_group_with_a_promised_place_is_not_idle_and_is_looked_at_again_later() {
    let mut scene = Scene::new(0);
    scene.join(&Joiner {
        require_known: true,
        session_ms: SESSION_MS_MAX,
        ..joiner("")
    });
    for at in [600, 1200] {
        scene.now = Mono(at * 1_000_000);
        let out = scene.groups.on_timeout(&TestTopics::default(), scene.now);
        assert!(out.idle.is_empty(), "somebody may still come");
        assert!(scene.groups.next_timeout() > Some(scene.now));
    }
    scene.now = Mono(1800 * 1_000_000);
    let out = scene.groups.on_timeout(&TestTopics::default(), scene.now);
    assert_eq!(out.idle, [without_members("g")], "the promise has run out");
}

#[test]
fn a_group_whose_members_leave_no_time_for_a_rebalance_ends_up_empty() {
    let mut scene = Scene::new(0);
    let hasty = Joiner {
        rebalance_ms: i32::MIN,
        ..joiner("")
    };
    let call = scene.join(&hasty);
    let joined = scene.joined(call);
    assert_eq!(scene.state(), GroupState::CompletingRebalance);
    assert!(scene.groups.next_timeout() > Some(scene.now));
    scene.pass(1);
    assert_eq!(scene.state(), GroupState::Empty);
    assert_eq!(scene.heartbeat(&joined), Err(GroupError::UnknownMemberId));
}

/// A step of a random history of one group; numbers choose among the members seen so far.
#[derive(Clone, Debug)]
enum Step {
    Join(u8, u8, bool),
    Sync(u8),
    Heartbeat(u8),
    Leave(u8, u8),
    Commit(u8),
    Pass(u16),
    Reload,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<u8>(), any::<u8>(), any::<bool>()).prop_map(|(m, v, k)| Step::Join(m, v, k)),
        3 => any::<u8>().prop_map(Step::Sync),
        2 => any::<u8>().prop_map(Step::Heartbeat),
        1 => (any::<u8>(), 0..3u8).prop_map(|(m, i)| Step::Leave(m, i)),
        1 => any::<u8>().prop_map(Step::Commit),
        3 => (0..20_000u16).prop_map(Step::Pass),
        1 => Just(Step::Reload),
    ]
}

/// Who has joined so far, as their clients know it.
fn known(scene: &Scene) -> Vec<JoinedGroup> {
    let joined = scene.answers.values().filter_map(|reply| match reply {
        Reply::JoinGroup(Ok(joined)) => Some(joined.clone()),
        _ => None,
    });
    joined.collect()
}

fn pick(scene: &Scene, by: u8) -> Option<JoinedGroup> {
    let known = known(scene);
    let recent = known.len().saturating_sub(6);
    let index = usize::from(by).checked_rem(known.len() - recent)?;
    known.get(recent + index).cloned()
}

fn take_step(scene: &mut Scene, step: &Step) {
    let instances = [None, Some("i"), Some("j")];
    match *step {
        Step::Join(member, variant, require_known) => {
            let known = pick(scene, member).filter(|_| variant % 3 > 0);
            let promised = scene.answers.values().rev().find_map(|reply| match reply {
                Reply::JoinGroup(Err(GroupError::MemberIdRequired(id))) => Some(id.to_string()),
                _ => None,
            });
            let id = match (known, promised) {
                (Some(joined), _) => joined.member.to_string(),
                (None, Some(id)) if variant % 2 == 0 => id,
                _ => String::new(),
            };
            let instance = instances[usize::from(variant / 3 % 3)];
            let is_promised_a_place = require_known && id.is_empty() && instance.is_none();
            scene.join(&Joiner {
                instance,
                metadata: [&b"a"[..], b"b"][usize::from(variant / 9 % 2)],
                protocols: vec!["range", ["sticky", "robin"][usize::from(variant % 2)]],
                require_known,
                skip: require_known,
                session_ms: [SESSION_MS, SESSION_MS_MAX][usize::from(is_promised_a_place)],
                rebalance_ms: [REBALANCE_MS, 0][usize::from(variant / 18 % 2)],
                member: id,
            });
        }
        Step::Sync(member) => {
            if let Some(joined) = pick(scene, member) {
                let ids: Vec<_> = joined
                    .members
                    .iter()
                    .map(|m| m.member.to_string())
                    .collect();
                let parts: Vec<_> = ids.iter().map(|id| (id.as_str(), "part")).collect();
                scene.sync(&joined, &parts);
            }
        }
        Step::Heartbeat(member) => {
            if let Some(joined) = pick(scene, member) {
                let _ = scene.heartbeat(&joined);
            }
        }
        Step::Leave(member, instance) => {
            if let Some(joined) = pick(scene, member) {
                let _ = scene.leave(&joined.member, instances[usize::from(instance)]);
            }
        }
        Step::Commit(member) => {
            if let Some(joined) = pick(scene, member) {
                let _ = scene.commit(&joined.member, joined.generation);
            }
        }
        Step::Pass(ms) => scene.pass(u64::from(ms)),
        Step::Reload => {
            let config = scene.groups.config.clone();
            scene.groups = Groups::load(
                config,
                scene.rows.iter(),
                iter::empty(),
                iter::empty(),
                scene.now,
            );
            // A new leader answers nobody who asked the old one.
            scene.forgotten = scene.calls;
        }
    }
}

/// A client decides how long its names are, and how many ids it is promised without ever using them.
#[test]
fn names_and_promised_ids_count_as_much_as_they_take() {
    let mut scene = Scene::new(0);
    let mut request = JoinGroup {
        group: "g".into(),
        member: "".into(),
        instance: None,
        client_id: "c".repeat(8_000).into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: REBALANCE_MS,
        protocol_type: "consumer".into(),
        protocols: vec![Protocol {
            name: "range".into(),
            metadata: b"m"[..].into(),
        }],
        require_known_member: true,
        supports_skip_assignment: false,
        reason: None,
    };
    let call = scene.next_call();
    let out = scene.groups.handle_join(call, &request, 1, scene.now);
    scene.take(out);
    let Err(GroupError::MemberIdRequired(promised)) = scene.join_result(call) else {
        panic!("no id was promised")
    };
    assert!(scene.groups.bytes > 8_000, "{}", scene.groups.bytes);
    request.member = promised;
    let call = scene.next_call();
    let out = scene.groups.handle_join(call, &request, 2, scene.now);
    scene.take(out);
    assert!(scene.groups.bytes > 16_000, "the id and the name");
    scene.groups.bytes = GROUPS_BYTES_MAX - 8_000;
    request.member = "".into();
    request.group = "another".into();
    let call = scene.next_call();
    let out = scene.groups.handle_join(call, &request, 3, scene.now);
    scene.take(out);
    let refused = scene.join_result(call);
    assert_eq!(refused, Err(GroupError::GroupMaxSizeReached));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn every_call_is_answered_once_and_a_silent_group_becomes_empty(
        delay_ms in prop_oneof![Just(0u64), Just(3_000)],
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut scene = Scene::new(delay_ms);
        for step in &steps {
            take_step(&mut scene, step);
            for group in scene.groups.by_id.values() {
                group.check();
            }
            let held = scene.groups.by_id.values().map(Group::held_bytes);
            prop_assert_eq!(held.sum::<usize>(), scene.groups.bytes);
        }
        for _ in 0..80 {
            scene.pass(10_000);
        }
        for call in scene.forgotten + 1..=scene.calls {
            let asked = scene.parked.contains(&CallId(call));
            prop_assert!(!asked || scene.answers.contains_key(&CallId(call)), "call {}", call);
        }
        if scene.groups.by_id.contains_key("g") {
            prop_assert_eq!(scene.state(), GroupState::Empty);
        }
    }
}
