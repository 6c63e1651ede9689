//! Tells `async def` functions, which go to the event loop, and generator functions, whose items
//! make a stream, from plain ones, and refuses functions that a call would not run.

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

/// What a call of a task's function returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Its result.
    Plain,
    Coroutine,
    Generator,
    AsyncGenerator,
}

impl Form {
    fn of(flags: u32) -> Self {
        if flags & ASYNC_GENERATOR != 0 {
            Self::AsyncGenerator
        } else if flags & GENERATOR != 0 {
            Self::Generator
        } else if flags & COROUTINE != 0 {
            Self::Coroutine
        } else {
            Self::Plain
        }
    }

    /// Whether the event loop runs it.
    pub(crate) fn is_async(self) -> bool {
        matches!(self, Self::Coroutine | Self::AsyncGenerator)
    }

    /// Whether it yields items.
    pub(crate) fn yields(self) -> bool {
        matches!(self, Self::Generator | Self::AsyncGenerator)
    }

    /// Whether the event loop runs it, where nobody can take items.
    ///
    /// # Errors
    ///
    /// `TypeError` for a generator function, which says `why`.
    pub(crate) fn without_items(self, function: &Bound<'_, PyAny>, why: &str) -> PyResult<bool> {
        let kind = match self {
            Self::Plain => return Ok(false),
            Self::Coroutine => return Ok(true),
            Self::Generator => GENERATOR,
            Self::AsyncGenerator => ASYNC_GENERATOR,
        };
        let (shown, kind) = (shown(function), self::kind(kind));
        Err(PyTypeError::new_err(format!("{shown} is {kind}: {why}")))
    }
}

/// The form of a task's `function`.
pub(crate) fn form_of(function: &Bound<'_, PyAny>) -> PyResult<Form> {
    flags_of(function).map(Form::of)
}

/// As [`form_of`], for a function in the role `role`.
///
/// # Errors
///
/// `TypeError` if it is not callable.
pub(crate) fn check_function(function: &Bound<'_, PyAny>, role: &str) -> PyResult<Form> {
    if is_plain(function)? {
        return Ok(Form::Plain);
    }
    if !function.is_callable() {
        return Err(not_callable(&format!("the {role}"), function));
    }
    form_of(function)
}

#[doc = doc!("_check_function")]
#[pyfunction]
#[pyo3(signature = (r#fn, role, /, *, no_items = None))]
pub(crate) fn _check_function(
    r#fn: &Bound<'_, PyAny>,
    role: &str,
    no_items: Option<&str>,
) -> PyResult<()> {
    let form = check_function(r#fn, role)?;
    match no_items {
        Some(why) => form.without_items(r#fn, why).map(drop),
        None => Ok(()),
    }
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
        // A generator that another run of a generator function returns is its result.
        Some(inner) if !inner.is(function) => Err(refused(&inner, flags_of(&inner)?)),
        _ => Ok(result),
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
        "{} is {} below a decorator that calls it as a plain function, and would never run; give \
         delay() the function itself, or have the decorator iterate: in a generator function of \
         its own, for one that is not async by `return (yield from fn())`",
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
