//! Raises exceptions in another thread, at its next step in Python code.

use std::ffi::{c_long, c_ulong};
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// CPython's identifier of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadId(c_long);

impl ThreadId {
    /// As `threading.get_ident` returns it.
    pub(crate) fn ident(self) -> c_ulong {
        self.0.cast_unsigned()
    }
}

pub(crate) fn this_thread() -> ThreadId {
    // SAFETY: may be called by any thread.
    let ident = unsafe { ffi::PyThread_get_thread_ident() };
    // CPython returns an unsigned number here, and takes a signed one of the same bits in `set`.
    ThreadId(ident.cast_signed())
}

/// Raises `class` in `thread`, in place of an exception set before.
///
/// Runs no code: it drops only a class, which its module keeps.
pub(crate) fn set(thread: ThreadId, class: &Bound<'_, PyType>) {
    // SAFETY: attached; a thread that does not exist is not found. CPython takes a reference.
    unsafe { ffi::PyThreadState_SetAsyncExc(thread.0, class.as_ptr()) };
}

/// Clears an exception set for `thread` that was not raised yet. Before 3.13 every thread then
/// keeps checking for it: see `take_back` in `core::interrupt`.
pub(crate) fn unset(_py: Python<'_>, thread: ThreadId) {
    // SAFETY: attached; a thread that does not exist is not found.
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

/// Acts like another Ctrl-C.
pub(crate) fn interrupt_main(_py: Python<'_>) {
    // SAFETY: attached; sets a flag.
    unsafe { ffi::PyErr_SetInterrupt() };
}
