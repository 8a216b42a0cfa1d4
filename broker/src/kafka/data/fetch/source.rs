//! Where the records of a partition are learnt from: this process, which owns it, or its owner in
//! another rack, which has said so in the course of this Fetch.

use std::sync::Arc;

use firn_proto::ids::TopicPartition;
use firn_storage::read::ReadOutcome;
use firn_storage::state::RunRef;

use crate::kafka::context::Context;
use crate::partition::{Bounds, Partition};
use crate::read_replica::{Followed, Question, View};

/// A partition that can be read here. Cheap to clone.
#[derive(Clone)]
pub(super) enum Source {
    /// This process owns it.
    Owned(Arc<Partition>),
    /// Another one does, and this is what it has said last.
    Followed(Followed, Arc<View>),
}

impl Source {
    /// Which partition it is.
    pub(super) fn tp(&self) -> TopicPartition {
        match self {
            Self::Owned(partition) => partition.tp(),
            Self::Followed(_, view) => view.tp(),
        }
    }

    /// Where it begins and ends for readers.
    pub(super) fn bounds(&self) -> Bounds {
        match self {
            Self::Owned(partition) => partition.bounds(),
            Self::Followed(_, view) => view.bounds(),
        }
    }

    /// The durable runs that hold `offset .. end`, up to about `bytes_max` bytes.
    pub(super) fn runs(&self, offset: i64, end: i64, bytes_max: usize) -> Vec<RunRef> {
        match self {
            Self::Owned(partition) => partition.runs(offset, end, bytes_max),
            Self::Followed(_, view) => view.runs(offset, end, bytes_max),
        }
    }

    /// How many bytes there are of `offset .. end`, as far as `bytes_max` goes, and in the first run or
    /// batch of them.
    pub(super) fn bytes_there(&self, offset: i64, end: i64, bytes_max: usize) -> (usize, usize) {
        let view = match self {
            Self::Owned(partition) => return partition.bytes_there(offset, end, bytes_max),
            Self::Followed(_, view) => view,
        };
        let runs = view.runs(offset, end, bytes_max);
        let there: usize = runs.iter().map(|run| run.run.byte_len as usize).sum();
        let first = runs.first().map_or(0, |run| run.run.byte_len as usize);
        (there.min(bytes_max), first)
    }

    /// What is visible of `span` and in no slot yet, which only its owner has.
    pub(super) fn read_ahead(
        &self,
        span: (i64, i64),
        bytes_max: usize,
        first_in_any_case: bool,
    ) -> Option<ReadOutcome> {
        match self {
            Self::Owned(partition) => partition.read_ahead(span, bytes_max, first_in_any_case),
            Self::Followed(..) => None,
        }
    }

    /// The same partition as it is now, to be read from `offset` on. An owner that says nothing now
    /// has said what it has.
    pub(super) async fn again(self, ctx: &Context, offset: i64, bytes_max: usize) -> Self {
        let Self::Followed(followed, view) = self else {
            return self;
        };
        let question = Question {
            followed: followed.clone(),
            offset,
            bytes_max,
            available: 0,
        };
        let views = ctx.readers.look_now(vec![question], false).await;
        let now = views.of(&followed).flatten();
        Self::Followed(followed, now.unwrap_or(view))
    }
}
