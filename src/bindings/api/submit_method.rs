//! `Executor.submit` and `Executor._submit_with`, as Python calls them.

use std::ffi::CStr;

use pyo3::ffi::c_str;
use pyo3::prelude::*;

use crate::bindings::core::executor::ExecutorCell;
use crate::bindings::core::options::Policy;
use crate::bindings::ffi::arguments::{self, Arguments, Before, CallMethod};

const MISSING: &str = "submit() needs the function to run as its first argument";

struct Submit;

impl CallMethod for Submit {
    type Class = ExecutorCell;

    const NAME: &CStr = c"submit";
    const DOC: &CStr = c_str!(concat!(
        "submit($self, fn, /, *args, **kwargs)\n--\n\n",
        doc!("Executor.submit")
    ));
    const BEFORE: usize = 0;
    const MISSING: &str = MISSING;

    fn call<'py>(
        this: &Bound<'py, ExecutorCell>,
        _before: &Before<'_, 'py>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        ExecutorCell::submit(this, arguments, None, None)
    }
}

struct SubmitWith;

impl CallMethod for SubmitWith {
    type Class = ExecutorCell;

    const NAME: &CStr = c"_submit_with";
    const DOC: &CStr = c_str!(concat!(
        "_submit_with($self, policy, scope, fn, /, *args, **kwargs)\n--\n\n",
        doc!("Executor._submit_with")
    ));
    const BEFORE: usize = 2;
    const MISSING: &str = MISSING;

    fn call<'py>(
        this: &Bound<'py, ExecutorCell>,
        before: &Before<'_, 'py>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let policy = before.get(0).map(Bound::cast_into::<Policy>).transpose()?;
        ExecutorCell::submit(this, arguments, policy.as_ref(), before.get(1))
    }
}

/// Adds both to the class.
pub(crate) fn add(py: Python<'_>) -> PyResult<()> {
    arguments::add::<Submit>(py)?;
    arguments::add::<SubmitWith>(py)
}
