//! The one timer of the process. What it is set for, it is given to call.
//!
//! Its thread is no worker: what it does is short. It ends futures in time and wakes those who
//! wait for them; what may take long, callbacks above all, it gives to workers. Whatever is about
//! to be dropped there, or to call code of users, goes by [`leftovers`].

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use flask_delay_engine::{LazyPerProcess, Ticket, Timer};
use pyo3::PyClass;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;

use crate::bindings::core::executor::Core;
use crate::bindings::core::leftovers::{self, STACK};
use crate::bindings::core::task::Task;
use crate::bindings::ffi::attach::attach;

/// What is to be done when it is time.
trait Alarm: Send {
    /// The executor that it is for, if that is still there.
    fn core(&self) -> Option<Arc<Core>>;

    /// What it is about, if that is anything of Python's.
    fn object<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>>;

    fn ring(self: Box<Self>, py: Python<'_>);
}

/// Something of Python's, an executor's, that alarms may be about.
pub(crate) trait OfExecutor: PyClass<Frozen = True> + Sync {
    /// The executor, if it is still there.
    fn executor(&self) -> Option<Arc<Core>>;
}

impl OfExecutor for Task {
    fn executor(&self) -> Option<Arc<Core>> {
        self.core().cloned()
    }
}

/// An act on an object.
struct On<T, A> {
    object: Py<T>,
    act: A,
}

impl<T, A> Alarm for On<T, A>
where
    T: OfExecutor,
    A: FnOnce(&Bound<'_, T>) + Send,
{
    fn core(&self) -> Option<Arc<Core>> {
        self.object.get().executor()
    }

    fn object<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        Some(self.object.bind(py).as_any().clone())
    }

    fn ring(self: Box<Self>, py: Python<'_>) {
        (self.act)(self.object.bind(py));
    }
}

/// An act for a pool.
struct For<A> {
    core: Weak<Core>,
    act: A,
}

impl<A> Alarm for For<A>
where
    A: FnOnce(Python<'_>, &Arc<Core>) + Send,
{
    fn core(&self) -> Option<Arc<Core>> {
        self.core.upgrade()
    }

    fn object<'py>(&self, _py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        None
    }

    fn ring(self: Box<Self>, py: Python<'_>) {
        if let Some(core) = self.core.upgrade() {
            (self.act)(py, &core);
        }
    }
}

static TIMER: LazyPerProcess<Timer<Box<dyn Alarm>>> = LazyPerProcess::new();

fn timer() -> &'static Timer<Box<dyn Alarm>> {
    TIMER.get_or_init(|| Timer::new("delay-timer".to_owned(), STACK, ring_all))
}

/// Has `act(object)` called at a time, past or to come.
///
/// # Errors
///
/// `RuntimeError` if the timer's thread, which the first alarm starts, cannot be started.
pub(crate) fn set<T: OfExecutor>(
    at: Instant,
    object: &Bound<'_, T>,
    act: impl FnOnce(&Bound<'_, T>) + Send + 'static,
) -> PyResult<Ticket> {
    let object = object.clone().unbind();
    add(at, Box::new(On { object, act }))
}

fn add(at: Instant, alarm: Box<dyn Alarm>) -> PyResult<Ticket> {
    timer().add(at, alarm).map_err(|(alarm, error)| {
        drop(alarm);
        not_started(error)
    })
}

/// Makes sure that alarms can be set, for a task that may need one later.
///
/// # Errors
///
/// As [`set`].
pub(crate) fn ready() -> PyResult<()> {
    timer().ready().map_err(not_started)
}

fn not_started(error: io::Error) -> PyErr {
    PyRuntimeError::new_err(format!(
        "the thread that keeps the time of tasks could not be started: {error}"
    ))
}

/// As [`set`], after some time. None, if that is beyond what the clock can tell: never.
pub(crate) fn set_in<T: OfExecutor>(
    time: Duration,
    object: &Bound<'_, T>,
    act: impl FnOnce(&Bound<'_, T>) + Send + 'static,
) -> PyResult<Option<Ticket>> {
    let at = Instant::now().checked_add(time);
    at.map(|at| set(at, object, act)).transpose()
}

/// Has `act` called for a pool after some time, if that is still there.
pub(crate) fn set_in_for(
    time: Duration,
    core: &Arc<Core>,
    act: impl FnOnce(Python<'_>, &Arc<Core>) + Send + 'static,
) -> PyResult<Option<Ticket>> {
    let core = Arc::downgrade(core);
    let at = Instant::now().checked_add(time);
    at.map(|at| add(at, Box::new(For { core, act })))
        .transpose()
}

/// Whether the timer has stopped for good: the process ends, and no task waits any more.
pub(crate) fn has_stopped() -> bool {
    timer().has_stopped()
}

/// Has an alarm not ring, if it has not yet.
pub(crate) fn unset(_py: Python<'_>, ticket: Ticket) {
    drop(timer().cancel(ticket));
}

/// The thread leaves; what it was set for is dropped.
pub(crate) fn stop(py: Python<'_>) {
    let Some(timer) = TIMER.get() else {
        return;
    };
    drop(timer.stop());
    let deadline = Instant::now() + PATIENCE;
    let left = py.detach(|| timer.join(Some(deadline)));
    debug_assert!(left, "no alarm takes that long");
}

/// More than any alarm takes.
const PATIENCE: Duration = Duration::from_secs(1);

fn ring_all(due: Vec<Box<dyn Alarm>>) {
    let mut due = Some(due);
    // None if the interpreter has gone.
    attach(|py| {
        for alarm in due.take().into_iter().flatten() {
            let (core, object) = (alarm.core(), alarm.object(py));
            let mut rung = Ok(());
            leftovers::gather(py, core.as_ref(), || {
                // A defect in one must not stop the clock for all others.
                rung = catch_unwind(AssertUnwindSafe(|| alarm.ring(py)));
                // The last reference, perhaps: to a task that has ended meanwhile.
                leftovers::let_go(object);
            });
            if rung.is_err() {
                PyRuntimeError::new_err("a defect in flask_delay: an alarm panicked")
                    .write_unraisable(py, None);
            }
        }
    });
    std::mem::forget(due);
}
