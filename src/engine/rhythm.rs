//! When something that comes again and again is due. Has no clock of its own; whoever has it
//! brings one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use croner::parser::{CronParser, Seconds, Year};
use croner::{Cron, JobType};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// When something comes again and again. Everybody who has the same rhythm has the same ticks,
/// whenever he asks first.
#[derive(Clone, Debug)]
pub struct Rhythm(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// A tick at every multiple of a period since 1970.
    Every(Duration),
    Cron(Box<(Cron, TimeZone)>),
}

impl Rhythm {
    /// A tick in every `period`, counted from 1970 (UTC): with a minute, at the full minutes.
    /// `None` if the period is zero.
    #[must_use]
    pub fn every(period: Duration) -> Option<Self> {
        (!period.is_zero()).then_some(Self(Kind::Every(period)))
    }

    /// The ticks of a line as in a crontab, of five fields, by the clocks of a time zone with
    /// a name from the IANA's database.
    ///
    /// When clocks are put forward, a job with one fixed hour and minute that falls into the
    /// gap comes at its end; when they are put back, it comes once, at the first of the two
    /// times. All others go by the clock, as in Vixie cron.
    ///
    /// # Errors
    ///
    /// What is wrong with the line or the name.
    pub fn cron(line: &str, zone: &str) -> Result<Self, RhythmError> {
        let parser = CronParser::builder()
            // As in Vixie cron: one of the two days is enough, unless either field begins so.
            .dom_and_dow([2, 4].iter().any(|day| {
                let field = line.split_whitespace().nth(*day);
                field.is_some_and(|field| field.starts_with(['*', '?']))
            }))
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let cron = parser
            .parse(line)
            .map_err(|error| RhythmError::Line(error.to_string()))?;
        let zone = TimeZone::get(zone).map_err(|error| RhythmError::Zone(error.to_string()))?;
        Ok(Self(Kind::Cron(Box::new((cron, zone)))))
    }

    /// The first tick after `time`; `None` if there is none any more.
    #[must_use]
    pub fn after(&self, time: SystemTime) -> Option<SystemTime> {
        match &self.0 {
            Kind::Every(period) => {
                let gone = ticks_gone(time, *period)?;
                at(gone.checked_add(1)?, *period)
            }
            Kind::Cron(job) => after(job, time),
        }
    }

    /// The last tick that is not after `time`; `None` if there was none yet.
    #[must_use]
    pub fn until(&self, time: SystemTime) -> Option<SystemTime> {
        match &self.0 {
            Kind::Every(period) => at(ticks_gone(time, *period)?, *period),
            Kind::Cron(job) => {
                let found = job.0.find_previous_occurrence(&zoned(job, time)?, true);
                Some(SystemTime::from(found.ok()?.timestamp()))
            }
        }
    }

    /// Whether a tick belongs to one time of the day, as opposed to those that come every so
    /// often.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        match &self.0 {
            Kind::Every(_) => false,
            Kind::Cron(job) => job.0.determine_job_type() == JobType::FixedTime,
        }
    }
}

/// Why there is no such rhythm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RhythmError {
    /// The line of a crontab is wrong.
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

fn after(job: &(Cron, TimeZone), time: SystemTime) -> Option<SystemTime> {
    // The search gives up in front of a gap of a day, as when Samoa crossed the date line: it
    // goes on behind that.
    [0, DAY - HOUR, 2 * DAY - HOUR].iter().find_map(|skipped| {
        let from = time.checked_add(Duration::from_secs(*skipped))?;
        let found = job.0.find_next_occurrence(&zoned(job, from)?, false);
        Some(SystemTime::from(found.ok()?.timestamp()))
    })
}

/// In seconds.
const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

fn zoned(job: &(Cron, TimeZone), time: SystemTime) -> Option<Zoned> {
    let timestamp = Timestamp::try_from(time).ok()?;
    Some(timestamp.to_zoned(job.1.clone()))
}
