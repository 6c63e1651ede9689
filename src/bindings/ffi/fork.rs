//! Notices forks, also those that a server makes in C, without Python's hooks.

use std::cell::Cell;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use flask_delay_engine::begin_generation;
pub(crate) use flask_delay_engine::generation;
use pyo3::ffi;
use pyo3::prelude::*;

#[cfg(not(Py_3_12))]
use super::attach::list;

/// Whether C code forks, as uWSGI's master does after it has released the GIL. The handlers then
/// do what Python's own fork does. Otherwise the child would wait forever for a thread that held
/// the GIL or waited for it.
static IS_FORKED_IN_C: AtomicBool = AtomicBool::new(false);

/// File descriptors that no forked child may keep; -1 for none.
static PRIVATE: [AtomicI32; 2] = [AtomicI32::new(-1), AtomicI32::new(-1)];

/// Closes these file descriptors in each process forked from this one, also by C code.
pub(crate) fn keep(descriptors: [c_int; 2]) {
    for (place, descriptor) in PRIVATE.iter().zip(descriptors) {
        // Relaxed, here and below: a fork publishes everything to its child.
        place.store(descriptor, Ordering::Relaxed);
    }
}

thread_local! {
    /// This thread's attachment, from before its fork until after it, if the handlers made it.
    static ATTACHED: Cell<Option<ffi::PyGILState_STATE>> = const { Cell::new(None) };
}

extern "C" fn before() {
    // Relaxed: set once, before any fork that it concerns.
    if IS_FORKED_IN_C.load(Ordering::Relaxed) {
        ATTACHED.set(attach());
    }
    #[cfg(not(Py_3_12))]
    list::before_fork();
    // Last: the journal's writer thread must not wait for a lock that is taken here.
    flask_delay_journal::before_fork();
}

fn attach() -> Option<ffi::PyGILState_STATE> {
    // SAFETY: `Py_IsInitialized` may be called by any thread at any time, the other functions
    // while the interpreter exists. No thread with the GIL waits for this thread, which is uWSGI's
    // own.
    unsafe {
        if ffi::Py_IsInitialized() == 0 {
            return None;
        }
        let state = ffi::PyGILState_Ensure();
        if matches!(state, ffi::PyGILState_STATE::PyGILState_LOCKED) {
            // Attached already: Python forks, or uWSGI with its `py-call-uwsgi-fork-hooks`.
            ffi::PyGILState_Release(state);
            return None;
        }
        ffi::PyOS_BeforeFork();
        Some(state)
    }
}

extern "C" fn in_parent() {
    flask_delay_journal::after_fork_in_parent();
    #[cfg(not(Py_3_12))]
    list::after_fork();
    if let Some(state) = ATTACHED.take() {
        // SAFETY: the counterpart of `attach`, by the same thread.
        unsafe {
            ffi::PyOS_AfterFork_Parent();
            ffi::PyGILState_Release(state);
        }
    }
}

/// Runs on the child's only thread: the one that forked.
extern "C" fn in_child() {
    begin_generation();
    flask_delay_journal::after_fork_in_child();
    for place in &PRIVATE {
        let descriptor = place.swap(-1, Ordering::Relaxed);
        if descriptor >= 0 {
            // SAFETY: allowed between fork and exec. No code here uses it: this is the only
            // thread, and `worker.py` checks that it is still in its own process.
            unsafe { libc::close(descriptor) };
        }
    }
    #[cfg(not(Py_3_12))]
    list::after_fork();
    if let Some(state) = ATTACHED.take() {
        // SAFETY: the counterpart of `attach`, by the same thread. `PyOS_AfterFork_Child` makes
        // Python's locks anew.
        unsafe {
            ffi::PyOS_AfterFork_Child();
            ffi::PyGILState_Release(state);
        }
    }
}

/// Installs the fork handlers; called once, when the module is loaded.
pub(crate) fn watch(py: Python<'_>) -> PyResult<()> {
    // Only uWSGI has a module `uwsgi`. Without a GIL there is no thread to wait for.
    let embedded = py.import("sys")?.getattr("modules")?.contains("uwsgi")?;
    IS_FORKED_IN_C.store(embedded && cfg!(not(Py_GIL_DISABLED)), Ordering::Relaxed);
    // SAFETY: in the child the handlers change atomics, close files and release a lock that the
    // same thread has taken. That is allowed between fork and exec. They also do what Python's own
    // fork does. The module is never unloaded (CPython does not), so the handlers stay valid.
    match unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) } {
        0 => Ok(()),
        code => Err(std::io::Error::from_raw_os_error(code).into()),
    }
}
