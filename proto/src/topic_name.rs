//! What a topic may be called (Kafka's `Topic.validate`), and which names collide.

use thiserror::Error;

/// Longest name, in characters: with a partition number behind it, it still fits a file name.
pub const TOPIC_NAME_CHARS_MAX: usize = 249;

/// Why a text is no topic name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopicNameError {
    /// A character outside `[A-Za-z0-9._-]`.
    #[error("topic name holds {0:?}; allowed are ASCII letters, digits, '.', '_' and '-'")]
    Character(char),
    /// "." or "..".
    #[error("topic name cannot be '.' or '..'")]
    Dots,
    /// No character at all.
    #[error("topic name is empty")]
    Empty,
    /// More than [`TOPIC_NAME_CHARS_MAX`].
    #[error("topic name has {0} characters; at most {TOPIC_NAME_CHARS_MAX} are allowed")]
    Long(usize),
}

/// Says whether `name` may name a topic.
pub fn check_topic_name(name: &str) -> Result<(), TopicNameError> {
    if name.is_empty() {
        return Err(TopicNameError::Empty);
    }
    if name == "." || name == ".." {
        return Err(TopicNameError::Dots);
    }
    if name.len() > TOPIC_NAME_CHARS_MAX {
        return Err(TopicNameError::Long(name.chars().count()));
    }
    let stranger = |c: &char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    match name.chars().find(stranger) {
        Some(c) => Err(TopicNameError::Character(c)),
        None => Ok(()),
    }
}

/// The form in which two names collide: metrics spell '.' and '_' alike, so Kafka refuses a topic
/// that differs from another in nothing else.
pub fn collision_key(name: &str) -> String {
    name.replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_as_kafka_judges_them() {
        for good in ["a", "A.b_c-9", "...", &"x".repeat(249)] {
            assert_eq!(check_topic_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "ä", "a\0", &"x".repeat(250)] {
            assert!(check_topic_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn dots_and_underscores_collide() {
        assert_eq!(collision_key("a.b_c"), collision_key("a_b.c"));
        assert_ne!(collision_key("a.b"), collision_key("a-b"));
    }
}
