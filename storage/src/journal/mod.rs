//! The coordinator's journal in the bucket (FORMAT.md §6): one fenced stream per coordinator epoch,
//! claims to epochs, snapshots.
//!
//! - `record.rs`: the objects beside the slots, and what a journal slot's index says
//! - `walk.rs`: from the newest snapshot to the ends of all earlier epochs
//! - `writer.rs`: the writer of one epoch
//! - `collect.rs`: lets go of what a snapshot covers
//!
//! Opening takes these steps; a crash between any two leaves nothing that the next opener cannot
//! walk over:
//! 1. the cluster's id, made once;
//! 2. the claim to the next epoch: one winner, never deleted;
//! 3. every stream of an earlier epoch is sealed, in ascending order, from the newest snapshot on;
//!    after the seals the snapshots are listed again, and one that is new voids the walk: a seal
//!    below it lies in collected slots and ends nothing;
//! 4. slot 0 of the new stream names every predecessor and its end. It is the first thing that an
//!    even later opener can fence, so whoever has it durable leads.
//!
//! May not touch: what entries, snapshots and identities mean (`coordinator`).

mod collect;
pub mod record;
#[cfg(test)]
mod simulation;
mod walk;
mod writer;

use bytes::Bytes;
use firn_proto::ids::{ClusterId, CoordinatorEpoch};
use firn_proto::journal::{
    Claimed, JournalError, JournalOpener, JournalPosition, OpenedJournal, Taking,
};
use futures::future::{BoxFuture, FutureExt};

use crate::bucket::{Bucket, BucketError, Purpose};
use crate::creation::{CreateError, Creation, create};
use crate::layout::{self, Key, Place};
use crate::stream::{Nonce, ReadError, SealError, StreamEnv};
use record::{EpochClaim, RecordFault};
use walk::Walk;
use writer::{JournalWriter, WriterSpec};

/// Objects per LIST.
const LIST_MAX: usize = 1000;

/// The journal of the cluster whose bucket this is.
pub struct BucketJournal {
    bucket: Bucket,
    env: StreamEnv,
}

impl BucketJournal {
    /// A journal that has not been opened yet. Does nothing.
    pub fn new(bucket: Bucket, env: StreamEnv) -> Self {
        Self { bucket, env }
    }

    async fn take_over(&self, taking: Taking) -> Result<OpenedJournal, JournalError> {
        let Taking {
            identity,
            after,
            known,
            on_step,
        } = taking;
        let cluster = cluster_id(&self.bucket, &self.env).await?;
        let epoch = self.claim_epoch(cluster, identity, after).await?;
        let claimed_at = self.env.clock.mono();
        on_step();
        let walk = Walk {
            bucket: &self.bucket,
            env: &self.env,
            cluster,
            epoch,
            on_step: &*on_step,
        };
        let past = walk.run(known.as_ref()).await?;
        tracing::info!(
            %cluster, %epoch, entries = past.entries.len(), base = ?past.opening.base,
            "the journal is taken over"
        );
        let spec = WriterSpec {
            cluster,
            epoch,
            opening: past.opening,
            whole: past.snapshot.as_ref().map(|(covers, _)| *covers),
        };
        let journal = JournalWriter::start(self.bucket.clone(), self.env.clone(), spec).await?;
        Ok(OpenedJournal {
            cluster,
            epoch,
            claimed_at,
            snapshot: past.snapshot,
            entries: past.entries,
            follows_known: past.follows_known,
            log_slots: past.log_slots,
            journal: Box::new(journal),
        })
    }

    /// Creates the claim to the epoch after `after`, or to the first one that is free.
    async fn claim_epoch(
        &self,
        cluster: ClusterId,
        identity: Bytes,
        after: Option<CoordinatorEpoch>,
    ) -> Result<CoordinatorEpoch, JournalError> {
        let last = match after {
            Some(after) => after,
            None => newest_epoch(&self.bucket).await?,
        };
        let mut epoch = CoordinatorEpoch(last.0 + 1);
        loop {
            let claim = EpochClaim {
                cluster,
                epoch,
                nonce: Nonce::from_random(self.env.entropy.next_u128()),
                identity: identity.clone(),
            };
            let key = Place::EpochClaim(epoch).key();
            match create(
                &self.bucket,
                &self.env.entropy,
                Purpose::Meta,
                &key,
                claim.encode(),
            )
            .await?
            {
                Creation::Ours => return Ok(epoch),
                Creation::Theirs(_) => match after {
                    Some(after) => {
                        return Err(JournalError::Superseded {
                            epoch: after,
                            newer: epoch,
                        });
                    }
                    None => epoch = CoordinatorEpoch(epoch.0 + 1),
                },
            }
        }
    }
}

impl JournalOpener for BucketJournal {
    fn newest(&self) -> BoxFuture<'_, Result<Option<Claimed>, JournalError>> {
        async move {
            let newest = newest_epoch(&self.bucket).await?;
            self.claim(newest).await
        }
        .boxed()
    }

    fn claim(
        &self,
        epoch: CoordinatorEpoch,
    ) -> BoxFuture<'_, Result<Option<Claimed>, JournalError>> {
        async move {
            let identity = match read_claim(&self.bucket, epoch).await {
                Ok(claim) => claim.map(|claim| claim.identity),
                // It is a claim all the same, of somebody who is not known.
                Err(error @ JournalError::Corrupt { .. }) => {
                    tracing::warn!(%epoch, %error, "it is not known who claimed the epoch");
                    Some(Bytes::new())
                }
                Err(error) => return Err(error),
            };
            Ok(identity.map(|identity| Claimed { epoch, identity }))
        }
        .boxed()
    }

    fn open(&self, taking: Taking) -> BoxFuture<'_, Result<OpenedJournal, JournalError>> {
        self.take_over(taking).boxed()
    }
}

/// The id of the cluster whose bucket this is, made by whoever asks first.
///
/// # Errors
/// [`JournalError::Corrupt`], [`JournalError::Unavailable`], [`JournalError::Refused`].
pub async fn cluster_id(bucket: &Bucket, env: &StreamEnv) -> Result<ClusterId, JournalError> {
    let key = Place::Cluster.key();
    let known = bucket.get(Purpose::Meta, &key).await.map_err(unavailable)?;
    let bytes = match known {
        Some(bytes) => bytes,
        None => {
            let made = ClusterId::from_random(env.entropy.next_u128());
            let bytes = record::encode_cluster(made);
            match create(bucket, &env.entropy, Purpose::Meta, &key, bytes.clone()).await? {
                Creation::Ours => bytes,
                Creation::Theirs(bytes) => bytes,
            }
        }
    };
    record::decode_cluster(&bytes).map_err(|fault| corrupt(&key, &fault))
}

/// The newest epoch that anybody claimed; 0 if none. Claims are never deleted.
///
/// # Errors
/// [`JournalError::Unavailable`], [`JournalError::Refused`].
pub async fn newest_epoch(bucket: &Bucket) -> Result<CoordinatorEpoch, JournalError> {
    // Snapshots are few and name a recent epoch, so that the claims of all earlier ones need not
    // be listed.
    let newest = snapshots(bucket).await?.pop();
    let mut epoch = newest.map_or(CoordinatorEpoch(0), |at| at.epoch);
    let folder = layout::epoch_claims();
    let mut after = Place::EpochClaim(epoch).key();
    loop {
        let listed = bucket
            .list(Purpose::Meta, &folder, Some(&after), LIST_MAX)
            .await;
        let listed = listed.map_err(unavailable)?;
        for object in &listed {
            if let Some(Place::EpochClaim(found)) = Place::parse(object.key.as_str()) {
                epoch = epoch.max(found);
            }
        }
        match listed.last() {
            Some(last) if listed.len() == LIST_MAX => after = last.key.clone(),
            _ => return Ok(epoch),
        }
    }
}

/// Who claimed `epoch`; `None` if nobody did yet.
///
/// # Errors
/// [`JournalError::Corrupt`], [`JournalError::Unavailable`], [`JournalError::Refused`].
pub async fn read_claim(
    bucket: &Bucket,
    epoch: CoordinatorEpoch,
) -> Result<Option<EpochClaim>, JournalError> {
    let key = Place::EpochClaim(epoch).key();
    let Some(bytes) = bucket.get(Purpose::Meta, &key).await.map_err(unavailable)? else {
        return Ok(None);
    };
    let claim = EpochClaim::decode(&bytes).map_err(|fault| corrupt(&key, &fault))?;
    if claim.epoch != epoch {
        let fault = RecordFault::Field(format!("it claims epoch {}", claim.epoch));
        return Err(corrupt(&key, &fault));
    }
    Ok(Some(claim))
}

/// Whether anybody claimed `epoch`. What the claim says does not matter: it is never deleted.
async fn is_claimed(bucket: &Bucket, epoch: CoordinatorEpoch) -> Result<bool, JournalError> {
    let key = Place::EpochClaim(epoch).key();
    let claim = bucket.get(Purpose::Meta, &key).await.map_err(unavailable)?;
    Ok(claim.is_some())
}

/// What all snapshots cover, oldest first.
async fn snapshots(bucket: &Bucket) -> Result<Vec<JournalPosition>, JournalError> {
    let folder = layout::snapshots();
    let mut found = Vec::new();
    let mut after: Option<Key> = None;
    loop {
        let listed = bucket
            .list(Purpose::Snapshot, &folder, after.as_ref(), LIST_MAX)
            .await;
        let listed = listed.map_err(unavailable)?;
        for object in &listed {
            if let Some(Place::Snapshot { epoch, slot }) = Place::parse(object.key.as_str()) {
                found.push(JournalPosition { epoch, slot });
            }
        }
        match listed.last() {
            Some(last) if listed.len() == LIST_MAX => after = Some(last.key.clone()),
            _ => return Ok(found),
        }
    }
}

fn snapshot_key(covers: JournalPosition) -> Key {
    Place::Snapshot {
        epoch: covers.epoch,
        slot: covers.slot,
    }
    .key()
}

impl From<CreateError> for JournalError {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Bucket(error) => unavailable(error),
            CreateError::NotTaken { .. } => Self::Unavailable(error.to_string()),
        }
    }
}

fn unavailable(error: BucketError) -> JournalError {
    match error {
        BucketError::Denied { .. }
        | BucketError::ClockOff { .. }
        | BucketError::NoCredentials { .. }
        | BucketError::NoSuchBucket { .. }
        | BucketError::Rejected { .. } => JournalError::Refused(error.to_string()),
        _ => JournalError::Unavailable(error.to_string()),
    }
}

fn corrupt(key: &Key, fault: &RecordFault) -> JournalError {
    JournalError::Corrupt {
        at: key.to_string(),
        reason: fault.to_string(),
    }
}

fn read_failed(error: ReadError) -> JournalError {
    match error {
        ReadError::Bucket(error) => unavailable(error),
        ReadError::Corrupt { ref key, .. } | ReadError::Missing { ref key, .. } => {
            JournalError::Corrupt {
                at: key.to_string(),
                reason: error.to_string(),
            }
        }
    }
}

fn seal_failed(error: SealError) -> JournalError {
    match error {
        SealError::Unavailable { .. } => JournalError::Unavailable(error.to_string()),
        SealError::PrefixLost { ref key } | SealError::Corrupt { ref key, .. } => {
            JournalError::Corrupt {
                at: key.to_string(),
                reason: error.to_string(),
            }
        }
    }
}

#[cfg(test)]
mod tests;
