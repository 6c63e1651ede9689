//! Exceptions that are raised in another thread, at its next step in Python code; and whose
//! code a thread runs.

use std::ffi::{c_long, c_ulong};
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// What CPython knows a thread by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadId(c_long);

impl ThreadId {
    /// As `threading.get_ident` gives it.
    pub(crate) fn ident(self) -> c_ulong {
        self.0.cast_unsigned()
    }
}

/// The calling thread's.
pub(crate) fn this_thread() -> ThreadId {
    // SAFETY: may be called by any thread.
    let ident = unsafe { ffi::PyThread_get_thread_ident() };
    // The one function gives an unsigned number and the other wants a signed one, of the
    // same bits.
    ThreadId(ident.cast_signed())
}

/// Has `class` raised in `thread`, instead of what was set for it before.
///
/// Runs no code: what it drops is a class, which its module keeps.
pub(crate) fn set(thread: ThreadId, class: &Bound<'_, PyType>) {
    // SAFETY: attached; a thread that is not there is not found. CPython takes a reference.
    unsafe { ffi::PyThreadState_SetAsyncExc(thread.0, class.as_ptr()) };
}

/// Takes back what was set for `thread` and has not been raised. Before 3.13 that alone leaves
/// every thread looking for it for ever: see `take_back` in `core::interrupt`.
pub(crate) fn unset(_py: Python<'_>, thread: ThreadId) {
    // SAFETY: attached; a thread that is not there is not found.
    unsafe { ffi::PyThreadState_SetAsyncExc(thread.0, ptr::null_mut()) };
}

/// Whether this thread runs code of the main interpreter.
pub(crate) fn is_main_interpreter(_py: Python<'_>) -> bool {
    // SAFETY: attached; addresses are compared.
    unsafe {
        ptr::eq(
            ffi::PyInterpreterState_Get(),
            ffi::PyInterpreterState_Main(),
        )
    }
}

/// As if Ctrl-C had been pressed once more.
pub(crate) fn interrupt_main(_py: Python<'_>) {
    // SAFETY: attached; sets a flag.
    unsafe { ffi::PyErr_SetInterrupt() };
}
