//! Waiting for a future: with the GIL released, interruptible, and never in a circle.

use std::time::Instant;

use flask_delay_engine::{Entered, Key, Waits};
use parking_lot::Mutex;
use pyo3::exceptions::{PyTimeoutError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyFloat};

use super::current;
use super::errors::WaitCycleError;
use super::ffi::call::call_with;
use super::future::FutureCell;
use super::mode;
use super::names;
use super::naming::name_of;

/// Which task waits for which, by address: both futures live as long as the wait.
static WAITS: Waits<String> = Waits::new();

/// A Python lock.
pub(crate) fn allocate_lock(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static ALLOCATE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    ALLOCATE.import(py, "_thread", "allocate_lock")?.call0()
}

/// `threading.TIMEOUT_MAX` is a little more.
const LONGEST: f64 = 9e9;

fn key(future: &Bound<'_, FutureCell>) -> Key {
    future.as_ptr() as Key
}

/// Blocks until the future is done, at most `timeout` seconds.
pub(crate) fn until_done(
    this: &Bound<'_, FutureCell>,
    timeout: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let py = this.py();
    let cell = this.get();
    if cell.phase().is_done() {
        return Ok(());
    }
    cell.refuse_foreign(this)?;
    let seconds = match timeout {
        Some(timeout) if !timeout.is_none() => seconds(timeout)?,
        // What Python's locks call for ever.
        _ => -1.0,
    };
    if seconds < 0.0 {
        mode::refuse_endless_wait(this)?;
    }
    if cell.is_coroutine() && current::is_loop() {
        return Err(WaitCycleError::new_err(format!(
            "waiting for task {:?} would never end: it needs the event loop that this \
             coroutine blocks; write `await future`",
            name_of(this)
        )));
    }
    let circle = not_in_a_circle(this)?;
    // A Python lock, because its `acquire` does all that a wait in Python must: it lets go
    // of the GIL, honours signals, and resumes after them with the time that is left.
    let lock = allocate_lock(py)?;
    let acquire = names::acquire(py);
    lock.call_method0(acquire)?;
    if !cell.leave(|extra| extra.waiters.push(lock.clone().unbind())) {
        return Ok(());
    }
    // While a worker waits, another may be active in its place.
    let waiting = current::waiting();
    let woken = acquire_in_slices(&lock, seconds);
    drop(waiting);
    drop(circle);
    if !matches!(woken, Ok(true)) {
        let mut extra = cell.extra().lock();
        let place = extra.waiters.iter().position(|waiter| waiter.is(&lock));
        let waiter = place.map(|place| extra.waiters.swap_remove(place));
        drop(extra);
        drop(waiter);
    }
    woken?;
    if cell.phase().is_done() {
        return Ok(());
    }
    Err(PyTimeoutError::new_err(()))
}

/// Acquires `lock` within `seconds` (negative: for ever).
///
/// In slices: Python's lock notices a signal that interrupts its sleep, but one that comes
/// just before the sleep begins would wait until the sleep ends.
fn acquire_in_slices(lock: &Bound<'_, PyAny>, seconds: f64) -> PyResult<bool> {
    let py = lock.py();
    let acquire = lock.getattr(names::acquire(py))?;
    let blocking = PyBool::new(py, true).to_owned().into_any();
    let start = Instant::now();
    loop {
        let left = if seconds < 0.0 {
            SLICE
        } else {
            (seconds - start.elapsed().as_secs_f64()).max(0.0)
        };
        let slice = PyFloat::new(py, left.min(SLICE));
        if call_with(&acquire, [&blocking, slice.as_any()])?.extract()? {
            return Ok(true);
        }
        if left <= SLICE && seconds >= 0.0 {
            return Ok(false);
        }
        py.check_signals()?;
    }
}

/// Seconds between two looks for signals.
const SLICE: f64 = 1.0;

/// Notes the wait if it is a task's; refuses one that would never end.
fn not_in_a_circle(this: &Bound<'_, FutureCell>) -> PyResult<Option<Entered<'static, String>>> {
    current::task(this.py())
        .map(|waiter| enter(&waiter, this))
        .transpose()
}

/// Notes that the task `waiter` waits for this one; refuses that if it would never end.
fn enter(
    waiter: &Bound<'_, FutureCell>,
    this: &Bound<'_, FutureCell>,
) -> PyResult<Entered<'static, String>> {
    WAITS
        .enter(key(waiter), key(this), name_of(waiter))
        .map_err(|mut chain| {
            chain.extend(chain.first().cloned());
            WaitCycleError::new_err(format!(
                "waiting for task {:?} would never end: {}",
                name_of(this),
                chain.join(" waits for ")
            ))
        })
}

/// A coroutine's wait, for as long as it lasts: see `_native.pyi`.
#[pyclass(frozen, name = "_Waiting", module = "flask_delay._native")]
pub(crate) struct Waiting(Mutex<Option<Entered<'static, String>>>);

#[pymethods]
impl Waiting {
    #[new]
    fn new(waiter: &Bound<'_, FutureCell>, target: &Bound<'_, FutureCell>) -> PyResult<Self> {
        enter(waiter, target).map(|entered| Self(Mutex::new(Some(entered))))
    }

    fn end(&self) {
        let entered = self.0.lock().take();
        drop(entered);
    }
}

/// A time limit in seconds; a negative one is over at once, as in `concurrent.futures`.
pub(crate) fn seconds(timeout: &Bound<'_, PyAny>) -> PyResult<f64> {
    let seconds: f64 = timeout.extract().map_err(|_| {
        PyTypeError::new_err(format!(
            "timeout must be a number of seconds or None, got {}",
            timeout
                .repr()
                .map_or_else(|_| "?".to_owned(), |text| text.to_string())
        ))
    })?;
    if seconds.is_nan() {
        return Err(PyValueError::new_err(
            "timeout must be a number of seconds or None, got nan",
        ));
    }
    Ok(seconds.clamp(0.0, LONGEST))
}
