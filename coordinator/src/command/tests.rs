use firn_proto::cluster::{
    Assignment, CommitRun, ConfigChange, LinkAddress, Listener, MapPage, MovePartition,
    PagedRelease, PartitionEnd, RaiseLogStart, ReleasePartition, Reply, ResumePartition, RowGroup,
    RowReport, SecurityProtocol, TopicImage,
};
use firn_proto::ids::{
    BrokerId, DiskId, Fingerprint, LeaderEpoch, ProducerId, Slot, SlotPosition, StreamId,
    TopicPartition,
};

use proptest::prelude::*;

use super::*;
use crate::snapshot::{decode_snapshot, encode_snapshot};
use crate::state::State;

const GOLDEN_JOURNAL: &[u8] = include_bytes!("../../testdata/journal-4.slot");
const GOLDEN_SNAPSHOT: &[u8] = include_bytes!("../../testdata/snapshot-4.bin");
/// Written when a cluster had one broker.
const JOURNAL_3: &[u8] = include_bytes!("../../testdata/journal-3.slot");
const SNAPSHOT_3: &[u8] = include_bytes!("../../testdata/snapshot-3.bin");
/// Written before the archive.
const JOURNAL_2: &[u8] = include_bytes!("../../testdata/journal-2.slot");
const SNAPSHOT_2: &[u8] = include_bytes!("../../testdata/snapshot-2.bin");
/// Written before reports said where rows end.
const JOURNAL_1: &[u8] = include_bytes!("../../testdata/journal-1.slot");
const SNAPSHOT_1: &[u8] = include_bytes!("../../testdata/snapshot-1.bin");

const FIRST_MS: i64 = 1_700_000_000_000;

/// One command of each kind, in an order that makes each of them change the state.
fn every_kind() -> Vec<Stamped> {
    let mut stamped = of_one_broker();
    let next_ms = FIRST_MS + 10 * stamped.len() as i64;
    stamped.extend(stamp(cluster_commands(), next_ms));
    let next_ms = FIRST_MS + 10 * stamped.len() as i64;
    stamped.extend(stamp(consumer_group_commands(), next_ms));
    stamped
}

fn of_one_broker() -> Vec<Stamped> {
    let mut stamped = before_the_archive();
    let next_ms = FIRST_MS + 10 * stamped.len() as i64;
    stamped.extend(stamp(archive_commands(), next_ms));
    stamped
}

/// Incarnations 2 and 3, of brokers 1 and 2, live by now.
fn cluster_commands() -> Vec<Command> {
    let link = LinkAddress {
        host: "fe80::3".to_owned(),
        port: 9092,
        fingerprint: Fingerprint([0xab; 32]),
    };
    let moved = MovePartition {
        tp: TopicPartition {
            topic: TopicId::from_random(0x1111 << 64),
            partition: PartitionIndex(1),
        },
        epoch: LeaderEpoch(0),
        to: BrokerId(3),
    };
    let local = TopicId::from_random(0x3333 << 64);
    vec![
        Command::RegisterBroker(RegisterBroker {
            broker: None,
            listeners: Vec::new(),
            rack: None,
            disk: Some(DiskId([9; 16])),
            link: Some(link),
        }),
        Command::ReportProgress(ProgressReport {
            incarnation: Incarnation(4),
            stream: StreamId(4),
            durable_end: Slot(3),
            rows: Vec::new(),
            rows_end: Slot(0),
            holds_local: true,
        }),
        Command::DrainBroker(DrainBroker {
            broker: BrokerId(1),
            drain: true,
        }),
        Command::MovePartitions(vec![moved]),
        Command::FenceBroker(Incarnation(3)),
        Command::RegisterBroker(RegisterBroker {
            broker: Some(BrokerId(4)),
            listeners: Vec::new(),
            rack: None,
            disk: Some(DiskId([8; 16])),
            link: None,
        }),
        Command::CreateTopics(vec![IdentifiedTopic {
            id: local,
            topic: NewTopic {
                name: "local".to_owned(),
                partitions: 1,
                replication_factor: 1,
                owners: vec![BrokerId(4)],
                configs: vec![(TopicImage::DURABILITY.to_owned(), "local".to_owned())],
            },
        }]),
        Command::FenceBroker(Incarnation(5)),
        Command::ForceMove(vec![ForceMove {
            tp: TopicPartition {
                topic: local,
                partition: PartitionIndex(0),
            },
            epoch: LeaderEpoch(0),
            disk: DiskId([8; 16]),
        }]),
        Command::Resign(CoordinatorEpoch(7)),
    ]
}

/// Partition 1 of the topic is owned by incarnation 2 by now, in epoch 0.
fn archive_commands() -> Vec<Command> {
    let tp = TopicPartition {
        topic: TopicId::from_random(0x1111 << 64),
        partition: PartitionIndex(1),
    };
    let key = |number| SegmentKey {
        incarnation: Incarnation(2),
        number,
    };
    let next = SlotPosition {
        stream: StreamId(1),
        slot: Slot(1 << 32),
    };
    let commit = |number, base_offset, groups| {
        let last_offset = base_offset + 99;
        let group = RowGroup {
            base_offset,
            last_offset,
            byte_start: 4,
            byte_len: 1 << 23,
            max_timestamp_so_far: FIRST_MS,
            records: 100,
            plain_bytes: 1 << 25,
        };
        Command::CommitSegment(CommitSegment {
            topic: tp.topic,
            segment: key(number),
            runs: vec![CommitRun {
                partition: tp.partition,
                epoch: LeaderEpoch(0),
                base_offset,
                last_offset,
                max_timestamp: FIRST_MS + 1,
                row_groups: vec![group; groups],
                next,
            }],
        })
    };
    let page = MapPage {
        key: key(7),
        base_offset: 0,
        last_offset: 199,
        max_timestamp: FIRST_MS + 1,
        runs: 2,
        run_bytes: 1 << 23,
        byte_len: 1234,
    };
    let release = PagedRelease {
        pages: vec![page.key],
        released_to: 0,
        segments: vec![(key(300), 1)],
        run_bytes: 1 << 23,
        next_released_to: 100,
    };
    let raise = RaiseLogStart {
        tp,
        epoch: LeaderEpoch(0),
        log_start: 150,
        next,
        paged: Some(release),
    };
    let register = Command::RegisterBroker(RegisterBroker {
        broker: None,
        listeners: Vec::new(),
        rack: None,
        disk: None,
        link: None,
    });
    vec![
        register,
        Command::ReportProgress(ProgressReport {
            incarnation: Incarnation(3),
            stream: StreamId(3),
            durable_end: Slot(1 << 36),
            rows: Vec::new(),
            rows_end: Slot(0),
            holds_local: false,
        }),
        commit(300, 0, 1),
        Command::AbandonSegment(key(301)),
        commit(302, 100, 0),
        commit(303, 200, 1),
        Command::PageOutRuns(PageOut { tp, page }),
        Command::RaiseLogStarts(RaiseLogStarts {
            incarnation: Incarnation(2),
            starts: vec![raise],
        }),
        Command::ReportCollected(Collected {
            doomed: Vec::new(),
            streams: vec![(StreamId(3), Slot(1 << 35))],
            over: vec![StreamId(1)],
            writers: vec![Incarnation(1)],
        }),
    ]
}

fn before_the_archive() -> Vec<Stamped> {
    let topic = TopicId::from_random(0x1111 << 64);
    let tp = |partition| TopicPartition {
        topic,
        partition: PartitionIndex(partition),
    };
    let end = |partition, stream, end_offset| PartitionEnd {
        tp: tp(partition),
        epoch: LeaderEpoch(0),
        stream: StreamId(stream),
        end_offset,
    };
    let register = Command::RegisterBroker(RegisterBroker {
        broker: Some(BrokerId(1)),
        listeners: vec![Listener {
            name: "PLAINTEXT".to_owned(),
            security: SecurityProtocol::Plaintext,
            host: "::1".to_owned(),
            port: 9092,
        }],
        rack: Some("a".to_owned()),
        disk: Some(DiskId([7; 16])),
        link: None,
    });
    let commands = vec![
        register.clone(),
        Command::CreateTopics(vec![IdentifiedTopic {
            id: topic,
            topic: NewTopic {
                name: "flights".to_owned(),
                partitions: 2,
                replication_factor: 3,
                owners: vec![BrokerId(1), BrokerId(1)],
                configs: vec![("retention.ms".to_owned(), "-1".to_owned())],
            },
        }]),
        Command::CreatePartitions(vec![GrowTopic {
            name: "flights".to_owned(),
            partitions: 3,
            owners: Vec::new(),
        }]),
        Command::AlterConfigs(vec![AlterConfigs {
            name: "flights".to_owned(),
            replace_all: false,
            changes: vec![ConfigChange {
                name: "cleanup.policy".to_owned(),
                value: Some("delete".to_owned()),
            }],
        }]),
        Command::ReportProgress(ProgressReport {
            incarnation: Incarnation(1),
            stream: StreamId(1),
            durable_end: Slot(1 << 33),
            rows: vec![RowReport {
                slot: Slot((1 << 33) - 1),
                partitions: vec![tp(0), tp(1)],
            }],
            rows_end: Slot(1 << 32),
            holds_local: false,
        }),
        Command::ReleasePartitions(ReleasePartitions {
            incarnation: Incarnation(1),
            released: vec![ReleasePartition {
                end: end(0, 1, 1 << 40),
                row: Some(Slot(1 << 33)),
            }],
        }),
        Command::AssignPartitions(AssignPartitions {
            ended: vec![end(0, 1, 1 << 40)],
            to: Some(BrokerId(1)),
        }),
        Command::EndBroker(Incarnation(1)),
        register,
        Command::SealStream(SealStream {
            stream: StreamId(1),
            end: Slot((1 << 33) + 4),
        }),
        Command::ResumePartitions(ResumePartitions {
            incarnation: Incarnation(2),
            resumed: vec![ResumePartition {
                end: end(1, 1, 3_000_000_000),
            }],
        }),
        Command::AllocateProducerIds(ProducerIdsWanted { len: 1000 }),
    ];
    let mut stamped = stamp(commands, FIRST_MS);
    let groups = group_commands(topic);
    let next_ms = FIRST_MS + 10 * stamped.len() as i64;
    stamped.extend(stamp(groups, next_ms));
    stamped
}

fn group_commands(topic: TopicId) -> Vec<Command> {
    let offset = CommittedOffset {
        offset: 1 << 35,
        leader_epoch: LeaderEpoch(-1),
        metadata: "ü".into(),
    };
    let put = |group: &str| {
        Command::PutGroup(PutGroup {
            group: group.into(),
            row: GroupRow {
                protocol_type: "consumer".into(),
                generation: 2,
                protocol: "range".into(),
                leader: "m-1".into(),
                members: vec![MemberRow {
                    member: "m-1".into(),
                    instance: Some("i".into()),
                    client_id: "c".into(),
                    client_host: "/127.0.0.1".into(),
                    session_timeout_ms: 45_000,
                    rebalance_timeout_ms: 300_000,
                    metadata: [0, 1, 2].into(),
                    assignment: [3, 4].into(),
                }],
            },
        })
    };
    let old = TopicId::from_random(0x2222 << 64);
    vec![
        put("g"),
        put("gone"),
        Command::DropGroups(vec!["gone".into()]),
        Command::CommitOffsets(CommitOffsets {
            group: "g".into(),
            retention_ms: Some(60_000),
            topics: vec![(
                topic,
                vec![
                    (PartitionIndex(0), offset.clone()),
                    (PartitionIndex(1), offset),
                ],
            )],
        }),
        Command::DeleteOffsets(DeleteOffsets {
            group: "g".into(),
            topics: vec![(topic, vec![PartitionIndex(1)])],
        }),
        Command::CreateTopics(vec![IdentifiedTopic {
            id: old,
            topic: NewTopic {
                name: "old".to_owned(),
                partitions: 1,
                replication_factor: 1,
                owners: Vec::new(),
                configs: Vec::new(),
            },
        }]),
        Command::DeleteTopics(vec![old]),
        Command::ConfirmDeleted(ConfirmDeleted {
            incarnation: Incarnation(2),
            topics: vec![old],
        }),
    ]
}

/// An empty classic group becomes a consumer group with two members; one of them leaves.
fn consumer_group_commands() -> Vec<Command> {
    let topic = TopicId::from_random(0x1111 << 64);
    let parts = |indexes: &[i32]| -> Assignment {
        let partitions = indexes.iter().map(|index| TopicPartition {
            topic,
            partition: PartitionIndex(*index),
        });
        partitions.collect()
    };
    let said = ConsumerSubscription {
        instance: Some("i".into()),
        rack: Some("a".into()),
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
        rebalance_timeout_ms: 300_000,
        topics: vec!["flights".into()],
        regex: Some("f.*".into()),
        assignor: Some("range".into()),
    };
    let current = CurrentAssignment {
        epoch: 3,
        previous_epoch: 2,
        progress: Progress::Unrevoked,
        assigned: parts(&[0]),
        revoking: parts(&[1, 300]),
    };
    let change = ChangeConsumerGroup {
        group: "g".into(),
        epoch: 4,
        assignment_epoch: 3,
        topics_hash: 0x0123_4567_89ab_cdef,
        gone: Vec::new(),
        subscriptions: vec![
            ("m-1".into(), said),
            ("m-2".into(), ConsumerSubscription::default()),
        ],
        targets: vec![("m-1".into(), parts(&[0, 2]))],
        current: vec![("m-1".into(), current)],
    };
    let left = ChangeConsumerGroup {
        epoch: 5,
        gone: vec!["m-2".into()],
        subscriptions: Vec::new(),
        targets: Vec::new(),
        current: Vec::new(),
        ..change.clone()
    };
    vec![
        Command::ChangeConsumerGroup(change),
        Command::ChangeConsumerGroup(left),
    ]
}

fn stamp(commands: Vec<Command>, from_ms: i64) -> Vec<Stamped> {
    let commands = commands.into_iter().zip(0..);
    commands
        .map(|(command, at)| Stamped {
            at_ms: from_ms + 10 * at,
            command,
        })
        .collect()
}

fn slot_of(commands: &[Stamped]) -> Bytes {
    let mut slot = SlotBuilder::new();
    for stamped in commands {
        slot.push(stamped).unwrap();
    }
    slot.take()
}

/// Durable bytes may gain kinds and versions, but what is there must read as it did. If this fails
/// a command changed its bytes: give it a new version and keep the old one readable. The files are
/// written by `CI_FIRN_WRITE_GOLDEN=1 cargo test -p firn-coordinator golden`.
#[test]
fn the_golden_journal_has_these_bytes_and_replays() {
    let commands = every_kind();
    let bytes = slot_of(&commands);
    let mut state = State::default();
    for stamped in &commands {
        assert!(state.apply(stamped).effects.changed, "{stamped:?}");
    }
    let snapshot = encode_snapshot(&state).unwrap();
    if std::env::var_os("CI_FIRN_WRITE_GOLDEN").is_some() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata");
        std::fs::write(format!("{dir}/journal-4.slot"), &bytes).unwrap();
        std::fs::write(format!("{dir}/snapshot-4.bin"), &snapshot).unwrap();
        return;
    }
    assert_eq!(bytes, GOLDEN_JOURNAL);
    assert_eq!(snapshot, GOLDEN_SNAPSHOT);
    assert_eq!(decode_slot(GOLDEN_JOURNAL).unwrap(), commands);
    assert_eq!(decode_snapshot(GOLDEN_SNAPSHOT).unwrap(), state);
}

/// What a cluster of one broker wrote leads to the same state as ever.
#[test]
fn the_journal_and_snapshot_of_one_broker_are_read() {
    let commands = of_one_broker();
    assert_eq!(decode_slot(JOURNAL_3).unwrap(), commands);
    let mut state = State::default();
    for stamped in &commands {
        state.apply(stamped);
    }
    state.forget_what_was_not_kept();
    assert_eq!(decode_snapshot(SNAPSHOT_3).unwrap(), state);
}

/// A snapshot from before the archive says nothing of topics that had been deleted by then: there
/// was nothing of them in the bucket but slots.
#[test]
fn an_older_journal_and_snapshot_are_read() {
    for (journal, snapshot, knows_rows_ends) in [
        (JOURNAL_1, SNAPSHOT_1, false),
        (JOURNAL_2, SNAPSHOT_2, true),
    ] {
        let mut commands = before_the_archive();
        for stamped in &mut commands {
            if let Command::ReportProgress(report) = &mut stamped.command
                && !knows_rows_ends
            {
                report.rows_end = Slot(0);
            }
        }
        assert_eq!(decode_slot(journal).unwrap(), commands);
        let mut state = State::default();
        for stamped in &commands {
            state.apply(stamped);
        }
        let mut read = decode_snapshot(snapshot).unwrap();
        assert_eq!(state.archive().queue().iter().count(), 1, "a deleted topic");
        assert_eq!(read.archive().queue().iter().count(), 0);
        assert!(read.archive().writers().eq(state.archive().writers()));
        read.archive = state.archive.clone();
        state.forget_what_was_not_kept();
        assert_eq!(read, state);
    }
}

#[test]
fn the_golden_journal_gives_out_the_ids_it_always_gave_out() {
    let mut state = State::default();
    let mut replies = Vec::new();
    for stamped in decode_slot(GOLDEN_JOURNAL).unwrap() {
        replies.push(state.apply(&stamped).reply);
    }
    let blocks = replies.iter().filter_map(|reply| match reply {
        Reply::ProducerIds(block) => Some(block.first),
        _ => None,
    });
    assert_eq!(blocks.collect::<Vec<_>>(), [ProducerId(0)]);
    let streams: Vec<_> = state.streams().iter().map(|(id, _)| id).collect();
    assert_eq!(streams, [1, 2, 3, 4, 5].map(StreamId));
}

#[test]
fn bytes_that_are_no_slot_are_errors() {
    assert_eq!(decode_slot(&[]), Err(CommandError::Truncated { at: 0 }));
    assert_eq!(decode_slot(&[9, 0]), Err(CommandError::UnknownFormat(9)));
    assert_eq!(
        decode_slot(&[1, 0, 0xff, 0, 1, 0, 0, 0, 0, 0]),
        Err(CommandError::UnknownKind {
            kind: 255,
            version: 1
        })
    );
    let whole = slot_of(&every_kind());
    let boundaries = 1 + every_kind().len();
    let good = (0..=whole.len()).filter(|len| decode_slot(&whole[..*len]).is_ok());
    assert_eq!(good.count(), boundaries, "only whole commands are read");
}

#[test]
fn a_command_over_the_limit_leaves_the_slot_as_it_was() {
    let mut slot = SlotBuilder::new();
    let long = Stamped {
        at_ms: 0,
        command: Command::DropGroups(vec!["x".repeat(JOURNAL_COMMAND_BYTES_MAX).into()]),
    };
    assert!(matches!(
        slot.push(&long),
        Err(CommandError::TooLong { .. })
    ));
    assert!(slot.is_empty());
    assert_eq!(slot.take(), slot_of(&[]));
}

proptest! {
    #[test]
    fn bytes_that_were_hurt_are_read_or_refused_but_never_panic(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = GOLDEN_JOURNAL.to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(cut.index(bytes.len()) + 1);
        drop(decode_slot(&bytes));
    }
}
