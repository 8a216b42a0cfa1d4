//! `uniform`: members get as many partitions as one another, and keep what they have as far as that
//! allows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use firn_proto::cluster::Assignment;
use firn_proto::ids::{TopicId, TopicPartition};

use super::Assigning;

/// How often loads are levelled at most: it is nearly always over after the second time, and must
/// not keep the coordinator busy for long where it is not.
const LEVEL_ROUNDS_MAX: usize = 32;

pub(super) fn assign(group: &Assigning<'_>) -> BTreeMap<Arc<str>, Assignment> {
    let mut all = group.members.values();
    let Some(first) = all.next() else {
        return BTreeMap::new();
    };
    let alike = |topics: &Arc<BTreeSet<TopicId>>| {
        Arc::ptr_eq(topics, &first.topics) || *topics == first.topics
    };
    if all.all(|member| alike(&member.topics)) {
        even(group, &first.topics)
    } else {
        Fair::new(group).assign(group)
    }
}

/// A member that gets more.
struct Hungry<'a> {
    id: &'a Arc<str>,
    room: usize,
    /// Whether it is one of those that get one more than the others.
    more: bool,
}

/// All read the same topics: nobody gets two partitions more than another.
fn even(group: &Assigning<'_>, topics: &BTreeSet<TopicId>) -> BTreeMap<Arc<str>, Assignment> {
    let mut free: Assignment = topics
        .iter()
        .flat_map(|topic| group.partitions_of(*topic))
        .collect();
    let least = free.len() / group.members.len();
    let mut longer = free.len() % group.members.len();
    let mut targets = BTreeMap::new();
    let mut hungry = Vec::with_capacity(group.members.len());
    for (id, member) in &group.members {
        let held: Vec<_> = member
            .before
            .iter()
            .filter(|tp| free.contains(*tp))
            .collect();
        let more = held.len() > least && longer > 0;
        longer -= usize::from(more);
        let quota = least + usize::from(more);
        let kept: Assignment = held.into_iter().take(quota).collect();
        for tp in kept.iter() {
            free.remove(tp);
        }
        let room = quota - kept.len();
        hungry.push(Hungry { id, room, more });
        targets.insert(Arc::clone(id), kept);
    }
    for member in hungry.iter_mut().filter(|member| !member.more).take(longer) {
        member.room += 1;
    }
    deal(&free, hungry, &mut targets);
    targets
}

/// Deals free partitions out one by one, so that those of one topic come to many members.
fn deal(free: &Assignment, hungry: Vec<Hungry<'_>>, targets: &mut BTreeMap<Arc<str>, Assignment>) {
    let mut queue: VecDeque<_> = hungry.into_iter().filter(|m| m.room > 0).collect();
    for tp in free.iter() {
        let Some(mut member) = queue.pop_front() else {
            return;
        };
        if let Some(target) = targets.get_mut(member.id) {
            target.insert(tp);
        }
        member.room -= 1;
        if member.room > 0 {
            queue.push_back(member);
        }
    }
}

/// Members read different topics, so that some may have to get more than others: no partition is
/// with a member that has two more than another one that reads it.
struct Fair {
    /// Who reads each topic, as places in the order of the members.
    readers: BTreeMap<TopicId, Vec<usize>>,
    /// How many partitions each member has.
    loads: Vec<usize>,
    /// Who has each partition.
    holders: BTreeMap<TopicPartition, usize>,
}

impl Fair {
    /// Everybody keeps what it had and still reads.
    fn new(group: &Assigning<'_>) -> Self {
        let mut fair = Self {
            readers: BTreeMap::new(),
            loads: vec![0; group.members.len()],
            holders: BTreeMap::new(),
        };
        for (at, member) in group.members.values().enumerate() {
            for topic in member.topics.iter() {
                fair.readers.entry(*topic).or_default().push(at);
            }
            for tp in member.before.iter() {
                let reads = member.topics.contains(&tp.topic) && group.exists(tp);
                if reads && !fair.holders.contains_key(&tp) {
                    fair.holders.insert(tp, at);
                    fair.loads[at] += 1;
                }
            }
        }
        fair
    }

    fn assign(mut self, group: &Assigning<'_>) -> BTreeMap<Arc<str>, Assignment> {
        // Those with the fewest readers have the least choice.
        let mut topics: Vec<_> = self.readers.keys().copied().collect();
        topics.sort_by_key(|topic| (self.readers[topic].len(), *topic));
        for topic in &topics {
            self.give(group, *topic);
        }
        for _ in 0..LEVEL_ROUNDS_MAX {
            let moves: usize = topics.iter().map(|topic| self.level(group, *topic)).sum();
            if moves == 0 {
                break;
            }
        }
        let ids: Vec<_> = group.members.keys().collect();
        let mut targets = vec![Assignment::default(); ids.len()];
        for (tp, at) in &self.holders {
            targets[*at].insert(*tp);
        }
        let named = ids.into_iter().zip(targets);
        named.map(|(id, target)| (Arc::clone(id), target)).collect()
    }

    /// The readers of a topic by load.
    fn by_load(&self, topic: TopicId) -> BTreeSet<(usize, usize)> {
        let readers = self.readers[&topic].iter();
        readers.map(|at| (self.loads[*at], *at)).collect()
    }

    /// Gives the partitions of a topic that nobody has to those that have the least.
    fn give(&mut self, group: &Assigning<'_>, topic: TopicId) {
        let mut by_load = self.by_load(topic);
        for tp in group.partitions_of(topic) {
            if self.holders.contains_key(&tp) {
                continue;
            }
            let Some((load, at)) = by_load.pop_first() else {
                return;
            };
            self.holders.insert(tp, at);
            self.loads[at] = load + 1;
            by_load.insert((load + 1, at));
        }
    }

    /// Moves partitions of a topic from those that have the most to those that have the least, and
    /// says how many.
    fn level(&mut self, group: &Assigning<'_>, topic: TopicId) -> usize {
        let mut by_load = self.by_load(topic);
        let mut held: BTreeMap<usize, Vec<TopicPartition>> = BTreeMap::new();
        for tp in group.partitions_of(topic) {
            if let Some(at) = self.holders.get(&tp) {
                held.entry(*at).or_default().push(tp);
            }
        }
        let holders = held.keys().map(|at| (self.loads[*at], *at));
        let mut holders: BTreeSet<_> = holders.collect();
        let mut moves = 0;
        while let (Some((most, from)), Some((least, to))) =
            (holders.last().copied(), by_load.first().copied())
        {
            if most <= least + 1 {
                break;
            }
            let Some(tp) = held.get_mut(&from).and_then(Vec::pop) else {
                holders.remove(&(most, from));
                continue;
            };
            by_load.remove(&(most, from));
            by_load.insert((most - 1, from));
            holders.remove(&(most, from));
            holders.insert((most - 1, from));
            by_load.remove(&(least, to));
            by_load.insert((least + 1, to));
            holders.remove(&(least, to));
            holders.insert((least + 1, to));
            held.entry(to).or_default().push(tp);
            self.holders.insert(tp, to);
            self.loads[from] -= 1;
            self.loads[to] += 1;
            moves += 1;
        }
        moves
    }
}
