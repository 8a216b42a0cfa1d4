//! Slots: seals, WAL objects, journal slots.

use bytes::Bytes;
use firn_proto::record::{BatchView, split_batches};

use super::{Inspection, OfCoordinator, Page, rows};
use crate::journal::record::{JournalIndex, Opening};
use crate::state::{BatchFlags, ProducerBatch, Run};
use crate::stream::slot::{SlotFault, SlotHeader, SlotKind};
use crate::stream::{CheckpointRef, StreamKind, WalIndex};

pub(super) fn inspect(object: &Bytes, of_coordinator: OfCoordinator) -> Inspection {
    let header = match SlotHeader::decode(object) {
        Ok(header) => header,
        Err(fault) => {
            let mut page = Page::new("slot");
            page.fault(fault);
            return page.finish();
        }
    };
    let mut page = Page::new(match (header.kind, header.stream_kind) {
        (SlotKind::Data, StreamKind::Wal) => "WAL object",
        (SlotKind::Data, StreamKind::Journal) => "journal slot",
        (SlotKind::Seal, StreamKind::Wal) => "seal of a WAL stream",
        (SlotKind::Seal, StreamKind::Journal) => "seal of a journal stream",
    });
    show_header(&mut page, &header);
    if header.kind == SlotKind::Data {
        let index = header.index_of(object);
        let body = header.body_of(object);
        match header.stream_kind {
            StreamKind::Wal => show_wal(&mut page, &header, object, index, body),
            StreamKind::Journal => show_journal(&mut page, index, body, of_coordinator),
        }
    }
    page.finish()
}

fn show_header(page: &mut Page, header: &SlotHeader) {
    page.field("cluster", header.cluster);
    page.field("stream", format_args!("{:016x}", header.stream.0));
    page.field(
        "slot",
        format_args!("{:016x} ({})", header.slot.0, header.slot),
    );
    page.field("nonce", header.nonce);
    if header.kind == SlotKind::Data {
        page.field("nonce before", header.prev_nonce);
        page.field(
            "index",
            format_args!("{} bytes, crc {:08x}", header.index_len, header.index_crc),
        );
        page.field(
            "body",
            format_args!("{} bytes, crc {:08x}", header.body_len, header.body_crc),
        );
    }
}

fn show_wal(
    page: &mut Page,
    header: &SlotHeader,
    object: &Bytes,
    index: Result<Bytes, SlotFault>,
    body: Result<Bytes, SlotFault>,
) {
    let index = index.and_then(|index| WalIndex::decode(&index, header.body_len));
    if let Err(fault) = body {
        page.fault(fault);
    }
    let index = match index {
        Ok(index) => index,
        Err(fault) => return page.fault(fault),
    };
    page.field("runs", index.runs.len());
    page.rows(&index.runs, run_text);
    page.field("producer batches", index.producers.len());
    page.rows(&index.producers, producer_text);
    match &index.checkpoint {
        CheckpointRef::None => {}
        CheckpointRef::Inline(bytes) => {
            page.field(
                "checkpoint",
                format_args!("{} bytes, in the index", bytes.len()),
            );
            rows::show(page, bytes);
        }
        CheckpointRef::Object { slot, len, crc } => page.field(
            "checkpoint",
            format_args!(
                "{len} bytes, crc {crc:08x}, in the object of slot {:016x}",
                slot.0
            ),
        ),
    }
    for run in &index.runs {
        check_run(page, run, object);
    }
}

fn run_text(run: &Run) -> String {
    format!(
        "{} epoch {} offsets {}..={} bytes {}+{} max timestamp {}{}",
        run.tp,
        run.epoch,
        run.base_offset,
        run.last_offset,
        run.byte_start,
        run.byte_len,
        run.max_timestamp,
        flags_text(run.flags)
    )
}

fn producer_text(batch: &ProducerBatch) -> String {
    format!(
        "{} producer {} epoch {} sequence {} offset {} count {}{}",
        batch.tp,
        batch.producer,
        batch.producer_epoch,
        batch.base_sequence,
        batch.base_offset,
        batch.count,
        flags_text(batch.flags)
    )
}

fn flags_text(flags: BatchFlags) -> &'static str {
    match (
        flags.has(BatchFlags::TRANSACTIONAL),
        flags.has(BatchFlags::CONTROL),
    ) {
        (false, false) => "",
        (true, false) => " transactional",
        (false, true) => " control",
        (true, true) => " transactional control",
    }
}

/// Whether the bytes of a run are the batches that the index says.
fn check_run(page: &mut Page, run: &Run, object: &Bytes) {
    let range = usize::try_from(run.byte_start)
        .ok()
        .zip(usize::try_from(run.byte_len).ok())
        .and_then(|(start, len)| Some(start..start.checked_add(len)?));
    let Some(range) = range.filter(|range| range.end <= object.len()) else {
        return page.fault(format_args!(
            "the run at offset {} is cut off",
            run.base_offset
        ));
    };
    let mut next = run.base_offset;
    for batch in split_batches(object.slice(range)) {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                return page.fault(format_args!("{} at offset {next}: {error}", run.tp));
            }
        };
        if let Some(what) = batch_fault(&batch, run, next) {
            return page.fault(format_args!("{} at offset {next}: {what}", run.tp));
        }
        next = batch.header().last_offset().saturating_add(1);
    }
    if next != run.last_offset.saturating_add(1) {
        page.fault(format_args!(
            "{} ends at {next}, not after {}",
            run.tp, run.last_offset
        ));
    }
}

fn batch_fault(batch: &BatchView, run: &Run, next: i64) -> Option<&'static str> {
    let header = batch.header();
    if header.base_offset != next {
        return Some("the batch has another base offset");
    }
    if header.leader_epoch != run.epoch {
        return Some("the batch has another leader epoch");
    }
    (!batch.crc_matches()).then_some("the checksum of the batch is wrong")
}

fn show_journal(
    page: &mut Page,
    index: Result<Bytes, SlotFault>,
    body: Result<Bytes, SlotFault>,
    of_coordinator: OfCoordinator,
) {
    match index.map(|index| JournalIndex::decode(&index)) {
        Ok(Ok(JournalIndex::Entry)) => match body {
            Ok(body) => page.lines("commands", (of_coordinator.entry)(&body)),
            Err(fault) => page.fault(fault),
        },
        Ok(Ok(JournalIndex::Open(opening))) => {
            show_opening(page, &opening);
            if let Err(fault) = body {
                page.fault(fault);
            }
        }
        Ok(Err(fault)) => page.fault(fault),
        Err(fault) => page.fault(fault),
    }
}

fn show_opening(page: &mut Page, opening: &Opening) {
    match opening.base {
        Some(base) => page.field("read from", format_args!("the snapshot at {base}")),
        None => page.field("read from", "the beginning"),
    }
    page.field("earlier epochs", opening.ends.len());
    page.rows(&opening.ends, |(epoch, end)| {
        format!("epoch {epoch} ends at slot {end}")
    });
}
