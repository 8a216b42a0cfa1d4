//! The objects of the journal that are not slots, and the index of a journal slot, byte for byte.
//!
//! Pure: bytes in, bytes out; hostile bytes give an error. Specified in `storage/FORMAT.md`. All
//! share one frame: magic, version, fields, and a CRC-32C of everything before it.

use bytes::{BufMut, Bytes, BytesMut};
use firn_proto::ids::{ClusterId, CoordinatorEpoch, Fingerprint, Slot};
use firn_proto::journal::JournalPosition;
use thiserror::Error;

use crate::stream::Nonce;
use crate::stream::fields::{Fields, Short, crc32c};

/// What the object with the cluster's id begins with.
pub const CLUSTER_MAGIC: [u8; 8] = *b"FIRNCLUS";
/// What the claim to an epoch begins with.
pub const EPOCH_MAGIC: [u8; 8] = *b"FIRNEPOC";
/// What begins what a process says of itself.
pub const PROCESS_MAGIC: [u8; 8] = *b"FIRNPROC";
/// What a snapshot begins with.
pub const SNAPSHOT_MAGIC: [u8; 8] = *b"FIRNSNAP";
/// The version of each of these that this code writes, and the only one it reads.
pub const RECORD_VERSION: u16 = 1;

const MAGIC_LEN: usize = 8;
const CRC_LEN: usize = 4;
/// The index of a journal slot: one page of fields at most, so that it is never mistaken.
const INDEX_OPEN: u8 = 1;
const INDEX_ENTRY: u8 = 2;

/// What is wrong with the bytes of one of these objects.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RecordFault {
    /// It is shorter than its fields.
    #[error("it is too short")]
    Short,
    /// It is longer than its fields.
    #[error("it has bytes after its last field")]
    Long,
    /// It begins differently.
    #[error("it does not begin with its magic")]
    Magic,
    /// Its checksum is wrong.
    #[error("its checksum is wrong")]
    Crc,
    /// A later release wrote it.
    #[error("it has format version {found}; this release reads version {RECORD_VERSION}")]
    Version {
        /// The version it has.
        found: u16,
    },
    /// A field contradicts its key or the journal around it.
    #[error("{0}")]
    Field(String),
}

impl From<Short> for RecordFault {
    fn from(_: Short) -> Self {
        Self::Short
    }
}

fn begin(magic: [u8; MAGIC_LEN], capacity: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(MAGIC_LEN + 4 + capacity + CRC_LEN);
    out.put_slice(&magic);
    out.put_u16_le(RECORD_VERSION);
    out.put_u16_le(0);
    out
}

fn finish(mut out: BytesMut) -> Bytes {
    let crc = crc32c(&out);
    out.put_u32_le(crc);
    out.freeze()
}

/// The fields between version and checksum, once both are right.
fn open(bytes: &[u8], magic: [u8; MAGIC_LEN]) -> Result<Fields<'_>, RecordFault> {
    let mut whole = Fields::new(bytes);
    if whole.array()? != magic {
        return Err(RecordFault::Magic);
    }
    let at = bytes.len().checked_sub(CRC_LEN).ok_or(RecordFault::Short)?;
    let (covered, crc) = bytes.split_at(at);
    if Fields::new(crc).u32()? != crc32c(covered) {
        return Err(RecordFault::Crc);
    }
    let mut fields = Fields::new(covered);
    fields.take(MAGIC_LEN)?;
    let version = fields.u16()?;
    if version != RECORD_VERSION {
        return Err(RecordFault::Version { found: version });
    }
    fields.u16()?;
    Ok(fields)
}

fn end(fields: &Fields<'_>) -> Result<(), RecordFault> {
    if fields.left() == 0 {
        Ok(())
    } else {
        Err(RecordFault::Long)
    }
}

/// `meta/cluster`: the id of the cluster whose bucket this is.
pub fn encode_cluster(cluster: ClusterId) -> Bytes {
    let mut out = begin(CLUSTER_MAGIC, 16);
    out.put_slice(&cluster.0);
    finish(out)
}

/// Reads `meta/cluster`.
///
/// # Errors
/// [`RecordFault`].
pub fn decode_cluster(bytes: &[u8]) -> Result<ClusterId, RecordFault> {
    let mut fields = open(bytes, CLUSTER_MAGIC)?;
    let cluster = ClusterId(fields.array()?);
    end(&fields)?;
    Ok(cluster)
}

/// `meta/epoch/<e>`: who took a coordinator epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochClaim {
    /// The cluster.
    pub cluster: ClusterId,
    /// The epoch.
    pub epoch: CoordinatorEpoch,
    /// Tells one claimant from another.
    pub nonce: Nonce,
    /// Who it is and how to reach it; the coordinator's own encoding.
    pub identity: Bytes,
}

impl EpochClaim {
    /// The bytes of the object.
    pub fn encode(&self) -> Bytes {
        let mut out = begin(EPOCH_MAGIC, 48 + self.identity.len());
        out.put_slice(&self.cluster.0);
        out.put_u64_le(self.epoch.0);
        out.put_slice(&self.nonce.0);
        out.put_u64_le(self.identity.len() as u64);
        out.put_slice(&self.identity);
        finish(out)
    }

    /// Reads the object.
    ///
    /// # Errors
    /// [`RecordFault`].
    pub fn decode(bytes: &Bytes) -> Result<Self, RecordFault> {
        let mut fields = open(bytes, EPOCH_MAGIC)?;
        let cluster = ClusterId(fields.array()?);
        let epoch = CoordinatorEpoch(fields.u64()?);
        let nonce = Nonce(fields.array()?);
        let identity = tail(&mut fields, bytes)?;
        Ok(Self {
            cluster,
            epoch,
            nonce,
            identity,
        })
    }
}

/// `meta/brokers/<fingerprint>`: what a process says of itself to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessRecord {
    /// The cluster.
    pub cluster: ClusterId,
    /// The certificate by which others know it.
    pub fingerprint: Fingerprint,
    /// Who it is and how to reach it; the coordinator's own encoding.
    pub card: Bytes,
}

impl ProcessRecord {
    /// The bytes of the object.
    pub fn encode(&self) -> Bytes {
        let mut out = begin(PROCESS_MAGIC, 56 + self.card.len());
        out.put_slice(&self.cluster.0);
        out.put_slice(&self.fingerprint.0);
        out.put_u64_le(self.card.len() as u64);
        out.put_slice(&self.card);
        finish(out)
    }

    /// Reads the object.
    ///
    /// # Errors
    /// [`RecordFault`].
    pub fn decode(bytes: &Bytes) -> Result<Self, RecordFault> {
        let mut fields = open(bytes, PROCESS_MAGIC)?;
        let cluster = ClusterId(fields.array()?);
        let fingerprint = Fingerprint(fields.array()?);
        let card = tail(&mut fields, bytes)?;
        Ok(Self {
            cluster,
            fingerprint,
            card,
        })
    }
}

/// `meta/snap/<epoch>-<slot>`: the coordinator's state after a journal position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The cluster.
    pub cluster: ClusterId,
    /// The last position it covers.
    pub covers: JournalPosition,
    /// What the snapshot before it covered: slots up to there may be gone. `None` in the first.
    pub floor: Option<JournalPosition>,
    /// The state; the coordinator's own encoding.
    pub body: Bytes,
}

impl Snapshot {
    /// The bytes of the object.
    pub fn encode(&self) -> Bytes {
        let mut out = begin(SNAPSHOT_MAGIC, 64 + self.body.len());
        out.put_slice(&self.cluster.0);
        put_position(&mut out, Some(self.covers));
        put_position(&mut out, self.floor);
        out.put_u64_le(self.body.len() as u64);
        out.put_slice(&self.body);
        finish(out)
    }

    /// Reads the object.
    ///
    /// # Errors
    /// [`RecordFault`].
    pub fn decode(bytes: &Bytes) -> Result<Self, RecordFault> {
        let mut fields = open(bytes, SNAPSHOT_MAGIC)?;
        let cluster = ClusterId(fields.array()?);
        let covers = position(&mut fields)?
            .ok_or_else(|| RecordFault::Field("it covers nothing".to_owned()))?;
        let floor = position(&mut fields)?;
        let body = tail(&mut fields, bytes)?;
        Ok(Self {
            cluster,
            covers,
            floor,
            body,
        })
    }
}

/// A length and as many bytes, which are the last ones.
fn tail(fields: &mut Fields<'_>, bytes: &Bytes) -> Result<Bytes, RecordFault> {
    let len = usize::try_from(fields.u64()?).map_err(|_| RecordFault::Short)?;
    let tail = fields.take(len)?;
    end(fields)?;
    Ok(bytes.slice_ref(tail))
}

/// Epochs start at 1, so that epoch 0 is no position.
fn put_position(out: &mut BytesMut, position: Option<JournalPosition>) {
    let (epoch, slot) = position.map_or((0, 0), |at| (at.epoch.0, at.slot.0));
    out.put_u64_le(epoch);
    out.put_u64_le(slot);
}

fn position(fields: &mut Fields<'_>) -> Result<Option<JournalPosition>, RecordFault> {
    let epoch = CoordinatorEpoch(fields.u64()?);
    let slot = Slot(fields.u64()?);
    Ok((epoch.0 != 0).then_some(JournalPosition { epoch, slot }))
}

/// The index of a journal slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalIndex {
    /// Slot 0 of a stream: what its writer found when it took over. Its body is empty.
    Open(Opening),
    /// Any other slot: its body is what was appended.
    Entry,
}

/// What a new leader found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// The snapshot it started from.
    pub base: Option<JournalPosition>,
    /// Every epoch from the snapshot's on up to its own, and where its stream ended. Ascending.
    pub ends: Vec<(CoordinatorEpoch, Slot)>,
}

impl JournalIndex {
    /// The bytes of the index.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u16_le(RECORD_VERSION);
        match self {
            Self::Entry => {
                out.put_u8(INDEX_ENTRY);
                out.put_u8(0);
            }
            Self::Open(opening) => {
                out.put_u8(INDEX_OPEN);
                out.put_u8(0);
                put_position(&mut out, opening.base);
                out.put_u64_le(opening.ends.len() as u64);
                for (epoch, slot) in &opening.ends {
                    out.put_u64_le(epoch.0);
                    out.put_u64_le(slot.0);
                }
            }
        }
        out.freeze()
    }

    /// Reads an index, whose checksum stands in the slot's header.
    ///
    /// # Errors
    /// [`RecordFault`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordFault> {
        let mut fields = Fields::new(bytes);
        let version = fields.u16()?;
        if version != RECORD_VERSION {
            return Err(RecordFault::Version { found: version });
        }
        let kind = fields.u8()?;
        fields.u8()?;
        let index = match kind {
            INDEX_ENTRY => Self::Entry,
            INDEX_OPEN => Self::Open(decode_opening(&mut fields)?),
            _ => {
                return Err(RecordFault::Field(format!(
                    "it has the unknown kind {kind}"
                )));
            }
        };
        end(&fields)?;
        Ok(index)
    }
}

fn decode_opening(fields: &mut Fields<'_>) -> Result<Opening, RecordFault> {
    let base = position(fields)?;
    let count = fields.u64()?;
    if count > (fields.left() / 16) as u64 {
        return Err(RecordFault::Short);
    }
    let ends: Result<Vec<_>, Short> = (0..count)
        .map(|_| Ok((CoordinatorEpoch(fields.u64()?), Slot(fields.u64()?))))
        .collect();
    let ends = ends?;
    if !ends.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(RecordFault::Field(
            "its predecessors are not in order".to_owned(),
        ));
    }
    Ok(Opening { base, ends })
}

#[cfg(test)]
mod tests;
