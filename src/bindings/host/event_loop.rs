//! The functions of `aio.py`: running coroutines and awaiting futures.

use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::bindings::ffi::interrupt::{ThreadId, this_thread};

pub(crate) struct Hooks {
    /// Passes a [`CoroutineTask`] to the event loop.
    pub(crate) start: Py<PyAny>,
    /// Returns the iterator that awaits a future.
    pub(crate) wait: Py<PyAny>,
    /// Runs a step whose function is a coroutine function.
    pub(crate) step: Py<PyAny>,
    /// The coroutine that waits for the next item of a stream.
    pub(crate) next_item: Py<PyAny>,
}

static HOOKS: PyOnceLock<Hooks> = PyOnceLock::new();

/// The identifier of the thread that runs the event loop, 0 for none yet.
static THREAD: AtomicU64 = AtomicU64::new(0);

/// Called on the thread of the event loop.
pub(crate) fn note_thread() {
    // Relaxed: a number, which is shown.
    THREAD.store(number(this_thread()), Ordering::Relaxed);
}

#[expect(
    clippy::useless_conversion,
    reason = "some systems have shorter identifiers"
)]
pub(crate) fn number(thread: ThreadId) -> u64 {
    thread.ident().into()
}

/// The identifier of the event loop's thread, as `threading.get_ident` returns it.
pub(crate) fn thread() -> u64 {
    THREAD.load(Ordering::Relaxed)
}

#[doc = doc!("_set_hooks")]
#[pyfunction]
#[pyo3(signature = (*, start, wait, step, next_item))]
pub(crate) fn _set_hooks(
    py: Python<'_>,
    start: Py<PyAny>,
    wait: Py<PyAny>,
    step: Py<PyAny>,
    next_item: Py<PyAny>,
) {
    let hooks = Hooks {
        start,
        wait,
        step,
        next_item,
    };
    let _ = HOOKS.set(py, hooks);
}

pub(crate) fn hooks(py: Python<'_>) -> PyResult<&Hooks> {
    HOOKS
        .get(py)
        .ok_or_else(|| PyRuntimeError::new_err("flask_delay has not been imported as a whole"))
}
