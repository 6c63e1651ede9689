//! Telling those who listen what happens to tasks: blinker's signals, as the native side
//! sees them.
//!
//! A signal is a dict of receivers, a function that tells whether some of them listen to this
//! executor's app, and one that calls those. While the dict is empty, which is what one look
//! costs, nothing is called.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::logging;
use crate::bindings::core::events::{EVENTS, Event, Signal, Signals};
use crate::bindings::core::task::FutureCell;
use crate::bindings::ffi::call::{call_named, call_with};
use crate::bindings::names;

impl Signals {
    /// From triples as [`Signal`] has them, one for each [`Event`].
    pub(crate) fn new(triples: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let triples: [(Py<PyDict>, Py<PyAny>, Py<PyAny>); EVENTS] = triples.extract()?;
        Ok(Self(triples.map(|(receivers, listens, send)| Signal {
            receivers,
            listens,
            send,
        })))
    }

    /// Whether anybody listens.
    pub(crate) fn wanted(&self, py: Python<'_>, event: Event) -> bool {
        let signal = &self.0[event as usize];
        !signal.receivers.bind(py).is_empty()
            && call_with(signal.listens.bind(py), [])
                .and_then(|listens| listens.is_truthy())
                // Whoever listens is told rather once too often.
                .unwrap_or(true)
    }

    /// Tells everybody who listens; what they raise is logged.
    pub(crate) fn emit(&self, this: &Bound<'_, FutureCell>, event: Event) {
        let py = this.py();
        let send = self.0[event as usize].send.bind(py);
        if let Err(error) = call_named(send, &[], names::future(py), this.as_any()) {
            let template = "a receiver of a signal of task %s (%s) raised";
            logging::failure(py, template, this, error);
        }
    }
}

/// Whether anybody listens to this of a task's executor.
pub(crate) fn wanted(this: &Bound<'_, FutureCell>, event: Option<Event>) -> bool {
    let signals = this.get().core().and_then(|core| core.signals.as_ref());
    match (signals, event) {
        (Some(signals), Some(event)) => signals.wanted(this.py(), event),
        _ => false,
    }
}

/// Tells everybody who listens, if anybody does.
pub(crate) fn emit(this: &Bound<'_, FutureCell>, event: Event) {
    if let Some(signals) = this.get().core().and_then(|core| core.signals.as_ref())
        && signals.wanted(this.py(), event)
    {
        signals.emit(this, event);
    }
}
