//! The way of a task to whoever runs it: past its key's limit and rate, into the queue or to
//! the event loop.

use std::sync::Arc;

use flask_delay_engine::SubmitError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::backpressure::Entry;
use super::completion::{self, end_here};
use super::delays;
use super::limits;
use crate::bindings::core::events::Event;
use crate::bindings::core::executor::{Core, Task};
use crate::bindings::core::interrupt;
use crate::bindings::core::keys;
use crate::bindings::core::leftovers;
use crate::bindings::core::policy;
use crate::bindings::core::settings::Mode;
use crate::bindings::core::task::{CoroutineTask, FutureCell};
use crate::bindings::core::transition::Phase;
use crate::bindings::errors::closed;
use crate::bindings::host::event_loop::hooks;

/// Marks the task as running; `false` if it was cancelled, or has expired just now.
pub(crate) fn start(this: &Bound<'_, FutureCell>) -> bool {
    let cell = this.get();
    if cell.is_ruled() && policy::is_late(cell) {
        completion::expire(this);
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

/// Takes a task of an executor with threads that has no rules, and needs no place.
pub(crate) fn take_plain(this: &Bound<'_, FutureCell>, core: &Arc<Core>) -> PyResult<()> {
    if this.get().is_coroutine() {
        return take_coroutine(this, core);
    }
    let taken = core.pool().submit(Task(this.clone().unbind()));
    taken.map_err(|error| refused(this, error))
}

fn take_coroutine(this: &Bound<'_, FutureCell>, core: &Arc<Core>) -> PyResult<()> {
    if core.pool().is_closed() {
        return Err(closed());
    }
    hand_over(this, core)
}

/// Takes a task of an executor with threads that has rules, or places to wait for.
pub(crate) fn take(this: &Bound<'_, FutureCell>, core: &Arc<Core>, entry: Entry) -> PyResult<()> {
    limits::set_expiry(this)?;
    if delays::hold(this, core)? {
        return Ok(());
    }
    if let Some(lane) = policy::lane(this) {
        // Before it is offered: it may be let go at once, by any thread.
        core.held().add(this, core.pool().hold());
        // Not before: whoever closes the pool, and cancels what is held, must find it there.
        if core.pool().is_closed() {
            core.held().remove(this);
            return Err(closed());
        }
        if !offer(this, &lane)? {
            return Ok(());
        }
    }
    let taken = match entry {
        Entry::Caller if !this.get().is_coroutine() => (core.runner.run_here)(this, core),
        _ => go(this, core, Call::First),
    };
    core.held().remove(this);
    taken
}

fn offer(this: &Bound<'_, FutureCell>, lane: &Bound<'_, keys::Lane>) -> PyResult<bool> {
    let ready = policy::ready(this.get());
    match policy::policy(this).and_then(|policy| policy.get().terms(ready)) {
        Some(terms) => limits::offer(lane, this, terms),
        None => Ok(true),
    }
}

/// Whether the pool is asked for the first time to take a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    First,
    /// It was accepted before.
    Again,
}

fn go(this: &Bound<'_, FutureCell>, core: &Arc<Core>, call: Call) -> PyResult<()> {
    if this.get().is_coroutine() {
        return match call {
            Call::First => take_coroutine(this, core),
            Call::Again => hand_over(this, core),
        };
    }
    // Before it is there, where it may be taken at once.
    policy::queued(this.get());
    if call == Call::Again {
        resubmit(this, core);
        return Ok(());
    }
    let job = Task(this.clone().unbind());
    let taken = match policy::level_and_rank(this) {
        None => core.pool().submit(job),
        Some((level, rank)) => core.pool().submit_ranked(job, level, rank),
    };
    taken.map_err(|error| {
        policy::with(this.get(), |rules| rules.queued = false);
        refused(this, error)
    })
}

/// Gives a worker what belongs to a task that was accepted before: the task itself, its
/// callbacks, or an errand. Also in a closed pool; if that has ended, does it here.
pub(crate) fn resubmit(this: &Bound<'_, FutureCell>, core: &Arc<Core>) {
    if let Some(job) = try_resubmit(this, core) {
        do_here(&job);
    }
}

/// As [`resubmit`], but gives a job back if the pool has ended: of several that came too late
/// each gets one, not always its own.
pub(crate) fn try_resubmit<'py>(
    this: &Bound<'py, FutureCell>,
    core: &Arc<Core>,
) -> Option<Bound<'py, FutureCell>> {
    let pool = core.pool();
    // So that it does not end meanwhile.
    let hold = pool.hold();
    let job = Task(this.clone().unbind());
    let taken = match policy::level_and_rank(this) {
        None => pool.resubmit(job),
        Some((level, rank)) => pool.resubmit_ranked(job, level, rank),
    };
    drop(hold);
    match taken {
        Ok(()) => None,
        Err(SubmitError::Closed(job) | SubmitError::Spawn(job, _)) => {
            Some(job.0.into_bound(this.py()))
        }
    }
}

/// Puts a task back that was taken out of the queue; whoever took it held the pool before.
pub(crate) fn put_back(this: &Bound<'_, FutureCell>, core: &Arc<Core>) {
    match core.mode {
        // Nothing of it may start a thread.
        Mode::Manual => shelve(this, core),
        Mode::Threads | Mode::Immediate => resubmit(this, core),
    }
}

/// Sees to a job that no worker comes for any more.
pub(crate) fn do_here(job: &Bound<'_, FutureCell>) {
    let mine = job.clone().unbind();
    leftovers::work(job.py(), move |py| do_now(mine.bind(py)));
}

fn do_now(job: &Bound<'_, FutureCell>) {
    let cell = job.get();
    match cell.core() {
        Some(core) if cell.has_returned() && cell.phase() == Phase::Pending => {
            // An errand.
            if let Err(error) = (core.runner.run_here)(job, core) {
                error.write_unraisable(job.py(), Some(job));
            }
        }
        Some(_) if cell.has_returned() => end_here(job),
        _ => give_up(job, closed()),
    }
}

/// Puts a task where it waits for whoever runs those of an executor without threads.
pub(crate) fn shelve(this: &Bound<'_, FutureCell>, core: &Arc<Core>) {
    policy::queued(this.get());
    let job = Task(this.clone().unbind());
    match policy::level_and_rank(this) {
        None => core.pool().shelve(job),
        Some((level, rank)) => core.pool().shelve_ranked(job, level, rank),
    }
}

/// Why the pool has not taken the task.
#[cold]
pub(crate) fn refused(this: &Bound<'_, FutureCell>, error: SubmitError<Task>) -> PyErr {
    let py = this.py();
    match error {
        SubmitError::Closed(task) => {
            drop(task.0.into_bound(py));
            closed()
        }
        SubmitError::Spawn(task, error) => {
            // It may be another thread's, which has the same to hear.
            let task = task.0.into_bound(py);
            policy::queued(task.get());
            if completion::cancel(&task)
                && let Some(core) = task.get().core()
            {
                // It is not in the queue any more.
                core.dead().remove();
            }
            PyRuntimeError::new_err(format!("no worker thread could be started: {error}"))
        }
    }
}

/// Has a task that was held start as soon as there is a worker; it may have been cancelled.
pub(crate) fn let_go(this: &Bound<'_, FutureCell>) {
    let Some(core) = this.get().core() else {
        return;
    };
    if this.get().phase() == Phase::Pending
        && let Err(error) = go(this, core, Call::Again)
    {
        give_up(this, error);
    }
    core.held().remove(this);
}

/// Ends a task that nobody would run. Nobody is there to hear why but who waits for it.
pub(crate) fn give_up(this: &Bound<'_, FutureCell>, error: PyErr) {
    start(this);
    completion::fail(this, error);
}

/// Has a task that has been accepted before start once more, when its key lets it.
pub(crate) fn again(this: &Bound<'_, FutureCell>) {
    // Asked for while it is known: it may end meanwhile.
    let rank = policy::rank(this);
    let Some(lane) = policy::lane(this) else {
        let_go(this);
        return;
    };
    match offer(this, &lane) {
        Ok(false) => {}
        Err(error) => give_up(this, error),
        Ok(true) => let_go(this),
    }
    if this.get().phase().is_done() {
        // It may have left the lane, because it was cancelled, before it was offered.
        limits::leave(&lane, this, rank);
    }
}

/// Of the tasks that wait for their key, the one that has done so for longest.
pub(crate) fn oldest_held<'py>(
    py: Python<'py>,
    core: &Arc<Core>,
) -> Option<Bound<'py, FutureCell>> {
    let held = core.held().tasks(py).into_iter();
    held.filter(|task| task.get().is_placed() && task.get().phase() == Phase::Pending)
        .min_by_key(|task| task.get().born())
}

/// Lets go of what a task has taken that has rules and was not accepted.
pub(crate) fn withdraw(future: &Bound<'_, FutureCell>) {
    future.get().give_place();
    future.get().forget_id(future);
    if policy::has_claim(future.get()) {
        // Others may have this future for the same key.
        completion::cancel(future);
    } else {
        limits::ended(future);
    }
}

/// Tells those who listen that a task is about to be taken.
pub(crate) fn announce(future: &Bound<'_, FutureCell>, core: &Arc<Core>) -> PyResult<()> {
    if let Some(signals) = &core.signals
        && signals.wanted(future.py(), Event::Submitted)
    {
        if core.pool().is_closed() {
            return Err(closed());
        }
        signals.emit(future, Event::Submitted);
    }
    Ok(())
}

/// Hands `task` over to the event loop.
pub(crate) fn hand_over(task: &Bound<'_, FutureCell>, core: &Arc<Core>) -> PyResult<()> {
    let py = task.py();
    core.afar().add(task, core.pool().hold());
    let handle = CoroutineTask(task.clone().unbind());
    // If a task submits it, the end of that one's time must not leave the loop's books half
    // written.
    let _covered = interrupt::cover(py);
    hooks(py)?
        .start
        .bind(py)
        .call1((handle,))
        .map(drop)
        .inspect_err(|_| {
            core.afar().remove(task);
        })
}
