//! A segment enters the map as a whole, or is abandoned and then deleted (I9). What has no clear
//! answer is asked again: the coordinator knows what it has done.

use std::sync::Arc;

use firn_coordinator::Coordinator;
use firn_proto::cluster::{
    ArchiveError, CommitRun, CommitSegment, CoordinatorError, Reply, Request, SegmentKey,
};
use firn_proto::env::Entropy;
use firn_storage::archive::ArchivedSegment;
use firn_storage::bucket::{Bucket, Purpose};
use firn_storage::layout::{Key, SegmentName};

use super::NotArchived;
use crate::insist::insist;
use crate::partition::Partition;

/// Brings segments into the segment map.
pub(super) struct MapWriter {
    pub(super) coordinator: Coordinator,
    pub(super) bucket: Bucket,
    pub(super) entropy: Arc<Entropy>,
}

/// What became of a segment that was to be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GivenUp {
    /// It never enters the map.
    Abandoned,
    /// It is in the map already.
    Entered,
}

impl MapWriter {
    /// The segment enters the map. `partitions` are those it has runs of, ascending.
    ///
    /// # Errors
    /// It did not, and never will.
    pub(super) async fn commit(
        &self,
        archived: &ArchivedSegment,
        partitions: &[(Arc<Partition>, i64)],
    ) -> Result<(), NotArchived> {
        let name = &archived.name;
        let Some(runs) = commit_runs(archived, partitions) else {
            self.give_up(name).await;
            let fault = "the segment has a run of a partition that nobody asked for".to_owned();
            return Err(CoordinatorError::Refused(fault).into());
        };
        let commit = CommitSegment {
            topic: name.topic,
            segment: key(name),
            runs,
        };
        let refused = match self.ask(Request::CommitSegment(commit)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => NotArchived::Refused(error),
            Err(error @ CoordinatorError::Refused(_)) => error.into(),
            // nobody knows, and the next process learns it from the journal
            Err(error) => return Err(error.into()),
        };
        match self.give_up(name).await {
            Some(GivenUp::Entered) => Ok(()),
            Some(GivenUp::Abandoned) | None => Err(refused),
        }
    }

    /// A segment that may lie in the bucket and is not in the map never enters it, and is deleted.
    pub(super) async fn abandon(&self, name: &SegmentName) {
        self.give_up(name).await;
    }

    /// `None` if nobody knows: the segment is collected when its incarnation has ended.
    async fn give_up(&self, name: &SegmentName) -> Option<GivenUp> {
        let object = name.key();
        match self.ask(Request::AbandonSegment(key(name))).await {
            Ok(Ok(())) => {
                let keys = [object.clone()];
                if let Err(error) = self.bucket.delete(Purpose::Archive, &keys).await {
                    stays(&object, &error);
                }
                Some(GivenUp::Abandoned)
            }
            Ok(Err(ArchiveError::Entered)) => Some(GivenUp::Entered),
            Ok(Err(error)) => {
                stays(&object, &error);
                None
            }
            Err(error) => {
                stays(&object, &error);
                None
            }
        }
    }

    /// Asks until there is an answer.
    async fn ask(&self, request: Request) -> Result<Result<(), ArchiveError>, CoordinatorError> {
        match insist(&self.coordinator, &self.entropy, request).await? {
            Reply::Archive(answer) => Ok(answer),
            _ => Err(CoordinatorError::Stopped),
        }
    }
}

fn stays(object: &Key, error: &impl std::fmt::Display) {
    tracing::warn!(%object, %error, "a segment that is not in the map stays until this process has ended");
}

fn key(name: &SegmentName) -> SegmentKey {
    SegmentKey {
        incarnation: name.incarnation,
        number: name.number,
    }
}

/// The runs of a segment as the map takes them. Each begins where its partition is archived to,
/// though the batch there may begin before.
fn commit_runs(
    archived: &ArchivedSegment,
    partitions: &[(Arc<Partition>, i64)],
) -> Option<Vec<CommitRun>> {
    let runs = archived.segment.runs.iter();
    let runs = runs.map(|run| {
        let of_run =
            |(partition, _): &&(Arc<Partition>, i64)| partition.tp().partition == run.partition;
        let (partition, from) = partitions.iter().find(of_run)?;
        Some(CommitRun {
            partition: run.partition,
            epoch: partition.epoch(),
            base_offset: *from,
            last_offset: run.last_offset,
            max_timestamp: run.max_timestamp,
            row_groups: run.row_groups.clone(),
            next: partition.next_slot(run.last_offset + 1)?,
        })
    });
    runs.collect()
}
