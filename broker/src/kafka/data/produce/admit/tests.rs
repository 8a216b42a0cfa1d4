use std::collections::BTreeMap;

use firn_proto::ids::{ProducerEpoch, ProducerId};
use firn_proto::record::{BatchBuilder, NewRecord};

use firn_proto::limits::BATCH_PLAIN_BYTES_MAX;

use super::*;

const NOW: i64 = 1_700_000_000_000;

fn rules(configs: &[(&str, &str)]) -> TopicRules {
    let configs: BTreeMap<_, _> = configs
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    TopicRules::new(&configs, 1_048_588)
}

fn batch(codec: Codec, keys: &[Option<&[u8]>]) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    for key in keys {
        let record = NewRecord {
            timestamp: NOW,
            key: *key,
            value: Some(b"value"),
            ..NewRecord::default()
        };
        builder.push(&record).unwrap();
    }
    builder.build().unwrap().into_bytes()
}

#[test]
fn no_batch_is_not_one_batch() {
    for records in [None, Some(Bytes::new())] {
        let refused = admit(records, &rules(&[]), 9, NOW).unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidRecord);
    }
}

#[test]
fn two_batches_are_not_one_batch() {
    let mut two = batch(Codec::None, &[None]).to_vec();
    two.extend_from_slice(&batch(Codec::None, &[None]));
    let refused = admit(Some(two.into()), &rules(&[]), 9, NOW).unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidRecord);
}

#[test]
fn a_damaged_batch_is_corrupt() {
    let mut bytes = batch(Codec::None, &[None]).to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let refused = admit(Some(bytes.into()), &rules(&[]), 9, NOW).unwrap_err();
    assert_eq!(refused.code, ErrorCode::CorruptMessage);
}

#[test]
fn a_batch_above_the_topics_limit_is_too_large() {
    let small = rules(&[("max.message.bytes", "70")]);
    let refused = admit(Some(batch(Codec::None, &[None])), &small, 9, NOW).unwrap_err();
    assert_eq!(refused.code, ErrorCode::MessageTooLarge);
}

#[test]
fn zstd_needs_version_7() {
    let zstd = batch(Codec::Zstd, &[None]);
    assert!(admit(Some(zstd.clone()), &rules(&[]), 7, NOW).is_ok());
    let refused = admit(Some(zstd), &rules(&[]), 6, NOW).unwrap_err();
    assert_eq!(refused.code, ErrorCode::UnsupportedCompressionType);
}

#[test]
fn a_batch_of_a_transaction_is_refused() {
    let mut builder = BatchBuilder::new(Codec::None)
        .producer(ProducerId(1), ProducerEpoch(0), 0)
        .transactional();
    let record = NewRecord {
        timestamp: NOW,
        ..NewRecord::default()
    };
    builder.push(&record).unwrap();
    let bytes = builder.build().unwrap().into_bytes();
    let refused = admit(Some(bytes), &rules(&[]), 9, NOW).unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidTxnState);
}

#[test]
fn a_compacted_topic_names_the_first_record_without_a_key() {
    let compacted = rules(&[("cleanup.policy", "compact")]);
    for codec in [Codec::None, Codec::Lz4] {
        let keys: &[Option<&[u8]>] = &[Some(b"k"), None, None];
        let view = admit(Some(batch(codec, keys)), &compacted, 9, NOW).unwrap();
        assert!(must_look_inside(&view, &compacted));
        let refused = look_inside(&view, &compacted, BATCH_PLAIN_BYTES_MAX).unwrap_err();
        assert_eq!(
            (refused.code, refused.record),
            (ErrorCode::InvalidRecord, Some(1))
        );
    }
}

#[test]
fn a_topic_with_a_codec_of_its_own_gets_its_batches_in_it() {
    let zstd = rules(&[("compression.type", "zstd")]);
    let view = admit(Some(batch(Codec::Gzip, &[None, None])), &zstd, 9, NOW).unwrap();
    assert!(must_look_inside(&view, &zstd));
    let view = look_inside(&view, &zstd, BATCH_PLAIN_BYTES_MAX);
    let view = view.unwrap().unwrap();
    assert_eq!(view.header().attributes.codec(), Some(Codec::Zstd));
    assert_eq!(view.header().record_count, 2);
    assert!(view.crc_matches());
}

#[test]
fn a_batch_that_needs_no_look_inside_gets_none() {
    let plain = rules(&[]);
    let lz4 = rules(&[("compression.type", "lz4")]);
    let view = admit(Some(batch(Codec::Lz4, &[None])), &plain, 9, NOW).unwrap();
    assert!(!must_look_inside(&view, &plain));
    assert!(!must_look_inside(&view, &lz4));
}
