//! `contextvars`: copies a context at submission, and runs a task inside it.
//!
//! A task does not get all variables of its submitter. Variables that name the event loop or the
//! thread of their owner are left out, since a task runs in another. Values that are changed in
//! place are copied.

use std::cell::Cell;
use std::ptr;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyWeakrefMethods, PyWeakrefReference};

use super::cpython;
use super::object::loaded;
use super::slot::Slot;
use crate::bindings::names;

/// The last context carried from this thread, while a task has it. Several tasks of one view share
/// it.
struct Last {
    context: Py<PyWeakrefReference>,
    /// Its variables and their values; the context keeps them alive.
    pairs: Vec<(*mut ffi::PyObject, *mut ffi::PyObject)>,
}

thread_local! {
    static LAST: Cell<Option<Last>> = const { Cell::new(None) };
}

/// The current context without `hidden` and without variables bound to this thread; `None` if no
/// variable is left. The result may be shared: copy it, never enter it.
pub(crate) fn carry<'py>(
    py: Python<'py>,
    hidden: &[Py<PyAny>],
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let current = copy_current(py)?;
    let count = current.len()?;
    if count == 0 {
        return Ok(None);
    }
    let mut without = 0;
    for variable in hidden {
        if !value_of(variable.bind_borrowed(py), &current)?.is(&current) {
            without += 1;
        }
    }
    // The usual case.
    if without == count {
        return Ok(None);
    }
    let bound: Vec<_> = bound_here(py)?.collect();
    for variable in &bound {
        if !value_of(variable.as_borrowed(), &current)?.is(&current) {
            without += 1;
        }
    }
    let mut own = Vec::new();
    for variable in changed_in_place(py) {
        let value = value_of(variable.as_borrowed(), &current)?;
        if !value.is(&current) {
            own.push((variable, value));
        }
    }
    without += own.len();
    let rest = if without == 0 {
        Some(current)
    } else if without == count {
        None
    } else {
        let is_out = |variable: &Bound<'py, PyAny>| {
            hidden.iter().any(|it| it.is(variable))
                || bound.iter().any(|it| it.is(variable))
                || own.iter().any(|(it, _)| it.is(variable))
        };
        Some(select(&current, count - without, is_out)?)
    };
    if own.is_empty() {
        return Ok(rest);
    }
    with_copies(py, rest.as_ref(), own).map(Some)
}

/// The `count` variables of `current`, a copy of the current context, that are not left out.
fn select<'py>(
    current: &Bound<'py, PyAny>,
    count: usize,
    is_out: impl Fn(&Bound<'py, PyAny>) -> bool,
) -> PyResult<Bound<'py, PyAny>> {
    let py = current.py();
    // An ending thread may have destroyed its thread-locals already.
    let last = LAST.try_with(Cell::take).unwrap_or_default();
    if let Some(last) = last
        && last.pairs.len() == count
        && let Some(known) = last.if_same(current, &is_out)?
    {
        let _ = LAST.try_with(|place| place.set(Some(last)));
        return Ok(known);
    }
    // A variable cannot be removed from a context, so the others are set in a new one.
    let selected = Entered::new(empty(py)?)?;
    let mut pairs = Vec::with_capacity(count);
    for item in current.call_method0(names::items(py))?.try_iter()? {
        let (variable, value): (Bound<'py, PyAny>, Bound<'py, PyAny>) = item?.extract()?;
        if is_out(&variable) {
            continue;
        }
        set(&variable, &value)?;
        pairs.push((variable.as_ptr(), value.as_ptr()));
    }
    let selected = selected.leave();
    let context = PyWeakrefReference::new(&selected)?.unbind();
    let _ = LAST.try_with(|place| place.set(Some(Last { context, pairs })));
    Ok(selected)
}

/// `context`, or an empty one, with a copy of each of these variables' values.
fn with_copies<'py>(
    py: Python<'py>,
    context: Option<&Bound<'py, PyAny>>,
    variables: Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>,
) -> PyResult<Bound<'py, PyAny>> {
    let context = context.map_or_else(|| empty(py), copy)?;
    // Before entering: `copy` may be user code, which must run in its own context.
    let mut copies = Vec::with_capacity(variables.len());
    for (variable, value) in variables {
        copies.push((variable, value.call_method0(names::copy(py))?));
    }
    let entered = Entered::new(context)?;
    for (variable, value) in copies {
        set(&variable, &value)?;
    }
    Ok(entered.leave())
}

/// A context for one attempt; the next attempt does not share its values changed in place.
pub(crate) fn for_attempt(context: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    let py = context.py();
    let mut own = Vec::new();
    for variable in changed_in_place(py) {
        if context.contains(&variable)? {
            let value = context.get_item(&variable)?;
            own.push((variable, value));
        }
    }
    if own.is_empty() {
        return Ok(context);
    }
    with_copies(py, Some(&context), own)
}

/// Sets a variable in the current context.
fn set(variable: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
    // SAFETY: attached; CPython refuses an object that is no variable; the token is owned and
    // dropped.
    unsafe {
        Bound::from_owned_ptr_or_err(
            variable.py(),
            ffi::PyContextVar_Set(variable.as_ptr(), value.as_ptr()),
        )
        .map(drop)
    }
}

pub(crate) fn is_variable(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: only looks at the type of a live object.
    unsafe { ffi::PyContextVar_CheckExact(object.as_ptr()) != 0 }
}

impl Last {
    /// The context, if it still exists and each of its variables has the same value in `current`
    /// and is not left out.
    fn if_same<'py>(
        &self,
        current: &Bound<'py, PyAny>,
        is_out: impl Fn(&Bound<'py, PyAny>) -> bool,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = current.py();
        let Some(context) = self.context.bind(py).upgrade() else {
            return Ok(None);
        };
        for &(variable, value) in &self.pairs {
            // SAFETY: `context` keeps the variable alive, since no code enters it.
            let variable = unsafe { Borrowed::from_ptr(py, variable) };
            if is_out(&variable) || value_of(variable, current)?.as_ptr() != value {
                return Ok(None);
            }
        }
        Ok(Some(context))
    }
}

/// A variable's value here, or `unset`, which is no variable's value.
pub(crate) fn value_of<'py>(
    variable: Borrowed<'_, 'py, PyAny>,
    unset: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut value = ptr::null_mut();
    // SAFETY: attached; CPython refuses an object that is no variable. The given default takes
    // precedence over the variable's own, so there is a value, a new reference, unless it failed.
    unsafe {
        ffi::PyContextVar_Get(variable.as_ptr(), unset.as_ptr(), &raw mut value);
        Bound::from_owned_ptr_or_err(variable.py(), value)
    }
}

pub(crate) fn copy_current(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: attached; the result is a new reference or an error.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// A copy of `context`, which shares its variables until one is set.
pub(crate) fn copy<'py>(context: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached; CPython refuses an object that is no context; the result is a new
    // reference or an error.
    unsafe { Bound::from_owned_ptr_or_err(context.py(), ffi::PyContext_Copy(context.as_ptr())) }
}

pub(crate) fn empty(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: attached; the result is a new reference or an error.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_New()) }
}

/// Runs this thread in a context until the guard is dropped.
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
        // SAFETY: entered by this thread in `new`, and left once, here. The thread is attached, as
        // `Bound` says: ending the thread unwinds no frame of this crate, see `super::ending`.
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

/// Variables to leave out; each slot is filled once its library is imported, and never emptied.
static BOUND_HERE: [Slot; 4] = [const { Slot::empty() }; 4];
/// Standard library variables with values to copy; filled when this module is loaded.
static CHANGED_IN_PLACE: [Slot; 2] = [const { Slot::empty() }; 2];

/// The variables to leave out, of libraries that are imported.
fn bound_here(py: Python<'_>) -> PyResult<impl Iterator<Item = Bound<'_, PyAny>>> {
    let [sniffio, deadlock, single, sensitive] = &BOUND_HERE;
    // The library of the event loop. AnyIO reads it too.
    if sniffio.is_empty()
        && let Some(module) = loaded(py, names::sniffio(py))?
    {
        note(sniffio, &module, names::current_async_library_cvar(py))?;
    }
    // The thread for synchronous code of an asynchronous view, and whether it is taken.
    if sensitive.is_empty()
        && let Some(package) = loaded(py, names::asgiref(py))?
        && let Some(module) = package.getattr_opt(names::sync(py))?
        && let Some(to_async) = module.getattr_opt(names::SyncToAsync(py))?
        && let Some(to_sync) = module.getattr_opt(names::AsyncToSync(py))?
    {
        note(deadlock, &to_async, names::deadlock_context(py))?;
        note(single, &to_sync, names::async_single_thread_context(py))?;
        // Set last: every version has it.
        note(sensitive, &to_async, names::thread_sensitive_context(py))?;
    }
    Ok(BOUND_HERE.iter().filter_map(move |slot| slot.get(py)))
}

/// The variables with values to copy.
fn changed_in_place(py: Python<'_>) -> impl Iterator<Item = Bound<'_, PyAny>> {
    CHANGED_IN_PLACE.iter().filter_map(move |slot| slot.get(py))
}

fn note(slot: &Slot, owner: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> PyResult<()> {
    if let Some(variable) = owner.getattr_opt(name)?
        && is_variable(&variable)
    {
        // Another thread may have found the same.
        let _ = slot.fill(variable);
    }
    Ok(())
}

/// Finds the variables of the standard library.
pub(crate) fn init(py: Python<'_>) -> PyResult<()> {
    for (slot, variable) in CHANGED_IN_PLACE.iter().zip(cpython::changed_in_place(py)?) {
        if let Some(variable) = variable.filter(is_variable) {
            let _ = slot.fill(variable);
        }
    }
    Ok(())
}
