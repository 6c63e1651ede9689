//! `Executor.map`, and `map` by way of a function: the results of many calls, in order.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use flask_delay_engine::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyTuple, PyWeakrefReference};
use pyo3::{PyTraverseError, PyVisit};

use crate::bindings::convert::seconds;
use crate::bindings::names;

/// The iterator that `map` returns. What it has not given out is cancelled when one of
/// the calls raises, and when it is closed or dropped; not if it was never asked for a
/// result, because then nobody wanted one: `map` is used for its calls alone.
#[pyclass(frozen, name = "_Map", module = "flask_delay._native")]
pub(crate) struct Map {
    state: Mutex<State>,
    deadline: Option<Instant>,
}

#[derive(Default)]
struct State {
    futures: VecDeque<Py<PyAny>>,
    /// With a `buffersize`: where further calls come from.
    source: Option<Source>,
    /// A result has been asked for.
    begun: bool,
}

struct Source {
    submit: Kept,
    function: Py<PyAny>,
    arguments: Py<PyAny>,
}

/// What takes the calls.
pub(crate) enum Submit<'py> {
    Executor(Bound<'py, PyAny>),
    /// A function that does as the `submit` of an executor.
    Function(Bound<'py, PyAny>),
}

/// The same, while further calls are to come.
enum Kept {
    /// A weak reference: a forgotten iterator must not keep the pool alive.
    Executor(Py<PyWeakrefReference>),
    Function(Py<PyAny>),
}

impl<'py> Submit<'py> {
    fn call(
        &self,
        function: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = function.py();
        let arguments = arguments.cast::<PyTuple>()?;
        let all = std::iter::once(function.clone()).chain(arguments.iter());
        let all = PyTuple::new(py, all.collect::<Vec<_>>())?;
        match self {
            // By name: a subclass may have a `submit` of its own.
            Self::Executor(executor) => executor.call_method1(names::submit(py), all),
            Self::Function(submit) => submit.call1(all),
        }
    }

    fn keep(self) -> PyResult<Kept> {
        Ok(match self {
            Self::Executor(executor) => {
                Kept::Executor(PyWeakrefReference::new(&executor)?.unbind())
            }
            Self::Function(submit) => Kept::Function(submit.unbind()),
        })
    }
}

impl Kept {
    fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Executor(executor) => Self::Executor(executor.clone_ref(py)),
            Self::Function(submit) => Self::Function(submit.clone_ref(py)),
        }
    }

    /// None if the executor is gone.
    fn get<'py>(&self, py: Python<'py>) -> Option<Submit<'py>> {
        match self {
            Self::Executor(executor) => executor.bind(py).upgrade().map(Submit::Executor),
            Self::Function(submit) => Some(Submit::Function(submit.bind(py).clone())),
        }
    }

    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Executor(executor) => visit.call(executor),
            Self::Function(submit) => visit.call(submit),
        }
    }
}

#[doc = doc!("_map")]
#[pyfunction]
#[pyo3(signature = (submit, r#fn, *iterables, timeout = None, chunksize = None, buffersize = None))]
pub(crate) fn _map<'py>(
    submit: Bound<'py, PyAny>,
    r#fn: Bound<'py, PyAny>,
    iterables: Bound<'py, PyTuple>,
    timeout: Option<Bound<'py, PyAny>>,
    chunksize: Option<Bound<'py, PyAny>>,
    buffersize: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, Map>> {
    // For processes, where it saves messages; a thread has none.
    let _ = chunksize;
    Map::start(
        Submit::Function(submit),
        r#fn,
        &iterables,
        timeout,
        buffersize,
    )
}

impl Map {
    pub(crate) fn start<'py>(
        submit: Submit<'py>,
        function: Bound<'py, PyAny>,
        iterables: &Bound<'py, PyTuple>,
        timeout: Option<Bound<'py, PyAny>>,
        buffersize: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = function.py();
        let limit = buffersize.map(|size| buffer(&size)).transpose()?;
        let deadline = match timeout {
            Some(timeout) => {
                let timeout = Duration::try_from_secs_f64(seconds(&timeout)?).ok();
                timeout.and_then(|timeout| Instant::now().checked_add(timeout))
            }
            None => None,
        };
        let zip = py.import(names::builtins(py))?.getattr(names::zip(py))?;
        let arguments = zip.call1(iterables)?;
        let mut futures = VecDeque::new();
        for arguments in arguments.try_iter()?.take(limit.unwrap_or(usize::MAX)) {
            futures.push_back(submit.call(&function, &arguments?)?.unbind());
        }
        let source = match limit {
            None => None,
            Some(_) => Some(Source {
                submit: submit.keep()?,
                function: function.unbind(),
                arguments: arguments.unbind(),
            }),
        };
        let map = Self {
            state: Mutex::new(State {
                futures,
                source,
                begun: false,
            }),
            deadline,
        };
        Bound::new(py, map)
    }

    /// Submits one more call, if there is one.
    fn refill(&self, py: Python<'_>) -> PyResult<()> {
        let (submit, function, arguments) = {
            let state = self.state.lock();
            let Some(source) = &state.source else {
                return Ok(());
            };
            (
                source.submit.clone_ref(py),
                source.function.clone_ref(py),
                source.arguments.clone_ref(py),
            )
        };
        let Some(submit) = submit.get(py) else {
            return Ok(());
        };
        if let Some(arguments) = arguments.bind(py).try_iter()?.next() {
            let future = submit.call(function.bind(py), &arguments?)?;
            self.state.lock().futures.push_back(future.unbind());
        }
        Ok(())
    }

    fn cancel_rest(&self, py: Python<'_>) {
        let State {
            futures,
            source,
            begun,
        } = std::mem::take(&mut *self.state.lock());
        drop(source);
        if !begun {
            return;
        }
        for future in futures {
            if let Err(error) = future.bind(py).call_method0(names::cancel(py)) {
                error.write_unraisable(py, None);
            }
        }
    }

    fn step<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let future = {
            let mut state = self.state.lock();
            state.begun = true;
            state.futures.pop_front()
        };
        let Some(future) = future else {
            return Ok(None);
        };
        let future = future.into_bound(py);
        let result = self.refill(py).and_then(|()| {
            let left = self.deadline.map(|deadline| {
                let left = deadline.saturating_duration_since(Instant::now());
                PyFloat::new(py, left.as_secs_f64())
            });
            future.call_method1(names::result(py), (left,))
        });
        if result.is_err() {
            future.call_method0(names::cancel(py))?;
        }
        result.map(Some)
    }
}

/// A `StopIteration` that is an error, as one: by itself it would say that no more results
/// come. Generators do the same (PEP 479).
fn no_end(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyStopIteration>(py) {
        return error;
    }
    let raised = PyRuntimeError::new_err("a call of map() raised StopIteration");
    raised.set_cause(py, Some(error));
    raised
}

fn buffer(size: &Bound<'_, PyAny>) -> PyResult<usize> {
    let Ok(size) = size.extract::<i64>() else {
        return Err(PyTypeError::new_err(format!(
            "buffersize must be an integer or None, got {}",
            size.repr()?
        )));
    };
    usize::try_from(size)
        .ok()
        .filter(|size| *size > 0)
        .ok_or_else(|| PyValueError::new_err(format!("buffersize must be None or > 0, got {size}")))
}

#[pymethods]
impl Map {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.step(py).map_err(|error| {
            self.cancel_rest(py);
            no_end(py, error)
        })
    }

    /// Cancels what has not started, as closing a generator would.
    fn close(&self, py: Python<'_>) {
        self.cancel_rest(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(state) = self.state.try_lock() {
            for future in &state.futures {
                visit.call(future)?;
            }
            if let Some(source) = &state.source {
                source.submit.visit(&visit)?;
                visit.call(&source.function)?;
                visit.call(&source.arguments)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let state = std::mem::take(&mut *self.state.lock());
        drop(state);
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        Python::try_attach(|py| self.cancel_rest(py));
    }
}
