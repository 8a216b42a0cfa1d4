//! Frames captured from real clients and a real broker (see `testdata/kafka/README.md`): each is
//! read to its last byte and written again as it was.

#![allow(clippy::panic, clippy::unwrap_used)]

use bytes::Bytes;
use firn_proto::kafka::{ApiKey, Reader, Request, RequestHeader, Response, read_response_header};

/// A captured frame.
struct Golden {
    line: String,
    is_request: bool,
    api: ApiKey,
    version: i16,
    frame: Bytes,
}

fn golden_frames() -> Vec<Golden> {
    let files = [
        include_str!("../testdata/kafka/kcat-1.7.1.txt"),
        include_str!("../testdata/kafka/java-4.3.1.txt"),
    ];
    files
        .iter()
        .flat_map(|file| file.lines())
        .map(parse)
        .collect()
}

fn parse(line: &str) -> Golden {
    let [side, api, version, hex] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let frame = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
    Golden {
        line: format!("{side} {api} {version}"),
        is_request: side == "request",
        api: *ApiKey::ALL
            .iter()
            .find(|known| known.name() == api)
            .unwrap(),
        version: version.parse().unwrap(),
        frame: frame.collect(),
    }
}

#[test]
fn requests_of_real_clients_are_read_whole_and_written_again() {
    let requests = golden_frames()
        .into_iter()
        .filter(|golden| golden.is_request);
    for Golden {
        line,
        api,
        version,
        frame,
        ..
    } in requests
    {
        let mut reader = Reader::new(frame.clone());
        let header = RequestHeader::read(&mut reader).unwrap();
        assert_eq!(
            (header.api_key, header.api_version),
            (api.code(), version),
            "{line}"
        );
        let request = Request::read(api, version, &mut reader)
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(reader.remaining(), 0, "{line}: bytes left over");
        let again = request.encode(version, header.correlation_id, header.client_id.as_deref());
        assert_eq!(again.to_bytes().slice(4..), frame, "{line}");
    }
}

#[test]
fn responses_of_a_real_broker_are_read_whole_and_written_again() {
    let responses = golden_frames()
        .into_iter()
        .filter(|golden| !golden.is_request);
    for Golden {
        line,
        api,
        version,
        frame,
        ..
    } in responses
    {
        let mut reader = Reader::new(frame.clone());
        let correlation_id = read_response_header(&mut reader, api, version).unwrap();
        let response = Response::read(api, version, &mut reader)
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(reader.remaining(), 0, "{line}: bytes left over");
        let again = response.encode(version, correlation_id);
        assert_eq!(again.to_bytes().slice(4..), frame, "{line}");
    }
}

#[test]
fn there_is_a_frame_of_nearly_every_api() {
    let frames = golden_frames();
    let missing: Vec<_> = ApiKey::ALL
        .iter()
        .filter(|api| !frames.iter().any(|golden| golden.api == **api))
        .collect();
    // No client in the captured sessions had a reason to ask where an epoch ends, and Kafka's own
    // have no AlterConfigs since 4.0.
    let unseen = [ApiKey::OffsetForLeaderEpoch, ApiKey::AlterConfigs];
    assert_eq!(missing, unseen.each_ref());
}
