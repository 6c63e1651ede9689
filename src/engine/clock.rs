//! The ticks of a recurrence by a clock that may be wrong.

use std::time::{Duration, SystemTime};

use crate::recurrence::Recurrence;

/// The ticks of a recurrence, one after another, by a clock that may be late, stand still or be
/// set.
#[derive(Clone, Debug)]
pub struct Ticks {
    recurrence: Recurrence,
    due: Option<SystemTime>,
    /// The last tick that was taken.
    last: Option<SystemTime>,
    /// The last reading of the clock.
    seen: SystemTime,
}

/// A clock that goes back by less was only adjusted, not set.
const SET_BACK: Duration = Duration::from_secs(1);

/// For this long after a clock was put back, fixed times do not come again, as in Vixie cron.
const REMEMBERED: Duration = Duration::from_hours(3);

impl Ticks {
    /// The ticks after `now`.
    #[must_use]
    pub fn new(recurrence: Recurrence, now: SystemTime) -> Self {
        let due = recurrence.after(now);
        Self {
            recurrence,
            due,
            last: None,
            seen: now,
        }
    }

    /// The next tick; `None` if there are no more.
    #[must_use]
    pub fn due(&self) -> Option<SystemTime> {
        self.due
    }

    /// Takes the tick that has come since the last call, if any; of several, the last.
    pub fn take(&mut self, now: SystemTime) -> Option<SystemTime> {
        let set_back = self.seen.duration_since(now).is_ok_and(|by| by >= SET_BACK);
        self.seen = now;
        if set_back {
            self.due = self.recurrence.after(self.not_before(now));
        }
        if self.due? > now {
            return None;
        }
        let tick = self.recurrence.until(now).or(self.due);
        self.due = self.recurrence.after(now);
        self.last = tick;
        tick
    }

    /// When ticks begin, by a clock that was set back to `now`.
    fn not_before(&self, now: SystemTime) -> SystemTime {
        match self.last {
            Some(last) if last > now && counts(&self.recurrence, last, now) => last,
            _ => now,
        }
    }
}

/// Whether `tick` was taken, here or elsewhere, given the `last` tick that was.
#[must_use]
pub fn has_come(
    recurrence: &Recurrence,
    tick: SystemTime,
    last: SystemTime,
    now: SystemTime,
) -> bool {
    tick <= last && counts(recurrence, last, now)
}

/// Whether a tick at `last` still means at `now` that all ticks up to it have come.
fn counts(recurrence: &Recurrence, last: SystemTime, now: SystemTime) -> bool {
    match last.duration_since(now) {
        // The clock was set back.
        Ok(by) if by >= SET_BACK => recurrence.is_fixed() && by < REMEMBERED,
        _ => true,
    }
}
