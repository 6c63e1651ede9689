//! Running tasks without workers, for tests: in the thread that submits or asks.

use std::slice::from_ref;
use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::worker::run_guarded;
use crate::bindings::core::executor::{Core, Job};
use crate::bindings::core::settings::Mode;
use crate::bindings::core::task::Task;
use crate::bindings::core::transition::Phase;
use crate::bindings::errors::closed;
use crate::bindings::sched::completion::{self, Place};
use crate::bindings::sched::dispatch::{self, hand_over};
use crate::bindings::wait::current::{self, CallerSlot};
use crate::bindings::wait::result;

pub(crate) fn take<'py>(task: Bound<'py, Task>, core: &Arc<Core>) -> PyResult<Bound<'py, Task>> {
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

/// Runs up to `most` waiting tasks in the calling thread, oldest first, and those that they submit;
/// returns how many ran.
pub(crate) fn run_pending(py: Python<'_>, core: &Arc<Core>, most: usize) -> PyResult<usize> {
    if core.mode != Mode::Manual {
        return Err(PyRuntimeError::new_err(
            "run_pending() is for DELAY_MODE = \"manual\"; here tasks are run without it",
        ));
    }
    let mut count = 0;
    while count < most
        && let Some(job) = core.pool().steal().map(Job::from)
    {
        core.took_out(&job);
        let Job::Task(task) = &job else {
            completion::do_job(py, job, Place::Worker);
            continue;
        };
        let task = task.bind(py);
        if task.get().phase() == Phase::Pending {
            run(task, core)?;
            // A task that has expired did not run.
            count += usize::from(task.get().has_begun());
        }
    }
    Ok(count)
}

/// Runs one task in the calling thread, or waits while the event loop runs it.
pub(crate) fn run(task: &Bound<'_, Task>, core: &Arc<Core>) -> PyResult<()> {
    if !task.get().is_coroutine() {
        return run_here(task, core);
    }
    hand_over(task, core)?;
    if current::is_loop() {
        // The loop cannot wait for itself: it runs the task when this one awaits.
        return Ok(());
    }
    let _inside = result::enter_own(from_ref(task), 1)?;
    // Until the task has left: its callbacks run before that.
    match core.on_loop().waiter(task) {
        Some(waiter) => waiter
            .wait(task.py(), None, current::look_after_pool)
            .map(drop),
        None => Ok(()),
    }
}

pub(crate) fn run_here(task: &Bound<'_, Task>, core: &Arc<Core>) -> PyResult<()> {
    // A task that runs another one waits for it.
    let _inside = result::enter_own(from_ref(task), 1)?;
    let caller = CallerSlot::take(task, core);
    run_guarded(task, core, &caller.slot);
    // Tests do not wait between attempts.
    while core.mode == Mode::Immediate && task.get().phase() == Phase::Pending {
        // A retry policy without end must still hear of Ctrl-C.
        task.py().check_signals()?;
        run_guarded(task, core, &caller.slot);
    }
    Ok(())
}
