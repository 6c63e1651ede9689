//! What happens to tasks, and who wants to hear of it.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::transition::Phase;

/// What may happen to a task, in the order in which the signals are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Submitted = 0,
    Started = 1,
    Succeeded = 2,
    Failed = 3,
    Cancelled = 4,
}

pub(crate) const EVENTS: usize = 5;

impl Event {
    /// The end that a phase is, if it is one.
    pub(crate) fn of(phase: Phase) -> Option<Self> {
        match phase {
            Phase::Pending | Phase::Running => None,
            Phase::Cancelled | Phase::Notified => Some(Self::Cancelled),
            Phase::Finished => Some(Self::Succeeded),
            Phase::Failed => Some(Self::Failed),
        }
    }
}

pub(crate) struct Signal {
    pub(crate) receivers: Py<PyDict>,
    /// Called if there are receivers: some may listen to other apps alone.
    pub(crate) listens: Py<PyAny>,
    /// Called as `send(future=future)`.
    pub(crate) send: Py<PyAny>,
}

/// An executor's signals. Not shown to the garbage collector, so they may refer to nothing
/// that refers to the executor.
pub(crate) struct Signals(pub(crate) [Signal; EVENTS]);
