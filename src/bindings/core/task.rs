//! The native future, and its data.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use flask_delay_engine::{Mutex, Phase, TaskState};
use once_cell::race::OnceBox;
use pyo3::exceptions::PySystemError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyDict, PyList, PyTuple, PyType};
use smallvec::SmallVec;

use super::call::{Call, Held, TakenCall};
use super::executor::Core;
use super::function_name::{label_of, read_name};
use super::id::Id;
use super::links::Links;
use super::policy::Rules;
use super::progress::Progress;
use super::recorder::Text;
use super::stream::Stream;
use super::traces;
use super::waiter::Waiter;
use crate::bindings::errors::forked;
use crate::bindings::ffi::call::Shape;
use crate::bindings::ffi::clock::now;
use crate::bindings::ffi::fork::generation;
use crate::bindings::ffi::object::Allocator;
use crate::bindings::ffi::slot::Slot;

/// Function, arguments, keyword arguments, and the task's own scope.
pub(crate) type Shown<'py> = (
    Bound<'py, PyAny>,
    Bound<'py, PyTuple>,
    Bound<'py, PyDict>,
    Option<Bound<'py, PyAny>>,
);

/// Most futures that have callbacks have one.
pub(crate) type Callbacks = SmallVec<[Py<PyAny>; 1]>;

/// Data that few futures need; made at first use.
#[derive(Default)]
pub(crate) struct Extra {
    /// Called after the callback in the future itself.
    pub(crate) callbacks: Callbacks,
    /// One for each thread that waits in `result`.
    pub(crate) waiters: Vec<Arc<Waiter>>,
    /// Called as soon as the task is done, before the callbacks and without an app context, to
    /// wake code that awaits the future.
    pub(crate) wakers: Vec<Py<PyAny>>,
    /// Called when the task is told to stop, with the time until it is interrupted.
    pub(crate) stop_wakers: Vec<Py<PyAny>>,
    /// Tasks that wait for this one, see [`crate::bindings::sched::dependents`].
    pub(crate) dependents: Vec<Py<Task>>,
    /// Stops a task that runs as a coroutine.
    pub(crate) canceller: Option<Py<PyAny>>,
    /// Called when a task in another process is cancelled, with whether to end it there.
    pub(crate) recall: Option<Py<PyAny>>,
    /// Called with the progress of a task that was sent here.
    pub(crate) report: Option<Py<PyAny>>,
    /// `concurrent.futures.wait` and similar functions lock this and add themselves to the list.
    pub(crate) condition: Option<Py<PyAny>>,
    pub(crate) listeners: Option<Py<PyList>>,
    pub(crate) id: Option<Id>,
    /// The traceback of the task's exception, before it was raised again.
    pub(crate) traceback: Option<Py<PyAny>>,
    /// Whether the registry has the id.
    pub(crate) known: bool,
    pub(crate) progress: Option<Progress>,
    /// The arguments as text, for a page that shows them.
    pub(crate) arguments: Option<Box<Text>>,
    /// The task's own app context, if it is not that of its callbacks.
    pub(crate) scope: Option<Py<PyAny>>,
    /// The rules of a task with options.
    pub(crate) rules: Option<Box<Rules>>,
    /// The tasks before and after it, for a page.
    pub(crate) links: Option<Box<Links>>,
    /// What a generator has yielded, and who reads it.
    pub(crate) stream: Option<Box<Stream>>,
}

// Many may be queued, so a future is small (at most 128 bytes, checked below). The function, up to
// two arguments and one callback are inside; rarely needed data is made on demand.
#[doc = doc!("Future")]
#[pyclass(frozen, subclass, name = "Future", module = "flask_delay._native")]
pub(crate) struct Task {
    /// The phase and the flags; see [`super::transition`].
    pub(crate) state: TaskState,
    /// The process that runs the task; see [`crate::bindings::ffi::fork`].
    pub(crate) generation: u32,
    /// None for a future that was not made by an executor.
    pub(crate) core: Option<Arc<Core>>,
    /// Under `Delay`, the maker of the app context of the task and its callbacks, or the owner of
    /// such a method; see [`crate::bindings::core::executor::Scope`].
    pub(crate) scope: Slot,
    pub(crate) call: Held,
    /// The first callback, unless `extra` existed before it. Filled and taken, never read.
    pub(crate) callback: Slot,
    /// The submitter's context variables, if there were any.
    pub(crate) context: Slot,
    /// The result or the exception; never emptied once it is set.
    pub(crate) outcome: Slot,
    pub(crate) extra: OnceBox<Mutex<Extra>>,
    // Nanoseconds since 1970, 0 for not yet.
    pub(crate) enqueued: u64,
    pub(crate) started: AtomicU64,
    pub(crate) finished: AtomicU64,
}

const _: () = assert!(size_of::<Task>() <= 128);

impl Task {
    /// A future for a task that is about to be queued.
    pub(crate) fn for_task(
        core: Arc<Core>,
        scope: Slot,
        call: Call,
        context: Slot,
        now: u64,
    ) -> Self {
        Self {
            state: Self::new_state(call.shape == Shape::Packed),
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

    /// A future that no executor has made.
    pub(crate) fn by_hand() -> Self {
        Self {
            state: TaskState::new(),
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

    pub(crate) fn core(&self) -> Option<&Arc<Core>> {
        self.core.as_ref()
    }

    pub(crate) fn set_started(&self, now: u64) {
        self.started.store(now, Ordering::Relaxed);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.started.load(Ordering::Relaxed) != 0
    }

    /// When the last attempt was started, in nanoseconds since 1970, 0 for not yet.
    pub(crate) fn last_start(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// Nanoseconds since 1970, 0 for not yet.
    pub(crate) fn ended(&self) -> u64 {
        // The thread that ends a task notes the time afterwards, since its change may be refused.
        // Without a GIL, a reader in between notes it first.
        if self.phase().is_done() {
            self.note_end();
        }
        self.finished.load(Ordering::Relaxed)
    }

    /// Notes that the task has ended by now; the first call wins.
    pub(crate) fn note_end(&self) {
        // Relaxed: the number says nothing about other data.
        if self.finished.load(Ordering::Relaxed) == 0 {
            let (relaxed, now) = (Ordering::Relaxed, now());
            let _ = self.finished.compare_exchange(0, now, relaxed, relaxed);
        }
    }

    /// The maker of the callbacks' app context.
    pub(crate) fn scope<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        // Never emptied while the future lives.
        let scope = self.scope.get(py);
        let method = self.core().and_then(|core| core.scope_method.as_ref());
        match (scope, method) {
            (Some(owner), Some(method)) => owner.getattr(method.bind(py)).map(Some),
            (scope, _) => Ok(scope),
        }
    }

    pub(crate) fn has_scope(&self) -> bool {
        !self.scope.is_empty()
    }

    /// The maker of the task's app context.
    pub(crate) fn task_scope<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if !self.has_own_scope() {
            return self.scope(py);
        }
        let own = |extra: &Mutex<Extra>| Some(extra.lock().scope.as_ref()?.bind(py).clone());
        Ok(self.known_extra().and_then(own))
    }

    /// Gives a future that is not shared yet an app context for its task alone.
    pub(crate) fn put_own_scope(&self, scope: Bound<'_, PyAny>) {
        self.extra().lock().scope = Some(scope.unbind());
        self.mark_own_scope();
    }

    /// Takes the app context of the task alone, which will not run any more.
    pub(crate) fn take_own_scope(&self) -> Option<Py<PyAny>> {
        if !self.has_own_scope() {
            return None;
        }
        self.known_extra()?.lock().scope.take()
    }

    /// Whether this process was forked after the submission.
    pub(crate) fn is_of_another_process(&self) -> bool {
        self.core.is_some() && self.generation != generation()
    }

    /// Whether only another process can settle this future.
    pub(crate) fn is_foreign(&self) -> bool {
        !self.phase().is_done() && self.is_of_another_process()
    }

    pub(crate) fn refuse_foreign(&self, this: &Bound<'_, Self>) -> PyResult<()> {
        if self.is_foreign() {
            return Err(forked(&name_of(this)));
        }
        Ok(())
    }

    /// The rarely needed data, made on demand. [`Task::leave`] or [`TaskState::watch_with`] put
    /// work for the end of the task there, so that the end finds it.
    pub(crate) fn extra(&self) -> &Mutex<Extra> {
        self.extra.get_or_init(Box::default)
    }

    pub(crate) fn known_extra(&self) -> Option<&Mutex<Extra>> {
        self.extra.get()
    }

    /// Keeps the context for the callbacks of a coroutine.
    pub(crate) fn put_context(&self, context: Bound<'_, PyAny>) {
        drop(self.context.put(context));
    }

    /// Keeps the context for another attempt, and for callbacks of a task with an abandoned call.
    pub(crate) fn keep_context(&self, context: Option<&Bound<'_, PyAny>>) {
        if let Some(context) = context {
            self.put_context(context.clone());
        }
    }

    /// Drops the data kept for another attempt.
    #[inline]
    pub(crate) fn let_go(&self) {
        if self.keeps_more() {
            self.let_go_of_more();
        }
    }

    #[cold]
    fn let_go_of_more(&self) {
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

    /// The call of a task that has not started.
    pub(crate) fn shown_call<'py>(&self, this: &Bound<'py, Self>) -> PyResult<Option<Shown<'py>>> {
        let py = this.py();
        let call = &self.call;
        // The thread that starts the task takes them in this section, after it has changed the phase.
        let (function, first, second) = with_critical_section(this.as_any(), || {
            if self.phase() == Phase::Pending {
                (
                    call.function.get(py),
                    call.first.get(py),
                    call.second.get(py),
                )
            } else {
                (None, None, None)
            }
        });
        let Some(function) = function else {
            return Ok(None);
        };
        let scope = self
            .known_extra()
            .and_then(|extra| Some(extra.lock().scope.as_ref()?.bind(py).clone()));
        let keywords = PyDict::new(py);
        let positional = match (self.is_packed(), first) {
            (true, Some(values)) => {
                let values = values.cast_into::<PyTuple>()?;
                let names = second.map(Bound::cast_into::<PyTuple>).transpose()?;
                let count = values.len() - names.as_ref().map_or(0, PyTupleMethods::len);
                for (name, value) in names.iter().flatten().zip(values.iter().skip(count)) {
                    keywords.set_item(name, value)?;
                }
                values.get_slice(0, count)
            }
            (_, first) => PyTuple::new(py, first.into_iter().chain(second).collect::<Vec<_>>())?,
        };
        Ok(Some((function, positional, keywords, scope)))
    }

    /// Takes function, arguments and context; only for the thread that moved the future out of
    /// `Pending`. Leaves a label from which the name is read.
    pub(crate) fn take_call<'py>(&self, this: &Bound<'py, Self>) -> TakenCall<'py> {
        let py = this.py();
        let call = &self.call;
        // Other threads may read them meanwhile, see `super::call`.
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

    /// Puts back the result of [`Task::take_call`], for another attempt; called by the thread that
    /// has it.
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
        if let Some(context) = taken.context.take() {
            self.put_context(context);
        }
    }

    /// Replaces the only argument of a task that has not started.
    pub(crate) fn put_argument<'py>(&self, this: &Bound<'py, Self>, argument: Bound<'py, PyAny>) {
        // A start or cancellation takes it in this section, after the phase has changed.
        let left = with_critical_section(this.as_any(), || match self.phase() {
            Phase::Pending => self.call.first.put(argument),
            _ => Some(argument),
        });
        drop(left);
    }

    /// Takes the tasks that wait for this one.
    pub(crate) fn take_dependents(&self) -> Vec<Py<Self>> {
        let taken = |extra: &Mutex<Extra>| std::mem::take(&mut extra.lock().dependents);
        self.known_extra().map(taken).unwrap_or_default()
    }

    /// When it was made, in nanoseconds since 1970.
    pub(crate) fn born(&self) -> i64 {
        self.enqueued.cast_signed()
    }

    /// The task's id, for the log.
    pub(crate) fn quiet_id(&self) -> Id {
        let mut extra = self.extra().lock();
        extra.id.get_or_insert_with(Id::random).clone()
    }

    /// Has the executor find the future by its id from now on. Returns the id, and whether the
    /// executor does so for the first time.
    pub(crate) fn register(&self, this: &Bound<'_, Self>) -> (Id, bool) {
        let id = self.quiet_id();
        let Some(core) = &self.core else {
            return (id, false);
        };
        // Under one lock, so that a future is found by its id as soon as that is known. If the
        // task ends in between, one of the two sees that it is done.
        let first = self.state.watch_with(self.extra(), |extra| {
            let first = !extra.known && core.registry.add(id.clone(), this);
            // False if a task that was sent here comes a second time.
            extra.known |= first;
            first
        });
        if first && self.phase().is_done() {
            core.registry.finished(this.py(), &id);
        }
        (id, first)
    }

    /// The task's exception, to be raised again, with its first traceback: each reader of the
    /// result would add its frames to it, and keep them.
    pub(crate) fn raised(&self, exception: Bound<'_, PyAny>) -> PyErr {
        let py = exception.py();
        let name = intern!(py, "__traceback__");
        let first = self
            .extra()
            .lock()
            .traceback
            .as_ref()
            .map(|it| it.clone_ref(py));
        let restored = match first {
            Some(traceback) => exception.setattr(name, traceback),
            None => exception.getattr(name).map(|traceback| {
                let mut extra = self.extra().lock();
                extra
                    .traceback
                    .get_or_insert_with(|| traceback.clone().unbind());
                drop(extra);
                drop(traceback);
            }),
        };
        if let Err(error) = restored {
            // Set by hand, to an object that is no exception.
            drop(error);
        }
        PyErr::from_value(exception)
    }

    /// Clears the frames of the task's exception.
    pub(crate) fn let_go_of_frames(&self, py: Python<'_>) -> PyResult<()> {
        let Some(Err(exception)) = self.done_outcome(py) else {
            return Ok(());
        };
        // Frames that raised it again are not the task's, and may still run.
        let first = self.known_extra().and_then(|extra| {
            let extra = extra.lock();
            extra.traceback.as_ref().map(|it| it.clone_ref(py))
        });
        if let Some(traceback) = first {
            exception.setattr(intern!(py, "__traceback__"), traceback)?;
        }
        traces::let_go_of_frames(&exception)
    }

    /// Gives a task that is not shared yet its chosen id and registers it; `false` if another task
    /// has that id.
    pub(crate) fn take_id(&self, this: &Bound<'_, Self>, id: &Id) -> bool {
        let Some(core) = &self.core else {
            return true;
        };
        // As in `register`.
        self.state.watch_with(self.extra(), |extra| {
            let taken = core.registry.add(id.clone(), this);
            if taken {
                extra.id = Some(id.clone());
                extra.known = true;
            }
            taken
        })
    }

    /// Unregisters a task that was not accepted.
    pub(crate) fn forget_id(&self, this: &Bound<'_, Self>) {
        let known = |extra: &Mutex<Extra>| {
            let extra = extra.lock();
            extra.id.clone().filter(|_| extra.known)
        };
        if let (Some(id), Some(core)) = (self.known_extra().and_then(known), &self.core) {
            core.registry.remove(&id, this);
        }
    }

    /// Keeps `callback` for the end of the task; returns it if the task is done.
    pub(crate) fn keep<'py>(&self, callback: Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
        let py = callback.py();
        let mut callback = callback;
        // Later ones go to `extra`, and are called after this one.
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

    /// Keeps callbacks of a durable task before all others; it has `extra` from the start, where
    /// all its callbacks are.
    pub(crate) fn keep_first(&self, callbacks: Callbacks) {
        let mut callbacks = Some(callbacks);
        self.leave(|extra| {
            extra
                .callbacks
                .insert_many(0, callbacks.take().into_iter().flatten());
        });
    }

    /// Whether a callback is left that was not taken.
    pub(crate) fn has_callbacks(&self) -> bool {
        let more = || Some(!self.known_extra()?.lock().callbacks.is_empty());
        self.has_lone_callback() || more().unwrap_or(false)
    }

    /// Whether the first callback is there, in the future itself.
    pub(crate) fn has_lone_callback(&self) -> bool {
        !self.callback.is_empty()
    }

    /// Takes out the callbacks, in order; the caller has `extra`, if it exists.
    pub(crate) fn take_callbacks(&self, py: Python<'_>, extra: Option<&mut Extra>) -> Callbacks {
        let mut callbacks = Callbacks::new();
        callbacks.extend(self.callback.take(py).map(Bound::unbind));
        if let Some(extra) = extra {
            callbacks.append(&mut extra.callbacks);
        }
        callbacks
    }

    /// Adds work for the end of the task; `false`, without adding it, if the task is done.
    pub(crate) fn leave(&self, put: impl FnOnce(&mut Extra)) -> bool {
        self.state.leave(self.extra(), put)
    }
}

/// The name of the task, also after its function was dropped.
pub(crate) fn name_of(this: &Bound<'_, Task>) -> String {
    let call = &this.get().call;
    let label = with_critical_section(this.as_any(), || call.function.get(this.py()));
    label.map_or_else(String::new, |label| read_name(&label))
}

#[doc = doc!("_CoroutineTask")]
#[pyclass(frozen, name = "_CoroutineTask", module = "flask_delay._native")]
pub(crate) struct CoroutineTask(pub(crate) Py<Task>);

// Not PyOnceLock, which releases the GIL when it is set; this one is only read.
static FUTURES: OnceLock<Allocator<Task>> = OnceLock::new();

/// Sets the class of futures: `Future`, a Python class over the native one and
/// `concurrent.futures.Future`. Called once, when the module is loaded.
pub(crate) fn set_class(future: &Bound<'_, PyType>) -> PyResult<()> {
    FUTURES
        .set(Allocator::new(future)?)
        .map_err(|_| PySystemError::new_err("the future class is set already"))
}

/// A new future around `cell`, untracked by the garbage collector while it is queued. The one
/// thread that completes its task tracks it.
pub(crate) fn new_future(py: Python<'_>, cell: Task) -> PyResult<Bound<'_, Task>> {
    FUTURES
        .get()
        .ok_or_else(|| PySystemError::new_err("the future class is not set"))?
        .make(py, cell)
}
