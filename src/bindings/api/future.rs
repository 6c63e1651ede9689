//! The native half of `Future`: its Python methods.
//!
//! Its data are in `core::task`, its state changes in `core::transition`, and waiting for it in
//! `wait::result`.

use std::ffi::{CStr, c_ulong};
use std::sync::atomic::Ordering;
use std::time::Duration;

use flask_delay_engine::Mutex;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi::c_str;
use pyo3::prelude::*;
use pyo3::types::{PyDateTime, PyDict, PyList, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::compose;
use super::stream::{self, Stream};
use crate::bindings::convert::to_datetime;
use crate::bindings::core::async_check::check_callback;
use crate::bindings::core::durable::{note_death, public_id, publish};
use crate::bindings::core::executor::ExecutorCell;
use crate::bindings::core::function_name::inner_of;
use crate::bindings::core::links;
use crate::bindings::core::options::Policy;
use crate::bindings::core::policy;
use crate::bindings::core::recorder::Text;
use crate::bindings::core::task::{Shown, Task, name_of};
use crate::bindings::core::transition::{Phase, standard_name};
use crate::bindings::errors::InvalidStateError;
use crate::bindings::ffi::arguments::{self, Arguments, Before, CallMethod};
use crate::bindings::host::event_loop::hooks;
use crate::bindings::names;
use crate::bindings::run::{durable, submit, timeout};
use crate::bindings::sched::completion::{self, Place};
use crate::bindings::sched::dispatch;
use crate::bindings::sched::standing;

#[pymethods]
impl Task {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "()")]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, pyo3::types::PyDict>>) -> Self {
        Self::by_hand()
    }

    /// Does nothing: `concurrent.futures.Future` would make its condition here.
    #[expect(clippy::unused_self, reason = "Python calls it with self")]
    fn __init__(&self) {}

    #[doc = doc!("Future.cancel")]
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<bool> {
        if slf.get().is_foreign() {
            return Self::cancel(&durable::own(slf)?);
        }
        Ok(completion::cancel(slf))
    }

    #[doc = doc!("Future.stop")]
    #[pyo3(signature = (after = Some(1.0)), text_signature = "($self, after=1.0)")]
    fn stop(
        slf: &Bound<'_, Self>,
        #[pyo3(from_py_with = crate::bindings::convert::after)] after: Option<f64>,
    ) -> PyResult<bool> {
        if slf.get().is_foreign() {
            return Self::stop(&durable::own(slf)?, after);
        }
        let after = after.map(|after| Duration::try_from_secs_f64(after).unwrap_or(Duration::MAX));
        timeout::stop(slf, after)
    }

    #[doc = doc!("Future.cancelled")]
    fn cancelled(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let slf = &durable::current(slf)?;
        Ok(slf.get().phase().is_cancelled())
    }

    #[doc = doc!("Future.running")]
    fn running(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let slf = &durable::current(slf)?;
        Ok(slf.get().phase() == Phase::Running)
    }

    #[doc = doc!("Future.done")]
    fn done(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let slf = &durable::current(slf)?;
        Ok(slf.get().phase().is_done())
    }

    #[doc = doc!("Future.result")]
    #[pyo3(signature = (timeout = None))]
    fn result<'py>(
        slf: &Bound<'py, Self>,
        timeout: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if slf.get().is_foreign() {
            return Self::result(&durable::own(slf)?, timeout);
        }
        crate::bindings::wait::result::until_done(slf, timeout.as_ref())?;
        match slf.get().outcome(slf.py())? {
            Ok(result) if slf.get().ended_elsewhere() => durable::kept(result),
            Ok(result) => Ok(result),
            Err(exception) => Err(slf.get().raised(exception)),
        }
    }

    #[doc = doc!("Future.exception")]
    #[pyo3(signature = (timeout = None))]
    fn exception<'py>(
        slf: &Bound<'py, Self>,
        timeout: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        if slf.get().is_foreign() {
            return Self::exception(&durable::own(slf)?, timeout);
        }
        crate::bindings::wait::result::until_done(slf, timeout.as_ref())?;
        Ok(slf.get().outcome(slf.py())?.err())
    }

    #[doc = doc!("Future.stream")]
    #[pyo3(
        signature = (after = 0, *, timeout = None),
        text_signature = "($self, after=0, *, timeout=None)"
    )]
    fn stream<'py>(
        slf: &Bound<'py, Self>,
        #[pyo3(from_py_with = stream::number)] after: u64,
        timeout: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Stream>> {
        slf.get().refuse_foreign(slf)?;
        stream::read(slf, after, timeout.as_ref())
    }

    #[doc = doc!("Future.then")]
    #[pyo3(signature = (r#fn, *, on = "success"))]
    fn then<'py>(
        slf: &Bound<'py, Self>,
        r#fn: Bound<'py, PyAny>,
        on: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let kind = compose::read_on(on)?;
        let own = (slf.get().is_foreign() && slf.get().is_journaled()).then(|| durable::own(slf));
        let own = own.and_then(Result::ok);
        let slf = own.as_ref().unwrap_or(slf);
        // A `Task`, which has options. Looked up on the type: mocks have attributes of any name.
        let follow = names::_flask_delay_follow(slf.py());
        if let Some(follow) = r#fn.get_type().getattr_opt(follow)? {
            return follow.call1((r#fn, slf, on));
        }
        // A `functools.partial` of a `Task`.
        if let Some(task) = inner_of(&r#fn)
            && let Some(follow) = task.get_type().getattr_opt(follow)?
        {
            return follow.call1((task, slf, on, r#fn));
        }
        Ok(compose::follow(slf, None, None, r#fn, None, kind)?.into_any())
    }

    #[doc = doc!("Future._then_with")]
    #[pyo3(signature = (policy, scope, r#fn, *, executor = None, on = "success"))]
    fn _then_with<'py>(
        slf: &Bound<'py, Self>,
        policy: Option<Bound<'py, Policy>>,
        scope: Option<Bound<'py, PyAny>>,
        r#fn: Bound<'py, PyAny>,
        executor: Option<Bound<'py, ExecutorCell>>,
        on: &str,
    ) -> PyResult<Bound<'py, Self>> {
        let kind = compose::read_on(on)?;
        compose::follow(slf, policy.as_ref(), scope, r#fn, executor.as_ref(), kind)
    }

    #[doc = doc!("Future._is_durable")]
    fn _is_durable(slf: &Bound<'_, Self>) -> bool {
        compose::is_durable(slf)
    }

    fn __await__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        hooks(slf.py())?.wait.bind(slf.py()).call1((slf,))
    }

    #[doc = doc!("Future._add_waker")]
    fn _add_waker(slf: &Bound<'_, Self>, waker: Py<PyAny>) -> PyResult<bool> {
        if slf.get().is_foreign() {
            return Self::_add_waker(&durable::own(slf)?, waker);
        }
        Ok(slf.get().leave(|extra| extra.wakers.push(waker)))
    }

    #[doc = doc!("Future._drop_waker")]
    fn _drop_waker(&self, waker: &Bound<'_, PyAny>) {
        let Some(extra) = self.known_extra() else {
            return;
        };
        let mut extra = extra.lock();
        let place = extra.wakers.iter().position(|it| it.is(waker));
        let waker = place.map(|place| extra.wakers.swap_remove(place));
        drop(extra);
        drop(waker);
    }

    #[doc = doc!("Future._add_stop_waker")]
    fn _add_stop_waker(&self, waker: Py<PyAny>) {
        self.extra().lock().stop_wakers.push(waker);
    }

    #[doc = doc!("Future._drop_stop_waker")]
    fn _drop_stop_waker(&self, waker: &Bound<'_, PyAny>) {
        let mut extra = self.extra().lock();
        let place = extra.stop_wakers.iter().position(|it| it.is(waker));
        let waker = place.map(|place| extra.stop_wakers.swap_remove(place));
        drop(extra);
        drop(waker);
    }

    #[doc = doc!("Future._is_foreign")]
    fn _is_foreign(&self) -> bool {
        self.is_foreign()
    }

    #[doc = doc!("Future._release")]
    fn _release(slf: &Bound<'_, Self>, wanted: bool) -> PyResult<()> {
        submit::release(slf, wanted)
    }

    #[doc = doc!("Future._quiet_id")]
    fn _quiet_id(&self) -> String {
        self.quiet_id().to_string()
    }

    #[doc = doc!("Future._thread")]
    fn _thread(slf: &Bound<'_, Self>) -> Option<c_ulong> {
        timeout::thread_of(slf)
    }

    #[doc = doc!("Future._standing")]
    fn _standing<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        standing::of(slf)
    }

    #[doc = doc!("Future._links")]
    fn _links(&self) -> (links::Named, links::Named) {
        links::of(self)
    }

    #[doc = doc!("Future._begin")]
    fn _begin(slf: &Bound<'_, Self>) -> PyResult<()> {
        timeout::begin(slf)
    }

    #[doc = doc!("Future._died")]
    fn _died(slf: &Bound<'_, Self>) {
        note_death(slf.get());
    }

    #[doc = doc!("Future._call")]
    fn _call<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Shown<'py>>> {
        slf.get().shown_call(slf)
    }

    #[doc = doc!("Future._publish")]
    fn _publish(slf: &Bound<'_, Self>) {
        publish(slf, &slf.get().quiet_id());
    }

    #[doc = doc!("Future._keep_arguments")]
    fn _keep_arguments(&self, text: &str) {
        let kept = Text::new(text);
        let before = std::mem::replace(&mut self.extra().lock().arguments, kept);
        drop(before);
    }

    #[doc = doc!("Future._kept_arguments")]
    fn _kept_arguments(&self) -> Option<String> {
        let extra = self.known_extra()?.lock();
        extra.arguments.as_ref().map(|it| it.get())
    }

    fn set_running_or_notify_cancel(slf: &Bound<'_, Self>) -> PyResult<bool> {
        dispatch::run_or_notify(slf)
    }

    fn set_result(slf: &Bound<'_, Self>, result: Bound<'_, PyAny>) -> PyResult<()> {
        completion::finish(slf, Phase::Finished, result, Place::Elsewhere)
            .map_err(|phase| invalid(slf, phase))
    }

    fn set_exception(slf: &Bound<'_, Self>, exception: Bound<'_, PyAny>) -> PyResult<()> {
        // `None` is a success for concurrent.futures, with `None` as the result.
        let phase = if exception.is_none() {
            Phase::Finished
        } else {
            Phase::Failed
        };
        completion::finish(slf, phase, exception, Place::Elsewhere)
            .map_err(|phase| invalid(slf, phase))
    }

    #[doc = doc!("Future.id")]
    #[getter]
    fn id(slf: &Bound<'_, Self>) -> String {
        public_id(slf).to_string()
    }

    #[doc = doc!("Future.name")]
    #[getter]
    fn name(slf: &Bound<'_, Self>) -> String {
        name_of(slf)
    }

    #[doc = doc!("Future.state")]
    #[getter]
    fn state(slf: &Bound<'_, Self>) -> PyResult<&'static str> {
        let slf = &durable::current(slf)?;
        Ok(state_name(slf.get().phase()))
    }

    #[doc = doc!("Future.progress")]
    #[getter]
    fn progress<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let slf = &durable::current(slf)?;
        let extra = slf.get().known_extra();
        let last = extra.and_then(|it| it.lock().progress.clone());
        last.map(|progress| progress.into_tuple(slf.py()))
            .transpose()
    }

    #[doc = doc!("Future.attempts")]
    #[getter]
    fn attempts(slf: &Bound<'_, Self>) -> PyResult<u32> {
        let slf = &durable::current(slf)?;
        let attempts = policy::attempts(slf.get());
        Ok(attempts.unwrap_or_else(|| u32::from(slf.get().has_begun())))
    }

    #[doc = doc!("Future.enqueued_at")]
    #[getter]
    fn enqueued_at<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDateTime>>> {
        to_datetime(py, self.enqueued)
    }

    #[doc = doc!("Future.started_at")]
    #[getter]
    fn started_at<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDateTime>>> {
        to_datetime(py, self.started.load(Ordering::Relaxed))
    }

    #[doc = doc!("Future.finished_at")]
    #[getter]
    fn finished_at<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDateTime>>> {
        to_datetime(py, self.ended())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let cell = slf.get();
        let outcome = match cell.done_outcome(slf.py()) {
            Some(Ok(result)) => format!(" returned {}", result.get_type().name()?),
            Some(Err(exception)) => format!(" raised {}", exception.get_type().name()?),
            None => String::new(),
        };
        let name = match cell.core {
            Some(_) => format!(" name={:?}", name_of(slf)),
            None => String::new(),
        };
        Ok(format!(
            "<{} at {:#x} state={}{outcome}{name}>",
            slf.get_type().name()?,
            slf.as_ptr() as usize,
            state_name(cell.phase())
        ))
    }

    // What `concurrent.futures.wait`, `as_completed` and asyncio read of a future.

    #[getter]
    fn _state<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        standard_name(py, self.phase()).clone()
    }

    #[getter]
    fn _condition<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        if slf.get().is_foreign() {
            return Self::_condition(&durable::own(slf)?);
        }
        crate::bindings::wait::stdlib::condition_of(slf)
    }

    #[getter]
    fn _waiters<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyList>> {
        if slf.get().is_foreign() {
            return Self::_waiters(&durable::own(slf)?);
        }
        crate::bindings::wait::stdlib::listeners(slf)
    }

    #[getter]
    fn _result<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.done_outcome(py)?.ok()
    }

    #[getter]
    fn _exception<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.done_outcome(py)?.err()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for slot in [
            &self.scope,
            &self.call.function,
            &self.call.first,
            &self.call.second,
            &self.callback,
            &self.context,
            &self.outcome,
        ] {
            slot.visit(&visit)?;
        }
        // If another thread holds the lock, nothing is visited this time, so nothing is freed too
        // early.
        if let Some(extra) = self.known_extra().and_then(Mutex::try_lock) {
            let objects = extra.callbacks.iter().chain(&extra.wakers);
            let objects = objects.chain(&extra.stop_wakers);
            for object in objects.chain(&extra.canceller).chain(&extra.scope) {
                visit.call(object)?;
            }
            visit.call(&extra.recall)?;
            visit.call(&extra.report)?;
            if let Some(stream) = &extra.stream {
                stream.visit(&visit)?;
            }
            if let Some(rules) = &extra.rules {
                rules.visit(&visit)?;
            }
            for dependencies in &extra.dependents {
                visit.call(dependencies)?;
            }
            visit.call(&extra.condition)?;
            visit.call(&extra.traceback)?;
            visit.call(&extra.listeners)?;
        }
        Ok(())
    }

    fn __clear__(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let cell = slf.get();
        // This future is unreachable, so no thread takes from it meanwhile.
        drop((
            cell.scope.take(py),
            cell.call.function.take(py),
            cell.call.first.take(py),
            cell.call.second.take(py),
            cell.callback.take(py),
            cell.context.take(py),
            cell.outcome.take(py),
        ));
        if let Some(extra) = cell.known_extra() {
            let taken = std::mem::take(&mut *extra.lock());
            drop(taken);
        }
    }
}

fn state_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "pending",
        Phase::Running => "running",
        Phase::Cancelled | Phase::Notified => "cancelled",
        Phase::Finished | Phase::Failed => "finished",
    }
}

#[cold]
fn invalid(this: &Bound<'_, Task>, phase: Phase) -> PyErr {
    InvalidStateError::new_err(format!(
        "{}: {}",
        standard_name(this.py(), phase),
        this.repr()
            .map_or_else(|_| String::new(), |text| text.to_string())
    ))
}

/// `Future.add_done_callback`, which many tasks use.
struct AddDoneCallback;

impl CallMethod for AddDoneCallback {
    type Class = Task;

    const NAME: &CStr = c"add_done_callback";
    const DOC: &CStr = c_str!(concat!(
        "add_done_callback($self, fn)\n--\n\n",
        doc!("Future.add_done_callback")
    ));
    const BEFORE: usize = 0;
    const MISSING: &str = "add_done_callback() missing 1 required positional argument: 'fn'";
    const KEYWORD: Option<&str> = Some("fn");

    fn call<'py>(
        this: &Bound<'py, Task>,
        _before: &Before<'_, 'py>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if arguments.values().len() != 0 {
            return Err(PyTypeError::new_err(
                "add_done_callback() takes one argument",
            ));
        }
        check_callback(&arguments.function)?;
        if this.get().is_foreign() {
            completion::add(&durable::own(this)?, arguments.function.to_owned());
        } else {
            completion::add(this, arguments.function.to_owned());
        }
        Ok(this.py().None().into_bound(this.py()))
    }
}

/// Adds it to the class.
pub(crate) fn add_methods(py: Python<'_>) -> PyResult<()> {
    arguments::add::<AddDoneCallback>(py)
}
