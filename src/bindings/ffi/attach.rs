//! Attaching a thread that Python does not know: one of ours, at its first time.
//!
//! CPython lists a thread before that waits for the GIL, under a lock of its own, and up to
//! version 3.11 a forked child takes that lock before it makes it anew
//! (`PyOS_AfterFork_Child`). If some thread was about to list itself at the fork, the child
//! waits for that one for ever. So ours list themselves while nobody forks.

use pyo3::prelude::*;

/// As `Python::try_attach`, for a thread that may be one of ours.
pub(crate) fn attach<R>(inside: impl FnOnce(Python<'_>) -> R) -> Option<R> {
    #[cfg(not(Py_3_12))]
    let listed = list::enter();
    Python::try_attach(|py| {
        #[cfg(not(Py_3_12))]
        if listed {
            list::leave_with_this_attachment(py);
        }
        inside(py)
    })
}

/// The lock that a fork holds.
#[cfg(not(Py_3_12))]
pub(super) mod list {
    use std::cell::Cell;
    use std::mem::ManuallyDrop;
    use std::sync::{Mutex, MutexGuard, TryLockError};
    use std::time::{Duration, Instant};

    use pyo3::ffi;
    use pyo3::prelude::*;

    /// The standard one, which a child may let go of; see the engine's `sync`.
    static GATE: Mutex<()> = Mutex::new(());

    thread_local! {
        /// This thread's hold of the gate, from before its fork until after it.
        static HELD: Cell<Option<ManuallyDrop<MutexGuard<'static, ()>>>> = const { Cell::new(None) };
    }

    /// Takes the gate, or goes on without it when that takes too long.
    fn hold() -> Option<MutexGuard<'static, ()>> {
        let mut began = None;
        loop {
            match GATE.try_lock() {
                Ok(gate) => return Some(gate),
                Err(TryLockError::Poisoned(error)) => return Some(error.into_inner()),
                Err(TryLockError::WouldBlock) => {}
            }
            if began.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                return None;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// More than it takes to list a thread. Not for ever: under `tracemalloc` that allocation
    /// waits for the GIL, which who forks may have; and then the child finds the gate taken.
    const PATIENCE: Duration = Duration::from_millis(100);
    const PAUSE: Duration = Duration::from_micros(20);

    /// Lists this thread, unless it is; whether it was not.
    pub(super) fn enter() -> bool {
        let gate = hold();
        // SAFETY: both may be called from any thread, attached or not, and the former says
        // whether the latter's interpreter is there. `PyThreadState_New` needs no GIL and
        // waits for nobody but those who are in here too. What it makes is this thread's own,
        // found by the next `PyGILState_Ensure`.
        let listed = unsafe {
            ffi::PyGILState_GetThisThreadState().is_null()
                && ffi::Py_IsInitialized() != 0
                && !ffi::PyThreadState_New(ffi::PyInterpreterState_Main()).is_null()
        };
        drop(gate);
        listed
    }

    /// Has the entry that [`enter`] made go when this attachment ends, as if that had made it.
    pub(super) fn leave_with_this_attachment(_py: Python<'_>) {
        // SAFETY: attached, by a second count on top of the one with which the entry was born;
        // this takes back the first, and `PyGILState_LOCKED` says to stay attached.
        unsafe { ffi::PyGILState_Release(ffi::PyGILState_STATE::PyGILState_LOCKED) };
    }

    pub(in crate::bindings::ffi) fn before_fork() {
        HELD.set(hold().map(ManuallyDrop::new));
    }

    /// In the parent and in the child, whose only thread is the one that has forked.
    pub(in crate::bindings::ffi) fn after_fork() {
        if let Some(gate) = HELD.take() {
            drop(ManuallyDrop::into_inner(gate));
        }
    }
}
