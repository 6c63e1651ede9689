//! What is left to do for a task that has ended without its worker: to say so, and to run its
//! callbacks, which may take long. A worker does it, as a job of the library's own.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyCFunction;

use super::dispatch;
use crate::bindings::core::executor::Core;
use crate::bindings::core::leftovers;
use crate::bindings::core::policy;
use crate::bindings::core::settings::Mode;
use crate::bindings::core::task::FutureCell;
use crate::bindings::core::transition::{self, Place};
use crate::bindings::errors::closed;
use crate::bindings::ffi::context::within;
use crate::bindings::host::logging;

/// Takes a task that has not started from whoever would run it, to be ended; `false` if
/// somebody else did. Its context is kept for the callbacks.
pub(crate) fn take_over(this: &Bound<'_, FutureCell>) -> bool {
    let cell = this.get();
    // From here on nobody else starts or cancels it.
    if !cell.claim_start() {
        return false;
    }
    cell.give_place();
    if !cell.is_coroutine()
        && policy::lies_in_queue(cell)
        && let Some(core) = cell.core()
    {
        core.dead().add();
    }
    let mut taken = cell.take_call(this);
    if let Some(context) = taken.context.take() {
        cell.put_context(context);
    }
    leftovers::let_go(
        cell.take_own_scope()
            .map(|scope| scope.into_bound(this.py())),
    );
    leftovers::let_go_of_call(taken);
    true
}

/// Has a worker log `template`, if there is one, which takes the task's name and id, and run the
/// callbacks, in the task's context if that was kept; where there are no workers, does so now, but
/// for the timer's thread.
pub(crate) fn tell(
    this: &Bound<'_, FutureCell>,
    core: &Arc<Core>,
    template: Option<&'static str>,
) -> PyResult<()> {
    let task = this.clone().unbind();
    let errand = PyCFunction::new_closure(this.py(), Some(c"callbacks"), None, move |args, _| {
        let py = args.py();
        let this = task.bind(py);
        if let Some(template) = template {
            logging::warning_of(template, this);
        }
        within(py, this.get().take_context(py), || {
            transition::run_callbacks(this, Place::Worker);
        })
    })?;
    if core.mode == Mode::Threads && send(core, errand.as_any()).is_ok() {
        return Ok(());
    }
    let py = this.py();
    let (errand, this) = (errand.unbind(), this.clone().unbind());
    leftovers::work(py, move |py| {
        if let Err(error) = errand.call0(py) {
            error.write_unraisable(py, Some(this.bind(py)));
        }
    });
    Ok(())
}

/// Has a worker call `errand`. It belongs to what was accepted, so also in a closed pool.
pub(crate) fn send(core: &Arc<Core>, errand: &Bound<'_, PyAny>) -> PyResult<()> {
    let function = errand.clone().unbind();
    let counted = Arc::clone(core);
    let errand = PyCFunction::new_closure(errand.py(), None, None, move |args, _| {
        counted.errands().remove();
        function.bind(args.py()).call0().map(drop)
    })?;
    let job = FutureCell::errand(core, errand.into_any())?;
    // So that it is not cancelled as tasks are that have not started.
    job.get().mark_returned();
    core.errands().add();
    match dispatch::try_resubmit(&job, core) {
        Some(own) if own.is(&job) => {
            core.errands().remove();
            return Err(closed());
        }
        Some(other) => dispatch::do_here(&other),
        None => {}
    }
    Ok(())
}
