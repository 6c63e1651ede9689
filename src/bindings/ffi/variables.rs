//! Context variables that a task does not get as its submitter has them.
//!
//! Some tell what event loop or thread their owner is in: a task is in another. Others have
//! values that are changed in place: a task gets a copy.

use pyo3::prelude::*;

use super::context::is_variable;
use super::cpython::changed_in_place;
use super::object::loaded;
use super::slot::Slot;
use crate::bindings::names;

/// Those that are left out, each filled when its library has been imported; never emptied.
static BOUND: [Slot; 4] = [const { Slot::empty() }; 4];
/// Those of the standard library whose values are copied; filled when this module is loaded.
static COPIED: [Slot; 2] = [const { Slot::empty() }; 2];

/// The variables that are left out, as far as anybody can have set them.
pub(crate) fn bound(py: Python<'_>) -> PyResult<impl Iterator<Item = Bound<'_, PyAny>>> {
    let [sniffio, deadlock, single, sensitive] = &BOUND;
    // What library's event loop this is. AnyIO goes by it too.
    if sniffio.is_empty()
        && let Some(module) = loaded(py, names::sniffio(py))?
    {
        note(sniffio, &module, names::current_async_library_cvar(py))?;
    }
    // Which thread the synchronous code of an asynchronous view runs in, and that it is taken.
    if sensitive.is_empty()
        && let Some(package) = loaded(py, names::asgiref(py))?
        && let Some(module) = package.getattr_opt(names::sync(py))?
        && let Some(to_async) = module.getattr_opt(names::SyncToAsync(py))?
        && let Some(to_sync) = module.getattr_opt(names::AsyncToSync(py))?
    {
        note(deadlock, &to_async, names::deadlock_context(py))?;
        note(single, &to_sync, names::async_single_thread_context(py))?;
        // The last of them: every version has it.
        note(sensitive, &to_async, names::thread_sensitive_context(py))?;
    }
    Ok(BOUND.iter().filter_map(move |slot| slot.get(py)))
}

/// The variables whose values are copied.
pub(crate) fn copied(py: Python<'_>) -> impl Iterator<Item = Bound<'_, PyAny>> {
    COPIED.iter().filter_map(move |slot| slot.get(py))
}

fn note(
    slot: &Slot,
    owner: &Bound<'_, PyAny>,
    name: &Bound<'_, pyo3::types::PyString>,
) -> PyResult<()> {
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
    for (slot, variable) in COPIED.iter().zip(changed_in_place(py)?) {
        if let Some(variable) = variable.filter(is_variable) {
            let _ = slot.fill(variable);
        }
    }
    Ok(())
}
