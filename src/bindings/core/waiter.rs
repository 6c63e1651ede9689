//! How a thread waits for one future, and when it is woken.
//!
//! A wake-up is a system call, and the woken thread wants the GIL at once. So a worker without
//! user code left to run defers the wake-ups for its task. It wakes the waiters after it has
//! released the GIL, or before its next task, whichever comes first. A thread that got its last
//! result that soon spins for a moment before it sleeps.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use flask_delay_engine::spin;
use pyo3::prelude::*;

use crate::bindings::ffi::lock::{Acquired, Lock};

/// How long it pays to spin instead of sleeping: a sleep and its wake-up take two threads about a
/// tenth of it each.
const LOOK_ON: Duration = Duration::from_micros(100);

/// Between two checks for signals, and of the pool of the waiting worker. CPython's lock notices a
/// signal during the sleep, but one just before it would wait until the sleep ends.
pub(crate) const SLICE: Duration = Duration::from_secs(1);

/// How long to spin before a sleep; not at all with one processor, which the other thread needs.
pub(crate) fn look_on() -> Duration {
    static LIMIT: OnceLock<Duration> = OnceLock::new();
    *LIMIT.get_or_init(|| match thread::available_parallelism() {
        Ok(processors) if processors.get() > 1 => LOOK_ON,
        _ => Duration::ZERO,
    })
}

thread_local! {
    /// Whether the last wait of this thread was short.
    static KEEN: Cell<bool> = const { Cell::new(false) };
}

const LOOKS: u32 = 0;
const SLEEPS: u32 = 1;
const RUNG: u32 = 2;

/// One thread's wait.
pub(crate) struct Waiter {
    state: AtomicU32,
    /// Set before the state becomes `SLEEPS`.
    lock: OnceLock<Lock>,
}

impl Waiter {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU32::new(LOOKS),
            lock: OnceLock::new(),
        })
    }

    /// Ends the wait. Needs no GIL; called once.
    pub(crate) fn ring(&self) {
        // AcqRel: the waiter sees the ringing thread's writes, and the waiter's lock is seen here.
        if self.state.swap(RUNG, Ordering::AcqRel) == SLEEPS
            && let Some(lock) = self.lock.get()
        {
            lock.release();
        }
    }

    fn is_rung(&self) -> bool {
        self.state.load(Ordering::Acquire) == RUNG
    }

    /// Waits without the GIL, at most `limit` (None: without one), and calls `meanwhile` once a
    /// second; returns whether it was rung.
    ///
    /// # Errors
    ///
    /// The error that a signal handler raises.
    pub(crate) fn wait(
        &self,
        py: Python<'_>,
        limit: Option<Duration>,
        meanwhile: fn(),
    ) -> PyResult<bool> {
        let began = Instant::now();
        let rung = if KEEN.get() {
            let most = look_on().min(limit.unwrap_or(Duration::MAX));
            py.detach(|| spin(most, || self.is_rung()))
        } else {
            false
        };
        let rung = rung || self.sleep(py, began, limit, meanwhile)?;
        KEEN.set(rung && began.elapsed() < look_on());
        Ok(rung)
    }

    fn sleep(
        &self,
        py: Python<'_>,
        began: Instant,
        limit: Option<Duration>,
        meanwhile: fn(),
    ) -> PyResult<bool> {
        let lock = Lock::new()?;
        let lock = self.lock.get_or_init(|| lock);
        // AcqRel, as in `ring`.
        let asleep =
            self.state
                .compare_exchange(LOOKS, SLEEPS, Ordering::AcqRel, Ordering::Acquire);
        if asleep.is_err() {
            return Ok(true);
        }
        loop {
            let left = limit.map(|limit| limit.saturating_sub(began.elapsed()));
            let slice = left.unwrap_or(SLICE).min(SLICE);
            let acquired = py.detach(|| lock.acquire(slice));
            if acquired == Acquired::Yes {
                return Ok(true);
            }
            py.check_signals()?;
            if acquired == Acquired::No && left.is_some_and(|left| left <= SLICE) {
                return Ok(false);
            }
            meanwhile();
        }
    }
}

/// The waiters that a worker has yet to ring.
#[derive(Default)]
pub(crate) struct Deferred(RefCell<Waiters>);

impl Deferred {
    pub(crate) fn add(&self, waiters: Vec<Arc<Waiter>>) {
        self.0.borrow_mut().0.extend(waiters);
    }

    pub(crate) fn ring(&self) {
        if !self.0.borrow().0.is_empty() {
            drop(self.take());
        }
    }

    /// Takes the waiters, to ring them elsewhere.
    pub(crate) fn take(&self) -> Waiters {
        self.0.take()
    }
}

/// Rung when dropped, so that none is lost.
#[derive(Default)]
pub(crate) struct Waiters(Vec<Arc<Waiter>>);

impl Drop for Waiters {
    fn drop(&mut self) {
        for waiter in &self.0 {
            waiter.ring();
        }
    }
}
