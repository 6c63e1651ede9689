//! How the code of a running task is interrupted, and nothing but that.
//!
//! An asynchronous exception is set for a thread, not for what runs there. So each call of a
//! task's function has a number, which stands in the thread's [`Target`] while the call lasts;
//! who wants to interrupt the call names it, and whoever leaves it looks whether somebody has
//! aimed at it, and has what has not been raised yet raised in a function of its own. No other
//! Python code runs between the end of the call and that. What else a thread does for a task
//! (its surroundings, its callbacks) is no call, and a call is covered while another task runs
//! inside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use flask_delay_engine::Mutex;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::frames;
use super::waiter::Waiter;
use crate::bindings::errors::{CancelledError, TaskTimeout};
use crate::bindings::ffi::gil::breathe;
use crate::bindings::ffi::interrupt::{self, ThreadId};

/// Why a call is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Timeout,
    Stop,
}

/// How a shot went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shooting {
    /// The exception is set, or was before, or the call has ended.
    Over,
    /// The call is covered, or is where it must not be interrupted: to be tried again.
    Later,
}

/// The number of a call.
pub(crate) type Call = u64;

pub(crate) const NONE: Call = 0;

/// One thread that runs tasks.
pub(crate) struct Target {
    thread: ThreadId,
    /// The call that runs now, if one does and is not covered. Written by the thread alone.
    call: AtomicU64,
    /// The frame that made it, see [`frames::may_interrupt`]. Written by the thread alone.
    floor: AtomicUsize,
    /// The last one's number, for the thread alone.
    last: AtomicU64,
    /// Somebody has aimed at this thread: who leaves a call takes the lock to see.
    aimed: AtomicBool,
    /// A leaf; what CPython does under it (see [`interrupt`]) runs no code.
    aim: Mutex<Aim>,
}

#[derive(Default)]
struct Aim {
    /// The exception that was set, and for which call.
    shot: Option<(Call, Why)>,
    /// Calls that others run inside of.
    covered: Vec<Call>,
    /// What is to be set for those of them, once they are uncovered.
    due: Vec<(Call, Why)>,
    /// Calls that nobody waits for any more.
    given_up: Vec<Call>,
    /// What the thread sleeps on inside its call.
    waiter: Option<Arc<Waiter>>,
}

/// What has become of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ended {
    pub(crate) shot: Option<Why>,
    /// It took too long to end; the task's outcome has been told without it.
    pub(crate) given_up: bool,
}

thread_local! {
    static OWN: Arc<Target> = Arc::new(Target::new());
}

/// Does something with this thread's target. None in a thread whose locals are gone: what it
/// does as the process ends is no call of a task's.
fn with_own<R>(with: impl FnOnce(&Arc<Target>) -> R) -> Option<R> {
    OWN.try_with(with).ok()
}

/// Where there is no GIL, orders "the call has ended" and "is it aimed at?" on one side,
/// "it is aimed at" and "does the call run?" on the other. With the GIL, both sides have it.
pub(crate) fn order() {
    if cfg!(Py_GIL_DISABLED) {
        std::sync::atomic::fence(Ordering::SeqCst);
    }
}

impl Target {
    fn new() -> Self {
        Self {
            thread: interrupt::this_thread(),
            call: AtomicU64::new(NONE),
            floor: AtomicUsize::new(0),
            last: AtomicU64::new(NONE),
            aimed: AtomicBool::new(false),
            aim: Mutex::default(),
        }
    }

    /// This thread's.
    pub(crate) fn own() -> Arc<Self> {
        with_own(Arc::clone).unwrap_or_else(|| Arc::new(Self::new()))
    }

    /// A task's function is about to be called by this thread, whose target it is, on top of
    /// the frame at the address `floor`, or of none.
    pub(crate) fn begin(&self, floor: usize) -> Call {
        // Relaxed, here and below: see `order`.
        let call = self.last.load(Ordering::Relaxed) + 1;
        self.last.store(call, Ordering::Relaxed);
        self.floor.store(floor, Ordering::Relaxed);
        self.call.store(call, Ordering::Relaxed);
        call
    }

    /// The call that runs here, if one does.
    fn call(&self) -> Option<Call> {
        Some(self.call.load(Ordering::Relaxed)).filter(|call| *call != NONE)
    }

    fn runs(&self, aim: &Aim, call: Call) -> bool {
        self.call.load(Ordering::Relaxed) == call || aim.covered.contains(&call)
    }

    pub(crate) fn still_runs(&self, call: Call) -> bool {
        self.runs(&self.aim.lock(), call)
    }

    /// Has the exception for `why` raised in `call`, if that has not ended and may be
    /// interrupted where it is.
    pub(crate) fn shoot(&self, py: Python<'_>, call: Call, why: Why) -> Shooting {
        let class = exception_class(py, why);
        // Before the lock is taken, for it calls Python. Not needed for a call that has ended or
        // is covered, which is found out below.
        let free = frames::may_interrupt(py, self.thread, self.floor.load(Ordering::Relaxed));
        let waiter = {
            let mut aim = self.aim.lock();
            self.aimed.store(true, Ordering::Relaxed);
            order();
            if aim.covered.contains(&call) {
                if !aim.due.contains(&(call, why)) {
                    aim.due.push((call, why));
                }
                return Shooting::Later;
            }
            if self.call.load(Ordering::Relaxed) != call || aim.shot.is_some() {
                return Shooting::Over;
            }
            if !free {
                return Shooting::Later;
            }
            aim.shot = Some((call, why));
            interrupt::set(self.thread, &class);
            aim.waiter.take()
        };
        if let Some(waiter) = waiter {
            waiter.ring();
        }
        Shooting::Over
    }

    /// Nobody waits for `call` any more; `false` if it has ended.
    pub(crate) fn give_up(&self, call: Call) -> bool {
        let mut aim = self.aim.lock();
        self.aimed.store(true, Ordering::Relaxed);
        order();
        let runs = self.runs(&aim, call);
        if runs {
            aim.given_up.push(call);
        }
        runs
    }

    /// This thread's `call` has returned.
    pub(crate) fn leave(&self, py: Python<'_>, call: Call) -> Ended {
        self.call.store(NONE, Ordering::Relaxed);
        order();
        if !self.aimed.load(Ordering::Relaxed) {
            return Ended::default();
        }
        self.leave_aimed(py, call)
    }

    #[cold]
    fn leave_aimed(&self, py: Python<'_>, call: Call) -> Ended {
        let mut aim = self.aim.lock();
        let shot = aim.take_shot(call);
        let given_up = aim.given_up.iter().position(|it| *it == call);
        if let Some(place) = given_up {
            aim.given_up.swap_remove(place);
        }
        if aim.due.is_empty() && aim.given_up.is_empty() {
            self.aimed.store(false, Ordering::Relaxed);
        }
        drop(aim);
        if shot.is_some() {
            receive(py);
        }
        Ended {
            shot,
            given_up: given_up.is_some(),
        }
    }

    /// Takes back what was set for `call`, whose thread is stuck. Before 3.12, while it is
    /// set a thread with a trace function does not get beyond the beginning of a function.
    pub(crate) fn take_back(&self, py: Python<'_>, call: Call) {
        let shot = self.aim.lock().take_shot(call);
        if let Some(why) = shot {
            interrupt::unset(py, self.thread);
            // What has all threads look is put back by one that finds something.
            interrupt::set(interrupt::this_thread(), &exception_class(py, why));
            receive(py);
        }
    }
}

impl Aim {
    /// What was set for `call`, raised or not.
    fn take_shot(&mut self, call: Call) -> Option<Why> {
        self.shot
            .take_if(|(shot, _)| *shot == call)
            .map(|(_, why)| why)
    }
}

/// Has what was set for this thread raised here and now, if it has not been.
fn receive(py: Python<'_>) {
    match breathe(py) {
        Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => {
            interrupt::interrupt_main(py);
        }
        Err(error)
            if !error.is_instance_of::<TaskTimeout>(py)
                && !error.is_instance_of::<CancelledError>(py) =>
        {
            // Of a signal's handler.
            error.write_unraisable(py, None);
        }
        _ => {}
    }
}

/// The frame that calls are made by from now on, where that is code of Python's.
pub(crate) fn floor(py: Python<'_>) -> usize {
    frames::caller(py)
}

impl Drop for Covered {
    fn drop(&mut self) {
        let due = with_own(|own| {
            let mut aim = own.aim.lock();
            aim.covered.retain(|call| *call != self.0);
            own.floor.store(self.1, Ordering::Relaxed);
            own.call.store(self.0, Ordering::Relaxed);
            let due = aim.due.iter().position(|(call, _)| *call == self.0);
            due.map(|due| aim.due.swap_remove(due).1)
        });
        if let Some(why) = due.flatten() {
            // Attached already: the call that goes on is of Python's. If it must not be
            // interrupted here, the thread that aimed at it tries again.
            Python::attach(|py| with_own(|own| own.shoot(py, self.0, why)));
        }
    }
}

/// The call that runs on this thread cannot be hit until this is dropped.
pub(crate) struct Covered(Call, usize);

/// Covers this thread's call, if there is one: what comes is not its own code.
pub(crate) fn cover(py: Python<'_>) -> Option<Covered> {
    let (call, floor, shot) = with_own(|own| {
        let call = own.call()?;
        let floor = own.floor.load(Ordering::Relaxed);
        let mut aim = own.aim.lock();
        own.call.store(NONE, Ordering::Relaxed);
        order();
        aim.covered.push(call);
        Some((call, floor, aim.take_shot(call)))
    })??;
    if shot.is_some() {
        // It has been raised already, or is lost: who set it looks again, see `run::timeout`.
        receive(py);
    }
    Some(Covered(call, floor))
}

/// Has `waiter` rung if this thread's call is aimed at, until the answer is dropped.
pub(crate) fn awake_on(waiter: &Arc<Waiter>) -> Option<Awake> {
    with_own(|own| {
        own.call()?;
        own.aim.lock().waiter = Some(Arc::clone(waiter));
        Some(Awake(()))
    })
    .flatten()
}

/// See [`awake_on`].
pub(crate) struct Awake(());

impl Awake {
    /// What the call is to be ended with, now that its waiter has rung for that.
    #[expect(clippy::unused_self, reason = "whose thread this is")]
    pub(crate) fn error(&self, py: Python<'_>) -> Option<PyErr> {
        with_own(|own| {
            let call = own.call()?;
            let aim = own.aim.lock();
            let (shot, why) = aim.shot?;
            if shot != call {
                return None;
            }
            drop(aim);
            // Raised here, so not once more.
            receive(py);
            let class: Bound<'_, PyType> = exception_class(py, why);
            Some(PyErr::from_type(class, ()))
        })
        .flatten()
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        let waiter = with_own(|own| own.aim.lock().waiter.take());
        drop(waiter);
    }
}

/// What is raised in a task.
pub(crate) fn exception_class(py: Python<'_>, why: Why) -> Bound<'_, PyType> {
    match why {
        Why::Timeout => py.get_type::<TaskTimeout>(),
        Why::Stop => py.get_type::<CancelledError>(),
    }
}
