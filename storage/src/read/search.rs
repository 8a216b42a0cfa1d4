//! Finds records by their time (ListOffsets): the index of a run names its largest timestamp, a
//! batch's header names its own, and only one batch is decoded. What a producer sent that does not
//! decode is found by what its header says: it is in the log for good, and must not hide the rest.

use bytes::Bytes;
use firn_proto::ids::{LeaderEpoch, TopicPartition};
use firn_proto::limits::COLD_GET_BYTES_MAX;
use firn_proto::record::{BatchView, DecodeError, FoundRecord, first_at_or_after, first_of_max};

use super::memory::HeldMemory;
use super::{ReadError, ReadRequest, Reader, Stopped};
use crate::state::RunRef;

/// A record found by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundOffset {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in milliseconds.
    pub timestamp: i64,
    /// The leader epoch of its batch.
    pub epoch: LeaderEpoch,
}

/// Batches that are looked at one after the other.
pub(super) struct SomeBatches<'a> {
    pub(super) batches: Vec<Bytes>,
    /// The offset behind them.
    pub(super) next_offset: i64,
    /// What they take of the memory of cold reads.
    _memory: Option<HeldMemory<'a>>,
}

impl Reader {
    /// The first record, by offset, from `start` on and before `end`, whose timestamp is at least
    /// `timestamp` (KIP-79). Timestamps need not rise with offsets.
    ///
    /// # Errors
    /// As [`Reader::read`]; [`ReadError::Stopped`] if the decoder stops.
    pub async fn offset_for_timestamp(
        &self,
        tp: TopicPartition,
        timestamp: i64,
        start: i64,
        end: i64,
        runs: &[RunRef],
    ) -> Result<Option<FoundOffset>, ReadError> {
        // Never closed, so that there is always a permit in the end.
        let _place = self.0.searches.acquire().await.ok();
        let holds = |r: &&RunRef| r.run.last_offset >= start && r.run.max_timestamp >= timestamp;
        for run in runs.iter().filter(holds) {
            let mut offset = run.run.base_offset.max(start);
            let last = run.run.last_offset.saturating_add(1).min(end);
            while offset < last {
                let found = self.some_batches(tp, offset, last, run).await?;
                let next = found.next_offset;
                if next <= offset {
                    return Ok(None);
                }
                let window = (start, end);
                let first = self.first_in_batches(tp, found.batches, timestamp, window);
                if let Some(found) = first.await? {
                    return Ok(Some(found));
                }
                offset = next;
            }
        }
        Ok(None)
    }

    /// The first record with the largest timestamp from `start` on and before `end` (KIP-734).
    ///
    /// # Errors
    /// As [`Reader::offset_for_timestamp`].
    pub async fn max_timestamp(
        &self,
        tp: TopicPartition,
        start: i64,
        end: i64,
        runs: &[RunRef],
    ) -> Result<Option<FoundOffset>, ReadError> {
        let _place = self.0.searches.acquire().await.ok();
        // Its timestamp, its run and where it begins: the batch itself is read again in the end, or
        // its bytes would be kept while others are read.
        let mut best: Option<(i64, &RunRef, i64)> = None;
        let visible = |r: &&RunRef| r.run.last_offset >= start && r.run.base_offset < end;
        let mut candidates: Vec<&RunRef> = runs.iter().filter(visible).collect();
        // The run that promises most first; of equals the one with the lower offsets.
        candidates.sort_by_key(|r| (std::cmp::Reverse(r.run.max_timestamp), r.run.base_offset));
        for run in candidates {
            if best
                .as_ref()
                .is_some_and(|(most, ..)| *most >= run.run.max_timestamp)
            {
                break;
            }
            let mut offset = run.run.base_offset.max(start);
            let last = run.run.last_offset.saturating_add(1).min(end);
            while offset < last {
                let found = self.some_batches(tp, offset, last, run).await?;
                let next = found.next_offset;
                if next <= offset {
                    break;
                }
                for batch in found.batches {
                    let header = *view(tp, batch)?.header();
                    let most = header.max_timestamp;
                    if best.as_ref().is_none_or(|(so_far, ..)| most > *so_far) {
                        best = Some((most, run, header.base_offset));
                    }
                }
                offset = next;
            }
        }
        let Some((_, run, base_offset)) = best else {
            return Ok(None);
        };
        let last = run.run.last_offset.saturating_add(1).min(end);
        let newest = self.some_batches(tp, base_offset, last, run).await?;
        let Some(batch) = newest.batches.into_iter().next() else {
            return Ok(None);
        };
        let batch = view(tp, batch)?;
        let found = self.look(tp, &batch, start, first_of_max).await?;
        Ok(found.map(|found| found_in(&batch, found)))
    }

    /// As [`Self::offset_for_timestamp`], among batches that the caller holds.
    ///
    /// # Errors
    /// [`ReadError::Undecodable`] for what is no batch; [`ReadError::Stopped`] if the decoder stops.
    pub async fn first_in_batches(
        &self,
        tp: TopicPartition,
        batches: Vec<Bytes>,
        timestamp: i64,
        (start, end): (i64, i64),
    ) -> Result<Option<FoundOffset>, ReadError> {
        for batch in batches {
            let batch = view(tp, batch)?;
            if batch.header().max_timestamp < timestamp {
                continue;
            }
            let look = move |batch: &BatchView, bytes_max| {
                first_at_or_after(batch, timestamp, start, bytes_max)
            };
            let found = self.look(tp, &batch, start, look).await?;
            if let Some(found) = found.filter(|found| found.offset < end) {
                return Ok(Some(found_in(&batch, found)));
            }
        }
        Ok(None)
    }

    /// As [`Self::max_timestamp`], among batches that the caller holds.
    ///
    /// # Errors
    /// As [`Self::first_in_batches`].
    pub async fn newest_in_batches(
        &self,
        tp: TopicPartition,
        batches: Vec<Bytes>,
        (start, end): (i64, i64),
    ) -> Result<Option<FoundOffset>, ReadError> {
        let mut best: Option<BatchView> = None;
        for batch in batches {
            let batch = view(tp, batch)?;
            let (base, most) = (batch.header().base_offset, batch.header().max_timestamp);
            let is_newer = best
                .as_ref()
                .is_none_or(|so_far| most > so_far.header().max_timestamp);
            if base < end && is_newer {
                best = Some(batch);
            }
        }
        let Some(batch) = best else {
            return Ok(None);
        };
        let found = self.look(tp, &batch, start, first_of_max).await?;
        Ok(found.map(|found| found_in(&batch, found)))
    }

    /// Looks into one batch. One that does not decode, though its checksum is right, was produced
    /// so; its header stands for its records then, those from `start` on.
    async fn look<L>(
        &self,
        tp: TopicPartition,
        batch: &BatchView,
        start: i64,
        look: L,
    ) -> Result<Option<FoundRecord>, ReadError>
    where
        L: Fn(&BatchView, usize) -> Result<Option<FoundRecord>, DecodeError>
            + Clone
            + Send
            + 'static,
    {
        let decodings = self.decodings();
        let looked = decodings.look(batch, look, DecodeError::is_too_large);
        match looked.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => {
                let header = batch.header();
                let offset = header.base_offset;
                tracing::debug!(%tp, offset, %error, "a batch is searched by its header alone");
                Ok(Some(FoundRecord {
                    offset: offset.max(start),
                    timestamp: header.max_timestamp,
                }))
            }
            Err(Stopped) => Err(ReadError::Stopped {
                tp,
                offset: batch.header().base_offset,
            }),
        }
    }

    /// Batches of one run from the one that holds `offset` on.
    pub(super) async fn some_batches(
        &self,
        tp: TopicPartition,
        offset: i64,
        end: i64,
        run: &RunRef,
    ) -> Result<SomeBatches<'_>, ReadError> {
        let request = ReadRequest {
            tp,
            offset,
            end,
            max_bytes: COLD_GET_BYTES_MAX,
            first_in_any_case: true,
            runs: std::slice::from_ref(run),
        };
        let (read, memory) = self.read_held(&request).await?;
        Ok(SomeBatches {
            batches: read.batches,
            next_offset: read.next_offset,
            _memory: memory,
        })
    }
}

fn found_in(batch: &BatchView, found: FoundRecord) -> FoundOffset {
    FoundOffset {
        offset: found.offset,
        timestamp: found.timestamp,
        epoch: batch.header().leader_epoch,
    }
}

fn view(tp: TopicPartition, mut batch: Bytes) -> Result<BatchView, ReadError> {
    BatchView::take(&mut batch).map_err(|error| ReadError::Undecodable {
        tp,
        offset: 0,
        reason: error.to_string(),
    })
}
