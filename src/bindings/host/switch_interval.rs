//! Shortens the switch interval while tasks use the processor, so that requests run sooner.
//!
//! A thread that wants the GIL waits a whole switch interval, 5 ms by default, for a thread that
//! computes in Python. A request wants it many times. One thread of the process, the governor,
//! checks the processor time of all workers every few milliseconds. It shortens the interval while
//! a task computes, and restores the user's own when none does. Tasks that wait and large numbers
//! of tiny tasks change nothing. Without a GIL there is no governor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use flask_delay_engine::{LazyPerProcess, Mutex};
use log::debug;
use pyo3::prelude::*;

use crate::bindings::core::worker_slot::WorkerSlot;
use crate::bindings::ffi::attach::attach;
use crate::bindings::ffi::clock::ThreadClock;

/// The governor's period while a task computes or may begin to.
const TICK: Duration = Duration::from_millis(5);
/// Its period while the running tasks only wait.
const SLOW_TICK: Duration = Duration::from_millis(20);
/// Without an active worker for this long it sleeps until a worker wakes it.
const LINGER: Duration = Duration::from_millis(500);

/// After so many idle ticks a running task is taken to wait. On a busy machine, a task that
/// computes may get no processor for some ticks.
const PATIENCE: u32 = 10;

/// Shares of a tick that workers compute, in percent. Above `BURNS` the interval is shortened,
/// below `RESTS` it is restored, and in between nothing changes.
const BURNS: u32 = 40;
const RESTS: u32 = 10;
/// A worker's share below this is ignored.
const COUNTS: u32 = 5;
/// Tasks shorter than this on average release the GIL soon enough by themselves.
const LONG_TASK: Duration = Duration::from_micros(500);

/// The governor's view of a worker.
pub(crate) struct Watched {
    clock: ThreadClock,
    slot: Arc<WorkerSlot>,
    interval: Duration,
    awake: AtomicBool,
}

#[derive(Default)]
struct Governor {
    // A leaf: nothing is called while it is held.
    inner: Mutex<Inner>,
    /// The governor sleeps until a worker wakes it.
    asleep: AtomicBool,
    /// The user's interval as the bits of a float while a shorter one is set, otherwise 0.
    shortened: AtomicU64,
}

#[derive(Default)]
struct Inner {
    workers: Vec<Arc<Watched>>,
    thread: Option<Thread>,
    stopping: bool,
}

static GOVERNOR: LazyPerProcess<Governor> = LazyPerProcess::new();

fn governor() -> &'static Governor {
    GOVERNOR.get_or_init(Governor::default)
}

/// Registers the calling worker thread; `None` where there is no governor.
pub(crate) fn watch(
    py: Python<'_>,
    slot: &Arc<WorkerSlot>,
    interval: Option<Duration>,
) -> Option<Arc<Watched>> {
    if cfg!(Py_GIL_DISABLED) {
        return None;
    }
    restore_after_fork(py);
    let worker = Arc::new(Watched {
        clock: ThreadClock::of_this_thread()?,
        slot: Arc::clone(slot),
        interval: interval?,
        awake: AtomicBool::new(true),
    });
    let governor = governor();
    let start = {
        let mut inner = governor.inner.lock();
        if inner.stopping {
            return None;
        }
        inner.workers.push(Arc::clone(&worker));
        inner.thread.is_none()
    };
    if start {
        let spawned = thread::Builder::new()
            .name("delay-governor".to_owned())
            .spawn(move || governor.govern());
        match spawned {
            Ok(handle) => governor.inner.lock().thread = Some(handle.thread().clone()),
            Err(error) => {
                debug!(target: "flask_delay::governor", "the governor could not be started: {error}");
            }
        }
    }
    worker.wakes();
    Some(worker)
}

impl Watched {
    pub(crate) fn sleeps(&self) {
        self.awake.store(false, Ordering::Relaxed);
    }

    pub(crate) fn wakes(&self) {
        self.awake.store(true, Ordering::Relaxed);
        // Pairs with the fence before the governor sleeps: either it sees this worker awake, or
        // this worker sees it asleep.
        fence(Ordering::SeqCst);
        governor().wake();
    }

    pub(crate) fn forget(self: &Arc<Self>) {
        let mut inner = governor().inner.lock();
        inner.workers.retain(|worker| !Arc::ptr_eq(worker, self));
    }
}

/// The last reading of a worker.
struct Seen {
    worker: Arc<Watched>,
    used: Duration,
    turns: u64,
}

impl Governor {
    fn wake(&self) {
        // The load spares the usual case, awake, a write that all workers share.
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            let thread = self.inner.lock().thread.clone();
            if let Some(thread) = thread {
                thread.unpark();
            }
        }
    }

    fn govern(&self) {
        let mut seen: Vec<Seen> = Vec::new();
        let mut looked = Instant::now();
        let mut last_awake = looked;
        let mut burning = None;
        let mut tick = TICK;
        let mut rested = 0;
        loop {
            thread::park_timeout(tick);
            let workers = {
                let inner = self.inner.lock();
                if inner.stopping {
                    return;
                }
                inner.workers.clone()
            };
            let now = Instant::now();
            let window = now - looked;
            looked = now;
            let share = look(&workers, &mut seen, window);
            let wanted = workers.iter().map(|worker| worker.interval).min();
            let awake = workers
                .iter()
                .any(|worker| worker.awake.load(Ordering::Relaxed));
            if awake {
                last_awake = now;
            }
            if share >= RESTS {
                rested = 0;
            } else {
                rested += 1;
            }
            burning = if share >= BURNS {
                wanted
            } else if awake && rested < PATIENCE {
                burning.and(wanted)
            } else {
                None
            };
            self.apply(burning);
            tick = if burning.is_some() || rested == 0 {
                TICK
            } else {
                (tick * 2).min(SLOW_TICK)
            };
            if now - last_awake >= LINGER {
                self.asleep.store(true, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                let awake = |worker: &Arc<Watched>| worker.awake.load(Ordering::Relaxed);
                if !self.inner.lock().workers.iter().any(awake) {
                    while self.asleep.load(Ordering::Relaxed) {
                        thread::park();
                    }
                }
                self.asleep.store(false, Ordering::Relaxed);
                looked = Instant::now();
                last_awake = looked;
                tick = TICK;
                seen.clear();
            }
        }
    }

    /// Sets a short interval or restores the user's.
    fn apply(&self, burning: Option<Duration>) {
        if burning.is_some() == (self.shortened.load(Ordering::Relaxed) != 0) {
            return;
        }
        // `None` once the interpreter is gone: there is nothing to set.
        let set = attach(|py| match burning {
            Some(interval) => self.shorten(py, interval.as_secs_f64()),
            None => self.restore(py),
        });
        if let Some(Err(error)) = set {
            debug!(target: "flask_delay::governor", "the switch interval could not be set: {error}");
        }
    }

    fn shorten(&self, py: Python<'_>, interval: f64) -> PyResult<()> {
        let sys = py.import("sys")?;
        let own: f64 = sys.call_method0("getswitchinterval")?.extract()?;
        if own > interval {
            sys.call_method1("setswitchinterval", (interval,))?;
            self.shortened.store(own.to_bits(), Ordering::Relaxed);
            SHORT.store(interval.to_bits(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn restore(&self, py: Python<'_>) -> PyResult<()> {
        let own = self.shortened.swap(0, Ordering::Relaxed);
        if own == 0 {
            return Ok(());
        }
        let sys = py.import("sys")?;
        let now: f64 = sys.call_method0("getswitchinterval")?.extract()?;
        // Other code has set it since, so this is the user's interval.
        let short = f64::from_bits(SHORT.load(Ordering::Relaxed));
        if (now - short).abs() < short / 2.0 {
            sys.call_method1("setswitchinterval", (f64::from_bits(own),))?;
        }
        Ok(())
    }
}

/// The short interval set last, as the bits of a float.
static SHORT: AtomicU64 = AtomicU64::new(0);

/// The share of `window`, in percent, that long tasks of the workers computed.
fn look(workers: &[Arc<Watched>], seen: &mut Vec<Seen>, window: Duration) -> u32 {
    let mut share = 0;
    let mut next = Vec::with_capacity(workers.len());
    for worker in workers {
        let Some(used) = worker.clock.read() else {
            continue;
        };
        let turns = worker.slot.turns();
        if let Some(before) = seen.iter().find(|seen| Arc::ptr_eq(&seen.worker, worker)) {
            let burnt = used.saturating_sub(before.used);
            let tasks = u32::try_from(turns - before.turns).unwrap_or(u32::MAX);
            let percent = percent(burnt, window);
            if percent >= COUNTS && burnt / tasks.max(1) >= LONG_TASK {
                share += percent;
            }
        }
        next.push(Seen {
            worker: Arc::clone(worker),
            used,
            turns,
        });
    }
    *seen = next;
    share
}

fn percent(part: Duration, whole: Duration) -> u32 {
    let percent = part.as_micros() * 100 / whole.as_micros().max(1);
    u32::try_from(percent).unwrap_or(u32::MAX)
}

/// Restores the user's interval in a process forked while a shorter one was set.
pub(crate) fn restore_after_fork(py: Python<'_>) {
    for governor in GOVERNOR.inherited() {
        if let Err(error) = governor.restore(py) {
            error.write_unraisable(py, None);
        }
    }
}

/// Ends the governor at exit and restores the interval.
pub(crate) fn stop(py: Python<'_>) {
    let governor = governor();
    let thread = {
        let mut inner = governor.inner.lock();
        inner.stopping = true;
        inner.thread.take()
    };
    governor.asleep.store(false, Ordering::Relaxed);
    if let Some(thread) = thread {
        thread.unpark();
    }
    if let Err(error) = governor.restore(py) {
        error.write_unraisable(py, None);
    }
}
