//! Analytics engines on the segments of a topic: pyarrow and DuckDB, each with a Parquet reader of
//! its own.

use std::path::Path;
use std::process::Command;

use firn_proto::ids::{ClusterId, PartitionIndex, TopicId};
use firn_proto::record::{BatchBuilder, BatchView, Codec, NewRecord};
use firn_storage::segment::{SegmentOrigin, SegmentWriter};
use firn_tests::requirement::{python_with, skip};
use serde_json::{Value, json};

/// The golden segment of the storage crate.
const GOLDEN: &str = include_str!("../../storage/src/segment/testdata/segment_v1.hex");

#[test]
fn duckdb_and_pyarrow_read_segments() {
    let test = "duckdb_and_pyarrow_read_segments";
    let Some(python) = python_with("duckdb, pyarrow") else {
        return skip(test, "Python with duckdb and pyarrow");
    };
    let folder = tempfile::tempdir().unwrap();
    let (small, large) = (folder.path().join("small"), folder.path().join("large"));
    std::fs::write(&small, golden()).unwrap();
    std::fs::write(&large, three_partitions()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients/segment.py");
    let mut command = Command::new(python);
    let output = command.arg(script).args([small, large]).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    let first = 1_i64 << 32;
    let noon = 1_700_000_000_000_000_i64;
    let rows = json!([
        [3, first, noon, "61", [], "6f6e65"],
        [3, first + 1, noon, "62", [], "74776f"],
        [3, first + 2, null, null, [["\u{fffd}", "68"]], "7468726565"],
        [3, first + 3, 0, null, [], "7468726565"],
    ]);
    assert_eq!(seen["pyarrow"]["rows"], rows);
    assert_eq!(seen["duckdb"]["rows"], rows);
    assert_eq!(
        seen["pyarrow"]["ids"],
        json!(["1", "2", "3", "5", "6", "10"])
    );
    let keys = ["cluster", "format", "map", "topic", "topic_id"];
    assert_eq!(
        seen["duckdb"]["keys"],
        json!(keys.map(|key| format!("firn.{key}")))
    );
    let totals = [0, 1, 2].map(|partition| json!([partition, 80, 20, 99, 80 * 1000]));
    assert_eq!(seen["totals"], json!(totals));
}

fn golden() -> Vec<u8> {
    let digits: Vec<char> = GOLDEN.chars().filter(char::is_ascii_hexdigit).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// A segment of three partitions with ten batches of ten records each. Those of the last do not
/// compress.
fn three_partitions() -> Vec<u8> {
    let origin = SegmentOrigin {
        cluster: ClusterId([1; 16]),
        topic: TopicId([2; 16]),
        topic_name: "orders".to_owned(),
    };
    let mut writer = SegmentWriter::new(Vec::new(), &origin).unwrap();
    for partition in 0..3 {
        writer.begin_run(PartitionIndex(partition), 0, 99).unwrap();
        for batch in 0..10 {
            let value = if partition < 2 { words } else { noise };
            writer.push(&ten_records(10 * batch, value)).unwrap();
        }
    }
    writer.finish().unwrap().sink
}

fn words(_: i64) -> Vec<u8> {
    vec![b'v'; 1000]
}

fn noise(offset: i64) -> Vec<u8> {
    let mut state = offset.cast_unsigned();
    let byte = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(99);
        (state >> 56) as u8
    };
    (0..1000).map(byte).collect()
}

fn ten_records(base_offset: i64, value: fn(i64) -> Vec<u8>) -> BatchView {
    let mut batch = BatchBuilder::new(Codec::Lz4).base_offset(base_offset);
    for offset in base_offset..base_offset + 10 {
        let value = value(offset);
        let record = NewRecord {
            value: Some(&value),
            ..NewRecord::default()
        };
        batch.push(&record).unwrap();
    }
    batch.build().unwrap()
}
