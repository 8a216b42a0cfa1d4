//! Member ids that were given out and have not joined (KIP-394).

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_proto::env::Mono;
use firn_proto::limits::GROUP_ENTRY_BYTES;

/// The promised members of one group.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Each with the end of its patience.
    until: BTreeMap<Arc<str>, Mono>,
    bytes: usize,
}

impl Pending {
    pub(super) fn insert(&mut self, id: Arc<str>, until: Mono) {
        let bytes = entry_bytes(&id);
        if self.until.insert(id, until).is_none() {
            self.bytes += bytes;
        }
    }

    /// True if it was there.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        let removed = self.until.remove(id).is_some();
        if removed {
            self.bytes -= entry_bytes(id);
        }
        removed
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.until.contains_key(id)
    }

    pub(super) fn len(&self) -> usize {
        self.until.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.until.is_empty()
    }

    /// What they make the group hold.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The ends of their patience.
    pub(super) fn ends(&self) -> impl Iterator<Item = Mono> {
        self.until.values().copied()
    }

    /// Forgets who has not come by `now`.
    pub(super) fn drop_silent(&mut self, now: Mono) {
        self.until.retain(|_, until| *until > now);
        self.bytes = self.until.keys().map(|id| entry_bytes(id)).sum();
    }
}

fn entry_bytes(id: &str) -> usize {
    id.len() + GROUP_ENTRY_BYTES
}
