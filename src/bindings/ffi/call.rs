//! Calls Python functions straight from a future's slots, and checks their kind.

use std::panic::catch_unwind;
use std::ptr;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use pyo3::{Borrowed, ffi};

use crate::bindings::errors::panic_message;
use crate::bindings::names;

/// The layout of a call's arguments in a future's two argument slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Up to two positional arguments, inline.
    Inline(u8),
    /// A tuple of all values and, if the last ones are keywords, a tuple of their names.
    Packed,
}

/// Calls `function` with the arguments of `shape`.
pub(crate) fn call<'py>(
    function: &Bound<'py, PyAny>,
    shape: Shape,
    first: Option<&Bound<'py, PyAny>>,
    second: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let raw = |slot: Option<&Bound<'py, PyAny>>| slot.map_or(ptr::null_mut(), Bound::as_ptr);
    match shape {
        Shape::Inline(count) => {
            // A bound method may use the entry before the arguments for `self`.
            let cells = [ptr::null_mut(), raw(first), raw(second)];
            let count = usize::from(count) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
            // SAFETY: the shape says how many of the entries are arguments.
            unsafe { vectorcall(function, &cells[1..], count, ptr::null_mut()) }
        }
        Shape::Packed => {
            let values = first
                .and_then(|values| values.cast::<PyTuple>().ok())
                .ok_or_else(packed_without_values)?;
            let names = second.and_then(|names| names.cast::<PyTuple>().ok());
            let named = names.map_or(0, PyTupleMethods::len);
            let cells: Vec<_> = values.iter_borrowed().map(Borrowed::as_ptr).collect();
            // SAFETY: the last `named` entries are the values of the keywords.
            unsafe { vectorcall(function, &cells, cells.len() - named, raw(second)) }
        }
    }
}

/// Calls `function(*arguments)`.
pub(crate) fn call_with<'py, const N: usize>(
    function: &Bound<'py, PyAny>,
    arguments: [&Bound<'py, PyAny>; N],
) -> PyResult<Bound<'py, PyAny>> {
    let cells = arguments.map(Bound::as_ptr);
    // SAFETY: all entries are positional arguments.
    unsafe { vectorcall(function, &cells, N, ptr::null_mut()) }
}

/// Calls `function(*arguments, name=value)`.
pub(crate) fn call_named<'py>(
    function: &Bound<'py, PyAny>,
    arguments: &[&Bound<'py, PyAny>],
    name: &Bound<'py, PyString>,
    value: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let names = PyTuple::new(function.py(), [name])?;
    let all = arguments.iter().copied().chain([value]);
    let cells: Vec<_> = all.map(Bound::as_ptr).collect();
    // SAFETY: all entries but the last are positional arguments.
    unsafe { vectorcall(function, &cells, arguments.len(), names.as_ptr()) }
}

/// `PyObject_Vectorcall`: all user code is called through it.
///
/// # Safety
///
/// `cells` holds the call's arguments; `count` and `names` describe them by the vectorcall
/// protocol.
unsafe fn vectorcall<'py>(
    function: &Bound<'py, PyAny>,
    cells: &[*mut ffi::PyObject],
    count: usize,
    names: *mut ffi::PyObject,
) -> PyResult<Bound<'py, PyAny>> {
    let py = function.py();
    // SAFETY: the caller vouches for the arguments; function and arguments are borrowed for the
    // whole call; a result is owned by this function.
    let result = unsafe {
        let result = ffi::PyObject_Vectorcall(function.as_ptr(), cells.as_ptr(), count, names);
        Bound::from_owned_ptr_or_opt(py, result)
    };
    match result {
        Some(result) => Ok(result),
        // PyO3 resumes a Rust panic that returns as a Python exception. The panic must end this
        // call only.
        None => Err(catch_unwind(|| PyErr::fetch(py)).unwrap_or_else(|payload| {
            PyRuntimeError::new_err(format!("a Rust panic: {}", panic_message(&*payload)))
        })),
    }
}

#[cold]
fn packed_without_values() -> PyErr {
    pyo3::exceptions::PySystemError::new_err("a packed call lost its arguments")
}

/// The code object of a plain Python function.
#[inline]
pub(crate) fn code_of<'py>(function: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: only looks at the type of a live object.
    if unsafe { ffi::PyFunction_Check(function.as_ptr()) } == 0 {
        return None;
    }
    if cfg!(Py_GIL_DISABLED) {
        // Another thread may assign to it and free the borrowed object.
        return function.getattr(names::__code__(function.py())).ok();
    }
    // SAFETY: it is a function; the reference is borrowed, and with the GIL the object cannot be
    // freed before it is counted.
    unsafe {
        Bound::from_borrowed_ptr_or_opt(function.py(), ffi::PyFunction_GetCode(function.as_ptr()))
    }
}

/// The qualified name of a plain Python function.
pub(crate) fn function_name<'py>(function: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: only looks at the type of a live object.
    if unsafe { ffi::PyFunction_Check(function.as_ptr()) } == 0 {
        return None;
    }
    if cfg!(Py_GIL_DISABLED) {
        // As in `code_of`.
        return function.getattr(names::__qualname__(function.py())).ok();
    }
    // SAFETY: as in `code_of`.
    unsafe {
        let object = function.as_ptr().cast::<ffi::PyFunctionObject>();
        Bound::from_borrowed_ptr_or_opt(function.py(), (*object).func_qualname)
    }
}

/// Objects that a call returns before any of the function's code has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unrun {
    Coroutine,
    Generator,
    AsyncGenerator,
}

/// The kind of `object`, if it is one of these.
#[inline]
pub(crate) fn unrun(object: &Bound<'_, PyAny>) -> Option<Unrun> {
    let kind = object.get_type_ptr();
    // These types have no subclasses, but PyO3's checks would look for them at each result.
    if kind == &raw mut ffi::PyCoro_Type {
        Some(Unrun::Coroutine)
    } else if kind == &raw mut ffi::PyGen_Type {
        Some(Unrun::Generator)
    } else if kind == &raw mut ffi::PyAsyncGen_Type {
        Some(Unrun::AsyncGenerator)
    } else {
        None
    }
}

/// Whether `object` really is a code object; mocks claim to be one.
pub(crate) fn is_code(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: only looks at the type of a live object.
    unsafe { ffi::PyCode_Check(object.as_ptr()) != 0 }
}

/// Whether `object` is a C function that keeps only its module alive.
pub(crate) fn is_module_function(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: checked to be a C function before it is read as one; `owner` is borrowed
    // and may be null. Nothing can change it, so it lives as long as the function.
    unsafe {
        if ffi::PyCFunction_CheckExact(object.as_ptr()) == 0 {
            return false;
        }
        let owner = ffi::PyCFunction_GetSelf(object.as_ptr());
        owner.is_null() || ffi::PyModule_CheckExact(owner) != 0
    }
}
