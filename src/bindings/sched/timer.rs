//! The process's one timer: calls functions at their time.
//!
//! Its thread is no worker, so what it runs is short: it ends futures in time and wakes their
//! waiters. It leaves to workers what may take long, callbacks above all. What would run user code
//! when dropped goes through [`leftovers`].

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

/// A function with its argument, called at its time.
trait Alarm: Send {
    /// The executor, if it still exists.
    fn core(&self) -> Option<Arc<Core>>;

    /// The Python object that it refers to, if any.
    fn object<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>>;

    fn ring(self: Box<Self>, py: Python<'_>);
}

/// A Python object of an executor, as the argument of a timer's function.
pub(crate) trait OfExecutor: PyClass<Frozen = True> + Sync {
    /// The executor, if it still exists.
    fn executor(&self) -> Option<Arc<Core>>;
}

impl OfExecutor for Task {
    fn executor(&self) -> Option<Arc<Core>> {
        self.core().cloned()
    }
}

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

/// A function for a pool.
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

/// Calls `act(object)` at a time, past or future.
///
/// # Errors
///
/// `RuntimeError` if the timer's thread, which the first entry starts, cannot be started.
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

/// Makes sure that timers can be set, for a task that may need one later.
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

/// As [`set`], after some time. `None` if that is beyond the clock's range: never.
pub(crate) fn set_in<T: OfExecutor>(
    time: Duration,
    object: &Bound<'_, T>,
    act: impl FnOnce(&Bound<'_, T>) + Send + 'static,
) -> PyResult<Option<Ticket>> {
    let at = Instant::now().checked_add(time);
    at.map(|at| set(at, object, act)).transpose()
}

/// Calls `act` for a pool after some time, if the pool still exists.
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

/// Whether the timer has stopped, at the end of the process.
pub(crate) fn has_stopped() -> bool {
    timer().has_stopped()
}

/// Cancels a timer that has not fired.
pub(crate) fn unset(_py: Python<'_>, ticket: Ticket) {
    drop(timer().cancel(ticket));
}

/// Ends the timer's thread and drops its entries.
pub(crate) fn stop(py: Python<'_>) {
    let Some(timer) = TIMER.get() else {
        return;
    };
    drop(timer.stop());
    let deadline = Instant::now() + PATIENCE;
    let left = py.detach(|| timer.join(Some(deadline)));
    debug_assert!(left, "no alarm takes that long");
}

/// Longer than any function of the timer takes.
const PATIENCE: Duration = Duration::from_secs(1);

fn ring_all(due: Vec<Box<dyn Alarm>>) {
    let mut due = Some(due);
    // `None` if the interpreter is gone.
    attach(|py| {
        for alarm in due.take().into_iter().flatten() {
            let (core, object) = (alarm.core(), alarm.object(py));
            let mut rung = Ok(());
            leftovers::gather(py, core.as_ref(), || {
                // A defect in one must not stop the timer for all others.
                rung = catch_unwind(AssertUnwindSafe(|| alarm.ring(py)));
                // This may be the last reference to a task that ended meanwhile.
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
