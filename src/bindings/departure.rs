//! What is done on a worker's thread as the last thing in Python.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

static HOOK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// See `_native.pyi`.
#[pyfunction]
pub(crate) fn _set_departure_hook(py: Python<'_>, hook: Py<PyAny>) {
    let _ = HOOK.set(py, hook);
}

/// Calls the hook, if there is one. What it raises is shown: nobody else could be told.
pub(crate) fn tell(py: Python<'_>) {
    if let Some(hook) = HOOK.get(py)
        && let Err(error) = hook.call0(py)
    {
        error.write_unraisable(py, None);
    }
}
