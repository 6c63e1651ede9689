//! `Future.stream()`: the items of a generator task, for one reader.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pyo3::exceptions::{PyStopAsyncIteration, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use crate::bindings::convert::seconds;
use crate::bindings::core::stream::{self, Reader, Sleeper, Taken};
use crate::bindings::core::task::{Task, name_of};
use crate::bindings::errors::StreamLagged;
use crate::bindings::host::event_loop::hooks;
use crate::bindings::wait;

#[doc = doc!("Stream")]
#[pyclass(frozen, generic, module = "flask_delay")]
pub(crate) struct Stream {
    task: Py<Task>,
    reader: Arc<Reader>,
    timeout: Option<Duration>,
    /// The reader has been told the end.
    ended: AtomicBool,
}

/// A reader of the task's items after number `after`, as `Future.stream` makes it.
///
/// # Errors
///
/// `TypeError` for a task that yields none, and for a number or a timeout that is none; `ValueError`
/// for a number that no item has yet.
pub(crate) fn read<'py>(
    task: &Bound<'py, Task>,
    after: u64,
    timeout: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, Stream>> {
    if !task.get().yields() {
        return Err(PyTypeError::new_err(format!(
            "task {:?} has no stream, since its function is no generator function here: give \
             delay() a function that yields",
            name_of(task)
        )));
    }
    let timeout = timeout.map(seconds).transpose()?;
    let reader = stream::read(task, after).map_err(|count| {
        PyValueError::new_err(format!(
            "after is {after}, but the last item of task {:?} so far has the number {count}",
            name_of(task)
        ))
    })?;
    Bound::new(
        task.py(),
        Stream {
            task: task.clone().unbind(),
            reader,
            timeout: timeout.map(Duration::from_secs_f64),
            ended: AtomicBool::new(false),
        },
    )
}

/// The number of an item, or 0.
pub(crate) fn number(after: &Bound<'_, PyAny>) -> PyResult<u64> {
    let bad = || format!("after must be the number of an item, or 0, got {after:?}");
    if after.is_instance_of::<PyBool>() {
        return Err(PyTypeError::new_err(bad()));
    }
    after.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyTypeError>(after.py()) {
            PyTypeError::new_err(bad())
        } else {
            PyValueError::new_err(bad())
        }
    })
}

impl Stream {
    fn task<'py>(&self, py: Python<'py>) -> &Bound<'py, Task> {
        self.task.bind(py)
    }

    /// The item for the reader; `None` at the end of a task that has succeeded.
    fn item<'py>(&self, py: Python<'py>, taken: Taken) -> PyResult<Option<Bound<'py, PyAny>>> {
        match taken {
            Taken::Item(item) => Ok(Some(item.into_bound(py))),
            Taken::Lagged { missed, oldest } => Err(self.lagged(py, missed, oldest)?),
            Taken::Nothing => {
                // Relaxed: says nothing about other data.
                self.ended.store(true, Ordering::Relaxed);
                let task = self.task(py);
                match task.get().outcome(py)? {
                    Ok(_) => Ok(None),
                    Err(exception) => Err(task.get().raised(exception)),
                }
            }
        }
    }

    fn lagged(&self, py: Python<'_>, missed: u64, oldest: u64) -> PyResult<PyErr> {
        let error = StreamLagged::new_err(format!(
            "{missed} items of task {:?} were dropped before they were read; the oldest that is \
             kept has the number {oldest}: read on from there, read faster, or have more kept",
            name_of(self.task(py))
        ));
        error.value(py).setattr("missed", missed)?;
        error.value(py).setattr("oldest", oldest)?;
        Ok(error)
    }
}

#[pymethods]
impl Stream {
    fn __iter__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (py, own) = (slf.py(), slf.get());
        let taken = wait::stream::next(own.task(py), &own.reader, slf.as_any(), own.timeout)?;
        own.item(py, taken)
    }

    fn __aiter__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __anext__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        hooks(slf.py())?.next_item.bind(slf.py()).call1((slf,))
    }

    #[doc = doc!("Stream.number")]
    #[getter]
    fn number(&self) -> u64 {
        self.reader.last()
    }

    #[doc = doc!("Stream.attempt")]
    #[getter]
    fn attempt(&self) -> u32 {
        self.reader.attempt()
    }

    #[doc = doc!("Stream.ended")]
    #[getter]
    fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    #[doc = doc!("Stream._future")]
    #[getter]
    fn _future<'py>(&self, py: Python<'py>) -> Bound<'py, Task> {
        self.task(py).clone()
    }

    #[doc = doc!("Stream._timeout")]
    #[getter]
    fn _timeout(&self) -> Option<f64> {
        self.timeout.map(|timeout| timeout.as_secs_f64())
    }

    #[doc = doc!("Stream._take")]
    fn _take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let task = self.task(py);
        task.get().refuse_foreign(task)?;
        let Some(taken) = wait::stream::look(task, &self.reader) else {
            return Ok(None);
        };
        match self.item(py, taken)? {
            Some(item) => PyTuple::new(py, [item]).map(Some),
            None => Err(PyStopAsyncIteration::new_err(())),
        }
    }

    #[doc = doc!("Stream._add_waker")]
    fn _add_waker(&self, py: Python<'_>, waker: Py<PyAny>) -> bool {
        stream::sleep(self.task(py), &self.reader, Sleeper::Function(waker))
    }

    #[doc = doc!("Stream._drop_waker")]
    fn _drop_waker(&self, waker: &Bound<'_, PyAny>) {
        stream::forget_function(self.task(waker.py()), waker);
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!(
            "<Stream of task {:?} after number {}>",
            name_of(self.task(py)),
            self.reader.last()
        )
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.task)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Without an interpreter there is no generator that waits for it.
        Python::try_attach(|py| stream::leave(self.task.bind(py), &self.reader));
    }
}
