//! When state rows are to be written again: often enough that a fold reads hundreds of
//! slots, seldom enough that rows are a small part of what is written.

use firn_proto::limits::{CHECKPOINT_BYTES_RATIO, CHECKPOINT_SLOTS, CHECKPOINT_SLOTS_MAX};

/// Counts what was put since the last checkpoint of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointDue {
    slots: u64,
    bytes: u64,
}

impl CheckpointDue {
    /// A slot with `bytes` of batches has become durable.
    pub fn on_slot(&mut self, bytes: u64) {
        self.slots += 1;
        self.bytes += bytes;
    }

    /// Whether it is worth asking how large the rows would be, which costs a look at each: at the
    /// first slot at which they may be due, and at every [`ASK_EVERY`]th after it.
    pub fn may_be_due(&self) -> bool {
        self.slots >= CHECKPOINT_SLOTS && self.slots.is_multiple_of(ASK_EVERY)
            || self.slots >= CHECKPOINT_SLOTS_MAX
    }

    /// Whether rows of `row_bytes` are due.
    pub fn is_due(&self, row_bytes: u64) -> bool {
        let amortised = self.bytes >= row_bytes.saturating_mul(CHECKPOINT_BYTES_RATIO);
        self.slots >= CHECKPOINT_SLOTS && (amortised || self.slots >= CHECKPOINT_SLOTS_MAX)
    }

    /// Rows were taken for a checkpoint.
    pub fn on_checkpoint(&mut self) {
        *self = Self::default();
    }
}

/// Slots between two looks at the size of the rows.
const ASK_EVERY: u64 = 32;
const _: () = assert!(CHECKPOINT_SLOTS.is_multiple_of(ASK_EVERY));

#[cfg(test)]
mod tests {
    use super::*;

    fn after(slots: u64, bytes_each: u64) -> CheckpointDue {
        let mut due = CheckpointDue::default();
        for _ in 0..slots {
            due.on_slot(bytes_each);
        }
        due
    }

    #[test]
    fn rows_are_due_after_enough_slots_with_enough_bytes() {
        assert!(!after(CHECKPOINT_SLOTS - 1, 1 << 20).is_due(100));
        assert!(after(CHECKPOINT_SLOTS, 1 << 20).is_due(100));
        let bytes = 400;
        let row_bytes = CHECKPOINT_SLOTS * bytes / CHECKPOINT_BYTES_RATIO;
        assert!(after(CHECKPOINT_SLOTS, bytes).is_due(row_bytes));
        assert!(!after(CHECKPOINT_SLOTS, bytes).is_due(row_bytes + 1));
    }

    #[test]
    fn a_fold_is_kept_short_even_if_rows_are_large() {
        assert!(!after(CHECKPOINT_SLOTS_MAX - 1, 1).is_due(u64::MAX));
        assert!(after(CHECKPOINT_SLOTS_MAX, 1).is_due(u64::MAX));
    }

    #[test]
    fn a_checkpoint_starts_the_count_anew() {
        let mut due = after(CHECKPOINT_SLOTS_MAX, 1);
        due.on_checkpoint();
        assert!(!due.may_be_due());
    }
}
