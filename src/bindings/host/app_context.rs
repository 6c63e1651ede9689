//! What surrounds a task and its callbacks: for `Delay`, a fresh app context.
//!
//! Leaving it runs the app's teardown functions, after tasks as after requests. One that
//! submits a task each time would go on without end; see [`may_submit`].

use std::cell::Cell;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyWeakrefMethods, PyWeakrefReference};
use pyo3::{PyTraverseError, PyVisit};

use crate::bindings::core::task::FutureCell;
use crate::bindings::ffi::call::call_with;
use crate::bindings::names;

/// Whose surroundings a thread is leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    Nobodys,
    /// A task's.
    Tasks,
    /// A task's that was submitted while another's were left.
    TeardownsTasks,
}

thread_local! {
    static LEAVING: Cell<Leaving> = const { Cell::new(Leaving::Nobodys) };
}

/// Puts back what the thread did before, for what runs inside of something else.
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

/// Whether a task that is submitted here and now is one of a teardown function.
///
/// # Errors
///
/// `RuntimeError` if it is, and so is the task which that function runs after.
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

/// What an executor's futures get, to make what surrounds their tasks and callbacks.
pub(crate) enum Scope {
    /// Called for it.
    Maker(Py<PyAny>),
    /// A weak reference to what has a method that is: it has the executor, and is to go with its
    /// last reference. Each future has a strong one.
    Owner(Py<PyAny>),
}

impl Scope {
    /// From a callable, or a `weakref.WeakMethod`; then also the method's name.
    pub(crate) fn new(scope: &Bound<'_, PyAny>) -> PyResult<(Self, Option<Py<PyString>>)> {
        if scope.cast::<PyWeakrefReference>().is_err() {
            return Ok((Self::Maker(scope.clone().unbind()), None));
        }
        let method = scope.call0()?;
        let name = method.getattr("__name__")?.cast_into::<PyString>()?;
        Ok((Self::Owner(scope.clone().unbind()), Some(name.unbind())))
    }

    /// # Errors
    ///
    /// `RuntimeError` if what has the executor has gone.
    pub(crate) fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Maker(scope) => Ok(scope.bind(py).clone()),
            Self::Owner(owner) => {
                let owner = owner.bind(py).cast::<PyWeakrefReference>()?.upgrade();
                owner.ok_or_else(|| {
                    PyRuntimeError::new_err(
                        "the app of this pool is gone, so its tasks would have no app context: \
                         keep a reference to the app for as long as the pool is used",
                    )
                })
            }
        }
    }

    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let (Self::Maker(scope) | Self::Owner(scope)) = self;
        visit.call(scope)
    }
}

/// An entered context manager.
pub(crate) struct Surroundings<'py> {
    manager: Bound<'py, PyAny>,
    _before: Before,
}

impl<'py> Surroundings<'py> {
    /// Makes the context manager with `scope()` and enters it.
    pub(crate) fn enter(scope: &Bound<'py, PyAny>) -> PyResult<Self> {
        let before = Before::set(Leaving::Nobodys);
        let manager = call_with(scope, [])?;
        call_with(&manager.getattr(names::__enter__(scope.py()))?, [])?;
        Ok(Self {
            manager,
            _before: before,
        })
    }

    /// Leaves it after `this`, with what that has raised.
    pub(crate) fn leave(
        self,
        this: &Bound<'_, FutureCell>,
        exception: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        leave(&self.manager, this, exception)
    }
}

/// Leaves the surroundings `manager` of `this`, with what that has raised.
pub(crate) fn leave<'py>(
    manager: &Bound<'py, PyAny>,
    this: &Bound<'_, FutureCell>,
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
