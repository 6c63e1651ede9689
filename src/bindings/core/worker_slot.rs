//! The running task of a thread, and the waits that its pool knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flask_delay_engine::{self as engine, Handle, Mutex, Woken};
use pyo3::prelude::*;

use super::executor::Queued;
use super::interrupt::{self, Ended, Target};
use super::task::Task;

/// Holds a thread's task while it runs. The lock is a leaf, and nothing is dropped under it; other
/// threads take it only for the report at exit and to stop a task.
pub(crate) struct WorkerSlot {
    task: Mutex<Option<Py<Task>>>,
    turns: AtomicU64,
    /// The call of the task's function, while that runs.
    call: AtomicU64,
    target: Arc<Target>,
    /// The address of the frame that makes its calls; 0 for a worker, which has no such frame.
    floor: usize,
    /// Set for a worker.
    waits: Option<Arc<Waits>>,
}

impl WorkerSlot {
    /// The slot of a worker, made by its thread.
    pub(crate) fn of_worker(waits: Arc<Waits>) -> Self {
        Self::new(Some(waits), 0)
    }

    /// The slot of the calling thread, which runs a task inside of other code.
    pub(crate) fn of_caller(py: Python<'_>) -> Self {
        Self::new(None, interrupt::floor(py))
    }

    fn new(waits: Option<Arc<Waits>>, floor: usize) -> Self {
        Self {
            task: Mutex::default(),
            turns: AtomicU64::new(0),
            call: AtomicU64::new(interrupt::NONE),
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
    pub(crate) fn call(&self) -> Option<interrupt::Call> {
        Some(self.call.load(Ordering::Relaxed)).filter(|call| *call != interrupt::NONE)
    }

    /// Called before the task's function.
    pub(crate) fn begin(&self) -> interrupt::Call {
        let call = self.target.begin(self.floor);
        self.call.store(call, Ordering::Relaxed);
        // A thread that stops a task looks for its call after it has told it to stop.
        interrupt::order();
        call
    }

    /// Called when the function has returned.
    pub(crate) fn end(&self, py: Python<'_>, call: interrupt::Call) -> Ended {
        self.call.store(interrupt::NONE, Ordering::Relaxed);
        self.target.leave(py, call)
    }

    pub(crate) fn put(&self, task: &Bound<'_, Task>) {
        let previous = self.task.lock().replace(task.clone().unbind());
        // Outside the lock; it is None, unless a defect ended a task halfway.
        drop(previous);
        // Written by the worker alone, so no read-modify-write is needed; read as a hint.
        let turns = self.turns.load(Ordering::Relaxed);
        self.turns.store(turns + 1, Ordering::Relaxed);
    }

    /// The number of tasks that were put here.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    pub(crate) fn clear(&self) {
        let task = self.task.lock().take();
        drop(task);
    }

    pub(crate) fn task<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Task>> {
        self.task.lock().as_ref().map(|task| task.bind(py).clone())
    }
}

/// The waits of a worker. A task may be in several at once, as when it waits for one future
/// between two steps of `as_completed`; to the pool they are one.
pub(crate) struct Waits {
    handle: Handle<Queued>,
    // Held while the pool is notified, to keep the order; the pool's own locks are taken under it,
    // and none of Python's.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    waits: usize,
    /// Set while `waits` is not zero.
    waiting: Option<engine::Waiting<Queued>>,
    /// One for each abandoned call.
    stuck: Vec<engine::Stuck<Queued>>,
}

impl Inner {
    fn begin(&mut self, handle: &Handle<Queued>) -> Option<Woken> {
        self.waits += 1;
        if self.waiting.is_some() {
            return None;
        }
        let (waiting, woken) = handle.waiting();
        self.waiting = Some(waiting);
        Some(woken)
    }

    fn end(&mut self) {
        self.waits -= 1;
        if self.waits == 0 {
            self.waiting = None;
        }
    }
}

impl Waits {
    pub(crate) fn new(handle: Handle<Queued>) -> Self {
        Self {
            handle,
            inner: Mutex::default(),
        }
    }

    /// Notes that a call of this worker is abandoned, until [`Waits::come_back`]. If it is
    /// `replaced`, that counts as a wait; returns what to log.
    #[must_use]
    pub(crate) fn give_up(&self, replaced: bool) -> Option<Woken> {
        let mut inner = self.inner.lock();
        let stuck = self.handle.stuck();
        inner.stuck.push(stuck);
        replaced.then(|| inner.begin(&self.handle)).flatten()
    }

    /// As [`Waits::begin`], for a call that was not replaced at first.
    #[must_use]
    pub(crate) fn replace(&self) -> Option<Woken> {
        self.inner.lock().begin(&self.handle)
    }

    /// Called when an abandoned call has ended.
    pub(crate) fn come_back(&self, replaced: bool) {
        let mut inner = self.inner.lock();
        inner.stuck.pop();
        if replaced {
            inner.end();
        }
    }

    pub(crate) fn begin(&self) {
        let woken = self.inner.lock().begin(&self.handle);
        if let Some(woken) = woken {
            woken.log();
        }
    }

    pub(crate) fn end(&self) {
        self.inner.lock().end();
    }

    /// Makes the pool try again to start a thread, if jobs wait because it could not.
    pub(crate) fn look_after(&self) {
        self.handle.look_after();
    }
}
