//! `limit=`, `rate=`, `unique=` and `expires=`: when a task takes and returns what they count.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flask_delay_engine::{self as engine, Limits, Mutex};
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;

use super::permits;
use super::timer::{self, OfExecutor};
use crate::bindings::core::durable;
use crate::bindings::core::executor::Core;
use crate::bindings::core::keys::{self, Inner, Lane, Table, address};
use crate::bindings::core::leftovers;
use crate::bindings::core::machine::Place;
use crate::bindings::core::options::{Policy, Start};
use crate::bindings::core::policy::{self, Window, rank};
use crate::bindings::core::settings::Mode;
use crate::bindings::core::task::{Task, name_of};
use crate::bindings::core::transition::Phase;
use crate::bindings::errors::{id_is_taken, or_unraisable};
use crate::bindings::ffi::arguments::Arguments;

impl OfExecutor for Lane {
    fn executor(&self) -> Option<Arc<Core>> {
        self.table.core()
    }
}

/// Applies the policy to a task that no other thread has yet. Returns the existing future if the
/// policy allows only one.
///
/// # Errors
///
/// What the user's key function raises, `TypeError` for a key that is not hashable,
/// `DuplicateTask`.
pub(crate) fn give<'py>(
    this: &Bound<'py, Task>,
    policy: &Bound<'py, Policy>,
    arguments: &Arguments<'_, 'py>,
    core: &Arc<Core>,
) -> PyResult<Option<Bound<'py, Task>>> {
    let asked = policy.get();
    if asked.stream_wait.is_some() && !this.get().yields() {
        return Err(PyTypeError::new_err(format!(
            "the option 'stream_wait' is for generator functions, whose readers are waited for, \
             and {:?} is none: leave it out",
            name_of(this)
        )));
    }
    if core.mode == Mode::Threads && asked.needs_timer() {
        // While an error can still tell the caller that the timer does not start.
        timer::ready()?;
    }
    policy::begin(this.get(), |rules| {
        rules.policy = Some(policy.clone().unbind());
        // Beyond the clock's range: never.
        rules.expires = asked
            .expires
            .and_then(|time| Instant::now().checked_add(time));
        rules.start = asked.start;
        rules.withheld = asked.withheld;
        rules.from = asked.start.and_then(|start| start.from(this.get().born()));
    });
    if asked.keeps.is_some() {
        this.get().mark_journaled();
    }
    if let Some(id) = &asked.id
        && !this.get().take_id(this, id)
    {
        return Err(id_is_taken(id));
    }
    let given = claim_and_enter(this, asked, arguments, core);
    if given.is_err() {
        or_unraisable(give_back_place(this), this);
        ended(this);
        this.get().forget_id(this);
    }
    given
}

/// Takes what is shared with other tasks: as [`give`].
fn claim_and_enter<'py>(
    this: &Bound<'py, Task>,
    asked: &Policy,
    arguments: &Arguments<'_, 'py>,
    core: &Arc<Core>,
) -> PyResult<Option<Bound<'py, Task>>> {
    let py = this.py();
    if let Some(twin) = asked.unique {
        let key = asked.claim_key(arguments)?;
        let first = keys::claim(core.claims(py)?, &key, this, twin)?;
        if first.is_some() {
            return Ok(first);
        }
        policy::with(this.get(), |rules| rules.claim = Some(key.unbind()));
    }
    if let Some(wait) = asked.debounce {
        debounce(this, asked, wait, arguments, core)?;
    }
    if asked.terms(0).is_none() {
        return Ok(None);
    }
    // Without threads, one process runs its tasks one after another.
    if asked.on_machine && core.mode == Mode::Threads {
        let place = Place::new(asked, arguments, core)?.map(Box::new);
        policy::with(this.get(), |rules| rules.place = place);
    } else {
        let lane = asked
            .lane_key(arguments)
            .and_then(|key| enter(core.lanes(py)?, &key))?;
        policy::with(this.get(), |rules| rules.lane = Some(lane.unbind()));
    }
    Ok(None)
}

/// Puts a call in the place of the last one of its key, unless that is due. It replaces that one
/// once it is accepted.
fn debounce<'py>(
    this: &Bound<'py, Task>,
    asked: &Policy,
    wait: Duration,
    arguments: &Arguments<'_, 'py>,
    core: &Arc<Core>,
) -> PyResult<()> {
    let py = this.py();
    // Unlike limits, which functions share, a call stands for no other function's.
    let key = (arguments.function.as_any(), asked.lane_key(arguments)?)
        .into_pyobject(py)?
        .into_any();
    core.debounced(py)?.with(py, |calls| {
        // In the table's lock, so that of two calls one replaces the other.
        let now = Instant::now();
        let last = calls.get_item(&key)?;
        let last = last.map(Bound::cast_into::<Task>).transpose()?;
        let open = last.filter(|it| it.get().phase() == Phase::Pending);
        let open = open.and_then(|last| {
            let window = |rules: &mut policy::Rules| {
                let window = rules.window.as_ref().filter(|it| now < it.due)?;
                Some(window.began)
            };
            policy::find(last.get(), window).map(|began| (last, began))
        });
        let began = open.as_ref().map_or(now, |(_, began)| *began);
        // Times beyond the clock's range never come.
        let most = asked.max_wait.and_then(|most| began.checked_add(most));
        let due = match (now.checked_add(wait), most) {
            (Some(due), Some(most)) => due.min(most),
            (Some(due), None) | (None, Some(due)) => due,
            (None, None) => return Err(PyOverflowError::new_err("the time never comes")),
        };
        calls.set_item(&key, this)?;
        let window = Box::new(Window {
            key: key.clone().unbind(),
            began,
            due,
            replaces: open.map(|(last, _)| last.unbind()),
        });
        policy::with(this.get(), |rules| {
            rules.start = Some(Start::After(due.saturating_duration_since(now)));
            rules.from = Some(due);
            rules.window = Some(window);
        });
        Ok(())
    })
}

/// The call that a debounced task replaces, now that it is accepted.
pub(crate) fn replaced<'py>(this: &Bound<'py, Task>) -> Option<Bound<'py, Task>> {
    let last = policy::find(this.get(), |rules| rules.window.as_mut()?.replaces.take());
    last.map(|last| last.into_bound(this.py()))
}

/// Gives its place back to the call that a debounced task was to replace: it was not accepted.
pub(crate) fn give_back_place(this: &Bound<'_, Task>) -> PyResult<()> {
    let (py, Some(core)) = (this.py(), this.get().core()) else {
        return Ok(());
    };
    let window = policy::find(this.get(), |rules| {
        let window = rules.window.as_mut()?;
        Some((window.replaces.take()?, window.key.clone_ref(py)))
    });
    let Some((last, key)) = window else {
        return Ok(());
    };
    core.debounced(py)?
        .with(py, |calls| match calls.get_item(&key)? {
            Some(found) if found.is(this) => calls.set_item(&key, last.bind(py)),
            _ => Ok(()),
        })
}

pub(crate) fn started(this: &Bound<'_, Task>) {
    durable::publish_start(this.get());
    let alarm = policy::find(this.get(), |rules| {
        rules.attempts += 1;
        rules.why = None;
        rules.alarm.take()
    });
    if let Some(alarm) = alarm {
        timer::unset(this.py(), alarm);
    }
}

/// The last attempt is over, but its outcome is not visible yet.
pub(crate) fn attempted(this: &Bound<'_, Task>) {
    stop_clock(this);
    leave_lane(this);
}

/// An attempt is over. For a coroutine, its timeout ends here.
pub(crate) fn stop_clock(this: &Bound<'_, Task>) {
    let alarm = policy::find(this.get(), |rules| rules.alarm.take());
    if let Some(alarm) = alarm {
        timer::unset(this.py(), alarm);
    }
}

/// Lets other tasks of the same key start.
pub(crate) fn leave_lane(this: &Bound<'_, Task>) {
    let py = this.py();
    let taken = policy::with(this.get(), |rules| {
        let lane = rules.lane.as_ref().map(|lane| lane.bind(py).clone());
        let permit = rules.place.as_mut().and_then(|place| place.take());
        (lane, permit)
    });
    let Some((lane, permit)) = taken else {
        return;
    };
    if let Some(lane) = lane {
        leave(&lane, this, rank(this));
    }
    if let Some(permit) = permit {
        permit.give_back();
    }
}

/// The task is done, or was never accepted.
#[cold]
pub(crate) fn ended(this: &Bound<'_, Task>) {
    let py = this.py();
    keep_turn_of_coroutine(this);
    let taken = policy::with(this.get(), |rules| {
        (
            rules.alarm.take(),
            rules.begin.take(),
            rules.lane.take(),
            rules.claim.take(),
            std::mem::take(&mut rules.previous),
            rules.dependencies.take(),
            rules.place.take(),
            rules.window.take(),
        )
    });
    let Some((alarm, begin, lane, claim, previous, dependencies, place, window)) = taken else {
        return;
    };
    if let Some(permit) = place.and_then(|mut place| place.take()) {
        permit.give_back();
    }
    for previous in previous {
        leftovers::let_go(Some(previous.into_bound(py)));
    }
    if let Some(dependencies) = dependencies {
        dependencies.forget(this);
    }
    for alarm in [alarm, begin].into_iter().flatten() {
        timer::unset(py, alarm);
    }
    let Some(core) = this.get().core() else {
        return;
    };
    if let Some(lane) = lane {
        let lane = lane.into_bound(py);
        leave(&lane, this, rank(this));
        leave_for_good(&lane);
    }
    // Last: the task's place in the limiter depends on the policy.
    let policy = policy::find(this.get(), |rules| rules.policy.take());
    leftovers::let_go(policy.map(|policy| policy.into_bound(py)));
    if let Some(claim) = claim {
        // It may happen late: a task that is done holds up no other of its key.
        let (core, this) = (Arc::clone(core), this.clone().unbind());
        leftovers::work(py, move |py| {
            let this = this.bind(py);
            let released = core
                .claims(py)
                .and_then(|table| keys::release(table, claim.bind(py), this));
            or_unraisable(released, this);
        });
    }
    if let Some(window) = window {
        // As above.
        let (core, this) = (Arc::clone(core), this.clone().unbind());
        leftovers::work(py, move |py| {
            let this = this.bind(py);
            let released = core
                .debounced(py)
                .and_then(|table| keys::release(table, window.key.bind(py), this));
            or_unraisable(released, this);
        });
    }
    core.held().remove(this);
}

/// Called before a task ends without its code, which keeps the limiter's permit until its end.
pub(crate) fn keep_turn(this: &Task) {
    let place = policy::find(this, |rules| {
        rules.behind = rules.lane.take();
        rules.place.take()
    });
    match place.and_then(|mut place| place.take()) {
        Some(permit) => permits::keep_behind(this, permit),
        None => permits::stay(this),
    }
}

/// Keeps the turn of a task that has ended while its coroutine goes on.
fn keep_turn_of_coroutine(this: &Bound<'_, Task>) {
    // `end_code` has the same section: either it finds the turn, or the coroutine has ended.
    with_critical_section(this.as_any(), || {
        if this.get().goes_on() {
            keep_turn(this.get());
        }
    });
}

/// The coroutine of a task has ended, or has not begun.
pub(crate) fn end_code(this: &Bound<'_, Task>) {
    with_critical_section(this.as_any(), || this.get().end_code());
    give_up_turn(this);
}

/// The code of a task has ended, maybe after its future.
pub(crate) fn give_up_turn(this: &Bound<'_, Task>) {
    let taken = policy::with(this.get(), |rules| {
        (rules.behind.take(), rules.permit_behind.take())
    });
    let Some((lane, permit)) = taken else {
        return;
    };
    if let Some(permit) = permit {
        permit.give_back();
    }
    if let Some(lane) = lane {
        let lane = lane.bind(this.py());
        leave(lane, this, rank(this));
        leave_for_good(lane);
    }
}

/// The limiter of `key`, which stays in the table until [`leave_for_good`].
pub(crate) fn enter<'py>(
    table: &Arc<Table>,
    key: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, Lane>> {
    let py = key.py();
    table.with(py, |lanes| {
        let lane = if let Some(lane) = lanes.get_item(key)? {
            lane.cast_into::<Lane>()?
        } else {
            let lane = Lane {
                key: key.clone().unbind(),
                table: Arc::clone(table),
                inner: Mutex::new(Inner {
                    lane: engine::Limiter::new(),
                    running: Vec::new(),
                    tasks: 0,
                    alarm: None,
                }),
            };
            let lane = Bound::new(py, lane)?;
            lanes.set_item(key, &lane)?;
            lane
        };
        lane.get().inner.lock().tasks += 1;
        Ok(lane)
    })
}

/// Whether `task` may start now; otherwise the limiter holds it and releases it later.
pub(crate) fn offer(
    lane: &Bound<'_, Lane>,
    task: &Bound<'_, Task>,
    terms: Limits,
) -> PyResult<bool> {
    let job = task.clone().unbind();
    let (mut go, alarm) = {
        let mut inner = lane.get().inner.lock();
        let now = Instant::now();
        let go = inner.lane.offer(job, terms, now);
        if go.is_some() {
            inner.running.push(address(task));
        }
        (go, inner.next_alarm(now))
    };
    let set = set_alarm(lane, alarm);
    let goes = go.take().is_some();
    match set {
        Err(error) if !goes => return Err(error),
        // The timer is for held tasks, for which a later call tries again.
        Err(error) => error.write_unraisable(lane.py(), Some(task)),
        Ok(()) => {}
    }
    Ok(goes)
}

/// The task has had its turn, or gives it up; others may start. A held task stands at `rank`.
pub(crate) fn leave(lane: &Bound<'_, Lane>, task: &Bound<'_, Task>, rank: i64) {
    let (left, go, alarm) = {
        let mut inner = lane.get().inner.lock();
        let now = Instant::now();
        let mut left = None;
        let place = inner.running.iter().position(|it| *it == address(task));
        if let Some(place) = place {
            inner.running.swap_remove(place);
            inner.lane.finished();
        } else {
            left = inner
                .lane
                .remove(rank, |it| it.as_ptr() as usize == address(task));
        }
        let go = inner.release(now);
        (left, go, inner.next_alarm(now))
    };
    drop(left);
    let_go(lane, go, alarm);
}

/// The limiter may release tasks by now.
pub(crate) fn advance(lane: &Bound<'_, Lane>) {
    let (go, alarm) = {
        let mut inner = lane.get().inner.lock();
        let now = Instant::now();
        inner.alarm = None;
        let go = inner.release(now);
        (go, inner.next_alarm(now))
    };
    let_go(lane, go, alarm);
    sweep_up(lane);
}

/// The limiter has one task less.
pub(crate) fn leave_for_good(lane: &Bound<'_, Lane>) {
    lane.get().inner.lock().tasks -= 1;
    sweep_up(lane);
}

fn sweep_up(lane: &Bound<'_, Lane>) {
    let mine = lane.clone().unbind();
    leftovers::work(lane.py(), move |py| {
        let lane = mine.bind(py);
        if let Err(error) = sweep(lane)
            && !timer::has_stopped()
        {
            error.write_unraisable(py, Some(lane));
        }
    });
}

/// Removes the limiter from its table if it has no tasks and its rate needs no recent starts;
/// otherwise sets a timer for that.
fn sweep(lane: &Bound<'_, Lane>) -> PyResult<()> {
    let py = lane.py();
    let cell = lane.get();
    let is_unused = || {
        let inner = cell.inner.lock();
        inner.tasks == 0 && inner.lane.is_idle(Instant::now())
    };
    let alarm = cell.inner.lock().end_of_memory(Instant::now());
    set_alarm(lane, alarm)?;
    if !is_unused() {
        return Ok(());
    }
    let key = cell.key.bind(py);
    cell.table.with(py, |lanes| match lanes.get_item(key)? {
        // Checked again: tasks enter under the table's lock.
        Some(found) if found.is(lane) && is_unused() => lanes.del_item(key),
        _ => Ok(()),
    })
}

fn let_go(lane: &Bound<'_, Lane>, go: Vec<Py<Task>>, alarm: Option<Instant>) {
    let py = lane.py();
    if let Err(error) = set_alarm(lane, alarm)
        && !timer::has_stopped()
    {
        error.write_unraisable(py, None);
    }
    for task in go {
        if let Some(core) = task.get().core() {
            (core.runner.release)(task.bind(py));
        }
    }
}

fn set_alarm(lane: &Bound<'_, Lane>, at: Option<Instant>) -> PyResult<()> {
    let Some(at) = at else {
        return Ok(());
    };
    let set = timer::set(at, lane, advance);
    if set.is_err() {
        // No timer is set: the next caller sets it.
        lane.get().inner.lock().alarm.take_if(|alarm| *alarm == at);
    }
    set.map(drop)
}
