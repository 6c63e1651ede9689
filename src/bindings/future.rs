//! The native half of `Future`: what it is made of and what Python may ask it.
//!
//! How it changes state is in [`super::settle`], how it is waited for in [`super::wait`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flask_delay_engine::Mutex;
use flask_delay_engine::State;
use once_cell::race::OnceBox;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyDateTime, PyList, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};
use smallvec::SmallVec;
use uuid::Uuid;

use super::bell::Bell;
use super::callbacks;
use super::calls;
use super::clock::{now, to_datetime};
use super::core::Core;
use super::coroutine::hooks;
use super::errors::{InvalidStateError, forked};
use super::ffi::call::{Shape, let_go};
use super::ffi::fork::generation;
use super::ffi::object::new_future;
use super::ffi::slot::Slot;
use super::naming::{label_of, name_of};
use super::policies::deadlines;
use super::policies::rules::{self, Rules};
use super::settle::{COROUTINE, OF_TEARDOWN, PACKED, Phase, Place, standard_name};

/// A function and its arguments, to be called once.
pub(crate) struct Call {
    held: Held,
    shape: Shape,
}

/// A call as it lies in the future. Its shape is seen from what is there, and from the
/// mark [`PACKED`].
pub(crate) struct Held {
    /// The function; once it has been taken, what the task's name is read from.
    pub(super) function: Slot,
    pub(super) first: Slot,
    pub(super) second: Slot,
}

impl Call {
    pub(crate) fn new(function: Slot, shape: Shape, first: Slot, second: Slot) -> Self {
        let held = Held {
            function,
            first,
            second,
        };
        Self { held, shape }
    }
}

/// A call on its way from the future to the worker.
pub(crate) struct TakenCall<'py> {
    pub(crate) function: Option<Bound<'py, PyAny>>,
    pub(crate) first: Option<Bound<'py, PyAny>>,
    pub(crate) second: Option<Bound<'py, PyAny>>,
    pub(crate) context: Option<Bound<'py, PyAny>>,
    pub(crate) shape: Shape,
}

/// Most futures that have callbacks have one.
pub(crate) type Callbacks = SmallVec<[Py<PyAny>; 1]>;

/// What few futures need; made when first used.
#[derive(Default)]
pub(crate) struct Extra {
    /// To be called after the one that lies in the future itself.
    pub(crate) callbacks: Callbacks,
    /// One for each thread that waits in `result`.
    pub(crate) waiters: Vec<Arc<Bell>>,
    /// Called as soon as the task is done, before the callbacks and without a scope: what
    /// awaits the future.
    pub(crate) wakers: Vec<Py<PyAny>>,
    /// Stops a task that runs as a coroutine.
    pub(crate) canceller: Option<Py<PyAny>>,
    /// `concurrent.futures.wait` and its like lock this and put themselves into the list.
    pub(crate) condition: Option<Py<PyAny>>,
    pub(crate) listeners: Option<Py<PyList>>,
    pub(crate) id: Option<Uuid>,
    /// The executor has been told the id.
    pub(crate) known: bool,
    pub(crate) progress: Option<Py<PyTuple>>,
    /// What surrounds the task, where that is not what surrounds its callbacks.
    pub(crate) scope: Option<Py<PyAny>>,
    /// What is asked of this task beyond a plain one.
    pub(crate) rules: Option<Box<Rules>>,
}

/// One task and its outcome. See `_native.pyi` for what its methods promise.
///
/// Many may be queued, so it is small (at most 128 bytes, checked below): function,
/// up to two arguments and one callback lie inside, and what is rarely needed is made on
/// demand.
#[pyclass(frozen, subclass, name = "_FutureBase", module = "flask_delay._native")]
pub(crate) struct FutureCell {
    /// The phase, and marks; see [`super::settle`].
    pub(super) state: State,
    /// The process that runs the task; see [`super::ffi::fork`].
    generation: u32,
    /// None for a future that was not made by an executor.
    core: Option<Arc<Core>>,
    /// Makes what surrounds the task and its callbacks, under `Delay`.
    scope: Slot,
    pub(super) call: Held,
    /// The first callback, unless `extra` was there before it. Filled and taken, never read.
    callback: Slot,
    /// The submitter's context variables, if there were any.
    context: Slot,
    /// The result or the exception; never emptied once it is set.
    pub(super) outcome: Slot,
    extra: OnceBox<Mutex<Extra>>,
    // Nanoseconds since 1970, 0 for not yet.
    enqueued: u64,
    started: AtomicU64,
    pub(super) finished: AtomicU64,
}

const _: () = assert!(size_of::<FutureCell>() <= 128);

impl FutureCell {
    /// A future for a task that is about to be queued.
    pub(crate) fn for_task(
        core: Arc<Core>,
        scope: Slot,
        call: Call,
        context: Slot,
        now: u64,
    ) -> Self {
        let state = State::new();
        if call.shape == Shape::Packed {
            state.mark(PACKED);
        }
        Self {
            state,
            generation: generation(),
            core: Some(core),
            scope,
            call: call.held,
            callback: Slot::default(),
            context,
            outcome: Slot::default(),
            extra: OnceBox::new(),
            enqueued: now,
            started: AtomicU64::new(0),
            finished: AtomicU64::new(0),
        }
    }

    /// For a future that nobody else has yet.
    pub(crate) fn mark_coroutine(&self) {
        self.state.mark(COROUTINE);
    }

    /// For a future that nobody else has yet.
    pub(crate) fn mark_of_teardown(&self) {
        self.state.mark(OF_TEARDOWN);
    }

    pub(crate) fn core(&self) -> Option<&Arc<Core>> {
        self.core.as_ref()
    }

    pub(crate) fn set_started(&self, now: u64) {
        self.started.store(now, Ordering::Relaxed);
    }

    /// Nanoseconds since 1970, 0 for not yet.
    pub(crate) fn ended(&self) -> u64 {
        self.finished.load(Ordering::Relaxed)
    }

    /// What surrounds the callbacks.
    pub(crate) fn scope<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        // Never emptied while the future lives.
        self.scope.get(py)
    }

    /// What surrounds the task.
    pub(crate) fn task_scope<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        if !self.has_own_scope() {
            return self.scope(py);
        }
        let extra = self.known_extra()?.lock();
        extra.scope.as_ref().map(|scope| scope.bind(py).clone())
    }

    /// Gives a future that nobody else has yet surroundings for its task alone.
    pub(crate) fn put_own_scope(&self, scope: Bound<'_, PyAny>) {
        self.extra().lock().scope = Some(scope.unbind());
        self.mark_own_scope();
    }

    /// Takes what surrounds the task alone, which will not run any more.
    pub(crate) fn take_own_scope(&self) -> Option<Py<PyAny>> {
        if !self.has_own_scope() {
            return None;
        }
        self.known_extra()?.lock().scope.take()
    }

    /// Whether this process was forked after the submit.
    pub(crate) fn is_of_another_process(&self) -> bool {
        self.core.is_some() && self.generation != generation()
    }

    /// Whether only another process can settle this future.
    pub(crate) fn is_foreign(&self) -> bool {
        self.is_of_another_process() && !self.phase().is_done()
    }

    pub(crate) fn refuse_foreign(&self, this: &Bound<'_, Self>) -> PyResult<()> {
        if self.is_foreign() {
            return Err(forked(&name_of(this)));
        }
        Ok(())
    }

    /// The rarely needed part, made now if need be. Work for the end of the task is put
    /// there by [`FutureCell::leave`] or [`State::watch_with`], so that the end looks there.
    pub(crate) fn extra(&self) -> &Mutex<Extra> {
        self.extra.get_or_init(Box::default)
    }

    pub(crate) fn known_extra(&self) -> Option<&Mutex<Extra>> {
        self.extra.get()
    }

    /// Keeps the context that the callbacks of a coroutine are to run in.
    pub(crate) fn put_context(&self, context: Bound<'_, PyAny>) {
        drop(self.context.put(context));
    }

    /// Leaves the context where it was for another attempt, and for what runs after a call
    /// that nobody waits for any more.
    pub(crate) fn keep_context(&self, context: Option<&Bound<'_, PyAny>>) {
        if let Some(context) = context {
            self.put_context(context.clone());
        }
    }

    /// Lets go of what was kept for another attempt.
    pub(crate) fn let_go(&self) {
        drop(self.take_own_scope());
        if self.is_ruled() {
            Python::attach(|py| drop(self.take_context(py)));
        }
    }

    pub(crate) fn has_context(&self) -> bool {
        !self.context.is_empty()
    }

    pub(crate) fn take_context<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.context.take(py)
    }

    /// Takes function, arguments and context out for the one thread that may have them:
    /// the one that moved the future out of `Pending`. Leaves behind what the name is
    /// read from.
    pub(crate) fn take_call<'py>(&self, this: &Bound<'py, Self>) -> TakenCall<'py> {
        let py = this.py();
        let call = &self.call;
        // Others may look at them meanwhile, see `super::calls`.
        let taken = with_critical_section(this.as_any(), || {
            let (first, second) = (call.first.take(py), call.second.take(py));
            let shape = if self.is_packed() {
                Shape::Packed
            } else {
                Shape::Inline(u8::from(first.is_some()) + u8::from(second.is_some()))
            };
            TakenCall {
                function: call.function.get(py),
                first,
                second,
                context: self.context.take(py),
                shape,
            }
        });
        if let Some(function) = &taken.function {
            let label = label_of(function);
            // Dropped after the section: that may run Python code.
            let function = with_critical_section(this.as_any(), || call.function.put(label));
            drop(function);
        }
        taken
    }

    /// Puts back what [`FutureCell::take_call`] has taken, for another attempt. By the one
    /// thread that has it.
    pub(crate) fn put_call<'py>(&self, this: &Bound<'py, Self>, mut taken: TakenCall<'py>) {
        let call = &self.call;
        let label = with_critical_section(this.as_any(), || {
            let label = taken
                .function
                .take()
                .and_then(|function| call.function.put(function));
            for (slot, object) in [
                (&call.first, &mut taken.first),
                (&call.second, &mut taken.second),
            ] {
                if let Some(object) = object.take() {
                    // Empty since it was taken.
                    drop(slot.put(object));
                }
            }
            label
        });
        drop(label);
    }

    /// A task of the library's own, to run `function()` on a worker: without a context,
    /// without surroundings.
    pub(crate) fn errand<'py>(
        core: &Arc<Core>,
        function: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = function.py();
        let none = Slot::default;
        let call = Call::new(Slot::new(function), Shape::Inline(0), none(), none());
        let cell = Self::for_task(Arc::clone(core), none(), call, none(), now());
        new_future(py, cell)
    }

    /// When it was made, in nanoseconds since 1970.
    pub(crate) fn born(&self) -> i64 {
        self.enqueued.cast_signed()
    }

    /// The task's id, for the log.
    pub(crate) fn quiet_id(&self) -> Uuid {
        *self.extra().lock().id.get_or_insert_with(Uuid::new_v4)
    }

    /// The task's id; its executor will find the future by it from now on.
    pub(crate) fn public_id(&self, this: &Bound<'_, Self>) -> Uuid {
        let id = self.quiet_id();
        let Some(core) = &self.core else {
            return id;
        };
        // Under one lock, so that whoever has the id is found by it. If the task ends in
        // between, one of the two sees that it is done.
        let first = self.state.watch_with(self.extra(), |extra| {
            let first = !std::mem::replace(&mut extra.known, true);
            if first {
                core.registry.add(id, this);
            }
            first
        });
        if first && self.phase().is_done() {
            core.registry.finished(this.py(), id);
        }
        id
    }

    /// Keeps `callback` for the end of the task; gives it back if that has come.
    pub(crate) fn keep<'py>(&self, callback: Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
        let py = callback.py();
        let mut callback = callback;
        // Later ones go where the others are, and are called after this one.
        if self.known_extra().is_none() {
            match self.callback.fill(callback) {
                Ok(()) if self.state.look_after_putting().is_done() => {
                    // Unless the end has found it.
                    return self.callback.take(py);
                }
                Ok(()) => return None,
                Err(refused) => callback = refused,
            }
        }
        let mut callback = Some(callback.unbind());
        self.leave(|extra| extra.callbacks.extend(callback.take()));
        callback.map(|callback| callback.into_bound(py))
    }

    /// Whether a callback was kept that nobody has taken.
    pub(crate) fn has_callbacks(&self) -> bool {
        let more = || Some(!self.known_extra()?.lock().callbacks.is_empty());
        self.has_lone_callback() || more().unwrap_or(false)
    }

    /// Whether the first callback is there, in the future itself.
    pub(crate) fn has_lone_callback(&self) -> bool {
        !self.callback.is_empty()
    }

    /// Takes out the callbacks, in order; for who has `extra`, if there is one.
    pub(crate) fn take_callbacks(&self, py: Python<'_>, extra: Option<&mut Extra>) -> Callbacks {
        let mut callbacks = Callbacks::new();
        callbacks.extend(self.callback.take(py).map(Bound::unbind));
        if let Some(extra) = extra {
            callbacks.append(&mut extra.callbacks);
        }
        callbacks
    }

    /// Puts something where the end of the task will look; `false`, without having put it
    /// there, if the task is done.
    pub(crate) fn leave(&self, put: impl FnOnce(&mut Extra)) -> bool {
        self.state.leave(self.extra(), put)
    }
}

impl Drop for TakenCall<'_> {
    fn drop(&mut self) {
        for object in [&mut self.function, &mut self.first, &mut self.second] {
            if let Some(object) = object.take() {
                let_go(object);
            }
        }
    }
}

#[pymethods]
impl FutureCell {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, pyo3::types::PyDict>>) -> Self {
        Self {
            state: State::new(),
            generation: generation(),
            core: None,
            scope: Slot::default(),
            call: Held {
                function: Slot::default(),
                first: Slot::default(),
                second: Slot::default(),
            },
            callback: Slot::default(),
            context: Slot::default(),
            outcome: Slot::default(),
            extra: OnceBox::new(),
            enqueued: 0,
            started: AtomicU64::new(0),
            finished: AtomicU64::new(0),
        }
    }

    /// Does nothing: `concurrent.futures.Future` would make its condition here.
    #[expect(clippy::unused_self, reason = "Python calls it with self")]
    fn __init__(&self) {}

    fn cancel(slf: &Bound<'_, Self>) -> PyResult<bool> {
        slf.get().refuse_foreign(slf)?;
        Ok(super::settle::cancel(slf))
    }

    #[pyo3(signature = (after = Some(1.0)), text_signature = "($self, after=1.0)")]
    fn stop(
        slf: &Bound<'_, Self>,
        #[pyo3(from_py_with = super::wait::after)] after: Option<f64>,
    ) -> PyResult<bool> {
        slf.get().refuse_foreign(slf)?;
        let after = after.map(|after| Duration::try_from_secs_f64(after).unwrap_or(Duration::MAX));
        deadlines::stop(slf, after)
    }

    fn cancelled(&self) -> bool {
        self.phase().is_cancelled()
    }

    fn running(&self) -> bool {
        self.phase() == Phase::Running
    }

    fn done(&self) -> bool {
        self.phase().is_done()
    }

    #[pyo3(signature = (timeout = None))]
    fn result<'py>(
        slf: &Bound<'py, Self>,
        timeout: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        super::wait::until_done(slf, timeout.as_ref())?;
        match slf.get().outcome(slf.py())? {
            Ok(result) => Ok(result),
            Err(exception) => Err(PyErr::from_value(exception)),
        }
    }

    #[pyo3(signature = (timeout = None))]
    fn exception<'py>(
        slf: &Bound<'py, Self>,
        timeout: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        super::wait::until_done(slf, timeout.as_ref())?;
        Ok(slf.get().outcome(slf.py())?.err())
    }

    fn add_done_callback(slf: &Bound<'_, Self>, r#fn: Bound<'_, PyAny>) -> PyResult<()> {
        slf.get().refuse_foreign(slf)?;
        if !r#fn.is_callable() {
            return Err(PyTypeError::new_err(format!(
                "a done callback must be callable, got {}",
                r#fn.get_type().name()?
            )));
        }
        callbacks::add(slf, r#fn);
        Ok(())
    }

    fn __await__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        hooks(slf.py())?.wait.bind(slf.py()).call1((slf,))
    }

    /// Has `waker(future)` called once the task is done; `False` if it is done already.
    fn _add_waker(slf: &Bound<'_, Self>, waker: Py<PyAny>) -> PyResult<bool> {
        slf.get().refuse_foreign(slf)?;
        Ok(slf.get().leave(|extra| extra.wakers.push(waker)))
    }

    /// Has `waker` not called after all, if it has not been yet.
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

    /// What the task is going to call, until it starts.
    fn _call<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<calls::Call<'py>>> {
        calls::call_of(slf)
    }

    fn set_running_or_notify_cancel(slf: &Bound<'_, Self>) -> PyResult<bool> {
        super::settle::run_or_notify(slf)
    }

    fn set_result(slf: &Bound<'_, Self>, result: Bound<'_, PyAny>) -> PyResult<()> {
        super::settle::finish(slf, Phase::Finished, result, Place::Elsewhere)
            .map_err(|phase| invalid(slf, phase))
    }

    fn set_exception(slf: &Bound<'_, Self>, exception: Bound<'_, PyAny>) -> PyResult<()> {
        // `None` is a success for concurrent.futures, which then has None as its result.
        let phase = if exception.is_none() {
            Phase::Finished
        } else {
            Phase::Failed
        };
        super::settle::finish(slf, phase, exception, Place::Elsewhere)
            .map_err(|phase| invalid(slf, phase))
    }

    #[getter]
    fn id(slf: &Bound<'_, Self>) -> String {
        slf.get().public_id(slf).hyphenated().to_string()
    }

    #[getter]
    fn name(slf: &Bound<'_, Self>) -> String {
        name_of(slf)
    }

    #[getter(state)]
    fn state_name(&self) -> &'static str {
        match self.phase() {
            Phase::Pending => "pending",
            Phase::Running => "running",
            Phase::Cancelled | Phase::Notified => "cancelled",
            Phase::Finished | Phase::Failed => "finished",
        }
    }

    #[getter]
    fn progress(&self, py: Python<'_>) -> Option<Py<PyTuple>> {
        let extra = self.known_extra()?.lock();
        extra
            .progress
            .as_ref()
            .map(|progress| progress.clone_ref(py))
    }

    #[getter]
    fn attempts(&self) -> u32 {
        if let Some(attempts) = rules::attempts(self) {
            return attempts;
        }
        u32::from(self.started.load(Ordering::Relaxed) != 0)
    }

    #[getter]
    fn enqueued_at<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDateTime>>> {
        to_datetime(py, self.enqueued)
    }

    #[getter]
    fn started_at<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDateTime>>> {
        to_datetime(py, self.started.load(Ordering::Relaxed))
    }

    #[getter]
    fn finished_at<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDateTime>>> {
        to_datetime(py, self.finished.load(Ordering::Relaxed))
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
            cell.state_name()
        ))
    }

    // What `concurrent.futures.wait`, `as_completed` and asyncio read of a future.

    #[getter]
    fn _state<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        standard_name(py, self.phase()).clone()
    }

    #[getter]
    fn _condition<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.get().refuse_foreign(slf)?;
        super::settle::condition(slf)
    }

    #[getter]
    fn _waiters<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyList>> {
        slf.get().refuse_foreign(slf)?;
        super::settle::listeners(slf)
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
        // Held by another thread: not traversed this time, so nothing is freed too early.
        if let Some(extra) = self.known_extra().and_then(Mutex::try_lock) {
            let objects = extra.callbacks.iter().chain(&extra.wakers);
            for object in objects.chain(&extra.canceller).chain(&extra.scope) {
                visit.call(object)?;
            }
            if let Some(rules) = &extra.rules {
                rules.visit(&visit)?;
            }
            visit.call(&extra.listeners)?;
            visit.call(&extra.progress)?;
        }
        Ok(())
    }

    fn __clear__(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let cell = slf.get();
        // Nobody can reach this future any more, so nobody takes from it meanwhile.
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

#[cold]
fn invalid(this: &Bound<'_, FutureCell>, phase: Phase) -> PyErr {
    InvalidStateError::new_err(format!(
        "{}: {}",
        standard_name(this.py(), phase),
        this.repr()
            .map_or_else(|_| String::new(), |text| text.to_string())
    ))
}
