//! Waiting for a future: with the GIL released, interruptible, and never in a circle.

use std::sync::Arc;
use std::time::Duration;

use flask_delay_engine::{Entered, Key, Waits};
use parking_lot::Mutex;
use pyo3::exceptions::{PyTimeoutError, PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::bell::Bell;
use super::current;
use super::errors::WaitCycleError;
use super::future::FutureCell;
use super::greenlets;
use super::mode;
use super::naming::name_of;
use super::policies::target;

/// Which task waits for which, by address: both futures live as long as the wait.
static WAITS: Waits<String> = Waits::new();

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
    let cell = this.get();
    if cell.phase().is_done() {
        return Ok(());
    }
    cell.refuse_foreign(this)?;
    let limit = match timeout {
        Some(timeout) if !timeout.is_none() => Some(Duration::from_secs_f64(seconds(timeout)?)),
        _ => None,
    };
    if limit.is_none() {
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
    let rung = sleep(this, limit);
    drop(circle);
    rung?;
    if cell.phase().is_done() {
        return Ok(());
    }
    Err(PyTimeoutError::new_err(()))
}

/// Sleeps until the future is done or the time is over.
fn sleep(this: &Bound<'_, FutureCell>, limit: Option<Duration>) -> PyResult<()> {
    let py = this.py();
    let cell = this.get();
    // While a worker waits, another may be active in its place.
    let waiting = current::waiting();
    if greenlets::wait(this, limit)?.is_some() {
        return Ok(());
    }
    let bell = Bell::new();
    if !cell.leave(|extra| extra.waiters.push(Arc::clone(&bell))) {
        return Ok(());
    }
    let awake = target::awake_on(&bell);
    let rung = bell.wait(py, limit);
    drop(waiting);
    let ended = awake.filter(|_| !cell.phase().is_done());
    let ended = ended.and_then(|awake| awake.error(py));
    if !matches!(rung, Ok(true)) || ended.is_some() {
        let mut extra = cell.extra().lock();
        extra.waiters.retain(|waiter| !Arc::ptr_eq(waiter, &bell));
    }
    match ended {
        Some(error) => Err(error),
        None => rung.map(drop),
    }
}

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
