//! The current task of each worker, for `current_task`, for waits and for the report at exit.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::bindings::core::executor::Core;
use crate::bindings::core::interrupt::{self, Covered};
use crate::bindings::core::link;
use crate::bindings::core::task::Task;
use crate::bindings::core::transition::Phase;
use crate::bindings::core::waiter::{Deferred, Waiter};
use crate::bindings::core::worker_slot::{Waits, WorkerSlot};
use crate::bindings::ffi::context::value_of;
use crate::bindings::ffi::fork::generation;

/// A worker's state, for code on its thread.
pub(crate) struct Local {
    pub(crate) slot: Arc<WorkerSlot>,
    pub(crate) core: Weak<Core>,
    /// The executor's only task is the event loop.
    pub(crate) service: bool,
    /// The worker's process; after a fork, the thread may be in another.
    pub(crate) generation: u32,
    pub(crate) waits: Arc<Waits>,
    pub(crate) deferred: Rc<Deferred>,
}

thread_local! {
    static LOCAL: OnceCell<Local> = const { OnceCell::new() };
    /// The generation in which this thread is a worker. Separate from `LOCAL`, which is destroyed
    /// before an exit handler runs on the thread.
    static WORKER: Cell<Option<u32>> = const { Cell::new(None) };
}

thread_local! {
    /// The tasks that this thread runs itself because there are no workers, innermost last.
    static OWN: RefCell<Vec<Arc<WorkerSlot>>> = const { RefCell::new(Vec::new()) };
}

/// Makes this thread run a task itself until the guard is dropped.
pub(crate) struct CallerSlot {
    pub(crate) slot: Arc<WorkerSlot>,
    /// Covers the call of an outer task.
    _covered: Option<Covered>,
}

impl CallerSlot {
    pub(crate) fn take(task: &Bound<'_, Task>, core: &Arc<Core>) -> Self {
        let covered = interrupt::cover(task.py());
        let slot = Arc::new(WorkerSlot::of_caller(task.py()));
        slot.put(task);
        core.add_slot(&slot);
        OWN.with(|own| own.borrow_mut().push(Arc::clone(&slot)));
        Self {
            slot,
            _covered: covered,
        }
    }
}

impl Drop for CallerSlot {
    fn drop(&mut self) {
        let slot = OWN.with(|own| own.borrow_mut().pop());
        self.slot.clear();
        drop(slot);
    }
}

/// Makes this thread a worker until it ends.
pub(crate) fn set_local(local: Local) {
    WORKER.set(Some(local.generation));
    LOCAL.with(|cell| drop(cell.set(local)));
}

pub(crate) fn with_local<R>(with: impl FnOnce(&Local) -> R) -> Option<R> {
    // An error if the thread is ending and has destroyed its locals.
    LOCAL
        .try_with(|cell| cell.get().map(with))
        .unwrap_or_default()
}

/// As [`with_local`], if the thread is still a worker of its pool.
fn with_worker<R>(with: impl FnOnce(&Local) -> R) -> Option<R> {
    with_local(|local| (local.generation == generation()).then(|| with(local))).flatten()
}

/// Leaves `waiters` to this worker, which wakes them as soon as it releases the GIL. Returns those
/// to wake now: all, if `may` is false or this is no working worker.
pub(crate) fn defer(waiters: Vec<Arc<Waiter>>, may: bool) -> Vec<Arc<Waiter>> {
    let own = || OWN.try_with(|own| !own.borrow().is_empty());
    if waiters.is_empty() || !may || own().unwrap_or_default() {
        return waiters;
    }
    let mut waiters = Some(waiters);
    with_worker(|local| local.deferred.add(waiters.take().unwrap_or_default()));
    waiters.unwrap_or_default()
}

/// Wakes the waiters that were left to this worker.
pub(crate) fn ring() {
    with_worker(|local| local.deferred.ring());
}

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

/// Notes that this worker's task waits: another worker may be active until the guard is dropped.
pub(crate) fn waiting() -> Option<Waiting> {
    let waits = with_worker(|local| Arc::clone(&local.waits))?;
    waits.begin();
    if link::is_used()
        && let Some(core) = with_worker(|local| Weak::clone(&local.core))
    {
        link::has_room(&core);
    }
    Some(Waiting {
        waits,
        generation: generation(),
    })
}

/// Lets this waiting worker's pool retry jobs for which no thread could be started.
pub(crate) fn look_after_pool() {
    if let Some(waits) = with_worker(|local| Arc::clone(&local.waits)) {
        waits.look_after();
    }
}

/// See [`waiting`]. Any thread may drop it.
pub(crate) struct Waiting {
    waits: Arc<Waits>,
    generation: u32,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // After a fork, the pool's counters belong to the parent.
        if self.generation == generation() {
            self.waits.end();
        }
    }
}

/// Whether the executor has tasks that need this thread: it is a worker of the executor, or runs
/// the event loop and one of its coroutines.
pub(crate) fn is_worker_of(core: &Arc<Core>) -> bool {
    with_worker(|local| {
        local.core.as_ptr() == Arc::as_ptr(core) || (local.service && !core.on_loop().is_empty())
    })
    .unwrap_or(false)
}

/// The task that this thread runs, or the coroutine task of this context.
pub(crate) fn task(py: Python<'_>) -> Option<Bound<'_, Task>> {
    let runs = |task: &Bound<'_, Task>| task.get().phase() == Phase::Running;
    let own = OWN
        .try_with(|own| own.borrow().last().and_then(|slot| slot.task(py)))
        .unwrap_or_default();
    if let Some(own) = own.filter(runs) {
        return Some(own);
    }
    // The event loop's thread runs coroutines, not the task in its slot.
    with_local(|local| (!local.service).then(|| local.slot.task(py)).flatten())
        .flatten()
        .filter(runs)
        .or_else(|| current_coroutine(py).filter(|task| task.get().goes_on()))
}

/// The context variable for the future of a coroutine.
static CURRENT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

fn coroutine_variable(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    CURRENT
        .get_or_try_init(py, || {
            let class = py.import("contextvars")?.getattr("ContextVar")?;
            Ok(class.call1(("flask_delay.current_task",))?.unbind())
        })
        .map(|variable| variable.bind(py))
}

/// The coroutine task of this context.
pub(crate) fn current_coroutine(py: Python<'_>) -> Option<Bound<'_, Task>> {
    let none = py.None().into_bound(py);
    let task = value_of(coroutine_variable(py).ok()?.as_borrowed(), &none).ok()?;
    task.cast_into::<Task>().ok()
}

/// Makes `task` the current coroutine task of this context.
pub(crate) fn set_coroutine(task: &Bound<'_, Task>) -> PyResult<()> {
    let variable = coroutine_variable(task.py())?;
    variable.call_method1("set", (task,)).map(drop)
}
