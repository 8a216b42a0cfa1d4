//! Finding out what all earlier epochs journalled: from the newest snapshot over the streams of
//! every epoch since, each of which is sealed first (FORMAT.md §6.3; I10).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use firn_proto::ids::{ClusterId, CoordinatorEpoch, Slot};
use firn_proto::journal::{JournalError, JournalPosition, KnownSlot};
use firn_proto::limits::{JOURNAL_READS_MAX, JOURNAL_STREAMS_READ_MAX, SNAPSHOT_PIECE_BYTES};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::record::{JournalIndex, Opening, RecordFault, Snapshot};
use super::{
    corrupt, newest_epoch, read_failed, seal_failed, snapshot_key, snapshots, unavailable,
};
use crate::bucket::{Bucket, Purpose};
use crate::layout::Key;
use crate::stream::{
    Nonce, SealSpec, SlotObject, StreamEnv, StreamName, read_index, read_object, read_objects, seal,
};

/// Times that a walk may be voided by a new snapshot. A sealed epoch makes no more of them, so this
/// ends after as many as were on their way.
const ROUNDS_MAX: u32 = 32;

/// What earlier epochs left.
pub(super) struct Past {
    pub(super) snapshot: Option<(JournalPosition, Bytes)>,
    pub(super) entries: Entries,
    /// The entries follow the known slot, and the snapshot was not read.
    pub(super) follows_known: bool,
    /// How many slots the snapshot leaves to be read.
    pub(super) log_slots: u64,
    /// What slot 0 of the new stream has to say.
    pub(super) opening: Opening,
}

/// One walk on behalf of the leader of `epoch`.
pub(super) struct Walk<'a> {
    pub(super) bucket: &'a Bucket,
    pub(super) env: &'a StreamEnv,
    pub(super) cluster: ClusterId,
    pub(super) epoch: CoordinatorEpoch,
    /// Called whenever the bucket has answered.
    pub(super) on_step: &'a (dyn Fn() + Send + Sync),
}

type Ends = BTreeMap<CoordinatorEpoch, Slot>;
type Entries = Vec<(JournalPosition, Bytes)>;

impl Walk<'_> {
    /// Seals and reads until no new snapshot has come up in between: what comes after `known`, if
    /// that fits, else all that the newest snapshot leaves.
    pub(super) async fn run(&self, known: Option<&KnownSlot>) -> Result<Past, JournalError> {
        let mut listed = self.list().await?;
        let mut known = known;
        for _ in 0..ROUNDS_MAX {
            let walked = match known {
                Some(known) => self.walk_after(known, &listed).await,
                None => self.walk(&listed).await,
            };
            let again = self.list().await?;
            if again == listed {
                return match walked {
                    Err(JournalError::Corrupt { at, reason }) if known.is_some() => {
                        let epoch = self.epoch;
                        tracing::warn!(
                            %epoch, at, reason,
                            "what was known of the journal does not fit it: all of it is read"
                        );
                        known = None;
                        continue;
                    }
                    // What is missing may have been collected by a later leader.
                    Err(JournalError::Corrupt { .. })
                        if newest_epoch(self.bucket).await? > self.epoch =>
                    {
                        Err(JournalError::Fenced { epoch: self.epoch })
                    }
                    walked => walked,
                };
            }
            tracing::info!(epoch = %self.epoch, "a new snapshot came up, walking on from there");
            listed = again;
        }
        Err(JournalError::Unavailable(
            "snapshots keep coming up below a sealed journal".to_owned(),
        ))
    }

    async fn list(&self) -> Result<Vec<JournalPosition>, JournalError> {
        let mut listed = snapshots(self.bucket).await?;
        (self.on_step)();
        // Those of later epochs are not ours to read: their leaders will fence this one.
        listed.retain(|covers| covers.epoch < self.epoch);
        Ok(listed)
    }

    pub(super) async fn walk(&self, listed: &[JournalPosition]) -> Result<Past, JournalError> {
        let snapshot = self.newest_whole(listed).await?;
        let base = snapshot.as_ref().map(|(covers, _)| *covers);
        let ends = self.ends(base, base, listed).await?;
        let entries = self.read_all(base, None, &ends).await?;
        Ok(Past {
            snapshot,
            entries,
            follows_known: false,
            log_slots: slots_after(base, &ends),
            opening: opening_after(base, ends),
        })
    }

    /// Reads only what comes after a slot that was durable when it was heard of. Snapshots are not
    /// read. Corrupt: it was not, or what comes after it is not all there any more.
    async fn walk_after(
        &self,
        known: &KnownSlot,
        listed: &[JournalPosition],
    ) -> Result<Past, JournalError> {
        let at = known.at;
        let name = StreamName::journal(self.cluster, at.epoch);
        let misfit = |reason: &str| {
            let fault = RecordFault::Field(reason.to_owned());
            Err(corrupt(&name.key(at.slot), &fault))
        };
        let base = listed.last().copied();
        if Some(at) < base || at.slot == Slot(0) || at.epoch >= self.epoch {
            return misfit("it is not behind the newest snapshot");
        }
        // Before anything is sealed behind it.
        let found = read_object(self.bucket, &name, at.slot).await;
        let Some(found) = found.map_err(read_failed)? else {
            return misfit("it is not there");
        };
        (self.on_step)();
        let nonce = found.header.nonce;
        let body = entry_of(&name, found)?;
        if known.body.as_ref().is_some_and(|known| *known != body) {
            return misfit("it holds something else than was heard");
        }
        let ends = self.ends(base, Some(at), listed).await?;
        if ends.get(&at.epoch).is_none_or(|end| at.slot >= *end) {
            return misfit("it lies behind the end of its stream");
        }
        let entries = self.read_all(Some(at), Some(nonce), &ends).await?;
        Ok(Past {
            snapshot: None,
            entries,
            follows_known: true,
            log_slots: slots_after(base, &ends),
            opening: opening_after(base, ends),
        })
    }

    /// The ends of all streams from that of `base` on, each of which is sealed by now. All slots up
    /// to `durable` are.
    async fn ends(
        &self,
        base: Option<JournalPosition>,
        durable: Option<JournalPosition>,
        listed: &[JournalPosition],
    ) -> Result<Ends, JournalError> {
        let first = base.map_or(CoordinatorEpoch(1), |base| base.epoch);
        let mut ends = self.recorded_ends(first).await?;
        for epoch in (first.0..self.epoch.0).map(CoordinatorEpoch) {
            if let Entry::Vacant(unknown) = ends.entry(epoch) {
                let spec = self.seal_spec(epoch, base, durable, listed);
                let sealed = seal(self.bucket, spec, self.env)
                    .await
                    .map_err(seal_failed)?;
                (self.on_step)();
                unknown.insert(sealed.end);
            }
        }
        check_snapshots(listed, &ends)?;
        Ok(ends)
    }

    /// The newest snapshot whose bytes are whole. One that is not is passed over loudly: the
    /// slots since the one before it are still there.
    async fn newest_whole(
        &self,
        listed: &[JournalPosition],
    ) -> Result<Option<(JournalPosition, Bytes)>, JournalError> {
        for covers in listed.iter().rev() {
            let key = snapshot_key(*covers);
            let Some(bytes) = self.snapshot(&key).await? else {
                continue;
            };
            match Snapshot::decode(&bytes) {
                Ok(snapshot) if snapshot.cluster != self.cluster || snapshot.covers != *covers => {
                    let fault = RecordFault::Field("it belongs under another key".to_owned());
                    return Err(corrupt(&key, &fault));
                }
                Ok(snapshot) => return Ok(Some((*covers, snapshot.body))),
                Err(fault @ RecordFault::Version { .. }) => return Err(corrupt(&key, &fault)),
                Err(fault) => {
                    tracing::error!(%key, %fault, "a snapshot is corrupt, using the one before it");
                }
            }
        }
        Ok(None)
    }

    /// The bytes of a snapshot, of which there may be so many that each piece is a step.
    async fn snapshot(&self, key: &Key) -> Result<Option<Bytes>, JournalError> {
        let mut whole = BytesMut::new();
        loop {
            let from = whole.len() as u64;
            let range = from..from + SNAPSHOT_PIECE_BYTES;
            let piece = self.bucket.get_range(Purpose::Snapshot, key, range).await;
            let Some(piece) = piece.map_err(unavailable)? else {
                return Ok(None);
            };
            (self.on_step)();
            let is_last = (piece.len() as u64) < SNAPSHOT_PIECE_BYTES;
            if is_last && whole.is_empty() {
                return Ok(Some(piece));
            }
            whole.extend_from_slice(&piece);
            if is_last {
                return Ok(Some(whole.freeze()));
            }
        }
    }

    /// What the newest leader after `first` wrote down about the ends of its predecessors.
    async fn recorded_ends(&self, first: CoordinatorEpoch) -> Result<Ends, JournalError> {
        for epoch in (first.0 + 1..self.epoch.0).rev().map(CoordinatorEpoch) {
            let name = StreamName::journal(self.cluster, epoch);
            let slot = read_index(self.bucket, &name, Slot(0))
                .await
                .map_err(read_failed)?;
            let Some(slot) = slot.filter(|slot| !slot.index.is_empty()) else {
                continue;
            };
            let opening = opening_of(&name, &slot.index)?;
            let known = opening
                .ends
                .into_iter()
                .filter(|(epoch, _)| *epoch >= first);
            return Ok(known.collect());
        }
        Ok(Ends::new())
    }

    fn seal_spec(
        &self,
        epoch: CoordinatorEpoch,
        base: Option<JournalPosition>,
        durable: Option<JournalPosition>,
        listed: &[JournalPosition],
    ) -> SealSpec {
        let floor = first_slot(epoch, base);
        let newest = listed.iter().rfind(|covers| covers.epoch == epoch);
        // A snapshot covers durable slots only, whole or not.
        let covered = newest.map_or(floor, |covers| covers.slot.next());
        SealSpec {
            stream: StreamName::journal(self.cluster, epoch),
            floor,
            from: first_slot(epoch, durable).max(covered).max(floor),
        }
    }

    /// All entries after that position, whose nonce may be known.
    async fn read_all(
        &self,
        after: Option<JournalPosition>,
        nonce: Option<Nonce>,
        ends: &Ends,
    ) -> Result<Entries, JournalError> {
        let from = after.map_or(CoordinatorEpoch(0), |after| after.epoch);
        let mut reads = Vec::new();
        for (epoch, end) in ends.range(from..) {
            let first = first_slot(*epoch, after);
            let before = if first == Slot(0) {
                Some(Nonce::NONE)
            } else {
                nonce
            };
            reads.push(self.read(*epoch, first..*end, before, ends));
        }
        // A leader that came to nothing leaves a stream all the same: there may be many.
        let reads = stream::iter(reads).buffered(JOURNAL_STREAMS_READ_MAX);
        reads.try_concat().await
    }

    async fn read(
        &self,
        epoch: CoordinatorEpoch,
        slots: Range<Slot>,
        before: Option<Nonce>,
        ends: &Ends,
    ) -> Result<Entries, JournalError> {
        let name = StreamName::journal(self.cluster, epoch);
        let objects = read_objects(self.bucket, &name, slots, before, JOURNAL_READS_MAX);
        let mut objects = std::pin::pin!(objects);
        let mut entries = Vec::new();
        while let Some(object) = objects.try_next().await.map_err(read_failed)? {
            (self.on_step)();
            let slot = object.header.slot;
            if slot == Slot(0) {
                check_opening(&name, &object, ends)?;
            } else {
                entries.push((JournalPosition { epoch, slot }, entry_of(&name, object)?));
            }
        }
        Ok(entries)
    }
}

/// How many slots there are after `base`.
fn slots_after(base: Option<JournalPosition>, ends: &Ends) -> u64 {
    let left =
        |(epoch, end): (&CoordinatorEpoch, &Slot)| end.0.saturating_sub(first_slot(*epoch, base).0);
    ends.iter().map(left).sum()
}

fn opening_after(base: Option<JournalPosition>, ends: Ends) -> Opening {
    Opening {
        base,
        ends: ends.into_iter().collect(),
    }
}

/// The first slot of a stream that the walk has to look at.
fn first_slot(epoch: CoordinatorEpoch, base: Option<JournalPosition>) -> Slot {
    let base = base.filter(|base| base.epoch == epoch);
    base.map_or(Slot(0), |base| base.slot.next())
}

/// I10: snapshots count only within the sealed end of their stream.
fn check_snapshots(listed: &[JournalPosition], ends: &Ends) -> Result<(), JournalError> {
    for covers in listed {
        if ends
            .get(&covers.epoch)
            .is_some_and(|end| covers.slot >= *end)
        {
            return Err(JournalError::Corrupt {
                at: snapshot_key(*covers).to_string(),
                reason: "it covers slots at or after the end of its journal stream; the store \
                         lost journal slots that were durable"
                    .to_owned(),
            });
        }
    }
    Ok(())
}

fn opening_of(name: &StreamName, index: &[u8]) -> Result<Opening, JournalError> {
    let key = name.key(Slot(0));
    match JournalIndex::decode(index).map_err(|fault| corrupt(&key, &fault))? {
        JournalIndex::Open(opening) => Ok(opening),
        JournalIndex::Entry => Err(corrupt(
            &key,
            &RecordFault::Field("slot 0 is an entry, not an opening".to_owned()),
        )),
    }
}

/// What one leader wrote about its predecessors must be what this walk found.
fn check_opening(name: &StreamName, object: &SlotObject, ends: &Ends) -> Result<(), JournalError> {
    let opening = opening_of(name, &object.index)?;
    for (epoch, recorded) in opening.ends {
        if let Some(found) = ends.get(&epoch)
            && *found != recorded
        {
            let fault = format!(
                "it says that the journal of epoch {epoch} ends at {recorded}, which ends at {found}"
            );
            return Err(corrupt(&name.key(Slot(0)), &RecordFault::Field(fault)));
        }
    }
    Ok(())
}

fn entry_of(name: &StreamName, object: SlotObject) -> Result<Bytes, JournalError> {
    let key = || name.key(object.header.slot);
    match JournalIndex::decode(&object.index).map_err(|fault| corrupt(&key(), &fault))? {
        JournalIndex::Entry => Ok(object.body),
        JournalIndex::Open(_) => Err(corrupt(
            &key(),
            &RecordFault::Field("an opening stands behind slot 0".to_owned()),
        )),
    }
}
