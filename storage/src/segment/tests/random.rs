//! Random batches of every shape come back. A failing case is printed, with its seed.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

type Header = (Vec<u8>, Option<Vec<u8>>);

#[derive(Clone, Debug)]
pub(crate) struct Shape {
    gap: i64,
    codec: usize,
    producer: Option<(i64, i16, i32)>,
    epoch: i32,
    records: Vec<RecordShape>,
}

/// Offsets skipped before it, timestamp, key, value, headers.
type RecordShape = (i32, i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<Header>);

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..20),
        4 => "[a-z]{0,12}".prop_map(String::into_bytes),
        1 => vec(Just(b'z'), 0..3000),
    ]
}

fn timestamp() -> impl Strategy<Value = i64> {
    prop_oneof![
        8 => NOON..NOON + 5000,
        1 => Just(-1),
        1 => -3_000_000_000_000_000_000..3_000_000_000_000_000_000_i64,
    ]
}

pub(crate) fn shape() -> impl Strategy<Value = Shape> {
    let header = (bytes(), option::of(bytes()));
    let record = (
        prop_oneof![9 => Just(0), 1 => 0..50],
        timestamp(),
        option::of(bytes()),
        option::of(bytes()),
        prop_oneof![2 => Just(Vec::new()), 1 => vec(header, 0..4)],
    );
    (
        prop_oneof![9 => Just(0), 1 => 0..1_i64 << 34],
        0..Codec::ALL.len(),
        option::of((0..i64::MAX, 0..i16::MAX, 0..i32::MAX)),
        0..20,
        vec(record, 1..30),
    )
        .prop_map(|(gap, codec, producer, epoch, records)| Shape {
            gap,
            codec,
            producer,
            epoch,
            records,
        })
}

pub(crate) fn build(shape: &Shape, base_offset: i64) -> BatchView {
    let mut builder = BatchBuilder::new(Codec::ALL[shape.codec])
        .base_offset(base_offset)
        .leader_epoch(LeaderEpoch(shape.epoch));
    if let Some((id, epoch, sequence)) = shape.producer {
        builder = builder.producer(ProducerId(id), ProducerEpoch(epoch), sequence);
    }
    let mut delta = -1;
    for (skipped, timestamp, key, value, headers) in &shape.records {
        delta += 1 + skipped;
        let headers: Vec<NewHeader<'_>> = headers
            .iter()
            .map(|(key, value)| (key.as_slice(), value.as_deref()))
            .collect();
        let record = NewRecord {
            timestamp: *timestamp,
            key: key.as_deref(),
            value: value.as_deref(),
            headers: &headers,
        };
        builder.push_at(delta, &record).unwrap();
    }
    builder.build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn random_batches_come_back(
        shapes in vec(vec(shape(), 1..8), 1..4),
        start in prop_oneof![Just(0), Just((1_i64 << 31) - 5), Just((1_i64 << 32) - 5)],
    ) {
        let mut runs = Vec::new();
        for (partition, shapes) in (0..).zip(&shapes) {
            let mut next = start;
            let mut batches = Vec::new();
            for shape in shapes {
                let batch = build(shape, next + shape.gap);
                next = batch.header().last_offset() + 1;
                batches.push(batch);
            }
            runs.push((PartitionIndex(partition), batches));
        }
        assert_round_trip(&runs);
    }
}
