//! What another reader of Parquet sees in a segment: the six columns, their ids, every record.

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Encoding;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};

use super::*;

fn rows(object: &[u8]) -> Vec<RecordBatch> {
    let object = Bytes::copy_from_slice(object);
    let builder = ParquetRecordBatchReaderBuilder::try_new(object).unwrap();
    builder.build().unwrap().map(Result::unwrap).collect()
}

#[test]
fn an_engine_sees_six_columns_and_every_record() {
    let headers: [NewHeader<'_>; 2] = [(b"k", Some(b"v")), (b"\xff", None)];
    let records = [
        NewRecord {
            headers: &headers,
            ..record(Some(b"key"), Some(b"value"))
        },
        NewRecord {
            timestamp: -1,
            ..record(None, None)
        },
        record(Some(b""), Some(b"")),
    ];
    let batch = batch_of(1 << 32, Codec::Gzip, &records);
    let broken = raw_batch(|header| header.base_offset = 1 << 33, &[vec![9]]);
    let other = batch_of(9, Codec::None, &records[..1]);
    let written = write(&[
        (PARTITION, vec![batch, broken]),
        (PartitionIndex(4), vec![other]),
    ]);
    let found = rows(&written.sink);
    let [rows] = found.as_slice() else {
        panic!("{} pieces", found.len());
    };
    let names: Vec<&str> = rows
        .schema_ref()
        .fields()
        .iter()
        .map(|f| f.name().as_str())
        .collect();
    let expected = [
        "partition",
        "offset",
        "timestamp",
        "key",
        "headers",
        "value",
    ];
    assert_eq!(names, expected.map(|name| format!("_kafka_{name}")));
    let ids = rows
        .schema_ref()
        .fields()
        .iter()
        .map(|field| field.metadata()["PARQUET:field_id"].as_str());
    assert_eq!(ids.collect::<Vec<_>>(), ["1", "2", "3", "5", "6", "10"]);
    let partitions = rows.column(0).as_primitive::<Int32Type>();
    assert_eq!(partitions.values(), &[3, 3, 3, 4]);
    let offsets = rows.column(1).as_primitive::<Int64Type>();
    assert_eq!(
        offsets.values(),
        &[1 << 32, (1 << 32) + 1, (1 << 32) + 2, 9]
    );
    let timestamps = rows.column(2).as_primitive::<TimestampMicrosecondType>();
    assert_eq!(timestamps.value(0), 1000 * NOON);
    assert!(timestamps.is_null(1));
    let keys = rows.column(3).as_binary::<i32>();
    assert_eq!(
        keys.iter().collect::<Vec<_>>(),
        [Some(&b"key"[..]), None, Some(b""), Some(b"key")]
    );
    let headers = rows.column(4).as_list::<i32>();
    let first = headers.value(0);
    let header_keys = first.as_struct().column(0).as_string::<i32>();
    assert_eq!(
        header_keys.iter().collect::<Vec<_>>(),
        [Some("k"), Some("\u{fffd}")]
    );
    assert_eq!(headers.value(1).len(), 0);
    let values = rows.column(5).as_binary::<i32>();
    assert_eq!(
        values.iter().collect::<Vec<_>>(),
        [Some(&b"value"[..]), None, Some(b""), Some(b"value")]
    );
}

#[test]
fn columns_are_stored_as_the_format_says() {
    let batches = (0..200).map(|at| noisy_batch(10 * at, 10, 500)).collect();
    let written = write(&[(PARTITION, batches)]);
    let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
    let metadata = reader.parse_and_finish(&Bytes::from(written.sink)).unwrap();
    let index = &metadata.offset_index().unwrap()[0];
    assert!(
        index[6].page_locations().len() > 5,
        "values lie in pages of {} bytes",
        128 * 1024
    );
    let encodings = |column: usize| -> Vec<Encoding> {
        metadata.row_group(0).column(column).encodings().collect()
    };
    assert!(encodings(1).contains(&Encoding::DELTA_BINARY_PACKED));
    assert!(encodings(2).contains(&Encoding::DELTA_BINARY_PACKED));
    for column in [0, 3] {
        assert!(
            encodings(column).contains(&Encoding::RLE_DICTIONARY),
            "column {column}"
        );
    }
    assert!(!encodings(6).contains(&Encoding::RLE_DICTIONARY));
    assert_eq!(metadata.file_metadata().created_by(), Some("firn"));
}
