//! Puts a segment and reads it back.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use firn_proto::ids::PartitionIndex;
use firn_proto::limits::{ARCHIVE_PUTS_MAX, ARCHIVE_READ_BACK_BYTES, ARCHIVE_READ_BACKS_MAX};

use super::encode::Encoded;
use super::{ArchiveFault, Archiver};
use crate::bucket::{CreateOutcome, Purpose, backoff};
use crate::layout::Key;
use crate::low_priority::Workers;
use crate::segment::{
    Fingerprints, PlainChunks, RowGroup, Segment, SegmentFault, verify_footer, verify_row_group,
};

/// Row groups that lie side by side, and what must come out of each.
struct Stretch {
    range: Range<u64>,
    groups: Vec<(PartitionIndex, RowGroup, u64)>,
}

impl Archiver {
    /// Puts the object until it is there. Only this process writes under the key, so that whatever
    /// is there is ours; whether it is whole is seen when it is read back.
    pub(super) async fn put(&self, key: &Key, pieces: &[Bytes]) -> Result<(), ArchiveFault> {
        let mut may_exist = false;
        let mut attempts = 0;
        loop {
            let body = pieces.to_vec();
            let outcome = self.0.bucket.create_once(Purpose::Archive, key, body).await;
            let reason = match outcome {
                CreateOutcome::Created | CreateOutcome::Exists => return Ok(()),
                CreateOutcome::Unclear(unclear) => {
                    may_exist = true;
                    unclear.to_string()
                }
                CreateOutcome::Refused(error) => error.to_string(),
            };
            attempts += 1;
            if attempts >= ARCHIVE_PUTS_MAX {
                return Err(ArchiveFault::Put {
                    key: key.clone(),
                    attempts,
                    reason,
                    may_exist,
                });
            }
            tracing::info!(%key, reason, "a segment was not put, trying again");
            tokio::time::sleep(backoff(attempts, self.0.entropy.next_u64())).await;
        }
    }

    /// Reads all of the object from the bucket and compares it with what went in.
    pub(super) async fn read_back(
        &self,
        key: &Key,
        worker: &Workers,
        encoded: Encoded,
    ) -> Result<(), ArchiveFault> {
        let Encoded {
            pieces,
            segment,
            fingerprints,
            ..
        } = encoded;
        let topic = segment.topic;
        let groups_end = segment
            .row_groups()
            .map(|(_, group)| group.byte_range().end)
            .max()
            .unwrap_or_default();
        // of the row groups there are fingerprints: their bytes are not needed any more
        let end = bytes_from(groups_end, pieces);
        let mut plain_chunks = Vec::new();
        for stretch in stretches(&segment, &fingerprints) {
            let Stretch { range, groups } = stretch;
            let start = range.start;
            let compare = move |bytes: &Bytes| {
                let groups = groups.iter().map(|(partition, group, expected)| {
                    let bytes = part(bytes, start, &group.byte_range());
                    verify_row_group(&bytes, topic, *partition, group, *expected)
                });
                groups.collect::<Result<Vec<PlainChunks>, _>>()
            };
            plain_chunks.extend(self.compare(key, worker, range, compare).await?);
        }
        let range = groups_end..segment.byte_len;
        let compare = move |bytes: &Bytes| match *bytes == end {
            true => verify_footer(bytes, &segment, &plain_chunks),
            false => Err(SegmentFault::Differs(
                "its page indexes and footer are not those that were put".to_owned(),
            )),
        };
        self.compare(key, worker, range, compare).await
    }

    /// Compares a range of the object; once more, if it is not what it should be.
    async fn compare<T: Send + 'static>(
        &self,
        key: &Key,
        worker: &Workers,
        range: Range<u64>,
        compare: impl Fn(&Bytes) -> Result<T, SegmentFault> + Send + Sync + 'static,
    ) -> Result<T, ArchiveFault> {
        let compare = Arc::new(compare);
        let mut attempts = 0;
        loop {
            let get = self
                .0
                .bucket
                .get_range(Purpose::Archive, key, range.clone());
            let bytes = get
                .await?
                .ok_or_else(|| ArchiveFault::Missing(key.clone()))?;
            let compare = Arc::clone(&compare);
            let fault = match worker.run(move || compare(&bytes)).await? {
                Ok(same) => return Ok(same),
                Err(fault) => fault,
            };
            tracing::warn!(%key, ?range, %fault, "a segment does not come back as it was put");
            attempts += 1;
            if attempts >= ARCHIVE_READ_BACKS_MAX {
                self.0.counters.differing.fetch_add(1, Ordering::Relaxed);
                let key = key.clone();
                return Err(ArchiveFault::Differs { key, fault });
            }
        }
    }
}

/// The row groups of a segment, in stretches that one GET brings each.
fn stretches(segment: &Segment, fingerprints: &Fingerprints) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    for ((run, group), fingerprint) in segment.row_groups().zip(&fingerprints.0) {
        let entry = (run.partition, *group, *fingerprint);
        let bytes = group.byte_range();
        match stretches.last_mut() {
            Some(last)
                if last.range.end == bytes.start
                    && bytes.end - last.range.start <= ARCHIVE_READ_BACK_BYTES as u64 =>
            {
                last.range.end = bytes.end;
                last.groups.push(entry);
            }
            _ => stretches.push(Stretch {
                range: bytes,
                groups: vec![entry],
            }),
        }
    }
    stretches
}

/// The bytes from `start` on of an object that consists of `pieces`.
fn bytes_from(start: u64, pieces: Vec<Bytes>) -> Vec<u8> {
    let mut skip = usize::try_from(start).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    for piece in pieces {
        let skipped = skip.min(piece.len());
        bytes.extend_from_slice(&piece[skipped..]);
        skip -= skipped;
    }
    bytes
}

/// The bytes of `range` out of those of an object from `start` on, as far as they are there.
fn part(bytes: &Bytes, start: u64, range: &Range<u64>) -> Bytes {
    let at = |offset: u64| {
        let index = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
        index.min(bytes.len())
    };
    bytes.slice(at(range.start)..at(range.end))
}
