//! C's `exit`, which a server may call without finalizing Python.

use std::io;

/// Registers `handler` for C's `exit`; called once, when the module is loaded.
pub(crate) fn at_exit(handler: extern "C" fn()) -> io::Result<()> {
    // SAFETY: the handler is a function of this module, which is never unloaded (CPython
    // does not), and an `extern "C"` function that panics aborts instead of unwinding.
    match unsafe { libc::atexit(handler) } {
        0 => Ok(()),
        _ => Err(io::Error::other("no room for another exit handler")),
    }
}

/// Whether this thread is attached to the interpreter.
pub(crate) fn is_attached() -> bool {
    // SAFETY: may be called from any thread, at any time.
    unsafe { pyo3::ffi::PyGILState_Check() != 0 }
}

/// Writes to standard error without its buffers, which may stay locked forever.
pub(crate) fn write_error(text: &str) {
    // SAFETY: the pointer and the length are those of a string that outlives the call. A failed or
    // partial write has no remedy.
    let _ = unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
}
