//! Levels and numbers that come many times in a row, as they mostly do: no null, no header, one
//! partition. What is known of all of them need not be asked of each.

use super::super::fault::SegmentFault;
use super::super::page::Codec;
use super::{Data, Leaf, Level, number_of};

impl Leaf {
    /// The level that comes next, and how often it does in a row: once at least, and not beyond a
    /// page.
    pub(in super::super) fn run(
        &mut self,
        codec: &mut Codec,
    ) -> Result<(Level, u32), SegmentFault> {
        if self.peeked.is_none() {
            self.load(codec)?;
        }
        let here = match self.left {
            0 => None,
            _ => Some(self.run_of_page()?),
        };
        match (self.peeked, here) {
            (Some(level), Some((next, count))) if next == level => {
                Ok((level, count.saturating_add(1)))
            }
            (Some(level), _) => Ok((level, 1)),
            (None, Some(run)) => Ok(run),
            (None, None) => Err(self.fault("fewer values than records")),
        }
    }

    /// Takes `count` of the levels that [`Self::run`] has found. Their values follow.
    pub(in super::super) fn pass(&mut self, count: u32) {
        let of_page = count.saturating_sub(u32::from(self.peeked.take().is_some()));
        self.repetition.pass(u64::from(of_page));
        self.definition.pass(u64::from(of_page));
        self.left = self.left.saturating_sub(of_page);
    }

    /// The number that comes next in a column of indices, and how often it does in a row.
    pub(in super::super) fn number_run(&mut self) -> Option<(i64, u64)> {
        let Data::Indices(indices) = &mut self.data else {
            return None;
        };
        let (index, count) = indices.run(&self.page)?;
        Some((number_of(self.dictionary.entry(Some(index))?), count))
    }

    /// Passes over `count` of the numbers that [`Self::number_run`] has found.
    pub(in super::super) fn pass_numbers(&mut self, count: u32) {
        if let Data::Indices(indices) = &mut self.data {
            indices.pass(u64::from(count));
        }
    }

    fn run_of_page(&mut self) -> Result<(Level, u32), SegmentFault> {
        let mut level = Level {
            repetition: 0,
            definition: 0,
        };
        let mut count = u64::from(self.left);
        for (max, levels, next, what) in [
            (
                self.max.repetition,
                &mut self.repetition,
                &mut level.repetition,
                "repetition level",
            ),
            (
                self.max.definition,
                &mut self.definition,
                &mut level.definition,
                "definition level",
            ),
        ] {
            if max > 0 {
                let (value, times) = levels
                    .run(&self.page)
                    .filter(|(value, _)| *value <= max)
                    .ok_or_else(|| self.pages.fault(what))?;
                *next = value;
                count = count.min(times);
            }
        }
        Ok((level, u32::try_from(count).unwrap_or(u32::MAX)))
    }
}
