//! What `concurrent.futures.wait` and its like hold while they look at a future's state.
//!
//! They want a `threading.Condition`, but only to lock it: those who wait do so on an
//! event of their own, and `Future.result` has its own way here. So Python's lock with a
//! no-op is enough, at a fraction of the cost, and a future that is done, whose state
//! nothing can change any more, needs not even the lock.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::bindings::core::task::FutureCell;

/// The condition of a future that is not done.
pub(crate) fn new(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // A class of Python's over the lock, so that locking goes through none of our code.
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = CLASS.get_or_try_init(py, || {
        let body = PyDict::new(py);
        body.set_item("__module__", "flask_delay._native")?;
        body.set_item("__slots__", PyTuple::empty(py))?;
        body.set_item("notify_all", wrap_pyfunction!(notify_all, py)?)?;
        let lock = py.import("_thread")?.getattr("RLock")?;
        let class = py
            .get_type::<PyType>()
            .call1(("_Condition", (lock,), body))?;
        PyResult::Ok(class.unbind())
    })?;
    class.bind(py).call0()
}

/// The condition of all futures that are done, which is never locked.
pub(crate) fn of_done(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static OF_DONE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let condition = OF_DONE.get_or_try_init(py, || {
        let condition = Bound::new(py, OfDone)?;
        PyResult::Ok(condition.into_any().unbind())
    })?;
    Ok(condition.bind(py).clone())
}

/// Nobody waits on the condition itself.
#[pyfunction]
fn notify_all() {}

#[pyclass(frozen, name = "_Condition", module = "flask_delay._native")]
struct OfDone;

#[pymethods]
#[expect(clippy::unused_self, reason = "Python calls them with self")]
impl OfDone {
    #[pyo3(signature = (*_args))]
    fn acquire(&self, _args: &Bound<'_, PyTuple>) -> bool {
        true
    }

    fn release(&self) {}

    fn __enter__(&self) {}

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) {}

    fn notify_all(&self) {}
}

/// The condition that `concurrent.futures.wait` holds while it looks at the state.
///
/// Each future that is not done has its own: `wait` holds those of all its futures at
/// once, and two such threads would lock each other out over a shared one.
pub(crate) fn of<'py>(this: &Bound<'py, FutureCell>) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    let cell = this.get();
    let done = cell.phase().is_settled();
    if let Some(extra) = cell.known_extra()
        && let Some(condition) = extra.lock().condition.as_ref()
    {
        return Ok(condition.bind(py).clone());
    }
    if done {
        return of_done(py);
    }
    let fresh = new(py)?;
    // The loser of a race for it is dropped after the lock is let go.
    Ok(cell.state.watch_with(cell.extra(), |extra| {
        let condition = extra
            .condition
            .get_or_insert_with(|| fresh.clone().unbind());
        condition.bind(py).clone()
    }))
}
