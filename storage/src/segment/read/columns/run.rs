//! Records of one kind in a row: without headers, of the partition that it should be, each with a
//! timestamp, all with a key or all without, all with a value or all without. Most are, and of
//! those only what differs is read one by one.

use firn_proto::limits::BATCH_PLAIN_BYTES_MAX;
use firn_proto::record::{BatchHeader, RecordFields, put_record};

use super::Columns;
use crate::segment::column::Level;
use crate::segment::fault::SegmentFault;
use crate::segment::read::beyond::Times;
use crate::segment::read::build_fault;

/// So many records of one kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) records: u32,
    has_key: bool,
    has_value: bool,
}

impl Columns {
    /// What the next records are, `most` of them at most; `None` if the next one is to be read alone.
    pub(super) fn run(&mut self, most: u32) -> Result<Option<Run>, SegmentFault> {
        const NO_HEADER: Level = Level {
            repetition: 0,
            definition: 0,
        };
        let codec = &mut self.codec;
        let mut records = most;
        for leaf in [&mut self.header_key, &mut self.header_value] {
            let (level, count) = leaf.run(codec)?;
            if level != NO_HEADER {
                return Ok(None);
            }
            records = records.min(count);
        }
        for leaf in [&mut self.partition, &mut self.offset] {
            records = records.min(leaf.run(codec)?.1);
        }
        match self.partition.number_run() {
            Some((index, count)) if index == self.partition_index => {
                records = records.min(u32::try_from(count).unwrap_or(u32::MAX));
            }
            _ => return Ok(None),
        }
        let mut has = [false; 3];
        let leaves = [&mut self.timestamp, &mut self.key, &mut self.value];
        for (has, leaf) in has.iter_mut().zip(leaves) {
            let (level, count) = leaf.run(codec)?;
            *has = level.definition > 0;
            records = records.min(count);
        }
        let [has_timestamp, has_key, has_value] = has;
        Ok(has_timestamp.then_some(Run {
            records,
            has_key,
            has_value,
        }))
    }

    /// Appends the records of a run.
    pub(super) fn put_run(
        &mut self,
        run: Run,
        header: &BatchHeader,
        times: &mut Times<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), SegmentFault> {
        for leaf in [
            &mut self.partition,
            &mut self.offset,
            &mut self.timestamp,
            &mut self.key,
            &mut self.header_key,
            &mut self.header_value,
            &mut self.value,
        ] {
            leaf.pass(run.records);
        }
        self.partition.pass_numbers(run.records);
        for _ in 0..run.records {
            let (offset, micros) = (self.offset.number()?, self.timestamp.number()?);
            let (offset_delta, timestamp_delta) =
                times.deltas(Some(offset), Some(micros), &self.offset, &self.timestamp)?;
            let key = match run.has_key {
                true => Some(self.key.bytes()?),
                false => None,
            };
            let value = match run.has_value {
                true => Some(self.value.bytes()?),
                false => None,
            };
            let fields = RecordFields {
                timestamp_delta,
                offset_delta,
                key,
                value,
                header_count: 0,
                headers: &[],
            };
            put_record(out, &fields).map_err(|error| build_fault(header, error))?;
            check_length(out)?;
        }
        Ok(())
    }
}

/// Records of a batch so far may not be longer than any batch.
pub(super) fn check_length(records: &[u8]) -> Result<(), SegmentFault> {
    if records.len() <= BATCH_PLAIN_BYTES_MAX {
        return Ok(());
    }
    Err(SegmentFault::TooLarge {
        what: "record batch",
        bytes_max: BATCH_PLAIN_BYTES_MAX,
    })
}
