//! Telling those who listen what happens to tasks: blinker's signals, as the native side
//! sees them.
//!
//! A signal is a dict of receivers, a function that tells whether some of them listen to this
//! executor's app, and one that calls those. While the dict is empty, which is what one look
//! costs, nothing is called.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::logging;
use crate::bindings::core::events::{self, Kind, SIGNALS, Signal, Signals, Subscriber};
use crate::bindings::core::task::Task;
use crate::bindings::ffi::call::{call_named, call_with};
use crate::bindings::names;

impl Signals {
    /// From triples as [`Signal`] has them, one for each [`Kind`] that has one.
    pub(crate) fn new(triples: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let triples: [(Py<PyDict>, Py<PyAny>, Py<PyAny>); SIGNALS] = triples.extract()?;
        Ok(Self(triples.map(|(receivers, listens, send)| Signal {
            receivers,
            listens,
            send,
        })))
    }

    /// Whether there are receivers.
    fn wanted(&self, py: Python<'_>, kind: Kind) -> bool {
        let signal = &self.0[kind as usize];
        !signal.receivers.bind(py).is_empty()
            && call_with(signal.listens.bind(py), [])
                .and_then(|listens| listens.is_truthy())
                // Whoever listens is told rather once too often.
                .unwrap_or(true)
    }

    /// Tells everybody who listens; what they raise is logged.
    fn emit(&self, this: &Bound<'_, Task>, kind: Kind) {
        let py = this.py();
        let send = self.0[kind as usize].send.bind(py);
        if let Err(error) = call_named(send, &[], names::future(py), this.as_any()) {
            let template = "a receiver of a signal of task %s (%s) raised";
            logging::failure(py, template, this, error);
        }
    }
}

/// Whether this end of a task, if it is one, has receivers.
#[inline]
pub(crate) fn wanted(this: &Bound<'_, Task>, kind: Option<Kind>) -> bool {
    kind.is_some_and(|kind| of(this, kind).is_some())
}

/// Sends the signal of an event of a task, if there are receivers.
pub(crate) fn emit(this: &Bound<'_, Task>, kind: Kind) {
    if let Some(signals) = of(this, kind) {
        signals.emit(this, kind);
    }
}

/// The signals of a task's executor, if this one has receivers.
#[inline]
fn of<'a>(this: &'a Bound<'_, Task>, kind: Kind) -> Option<&'a Signals> {
    if events::wanted(kind).by(Subscriber::Signals) {
        received(this, kind)
    } else {
        None
    }
}

#[inline(never)]
fn received<'a>(this: &'a Bound<'_, Task>, kind: Kind) -> Option<&'a Signals> {
    let signals = this.get().core()?.signals.as_ref()?;
    signals.wanted(this.py(), kind).then_some(signals)
}

#[doc = doc!("_subscribe_signals")]
#[pyfunction]
pub(crate) fn _subscribe_signals() {
    // Of all: a receiver that comes later is told of by nobody else.
    events::subscribe(
        Subscriber::Signals,
        &[
            Kind::Submitted,
            Kind::Started,
            Kind::Succeeded,
            Kind::Failed,
            Kind::Cancelled,
        ],
    );
}
