//! The topics in a consumer's subscription (Kafka's `ConsumerProtocolSubscription`, all versions).

use std::collections::BTreeSet;

/// The topics that the metadata of a `consumer` protocol names; none if it cannot be read.
pub(super) fn subscribed_topics(metadata: &[u8]) -> Option<BTreeSet<String>> {
    let (_version, rest) = metadata.split_first_chunk::<2>()?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let count = usize::try_from(i32::from_be_bytes(*count)).ok()?;
    let mut topics = BTreeSet::new();
    for _ in 0..count {
        let (len, tail) = rest.split_first_chunk::<2>()?;
        let len = usize::try_from(i16::from_be_bytes(*len)).ok()?;
        let (name, tail) = tail.split_at_checked(len)?;
        topics.insert(String::from_utf8(name.to_vec()).ok()?);
        rest = tail;
    }
    Some(topics)
}
