//! Record batches (v2), written and read here by hand: the `kafka-protocol` crate loses the first
//! of two headers with one key and cannot hold a key that is not UTF-8, and an oracle must not
//! share the product's code either.

use crate::wait;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of a batch's header: everything before its first record.
const HEADER_BYTES: usize = 61;
/// Bytes before what the length field counts.
const PREFIX_BYTES: usize = 12;
/// Where the checksum lies; it covers everything behind it.
const CRC_AT: usize = 17;

/// A record as a producer gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The key, which may be absent.
    pub key: Option<Bytes>,
    /// The value, which may be absent.
    pub value: Option<Bytes>,
    /// Headers in order; keys may repeat.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
    /// Milliseconds since 1970.
    pub timestamp: i64,
}

impl Record {
    /// A record of our days with a key and a value.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            key: Some(key.into()),
            value: Some(value.into()),
            headers: Vec::new(),
            timestamp: wait::record_time_ms(),
        }
    }
}

/// Who produces: id, epoch and the sequence of the batch's first record; all -1 without idempotence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerFields {
    /// The id InitProducerId gave.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// The sequence of the batch's first record.
    pub base_sequence: i32,
}

impl ProducerFields {
    /// A producer without state.
    pub const NONE: Self = Self {
        id: -1,
        epoch: -1,
        base_sequence: -1,
    };
}

/// A record as it lies in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its offset.
    pub offset: i64,
    /// What was produced.
    pub record: Record,
}

/// An uncompressed batch of `records`, as a producer sends it.
pub fn encode_batch(records: &[Record], producer: ProducerFields) -> Bytes {
    let first = records.first().expect("a batch holds a record").timestamp;
    let last = records.iter().map(|r| r.timestamp).max().unwrap_or(first);
    let count = i32::try_from(records.len()).expect("a batch's count fits");
    let mut batch = BytesMut::new();
    batch.put_i64(0); // base offset: the broker's to give
    batch.put_i32(0); // length, below
    batch.put_i32(-1); // leader epoch: the broker's to give
    batch.put_i8(2); // magic
    batch.put_u32(0); // checksum, below
    batch.put_i16(0); // attributes: no compression, create time
    batch.put_i32(count - 1);
    batch.put_i64(first);
    batch.put_i64(last);
    batch.put_i64(producer.id);
    batch.put_i16(producer.epoch);
    batch.put_i32(producer.base_sequence);
    batch.put_i32(count);
    for (delta, record) in records.iter().enumerate() {
        put_record(&mut batch, record, record.timestamp - first, delta);
    }
    seal(&mut batch);
    batch.freeze()
}

/// Writes length and checksum into a batch whose other bytes are final.
pub fn seal(batch: &mut BytesMut) {
    let length = i32::try_from(batch.len() - PREFIX_BYTES).expect("a batch's length fits");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c(&batch[CRC_AT + 4..]);
    batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
}

/// Every record of the whole batches in `records`; a batch cut off at the end is left out.
///
/// # Panics
/// When the bytes contradict themselves: checksum, lengths or counts.
pub fn decode_batches(mut records: Bytes) -> Vec<StoredRecord> {
    let mut found = Vec::new();
    while records.len() >= HEADER_BYTES {
        let length = i32::from_be_bytes(records[8..12].try_into().expect("four bytes"));
        let length = PREFIX_BYTES + usize::try_from(length).expect("a length is not negative");
        if records.len() < length {
            break;
        }
        decode_batch(records.split_to(length), &mut found);
    }
    found
}

fn decode_batch(mut batch: Bytes, found: &mut Vec<StoredRecord>) {
    let expected = u32::from_be_bytes(batch[CRC_AT..CRC_AT + 4].try_into().expect("four bytes"));
    assert_eq!(
        crc32c(&batch[CRC_AT + 4..]),
        expected,
        "the checksum of a served batch holds"
    );
    let base_offset = batch.get_i64();
    batch.advance(8);
    assert_eq!(batch.get_i8(), 2, "a served batch is of magic 2");
    batch.advance(4);
    let attributes = batch.get_i16();
    let last_delta = batch.get_i32();
    let first_timestamp = batch.get_i64();
    batch.advance(8 + 8 + 2 + 4);
    let count = batch.get_i32();
    if attributes & 0x20 != 0 {
        return; // a control batch is no record of a user
    }
    assert_eq!(attributes & 7, 0, "this reader takes uncompressed batches");
    assert_eq!(count, last_delta + 1, "a produced batch is dense");
    for _ in 0..count {
        let length = usize::try_from(varint(&mut batch)).expect("a length is not negative");
        let mut body = batch.split_to(length);
        body.advance(1);
        let timestamp = first_timestamp + varint(&mut body);
        let offset = base_offset + varint(&mut body);
        let key = nullable(&mut body);
        let value = nullable(&mut body);
        let headers = (0..varint(&mut body))
            .map(|_| {
                (
                    nullable(&mut body).expect("a header key"),
                    nullable(&mut body),
                )
            })
            .collect();
        found.push(StoredRecord {
            offset,
            record: Record {
                key,
                value,
                headers,
                timestamp,
            },
        });
    }
}

fn put_record(batch: &mut BytesMut, record: &Record, timestamp_delta: i64, offset_delta: usize) {
    let mut body = BytesMut::new();
    body.put_i8(0);
    put_varint(&mut body, timestamp_delta);
    put_varint(&mut body, offset_delta as i64);
    put_nullable(&mut body, record.key.as_ref());
    put_nullable(&mut body, record.value.as_ref());
    put_varint(&mut body, record.headers.len() as i64);
    for (key, value) in &record.headers {
        put_nullable(&mut body, Some(key));
        put_nullable(&mut body, value.as_ref());
    }
    put_varint(batch, body.len() as i64);
    batch.extend_from_slice(&body);
}

fn put_nullable(to: &mut BytesMut, bytes: Option<&Bytes>) {
    match bytes {
        Some(bytes) => {
            put_varint(to, bytes.len() as i64);
            to.extend_from_slice(bytes);
        }
        None => put_varint(to, -1),
    }
}

fn nullable(from: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(varint(from)).ok()?;
    Some(from.split_to(length))
}

fn put_varint(to: &mut BytesMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        to.put_u8((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    to.put_u8(rest as u8);
}

fn varint(from: &mut Bytes) -> i64 {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = from.get_u8();
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// CRC-32C (Castagnoli), a byte at a time by table.
pub fn crc32c(bytes: &[u8]) -> u32 {
    static TABLE: [u32; 256] = crc_table();
    !bytes.iter().fold(!0, |crc, byte| {
        (crc >> 8) ^ TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize]
    })
}

const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_batch_reads_back_what_was_written() {
        let mut odd = Record::new("k", "v");
        odd.headers = vec![
            (Bytes::from_static(b"h"), Some(Bytes::from_static(b"1"))),
            (Bytes::from_static(b"h"), None),
            (Bytes::from_static(b"\xff\xfe"), Some(Bytes::new())),
        ];
        odd.timestamp -= 5;
        let empty = Record {
            key: None,
            value: Some(Bytes::new()),
            ..Record::new("", "")
        };
        let records = [odd, empty];
        let batch = encode_batch(&records, ProducerFields::NONE);
        let read = decode_batches(batch);
        assert_eq!(read.iter().map(|r| r.offset).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(
            read.into_iter().map(|r| r.record).collect::<Vec<_>>(),
            records
        );
    }
}
