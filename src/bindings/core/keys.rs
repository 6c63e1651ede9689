//! A dict of the users' keys. Their `__eq__` and `__hash__` may be Python code, which runs
//! under no lock of ours; so what has to be done to the dict as one step is done under a lock
//! of Python's, which lets go of the GIL while it is waited for, and may be taken again by who
//! has it: a signal's handler may submit too.

use std::sync::{Arc, Weak};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::executor::Core;
use crate::bindings::ffi::call::call_with;
use crate::bindings::names;

/// Values by key, for one process.
pub(crate) struct Table {
    core: Weak<Core>,
    lock: Py<PyAny>,
    values: Py<PyDict>,
}

impl Table {
    pub(crate) fn new(py: Python<'_>, core: &Arc<Core>) -> PyResult<Self> {
        let lock = py.import("_thread")?.getattr("RLock")?.call0()?;
        Ok(Self {
            core: Arc::downgrade(core),
            lock: lock.unbind(),
            values: PyDict::new(py).unbind(),
        })
    }

    /// The executor whose tasks' keys these are, if it is still there.
    pub(crate) fn core(&self) -> Option<Arc<Core>> {
        self.core.upgrade()
    }

    /// Does something to the dict that nobody else may come in between of.
    pub(crate) fn with<'py, R>(
        &self,
        py: Python<'py>,
        step: impl FnOnce(&Bound<'py, PyDict>) -> PyResult<R>,
    ) -> PyResult<R> {
        let lock = self.lock.bind(py);
        let release = lock.getattr(names::release(py))?;
        call_with(&lock.getattr(names::acquire(py))?, [])?;
        let _taken = Taken(release);
        step(self.values.bind(py))
    }
}

/// The lock is taken until this is dropped, by a panic too.
struct Taken<'py>(Bound<'py, PyAny>);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Err(error) = call_with(&self.0, []) {
            error.write_unraisable(self.0.py(), None);
        }
    }
}
