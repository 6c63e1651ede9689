//! Interrupts the code of a running task, and no other code.
//!
//! An asynchronous exception is set for a thread, not for the code that runs there. So each call
//! of a task's function has a number, which is in the thread's [`Target`] while the call lasts. An
//! interruption names its call. A thread that leaves a call checks whether it was targeted, and
//! raises a pending exception in a separate function. No other Python code runs between the end of
//! the call and that. Other work for a task (its app context, its callbacks) is no call,
//! and a call is covered while another task runs inside it.

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

/// Why a call is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Timeout,
    Stop,
}

/// The result of [`Target::shoot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shooting {
    /// The exception is set, or was before, or the call has ended.
    Over,
    /// The call is covered or must not be interrupted where it is: try again.
    Later,
}

/// The number of a call.
pub(crate) type Call = u64;

pub(crate) const NONE: Call = 0;

/// One thread that runs tasks.
pub(crate) struct Target {
    thread: ThreadId,
    /// The call that runs now, if there is one and it is not covered. Only the thread writes it.
    call: AtomicU64,
    /// The frame that made it, see [`frames::may_interrupt`]. Only the thread writes it.
    floor: AtomicUsize,
    /// The last call's number. Only the thread uses it.
    last: AtomicU64,
    /// A call of this thread is targeted: a thread that leaves a call takes the lock to check.
    aimed: AtomicBool,
    /// A leaf; the calls of CPython under it (see [`interrupt`]) run no code.
    aim: Mutex<Aim>,
}

#[derive(Default)]
struct Aim {
    /// The exception that was set, and its call.
    shot: Option<(Call, Why)>,
    /// Calls with another task's call inside.
    covered: Vec<Call>,
    /// Exceptions to set for covered calls, once they are uncovered.
    due: Vec<(Call, Why)>,
    /// Abandoned calls: their tasks have ended without them.
    given_up: Vec<Call>,
    /// The waiter on which the thread sleeps inside its call.
    waiter: Option<Arc<Waiter>>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ended {
    pub(crate) shot: Option<Why>,
    /// It took too long, and its task has ended without it.
    pub(crate) given_up: bool,
}

thread_local! {
    static OWN: Arc<Target> = Arc::new(Target::new());
}

/// Calls `with` on this thread's target. None in a thread without thread-locals: its code at the
/// process's end is no call of a task.
fn with_own<R>(with: impl FnOnce(&Arc<Target>) -> R) -> Option<R> {
    OWN.try_with(with).ok()
}

/// Without a GIL, orders "the call has ended" before "is it targeted?" on one side. On the other it
/// orders "it is targeted" before "does the call run?". With the GIL, both sides hold it.
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

    pub(crate) fn thread(&self) -> ThreadId {
        self.thread
    }

    pub(crate) fn own() -> Arc<Self> {
        with_own(Arc::clone).unwrap_or_else(|| Arc::new(Self::new()))
    }

    /// Called by the target's own thread before a task's function, on top of the frame at the
    /// address `floor`, or of none.
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

    /// Raises the exception for `why` in `call`, if that has not ended and may be interrupted
    /// where it is.
    pub(crate) fn shoot(&self, py: Python<'_>, call: Call, why: Why) -> Shooting {
        let class = exception_class(py, why);
        // Before the lock is taken, since it calls Python. It is not needed for a call that has
        // ended or is covered, which is checked below.
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

    /// Abandons `call`; `false` if it has ended.
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

    /// Called when this thread's `call` has returned.
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

    /// Clears the exception set for `call`, on a stuck thread. Before 3.12, while it is set, a
    /// thread with a trace function does not get beyond the start of a function.
    pub(crate) fn take_back(&self, py: Python<'_>, call: Call) {
        let shot = self.aim.lock().take_shot(call);
        if let Some(why) = shot {
            interrupt::unset(py, self.thread);
            // The flag that makes all threads check is reset by a thread that finds an exception.
            interrupt::set(interrupt::this_thread(), &exception_class(py, why));
            receive(py);
        }
    }
}

impl Aim {
    /// The reason set for `call`, raised or not.
    fn take_shot(&mut self, call: Call) -> Option<Why> {
        self.shot
            .take_if(|(shot, _)| *shot == call)
            .map(|(_, why)| why)
    }
}

/// Raises and absorbs an exception set for this thread, if it was not raised yet.
fn receive(py: Python<'_>) {
    match breathe(py) {
        Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => {
            interrupt::interrupt_main(py);
        }
        Err(error)
            if !error.is_instance_of::<TaskTimeout>(py)
                && !error.is_instance_of::<CancelledError>(py) =>
        {
            // From a signal handler.
            error.write_unraisable(py, None);
        }
        _ => {}
    }
}

/// The frame that makes the calls from now on, if that is Python code.
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
            // Attached already: the resumed call is Python code. If it must not be interrupted
            // here, the thread that targeted it tries again.
            Python::attach(|py| with_own(|own| own.shoot(py, self.0, why)));
        }
    }
}

/// This thread's call cannot be interrupted until this is dropped.
pub(crate) struct Covered(Call, usize);

/// Covers this thread's call, if there is one: the code that follows is not its own.
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
        // It was raised already, or is lost: its sender checks again, see `run::timeout`.
        receive(py);
    }
    Some(Covered(call, floor))
}

/// Rings `waiter` if this thread's call is interrupted, until the guard is dropped.
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
    /// The error that ends the call, after its waiter was rung for it.
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
            // Absorbed here, so that it is not raised again.
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

/// The exception to raise in a task.
pub(crate) fn exception_class(py: Python<'_>, why: Why) -> Bound<'_, PyType> {
    match why {
        Why::Timeout => py.get_type::<TaskTimeout>(),
        Why::Stop => py.get_type::<CancelledError>(),
    }
}
