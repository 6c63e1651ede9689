//! Calling Python functions straight from a future's slots, and looking at what they are.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// How a call's arguments lie in a future's two argument slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// None, one or two positional arguments, inline.
    Inline(u8),
    /// A tuple of all values, and the tuple of keyword names that the last of them belong
    /// to, if any.
    Packed,
}

/// Calls `function` with the arguments of `shape`.
pub(crate) fn call<'py>(
    function: &Bound<'py, PyAny>,
    shape: Shape,
    first: Option<&Bound<'py, PyAny>>,
    second: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = function.py();
    let raw = |slot: Option<&Bound<'py, PyAny>>| slot.map_or(std::ptr::null_mut(), Bound::as_ptr);
    // SAFETY: `function` and the arguments are alive for the whole call, the counts are
    // those of the arrays, and a result or an error is owned by the caller.
    unsafe {
        let result = match shape {
            Shape::Inline(count) => {
                // The cell before the arguments may be used by a bound method for `self`.
                let mut cells = [std::ptr::null_mut(), raw(first), raw(second)];
                ffi::PyObject_Vectorcall(
                    function.as_ptr(),
                    cells.as_mut_ptr().add(1),
                    usize::from(count) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
                    std::ptr::null_mut(),
                )
            }
            Shape::Packed => {
                let values = first
                    .and_then(|values| values.cast::<PyTuple>().ok())
                    .ok_or_else(|| packed_without_values())?;
                let names = second.and_then(|names| names.cast::<PyTuple>().ok());
                let named = names.map_or(0, PyTupleMethods::len);
                let cells: Vec<_> = values.iter_borrowed().map(|cell| cell.as_ptr()).collect();
                ffi::PyObject_Vectorcall(
                    function.as_ptr(),
                    cells.as_ptr(),
                    cells.len() - named,
                    raw(second),
                )
            }
        };
        Bound::from_owned_ptr_or_err(py, result)
    }
}

#[cold]
fn packed_without_values() -> PyErr {
    pyo3::exceptions::PySystemError::new_err("a packed call lost its arguments")
}

/// The code object of a plain Python function.
pub(crate) fn code_of<'py>(function: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: checked to be a function before it is read as one; the reference is borrowed.
    unsafe {
        if ffi::PyFunction_Check(function.as_ptr()) == 0 {
            return None;
        }
        Bound::from_borrowed_ptr_or_opt(
            function.py(),
            ffi::PyFunction_GetCode(function.as_ptr()),
        )
    }
}

/// Whether `object` is a coroutine, as an `async def` function returns one.
pub(crate) fn is_coroutine(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: only looks at the type of a live object.
    unsafe { ffi::PyCoro_CheckExact(object.as_ptr()) != 0 }
}

/// A function of a C extension that keeps nothing alive but its module.
pub(crate) fn is_module_function(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: checked to be a C function before it is read as one; `owner` is borrowed
    // and may be null.
    unsafe {
        if ffi::PyCFunction_CheckExact(object.as_ptr()) == 0 {
            return false;
        }
        let owner = ffi::PyCFunction_GetSelf(object.as_ptr());
        owner.is_null() || ffi::PyModule_CheckExact(owner) != 0
    }
}
