//! Files of the local WAL: segments, begun or only reserved, the identity, the lock.

use bytes::Bytes;

use super::{Inspection, Page};
use crate::wal::local::format::{SEGMENT_HEADER, decode_identity};
use crate::wal::local::{LocalRow, SegmentView};

pub(super) fn inspect_identity(file: &Bytes) -> Inspection {
    let mut page = Page::new("identity of a local WAL");
    match decode_identity(file) {
        Some(identity) => {
            page.field("cluster", identity.cluster);
            page.field("disk", identity.disk);
            match identity.broker {
                Some(broker) => page.field("broker", broker),
                None => page.field("broker", "not named (version 1)"),
            }
        }
        None => page.fault("the identity is not whole"),
    }
    page.finish()
}

/// A segment that is reserved and not begun is all zeros; a lock names the process that last took
/// it.
pub(super) fn inspect_without_magic(file: &Bytes) -> Option<Inspection> {
    if file.len() >= SEGMENT_HEADER && file.iter().all(|byte| *byte == 0) {
        let mut page = Page::new("local WAL segment");
        page.field("reserved", format_args!("{} bytes, not begun", file.len()));
        return Some(page.finish());
    }
    let process: u32 = str::from_utf8(file)
        .ok()?
        .strip_suffix('\n')?
        .parse()
        .ok()?;
    let mut page = Page::new("lock of a directory");
    page.field("last taken by", format_args!("process {process}"));
    page.field(
        "held",
        "only while that process runs: the kernel's lock counts, not this file",
    );
    Some(page.finish())
}

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
