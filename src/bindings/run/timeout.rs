//! `timeout=`, `expires=` and `stop`: tasks that are ended early.
//!
//! An overdue call gets an exception (see `core::interrupt`). If it goes on, it is stuck in C or
//! has swallowed the exception. Then its future ends without it, and its worker counts as waiting,
//! so that another replaces it.

use std::ffi::c_ulong;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flask_delay_engine::{Mutex, Ticket};
use flask_delay_journal::Cancelled;
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;

use crate::bindings::core::durable;
use crate::bindings::core::executor::{Core, Note};
use crate::bindings::core::interrupt::{Call, Shooting, Target, Why};
use crate::bindings::core::leftovers;
use crate::bindings::core::policy;
use crate::bindings::core::strays::Added;
use crate::bindings::core::stream;
use crate::bindings::core::task::{Extra, Task, name_of};
use crate::bindings::core::transition::{self, End, Phase};
use crate::bindings::core::worker_slot::{Waits, WorkerSlot};
use crate::bindings::errors::{TaskTimeout, into_exception, or_unraisable};
use crate::bindings::ffi::call::call_with;
use crate::bindings::ffi::clock::now;
use crate::bindings::host::gevent;
use crate::bindings::host::logging;
use crate::bindings::sched::completion::{self, Place};
use crate::bindings::sched::limits;
use crate::bindings::sched::permits;
use crate::bindings::sched::timer;

/// How long an interrupted call has to end.
const GRACE: Duration = Duration::from_millis(100);

/// How soon to retry a call that must not be interrupted where it is. The delay doubles each time,
/// up to `LONGEST_GLANCE`.
const GLANCE: Duration = Duration::from_millis(1);
const LONGEST_GLANCE: Duration = Duration::from_millis(32);

/// An attempt to end a call.
pub(crate) struct Shot {
    task: Py<Task>,
    at: At,
    why: Why,
    /// The future has ended already.
    late: bool,
    /// Since when the attempts failed, and the delay before the next.
    tried: Option<(Instant, Duration)>,
}

enum At {
    /// This call; on a worker, with its waits.
    Call {
        target: Arc<Target>,
        call: Call,
        waits: Option<Arc<Waits>>,
    },
    /// The call that runs at that time.
    AnyCall,
    /// The coroutine of this attempt.
    Coroutine(u32),
}

/// Calls `act` with a shot after some time.
fn set(
    py: Python<'_>,
    time: Duration,
    shot: Shot,
    act: impl FnOnce(Python<'_>, Shot) + Send + 'static,
) -> PyResult<Option<Ticket>> {
    let task = shot.task.bind(py).clone();
    timer::set_in(time, &task, move |this| act(this.py(), shot))
}

/// Sets the timer for the timeout of a call that has just begun at `slot`.
pub(crate) fn watch(
    this: &Bound<'_, Task>,
    slot: &WorkerSlot,
    call: Call,
    limit: Duration,
) -> PyResult<Option<Ticket>> {
    let shot = Shot {
        task: this.clone().unbind(),
        at: At::Call {
            target: Arc::clone(slot.target()),
            call,
            waits: slot.waits().cloned(),
        },
        why: Why::Timeout,
        late: false,
        tried: None,
    };
    set(this.py(), limit, shot, interrupt)
}

/// Begins the work of a task, if its executor leaves that to the task. What came before counts
/// neither for its timeout nor for its running time.
pub(crate) fn begin(this: &Bound<'_, Task>) -> PyResult<()> {
    this.get().set_started(now());
    let Some(limit) = policy::timeout(this) else {
        return Ok(());
    };
    let Some(at) = find(this) else {
        return Ok(());
    };
    let shot = Shot {
        task: this.clone().unbind(),
        at,
        why: Why::Timeout,
        late: false,
        tried: None,
    };
    let alarm = set(this.py(), limit, shot, interrupt)?;
    // Cancelled when the call has ended.
    policy::with(this.get(), |rules| rules.alarm = alarm);
    Ok(())
}

/// As [`watch`], for a coroutine.
pub(crate) fn watch_coroutine(this: &Bound<'_, Task>, limit: Duration) -> PyResult<()> {
    let shot = Shot {
        task: this.clone().unbind(),
        at: At::Coroutine(policy::attempts(this.get()).unwrap_or(0)),
        why: Why::Timeout,
        late: false,
        tried: None,
    };
    let alarm = set(this.py(), limit, shot, interrupt)?;
    policy::with(this.get(), |rules| rules.alarm = alarm);
    Ok(())
}

/// Stops a task, as `Future.stop` says; `false` if it was done.
pub(crate) fn stop(this: &Bound<'_, Task>, after: Option<Duration>) -> PyResult<bool> {
    let cell = this.get();
    if cell.phase().is_done() {
        return Ok(false);
    }
    // First: a task that is about to start, or to run again, checks this flag.
    stream::tell_to_stop(this);
    if completion::cancel(this) {
        return Ok(true);
    }
    if after.is_some()
        && let Some(stopped) = stop_elsewhere(this)
    {
        return Ok(stopped);
    }
    tell_stop_wakers(this, after);
    let (Some(after), Phase::Running) = (after, cell.phase()) else {
        return Ok(!cell.phase().is_done());
    };
    let shot = Shot {
        task: this.clone().unbind(),
        at: At::AnyCall,
        why: Why::Stop,
        late: false,
        tried: None,
    };
    if after.is_zero() {
        interrupt(this.py(), shot);
    } else {
        set(this.py(), after, shot, interrupt)?;
    }
    Ok(true)
}

/// Tells what waits inside the task that it is to stop.
fn tell_stop_wakers(this: &Bound<'_, Task>, after: Option<Duration>) {
    let Some(extra) = this.get().known_extra() else {
        return;
    };
    let py = this.py();
    let wakers: Vec<_> = {
        let extra = extra.lock();
        extra
            .stop_wakers
            .iter()
            .map(|it| it.clone_ref(py))
            .collect()
    };
    let after = after.map(|after| after.as_secs_f64());
    for waker in wakers {
        or_unraisable(waker.bind(py).call1((after,)).map(drop), this);
    }
}

/// Cancels a task that has begun elsewhere, and terminates it there; `None` if it runs here.
fn stop_elsewhere(task: &Bound<'_, Task>) -> Option<bool> {
    if let Some(stopped) = stop_durable(task) {
        return Some(stopped);
    }
    let is_there = |extra: &Mutex<Extra>| extra.lock().recall.is_some();
    let stopped = task.get().known_extra().is_some_and(is_there)
        && completion::abandon(task, Place::Elsewhere);
    if stopped {
        completion::recall(task, true);
        drop(task.get().take_call(task));
    }
    stopped.then_some(true)
}

/// Asks the process that runs a durable task to stop it; `None` if it runs here. `false` if it has
/// ended, of which this process may not have heard yet.
fn stop_durable(task: &Bound<'_, Task>) -> Option<bool> {
    let cell = task.get();
    let link = durable::elsewhere(cell)?;
    let id = cell.quiet_id().to_string();
    match link.ask(task.py(), |journal| journal.stop(&id)) {
        Ok(stopped) => Some(matches!(stopped, Cancelled::Yes | Cancelled::Running)),
        Err(error) => {
            error.write_unraisable(task.py(), Some(task));
            None
        }
    }
}

/// Ends an overdue call.
pub(crate) fn interrupt(py: Python<'_>, shot: Shot) {
    let Shot {
        task,
        at,
        why,
        late,
        tried,
    } = shot;
    let this = task.bind(py);
    if this.get().phase() != Phase::Running && !late {
        return;
    }
    let at = match at {
        At::AnyCall => match find(this) {
            Some(at) => at,
            // The call has returned, or has not begun and will find the flag.
            None => return,
        },
        at => at,
    };
    match &at {
        At::Call { target, call, .. } => {
            // Any greenlet that the thread runs at that moment would get the exception.
            if !gevent::are_there(py) && target.shoot(py, *call, why) == Shooting::Later {
                let shot = Shot {
                    task,
                    at,
                    why,
                    late,
                    tried,
                };
                return try_soon(py, shot);
            }
        }
        At::Coroutine(attempt) => {
            if !is_at(this, *attempt) {
                return;
            }
            policy::with(this.get(), |rules| rules.why = Some(why));
            or_unraisable(cancel_coroutine(this), this);
        }
        At::AnyCall => return,
    }
    let shot = Shot {
        task,
        at,
        why,
        late,
        tried: None,
    };
    if let Err(error) = set(py, GRACE, shot, |py, shot| give_up(py, &shot)) {
        error.write_unraisable(py, None);
    }
}

/// Retries a call that must not be interrupted where it is now. After `GRACE` its future ends
/// without it, and the retries go on.
fn try_soon(py: Python<'_>, mut shot: Shot) {
    let now = Instant::now();
    let (since, glance) = shot.tried.unwrap_or((now, GLANCE));
    if !shot.late && now.duration_since(since) >= GRACE {
        give_up(py, &shot);
        shot.late = true;
    }
    let At::Call { target, call, .. } = &shot.at else {
        return;
    };
    if !target.still_runs(*call) {
        return;
    }
    shot.tried = Some((since, LONGEST_GLANCE.min(2 * glance)));
    if let Err(error) = set(py, glance, shot, interrupt) {
        error.write_unraisable(py, None);
    }
}

/// Whether this attempt of a task runs.
fn is_at(this: &Bound<'_, Task>, attempt: u32) -> bool {
    this.get().phase() == Phase::Running && policy::attempts(this.get()) == Some(attempt)
}

fn cancel_coroutine(this: &Bound<'_, Task>) -> PyResult<()> {
    match transition::canceller(this) {
        Some(canceller) => call_with(&canceller, []).map(drop),
        None => Ok(()),
    }
}

/// Where a task runs on a thread.
fn slot_of(this: &Bound<'_, Task>) -> Option<Arc<WorkerSlot>> {
    let py = this.py();
    let core = this.get().core()?;
    core.slots()
        .into_iter()
        .find(|slot| slot.task(py).is_some_and(|task| task.is(this)))
}

/// The identifier of the thread on which a task runs, as `threading.get_ident` returns it.
pub(crate) fn thread_of(this: &Bound<'_, Task>) -> Option<c_ulong> {
    (this.get().phase() == Phase::Running).then_some(())?;
    slot_of(this).map(|slot| slot.target().thread().ident())
}

/// The task's running call, if there is one.
fn find(this: &Bound<'_, Task>) -> Option<At> {
    let py = this.py();
    let slot = slot_of(this)?;
    loop {
        let call = slot.call()?;
        if !slot.task(py).is_some_and(|task| task.is(this)) {
            return None;
        }
        // The same call before and after the check, so it belongs to this task.
        if slot.call() == Some(call) {
            return Some(At::Call {
                target: Arc::clone(slot.target()),
                call,
                waits: slot.waits().cloned(),
            });
        }
    }
}

/// Ends the future of an interrupted call that has not ended in time.
pub(crate) fn give_up(py: Python<'_>, shot: &Shot) {
    let this = shot.task.bind(py);
    let Some(core) = this.get().core() else {
        return;
    };
    match &shot.at {
        At::Call {
            target,
            call,
            waits,
        } => {
            if !shot.late {
                // In one critical section, on which `came_back` waits: the counters are updated
                // there.
                let astray = with_critical_section(this.as_any(), || {
                    target.give_up(*call).then(|| {
                        limits::keep_turn(this.get());
                        core.stuck().add(waits.as_ref(), core.most_stuck())
                    })
                });
                let Some(astray) = astray else {
                    return;
                };
                look_after(py, core, astray);
            }
            // `try_soon` goes on by itself while the call could not be interrupted.
            if cfg!(not(Py_3_12)) && shot.tried.is_none() {
                target.take_back(py, *call);
                try_later(py, shot);
            }
            if shot.late {
                return;
            }
        }
        At::Coroutine(attempt) => {
            // As for a call: `limits::end_code` has the same section.
            let goes_on = with_critical_section(this.as_any(), || {
                let goes_on = is_at(this, *attempt) && this.get().goes_on();
                if goes_on {
                    this.get().mark_overdue();
                    permits::stay(this.get());
                }
                goes_on
            });
            if !goes_on {
                return;
            }
        }
        At::AnyCall => return,
    }
    let (end, note) = match shot.why {
        Why::Timeout => (
            End::Raised(into_exception(py, timed_out(this))),
            Note::TimedOut,
        ),
        Why::Stop => (End::Cancelled, Note::Stopped),
    };
    completion::finish_detached(this, end, Some(note));
}

/// Schedules another interrupt of a stuck call, which may return to Python code.
fn try_later(py: Python<'_>, shot: &Shot) {
    let At::Call {
        target,
        call,
        waits,
    } = &shot.at
    else {
        return;
    };
    if !target.still_runs(*call) {
        return;
    }
    let again = Shot {
        task: shot.task.clone_ref(py),
        at: At::Call {
            target: Arc::clone(target),
            call: *call,
            waits: waits.clone(),
        },
        why: shot.why,
        late: true,
        tried: None,
    };
    if let Err(error) = set(py, PAUSE, again, interrupt) {
        error.write_unraisable(py, None);
    }
}

/// The time between two attempts to interrupt or to replace a stuck call.
const PAUSE: Duration = Duration::from_secs(1);

/// The code of a task has ended after its future.
pub(crate) fn came_back(this: &Bound<'_, Task>, slot: &WorkerSlot) {
    // See `give_up`.
    with_critical_section(this.as_any(), || ());
    if let Some(core) = this.get().core()
        && let Some(woken) = core.stuck().remove(slot.waits(), core.most_stuck())
    {
        woken.log();
    }
    limits::give_up_turn(this);
}

/// Looks after a pool with a stuck worker.
fn look_after(py: Python<'_>, core: &Arc<Core>, astray: Added) {
    if astray.first {
        look_again(py, core);
    }
    if let Some(woken) = astray.woken {
        woken.log();
    }
    if astray.full {
        let core = Arc::clone(core);
        leftovers::work(py, move |py| {
            logging::warning(
                py,
                "pool %s: %s workers are stuck in tasks whose time is over and have been \
                 replaced; no further ones are, so tasks wait until some of those end",
                &[core.name(), &core.most_stuck().to_string()],
            );
        });
    }
}

/// Retries if no thread could replace a stuck one: nothing else would.
fn look_again(py: Python<'_>, core: &Arc<Core>) {
    if let Err(error) = timer::set_in_for(PAUSE, core, look_after_stuck) {
        error.write_unraisable(py, None);
    }
}

/// Looks after a pool until it has no stuck workers.
fn look_after_stuck(py: Python<'_>, core: &Arc<Core>) {
    if core.stuck().count() > 0 {
        core.pool().look_after();
        look_again(py, core);
    }
}

pub(crate) fn timed_out(this: &Bound<'_, Task>) -> PyErr {
    TaskTimeout::new_err(message(this))
}

fn message(this: &Bound<'_, Task>) -> String {
    format!(
        "task {:?} took longer than its timeout of {} s",
        name_of(this),
        policy::timeout(this).unwrap_or_default().as_secs_f64()
    )
}

/// Adds the message to an exception by which a call was interrupted.
pub(crate) fn explain(this: &Bound<'_, Task>, exception: &Bound<'_, PyAny>) {
    if !exception.is_instance_of::<TaskTimeout>() {
        return;
    }
    // CPython raises a class, without a message.
    let explained = exception.getattr("args").and_then(|args| {
        if args.len()? == 0 {
            exception.setattr("args", (message(this),))?;
        }
        Ok(())
    });
    or_unraisable(explained, this);
}
