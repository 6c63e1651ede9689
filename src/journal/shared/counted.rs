//! Numbers that take long to count where there are many rows.

use std::time::{Duration, Instant};

use rusqlite::Result;

/// Of the time since a number was counted last, the part that it may take to count it.
const PART: u32 = 100;

/// A number that is counted anew now and then, so that a process spends a hundredth of its time on it
/// at most.
#[derive(Default)]
pub(crate) struct Counted<T> {
    value: T,
    /// It is not counted again before.
    until: Option<Instant>,
}

impl<T> Counted<T> {
    /// The number. It is counted if it is too old, and after `longest` in any case.
    pub(crate) fn get(
        &mut self,
        longest: Duration,
        count: impl FnOnce() -> Result<T>,
    ) -> Result<&T> {
        let began = Instant::now();
        if self.until.is_none_or(|until| until <= began) {
            self.value = count()?;
            let rest = (began.elapsed() * PART).min(longest);
            self.until = began.checked_add(rest);
        }
        Ok(&self.value)
    }

    /// The number of the last count, for what this process changes.
    pub(crate) fn last(&mut self) -> &mut T {
        &mut self.value
    }
}
