//! What an executor, its workers and its futures share, and its pools: one per process.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use flask_delay_engine::{Config, Pool};
use once_cell::race::OnceBox;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::coroutine::Afar;
use super::current::Desk;
use super::ffi::fork::generation;
use super::future::FutureCell;
use super::mode::Mode;
use super::registry::Registry;
use super::signals::Signals;
use super::worker;

/// A future in the queue, which owns a reference to it.
pub(crate) struct Task(pub(crate) Py<FutureCell>);

/// What each worker calls first, and with what.
pub(crate) type Initializer = (Py<PyAny>, Py<PyTuple>);

/// How an executor was asked to be.
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) initializer: Option<Initializer>,
    /// Context variables that are not carried to tasks.
    pub(crate) hidden: Vec<Py<PyAny>>,
    pub(crate) log_failures: bool,
    /// How long tasks may go on at exit.
    pub(crate) shutdown_timeout: Option<Duration>,
    pub(crate) result_limit: usize,
    /// How often Python switches threads while a task computes; `None`: as ever.
    pub(crate) switch_interval: Option<Duration>,
    /// Serves other executors: not drained, and closed last.
    pub(crate) service: bool,
    pub(crate) mode: Mode,
    pub(crate) signals: Option<Signals>,
}

/// Outlives the Python executor for as long as a future or a worker needs it.
pub(crate) struct Core {
    pub(crate) initializer: Mutex<Option<Initializer>>,
    pub(crate) hidden: Vec<Py<PyAny>>,
    pub(crate) log_failures: bool,
    pub(crate) shutdown_timeout: Option<Duration>,
    pub(crate) registry: Registry,
    pub(crate) service: bool,
    pub(crate) switch_interval: Option<Duration>,
    pub(crate) mode: Mode,
    /// Who is told what happens to tasks; None for an executor without an app.
    pub(crate) signals: Option<Signals>,
    /// The initializer has raised.
    broken: AtomicBool,
    /// `shutdown` was called; a forked child's pool is then closed as well.
    closed: AtomicBool,
    /// Its time at exit is over: nobody waits for its threads any more.
    given_up: AtomicBool,
    config: Config,
    first: Era,
}

/// The pool of one process.
struct Era {
    generation: u32,
    pool: Arc<Pool<Task>>,
    desks: Arc<Desks>,
    afar: Afar,
    dead: Dead,
    /// The pool of a process forked from this one.
    next: OnceBox<Era>,
}

/// How many tasks in the queue were cancelled there: they hold a place in memory until a
/// worker comes by them, but none that counts.
#[derive(Default)]
pub(crate) struct Dead(AtomicUsize);

impl Dead {
    pub(crate) fn add(&self) {
        // Relaxed, here and below: a number for `stats`, which nothing is decided by.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One has left the queue.
    pub(crate) fn remove(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

pub(crate) type Desks = Mutex<Vec<Weak<Desk>>>;

impl Core {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        Arc::new_cyclic(|core| Self {
            first: Era::new(&settings.config, core),
            initializer: Mutex::new(settings.initializer),
            hidden: settings.hidden,
            log_failures: settings.log_failures,
            shutdown_timeout: settings.shutdown_timeout,
            registry: Registry::new(settings.result_limit),
            service: settings.service,
            switch_interval: settings.switch_interval,
            mode: settings.mode,
            signals: settings.signals,
            broken: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            config: settings.config,
        })
    }

    fn era(self: &Arc<Self>) -> &Era {
        let generation = generation();
        let mut era = &self.first;
        // One step per fork between the executor's birth and this process. The pools of
        // other processes are never touched again: their locks may be held for ever by
        // threads that this process does not have. `OnceBox` has no state in between
        // that a fork could freeze.
        while era.generation != generation {
            era = era.next.get_or_init(|| {
                let fresh = Era::new(&self.config, &Arc::downgrade(self));
                if self.closed.load(Ordering::Relaxed) {
                    fresh.pool.close();
                }
                Box::new(fresh)
            });
        }
        era
    }

    /// This process's pool.
    pub(crate) fn pool(self: &Arc<Self>) -> &Pool<Task> {
        &self.era().pool
    }

    /// Whether this process's pool has something left to do; `None` if its lock is taken.
    /// Makes no pool, and touches no other process's.
    pub(crate) fn is_busy(&self) -> Option<bool> {
        let mut era = Some(&self.first);
        while let Some(it) = era {
            if it.generation == generation() {
                return it.pool.try_is_quiet().map(|quiet| !quiet);
            }
            era = it.next.get();
        }
        Some(false)
    }

    /// What this process's workers do.
    pub(crate) fn desks(self: &Arc<Self>) -> &Arc<Desks> {
        &self.era().desks
    }

    /// This process's queued tasks that will not run.
    pub(crate) fn dead(self: &Arc<Self>) -> &Dead {
        &self.era().dead
    }

    /// This process's tasks that are with the event loop.
    pub(crate) fn afar(self: &Arc<Self>) -> &Afar {
        &self.era().afar
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    pub(crate) fn max_workers(&self) -> usize {
        self.config.max_workers
    }

    pub(crate) fn close(self: &Arc<Self>) {
        // Relaxed: read by forked children, to which a fork publishes everything.
        self.closed.store(true, Ordering::Relaxed);
        self.pool().close();
    }

    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    pub(crate) fn set_given_up(&self) {
        // Relaxed: set and read by the thread that ends the interpreter.
        self.given_up.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    pub(crate) fn set_broken(self: &Arc<Self>) {
        self.broken.store(true, Ordering::Release);
        self.close();
    }
}

impl Era {
    fn new(config: &Config, core: &Weak<Core>) -> Self {
        let core = Weak::clone(core);
        Self {
            generation: generation(),
            pool: Arc::new(Pool::new(config.clone(), move |worker| {
                worker::main(&core, worker);
            })),
            desks: Arc::default(),
            afar: Afar::default(),
            dead: Dead::default(),
            next: OnceBox::new(),
        }
    }
}

impl Drop for Era {
    fn drop(&mut self) {
        if self.generation != generation() {
            // Another process's pool: its locks may be held by threads that are not here.
            std::mem::forget(Arc::clone(&self.pool));
            std::mem::forget(std::mem::take(&mut self.afar));
        }
    }
}
