//! The way of a task from the arguments of `submit` to the queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFunction, PyList, PyTuple, PyType};

use super::inline;
use crate::bindings::core::async_check::{Form, check_function};
use crate::bindings::core::call::Call;
use crate::bindings::core::durable;
use crate::bindings::core::executor::{Core, ExecutorCell, Inner, Scoped};
use crate::bindings::core::function_name::inner_of;
use crate::bindings::core::options::Policy;
use crate::bindings::core::policy;
use crate::bindings::core::settings::Mode;
use crate::bindings::core::signature;
use crate::bindings::core::task::{Task, new_future};
use crate::bindings::core::transition::Phase;
use crate::bindings::errors::broken;
use crate::bindings::ffi::arguments::Arguments;
use crate::bindings::ffi::clock::now;
use crate::bindings::ffi::context::carry;
use crate::bindings::ffi::object::is_really_a;
use crate::bindings::ffi::slot::Slot;
use crate::bindings::host::app_context::may_submit;
use crate::bindings::names;
use crate::bindings::sched::backpressure;
use crate::bindings::sched::completion;
use crate::bindings::sched::dispatch::{self, Entry, announce, withdraw};
use crate::bindings::sched::limits;

impl ExecutorCell {
    /// `submit`, as `api::submit_method` calls it. The task, but not its callbacks, runs inside
    /// `task_scope()` if that is given.
    pub(crate) fn submit<'py>(
        this: &Bound<'py, Self>,
        arguments: &Arguments<'_, 'py>,
        policy: Option<&Bound<'py, Policy>>,
        task_scope: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let function = &arguments.function;
        let inner = this.get().inner()?;
        let core = &inner.core;
        let is_plain = signature::is_plain(arguments)?;
        let form = if is_plain {
            Form::Plain
        } else {
            check_function(function, "task")?
        };
        if let Some(scoped) = &inner.scoped
            && refuse_values(arguments, scoped)?
        {
            return submit_uploads(this, scoped, arguments, policy, task_scope);
        }
        if !is_plain {
            signature::check(arguments)?;
        }
        let call = Call::of(arguments)?;
        let future = inner.make(function.py(), call, form, task_scope)?;
        if policy.is_some() || core.backpressure.queue_size > 0 {
            return submit_ruled(future, policy, arguments, core).map(Bound::into_any);
        }
        announce(&future, core)?;
        match core.mode {
            Mode::Threads => dispatch::take_plain(&future, core).map(|()| future.into_any()),
            Mode::Immediate | Mode::Manual => inline::take(future, core).map(Bound::into_any),
        }
    }
}

/// Has Python keep the files of uploads and submit the call again, with what stands for them.
#[cold]
fn submit_uploads<'py>(
    this: &Bound<'py, ExecutorCell>,
    scoped: &Scoped,
    arguments: &Arguments<'_, 'py>,
    policy: Option<&Bound<'py, Policy>>,
    task_scope: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    let (positional, named) = arguments.to_python()?;
    let function = &arguments.function;
    let named = named.unwrap_or_else(|| PyDict::new(py));
    let call = (this, policy, task_scope, function, positional, named);
    // Without it, `reject` was not told that there may be uploads, and has raised.
    scoped
        .uploads
        .as_ref()
        .ok_or_else(broken)?
        .bind(py)
        .call1(call)
}

impl Inner {
    /// A future with all that its submitter gives it, before the executor takes it.
    #[expect(
        clippy::inline_always,
        reason = "a call would cost every submit what one may save"
    )]
    #[inline(always)]
    pub(crate) fn make<'py>(
        &self,
        py: Python<'py>,
        call: Call,
        form: Form,
        task_scope: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Task>> {
        let Self {
            core,
            scoped,
            defaults,
            has_defaults,
        } = self;
        if core.is_broken() {
            return Err(broken());
        }
        let (scope, of_teardown) = match scoped {
            None => (Slot::default(), false),
            Some(scoped) => (Slot::new(scoped.scope.get(py)?), may_submit()?),
        };
        let context = carry(py, &core.hidden)?.map_or_else(Slot::default, Slot::new);
        let cell = Task::for_task(Arc::clone(core), scope, call, context, now());
        let future = new_future(py, cell)?;
        // Relaxed: a callback added while this call runs may or may not count for it.
        if has_defaults.load(Ordering::Relaxed) {
            let defaults = defaults.lock().iter().map(|it| it.clone_ref(py)).collect();
            completion::add_defaults(&future, defaults);
        }
        if let Some(scope) = task_scope {
            future.get().put_own_scope(scope);
        }
        if form != Form::Plain {
            future.get().mark_form(form);
        }
        if of_teardown {
            future.get().mark_of_teardown();
        }
        Ok(future)
    }
}

/// Submits a task that has a policy or needs a permit of the queue.
fn submit_ruled<'py>(
    future: Bound<'py, Task>,
    policy: Option<&Bound<'py, Policy>>,
    arguments: &Arguments<'_, 'py>,
    core: &Arc<Core>,
) -> PyResult<Bound<'py, Task>> {
    if let Some(policy) = policy
        && let Some(first) = limits::give(&future, policy, arguments, core)?
    {
        return Ok(first);
    }
    let submitted = (|| {
        let entry = match core.places() {
            // A coroutine waits in no queue, and in immediate mode no task does.
            Some(places) if core.mode != Mode::Immediate && !future.get().is_coroutine() => {
                backpressure::take(&future, core, places)?
            }
            _ => Entry::Worker,
        };
        announce(&future, core)?;
        if policy.is_some_and(|policy| policy.get().withheld) {
            return dispatch::withhold(&future, core).map(|()| future.clone());
        }
        match core.mode {
            Mode::Threads => dispatch::take(&future, core, entry).map(|()| future.clone()),
            Mode::Immediate | Mode::Manual => inline::take(future.clone(), core),
        }
    })();
    match &submitted {
        Err(_) => withdraw(&future),
        Ok(_) => accepted(&future, policy),
    }
    submitted
}

fn accepted(future: &Bound<'_, Task>, policy: Option<&Bound<'_, Policy>>) {
    dispatch::replace(future);
    // Known by its own id from the start, unless it waits for a commit.
    let own = policy.map(Bound::get).filter(|it| !it.withheld);
    if let Some(id) = own.and_then(|it| it.id.as_ref()) {
        durable::publish(future, id);
    }
}

/// Lets a withheld task start or, if it is not `wanted`, cancels it and forgets its id. Of two calls
/// the second does nothing.
pub(crate) fn release(this: &Bound<'_, Task>, wanted: bool) -> PyResult<()> {
    let cell = this.get();
    let was = policy::with(cell, |rules| std::mem::take(&mut rules.withheld));
    let Some(core) = cell.core().filter(|_| was == Some(true)) else {
        return Ok(());
    };
    if !wanted {
        cell.forget_id(this);
        completion::cancel(this);
        return Ok(());
    }
    if let Some(policy) = policy::policy(this)
        && let Some(id) = &policy.get().id
    {
        durable::publish(this, id);
    }
    if cell.phase() != Phase::Pending {
        return Ok(());
    }
    match core.mode {
        Mode::Threads => {
            dispatch::ring(this);
            Ok(())
        }
        Mode::Immediate | Mode::Manual => {
            let taken = inline::take(this.clone(), core).map(drop);
            core.held().remove(this);
            taken
        }
    }
}

/// Refuses arguments that would not outlive the request. Returns whether some are uploads, which
/// are to be kept for the task.
fn refuse_values(arguments: &Arguments<'_, '_>, scoped: &Scoped) -> PyResult<bool> {
    refuse_function(&arguments.function, scoped)?;
    let may = scoped.uploads.is_some();
    let mut found = false;
    for value in arguments.values() {
        found |= refuse_value(&value, scoped, may, DEPTH)?;
    }
    Ok(found)
}

/// Refuses a function that carries such arguments: a bound method or a `functools.partial`.
pub(crate) fn refuse_function(function: &Bound<'_, PyAny>, scoped: &Scoped) -> PyResult<()> {
    // The usual case.
    if function.is_instance_of::<PyFunction>() {
        return Ok(());
    }
    let py = function.py();
    let mut function = function.clone();
    while let Some(inner) = inner_of(&function) {
        for name in [names::__self__(py), names::args(py), names::keywords(py)] {
            if let Some(value) = function.getattr_opt(name)? {
                refuse_value(&value, scoped, false, DEPTH)?;
            }
        }
        function = inner;
    }
    Ok(())
}

/// Returns whether there is an upload, if there `may` be one.
fn refuse_value(value: &Bound<'_, PyAny>, scoped: &Scoped, may: bool, depth: u8) -> PyResult<bool> {
    let py = value.py();
    for refused in scoped.reject_types.bind(py).iter_borrowed() {
        let refused = refused.cast::<PyType>()?;
        // A proxy would answer for the object that it stands for.
        if is_really_a(value, &refused) {
            scoped.reject.bind(py).call1((value, may))?;
            return Ok(true);
        }
    }
    if depth == 0 {
        return Ok(false);
    }
    let refuse = |found: bool, item: Bound<'_, PyAny>| {
        Ok(refuse_value(&item, scoped, may, depth - 1)? | found)
    };
    if let Ok(list) = value.cast_exact::<PyList>() {
        list.iter().take(LOOK).try_fold(false, refuse)
    } else if let Ok(tuple) = value.cast_exact::<PyTuple>() {
        tuple.iter().take(LOOK).try_fold(false, refuse)
    } else if let Ok(dict) = value.cast::<PyDict>()
        && dict.len() <= LOOK
    {
        // A copy, since another thread may change the dict.
        dict.values().iter().try_fold(false, refuse)
    } else {
        Ok(false)
    }
}

/// How many levels of containers are searched: enough for the uploads of a form (a dict of lists),
/// at little cost.
const DEPTH: u8 = 2;
const LOOK: usize = 16;
