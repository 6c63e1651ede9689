//! `current_task`: a running task's own handle.

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDateTime, PyDict, PyString, PyTuple, PyTzInfo};

use crate::bindings::core::durable;
use crate::bindings::core::events::{self, Kind};
use crate::bindings::core::progress::{self, Progress};
use crate::bindings::core::task::Task;
use crate::bindings::errors::{CancelledError, TaskRetry};
use crate::bindings::run::kept;
use crate::bindings::wait::current::task;

#[doc = doc!("CurrentTask")]
#[pyclass(frozen, module = "flask_delay")]
pub(crate) struct CurrentTask;

fn required(py: Python<'_>) -> PyResult<Bound<'_, Task>> {
    task(py).ok_or_else(|| {
        PyRuntimeError::new_err(
            "no task runs on this thread: current_task can be used inside a function that \
             was given to delay() or submit()",
        )
    })
}

#[pymethods]
#[expect(
    clippy::unused_self,
    reason = "the instance stands for the thread's task"
)]
impl CurrentTask {
    #[doc = doc!("CurrentTask.id")]
    #[getter]
    fn id(&self, py: Python<'_>) -> PyResult<String> {
        let task = required(py)?;
        Ok(durable::public_id(&task).to_string())
    }

    #[doc = doc!("CurrentTask.future")]
    #[getter]
    fn future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Task>> {
        required(py)
    }

    #[doc = doc!("CurrentTask.attempt")]
    #[getter]
    fn attempt<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        required(py)?.getattr("attempts")
    }

    #[doc = doc!("CurrentTask.cancelled")]
    #[getter]
    fn cancelled(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(required(py)?.get().told_to_stop())
    }

    #[doc = doc!("CurrentTask.tick")]
    #[getter]
    fn tick<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDateTime>>> {
        let Some(micros) = durable::tick(required(py)?.get()) else {
            return Ok(None);
        };
        #[expect(clippy::cast_precision_loss, reason = "exact until the year 2255")]
        let seconds = micros as f64 / 1e6;
        // Written by something else than a journal: there is no such time.
        Ok(PyDateTime::from_timestamp(py, seconds, Some(&*PyTzInfo::utc(py)?)).ok())
    }

    #[doc = doc!("CurrentTask.check")]
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        if required(py)?.get().told_to_stop() {
            return Err(CancelledError::new_err("the task was told to stop"));
        }
        Ok(())
    }

    #[doc = doc!("CurrentTask.retry")]
    #[pyo3(signature = (after = None))]
    fn retry(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = crate::bindings::convert::after)] after: Option<f64>,
    ) -> PyResult<()> {
        required(py)?;
        Err(TaskRetry::new_err((after,)))
    }

    #[pyo3(
        signature = (done, total, note = String::new()),
        text_signature = "($self, done, total, note='')"
    )]
    #[doc = doc!("CurrentTask.progress")]
    fn progress(
        &self,
        py: Python<'_>,
        done: &Bound<'_, PyAny>,
        total: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = progress::note)] note: String,
    ) -> PyResult<()> {
        let progress = Progress::new(done, total, note)?;
        let task = required(py)?;
        let report = {
            let mut extra = task.get().extra().lock();
            extra.progress = Some(progress);
            extra.report.as_ref().map(|report| report.clone_ref(py))
        };
        events::happened(&task, Kind::Progress);
        durable::report(task.get());
        if let Some(report) = report {
            report.call1(py, (task.getattr("progress")?,))?;
        }
        Ok(())
    }

    #[doc = doc!("CurrentTask.checkpoint")]
    fn checkpoint(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        kept::checkpoint(&required(value.py())?, value)
    }

    #[doc = doc!("CurrentTask.checkpointed")]
    #[getter]
    fn checkpointed<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        kept::checkpointed(&required(py)?)
    }

    #[pyo3(signature = (name, r#fn, /, *args, **kwargs))]
    #[doc = doc!("CurrentTask.step")]
    fn step<'py>(
        &self,
        name: Bound<'py, PyAny>,
        r#fn: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        kwargs: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let name = name.cast::<PyString>().map_err(|_| {
            let shown = name
                .repr()
                .map_or_else(|_| "?".to_owned(), |it| it.to_string());
            PyTypeError::new_err(format!("the name of a step is {shown}, but must be a str"))
        })?;
        kept::step(&required(r#fn.py())?, name.extract()?, r#fn, args, kwargs)
    }

    #[doc = doc!("CurrentTask._begin_loop")]
    fn _begin_loop(&self, py: Python<'_>) -> PyResult<Option<(u32, u64)>> {
        task(py).map_or(Ok(None), |task| kept::begin_loop(&task))
    }

    #[doc = doc!("CurrentTask._loop_done")]
    fn _loop_done(&self, py: Python<'_>, number: u32, done: u64) -> PyResult<()> {
        kept::loop_done(&required(py)?, number, done)
    }

    #[doc = doc!("CurrentTask._end_loop")]
    fn _end_loop(&self, py: Python<'_>, number: u32) -> PyResult<()> {
        kept::end_loop(required(py)?.get(), number);
        Ok(())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        match task(py) {
            Some(task) => Ok(format!("<current_task {}>", task.repr()?)),
            None => Ok("<current_task: none on this thread>".to_owned()),
        }
    }
}
