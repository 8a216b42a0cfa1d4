//! Where the records of a partition lie that are not archived yet: its runs in WAL slots, in the
//! order of offsets. Kept small, since an owner holds thousands of partitions: packed into pages,
//! and a page that is full is shared by all copies of the table and written to the bucket once.

use std::sync::Arc;

use firn_proto::ids::{PartitionIndex, SlotPosition, StreamId, TopicId, TopicPartition};
use firn_proto::limits::RUNS_PER_PAGE;

use super::page::{Page, PagePlace};
use super::row::{Run, RunRef};

/// The unarchived runs of one partition: contiguous and disjoint, ascending. A copy costs as much
/// as its open page.
#[derive(Clone, Debug, Default)]
pub struct RunTable {
    /// Full pages, ascending.
    pages: Vec<Arc<Page>>,
    /// The page that grows; none if it would be empty.
    open: Option<Box<Page>>,
    /// Runs that end below are dropped, though their page may be there.
    start: i64,
}

impl RunTable {
    /// Adds a run behind the others.
    ///
    /// # Panics
    /// I9: the run overlaps the one before it. The caller has compared it with its end offset.
    pub fn push(&mut self, at: SlotPosition, run: &Run) {
        assert!(
            run.base_offset >= self.end(),
            "I9: run at offset {} of {} overlaps the one that ends at {}",
            run.base_offset,
            run.tp,
            self.end() - 1
        );
        if self.last_stream() != Some(at.stream) {
            self.reopen_unstored();
        }
        let is_full = |open: &mut Box<Page>| {
            open.count() >= RUNS_PER_PAGE && open.last_stream() == Some(at.stream)
        };
        if let Some(full) = self.open.take_if(is_full) {
            self.pages.push(Arc::new(full.close()));
        }
        self.open.get_or_insert_default().push(at, run);
    }

    /// Makes the newest full pages that lie nowhere in the bucket grow on, as one: a writer may
    /// store only a page whose last run is in its own stream, and these would stay in every row.
    fn reopen_unstored(&mut self) {
        let stored = self.pages.iter().rposition(|page| page.place().is_some());
        let unstored = stored.map_or(0, |last| last + 1);
        if unstored == self.pages.len() {
            return;
        }
        let mut all = Page::default();
        let newest = self.open.take();
        let full = self.pages.drain(unstored..);
        for page in full.chain(newest.map(|open| Arc::new(*open))) {
            for found in page.runs(NOBODY) {
                all.push(found.at, &found.run);
            }
        }
        self.open = Some(Box::new(all));
    }

    /// The run that holds `offset` or, if none does, the next one, and those behind it.
    pub fn from(&self, tp: TopicPartition, offset: i64) -> impl Iterator<Item = RunRef> {
        self.runs_of(tp, offset, |_| true)
    }

    /// The runs that hold `offset .. end`, until they have `bytes_max` bytes together; at least
    /// one if there is any.
    pub fn span(&self, tp: TopicPartition, offset: i64, end: i64, bytes_max: usize) -> Vec<RunRef> {
        let mut bytes = 0_usize;
        self.from(tp, offset)
            .take_while(|found| {
                let wanted = found.run.base_offset < end && (bytes == 0 || bytes < bytes_max);
                bytes += usize::try_from(found.run.byte_len).unwrap_or(usize::MAX);
                wanted
            })
            .collect()
    }

    /// The first run at or behind `offset` that holds a record with a timestamp of at least
    /// `timestamp` (though perhaps none at or behind `offset`), and those like it behind it.
    pub fn with_timestamp(
        &self,
        tp: TopicPartition,
        offset: i64,
        timestamp: i64,
    ) -> impl Iterator<Item = RunRef> {
        self.runs_of(tp, offset, move |page| page.max_timestamp() >= timestamp)
            .filter(move |found| found.run.max_timestamp >= timestamp)
    }

    /// The first of the runs that holds the largest timestamp.
    pub fn with_max_timestamp(&self, tp: TopicPartition, offset: i64) -> Option<RunRef> {
        let offset = offset.max(self.start);
        let newest = |best: Option<RunRef>, found: RunRef| match best {
            Some(best) if best.run.max_timestamp >= found.run.max_timestamp => Some(best),
            _ => Some(found),
        };
        let mut pages = self.pages_from(offset);
        let first = pages.next()?;
        let later = pages.reduce(
            |best, page| match page.max_timestamp() > best.max_timestamp() {
                true => page,
                false => best,
            },
        );
        [Some(first), later]
            .into_iter()
            .flatten()
            .flat_map(|page| page.runs(tp))
            .filter(|found| found.run.last_offset >= offset)
            .fold(None, newest)
    }

    /// Drops the runs that end below `offset`: they are archived or deleted.
    pub fn drop_below(&mut self, offset: i64) {
        self.start = self.start.max(offset);
        let gone = self.pages.partition_point(|page| page.end() <= offset);
        self.pages.drain(..gone);
        self.open.take_if(|open| open.end() <= offset);
    }

    /// The offset below which runs were dropped.
    pub fn start(&self) -> i64 {
        self.start
    }

    /// What the runs take in their slots, in bytes. Reads all of them.
    pub fn bytes(&self) -> u64 {
        let runs = self.from(NOBODY, self.start);
        runs.map(|found| u64::from(found.run.byte_len)).sum()
    }

    /// How many runs there are. Reads all of them.
    pub fn len(&self) -> usize {
        self.from(NOBODY, self.start).count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.open.is_none()
    }

    /// A full page was written to the bucket: rows refer to it from now on.
    pub fn on_stored(&mut self, base_offset: i64, place: PagePlace) {
        let found = self
            .pages
            .binary_search_by_key(&base_offset, |page| page.base_offset());
        // it may have been dropped meanwhile
        if let Some(page) = found.ok().and_then(|index| self.pages.get_mut(index)) {
            Arc::make_mut(page).set_place(place);
        }
    }

    /// About how many bytes a state row needs for them.
    pub(super) fn encoded_len_estimate(&self) -> usize {
        // those that lie nowhere are the newest: a checkpoint stores all that it may
        let newest = self.pages.iter().rev();
        let unstored = newest.take_while(|page| page.place().is_none());
        let unstored: usize = unstored.map(|page| page.bytes().len()).sum();
        let open = self.open.as_ref().map_or(0, |open| open.bytes().len());
        PAGE_REF_LEN * self.pages.len() + unstored + open
    }

    pub(super) fn pages(&self) -> &[Arc<Page>] {
        &self.pages
    }

    pub(super) fn open_page(&self) -> Option<&Page> {
        self.open.as_deref()
    }

    /// Puts a page behind the others that was read from the bucket. False if it overlaps them.
    pub(super) fn restore(&mut self, page: Page) -> bool {
        let fits = page.count() > 0 && page.base_offset() >= self.end() && self.open.is_none();
        if fits {
            self.pages.push(Arc::new(page));
        }
        fits
    }

    /// The table without the runs that end below `start`.
    #[must_use]
    pub(super) fn starting_at(mut self, start: i64) -> Self {
        self.drop_below(start);
        self
    }

    /// The offset behind the last run.
    pub(super) fn end(&self) -> i64 {
        self.newest_page().map_or(0, Page::end)
    }

    /// The stream of the last run.
    fn last_stream(&self) -> Option<StreamId> {
        self.newest_page().and_then(Page::last_stream)
    }

    fn newest_page(&self) -> Option<&Page> {
        let last = self.pages.last().map(|page| &**page);
        self.open.as_deref().or(last)
    }

    fn pages_from(&self, offset: i64) -> impl Iterator<Item = &Page> {
        let offset = offset.max(self.start);
        let first = self.pages.partition_point(|page| page.end() <= offset);
        let pages = self.pages.iter().skip(first).map(|page| &**page);
        pages.chain(self.open.as_deref())
    }

    fn runs_of(
        &self,
        tp: TopicPartition,
        offset: i64,
        wanted: impl Fn(&Page) -> bool,
    ) -> impl Iterator<Item = RunRef> {
        let offset = offset.max(self.start);
        self.pages_from(offset)
            .filter(move |page| wanted(page))
            .flat_map(move |page| page.runs_near(tp, offset))
            .skip_while(move |found| found.run.last_offset < offset)
    }
}

/// Where the runs lie, however they are packed.
impl PartialEq for RunTable {
    fn eq(&self, other: &Self) -> bool {
        let (own, theirs) = (self.from(NOBODY, 0), other.from(NOBODY, 0));
        own.eq(theirs)
    }
}

impl Eq for RunTable {}

/// The name of the partition is not in the table.
const NOBODY: TopicPartition = TopicPartition {
    topic: TopicId([0; 16]),
    partition: PartitionIndex(0),
};
/// About what a row needs to refer to a page.
const PAGE_REF_LEN: usize = 20;

#[cfg(test)]
mod tests;
