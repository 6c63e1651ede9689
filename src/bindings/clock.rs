//! The times that a future notes.

use pyo3::prelude::*;
use pyo3::types::{PyDateTime, PyTzInfo};

pub(crate) use crate::bindings::ffi::clock::now;

/// A time as Python has it; `None` for not yet.
pub(crate) fn to_datetime(
    py: Python<'_>,
    nanoseconds: u64,
) -> PyResult<Option<Bound<'_, PyDateTime>>> {
    if nanoseconds == 0 {
        return Ok(None);
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "a microsecond is exact until 2255"
    )]
    let seconds = (nanoseconds / 1_000) as f64 / 1e6;
    let utc = PyTzInfo::utc(py)?.to_owned();
    PyDateTime::from_timestamp(py, seconds, Some(&utc)).map(Some)
}
