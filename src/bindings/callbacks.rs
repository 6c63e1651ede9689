//! Done callbacks: run in order, once, with what surrounds a task but without a request.

use pyo3::intern;
use pyo3::prelude::*;

use super::ffi::context::{carry, within};
use super::future::FutureCell;
use super::logging;
use super::settle::Place;

/// Keeps `callback` for the end of the task, or runs it now if that has come.
pub(crate) fn add(this: &Bound<'_, FutureCell>, callback: Bound<'_, PyAny>) {
    let mut callback = Some(callback.unbind());
    this.get().leave(|extra| extra.callbacks.extend(callback.take()));
    if let Some(callback) = callback {
        run(this, &[callback], Place::Elsewhere);
    }
}

/// Runs `callbacks`; what they raise is logged.
pub(crate) fn run(this: &Bound<'_, FutureCell>, callbacks: &[Py<PyAny>], place: Place) {
    let py = this.py();
    let cell = this.get();
    let Some(scope) = cell.scope(py) else {
        call_all(this, callbacks);
        return;
    };
    let inside = || surrounded(this, &scope, || call_all(this, callbacks));
    let ran = match (place, cell.core()) {
        // The worker is in the task's own context, where no request is.
        (Place::Elsewhere, Some(core)) => carry(py, &core.hidden)
            .and_then(|context| within(py, context, inside))
            .flatten(),
        _ => inside(),
    };
    if let Err(error) = ran {
        logging::failure(py, "callbacks of task %s (%s): no app context", this, error);
    }
}

/// Runs `inside` between the entry and the exit of a fresh surrounding.
fn surrounded(
    this: &Bound<'_, FutureCell>,
    scope: &Bound<'_, PyAny>,
    inside: impl FnOnce(),
) -> PyResult<()> {
    let py = this.py();
    let surrounding = scope.call0()?;
    surrounding.call_method0(intern!(py, "__enter__"))?;
    inside();
    let none = py.None();
    surrounding
        .call_method1(intern!(py, "__exit__"), (&none, &none, &none))
        .map(drop)
}

fn call_all(this: &Bound<'_, FutureCell>, callbacks: &[Py<PyAny>]) {
    let py = this.py();
    for callback in callbacks {
        if let Err(error) = callback.bind(py).call1((this,)) {
            let template = format!(
                "done callback {} of task %s (%s) raised",
                callback
                    .bind(py)
                    .repr()
                    .map_or_else(|_| "?".to_owned(), |text| text.to_string())
                    .replace('%', "%%")
            );
            logging::failure(py, &template, this, error);
        }
    }
}

/// Adds the executor's default callbacks to a future that is not queued yet.
pub(crate) fn add_defaults(this: &Bound<'_, FutureCell>, callbacks: Vec<Py<PyAny>>) {
    this.get().leave(|extra| extra.callbacks.extend(callbacks));
}
