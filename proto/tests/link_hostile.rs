//! Frames of the broker link made to hurt: whatever the bytes, reading them neither panics nor
//! allocates more than a bounded multiple of what arrived.

#![allow(unsafe_code, clippy::unwrap_used)]

mod counting;

use bytes::{BufMut, Bytes};
use counting::asked;
use firn_proto::cluster::{Reply, Request};
use firn_proto::link::{
    Assembly, CallPart, FrameReader, HEADER_BYTES, Kind, Message, PROTOCOL_VERSION, decode_looks,
    decode_reply, decode_request, decode_sights, encode_reply, encode_request,
};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// Bytes on the link of one message of each kind, from the golden file.
fn golden() -> Vec<(String, Vec<u8>)> {
    let lines = include_str!("../testdata/link/frames_v2.txt").lines();
    let byte = |hex: &str, at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    lines
        .map(|line| {
            let (name, hex) = line.split_once(' ').unwrap();
            let bytes = (0..hex.len()).step_by(2).map(|at| byte(hex, at));
            (name.to_owned(), bytes.collect())
        })
        .collect()
}

/// Reads what a peer sent, as a link does, and checks what that cost.
fn read(bytes: &[u8], context: &str) {
    let before = asked();
    let mut reader = FrameReader::default();
    let mut assembly = Assembly::default();
    reader.buffer().put_slice(bytes);
    while let Ok(Some(frame)) = reader.take() {
        let Ok(message) = Message::of(frame) else {
            break;
        };
        let part = match message {
            Message::Call(part) | Message::Answer(part) => part,
            Message::Look(part) | Message::Seen(part) => part,
            _ => continue,
        };
        if let Ok(Some((_, whole))) = assembly.take(part) {
            let _ = decode_request(&whole);
            let _ = decode_reply(&whole);
            let _ = decode_looks(&whole);
            let _ = decode_sights(&whole);
        }
    }
    let (cost, allowed) = (asked() - before, allowed(bytes.len()));
    assert!(
        cost <= allowed,
        "{context}: {cost} bytes allocated, {allowed} allowed"
    );
}

/// Four decodes of a short message, each of up to 128 KiB, a picture's part and the read buffer.
fn allowed(bytes: usize) -> usize {
    896 * 1024 + 64 * bytes
}

#[test]
fn a_length_claimed_anywhere_costs_little() {
    let claims: [&[u8]; 5] = [
        &[0xff, 0xff, 0xff, 0x7f],
        &[0x7f, 0xff, 0xff, 0xff],
        &[0xff, 0xff, 0xff, 0xff],
        &[0xfc, 0xff, 0xff, 0xff, 0x00],
        &[0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    ];
    for (name, frame) in golden() {
        for at in 0..frame.len() {
            for claim in claims {
                let mut hostile = frame.clone();
                let end = hostile.len().min(at + claim.len());
                hostile.splice(at..end, claim.iter().copied());
                // A body that grew is still read, up to its kind's limit.
                let length = u32::try_from(hostile.len() - HEADER_BYTES).unwrap();
                let whole = at >= HEADER_BYTES;
                if whole {
                    hostile[4..8].copy_from_slice(&length.to_le_bytes());
                }
                read(&hostile, &format!("{name}: {claim:x?} at {at}"));
            }
        }
    }
}

#[test]
fn a_frame_cut_anywhere_says_nothing() {
    for (name, frame) in golden() {
        for length in 0..frame.len() {
            let mut reader = FrameReader::default();
            reader.buffer().put_slice(&frame[..length]);
            assert_eq!(reader.take(), Ok(None), "{name} cut at {length}");
        }
    }
}

#[test]
fn random_bytes_do_no_harm() {
    for seed in 0..2000 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut noise = vec![0; random.random_range(0..400)];
        random.fill_bytes(&mut noise);
        read(&noise, &format!("noise, seed {seed}"));
        let header = [b'F', b'L', PROTOCOL_VERSION, random.random_range(0..18)];
        let length = u32::try_from(noise.len()).unwrap().to_le_bytes();
        let framed = [&header[..], &length, &noise].concat();
        read(&framed, &format!("framed noise, seed {seed}"));
        for (name, mut bent) in golden() {
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..bent.len());
                bent[at] = random.random();
            }
            read(&bent, &format!("{name} bent, seed {seed}"));
        }
    }
}

#[test]
fn many_small_things_in_one_request_are_refused_before_they_fill_the_memory() {
    // Names without a letter: one byte each on the link, 24 in memory.
    for count in [1000_usize, 100_000, 3_000_000, 60_000_000] {
        let mut bytes = encode_request(&Request::DescribeGroups(Vec::new()))
            .unwrap()
            .to_vec();
        bytes.pop();
        bytes.push(252);
        bytes.extend(u32::try_from(count).unwrap().to_le_bytes());
        bytes.resize(bytes.len() + count, 0);
        let before = asked();
        let _ = decode_request(&bytes);
        let cost = asked() - before;
        let allowed = (128 * 1024 + 32 * bytes.len()).min(300 * 1024 * 1024);
        assert!(
            cost <= allowed,
            "{count} names: {cost} bytes, {allowed} allowed"
        );
    }
}

#[test]
fn a_reply_as_long_as_they_get_is_read() {
    let names: Vec<_> = (0..2_000_000).map(|at| format!("{at:020}")).collect();
    let request = Request::DescribeGroups(names);
    let bytes = encode_request(&request).unwrap();
    assert_eq!(decode_request(&bytes), Ok(request));
    let reply = Ok(Reply::Done);
    assert_eq!(decode_reply(&encode_reply(&reply).unwrap()), Ok(reply));
}

#[test]
fn parts_are_held_only_as_far_as_they_have_arrived() {
    let mut assembly = Assembly::default();
    let before = asked();
    for _ in 0..100 {
        let part = CallPart {
            call: 1,
            more: true,
            bytes: Bytes::from_static(b"x"),
        };
        assert_eq!(assembly.take(part), Ok(None));
    }
    assert!(asked() - before < 4096, "a hundred bytes arrived");
    assert!(Kind::Call.bytes_max() > 4096, "though more could");
}
