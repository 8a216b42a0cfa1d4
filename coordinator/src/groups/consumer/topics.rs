//! Which topics members read: by name, and by regular expression (RE2's kind: no look-around, no
//! back-references, time linear in the name).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_proto::cluster::GroupError;
use firn_proto::ids::TopicId;
use firn_proto::limits::{GROUP_REGEX_BYTES_MAX, GROUP_REGEX_PROGRAM_BYTES_MAX};
use regex::{Regex, RegexBuilder};

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
    /// Rises with each topic that comes, goes or grows.
    pub(in crate::groups) version: u64,
    pub(in crate::groups) source: &'a dyn TopicSource,
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

    /// Matches each pattern once for each version of the topics.
    fn match_topics<'a>(
        &mut self,
        members: impl Iterator<Item = (&'a Arc<str>, &'a ConsumerSubscription)>,
        topics: SeenTopics<'_>,
    ) {
        if self.is_stale(topics.version) {
            self.matched.clear();
            self.seen = Some(topics.version);
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

    /// The topics of a pattern.
    pub(super) fn matches(&self, regex: &str, topics: SeenTopics<'_>) -> BTreeSet<TopicId> {
        match self.matched.get(regex) {
            Some(known) if !self.is_stale(topics.version) => known.clone(),
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
    let matching = named.filter(|(name, _, _)| regex.is_match(name));
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
    // By itself first: "a)|(b" must not become valid by what is put around it.
    bounded(text)?;
    bounded(&format!(r"\A(?:{text})\z")).map(Some)
}

fn bounded(text: &str) -> Result<Regex, Box<regex::Error>> {
    let mut builder = RegexBuilder::new(text);
    builder
        .size_limit(GROUP_REGEX_PROGRAM_BYTES_MAX)
        .dfa_size_limit(GROUP_REGEX_PROGRAM_BYTES_MAX);
    builder.build().map_err(Box::new)
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
            ("", "", false),
        ];
        for (text, name, expected) in table {
            let regex = compile(text).unwrap();
            let matches = regex.is_some_and(|regex| regex.is_match(name));
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
            "[",
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
}
