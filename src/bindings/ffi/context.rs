//! `contextvars`: taking a context at submit, and running a task inside it.

use crate::bindings::names;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

/// The current context's variables without `hidden`, or `None` if there are none.
pub(crate) fn carry<'py>(
    py: Python<'py>,
    hidden: &[Py<PyAny>],
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let current = copy_current(py)?;
    let count = current.len()?;
    if count == 0 {
        return Ok(None);
    }
    let mut unwanted = 0;
    for variable in hidden {
        if current.contains(variable)? {
            unwanted += 1;
        }
    }
    if unwanted == 0 {
        return Ok(Some(current));
    }
    if unwanted == count {
        return Ok(None);
    }
    // A variable cannot be removed from a context, so the others are set in a new one.
    let carried = Entered::new(empty(py)?)?;
    for item in current.call_method0(names::items(py))?.try_iter()? {
        let (variable, value): (Bound<'py, PyAny>, Bound<'py, PyAny>) = item?.extract()?;
        if hidden.iter().any(|hidden| hidden.is(&variable)) {
            continue;
        }
        // SAFETY: `variable` came out of a context, so it is a ContextVar; the token is
        // owned and dropped.
        unsafe {
            drop(Bound::from_owned_ptr_or_err(
                py,
                ffi::PyContextVar_Set(variable.as_ptr(), value.as_ptr()),
            )?);
        }
    }
    Ok(Some(carried.leave()))
}

/// A copy of the current context.
pub(crate) fn copy_current(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: attached; the result is a new reference or an error.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// A context without variables.
pub(crate) fn empty(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: attached; the result is a new reference or an error.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_New()) }
}

/// This thread runs in a context until the guard is dropped.
pub(crate) struct Entered<'py>(Bound<'py, PyAny>);

impl<'py> Entered<'py> {
    pub(crate) fn new(context: Bound<'py, PyAny>) -> PyResult<Self> {
        // SAFETY: `context` is a Context (both makers above return one), or CPython
        // refuses it with an error.
        if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
            return Err(PyErr::fetch(context.py()));
        }
        Ok(Self(context))
    }

    fn leave(self) -> Bound<'py, PyAny> {
        self.0.clone()
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // SAFETY: entered by this thread in `new`, and left once, here. `Bound` proves
        // that the thread is attached.
        if unsafe { ffi::PyContext_Exit(self.0.as_ptr()) } != 0 {
            // Only if the task left the context itself, which Python code cannot do.
            PyErr::fetch(self.0.py()).write_unraisable(self.0.py(), Some(&self.0));
        }
    }
}

/// Runs `inside` in `context`, or in an empty one.
pub(crate) fn within<'py, R>(
    py: Python<'py>,
    context: Option<Bound<'py, PyAny>>,
    inside: impl FnOnce() -> R,
) -> PyResult<R> {
    let context = match context {
        Some(context) => context,
        None => empty(py)?,
    };
    let entered = Entered::new(context)
        .map_err(|error| PyRuntimeError::new_err(format!("cannot enter the context: {error}")))?;
    let result = inside();
    drop(entered);
    Ok(result)
}
