//! Kafka's messages: a Produce request from its frame, a Fetch answer to its frame. Record data is
//! sliced, never copied, so the time must not grow with it.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion};
use firn_proto::kafka::fetch::{FetchResponse, FetchableTopicResponse, PartitionData};
use firn_proto::kafka::{ApiKey, Reader, Records, Request, RequestHeader, Response};
use firn_tests::client::{PRODUCE_VERSION, produce_request};
use firn_tests::wire::encode;

use crate::records::produced;

const FETCH_VERSION: i16 = 12;

pub(crate) fn requests_and_answers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    for kibibytes in [1, 64, 1024] {
        let records = produced(kibibytes, 1024);
        let frame = encode(
            PRODUCE_VERSION,
            7,
            &produce_request("flights", 3, records.clone(), -1),
        );
        let body = frame.slice(4..);
        let name = format!("{kibibytes}KiB");
        group.bench_function(BenchmarkId::new("produce-request", &name), |bencher| {
            bencher.iter(|| decode(black_box(body.clone())));
        });
        let answer = fetched(&records, 1);
        group.bench_function(BenchmarkId::new("fetch-answer", &name), |bencher| {
            bencher.iter(|| black_box(&answer).encode(FETCH_VERSION, 7));
        });
    }
    let answer = fetched(&produced(16, 1024), 100);
    group.bench_function("fetch-answer/100-partitions", |bencher| {
        bencher.iter(|| black_box(&answer).encode(FETCH_VERSION, 7));
    });
    group.finish();
}

fn decode(frame: Bytes) -> Request {
    let mut reader = Reader::new(frame);
    let header = RequestHeader::read(&mut reader).unwrap();
    let api = ApiKey::from_code(header.api_key).unwrap();
    Request::read(api, header.api_version, &mut reader).unwrap()
}

fn fetched(records: &Bytes, partitions: i32) -> Response {
    let partitions = (0..partitions).map(|partition_index| PartitionData {
        partition_index,
        high_watermark: 1 << 33,
        records: Some(Records::from(records.clone())),
        ..PartitionData::default()
    });
    Response::Fetch(FetchResponse {
        responses: vec![FetchableTopicResponse {
            topic: "flights".to_owned(),
            partitions: partitions.collect(),
            ..FetchableTopicResponse::default()
        }],
        ..FetchResponse::default()
    })
}
