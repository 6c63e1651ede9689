//! The way of a task to its worker: through the limits of its key, into the queue or to the event
//! loop.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use flask_delay_engine::SubmitError;
use flask_delay_journal::{Error, Permit};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::completion;
use super::limits;
use super::permits;
use super::queue;
use super::timer;
use crate::bindings::core::events::{self, Kind};
use crate::bindings::core::executor::{Core, Job, Queued};
use crate::bindings::core::interrupt;
use crate::bindings::core::keys;
use crate::bindings::core::link;
use crate::bindings::core::options::Start;
use crate::bindings::core::policy;
use crate::bindings::core::settings::Mode;
use crate::bindings::core::task::{CoroutineTask, Task};
use crate::bindings::core::timeline;
use crate::bindings::core::transition::Phase;
use crate::bindings::errors::{closed, or_unraisable};
use crate::bindings::host::event_loop::hooks;
use crate::bindings::host::signals;

/// Marks the task as running; `false` if it was cancelled or has just expired.
pub(crate) fn start(this: &Bound<'_, Task>) -> bool {
    let cell = this.get();
    if cell.is_placed_or_ruled() {
        return start_ruled(this);
    }
    cell.claim_start()
}

#[cold]
fn start_ruled(this: &Bound<'_, Task>) -> bool {
    let cell = this.get();
    if cell.is_ruled() && policy::is_late(cell) {
        completion::expire(this);
        return false;
    }
    if !cell.claim_start() {
        return false;
    }
    cell.give_place();
    limits::started(this);
    true
}

/// `set_running_or_notify_cancel` of `concurrent.futures`, for futures that were made by hand.
pub(crate) fn run_or_notify(this: &Bound<'_, Task>) -> PyResult<bool> {
    if start(this) {
        return Ok(true);
    }
    completion::notice(this);
    if this.get().phase() == Phase::Notified {
        return Ok(false);
    }
    Err(PyRuntimeError::new_err("Future in unexpected state"))
}

/// Takes a task without policy and permit, of an executor with threads.
pub(crate) fn take_plain(this: &Bound<'_, Task>, core: &Arc<Core>) -> PyResult<()> {
    if this.get().is_coroutine() {
        return take_coroutine(this, core);
    }
    let taken = core.pool().submit(Job::Task(this.clone().unbind()).into());
    if let Some(recorder) = core.recorder()
        && taken.is_ok()
    {
        recorder.queued(this);
    }
    taken.map_err(|error| refused(this.py(), core, error))
}

fn take_coroutine(this: &Bound<'_, Task>, core: &Arc<Core>) -> PyResult<()> {
    if core.pool().is_closed() {
        return Err(closed());
    }
    hand_over(this, core)
}

/// Which thread is to run a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Worker,
    /// The submitting thread, at once.
    Caller,
}

/// Takes a task with a policy or a permit, of an executor with threads.
pub(crate) fn take(this: &Bound<'_, Task>, core: &Arc<Core>, entry: Entry) -> PyResult<()> {
    set_expiry(this)?;
    if hold_until(this, core)? {
        return Ok(());
    }
    if let Some(lane) = policy::lane(this) {
        // Before the offer: any thread may release it at once.
        core.held().add(this, core.pool().hold());
        // After `add`: a thread that closes the pool, and cancels held tasks, must find it there.
        if core.pool().is_closed() {
            core.held().remove(this);
            return Err(closed());
        }
        if !offer(this, &lane)? {
            held_by_lane(this);
            return Ok(());
        }
    } else if permits::has_place(this.get()) {
        return hold_for_permit(this, core);
    }
    let taken = match entry {
        Entry::Caller if !this.get().is_coroutine() => (core.runner.run_here)(this, core),
        _ => go(this, core, Call::First),
    };
    core.held().remove(this);
    taken
}

fn held_by_lane(this: &Bound<'_, Task>) {
    timeline::held(this, || timeline::LANE.to_owned());
}

fn offer(this: &Bound<'_, Task>, lane: &Bound<'_, keys::Lane>) -> PyResult<bool> {
    let ready = policy::ready(this.get());
    match policy::policy(this).and_then(|policy| policy.get().terms(ready)) {
        Some(terms) => limits::offer(lane, this, terms),
        None => Ok(true),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    First,
    /// It was accepted before.
    Again,
}

fn go(this: &Bound<'_, Task>, core: &Arc<Core>, call: Call) -> PyResult<()> {
    if this.get().is_coroutine() {
        return match call {
            Call::First => take_coroutine(this, core),
            Call::Again => hand_over(this, core),
        };
    }
    match call {
        Call::First => queue::submit(this, core).map_err(|error| refused(this.py(), core, error)),
        Call::Again => {
            resubmit(this, core);
            Ok(())
        }
    }
}

fn resubmit(this: &Bound<'_, Task>, core: &Arc<Core>) {
    completion::give_worker(this.py(), core, Job::Task(this.clone().unbind()));
}

/// Puts back a job that was taken out of the queue; the caller has held the pool since.
pub(crate) fn put_back(py: Python<'_>, core: &Arc<Core>, job: Job) {
    match core.mode {
        // A manual pool must not start a thread.
        Mode::Manual => queue::shelve(py, core, job),
        Mode::Threads | Mode::Immediate => completion::give_worker(py, core, job),
    }
}

/// Queues a task for `run_pending`.
pub(crate) fn shelve(this: &Bound<'_, Task>, core: &Arc<Core>) {
    queue::shelve(this.py(), core, Job::Task(this.clone().unbind()));
}

/// The error of a task that the pool refused.
#[cold]
fn refused(py: Python<'_>, core: &Arc<Core>, error: SubmitError<Queued>) -> PyErr {
    let (job, why) = match error {
        SubmitError::Closed(job) => (Job::from(job), None),
        SubmitError::Spawn(job, error) => (Job::from(job), Some(error)),
    };
    core.took_out(&job);
    let Some(error) = why else {
        return closed();
    };
    // Receivers of its signal may have the future.
    if let Job::Task(task) = &job {
        completion::cancel(task.bind(py));
    }
    PyRuntimeError::new_err(format!("no worker thread could be started: {error}"))
}

/// Queues a task that was held, unless it was cancelled.
pub(crate) fn let_go(this: &Bound<'_, Task>) {
    let Some(core) = this.get().core() else {
        return;
    };
    if this.get().phase() == Phase::Pending
        && let Err(error) = go(this, core, Call::Again)
    {
        completion::give_up(this, error);
    }
    core.held().remove(this);
}

/// Starts a task once more, when its key allows it.
pub(crate) fn again(this: &Bound<'_, Task>) {
    // Read while it is known: the task may end meanwhile.
    let rank = policy::rank(this);
    let Some(lane) = policy::lane(this) else {
        if !permits::ask(this) {
            let_go(this);
        }
        return;
    };
    match offer(this, &lane) {
        Ok(false) => held_by_lane(this),
        Err(error) => completion::give_up(this, error),
        Ok(true) => let_go(this),
    }
    if this.get().phase().is_done() {
        // A cancelled task may have left the limiter before it was offered.
        limits::leave(&lane, this, rank);
    }
}

/// Holds a submitted task until the journal lets it start.
fn hold_for_permit(this: &Bound<'_, Task>, core: &Arc<Core>) -> PyResult<()> {
    core.held().add(this, core.pool().hold());
    // After `add`: as in `hold_until`.
    if core.pool().is_closed() {
        core.held().remove(this);
        return Err(closed());
    }
    if !permits::ask(this) {
        // A receiver of its signal has cancelled it.
        core.held().remove(this);
    }
    Ok(())
}

/// The journal has answered whether a task may start.
pub(crate) fn permitted(this: &Bound<'_, Task>, permit: Permit, granted: Result<bool, Error>) {
    match granted {
        Ok(true) if permits::hold(this, permit) => let_go(this),
        // It has ended meanwhile.
        Ok(_) => {}
        Err(error) => completion::give_up(this, link::refusal(error)),
    }
}

/// The oldest of the tasks that wait for their key.
pub(crate) fn oldest_held<'py>(py: Python<'py>, core: &Arc<Core>) -> Option<Bound<'py, Task>> {
    let held = core.held().tasks(py).into_iter();
    held.filter(|task| task.get().is_placed() && task.get().phase() == Phase::Pending)
        .min_by_key(|task| task.get().born())
}

/// Gives back what a task with a policy took before it was refused.
pub(crate) fn withdraw(future: &Bound<'_, Task>) {
    future.get().give_place();
    future.get().forget_id(future);
    or_unraisable(limits::give_back_place(future), future);
    if policy::has_claim(future.get()) {
        // Other submissions with the same key may have this future.
        completion::cancel(future);
    } else {
        limits::ended(future);
    }
}

/// Cancels the call that an accepted task replaces, if it is debounced.
pub(crate) fn replace(future: &Bound<'_, Task>) {
    if let Some(last) = limits::replaced(future) {
        // Submissions bypass PyO3's own trampoline. Without this it would keep what is dropped here
        // until a thread attaches: all futures of a stream of calls.
        Python::attach(|_| completion::cancel(&last));
    }
}

/// Notifies subscribers that a task is about to be accepted.
pub(crate) fn announce(future: &Bound<'_, Task>, core: &Arc<Core>) -> PyResult<()> {
    if signals::wanted(future, Some(Kind::Submitted)) {
        if core.pool().is_closed() {
            return Err(closed());
        }
        signals::emit(future, Kind::Submitted);
    }
    events::happened(future, Kind::Submitted);
    Ok(())
}

pub(crate) fn hand_over(task: &Bound<'_, Task>, core: &Arc<Core>) -> PyResult<()> {
    let py = task.py();
    core.on_loop().add(task, core.pool().hold());
    let handle = CoroutineTask(task.clone().unbind());
    // If a task submits it, the timeout of that task must not interrupt the event loop's
    // bookkeeping.
    let _covered = interrupt::cover(py);
    hooks(py)?
        .start
        .bind(py)
        .call1((handle,))
        .map(drop)
        .inspect_err(|_| {
            core.on_loop().remove(task);
        })
}

/// Sets the timer for the task's expiry; before it is queued.
pub(crate) fn set_expiry(this: &Bound<'_, Task>) -> PyResult<()> {
    let Some(at) = policy::find(this.get(), |rules| rules.expires) else {
        return Ok(());
    };
    let alarm = timer::set(at, this, completion::expire)?;
    policy::with(this.get(), |rules| rules.alarm = Some(alarm));
    Ok(())
}

/// A change of the clock is noticed after at most this time.
pub(crate) const GLANCE: Duration = Duration::from_mins(1);

/// When to check a task with a start time again; `None` if it may start.
fn next_look(this: &Task) -> Option<Instant> {
    if let Some(from) = policy::find(this, |rules| rules.from) {
        return Some(from).filter(|from| *from > Instant::now());
    }
    let Some(Start::At(time)) = policy::find(this, |rules| rules.start) else {
        return None;
    };
    let left = time.duration_since(SystemTime::now()).ok()?;
    (!left.is_zero()).then(|| Instant::now() + left.min(GLANCE))
}

/// Whether a held task cannot start before `deadline`, by its own start time or that of its next
/// attempt. One that is withheld does not start in a process that ends.
pub(crate) fn starts_after(this: &Task, deadline: Instant) -> bool {
    let times = policy::with(this, |rules| {
        let again = rules.alarm.filter(|_| rules.attempts > 0);
        (rules.from, rules.start, again, rules.withheld)
    });
    let Some((from, start, again, withheld)) = times else {
        return false;
    };
    if withheld {
        return true;
    }
    if let Some(again) = again {
        return again.at() > deadline;
    }
    if let Some(from) = from {
        return from > deadline;
    }
    let Some(Start::At(time)) = start else {
        return false;
    };
    let left = time.duration_since(SystemTime::now()).unwrap_or_default();
    Instant::now()
        .checked_add(left)
        .is_none_or(|at| at > deadline)
}

/// Holds a submitted task until its start time; `false` if it may start.
fn hold_until(this: &Bound<'_, Task>, core: &Arc<Core>) -> PyResult<bool> {
    let Some(at) = next_look(this.get()) else {
        return Ok(false);
    };
    core.held().add(this, core.pool().hold());
    // After `add`: a thread that closes the pool, and cancels held tasks, must find it there.
    if core.pool().is_closed() {
        core.held().remove(this);
        return Err(closed());
    }
    look_at(this, at).inspect_err(|_| core.held().remove(this))?;
    timeline::held_until(this);
    Ok(true)
}

/// Holds a submitted task until it is released.
pub(crate) fn withhold(this: &Bound<'_, Task>, core: &Arc<Core>) -> PyResult<()> {
    core.held().add(this, core.pool().hold());
    // After `add`: as in `hold_until`.
    if core.pool().is_closed() {
        core.held().remove(this);
        return Err(closed());
    }
    if core.mode == Mode::Threads {
        set_expiry(this).inspect_err(|_| core.held().remove(this))?;
    }
    timeline::held(this, || timeline::TRANSACTION.to_owned());
    Ok(())
}

fn look_at(this: &Bound<'_, Task>, at: Instant) -> PyResult<()> {
    let cell = this.get();
    let alarm = timer::set(at, this, ring)?;
    policy::with(cell, |rules| rules.begin = Some(alarm));
    if cell.phase().is_done() {
        // The thread that ended it has not seen the timer.
        timer::unset(this.py(), alarm);
    }
    Ok(())
}

/// The task's start time may have come.
pub(crate) fn ring(this: &Bound<'_, Task>) {
    if this.get().phase() != Phase::Pending {
        return;
    }
    let Some(at) = next_look(this.get()) else {
        return again(this);
    };
    if let Err(error) = look_at(this, at) {
        completion::give_up(this, error);
    }
}
