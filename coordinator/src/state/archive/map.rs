//! The part of the segment map that belongs to one partition: pages with its older runs, and its
//! newest runs.

use std::collections::VecDeque;
use std::sync::Arc;

use bincode::{Decode, Encode};
use firn_proto::cluster::{ArchivedRun, MapPage, MapPart, PagedRelease, RunsFrom};
use firn_proto::limits::{FOUND_RUNS_MAX, MAP_PAGE_RUNS};

/// Runs of a partition, ascending, contiguous and disjoint (I9): first those in pages, then those
/// here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PartitionMap {
    /// One for some hundred runs.
    pages: Vec<MapPage>,
    /// A few hundred: the owner pages the oldest out (`MAP_RUNS_IN_MEMORY`).
    runs: VecDeque<Arc<ArchivedRun>>,
    released: Released,
    /// Bytes of all runs in their segments.
    bytes: u64,
}

/// What has left the map of the first page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Released {
    /// Paged runs below this offset have left.
    pub to: i64,
    /// How many of them the first page holds.
    pub runs: u32,
    /// Their bytes.
    pub bytes: u64,
}

impl PartitionMap {
    /// Its pages.
    pub fn pages(&self) -> &[MapPage] {
        &self.pages
    }

    /// The runs behind them.
    pub fn runs(&self) -> &VecDeque<Arc<ArchivedRun>> {
        &self.runs
    }

    /// What of the first page has left.
    pub fn released(&self) -> Released {
        self.released
    }

    /// Bytes of all its runs in their segments.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many runs it has, in pages and here.
    pub fn run_count(&self) -> u64 {
        let paged: u64 = self.pages.iter().map(|page| u64::from(page.runs)).sum();
        paged - u64::from(self.released.runs) + self.runs.len() as u64
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.runs.is_empty()
    }

    /// The offset behind its last run.
    fn end(&self) -> Option<i64> {
        let run = self.runs.back().map(|run| run.last_offset + 1);
        run.or_else(|| self.pages.last().map(|page| page.last_offset + 1))
    }

    /// The run in memory that covers the offset.
    pub(super) fn run_in_memory(&self, offset: i64) -> Option<&Arc<ArchivedRun>> {
        let at = self.runs.partition_point(|run| run.last_offset < offset);
        self.runs.get(at).filter(|run| run.base_offset <= offset)
    }

    /// Appends a run.
    pub(super) fn push(&mut self, run: ArchivedRun) {
        assert!(
            self.end().is_none_or(|end| end == run.base_offset),
            "I9: a run begins at {}, but the map of its partition ends at {:?}",
            run.base_offset,
            self.end()
        );
        self.bytes += run.bytes();
        self.runs.push_back(Arc::new(run));
    }

    /// Takes out the runs in memory that end below `log_start`.
    pub(super) fn take_runs_below(&mut self, log_start: i64) -> Vec<Arc<ArchivedRun>> {
        let gone = self.runs.partition_point(|run| run.last_offset < log_start);
        let taken: Vec<_> = self.runs.drain(..gone).collect();
        self.bytes -= taken.iter().map(|run| run.bytes()).sum::<u64>();
        taken
    }

    /// Says what is wrong with a page to be.
    pub(super) fn check_page(&self, page: &MapPage) -> Result<(), String> {
        let len = usize::try_from(page.runs).unwrap_or(usize::MAX);
        if len == 0 || page.runs > MAP_PAGE_RUNS || len > self.runs.len() {
            return Err(format!(
                "a page of {} runs is to be made of {} in memory; it may have 1 to {MAP_PAGE_RUNS}",
                page.runs,
                self.runs.len()
            ));
        }
        let (Some(first), Some(last)) = (self.runs.front(), self.runs.get(len - 1)) else {
            return Err("there are no runs in memory".to_owned());
        };
        let found = (first.base_offset, last.last_offset);
        if found != (page.base_offset, page.last_offset) {
            return Err(format!(
                "the page covers {} to {}, the oldest {len} runs in memory {} to {}",
                page.base_offset, page.last_offset, found.0, found.1
            ));
        }
        let runs = || self.runs.iter().take(len);
        let max_timestamp = runs().map(|run| run.max_timestamp).max();
        let run_bytes: u64 = runs().map(|run| run.bytes()).sum();
        if max_timestamp != Some(page.max_timestamp) || run_bytes != page.run_bytes {
            return Err("the page says other things of its runs than the runs do".to_owned());
        }
        Ok(())
    }

    /// Moves the oldest runs into a page that [`PartitionMap::check_page`] has passed.
    pub(super) fn page_out(&mut self, page: MapPage) {
        let len = usize::try_from(page.runs).unwrap_or(usize::MAX);
        self.runs.drain(..len.min(self.runs.len()));
        self.pages.push(page);
        assert!(
            self.runs
                .front()
                .is_none_or(|run| run.base_offset == page.last_offset + 1),
            "I9: a page ends at {}, but the run behind it does not begin there",
            page.last_offset
        );
    }

    /// Says what is wrong with a release of paged runs: it names other pages than the map, or not
    /// all of those that may hold what leaves, or other amounts than the pages have. What the pages
    /// themselves say is the business of whoever read them.
    pub(super) fn check_release(
        &self,
        log_start: i64,
        release: Option<&PagedRelease>,
    ) -> Result<(), String> {
        let begin = self
            .pages
            .first()
            .map(|page| page.base_offset.max(self.released.to));
        let (release, begin) = match (release, begin) {
            (None, Some(begin)) if begin < log_start => {
                return Err(format!(
                    "paged runs begin at {begin}, below the log start {log_start}: read their pages \
                     and say which of them leave"
                ));
            }
            (None, _) => return Ok(()),
            (Some(_), None) => return Err("it has no pages: ask again".to_owned()),
            (Some(release), Some(begin)) => (release, begin),
        };
        let named = release.pages.len();
        let keys = self.pages.iter().map(|page| page.key).take(named);
        if release.released_to != self.released.to || !keys.eq(release.pages.iter().copied()) {
            return Err("its pages are others by now: ask again".to_owned());
        }
        let needed = self
            .pages
            .partition_point(|page| page.base_offset < log_start);
        let whole = self.whole_pages(named, log_start);
        if named < needed || named > whole + 1 {
            return Err(format!(
                "{named} pages were read, but runs of {needed} may end below the log start"
            ));
        }
        self.check_amounts(log_start, begin, release)
    }

    /// How many of the first `named` pages end below the log start.
    fn whole_pages(&self, named: usize, log_start: i64) -> usize {
        let below = self
            .pages
            .partition_point(|page| page.last_offset < log_start);
        below.min(named)
    }

    fn check_amounts(
        &self,
        log_start: i64,
        begin: i64,
        release: &PagedRelease,
    ) -> Result<(), String> {
        let whole = self.whole_pages(release.pages.len(), log_start);
        let (runs, bytes) = self.amount_of(whole);
        let (runs_max, bytes_max) = self.amount_of(release.pages.len());
        let released = release.segments.len() as u64;
        // A page that does not end below the log start keeps its last run.
        let is_partly = release.pages.len() > whole;
        let runs_fit = released >= runs && released + u64::from(is_partly) <= runs_max;
        let bytes_fit = (bytes..=bytes_max).contains(&release.run_bytes)
            && (released > runs || release.run_bytes == bytes);
        let to_min = match whole.checked_sub(1).and_then(|last| self.pages.get(last)) {
            Some(last) => last.last_offset + 1,
            None => release.released_to,
        };
        let to = release.next_released_to;
        let to_fits = if released == runs {
            to == to_min
        } else {
            to > to_min.max(begin) && to <= log_start
        };
        if runs_fit && bytes_fit && to_fits {
            return Ok(());
        }
        Err(format!(
            "{released} runs of {} bytes up to {to} are to leave pages of which {runs} to {runs_max} \
             runs of {bytes} to {bytes_max} bytes may",
            release.run_bytes
        ))
    }

    /// Runs and bytes of the first pages that have not left.
    fn amount_of(&self, pages: usize) -> (u64, u64) {
        if pages == 0 {
            return (0, 0);
        }
        let pages = || self.pages.iter().take(pages);
        let runs: u64 = pages().map(|page| u64::from(page.runs)).sum();
        let bytes: u64 = pages().map(|page| page.run_bytes).sum();
        (
            runs - u64::from(self.released.runs),
            bytes - self.released.bytes,
        )
    }

    /// Takes out what [`PartitionMap::check_release`] has passed, and gives the pages that no run is
    /// left in.
    pub(super) fn release(&mut self, log_start: i64, release: &PagedRelease) -> Vec<MapPage> {
        let whole = self.whole_pages(release.pages.len(), log_start);
        let (runs, bytes) = self.amount_of(whole);
        let before = if whole == 0 {
            self.released
        } else {
            Released::default()
        };
        let released = release.segments.len() as u64;
        let runs = u32::try_from(released - runs).unwrap_or(u32::MAX);
        self.released = Released {
            to: release.next_released_to,
            runs: before.runs + runs,
            bytes: before.bytes + (release.run_bytes - bytes),
        };
        self.bytes -= release.run_bytes;
        self.pages.drain(..whole).collect()
    }

    /// The part of the map where a search ends.
    pub(super) fn find(&self, from: RunsFrom) -> MapPart {
        match from {
            RunsFrom::Offset(offset) => self.first(offset, |_| true),
            RunsFrom::Time { timestamp, offset } => {
                self.first(offset, |max| max >= timestamp && max != i64::MIN)
            }
            RunsFrom::MaxTime { offset } => {
                let pages = self.pages.iter().filter(|page| page.last_offset >= offset);
                let runs = self.runs.iter().filter(|run| run.last_offset >= offset);
                let times = pages.map(|page| page.max_timestamp);
                let max = times.chain(runs.map(|run| run.max_timestamp)).max();
                match max {
                    None | Some(i64::MIN) => MapPart::Nothing,
                    Some(max) => self.first(offset, |time| time == max),
                }
            }
        }
    }

    /// The first page or run that does not end below the offset and whose largest timestamp is as
    /// wanted.
    fn first(&self, offset: i64, is_wanted: impl Fn(i64) -> bool) -> MapPart {
        let at = self.pages.partition_point(|page| page.last_offset < offset);
        let mut pages = self.pages.iter().skip(at);
        if let Some(page) = pages.find(|page| is_wanted(page.max_timestamp)) {
            return MapPart::Page(*page);
        }
        let at = self.runs.partition_point(|run| run.last_offset < offset);
        let runs = self.runs.iter().skip(at);
        let mut wanted = runs
            .skip_while(|run| !is_wanted(run.max_timestamp))
            .peekable();
        match wanted.peek() {
            Some(_) => MapPart::Runs(wanted.take(FOUND_RUNS_MAX).cloned().collect()),
            None => MapPart::Nothing,
        }
    }
}
