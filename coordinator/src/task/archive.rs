//! Requests about segments, log starts, and what is deleted.

use firn_proto::cluster::{
    Collected, CommitRun, CommitSegment, CoordinatorError, RaiseLogStart, RaiseLogStarts, Reply,
    RowGroup, SegmentKey,
};
use firn_proto::limits::{ARCHIVE_REQUEST_ITEM_BYTES, ARCHIVE_REQUEST_ITEMS_MAX};

use super::Leader;
use crate::command::Command;
use crate::groups::CallId;

impl Leader {
    pub(super) fn commit_segment(&mut self, call: CallId, body: CommitSegment) {
        let groups: usize = body.runs.iter().map(|run| run.row_groups.len()).sum();
        let items = body.runs.len() + groups;
        self.archive_command(call, items, Command::CommitSegment(body));
    }

    pub(super) fn raise_log_starts(&mut self, call: CallId, body: RaiseLogStarts) {
        let paged = body.starts.iter().filter_map(|start| start.paged.as_ref());
        let paged: usize = paged
            .map(|paged| paged.pages.len() + paged.segments.len())
            .sum();
        let items = body.starts.len() + paged;
        self.archive_command(call, items, Command::RaiseLogStarts(body));
    }

    pub(super) fn report_collected(&mut self, call: CallId, body: Collected) {
        let items = body.doomed.len() + body.streams.len() + body.over.len() + body.writers.len();
        self.archive_command(call, items, Command::ReportCollected(body));
    }

    pub(super) fn list_garbage(&mut self, call: CallId) {
        let now_ms = self.now_ms();
        let reply = Reply::Garbage(self.state.garbage(now_ms));
        self.answer(call, reply);
    }

    /// Runs a command that names so many things. In the journal a thing takes a few bytes, in memory
    /// many more: what is written must be read back.
    fn archive_command(&mut self, call: CallId, items: usize, command: Command) {
        if items > ARCHIVE_REQUEST_ITEMS_MAX {
            let reason = format!(
                "the request names {items} things of the archive, at most \
                 {ARCHIVE_REQUEST_ITEMS_MAX} are allowed: ask for fewer at a time"
            );
            self.send(call, Err(CoordinatorError::Refused(reason)));
        } else {
            self.command(call, command);
        }
    }
}

const _: () = assert!(
    size_of::<CommitRun>() <= ARCHIVE_REQUEST_ITEM_BYTES
        && size_of::<RowGroup>() <= ARCHIVE_REQUEST_ITEM_BYTES
        && size_of::<RaiseLogStart>() <= ARCHIVE_REQUEST_ITEM_BYTES
        && size_of::<(SegmentKey, u32)>() <= ARCHIVE_REQUEST_ITEM_BYTES,
    "what a thing takes in memory must be known"
);
