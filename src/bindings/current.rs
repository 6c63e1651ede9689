//! What each worker does now: for `current_task`, for waits, and for the report at exit.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use flask_delay_engine::{self as engine, Handle};
use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::bell::{Bell, Deferred};
use super::cell::FutureCell;
use super::core::{Core, Task};
use super::coroutine::current_task as current_coroutine;
use super::errors::{CancelledError, TaskRetry};
use super::ffi::fork::generation;
use super::lifecycle::progress_class;
use super::policies::target::{self, Covered, Ended, Target};
use super::settle::Phase;

/// Where a thread's task lies while it runs. The lock is a leaf, and nothing is dropped
/// under it; only the report at exit and who stops a task come from another thread.
pub(crate) struct Desk {
    task: Mutex<Option<Py<FutureCell>>>,
    turns: AtomicU64,
    /// The call of the task's function, while that runs.
    call: AtomicU64,
    target: Arc<Target>,
    /// A worker's.
    waits: Option<Arc<Waits>>,
}

impl Desk {
    /// One of the calling thread's; a worker's, if it has waits.
    pub(crate) fn new(waits: Option<Arc<Waits>>) -> Self {
        Self {
            task: Mutex::default(),
            turns: AtomicU64::new(0),
            call: AtomicU64::new(target::NONE),
            target: Target::own(),
            waits,
        }
    }

    pub(crate) fn target(&self) -> &Arc<Target> {
        &self.target
    }

    pub(crate) fn waits(&self) -> Option<&Arc<Waits>> {
        self.waits.as_ref()
    }

    /// The call of the task's function, while that runs.
    pub(crate) fn call(&self) -> Option<target::Call> {
        Some(self.call.load(Ordering::Relaxed)).filter(|call| *call != target::NONE)
    }

    /// The task's function is about to be called.
    pub(crate) fn begin(&self) -> target::Call {
        let call = self.target.begin();
        self.call.store(call, Ordering::Relaxed);
        // Who stops a task looks for its call after it has told it to stop.
        target::order();
        call
    }

    /// It has returned.
    pub(crate) fn end(&self, py: Python<'_>, call: target::Call) -> Ended {
        self.call.store(target::NONE, Ordering::Relaxed);
        self.target.leave(py, call)
    }

    pub(crate) fn put(&self, task: &Bound<'_, FutureCell>) {
        let previous = self.task.lock().replace(task.clone().unbind());
        // Outside of the lock; there is none, unless a defect ended a task half-way.
        drop(previous);
        // Written by the worker alone, so no read-modify-write is needed; read as a hint.
        let turns = self.turns.load(Ordering::Relaxed);
        self.turns.store(turns + 1, Ordering::Relaxed);
    }

    /// How many tasks have lain here.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    pub(crate) fn clear(&self) {
        let task = self.task.lock().take();
        drop(task);
    }

    pub(crate) fn task<'py>(&self, py: Python<'py>) -> Option<Bound<'py, FutureCell>> {
        self.task.lock().as_ref().map(|task| task.bind(py).clone())
    }
}

/// A worker, as code on its thread finds it.
pub(crate) struct Local {
    pub(crate) desk: Arc<Desk>,
    /// The executor whose worker this is.
    pub(crate) core: Weak<Core>,
    /// The executor's only task is the event loop.
    pub(crate) service: bool,
    /// The process that the worker is one of; a fork may have taken its thread elsewhere.
    pub(crate) generation: u32,
    pub(crate) waits: Arc<Waits>,
    pub(crate) deferred: Rc<Deferred>,
}

thread_local! {
    static LOCAL: OnceCell<Local> = const { OnceCell::new() };
    /// The process that this thread is a worker of. Apart from `LOCAL`, which is gone by the
    /// time that an exit handler runs on its thread.
    static WORKER: Cell<Option<u32>> = const { Cell::new(None) };
}

thread_local! {
    /// The tasks that this thread runs itself for want of workers, innermost last.
    static OWN: RefCell<Vec<Arc<Desk>>> = const { RefCell::new(Vec::new()) };
}

/// This thread runs a task itself until the guard is dropped.
pub(crate) struct Seat {
    pub(crate) desk: Arc<Desk>,
    /// Of a task that this one runs inside of.
    _covered: Option<Covered>,
}

impl Seat {
    pub(crate) fn take(task: &Bound<'_, FutureCell>, core: &Arc<Core>) -> Self {
        let covered = target::cover(task.py());
        let desk = Arc::new(Desk::new(None));
        desk.put(task);
        core.add_desk(&desk);
        OWN.with(|own| own.borrow_mut().push(Arc::clone(&desk)));
        Self {
            desk,
            _covered: covered,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let desk = OWN.with(|own| own.borrow_mut().pop());
        self.desk.clear();
        drop(desk);
    }
}

/// Notes that this thread is a worker, for its life.
pub(crate) fn set_local(local: Local) {
    WORKER.set(Some(local.generation));
    LOCAL.with(|cell| drop(cell.set(local)));
}

/// Runs `with` if this thread is a worker.
pub(crate) fn with_local<R>(with: impl FnOnce(&Local) -> R) -> Option<R> {
    // An error where a thread that ends has taken its locals apart already.
    LOCAL
        .try_with(|cell| cell.get().map(with))
        .unwrap_or_default()
}

/// As [`with_local`], if the thread is still a worker of its pool.
fn with_worker<R>(with: impl FnOnce(&Local) -> R) -> Option<R> {
    with_local(|local| (local.generation == generation()).then(|| with(local))).flatten()
}

/// Leaves it to this worker to ring `bells` as soon as it lets go of the GIL. Gives back
/// those that are to be rung now: all, if `may` is not set or this is no worker at work.
pub(crate) fn defer(bells: Vec<Arc<Bell>>, may: bool) -> Vec<Arc<Bell>> {
    let own = || OWN.try_with(|own| !own.borrow().is_empty());
    if bells.is_empty() || !may || own().unwrap_or_default() {
        return bells;
    }
    let mut bells = Some(bells);
    with_worker(|local| local.deferred.add(bells.take().unwrap_or_default()));
    bells.unwrap_or_default()
}

/// Has this worker ring the bells that were left to it, now.
pub(crate) fn ring() {
    drop(with_worker(|local| local.deferred.take()));
}

/// Whether this thread is a worker.
pub(crate) fn is_worker() -> bool {
    WORKER.get() == Some(generation())
}

/// Whether this thread runs the event loop.
pub(crate) fn is_loop() -> bool {
    with_worker(|local| local.service).unwrap_or(false)
}

/// Whether this thread is a worker, or runs a task itself.
pub(crate) fn is_at_work() -> bool {
    is_worker()
        || OWN
            .try_with(|own| !own.borrow().is_empty())
            .unwrap_or_default()
}

/// Notes that this thread's task waits, if it is a worker: another may be active in its
/// place until the guard is dropped.
pub(crate) fn waiting() -> Option<Waiting> {
    let waits = with_worker(|local| Arc::clone(&local.waits))?;
    waits.begin();
    Some(Waiting {
        waits,
        generation: generation(),
    })
}

/// A worker's waits. A task may be in several at once, as when it waits for one future
/// between two steps of `as_completed`; to the pool they are one.
pub(crate) struct Waits {
    handle: Handle<Task>,
    // A leaf; what it holds is dropped outside.
    inner: Mutex<(usize, Option<engine::Waiting<Task>>)>,
    /// For each call that nobody waits for any more. A leaf, too.
    stuck: Mutex<Vec<engine::Stuck<Task>>>,
}

impl Waits {
    pub(crate) fn new(handle: Handle<Task>) -> Self {
        Self {
            handle,
            inner: Mutex::new((0, None)),
            stuck: Mutex::default(),
        }
    }

    /// Nobody waits any more for a call that this worker runs, which counts as a wait until
    /// [`Waits::come_back`].
    pub(crate) fn give_up(&self) {
        // Before `begin`, which may start a thread and say so: the call may end meanwhile.
        let stuck = self.handle.stuck();
        self.stuck.lock().push(stuck);
        self.begin();
    }

    /// Such a call has ended.
    pub(crate) fn come_back(&self) {
        let stuck = self.stuck.lock().pop();
        drop(stuck);
        self.end();
    }

    fn begin(&self) {
        let first = {
            let mut inner = self.inner.lock();
            inner.0 += 1;
            inner.0 == 1
        };
        if first {
            let waiting = self.handle.waiting();
            let mut inner = self.inner.lock();
            // Another thread may have ended the wait meanwhile.
            let over = if inner.0 == 0 {
                Some(waiting)
            } else {
                inner.1 = Some(waiting);
                None
            };
            drop(inner);
            drop(over);
        }
    }

    fn end(&self) {
        let over = {
            let mut inner = self.inner.lock();
            inner.0 -= 1;
            if inner.0 == 0 { inner.1.take() } else { None }
        };
        drop(over);
    }
}

/// See [`waiting`]. May be dropped by any thread.
pub(crate) struct Waiting {
    waits: Arc<Waits>,
    generation: u32,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // In a process forked meanwhile, the books of the pool are not ours.
        if self.generation == generation() {
            self.waits.end();
        }
    }
}

/// Whether the executor has tasks that need this thread: it is one of its workers, or runs
/// the event loop and one of its coroutines.
pub(crate) fn is_worker_of(core: &Arc<Core>) -> bool {
    with_worker(|local| {
        local.core.as_ptr() == Arc::as_ptr(core) || (local.service && !core.afar().is_empty())
    })
    .unwrap_or(false)
}

/// The task that this thread runs, or whose coroutine this context belongs to.
pub(crate) fn task(py: Python<'_>) -> Option<Bound<'_, FutureCell>> {
    let runs = |task: &Bound<'_, FutureCell>| task.get().phase() == Phase::Running;
    let own = OWN
        .try_with(|own| own.borrow().last().and_then(|desk| desk.task(py)))
        .unwrap_or_default();
    if let Some(own) = own.filter(runs) {
        return Some(own);
    }
    // The event loop's thread runs coroutines, not the task that its desk shows.
    with_local(|local| (!local.service).then(|| local.desk.task(py)).flatten())
        .flatten()
        .filter(runs)
        .or_else(|| current_coroutine(py).filter(runs))
}

/// The handle of the task that runs on this thread.
#[pyclass(frozen, module = "flask_delay")]
pub(crate) struct CurrentTask;

fn required(py: Python<'_>) -> PyResult<Bound<'_, FutureCell>> {
    task(py).ok_or_else(|| {
        PyRuntimeError::new_err(
            "no task runs on this thread: current_task can be used inside a function that \
             was given to delay() or submit()",
        )
    })
}

#[pymethods]
#[expect(
    clippy::unused_self,
    reason = "the instance stands for the thread's task"
)]
impl CurrentTask {
    #[getter]
    fn id(&self, py: Python<'_>) -> PyResult<String> {
        let task = required(py)?;
        Ok(task.get().public_id(&task).hyphenated().to_string())
    }

    #[getter]
    fn future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, FutureCell>> {
        required(py)
    }

    #[getter]
    fn attempt<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        required(py)?.getattr("attempts")
    }

    #[getter]
    fn cancelled(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(required(py)?.get().told_to_stop())
    }

    fn check(&self, py: Python<'_>) -> PyResult<()> {
        if required(py)?.get().told_to_stop() {
            return Err(CancelledError::new_err("the task was told to stop"));
        }
        Ok(())
    }

    #[pyo3(signature = (after = None))]
    fn retry(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = super::wait::after)] after: Option<f64>,
    ) -> PyResult<()> {
        required(py)?;
        Err(TaskRetry::new_err((after,)))
    }

    #[pyo3(signature = (done, total, note = ""))]
    fn progress(
        &self,
        py: Python<'_>,
        done: Bound<'_, PyAny>,
        total: Bound<'_, PyAny>,
        note: &str,
    ) -> PyResult<()> {
        for (name, value) in [("done", &done), ("total", &total)] {
            if value.extract::<f64>().is_err() {
                return Err(PyTypeError::new_err(format!(
                    "progress() takes numbers, got {name}={}",
                    value.repr()?
                )));
            }
        }
        let task = required(py)?;
        let progress = progress_class(py)?
            .call1((done, total, note))?
            .cast_into::<PyTuple>()?
            .unbind();
        let previous = task.get().extra().lock().progress.replace(progress);
        drop(previous);
        Ok(())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        match task(py) {
            Some(task) => Ok(format!("<current_task {}>", task.repr()?)),
            None => Ok("<current_task: none on this thread>".to_owned()),
        }
    }
}
