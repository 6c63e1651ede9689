//! The functions of `aio.py`: running coroutines and awaiting futures.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

pub(crate) struct Hooks {
    /// Passes a [`CoroutineTask`] to the event loop.
    pub(crate) start: Py<PyAny>,
    /// Returns the iterator that awaits a future.
    pub(crate) wait: Py<PyAny>,
    /// Runs a step whose function is a coroutine function.
    pub(crate) step: Py<PyAny>,
}

static HOOKS: PyOnceLock<Hooks> = PyOnceLock::new();

#[doc = doc!("_set_hooks")]
#[pyfunction]
#[pyo3(signature = (*, start, wait, step))]
pub(crate) fn _set_hooks(py: Python<'_>, start: Py<PyAny>, wait: Py<PyAny>, step: Py<PyAny>) {
    let _ = HOOKS.set(py, Hooks { start, wait, step });
}

pub(crate) fn hooks(py: Python<'_>) -> PyResult<&Hooks> {
    HOOKS
        .get(py)
        .ok_or_else(|| PyRuntimeError::new_err("flask_delay has not been imported as a whole"))
}
