//! Every message in every version, against the `kafka-protocol` crate.
//!
//! A random message is written by us, read and written again by the oracle, and read by us: bytes
//! and message must come back the same. The names of number fields are compared too, so that two
//! neighbours of the same type cannot stand in for each other.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::read_response_header;
use firn_proto::kafka::{ApiKey, Frame, Reader, Request, RequestHeader, Response};
use kafka_protocol::messages::{ApiKey as OracleKey, RequestKind, ResponseKind};
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// Random messages per API and version.
const SAMPLES: u64 = 16;

fn each_version(mut check: impl FnMut(ApiKey, i16, u64)) {
    for &api in ApiKey::ALL {
        for version in api.served() {
            for seed in 0..SAMPLES {
                check(api, version, seed);
            }
        }
    }
}

fn without_prefix(frame: &Frame) -> Bytes {
    let bytes = frame.to_bytes();
    let prefix = i32::from_be_bytes(*bytes.first_chunk().unwrap());
    assert_eq!(prefix as usize, bytes.len() - 4, "length prefix");
    assert_eq!(frame.len(), bytes.len(), "length of the frame");
    bytes.slice(4..)
}

/// The number and truth fields of a message, by name and in order, as `{:#?}` prints them.
fn number_fields(pretty: &str) -> Vec<(String, String)> {
    let mut fields: Vec<_> = pretty
        .lines()
        .filter_map(|line| line.trim().trim_end_matches(',').split_once(": "))
        .filter_map(|(name, value)| {
            let code = ErrorCode::ALL
                .iter()
                .find(|code| format!("{code:?}") == value);
            let value = match code {
                Some(code) if name.ends_with("error_code") => code.code().to_string(),
                _ => value.to_owned(),
            };
            let plain = value == "true" || value == "false" || value.parse::<i64>().is_ok();
            plain.then(|| (name.trim_start_matches("r#").to_owned(), value))
        })
        .collect();
    fields.sort();
    fields
}

/// Asserts that every number field has the same values on both sides. Fields that only the oracle
/// has belong to versions beyond those served.
fn assert_same_fields(ours: &str, oracle: &str, context: &str) {
    let ours = number_fields(ours);
    let mut oracle = number_fields(oracle);
    oracle.retain(|(name, _)| ours.iter().any(|(known, _)| known == name));
    assert_eq!(ours, oracle, "{context}: fields by name");
}

/// The body as the oracle reads it, to its last byte. It must write the same again.
fn read_and_written_again<T, E: Debug>(
    body: &Bytes,
    decode: impl FnOnce(&mut Bytes) -> Result<T, E>,
    encode: impl FnOnce(&T, &mut BytesMut) -> Result<(), E>,
    context: &str,
) -> T {
    let mut rest = body.clone();
    let oracle = decode(&mut rest)
        .unwrap_or_else(|error| panic!("the oracle refuses: {error:?}: {context}"));
    assert!(rest.is_empty(), "{} bytes too many: {context}", rest.len());
    let mut again = BytesMut::new();
    encode(&oracle, &mut again).unwrap();
    assert_eq!(again, body, "the oracle writes it differently: {context}");
    oracle
}

#[test]
fn requests_agree_with_the_oracle() {
    each_version(|api, version, seed| {
        let context = format!("{} v{version} seed {seed}", api.name());
        let request = api.sample_request(version, &mut SmallRng::seed_from_u64(seed));
        let frame = without_prefix(&request.encode(version, 7, Some("me")));

        let mut reader = Reader::new(frame.clone());
        let header = RequestHeader::read(&mut reader).unwrap();
        assert_eq!(
            (header.api_key, header.api_version),
            (api.code(), version),
            "{context}"
        );
        let body = frame.slice(reader.position()..);

        let oracle_key = OracleKey::try_from(api.code()).unwrap();
        let oracle = read_and_written_again(
            &body,
            |body| RequestKind::decode(oracle_key, body, version),
            |oracle, again| oracle.encode(again, version),
            &format!("{context}\n{request:#?}"),
        );

        let back = Request::read(api, version, &mut reader).unwrap();
        assert_eq!(reader.remaining(), 0, "{context}");
        assert_eq!(back, request, "{context}");
        if seed < 4 {
            assert_same_fields(&format!("{back:#?}"), &format!("{oracle:#?}"), &context);
        }
    });
}

#[test]
fn responses_agree_with_the_oracle() {
    each_version(|api, version, seed| {
        let context = format!("{} v{version} seed {seed}", api.name());
        let response = api.sample_response(version, &mut SmallRng::seed_from_u64(seed));
        let frame = without_prefix(&response.encode(version, 7));

        let mut reader = Reader::new(frame.clone());
        assert_eq!(
            read_response_header(&mut reader, api, version),
            Ok(7),
            "{context}"
        );
        let body = frame.slice(reader.position()..);

        let oracle_key = OracleKey::try_from(api.code()).unwrap();
        assert_eq!(
            reader.position() == 5,
            oracle_key.response_header_version(version) == 1,
            "{context}: header version"
        );
        let oracle = read_and_written_again(
            &body,
            |body| ResponseKind::decode(oracle_key, body, version),
            |oracle, again| oracle.encode(again, version),
            &format!("{context}\n{response:#?}"),
        );

        let back = Response::read(api, version, &mut reader).unwrap();
        assert_eq!(reader.remaining(), 0, "{context}");
        assert_eq!(back, response, "{context}");
        if seed < 4 {
            assert_same_fields(&format!("{back:#?}"), &format!("{oracle:#?}"), &context);
        }
    });
}

#[test]
fn request_headers_are_of_the_version_that_the_oracle_expects() {
    for &api in ApiKey::ALL {
        let oracle_key = OracleKey::try_from(api.code()).unwrap();
        for version in api.served() {
            assert_eq!(
                api.form(version).flexible,
                oracle_key.request_header_version(version) == 2,
                "{} v{version}",
                api.name()
            );
        }
    }
}
