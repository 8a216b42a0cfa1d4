use super::*;
use proptest::prelude::*;

fn run(topic: u8, partition: i32, offsets: (i64, i64), bytes: (u32, u32)) -> Run {
    Run {
        tp: TopicPartition {
            topic: TopicId([topic; 16]),
            partition: PartitionIndex(partition),
        },
        epoch: LeaderEpoch(3),
        base_offset: offsets.0,
        last_offset: offsets.1,
        byte_start: bytes.0,
        byte_len: bytes.1,
        max_timestamp: 1_700_000_000_000,
        flags: BatchFlags(1),
    }
}

fn producer(run: &Run, base_offset: i64, count: u32) -> ProducerBatch {
    ProducerBatch {
        tp: run.tp,
        producer: ProducerId(1 << 40),
        producer_epoch: ProducerEpoch(-1),
        base_sequence: 17,
        count,
        base_offset,
        max_timestamp: -1,
        flags: BatchFlags(2),
    }
}

fn sample() -> WalIndex {
    let far = 1 << 33;
    let runs = vec![
        run(1, 0, (0, 9), (0, 100)),
        run(1, 1, (far, far + 4), (100, 50)),
        run(2, 0, (5, 5), (150, 10)),
    ];
    WalIndex {
        producers: vec![producer(&runs[0], 0, 4), producer(&runs[1], far + 1, 2)],
        runs,
        checkpoint: CheckpointRef::Object {
            slot: Slot(1 << 35),
            len: 1 << 34,
            crc: 0xdead_beef,
        },
    }
}

#[test]
fn an_index_reads_back_what_was_written() {
    for checkpoint in [
        CheckpointRef::None,
        CheckpointRef::Inline(Bytes::from_static(b"rows")),
        sample().checkpoint,
    ] {
        let mut index = WalIndex {
            checkpoint,
            ..sample()
        };
        let bytes = index.place().unwrap();
        assert_eq!(WalIndex::decode(&bytes, 160), Ok(index));
    }
}

#[test]
fn placing_counts_runs_from_the_start_of_the_object() {
    let mut index = sample();
    let bytes = index.place().unwrap();
    let body_start = u32::try_from(HEADER_LEN + bytes.len()).unwrap();
    let starts: Vec<_> = index.runs.iter().map(|run| run.byte_start).collect();
    assert_eq!(starts, [body_start, body_start + 100, body_start + 150]);
}

#[test]
fn an_empty_index_is_an_index() {
    let mut index = WalIndex::default();
    let bytes = index.place().unwrap();
    assert_eq!(WalIndex::decode(&bytes, 0), Ok(WalIndex::default()));
}

#[test]
fn runs_out_of_order_are_refused_both_ways() {
    let mut index = sample();
    index.runs.swap(0, 1);
    index.producers.clear();
    assert_eq!(index.place(), Err(IndexError::Run { row: 1 }));
    let mut overlapping = sample();
    overlapping.runs[1] = run(1, 0, (9, 12), (100, 50));
    overlapping.producers.clear();
    assert_eq!(overlapping.place(), Err(IndexError::Run { row: 1 }));
}

#[test]
fn a_producer_batch_without_its_run_is_refused() {
    let mut index = sample();
    index.producers.push(producer(&index.runs[2], 5, 2));
    assert_eq!(index.place(), Err(IndexError::Producer { row: 2 }));
}

#[test]
fn a_run_outside_the_body_is_refused() {
    let bytes = sample().place().unwrap();
    assert!(WalIndex::decode(&bytes, 160).is_ok());
    assert!(WalIndex::decode(&bytes, 159).is_err());
}

#[test]
fn every_flipped_bit_and_every_truncation_is_found() {
    let good = sample().place().unwrap();
    for bit in 0..good.len() * 8 {
        let mut bytes = good.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(WalIndex::decode(&bytes.into(), 160).is_err(), "bit {bit}");
    }
    for len in 0..good.len() {
        assert!(
            WalIndex::decode(&good.slice(..len), 160).is_err(),
            "{len} bytes"
        );
    }
}

#[test]
fn counts_beyond_the_bytes_allocate_nothing() {
    let mut bytes = sample().place().unwrap().to_vec();
    for at in [8, 12, 16, 20] {
        let before: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let forged = with_crc(&bytes);
        assert!(WalIndex::decode(&forged, 160).is_err(), "count at {at}");
        bytes[at..at + 4].copy_from_slice(&before);
    }
}

fn with_crc(bytes: &[u8]) -> Bytes {
    let rows = &bytes[..bytes.len() - CRC_LEN];
    let mut out = rows.to_vec();
    out.extend(crc32c(rows).to_le_bytes());
    out.into()
}

proptest! {
    #[test]
    fn any_change_under_a_right_checksum_gives_an_answer(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = sample().place().unwrap().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(mut index) = WalIndex::decode(&with_crc(&bytes), 160) {
            prop_assert!(index.runs.iter().all(|run| run.base_offset <= run.last_offset));
            let _ = index.place();
        }
    }
}
