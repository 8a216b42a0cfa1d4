//! Segments of the local WAL.

use bytes::Bytes;

use super::{Inspection, Page};
use crate::wal::local::{LocalRow, SegmentView};

pub(super) fn inspect(file: &Bytes) -> Inspection {
    let mut page = Page::new("local WAL segment");
    let Some(view) = SegmentView::of(file) else {
        page.fault("the header of the segment is not whole");
        return page.finish();
    };
    page.field("cluster", view.header.cluster);
    page.field("disk", view.header.disk);
    page.field("number", view.header.number);
    if let Some((number, end)) = view.header.previous {
        page.field(
            "segment before",
            format_args!("{number}, which ends at byte {end}"),
        );
    }
    page.field("entries", view.rows.len());
    page.rows(&view.rows, row_text);
    page.field("end", format_args!("byte {} of {}", view.end, file.len()));
    if view.damaged {
        page.fault(format_args!(
            "what had been fsynced behind byte {} is gone",
            view.end
        ));
    }
    page.finish()
}

fn row_text(row: &LocalRow) -> String {
    let entry = &row.entry;
    format!(
        "#{} stream {:016x} {} epoch {} offsets {}..={} {} bytes acks {:?}",
        row.sequence,
        row.stream.0,
        entry.tp,
        entry.epoch,
        entry.base_offset,
        entry.last_offset,
        row.records_len,
        entry.acks
    )
}
