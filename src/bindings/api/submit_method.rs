//! `Executor.submit` and `Executor._submit_with`, as Python calls them.

use std::ffi::CStr;

use pyo3::prelude::*;

use crate::bindings::core::executor::ExecutorCell;
use crate::bindings::core::options::Policy;
use crate::bindings::ffi::arguments::{self, Arguments, CallMethod};

struct Submit;

impl CallMethod for Submit {
    type Class = ExecutorCell;

    const NAME: &CStr = c"submit";
    const DOC: &CStr = c"submit($self, fn, /, *args, **kwargs)
--

Run fn(*args, **kwargs) in the background and return its future at once.

A plain function runs on a worker; an async def one on the event loop that the
coroutines of the whole process share. The task sees the submitter's contextvars.
An exception it raises is logged (logger flask_delay) and kept in the future.
Raises TypeError if fn is not callable or is a generator function,
RuntimeError after shutdown, QueueFull if there is no place in the queue.";
    const BEFORE: usize = 0;

    fn call<'py>(
        this: &ExecutorCell,
        _before: &[Borrowed<'_, 'py, PyAny>],
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        this.submit(arguments, None, None).map(Bound::into_any)
    }
}

struct SubmitWith;

impl CallMethod for SubmitWith {
    type Class = ExecutorCell;

    const NAME: &CStr = c"_submit_with";
    const DOC: &CStr = c"_submit_with($self, policy, scope, fn, /, *args, **kwargs)
--

As submit, by the rules of a _Policy, and with the task, but not its callbacks, inside
`with scope():`. Either may be None.";
    const BEFORE: usize = 2;

    fn call<'py>(
        this: &ExecutorCell,
        before: &[Borrowed<'_, 'py, PyAny>],
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let given = |place: usize| {
            let given = before.get(place).filter(|given| !given.is_none());
            given.map(|given| Bound::clone(given))
        };
        let policy = given(0).map(Bound::cast_into::<Policy>).transpose()?;
        this.submit(arguments, policy.as_ref(), given(1))
            .map(Bound::into_any)
    }
}

/// Adds both to the class.
pub(crate) fn add(py: Python<'_>) -> PyResult<()> {
    arguments::add::<Submit>(py)?;
    arguments::add::<SubmitWith>(py)
}
