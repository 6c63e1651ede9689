//! Where a thread's task lies while it runs, and what its pool is told of its waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flask_delay_engine::{self as engine, Handle};
use parking_lot::Mutex;
use pyo3::prelude::*;

use super::cell::FutureCell;
use super::core::Task;
use super::policies::target::{self, Ended, Target};

/// Where a thread's task lies while it runs. The lock is a leaf, and nothing is dropped
/// under it; only the report at exit and who stops a task come from another thread.
pub(crate) struct Desk {
    task: Mutex<Option<Py<FutureCell>>>,
    turns: AtomicU64,
    /// The call of the task's function, while that runs.
    call: AtomicU64,
    target: Arc<Target>,
    /// The frame that its calls are made by, as an address; 0 for a worker, whose first they are.
    floor: usize,
    /// A worker's.
    waits: Option<Arc<Waits>>,
}

impl Desk {
    /// A worker's, by its thread.
    pub(crate) fn of_worker(waits: Arc<Waits>) -> Self {
        Self::new(Some(waits), 0)
    }

    /// That of the calling thread, which runs a task inside of other code.
    pub(crate) fn of_caller(py: Python<'_>) -> Self {
        Self::new(None, target::floor(py))
    }

    fn new(waits: Option<Arc<Waits>>, floor: usize) -> Self {
        Self {
            task: Mutex::default(),
            turns: AtomicU64::new(0),
            call: AtomicU64::new(target::NONE),
            target: Target::own(),
            floor,
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
        let call = self.target.begin(self.floor);
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

    pub(super) fn begin(&self) {
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

    pub(super) fn end(&self) {
        let over = {
            let mut inner = self.inner.lock();
            inner.0 -= 1;
            if inner.0 == 0 { inner.1.take() } else { None }
        };
        drop(over);
    }
}
