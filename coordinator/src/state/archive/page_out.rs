//! Runs that move from the coordinator's memory into a page that lies in the bucket. What a page
//! holds was compared by whoever wrote it; from then on the map knows its key.

use firn_proto::cluster::{ArchiveError, PageOut, SegmentKey};

use super::super::{Effects, State};
use super::contradiction;

impl State {
    pub(in crate::state) fn page_out(
        &mut self,
        body: &PageOut,
        effects: &mut Effects,
    ) -> Result<(), ArchiveError> {
        let PageOut { tp, page } = *body;
        let SegmentKey {
            incarnation,
            number,
        } = page.key;
        let map = self.archive.maps.get_mut(&tp);
        let writer = self.archive.writers.get_mut(&incarnation);
        let writer = writer.ok_or(ArchiveError::Ended(incarnation))?;
        if writer.pages.contains(number) {
            let known = map.is_some_and(|map| map.pages().contains(&page));
            let reason = "a page of this key has entered the map, and is not there as it is now";
            return known
                .then_some(())
                .ok_or_else(|| contradiction(tp.partition, reason));
        }
        let mut alive = self.brokers.values();
        if !alive.any(|broker| broker.incarnation == incarnation) {
            return Err(ArchiveError::Ended(incarnation));
        }
        if self.topics.partition(tp).is_none() {
            return Err(ArchiveError::UnknownTopic);
        }
        let map = map.ok_or_else(|| contradiction(tp.partition, "it has no runs"))?;
        let checked = map.check_page(&page);
        checked.map_err(|reason| contradiction(tp.partition, reason))?;
        map.page_out(page);
        writer.pages.insert(number);
        effects.changed = true;
        Ok(())
    }
}
