//! What the tests of this module share.

use bytes::Bytes;
use firn_proto::env::{Clock, Mono};
use firn_proto::ids::{ClusterId, Slot, StreamId};

use super::StreamName;
use super::slot::{Nonce, SlotBody, SlotHeader, seal_object};

pub(super) const CLUSTER: ClusterId = ClusterId([0xc1; 16]);

pub(super) fn name() -> StreamName {
    StreamName::wal(CLUSTER, StreamId(7))
}

pub(super) fn nonce(number: u64) -> Nonce {
    Nonce::from_random(u128::from(number) + 1)
}

pub(super) fn body(text: &str) -> SlotBody {
    SlotBody::new(
        Bytes::from(format!("index of {text}")),
        vec![Bytes::from(text.to_owned()), Bytes::from_static(b"!")],
    )
}

/// The object of a data slot, in one piece.
pub(super) fn data_object(slot: u64, own: Nonce, before: Nonce) -> Bytes {
    let parts = body(&format!("slot {slot}")).into_object(&name(), Slot(slot), own, before);
    parts.concat().into()
}

pub(super) fn data_header(slot: u64, own: Nonce, before: Nonce) -> SlotHeader {
    SlotHeader::decode(&data_object(slot, own, before)).unwrap()
}

pub(super) fn seal_header(slot: u64, own: Nonce) -> SlotHeader {
    SlotHeader::decode(&seal_object(&name(), Slot(slot), own)).unwrap()
}

/// tokio's clock, which tests pause.
pub(crate) struct TokioClock(tokio::time::Instant);

impl TokioClock {
    pub(crate) fn new() -> Self {
        Self(tokio::time::Instant::now())
    }
}

impl Clock for TokioClock {
    fn wall_ms(&self) -> i64 {
        i64::try_from(self.0.elapsed().as_millis()).unwrap()
    }

    fn mono(&self) -> Mono {
        Mono(u64::try_from(self.0.elapsed().as_micros()).unwrap())
    }
}
