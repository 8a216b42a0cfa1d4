//! The rows of a batch table, as they are written.

use firn_proto::record::{BatchHeader, Record, RecordFields, Records, header_len};
use firn_proto::varint::{len_i64, put_i64, put_u64};

use super::{Before, PRODUCER, RECORDS, TIMESTAMPS, Trailer, VERBATIM};
use crate::segment::arrays::micros;
use crate::segment::fault::EncodeError;
use crate::stream::crc32c;

/// The rows of a batch table that is being written.
#[derive(Debug, Default)]
pub(in crate::segment) struct TableRows {
    bytes: Vec<u8>,
    before: Before,
    batches: u32,
}

/// What the records of a batch need beyond the columns.
#[derive(Debug, Default)]
pub(in crate::segment) struct Odd {
    /// Whether the timestamps do not all follow from the column.
    timestamps: bool,
    /// How many records are kept verbatim.
    records: u64,
    /// They, each with its place and length.
    bytes: Vec<u8>,
    /// Index behind the last of them.
    next: u64,
}

impl Odd {
    pub(in crate::segment) fn clear(&mut self) {
        self.timestamps = false;
        self.records = 0;
        self.bytes.clear();
        self.next = 0;
    }

    /// Notes what the columns do not tell of `record`, at `index` in its batch.
    pub(in crate::segment) fn note(
        &mut self,
        header: &BatchHeader,
        index: u64,
        record: &Record<'_>,
    ) {
        self.timestamps |= !timestamp_follows(header, record);
        if !is_plain(header, record) {
            self.keep(index, record);
        }
    }

    /// Keeps `record`, at `index` in its batch, as it stands there.
    fn keep(&mut self, index: u64, record: &Record<'_>) {
        put_u64(&mut self.bytes, index - self.next);
        put_u64(&mut self.bytes, record.stored.len() as u64);
        self.bytes.extend_from_slice(record.stored);
        self.records += 1;
        self.next = index + 1;
    }
}

impl TableRows {
    /// No rows yet of a row group that begins at `base_offset`.
    pub(in crate::segment) fn new(base_offset: i64) -> Self {
        Self {
            bytes: Vec::new(),
            before: Before {
                next_offset: base_offset,
                ..Before::default()
            },
            batches: 0,
        }
    }

    pub(in crate::segment) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// A batch that could not be decoded, as it came.
    pub(in crate::segment) fn push_verbatim(&mut self, header: &BatchHeader, batch: &[u8]) {
        self.bytes.push(VERBATIM);
        self.put_offset(header);
        put_u64(&mut self.bytes, batch.len() as u64);
        self.bytes.extend_from_slice(batch);
    }

    /// A batch whose records, the bytes `plain`, are in the columns.
    pub(in crate::segment) fn push(&mut self, header: &BatchHeader, odd: &Odd, plain: &[u8]) {
        let has_producer = (header.producer_id.0, header.producer_epoch.0) != (-1, -1)
            || header.base_sequence != -1;
        let mut head = 0;
        for (bit, set) in [
            (PRODUCER, has_producer),
            (TIMESTAMPS, odd.timestamps),
            (RECORDS, odd.records > 0),
        ] {
            head |= if set { bit } else { 0 };
        }
        self.bytes.push(head);
        self.put_offset(header);
        let out = &mut self.bytes;
        put_u64(out, u64::from(header.record_count.cast_unsigned()));
        let deltas = i64::from(header.last_offset_delta) + 1;
        put_i64(out, deltas - i64::from(header.record_count));
        put_u64(out, u64::from(header.attributes.0.cast_unsigned()));
        let before = &mut self.before;
        put_i64(
            out,
            i64::from(header.leader_epoch.0) - i64::from(before.leader_epoch),
        );
        put_i64(
            out,
            header.base_timestamp.wrapping_sub(before.base_timestamp),
        );
        put_i64(
            out,
            header.max_timestamp.wrapping_sub(header.base_timestamp),
        );
        before.leader_epoch = header.leader_epoch.0;
        before.base_timestamp = header.base_timestamp;
        if has_producer {
            put_i64(out, header.producer_id.0.wrapping_sub(before.producer_id));
            put_i64(out, i64::from(header.producer_epoch.0));
            put_i64(
                out,
                i64::from(header.base_sequence) - i64::from(before.base_sequence),
            );
            before.producer_id = header.producer_id.0;
            before.base_sequence = header.base_sequence;
        }
        if odd.timestamps {
            for record in Records::new(header, plain).flatten() {
                put_i64(out, record.timestamp_delta);
            }
        }
        if odd.records > 0 {
            put_u64(out, odd.records);
            out.extend_from_slice(&odd.bytes);
        }
    }

    fn put_offset(&mut self, header: &BatchHeader) {
        let gap = header.base_offset.wrapping_sub(self.before.next_offset);
        put_u64(&mut self.bytes, gap.cast_unsigned());
        self.before.next_offset = header.last_offset() + 1;
        self.batches += 1;
    }

    /// The batch table: rows and trailer, whose numbers about the rows are set here.
    pub(in crate::segment) fn finish(self, mut trailer: Trailer) -> Result<Vec<u8>, EncodeError> {
        let mut out = zstd::bulk::compress(&self.bytes, 1)?;
        let len = |len: usize| u32::try_from(len).map_err(|_| EncodeError::TooLong("batch table"));
        trailer.batches = self.batches;
        trailer.stored_len = len(out.len())?;
        trailer.plain_len = len(self.bytes.len())?;
        trailer.stored_crc = crc32c(&out);
        out.extend_from_slice(&trailer.encode());
        Ok(out)
    }
}

/// Whether the column of timestamps tells the timestamp delta of the record.
fn timestamp_follows(header: &BatchHeader, record: &Record<'_>) -> bool {
    micros(record.timestamp).is_some()
        && record.timestamp_delta == record.timestamp.wrapping_sub(header.base_timestamp)
}

/// Whether the record is what comes of writing its fields anew: no attributes, every number as
/// short as it can be, and header keys that the column can hold.
fn is_plain(header: &BatchHeader, record: &Record<'_>) -> bool {
    if record.attributes != 0 {
        return false;
    }
    let mut headers_len = 0;
    for header in record.headers {
        if str::from_utf8(header.key).is_err() {
            return false;
        }
        headers_len += header_len(header.key, header.value);
    }
    let fields = RecordFields {
        timestamp_delta: record.timestamp_delta,
        // a delta, which is 31 bits
        offset_delta: (record.offset - header.base_offset) as i32,
        key: record.key,
        value: record.value,
        header_count: record.headers.len(),
        headers: &[],
    };
    let body_len = fields.body_len() + headers_len;
    let body = i64::try_from(body_len).unwrap_or(i64::MAX);
    record.stored.len() == len_i64(body) + body_len
}
