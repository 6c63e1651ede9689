//! Waiting for the next item of a generator task.

use std::slice::from_ref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyTimeoutError;
use pyo3::prelude::*;

use super::current;
use super::result::{enter_own, refuse_endless_wait, refuse_on_loop};
use crate::bindings::core::interrupt;
use crate::bindings::core::stream::{self, Reader, Sleeper, Taken};
use crate::bindings::core::task::Task;
use crate::bindings::core::waiter::Waiter;
use crate::bindings::host::gevent;

/// The answer to a reader, for whom there is `Nothing` once the task has ended.
///
/// `None` if there may be something later.
pub(crate) fn look(this: &Bound<'_, Task>, reader: &Reader) -> Option<Taken> {
    // Before the items: none comes after the end.
    let is_over = this.get().phase().is_done();
    match stream::take(this, reader) {
        Taken::Nothing if !is_over => None,
        taken => Some(taken),
    }
}

/// Blocks until there is something for the reader, at most `limit`. `source` is what has the
/// methods that gevent's side calls.
///
/// # Errors
///
/// `TimeoutError` after `limit`, and those of a wait for the task's end.
pub(crate) fn next(
    this: &Bound<'_, Task>,
    reader: &Reader,
    source: &Bound<'_, PyAny>,
    limit: Option<Duration>,
) -> PyResult<Taken> {
    let cell = this.get();
    let began = Instant::now();
    loop {
        cell.refuse_foreign(this)?;
        if let Some(taken) = look(this, reader) {
            return Ok(taken);
        }
        if limit.is_none() {
            refuse_endless_wait(this)?;
        }
        refuse_on_loop(from_ref(this), 1)?;
        let left = limit.map(|limit| limit.saturating_sub(began.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(PyTimeoutError::new_err(()));
        }
        let entered = match enter_own(from_ref(this), 1) {
            Ok(entered) => entered,
            // The task may have yielded just before it began to wait for this one.
            Err(error) => return look(this, reader).ok_or(error),
        };
        // While a worker waits, another may be active in its place.
        let waiting = current::waiting();
        let waiter = Waiter::new();
        let sleeper = Sleeper::Thread(
            Arc::clone(&waiter),
            entered.map(|it| Box::new(it) as Box<_>),
        );
        if !stream::sleep(this, reader, sleeper) {
            continue;
        }
        // What wakes a greenlet comes after that sleeper, and so after the end of its entry.
        let waited = gevent::wait(source, left);
        if !matches!(waited, Ok(None)) {
            stream::forget(this, &waiter);
            waited?;
            continue;
        }
        let awake = interrupt::awake_on(&waiter);
        let rung = waiter.wait(this.py(), left, current::look_after_pool);
        drop(waiting);
        stream::forget(this, &waiter);
        if let Some(error) = awake.and_then(|awake| awake.error(this.py())) {
            return Err(error);
        }
        rung?;
    }
}
