//! Where `concurrent.futures.wait` and `as_completed` enter themselves.
//!
//! They want a list, and get one. A worker's task gets one that also tells that it waits:
//! from the entry into the first future's list to the exit from the last one's, another
//! worker may be active in its place, as while it waits for a single future.

use std::collections::HashMap;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyType};

use super::current::{self, Waiting};
use super::names;

/// How many lists each waiter of a worker is in, by address: the lists keep it alive. A
/// leaf.
static WAITS: Mutex<Option<HashMap<usize, Wait>>> = Mutex::new(None);

struct Wait {
    lists: usize,
    /// Ends the worker's wait when it is dropped.
    _waiting: Waiting,
}

/// What a future's list of waiters has before a plain list.
#[pyclass(frozen, subclass, name = "_Listeners", module = "flask_delay._native")]
pub(crate) struct Listeners;

/// Whether a list of waiters tells when a worker's task enters itself.
pub(crate) fn is_telling(list: &Bound<'_, PyList>) -> bool {
    !list.is_exact_instance_of::<PyList>()
}

/// A list that tells, with the waiters of a plain one.
pub(crate) fn telling<'py>(
    py: Python<'py>,
    plain: Option<&Bound<'py, PyList>>,
) -> PyResult<Bound<'py, PyList>> {
    // PyO3 cannot extend a list; Python can.
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let class = CLASS.get_or_try_init(py, || {
        let bases = (py.get_type::<Listeners>(), py.get_type::<PyList>());
        let class = py.get_type::<PyType>();
        let class = class.call1(("_Listeners", bases, PyDict::new(py)))?;
        PyResult::Ok(class.cast_into::<PyType>()?.unbind())
    })?;
    let list = class.bind(py).call0()?.cast_into::<PyList>()?;
    for waiter in plain.iter().flat_map(|plain| plain.iter()) {
        list.append(waiter)?;
    }
    Ok(list)
}

#[pymethods]
impl Listeners {
    #[new]
    fn new() -> Self {
        Self
    }

    fn append(slf: &Bound<'_, Self>, waiter: &Bound<'_, PyAny>) -> PyResult<()> {
        slf.as_any().cast::<PyList>()?.append(waiter)?;
        let address = waiter.as_ptr() as usize;
        let known = WAITS.lock().as_mut().is_some_and(|waits| {
            let wait = waits.get_mut(&address);
            wait.map(|wait| wait.lists += 1).is_some()
        });
        // Made before the lock is taken: it may start a thread.
        if !known && let Some(waiting) = current::waiting() {
            let wait = Wait {
                lists: 1,
                _waiting: waiting,
            };
            let mut waits = WAITS.lock();
            let previous = waits.get_or_insert_default().insert(address, wait);
            drop(waits);
            drop(previous);
        }
        Ok(())
    }

    fn remove(slf: &Bound<'_, Self>, waiter: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        py.get_type::<PyList>()
            .call_method1(names::remove(py), (slf, waiter))?;
        let ended = {
            let mut waits = WAITS.lock();
            let address = waiter.as_ptr() as usize;
            let left = waits.as_mut().and_then(|waits| {
                let wait = waits.get_mut(&address)?;
                wait.lists -= 1;
                Some(wait.lists)
            });
            match left {
                Some(0) => waits.as_mut().and_then(|waits| waits.remove(&address)),
                _ => None,
            }
        };
        drop(ended);
        Ok(())
    }
}
