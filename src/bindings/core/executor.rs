//! What an executor, its workers and its futures share, and its pools: one per process.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use flask_delay_engine::{Config, Mutex, PerProcess, Pool, Rank, Semaphore as Places, Worker};
use once_cell::race::OnceBox;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyWeakrefReference};
use pyo3::{PyTraverseError, PyVisit};

use super::events::{self, Signals, Subscriber};
use super::held::HeldTasks;
use super::keys::Table;
use super::metrics::Metrics;
use super::registry::Registry;
use super::settings::{Backpressure, Beginning, Initializer, Mode, Settings};
use super::strays::Strays;
use super::task::Task;
use super::worker_slot::WorkerSlot;
use crate::bindings::ffi::fork::generation;
use crate::bindings::ffi::packed::{Packed, Unpacked};

/// What lies in a pool's queue, and owns what it refers to.
pub(crate) enum Job {
    /// A task to run.
    Task(Py<Task>),
    /// The done callbacks of a task that has ended without its worker, after a line in the log.
    /// They may block, so a worker runs them.
    Callbacks(Py<Task>, Option<Note>),
    /// A periodic job that is due: a function without arguments.
    Tick(Py<PyAny>),
}

/// A job as it lies in the queue: in one word, since nearly all are tasks.
pub(crate) struct Queued(Packed<Task, Job>);

impl From<Job> for Queued {
    #[inline]
    fn from(job: Job) -> Self {
        Self(match job {
            Job::Task(task) => Packed::object(task),
            job => Packed::boxed(Box::new(job)),
        })
    }
}

impl From<Queued> for Job {
    #[inline]
    fn from(queued: Queued) -> Self {
        match queued.0.unpack() {
            Unpacked::Object(task) => Self::Task(task),
            Unpacked::Boxed(job) => *job,
        }
    }
}

/// Why a task has ended without its worker, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    TimedOut,
    Stopped,
    Expired,
}

impl Note {
    /// Takes the task's name and id.
    pub(crate) fn template(self) -> &'static str {
        match self {
            Self::TimedOut => {
                "task %s (%s) did not end after its timeout: it has failed, its code goes on"
            }
            Self::Stopped => {
                "task %s (%s) did not end when it was stopped: it is cancelled, its code goes on"
            }
            Self::Expired => "task %s (%s) was not started before it expired",
        }
    }
}

/// What the floors above do for an executor, which knows nothing of them.
pub(crate) struct Runner {
    /// Takes note of a pool that this process has made.
    pub(crate) begin: fn(&Arc<Core>),
    /// The main function of each thread of a pool.
    pub(crate) work: fn(&Weak<Core>, Worker<Queued>),
    /// Runs a task in the calling thread, or has the event loop run it and waits for that.
    pub(crate) run_here: fn(&Bound<'_, Task>, &Arc<Core>) -> PyResult<()>,
    /// Sends a held task that may start now on its way to a worker.
    pub(crate) release: fn(&Bound<'_, Task>),
    /// Tells the tasks that follow a task of its end.
    pub(crate) follow: fn(&Bound<'_, Task>, Vec<Py<Task>>) -> PyResult<()>,
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
    pub(crate) backpressure: Backpressure,
    counted: bool,
    pub(crate) beginning: Beginning,
    pub(crate) scope_method: Option<Py<PyString>>,
    /// Where tasks are submitted, as long as there is somebody who may.
    executor: OnceLock<Weak<Inner>>,
    /// The initializer has raised.
    broken: AtomicBool,
    /// `shutdown` was called; a forked child's pool is then closed as well.
    closed: AtomicBool,
    /// `shutdown` was told to cancel what has not started, which no attempt may any more.
    cancelling: AtomicBool,
    /// Its time at exit is over: nobody waits for its threads any more.
    given_up: AtomicBool,
    config: Config,
    pub(crate) runner: &'static Runner,
    /// The pools of this process and of those that it was forked from.
    eras: PerProcess<Era>,
}

/// The pool of one process.
struct Era {
    generation: u32,
    pool: Arc<Pool<Queued>>,
    slots: Arc<WorkerSlots>,
    /// Tasks that are with the event loop.
    on_loop: HeldTasks,
    /// Tasks that wait for their turn, for another attempt, or for other tasks.
    held: HeldTasks,
    uncounted: Count,
    stuck: Strays,
    /// The places of its queue, if they are counted.
    places: Option<Places>,
    /// The keys of tasks by which they are limited, and those of which there is one alone.
    lanes: OnceBox<Arc<Table>>,
    claims: OnceBox<Table>,
    figures: Metrics,
}

/// A number of tasks.
#[derive(Default)]
pub(crate) struct Count(AtomicUsize);

impl Count {
    pub(crate) fn add(&self) {
        // Relaxed, here and below: a number for `stats`, which nothing is decided by.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

pub(crate) type WorkerSlots = Mutex<Vec<Weak<WorkerSlot>>>;

impl Core {
    pub(crate) fn new(settings: Settings, runner: &'static Runner) -> Arc<Self> {
        let core = Arc::new_cyclic(|core| Self {
            eras: PerProcess::new(Era::new(
                &settings.config,
                settings.backpressure,
                runner,
                core,
            )),
            initializer: Mutex::new(settings.initializer),
            hidden: settings.hidden,
            log_failures: settings.log_failures,
            shutdown_timeout: settings.shutdown_timeout,
            registry: Registry::new(settings.result_limit),
            service: settings.service,
            switch_interval: settings.switch_interval,
            mode: settings.mode,
            signals: settings.signals,
            backpressure: settings.backpressure,
            counted: settings.counted,
            beginning: settings.beginning,
            scope_method: settings.scope_method,
            executor: OnceLock::new(),
            broken: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            cancelling: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            config: settings.config,
            runner,
        });
        if core.counted {
            events::subscribe(Subscriber::Metrics, &events::COUNTED);
        }
        (runner.begin)(&core);
        core
    }

    fn era(self: &Arc<Self>) -> &Era {
        match self.eras.get() {
            Some(era) => era,
            None => self.begin_era(),
        }
    }

    /// Makes the pool of a process that was forked since the last one was made.
    #[cold]
    fn begin_era(self: &Arc<Self>) -> &Era {
        let mut made = false;
        let era = self.eras.get_or_init(|| {
            made = true;
            let core = Arc::downgrade(self);
            let fresh = Era::new(&self.config, self.backpressure, self.runner, &core);
            if self.closed.load(Ordering::Relaxed) {
                fresh.pool.close();
            }
            fresh
        });
        if made {
            (self.runner.begin)(self);
        }
        era
    }

    /// Where tasks are submitted; None if nobody can do so any more.
    pub(crate) fn executor(&self) -> Option<Arc<Inner>> {
        self.executor.get().and_then(Weak::upgrade)
    }

    /// By the executor that is made, once.
    pub(crate) fn set_executor(&self, executor: &Arc<Inner>) {
        let _ = self.executor.set(Arc::downgrade(executor));
    }

    /// This process's pool.
    pub(crate) fn pool(self: &Arc<Self>) -> &Pool<Queued> {
        &self.era().pool
    }

    /// Whether this process's pool has something left to do; `None` if its lock is taken.
    /// Makes no pool, and touches no other process's.
    pub(crate) fn is_busy(&self) -> Option<bool> {
        match self.eras.get() {
            Some(era) => era.pool.try_is_quiet().map(|quiet| !quiet),
            None => Some(false),
        }
    }

    /// What this process's workers do.
    pub(crate) fn slots(self: &Arc<Self>) -> &Arc<WorkerSlots> {
        &self.era().slots
    }

    /// Shows what a thread does to those who look.
    pub(crate) fn add_slot(self: &Arc<Self>, slot: &Arc<WorkerSlot>) {
        let mut slots = self.slots().lock();
        slots.retain(|slot| slot.strong_count() > 0);
        slots.push(Arc::downgrade(slot));
    }

    /// How many jobs in this process's queue are no tasks that wait: callbacks, ticks, and tasks
    /// that have ended there, which a worker has yet to come by.
    pub(crate) fn uncounted(self: &Arc<Self>) -> &Count {
        &self.era().uncounted
    }

    /// A task has ended before it ran; if it lies in the queue, it is no task that waits there.
    pub(crate) fn ended_in_queue(self: &Arc<Self>, task: &Task) {
        if task.leave_queue() {
            self.uncounted().add();
        }
    }

    /// `job` was taken out of the queue, and is not about to be started.
    pub(crate) fn took_out(self: &Arc<Self>, job: &Job) {
        let waited = match job {
            Job::Task(task) => task.get().leave_queue(),
            Job::Callbacks(..) | Job::Tick(_) => false,
        };
        if !waited {
            self.uncounted().remove();
        }
    }

    /// How many of this process's tasks have ended while their code goes on.
    pub(crate) fn stuck(self: &Arc<Self>) -> &Strays {
        &self.era().stuck
    }

    /// This process's tasks that wait for their turn, for another attempt, or for other tasks.
    pub(crate) fn held(self: &Arc<Self>) -> &HeldTasks {
        &self.era().held
    }

    /// The places of this process's queue, if they are counted.
    pub(crate) fn places(self: &Arc<Self>) -> Option<&Places> {
        self.era().places.as_ref()
    }

    /// This process's keys by which tasks are limited.
    pub(crate) fn lanes(self: &Arc<Self>, py: Python<'_>) -> PyResult<&Arc<Table>> {
        let lanes = &self.era().lanes;
        lanes.get_or_try_init(|| Ok(Box::new(Arc::new(Table::new(py, self)?))))
    }

    /// This process's keys of which there is to be one task alone.
    pub(crate) fn claims(self: &Arc<Self>, py: Python<'_>) -> PyResult<&Table> {
        let claims = &self.era().claims;
        claims.get_or_try_init(|| Table::new(py, self).map(Box::new))
    }

    /// What has become of this process's tasks, if that is counted.
    pub(crate) fn figures(self: &Arc<Self>) -> Option<&Metrics> {
        self.counted.then(|| &self.era().figures)
    }

    /// This process's tasks that are with the event loop.
    pub(crate) fn on_loop(self: &Arc<Self>) -> &HeldTasks {
        &self.era().on_loop
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// How many workers that are stuck are replaced.
    pub(crate) fn most_stuck(&self) -> usize {
        Strays::limit(self.config.max_workers)
    }

    pub(crate) fn max_workers(&self) -> usize {
        self.config.max_workers
    }

    pub(crate) fn close(self: &Arc<Self>) {
        // Relaxed: read by forked children, to which a fork publishes everything.
        self.closed.store(true, Ordering::Relaxed);
        self.pool().close();
    }

    pub(crate) fn is_cancelling(&self) -> bool {
        self.cancelling.load(Ordering::Relaxed)
    }

    pub(crate) fn set_cancelling(&self) {
        // Relaxed: a task that is about to fail may or may not count as one that has not started.
        self.cancelling.store(true, Ordering::Relaxed);
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
    fn new(
        config: &Config,
        backpressure: Backpressure,
        runner: &'static Runner,
        core: &Weak<Core>,
    ) -> Self {
        let core = Weak::clone(core);
        Self {
            generation: generation(),
            pool: Arc::new(Pool::with_birth(config.clone(), birth, move |worker| {
                (runner.work)(&core, worker);
            })),
            slots: Arc::default(),
            on_loop: HeldTasks::default(),
            held: HeldTasks::default(),
            uncounted: Count::default(),
            stuck: Strays::default(),
            places: (backpressure.queue_size > 0).then(|| Places::new(backpressure.queue_size)),
            lanes: OnceBox::new(),
            claims: OnceBox::new(),
            figures: Metrics::default(),
        }
    }
}

/// When the task of a job was made. A tick takes no time to speak of, so it goes before all.
fn birth(queued: &Queued) -> Rank {
    match queued.0.look() {
        Ok(task) | Err(Job::Task(task) | Job::Callbacks(task, _)) => task.get().born(),
        Err(Job::Tick(_)) => Rank::MIN,
    }
}

impl Drop for Era {
    fn drop(&mut self) {
        if self.generation != generation() {
            // Another process's pool: its locks may be held by threads that are not here.
            std::mem::forget(Arc::clone(&self.pool));
            std::mem::forget(std::mem::take(&mut self.on_loop));
            std::mem::forget(std::mem::take(&mut self.held));
            // A thread that is not here may have left them half changed.
            std::mem::forget(std::mem::take(&mut self.figures));
        }
    }
}

/// What `Delay` asks of its executor beyond a plain one.
pub(crate) struct Scoped {
    pub(crate) scope: Scope,
    pub(crate) reject_types: Py<PyTuple>,
    pub(crate) reject: Py<PyAny>,
    /// Makes of a function that is to follow a task what is called in its place.
    pub(crate) step: Option<Py<PyAny>>,
}

pub(crate) struct Inner {
    pub(crate) core: Arc<Core>,
    pub(crate) scoped: Option<Scoped>,
    pub(crate) defaults: Mutex<Vec<Py<PyAny>>>,
    /// So that a submit need not lock `defaults` to see that there are none.
    pub(crate) has_defaults: AtomicBool,
}

#[doc = doc!("Executor")]
#[pyclass(frozen, subclass, name = "Executor", module = "flask_delay._native")]
#[derive(Default)]
pub(crate) struct ExecutorCell(pub(crate) OnceLock<Arc<Inner>>);

impl ExecutorCell {
    pub(crate) fn inner(&self) -> PyResult<&Arc<Inner>> {
        self.0.get().ok_or_else(|| {
            PyRuntimeError::new_err(
                "this executor was not initialised: its class must call super().__init__()",
            )
        })
    }

    pub(crate) fn core(&self) -> PyResult<&Arc<Core>> {
        self.inner().map(|inner| &inner.core)
    }
}

/// What an executor's futures get, to make what surrounds their tasks and callbacks.
pub(crate) enum Scope {
    /// Called for it.
    Maker(Py<PyAny>),
    /// A weak reference to what has a method that is: it has the executor, and is to go with its
    /// last reference. Each future has a strong one.
    Owner(Py<PyAny>),
}

impl Scope {
    /// From a callable, or a `weakref.WeakMethod`; then also the method's name.
    pub(crate) fn new(scope: &Bound<'_, PyAny>) -> PyResult<(Self, Option<Py<PyString>>)> {
        if scope.cast::<PyWeakrefReference>().is_err() {
            return Ok((Self::Maker(scope.clone().unbind()), None));
        }
        let method = scope.call0()?;
        let name = method.getattr("__name__")?.cast_into::<PyString>()?;
        Ok((Self::Owner(scope.clone().unbind()), Some(name.unbind())))
    }

    /// # Errors
    ///
    /// `RuntimeError` if what has the executor has gone.
    pub(crate) fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Maker(scope) => Ok(scope.bind(py).clone()),
            Self::Owner(owner) => {
                let owner = owner.bind(py).cast::<PyWeakrefReference>()?.upgrade();
                owner.ok_or_else(|| {
                    PyRuntimeError::new_err(
                        "the app of this pool is gone, so its tasks would have no app context: \
                         keep a reference to the app for as long as the pool is used",
                    )
                })
            }
        }
    }

    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let (Self::Maker(scope) | Self::Owner(scope)) = self;
        visit.call(scope)
    }
}
