//! `limit=` and `rate=`: how many tasks of one key run at once, and how often one starts.
//!
//! What may start is decided by the engine's `Lane`; here is who is in which lane.

use std::sync::Arc;
use std::time::Instant;

use flask_delay_engine::{self as engine, Mutex, Terms};
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::dispatch;
use super::timer::{self, Alarm};
use crate::bindings::core::executor::Core;
use crate::bindings::core::keys::Table;
use crate::bindings::core::leftovers;
use crate::bindings::core::task::FutureCell;

/// The tasks of one key.
#[pyclass(frozen, name = "_Lane", module = "flask_delay._native")]
pub(crate) struct Lane {
    key: Py<PyAny>,
    table: Arc<Table>,
    /// A leaf; nothing is dropped under it.
    inner: Mutex<Inner>,
}

#[pymethods]
impl Lane {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.key)?;
        // Held by another thread: not traversed this time, so nothing is freed too early.
        if let Some(inner) = self.inner.try_lock() {
            for task in inner.lane.jobs() {
                visit.call(task)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let held = self.inner.lock().lane.drain();
        drop(held);
    }
}

struct Inner {
    lane: engine::Lane<Py<FutureCell>>,
    /// Those that run, or have been let go to, by their addresses; they live meanwhile.
    running: Vec<usize>,
    /// Tasks that are not done, each of which keeps the lane in its table.
    tasks: usize,
    /// When it will be looked at again because of its rate.
    alarm: Option<Instant>,
}

fn address(task: &Bound<'_, FutureCell>) -> usize {
    task.as_ptr() as usize
}

/// The lane of `key`, which stays there until [`leave_for_good`].
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
                    lane: engine::Lane::new(),
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

/// Whether `task` may start now; otherwise the lane keeps it, and lets it go when it may.
pub(crate) fn offer(
    lane: &Bound<'_, Lane>,
    task: &Bound<'_, FutureCell>,
    terms: Terms,
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
        // It is for those that wait, for whom somebody looks again.
        Err(error) => error.write_unraisable(lane.py(), Some(task)),
        Ok(()) => {}
    }
    Ok(goes)
}

/// This task, which stands at `rank` if it waits, has had its turn, or does not want one any
/// more; others may start.
pub(crate) fn leave(lane: &Bound<'_, Lane>, task: &Bound<'_, FutureCell>, rank: i64) {
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

/// It may be time for further tasks.
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

/// One task less that needs the lane.
pub(crate) fn leave_for_good(lane: &Bound<'_, Lane>) {
    lane.get().inner.lock().tasks -= 1;
    sweep_up(lane);
}

fn sweep_up(lane: &Bound<'_, Lane>) {
    let mine = lane.clone().unbind();
    leftovers::work(lane.py(), move |py| {
        let lane = mine.bind(py);
        if let Err(error) = sweep(lane) {
            error.write_unraisable(py, Some(lane));
        }
    });
}

/// The executor whose tasks these are, if it is still there.
pub(crate) fn core_of(lane: &Lane) -> Option<Arc<Core>> {
    lane.table.core()
}

/// Takes the lane out of its table, if nobody needs it and no rate has to remember what
/// started last; else in time.
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
        // Looked at once more: tasks enter under the table's lock.
        Some(found) if found.is(lane) && is_unused() => lanes.del_item(key),
        _ => Ok(()),
    })
}

/// What holds up a task that has not started: the addresses of those of its lane that run, and
/// how many of them have to end.
pub(crate) fn held_up(
    lane: &Bound<'_, Lane>,
    task: &Bound<'_, FutureCell>,
    limit: Option<usize>,
) -> Option<(Vec<usize>, usize)> {
    let inner = lane.get().inner.lock();
    if inner.running.contains(&address(task)) {
        return None;
    }
    let is_task = |it: &Py<FutureCell>| it.as_ptr() as usize == address(task);
    let must_end = inner.lane.must_end(limit, is_task);
    (must_end > 0).then(|| (inner.running.clone(), must_end))
}

impl Inner {
    fn release(&mut self, now: Instant) -> Vec<Py<FutureCell>> {
        let go = self.lane.release(now);
        self.running
            .extend(go.iter().map(|it| it.as_ptr() as usize));
        go
    }

    /// When nothing but a rate's memory keeps the lane, until when it does, if no alarm is set.
    fn end_of_memory(&mut self, now: Instant) -> Option<Instant> {
        if self.tasks > 0 || self.alarm.is_some() {
            return None;
        }
        self.alarm = self.lane.idle_at(now).filter(|at| *at > now);
        self.alarm
    }

    /// When the lane has to be looked at, if no alarm is set for so early.
    fn next_alarm(&mut self, now: Instant) -> Option<Instant> {
        let next = self.lane.next(now)?;
        if self.alarm.is_some_and(|alarm| alarm <= next) {
            return None;
        }
        self.alarm = Some(next);
        Some(next)
    }
}

fn let_go(lane: &Bound<'_, Lane>, go: Vec<Py<FutureCell>>, alarm: Option<Instant>) {
    let py = lane.py();
    if let Err(error) = set_alarm(lane, alarm) {
        error.write_unraisable(py, None);
    }
    for task in go {
        dispatch::let_go(task.bind(py));
    }
}

fn set_alarm(lane: &Bound<'_, Lane>, at: Option<Instant>) -> PyResult<()> {
    let Some(at) = at else {
        return Ok(());
    };
    let set = timer::set(at, Alarm::Lane(lane.clone().unbind()));
    if set.is_err() {
        // None is: whoever comes by sets it again.
        lane.get().inner.lock().alarm.take_if(|alarm| *alarm == at);
    }
    set.map(drop)
}
