//! Tells `async def` functions, which go to the event loop, from plain ones, and refuses functions
//! that a call would not run.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyType};

use super::function_name::inner_of;
use super::signature::{ASYNC_GENERATOR, COROUTINE, GENERATOR, not_callable};
use crate::bindings::ffi::call::{Unrun, call_with, code_of, is_code, unrun};
use crate::bindings::ffi::slot::Slot;
use crate::bindings::names;

/// Code objects of plain functions, found last. They are kept alive, so that no other object gets
/// their address.
static CHECKED: [Slot; 64] = [const { Slot::empty() }; 64];

/// Whether a call of a task's `function` returns a coroutine.
///
/// # Errors
///
/// `TypeError` if it returns a generator, async or not: its body would never run.
pub(crate) fn is_coroutine_function(function: &Bound<'_, PyAny>) -> PyResult<bool> {
    let flags = flags_of(function)?;
    if flags & (GENERATOR | ASYNC_GENERATOR) != 0 {
        return Err(refused(function, flags));
    }
    Ok(flags & COROUTINE != 0)
}

/// As [`is_coroutine_function`], for a function in the role `role`.
///
/// # Errors
///
/// Also `TypeError` if it is not callable.
pub(crate) fn check_function(function: &Bound<'_, PyAny>, role: &str) -> PyResult<bool> {
    if is_plain(function)? {
        return Ok(false);
    }
    if !function.is_callable() {
        return Err(not_callable(&format!("the {role}"), function));
    }
    is_coroutine_function(function)
}

#[doc = doc!("_check_function")]
#[pyfunction]
#[pyo3(signature = (r#fn, role, /))]
pub(crate) fn _check_function(r#fn: &Bound<'_, PyAny>, role: &str) -> PyResult<()> {
    check_function(r#fn, role).map(drop)
}

#[doc = doc!("_check_callback")]
#[pyfunction]
#[pyo3(signature = (r#fn, /))]
pub(crate) fn _check_callback(r#fn: &Bound<'_, PyAny>) -> PyResult<()> {
    check_callback(r#fn)
}

/// Refuses a function that cannot be a done callback.
///
/// # Errors
///
/// `TypeError` if it is not callable, or if a call would not run it.
pub(crate) fn check_callback(function: &Bound<'_, PyAny>) -> PyResult<()> {
    if is_plain(function)? {
        return Ok(());
    }
    if !function.is_callable() {
        return Err(PyTypeError::new_err(format!(
            "a done callback must be callable, got {}",
            shown(function)
        )));
    }
    refuse_unrun(
        function,
        "a done callback",
        "give a plain function, which may call delay() for it",
    )
}

/// Refuses a function for `role` that a call would not run; `remedy` names the alternative.
pub(crate) fn refuse_unrun(function: &Bound<'_, PyAny>, role: &str, remedy: &str) -> PyResult<()> {
    let flags = flags_of(function)?;
    if flags == 0 {
        return Ok(());
    }
    Err(PyTypeError::new_err(format!(
        "{role} must be a plain function, and {} is {}, which would never run: {remedy}",
        shown(function),
        kind(flags)
    )))
}

/// Refuses a `result` that has not run: a coroutine, or the generator of a generator function that
/// a decorator has made plain.
///
/// Any other generator is an ordinary result.
#[inline]
pub(crate) fn refuse_result<'py>(
    function: &Bound<'py, PyAny>,
    result: Bound<'py, PyAny>,
    role: &str,
) -> PyResult<Bound<'py, PyAny>> {
    match unrun(&result) {
        None => Ok(result),
        Some(kind) => judge_unrun(function, result, kind, role),
    }
}

#[cold]
fn judge_unrun<'py>(
    function: &Bound<'py, PyAny>,
    result: Bound<'py, PyAny>,
    kind: Unrun,
    role: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let py = function.py();
    let code = match kind {
        Unrun::Coroutine => {
            result.call_method0(names::close(py))?;
            return Err(PyTypeError::new_err(format!(
                "{role} returned the coroutine {}, which nobody awaits; give delay() the async \
                 function itself",
                shown(&result)
            )));
        }
        Unrun::Generator => result.getattr(names::gi_code(py))?,
        Unrun::AsyncGenerator => result.getattr(names::ag_code(py))?,
    };
    match decorated(function, &code)? {
        Some(inner) => Err(refused(&inner, flags_of(&inner)?)),
        None => Ok(result),
    }
}

/// The function with this code among those that decorators have wrapped in `function`.
fn decorated<'py>(
    function: &Bound<'py, PyAny>,
    code: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let mut inner = function.clone();
    for _ in 0..DECORATORS {
        if code_of(&inner).is_some_and(|it| it.is(code)) {
            return Ok(Some(inner));
        }
        inner = if let Some(next) = inner_of(&inner) {
            next
        } else if let Some(next) = inner.getattr_opt(names::__wrapped__(function.py()))? {
            next
        } else {
            break;
        };
    }
    Ok(None)
}

/// The most decorators to unwrap: mocks have attributes without end.
const DECORATORS: usize = 32;

/// Whether `function` is written in Python and a call runs its code: the usual case.
#[inline]
fn is_plain(function: &Bound<'_, PyAny>) -> PyResult<bool> {
    match code_of(function) {
        Some(code) if checked(&code).is(&code) => Ok(true),
        Some(code) => Ok(flags_of_code(&code)? == 0),
        None => Ok(false),
    }
}

/// The slot for this code object, which is in it if it was found to be plain.
#[inline]
fn checked(code: &Bound<'_, PyAny>) -> &'static Slot {
    // Code objects are some hundred bytes apart.
    &CHECKED[(code.as_ptr() as usize >> 8) % CHECKED.len()]
}

/// The relevant flags of the code that a call of `function` runs.
fn flags_of(function: &Bound<'_, PyAny>) -> PyResult<u32> {
    let py = function.py();
    if let Some(code) = code_of(function) {
        return flags_of_code(&code);
    }
    if function.is_instance_of::<PyCFunction>() || function.is_instance_of::<PyType>() {
        return Ok(0);
    }
    if let Some(inner) = inner_of(function) {
        return flags_of(&inner);
    }
    // Such as a function compiled by Cython, or a `Task` of Python.
    if let Ok(Some(code)) = function.getattr_opt(names::__code__(py))
        && is_code(&code)
    {
        let flags = flags_of_code(&code)?;
        if flags != 0 {
            return Ok(flags);
        }
    }
    // An object that declares its own kind, such as `AsyncMock`, or an instance.
    let marked = py
        .import(names::inspect(py))?
        .getattr(names::iscoroutinefunction(py))?;
    if call_with(&marked, [function])?.is_truthy()? {
        return Ok(COROUTINE);
    }
    let call = function
        .get_type()
        .getattr_opt(names::__call__(py))?
        .and_then(|call| code_of(&call));
    call.map_or(Ok(0), |code| flags_of_code(&code))
}

fn flags_of_code(code: &Bound<'_, PyAny>) -> PyResult<u32> {
    let place = checked(code);
    if place.is(code) {
        return Ok(0);
    }
    let flags: u32 = code.getattr(names::co_flags(code.py()))?.extract()?;
    let flags = flags & (GENERATOR | COROUTINE | ASYNC_GENERATOR);
    if flags == 0 {
        drop(place.put(code.clone()));
    }
    Ok(flags)
}

#[cold]
fn refused(function: &Bound<'_, PyAny>, flags: u32) -> PyErr {
    PyTypeError::new_err(format!(
        "{} is {}: nobody would iterate over what it yields, and it would never run; give \
         delay() a coroutine function or a plain one, which iterates",
        shown(function),
        kind(flags)
    ))
}

fn kind(flags: u32) -> &'static str {
    if flags & ASYNC_GENERATOR != 0 {
        "an async generator function"
    } else if flags & GENERATOR != 0 {
        "a generator function"
    } else {
        "an async function"
    }
}

fn shown(object: &Bound<'_, PyAny>) -> String {
    object
        .repr()
        .map_or_else(|_| "?".to_owned(), |text| text.to_string())
}
