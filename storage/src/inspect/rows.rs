//! Checkpoints: state rows, one after the other.

use bytes::Bytes;

use super::{Inspection, Page};
use crate::state::StateRow;

/// A checkpoint object, if the bytes begin with a state row.
pub(super) fn inspect(object: &Bytes) -> Option<Inspection> {
    StateRow::decode(&mut &object[..]).ok()?;
    let mut page = Page::new("checkpoint");
    show(&mut page, object);
    Some(page.finish())
}

/// Lists the rows in `bytes`.
pub(super) fn show(page: &mut Page, bytes: &[u8]) {
    let mut rest = bytes;
    let mut rows = Vec::new();
    while !rest.is_empty() {
        match StateRow::decode(&mut rest) {
            Ok(row) => rows.push(row),
            Err(fault) => {
                page.fault(format_args!("row {}: {fault}", rows.len()));
                break;
            }
        }
    }
    page.field("state rows", rows.len());
    page.rows(&rows, row_text);
}

fn row_text(row: &StateRow) -> String {
    let after = row
        .after
        .map_or_else(|| "no slot".to_owned(), |at| at.to_string());
    format!(
        "{} epoch {} after {after} offsets {}..{} producers {} open {} aborted {} runs {}",
        row.tp,
        row.epoch,
        row.log_start,
        row.end_offset,
        row.producers.len(),
        row.open_txns.len(),
        row.aborted.len(),
        row.runs.len()
    )
}
