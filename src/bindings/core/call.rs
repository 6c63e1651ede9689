//! The call of a task: as given, as stored in the future, and as taken by the worker.

use pyo3::prelude::*;

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
