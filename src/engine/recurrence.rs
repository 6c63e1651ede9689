//! When a recurrence is due. It has no clock; its owner provides the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};

use crate::crontab::Crontab;

/// A rule for recurring times. Equal recurrences have the same ticks, whenever they are made.
#[derive(Clone, Debug)]
pub struct Recurrence(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// A tick at every multiple of a period since 1970.
    Every(Duration),
    Cron(Box<(Crontab, TimeZone)>),
}

impl Recurrence {
    /// A tick in every `period`, counted from 1970 (UTC): with a minute, at the full minutes.
    /// `None` if the period is zero.
    #[must_use]
    pub fn every(period: Duration) -> Option<Self> {
        (!period.is_zero()).then_some(Self(Kind::Every(period)))
    }

    /// The ticks of a crontab line of five fields, by the clocks of an IANA time zone.
    ///
    /// As in Vixie cron, a line without a star in its minute and hour names fixed times. When
    /// clocks are put forward, fixed times in the gap come once, at its end. When they are put
    /// back, each comes once, at the first of the two times. All others go by the clock.
    ///
    /// # Errors
    ///
    /// What is wrong with the line or the name.
    pub fn cron(line: &str, zone: &str) -> Result<Self, RecurrenceError> {
        let cron = Crontab::parse(line).map_err(RecurrenceError::Line)?;
        let zone = TimeZone::get(zone).map_err(|error| RecurrenceError::Zone(error.to_string()))?;
        Ok(Self(Kind::Cron(Box::new((cron, zone)))))
    }

    /// The first tick after `time`; `None` if there are no more.
    #[must_use]
    pub fn after(&self, time: SystemTime) -> Option<SystemTime> {
        match &self.0 {
            Kind::Every(period) => {
                let gone = ticks_gone(time, *period)?;
                at(gone.checked_add(1)?, *period)
            }
            Kind::Cron(job) => {
                let found = after(&job.0, &job.1, Timestamp::try_from(time).ok()?)?;
                Some(SystemTime::from(found))
            }
        }
    }

    /// The last tick that is not after `time`; `None` if there was none yet.
    #[must_use]
    pub fn until(&self, time: SystemTime) -> Option<SystemTime> {
        match &self.0 {
            Kind::Every(period) => at(ticks_gone(time, *period)?, *period),
            Kind::Cron(job) => {
                let found = until(&job.0, &job.1, Timestamp::try_from(time).ok()?)?;
                Some(SystemTime::from(found))
            }
        }
    }

    /// Whether the ticks are fixed times of the day instead of intervals.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        match &self.0 {
            Kind::Every(_) => false,
            Kind::Cron(job) => job.0.is_fixed(),
        }
    }
}

/// Why there is no such recurrence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecurrenceError {
    /// The crontab line is wrong; with the reason, to follow the word "but".
    Line(String),
    /// There is no such time zone.
    Zone(String),
}

fn ticks_gone(time: SystemTime, period: Duration) -> Option<u128> {
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_nanos() / period.as_nanos())
}

fn at(ticks: u128, period: Duration) -> Option<SystemTime> {
    let nanos = ticks.checked_mul(period.as_nanos())?;
    let since = Duration::new(
        u64::try_from(nanos / NANOS).ok()?,
        u32::try_from(nanos % NANOS).ok()?,
    );
    UNIX_EPOCH.checked_add(since)
}

const NANOS: u128 = 1_000_000_000;

/// The time between two changes of a zone's clocks.
struct Stretch {
    begins: Option<Timestamp>,
    ends: Option<Timestamp>,
    offset: Offset,
    /// The offset before it begins.
    offset_before: Offset,
}

/// A longer gap is no change to summer time but a zone that has crossed the date line: Vixie's
/// bound.
const LONGEST_GAP: SignedDuration = SignedDuration::from_hours(3);

const MOMENT: SignedDuration = SignedDuration::from_nanos(1);

impl Stretch {
    /// The stretch that contains `time`.
    fn at(zone: &TimeZone, time: Timestamp) -> Option<Self> {
        let begins = zone.preceding(time.checked_add(MOMENT).ok()?).next();
        let begins = begins.map(|change| change.timestamp());
        let offset = zone.to_offset(time);
        let offset_before = match begins {
            Some(begins) => zone.to_offset(begins.checked_sub(MOMENT).ok()?),
            None => offset,
        };
        Some(Self {
            begins,
            ends: zone.following(time).next().map(|change| change.timestamp()),
            offset,
            offset_before,
        })
    }

    /// The first time of its clocks that counts.
    fn first(&self, cron: &Crontab) -> Option<DateTime> {
        let begins = self.begins?;
        let first = self.offset.to_datetime(begins);
        Some(if cron.is_fixed() {
            // Times that the clocks show twice have come the first time.
            first.max(self.offset_before.to_datetime(begins))
        } else {
            first
        })
    }

    /// When the ticks of the gap before it come.
    fn after_gap(&self, cron: &Crontab) -> Option<Timestamp> {
        let begins = self.begins?;
        let gap = self.offset.duration_since(self.offset_before);
        if !cron.is_fixed() || !gap.is_positive() || gap > LONGEST_GAP {
            return None;
        }
        let missed = cron.next(self.offset_before.to_datetime(begins))?;
        (missed < self.offset.to_datetime(begins)).then_some(begins)
    }
}

fn after(cron: &Crontab, zone: &TimeZone, time: Timestamp) -> Option<Timestamp> {
    let mut stretch = Stretch::at(zone, time)?;
    let mut from = stretch.offset.to_datetime(time.checked_add(MOMENT).ok()?);
    loop {
        if let Some(first) = stretch.first(cron) {
            from = from.max(first);
        }
        let found = stretch.offset.to_timestamp(cron.next(from)?).ok()?;
        let Some(ends) = stretch.ends.filter(|ends| *ends <= found) else {
            return Some(found);
        };
        stretch = Stretch::at(zone, ends)?;
        if let Some(tick) = stretch.after_gap(cron) {
            return Some(tick);
        }
        from = stretch.offset.to_datetime(ends);
    }
}

/// The last tick that is not after `time`.
fn until(cron: &Crontab, zone: &TimeZone, mut time: Timestamp) -> Option<Timestamp> {
    loop {
        let stretch = Stretch::at(zone, time)?;
        let found = cron.previous(stretch.offset.to_datetime(time))?;
        if stretch.first(cron).is_none_or(|first| first <= found) {
            return stretch.offset.to_timestamp(found).ok();
        }
        if let Some(tick) = stretch.after_gap(cron) {
            return Some(tick);
        }
        time = stretch.begins?.checked_sub(MOMENT).ok()?;
    }
}
