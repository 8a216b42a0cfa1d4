//! What the log says about a partition: the rows of WAL indexes, the state after them, and the
//! rules by which rows change it. Pure; no IO.
//!
//! - `row.rs`: one run and one producer batch, as the index of a WAL object holds them
//! - `producers.rs`: the producer table (deduplication, I8)
//! - `runs.rs`: where the unarchived records of a partition lie
//! - `partition.rs`: the state row of a partition and how it moves
//! - `page.rs`: runs packed side by side
//! - `encoding.rs`: a state row as bytes; `stored.rs`: its runs, most of which lie elsewhere
//! - `checkpoint_due.rs`: when rows are to be written

mod checkpoint_due;
mod encoding;
mod page;
mod partition;
mod producers;
mod row;
mod runs;
mod stored;

pub use checkpoint_due::CheckpointDue;
pub use encoding::{STATE_ROW_VERSION, StateRowFault};
pub use page::PagePlace;
pub use partition::{AbortedTxn, Applied, OpenTxn, StateError, StateRow};
pub use producers::{Claim, ProducerState, ProducerTable, Remembered, Verdict};
pub use row::{BatchFlags, ProducerBatch, Run, RunRef};
pub use runs::RunTable;
pub use stored::{NewPages, StoredRow, WrittenPage};
