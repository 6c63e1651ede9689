//! Done callbacks: run in order, once, with what surrounds a task but without a request.

use pyo3::prelude::*;

use crate::bindings::core::async_check::refuse_result;
use crate::bindings::core::events::Event;
use crate::bindings::core::interrupt;
use crate::bindings::core::task::FutureCell;
use crate::bindings::core::transition::Place;
use crate::bindings::ffi::call::call_with;
use crate::bindings::ffi::context::{carry, within};
use crate::bindings::host::app_context::Surroundings;
use crate::bindings::host::logging;
use crate::bindings::host::signals;

/// Keeps `callback` for the end of the task, or runs it now if that has come.
pub(crate) fn add(this: &Bound<'_, FutureCell>, callback: Bound<'_, PyAny>) {
    if let Some(callback) = this.get().keep(callback) {
        run(this, None, &[callback.unbind()], Place::Elsewhere);
    }
}

/// Tells the listeners of `event`, if there are any, and runs `callbacks`; what they raise
/// is logged.
pub(crate) fn run(
    this: &Bound<'_, FutureCell>,
    event: Option<Event>,
    callbacks: &[Py<PyAny>],
    place: Place,
) {
    if event.is_none() && callbacks.is_empty() {
        return;
    }
    let py = this.py();
    let cell = this.get();
    // Of a task that ends another one, or adds a callback to it, inside its own call.
    let _covered = match place {
        Place::Elsewhere => interrupt::cover(py),
        Place::Worker | Place::Loop => None,
    };
    if !cell.has_scope() {
        call_all(this, callbacks);
        return;
    }
    let inside = || {
        let Some(scope) = cell.scope(py)? else {
            return Ok(());
        };
        let surroundings = Surroundings::enter(&scope)?;
        if let Some(event) = event {
            signals::emit(this, event);
        }
        call_all(this, callbacks);
        surroundings.leave(this, None)
    };
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

fn call_all(this: &Bound<'_, FutureCell>, callbacks: &[Py<PyAny>]) {
    let py = this.py();
    for callback in callbacks {
        let callback = callback.bind(py);
        if let Err(error) = call_with(callback, [this.as_any()])
            .and_then(|result| refuse_result(callback, result, "a done callback"))
        {
            // The words of concurrent.futures, which its users look for in their logs.
            let template = format!(
                "exception calling callback for task %s (%s): {}",
                callback
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
    for callback in callbacks {
        let kept = this.get().keep(callback.into_bound(this.py()));
        debug_assert!(kept.is_none(), "it has not ended");
    }
}
