//! Attaches threads of this crate, which Python does not know at first.
//!
//! CPython lists a new thread under a lock of its own, before the thread waits for the GIL. Up to
//! 3.11, a forked child takes that lock before it makes it anew (`PyOS_AfterFork_Child`). If a
//! thread was about to list itself at the fork, the child would wait for it forever. So threads of
//! this crate list themselves only while no thread forks.

use pyo3::prelude::*;

/// As `Python::try_attach`, also for threads of this crate.
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

    /// A standard mutex, since the child may release it; see the engine's `sync`.
    static GATE: Mutex<()> = Mutex::new(());

    thread_local! {
        /// This thread's guard of the gate, from before its fork until after it.
        static HELD: Cell<Option<ManuallyDrop<MutexGuard<'static, ()>>>> = const { Cell::new(None) };
    }

    /// Locks the gate, or continues without it after `PATIENCE`.
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

    /// More than listing a thread takes. Limited, because under `tracemalloc` its allocation waits
    /// for the GIL, which the forking thread may hold. The child then finds the gate locked.
    const PATIENCE: Duration = Duration::from_millis(100);
    const PAUSE: Duration = Duration::from_micros(20);

    /// Lists this thread if it is not listed; returns whether it did.
    pub(super) fn enter() -> bool {
        let gate = hold();
        // SAFETY: these functions may be called from any thread, attached or not, and
        // `Py_IsInitialized` says whether the interpreter exists. `PyThreadState_New` needs no GIL
        // and waits only for threads that are in here too. The new state belongs to this thread,
        // and the next `PyGILState_Ensure` finds it.
        let listed = unsafe {
            ffi::PyGILState_GetThisThreadState().is_null()
                && ffi::Py_IsInitialized() != 0
                && !ffi::PyThreadState_New(ffi::PyInterpreterState_Main()).is_null()
        };
        drop(gate);
        listed
    }

    /// Removes the entry of [`enter`] when this attachment ends, as if the attachment had made it.
    pub(super) fn leave_with_this_attachment(_py: Python<'_>) {
        // SAFETY: attached, by a second count on top of the entry's initial one. This releases the
        // first; `PyGILState_LOCKED` says to stay attached.
        unsafe { ffi::PyGILState_Release(ffi::PyGILState_STATE::PyGILState_LOCKED) };
    }

    pub(in crate::bindings::ffi) fn before_fork() {
        HELD.set(hold().map(ManuallyDrop::new));
    }

    /// Runs in the parent and in the child; the child's only thread is the one that forked.
    pub(in crate::bindings::ffi) fn after_fork() {
        if let Some(gate) = HELD.take() {
            drop(ManuallyDrop::into_inner(gate));
        }
    }
}
