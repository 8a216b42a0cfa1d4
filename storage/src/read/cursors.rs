//! Where sequential readers stopped inside a run: the byte at which an offset begins. A run can be
//! megabytes, and without this every fetch would walk it from its start.
//!
//! A cursor is a hint. What is read at it is checked like everything else, and what does not fit is
//! read from the start of the run.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use firn_proto::ids::{SlotPosition, TopicPartition};
use firn_proto::limits::READ_CURSORS_MAX;

/// A byte of an object at which a batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The object.
    pub(super) at: SlotPosition,
    /// The byte in it.
    pub(super) byte: u64,
}

type Place = (TopicPartition, i64);

/// Cursors by the offset that begins there; the oldest goes first.
#[derive(Debug, Default)]
pub(super) struct Cursors(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    cursors: BTreeMap<Place, Cursor>,
    order: VecDeque<Place>,
}

impl Cursors {
    /// The cursor of the offset.
    pub(super) fn find(&self, tp: TopicPartition, offset: i64) -> Option<Cursor> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.cursors.get(&(tp, offset)).copied()
    }

    /// Keeps where the offset begins.
    pub(super) fn remember(&self, tp: TopicPartition, offset: i64, cursor: Cursor) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.cursors.insert((tp, offset), cursor).is_none() {
            inner.order.push_back((tp, offset));
        }
        if inner.order.len() > READ_CURSORS_MAX
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.cursors.remove(&oldest);
        }
    }
}
