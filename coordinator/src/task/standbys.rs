//! What the leader tells standbys of its journal: every slot once it is durable, and the state when
//! one of them wants it.

use bytes::Bytes;
use firn_proto::limits::STANDBY_STATE_BYTES_MAX;
use tracing::warn;

use super::Leader;
use crate::snapshot::encode_snapshot;

impl Leader {
    /// The bytes of the state as it is now, if a standby wants it, for the time when that is durable.
    pub(super) fn wanted_state(&self) -> Option<Bytes> {
        let feed = self.brokers.feed();
        let on_its_way = self.flights.iter().any(|flight| flight.snapshot.is_some());
        if !feed.wants_state() || on_its_way {
            return None;
        }
        if self.snapshot_bytes > STANDBY_STATE_BYTES_MAX {
            // It has just become that long, or was before: that takes seconds to find out again.
            feed.show_none();
            return None;
        }
        match encode_snapshot(&self.state) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                warn!(%error, "standbys are not sent the state; they read it from the bucket");
                feed.show_none();
                None
            }
        }
    }

    /// Shows the state to standbys that want it, if all of it is durable.
    pub(super) fn show_state(&self) {
        if !self.slot.is_empty() || !self.flights.is_empty() {
            return;
        }
        if let Some(state) = self.wanted_state() {
            self.brokers.feed().show_state(state);
        }
    }
}
