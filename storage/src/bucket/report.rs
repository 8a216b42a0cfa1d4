//! What the checks of a bucket found, one line per check, for `firn doctor` and for the log.

use std::fmt;

use super::error::BucketError;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it must be.
    Passed,
    /// Usable, but an operator should know.
    Warned,
    /// Not usable.
    Failed,
    /// Not tried, because an earlier check failed or the store has no such thing.
    Skipped,
}

/// One check.
#[derive(Clone, Debug)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was seen.
    pub detail: String,
    /// What to do about it.
    pub fix: Option<&'static str>,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Passed => "ok",
            Verdict::Warned => "warning",
            Verdict::Failed => "FAILED",
            Verdict::Skipped => "skipped",
        };
        write!(f, "{verdict:<8} {:<24} {}", self.name, self.detail)?;
        match self.fix {
            Some(fix) => write!(f, " (fix: {fix})"),
            None => Ok(()),
        }
    }
}

/// All checks of a bucket, in the order they were made.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The checks.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether the bucket may be used.
    pub fn is_usable(&self) -> bool {
        self.checks
            .iter()
            .all(|check| check.verdict != Verdict::Failed)
    }

    /// The first check that failed, as an error.
    ///
    /// # Errors
    /// [`BucketError::Unfit`] with the check and its reason.
    pub fn into_result(self) -> Result<Self, BucketError> {
        match self
            .checks
            .iter()
            .find(|check| check.verdict == Verdict::Failed)
        {
            Some(check) => Err(BucketError::Unfit {
                check: check.name,
                reason: match check.fix {
                    Some(fix) => format!("{} (fix: {fix})", check.detail),
                    None => check.detail.clone(),
                },
            }),
            None => Ok(self),
        }
    }

    pub(super) fn add(&mut self, name: &'static str, verdict: Verdict, detail: impl Into<String>) {
        self.checks.push(Check {
            name,
            verdict,
            detail: detail.into(),
            fix: None,
        });
    }

    pub(super) fn add_with_fix(
        &mut self,
        name: &'static str,
        verdict: Verdict,
        detail: impl Into<String>,
        fix: &'static str,
    ) {
        self.checks.push(Check {
            name,
            verdict,
            detail: detail.into(),
            fix: Some(fix),
        });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.checks
            .iter()
            .try_for_each(|check| writeln!(f, "{check}"))
    }
}
