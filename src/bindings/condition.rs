//! What `concurrent.futures.wait` and its like hold while they look at a future's state.
//!
//! They want a `threading.Condition`, but only to lock it: those who wait do so on an
//! event of their own, and `Future.result` has its own way here. So a lock and a no-op are
//! enough, at a fraction of the cost, and a future that is done, whose state nothing can
//! change any more, needs not even the lock.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

use super::ffi::call::call_with;
use super::names;

/// The condition of one future, or of all that are done.
#[pyclass(frozen, name = "_Condition", module = "flask_delay._native")]
pub(crate) struct Condition(Option<Py<PyAny>>);

impl Condition {
    pub(crate) fn new(py: Python<'_>) -> PyResult<Bound<'_, Self>> {
        static RLOCK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let class = RLOCK.get_or_try_init(py, || {
            let class = py.import("_thread")?.getattr("RLock")?;
            PyResult::Ok(class.unbind())
        })?;
        Bound::new(py, Self(Some(class.bind(py).call0()?.unbind())))
    }

    /// The one that is never locked.
    pub(crate) fn of_done(py: Python<'_>) -> PyResult<Bound<'_, Self>> {
        static OF_DONE: PyOnceLock<Py<Condition>> = PyOnceLock::new();
        let condition = OF_DONE.get_or_try_init(py, || Py::new(py, Self(None)))?;
        Ok(condition.bind(py).clone())
    }
}

#[pymethods]
impl Condition {
    #[pyo3(signature = (*args))]
    pub(crate) fn acquire(&self, py: Python<'_>, args: &Bound<'_, PyTuple>) -> PyResult<bool> {
        let Some(lock) = &self.0 else {
            return Ok(true);
        };
        let acquire = lock.bind(py).getattr(names::acquire(py))?;
        if args.is_empty() {
            return call_with(&acquire, []).map(|_| true);
        }
        acquire.call1(args)?.extract()
    }

    pub(crate) fn release(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(lock) = &self.0 {
            lock.bind(py).call_method0(names::release(py))?;
        }
        Ok(())
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<()> {
        self.acquire(py, &PyTuple::empty(py)).map(drop)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.release(py)
    }

    /// Nobody waits on the condition itself.
    #[expect(clippy::unused_self, reason = "Python calls it with self")]
    fn notify_all(&self) {}
}
