//! blinker's signals for events of tasks.
//!
//! A signal is a dict of receivers and two functions. One tells whether any receiver listens to
//! this executor's app, and the other calls those receivers. While the dict is empty, neither is
//! called.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::logging;
use crate::bindings::core::events::{self, Kind, SIGNALS, Signal, Signals, Subscriber};
use crate::bindings::core::task::Task;
use crate::bindings::ffi::call::{call_named, call_with};
use crate::bindings::names;

impl Signals {
    /// Takes triples as in [`Signal`], one for each [`Kind`] with a signal.
    pub(crate) fn new(triples: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let triples: [(Py<PyDict>, Py<PyAny>, Py<PyAny>); SIGNALS] = triples.extract()?;
        Ok(Self(triples.map(|(receivers, listens, send)| Signal {
            receivers,
            listens,
            send,
        })))
    }

    fn wanted(&self, py: Python<'_>, kind: Kind) -> bool {
        let signal = &self.0[kind as usize];
        !signal.receivers.bind(py).is_empty()
            && call_with(signal.listens.bind(py), [])
                .and_then(|listens| listens.is_truthy())
                // If in doubt, send the signal.
                .unwrap_or(true)
    }

    /// Calls all receivers and logs what they raise.
    fn emit(&self, this: &Bound<'_, Task>, kind: Kind) {
        let py = this.py();
        let send = self.0[kind as usize].send.bind(py);
        if let Err(error) = call_named(send, &[], names::future(py), this.as_any()) {
            let template = "a receiver of a signal of task %s (%s) raised";
            logging::failure(py, template, this, error);
        }
    }
}

/// Whether `kind` ends the task and has receivers.
#[inline]
pub(crate) fn wanted(this: &Bound<'_, Task>, kind: Option<Kind>) -> bool {
    kind.is_some_and(|kind| of(this, kind).is_some())
}

/// Sends the signal of an event, if it has receivers.
pub(crate) fn emit(this: &Bound<'_, Task>, kind: Kind) {
    if let Some(signals) = of(this, kind) {
        signals.emit(this, kind);
    }
}

/// The signals of the task's executor, if `kind` has receivers.
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
    // All kinds: receivers may be connected later.
    events::subscribe(
        Subscriber::Signals,
        &[
            Kind::Submitted,
            Kind::Started,
            Kind::Succeeded,
            Kind::Failed,
            Kind::Cancelled,
            Kind::Dead,
        ],
    );
}
