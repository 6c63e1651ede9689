//! Noticing a fork, also where the server forks in C and Python's hooks do not run.

use std::cell::Cell;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use flask_delay_engine::begin_generation;
pub(crate) use flask_delay_engine::generation;
use pyo3::ffi;
use pyo3::prelude::*;

#[cfg(not(Py_3_12))]
use super::attach::list;

/// Whether forks are made as Python makes them: under uWSGI, whose master lets go of the GIL and
/// forks in C. If another thread, one of ours perhaps, had the GIL at that moment or waited for
/// it, the child would wait for that thread for ever.
static IS_FORKED_IN_C: AtomicBool = AtomicBool::new(false);

/// The file descriptors that a process forked from this one is not to have; -1 for none.
static PRIVATE: [AtomicI32; 2] = [AtomicI32::new(-1), AtomicI32::new(-1)];

/// Has these file descriptors closed in whatever process is forked from this one, also where it is
/// C that forks.
pub(crate) fn keep(descriptors: [c_int; 2]) {
    for (place, descriptor) in PRIVATE.iter().zip(descriptors) {
        // Relaxed, here and below: a fork publishes everything to its child.
        place.store(descriptor, Ordering::Relaxed);
    }
}

thread_local! {
    /// This thread's attachment, from before its fork until after it, if that is our doing.
    static ATTACHED: Cell<Option<ffi::PyGILState_STATE>> = const { Cell::new(None) };
}

extern "C" fn before() {
    // Relaxed: set once, before any fork that it is for.
    if IS_FORKED_IN_C.load(Ordering::Relaxed) {
        ATTACHED.set(attach());
    }
    #[cfg(not(Py_3_12))]
    list::before_fork();
}

fn attach() -> Option<ffi::PyGILState_STATE> {
    // SAFETY: the first may be called by any thread at any time, the second while the
    // interpreter is there. Nobody who has the GIL waits for this thread, which is uWSGI's own.
    unsafe {
        if ffi::Py_IsInitialized() == 0 {
            return None;
        }
        let state = ffi::PyGILState_Ensure();
        if matches!(state, ffi::PyGILState_STATE::PyGILState_LOCKED) {
            // Attached already: this is a fork of Python's, or uWSGI's with its
            // `py-call-uwsgi-fork-hooks`.
            ffi::PyGILState_Release(state);
            return None;
        }
        ffi::PyOS_BeforeFork();
        Some(state)
    }
}

extern "C" fn in_parent() {
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

/// By the only thread that there is: the one that has forked.
extern "C" fn in_child() {
    begin_generation();
    for place in &PRIVATE {
        let descriptor = place.swap(-1, Ordering::Relaxed);
        if descriptor >= 0 {
            // SAFETY: allowed between fork and exec. Nobody here uses it: the thread that runs
            // this is all there is, and `worker.py` looks whether it is in the process it was in.
            unsafe { libc::close(descriptor) };
        }
    }
    #[cfg(not(Py_3_12))]
    list::after_fork();
    if let Some(state) = ATTACHED.take() {
        // SAFETY: the counterpart of `attach`, by the same thread. The former makes Python's locks
        // anew.
        unsafe {
            ffi::PyOS_AfterFork_Child();
            ffi::PyGILState_Release(state);
        }
    }
}

/// Counts forks from now on, and has threads of ours wait for them where they must; called
/// once, when the module is loaded.
pub(crate) fn watch(py: Python<'_>) -> PyResult<()> {
    // uWSGI's own module is there in a uWSGI alone. Without a GIL nobody can be waited for.
    let embedded = py.import("sys")?.getattr("modules")?.contains("uwsgi")?;
    IS_FORKED_IN_C.store(embedded && cfg!(not(Py_GIL_DISABLED)), Ordering::Relaxed);
    // SAFETY: in the child the handlers change atomics, close files and let go of a lock that the
    // same thread has taken, which is allowed between fork and exec, and do what Python's own fork does.
    // The module is never unloaded (CPython does not), so the handlers stay valid.
    match unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) } {
        0 => Ok(()),
        code => Err(std::io::Error::from_raw_os_error(code).into()),
    }
}
