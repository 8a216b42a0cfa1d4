//! Frames made to hurt: whatever the bytes, decoding neither panics nor allocates more than a
//! small multiple of the frame.

#![allow(unsafe_code, clippy::unwrap_used)]

mod counting;

use bytes::Bytes;
use counting::asked as asked_so_far;
use firn_proto::kafka::{ApiKey, Reader, Request, RequestHeader, Response, read_response_header};
use firn_proto::limits::{DECODE_BYTES_FLOOR, DECODE_BYTES_MAX, DECODE_EXPANSION_MAX};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// Decodes `frame` and checks what that cost. Whether it succeeds does not matter.
fn decode(side: Side, api: ApiKey, version: i16, frame: Bytes, context: &str) {
    let budget = frame.len() * DECODE_EXPANSION_MAX + DECODE_BYTES_FLOOR;
    let allowed = budget.min(DECODE_BYTES_MAX) + 256;
    let before = asked_so_far();
    let mut reader = Reader::new(frame);
    match side {
        Side::Request => {
            if RequestHeader::read(&mut reader).is_ok() {
                let _ = Request::read(api, version, &mut reader);
            }
        }
        Side::Response => {
            if read_response_header(&mut reader, api, version).is_ok() {
                let _ = Response::read(api, version, &mut reader);
            }
        }
    }
    let asked = asked_so_far() - before;
    assert!(
        asked <= allowed,
        "{context}: {asked} bytes allocated, {allowed} allowed"
    );
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Request,
    Response,
}

/// Calls `check` with a valid frame, without prefix, of every message and version.
fn each_frame(mut check: impl FnMut(Side, ApiKey, i16, &[u8])) {
    for &api in ApiKey::ALL {
        for version in api.served() {
            let mut random = SmallRng::seed_from_u64(version as u64);
            let request = api.sample_request(version, &mut random);
            let frame = request.encode(version, 1, Some("me")).to_bytes();
            check(Side::Request, api, version, &frame[4..]);
            let response = api.sample_response(version, &mut random);
            check(
                Side::Response,
                api,
                version,
                &response.encode(version, 1).to_bytes()[4..],
            );
        }
    }
}

#[test]
fn a_length_claimed_anywhere_costs_no_more_than_the_frame() {
    let claims = [
        [0x7f, 0xff, 0xff, 0xff],
        [0xff, 0xff, 0xff, 0xff],
        [0xff, 0xff, 0xff, 0x7f],
        [0x80, 0x00, 0x00, 0x00],
        [0x00, 0xff, 0xff, 0xff],
    ];
    each_frame(|side, api, version, frame| {
        for at in 0..frame.len().saturating_sub(3).min(2000) {
            for claim in claims {
                let mut hostile = frame.to_vec();
                hostile[at..at + 4].copy_from_slice(&claim);
                let context = format!("{side:?} {} v{version}: {claim:x?} at {at}", api.name());
                decode(side, api, version, hostile.into(), &context);
            }
        }
    });
}

#[test]
fn a_bare_length_is_refused() {
    each_frame(|side, api, version, _| {
        let context = format!("{side:?} {} v{version}", api.name());
        for claim in [
            &[0x7f, 0xff, 0xff, 0xff][..],
            &[0xff, 0xff, 0xff, 0xff, 0x0f],
        ] {
            let mut hostile = vec![0; 10];
            hostile.extend_from_slice(claim);
            decode(side, api, version, hostile.into(), &context);
        }
    });
}

#[test]
fn a_frame_cut_anywhere_is_refused() {
    each_frame(|side, api, version, frame| {
        let frame = Bytes::copy_from_slice(frame);
        for length in 0..frame.len().min(3000) {
            let mut reader = Reader::new(frame.slice(..length));
            let refused = match side {
                Side::Request => {
                    RequestHeader::read(&mut reader).is_err()
                        || Request::read(api, version, &mut reader).is_err()
                }
                Side::Response => {
                    read_response_header(&mut reader, api, version).is_err()
                        || Response::read(api, version, &mut reader).is_err()
                }
            };
            assert!(
                refused,
                "{side:?} {} v{version} cut at {length}",
                api.name()
            );
        }
    });
}

#[test]
fn random_bytes_do_no_harm() {
    each_frame(|side, api, version, frame| {
        for seed in 0..200 {
            let context = format!("{side:?} {} v{version} seed {seed}", api.name());
            let mut random = SmallRng::seed_from_u64(seed);
            let mut noise = vec![0; random.random_range(0..400)];
            random.fill_bytes(&mut noise);
            decode(side, api, version, noise.into(), &context);

            let mut bent = frame.to_vec();
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..bent.len());
                bent[at] = random.random();
            }
            decode(side, api, version, bent.into(), &context);
        }
    });
}

#[test]
fn a_large_frame_of_the_smallest_elements_is_refused_before_it_fills_the_memory() {
    // A million empty names in LeaveGroup v4: 3 bytes each on the wire, 48 in memory.
    refuse_empty_names(1_000_000);
    // Fifteen million: within the multiple of the frame nothing like it may be allocated either.
    refuse_empty_names(15_000_000);
}

fn refuse_empty_names(count: u32) {
    let mut frame = vec![0, 13, 0, 4, 0, 0, 0, 1, 0xff, 0xff, 0, 1];
    let mut length = count + 1;
    while length >= 0x80 {
        frame.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    frame.push(length as u8);
    frame.extend(std::iter::repeat_n([1, 0, 0], count as usize).flatten());
    frame.push(0);
    decode(
        Side::Request,
        ApiKey::LeaveGroup,
        4,
        frame.clone().into(),
        "empty names",
    );
    let mut reader = Reader::new(frame.into());
    RequestHeader::read(&mut reader).unwrap();
    let error = Request::read(ApiKey::LeaveGroup, 4, &mut reader).unwrap_err();
    assert!(error.to_string().contains("memory"), "{error}");
}
