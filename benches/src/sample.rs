//! Repeated measurements: their median and range.

use std::fmt;

/// The values of one figure over all repetitions.
#[derive(Clone, Debug, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Adds a repetition.
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The middle value; of two, the greater.
    ///
    /// # Panics
    /// When nothing was measured.
    pub fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    /// How many values are at most `border`.
    pub fn count_to(&self, border: f64) -> usize {
        self.0.iter().filter(|value| **value <= border).count()
    }

    /// The value below which `share` (0 to 1) of all lie.
    ///
    /// # Panics
    /// When nothing was measured.
    pub fn quantile(&self, share: f64) -> f64 {
        let last = self.0.len() - 1;
        let at = (share * last as f64).round() as usize;
        self.0[at.min(last)]
    }
}

/// Median, and in brackets least and greatest.
impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(least), Some(greatest)) = (self.0.first(), self.0.last()) else {
            return f.pad("-");
        };
        let digits = if self.median() >= 100.0 { 0 } else { 2 };
        let median = self.median();
        write!(f, "{median:.digits$}")?;
        if self.0.len() > 1 {
            write!(f, " ({least:.digits$}–{greatest:.digits$})")?;
        }
        Ok(())
    }
}
