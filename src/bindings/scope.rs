//! What surrounds a task and its callbacks: for `Delay`, a fresh app context.

use pyo3::prelude::*;

use super::ffi::call::call_with;
use super::names;

/// An entered context manager.
pub(crate) struct Surroundings<'py>(Bound<'py, PyAny>);

impl<'py> Surroundings<'py> {
    /// Makes the context manager with `scope()` and enters it.
    pub(crate) fn enter(scope: &Bound<'py, PyAny>) -> PyResult<Self> {
        let manager = call_with(scope, [])?;
        call_with(&manager.getattr(names::__enter__(scope.py()))?, [])?;
        Ok(Self(manager))
    }

    /// Leaves it, with what the task raised.
    pub(crate) fn leave(self, exception: Option<&Bound<'py, PyAny>>) -> PyResult<()> {
        let py = self.0.py();
        let exit = self.0.getattr(names::__exit__(py))?;
        match exception {
            None => {
                let none = py.None().into_bound(py);
                call_with(&exit, [&none, &none, &none])
            }
            Some(exception) => {
                let traceback = exception.getattr(names::__traceback__(py))?;
                call_with(
                    &exit,
                    [exception.get_type().as_any(), exception, &traceback],
                )
            }
        }
        .map(drop)
    }
}
