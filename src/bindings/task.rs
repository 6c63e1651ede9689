//! Running one task: its context, its surroundings, its outcome, its callbacks.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::clock::now;
use super::core::Core;
use super::coroutine::come_back;
use super::current;
use super::errors::{CancelledError, into_exception};
use super::ffi::call::{call, is_coroutine};
use super::ffi::context::within;
use super::future::{FutureCell, TakenCall};
use super::logging;
use super::names;
use super::scope::Surroundings;
use super::settle::{Phase, Place, abandon, finish, has_returned, start};
use super::signals::{self, Event};

/// Runs the task of `this`, unless it was cancelled. Returns when its callbacks have run.
pub(crate) fn run(this: &Bound<'_, FutureCell>, core: &Core) {
    if !start(this) {
        if has_returned(this) {
            come_back(this);
        } else if let Some(core) = this.get().core() {
            core.dead().remove();
        }
        return;
    }
    let cell = this.get();
    cell.set_started(now());
    let mut taken = cell.take_call(this);
    let context = taken.context.take();
    // To let go of it is to run what its variables' ends run.
    let carried = context.is_some();
    let ran = within(this.py(), context, || {
        let outcome = outcome(this, taken);
        if cell.is_of_another_process() {
            // The task has forked: its outcome is the parent's to tell.
            return;
        }
        let (phase, outcome) = match outcome {
            Ok(result) => (Phase::Finished, result),
            Err(error) => {
                let exception = into_exception(this.py(), error);
                if cell.told_to_stop() && exception.is_instance_of::<CancelledError>() {
                    // It did as it was told: neither a failure nor an outcome.
                    let _ = abandon(this, Place::Worker);
                    return;
                }
                if core.log_failures {
                    logging::exception_of("task %s (%s) failed", this, &exception);
                }
                (Phase::Failed, exception)
            }
        };
        // Someone may have set an outcome by hand meanwhile; then that one stands.
        let _ = finish(this, phase, outcome, Place::Worker);
        if carried {
            current::ring();
        }
    });
    if let Err(error) = ran {
        fail(this, error);
    }
}

/// Ends a task that cannot be run.
pub(crate) fn fail(this: &Bound<'_, FutureCell>, error: PyErr) {
    let exception = into_exception(this.py(), error);
    logging::exception_of("task %s (%s) could not be run", this, &exception);
    let _ = finish(this, Phase::Failed, exception, Place::Worker);
}

/// Calls the function inside its surroundings. What was called is let go before this
/// returns, so before anyone learns that the task is done.
fn outcome<'py>(
    this: &Bound<'py, FutureCell>,
    taken: TakenCall<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    let Some(scope) = this.get().take_task_scope(py) else {
        return result_of(py, taken);
    };
    let surroundings = Surroundings::enter(&scope)?;
    signals::emit(this, Event::Started);
    match result_of(py, taken) {
        Ok(result) => {
            surroundings.leave(this, None)?;
            Ok(result)
        }
        Err(error) => {
            let exception = into_exception(py, error);
            if let Err(error) = surroundings.leave(this, Some(&exception)) {
                // The teardown's failure must not hide the task's own.
                logging::failure(py, "teardown after task %s (%s) raised", this, error);
            }
            Err(PyErr::from_value(exception))
        }
    }
}

fn result_of<'py>(py: Python<'py>, taken: TakenCall<'py>) -> PyResult<Bound<'py, PyAny>> {
    let Some(function) = &taken.function else {
        return Err(pyo3::exceptions::PySystemError::new_err(
            "the task has lost its function",
        ));
    };
    let result = call(
        function,
        taken.shape,
        taken.first.as_ref(),
        taken.second.as_ref(),
    )?;
    if is_coroutine(&result) {
        // Otherwise it would be dropped unawaited, and the task a success.
        result.call_method0(names::close(py))?;
        return Err(PyTypeError::new_err(format!(
            "the task returned the coroutine {}, which nobody awaits; give delay() the \
             async function itself",
            result.repr()?
        )));
    }
    Ok(result)
}
