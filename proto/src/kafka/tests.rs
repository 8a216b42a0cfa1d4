use bytes::Bytes;

use super::fetch::{FetchResponse, FetchableTopicResponse, PartitionData};
use super::metadata::MetadataRequest;
use super::*;

/// A Metadata request with this body.
fn read_metadata(version: i16, body: &'static [u8]) -> Result<MetadataRequest, DecodeError> {
    let mut reader = Reader::new(Bytes::from_static(body));
    match Request::read(ApiKey::Metadata, version, &mut reader)? {
        Request::Metadata(request) => Ok(request),
        other => panic!("not a Metadata request: {other:?}"),
    }
}

#[test]
fn a_null_array_is_not_an_empty_one() {
    assert_eq!(
        read_metadata(1, &[0xff, 0xff, 0xff, 0xff]).unwrap().topics,
        None
    );
    assert_eq!(
        read_metadata(1, &[0, 0, 0, 0]).unwrap().topics,
        Some(vec![])
    );
    assert_eq!(read_metadata(9, &[0, 1, 0, 0, 0]).unwrap().topics, None);
    assert_eq!(
        read_metadata(9, &[1, 1, 0, 0, 0]).unwrap().topics,
        Some(vec![])
    );
}

#[test]
fn null_is_refused_where_the_version_has_none() {
    let error = read_metadata(0, &[0xff, 0xff, 0xff, 0xff]).unwrap_err();
    assert!(matches!(error, DecodeError::Null { .. }), "{error}");
}

#[test]
fn null_is_written_as_empty_where_the_version_has_none() {
    let request = Request::Metadata(MetadataRequest {
        topics: None,
        ..MetadataRequest::default()
    });
    let frame = request.encode(0, 1, None).to_bytes();
    assert!(frame.ends_with(&[0, 0, 0, 0]));
}

#[test]
fn a_length_below_minus_one_is_refused() {
    let error = read_metadata(1, &[0xff, 0xff, 0xff, 0xfe]).unwrap_err();
    assert!(
        matches!(error, DecodeError::NegativeLength { length: -2, .. }),
        "{error}"
    );
}

#[test]
fn a_field_that_a_version_lacks_has_its_default() {
    let request = read_metadata(0, &[0, 0, 0, 0]).unwrap();
    assert!(request.allow_auto_topic_creation);
}

#[test]
fn unknown_tagged_fields_are_skipped() {
    // Tag 100 with three bytes and tag 101 with none.
    let body = &[1, 1, 0, 0, 2, 100, 3, 9, 9, 9, 101, 0];
    assert_eq!(read_metadata(9, body), read_metadata(9, &[1, 1, 0, 0, 0]));
}

#[test]
fn more_tagged_fields_than_anyone_sends_are_refused() {
    let error = read_metadata(9, &[1, 1, 0, 0, 65]).unwrap_err();
    assert!(matches!(error, DecodeError::Tagged { .. }), "{error}");
}

#[test]
fn a_known_tagged_field_must_have_its_length() {
    // Fetch v12 with an empty body and cluster id "a" (2 bytes) said to have 3.
    let mut body = vec![0; 4 + 4 + 4 + 4 + 1 + 4 + 4];
    body.extend_from_slice(&[1, 1, 1, 1, 0, 3, 2, b'a', 0]);
    let mut reader = Reader::new(body.into());
    let error = Request::read(ApiKey::Fetch, 12, &mut reader).unwrap_err();
    assert!(matches!(error, DecodeError::TaggedLength { .. }), "{error}");
}

#[test]
fn a_version_that_is_not_served_is_refused() {
    for (api, version) in [
        (ApiKey::Produce, 2),
        (ApiKey::Produce, 14),
        (ApiKey::Fetch, 3),
    ] {
        let mut reader = Reader::new(Bytes::new());
        assert_eq!(
            Request::read(api, version, &mut reader),
            Err(DecodeError::UnknownVersion {
                key: api.code(),
                version
            })
        );
    }
}

#[test]
fn produce_is_advertised_from_zero_for_old_librdkafka() {
    assert_eq!(ApiKey::Produce.advertised(), 0..=13);
    assert_eq!(ApiKey::Produce.served(), 3..=13);
    assert_eq!(ApiKey::JoinGroup.advertised(), 0..=9);
}

#[test]
fn the_header_of_an_unknown_version_is_read_as_far_as_every_version_has_it() {
    // ApiVersions v99 with client id "x".
    let frame = Bytes::from_static(&[0, 18, 0, 99, 0, 0, 0, 5, 0, 1, b'x', 0xff]);
    let header = RequestHeader::read(&mut Reader::new(frame)).unwrap();
    assert_eq!(header.correlation_id, 5);
    assert_eq!(header.api_version, 99);
    assert_eq!(header.client_id.as_deref(), Some("x"));
}

#[test]
fn records_reach_the_frame_uncopied() {
    let batches = [vec![1_u8; 5000], vec![2; 4000]].map(Bytes::from);
    let response = Response::from(FetchResponse {
        responses: vec![FetchableTopicResponse {
            topic: "t".to_owned(),
            partitions: vec![PartitionData {
                records: Some(batches.to_vec().into()),
                ..PartitionData::default()
            }],
            ..FetchableTopicResponse::default()
        }],
        ..FetchResponse::default()
    });
    let frame = response.encode(11, 1);
    for batch in &batches {
        assert!(
            frame
                .chunks()
                .iter()
                .any(|chunk| chunk.as_ptr() == batch.as_ptr()),
            "a batch was copied"
        );
    }
    let mut reader = Reader::new(frame.to_bytes().slice(4..));
    read_response_header(&mut reader, ApiKey::Fetch, 11).unwrap();
    assert_eq!(Response::read(ApiKey::Fetch, 11, &mut reader), Ok(response));
}

#[test]
fn produced_records_are_a_slice_of_the_frame() {
    let request = Request::from(produce::ProduceRequest {
        topic_data: vec![produce::TopicProduceData {
            partition_data: vec![produce::PartitionProduceData {
                index: 0,
                records: Some(vec![7; 3000].into()),
            }],
            ..produce::TopicProduceData::default()
        }],
        ..produce::ProduceRequest::default()
    });
    let frame = request.encode(9, 1, None).to_bytes().slice(4..);
    let within = frame.as_ptr_range();
    let mut reader = Reader::new(frame);
    RequestHeader::read(&mut reader).unwrap();
    let Ok(Request::Produce(read)) = Request::read(ApiKey::Produce, 9, &mut reader) else {
        panic!("not read back");
    };
    let records = read.topic_data[0].partition_data[0]
        .records
        .as_ref()
        .unwrap();
    assert!(
        within.contains(&records.as_ptr()),
        "the records were copied"
    );
}

#[test]
fn text_too_long_for_an_old_version_is_cut_at_a_character() {
    let response = Response::from(find_coordinator::FindCoordinatorResponse {
        error_message: Some("ä".repeat(20_000)),
        ..find_coordinator::FindCoordinatorResponse::default()
    });
    let frame = response.encode(2, 1).to_bytes().slice(4..);
    let mut reader = Reader::new(frame);
    read_response_header(&mut reader, ApiKey::FindCoordinator, 2).unwrap();
    let Ok(Response::FindCoordinator(read)) =
        Response::read(ApiKey::FindCoordinator, 2, &mut reader)
    else {
        panic!("not read back");
    };
    assert_eq!(read.error_message.unwrap().len(), 32_766);
}
