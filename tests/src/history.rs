//! What producers were told, and whether the log keeps to it. Values are unique, so that each can
//! be found again.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::records::StoredRecord;

/// What one producer sent, in order, and what was acknowledged, by partition.
#[derive(Clone, Debug, Default)]
pub struct History {
    sent: BTreeMap<i32, Vec<Bytes>>,
    acknowledged: BTreeMap<i32, Vec<(i64, Bytes)>>,
}

impl History {
    /// Notes that values were sent, in this order.
    pub fn sent(&mut self, partition: i32, values: &[Bytes]) {
        let sent = self.sent.entry(partition).or_default();
        sent.extend_from_slice(values);
    }

    /// Notes that a batch was acknowledged at `base_offset`.
    pub fn acknowledged(&mut self, partition: i32, base_offset: i64, values: &[Bytes]) {
        let acknowledged = self.acknowledged.entry(partition).or_default();
        acknowledged.extend((base_offset..).zip(values.iter().cloned()));
    }

    /// How many records were acknowledged.
    pub fn acknowledged_count(&self) -> usize {
        self.acknowledged.values().map(Vec::len).sum()
    }

    /// What is wrong with `log` as one idempotent producer's partition: nothing acknowledged is
    /// missing or elsewhere than it was said to be, nothing is there twice, the order is the order
    /// of sending, nothing is there that was never sent, offsets are dense.
    pub fn faults(&self, partition: i32, log: &[StoredRecord]) -> Vec<String> {
        let mut faults = Vec::new();
        for pair in log.windows(2) {
            if pair[1].offset != pair[0].offset + 1 {
                let (a, b) = (pair[0].offset, pair[1].offset);
                faults.push(format!("offset {b} follows {a}"));
            }
        }
        let by_offset: BTreeMap<i64, &Bytes> = log
            .iter()
            .filter_map(|stored| Some((stored.offset, stored.record.value.as_ref()?)))
            .collect();
        for (offset, value) in self.acknowledged.get(&partition).into_iter().flatten() {
            match by_offset.get(offset) {
                Some(found) if *found == value => {}
                Some(found) => faults.push(format!(
                    "offset {offset} was acknowledged for {value:?} and holds {found:?}"
                )),
                None => faults.push(format!("acknowledged {value:?} at {offset} is missing")),
            }
        }
        let order: BTreeMap<&Bytes, usize> = self
            .sent
            .get(&partition)
            .into_iter()
            .flatten()
            .enumerate()
            .map(|(at, value)| (value, at))
            .collect();
        let mut last = None;
        for (offset, value) in by_offset {
            let Some(at) = order.get(value).copied() else {
                faults.push(format!("{value:?} at {offset} was never sent"));
                continue;
            };
            if last.is_some_and(|last| at <= last) {
                faults.push(format!("{value:?} at {offset} is doubled or out of order"));
            }
            last = last.max(Some(at));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Record;

    fn log(entries: &[(i64, &str)]) -> Vec<StoredRecord> {
        entries
            .iter()
            .map(|(offset, value)| StoredRecord {
                offset: *offset,
                record: Record::new("k", (*value).to_owned()),
            })
            .collect()
    }

    fn history() -> History {
        let mut history = History::default();
        let values = ["a", "b", "c"].map(Bytes::from);
        history.sent(0, &values);
        history.acknowledged(0, 0, &values[..2]);
        history
    }

    #[test]
    fn an_honest_log_has_no_faults() {
        let unanswered_may_be_there = log(&[(0, "a"), (1, "b"), (2, "c")]);
        assert!(history().faults(0, &unanswered_may_be_there).is_empty());
        let or_not = log(&[(0, "a"), (1, "b")]);
        assert!(history().faults(0, &or_not).is_empty());
    }

    #[test]
    fn a_lost_record_is_seen() {
        assert_eq!(history().faults(0, &log(&[(0, "a")])).len(), 1);
        assert_eq!(history().faults(0, &[]).len(), 2);
    }

    #[test]
    fn a_doubled_record_is_seen() {
        let doubled = log(&[(0, "a"), (1, "b"), (2, "b")]);
        assert_eq!(history().faults(0, &doubled).len(), 1);
    }

    #[test]
    fn a_moved_record_is_seen() {
        let moved = log(&[(0, "b"), (1, "a")]);
        assert!(!history().faults(0, &moved).is_empty());
        let later = log(&[(1, "a"), (2, "b")]);
        assert!(!history().faults(0, &later).is_empty());
    }

    #[test]
    fn a_foreign_record_and_a_gap_are_seen() {
        let foreign = log(&[(0, "a"), (1, "b"), (2, "z")]);
        assert_eq!(history().faults(0, &foreign).len(), 1);
        let gap = log(&[(0, "a"), (1, "b"), (3, "c")]);
        assert_eq!(history().faults(0, &gap).len(), 1);
    }
}
