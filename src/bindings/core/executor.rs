//! The state that an executor shares with its workers and futures, and its pools, one per process.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use flask_delay_engine::{Config, Mutex, PerProcess, Pool, Rank, Semaphore as Places, Worker};
use flask_delay_journal::Claimed;
use once_cell::race::OnceBox;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyWeakrefReference};
use pyo3::{PyTraverseError, PyVisit};

use super::events::{self, Kind, Signals, Subscriber};
use super::held::HeldTasks;
use super::keys::Table;
use super::link::{Link, Message};
use super::metrics::Metrics;
use super::recorder::Recorder;
use super::registry::Registry;
use super::samples::Samples;
use super::settings::{Backpressure, Beginning, Initializer, Mode, Settings};
use super::strays::Strays;
use super::stream::Bounds;
use super::task::Task;
use super::worker_slot::WorkerSlot;
use crate::bindings::ffi::fork::generation;
use crate::bindings::ffi::packed::{Packed, Unpacked};

/// An entry of a pool's queue; it owns its objects.
pub(crate) enum Job {
    /// A task to run.
    Task(Py<Task>),
    /// The done callbacks of a task that ended without its worker, after a line in the log. They
    /// may block, so a worker runs them.
    Callbacks(Py<Task>, Option<Note>),
    /// A periodic job that is due: a function without arguments.
    Tick(Py<PyAny>),
    /// A row of the journal that this process has claimed.
    Claimed(Box<(Arc<Link>, Claimed)>),
}

/// A job in the queue, as one word, since nearly all jobs are tasks.
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

impl Queued {
    /// The task that it will run, if it is one.
    pub(crate) fn task(&self) -> Option<&Py<Task>> {
        match self.0.look() {
            Ok(task) | Err(Job::Task(task)) => Some(task),
            Err(_) => None,
        }
    }
}

/// Why a task ended without its worker, for the log.
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

/// Functions of the floors above that an executor calls.
pub(crate) struct Runner {
    /// Registers a new pool of this process.
    pub(crate) begin: fn(&Arc<Core>),
    /// The main function of each thread of a pool.
    pub(crate) work: fn(&Weak<Core>, Worker<Queued>),
    /// Runs a task in the calling thread, or on the event loop and waits for it.
    pub(crate) run_here: fn(&Bound<'_, Task>, &Arc<Core>) -> PyResult<()>,
    /// Dispatches a held task that may start now.
    pub(crate) release: fn(&Bound<'_, Task>),
    /// Notifies the dependents of a task that has ended.
    pub(crate) follow: fn(&Bound<'_, Task>, Vec<Py<Task>>) -> PyResult<()>,
    /// Takes samples from now on, until nothing happens any more.
    pub(crate) sample: fn(&Arc<Core>),
    /// Acts on a message from the journal.
    pub(crate) deliver: fn(Python<'_>, &Arc<Link>, Message),
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
    /// None for an executor without an app.
    pub(crate) signals: Option<Signals>,
    pub(crate) backpressure: Backpressure,
    counted: bool,
    /// Samples are taken, for a page.
    sampled: AtomicBool,
    /// What happens to tasks is recorded, for a page.
    recorded: AtomicBool,
    pub(crate) beginning: Beginning,
    pub(crate) stream: Bounds,
    pub(crate) scope_method: Option<Py<PyString>>,
    /// Where tasks are submitted, while that object exists.
    executor: OnceLock<Weak<Inner>>,
    /// The journal of its durable tasks.
    journal: OnceLock<Weak<Link>>,
    /// The initializer has raised.
    broken: AtomicBool,
    /// `shutdown` was called; a forked child's pool is then closed as well.
    closed: AtomicBool,
    /// `shutdown` cancels tasks that have not started; no attempt may start any more.
    cancelling: AtomicBool,
    /// Its time at exit is over: exit waits for its threads no longer.
    given_up: AtomicBool,
    config: Config,
    pub(crate) runner: &'static Runner,
    /// The pools of this process and of the processes that it was forked from.
    eras: PerProcess<Era>,
}

/// The pool of one process.
struct Era {
    generation: u32,
    pool: Arc<Pool<Queued>>,
    /// The lock is a leaf, and nothing is dropped under it.
    slots: Mutex<Vec<Weak<WorkerSlot>>>,
    /// Tasks on the event loop.
    on_loop: HeldTasks,
    /// Tasks that wait for a limiter, for another attempt, or for other tasks.
    held: HeldTasks,
    uncounted: Count,
    stuck: Strays,
    /// The permits of its queue, if its size is limited.
    places: Option<Places>,
    /// Limiters by key, unique tasks by key, and the last debounced task of each key.
    lanes: OnceBox<Arc<Table>>,
    claims: OnceBox<Table>,
    debounced: OnceBox<Table>,
    figures: Metrics,
    samples: Samples,
    recorder: Recorder,
}

/// A number of tasks.
#[derive(Default)]
pub(crate) struct Count(AtomicUsize);

impl Count {
    pub(crate) fn add(&self) {
        // Relaxed, here and below: a number for `stats`; no decision depends on it.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

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
            sampled: AtomicBool::new(false),
            recorded: AtomicBool::new(false),
            beginning: settings.beginning,
            stream: settings.stream,
            scope_method: settings.scope_method,
            executor: OnceLock::new(),
            journal: OnceLock::new(),
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

    /// Makes the pool of a forked process.
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

    /// Where tasks are submitted; None once that object is gone.
    pub(crate) fn executor(&self) -> Option<Arc<Inner>> {
        self.executor.get().and_then(Weak::upgrade)
    }

    /// Called once, by the new executor.
    pub(crate) fn set_executor(&self, executor: &Arc<Inner>) {
        let _ = self.executor.set(Arc::downgrade(executor));
    }

    /// The journal of its durable tasks.
    pub(crate) fn journal(&self) -> Option<Arc<Link>> {
        self.journal.get().and_then(Weak::upgrade)
    }

    /// Sets the journal, unless it is set; whether it was not.
    pub(crate) fn set_journal(&self, link: &Arc<Link>) -> bool {
        self.journal.set(Arc::downgrade(link)).is_ok()
    }

    /// This process's pool.
    pub(crate) fn pool(self: &Arc<Self>) -> &Pool<Queued> {
        &self.era().pool
    }

    /// Whether this process's pool has work left; `None` if its lock is taken. It makes no pool,
    /// and touches no other process's.
    pub(crate) fn is_busy(&self) -> Option<bool> {
        match self.eras.get() {
            Some(era) => era.pool.try_is_quiet().map(|quiet| !quiet),
            None => Some(false),
        }
    }

    /// The slots of this process's workers.
    pub(crate) fn slots(self: &Arc<Self>) -> Vec<Arc<WorkerSlot>> {
        let slots = self.era().slots.lock();
        slots.iter().filter_map(Weak::upgrade).collect()
    }

    /// Shows a thread's slot to readers of the list.
    pub(crate) fn add_slot(self: &Arc<Self>, slot: &Arc<WorkerSlot>) {
        let mut slots = self.era().slots.lock();
        slots.retain(|slot| slot.strong_count() > 0);
        slots.push(Arc::downgrade(slot));
    }

    /// Counts queued jobs that are no waiting tasks: callbacks, ticks, and tasks that ended in the
    /// queue and that no worker has removed yet.
    pub(crate) fn uncounted(self: &Arc<Self>) -> &Count {
        &self.era().uncounted
    }

    /// Notes that a task ended before it ran: if it is queued, it no longer waits there.
    pub(crate) fn ended_in_queue(self: &Arc<Self>, task: &Task) {
        if task.leave_queue() {
            self.uncounted().add();
        }
    }

    /// Notes that `job` was taken out of the queue and is not about to start.
    pub(crate) fn took_out(self: &Arc<Self>, job: &Job) {
        let waited = match job {
            Job::Task(task) => task.get().leave_queue(),
            Job::Callbacks(..) | Job::Tick(_) | Job::Claimed(_) => false,
        };
        if !waited {
            self.uncounted().remove();
        }
    }

    /// This process's abandoned calls: their tasks have ended, their code still runs.
    pub(crate) fn stuck(self: &Arc<Self>) -> &Strays {
        &self.era().stuck
    }

    /// This process's tasks that wait for a limiter, for another attempt, or for other tasks.
    pub(crate) fn held(self: &Arc<Self>) -> &HeldTasks {
        &self.era().held
    }

    /// The permits of this process's queue, if its size is limited.
    pub(crate) fn places(self: &Arc<Self>) -> Option<&Places> {
        self.era().places.as_ref()
    }

    /// This process's limiters by key.
    pub(crate) fn lanes(self: &Arc<Self>, py: Python<'_>) -> PyResult<&Arc<Table>> {
        let lanes = &self.era().lanes;
        lanes.get_or_try_init(|| Ok(Box::new(Arc::new(Table::new(py, self)?))))
    }

    /// This process's unique tasks by key.
    pub(crate) fn claims(self: &Arc<Self>, py: Python<'_>) -> PyResult<&Table> {
        let claims = &self.era().claims;
        claims.get_or_try_init(|| Table::new(py, self).map(Box::new))
    }

    /// The last debounced task of each key in this process.
    pub(crate) fn debounced(self: &Arc<Self>, py: Python<'_>) -> PyResult<&Table> {
        let debounced = &self.era().debounced;
        debounced.get_or_try_init(|| Table::new(py, self).map(Box::new))
    }

    /// The figures of this process's tasks, if they are counted.
    pub(crate) fn figures(self: &Arc<Self>) -> Option<&Metrics> {
        self.counted.then(|| &self.era().figures)
    }

    /// The samples of this process, if they are taken.
    pub(crate) fn samples(self: &Arc<Self>) -> Option<&Samples> {
        // Relaxed: a task that starts at this moment may be seen or not.
        self.sampled
            .load(Ordering::Relaxed)
            .then(|| &self.era().samples)
    }

    /// Takes samples from now on, in forked processes too.
    pub(crate) fn set_sampled(&self) {
        self.sampled.store(true, Ordering::Relaxed);
        let kinds = [Kind::Submitted, Kind::Started, Kind::Cancelled];
        events::subscribe(Subscriber::Samples, &kinds);
    }

    /// The record of this process's tasks, if one is kept.
    #[inline]
    pub(crate) fn recorder(self: &Arc<Self>) -> Option<&Recorder> {
        // Relaxed: a task that comes at this moment may be seen or not.
        self.recorded
            .load(Ordering::Relaxed)
            .then(|| &self.era().recorder)
    }

    /// Records what happens to tasks from now on, in forked processes too.
    pub(crate) fn set_recorded(&self) {
        self.recorded.store(true, Ordering::Relaxed);
        events::subscribe(Subscriber::Recorder, &events::ALL);
    }

    /// This process's tasks on the event loop.
    pub(crate) fn on_loop(self: &Arc<Self>) -> &HeldTasks {
        &self.era().on_loop
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// The most stuck workers that are replaced.
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
            slots: Mutex::default(),
            on_loop: HeldTasks::default(),
            held: HeldTasks::default(),
            uncounted: Count::default(),
            stuck: Strays::default(),
            places: (backpressure.queue_size > 0).then(|| Places::new(backpressure.queue_size)),
            lanes: OnceBox::new(),
            claims: OnceBox::new(),
            debounced: OnceBox::new(),
            figures: Metrics::default(),
            samples: Samples::default(),
            recorder: Recorder::default(),
        }
    }
}

/// When the task of a job was made. A tick is short, so it goes first.
fn birth(queued: &Queued) -> Rank {
    match queued.0.look() {
        Ok(task) | Err(Job::Task(task) | Job::Callbacks(task, _)) => task.get().born(),
        Err(Job::Tick(_)) => Rank::MIN,
        // In microseconds.
        Err(Job::Claimed(claimed)) => claimed.1.submitted_at.saturating_mul(1_000),
    }
}

impl Drop for Era {
    fn drop(&mut self) {
        if self.generation != generation() {
            // Another process's pool: its locks may be held by threads that do not exist here.
            std::mem::forget(Arc::clone(&self.pool));
            std::mem::forget(std::mem::take(&mut self.on_loop));
            std::mem::forget(std::mem::take(&mut self.held));
            // A thread that does not exist here may have left them half changed.
            std::mem::forget(std::mem::take(&mut self.figures));
            std::mem::forget(std::mem::take(&mut self.samples));
            std::mem::forget(std::mem::take(&mut self.recorder));
        }
    }
}

/// Options of a `Delay`'s executor that a plain one lacks.
pub(crate) struct Scoped {
    pub(crate) scope: Scope,
    pub(crate) reject_types: Py<PyTuple>,
    pub(crate) reject: Py<PyAny>,
    /// Submits a call with uploads among its arguments, where tasks may have some.
    pub(crate) uploads: Option<Py<PyAny>>,
    /// Turns the function of a dependent task into the one that is called in its place.
    pub(crate) step: Option<Py<PyAny>>,
}

pub(crate) struct Inner {
    pub(crate) core: Arc<Core>,
    pub(crate) scoped: Option<Scoped>,
    pub(crate) defaults: Mutex<Vec<Py<PyAny>>>,
    /// Lets a submission skip the lock of `defaults` if there are none.
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

/// The source of the app contexts for an executor's tasks and callbacks.
pub(crate) enum Scope {
    /// Called to make one.
    Maker(Py<PyAny>),
    /// A weak reference to the owner of a method that makes one. The owner has the executor, and
    /// must go with its last reference. Each future has a strong one.
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
    /// `RuntimeError` if the owner is gone.
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
