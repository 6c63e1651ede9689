//! Coroutine tasks, which one event loop in Python runs.
//!
//! The Python side (`aio.py`) registers its functions by [`_set_hooks`]. An executor passes each
//! `async def` task on as a [`CoroutineTask`] and holds its pool until that has ended.

use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::generator;
use super::retry::{self, Verdict};
use super::timeout;
use crate::bindings::core::durable;
use crate::bindings::core::events::{self, Kind};
use crate::bindings::core::interrupt::Why;
use crate::bindings::core::policy;
use crate::bindings::core::settings::Mode;
use crate::bindings::core::stream::{self, Item, Pushed, Sleeper};
use crate::bindings::core::task::{CoroutineTask, Task};
use crate::bindings::core::transition::End;
use crate::bindings::errors::{CancelledError, TaskRetry, into_exception};
use crate::bindings::ffi::call::call;
use crate::bindings::ffi::clock::now;
use crate::bindings::ffi::context::{copy, copy_current, for_attempt};
use crate::bindings::host::app_context;
use crate::bindings::host::event_loop::note_thread;
use crate::bindings::host::logging;
use crate::bindings::host::signals;
use crate::bindings::sched::completion::{self, leave, let_go_of_coroutine};
use crate::bindings::sched::dispatch::{self, hand_over};
use crate::bindings::sched::limits;
use crate::bindings::wait::current;

fn attempted(task: &Bound<'_, Task>) {
    if task.get().is_ruled() {
        limits::attempted(task);
    }
}

/// The coroutine of an attempt has ended, or has not begun. `false` if its future ends without it.
fn code_ended(task: &Bound<'_, Task>) -> bool {
    limits::end_code(task);
    if !task.get().is_overdue() {
        return true;
    }
    completion::discard_call(task);
    leave(task);
    false
}

/// Starts another attempt of a coroutine's task.
fn run_again(task: &Bound<'_, Task>, after: Duration, exception: Option<Bound<'_, PyAny>>) {
    let Some(core) = task.get().core() else {
        return;
    };
    if core.mode == Mode::Immediate {
        // The submitting thread waits until all attempts have left.
        let_go_of_coroutine(task);
        retry::again(task, core, None, after, exception);
        if task.get().phase().is_done() {
            leave(task);
        } else if let Err(error) = hand_over(task, core) {
            completion::give_up(task, error);
        }
        return;
    }
    let hold = core.pool().hold();
    // Before the next attempt can be handed over.
    leave(task);
    retry::again(task, core, None, after, exception);
    drop(hold);
}

/// Whether the end of the process, and not its own, ends a durable task, which then runs again in
/// another process.
fn is_interrupted(task: &Bound<'_, Task>) -> bool {
    let core = task.get().core();
    core.is_some_and(|core| super::attempt::is_interrupted(task, core))
}

/// Leaves a durable task to another process.
fn put_back(task: &Bound<'_, Task>) {
    // The process must not end before the journal has it.
    let hold = task.get().core().map(|core| core.pool().hold());
    leave(task);
    super::durable::put_back(task);
    drop(hold);
}

impl CoroutineTask {
    /// Ends the task; a worker runs the callbacks, in the context of the coroutine.
    fn end(&self, py: Python<'_>, end: End<'_>) -> PyResult<()> {
        let task = self.0.bind(py);
        completion::discard_call(task);
        if durable::has_claim(task.get()) {
            // The courier ends it, in the context of the coroutine.
            task.get().put_context(copy_current(py)?);
            completion::finish_detached(task, end, None);
            return Ok(());
        }
        let Some(detached) = completion::detach(task, end) else {
            // The task was cancelled, and its coroutine has ended all the same.
            leave(task);
            return Ok(());
        };
        if completion::is_heard(task) {
            task.get().put_context(copy_current(py)?);
        }
        detached.send(None);
        Ok(())
    }
}

#[pymethods]
impl CoroutineTask {
    #[getter]
    fn future<'py>(&self, py: Python<'py>) -> Bound<'py, Task> {
        self.0.bind(py).clone()
    }

    #[doc = doc!("_CoroutineTask.begin")]
    #[expect(clippy::type_complexity, reason = "a pair for Python")]
    fn begin<'py>(
        &self,
        py: Python<'py>,
        canceller: Py<PyAny>,
    ) -> PyResult<Option<(Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>)>> {
        let task = self.0.bind(py);
        // Before the coroutine runs, so that it can be cancelled.
        task.get().extra().lock().canceller = Some(canceller);
        // Before anybody can end a running task.
        task.get().begin_code();
        if !dispatch::start(task) {
            limits::end_code(task);
            leave(task);
            return Ok(None);
        }
        task.get().set_started(now());
        note_thread();
        events::happened(task, Kind::Started);
        if let Some(timeout) = policy::timeout(task)
            && let Err(error) = timeout::watch_coroutine(task, timeout)
        {
            // Without a limit rather than not at all.
            error.write_unraisable(py, Some(task));
        }
        let mut context = task.get().take_context(py);
        if task.get().is_ruled() {
            task.get().keep_context(context.as_ref());
            context = context.map(for_attempt).transpose()?;
        }
        let context = context.as_ref().map(copy).transpose()?;
        Ok(Some((context, task.get().task_scope(py)?)))
    }

    #[doc = doc!("_CoroutineTask.call")]
    fn call<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let task = self.0.bind(py);
        current::set_coroutine(task)?;
        signals::emit(task, Kind::Started);
        let taken = task.get().take_call(task);
        let function = taken
            .function
            .as_ref()
            .ok_or_else(|| PyRuntimeError::new_err("the task was called already"))?;
        let coroutine = call(
            function,
            taken.shape,
            taken.first.as_ref(),
            taken.second.as_ref(),
        );
        // For a retry; the coroutine has its arguments anyway.
        task.get().put_call(task, taken);
        coroutine
    }

    #[doc = doc!("_CoroutineTask.yields")]
    #[getter]
    fn yields(&self, py: Python<'_>) -> bool {
        self.0.bind(py).get().yields()
    }

    #[doc = doc!("_CoroutineTask.patience")]
    #[getter]
    fn patience(&self, py: Python<'_>) -> f64 {
        let patience = policy::policy(self.0.bind(py)).and_then(|it| it.get().stream_wait);
        patience.unwrap_or_default().as_secs_f64()
    }

    #[doc = doc!("_CoroutineTask.push")]
    #[pyo3(signature = (item, wake = None))]
    fn push(&self, item: Bound<'_, PyAny>, wake: Option<Py<PyAny>>) -> PyResult<bool> {
        let task = self.0.bind(item.py());
        let ended = || CancelledError::new_err("the task has ended");
        let bounds = generator::bounds(task).ok_or_else(ended)?;
        let item = Item::new(task, item)?;
        match stream::push(task, item, bounds, wake.map(Sleeper::Function)) {
            Pushed::Yes => Ok(true),
            Pushed::Held(_) => Ok(false),
            Pushed::Ended => Err(ended()),
        }
    }

    #[doc = doc!("_CoroutineTask.leave")]
    #[pyo3(signature = (surroundings, exception = None))]
    fn leave<'py>(
        &self,
        surroundings: Bound<'py, PyAny>,
        exception: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let task = self.0.bind(surroundings.py());
        app_context::leave(&surroundings, task, exception.as_ref())
    }

    #[doc = doc!("_CoroutineTask.finish")]
    fn finish(&self, py: Python<'_>, result: Bound<'_, PyAny>) -> PyResult<()> {
        let task = self.0.bind(py);
        if !code_ended(task) {
            return Ok(());
        }
        attempted(task);
        self.end(py, End::Returned(result))
    }

    #[doc = doc!("_CoroutineTask.fail")]
    #[pyo3(signature = (exception, *, returned = false))]
    fn fail(&self, py: Python<'_>, exception: Bound<'_, PyAny>, returned: bool) -> PyResult<()> {
        let task = self.0.bind(py);
        if !code_ended(task) {
            return Ok(());
        }
        limits::stop_clock(task);
        if !returned && is_interrupted(task) {
            drop(exception);
            put_back(task);
            return Ok(());
        }
        let verdict = if returned && !exception.is_instance_of::<TaskRetry>() {
            // The function has done its work and must not run again.
            Verdict::Fail(exception)
        } else {
            retry::judge(task, exception)
        };
        let exception = match verdict {
            Verdict::Fail(exception) => exception,
            Verdict::Again(after, exception) => {
                run_again(task, after, exception);
                return Ok(());
            }
        };
        attempted(task);
        if task.get().core().is_some_and(|core| core.log_failures) {
            logging::exception_of("task %s (%s) failed", task, &exception);
        }
        self.end(py, End::Raised(exception))
    }

    #[doc = doc!("_CoroutineTask.abandon")]
    fn abandon(&self, py: Python<'_>) -> PyResult<()> {
        let task = self.0.bind(py);
        if policy::why(task.get()) == Some(Why::Timeout) {
            return self.fail(py, into_exception(py, timeout::timed_out(task)), false);
        }
        if !code_ended(task) {
            return Ok(());
        }
        attempted(task);
        if is_interrupted(task) {
            put_back(task);
            return Ok(());
        }
        self.end(py, End::Cancelled)
    }

    #[doc = doc!("_CoroutineTask.refuse")]
    fn refuse(&self, py: Python<'_>, exception: Bound<'_, PyAny>) -> PyResult<()> {
        dispatch::start(self.0.bind(py));
        let exception = into_exception(py, PyErr::from_value(exception));
        self.fail(py, exception, false)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}
