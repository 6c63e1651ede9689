//! Lines of a crontab and the minutes that match them. Knows no time zone.

use jiff::civil::{Date, DateTime};

/// The minutes that match a line.
#[derive(Clone, Debug)]
pub(crate) struct Crontab {
    minutes: u64,
    hours: u64,
    days: u64,
    extra_days: Vec<Day>,
    months: u64,
    weekdays: u64,
    extra_weekdays: Vec<Weekday>,
    /// Whether a day must match both day fields instead of either.
    both_days: bool,
    fixed: bool,
}

/// A day of the month other than a number.
#[derive(Clone, Copy, Debug)]
enum Day {
    Last,
    LastWorkday,
    /// The workday nearest to this day, in the same month.
    Workday(u8),
}

/// A day of the week other than a plain number.
#[derive(Clone, Copy, Debug)]
enum Weekday {
    /// The nth such day of the month.
    Nth(u8, u8),
    /// The last such day of the month.
    Last(u8),
}

struct Field {
    name: &'static str,
    place: &'static str,
    least: u8,
    most: u8,
    names: &'static [&'static str],
    examples: &'static str,
}

const MINUTE: Field = Field {
    name: "minute",
    place: "first",
    least: 0,
    most: 59,
    names: &[],
    examples: "\"30\", \"*\", \"*/5\", \"0-29\" or \"0,30\"",
};
const HOUR: Field = Field {
    name: "hour",
    place: "second",
    least: 0,
    most: 23,
    names: &[],
    examples: "\"2\", \"*\", \"*/4\", \"9-17\" or \"2,14\"",
};
const DAY: Field = Field {
    name: "day of the month",
    place: "third",
    least: 1,
    most: 31,
    names: &[],
    examples: "\"1\", \"*\", \"*/2\", \"1-7\", \"1,15\", \"L\", \"LW\" or \"15W\"",
};
const MONTH: Field = Field {
    name: "month",
    place: "fourth",
    least: 1,
    most: 12,
    names: &[
        "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
    ],
    examples: "\"1\", \"jan\", \"*\", \"*/3\", \"jun-aug\" or \"3,9\"",
};
/// Sunday is 0 and 7.
const WEEKDAY: Field = Field {
    name: "day of the week",
    place: "fifth",
    least: 0,
    most: 7,
    names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
    examples: "\"1\", \"mon\", \"*\", \"mon-fri\", \"sat,sun\", \"mon#2\" or \"friL\"",
};
const FIELDS: [Field; 5] = [MINUTE, HOUR, DAY, MONTH, WEEKDAY];

const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// The calendar repeats after so many years: a date that has not come until then never does.
const CYCLE: i16 = 400;

impl Crontab {
    /// Reads a line of five fields or a nickname such as `@daily`, in upper or lower case.
    ///
    /// # Errors
    ///
    /// What is wrong with the line, to follow the word "but".
    pub(crate) fn parse(line: &str) -> Result<Self, String> {
        let line = full(line.trim())?;
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(format!(
                "must be a line as in a crontab, with five fields (minute, hour, day of the \
                 month, month, day of the week), and has {}",
                fields.len()
            ));
        };
        // In the order of the fields, so that the error names the first wrong one.
        let (minutes, _) = MINUTE.read(minute, PLAIN)?;
        let (hours, _) = HOUR.read(hour, PLAIN)?;
        let (days, extra_days) = DAY.read(day, extra_day)?;
        let (months, _) = MONTH.read(month, PLAIN)?;
        let (weekdays, extra_weekdays) = WEEKDAY.read(weekday, extra_weekday)?;
        Ok(Self {
            minutes,
            hours,
            days,
            extra_days,
            months,
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            extra_weekdays,
            // As in Vixie cron: either day field is enough, unless one of them begins with a star.
            both_days: [day, weekday]
                .iter()
                .any(|field| field.starts_with(['*', '?'])),
            fixed: ![minute, hour].iter().any(|field| field.contains('*')),
        })
    }

    /// Whether the line names fixed times of the day: neither minute nor hour has a star. This is
    /// Vixie cron's rule.
    pub(crate) fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// The first matching minute that does not begin before `from`.
    pub(crate) fn next(&self, from: DateTime) -> Option<DateTime> {
        let end = from.date().year().saturating_add(CYCLE);
        // Rounded up to a whole minute, which may be 60.
        let (second, nano) = (from.second(), from.subsec_nanosecond());
        let minute = from.minute().unsigned_abs() + u8::from(second > 0 || nano > 0);
        let mut date = from.date();
        let mut earliest = (from.hour().unsigned_abs(), minute);
        while date.year() <= end {
            if has(self.months, date.month()) {
                if self.is_day(date)
                    && let Some(found) = self.first_from(earliest)
                {
                    return Some(at(date, found));
                }
                date = date.tomorrow().ok()?;
            } else {
                date = date.last_of_month().tomorrow().ok()?;
            }
            earliest = (0, 0);
        }
        None
    }

    /// The last matching minute that does not begin after `until`.
    pub(crate) fn previous(&self, until: DateTime) -> Option<DateTime> {
        let end = until.date().year().saturating_sub(CYCLE);
        let mut date = until.date();
        let mut latest = (until.hour().unsigned_abs(), until.minute().unsigned_abs());
        while date.year() >= end {
            if has(self.months, date.month()) {
                if self.is_day(date)
                    && let Some(found) = self.last_until(latest)
                {
                    return Some(at(date, found));
                }
                date = date.yesterday().ok()?;
            } else {
                date = date.first_of_month().yesterday().ok()?;
            }
            latest = (23, 59);
        }
        None
    }

    fn first_from(&self, (hour, minute): (u8, u8)) -> Option<(u8, u8)> {
        let this = from_on(self.minutes, minute).filter(|_| has(self.hours, hour));
        this.map(|found| (hour, found)).or_else(|| {
            let later = from_on(self.hours, hour + 1)?;
            Some((later, from_on(self.minutes, 0)?))
        })
    }

    fn last_until(&self, (hour, minute): (u8, u8)) -> Option<(u8, u8)> {
        let this = up_to(self.minutes, minute).filter(|_| has(self.hours, hour));
        this.map(|found| (hour, found)).or_else(|| {
            let earlier = up_to(self.hours, hour.checked_sub(1)?)?;
            Some((earlier, up_to(self.minutes, 59)?))
        })
    }

    fn is_day(&self, date: Date) -> bool {
        let by_month = has(self.days, date.day()) || self.extra_days.iter().any(|day| day.is(date));
        let by_week =
            has(self.weekdays, of_week(date)) || self.extra_weekdays.iter().any(|day| day.is(date));
        if self.both_days {
            by_month && by_week
        } else {
            by_month || by_week
        }
    }
}

impl Day {
    fn is(self, date: Date) -> bool {
        let last = date.days_in_month();
        match self {
            Self::Last => date.day() == last,
            Self::LastWorkday => nearest(date, last) == Some(date.day()),
            Self::Workday(day) => nearest(date, day.cast_signed()) == Some(date.day()),
        }
    }
}

impl Weekday {
    fn is(self, date: Date) -> bool {
        match self {
            Self::Nth(day, nth) => {
                of_week(date) == day.cast_signed() && (date.day() - 1) / 7 + 1 == nth.cast_signed()
            }
            Self::Last(day) => {
                of_week(date) == day.cast_signed() && date.day() + 7 > date.days_in_month()
            }
        }
    }
}

/// The workday nearest to a day in the month of `date`; `None` if the month has no such day.
fn nearest(date: Date, day: i8) -> Option<i8> {
    let last = date.days_in_month();
    let that = Date::new(date.year(), date.month(), day).ok()?;
    Some(match of_week(that) {
        6 if day > 1 => day - 1,
        6 => day + 2,
        0 if day < last => day + 1,
        0 => day - 2,
        _ => day,
    })
}

/// The day of the week from Sunday, 0.
fn of_week(date: Date) -> i8 {
    date.weekday().to_sunday_zero_offset()
}

fn at(date: Date, (hour, minute): (u8, u8)) -> DateTime {
    date.at(hour.cast_signed(), minute.cast_signed(), 0, 0)
}

fn has<N: TryInto<u32>>(set: u64, number: N) -> bool {
    let number = number.try_into().unwrap_or(u32::MAX);
    set.checked_shr(number).is_some_and(|rest| rest & 1 == 1)
}

/// The smallest number of a set from `least` on.
fn from_on(set: u64, least: u8) -> Option<u8> {
    let rest = set & u64::MAX.checked_shl(least.into())?;
    u8::try_from(rest.trailing_zeros())
        .ok()
        .filter(|_| rest != 0)
}

/// The largest number of a set up to `most`, which is below 64.
fn up_to(set: u64, most: u8) -> Option<u8> {
    let rest = set & (u64::MAX >> (63 - most));
    u8::try_from(rest.checked_ilog2()?).ok()
}

/// A line with its nickname written out.
fn full(line: &str) -> Result<String, String> {
    if !line.starts_with('@') {
        return Ok(line.to_ascii_uppercase());
    }
    let found = NICKNAMES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(line));
    match found {
        Some((_, meaning)) => Ok((*meaning).to_owned()),
        None if line.eq_ignore_ascii_case("@reboot") => Err(
            "that is no time: what is to run once, when the app starts, is a task without `cron`"
                .to_owned(),
        ),
        None => {
            let known: Vec<&str> = NICKNAMES.iter().map(|(name, _)| *name).collect();
            Err(format!(
                "must be a line of five fields, or one of {}",
                known.join(", ")
            ))
        }
    }
}

/// Parses an item that is not a number, a range or a star.
type Extra<T> = fn(&str) -> Result<Option<T>, String>;

const PLAIN: Extra<()> = |_| Ok(None);

fn extra_day(item: &str) -> Result<Option<Day>, String> {
    Ok(match (item, item.strip_suffix('W')) {
        ("L", _) => Some(Day::Last),
        ("LW", _) => Some(Day::LastWorkday),
        (_, Some(day)) => Some(Day::Workday(DAY.number(day, item)?)),
        _ => None,
    })
}

fn extra_weekday(item: &str) -> Result<Option<Weekday>, String> {
    if let Some((day, nth)) = item.split_once('#') {
        let Ok(nth @ 1..=5) = nth.parse() else {
            return Err(WEEKDAY.wrong(item, "after the # comes a number from 1 to 5"));
        };
        return Ok(Some(Weekday::Nth(WEEKDAY.number(day, item)? % 7, nth)));
    }
    match item.strip_suffix('L') {
        Some("") => Err(WEEKDAY.wrong(
            item,
            "it does not say which day (\"friL\" is the last Friday of the month)",
        )),
        Some(day) => Ok(Some(Weekday::Last(WEEKDAY.number(day, item)? % 7))),
        None => Ok(None),
    }
}

impl Field {
    /// The numbers of a list, and its other items.
    fn read<T>(&self, text: &str, extra: Extra<T>) -> Result<(u64, Vec<T>), String> {
        let (mut numbers, mut extras) = (0, Vec::new());
        if text == "?" && (self.name == DAY.name || self.name == WEEKDAY.name) {
            // As in Quartz: any value.
            return self.read("*", extra);
        }
        for item in text.split(',') {
            if item.is_empty() {
                return Err(self.wrong(text, "there is a comma with nothing beside it"));
            }
            match extra(item)? {
                Some(found) => extras.push(found),
                None => numbers |= self.range(item)?,
            }
        }
        Ok((numbers, extras))
    }

    fn range(&self, item: &str) -> Result<u64, String> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        let (first, last) = if range == "*" {
            // Sunday once.
            (
                self.least,
                self.most.min(if self.is_weekday() { 6 } else { u8::MAX }),
            )
        } else if let Some((first, last)) = range.split_once('-') {
            let first = self.number(first, item)?;
            let last = match self.number(last, item)? {
                0 if last == "SUN" && first > 0 => 7,
                last => last,
            };
            (first, last)
        } else if step.is_some() {
            let number = self.number(range, item)?;
            let most = self.most;
            return Err(self.wrong(
                item,
                &format!("a step needs a range: \"{number}-{most}/...\""),
            ));
        } else {
            let number = self.number(range, item)?;
            (number, number)
        };
        if first > last {
            return Err(self.wrong(item, "the range ends before it begins"));
        }
        // A longer step would match only the first value.
        let most = last - first + 1;
        let step = match step.map(str::parse) {
            None => 1,
            Some(Ok(step)) if (1..=most).contains(&step) => step,
            Some(_) => {
                return Err(self.wrong(item, &format!("the step must be from 1 to {most}")));
            }
        };
        let numbers = (first..=last).step_by(step.into());
        Ok(numbers.fold(0, |set, number| set | 1 << number))
    }

    /// A number or a name, which is all or a part of `item`.
    fn number(&self, text: &str, item: &str) -> Result<u8, String> {
        if let Some(place) = self.names.iter().position(|name| *name == text) {
            return Ok(self.least + u8::try_from(place).unwrap_or_default());
        }
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if is_number && (self.least..=self.most).contains(&number) => Ok(number),
            _ if is_number => {
                let Self { least, most, .. } = self;
                Err(self.wrong(item, &format!("{text} is not from {least} to {most}")))
            }
            _ => Err(self.wrong(item, &self.hint(text))),
        }
    }

    /// The hint for text that is not a number.
    fn hint(&self, text: &str) -> String {
        let whose = FIELDS
            .iter()
            .find(|field| field.name != self.name && field.names.contains(&text));
        match whose {
            Some(Self { name, place, .. }) => {
                format!("{text} belongs in the {place} field, the {name}")
            }
            None => format!("it must be such as {}", self.examples),
        }
    }

    fn is_weekday(&self) -> bool {
        self.name == WEEKDAY.name
    }

    /// The message for a wrong field.
    fn wrong(&self, item: &str, why: &str) -> String {
        let Self { name, place, .. } = self;
        format!("its {place} field, the {name}, has \"{item}\": {why}")
    }
}
