//! One attempt of a task: its context, its app context, its outcome, its callbacks.

use std::sync::Arc;

use pyo3::prelude::*;

use super::durable;
use super::generator;
use super::kept;
use super::retry::{self, Verdict};
use super::timeout;
use crate::bindings::core;
use crate::bindings::core::async_check::refuse_result;
use crate::bindings::core::call::TakenCall;
use crate::bindings::core::events::{self, Kind};
use crate::bindings::core::executor::Core;
use crate::bindings::core::policy;
use crate::bindings::core::settings::Beginning;
use crate::bindings::core::task::Task;
use crate::bindings::core::transition::{End, Phase};
use crate::bindings::core::worker_slot::WorkerSlot;
use crate::bindings::errors::{CancelledError, TaskRetry, into_exception};
use crate::bindings::ffi::call::call;
use crate::bindings::ffi::clock::now;
use crate::bindings::ffi::context::{for_attempt, within};
use crate::bindings::host::app_context::AppContext;
use crate::bindings::host::logging;
use crate::bindings::host::signals;
use crate::bindings::sched::completion::{self, Place, abandon, fail, finish};
use crate::bindings::sched::dispatch::start;
use crate::bindings::sched::limits;
use crate::bindings::sched::timer;
use crate::bindings::wait::current;

/// Runs the task, unless it was cancelled. Returns after its callbacks.
pub(crate) fn run(this: &Bound<'_, Task>, core: &Arc<Core>, slot: &WorkerSlot) {
    if !start(this) {
        if !this.get().leave_queue() {
            core.uncounted().remove();
        }
        return;
    }
    let cell = this.get();
    cell.set_started(now());
    events::happened(this, Kind::Started);
    let mut taken = cell.take_call(this);
    let mut context = taken.context.take();
    if cell.is_ruled() {
        cell.keep_context(context.as_ref());
        context = match context.map(for_attempt).transpose() {
            Ok(context) => context,
            Err(error) => {
                drop(taken);
                fail(this, error);
                return;
            }
        };
    }
    // Dropping the context runs the finalizers of its variables, so ring the waiters before.
    let carried = context.is_some();
    let ran = within(this.py(), context, || {
        end(this, core, slot, taken);
        if carried {
            current::ring();
        }
    });
    if let Err(error) = ran {
        fail(this, error);
    }
}

/// Runs one attempt and handles its outcome.
fn end<'py>(this: &Bound<'py, Task>, core: &Arc<Core>, slot: &WorkerSlot, taken: TakenCall<'py>) {
    let cell = this.get();
    let ended = attempt(this, slot, &taken);
    if cell.is_of_another_process() {
        // The task has forked: its outcome belongs to the parent.
        return;
    }
    let ended = match ended {
        Attempt::Raised(_) if is_interrupted(this, core) => {
            drop(taken);
            durable::put_back(this);
            return;
        }
        Attempt::Raised(exception) if core::durable::has_died(cell) => {
            drop(taken);
            durable::die(this, &exception);
            return;
        }
        Attempt::Raised(exception) => match retry::judge(this, exception) {
            Verdict::Again(after, exception) => {
                retry::again(this, core, Some(taken), after, exception);
                return;
            }
            Verdict::Fail(exception) => Attempt::Raised(exception),
        },
        // The function has done its work and must not run again.
        Attempt::Spoilt(exception) => Attempt::Raised(exception),
        Attempt::Returned(_) | Attempt::GivenUp => ended,
    };
    if cell.is_ruled() {
        limits::attempted(this);
    }
    let (phase, outcome) = match ended {
        Attempt::Returned(result) => (Phase::Finished, result),
        Attempt::Raised(exception) | Attempt::Spoilt(exception) => {
            if cell.told_to_stop() && exception.is_instance_of::<CancelledError>() {
                drop(taken);
                cell.let_go();
                completion::store_end(this, &End::Cancelled);
                // The task stopped as it was told to: that is no failure.
                let _ = abandon(this, Place::Worker);
                return;
            }
            if core.log_failures {
                logging::exception_of("task %s (%s) failed", this, &exception);
            }
            (Phase::Failed, exception)
        }
        // `timeout` has ended the future already.
        Attempt::GivenUp => {
            drop(taken);
            cell.let_go();
            timeout::came_back(this, slot);
            return;
        }
    };
    // Dropped before any thread learns that the task is done.
    drop(taken);
    if cell.keeps_more() {
        cell.let_go();
        let end = match phase {
            Phase::Finished => End::Returned(outcome.clone()),
            _ => End::Raised(outcome.clone()),
        };
        completion::store_end(this, &end);
    }
    // An outcome that was set by hand meanwhile stands.
    let _ = finish(this, phase, outcome, Place::Worker);
}

/// Whether the end of the process has ended an attempt of a durable task, which then runs again in
/// another process.
pub(super) fn is_interrupted(this: &Bound<'_, Task>, core: &Arc<Core>) -> bool {
    let cell = this.get();
    core::durable::has_claim(cell)
        && (core.is_given_up() && cell.told_to_stop() || kept::is_interrupted(cell))
}

enum Attempt<'py> {
    Returned(Bound<'py, PyAny>),
    Raised(Bound<'py, PyAny>),
    /// The function returned, and an error followed.
    Spoilt(Bound<'py, PyAny>),
    /// The call ended too late; the future has ended without it.
    GivenUp,
}

/// Calls the function inside its app context.
fn attempt<'py>(
    this: &Bound<'py, Task>,
    slot: &WorkerSlot,
    taken: &TakenCall<'py>,
) -> Attempt<'py> {
    let py = this.py();
    if !this.get().has_scope() && !this.get().has_own_scope() {
        return bare_attempt(this, slot, taken);
    }
    let scope = this.get().task_scope(py);
    let entered = scope.and_then(|it| it.map(|it| AppContext::enter(&it)).transpose());
    let surroundings = match entered {
        Ok(Some(surroundings)) => surroundings,
        Ok(None) => return bare_attempt(this, slot, taken),
        Err(error) => return Attempt::Raised(into_exception(py, error)),
    };
    signals::emit(this, Kind::Started);
    let ended = bare_attempt(this, slot, taken);
    let raised = match &ended {
        Attempt::Raised(exception) | Attempt::Spoilt(exception) => Some(exception),
        Attempt::Returned(_) | Attempt::GivenUp => None,
    };
    match (surroundings.leave(this, raised), ended) {
        (Ok(()), ended) => ended,
        // The task runs again only if a teardown function asks for that.
        (Err(error), Attempt::Returned(_)) if error.is_instance_of::<TaskRetry>(py) => {
            Attempt::Raised(into_exception(py, error))
        }
        (Err(error), Attempt::Returned(_)) => Attempt::Spoilt(into_exception(py, error)),
        (Err(error), ended) => {
            // The teardown's failure must not hide the task's own.
            logging::failure(py, "teardown after task %s (%s) raised", this, error);
            ended
        }
    }
}

fn bare_attempt<'py>(
    this: &Bound<'py, Task>,
    slot: &WorkerSlot,
    taken: &TakenCall<'py>,
) -> Attempt<'py> {
    let py = this.py();
    let Some(function) = &taken.function else {
        return Attempt::Raised(into_exception(py, lost()));
    };
    let call_number = slot.begin();
    let mut limit = None;
    // The task's code may set the timeout later.
    let is_late = this.get().is_ruled()
        && this
            .get()
            .core()
            .is_some_and(|core| core.beginning == Beginning::Told);
    if this.get().is_ruled()
        && !is_late
        && let Some(timeout) = policy::timeout(this)
    {
        match timeout::watch(this, slot, call_number, timeout) {
            Ok(alarm) => limit = alarm,
            Err(error) => {
                slot.end(py, call_number);
                return Attempt::Raised(into_exception(py, error));
            }
        }
    }
    let call = || {
        call(
            function,
            taken.shape,
            taken.first.as_ref(),
            taken.second.as_ref(),
        )
    };
    let result = if this.get().is_told_to_stop_or_yields() {
        generator::run(this, call)
    } else {
        call()
    };
    // No Python code may run in between.
    let ended = slot.end(py, call_number);
    if let Some(limit) = limit {
        timer::unset(py, limit);
    }
    if is_late {
        limits::stop_clock(this);
    }
    if ended.given_up {
        return Attempt::GivenUp;
    }
    match result {
        Ok(result) => match refuse_result(function, result, "the task") {
            Ok(result) => Attempt::Returned(result),
            Err(error) => Attempt::Spoilt(into_exception(py, error)),
        },
        Err(error) => {
            let exception = into_exception(py, error);
            if ended.shot.is_some() {
                timeout::explain(this, &exception);
            }
            Attempt::Raised(exception)
        }
    }
}

#[cold]
fn lost() -> PyErr {
    pyo3::exceptions::PySystemError::new_err("the task has lost its function")
}
