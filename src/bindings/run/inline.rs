//! Who runs an executor's tasks: its threads or, for tests, whoever submits or asks.

use std::slice::from_ref;
use std::sync::Arc;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use super::event_loop::hand_over;
use super::submit::closed;
use super::worker::run_guarded;
use crate::bindings::core::executor::Core;
use crate::bindings::core::task::FutureCell;
use crate::bindings::core::task_name::name_of;
use crate::bindings::core::transition::Phase;
use crate::bindings::sched::dependents;
use crate::bindings::sched::dispatch;
use crate::bindings::wait::current::{self, Seat};
use crate::bindings::wait::result;

/// See `_native.pyi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Threads,
    /// The submitter runs its task before it goes on.
    Immediate,
    /// Tasks wait for [`run_pending`].
    Manual,
}

impl Mode {
    pub(crate) fn parse(mode: &str) -> PyResult<Self> {
        match mode {
            "threads" => Ok(Self::Threads),
            "immediate" => Ok(Self::Immediate),
            "manual" => Ok(Self::Manual),
            _ => Err(PyValueError::new_err(format!(
                "mode must be \"threads\", \"immediate\" or \"manual\", got {mode:?}"
            ))),
        }
    }
}

/// Takes a task of an executor without threads.
pub(crate) fn take<'py>(
    task: Bound<'py, FutureCell>,
    core: &Arc<Core>,
) -> PyResult<Bound<'py, FutureCell>> {
    if core.pool().is_closed() {
        return Err(closed());
    }
    if core.mode == Mode::Manual {
        dispatch::shelve(&task, core);
    } else {
        run(&task, core)?;
    }
    Ok(task)
}

/// Runs up to `most` tasks that wait, oldest first, and those that they submit, in the
/// calling thread; says how many.
pub(crate) fn run_pending(py: Python<'_>, core: &Arc<Core>, most: usize) -> PyResult<usize> {
    if core.mode != Mode::Manual {
        return Err(PyRuntimeError::new_err(
            "run_pending() is for DELAY_MODE = \"manual\"; here tasks are run without it",
        ));
    }
    let mut count = 0;
    while count < most
        && let Some(task) = core.pool().steal()
    {
        let task = task.0.into_bound(py);
        if task.get().phase() == Phase::Pending {
            run(&task, core)?;
            // One that has expired has not run.
            count += usize::from(task.get().has_begun());
        } else if !task.get().is_coroutine() {
            // It was cancelled where it lay.
            core.dead().remove();
        }
    }
    Ok(count)
}

/// Runs one task in the calling thread, or has the event loop do so and waits for it.
pub(crate) fn run(task: &Bound<'_, FutureCell>, core: &Arc<Core>) -> PyResult<()> {
    if !task.get().is_coroutine() {
        return run_here(task, core);
    }
    hand_over(task, core)?;
    if current::is_loop() {
        // The loop cannot wait for itself: it runs the task when this one awaits.
        return Ok(());
    }
    let _inside = result::enter_own(from_ref(task), 1)?;
    // Until it has left, since its callbacks run before that.
    match core.afar().bell(task) {
        Some(bell) => bell.wait(task.py(), None).map(drop),
        None => Ok(()),
    }
}

/// Runs one task in the calling thread.
pub(crate) fn run_here(task: &Bound<'_, FutureCell>, core: &Arc<Core>) -> PyResult<()> {
    // A task that runs another one waits for it.
    let _inside = result::enter_own(from_ref(task), 1)?;
    let seat = Seat::take(task, core);
    run_guarded(task, core, &seat.desk);
    // In a test nobody waits between two attempts.
    while core.mode == Mode::Immediate && task.get().phase() == Phase::Pending {
        // A user's own code that never gives up must still hear of Ctrl-C.
        task.py().check_signals()?;
        run_guarded(task, core, &seat.desk);
    }
    Ok(())
}

/// Refuses to wait for ever for a task that nobody runs.
pub(crate) fn refuse_endless_wait(this: &Bound<'_, FutureCell>) -> PyResult<()> {
    let waits = |cell: &FutureCell| {
        let manual = |core: &Arc<Core>| core.mode == Mode::Manual;
        cell.core().is_some_and(manual) && cell.phase() == Phase::Pending
    };
    if !dependents::needs(this, waits) {
        return Ok(());
    }
    Err(PyRuntimeError::new_err(format!(
        "task {:?} waits for run_pending(), as DELAY_MODE is \"manual\": call that first, or \
         wait with a timeout if another thread does",
        name_of(this)
    )))
}
