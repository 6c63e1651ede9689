//! The event log, for a page that reads it.

use pyo3::prelude::*;

use crate::bindings::core::events::{self, Event, Reader};

/// Number, kind, id, name, and nanoseconds since 1970.
type Row = (u64, &'static str, String, String, u64);

#[doc = doc!("_EventLog")]
#[pyclass(frozen, name = "_EventLog", module = "flask_delay._native")]
pub(crate) struct EventLog {
    /// Keeps events while it exists.
    _reader: Reader,
}

#[pymethods]
impl EventLog {
    #[new]
    fn new() -> Self {
        Self {
            _reader: Reader::new(),
        }
    }

    #[doc = doc!("_EventLog.newest")]
    #[expect(clippy::unused_self, reason = "without a reader no events are kept")]
    fn newest(&self) -> u64 {
        events::newest()
    }

    #[doc = doc!("_EventLog.read")]
    #[pyo3(signature = (after = 0, *, most = 1000))]
    #[expect(clippy::unused_self, reason = "without a reader no events are kept")]
    fn read(&self, after: u64, most: usize) -> (Vec<Row>, u64) {
        let (events, missed) = events::read(after, most);
        let row = |it: Event| {
            (
                it.number,
                it.kind.name(),
                it.id.to_string(),
                it.name,
                it.time,
            )
        };
        (events.into_iter().map(row).collect(), missed)
    }
}
