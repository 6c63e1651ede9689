//! The options of `using` and `task`.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flask_delay_engine::{Limits, Rate};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFrozenSet, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::id::Id;
use crate::bindings::ffi::arguments::Arguments;
use crate::bindings::ffi::clock::now;
use crate::bindings::ffi::slot::Slot;

/// A waiting task gains a level of priority in this time (nanoseconds), so that none starves.
pub(crate) const AGEING: i64 = 10_000_000_000;

/// The answer to a second task with the key of a task that is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Twin {
    /// The first one's future.
    TheFirst,
    AnError,
}

/// The earliest start of a task.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// This long after its submission, whether or not clocks are set.
    After(Duration),
    /// At this time of the system clock, which may be set meanwhile.
    At(SystemTime),
}

/// More than a submission takes, even if its thread waits for a processor.
const LAG: Duration = Duration::from_secs(1);

impl Start {
    /// The moment on the monotonic clock, if known, for a task made at `born`.
    pub(crate) fn from(self, born: i64) -> Option<Instant> {
        let Self::After(time) = self else {
            return None;
        };
        // From `born`, not from now: tasks must start in the order of their times.
        let age = now().cast_signed().saturating_sub(born);
        let age = Duration::from_nanos(u64::try_from(age).unwrap_or_default());
        // Limited, so that a clock that was set just now makes no task old.
        Instant::now().checked_add(time.saturating_sub(age.min(LAG)))
    }

    /// In nanoseconds since 1970, for a task made at `born`.
    pub(crate) fn ready(self, born: i64) -> i64 {
        match self {
            Self::After(time) => {
                let nanos = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
                born.saturating_add(nanos)
            }
            Self::At(time) => {
                let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
                let nanos = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
                nanos.max(born)
            }
        }
    }
}

// `options.py` has checked the values.
#[doc = doc!("_Policy")]
#[pyclass(frozen, name = "_Policy", module = "flask_delay._native")]
pub(crate) struct Policy {
    pub(crate) priority: i32,
    /// Never emptied while the policy is referenced; nor is `retry`.
    key: Slot,
    limit: Option<usize>,
    rate: Option<Rate>,
    pub(crate) unique: Option<Twin>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) expires: Option<Duration>,
    pub(crate) start: Option<Start>,
    /// How long no other call of the key may come before it starts, and how long such calls may
    /// delay it in all.
    pub(crate) debounce: Option<Duration>,
    pub(crate) max_wait: Option<Duration>,
    retry: Slot,
    pub(crate) id: Option<Id>,
    /// The most bytes of what a durable task keeps where there is no journal.
    pub(crate) keeps: Option<usize>,
    /// Starts when it is released.
    pub(crate) withheld: bool,
    /// Whether the limit and the rate hold in all processes of the machine together.
    pub(crate) on_machine: bool,
    /// How long a generator waits for a reader that is behind.
    pub(crate) stream_wait: Option<Duration>,
}

/// None: no limit.
fn duration(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

/// A time in seconds since 1970. An earlier one has passed in any case.
fn time(seconds: f64) -> Option<SystemTime> {
    duration(seconds.max(0.0)).and_then(|since| UNIX_EPOCH.checked_add(since))
}

#[pymethods]
impl Policy {
    #[new]
    #[pyo3(signature = (*, priority = 0, key = None, limit = None, rate = None, unique = None, timeout = None, expires = None, retry = None, countdown = None, eta = None, id = None, keeps = None, withheld = false, scope = None, debounce = None, max_wait = None, stream_wait = None))]
    #[expect(clippy::too_many_arguments, reason = "all of them named")]
    fn new(
        priority: i32,
        key: Option<Bound<'_, PyAny>>,
        limit: Option<usize>,
        rate: Option<(usize, f64)>,
        unique: Option<&str>,
        timeout: Option<f64>,
        expires: Option<f64>,
        retry: Option<Bound<'_, PyAny>>,
        countdown: Option<f64>,
        eta: Option<f64>,
        id: Option<&str>,
        keeps: Option<usize>,
        withheld: bool,
        scope: Option<&str>,
        debounce: Option<f64>,
        max_wait: Option<f64>,
        stream_wait: Option<f64>,
    ) -> Self {
        let rate = rate.and_then(|(count, seconds)| {
            let per = duration(seconds)?;
            Some(Rate { count, per })
        });
        let countdown = countdown.and_then(duration).map(Start::After);
        Self {
            priority,
            key: key.map_or_else(Slot::default, Slot::new),
            limit,
            rate,
            unique: unique.map(|twin| match twin {
                "raise" => Twin::AnError,
                _ => Twin::TheFirst,
            }),
            timeout: timeout.and_then(duration),
            expires: expires.and_then(duration),
            retry: retry.map_or_else(Slot::default, Slot::new),
            start: countdown.or_else(|| eta.and_then(time).map(Start::At)),
            debounce: debounce.and_then(duration),
            max_wait: max_wait.and_then(duration),
            id: id.map(Id::new),
            keeps,
            withheld,
            on_machine: scope == Some("machine"),
            stream_wait: stream_wait.map(|time| duration(time).unwrap_or(Duration::MAX)),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.key.visit(&visit)?;
        self.retry.visit(&visit)
    }

    fn __clear__(&self, py: Python<'_>) {
        // Nothing can reach this policy any more.
        drop((self.key.take(py), self.retry.take(py)));
    }
}

impl Policy {
    /// The option `key`, if it is not for the arguments to decide.
    pub(crate) fn given_key<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.key.get(py).filter(|key| !key.is_callable())
    }

    /// The option `retry`.
    pub(crate) fn retry<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.retry.get(py)
    }

    /// Whether an option needs the process's timer.
    pub(crate) fn needs_timer(&self) -> bool {
        self.rate.is_some() || self.timeout.is_some() || !self.retry.is_empty()
    }

    /// The limits that tasks of one key share, if any.
    pub(crate) fn terms(&self, born: i64) -> Option<Limits> {
        (self.limit.is_some() || self.rate.is_some()).then(|| Limits {
            limit: self.limit,
            rate: self.rate,
            rank: self.rank(born),
        })
    }

    /// The option that depends on a task's arguments, if any.
    pub(crate) fn by_arguments(&self, py: Python<'_>) -> Option<&'static str> {
        match self.key.get(py) {
            Some(key) => key.is_callable().then_some("key"),
            None => self.unique.map(|_| "unique"),
        }
    }

    /// The rank of a task made at `born`, in nanoseconds; a smaller rank goes first.
    pub(crate) fn rank(&self, born: i64) -> i64 {
        born.saturating_sub(i64::from(self.priority).saturating_mul(AGEING))
    }

    /// The key of the limit and the rate; by default the function.
    pub(crate) fn lane_key<'py>(
        &self,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self.key(arguments)? {
            Some(key) => Ok(key),
            None => hashable(arguments.function.to_owned(), "the function"),
        }
    }

    /// The key of a unique task; by default the function and its arguments.
    pub(crate) fn claim_key<'py>(
        &self,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(key) = self.key(arguments)? {
            return Ok(key);
        }
        let py = arguments.function.py();
        let (positional, named) = arguments.to_python()?;
        let named = match named {
            Some(named) => PyFrozenSet::new(py, named.items())
                .map_err(|error| unhashable(py, "an argument", &error))?
                .into_any(),
            None => py.None().into_bound(py),
        };
        let key = PyTuple::new(
            py,
            [arguments.function.as_any(), positional.as_any(), &named],
        )?;
        hashable(key.into_any(), "an argument")
    }

    /// The option `key`, called with the task's arguments if it is a function.
    pub(crate) fn key<'py>(
        &self,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.key_of(arguments.function.py(), || arguments.to_python())
    }

    /// As [`Policy::key`], for these arguments.
    pub(crate) fn key_of<'py>(
        &self,
        py: Python<'py>,
        arguments: impl FnOnce() -> PyResult<(Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>)>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(key) = self.key.get(py) else {
            return Ok(None);
        };
        let key = if key.is_callable() {
            let (positional, named) = arguments()?;
            key.call(positional, named.as_ref())?
        } else {
            key
        };
        hashable(key, "the key").map(Some)
    }
}

fn hashable<'py>(key: Bound<'py, PyAny>, what: &str) -> PyResult<Bound<'py, PyAny>> {
    match key.hash() {
        Ok(_) => Ok(key),
        Err(error) => Err(unhashable(key.py(), what, &error)),
    }
}

fn unhashable(py: Python<'_>, what: &str, error: &PyErr) -> PyErr {
    PyTypeError::new_err(format!(
        "{what} cannot be told from others of its kind, because it is not hashable ({}); give \
         the option 'key' something that is, such as a string",
        error.value(py)
    ))
}
