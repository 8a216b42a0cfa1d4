//! What a start says about records that a local WAL alone had acknowledged and that it cannot bring
//! back: they were on that disk alone, as acks=1 allows, or an operator gave them up, and are
//! reported, never passed over. Who goes on
//! without that disk cannot know whether there are any; the first start that has it again says.
//!
//! May not touch: which they are (`firn_storage::wal::local`), and anything that is still there.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use firn_proto::cluster::StreamToSeal;
use firn_proto::ids::{DiskId, StreamId, TopicPartition};
use firn_storage::wal::local::{LocalRow, LostRange, Recovered};

use crate::metrics::Metrics;

/// Counts and names what of the local WAL is lost, in one line.
pub(super) fn report_lost(rows: &[LocalRow], quarantine: &Path, metrics: &Metrics) {
    if rows.is_empty() {
        return;
    }
    let ranges = LostRange::of(rows);
    let records = ranges.iter().map(LostRange::records).sum();
    metrics.local_records_lost.inc_by(records);
    tracing::error!(
        records,
        offsets = %Ranges(&ranges),
        kept_in = %quarantine.display(),
        "records acknowledged by the local wal alone (acks=1, or firn.durability=local) are lost: the \
         bucket never had them, and their partitions have gone on without them; the segments that hold them are kept, firn inspect prints them"
    );
}

/// Names the partitions that wait on though their disk is here, since it is damaged.
pub(super) fn report_held_back(partitions: &[TopicPartition], disk: DiskId) {
    if partitions.is_empty() {
        return;
    }
    tracing::error!(
        %disk,
        partitions = partitions.len(),
        names = %Names(partitions),
        "the local wal is damaged below what it had fsynced, and may have lost acknowledged records of \
         these partitions (firn.durability=local): they wait on. Put the directory back as it was and \
         start again, or give up what is lost with firn cluster force-move; until then its segments \
         stay where they are"
    );
}

/// Says of a disk that an earlier start may have missed that nothing is lost with it, if nothing is.
pub(super) fn report_settled(local: &Recovered, ended: &[StreamToSeal], lost: &[LocalRow]) {
    let disk = local.disk();
    if !local.damaged().is_empty() || !lost.is_empty() {
        return;
    }
    if local.rows().is_empty() {
        tracing::info!(%disk, "the local wal holds nothing of earlier processes");
        return;
    }
    let streams = local.rows().iter().map(|row| row.stream);
    let before = ended_before(streams, ended);
    if !before.is_empty() {
        tracing::info!(
            %disk, streams = ?before,
            "the local wal of processes that were taken up without it is back: all that it holds of \
             them is in the bucket, and nothing that acks=1 acknowledged is lost"
        );
    }
}

/// The streams among these that do not wait for their seal: they were taken up before this start.
fn ended_before(
    streams: impl Iterator<Item = StreamId>,
    ended: &[StreamToSeal],
) -> BTreeSet<StreamId> {
    let waiting: BTreeSet<_> = ended.iter().map(|ended| ended.stream).collect();
    streams.filter(|stream| !waiting.contains(stream)).collect()
}

/// Ranges of offsets, as many as a line of a log can take.
struct Ranges<'a>(&'a [LostRange]);

impl fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, self.0, |f, range| {
            let LostRange {
                tp, first, last, ..
            } = range;
            write!(f, "{tp} {first}..={last}")
        })
    }
}

/// Partitions, as many as a line of a log can take.
struct Names<'a>(&'a [TopicPartition]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, self.0, |f, tp| write!(f, "{tp}"))
    }
}

/// Writes the first of `items`, and how many more there are.
fn list<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    write_one: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (at, item) in items.iter().take(SHOWN_MAX).enumerate() {
        f.write_str(if at == 0 { "" } else { ", " })?;
        write_one(f, item)?;
    }
    match items.len().checked_sub(SHOWN_MAX) {
        None | Some(0) => Ok(()),
        Some(more) => write!(f, ", and {more} more"),
    }
}

/// What one line names; the others are counted.
const SHOWN_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use firn_proto::ids::{BrokerId, LeaderEpoch, PartitionIndex, Slot, TopicId};

    fn range(first: i64) -> LostRange {
        let tp = TopicPartition {
            topic: TopicId([0; 16]),
            partition: PartitionIndex(3),
        };
        LostRange {
            tp,
            epoch: LeaderEpoch(0),
            first,
            last: first + 1,
        }
    }

    #[test]
    fn a_line_names_lost_offsets_and_stays_short() {
        let two = [range(5), range(9)];
        let tp = two[0].tp;
        assert_eq!(Ranges(&two).to_string(), format!("{tp} 5..=6, {tp} 9..=10"));
        let many: Vec<_> = (0..SHOWN_MAX as i64 + 7).map(|at| range(3 * at)).collect();
        let line = Ranges(&many).to_string();
        assert!(line.ends_with(", and 7 more"), "{line}");
        assert_eq!(line.matches("..=").count(), SHOWN_MAX);
    }

    #[test]
    fn a_disk_is_back_if_it_holds_something_of_streams_that_were_taken_up_without_it() {
        let waits = StreamToSeal {
            stream: StreamId(4),
            broker: BrokerId(1),
            floor: Slot(0),
            durable_end: Slot(0),
            disk: None,
            holds_local: false,
        };
        let streams = || [4, 3, 4, 3].into_iter().map(StreamId);
        let before = ended_before(streams(), &[waits]);
        assert_eq!(before, BTreeSet::from([StreamId(3)]));
        assert!(ended_before(streams().filter(|s| s.0 == 4), &[waits]).is_empty());
    }
}
