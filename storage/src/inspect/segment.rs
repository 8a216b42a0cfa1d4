//! Segments of topics.

use bytes::Bytes;
use firn_proto::ids::PartitionIndex;

use super::{Inspection, Page, ROWS_MAX};
use crate::segment::{
    BatchSummary, PlainChunks, RowGroup, RowGroupReader, Segment, SegmentFault, read_footer,
    verify_footer,
};

pub(super) fn inspect(object: &Bytes) -> Inspection {
    let mut page = Page::new("segment");
    let (origin, segment) = match read_footer(object, object.len() as u64) {
        Ok(read) => read,
        Err(fault) => {
            page.fault(fault);
            return page.finish();
        }
    };
    page.field("cluster", origin.cluster);
    page.field(
        "topic",
        format_args!("{} ({})", origin.topic, origin.topic_name),
    );
    if let Err(fault) = verify_end(object, &segment) {
        page.fault(fault);
    }
    page.field("runs", segment.runs.len());
    let mut batches_left = ROWS_MAX;
    for run in &segment.runs {
        page.line(format_args!(
            "    partition {} offsets {}..={} max timestamp {} row groups {}",
            run.partition,
            run.base_offset,
            run.last_offset,
            time(run.max_timestamp),
            run.row_groups.len()
        ));
        for group in &run.row_groups {
            show_group(&mut page, object, group);
            let shown = show_batches(
                &mut page,
                object,
                &segment,
                run.partition,
                group,
                &mut batches_left,
            );
            if let Err(fault) = shown {
                page.fault(format_args!(
                    "row group at byte {}: {fault}",
                    group.byte_start
                ));
            }
        }
    }
    page.finish()
}

/// Whether the footer says the same as the map in it and the trailers of the row groups.
fn verify_end(object: &Bytes, segment: &Segment) -> Result<(), SegmentFault> {
    let plain_chunks = segment.row_groups().map(|(_, group)| {
        let range = group.byte_range();
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = object.get(at(range.start)..at(range.end));
        PlainChunks::of(bytes.unwrap_or_default())
    });
    let plain_chunks: Vec<PlainChunks> = plain_chunks.collect::<Result<_, _>>()?;
    verify_footer(object, segment, &plain_chunks)
}

fn show_group(page: &mut Page, object: &Bytes, group: &RowGroup) {
    let range = group.byte_range();
    page.line(format_args!(
        "      offsets {}..={} bytes {}..{} of {} records {} plain bytes {} max timestamp so far {}",
        group.base_offset,
        group.last_offset,
        range.start,
        range.end,
        object.len(),
        group.records,
        group.plain_bytes,
        time(group.max_timestamp_so_far)
    ));
}

/// Lists the batch table, as many of its rows as are left to be shown.
fn show_batches(
    page: &mut Page,
    object: &Bytes,
    segment: &Segment,
    partition: PartitionIndex,
    group: &RowGroup,
    left: &mut usize,
) -> Result<(), SegmentFault> {
    let range = group.byte_range();
    let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    let (start, end) = (index(range.start), index(range.end));
    if start > end || end > object.len() {
        return Err(SegmentFault::Length {
            what: "segment",
            found: object.len(),
            expected: end,
        });
    }
    let bytes = object.slice(start..end);
    let mut reader = RowGroupReader::open(&bytes, segment.topic, partition, group)?;
    let mut hidden = 0;
    while let Some(batch) = reader.next_summary()? {
        if *left == 0 {
            hidden += 1;
            continue;
        }
        *left -= 1;
        page.line(format_args!("        {}", batch_text(&batch)));
    }
    if hidden > 0 {
        page.line(format_args!("        ... and {hidden} more"));
    }
    Ok(())
}

fn batch_text(batch: &BatchSummary) -> String {
    let Some(header) = &batch.header else {
        return format!("batch up to offset {}, kept verbatim", batch.last_offset);
    };
    let mut text = format!(
        "batch offsets {}..={} epoch {} records {} attributes {:#06x}",
        header.base_offset,
        batch.last_offset,
        header.leader_epoch,
        header.record_count,
        header.attributes.0
    );
    if header.has_producer() {
        text += &format!(
            " producer {} epoch {} sequence {}",
            header.producer_id, header.producer_epoch, header.base_sequence
        );
    }
    if batch.has_timestamps {
        text += ", with timestamps";
    }
    if batch.records_kept > 0 {
        text += &format!(", {} records kept verbatim", batch.records_kept);
    }
    text
}

/// A timestamp, if there is one.
pub(super) fn time(timestamp: i64) -> String {
    match timestamp {
        i64::MIN => "none".to_owned(),
        timestamp => timestamp.to_string(),
    }
}
