//! The one timer of the process, and what it is set for.
//!
//! Its thread is no worker: what it does is short. It ends futures in time and wakes those who
//! wait for them; what may take long, callbacks above all, it gives to workers. Whatever is about
//! to be dropped there, or to call code of users, goes by [`leftovers`].

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use flask_delay_engine::{Ticket, Timer};
use once_cell::race::OnceBox;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::delays;
use super::limits;
use crate::bindings::api::periodic::{self, Ticker};
use crate::bindings::core::executor::Core;
use crate::bindings::core::keys::{self, Lane};
use crate::bindings::core::leftovers;
use crate::bindings::core::task::FutureCell;
use crate::bindings::ffi::attach::attach;
use crate::bindings::ffi::fork::generation;
use crate::bindings::run::retry;
use crate::bindings::run::timeout::{self, Shot};

/// What happens when it is time.
pub(crate) enum Alarm {
    /// The time of a call is over.
    Interrupt(Shot),
    /// What was interrupted has had time to end.
    GiveUp(Shot),
    /// A task that has not started is not to start any more.
    Expire(Py<FutureCell>),
    /// A task that failed runs again.
    Again(Py<FutureCell>),
    /// A task's time may have come.
    Begin(Py<FutureCell>),
    /// Some of a pool's workers are stuck.
    Stuck(Weak<Core>),
    /// A rate lets further tasks of a key start.
    Lane(Py<Lane>),
    /// What comes again and again may be due.
    Tick(Py<Ticker>),
}

/// The timer of one process.
struct Era {
    generation: u32,
    timer: Timer<Alarm>,
    /// That of a process forked from this one.
    next: OnceBox<Era>,
}

static FIRST: OnceBox<Era> = OnceBox::new();

/// Deep enough for Python code: what awaits a future is called here.
pub(crate) const STACK: usize = 8 << 20;

impl Era {
    fn new() -> Self {
        Self {
            generation: generation(),
            timer: Timer::new("delay-timer".to_owned(), STACK, ring_all),
            next: OnceBox::new(),
        }
    }
}

fn timer() -> &'static Timer<Alarm> {
    // Another process's timer is not touched, as in `core`.
    let mut era = FIRST.get_or_init(|| Box::new(Era::new()));
    while era.generation != generation() {
        era = era.next.get_or_init(|| Box::new(Era::new()));
    }
    &era.timer
}

/// Has `alarm` ring at a time, past or to come.
///
/// # Errors
///
/// `RuntimeError` if the timer's thread, which the first alarm starts, cannot be started.
pub(crate) fn set(at: Instant, alarm: Alarm) -> PyResult<Ticket> {
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

/// As [`set`], after some time.
pub(crate) fn set_in(time: Duration, alarm: Alarm) -> PyResult<Option<Ticket>> {
    // Beyond what the clock can tell: never.
    let at = Instant::now().checked_add(time);
    at.map(|at| set(at, alarm)).transpose()
}

/// Has an alarm not ring, if it has not yet.
pub(crate) fn unset(_py: Python<'_>, ticket: Ticket) {
    drop(timer().cancel(ticket));
}

/// The thread leaves; what it was set for is dropped.
pub(crate) fn stop(py: Python<'_>) {
    let Some(mut era) = FIRST.get() else {
        return;
    };
    while era.generation != generation() {
        let Some(next) = era.next.get() else {
            return;
        };
        era = next;
    }
    drop(era.timer.stop());
    let deadline = Instant::now() + PATIENCE;
    let left = py.detach(|| era.timer.join(Some(deadline)));
    debug_assert!(left, "no alarm takes that long");
}

/// More than any alarm takes.
const PATIENCE: Duration = Duration::from_secs(1);

fn ring_all(due: Vec<Alarm>) {
    let mut due = Some(due);
    // None if the interpreter has gone.
    attach(|py| {
        for alarm in due.take().into_iter().flatten() {
            let (core, object) = (alarm.core(py), alarm.object(py));
            let mut rung = Ok(());
            leftovers::gather(py, core.as_ref(), || {
                // A defect in one must not stop the clock for all others.
                rung = catch_unwind(AssertUnwindSafe(|| ring(py, alarm)));
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

impl Alarm {
    /// What it is about, if that is anything of Python's.
    fn object<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let object = match self {
            Self::Interrupt(shot) | Self::GiveUp(shot) => shot.task().bind(py).as_any(),
            Self::Expire(task) | Self::Again(task) | Self::Begin(task) => task.bind(py).as_any(),
            Self::Tick(ticker) => ticker.bind(py).as_any(),
            Self::Lane(lane) => lane.bind(py).as_any(),
            Self::Stuck(_) => return None,
        };
        Some(object.clone())
    }

    /// The executor that it is for, if that is still there.
    fn core(&self, py: Python<'_>) -> Option<Arc<Core>> {
        match self {
            Self::Interrupt(shot) | Self::GiveUp(shot) => shot.task().get().core().cloned(),
            Self::Expire(task) | Self::Again(task) | Self::Begin(task) => {
                task.get().core().cloned()
            }
            Self::Stuck(core) => core.upgrade(),
            Self::Tick(ticker) => periodic::core_of(ticker.bind(py).get()),
            Self::Lane(lane) => keys::core_of(lane.bind(py).get()),
        }
    }
}

fn ring(py: Python<'_>, alarm: Alarm) {
    match alarm {
        Alarm::Interrupt(shot) => timeout::interrupt(py, shot),
        Alarm::GiveUp(shot) => timeout::give_up(py, &shot),
        Alarm::Expire(task) => timeout::expire(task.bind(py)),
        Alarm::Again(task) => retry::wake(task.bind(py)),
        Alarm::Begin(task) => delays::ring(task.bind(py)),
        Alarm::Stuck(core) => timeout::look_after_stuck(py, &core),
        Alarm::Tick(ticker) => periodic::ring(ticker.bind(py)),
        Alarm::Lane(lane) => limits::advance(lane.bind(py)),
    }
}
