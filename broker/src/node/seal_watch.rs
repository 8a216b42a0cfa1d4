//! Whether others have taken this process for dead. Its stream is sealed then, which it learns when
//! it next writes; one that has nothing to write looks, while it is not known that nobody else leads. One
//! that leads, or is about to, is no exception: it may have stood still, and another leads by now.

use std::sync::Arc;
use std::time::Duration;

use firn_coordinator::Coordinator;
use firn_proto::env::Clock;
use firn_storage::bucket::Bucket;
use firn_storage::stream::{SlotKind, StreamName, read_header};
use firn_storage::wal::Wal;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::partition::Partitions;

/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Looks at the next slot of this process's stream.
pub(super) struct SealWatch {
    pub(super) bucket: Bucket,
    pub(super) stream: StreamName,
    pub(super) wal: Wal,
    pub(super) partitions: Arc<Partitions>,
    pub(super) coordinator: Coordinator,
    pub(super) clock: Arc<dyn Clock>,
    /// Cancelled when there is a seal.
    pub(super) fenced: CancellationToken,
}

impl SealWatch {
    /// Looks until there is a seal, or the future is dropped.
    pub(super) async fn run(self) {
        let mut tick = interval(LOOK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if self.coordinator.is_read(self.clock.mono()) {
                continue;
            }
            let next = self.wal.next_durable().slot;
            // no answer says nothing
            let found = read_header(&self.bucket, &self.stream, next).await;
            if found.is_ok_and(|found| found.is_some_and(|slot| slot.kind == SlotKind::Seal)) {
                tracing::warn!(stream = %self.stream, slot = %next, "the stream of this process is sealed");
                self.partitions.close_all();
                self.fenced.cancel();
                return;
            }
        }
    }
}
