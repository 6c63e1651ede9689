//! How a future changes state, and who is told.
//!
//! The word that holds the phase, and the order in which the end of a task and those who
//! want to be told of it look at each other, are the engine's `State`. Here is what Python
//! adds: what is told, and the condition, which is a lock of Python's, because
//! `concurrent.futures.wait` looks at the state and adds itself while it holds that.
//!
//! Lock order: the condition, then the rarely needed part (ours), then the registry's. No
//! Python code runs and nothing is dropped under the latter two; see [`crate::bindings::ffi::slot`]
//! for why that matters most where there is no GIL.

use flask_delay_engine::Advance;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use super::events::Event;
use super::leftovers;
use super::metrics;
use super::policy;
use super::task::{Callbacks, Extra, FutureCell};
use crate::bindings::errors::CancelledError;
use crate::bindings::ffi::call::call_with;
use crate::bindings::ffi::object::track;
use crate::bindings::host::signals;
use crate::bindings::names;
use crate::bindings::run::remote;
use crate::bindings::run::timeout;
use crate::bindings::sched::completion;
use crate::bindings::sched::limits;
use crate::bindings::sched::others::Others;
use crate::bindings::wait::condition;
use crate::bindings::wait::current;
use crate::bindings::wait::stdlib;

pub(crate) use flask_delay_engine::Phase;

/// What `concurrent.futures` calls a phase.
pub(crate) fn standard_name(py: Python<'_>, phase: Phase) -> &Bound<'_, PyString> {
    match phase {
        Phase::Pending => names::PENDING(py),
        Phase::Running => names::RUNNING(py),
        Phase::Cancelled => names::CANCELLED(py),
        Phase::Notified => names::CANCELLED_AND_NOTIFIED(py),
        Phase::Finished | Phase::Failed => names::FINISHED(py),
    }
}

/// The thread that settles a future.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The task's worker, in the task's context.
    Worker,
    /// The event loop, which must not be held up: the callbacks are left where they are.
    Loop,
    Elsewhere,
}

impl FutureCell {
    pub(crate) fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// Moves the task out of `Pending`, to be run or ended by the caller alone; `false` if it
    /// was not there.
    pub(crate) fn claim_start(&self) -> bool {
        self.state.start()
    }

    /// Puts a task that ran back to be begun once more; `false` if it was ended meanwhile.
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

/// Marks the task as running; `false` if it was cancelled.
pub(crate) fn start(this: &Bound<'_, FutureCell>) -> bool {
    let cell = this.get();
    if cell.is_ruled() && policy::is_late(cell) {
        timeout::expire(this);
        return false;
    }
    if !cell.claim_start() {
        return false;
    }
    if cell.is_placed_or_ruled() {
        cell.give_place();
        limits::started(this);
    }
    true
}

/// Ends the future from `Pending` or `Running`. The phase it had instead, if it was done.
///
/// Those who wait are woken and the callbacks run before this returns.
pub(crate) fn finish(
    this: &Bound<'_, FutureCell>,
    to: Phase,
    outcome: Bound<'_, PyAny>,
    place: Place,
) -> Result<(), Phase> {
    let cell = this.get();
    if cell.phase().is_done() {
        return Err(cell.phase());
    }
    // Whoever fills the slot, and nobody else, goes on to say so: outcome and phase are of
    // one thread. It is never filled again, so those who see the phase may read it.
    if cell.outcome.fill(outcome).is_err() {
        let phase = cell.phase();
        // It is about to be, if it is not.
        return Err(if phase.is_done() { phase } else { to });
    }
    if cell.state.end(|from| change(this, from, to, place)) {
        return Ok(());
    }
    Err(cell.phase())
}

/// Runs the callbacks that [`Place::Loop`] has left.
pub(crate) fn run_callbacks(this: &Bound<'_, FutureCell>, place: Place) {
    // None are added to a future that is done.
    let cell = this.get();
    let callbacks = match cell.known_extra() {
        Some(extra) => cell.take_callbacks(this.py(), Some(&mut extra.lock())),
        None => cell.take_callbacks(this.py(), None),
    };
    let event = Event::of(cell.phase());
    let event = event.filter(|_| signals::wanted(this, event));
    completion::run(this, event, &callbacks, place);
}

/// Cancels the future if its task has not started, or runs as a coroutine, which is then
/// told; whether it is cancelled.
pub(crate) fn cancel(this: &Bound<'_, FutureCell>) -> bool {
    // Nobody need notice the cancellation of an executor's task: its place in the queue
    // is free from now on. A future made by hand waits for its maker to notice.
    let to = if this.get().core().is_some() {
        Phase::Notified
    } else {
        Phase::Cancelled
    };
    if change(this, Phase::Pending, to, Place::Elsewhere) {
        remote::recall(this, this.get().told_to_stop());
        return true;
    }
    if let Some(canceller) = canceller(this)
        && change(this, Phase::Running, to, Place::Elsewhere)
    {
        or_unraisable(call_with(&canceller, []).map(drop), this);
    }
    this.get().phase().is_cancelled()
}

/// What stops the task's coroutine, if it runs as one.
pub(crate) fn canceller<'py>(this: &Bound<'py, FutureCell>) -> Option<Bound<'py, PyAny>> {
    let extra = this.get().known_extra()?.lock();
    let canceller = extra.canceller.as_ref();
    canceller.map(|canceller| canceller.bind(this.py()).clone())
}

/// Marks a task that has ended with a cancellation as cancelled.
///
/// `false` if it was done already.
pub(crate) fn abandon(this: &Bound<'_, FutureCell>, place: Place) -> bool {
    change(this, Phase::Running, Phase::Notified, place)
}

/// `concurrent.futures`' own step for futures that were made by hand.
pub(crate) fn run_or_notify(this: &Bound<'_, FutureCell>) -> PyResult<bool> {
    if start(this) {
        return Ok(true);
    }
    change(this, Phase::Cancelled, Phase::Notified, Place::Elsewhere);
    if this.get().phase() == Phase::Notified {
        return Ok(false);
    }
    Err(PyRuntimeError::new_err("Future in unexpected state"))
}

/// Changes the phase, and tells everybody whom it concerns; `false` if it was not `from`.
fn change(this: &Bound<'_, FutureCell>, from: Phase, to: Phase, place: Place) -> bool {
    let cell = this.get();
    if cell.phase() != from {
        return false;
    }
    let watched = match cell.state.advance(from, to) {
        Advance::Done => false,
        Advance::Watched if change_watched(this, from, to) => true,
        Advance::Watched | Advance::Refused => return false,
    };
    cell.note_end();
    if from == Phase::Pending {
        // Never to be called: function and arguments go now, and the surroundings.
        let scope = cell.take_own_scope();
        leftovers::let_go_of_call(cell.take_call(this));
        leftovers::let_go(scope.map(|scope| scope.into_bound(this.py())));
        cell.give_place();
        if let Some(core) = cell.core()
            && !cell.is_coroutine()
            && policy::lies_in_queue(cell)
        {
            core.dead().add();
        }
    }
    track(this);
    // Before anybody is told who waits in `result`, and before the callbacks.
    metrics::ended(this);
    if cell.is_ruled() {
        limits::ended(this);
    }
    if watched || cell.has_lone_callback() || signals::wanted(this, Event::of(to)) {
        tell(this, place);
    }
    true
}

/// The change while somebody watches; with the condition held, if there is one.
fn change_watched(this: &Bound<'_, FutureCell>, from: Phase, to: Phase) -> bool {
    let py = this.py();
    let cell = this.get();
    cell.state.advance_watched(
        cell.extra(),
        from,
        to,
        |extra| extra.condition.as_ref().map(|it| it.bind(py).clone()),
        |condition, advance| {
            let held = condition::acquire(&condition);
            let changed = advance();
            if changed {
                cell.note_end();
                or_unraisable(announce(this, to), this);
            }
            if held.is_ok() {
                or_unraisable(condition::release(&condition), this);
            }
            // A KeyboardInterrupt while the condition was acquired: the phase had to change
            // all the same.
            or_unraisable(held, this);
            changed
        },
    )
}

/// Tells `concurrent.futures.wait` and its like; the condition is held.
fn announce(this: &Bound<'_, FutureCell>, to: Phase) -> PyResult<()> {
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

/// Wakes those who wait in `result`, and runs the callbacks.
fn tell(this: &Bound<'_, FutureCell>, place: Place) {
    let py = this.py();
    let cell = this.get();
    let callbacks = |extra: Option<&mut Extra>| match place {
        Place::Loop => Callbacks::new(),
        Place::Worker | Place::Elsewhere => cell.take_callbacks(py, extra),
    };
    let (callbacks, others) = if let Some(extra) = cell.known_extra() {
        let mut extra = extra.lock();
        (callbacks(Some(&mut extra)), Some(Others::take(&mut extra)))
    } else {
        (callbacks(None), None)
    };
    let event = match place {
        Place::Loop => None,
        Place::Worker | Place::Elsewhere => Event::of(cell.phase()),
    };
    let event = event.filter(|_| signals::wanted(this, event));
    if let Some(others) = others {
        let alone = callbacks.is_empty() && event.is_none();
        others.tell(this, place == Place::Worker && alone);
    }
    completion::run(this, event, &callbacks, place);
}

fn or_unraisable(result: PyResult<()>, this: &Bound<'_, FutureCell>) {
    if let Err(error) = result {
        error.write_unraisable(this.py(), Some(this.as_any()));
    }
}

/// The condition that `concurrent.futures.wait` holds while it looks at the state.
///
/// Each future that is not done has its own: `wait` holds those of all its futures at
/// once, and two such threads would lock each other out over a shared one.
pub(crate) fn condition<'py>(this: &Bound<'py, FutureCell>) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    let cell = this.get();
    let done = cell.phase().is_settled();
    if let Some(extra) = cell.known_extra()
        && let Some(condition) = extra.lock().condition.as_ref()
    {
        return Ok(condition.bind(py).clone());
    }
    if done {
        return condition::of_done(py);
    }
    let fresh = condition::new(py)?;
    // The loser of a race for it is dropped after the lock is let go.
    Ok(cell.state.watch_with(cell.extra(), |extra| {
        let condition = extra
            .condition
            .get_or_insert_with(|| fresh.clone().unbind());
        condition.bind(py).clone()
    }))
}

/// The list that `concurrent.futures.wait` puts itself into.
///
/// A plain one, until a task asks for it.
pub(crate) fn listeners<'py>(this: &Bound<'py, FutureCell>) -> PyResult<Bound<'py, PyList>> {
    let py = this.py();
    let known = || {
        let extra = this.get().known_extra()?.lock();
        extra.listeners.as_ref().map(|list| list.bind(py).clone())
    };
    let tells = current::is_at_work();
    if let Some(list) = known()
        && (!tells || stdlib::is_telling(&list))
    {
        return Ok(list);
    }
    if !tells {
        return Ok(put_listeners(this, &PyList::empty(py), false));
    }
    // Whoever enters itself or leaves holds the condition meanwhile, so the lists may be
    // exchanged under it. That of a future that is done locks nobody out, and it needs no
    // other list: nobody waits for it.
    let condition = condition(this)?;
    condition::acquire(&condition)?;
    let list = stdlib::telling(py, known().as_ref())
        .map(|fresh| put_listeners(this, &fresh, !this.get().phase().is_settled()));
    condition::release(&condition)?;
    list
}

/// Puts a list in, instead of another one or only if there is none; the one that is there
/// afterwards.
fn put_listeners<'py>(
    this: &Bound<'py, FutureCell>,
    fresh: &Bound<'py, PyList>,
    instead: bool,
) -> Bound<'py, PyList> {
    let mut extra = this.get().extra().lock();
    let previous = extra.listeners.take_if(|_| instead);
    let list = extra
        .listeners
        .get_or_insert_with(|| fresh.clone().unbind())
        .bind(this.py())
        .clone();
    drop(extra);
    drop(previous);
    list
}
