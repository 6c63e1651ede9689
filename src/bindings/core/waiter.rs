//! What a thread that waits for one future sleeps on, and who wakes it when.
//!
//! A wake-up is a system call, and the thread that wakes wants the GIL at once. So a worker
//! that has nothing of its user's left to run wakes those who wait for its task only after it
//! has let go of the GIL, or before it takes up the next task, whichever comes first. Who
//! has got results that soon of late looks on for a moment before it sleeps.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use flask_delay_engine::spin;
use pyo3::prelude::*;

use crate::bindings::ffi::lock::{Acquired, Lock};

/// What is worth looking on for instead of going to sleep: sleeping and being woken takes
/// two threads about a tenth of it each.
const LOOK_ON: Duration = Duration::from_micros(100);

/// Between two looks for signals: CPython's lock notices one that interrupts the sleep, but
/// one that comes just before the sleep begins would wait until it ends. And between two looks
/// after the pool of the worker that waits.
pub(crate) const SLICE: Duration = Duration::from_secs(1);

/// How long to look on before a sleep; not at all with one processor, which whoever is
/// waited for needs.
pub(crate) fn look_on() -> Duration {
    static LIMIT: OnceLock<Duration> = OnceLock::new();
    *LIMIT.get_or_init(|| match thread::available_parallelism() {
        Ok(processors) if processors.get() > 1 => LOOK_ON,
        _ => Duration::ZERO,
    })
}

thread_local! {
    /// The last wait of this thread was short.
    static KEEN: Cell<bool> = const { Cell::new(false) };
}

const LOOKS: u32 = 0;
const SLEEPS: u32 = 1;
const RUNG: u32 = 2;

/// One thread's wait.
pub(crate) struct Waiter {
    state: AtomicU32,
    /// There from the moment that the state is `SLEEPS`.
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
        // AcqRel: what the ringer did is seen by who waits, and its lock is seen here.
        if self.state.swap(RUNG, Ordering::AcqRel) == SLEEPS
            && let Some(lock) = self.lock.get()
        {
            lock.release();
        }
    }

    fn is_rung(&self) -> bool {
        self.state.load(Ordering::Acquire) == RUNG
    }

    /// Waits for the waiter without the GIL, at most `limit` (None: without one), and calls `meanwhile`
    /// once a second; whether it rang.
    ///
    /// # Errors
    ///
    /// What a signal's handler raises.
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

    /// Rings those there are.
    pub(crate) fn ring(&self) {
        if !self.0.borrow().0.is_empty() {
            drop(self.take());
        }
    }

    /// Those there are, to be rung elsewhere.
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
