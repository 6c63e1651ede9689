//! A dict of users' keys. Their `__eq__` and `__hash__` may be Python code, which runs under no
//! Rust lock. So a step on the dict runs under a lock of Python's, which releases the GIL while a
//! thread waits for it. It is reentrant: a signal handler may submit too.

use std::sync::{Arc, Weak};
use std::time::Instant;

use flask_delay_engine::{self as engine, Mutex};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3::{PyTraverseError, PyVisit};

use super::executor::Core;
use super::options::Twin;
use super::task::{Task, name_of};
use crate::bindings::errors::DuplicateTask;
use crate::bindings::ffi::call::call_with;
use crate::bindings::names;

/// Values by key, for one process.
pub(crate) struct Table {
    core: Weak<Core>,
    lock: Py<PyAny>,
    values: Py<PyDict>,
}

impl Table {
    pub(crate) fn new(py: Python<'_>, core: &Arc<Core>) -> PyResult<Self> {
        let lock = py.import("_thread")?.getattr("RLock")?.call0()?;
        Ok(Self {
            core: Arc::downgrade(core),
            lock: lock.unbind(),
            values: PyDict::new(py).unbind(),
        })
    }

    /// The executor of the tasks, if it still exists.
    pub(crate) fn core(&self) -> Option<Arc<Core>> {
        self.core.upgrade()
    }

    /// Runs `step` on the dict, which no other thread uses meanwhile.
    pub(crate) fn with<'py, R>(
        &self,
        py: Python<'py>,
        step: impl FnOnce(&Bound<'py, PyDict>) -> PyResult<R>,
    ) -> PyResult<R> {
        let lock = self.lock.bind(py);
        let release = lock.getattr(names::release(py))?;
        call_with(&lock.getattr(names::acquire(py))?, [])?;
        let _taken = Taken(release);
        step(self.values.bind(py))
    }
}

/// Holds the lock until it is dropped, also by a panic.
struct Taken<'py>(Bound<'py, PyAny>);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Err(error) = call_with(&self.0, []) {
            error.write_unraisable(self.0.py(), None);
        }
    }
}

/// The tasks of one key.
#[pyclass(frozen, name = "_Lane", module = "flask_delay._native")]
pub(crate) struct Lane {
    pub(crate) key: Py<PyAny>,
    pub(crate) table: Arc<Table>,
    /// A leaf; nothing is dropped under it.
    pub(crate) inner: Mutex<Inner>,
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

pub(crate) struct Inner {
    pub(crate) lane: engine::Limiter<Py<Task>>,
    /// Addresses of tasks that run, or were released to run; the tasks live meanwhile.
    pub(crate) running: Vec<usize>,
    /// The number of tasks that are not done; each keeps the limiter in its table.
    pub(crate) tasks: usize,
    /// When the timer checks the rate again.
    pub(crate) alarm: Option<Instant>,
}

pub(crate) fn address(task: &Bound<'_, Task>) -> usize {
    task.as_ptr() as usize
}

/// The blockers of a task that has not started: the addresses of its limiter's running tasks, and
/// how many of them must end.
pub(crate) fn held_up(
    lane: &Bound<'_, Lane>,
    task: &Bound<'_, Task>,
    limit: Option<usize>,
) -> Option<(Vec<usize>, usize)> {
    let inner = lane.get().inner.lock();
    if inner.running.contains(&address(task)) {
        return None;
    }
    let is_task = |it: &Py<Task>| it.as_ptr() as usize == address(task);
    let must_end = inner.lane.must_end(limit, is_task);
    (must_end > 0).then(|| (inner.running.clone(), must_end))
}

impl Inner {
    pub(crate) fn release(&mut self, now: Instant) -> Vec<Py<Task>> {
        let go = self.lane.release(now);
        self.running
            .extend(go.iter().map(|it| it.as_ptr() as usize));
        go
    }

    /// The end of the rate's memory, if nothing else keeps the limiter and no timer is set.
    pub(crate) fn end_of_memory(&mut self, now: Instant) -> Option<Instant> {
        if self.tasks > 0 || self.alarm.is_some() {
            return None;
        }
        self.alarm = self.lane.idle_at(now).filter(|at| *at > now);
        self.alarm
    }

    /// When to check the limiter, unless a timer is set for then or earlier.
    pub(crate) fn next_alarm(&mut self, now: Instant) -> Option<Instant> {
        let next = self.lane.next(now)?;
        if self.alarm.is_some_and(|alarm| alarm <= next) {
            return None;
        }
        self.alarm = Some(next);
        Some(next)
    }
}

/// Claims `key` for `this`; returns the future of the task that has it, if any.
///
/// # Errors
///
/// `DuplicateTask`, if `twin` asks for it.
pub(crate) fn claim<'py>(
    table: &Table,
    key: &Bound<'py, PyAny>,
    this: &Bound<'py, Task>,
    twin: Twin,
) -> PyResult<Option<Bound<'py, Task>>> {
    let first = table.with(this.py(), |claims| {
        if let Some(first) = claims.get_item(key)? {
            let first = first.cast_into::<Task>()?;
            if !first.get().phase().is_done() {
                return Ok(Some(first));
            }
        }
        claims.set_item(key, this)?;
        Ok(None)
    })?;
    match (&first, twin) {
        // Neither the key nor the id, which give access to the first task: the message may reach
        // the client of the request.
        (Some(first), Twin::AnError) => Err(DuplicateTask::new_err(format!(
            "task {:?} was not accepted: the task {:?}, which has the same key, is not done yet",
            name_of(this),
            name_of(first),
        ))),
        _ => Ok(first),
    }
}

/// Releases the key of a task that is done.
pub(crate) fn release(
    table: &Table,
    key: &Bound<'_, PyAny>,
    this: &Bound<'_, Task>,
) -> PyResult<()> {
    table.with(this.py(), |claims| match claims.get_item(key)? {
        Some(first) if first.is(this) => claims.del_item(key),
        _ => Ok(()),
    })
}
