//! Putting snapshots, and letting go of what they cover.
//!
//! The last two snapshots that are known to be whole are kept, and every slot after the older one:
//! should the newest turn out to be corrupt, the journal can still be read. Known to be whole are
//! those that this process put, and the one that it began with: it may have passed over a later one
//! that is corrupt, and nothing may rest on that. Order, so that a crash anywhere loses nothing: the
//! new snapshot is put, with the floor that it brings; then slots up to that floor are deleted;
//! then the snapshots before it. Seals are never deleted (I1).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use firn_proto::ids::{ClusterId, CoordinatorEpoch};
use firn_proto::journal::{JournalError, JournalPosition};

use super::record::{RecordFault, Snapshot};
use super::{LIST_MAX, corrupt, snapshot_key, snapshots, unavailable};
use crate::bucket::{Bucket, Purpose};
use crate::creation::{Creation, create};
use crate::layout::{Key, Place, journal_stream};
use crate::stream::{StreamEnv, slot::HEADER_LEN};

/// The snapshots of a cluster, and the slots that they make superfluous.
#[derive(Clone)]
pub(super) struct Collection {
    bucket: Bucket,
    env: StreamEnv,
    cluster: ClusterId,
    newest_whole: Arc<Mutex<Option<JournalPosition>>>,
}

impl Collection {
    /// `whole` is the snapshot that the journal was read from, if it was.
    pub(super) fn new(
        bucket: Bucket,
        env: StreamEnv,
        cluster: ClusterId,
        whole: Option<JournalPosition>,
    ) -> Self {
        Self {
            bucket,
            env,
            cluster,
            newest_whole: Arc::new(Mutex::new(whole)),
        }
    }

    fn newest_whole(&self) -> MutexGuard<'_, Option<JournalPosition>> {
        self.newest_whole
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn note_whole(&self, covers: JournalPosition) {
        let mut newest = self.newest_whole();
        *newest = newest.max(Some(covers));
    }

    /// Puts the snapshot of the state after `covers`, then collects.
    pub(super) async fn put_snapshot(
        &self,
        covers: JournalPosition,
        body: Bytes,
    ) -> Result<(), JournalError> {
        let mut older = snapshots(&self.bucket).await?;
        older.retain(|other| *other < covers);
        let floor = self.newest_whole().filter(|whole| *whole < covers);
        let snapshot = Snapshot {
            cluster: self.cluster,
            covers,
            floor,
            body,
        };
        let key = snapshot_key(covers);
        let bytes = snapshot.encode();
        let created = create(
            &self.bucket,
            &self.env.entropy,
            Purpose::Snapshot,
            &key,
            bytes,
        )
        .await?;
        if let Creation::Theirs(bytes) = created {
            // The state after a position is the same for everybody, so any whole snapshot will do.
            let found = Snapshot::decode(&bytes).map_err(|fault| corrupt(&key, &fault))?;
            if found.cluster != self.cluster || found.covers != covers {
                let fault = RecordFault::Field("it belongs under another key".to_owned());
                return Err(corrupt(&key, &fault));
            }
        }
        self.note_whole(covers);
        match floor {
            Some(floor) => self.collect(&older, floor).await,
            None => Ok(()),
        }
    }

    /// Deletes slots up to `floor`, and then every snapshot before the one at `floor`.
    async fn collect(
        &self,
        older: &[JournalPosition],
        floor: JournalPosition,
    ) -> Result<(), JournalError> {
        let from = self.collected_up_to(older).await?;
        let first = from.map_or(CoordinatorEpoch(1), |at| at.epoch);
        for epoch in (first.0..=floor.epoch.0).map(CoordinatorEpoch) {
            self.collect_stream(epoch, floor).await?;
        }
        let superfluous: Vec<Key> = older
            .iter()
            .filter(|covers| **covers < floor)
            .map(|covers| snapshot_key(*covers))
            .collect();
        let deleted = self.bucket.delete(Purpose::Collect, &superfluous).await;
        deleted.map_err(unavailable)
    }

    /// The floor of the oldest snapshot there is: it was deleted last, so everything up to its
    /// floor is gone.
    async fn collected_up_to(
        &self,
        older: &[JournalPosition],
    ) -> Result<Option<JournalPosition>, JournalError> {
        let Some(oldest) = older.first() else {
            return Ok(None);
        };
        let key = snapshot_key(*oldest);
        let bytes = self
            .bucket
            .get(Purpose::Collect, &key)
            .await
            .map_err(unavailable)?;
        // One that is corrupt says nothing: then everything is looked through.
        let snapshot = bytes.and_then(|bytes| Snapshot::decode(&bytes).ok());
        Ok(snapshot.and_then(|snapshot| snapshot.floor))
    }

    async fn collect_stream(
        &self,
        epoch: CoordinatorEpoch,
        floor: JournalPosition,
    ) -> Result<(), JournalError> {
        let folder = journal_stream(epoch);
        let mut after: Option<Key> = None;
        loop {
            let listed = self
                .bucket
                .list(Purpose::Collect, &folder, after.as_ref(), LIST_MAX)
                .await
                .map_err(unavailable)?;
            let superfluous: Vec<Key> = listed
                .iter()
                .filter(|object| {
                    // A seal is a bare header; data has an index too.
                    object.size > HEADER_LEN as u64
                        && position_of(&object.key).is_some_and(|at| at <= floor)
                })
                .map(|object| object.key.clone())
                .collect();
            let deleted = self.bucket.delete(Purpose::Collect, &superfluous).await;
            deleted.map_err(unavailable)?;
            match listed.last() {
                Some(last) if listed.len() == LIST_MAX => after = Some(last.key.clone()),
                _ => return Ok(()),
            }
        }
    }
}

fn position_of(key: &Key) -> Option<JournalPosition> {
    match Place::parse(key.as_str())? {
        Place::JournalSlot { epoch, slot } => Some(JournalPosition { epoch, slot }),
        _ => None,
    }
}
