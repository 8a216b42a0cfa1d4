//! Slots of WAL streams, and the checkpoint objects that they name.

use std::collections::BTreeSet;
use std::ops::Range;

use firn_proto::ids::{Slot, StreamId};

use super::{KEYS_PER_DELETE, delete_all, empty};
use crate::bucket::{Bucket, BucketError, Purpose};
use crate::layout::{self, Key, Place};
use crate::listing::Listing;

/// Deletes slots of a WAL stream, by their names. `slots` must end at its floor (I7) or below: what
/// lies there is data, since a seal is at or above the floor, and stays (I1).
///
/// # Errors
/// The bucket does not answer; some of the slots may be gone then.
pub async fn collect_slots(
    bucket: &Bucket,
    stream: StreamId,
    slots: Range<Slot>,
) -> Result<(), BucketError> {
    let slots = (slots.start.0..slots.end.0).map(Slot);
    delete_all(
        bucket,
        slots.map(|slot| Place::WalSlot { stream, slot }.key()),
    )
    .await
}

/// Deletes the checkpoint objects of a stream that lie below its floor, but for the newest of those,
/// which a slot above the floor may name (storage/FORMAT.md §4.1). Looks them up with LIST: the
/// process that writes the stream knows its own ([`OwnCheckpoints`]).
///
/// # Errors
/// The bucket does not answer; some of the objects may be gone then.
pub async fn collect_checkpoints(
    bucket: &Bucket,
    stream: StreamId,
    floor: Slot,
) -> Result<(), BucketError> {
    let folder = layout::checkpoints(stream);
    let purpose = Purpose::Collect;
    let mut listing = Listing::new(bucket, purpose, &folder, None, KEYS_PER_DELETE);
    let mut newest: Option<Key> = None;
    while let Some(page) = listing.next_page().await? {
        let listed = page.len();
        let below = page.into_iter().map(|object| object.key);
        let mut below: Vec<Key> = below.filter(|key| is_below(key, floor)).collect();
        let is_last = below.len() < listed;
        let newer = below.pop();
        if newer.is_some() {
            below.extend(std::mem::replace(&mut newest, newer));
        }
        delete_all(bucket, below.into_iter()).await?;
        if is_last {
            break;
        }
    }
    Ok(())
}

/// Deletes checkpoint objects of a stream.
///
/// # Errors
/// As [`collect_checkpoints`].
pub async fn delete_checkpoints(
    bucket: &Bucket,
    stream: StreamId,
    objects: &[Slot],
) -> Result<(), BucketError> {
    let keys = objects.iter();
    let keys = keys.map(|&slot| Place::Checkpoint { stream, slot }.key());
    delete_all(bucket, keys).await
}

/// Deletes all checkpoint objects of a stream that is over: it is sealed, and nothing below its end
/// is needed any more.
///
/// # Errors
/// As [`collect_checkpoints`].
pub async fn delete_all_checkpoints(bucket: &Bucket, stream: StreamId) -> Result<(), BucketError> {
    empty(bucket, &layout::checkpoints(stream)).await
}

/// The checkpoint objects of the stream that this process writes, so that they are collected without
/// a LIST. One slot in hundreds has one; pure.
#[derive(Clone, Debug, Default)]
pub struct OwnCheckpoints(BTreeSet<Slot>);

impl OwnCheckpoints {
    /// Takes in [`crate::wal::DurableCheckpoint::object`].
    pub fn add(&mut self, object: Slot) {
        self.0.insert(object);
    }

    /// Those below the floor but for the newest of them, as in [`collect_checkpoints`].
    pub fn superfluous(&self, floor: Slot) -> Vec<Slot> {
        let mut below: Vec<Slot> = self.0.range(..floor).copied().collect();
        below.pop();
        below
    }

    /// Forgets objects that are deleted.
    pub fn on_deleted(&mut self, objects: &[Slot]) {
        for object in objects {
            self.0.remove(object);
        }
    }
}

fn is_below(key: &Key, floor: Slot) -> bool {
    let place = Place::parse(key.as_str());
    matches!(place, Some(Place::Checkpoint { slot, .. }) if slot < floor)
}
