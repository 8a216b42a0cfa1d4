use firn_proto::record::{BatchBuilder, Codec, NewRecord};

use super::*;

const NOW: i64 = 1_700_000_000_000;
const RULES: TopicRules = TopicRules {
    batch: BatchRules {
        bytes_max: 2000,
        timestamp_type: TimestampType::CreateTime,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: 1000,
    },
    compacted: false,
    compression: None,
};

fn batch(codec: Codec, keys: &[Option<&[u8]>], value: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    for key in keys {
        builder
            .push(&NewRecord {
                timestamp: NOW,
                key: *key,
                value: Some(value),
                headers: &[],
            })
            .unwrap();
    }
    builder.build().unwrap().into_bytes()
}

#[test]
fn a_batch_passes_through_as_it_came() {
    let bytes = batch(Codec::Zstd, &[None], b"v");
    assert_eq!(
        prepare(bytes.clone(), &RULES, NOW).unwrap().into_bytes(),
        bytes
    );
}

#[test]
fn a_compacted_topic_takes_only_records_with_keys() {
    let rules = TopicRules {
        compacted: true,
        ..RULES
    };
    for codec in Codec::ALL {
        assert!(prepare(batch(codec, &[Some(b"a"), Some(b"")], b"v"), &rules, NOW).is_ok());
        let error = prepare(batch(codec, &[Some(b"a"), None], b"v"), &rules, NOW).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidRecord);
        assert_eq!(error.record_index(), Some(1));
    }
}

#[test]
fn the_topics_codec_replaces_the_producers() {
    for codec in Codec::ALL {
        let rules = TopicRules {
            compression: Some(codec.into()),
            ..RULES
        };
        let stored = prepare(batch(Codec::Gzip, &[None; 3], b"value"), &rules, NOW).unwrap();
        assert_eq!(stored.header().attributes.codec(), Some(codec));
        let plain = stored.plain_records(1000).unwrap();
        assert_eq!(stored.records(&plain).flatten().count(), 3);
    }
}

#[test]
fn the_limit_holds_for_the_batch_as_it_is_stored() {
    let rules = TopicRules {
        compression: Some(Codec::None.into()),
        ..RULES
    };
    let bytes = batch(Codec::Gzip, &[None], &[0; 5000]);
    let error = prepare(bytes, &rules, NOW).unwrap_err();
    assert_eq!(error.code(), ErrorCode::MessageTooLarge);
}

#[test]
fn records_that_do_not_decode_are_refused_where_they_are_looked_at() {
    let mut bytes = batch(Codec::Gzip, &[Some(b"k")], b"value").to_vec();
    let at = bytes.len() - 20;
    bytes[at] ^= 0xff;
    let crc = firn_proto::record::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    let bytes = Bytes::from(bytes);
    assert!(prepare(bytes.clone(), &RULES, NOW).is_ok());
    for rules in [
        TopicRules {
            compacted: true,
            ..RULES
        },
        TopicRules {
            compression: Some(Codec::Zstd.into()),
            ..RULES
        },
    ] {
        let error = prepare(bytes.clone(), &rules, NOW).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidRecord);
    }
}

#[test]
fn only_log_append_time_is_stamped() {
    assert_eq!(RULES.log_append_ms(NOW), None);
    let mut rules = RULES;
    rules.batch.timestamp_type = TimestampType::LogAppendTime;
    assert_eq!(rules.log_append_ms(NOW), Some(NOW));
}
