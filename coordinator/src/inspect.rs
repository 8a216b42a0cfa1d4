//! What the coordinator keeps in its journal, as text (`firn inspect`): one line for each command of
//! an entry, and the state of a snapshot.
//!
//! Pure: bytes in, text out. May not touch: how they are read (`command.rs`, `snapshot.rs`).

use std::fmt::{self, Display};

use crate::command::{Command, CommandError, MemberRow, PutGroup, Stamped, decode_slot};
use crate::snapshot::{SnapshotError, decode_snapshot};
use crate::state::{KeptConsumerGroup, State, Stream, Topic};

/// The commands of a journal entry, in their order, each with the time it carries.
///
/// # Errors
/// The entry is cut off or damaged, or of a later release.
pub fn entry_lines(body: &[u8]) -> Result<Vec<String>, CommandError> {
    let commands = decode_slot(body)?;
    Ok(commands.iter().map(command_line).collect())
}

/// What a snapshot says.
///
/// # Errors
/// The snapshot is damaged, or of a later release.
pub fn snapshot_lines(body: &[u8]) -> Result<Vec<String>, SnapshotError> {
    Ok(state_lines(&decode_snapshot(body)?))
}

fn command_line(stamped: &Stamped) -> String {
    let at_ms = stamped.at_ms;
    let line = match &stamped.command {
        Command::PutGroup(put) => format!("{at_ms} ms PutGroup({})", GroupText(put)),
        command => format!("{at_ms} ms {command:?}"),
    };
    cut(line)
}

/// A group with the bytes of its members as text: `Debug` would print number after number.
struct GroupText<'a>(&'a PutGroup);

impl Display for GroupText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PutGroup { group, row } = self.0;
        write!(
            f,
            "{group:?} generation {} protocol {:?} {:?} leader {:?} members {}",
            row.generation,
            row.protocol_type,
            row.protocol,
            row.leader,
            row.members.len()
        )?;
        let mut members = row.members.iter();
        members.try_for_each(|member| write!(f, " [{}]", MemberText(member)))
    }
}

struct MemberText<'a>(&'a MemberRow);

impl Display for MemberText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MemberRow {
            member,
            instance,
            client_id,
            client_host,
            session_timeout_ms,
            rebalance_timeout_ms,
            metadata,
            assignment,
        } = self.0;
        write!(
            f,
            "{member:?} instance {instance:?} client {client_id:?} at {client_host} session \
             {session_timeout_ms} ms rebalance {rebalance_timeout_ms} ms metadata \"{}\" assignment \
             \"{}\"",
            metadata.escape_ascii(),
            assignment.escape_ascii()
        )
    }
}

fn state_lines(state: &State) -> Vec<String> {
    let mut lines = vec![format!(
        "at {} ms, feature level {}; next incarnation {}, stream {}, producer id {}",
        state.at_ms,
        state.feature_level,
        state.next.incarnation,
        state.next.stream,
        state.next.producer
    )];
    let resigned = state.resigned();
    lines.extend(resigned.map(|epoch| format!("the leader of epoch {epoch} has resigned")));
    lines.extend(state.brokers.values().map(|broker| format!("{broker:?}")));
    lines.extend(state.streams.iter().map(|(id, stream)| {
        let Stream {
            broker,
            incarnation,
            disk,
            floor,
            durable_end,
            phase,
            holds_local,
            is_whole,
        } = stream;
        let whole = if *is_whole { ", whole" } else { "" };
        let local = if *holds_local {
            ", acknowledged by its disk alone"
        } else {
            ""
        };
        format!(
            "stream {:016x} of broker {broker} incarnation {incarnation} disk {disk:?} floor {floor} \
             durable to {durable_end} {phase:?}{local}{whole}",
            id.0
        )
    }));
    let topics = state.topics.iter().map(|(_, topic)| topic);
    lines.extend(topics.flat_map(topic_lines));
    lines.extend(state.topics.deleting().map(|(id, gone)| {
        let (name, held_by) = (&gone.name, &gone.held_by);
        format!("deleted topic {name} {id} held by streams {held_by:?}")
    }));
    lines.extend(archive_lines(state));
    lines.extend(state.groups.iter().map(|(group, kept)| {
        let put = PutGroup {
            group: group.clone(),
            row: kept.row.clone(),
        };
        format!("group {} since {} ms", GroupText(&put), kept.since_ms)
    }));
    lines.extend(state.consumer_groups.iter().flat_map(|(group, kept)| {
        let KeptConsumerGroup { row, since_ms } = kept;
        let (epoch, assigned) = (row.epoch, row.assignment_epoch);
        let head = format!(
            "consumer group {group:?} since {since_ms} ms epoch {epoch} assigned in {assigned}"
        );
        let members = row.members.iter();
        let members = members.map(move |(id, row)| format!("  member {id:?} {row:?}"));
        [head].into_iter().chain(members)
    }));
    for group in state.offsets.groups() {
        let topics = state.offsets.of_group(group).into_iter().flatten();
        for (topic, rows) in topics {
            let rows = rows.iter();
            lines.extend(rows.map(|(partition, row)| {
                let (offset, at_ms) = (&row.offset, row.committed_ms);
                format!("group {group:?} {topic}-{partition} {offset:?} at {at_ms} ms")
            }));
        }
    }
    lines.into_iter().map(cut).collect()
}

fn archive_lines(state: &State) -> impl Iterator<Item = String> {
    let archive = state.archive();
    let maps = archive.maps().flat_map(|(tp, map)| {
        let (released, bytes) = (map.released(), map.bytes());
        let own = format!(
            "{tp} in segments: {} runs of {bytes} bytes {released:?}",
            map.run_count()
        );
        let pages = map.pages().iter().map(|page| format!("  {page:?}"));
        let runs = map.runs().iter().map(|run| format!("  {run:?}"));
        std::iter::once(own).chain(pages).chain(runs)
    });
    let writers = archive.writers().map(|(incarnation, writer)| {
        let (entered, abandoned) = (writer.entered.ranges(), writer.abandoned.ranges());
        let pages = writer.pages.ranges();
        format!(
            "segments of incarnation {incarnation}: entered {entered:?} abandoned {abandoned:?}, map \
             pages {pages:?}"
        )
    });
    let left = archive.left();
    let left = left.map(|(id, key, left)| format!("{left} runs of {id} {key:?} have left"));
    let queue = archive
        .queue()
        .iter()
        .map(|queued| format!("to delete: {queued:?}"));
    let collected = state.streams.collected().into_iter();
    let collected = collected.map(|(id, to)| format!("stream {:016x} is deleted: {to:?}", id.0));
    maps.chain(writers)
        .chain(left)
        .chain(queue)
        .chain(collected)
}

fn topic_lines(topic: &Topic) -> impl Iterator<Item = String> {
    let image = &topic.image;
    let own = format!(
        "topic {} {} partitions {} replication factor {} configs {:?}",
        image.name,
        image.id,
        image.partitions.len(),
        image.replication_factor,
        image.configs
    );
    let partitions = image.partitions.iter().zip(&topic.marks).enumerate();
    let partitions =
        partitions.map(|(index, (partition, marks))| format!("  {index} {partition:?} {marks:?}"));
    std::iter::once(own).chain(partitions)
}

/// A line that a terminal can take.
fn cut(mut line: String) -> String {
    let bytes = line.len();
    if bytes > LINE_BYTES_MAX {
        line.truncate(line.floor_char_boundary(LINE_BYTES_MAX));
        line.push_str(&format!("... {} bytes in all", bytes));
    }
    line
}

/// Bytes of a line that are shown: the fields of a thousand partitions.
const LINE_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// The golden journals hold a command of each kind.
    #[test]
    fn every_command_is_shown_with_its_fields() {
        for journal in [
            &include_bytes!("../testdata/journal-1.slot")[..],
            include_bytes!("../testdata/journal-2.slot"),
            include_bytes!("../testdata/journal-3.slot"),
            include_bytes!("../testdata/journal-4.slot"),
        ] {
            let lines = entry_lines(journal).unwrap();
            let text = lines.join("\n");
            for part in [
                "1700000000000 ms RegisterBroker(",
                "CreateTopics([IdentifiedTopic { id: TopicId(",
                "name: \"flights\"",
                "SealStream(SealStream { stream: StreamId(1)",
                "AllocateProducerIds(ProducerIdsWanted { len: 1000 })",
                "generation 2 protocol \"consumer\" \"range\" leader \"m-1\" members 1",
                "session 45000 ms",
                "CommitOffsets(",
                "DropGroups([",
            ] {
                assert!(text.contains(part), "no '{part}' in\n{text}");
            }
        }
    }

    #[test]
    fn a_snapshot_is_shown_row_by_row() {
        for snapshot in [
            &include_bytes!("../testdata/snapshot-1.bin")[..],
            include_bytes!("../testdata/snapshot-2.bin"),
            include_bytes!("../testdata/snapshot-3.bin"),
            include_bytes!("../testdata/snapshot-4.bin"),
        ] {
            let text = snapshot_lines(snapshot).unwrap().join("\n");
            for part in [
                "feature level 1",
                "BrokerImage {",
                "stream 0000000000000001 of broker 1",
                "topic flights ",
                "group \"",
            ] {
                assert!(text.contains(part), "no '{part}' in\n{text}");
            }
        }
    }

    #[test]
    fn a_snapshot_shows_the_archive() {
        let snapshot = include_bytes!("../testdata/snapshot-3.bin");
        let text = snapshot_lines(snapshot).unwrap().join("\n");
        for part in [
            "/1 in segments: 2 runs of 8388608 bytes Released { to: 100",
            "  MapPage { key: SegmentKey { incarnation: Incarnation(2), number: 7 }",
            "  ArchivedRun {",
            "incarnation 2: entered [(300, 301), (302, 304)] abandoned [(301, 302)], map pages [(7",
            "to delete: QueuedDelete { id: 1, what: Segment { topic_name: \"flights\"",
            "stream 0000000000000003 is deleted: CollectedTo { slot: ",
        ] {
            assert!(text.contains(part), "no '{part}' in\n{text}");
        }
    }

    #[test]
    fn what_moves_between_brokers_is_shown() {
        let journal = entry_lines(include_bytes!("../testdata/journal-4.slot")).unwrap();
        let snapshot = snapshot_lines(include_bytes!("../testdata/snapshot-4.bin")).unwrap();
        let text = [journal, snapshot].concat().join("\n");
        for part in [
            "FenceBroker(Incarnation(",
            "DrainBroker(DrainBroker { broker: BrokerId(",
            "MovePartitions([MovePartition { tp: ",
            "ForceMove([ForceMove { tp: ",
            "Resign(CoordinatorEpoch(7))",
            "the leader of epoch 7 has resigned",
            "fingerprint: Fingerprint(abababab",
            "draining: true",
            "moving_to: Some(BrokerId(",
            ", acknowledged by its disk alone",
        ] {
            assert!(text.contains(part), "no '{part}' in\n{text}");
        }
    }

    #[test]
    fn damage_is_an_error_and_a_long_line_is_cut() {
        assert!(entry_lines(&[1, 0, 7]).is_err());
        assert!(snapshot_lines(&[9]).is_err());
        let long = cut("ü".repeat(LINE_BYTES_MAX));
        assert!(long.ends_with("... 131072 bytes in all"));
        assert!(long.len() < LINE_BYTES_MAX + 100);
    }
}
