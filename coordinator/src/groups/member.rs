//! A member of a classic group, and what it takes.

use std::sync::Arc;
use std::time::Duration;

use firn_proto::cluster::{JoinGroup, Protocol};
use firn_proto::env::Mono;
use firn_proto::limits::GROUP_ENTRY_BYTES;

use super::{CallId, millis};

/// A member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) instance: Option<Arc<str>>,
    pub(super) client_id: Arc<str>,
    pub(super) client_host: Arc<str>,
    pub(super) session_timeout_ms: i32,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) protocols: Vec<Protocol>,
    pub(super) assignment: Arc<[u8]>,
    /// When its silence puts it out; none while a call of it waits here.
    pub(super) deadline: Option<Mono>,
    pub(super) joining: Option<CallId>,
    pub(super) syncing: Option<CallId>,
}

impl Member {
    pub(super) fn session(&self) -> Duration {
        millis(self.session_timeout_ms)
    }

    /// What it says in a protocol.
    pub(super) fn metadata(&self, protocol: &str) -> Arc<[u8]> {
        let offer = self.protocols.iter().find(|offer| *offer.name == *protocol);
        offer.map_or_else(|| Arc::from([]), |offer| Arc::clone(&offer.metadata))
    }

    /// What a member of this id makes its group hold.
    pub(super) fn bytes(&self, id: &str) -> usize {
        let instance = self.instance.as_ref().map_or(0, |id| id.len());
        let names = id.len() + instance + self.client_id.len() + self.client_host.len();
        GROUP_ENTRY_BYTES + names + protocol_bytes(&self.protocols)
    }
}

/// Size of what a member says, in bytes.
fn protocol_bytes(protocols: &[Protocol]) -> usize {
    let sizes = protocols.iter().map(|p| p.name.len() + p.metadata.len());
    sizes.sum()
}

/// What the member that a call asks to be makes its group hold.
pub(super) fn join_bytes(request: &JoinGroup) -> usize {
    let instance = request.instance.as_ref().map_or(0, |id| id.len());
    let id = match request.member.len() {
        0 => instance.max(request.client_id.len()) + UUID_BYTES,
        given => given,
    };
    let names = id + instance + request.client_id.len() + request.client_host.len();
    GROUP_ENTRY_BYTES + names + protocol_bytes(&request.protocols)
}

/// What is put behind a name to make it the id of a member.
const UUID_BYTES: usize = 37;
