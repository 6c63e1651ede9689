//! The app context of a task and its callbacks.
//!
//! Leaving it runs the app's teardown functions, as after a request. A teardown function that
//! always submits a task would never end; see [`may_submit`].

use std::cell::Cell;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::bindings::core::task::Task;
use crate::bindings::ffi::call::call_with;
use crate::bindings::names;

/// Which app context the thread is leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    Nobodys,
    /// That of a task.
    Tasks,
    /// That of a task which a teardown function submitted.
    TeardownsTasks,
}

thread_local! {
    static LEAVING: Cell<Leaving> = const { Cell::new(Leaving::Nobodys) };
}

/// Restores the thread's previous state, since contexts nest.
struct Before(Leaving);

impl Before {
    fn set(now: Leaving) -> Self {
        Self(LEAVING.replace(now))
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        LEAVING.set(self.0);
    }
}

/// Whether a teardown function submits the current task.
///
/// # Errors
///
/// `RuntimeError` if a teardown function submitted the task before it, too.
pub(crate) fn may_submit() -> PyResult<bool> {
    match LEAVING.get() {
        Leaving::Nobodys => Ok(false),
        Leaving::Tasks => Ok(true),
        Leaving::TeardownsTasks => Err(PyRuntimeError::new_err(
            "a teardown function has submitted a task after which it submits another, and so \
             on without end, since the app's teardown functions run after tasks too: submit \
             only if there is something to do, or only after requests",
        )),
    }
}

pub(crate) struct AppContext<'py> {
    manager: Bound<'py, PyAny>,
    _before: Before,
}

impl<'py> AppContext<'py> {
    /// Calls `scope` and enters the context manager.
    pub(crate) fn enter(scope: &Bound<'py, PyAny>) -> PyResult<Self> {
        let before = Before::set(Leaving::Nobodys);
        let manager = call_with(scope, [])?;
        call_with(&manager.getattr(names::__enter__(scope.py()))?, [])?;
        Ok(Self {
            manager,
            _before: before,
        })
    }

    /// Leaves the context of `this` with `exception`, if it raised one.
    pub(crate) fn leave(
        self,
        this: &Bound<'_, Task>,
        exception: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        leave(&self.manager, this, exception)
    }
}

/// Leaves the context `manager` of `this` with `exception`, if it raised one.
pub(crate) fn leave<'py>(
    manager: &Bound<'py, PyAny>,
    this: &Bound<'_, Task>,
    exception: Option<&Bound<'py, PyAny>>,
) -> PyResult<()> {
    let py = manager.py();
    let _before = Before::set(if this.get().is_of_teardown() {
        Leaving::TeardownsTasks
    } else {
        Leaving::Tasks
    });
    let exit = manager.getattr(names::__exit__(py))?;
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
