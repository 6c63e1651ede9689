//! Refusing `async def` functions, whose call would do nothing and look like a success.

use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyType};

use super::ffi::call::code_of;

/// `CO_COROUTINE | CO_ASYNC_GENERATOR`
const ASYNC: u32 = 0x80 | 0x200;

/// Addresses of code objects last found not to be async. An address may come back for
/// another code object; a coroutine that slips through so fails its task when it runs.
static CHECKED: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; 64];

/// Raises `TypeError` if calling `function` gives a coroutine or an async generator.
pub(crate) fn refuse_async(function: &Bound<'_, PyAny>) -> PyResult<()> {
    if is_async(function)? {
        return Err(refused(function));
    }
    Ok(())
}

fn is_async(function: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = function.py();
    if let Some(code) = code_of(function) {
        return is_async_code(&code);
    }
    if function.is_instance_of::<PyCFunction>() || function.is_instance_of::<PyType>() {
        return Ok(false);
    }
    // A bound method, or functools.partial and its like.
    for inner in [intern!(py, "__func__"), intern!(py, "func")] {
        if let Some(inner) = function.getattr_opt(inner)?
            && !inner.is(function)
            && inner.is_callable()
        {
            return is_async(&inner);
        }
    }
    match function.get_type().getattr_opt(intern!(py, "__call__"))? {
        Some(call) => match code_of(&call) {
            Some(code) => is_async_code(&code),
            None => Ok(false),
        },
        None => Ok(false),
    }
}

fn is_async_code(code: &Bound<'_, PyAny>) -> PyResult<bool> {
    let address = code.as_ptr() as usize;
    // Code objects are some hundred bytes apart.
    let place = &CHECKED[(address >> 8) % CHECKED.len()];
    // Relaxed: a lone number; see `CHECKED` for a stale one.
    if place.load(Ordering::Relaxed) == address {
        return Ok(false);
    }
    let flags: u32 = code.getattr(intern!(code.py(), "co_flags"))?.extract()?;
    if flags & ASYNC == 0 {
        place.store(address, Ordering::Relaxed);
    }
    Ok(flags & ASYNC != 0)
}

#[cold]
fn refused(function: &Bound<'_, PyAny>) -> PyErr {
    let shown = function
        .repr()
        .map_or_else(|_| "?".to_owned(), |text| text.to_string());
    PyTypeError::new_err(format!(
        "{shown} is an async function, which a worker thread cannot await; give delay() a \
         plain function, for instance one that calls asyncio.run()"
    ))
}
