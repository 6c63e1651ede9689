//! The only module that changes the phase of a future.
//!
//! The engine's `TaskState` holds the phase, and orders the end of a task against threads that
//! register for it. This module adds Python's part: the outcome and the condition. The latter is a
//! lock of Python's, because `concurrent.futures.wait` reads the state and adds itself while it
//! holds it. `sched::completion` does all work after an end: it takes the [`Completed`] that each
//! change to a done phase returns.
//!
//! Lock order: the condition, then `Extra` (a Rust lock), then the registry's. No Python code runs
//! and nothing is dropped under the latter two; see `ffi::slot` for why that matters most without
//! a GIL.

use flask_delay_engine::Advance;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::task::Task;
use crate::bindings::errors::{CancelledError, or_unraisable};
use crate::bindings::ffi::call::call_with;
use crate::bindings::names;

pub(crate) use flask_delay_engine::Phase;

/// The name of a phase in `concurrent.futures`.
pub(crate) fn standard_name(py: Python<'_>, phase: Phase) -> &Bound<'_, PyString> {
    match phase {
        Phase::Pending => names::PENDING(py),
        Phase::Running => names::RUNNING(py),
        Phase::Cancelled => names::CANCELLED(py),
        Phase::Notified => names::CANCELLED_AND_NOTIFIED(py),
        Phase::Finished | Phase::Failed => names::FINISHED(py),
    }
}

impl Task {
    pub(crate) fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// Moves the task out of `Pending`, for the caller alone to run or to end; `false` if it was
    /// not there.
    pub(crate) fn claim_start(&self) -> bool {
        self.state.start()
    }

    /// Moves a task that ran back to `Pending`; `false` if it was ended meanwhile.
    pub(crate) fn run_again(&self) -> bool {
        self.state.again()
    }

    /// The outcome of a future that is done: the result, or the exception as an error.
    pub(crate) fn outcome<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<Result<Bound<'py, PyAny>, Bound<'py, PyAny>>> {
        if self.phase().is_cancelled() {
            return Err(CancelledError::new_err(()));
        }
        self.done_outcome(py)
            .ok_or_else(|| PyRuntimeError::new_err("the future has no outcome"))
    }

    /// The outcome, if the task has ended.
    pub(crate) fn done_outcome<'py>(
        &self,
        py: Python<'py>,
    ) -> Option<Result<Bound<'py, PyAny>, Bound<'py, PyAny>>> {
        // Never emptied once the phase says that it is there.
        match self.phase() {
            Phase::Finished => self.outcome.get(py).map(Ok),
            Phase::Failed => self.outcome.get(py).map(Err),
            _ => None,
        }
    }
}

/// The canceller of the task's coroutine, if it runs as one.
pub(crate) fn canceller<'py>(this: &Bound<'py, Task>) -> Option<Bound<'py, PyAny>> {
    let extra = this.get().known_extra()?.lock();
    let canceller = extra.canceller.as_ref();
    canceller.map(|canceller| canceller.bind(this.py()).clone())
}

/// A future that has just ended; `sched::completion` must process it, once.
#[must_use = "those who wait for the task have not been told"]
pub(crate) struct Completed<'a, 'py> {
    pub(crate) future: &'a Bound<'py, Task>,
    /// The task had not started.
    pub(crate) was_pending: bool,
    /// Other observers than the first callback may exist.
    pub(crate) watched: bool,
}

/// How a task ends.
pub(crate) enum End<'py> {
    Returned(Bound<'py, PyAny>),
    Raised(Bound<'py, PyAny>),
    Cancelled,
}

/// Ends the future; None if it was done. A cancellation ends only a running task.
pub(crate) fn end<'a, 'py>(
    this: &'a Bound<'py, Task>,
    end: End<'py>,
) -> Option<Completed<'a, 'py>> {
    match end {
        End::Returned(result) => finish(this, Phase::Finished, result).ok(),
        End::Raised(exception) => finish(this, Phase::Failed, exception).ok(),
        End::Cancelled => abandon(this),
    }
}

/// Ends the future from `Pending` or `Running`, with a result or an exception.
///
/// # Errors
///
/// The current phase, if it was done.
#[expect(
    clippy::inline_always,
    reason = "every task ends by it, and what it returns would go through memory"
)]
#[inline(always)]
pub(crate) fn finish<'a, 'py>(
    this: &'a Bound<'py, Task>,
    to: Phase,
    outcome: Bound<'py, PyAny>,
) -> Result<Completed<'a, 'py>, Phase> {
    let cell = this.get();
    if cell.phase().is_done() {
        return Err(cell.phase());
    }
    // Only the thread that fills the slot goes on to change the phase. The slot is never filled
    // again, so a thread that sees the phase may read it.
    if cell.outcome.fill(outcome).is_err() {
        let phase = cell.phase();
        // If it is not done yet, it is about to be.
        return Err(if phase.is_done() { phase } else { to });
    }
    let mut completed = None;
    cell.state.end(|from| {
        completed = change(this, from, to);
        completed.is_some()
    });
    completed.ok_or_else(|| cell.phase())
}

/// Cancels a future that is in the phase `from`; None if it is in another one.
pub(crate) fn cancel<'a, 'py>(
    this: &'a Bound<'py, Task>,
    from: Phase,
) -> Option<Completed<'a, 'py>> {
    // An executor's task needs no notice of its cancellation: its place in the queue is free from
    // now on. A future made by hand waits for its maker to notice.
    let to = if this.get().core().is_some() {
        Phase::Notified
    } else {
        Phase::Cancelled
    };
    change(this, from, to)
}

/// Ends a running task as cancelled.
pub(crate) fn abandon<'a, 'py>(this: &'a Bound<'py, Task>) -> Option<Completed<'a, 'py>> {
    change(this, Phase::Running, Phase::Notified)
}

/// Called when the maker of a future has noticed its cancellation.
pub(crate) fn notice<'a, 'py>(this: &'a Bound<'py, Task>) -> Option<Completed<'a, 'py>> {
    change(this, Phase::Cancelled, Phase::Notified)
}

/// Changes the phase; None if it was not `from`.
#[expect(
    clippy::inline_always,
    reason = "every task ends by it, and what it returns would go through memory"
)]
#[inline(always)]
fn change<'a, 'py>(
    this: &'a Bound<'py, Task>,
    from: Phase,
    to: Phase,
) -> Option<Completed<'a, 'py>> {
    let cell = this.get();
    let watched = match cell.state.advance(from, to) {
        Advance::Done => false,
        Advance::Watched if change_watched(this, from, to) => true,
        Advance::Watched | Advance::Refused => return None,
    };
    cell.note_end();
    Some(Completed {
        future: this,
        was_pending: from == Phase::Pending,
        watched,
    })
}

/// Changes a watched phase, with the condition held, if there is one.
fn change_watched(this: &Bound<'_, Task>, from: Phase, to: Phase) -> bool {
    let py = this.py();
    let cell = this.get();
    cell.state.advance_watched(
        cell.extra(),
        from,
        to,
        |extra| extra.condition.as_ref().map(|it| it.bind(py).clone()),
        |condition, advance| {
            let held = acquire(&condition);
            let changed = advance();
            if changed {
                cell.note_end();
                or_unraisable(announce(this, to), this);
            }
            if held.is_ok() {
                or_unraisable(release(&condition), this);
            }
            // After a KeyboardInterrupt in `acquire`, too, the phase had to change.
            or_unraisable(held, this);
            changed
        },
    )
}

/// Notifies `concurrent.futures.wait` and similar functions; the condition is held.
fn announce(this: &Bound<'_, Task>, to: Phase) -> PyResult<()> {
    let py = this.py();
    let method = match to {
        Phase::Finished => names::add_result(py),
        Phase::Failed => names::add_exception(py),
        Phase::Notified => names::add_cancelled(py),
        _ => return Ok(()),
    };
    let list = {
        let extra = this.get().extra().lock();
        extra.listeners.as_ref().map(|list| list.bind(py).clone())
    };
    for listener in list.iter().flatten() {
        call_with(&listener.getattr(method)?, [this.as_any()])?;
    }
    Ok(())
}

/// Locks a condition. That may block, so it is called as user code is.
pub(crate) fn acquire(condition: &Bound<'_, PyAny>) -> PyResult<()> {
    let acquire = condition.getattr(names::acquire(condition.py()))?;
    call_with(&acquire, []).map(drop)
}

pub(crate) fn release(condition: &Bound<'_, PyAny>) -> PyResult<()> {
    condition
        .call_method0(names::release(condition.py()))
        .map(drop)
}
