//! The arguments of `then` and `gather`. What they do is in [`crate::bindings::sched::dependents`].

use std::slice::from_ref;
use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::bindings::core::async_check::{Form, check_function, form_of};
use crate::bindings::core::call::Call;
use crate::bindings::core::durable;
use crate::bindings::core::executor::{Core, ExecutorCell, Inner};
use crate::bindings::core::function_name::read_name;
use crate::bindings::core::options::Policy;
use crate::bindings::core::policy::Kind;
use crate::bindings::core::settings::Mode;
use crate::bindings::core::signature;
use crate::bindings::core::task::{Task, name_of};
use crate::bindings::errors::closed;
use crate::bindings::ffi::arguments::Arguments;
use crate::bindings::ffi::call::Shape;
use crate::bindings::ffi::slot::Slot;
use crate::bindings::run::chains;
use crate::bindings::run::submit::refuse_function;
use crate::bindings::sched::dependents;
use crate::bindings::sched::limits;

/// What the option `on` of `then` says.
///
/// # Errors
///
/// `ValueError` for another text.
pub(crate) fn read_on(on: &str) -> PyResult<Kind> {
    match on {
        "success" => Ok(Kind::Then),
        "end" => Ok(Kind::End),
        _ => Err(PyValueError::new_err(format!(
            "on must be \"success\" or \"end\", got {on:?}"
        ))),
    }
}

/// The form of a next step; see `_check_step` in `_native.pyi`.
fn check(policy: Option<&Bound<'_, Policy>>, function: &Bound<'_, PyAny>) -> PyResult<Form> {
    let form = check_function(function, "next step")?;
    let by_arguments = policy.and_then(|it| it.get().by_arguments(function.py()));
    if let Some(option) = by_arguments {
        return Err(PyValueError::new_err(format!(
            "{:?} cannot be the next step: its option {option:?} goes by its argument, which is \
             not known before the step comes; give it a 'key' that is no function",
            read_name(function)
        )));
    }
    if policy.is_some_and(|it| it.get().debounce.is_some()) {
        return Err(PyValueError::new_err(format!(
            "{:?} cannot be the next step: its option \"debounce\" says when it starts; give that \
             to the first task",
            read_name(function)
        )));
    }
    Ok(form)
}

#[doc = doc!("_check_step")]
#[pyfunction]
#[pyo3(signature = (policy, r#fn, *, is_first = false))]
pub(crate) fn _check_step(
    policy: Option<Bound<'_, Policy>>,
    r#fn: Bound<'_, PyAny>,
    is_first: bool,
) -> PyResult<()> {
    check(policy.as_ref(), &r#fn)?;
    if is_first {
        // The arguments are not known yet.
        return Ok(());
    }
    signature::check_call(&r#fn, 1, Vec::new())
}

/// As `Future.then`, with a policy, a scope for the task but not its callbacks, and an executor
/// that may differ from that of `future`.
pub(crate) fn follow<'py>(
    future: &Bound<'py, Task>,
    policy: Option<&Bound<'py, Policy>>,
    scope: Option<Bound<'py, PyAny>>,
    mut function: Bound<'py, PyAny>,
    executor: Option<&Bound<'py, ExecutorCell>>,
    kind: Kind,
) -> PyResult<Bound<'py, Task>> {
    let mut form = check(policy, &function)?;
    core_of(future)?;
    if is_durable(future) && policy.is_none_or(|policy| policy.get().keeps.is_none()) {
        return Err(PyValueError::new_err(format!(
            "{:?} is not durable, so it cannot follow {:?}, which is: it would be lost with this \
             process; give it @task(durable=True), or call it in a done callback",
            read_name(&function),
            name_of(future)
        )));
    }
    let inner = match executor {
        Some(executor) => Arc::clone(executor.get().inner()?),
        None => executor_of(future)?,
    };
    if let Some(scoped) = &inner.scoped {
        refuse_function(&function, scoped)?;
    }
    let count = usize::from(kind == Kind::Then);
    signature::check_call(&function, count, Vec::new())?;
    if let Some(step) = inner.scoped.as_ref().and_then(|it| it.step.as_ref()) {
        function = step.bind(future.py()).call1((function,))?;
        form = form_of(&function)?;
    }
    let (shape, argument) = if kind == Kind::Then {
        (Shape::Inline(1), Slot::new(future.clone().into_any()))
    } else {
        (Shape::Inline(0), Slot::default())
    };
    let call = Call::new(
        Slot::new(function.clone()),
        shape,
        argument,
        Slot::default(),
    );
    let this = inner.make(future.py(), call, form, scope)?;
    if let Some(policy) = policy {
        let arguments = Arguments::none(function.as_borrowed());
        if let Some(first) = limits::give(&this, policy, &arguments, &inner.core)? {
            return Ok(first);
        }
    }
    dependents::hold(&this, &inner.core, kind, from_ref(future))?;
    Ok(this)
}

/// Whether a task is durable, also where there is no journal.
pub(crate) fn is_durable(future: &Bound<'_, Task>) -> bool {
    let cell = future.get();
    // Without a journal, nothing is published to it either.
    let has_none = || cell.core().is_some_and(|core| core.mode != Mode::Threads);
    durable::is_durable(cell) || cell.is_journaled() && has_none()
}

#[doc = doc!("_gather")]
#[pyfunction]
pub(crate) fn _gather<'py>(
    function: Bound<'py, PyAny>,
    executor: Option<Bound<'py, ExecutorCell>>,
    futures: Bound<'py, PyTuple>,
    return_exceptions: bool,
) -> PyResult<Bound<'py, Task>> {
    let py = function.py();
    let ours: Vec<_> = futures.iter().map(of_ours).collect::<PyResult<_>>()?;
    if let Some(link) = chains::common_link(&ours)
        && let Some(this) = chains::gather(&link, function.clone(), &ours, return_exceptions)?
    {
        return Ok(this);
    }
    for future in &ours {
        core_of(future)?;
    }
    let inner = match (ours.first(), executor) {
        (Some(first), _) => executor_of(first)?,
        (None, Some(executor)) => Arc::clone(executor.get().inner()?),
        (None, None) => return Err(closed()),
    };
    let arguments = Slot::new(futures.into_any());
    let call = Call::new(
        Slot::new(function),
        Shape::Packed,
        arguments,
        Slot::default(),
    );
    let this = inner.make(py, call, Form::Plain, None)?;
    if inner.core.mode != Mode::Threads && ours.iter().all(is_durable) {
        // Without a journal, but a durable task may follow it as if there were one.
        this.get().mark_journaled();
    }
    let kind = if return_exceptions {
        Kind::GatherAll
    } else {
        Kind::Gather
    };
    dependents::hold(&this, &inner.core, kind, &ours)?;
    Ok(this)
}

fn of_ours(future: Bound<'_, PyAny>) -> PyResult<Bound<'_, Task>> {
    future.cast_into().map_err(|error| {
        let given = error.into_inner();
        let shown = given.repr();
        PyTypeError::new_err(format!(
            "gather() takes futures that delay() or an Executor of flask_delay has returned, got \
             {}; for a list of them write gather(*futures)",
            shown.map_or_else(|_| "?".to_owned(), |text| text.to_string())
        ))
    })
}

/// The executor to which dependents of `future` are submitted.
fn executor_of(future: &Bound<'_, Task>) -> PyResult<Arc<Inner>> {
    core_of(future)?.executor().ok_or_else(closed)
}

/// Refuses a future that no task can follow.
fn core_of<'a>(future: &'a Bound<'_, Task>) -> PyResult<&'a Arc<Core>> {
    let cell = future.get();
    let core = cell.core().ok_or_else(|| {
        PyValueError::new_err(format!(
            "{} was made by hand and not by an executor, so nothing can follow it",
            future
                .repr()
                .map_or_else(|_| "the future".to_owned(), |text| text.to_string())
        ))
    })?;
    cell.refuse_foreign(future)?;
    Ok(core)
}
