use super::*;
use crate::ids::{ProducerEpoch, ProducerId};
use crate::record::{BatchBuilder, NewRecord, Stamp};

const NOW: i64 = 1_700_000_000_000;
const RULES: BatchRules = BatchRules {
    bytes_max: 1000,
    timestamp_type: TimestampType::CreateTime,
    timestamp_before_max_ms: i64::MAX,
    timestamp_after_max_ms: 3_600_000,
};

fn builder(codec: Codec, timestamps: &[i64]) -> BatchBuilder {
    let mut builder = BatchBuilder::new(codec);
    for timestamp in timestamps {
        builder
            .push(&NewRecord {
                timestamp: *timestamp,
                key: Some(b"key"),
                ..NewRecord::default()
            })
            .unwrap();
    }
    builder
}

fn batch(timestamps: &[i64]) -> BatchView {
    builder(Codec::None, timestamps).build().unwrap()
}

/// A batch with bytes changed at `at` and the CRC set right again.
fn changed(batch: &BatchView, at: usize, value: &[u8]) -> Bytes {
    let mut bytes = batch.bytes().to_vec();
    bytes[at..at + value.len()].copy_from_slice(value);
    let crc = crate::record::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(bytes)
}

fn check(bytes: Bytes) -> Result<BatchView, BatchError> {
    check_produced(bytes, &RULES, NOW)
}

#[test]
fn a_sound_batch_of_every_codec_passes() {
    for codec in Codec::ALL {
        let batch = builder(codec, &[NOW, NOW + 1]).build().unwrap();
        assert_eq!(check(batch.bytes().clone()), Ok(batch));
    }
}

#[test]
fn only_one_whole_batch_passes() {
    let bytes = batch(&[NOW]).into_bytes();
    let twice = [bytes.as_ref(), bytes.as_ref()].concat();
    assert_eq!(
        check(Bytes::from(twice)),
        Err(BatchError::SeveralBatches(bytes.len()))
    );
    for len in 0..bytes.len() {
        assert!(
            matches!(check(bytes.slice(..len)), Err(BatchError::Header(_))),
            "cut at {len}"
        );
    }
}

#[test]
fn another_magic_is_refused_even_in_a_short_message() {
    let old = [&[0; 16][..], &[1], &[0; 10]].concat();
    assert_eq!(
        check(Bytes::from(old)),
        Err(BatchError::Header(HeaderError::Magic(1)))
    );
}

#[test]
fn a_length_that_no_batch_can_have_is_refused() {
    let bytes = changed(&batch(&[NOW]), 8, &48_i32.to_be_bytes());
    assert_eq!(
        check(bytes),
        Err(BatchError::Header(HeaderError::Length(48)))
    );
    let bytes = changed(&batch(&[NOW]), 8, &i32::MIN.to_be_bytes());
    assert_eq!(
        check(bytes),
        Err(BatchError::Header(HeaderError::Length(i32::MIN)))
    );
}

#[test]
fn a_changed_byte_anywhere_behind_the_crc_is_found() {
    let bytes = batch(&[NOW, NOW]).into_bytes();
    for at in 17..bytes.len() {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 0x20;
        let found = check(Bytes::from(bytes));
        assert!(matches!(found, Err(BatchError::Crc(_))), "byte {at}");
    }
}

#[test]
fn a_batch_over_the_topics_limit_is_too_large() {
    let batch = batch(&[NOW; 100]);
    let len = batch.bytes().len();
    let with = |bytes_max| {
        let rules = BatchRules { bytes_max, ..RULES };
        check_produced(batch.bytes().clone(), &rules, NOW)
    };
    assert!(with(len).is_ok());
    assert_eq!(
        with(len - 1),
        Err(BatchError::TooLarge {
            bytes: len,
            bytes_max: len - 1
        })
    );
}

#[test]
fn offsets_are_for_the_broker_to_give() {
    let stamped = batch(&[NOW]).stamp(Stamp {
        base_offset: 3,
        leader_epoch: crate::ids::LeaderEpoch(0),
        log_append_ms: None,
    });
    assert_eq!(check(stamped.into_bytes()), Err(BatchError::BaseOffset(3)));
}

#[test]
fn the_count_must_match_the_offsets_and_fit_the_bytes() {
    let refused = |bytes| matches!(check(bytes), Err(BatchError::Count { .. }));
    let three = batch(&[NOW; 3]);
    for count in [i32::MIN, -1, 0, 2, 4, i32::MAX] {
        assert!(
            refused(changed(&three, 57, &count.to_be_bytes())),
            "{count}"
        );
    }
    assert!(refused(changed(&three, 23, &7_i32.to_be_bytes())));
    // consistent, but there is no room for so many records
    let both = changed(&three, 57, &1000_i32.to_be_bytes());
    let both = BatchView::take(&mut { both }).unwrap();
    assert!(refused(changed(&both, 23, &999_i32.to_be_bytes())));
    let zstd = builder(Codec::Zstd, &[NOW]).build().unwrap();
    let both = changed(&zstd, 57, &i32::MAX.to_be_bytes());
    let both = BatchView::take(&mut { both }).unwrap();
    assert!(refused(changed(&both, 23, &(i32::MAX - 1).to_be_bytes())));
}

#[test]
fn attribute_bits_of_brokers_are_refused() {
    let with = |bits: i16| check(changed(&batch(&[NOW]), 21, &bits.to_be_bytes()));
    assert_eq!(with(0x20), Err(BatchError::Control));
    assert_eq!(with(0x40), Err(BatchError::DeleteHorizon));
    assert_eq!(with(0x08), Err(BatchError::TimestampType));
    for codec in 5..8 {
        assert_eq!(with(codec), Err(BatchError::Codec(codec)));
    }
}

#[test]
fn producer_fields_must_agree() {
    let with = |id, epoch, sequence| {
        let builder = builder(Codec::None, &[NOW]);
        let batch = builder.producer(ProducerId(id), ProducerEpoch(epoch), sequence);
        check(batch.build().unwrap().into_bytes()).is_ok()
    };
    assert!(with(-1, -1, -1));
    assert!(with(0, 0, 0));
    assert!(with(1 << 40, 5, i32::MAX));
    assert!(!with(5, 0, -1));
    assert!(!with(5, -1, 0));
    let transactional = builder(Codec::None, &[NOW]).transactional();
    let bytes = transactional.build().unwrap().into_bytes();
    assert!(matches!(check(bytes), Err(BatchError::Producer { .. })));
}

#[test]
fn timestamps_outside_the_topics_bounds_are_refused() {
    let rules = BatchRules {
        timestamp_before_max_ms: 100,
        timestamp_after_max_ms: 10,
        ..RULES
    };
    let with = |rules: &BatchRules, timestamps: &[i64]| {
        let bytes = batch(timestamps).into_bytes();
        match check_produced(bytes, rules, NOW) {
            Ok(_) => true,
            Err(BatchError::Timestamp { .. }) => false,
            Err(other) => panic!("{other}"),
        }
    };
    assert!(with(&rules, &[NOW - 100, NOW + 10]));
    assert!(!with(&rules, &[NOW, NOW + 11]));
    assert!(!with(&rules, &[NOW - 101, NOW]));
    assert!(with(&rules, &[-1]), "no timestamp");
    assert!(with(&RULES, &[0, NOW]), "any age by default");
    let broker_time = BatchRules {
        timestamp_type: TimestampType::LogAppendTime,
        ..rules
    };
    assert!(with(&broker_time, &[0, i64::MAX]));
}

#[test]
fn each_refusal_has_kafkas_code() {
    let code = |bytes| check(bytes).unwrap_err().code();
    let with = |at, value: &[u8]| code(changed(&batch(&[NOW]), at, value));
    assert_eq!(code(Bytes::new()), ErrorCode::InvalidRecord);
    assert_eq!(with(16, &[1]), ErrorCode::InvalidRecord);
    assert_eq!(with(8, &[0, 0, 0, 1]), ErrorCode::CorruptMessage);
    assert_eq!(with(21, &[0, 7]), ErrorCode::UnsupportedCompressionType);
    assert_eq!(with(21, &[0, 8]), ErrorCode::InvalidTimestamp);
    assert_eq!(with(21, &[0, 0x20]), ErrorCode::InvalidRecord);
    assert_eq!(with(57, &[0; 4]), ErrorCode::InvalidRecord);
    assert_eq!(
        code(batch(&[NOW; 200]).into_bytes()),
        ErrorCode::MessageTooLarge
    );
}
