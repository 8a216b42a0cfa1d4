//! Which topics members read: by name, and by regular expression (RE2's kind: no look-around, no
//! back-references, time linear in the name). Names of topics are ASCII, and so are the classes of
//! expressions: those of Unicode take long to make, and match nothing more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use firn_proto::cluster::GroupError;
use firn_proto::ids::TopicId;
use firn_proto::limits::{
    GROUP_REGEX_BYTES_MAX, GROUP_REGEX_MEMORY_BYTES_MAX, GROUP_REGEX_PROGRAM_BYTES_MAX,
    GROUP_TOPIC_CHANGES_MAX,
};
use regex::bytes::{Regex, RegexBuilder};

use crate::command::ConsumerSubscription;

/// The topics there are.
pub trait TopicSource {
    /// A topic and how many partitions it has.
    fn named(&self, name: &str) -> Option<(TopicId, i32)>;

    /// The name of a topic.
    fn name_of(&self, topic: TopicId) -> Option<Arc<str>>;

    /// Every topic: name, id, number of partitions.
    fn all(&self) -> Box<dyn Iterator<Item = (&Arc<str>, TopicId, i32)> + '_>;
}

/// The topics at one version of them.
#[derive(Clone, Copy)]
pub(in crate::groups) struct SeenTopics<'a> {
    pub(in crate::groups) changes: &'a TopicChanges,
    pub(in crate::groups) source: &'a dyn TopicSource,
}

impl SeenTopics<'_> {
    /// Rises with each topic that comes, goes or grows.
    pub(super) fn version(&self) -> u64 {
        self.changes.version
    }
}

/// Which topics have come, gone or grown lately.
#[derive(Clone, Debug, Default)]
pub(in crate::groups) struct TopicChanges {
    version: u64,
    /// Each with the version that it led to.
    kept: VecDeque<(u64, TopicId)>,
    /// Some changes that led to this version, and those before, are not kept.
    dropped: u64,
}

impl TopicChanges {
    /// These have changed.
    pub(in crate::groups) fn note(&mut self, topics: &BTreeSet<TopicId>) {
        self.version += 1;
        let noted = topics.iter().map(|topic| (self.version, *topic));
        self.kept.extend(noted);
        while self.kept.len() > GROUP_TOPIC_CHANGES_MAX {
            self.dropped = self.kept.pop_front().map_or(self.dropped, |(at, _)| at);
        }
    }

    /// Those that have changed since a version; `None`: that is too long ago.
    fn since(&self, version: u64) -> Option<impl Iterator<Item = TopicId>> {
        let first = self.kept.partition_point(|(at, _)| *at <= version);
        let is_kept = version >= self.dropped;
        is_kept.then(|| self.kept.range(first..).map(|(_, topic)| *topic))
    }
}

/// What the patterns of a group match.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    /// The version of the topics that was matched.
    seen: Option<u64>,
    matched: BTreeMap<Arc<str>, BTreeSet<TopicId>>,
}

/// What the members of a group read.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Per member.
    pub(super) by_member: BTreeMap<Arc<str>, Arc<BTreeSet<TopicId>>>,
    /// How many partitions each topic has that a member reads.
    pub(super) partitions: BTreeMap<TopicId, i32>,
}

impl Reads {
    /// A hash of the topics and their numbers of partitions; the same in every release (FNV-1a).
    pub(super) fn hash(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for (topic, partitions) in &self.partitions {
            for byte in topic.0.iter().chain(&partitions.to_le_bytes()) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        hash
    }
}

impl Patterns {
    /// Whether the topics have changed since they were matched.
    pub(super) fn is_stale(&self, version: u64) -> bool {
        self.seen != Some(version)
    }

    /// What each of these members reads now.
    pub(super) fn resolve<'a>(
        &mut self,
        members: impl Iterator<Item = (&'a Arc<str>, &'a ConsumerSubscription)> + Clone,
        topics: SeenTopics<'_>,
    ) -> Reads {
        self.match_topics(members.clone(), topics);
        let mut reads = Reads::default();
        let mut alike: BTreeMap<_, Arc<BTreeSet<TopicId>>> = BTreeMap::new();
        for (id, subscription) in members {
            let said = (&subscription.topics, &subscription.regex);
            let read = alike
                .entry(said)
                .or_insert_with(|| Arc::new(self.read_by(subscription, topics, &mut reads)));
            reads.by_member.insert(Arc::clone(id), Arc::clone(read));
        }
        reads
    }

    fn read_by(
        &self,
        subscription: &ConsumerSubscription,
        topics: SeenTopics<'_>,
        reads: &mut Reads,
    ) -> BTreeSet<TopicId> {
        let named = subscription.topics.iter();
        let named = named.filter_map(|name| topics.source.named(name));
        let matched = subscription.regex.as_ref();
        let matched = matched.and_then(|regex| self.matched.get(regex));
        let matched = matched.into_iter().flatten().filter_map(|topic| {
            let name = topics.source.name_of(*topic)?;
            topics.source.named(&name)
        });
        let read: BTreeMap<_, _> = named.chain(matched).collect();
        let ids = read.keys().copied().collect();
        reads.partitions.extend(read);
        ids
    }

    /// Matches each pattern once with each topic, as long as it is known which ones are new.
    fn match_topics<'a>(
        &mut self,
        members: impl Iterator<Item = (&'a Arc<str>, &'a ConsumerSubscription)>,
        topics: SeenTopics<'_>,
    ) {
        if self.is_stale(topics.version()) {
            let changed = self.seen.and_then(|seen| topics.changes.since(seen));
            match changed {
                Some(changed) => self.match_changed(&changed.collect(), topics),
                None => self.matched.clear(),
            }
            self.seen = Some(topics.version());
        }
        let wanted: BTreeSet<_> = members
            .filter_map(|(_, said)| said.regex.as_ref())
            .collect();
        self.matched.retain(|regex, _| wanted.contains(regex));
        for text in wanted {
            if !self.matched.contains_key(text) {
                self.matched.insert(Arc::clone(text), matched(text, topics));
            }
        }
    }

    fn match_changed(&mut self, changed: &BTreeSet<TopicId>, topics: SeenTopics<'_>) {
        for (text, matched) in &mut self.matched {
            let regex = compile(text).ok().flatten();
            for topic in changed {
                let name = topics.source.name_of(*topic);
                let is_match = |name: &Arc<str>| {
                    let regex = regex.as_ref();
                    regex.is_some_and(|regex| regex.is_match(name.as_bytes()))
                };
                match name.as_ref().is_some_and(is_match) {
                    true => matched.insert(*topic),
                    false => matched.remove(topic),
                };
            }
        }
    }

    /// The topics of a pattern.
    pub(super) fn matches(&self, regex: &str, topics: SeenTopics<'_>) -> BTreeSet<TopicId> {
        match self.matched.get(regex) {
            Some(known) if !self.is_stale(topics.version()) => known.clone(),
            _ => matched(regex, topics),
        }
    }
}

fn matched(text: &str, topics: SeenTopics<'_>) -> BTreeSet<TopicId> {
    // One that was checked before is not refused now; if a later release refuses it, it reads
    // nothing.
    let Ok(Some(regex)) = compile(text) else {
        return BTreeSet::new();
    };
    let named = topics.source.all();
    let matching = named.filter(|(name, _, _)| regex.is_match(name.as_bytes()));
    matching.map(|(_, id, _)| id).collect()
}

/// Says what is wrong with a pattern.
pub(super) fn check_regex(text: &str) -> Result<(), GroupError> {
    if text.len() > GROUP_REGEX_BYTES_MAX {
        return Err(GroupError::InvalidRegularExpression(format!(
            "the regular expression has {} bytes; at most {GROUP_REGEX_BYTES_MAX} are allowed",
            text.len()
        )));
    }
    compile(text).map(drop).map_err(|error| {
        GroupError::InvalidRegularExpression(format!("the regular expression is refused: {error}"))
    })
}

/// The pattern, which must match whole names; none if it is empty, which matches nothing.
fn compile(text: &str) -> Result<Option<Regex>, Box<regex::Error>> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Some(flag) = foreign_flag(text) {
        let reason = format!("it has the flag {flag}; those of RE2 are taken: i, m, s and U");
        return Err(Box::new(regex::Error::Syntax(reason)));
    }
    // By itself first: "a)|(b" must not become valid by what is put around it.
    bounded(text)?;
    bounded(&format!(r"\A(?:{text})\z")).map(Some)
}

fn bounded(text: &str) -> Result<Regex, Box<regex::Error>> {
    let mut builder = RegexBuilder::new(text);
    builder
        .unicode(false)
        .size_limit(GROUP_REGEX_PROGRAM_BYTES_MAX)
        .dfa_size_limit(GROUP_REGEX_MEMORY_BYTES_MAX);
    builder.build().map_err(Box::new)
}

/// A flag that RE2 does not have. One turns classes of Unicode on again, which are not bounded by the
/// size of a program: a program of many is long in the making. Another one lets it be hidden.
fn foreign_flag(text: &str) -> Option<char> {
    let mut groups = text.match_indices("(?");
    groups.find_map(|(at, opening)| {
        let is_escaped = text[..at].bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1;
        let mut flags = text[at + opening.len()..].chars();
        let foreign = flags.find(|flag| !"imsU-".contains(*flag));
        foreign.filter(|flag| !is_escaped && flag.is_ascii_alphabetic() && *flag != 'P')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        let table = [
            ("a|ab", "ab", true),
            ("a|ab", "abc", false),
            ("orders.*", "orders-1", true),
            ("orders", "orders-1", false),
            ("(?i)ORDERS", "orders", true),
            ("(?P<kind>\\w+)[._-]\\d{1,9}", "orders_v2-17", true),
            ("[^x]*(?s-i:.)\\S+", "orders", true),
            ("\\(?u", "u", true),
            ("", "", false),
        ];
        for (text, name, expected) in table {
            let regex = compile(text).unwrap();
            let matches = regex.is_some_and(|regex| regex.is_match(name.as_bytes()));
            assert_eq!(matches, expected, "{text:?} {name:?}");
        }
    }

    #[test]
    fn what_is_no_pattern_or_costs_too_much_is_refused() {
        let long = "a".repeat(GROUP_REGEX_BYTES_MAX + 1);
        for text in [
            "(",
            "a)|(b",
            "(?=a)",
            r"(a)\1",
            "(?:a{1000}){1000}",
            "(?:a{30}){30}",
            "[",
            r"(?u)\p{L}",
            "(?iu:a)",
            "(?x) ( ?u: a)",
            r"\p{Greek}",
            &long,
        ] {
            let refused = check_regex(text);
            assert!(
                matches!(refused, Err(GroupError::InvalidRegularExpression(_))),
                "{text:?}: {refused:?}"
            );
        }
        assert_eq!(check_regex(""), Ok(()));
    }

    /// Topics by name, which counts how often all of them are looked at.
    #[derive(Default)]
    struct Counted {
        names: BTreeMap<Arc<str>, TopicId>,
        looks: std::cell::Cell<usize>,
    }

    impl TopicSource for Counted {
        fn named(&self, name: &str) -> Option<(TopicId, i32)> {
            self.names.get(name).map(|id| (*id, 1))
        }

        fn name_of(&self, topic: TopicId) -> Option<Arc<str>> {
            let mut names = self.names.iter();
            names
                .find(|(_, id)| **id == topic)
                .map(|(name, _)| Arc::clone(name))
        }

        fn all(&self) -> Box<dyn Iterator<Item = (&Arc<str>, TopicId, i32)> + '_> {
            self.looks.set(self.looks.get() + 1);
            Box::new(self.names.iter().map(|(name, id)| (name, *id, 1)))
        }
    }

    #[test]
    fn a_topic_that_comes_or_goes_is_matched_without_all_others() {
        let mut source = Counted::default();
        let mut changes = TopicChanges::default();
        let mut patterns = Patterns::default();
        let member: Arc<str> = "m".into();
        let said = ConsumerSubscription {
            regex: Some("orders.*".into()),
            ..ConsumerSubscription::default()
        };
        let topic = |n: u8| TopicId([n; 16]);
        let mut expected = BTreeSet::new();
        for n in 0..100 {
            let name = if n % 3 == 0 { "orders" } else { "other" };
            source.names.insert(format!("{name}-{n}").into(), topic(n));
            changes.note(&[topic(n)].into());
            if n % 3 == 0 {
                expected.insert(topic(n));
            }
            if n == 60 {
                source.names.remove("orders-30");
                changes.note(&[topic(30)].into());
                expected.remove(&topic(30));
            }
            let topics = SeenTopics {
                changes: &changes,
                source: &source,
            };
            let reads = patterns.resolve([(&member, &said)].into_iter(), topics);
            assert_eq!(*reads.by_member[&member], expected, "{n}");
        }
        assert_eq!(source.looks.get(), 1);
    }

    #[test]
    fn whoever_has_missed_many_changes_matches_everything_again() {
        let mut changes = TopicChanges::default();
        let topic = |n: usize| {
            let mut id = TopicId::default();
            id.0[..8].copy_from_slice(&n.to_le_bytes());
            id
        };
        assert_eq!(changes.since(0).map(Iterator::count), Some(0));
        for n in 0..2 * GROUP_TOPIC_CHANGES_MAX {
            changes.note(&[topic(n)].into());
        }
        let kept = GROUP_TOPIC_CHANGES_MAX as u64;
        assert_eq!(changes.kept.len() as u64, kept);
        assert!(changes.since(kept - 1).is_none());
        let missed = changes.since(kept).unwrap();
        assert_eq!(missed.count() as u64, kept);
    }
}
