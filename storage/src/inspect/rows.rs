//! Checkpoints: sets of state rows.

use bytes::Bytes;

use super::{Inspection, Page};
use crate::checkpoint;
use crate::state::StoredRow;

/// A checkpoint object.
pub(super) fn inspect(object: &Bytes) -> Inspection {
    let mut page = Page::new("checkpoint");
    show(&mut page, object);
    page.finish()
}

/// Lists the rows of a checkpoint.
pub(super) fn show(page: &mut Page, bytes: &[u8]) {
    match checkpoint::decode(bytes) {
        Ok(rows) => {
            page.field("state rows", rows.len());
            page.rows(&rows, row_text);
        }
        Err(fault) => page.fault(format_args!("checkpoint: {fault}")),
    }
}

fn row_text(row: &StoredRow) -> String {
    let (pages, runs) = row.pages_and_runs();
    let row = row.without_runs();
    let after = row
        .after
        .map_or_else(|| "no slot".to_owned(), |at| at.to_string());
    format!(
        "{} epoch {} after {after} offsets {}..{} producers {} open {} aborted {} runs {runs} pages {pages}",
        row.tp,
        row.epoch,
        row.log_start,
        row.end_offset,
        row.producers.len(),
        row.open_txns.len(),
        row.aborted.len(),
    )
}
