//! Telling `async def` functions, which go to the event loop, from plain ones.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyType};

use super::ffi::call::{call_with, code_of};
use super::ffi::slot::Slot;
use super::names;
use super::naming::inner_of;

/// `CO_COROUTINE`
const COROUTINE: u32 = 0x80;
/// `CO_ASYNC_GENERATOR`
const ASYNC_GENERATOR: u32 = 0x200;

/// Code objects last found not to be async. They are kept, so that an address cannot come
/// back for another one.
static CHECKED: [Slot; 64] = [const { Slot::empty() }; 64];

/// Whether calling `function` gives a coroutine.
///
/// # Errors
///
/// `TypeError` if it gives an async generator, which nobody would iterate.
pub(crate) fn is_coroutine_function(function: &Bound<'_, PyAny>) -> PyResult<bool> {
    let flags = flags_of(function)?;
    if flags & ASYNC_GENERATOR != 0 {
        return Err(refused(function));
    }
    Ok(flags & COROUTINE != 0)
}

/// The flags of the code that a call of `function` runs, as far as they are of interest.
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
    // An object that says itself what it is, such as `AsyncMock`, or an instance.
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
    let address = code.as_ptr() as usize;
    // Code objects are some hundred bytes apart.
    let place = &CHECKED[(address >> 8) % CHECKED.len()];
    if place.is(code) {
        return Ok(0);
    }
    let flags: u32 = code.getattr(names::co_flags(code.py()))?.extract()?;
    let flags = flags & (COROUTINE | ASYNC_GENERATOR);
    if flags == 0 {
        drop(place.put(code.clone()));
    }
    Ok(flags)
}

#[cold]
fn refused(function: &Bound<'_, PyAny>) -> PyErr {
    let shown = function
        .repr()
        .map_or_else(|_| "?".to_owned(), |text| text.to_string());
    PyTypeError::new_err(format!(
        "{shown} is an async generator function: nobody would iterate over what it yields; \
         give delay() a coroutine function or a plain one"
    ))
}
