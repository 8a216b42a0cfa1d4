//! Pages of the segment map.

use std::sync::Arc;

use bytes::Bytes;
use firn_proto::cluster::ArchivedRun;

use super::segment::time;
use super::{Inspection, Page};
use crate::segment::decode_map_page;

pub(super) fn inspect(object: &Bytes) -> Inspection {
    let mut page = Page::new("page of the segment map");
    match decode_map_page(object) {
        Ok((tp, runs)) => {
            page.field("partition", tp);
            page.field("runs", runs.len());
            page.rows(&runs, run_text);
        }
        Err(fault) => page.fault(fault),
    }
    page.finish()
}

fn run_text(run: &Arc<ArchivedRun>) -> String {
    format!(
        "offsets {}..={} segment {}-{} of {} runs, max timestamp {} row groups {} bytes {}",
        run.base_offset,
        run.last_offset,
        run.segment.incarnation,
        run.segment.number,
        run.runs_of_segment,
        time(run.max_timestamp),
        run.row_groups.len(),
        run.bytes(),
    )
}
