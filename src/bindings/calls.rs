//! What a task is going to call, for those who look before it starts: tests.

use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyDict, PyTuple};

use super::future::FutureCell;
use super::settle::Phase;

/// Function, arguments, keyword arguments, and the task's own scope.
pub(crate) type Call<'py> = (
    Bound<'py, PyAny>,
    Bound<'py, PyTuple>,
    Bound<'py, PyDict>,
    Option<Bound<'py, PyAny>>,
);

/// See `_native.pyi`.
pub(crate) fn call_of<'py>(this: &Bound<'py, FutureCell>) -> PyResult<Option<Call<'py>>> {
    let py = this.py();
    let cell = this.get();
    let call = &cell.call;
    // Who starts the task takes them in this section, and after it has changed the phase.
    let (function, first, second) = with_critical_section(this.as_any(), || {
        if cell.phase() == Phase::Pending {
            (
                call.function.get(py),
                call.first.get(py),
                call.second.get(py),
            )
        } else {
            (None, None, None)
        }
    });
    let Some(function) = function else {
        return Ok(None);
    };
    let scope = cell
        .known_extra()
        .and_then(|extra| Some(extra.lock().scope.as_ref()?.bind(py).clone()));
    let keywords = PyDict::new(py);
    let positional = match (cell.is_packed(), first) {
        (true, Some(values)) => {
            let values = values.cast_into::<PyTuple>()?;
            let names = second.map(Bound::cast_into::<PyTuple>).transpose()?;
            let count = values.len() - names.as_ref().map_or(0, PyTupleMethods::len);
            for (name, value) in names.iter().flatten().zip(values.iter().skip(count)) {
                keywords.set_item(name, value)?;
            }
            values.get_slice(0, count)
        }
        (_, first) => PyTuple::new(py, first.into_iter().chain(second).collect::<Vec<_>>())?,
    };
    Ok(Some((function, positional, keywords, scope)))
}
