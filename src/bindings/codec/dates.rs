//! Dates and times as text: ISO 8601 with microseconds, as `isoformat` writes them.
//!
//! A `ZoneInfo` follows by its key in brackets, as in RFC 9557. `[fold=1]` marks the second
//! occurrence of a time that the clock shows twice.
//!
//! ```text
//! 2026-10-25                                 date
//! 2026-10-25T02:30:00                        datetime without a time zone
//! 2026-10-25T02:30:00.000001+01:00           datetime.timezone
//! 2026-10-25T02:30:00[Europe/Paris][fold=1]  zoneinfo.ZoneInfo
//! 02:30:00                                   time
//! ```

use std::fmt::Write;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{
    PyDate, PyDateAccess, PyDateTime, PyDelta, PyDeltaAccess, PyString, PyTime, PyTimeAccess,
    PyTuple, PyTzInfo, PyTzInfoAccess,
};

use crate::bindings::ffi::call::call_with;
use crate::bindings::ffi::object::loaded;
use crate::bindings::names;

const FOLD: &str = "[fold=1]";
const SECOND: i64 = 1_000_000;
/// The longest key of a time zone that is looked up.
const LONGEST_KEY: usize = 100;

// --- Writing ------------------------------------------------------------------------

/// The text of a date or time, and the name of a `timezone` that was given one.
pub(super) struct Written<'py> {
    pub(super) text: String,
    pub(super) name: Option<Bound<'py, PyString>>,
}

pub(super) fn write_date(date: &Bound<'_, PyDate>) -> String {
    let mut text = String::with_capacity(10);
    push_date(&mut text, date);
    text
}

/// # Errors
///
/// [`Unknown::Zone`] for a time zone that is neither a `timezone` nor a `ZoneInfo` with a key.
pub(super) fn write_datetime<'py>(
    moment: &Bound<'py, PyDateTime>,
) -> Result<Written<'py>, Unknown<'py>> {
    let mut text = String::with_capacity(32);
    push_date(&mut text, moment);
    text.push('T');
    push_time(&mut text, moment);
    let name = push_zone(&mut text, moment.get_tzinfo())?;
    if moment.get_fold() {
        text.push_str(FOLD);
    }
    Ok(Written { text, name })
}

/// # Errors
///
/// As [`write_datetime`].
pub(super) fn write_time<'py>(time: &Bound<'py, PyTime>) -> Result<Written<'py>, Unknown<'py>> {
    let mut text = String::with_capacity(24);
    push_time(&mut text, time);
    let name = push_zone(&mut text, time.get_tzinfo())?;
    if time.get_fold() {
        text.push_str(FOLD);
    }
    Ok(Written { text, name })
}

/// Why a time zone has no text.
pub(super) enum Unknown<'py> {
    Zone(Bound<'py, PyTzInfo>),
    Failed(PyErr),
}

impl From<PyErr> for Unknown<'_> {
    fn from(error: PyErr) -> Self {
        Self::Failed(error)
    }
}

fn push_date(text: &mut String, date: &impl PyDateAccess) {
    let (year, month, day) = (date.get_year(), date.get_month(), date.get_day());
    // Writing to a String cannot fail.
    let _ = write!(text, "{year:04}-{month:02}-{day:02}");
}

fn push_time(text: &mut String, time: &impl PyTimeAccess) {
    let (hour, minute, second) = (time.get_hour(), time.get_minute(), time.get_second());
    let _ = write!(text, "{hour:02}:{minute:02}:{second:02}");
    push_fraction(text, i64::from(time.get_microsecond()));
}

fn push_fraction(text: &mut String, microseconds: i64) {
    if microseconds != 0 {
        let _ = write!(text, ".{microseconds:06}");
    }
}

/// Appends the time zone, and returns the name of a `timezone` that was given one.
fn push_zone<'py>(
    text: &mut String,
    zone: Option<Bound<'py, PyTzInfo>>,
) -> Result<Option<Bound<'py, PyString>>, Unknown<'py>> {
    let Some(zone) = zone else {
        return Ok(None);
    };
    let py = zone.py();
    let utc = PyTzInfo::utc(py)?;
    if zone.is(utc) {
        text.push_str("+00:00");
        return Ok(None);
    }
    if zone.get_type().is(utc.get_type()) {
        let given = zone.call_method0(names::__getinitargs__(py))?;
        let given = given.cast_into::<PyTuple>().map_err(PyErr::from)?;
        let offset = given.get_item(0)?.cast_into::<PyDelta>();
        push_offset(text, &offset.map_err(PyErr::from)?);
        return Ok(match given.get_item(1) {
            Ok(name) => Some(name.cast_into::<PyString>().map_err(PyErr::from)?),
            Err(_) => None,
        });
    }
    match key_of(&zone)? {
        Some(key) => {
            let _ = write!(text, "[{key}]");
            Ok(None)
        }
        None => Err(Unknown::Zone(zone)),
    }
}

fn push_offset(text: &mut String, offset: &Bound<'_, PyDelta>) {
    let seconds = i64::from(offset.get_days()) * 86_400 + i64::from(offset.get_seconds());
    let offset = seconds * SECOND + i64::from(offset.get_microseconds());
    let (sign, offset) = (if offset < 0 { '-' } else { '+' }, offset.abs());
    let (seconds, fraction) = (offset / SECOND, offset % SECOND);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let _ = write!(text, "{sign}{hours:02}:{minutes:02}");
    if seconds % 60 != 0 || fraction != 0 {
        let _ = write!(text, ":{:02}", seconds % 60);
        push_fraction(text, fraction);
    }
}

/// The key of a `ZoneInfo`; None for other time zones, and for one without a usual key.
fn key_of(zone: &Bound<'_, PyTzInfo>) -> PyResult<Option<String>> {
    let py = zone.py();
    // There is none if the module is not loaded.
    let Some(module) = loaded(py, names::zoneinfo(py))? else {
        return Ok(None);
    };
    if !zone.get_type().is(&module.getattr(names::ZoneInfo(py))?) {
        return Ok(None);
    }
    let key = zone.getattr(names::key(py))?;
    let key = key
        .cast::<PyString>()
        .ok()
        .and_then(|key| key.to_str().ok());
    Ok(key.filter(|key| is_key(key)).map(ToOwned::to_owned))
}

/// Whether a text may be the key of a time zone. All of IANA's are of this form.
///
/// Dots are left out: `zoneinfo` would look for a package below `tzdata` by such a key.
fn is_key(text: &str) -> bool {
    let is_part = |part: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte);
        !part.is_empty() && part.bytes().all(allowed)
    };
    text.len() <= LONGEST_KEY && text.split('/').all(is_part)
}

// --- Reading ------------------------------------------------------------------------

/// # Errors
///
/// ValueError for any other text.
pub(super) fn read_date<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyDate>> {
    let mut rest = Rest(text);
    let (year, month, day) = rest.date().ok_or_else(|| malformed(text))?;
    rest.end(text)?;
    PyDate::new(py, year, month, day)
}

/// # Errors
///
/// ValueError for any other text, for an unknown time zone, and for a name without an offset.
pub(super) fn read_datetime<'py>(
    py: Python<'py>,
    text: &str,
    name: Option<&str>,
) -> PyResult<Bound<'py, PyDateTime>> {
    let mut rest = Rest(text);
    let date = rest.date().filter(|_| rest.eat("T"));
    let (year, month, day) = date.ok_or_else(|| malformed(text))?;
    let (hour, minute, second, micro) = rest.time().ok_or_else(|| malformed(text))?;
    let zone = rest.zone(py, text, name)?;
    let fold = rest.eat(FOLD);
    rest.end(text)?;
    PyDateTime::new_with_fold(
        py,
        year,
        month,
        day,
        hour,
        minute,
        second,
        micro,
        zone.as_ref(),
        fold,
    )
}

/// # Errors
///
/// As [`read_datetime`].
pub(super) fn read_time<'py>(
    py: Python<'py>,
    text: &str,
    name: Option<&str>,
) -> PyResult<Bound<'py, PyTime>> {
    let mut rest = Rest(text);
    let (hour, minute, second, micro) = rest.time().ok_or_else(|| malformed(text))?;
    let zone = rest.zone(py, text, name)?;
    let fold = rest.eat(FOLD);
    rest.end(text)?;
    PyTime::new_with_fold(py, hour, minute, second, micro, zone.as_ref(), fold)
}

#[cold]
fn malformed(text: &str) -> PyErr {
    PyValueError::new_err(format!("{text:?} is no date or time"))
}

/// The rest of a text that is read from its start.
struct Rest<'a>(&'a str);

impl Rest<'_> {
    fn eat(&mut self, expected: &str) -> bool {
        let rest = self.0.strip_prefix(expected);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// A number of exactly `width` digits.
    fn number<N: std::str::FromStr>(&mut self, width: usize) -> Option<N> {
        let (digits, rest) = self.0.split_at_checked(width)?;
        self.0 = rest;
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse().ok())?
    }

    fn date(&mut self) -> Option<(i32, u8, u8)> {
        let year = self.number(4)?;
        let month = self.eat("-").then(|| self.number(2))??;
        let day = self.eat("-").then(|| self.number(2))??;
        Some((year, month, day))
    }

    fn time(&mut self) -> Option<(u8, u8, u8, u32)> {
        let hour = self.number(2)?;
        let minute = self.eat(":").then(|| self.number(2))??;
        let second = self.eat(":").then(|| self.number(2))??;
        Some((hour, minute, second, self.fraction()?))
    }

    fn fraction(&mut self) -> Option<u32> {
        if self.eat(".") {
            self.number(6)
        } else {
            Some(0)
        }
    }

    /// An offset from UTC, without its sign.
    fn offset(&mut self) -> Option<(i32, i32)> {
        let hours: i32 = self.number(2)?;
        let minutes: i32 = self.eat(":").then(|| self.number(2))??;
        let (seconds, fraction): (i32, u32) = if self.eat(":") {
            (self.number(2)?, self.fraction()?)
        } else {
            (0, 0)
        };
        let seconds = hours * 3600 + minutes * 60 + seconds;
        Some((seconds, i32::try_from(fraction).ok()?))
    }

    fn zone<'py>(
        &mut self,
        py: Python<'py>,
        text: &str,
        name: Option<&str>,
    ) -> PyResult<Option<Bound<'py, PyTzInfo>>> {
        let sign = if self.eat("+") {
            1
        } else if self.eat("-") {
            -1
        } else if name.is_some() {
            return Err(malformed(text));
        } else if self.0.starts_with('[') && !self.0.starts_with(FOLD) {
            return self.keyed(py, text).map(Some);
        } else {
            return Ok(None);
        };
        let (seconds, fraction) = self.offset().ok_or_else(|| malformed(text))?;
        let offset = PyDelta::new(py, 0, sign * seconds, sign * fraction, true)?;
        let Some(name) = name else {
            return PyTzInfo::fixed_offset(py, offset).map(Some);
        };
        let class = PyTzInfo::utc(py)?.get_type();
        let name = PyString::new(py, name);
        let zone = call_with(&class, [offset.as_any(), name.as_any()])?;
        Ok(Some(zone.cast_into::<PyTzInfo>()?))
    }

    /// A `ZoneInfo` by its key, as the module itself finds it.
    fn keyed<'py>(&mut self, py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyTzInfo>> {
        let found = self
            .0
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'));
        let (key, rest) = found.ok_or_else(|| malformed(text))?;
        if !is_key(key) {
            return Err(malformed(text));
        }
        self.0 = rest;
        // The module is not loaded with the package, because that takes milliseconds.
        let class = py
            .import(names::zoneinfo(py))?
            .getattr(names::ZoneInfo(py))?;
        let zone = call_with(&class, [PyString::new(py, key).as_any()])?;
        zone.cast_into::<PyTzInfo>()
            .map_err(|_| PyTypeError::new_err(format!("ZoneInfo({key:?}) is no time zone")))
    }

    fn end(&self, text: &str) -> PyResult<()> {
        self.0
            .is_empty()
            .then_some(())
            .ok_or_else(|| malformed(text))
    }
}
