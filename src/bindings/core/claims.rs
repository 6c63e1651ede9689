//! `unique=`: of each key one task at most that is not done.

use pyo3::prelude::*;

use super::keys::Table;
use super::options::Twin;
use super::task::FutureCell;
use super::task_name::name_of;
use crate::bindings::errors::DuplicateTask;

/// Claims `key` for `this`; the future of the task that has it, if one does.
///
/// # Errors
///
/// `DuplicateTask`, if that is what was asked for instead.
pub(crate) fn claim<'py>(
    table: &Table,
    key: &Bound<'py, PyAny>,
    this: &Bound<'py, FutureCell>,
    twin: Twin,
) -> PyResult<Option<Bound<'py, FutureCell>>> {
    let first = table.with(this.py(), |claims| {
        if let Some(first) = claims.get_item(key)? {
            let first = first.cast_into::<FutureCell>()?;
            if !first.get().phase().is_done() {
                return Ok(Some(first));
            }
        }
        claims.set_item(key, this)?;
        Ok(None)
    })?;
    match (&first, twin) {
        // Neither the key nor the id, by which the first one can be asked about: the message
        // may get to whoever sent the request.
        (Some(first), Twin::AnError) => Err(DuplicateTask::new_err(format!(
            "task {:?} was not accepted: the task {:?}, which has the same key, is not done yet",
            name_of(this),
            name_of(first),
        ))),
        _ => Ok(first),
    }
}

/// `this` is done.
pub(crate) fn release(
    table: &Table,
    key: &Bound<'_, PyAny>,
    this: &Bound<'_, FutureCell>,
) -> PyResult<()> {
    table.with(this.py(), |claims| match claims.get_item(key)? {
        Some(first) if first.is(this) => claims.del_item(key),
        _ => Ok(()),
    })
}
