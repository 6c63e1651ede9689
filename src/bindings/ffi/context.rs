//! `contextvars`: taking a context at submit, and running a task inside it.

use std::cell::Cell;
use std::ptr;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use crate::bindings::names;

/// The context that was carried last from this thread, for as long as a task has it: a view
/// that starts several tasks has them share one.
struct Last {
    context: Py<PyWeakrefReference>,
    /// Its variables and their values, all kept alive by the context.
    pairs: Vec<(*mut ffi::PyObject, *mut ffi::PyObject)>,
}

thread_local! {
    static LAST: Cell<Option<Last>> = const { Cell::new(None) };
}

/// The current context's variables without `hidden`, or `None` if there are none. What is
/// given may be given again, so it is to be copied and never entered.
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
        if !value_of(variable.bind_borrowed(py), &current)?.is(&current) {
            unwanted += 1;
        }
    }
    if unwanted == 0 {
        return Ok(Some(current));
    }
    if unwanted == count {
        return Ok(None);
    }
    // Gone where a thread that ends has taken its locals apart already.
    let last = LAST.try_with(Cell::take).unwrap_or_default();
    if let Some(last) = last
        && last.pairs.len() + unwanted == count
        && let Some(known) = last.if_same(&current, hidden)?
    {
        let _ = LAST.try_with(|place| place.set(Some(last)));
        return Ok(Some(known));
    }
    // A variable cannot be removed from a context, so the others are set in a new one.
    let carried = Entered::new(empty(py)?)?;
    let mut pairs = Vec::with_capacity(count - unwanted);
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
        pairs.push((variable.as_ptr(), value.as_ptr()));
    }
    let carried = carried.leave();
    let context = PyWeakrefReference::new(&carried)?.unbind();
    let _ = LAST.try_with(|place| place.set(Some(Last { context, pairs })));
    Ok(Some(carried))
}

impl Last {
    /// The context, if it is still there and each of its variables has the same value in
    /// `current`, and is none of `hidden`.
    fn if_same<'py>(
        &self,
        current: &Bound<'py, PyAny>,
        hidden: &[Py<PyAny>],
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = current.py();
        let Some(context) = self.context.bind(py).upgrade() else {
            return Ok(None);
        };
        for &(variable, value) in &self.pairs {
            // SAFETY: `context` keeps the variable alive, since nobody enters it.
            let variable = unsafe { Borrowed::from_ptr(py, variable) };
            let is_hidden = hidden.iter().any(|hidden| hidden.is(variable));
            if is_hidden || value_of(variable, current)?.as_ptr() != value {
                return Ok(None);
            }
        }
        Ok(Some(context))
    }
}

/// What a variable is set to here; `unset`, which is the value of none, if it is not.
pub(crate) fn value_of<'py>(
    variable: Borrowed<'_, 'py, PyAny>,
    unset: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut value = ptr::null_mut();
    // SAFETY: attached; CPython refuses what is no variable. A default that is given goes
    // before the variable's own, so there is a value, a new reference, unless it failed.
    unsafe {
        ffi::PyContextVar_Get(variable.as_ptr(), unset.as_ptr(), &raw mut value);
        Bound::from_owned_ptr_or_err(variable.py(), value)
    }
}

/// A copy of the current context.
pub(crate) fn copy_current(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: attached; the result is a new reference or an error.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// A copy of `context`, which shares its variables until one is set.
pub(crate) fn copy<'py>(context: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached; CPython refuses what is no context; the result is a new reference
    // or an error.
    unsafe { Bound::from_owned_ptr_or_err(context.py(), ffi::PyContext_Copy(context.as_ptr())) }
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
        // SAFETY: entered by this thread in `new`, and left once, here. The thread is attached,
        // as `Bound` says: an end of the thread unwinds nothing of ours, see `super::ending`.
        if unsafe { ffi::PyContext_Exit(self.0.as_ptr()) } != 0 {
            // Only if the task left the context itself, which Python code cannot do.
            PyErr::fetch(self.0.py()).write_unraisable(self.0.py(), Some(&self.0));
        }
    }
}

/// Runs `inside` in a copy of `context`, or in an empty one.
pub(crate) fn within<'py, R>(
    py: Python<'py>,
    context: Option<Bound<'py, PyAny>>,
    inside: impl FnOnce() -> R,
) -> PyResult<R> {
    let context = match context {
        Some(context) => copy(&context)?,
        None => empty(py)?,
    };
    let entered = Entered::new(context)
        .map_err(|error| PyRuntimeError::new_err(format!("cannot enter the context: {error}")))?;
    let result = inside();
    drop(entered);
    Ok(result)
}
