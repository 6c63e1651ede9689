//! How a future changes state, and who is told.
//!
//! One atomic word holds the phase and a few bits. The one that matters for the end is
//! [`WATCHED`]: somebody has put a callback, a waiting thread or an id where the end of the
//! task must look. Without it a task ends with one compare-and-swap. With it, the end takes
//! the lock of the rarely needed part and, if `concurrent.futures.wait` has asked for it,
//! the future's condition: that function looks at the state and adds itself while it holds
//! the condition.
//!
//! Lock order: the condition (a Python lock), then the rarely needed part (ours, a leaf:
//! no Python code runs under it).

use std::mem::take;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use super::callbacks;
use super::clock::now;
use super::condition::Condition;
use super::errors::CancelledError;
use super::ffi::call::call_with;
use super::ffi::object::track;
use super::future::FutureCell;
use super::listeners;
use super::names;
use super::signals::{self, Event};

/// The end must look into the rarely needed part.
pub(crate) const WATCHED: u32 = 1 << 3;
/// The task was told to stop.
pub(crate) const STOP: u32 = 1 << 4;
/// The task was a coroutine; it is done, and goes back to a worker for its callbacks.
const RETURNED: u32 = 1 << 5;
/// The task is a coroutine.
pub(crate) const COROUTINE: u32 = 1 << 6;
/// A teardown function has submitted the task, after another task.
pub(crate) const OF_TEARDOWN: u32 = 1 << 7;
const PHASE: u32 = 0b111;

/// Where a future stands; the names are those of `concurrent.futures`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Phase {
    Pending = 0,
    Running = 1,
    /// Cancelled by its user; whoever would run it has not noticed yet.
    Cancelled = 2,
    Notified = 3,
    Finished = 4,
    Failed = 5,
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

impl Phase {
    pub(crate) fn of(state: u32) -> Self {
        match state & PHASE {
            0 => Self::Pending,
            1 => Self::Running,
            2 => Self::Cancelled,
            3 => Self::Notified,
            4 => Self::Finished,
            _ => Self::Failed,
        }
    }

    /// What `concurrent.futures` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Cancelled => "CANCELLED",
            Self::Notified => "CANCELLED_AND_NOTIFIED",
            Self::Finished | Self::Failed => "FINISHED",
        }
    }

    pub(crate) fn is_cancelled(self) -> bool {
        matches!(self, Self::Cancelled | Self::Notified)
    }

    /// Whether nothing can change it any more.
    pub(crate) fn is_settled(self) -> bool {
        self.is_done() && self != Self::Cancelled
    }

    pub(crate) fn is_done(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }
}

impl FutureCell {
    pub(crate) fn phase(&self) -> Phase {
        // Acquire: whoever sees a future done sees its outcome.
        Phase::of(self.state.load(Ordering::Acquire))
    }

    pub(crate) fn told_to_stop(&self) -> bool {
        self.state.load(Ordering::Relaxed) & STOP != 0
    }

    pub(crate) fn is_coroutine(&self) -> bool {
        self.state.load(Ordering::Relaxed) & COROUTINE != 0
    }

    pub(crate) fn is_of_teardown(&self) -> bool {
        self.state.load(Ordering::Relaxed) & OF_TEARDOWN != 0
    }

    pub(crate) fn tell_to_stop(&self) {
        // Relaxed: a request, looked at when the task likes.
        self.state.fetch_or(STOP, Ordering::Relaxed);
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

    /// Moves from one phase to another if `watched` is as expected (`None`: whatever).
    /// The phase found instead, if not.
    fn swap(&self, from: Phase, to: Phase, watched: Option<bool>) -> Result<(), u32> {
        self.state
            // AcqRel: gives the outcome to those who see the new phase, and takes what
            // those who set WATCHED have put there.
            .try_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                let same = watched.is_none_or(|watched| watched == (state & WATCHED != 0));
                (Phase::of(state) == from && same).then_some(state & !PHASE | to as u32)
            })
            .map(drop)
    }
}

/// Marks the task as running; `false` if it was cancelled.
pub(crate) fn start(this: &Bound<'_, FutureCell>) -> bool {
    this.get()
        .swap(Phase::Pending, Phase::Running, None)
        .is_ok()
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
    if this.get().phase().is_done() {
        return Err(this.get().phase());
    }
    keep_outcome(this, outcome);
    if complete(this, to, place) {
        return Ok(());
    }
    Err(this.get().phase())
}

/// Keeps the outcome of a future that is about to be done. Two threads that both set one
/// are their user's error: the first is kept.
pub(crate) fn keep_outcome(this: &Bound<'_, FutureCell>, outcome: Bound<'_, PyAny>) {
    if this.get().outcome.is_empty() {
        drop(this.get().outcome.put(outcome));
    }
}

/// Ends the future, whose outcome is kept already; `false` if it was done.
pub(crate) fn complete(this: &Bound<'_, FutureCell>, to: Phase, place: Place) -> bool {
    [Phase::Running, Phase::Pending]
        .into_iter()
        .any(|from| change(this, from, to, place))
}

/// Notes that this coroutine's task goes back to a worker.
pub(crate) fn mark_returned(this: &Bound<'_, FutureCell>) {
    // Relaxed: the queue hands it to the worker.
    this.get().state.fetch_or(RETURNED, Ordering::Relaxed);
}

/// Whether this is a coroutine's task that came back to a worker.
pub(crate) fn has_returned(this: &Bound<'_, FutureCell>) -> bool {
    this.get().state.load(Ordering::Relaxed) & RETURNED != 0
}

/// Runs the callbacks that [`Place::Loop`] has left.
pub(crate) fn run_callbacks(this: &Bound<'_, FutureCell>, place: Place) {
    // None are added to a future that is done.
    let callbacks = take(&mut this.get().extra().lock().callbacks);
    callbacks::run(this, Event::of(this.get().phase()), &callbacks, place);
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
        return true;
    }
    let canceller = {
        let extra = this.get().known_extra().map(Mutex::lock);
        let canceller = extra.as_ref().and_then(|extra| extra.canceller.as_ref());
        canceller.map(|canceller| canceller.bind(this.py()).clone())
    };
    if let Some(canceller) = canceller
        && change(this, Phase::Running, to, Place::Elsewhere)
    {
        or_unraisable(call_with(&canceller, []).map(drop), this);
    }
    this.get().phase().is_cancelled()
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
    // Before the phase says so: whoever learns that the task is done may ask when.
    let first = cell
        .finished
        .compare_exchange(0, now(), Ordering::Relaxed, Ordering::Relaxed);
    // Who lost a race has set a time that is as good as the winner's.
    let _ = first;
    let watched = match cell.swap(from, to, Some(false)) {
        Ok(()) => false,
        Err(state) if Phase::of(state) != from => return false,
        Err(_) => {
            if !change_watched(this, from, to) {
                return false;
            }
            true
        }
    };
    if from == Phase::Pending {
        // Never to be called: function and arguments go now, and the surroundings.
        drop((cell.take_call(this), cell.take_task_scope(this.py())));
        if let Some(core) = cell.core().filter(|_| !cell.is_coroutine()) {
            core.dead().add();
        }
    }
    track(this);
    if watched || signals::wanted(this, Event::of(to)) {
        tell(this, place);
    }
    true
}

/// The swap while somebody watches; with the condition held, if there is one.
fn change_watched(this: &Bound<'_, FutureCell>, from: Phase, to: Phase) -> bool {
    let py = this.py();
    let cell = this.get();
    let condition = {
        let extra = cell.extra().lock();
        let Some(condition) = &extra.condition else {
            // Under the lock, so that no condition is made meanwhile.
            return cell.swap(from, to, None).is_ok();
        };
        condition.bind(py).clone()
    };
    let held = condition.get().acquire(py, &PyTuple::empty(py));
    let changed = cell.swap(from, to, None).is_ok();
    if changed {
        or_unraisable(announce(this, to), this);
    }
    if held.is_ok() {
        or_unraisable(condition.get().release(py), this);
    }
    // A KeyboardInterrupt while the condition was acquired: the phase had to change all
    // the same.
    or_unraisable(held.map(drop), this);
    changed
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
    let (callbacks, waiters, wakers, known) = if let Some(extra) = cell.known_extra() {
        let mut extra = extra.lock();
        let callbacks = match place {
            Place::Loop => Vec::new(),
            Place::Worker | Place::Elsewhere => take(&mut extra.callbacks),
        };
        (
            callbacks,
            take(&mut extra.waiters),
            take(&mut extra.wakers),
            extra.known.then_some(extra.id).flatten(),
        )
    } else {
        Default::default()
    };
    for waiter in waiters {
        or_unraisable(
            waiter.bind(py).call_method0(names::release(py)).map(drop),
            this,
        );
    }
    for waker in wakers {
        or_unraisable(call_with(waker.bind(py), [this.as_any()]).map(drop), this);
    }
    if let (Some(id), Some(core)) = (known, cell.core()) {
        core.registry.finished(py, id);
    }
    let event = match place {
        Place::Loop => None,
        Place::Worker | Place::Elsewhere => Event::of(cell.phase()),
    };
    callbacks::run(this, event, &callbacks, place);
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
pub(crate) fn condition<'py>(this: &Bound<'py, FutureCell>) -> PyResult<Bound<'py, Condition>> {
    let py = this.py();
    let cell = this.get();
    let done = cell.phase().is_settled();
    if let Some(extra) = cell.known_extra()
        && let Some(condition) = extra.lock().condition.as_ref()
    {
        return Ok(condition.bind(py).clone());
    }
    if done {
        return Condition::of_done(py);
    }
    let fresh = Condition::new(py)?.unbind();
    let mut extra = cell.extra().lock();
    let condition = extra.condition.get_or_insert(fresh).bind(py).clone();
    cell.watch();
    Ok(condition)
}

/// The list that `concurrent.futures.wait` puts itself into.
pub(crate) fn listeners<'py>(this: &Bound<'py, FutureCell>) -> PyResult<Bound<'py, PyList>> {
    let py = this.py();
    let fresh = listeners::empty(py)?.unbind();
    let mut extra = this.get().extra().lock();
    Ok(extra.listeners.get_or_insert(fresh).bind(py).clone())
}
