//! `unique=`: of each key one task at most that is not done.

use pyo3::prelude::*;

use super::policy::Twin;
use super::table::Table;
use crate::bindings::cell::FutureCell;
use crate::bindings::errors::DuplicateTask;
use crate::bindings::naming::name_of;

/// Claims `key` for `this`; the future of the task that has it, if one does.
///
/// # Errors
///
/// `DuplicateTask`, if that is what was asked for instead.
pub(super) fn claim<'py>(
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
        (Some(first), Twin::AnError) => Err(DuplicateTask::new_err(format!(
            "task {:?} ({}) with the key {} is not done yet",
            name_of(first),
            first.get().public_id(first),
            key.repr()?
        ))),
        _ => Ok(first),
    }
}

/// `this` is done.
pub(super) fn release(
    table: &Table,
    key: &Bound<'_, PyAny>,
    this: &Bound<'_, FutureCell>,
) -> PyResult<()> {
    table.with(this.py(), |claims| match claims.get_item(key)? {
        Some(first) if first.is(this) => claims.del_item(key),
        _ => Ok(()),
    })
}
