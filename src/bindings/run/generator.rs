//! Runs the generator of a task on its worker, and gives what it yields to the readers.
//!
//! The whole iteration is one call: a timeout or a stop interrupts the generator's code. Told to
//! stop, it is closed where it yields next.

use std::time::Instant;

use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;

use crate::bindings::core::interrupt;
use crate::bindings::core::policy;
use crate::bindings::core::stream::{self, Bounds, Item, Pushed, Sleeper};
use crate::bindings::core::task::Task;
use crate::bindings::core::waiter::Waiter;
use crate::bindings::errors::CancelledError;
use crate::bindings::ffi::call::call_with;
use crate::bindings::names;
use crate::bindings::wait::current;

/// Calls the function of a task, and runs the generator that it returns; returns what that returns.
#[cold]
pub(super) fn run<'py>(
    this: &Bound<'py, Task>,
    call: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    if this.get().told_to_stop() {
        return Err(stopped());
    }
    let generator = call()?;
    let Some(step) = generator.getattr_opt(names::__next__(py))? else {
        // An object whose `__code__` is not what a call of it runs.
        return Ok(generator);
    };
    let ended = iterate(this, &generator, &step);
    if ended.is_err() {
        // Does nothing if the generator has raised that itself.
        call_with(&generator.getattr(names::close(py))?, [])?;
    }
    ended
}

fn stopped() -> PyErr {
    CancelledError::new_err("the task was told to stop")
}

fn iterate<'py>(
    this: &Bound<'py, Task>,
    generator: &Bound<'py, PyAny>,
    step: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    let mut yielded = call_with(step, []);
    loop {
        let object = match yielded {
            Ok(object) => object,
            // The generator's own would be a RuntimeError.
            Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
                return error.value(py).getattr(names::value(py));
            }
            Err(error) => return Err(error),
        };
        yielded = match give(this, Item::new(this, object)?) {
            Ok(()) if this.get().told_to_stop() => return Err(stopped()),
            Ok(()) => call_with(step, []),
            // As if `yield` had raised it.
            Err(Interrupted::ByIts(error)) => {
                let throw = generator.getattr(names::throw(py))?;
                call_with(&throw, [error.value(py).as_any()])
            }
            Err(Interrupted::End) => return Err(stopped()),
        };
    }
}

enum Interrupted {
    /// By the task's timeout, by a stop or by a signal, while it waited for a reader.
    ByIts(PyErr),
    /// The task has ended without it.
    End,
}

/// Gives an item to the readers. Waits for those that are behind, if the task has that option.
fn give(this: &Bound<'_, Task>, mut item: Item) -> Result<(), Interrupted> {
    let Some(bounds) = bounds(this) else {
        return Err(Interrupted::End);
    };
    let patience = policy::policy(this).and_then(|it| it.get().stream_wait);
    // Beyond the clock's range: without an end.
    let end = patience.map(|patience| Instant::now().checked_add(patience));
    let mut error = None;
    while let Some(end) = end
        && end.is_none_or(|end| Instant::now() < end)
        && error.is_none()
        // After a fork by the task, the readers are in the other process.
        && !(this.get().told_to_stop() || this.get().is_of_another_process())
    {
        let waiter = Waiter::new();
        let sleeper = Sleeper::Thread(waiter.clone(), None);
        item = match stream::push(this, item, bounds, Some(sleeper)) {
            Pushed::Yes => return Ok(()),
            Pushed::Ended => return Err(Interrupted::End),
            Pushed::Held(item) => item,
        };
        error = sleep(this, &waiter, end).err();
    }
    let pushed = stream::push(this, item, bounds, None);
    match (pushed, error) {
        (_, Some(error)) => Err(Interrupted::ByIts(error)),
        (Pushed::Ended, None) => Err(Interrupted::End),
        _ => Ok(()),
    }
}

/// Sleeps until a reader has gone on; while this worker waits, another may be active in its place.
fn sleep(
    this: &Bound<'_, Task>,
    waiter: &std::sync::Arc<Waiter>,
    end: Option<Instant>,
) -> PyResult<()> {
    let py = this.py();
    let waiting = current::waiting();
    let awake = interrupt::awake_on(waiter);
    let left = end.map(|end| end.saturating_duration_since(Instant::now()));
    let rung = waiter.wait(py, left, current::look_after_pool);
    drop(waiting);
    stream::forget(this, waiter);
    match awake.and_then(|awake| awake.error(py)) {
        Some(error) => Err(error),
        None => rung.map(drop),
    }
}

/// What the task's stream keeps at most.
pub(super) fn bounds(this: &Bound<'_, Task>) -> Option<Bounds> {
    this.get().core().map(|core| core.stream)
}
