use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{BufMut, Bytes};

use super::*;
use crate::cluster::{
    Beat, CoordinatorError, ImageUpdate, JournalAsk, JournalPart, LeaderBeat, Part, Reply, Request,
};
use crate::env::Mono;
use crate::ids::{
    ClusterId, CoordinatorEpoch, Incarnation, LeaderEpoch, PartitionIndex, Slot, SlotPosition,
    StreamId, TopicId, TopicPartition,
};
use crate::journal::JournalPosition;
use crate::limits::{LINK_MESSAGE_BYTES_MAX, LINK_PART_BYTES_MAX, LOOK_PARTITIONS_MAX};

fn part(bytes: &[u8]) -> Part {
    Part {
        at: 0,
        len: 1000,
        bytes: bytes.to_vec(),
    }
}

/// One message of each kind, with a name for its line in the golden file.
fn samples() -> Vec<(&'static str, Message)> {
    let request = encode_request(&Request::LeaveBroker(Incarnation(9))).unwrap();
    let call = |call, more, bytes| CallPart { call, more, bytes };
    let refusal = Refusal {
        reason: RefusalReason::Cluster,
        version: PROTOCOL_VERSION,
        text: "another cluster".to_owned(),
    };
    let not_led = Err(CoordinatorError::NotLeader("it resigned".to_owned()));
    let hello = Hello {
        cluster: ClusterId([0xc1; 16]),
        card: b"card".to_vec(),
    };
    let welcome = Welcome {
        card: b"card".to_vec(),
    };
    let at = JournalPosition {
        epoch: CoordinatorEpoch(3),
        slot: Slot(40),
    };
    let alone = |alone_age| {
        Message::LeaderBeat(LeaderBeat {
            epoch: CoordinatorEpoch(3),
            echo: Mono(1_000_000),
            alone_age,
            picture: 7,
        })
    };
    let beat = |broker, journal| {
        Message::Beat(Beat {
            broker,
            sent: Mono(1_000_000),
            reads: true,
            journal,
        })
    };
    let ask = |after| {
        Some(JournalAsk {
            number: 2,
            after,
            taken: 1000,
        })
    };
    let heard = Heard {
        epoch: CoordinatorEpoch(3),
        ago: Duration::from_millis(250),
    };
    let image = ImageUpdate {
        base: Some(7),
        part: part(b"image"),
    };
    let state = JournalPart::State {
        covers: at,
        part: part(b"state"),
    };
    let slot = JournalPart::Slot {
        after: JournalPosition {
            slot: Slot(39),
            ..at
        },
        at,
        part: part(b"slot"),
    };
    vec![
        ("hello", Message::Hello(hello)),
        ("welcome", Message::Welcome(welcome)),
        ("refused", Message::Refused(refusal)),
        ("call", Message::Call(call(5, false, request))),
        (
            "call_part",
            Message::Call(call(5, true, Bytes::from_static(b"part"))),
        ),
        (
            "answer_done",
            Message::Answer(call(5, false, encode_reply(&Ok(Reply::Done)).unwrap())),
        ),
        (
            "answer_error",
            Message::Answer(call(5, false, encode_reply(&not_led).unwrap())),
        ),
        ("follow", Message::Follow(CoordinatorEpoch(3))),
        ("following", Message::Following(CoordinatorEpoch(3))),
        ("image", Message::Image(image)),
        ("journal_state", Message::Journal(state)),
        ("journal_slot", Message::Journal(slot)),
        ("beat", beat(Some(Incarnation(9)), None)),
        ("beat_unregistered", beat(None, None)),
        ("beat_standby", beat(Some(Incarnation(9)), ask(None))),
        (
            "beat_standby_after",
            beat(Some(Incarnation(9)), ask(Some(at))),
        ),
        ("leader_beat", alone(Some(Duration::from_millis(20)))),
        ("leader_beat_waiting", alone(None)),
        ("ask_heard", Message::AskHeard),
        ("heard", Message::Heard(Some(heard))),
        ("heard_none", Message::Heard(None)),
        (
            "look",
            Message::Look(call(5, false, encode_looks(&looks()).unwrap())),
        ),
        (
            "seen",
            Message::Seen(call(5, false, encode_sights(&sights()).unwrap())),
        ),
        ("forget", Message::Forget(5)),
    ]
}

fn looks() -> Looks {
    Looks {
        wait: Duration::from_millis(500),
        bytes_min: 1,
        read_committed: false,
        partitions: vec![Look {
            tp: TopicPartition {
                topic: TopicId([0x70; 16]),
                partition: PartitionIndex(3),
            },
            epoch: LeaderEpoch(5),
            offset: 100,
            bytes_max: 1024 * 1024,
        }],
    }
}

fn sights() -> Sights {
    let run = SightRun {
        at: SlotPosition {
            stream: StreamId(7),
            slot: Slot(40),
        },
        epoch: LeaderEpoch(5),
        base_offset: 100,
        last_offset: 109,
        byte_start: 512,
        byte_len: 900,
        max_timestamp: 1_700_000_000_000,
        flags: 0,
    };
    let sight = Sight {
        log_start: 0,
        archived_to: 60,
        high_watermark: 110,
        last_stable_offset: 110,
        log_end: 120,
        available: 900,
        runs: vec![run],
    };
    vec![Some(sight), None]
}

#[test]
fn questions_to_owners_and_their_answers_read_back() {
    assert_eq!(decode_looks(&encode_looks(&looks()).unwrap()), Ok(looks()));
    // As many as may be asked for at a time, of which the owner owns none.
    for sights in [sights(), Sights::new(), vec![None; LOOK_PARTITIONS_MAX]] {
        let bytes = encode_sights(&sights).unwrap();
        assert_eq!(decode_sights(&bytes), Ok(sights));
    }
}

#[test]
fn a_question_about_many_partitions_goes_in_one_part() {
    let most = Look {
        tp: TopicPartition {
            topic: TopicId([0xff; 16]),
            partition: PartitionIndex(i32::MAX),
        },
        epoch: LeaderEpoch(i32::MAX),
        offset: i64::MAX,
        bytes_max: u32::MAX,
    };
    let looks = Looks {
        partitions: vec![most; LOOK_PARTITIONS_MAX],
        ..looks()
    };
    assert!(encode_looks(&looks).unwrap().len() <= LINK_PART_BYTES_MAX);
}

fn on_the_wire(message: &Message) -> Vec<u8> {
    let frame = message.to_frame().unwrap();
    [&frame.header()[..], &frame.body].concat()
}

/// Version 2, byte for byte. A difference is another version of the protocol, not another golden
/// file; `CI_FIRN_WRITE_GOLDEN=1` writes the file of a new one.
#[test]
fn the_bytes_of_every_kind_are_pinned() {
    let mut lines = String::new();
    for (name, message) in samples() {
        write!(lines, "{name} ").unwrap();
        for byte in on_the_wire(&message) {
            write!(lines, "{byte:02x}").unwrap();
        }
        lines.push('\n');
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/link/frames_v2.txt");
    if std::env::var_os("CI_FIRN_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &lines).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(lines, golden);
    let kinds: Vec<Kind> = samples()
        .iter()
        .map(|(_, message)| message.kind())
        .collect();
    assert!(Kind::ALL.iter().all(|kind| kinds.contains(kind)));
}

#[test]
fn frames_are_read_however_the_bytes_are_cut() {
    let samples = samples();
    let stream: Vec<u8> = samples.iter().flat_map(|(_, m)| on_the_wire(m)).collect();
    for step in [1, 2, 7, 8, 9, 100, stream.len()] {
        let mut reader = FrameReader::default();
        let mut read = Vec::new();
        for piece in stream.chunks(step) {
            reader.buffer().put_slice(piece);
            while let Some(frame) = reader.take().unwrap() {
                read.push(Message::of(frame).unwrap());
            }
        }
        let sent: Vec<_> = samples.iter().map(|(_, message)| message.clone()).collect();
        assert_eq!(read, sent, "in pieces of {step} bytes");
    }
}

fn refused(bytes: &[u8]) -> FrameFault {
    let mut reader = FrameReader::default();
    reader.buffer().put_slice(bytes);
    reader.take().unwrap_err()
}

#[test]
fn a_wrong_header_is_refused_before_its_body_arrives() {
    assert_eq!(
        refused(b"GET / HTTP/1.1"),
        FrameFault::Magic(u16::from_le_bytes(*b"GE"))
    );
    assert_eq!(refused(b"FL\x03\x01\0\0\0\0"), FrameFault::Version(3));
    assert_eq!(refused(b"FL\x01\x01\0\0\0\0"), FrameFault::Version(1));
    assert_eq!(refused(b"FL\x00\x04\0\0\0\0"), FrameFault::Version(0));
    assert_eq!(refused(b"FL\x02\x63\0\0\0\0"), FrameFault::Kind(0x63));
    for &kind in Kind::ALL {
        let length = u32::try_from(kind.bytes_max()).unwrap() + 1;
        let mut header = vec![b'F', b'L', PROTOCOL_VERSION, kind as u8];
        header.put_u32_le(length);
        assert_eq!(refused(&header), FrameFault::TooLong { kind, length });
    }
}

#[test]
fn why_another_version_refuses_this_one_can_be_read() {
    let refusal = Refusal {
        reason: RefusalReason::Version,
        version: 9,
        text: "too old".to_owned(),
    };
    let mut bytes = on_the_wire(&Message::Refused(refusal.clone()));
    bytes[2] = 9;
    let mut reader = FrameReader::default();
    reader.buffer().put_slice(&bytes);
    let frame = reader.take().unwrap().unwrap();
    assert_eq!(Message::of(frame), Ok(Message::Refused(refusal)));
}

#[test]
fn what_is_too_long_for_its_frame_is_not_sent() {
    let hello = Hello {
        cluster: ClusterId::ZERO,
        card: vec![0; Kind::Hello.bytes_max()],
    };
    let fault = Message::Hello(hello).to_frame().unwrap_err();
    let kind = Kind::Hello;
    assert!(matches!(fault, MessageFault::TooLong { kind: k, .. } if k == kind));
}

#[test]
fn the_longest_part_of_everything_fits_its_frame() {
    let bytes = vec![0; LINK_PART_BYTES_MAX];
    let part = Part {
        at: u64::MAX,
        len: u64::MAX,
        bytes: bytes.clone(),
    };
    let at = JournalPosition {
        epoch: CoordinatorEpoch(u64::MAX),
        slot: Slot(u64::MAX),
    };
    let base = Some(u64::MAX);
    let call = CallPart {
        call: u64::MAX,
        more: true,
        bytes: bytes.into(),
    };
    let beat = Beat {
        broker: Some(Incarnation(u64::MAX)),
        sent: Mono(u64::MAX),
        reads: true,
        journal: Some(JournalAsk {
            number: u32::MAX,
            after: Some(at),
            taken: u64::MAX,
        }),
    };
    let leader_beat = LeaderBeat {
        epoch: CoordinatorEpoch(u64::MAX),
        echo: Mono(u64::MAX),
        alone_age: Some(Duration::MAX),
        picture: u64::MAX,
    };
    let heard = Heard {
        epoch: CoordinatorEpoch(u64::MAX),
        ago: Duration::MAX,
    };
    for message in [
        Message::Image(ImageUpdate {
            base,
            part: part.clone(),
        }),
        Message::Journal(JournalPart::Slot {
            after: at,
            at,
            part,
        }),
        Message::Call(call),
        Message::Beat(beat),
        Message::LeaderBeat(leader_beat),
        Message::Heard(Some(heard)),
        Message::Forget(u64::MAX),
    ] {
        let frame = message.to_frame().unwrap();
        assert!(frame.body.len() <= frame.kind.bytes_max());
        assert_eq!(Message::of(frame), Ok(message));
    }
}

fn cut(call: u64, mut rest: Bytes) -> Vec<CallPart> {
    let mut parts = vec![CallPart::split_from(call, &mut rest)];
    while !rest.is_empty() {
        parts.push(CallPart::split_from(call, &mut rest));
    }
    parts
}

#[test]
fn a_call_reads_back_from_its_parts_and_short_ones_pass_between_them() {
    let long = Bytes::from(vec![7; 2 * LINK_PART_BYTES_MAX + 1]);
    let parts = cut(1, long.clone());
    assert_eq!(
        parts.iter().map(|part| part.more).collect::<Vec<_>>(),
        [true, true, false]
    );
    let short = |call| CallPart {
        call,
        more: false,
        bytes: Bytes::from_static(b"short"),
    };
    let mut assembly = Assembly::default();
    let mut taken = Vec::new();
    for (part, call) in parts.into_iter().zip(2..) {
        taken.extend(assembly.take(short(call)).unwrap());
        taken.extend(assembly.take(part).unwrap());
    }
    let short = Bytes::from_static(b"short");
    let whole = [
        (2, short.clone()),
        (3, short.clone()),
        (4, short),
        (1, long),
    ];
    assert_eq!(taken, whole);
    assert_eq!(
        cut(1, Bytes::new()).len(),
        1,
        "an empty message has one part"
    );
}

#[test]
fn parts_that_make_no_call_are_refused() {
    let more = |call, bytes: &'static [u8]| CallPart {
        call,
        more: true,
        bytes: Bytes::from_static(bytes),
    };
    let mut assembly = Assembly::default();
    assembly.take(more(1, b"one")).unwrap();
    let mixed = AssemblyFault::Mixed {
        unfinished: 1,
        begun: 2,
    };
    assert_eq!(assembly.take(more(2, b"two")), Err(mixed));

    let decode = |body: &'static [u8]| CallPart::decode(Bytes::from_static(body));
    assert_eq!(
        decode(b"\x05\0\0\0\0\0\0\0"),
        Err(AssemblyFault::Unreadable)
    );
    assert_eq!(
        decode(b"\x05\0\0\0\0\0\0\0\x02x"),
        Err(AssemblyFault::Unreadable)
    );
    assert_eq!(
        decode(b"\x05\0\0\0\0\0\0\0\x01"),
        Err(AssemblyFault::Empty(5))
    );

    let bytes = Bytes::from(vec![0; LINK_PART_BYTES_MAX]);
    let mut assembly = Assembly::default();
    for _ in 0..LINK_MESSAGE_BYTES_MAX / LINK_PART_BYTES_MAX {
        let part = CallPart {
            call: 1,
            more: true,
            bytes: bytes.clone(),
        };
        assert_eq!(assembly.take(part), Ok(None));
    }
    assert_eq!(assembly.take(more(1, b"x")), Err(AssemblyFault::TooLong(1)));
}
