mod simulation;

use std::collections::BTreeMap;
use std::time::Duration;

use firn_proto::cluster::{
    Assignment, CommitTopic, ConsumerHeartbeat, ConsumerStanding, DescribedConsumerGroup,
    FetchOffsets, GroupState, Heartbeat, LeavingMember, ListGroups,
};
use firn_proto::ids::{PartitionIndex, TopicId};
use firn_proto::limits::{GROUP_ID_BYTES_MAX, GROUP_MEMBER_BYTES_MAX, GROUP_REGEXES_MAX};

use super::*;
use crate::groups::Groups;
use crate::groups::group::Group;
use crate::testing::{CONSUMER_REBALANCE_MS as REBALANCE_MS, classic_join, consumer_join as join};

/// The topics of a test.
#[derive(Clone, Debug, Default)]
pub(in crate::groups) struct TestTopics {
    by_name: BTreeMap<Arc<str>, (TopicId, i32)>,
    made: u8,
    /// Since the groups were told.
    changed: BTreeSet<TopicId>,
}

impl TestTopics {
    pub(in crate::groups) fn create(&mut self, name: &str, partitions: i32) -> TopicId {
        self.made += 1;
        let id = TopicId([self.made; 16]);
        self.by_name.insert(name.into(), (id, partitions));
        self.changed.insert(id);
        id
    }

    pub(in crate::groups) fn grow(&mut self, name: &str, partitions: i32) {
        if let Some((id, count)) = self.by_name.get_mut(name) {
            *count = partitions;
            self.changed.insert(*id);
        }
    }

    pub(in crate::groups) fn delete(&mut self, name: &str) {
        let gone = self.by_name.remove(name);
        self.changed.extend(gone.map(|(id, _)| id));
    }
}

impl TopicSource for TestTopics {
    fn named(&self, name: &str) -> Option<(TopicId, i32)> {
        self.by_name.get(name).copied()
    }

    fn name_of(&self, topic: TopicId) -> Option<Arc<str>> {
        let mut all = self.by_name.iter();
        let found = all.find(|(_, (id, _))| *id == topic);
        found.map(|(name, _)| Arc::clone(name))
    }

    fn all(&self) -> Box<dyn Iterator<Item = (&Arc<str>, TopicId, i32)> + '_> {
        Box::new(
            self.by_name
                .iter()
                .map(|(name, (id, count))| (name, *id, *count)),
        )
    }
}

/// Groups under a clock and topics that the test moves, and the journal that they fill.
pub(in crate::groups) struct Scene {
    pub(in crate::groups) groups: Groups,
    pub(in crate::groups) topics: TestTopics,
    pub(in crate::groups) now: Mono,
    pub(in crate::groups) row: ConsumerGroupRow,
    /// Changes that the journal was told of.
    pub(in crate::groups) changes: usize,
    calls: u64,
}

pub(in crate::groups) const SESSION: Duration = Duration::from_secs(45);

fn config() -> GroupConfig {
    GroupConfig {
        consumer_members_max: 4,
        ..GroupConfig::default()
    }
}

/// A sign of life that says nothing new.
pub(in crate::groups) fn beat(member: &str, epoch: i32) -> ConsumerHeartbeat {
    ConsumerHeartbeat {
        epoch,
        rebalance_timeout_ms: -1,
        topics: None,
        owned: None,
        ..join(member, &[])
    }
}

fn owning(member: &str, epoch: i32, owned: &Assignment) -> ConsumerHeartbeat {
    ConsumerHeartbeat {
        owned: Some(owned.clone()),
        ..beat(member, epoch)
    }
}

impl Scene {
    pub(in crate::groups) fn new() -> Self {
        Self::with(config())
    }

    pub(in crate::groups) fn with(config: GroupConfig) -> Self {
        let none = || std::iter::empty();
        let groups = Groups::load(
            config,
            none(),
            std::iter::empty(),
            std::iter::empty(),
            Mono(0),
        );
        Self {
            groups,
            topics: TestTopics::default(),
            now: Mono(0),
            row: ConsumerGroupRow::default(),
            changes: 0,
            calls: 0,
        }
    }

    fn take(&mut self, out: Out) -> Option<Reply> {
        for change in &out.changes {
            self.row.apply(change);
            self.changes += 1;
        }
        if let Some(Group::Consumer(group)) = self.groups.by_id.get("g") {
            group.check();
            assert_eq!(group.row(), self.row, "the journal has it otherwise");
        }
        out.replies.into_iter().next().map(|(_, reply)| reply)
    }

    pub(in crate::groups) fn beat(
        &mut self,
        request: &ConsumerHeartbeat,
    ) -> Result<ConsumerStanding, GroupError> {
        self.calls += 1;
        let call = CallId(self.calls);
        let random = self.calls.into();
        let (topics, now) = (&self.topics, self.now);
        let out = (self.groups).handle_consumer_heartbeat(call, request, topics, random, now);
        match self.take(out) {
            Some(Reply::ConsumerHeartbeat(result)) => result,
            other => panic!("answered with {other:?}"),
        }
    }

    pub(in crate::groups) fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some(at) = self.groups.next_timeout().filter(|at| *at <= end) {
            self.now = at;
            let out = self.groups.on_timeout(&self.topics, at);
            self.take(out);
        }
        self.now = end;
    }

    pub(in crate::groups) fn topics_changed(&mut self) {
        let changed = std::mem::take(&mut self.topics.changed);
        self.groups.on_topics_changed(&changed);
    }

    /// Another leader takes the journal over.
    pub(in crate::groups) fn restart(&mut self, config: GroupConfig) {
        let id: Arc<str> = "g".into();
        let rows = [(&id, &self.row)];
        let consumers = rows.into_iter().filter(|(_, row)| row.epoch > 0);
        self.groups = Groups::load(
            config,
            std::iter::empty(),
            consumers,
            std::iter::empty(),
            self.now,
        );
    }

    fn described(&self) -> DescribedConsumerGroup {
        self.groups.describe_consumer("g", &self.topics).unwrap()
    }

    fn state(&self) -> GroupState {
        self.described().state
    }

    fn commit(&mut self, member: &str, epoch: i32) -> Result<(), GroupError> {
        let request = OffsetCommit {
            group: "g".into(),
            generation: epoch,
            member: member.into(),
            instance: None,
            knows_epochs: true,
            retention_ms: None,
            topics: Vec::<CommitTopic>::new(),
        };
        self.groups.check_commit(&request, self.now)
    }

    fn join_classic(&mut self, member: &str) -> Result<(), GroupError> {
        let request = classic_join(member);
        let out = self.groups.handle_join(CallId(0), &request, 1, self.now);
        match out.replies.into_iter().next() {
            Some((_, Reply::JoinGroup(Err(error)))) => Err(error),
            _ => Ok(()),
        }
    }
}

fn parts(topic: TopicId, indexes: &[i32]) -> Assignment {
    let partitions = indexes.iter().map(|index| TopicPartition {
        topic,
        partition: PartitionIndex(*index),
    });
    partitions.collect()
}

#[test]
fn the_first_member_gets_everything_and_a_heartbeat_that_changes_nothing_writes_nothing() {
    let mut scene = Scene::new();
    let t = scene.topics.create("t", 3);
    let told = scene.beat(&join("a", &["t"])).unwrap();
    assert_eq!((told.epoch, told.heartbeat_interval_ms), (1, 5000));
    assert_eq!(told.assignment, Some(parts(t, &[0, 1, 2])));
    assert_eq!(scene.state(), GroupState::Stable);
    let changes = scene.changes;
    for _ in 0..3 {
        let told = scene.beat(&beat("a", 1)).unwrap();
        assert_eq!((told.epoch, told.assignment), (1, None));
    }
    assert_eq!(scene.changes, changes);
}

#[test]
fn a_second_member_gets_partitions_once_the_first_has_let_them_go() {
    let mut scene = Scene::new();
    let t = scene.topics.create("t", 4);
    scene.beat(&join("a", &["t"])).unwrap();
    let second = scene.beat(&join("b", &["t"])).unwrap();
    assert_eq!(second.epoch, 2);
    assert_eq!(second.assignment, Some(Assignment::default()));
    assert_eq!(scene.state(), GroupState::Reconciling);

    let first = scene.beat(&beat("a", 1)).unwrap();
    assert_eq!(first.epoch, 1, "it has not let go");
    let kept = first.assignment.unwrap();
    assert_eq!(kept.len(), 2);
    let second = scene.beat(&beat("b", 2)).unwrap();
    assert_eq!(second.assignment, None, "they may still be in use");

    let first = scene.beat(&owning("a", 1, &kept)).unwrap();
    assert_eq!((first.epoch, first.assignment), (2, None));
    let second = scene.beat(&beat("b", 2)).unwrap();
    let rest = second.assignment.unwrap();
    assert!(!rest.intersects(&kept) && rest.len() == 2 && rest.is_subset(&parts(t, &[0, 1, 2, 3])));
    assert_eq!(scene.state(), GroupState::Stable);
}

#[test]
fn who_does_not_let_go_in_time_is_out() {
    let mut scene = Scene::new();
    scene.topics.create("t", 2);
    scene.beat(&join("a", &["t"])).unwrap();
    scene.beat(&join("b", &["t"])).unwrap();
    scene.beat(&beat("a", 1)).unwrap();
    scene.pass(Duration::from_secs(29));
    assert_eq!(scene.beat(&beat("b", 2)).unwrap().assignment, None);
    scene.pass(Duration::from_secs(1));
    assert_eq!(scene.beat(&beat("a", 1)), Err(GroupError::UnknownMemberId));
    let told = scene.beat(&beat("b", 2)).unwrap();
    assert_eq!(told.assignment.map(|a| a.len()), Some(2));
}

#[test]
fn silent_members_go_and_heard_ones_stay() {
    let mut scene = Scene::new();
    scene.topics.create("t", 2);
    scene.beat(&join("a", &["t"])).unwrap();
    scene.beat(&join("b", &["t"])).unwrap();
    scene.pass(SESSION - Duration::from_secs(1));
    scene.beat(&beat("b", 2)).unwrap();
    scene.pass(Duration::from_secs(1));
    let members = scene.described().members;
    assert_eq!(members.len(), 1);
    let told = scene.beat(&beat("b", 2)).unwrap();
    assert_eq!((told.epoch, told.assignment.map(|a| a.len())), (3, Some(2)));
    scene.pass(SESSION);
    assert_eq!(scene.state(), GroupState::Empty);
}

#[test]
fn epochs_are_checked_by_these_rules() {
    let mut scene = Scene::new();
    let t = scene.topics.create("t", 2);
    scene.beat(&join("a", &["t"])).unwrap();
    // A topic more: the member comes to epoch 2, and misses the answer.
    let u = scene.topics.create("u", 1);
    let both = ConsumerHeartbeat {
        topics: Some(vec!["u".into(), "t".into()]),
        ..beat("a", 1)
    };
    assert_eq!(scene.beat(&both).unwrap().epoch, 2);
    let fenced = Err(GroupError::FencedMemberEpoch);
    assert_eq!(scene.beat(&beat("a", 3)), fenced, "ahead");
    assert_eq!(
        scene.beat(&beat("a", 1)),
        fenced,
        "the one before, and says not what it owns"
    );
    let strange = owning("a", 1, &parts(u, &[7]));
    assert_eq!(scene.beat(&strange), fenced, "owns what it was not given");
    let missed = owning("a", 1, &parts(t, &[0, 1]));
    assert_eq!(scene.beat(&missed).unwrap().epoch, 2, "it missed an answer");
    assert_eq!(scene.beat(&beat("x", 1)), Err(GroupError::UnknownMemberId));
    // Fenced, it lets everything go and comes again under its id.
    let again = scene.beat(&join("a", &["t", "u"])).unwrap();
    assert_eq!(
        (again.epoch, again.assignment.map(|a| a.len())),
        (2, Some(3))
    );
}

#[test]
fn a_member_that_says_everything_is_told_everything() {
    let mut scene = Scene::new();
    let t = scene.topics.create("t", 2);
    scene.beat(&join("a", &["t"])).unwrap();
    let full = ConsumerHeartbeat {
        epoch: 1,
        owned: Some(parts(t, &[0, 1])),
        ..join("a", &["t"])
    };
    let told = scene.beat(&full).unwrap();
    assert_eq!((told.epoch, told.assignment), (1, Some(parts(t, &[0, 1]))));
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let mut scene = Scene::new();
    let good = join("a", &["t"]);
    type Spoil = fn(&mut ConsumerHeartbeat);
    let table: [(&str, Spoil); 11] = [
        ("no group", |r| r.group = "".into()),
        ("no member id", |r| r.member = "".into()),
        ("empty static id", |r| r.instance = Some("".into())),
        ("empty rack", |r| r.rack = Some("".into())),
        ("epoch below -2", |r| r.epoch = -3),
        ("leaves for a while, not static", |r| r.epoch = -2),
        ("no rebalance timeout", |r| r.rebalance_timeout_ms = -1),
        ("says not what it owns", |r| r.owned = None),
        ("owns already", |r| {
            r.owned = Some(parts(TopicId([1; 16]), &[0]))
        }),
        ("reads nothing", |r| r.topics = None),
        ("long id", |r| {
            r.member = "m".repeat(GROUP_ID_BYTES_MAX + 1).into()
        }),
    ];
    for (what, spoil) in table {
        let mut request = good.clone();
        spoil(&mut request);
        let refused = scene.beat(&request);
        assert!(
            matches!(refused, Err(GroupError::InvalidRequest(_))),
            "{what}: {refused:?}"
        );
    }
    let strange = ConsumerHeartbeat {
        assignor: Some("sticky".into()),
        ..good.clone()
    };
    let unsupported = GroupError::UnsupportedAssignor("sticky".into());
    assert_eq!(scene.beat(&strange), Err(unsupported));
    let pattern = ConsumerHeartbeat {
        regex: Some("(".into()),
        ..good.clone()
    };
    let refused = scene.beat(&pattern);
    assert!(
        matches!(refused, Err(GroupError::InvalidRegularExpression(_))),
        "{refused:?}"
    );
    let huge = ConsumerHeartbeat {
        topics: Some(vec!["t".repeat(GROUP_MEMBER_BYTES_MAX).into()]),
        ..good
    };
    let refused = scene.beat(&huge);
    assert!(
        matches!(refused, Err(GroupError::InvalidRequest(_))),
        "{refused:?}"
    );
    assert_eq!(
        scene.groups.list(&ListGroups::default()),
        [],
        "nothing is left of any of them"
    );
    assert_eq!(scene.beat(&beat("a", 1)), Err(GroupError::GroupIdNotFound));
}

#[test]
fn an_old_client_is_given_an_id() {
    let mut scene = Scene::new();
    let old = ConsumerHeartbeat {
        requires_member: false,
        ..join("", &["t"])
    };
    let told = scene.beat(&old).unwrap();
    assert!(!told.member.is_empty());
    assert_eq!(
        scene.beat(&beat(&told.member, told.epoch)).unwrap().epoch,
        1
    );
}

#[test]
fn a_group_takes_so_many_members_and_patterns() {
    let mut scene = Scene::with(GroupConfig {
        consumer_members_max: GROUP_REGEXES_MAX + 1,
        ..config()
    });
    let with = |member: &str, regex: &str| ConsumerHeartbeat {
        regex: Some(regex.into()),
        ..join(member, &[])
    };
    for n in 0..GROUP_REGEXES_MAX {
        scene
            .beat(&with(&format!("m{n}"), &format!("t{n}.*")))
            .unwrap();
    }
    let refused = scene.beat(&with("more", "other"));
    assert!(
        matches!(refused, Err(GroupError::InvalidRegularExpression(_))),
        "{refused:?}"
    );
    scene.beat(&with("more", "t0.*")).unwrap();
    assert_eq!(
        scene.beat(&join("full", &[])),
        Err(GroupError::GroupMaxSizeReached)
    );
}

#[test]
fn patterns_are_matched_again_when_topics_come_and_go() {
    let mut scene = Scene::new();
    let first = scene.topics.create("orders-1", 1);
    scene.topics.create("other", 1);
    let pattern = ConsumerHeartbeat {
        regex: Some("orders-.*".into()),
        topics: None,
        ..join("a", &[])
    };
    let told = scene.beat(&pattern).unwrap();
    assert_eq!(told.assignment, Some(parts(first, &[0])));
    let second = scene.topics.create("orders-2", 1);
    scene.topics_changed();
    let told = scene.beat(&beat("a", 1)).unwrap();
    let both: Assignment = parts(first, &[0])
        .iter()
        .chain(parts(second, &[0]).iter())
        .collect();
    assert_eq!((told.epoch, told.assignment), (2, Some(both)));
    scene.topics.delete("orders-1");
    scene.topics_changed();
    let told = scene.beat(&beat("a", 2)).unwrap();
    assert_eq!(told.assignment, Some(parts(second, &[0])));
    let told = scene.beat(&owning("a", 2, &parts(second, &[0]))).unwrap();
    assert_eq!(told.epoch, 3);
    scene.topics.create("unrelated", 1);
    scene.topics_changed();
    assert_eq!(scene.beat(&beat("a", 3)).unwrap().epoch, 3, "nothing to it");
}

#[test]
fn a_topic_that_grows_or_comes_late_is_assigned() {
    let mut scene = Scene::new();
    let told = scene.beat(&join("a", &["t"])).unwrap();
    assert_eq!(told.assignment, Some(Assignment::default()));
    let t = scene.topics.create("t", 1);
    scene.topics_changed();
    assert_eq!(
        scene.beat(&beat("a", 1)).unwrap().assignment,
        Some(parts(t, &[0]))
    );
    scene.topics.grow("t", 3);
    scene.topics_changed();
    assert_eq!(
        scene.beat(&beat("a", 2)).unwrap().assignment,
        Some(parts(t, &[0, 1, 2]))
    );
}

fn fixed(member: &str, instance: &str) -> ConsumerHeartbeat {
    ConsumerHeartbeat {
        instance: Some(instance.into()),
        ..join(member, &["t"])
    }
}

#[test]
fn a_static_member_that_comes_back_gets_its_partitions_and_nobody_else_moves() {
    let mut scene = Scene::new();
    scene.topics.create("t", 4);
    let one = scene.beat(&fixed("a", "one")).unwrap();
    scene.beat(&fixed("b", "two")).unwrap();
    assert_eq!(one.epoch, 1);
    let kept = scene.beat(&beat("a", 1)).unwrap().assignment.unwrap();
    scene.beat(&owning("a", 1, &kept)).unwrap();
    scene.beat(&beat("b", 2)).unwrap();

    let unreleased = Err(GroupError::UnreleasedInstanceId);
    assert_eq!(
        scene.beat(&fixed("a2", "one")),
        unreleased,
        "the first is still there"
    );
    let leaving = ConsumerHeartbeat {
        instance: Some("one".into()),
        ..beat("a", -2)
    };
    assert_eq!(scene.beat(&leaving).unwrap().epoch, -2);
    assert_eq!(
        scene.beat(&beat("b", 2)).unwrap().assignment,
        None,
        "they are kept for it"
    );
    let back = scene.beat(&fixed("a2", "one")).unwrap();
    assert_eq!((back.epoch, back.assignment), (2, Some(kept)));
    let stranger = ConsumerHeartbeat {
        instance: Some("one".into()),
        ..beat("a", 2)
    };
    assert_eq!(scene.beat(&stranger), Err(GroupError::FencedInstanceId));
    assert_eq!(scene.described().epoch, 2, "no rebalance");
}

#[test]
fn a_static_member_that_does_not_come_back_is_out_when_its_session_ends() {
    let mut scene = Scene::new();
    scene.topics.create("t", 2);
    scene.beat(&fixed("a", "one")).unwrap();
    let leaving = ConsumerHeartbeat {
        instance: Some("one".into()),
        ..beat("a", -2)
    };
    scene.beat(&leaving).unwrap();
    scene.beat(&join("b", &["t"])).unwrap();
    scene.pass(SESSION - Duration::from_secs(1));
    let told = scene.beat(&beat("b", 2)).unwrap();
    assert_eq!(told.assignment, None, "they are kept for it");
    scene.pass(Duration::from_secs(1));
    let told = scene.beat(&beat("b", 2)).unwrap();
    assert_eq!(told.assignment.map(|a| a.len()), Some(2));
}

#[test]
fn an_administrator_removes_static_members_alone() {
    let mut scene = Scene::new();
    scene.beat(&fixed("a", "one")).unwrap();
    let mut remove = |member: &str, instance: Option<&str>| {
        let request = LeaveGroup {
            group: "g".into(),
            members: vec![LeavingMember {
                member: member.into(),
                instance: instance.map(Arc::from),
                reason: None,
            }],
        };
        let out = scene.groups.handle_leave(CallId(9), &request, scene.now);
        match scene.take(out) {
            Some(Reply::LeaveGroup(Ok(left))) => left.members[0].result.clone(),
            other => panic!("answered with {other:?}"),
        }
    };
    assert_eq!(remove("a", None), Err(GroupError::UnknownMemberId));
    assert_eq!(remove("a", Some("one")), Err(GroupError::UnknownMemberId));
    assert_eq!(remove("b", Some("one")), Err(GroupError::FencedInstanceId));
    assert_eq!(remove("", Some("two")), Err(GroupError::UnknownMemberId));
    assert_eq!(remove("", Some("one")), Ok(()));
    assert_eq!(scene.state(), GroupState::Empty);
}

#[test]
fn members_leave_and_others_get_what_they_had() {
    let mut scene = Scene::new();
    scene.topics.create("t", 2);
    scene.beat(&join("a", &["t"])).unwrap();
    scene.beat(&join("b", &["t"])).unwrap();
    assert_eq!(scene.beat(&beat("a", -1)).unwrap().epoch, -1);
    assert_eq!(scene.state(), GroupState::Assigning);
    let told = scene.beat(&beat("b", 2)).unwrap();
    assert_eq!((told.epoch, told.assignment.map(|a| a.len())), (3, Some(2)));
    assert_eq!(scene.beat(&beat("a", -1)), Err(GroupError::UnknownMemberId));
}

#[test]
fn most_members_decide_on_the_assignor() {
    let mut scene = Scene::new();
    scene.topics.create("t", 6);
    assert_eq!(
        {
            scene.beat(&join("a", &["t"])).unwrap();
            scene.described().assignor
        },
        "uniform".into()
    );
    let wishes = |member: &str, assignor: &str| ConsumerHeartbeat {
        assignor: Some(assignor.into()),
        ..join(member, &["t"])
    };
    scene.beat(&wishes("b", "range")).unwrap();
    assert_eq!(scene.described().assignor, "range".into());
    scene.beat(&wishes("c", "uniform")).unwrap();
    scene.beat(&wishes("d", "uniform")).unwrap();
    assert_eq!(scene.described().assignor, "uniform".into());
}

#[test]
fn offsets_are_committed_and_fetched_in_the_members_epoch() {
    let mut scene = Scene::new();
    scene.beat(&join("a", &["t"])).unwrap();
    let stale = Err(GroupError::StaleMemberEpoch);
    assert_eq!(scene.commit("a", 1), Ok(()));
    assert_eq!(scene.commit("a", 0), stale);
    assert_eq!(scene.commit("a", 2), stale);
    assert_eq!(scene.commit("x", 1), Err(GroupError::UnknownMemberId));
    assert_eq!(scene.commit("", -1), Err(GroupError::UnknownMemberId));
    let fetch = |member: Option<(&str, i32)>| FetchOffsets {
        group: "g".into(),
        member: member.map(|(member, epoch)| (member.into(), epoch)),
        topics: None,
        require_stable: false,
    };
    let check = |member| scene.groups.check_fetch(&fetch(member));
    assert_eq!(check(None), Ok(()));
    assert_eq!(check(Some(("", -1))), Ok(()));
    assert_eq!(check(Some(("a", 1))), Ok(()));
    assert_eq!(check(Some(("a", 2))), stale);
    assert_eq!(check(Some(("x", 1))), Err(GroupError::UnknownMemberId));
    scene.beat(&beat("a", -1)).unwrap();
    assert_eq!(
        scene.commit("", -1),
        Ok(()),
        "an empty group takes simple commits"
    );
}

#[test]
fn kinds_of_groups_do_not_mix_but_an_empty_one_may_become_the_other() {
    let mut scene = Scene::new();
    scene.beat(&join("a", &["t"])).unwrap();
    assert_eq!(
        scene.join_classic(""),
        Err(GroupError::InconsistentGroupProtocol)
    );
    let heartbeat = Heartbeat {
        group: "g".into(),
        generation: 1,
        member: "a".into(),
        instance: None,
    };
    let refused = scene.groups.handle_heartbeat(&heartbeat, scene.now);
    assert_eq!(refused, Err(GroupError::UnknownMemberId));
    assert_eq!(scene.groups.describe("g"), Err(GroupError::GroupIdNotFound));
    assert_eq!(
        scene.groups.check_delete("g"),
        Err(GroupError::NonEmptyGroup)
    );
    let of = |scene: &Scene, group_type: &str| {
        let filters = ListGroups {
            types: vec![group_type.to_owned()],
            ..ListGroups::default()
        };
        scene.groups.list(&filters).len()
    };
    assert_eq!((of(&scene, "consumer"), of(&scene, "classic")), (1, 0));

    scene.beat(&beat("a", -1)).unwrap();
    assert_eq!(
        scene.join_classic("known"),
        Err(GroupError::UnknownMemberId)
    );
    assert_eq!(scene.join_classic(""), Ok(()));
    assert_eq!((of(&scene, "consumer"), of(&scene, "classic")), (0, 1));
    let refused = scene.beat(&join("a", &["t"]));
    assert_eq!(refused, Err(GroupError::GroupIdNotFound), "it has members");
    scene.pass(Duration::from_secs(600));
    scene.row = ConsumerGroupRow::default();
    assert_eq!(scene.beat(&beat("a", 1)), Err(GroupError::GroupIdNotFound));
    assert_eq!(scene.beat(&join("a", &["t"])).unwrap().epoch, 1);
}

#[test]
fn another_leader_goes_on_with_the_same_epochs_and_assignments() {
    let mut scene = Scene::new();
    scene.topics.create("t", 4);
    scene.beat(&join("a", &["t"])).unwrap();
    scene.beat(&join("b", &["t"])).unwrap();
    let kept = scene.beat(&beat("a", 1)).unwrap().assignment.unwrap();
    let before = scene.described();
    scene.restart(config());
    assert_eq!(scene.described(), before);
    let told = scene.beat(&beat("b", 2)).unwrap();
    assert_eq!(
        (told.epoch, told.assignment),
        (2, None),
        "the first has not let go"
    );
    let told = scene.beat(&owning("a", 1, &kept)).unwrap();
    assert_eq!(told.epoch, 2);
    assert_eq!(
        scene
            .beat(&beat("b", 2))
            .unwrap()
            .assignment
            .map(|a| a.len()),
        Some(2)
    );
    scene.restart(config());
    let changes = scene.changes;
    for member in ["a", "b"] {
        let told = scene.beat(&beat(member, 2)).unwrap();
        assert_eq!((told.epoch, told.assignment), (2, None));
    }
    assert_eq!(
        scene.changes, changes,
        "nothing has changed, so nothing is written"
    );
    scene.pass(SESSION);
    assert_eq!(scene.state(), GroupState::Empty, "sessions go on as well");
}
