//! The call of a task: as given, as stored in the future, as taken by the worker, and as shown
//! before the task starts.

use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyDict, PyTuple};

use super::task::Task;
use super::transition::Phase;
use crate::bindings::ffi::arguments::Arguments;
use crate::bindings::ffi::call::Shape;
use crate::bindings::ffi::slot::Slot;

/// A function and its arguments, to be called once.
pub(crate) struct Call {
    pub(crate) held: Held,
    pub(crate) shape: Shape,
}

/// A call as stored in the future. The filled slots and the flag `PACKED` give its shape.
pub(crate) struct Held {
    /// The function; once it was taken, the source of the task's name.
    pub(crate) function: Slot,
    pub(crate) first: Slot,
    pub(crate) second: Slot,
}

impl Call {
    /// Takes new references to a function and its arguments.
    pub(crate) fn of(arguments: &Arguments<'_, '_>) -> PyResult<Self> {
        let (function, shape, first, second) = arguments.to_slots()?;
        Ok(Self::new(function, shape, first, second))
    }

    pub(crate) fn new(function: Slot, shape: Shape, first: Slot, second: Slot) -> Self {
        let held = Held {
            function,
            first,
            second,
        };
        Self { held, shape }
    }
}

/// A call that was taken out of the future.
pub(crate) struct TakenCall<'py> {
    pub(crate) function: Option<Bound<'py, PyAny>>,
    pub(crate) first: Option<Bound<'py, PyAny>>,
    pub(crate) second: Option<Bound<'py, PyAny>>,
    pub(crate) context: Option<Bound<'py, PyAny>>,
    pub(crate) shape: Shape,
}

/// Function, arguments, keyword arguments, and the task's own scope.
pub(crate) type Shown<'py> = (
    Bound<'py, PyAny>,
    Bound<'py, PyTuple>,
    Bound<'py, PyDict>,
    Option<Bound<'py, PyAny>>,
);

/// The call of a task that has not started.
pub(crate) fn call_of<'py>(this: &Bound<'py, Task>) -> PyResult<Option<Shown<'py>>> {
    let py = this.py();
    let cell = this.get();
    let call = &cell.call;
    // The thread that starts the task takes them in this section, after it has changed the phase.
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
