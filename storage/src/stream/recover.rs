//! Reading slots back: one header, one index, one object, or a range of slots in order.
//!
//! Readers interpret only what lies in [floor, end) of a stream (I3, I6); which that is, the
//! caller knows. May not touch: what indexes and bodies mean.

use std::ops::Range;

use bytes::Bytes;
use firn_proto::ids::Slot;
use futures::stream::{self, Stream, StreamExt};
use thiserror::Error;

use super::StreamName;
use super::slot::{HEADER_LEN, Nonce, SlotFault, SlotHeader};
use crate::bucket::{Bucket, BucketError};
use crate::layout::Key;

/// Bytes asked for at first when an index is read: header and index of all but the fullest slots,
/// so that an object costs one request.
pub const INDEX_GUESS: u64 = 64 * 1024;

/// Why a slot could not be read.
#[derive(Clone, Debug, Error)]
pub enum ReadError {
    /// The bytes contradict themselves or their key. Nothing of them may be used.
    #[error("the slot object {key} is corrupt: {fault}")]
    Corrupt {
        /// The object.
        key: Key,
        /// What is wrong with it.
        fault: SlotFault,
    },
    /// A slot inside the durable part of the stream is gone or is a seal: the store lost it, or
    /// something deleted it.
    #[error("slot object {key} lies in the durable part of its stream and is {found}")]
    Missing {
        /// The object.
        key: Key,
        /// What is there.
        found: &'static str,
    },
    /// The bucket does not serve it.
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

/// A slot with its index.
#[derive(Clone, Debug)]
pub struct SlotView {
    /// The header.
    pub header: SlotHeader,
    /// The index, whose checksum is right. Empty in a seal.
    pub index: Bytes,
}

/// A whole slot.
#[derive(Clone, Debug)]
pub struct SlotObject {
    /// The header.
    pub header: SlotHeader,
    /// The index, whose checksum is right. Empty in a seal.
    pub index: Bytes,
    /// The body, whose checksum is right. Empty in a seal.
    pub body: Bytes,
}

/// The header of a slot; `None` if the slot is free.
///
/// # Errors
/// [`ReadError::Corrupt`], [`ReadError::Bucket`].
pub async fn read_header(
    bucket: &Bucket,
    stream: &StreamName,
    slot: Slot,
) -> Result<Option<SlotHeader>, ReadError> {
    let key = stream.key(slot);
    let range = 0..HEADER_LEN as u64;
    let Some(bytes) = bucket.get_range(stream.purpose(), &key, range).await? else {
        return Ok(None);
    };
    let header = decode_header(&bytes, stream, slot);
    header
        .map(Some)
        .map_err(|fault| ReadError::Corrupt { key, fault })
}

/// Header and index of a slot by one ranged GET, or two if the index is very long; `None` if the
/// slot is free.
///
/// # Errors
/// [`ReadError::Corrupt`], [`ReadError::Bucket`].
pub async fn read_index(
    bucket: &Bucket,
    stream: &StreamName,
    slot: Slot,
) -> Result<Option<SlotView>, ReadError> {
    let key = stream.key(slot);
    let purpose = stream.purpose();
    let Some(mut bytes) = bucket.get_range(purpose, &key, 0..INDEX_GUESS).await? else {
        return Ok(None);
    };
    let corrupt = |fault| ReadError::Corrupt {
        key: key.clone(),
        fault,
    };
    let header = decode_header(&bytes, stream, slot).map_err(corrupt)?;
    if header.body_start() > INDEX_GUESS && bytes.len() as u64 == INDEX_GUESS {
        let all = 0..header.body_start();
        bytes = bucket
            .get_range(purpose, &key, all)
            .await?
            .ok_or_else(|| ReadError::Missing {
                key: key.clone(),
                found: "gone between two requests",
            })?;
    }
    let index = header.index_of(&bytes).map_err(corrupt)?;
    Ok(Some(SlotView { header, index }))
}

/// A whole slot by one GET; `None` if the slot is free.
///
/// # Errors
/// [`ReadError::Corrupt`], [`ReadError::Bucket`].
pub async fn read_object(
    bucket: &Bucket,
    stream: &StreamName,
    slot: Slot,
) -> Result<Option<SlotObject>, ReadError> {
    let key = stream.key(slot);
    let Some(bytes) = bucket.get(stream.purpose(), &key).await? else {
        return Ok(None);
    };
    let parts = decode_header(&bytes, stream, slot).and_then(|header| {
        let index = header.index_of(&bytes)?;
        let body = header.body_of(&bytes)?;
        Ok(SlotObject {
            header,
            index,
            body,
        })
    });
    parts
        .map(Some)
        .map_err(|fault| ReadError::Corrupt { key, fault })
}

fn decode_header(bytes: &[u8], stream: &StreamName, slot: Slot) -> Result<SlotHeader, SlotFault> {
    let header = SlotHeader::decode(bytes)?;
    header.check_place(stream, slot)?;
    Ok(header)
}

/// The indexes of `slots`, all of which lie in the durable part of the stream, in order, with up
/// to `parallelism` requests in flight. The chain of nonces is checked from `before` on, the nonce
/// of the slot before the first where it is known. Ends after the first error.
pub fn read_indexes<'a>(
    bucket: &'a Bucket,
    stream: &'a StreamName,
    slots: Range<Slot>,
    before: Option<Nonce>,
    parallelism: usize,
) -> impl Stream<Item = Result<SlotView, ReadError>> + Send + 'a {
    let reads = stream::iter(slots.start.0..slots.end.0)
        .map(move |slot| read_index(bucket, stream, Slot(slot)))
        .buffered(parallelism.max(1));
    chained(*stream, slots.start, before, reads, |view| view.header)
}

/// As [`read_indexes`], with the bodies.
pub fn read_objects<'a>(
    bucket: &'a Bucket,
    stream: &'a StreamName,
    slots: Range<Slot>,
    before: Option<Nonce>,
    parallelism: usize,
) -> impl Stream<Item = Result<SlotObject, ReadError>> + Send + 'a {
    let reads = stream::iter(slots.start.0..slots.end.0)
        .map(move |slot| read_object(bucket, stream, Slot(slot)))
        .buffered(parallelism.max(1));
    chained(*stream, slots.start, before, reads, |object| object.header)
}

/// Checks that `reads`, from slot `first` on, are data slots that follow each other.
fn chained<'a, T: Send + 'a>(
    name: StreamName,
    first: Slot,
    before: Option<Nonce>,
    reads: impl Stream<Item = Result<Option<T>, ReadError>> + Send + 'a,
    header_of: fn(&T) -> SlotHeader,
) -> impl Stream<Item = Result<T, ReadError>> + Send + 'a {
    let mut chain = Chain {
        name,
        next: first,
        before,
    };
    let checked = reads.map(move |read| {
        let found = read?;
        chain.check(found.as_ref().map(header_of))?;
        found.ok_or_else(|| chain.missing("absent"))
    });
    // `scan` that lets one error pass and then ends.
    checked.scan(false, |failed, item| {
        let item = (!*failed).then_some(item);
        *failed = item.as_ref().is_some_and(Result::is_err);
        std::future::ready(item)
    })
}

/// The state of a walk over data slots.
struct Chain {
    name: StreamName,
    next: Slot,
    before: Option<Nonce>,
}

impl Chain {
    fn check(&mut self, header: Option<SlotHeader>) -> Result<(), ReadError> {
        let Some(header) = header else {
            return Err(self.missing("absent"));
        };
        if header.kind == super::slot::SlotKind::Seal {
            return Err(self.missing("a seal"));
        }
        if let Some(before) = self.before {
            header
                .check_chain(before)
                .map_err(|fault| ReadError::Corrupt {
                    key: self.name.key(self.next),
                    fault,
                })?;
        }
        self.before = Some(header.nonce);
        self.next = self.next.next();
        Ok(())
    }

    fn missing(&self, found: &'static str) -> ReadError {
        ReadError::Missing {
            key: self.name.key(self.next),
            found,
        }
    }
}

#[cfg(test)]
mod tests;
