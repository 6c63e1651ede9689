//! The ticks of a recurrence, for a clock that cannot be trusted.

use std::time::{Duration, SystemTime};

use crate::recurrence::Recurrence;

/// The ticks of a recurrence, one after another, for a clock that may be late, stand still for a
/// while, or be set.
#[derive(Clone, Debug)]
pub struct Ticks {
    recurrence: Recurrence,
    /// The next tick.
    due: Option<SystemTime>,
    /// The last tick that was taken.
    last: Option<SystemTime>,
    /// What the clock said last.
    seen: SystemTime,
}

/// By how much a clock must have gone back to have been set, and not just been adjusted.
const SET_BACK: Duration = Duration::from_secs(1);

/// For so long after a clock was put back, fixed times that have come once do not come again,
/// as in cron(8) of Vixie's.
const REMEMBERED: Duration = Duration::from_hours(3);

impl Ticks {
    /// Those after `now`.
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

    /// The next one. `None` if there is none any more.
    #[must_use]
    pub fn due(&self) -> Option<SystemTime> {
        self.due
    }

    /// The tick that has come since the last look, if one has: of several the last.
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

    /// From when on there are ticks, by a clock that was set back to `now`.
    fn not_before(&self, now: SystemTime) -> SystemTime {
        match self.last {
            Some(last) if last > now && counts(&self.recurrence, last, now) => last,
            _ => now,
        }
    }
}

/// Whether `tick` has been taken, if the last that was is `last`, by whomever.
#[must_use]
pub fn has_come(
    recurrence: &Recurrence,
    tick: SystemTime,
    last: SystemTime,
    now: SystemTime,
) -> bool {
    tick <= last && counts(recurrence, last, now)
}

/// Whether a tick at `last` still says that those up to it have come, now that it is `now`.
fn counts(recurrence: &Recurrence, last: SystemTime, now: SystemTime) -> bool {
    match last.duration_since(now) {
        // The clock was set back.
        Ok(by) if by >= SET_BACK => recurrence.is_fixed() && by < REMEMBERED,
        _ => true,
    }
}
